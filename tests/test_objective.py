import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilts_forecaster.objective import exponential_weights, resolve_horizon_weights


@given(horizon=st.integers(1, 500), tau=st.floats(-20, 20))
def test_exponential_weights_follow_the_papers_formula(horizon, tau):
    weights = exponential_weights(horizon, tau)
    assert weights.mean() == pytest.approx(1.0)
    steps = np.arange(horizon) / max(horizon - 1, 1)
    np.testing.assert_allclose(weights / weights[0], np.exp(tau * steps), rtol=1e-9)


def test_steepness_zero_is_uniform():
    np.testing.assert_array_equal(exponential_weights(5, 0.0), np.ones(5))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda w: sum(w) > 1e-6))
def test_given_weights_keep_their_ratios_and_get_mean_one(weights):
    resolved = resolve_horizon_weights(weights, len(weights))
    assert resolved.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(resolved * np.mean(weights), weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "given_weights", [1.0, np.float32(1.0), 1, lambda T: exponential_weights(T, 1.0)]
)
def test_a_number_is_tau_and_a_function_gives_weights(given_weights):
    np.testing.assert_allclose(
        resolve_horizon_weights(given_weights, 4), exponential_weights(4, 1.0), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1, 2], "one weight for each of the 3 steps"),
        ([1, -1, 1], "got -1.0 at step 1"),
        ([1, np.nan, 1], "at step 1"),
        ([0, 0, 0], "distillation_weight=0"),
        (np.inf, "must be finite"),
        (np.ones((3, 1)), r"got shape \(3, 1\)"),
        (lambda T: np.ones(T + 1), "one weight for each"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_the_reason(bad, message):
    with pytest.raises(ValueError, match=message):
        resolve_horizon_weights(bad, 3)


@pytest.mark.parametrize("bad", ["1.0", None, True, ["a", "b", "c"], {}])
def test_weights_of_the_wrong_type_are_refused(bad):
    with pytest.raises(TypeError, match="horizon_weights"):
        resolve_horizon_weights(bad, 3)
