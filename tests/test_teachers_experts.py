import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster.teachers.bundled import experts
from distilts_forecaster.teachers.bundled.experts import EXPERTS
from distilts_forecaster.teachers.bundled.mixture import normalise
from distilts_forecaster.windows.periods import find_periods


def rows_of(*series):
    width = max(len(s) for s in series)
    padded = [
        np.pad(s, (width - len(s), 0), constant_values=np.nan) for s in map(np.asarray, series)
    ]
    return normalise(np.stack(padded))[0]


def fitted(rows):
    return experts.fit(rows, find_periods(rows).steps)


def forecast(rows, horizon):
    n = len(rows.length)
    steps = np.broadcast_to(np.arange(1, horizon + 1), (n, horizon))
    values = experts.forecast(rows, fitted(rows), steps)
    return {name: values[..., i] for i, name in enumerate(EXPERTS)}


def season(period, n, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * np.arange(n) / period) + noise * rng.normal(size=n)


def test_seasonal_experts_repeat_the_last_cycles():
    rows = rows_of(season(24, 240, noise=0.3))
    values = rows.values[0]
    found = forecast(rows, 60)
    ahead = np.arange(60) % 24
    np.testing.assert_allclose(found["repeat_0"][0], values[-24:][ahead], atol=1e-6)
    last = values[-1] - values[-25]
    np.testing.assert_allclose(found["repeat_last_0"][0], values[-24:][ahead] + last, atol=1e-4)
    cycles = values[-144:].reshape(6, 24)[::-1]
    weight = 0.85 ** np.arange(6)
    profile = (weight[:, None] * cycles).sum(axis=0) / weight.sum()
    np.testing.assert_allclose(found["profile_0"][0], profile[ahead], atol=1e-5)


def test_lines_and_levels_of_a_straight_line():
    rows = rows_of(np.arange(100.0))
    found = forecast(rows, 5)
    step = rows.values[0, -1] - rows.values[0, -2]
    expected = rows.values[0, -1] + step * np.arange(1, 6)
    for name in ("trend_12", "trend_60", "trend_inf", "autoregression_difference"):
        # Slopes are damped: less so the longer their memory.
        np.testing.assert_allclose(found[name][0], expected, atol=2 * step)
    np.testing.assert_allclose(found["level_inf"][0], 0.0, atol=1e-5)
    np.testing.assert_allclose(found["last"][0], rows.values[0, -1])


def test_an_autoregression_is_found_and_iterated():
    rng = np.random.default_rng(0)
    series = np.zeros((40, 1000))
    for t in range(2, 1000):
        series[:, t] = 1.5 * series[:, t - 1] - 0.8 * series[:, t - 2] + 0.1 * rng.normal(size=40)
    rows = rows_of(*series)
    ahead = [rows.values[:, -2], rows.values[:, -1]]
    for _ in range(8):
        ahead.append(1.5 * ahead[-1] - 0.8 * ahead[-2])
    best = np.stack(ahead[2:], axis=1)
    found = forecast(rows, 8)["autoregression_values"]
    assert np.abs(found - best).mean() < 0.4 * np.abs(best).mean()


def test_forecasts_stay_near_what_was_seen_even_if_a_regression_explodes():
    rows = rows_of(np.exp(np.arange(200) / 10))
    found = forecast(rows, 336)
    spread = rows.values.max() - rows.values.min()
    for name in EXPERTS:
        assert np.isfinite(found[name]).all()
        if name.startswith("autoregression"):
            assert np.abs(found[name]).max() <= np.abs(rows.values).max() + 0.51 * spread


def test_backtests_of_a_clean_season_trust_its_repetition():
    rows = rows_of(season(24, 512, noise=0.0), np.random.default_rng(0).normal(size=512).cumsum())
    errors = experts.backtest(rows, fitted(rows))
    by_name = dict(zip(EXPERTS, errors.transpose(2, 0, 1), strict=True))
    assert errors.shape == (2, 4, len(EXPERTS))
    assert by_name["repeat_0"][0].max() < 1e-3
    assert by_name["last"][0].min() > 0.1
    # On a walk, the last value does better than the mean, and worse the further ahead.
    assert (by_name["last"][1] < by_name["level_inf"][1]).all()
    assert by_name["last"][1, 0] < by_name["last"][1, -1]


def test_a_backtest_measures_the_forecasts_of_the_history_before():
    rng = np.random.default_rng(0)
    walk = rng.normal(size=400).cumsum()
    rows = rows_of(walk)
    values = rows.values[0]
    last = EXPERTS.index("last")
    found = experts.backtest(rows, fitted(rows))[0, -1, last]
    errors = []
    for ahead in experts.BACKTEST_ORIGINS:
        steps = np.ceil(ahead * np.arange(1, 13) / 12 - 1e-9).astype(int)
        errors += [abs(values[400 - ahead - 1] - values[399 - ahead + s]) for s in steps if s > 64]
    assert found == pytest.approx(np.mean(errors), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**16))
def test_histories_of_any_length_are_forecast(length, seed):
    series = np.random.default_rng(seed).normal(size=length).cumsum()
    found = forecast(rows_of(series, season(12, 400)), 30)
    assert all(np.isfinite(values).all() for values in found.values())


def test_rows_do_not_depend_on_their_neighbours():
    rng = np.random.default_rng(0)
    series = [
        rng.normal(size=n).cumsum() + 3 * season(p, n) for n, p in ((512, 24), (80, 7), (300, 52))
    ]
    together = forecast(rows_of(*series), 40)
    for i, each in enumerate(series):
        padded = np.concatenate([np.full(512 - len(each), np.nan), each])
        alone = forecast(normalise(padded[None])[0], 40)
        for name in EXPERTS:
            np.testing.assert_allclose(together[name][i], alone[name][0], atol=1e-3, err_msg=name)
