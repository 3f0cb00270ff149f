"""Quantiles and sample paths of fitted students."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles
from distilts_forecaster.teachers import load_teacher

L, T = 8, 3


def walker(error_autocorrelation=0.0, width=0.5):
    """Return a student that repeats the last value, with errors as those of a random walk."""
    weights = np.zeros((1, L, T), np.float32)
    weights[0, -1] = 1.0
    offsets = width * np.sqrt(np.arange(1, T + 1))[:, None] * norm.ppf(LEVELS)
    return LinearForecaster(
        weights,
        error_quantiles=ErrorQuantiles(offsets.astype(np.float32), LEVELS, error_autocorrelation),
    )


contexts = arrays(np.float64, (3, L, 2), elements=st.floats(-100, 100))
levels = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True).map(sorted)


@settings(deadline=None, max_examples=50)
@given(contexts, levels, st.integers(1, 3 * T))
def test_quantiles_never_cross(windows, wanted, horizon):
    made = walker().predict_quantiles(windows, horizon, wanted)
    assert made.shape == (3, horizon, 2, len(wanted))
    assert (np.diff(made, axis=-1) >= -1e-9 * np.abs(windows).max()).all()


@settings(deadline=None, max_examples=30)
@given(contexts, st.floats(0.01, 100), st.floats(-100, 100))
def test_quantiles_commute_with_shift_and_scale(windows, scale, shift):
    made = walker().predict_quantiles(windows, 2 * T, [0.1, 0.5, 0.9])
    moved = walker().predict_quantiles(shift + scale * windows, 2 * T, [0.1, 0.5, 0.9])
    size = scale * np.abs(windows).max() + abs(shift)
    np.testing.assert_allclose(moved, shift + scale * made, rtol=1e-4, atol=1e-4 * (size + 1e-9))


@pytest.mark.parametrize("size", [2.0**-1060, 2.0**-500, 2.0**-110, 2.0**125, 2.0**500, 2.0**1018])
def test_contexts_of_any_size_are_forecast_like_others(size):
    windows = np.random.default_rng(0).normal(size=(3, L, 2))
    windows[1, 3, 0] = np.nan
    rounded = windows * size / size  # fewer digits where they are subnormal
    for method in ("predict", "predict_quantiles", "sample"):
        more = {"random_state": 0} if method == "sample" else {}
        made = getattr(walker(), method)(windows * size, 2 * T, **more)
        expected = getattr(walker(), method)(rounded, 2 * T, **more)
        np.testing.assert_allclose(made / size, expected, rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(contexts, st.integers(1, 3 * T))
def test_a_batch_is_its_windows_one_by_one(windows, horizon):
    together = walker().predict_quantiles(windows, horizon, [0.1, 0.9])
    for window, made in zip(windows, together, strict=True):
        alone = walker().predict_quantiles(window, horizon, [0.1, 0.9])
        np.testing.assert_allclose(
            made, alone, rtol=1e-4, atol=1e-4 * (np.abs(window).max() + 1e-9)
        )


def test_the_dimensions_are_those_of_the_context():
    student, window = walker(), np.arange(8.0)
    assert student.predict_quantiles(window).shape == (T, 25)
    assert student.predict_quantiles(window[:, None], 5, [0.5]).shape == (5, 1, 1)
    assert student.sample(window, n_samples=7).shape == (T, 7)
    assert student.sample(window[None, :, None], 5, 7).shape == (1, 5, 1, 7)


def test_uncertainty_grows_beyond_the_steps_forecast_at_once():
    # A walk's errors add up; those that the student knows are in units of the context's
    # deviation, which grows on a path that goes astray.
    context = np.random.default_rng(0).normal(size=200).cumsum()[-L:]
    made = walker().predict_quantiles(context, 8 * T, [0.1, 0.5, 0.9])
    width = made[:, 2] - made[:, 0]
    assert width[T] > width[T - 1]
    assert width[4 * T] > 1.7 * width[T - 1]
    assert width[-1] > 1.2 * width[2 * T]


def test_the_median_beyond_is_the_forecast():
    context = np.random.default_rng(0).normal(size=L)
    made = walker().predict_quantiles(context, 4 * T, [0.5])[:, 0]
    np.testing.assert_allclose(made, walker().predict(context, 4 * T), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("error_autocorrelation", [0.0, 0.9])
def test_samples_have_the_quantiles_and_resemble_their_neighbours(error_autocorrelation):
    context = np.random.default_rng(0).normal(size=L)
    student = walker(error_autocorrelation)
    paths = student.sample(context, n_samples=20_000, random_state=0)
    wanted = student.predict_quantiles(context, None, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(paths, [0.1, 0.5, 0.9], axis=1).T, wanted, atol=0.05)
    found = np.corrcoef(paths[0], paths[1])[0, 1]
    assert found == pytest.approx(error_autocorrelation, abs=0.05)


def test_samples_beyond_spread_as_the_quantiles_do():
    context = np.random.default_rng(0).normal(size=L)
    paths = walker().sample(context, 3 * T, n_samples=5000, random_state=0)
    made = walker().predict_quantiles(context, 3 * T, [0.1, 0.9])
    sampled = np.quantile(paths, [0.1, 0.9], axis=1).T
    ratio = (sampled[:, 1] - sampled[:, 0]) / (made[:, 1] - made[:, 0])
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)


def test_samples_are_reproducible_and_differ_by_seed():
    context = np.random.default_rng(0).normal(size=L)
    one, same, other = (walker().sample(context, 5, 4, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_large_batches_are_forecast_in_parts(monkeypatch):
    windows = np.random.default_rng(1).normal(size=(7, L, 2))
    whole = walker().predict_quantiles(windows, 2 * T)
    monkeypatch.setattr("distilts_forecaster.runtime.base._WINDOWS_PER_CHUNK", 3 * 64)
    np.testing.assert_allclose(walker().predict_quantiles(windows, 2 * T), whole, rtol=1e-5)


def test_gaps_make_no_missing_quantiles():
    windows = np.random.default_rng(1).normal(size=(2, L, 1))
    windows[0, 2:5] = np.nan
    assert np.isfinite(walker().predict_quantiles(windows, 2 * T)).all()
    windows[1] = np.nan
    made = walker().predict_quantiles(windows, 2 * T)
    assert np.isnan(made[1]).all()
    assert np.isfinite(made[0]).all()


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="forecasts points only"):
        replace(walker(), error_quantiles=None).predict_quantiles(np.ones(L))
    for wrong in ([0.9, 0.1], [0.0, 0.5], []):
        with pytest.raises(ValueError, match="must increase between 0 and 1"):
            walker().predict_quantiles(np.ones(L), None, wrong)
    with pytest.raises(ValueError, match="without future covariates: leave them out"):
        walker().predict(np.ones(L), future_covariates=np.ones((1, L + T, 1)))


def test_what_is_fed_back_is_not_below_zero_either():
    falling = LinearForecaster(np.zeros((1, L, T), np.float32) - 1.0 / L, nonnegative=True)
    made = falling.predict(np.r_[np.zeros(L - 1), 40.0], 4 * T)
    assert (made >= 0).all()
    fed_back = np.r_[np.zeros(L - 1), 40.0, made[:T]][-L:]
    np.testing.assert_allclose(made[T : 2 * T], falling.predict(fed_back))


ASK = {
    "predict": lambda horizon: walker().predict(np.arange(8.0), horizon),
    "predict_quantiles": lambda horizon: walker().predict_quantiles(np.arange(8.0), horizon),
    "sample": lambda horizon: walker().sample(np.arange(8.0), horizon),
    "bundled": lambda horizon: load_teacher("bundled").forecast(np.ones((1, 9, 1)), horizon, [0.5]),
    "a function": lambda horizon: load_teacher(lambda c, h: np.zeros((1, h, 1))).forecast(
        np.ones((1, 9, 1)), horizon, [0.5]
    ),
}


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("horizon", [np.inf, np.nan, 1e7, 96.0, 2.5, True, "3", [3], np.float64(3)])
def test_a_horizon_is_an_integer(ask, horizon):
    with pytest.raises(TypeError, match="horizon must be an integer"):
        ASK[ask](horizon)


@pytest.mark.parametrize("ask", ASK)
def test_a_horizon_is_at_least_one(ask):
    for horizon in (0, -1):
        with pytest.raises(ValueError, match="horizon must be at least 1"):
            ASK[ask](horizon)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["2024-01-01"], "datetime64[D]"),
        np.array([1, 2], "timedelta64[s]"),
        np.ones(8, complex),
        np.array(["a"]),
        np.array([{}], object),
    ],
)
def test_what_is_no_number_is_refused(values):
    with pytest.raises(TypeError, match="contexts must be real numbers, got"):
        walker().predict(values)


def test_what_is_masked_is_missing():
    known = np.arange(8.0)
    hidden = np.isin(known, [2, 7])
    masked = np.ma.array(np.where(hidden, 1e6, known), mask=hidden)
    expected = walker().predict(np.where(hidden, np.nan, known))
    np.testing.assert_array_equal(walker().predict(masked), expected)
    whole_numbers = np.ma.array(np.arange(8), mask=hidden)
    np.testing.assert_array_equal(walker().predict(whole_numbers), expected)


def test_time_is_linear_in_the_horizon():
    student = walker()

    def seconds(horizon):
        start = time.perf_counter()
        student.predict(np.arange(8.0), horizon)
        return time.perf_counter() - start

    seconds(1000)
    short, long = (min(seconds(h) for _ in range(3)) for h in (3_000, 30_000))
    assert long < 30 * short  # it was a hundred times


def test_there_is_no_jump_between_chunks():
    student = walker(width=0.1)
    moved = replace(
        student,
        error_quantiles=replace(
            student.error_quantiles, offsets=student.error_quantiles.offsets + 0.5
        ),
    )
    context = np.random.default_rng(0).normal(size=L)
    median = moved.predict_quantiles(context, 2 * T, [0.5])[:, 0] - moved.predict(context, 2 * T)
    np.testing.assert_allclose(median[T:], median[T - 1], rtol=1e-6)
