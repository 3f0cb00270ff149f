from dataclasses import replace

import numpy as np
import pytest

from distilts_forecaster.runtime import LinearForecaster, load_student, save_student
from distilts_forecaster.runtime.covariates import Covariates, CovariateScales
from distilts_forecaster.students.covariates import (
    _PENALTIES,
    choose_penalty,
    empty_effects,
    solve_effects,
    sum_effects,
    with_units,
)
from distilts_forecaster.windows.source import Chunks, prepare_series

L, T = 24, 6
LAST = np.zeros((1, L, T), np.float32)
LAST[0, -12:] = np.eye(12, T, dtype=np.float32)  # the value of twelve steps before


def made(effect, n=2000, seed=0, **more):
    """Return a season plus the effect of a signal, with the signal known ahead."""
    rng = np.random.default_rng(seed)
    season = np.sin(np.arange(n + T) * 2 * np.pi / 12)
    signal = rng.normal(size=n + T)
    values = season + effect(signal) + 0.01 * rng.normal(size=n + T)
    series = prepare_series(values[:n, None])
    return replace(series, covariates=Covariates(future=signal[:, None], **more))


def windows(series):
    return [(series, series.usable(L, T))]


def fit_effects(student, windows, horizon, penalty):
    effects = empty_effects([series for series, _ in windows], T)
    sums = sum_effects(student, effects, windows, horizon)
    return replace(student, effects=solve_effects(sums, effects, penalty))


def error(student, series):
    origins = np.flatnonzero(windows(series)[0][1])
    contexts = np.stack([series.values[o - L : o] for o in origins])
    targets = np.stack([series.values[o : o + T] for o in origins])
    known = series.window_covariates(origins, Chunks(L, T))
    forecast = student.predict(
        contexts, None, known.past, known.future, known.static
    )  # fmt: skip
    return float(((forecast - targets) ** 2).mean())


@pytest.mark.parametrize("effect", [lambda c: 2 * c, lambda c: np.abs(c)])
def test_an_effect_of_what_is_known_ahead_is_learned_straight_or_bent(effect):
    series = made(effect)
    student = LinearForecaster(LAST)
    fitted = fit_effects(student, windows(series), T, 1e-3)
    alone = fit_effects(student, windows(series), T, np.inf)
    assert error(fitted, series) < 0.1 * error(alone, series)


def test_a_useless_covariate_gets_no_effect():
    series = made(lambda c: 0 * c, n=300)
    student = LinearForecaster(LAST)
    train, held_out = windows(series)[0][1].copy(), windows(series)[0][1].copy()
    train[240:] = False
    held_out[:250] = False
    penalty, _ = chosen(student, [(series, train)], [(series, held_out)])
    assert penalty >= 1.0
    useful = made(lambda c: c, n=300)
    penalty, found = chosen(student, [(useful, train)], [(useful, held_out)])
    assert penalty < 1.0
    assert found < 0.1


def chosen(student, windows, held_out):
    effects = empty_effects([series for series, _ in windows], T)
    sums, others = (sum_effects(student, effects, some, T) for some in (windows, held_out))
    return choose_penalty(sums, others, effects)


def test_the_error_of_a_penalty_is_that_of_its_forecasts():
    series = made(lambda c: c, n=300)
    student = LinearForecaster(LAST)
    train, held_out = (windows(series)[0][1].copy() for _ in range(2))
    train[240:] = False
    held_out[:250] = False
    _, found = chosen(student, [(series, train)], [(series, held_out)])
    origins = np.flatnonzero(held_out)
    targets = series.targets(origins, T)
    future = series.window_covariates(origins, Chunks(L, T)).future
    errors = []
    for penalty in _PENALTIES:
        fitted = fit_effects(student, [(series, train)], T, penalty)
        forecast = fitted.predict(series.contexts(origins, L), future_covariates=future)
        errors.append(float(((forecast - targets) ** 2).mean()))
    assert found == pytest.approx(min(errors), rel=1e-4)


def test_effects_of_single_steps_shrink_towards_the_shared_one():
    """By a tenth of the way that a step's own targets draw it."""
    rng = np.random.default_rng(0)
    signal = rng.choice([-1.0, 1.0], size=300)  # two values: one slope
    values = rng.normal(size=(300, 1)) + 0.5 * signal[:, None]
    series = replace(prepare_series(values), covariates=Covariates(future=signal[:, None]))
    mask = series.usable(L, T)
    weights = fit_effects(LinearForecaster(LAST), [(series, mask)], T, 1e-9).effects.weights
    own = np.array([each_alone(series, mask, step) for step in range(T)])
    assert weights[0, :, 0].std() / own.std() == pytest.approx(1 / 1.1, abs=0.03)


def each_alone(series, mask, step):
    """Return the least-squares effect at one step by itself."""
    origins = np.flatnonzero(mask)
    student, effects = LinearForecaster(LAST), empty_effects([series], T)
    contexts = series.contexts(origins, L)
    features = effects.features(series.window_covariates(origins, Chunks(L, T)), student.matrix)
    x = features[:, step, 0] * contexts.std(axis=1)
    missed = series.targets(origins, T)[:, step, 0] - student.predict(contexts)[:, step, 0]
    return np.linalg.lstsq(x, missed, rcond=None)[0][0]


def test_effects_commute_with_shift_and_scale_of_the_target():
    series = made(lambda c: 2 * c)
    fitted = fit_effects(LinearForecaster(LAST), windows(series), T, 1e-3)
    context = np.random.default_rng(0).normal(size=(1, L, 1))
    future = series.covariates.future[None, : L + T]
    plain = fitted.predict(context, future_covariates=future)
    moved = fitted.predict(5 + 3 * context, future_covariates=future)
    np.testing.assert_allclose(moved, 5 + 3 * plain, rtol=1e-5)


def test_effects_in_a_unit_of_their_own_commute_with_the_scale_of_the_series():
    effects = []
    for size in (1.0, 1e4):
        series = made(lambda c: 2 * c, n=300)
        series = replace(prepare_series(size * series.raw), covariates=series.covariates)
        empty, _ = with_units(empty_effects([series], T), [series])
        sums = sum_effects(LinearForecaster(LAST), empty, windows(series), T)
        effects.append(solve_effects(sums, empty, 1e-3))
    np.testing.assert_allclose(effects[1].weights, effects[0].weights, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(effects[1].unit, 1e4 * effects[0].unit, rtol=1e-6)


def test_a_panel_has_no_one_unit_unless_held_out_windows_say_so():
    one, other = made(lambda c: c, n=200), made(lambda c: c, n=200, seed=1)
    alone, _ = with_units(empty_effects([one], T), [one])
    first, second = with_units(empty_effects([one, other], T), [one, other])
    assert alone.unit is not None
    assert first.unit is None
    assert second.unit is not None


def test_past_and_static_covariates_act():
    rng = np.random.default_rng(0)
    lead = rng.normal(size=2000).cumsum() / 20
    values = np.r_[np.zeros(3), lead[:-3]][:, None]
    series = prepare_series(values)
    series = replace(series, covariates=Covariates(past=lead[:, None]))
    last = np.zeros((1, L, T), np.float32)
    last[0, -1] = 1
    student = LinearForecaster(last)
    fitted = fit_effects(student, windows(series), T, 1e-3)
    assert error(fitted, series) < 0.8 * error(
        fit_effects(student, windows(series), T, np.inf), series
    )
    several = []
    for drift in (-1.0, 1.0):
        one = prepare_series(drift * np.arange(200.0)[:, None] + rng.normal(size=(200, 1)))
        several.append(replace(one, covariates=Covariates(static=np.array([[drift]]))))
    both = [windows(one)[0] for one in several]
    fitted, alone = (fit_effects(student, both, T, p) for p in (1e-3, np.inf))
    for one in several:
        assert error(fitted, one) < 0.5 * error(alone, one)


def test_longer_forecasts_use_the_covariates_of_each_chunk():
    series = made(lambda c: 2 * c)
    fitted = fit_effects(LinearForecaster(LAST), windows(series), T, 1e-3)
    stop = len(series) - 3 * T
    future = series.covariates.future[None, stop - L : stop + 3 * T]
    forecast = fitted.predict(series.values[None, stop - L : stop], 3 * T, future_covariates=future)
    assert np.abs(forecast[0] - series.values[stop:]).mean() < 0.3
    with pytest.raises(ValueError, match=r"future_covariates must be \(1, 42, 1\)"):
        fitted.predict(series.values[None, :L], 3 * T, future_covariates=future[:, 1:])
    with pytest.raises(ValueError, match="must be finite"):
        fitted.predict(series.values[None, :L], 3 * T, future_covariates=future * np.nan)


def test_saving_and_loading_is_the_identity(tmp_path):
    series = made(lambda c: 2 * c)
    fitted = fit_effects(LinearForecaster(LAST, period=12), windows(series), T, 1e-3)
    save_student(fitted, tmp_path)
    loaded = load_student(tmp_path)
    given = (
        series.values[:L].astype(float)[None],
        None,
        None,
        series.covariates.future[None, : L + T],
    )
    np.testing.assert_array_equal(loaded.predict(*given), fitted.predict(*given))
    assert loaded.period == 12


def test_covariates_know_how_many_they_are():
    assert not Covariates()
    some = Covariates(past=np.zeros((2, 3, 4)))
    assert some
    assert some.sizes() == (4, 0, 0)
    assert CovariateScales.of([Covariates(), Covariates()]) == CovariateScales()


def test_windows_of_no_weight_are_in_no_sum():
    series = made(lambda c: 2 * c, n=300)
    keep = np.arange(series.n_origins) % 3 > 0
    weighted = replace(series, weight=4.0 * keep)
    effects, student = empty_effects([series], T), LinearForecaster(LAST)
    mask = series.usable(L, T)
    some = sum_effects(student, effects, [(series, mask & keep)], T)
    mine = sum_effects(student, effects, [(weighted, mask)], T)
    np.testing.assert_allclose(mine.gram, 4.0 * some.gram, rtol=1e-10)
    np.testing.assert_allclose(mine.cross, 4.0 * some.cross, rtol=1e-10)
    unweighted = sum_effects(student, effects, [(weighted, mask)], T, weighted=False)
    every = sum_effects(student, effects, [(series, mask)], T)
    np.testing.assert_array_equal(unweighted.gram, every.gram)
