from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

L, T = 8, 3


def student(n_matrices=1, shift=0):
    rng = np.random.default_rng(0)
    return LinearForecaster(rng.normal(size=(n_matrices, L, T)).astype(np.float32) / L, shift)


contexts = arrays(np.float64, (4, L, 2), elements=st.floats(-100, 100))


def assert_close(actual, desired, scale):
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5 * scale)


@given(contexts, st.floats(-1e3, 1e3), st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e12]))
def test_forecasts_commute_with_shift_and_scale(windows, shift, scale):
    moved = student().predict(windows * scale + shift * scale)
    expected = student().predict(windows) * scale + shift * scale
    assert_close(moved, expected, scale * (abs(shift) + 100))


@given(contexts, st.integers(1, 10))
def test_a_batch_is_its_windows_one_by_one(windows, horizon):
    for forecaster in (student(), student(n_matrices=2)):
        batch = forecaster.predict(windows, horizon)
        single = np.stack([forecaster.predict(window, horizon) for window in windows])
        assert_close(batch, single, 100)


@given(contexts)
def test_components_do_not_touch_each_other(windows):
    together = student().predict(windows)
    for c in range(2):
        assert_close(together[:, :, c], student().predict(windows[:, :, c : c + 1])[:, :, 0], 100)
        assert_close(together[0, :, c], student().predict(windows[0, :, c]), 100)


def test_longer_horizons_feed_the_forecast_back():
    window = np.random.default_rng(1).normal(size=(L, 1))
    first = student().predict(window)
    second = student().predict(np.concatenate([window, first]))
    np.testing.assert_allclose(student().predict(window, 5), np.vstack([first, second])[:5])


def test_shorter_horizons_are_the_first_steps():
    window = np.random.default_rng(1).normal(size=(L, 1))
    np.testing.assert_array_equal(student().predict(window, 2), student().predict(window)[:2])


def test_only_the_last_steps_of_a_long_context_count():
    window = np.random.default_rng(1).normal(size=(3 * L, 1))
    np.testing.assert_array_equal(student().predict(window), student().predict(window[-L:]))


def test_a_constant_context_stays_constant():
    np.testing.assert_array_equal(student().predict(np.full(L, 7.0)), 7.0)


def test_large_batches_are_forecast_in_parts(monkeypatch):
    windows = np.random.default_rng(1).normal(size=(7, L, 2))
    whole = student().predict(windows)
    monkeypatch.setattr("distilts_forecaster.runtime.base._WINDOWS_PER_CHUNK", 3)
    np.testing.assert_allclose(student().predict(windows), whole, rtol=1e-6)


def test_gaps_are_filled_and_nothing_is_forecast_from_nothing():
    windows = np.random.default_rng(1).normal(size=(3, L, 2))
    windows[0, 3] = np.nan
    windows[1, :, 1] = np.nan
    forecast = student().predict(windows)
    assert np.isnan(forecast[1, :, 1]).all()
    assert np.isfinite(forecast).sum() == forecast.size - T
    filled = windows[0].copy()
    filled[3] = (windows[0, 2] + windows[0, 4]) / 2
    np.testing.assert_allclose(forecast[0], student().predict(filled), rtol=1e-6)


def test_short_contexts_begin_with_a_gap():
    window = np.random.default_rng(1).normal(size=L - 3)
    padded = np.r_[np.full(3, window[0]), window]
    np.testing.assert_allclose(student().predict(window), student().predict(padded))


def test_forecasts_below_zero_become_zero_on_request():
    falling = np.linspace(5, -5, L)
    fitted = replace(
        student(), nonnegative=True, error_quantiles=ErrorQuantiles(np.zeros((T, 25), np.float32))
    )
    plain = student().predict(falling, 4 * T)
    assert plain.min() < 0
    np.testing.assert_array_equal(
        fitted.predict(falling), np.maximum(student().predict(falling), 0)
    )
    assert (fitted.predict_quantiles(falling, 4 * T) >= 0).all()
    assert (fitted.sample(falling, 4 * T) >= 0).all()


@pytest.mark.parametrize(
    ("window", "horizon", "message"),
    [
        (np.ones(0), T, "at least one step, got none"),
        (np.ones((1, 1, 1, 1)), T, "4 dimensions"),
        (np.ones(L), 0, "horizon must be at least 1"),
        (np.r_[np.inf, np.ones(L - 1)], T, "1 infinite values"),
        (np.r_[-np.inf, np.nan, np.ones(L - 2)], T, "1 infinite values"),
    ],
)
def test_bad_contexts_are_refused(window, horizon, message):
    with pytest.raises(ValueError, match=message):
        student().predict(window, horizon)


def test_a_shifted_student_cannot_feed_back():
    with pytest.raises(ValueError, match="output_chunk_shift=2"):
        student(shift=2).predict(np.ones(L), T + 1)


def test_other_components_than_fitted_on_are_refused():
    with pytest.raises(ValueError, match="fitted on 2 components, got 3"):
        student(n_matrices=2).predict(np.ones((L, 3)))


def test_weights_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(K, L, T\)"):
        LinearForecaster(np.zeros((L, T), np.float32))
