import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from distilts_forecaster.runtime.quantiles import (
    LEVELS,
    ErrorQuantiles,
    interpolate_levels,
    latent_paths,
)

increasing = st.lists(st.floats(0.002, 0.998), min_size=1, max_size=8, unique=True).map(sorted)
values = st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5).map(sorted)


@given(values, increasing)
def test_interpolated_levels_never_cross(known, wanted):
    made = interpolate_levels(np.array(known), (0.1, 0.25, 0.5, 0.75, 0.9), wanted)
    assert (np.diff(made) >= -1e-6).all()


@given(increasing)
def test_a_normal_distribution_is_interpolated_and_extrapolated_exactly(wanted):
    known = (0.1, 0.5, 0.9)
    made = interpolate_levels(3 + 2 * norm.ppf(known), known, wanted)
    np.testing.assert_allclose(made, 3 + 2 * norm.ppf(wanted), atol=1e-9)


def test_one_level_stands_for_all():
    np.testing.assert_array_equal(interpolate_levels(np.ones((2, 1)), (0.5,), (0.1, 0.9)), 1.0)


def test_heads_are_moved_and_sorted():
    spread = ErrorQuantiles(np.array([[0.0, 0.0, -3.0]]), (0.1, 0.5, 0.9))
    central = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    made = spread.around(central, np.ones((1, 1)))
    np.testing.assert_array_equal(made.ravel(), [0.0, 1.0, 2.0])


def test_offsets_must_fit_the_levels():
    with pytest.raises(ValueError, match="25 levels need offsets of shape"):
        ErrorQuantiles(np.zeros((4, 3)))
    assert len(LEVELS) == 25
    assert list(LEVELS) == sorted(set(LEVELS))


@pytest.mark.parametrize("error_autocorrelation", [0.0, 0.5, 0.95])
def test_latent_paths_are_normal_and_resemble_their_neighbours(error_autocorrelation):
    paths = latent_paths(np.random.default_rng(0), (50, 20_000), error_autocorrelation)
    np.testing.assert_allclose(paths.std(axis=1), 1.0, atol=0.03)
    found = np.mean([np.corrcoef(paths[t], paths[t + 1])[0, 1] for t in range(0, 49, 7)])
    assert found == pytest.approx(error_autocorrelation, abs=0.02)


@pytest.mark.parametrize(("steps", "expected"), [(0, 4.5), (4, 0.0)])
def test_the_unit_of_errors_is_the_std_of_the_last_steps(steps, expected):
    contexts = np.r_[np.tile([-9.0, 0.0], 4), np.full(4, 3.0)][None, :, None]
    if not steps:
        contexts = contexts[:, :8]
    errors = ErrorQuantiles(np.zeros((1, 25)), scale_steps=steps)
    assert errors.unit(contexts) == pytest.approx(expected)
