import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from distilts_forecaster.calibration import Spread, calibrate
from distilts_forecaster.plan import Settings, plan_windows
from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.students.linear import Linear
from distilts_forecaster.windows import prepare_series

L, T = 24, 4
SETTINGS = Settings(L, T, student=Linear(ridge=0.1), distillation_weight=0.0, calibrated=True)
LAST = np.zeros((1, L, T), np.float32)
LAST[0, -1] = 1.0


def measured(values, hold_out=True, validation=None):
    prepared = [prepare_series(values)]
    plans, horizon = plan_windows(prepared, SETTINGS, None, hold_out=hold_out)
    held_out = None if validation is None else [prepare_series(validation)]
    return calibrate(
        LinearForecaster(LAST), plans, held_out, SETTINGS, horizon or T * bool(held_out)
    )


def test_errors_of_a_random_walk_grow_with_the_root_of_the_steps():
    # Independent windows: contexts of very different walks are on one scale.
    walk = np.random.default_rng(0).normal(size=(20_000, 1)).cumsum(axis=0)
    width = np.diff(measured(walk).at(np.arange(1, T + 1), [0.1, 0.9]), axis=1)[:, 0]
    np.testing.assert_allclose(width / width[0], np.sqrt(np.arange(1, T + 1)), rtol=0.1)


def test_gaussian_noise_has_gaussian_quantiles():
    noise = np.random.default_rng(0).normal(size=(20_000, 1))
    spread = measured(noise)
    # The last value's own noise counts too; the context's deviation is nearly one.
    expected = np.sqrt(2) * norm.ppf([0.1, 0.5, 0.9])
    np.testing.assert_allclose(spread.at(np.array([1]), [0.1, 0.5, 0.9])[0], expected, atol=0.12)


@pytest.mark.parametrize("given_validation", [True, False])
def test_only_held_out_windows_count(given_validation):
    rng = np.random.default_rng(0)
    quiet, loud = rng.normal(size=(600, 1)), 5 * rng.normal(size=(200, 1))
    values = np.concatenate([quiet, loud]) + 0.1 * np.arange(800)[:, None]
    if given_validation:
        spread = measured(values[:600], hold_out=False, validation=values[600:])
    else:
        spread = measured(values)
    other = values.copy()
    other[:500] *= 0.1
    if not given_validation:
        again = measured(other)
        np.testing.assert_allclose(again.offsets, spread.offsets, rtol=1e-3, atol=1e-4)
    assert np.diff(spread.at(np.array([1]), [0.1, 0.9]))[0, 0] > 1.0


def test_constant_contexts_say_nothing():
    spread = measured(np.ones((200, 1)))
    np.testing.assert_array_equal(spread.offsets, 0.0)


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=8), st.integers(1, 50))
def test_quantiles_never_cross(levels, step):
    rng = np.random.default_rng(0)
    offsets = np.sort(rng.normal(size=(T, 101)), axis=1).astype(np.float32)
    made = Spread(offsets).at(np.array([step]), sorted(levels))
    assert (np.diff(made) >= 0).all()
