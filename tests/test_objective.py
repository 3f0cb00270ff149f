import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilts_forecaster.students.objective import (
    Objective,
    exponential_weights,
    resolve_horizon_weights,
)


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


@pytest.mark.parametrize("bad", ["1.0", "steep"])
def test_an_unknown_name_is_refused(bad):
    with pytest.raises(ValueError, match="horizon_weights must be a number"):
        resolve_horizon_weights(bad, 3)


@pytest.mark.parametrize("bad", [None, True, ["a", "b", "c"], {}])
def test_weights_of_the_wrong_type_are_refused(bad):
    with pytest.raises(TypeError, match="horizon_weights"):
        resolve_horizon_weights(bad, 3)


def test_named_weights():
    np.testing.assert_allclose(
        resolve_horizon_weights("exponential", 5), exponential_weights(5, 1.0)
    )
    np.testing.assert_allclose(resolve_horizon_weights("linear", 3), [0.5, 1.0, 1.5])
    np.testing.assert_array_equal(resolve_horizon_weights("uniform", 3), np.ones(3))


def test_inverse_error_weighs_the_steps_at_which_the_teacher_is_good():
    weights = resolve_horizon_weights("inverse_error", 3, np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(weights / weights[0], [1.0, 0.5, 0.25])
    assert weights.mean() == pytest.approx(1.0)
    # An error of 0 counts as a thousandth of the mean: 1 / .0005 against 1 / 1.
    perfect = resolve_horizon_weights("inverse_error", 2, np.array([0.0, 1.0]))
    np.testing.assert_allclose(perfect[0] / perfect[1], 2000.0)
    np.testing.assert_array_equal(resolve_horizon_weights("inverse_error", 2), np.ones(2))


class TestObjective:
    @pytest.fixture
    def arrays(self):
        rng = np.random.default_rng(0)
        shapes = ((4, 3, 2, 3), (4, 3, 2), (4, 3, 2, 3))
        return [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def test_terms_are_the_papers(self, arrays):
        torch = pytest.importorskip("torch")
        forecast, targets, labels = arrays
        weights = np.array([0.5, 1.0, 1.5])
        objective = Objective(0.5, weights, 0.3)
        one = torch.from_numpy(forecast[..., :1])
        supervised = objective.supervised(one, torch.from_numpy(targets))
        np.testing.assert_allclose(
            supervised, ((targets - forecast[..., 0]) ** 2).mean(axis=(1, 2)), rtol=1e-5
        )
        distillation = objective.distillation(torch.from_numpy(forecast), torch.from_numpy(labels))
        expected = (weights[:, None, None] * (labels - forecast) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(distillation, expected, rtol=1e-5)
        assert objective.total(1.0, 2.0, 3.0) == pytest.approx(1.0 + 0.5 * 2.0 + 0.3 * 3.0)

    def test_quantiles_meet_the_targets_in_the_pinball_loss(self, arrays):
        torch = pytest.importorskip("torch")
        forecast, targets, _ = arrays
        levels = np.array([0.1, 0.5, 0.9])
        objective = Objective(0.5, np.ones(3), quantile_levels=tuple(levels))
        error = targets[..., None] - forecast
        expected = 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=(1, 2, 3))
        mine = objective.supervised(torch.from_numpy(forecast), torch.from_numpy(targets))
        np.testing.assert_allclose(mine, expected, rtol=1e-5)

    def test_a_teacher_that_knows_the_median_alone_is_met_there(self, arrays):
        torch = pytest.importorskip("torch")
        forecast, _, labels = arrays
        weights = np.array([0.5, 1.0, 1.5])
        objective = Objective(0.5, weights, quantile_levels=(0.1, 0.5, 0.9))
        median = torch.from_numpy(labels[..., 1:2])
        expected = (weights[:, None] * (labels[..., 1] - forecast[..., 1]) ** 2).mean(axis=(1, 2))
        mine = objective.distillation(torch.from_numpy(forecast), median)
        np.testing.assert_allclose(mine, expected, rtol=1e-5)

    @pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.5, 0.9)])
    def test_a_missing_target_has_no_error_and_no_gradient(self, arrays, levels):
        torch = pytest.importorskip("torch")
        forecast, targets, _ = arrays
        targets[0, 1, 0] = np.nan
        made = torch.from_numpy(forecast[..., : len(levels)]).requires_grad_()
        loss = Objective(0.5, np.ones(3), quantile_levels=levels).supervised(
            made, torch.from_numpy(targets)
        )
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert (made.grad[0, 1, 0] == 0).all()
        assert (made.grad != 0).sum() == made.numel() - len(levels)
