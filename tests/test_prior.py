import numpy as np
import pytest
from scipy.linalg import toeplitz

from distilts_forecaster.students import prior as module
from distilts_forecaster.students.prior import make_priors
from distilts_forecaster.students.sums import HeldOut, WindowSums, make_solver
from distilts_forecaster.windows.naive import repeat_season
from distilts_forecaster.windows.source import Chunks

CHUNKS = Chunks(24, 8)


def summed(n=200, length=24, steps=8, n_matrices=1, seed=0):
    """Return sums over windows of noise, centred as windows are."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, length)).astype(np.float32)
    features -= features.mean(axis=1, keepdims=True)
    targets, labels = (rng.normal(size=(n, steps)).astype(np.float32) for _ in range(2))
    sums = WindowSums(n_matrices, length, steps)
    sums.add(features, targets, labels)
    return sums, features, targets, labels


def named(chunks=CHUNKS, period=6, sums=None):
    sums = summed(length=chunks.input_chunk_length)[0] if sums is None else sums
    return {one.name: one for one in make_priors(chunks, period, sums)}


def forecast(weights, context):
    return context.mean() + (context - context.mean()) @ weights


@pytest.mark.parametrize("shift", [0, 1, 7])
def test_naive_priors_repeat_the_last_value_and_the_last_season(shift):
    chunks, context = Chunks(24, 8, shift), np.random.default_rng(0).normal(size=24)
    priors = named(chunks)
    for name, season in (("last value", 1), ("last season", 6)):
        expected = repeat_season(context[None, :, None], season, 8, shift)[0, :, 0]
        np.testing.assert_allclose(forecast(priors[name].weights, context), expected)
    np.testing.assert_array_equal(priors["mean"].weights, 0.0)


def test_without_a_season_there_is_none_to_repeat():
    assert set(named(period=None)) == {"seasonal", "trend", "mean", "last value"}
    assert next(iter(named())) == "seasonal"


def test_the_process_continues_a_season_at_the_level_of_late():
    steps = np.arange(32.0)
    season = np.sin(steps * 2 * np.pi / 6)
    made = forecast(named()["seasonal"].weights, season[:24])
    np.testing.assert_allclose(made, season[24:], atol=0.15)
    jump = season + 10.0 * (steps >= 12)
    assert forecast(named()["seasonal"].weights, jump[:24]).mean() > 7.0
    # Without a season there is nothing to continue.
    flat = forecast(named(period=None)["seasonal"].weights, season[:24])
    assert np.abs(flat[4:]).max() < 0.7


def test_the_trend_goes_on_where_there_is_one():
    line = 0.3 * np.arange(32.0) + np.sin(np.arange(32.0) * 2 * np.pi / 6)
    errors = {
        name: np.abs(forecast(one.weights, line[:24]) - line[24:]).mean()
        for name, one in named().items()
    }
    assert errors["trend"] < 0.3 < 0.5 < errors["seasonal"]


def test_days_have_weeks_and_other_seasons_do_not():
    chunks = Chunks(24 * 15, 24)
    hours = np.arange(24 * 16)
    day_of_week = (hours // 24) % 7
    load = np.where(day_of_week >= 5, -1.0, 1.0)  # the 16th day is the second of a week
    for period, expected in ((24, 1.0), (23, 0.0)):
        sums = WindowSums(1, 360, 24)
        sums.gram_target[0] = np.eye(360)
        sums.n_target = 1.0
        weights = make_priors(chunks, period, sums)[0].weights
        context = load[: 24 * 15]
        week_ago = weights[24 * 8 : 24 * 9].sum(axis=0).mean()
        other_day = weights[24 * 9 : 24 * 10].sum(axis=0).mean()
        assert (week_ago - other_day > 0.1) == bool(expected)
        assert np.isfinite(forecast(weights, context)).all()


def test_the_solution_minimises_the_distance_in_the_metric_of_the_covariance():
    """As the textbook has it: (G + lambda K) W = R + lambda K W0."""
    sums, features, targets, _ = summed()
    one = named(sums=sums)["seasonal"]
    within, _ = module._covariance(CHUNKS, 6)
    ridge, n = 0.7, len(features)
    own = one.transform(sums)
    solution = make_solver(own, np.zeros(8), ridge, one.power)(own.cross_target, own.cross_teacher)
    made = one.restore(solution)[0]
    strength = ridge * one.power
    expected = np.linalg.solve(
        features.T @ features / n + strength * within,
        features.T @ targets / n + strength * within @ one.weights,
    )
    np.testing.assert_allclose(made, expected, atol=2e-3)


def test_much_of_lambda_leaves_the_prior():
    sums = summed()[0]
    for one in named(sums=sums).values():
        own = one.transform(sums)
        solve = make_solver(own, np.ones(8), 1e9, one.power)
        made = one.restore(solve(own.cross_target, own.cross_teacher))
        np.testing.assert_allclose(made[0], one.weights, atol=1e-5)


def test_held_out_rows_are_transformed_as_their_sums_are():
    sums, features, targets, _ = summed(n=40)
    one = named(sums=summed()[0])["last season"]
    as_rows = one.transform_held_out(HeldOut(WindowSums(1, 24, 8), features, targets))
    as_sums = one.transform(sums)
    np.testing.assert_allclose(
        as_rows.features.T @ as_rows.targets, as_sums.cross_target[0], atol=1e-2
    )
    np.testing.assert_allclose((as_rows.targets**2).sum(axis=0), as_sums.power_target[0], rtol=1e-4)


def test_directions_that_no_window_has_are_left_to_the_prior(monkeypatch):
    sums, features, *_ = summed(n=5)
    one = named(sums=sums)["seasonal"]
    assert one.basis.shape == (24, 5)
    # The most powerful ones where there are too many.
    monkeypatch.setattr(module, "_MOST_DIRECTIONS", 2)
    few = named(sums=sums)["seasonal"].basis
    power = ((features @ one.basis) ** 2).sum(axis=0)
    assert ((features @ few) ** 2).sum(axis=0) == pytest.approx(np.sort(power)[-2:], rel=1e-3)


@pytest.mark.parametrize("period", [None, 2, 6, 24])
@pytest.mark.parametrize("chunks", [Chunks(1, 1), Chunks(24, 8), Chunks(30, 3, 4)])
def test_the_covariance_is_one_of_centred_contexts(chunks, period):
    within, across = module._covariance(chunks, period)
    length = chunks.input_chunk_length
    assert within.shape == (length, length)
    assert across.shape == (length, chunks.output_chunk_length)
    np.testing.assert_allclose(within, within.T)
    assert np.linalg.eigvalsh(within).min() > 0
    np.testing.assert_allclose(within.sum(axis=0), 1.0, atol=1e-9)  # of the mean, which is free
    np.testing.assert_allclose(across.sum(axis=0), 0.0, atol=1e-9)
    if length > 1:
        assert np.trace(within) / length == pytest.approx(1.0 + 1.0 / length)


def test_a_season_repeats_and_fades():
    lags = np.arange(200.0)
    made = module._season(lags, 24, 1.0)
    assert made[0] == 1.0
    assert made[24] > 0.95 > 0.2 > made[12]
    assert made[24] > made[48] > made[168]
    assert np.linalg.eigvalsh(toeplitz(made)).min() > -1e-9


def test_windows_that_are_all_constant_have_priors():
    sums = WindowSums(1, 24, 8)
    sums.n_target = 10.0
    for one in make_priors(CHUNKS, 6, sums):
        assert one.basis.shape[1] == 1
        assert np.isfinite(one.basis).all()
