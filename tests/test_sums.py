from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster.students import Linear
from distilts_forecaster.students.objective import exponential_weights
from distilts_forecaster.students.sums import (
    HeldOut,
    WindowSums,
    solve,
    validation_errors,
)

F, T = 5, 3


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, F)).astype(np.float32),
        rng.normal(size=(n, T)).astype(np.float32),
        rng.normal(size=(n, T)).astype(np.float32),
    )


def summed(features, targets=None, labels=None, n_matrices=1):
    sums = WindowSums(n_matrices, F, targets.shape[1] if targets is not None else T)
    sums.add(features, targets, labels)
    return sums


def stacked_least_squares(features, targets, labels, alpha_weights, ridge):
    """Solve the same objective as one least-squares problem for each step."""
    n = len(features)
    power = (features**2).sum() / n / F
    solution = np.empty((F, T))
    for t in range(T):
        design = np.concatenate(
            [
                features / np.sqrt(n),
                np.sqrt(alpha_weights[t]) * features / np.sqrt(n),
                np.sqrt(ridge * power) * np.eye(F),
            ]
        )
        target = np.concatenate(
            [
                targets[:, t] / np.sqrt(n),
                np.sqrt(alpha_weights[t]) * labels[:, t] / np.sqrt(n),
                np.zeros(F),
            ]
        )
        solution[:, t] = np.linalg.lstsq(design, target, rcond=None)[0]
    return solution


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.floats(0, 100), tau=st.floats(-3, 3), ridge=st.floats(1e-3, 30), n=st.integers(6, 60)
)
def test_the_solution_is_that_of_the_stated_objective(alpha, tau, ridge, n):
    features, targets, labels = rows(n)
    weights = alpha * exponential_weights(T, tau)
    exact = solve(summed(features, targets, labels), weights, ridge)[0]
    expected = stacked_least_squares(features, targets, labels, weights, ridge)
    np.testing.assert_allclose(exact, expected, atol=2e-4)


def test_without_weight_the_labels_change_nothing():
    features, targets, labels = rows(40)
    with_labels = solve(summed(features, targets, labels), np.zeros(T), 0.1)
    without = solve(summed(features, targets), np.zeros(T), 0.1)
    np.testing.assert_allclose(with_labels, without, atol=1e-6)


def test_a_heavy_teacher_is_copied():
    features, targets, labels = rows(200)
    copied = solve(summed(features, targets, labels), np.full(T, 1e6), 1e-3)
    expected = np.linalg.lstsq(features, labels, rcond=None)[0]
    np.testing.assert_allclose(copied[0], expected, atol=1e-3)


def test_horizon_weights_reach_each_step_by_itself():
    features, targets, labels = rows(200)
    sums = summed(features, targets, labels)
    late = solve(sums, np.array([0.0, 0.0, 1e6]), 1e-3)[0]
    own = np.linalg.lstsq(features, targets, rcond=None)[0]
    teacher = np.linalg.lstsq(features, labels, rcond=None)[0]
    np.testing.assert_allclose(late[:, 0], own[:, 0], atol=1e-2)
    np.testing.assert_allclose(late[:, 2], teacher[:, 2], atol=1e-2)


@given(cut=st.integers(1, 39))
def test_sums_add_up_in_any_order(cut):
    features, targets, labels = rows(40)
    whole = summed(features, targets, labels)
    first = summed(features[:cut], targets[:cut], labels[:cut])
    second = summed(features[cut:], targets[cut:], labels[cut:])
    for total in (first + second, second + first):
        assert total.n_target == whole.n_target
        np.testing.assert_allclose(total.gram_target, whole.gram_target, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(total.cross_teacher, whole.cross_teacher, rtol=1e-4, atol=1e-4)


def test_truth_and_labels_may_cover_different_windows():
    features, targets, labels = rows(60)
    sums = WindowSums(1, F, T)
    sums.add(features[:40], targets=targets[:40])
    sums.add(features[20:], labels=labels[20:])
    assert (sums.n_target, sums.n_teacher) == (40, 40)
    np.testing.assert_allclose(sums.cross_target[0], features[:40].T @ targets[:40], rtol=1e-5)
    np.testing.assert_allclose(sums.cross_teacher[0], features[20:].T @ labels[20:], rtol=1e-5)


def test_one_matrix_for_each_component_is_fitted_to_its_own_rows():
    features, targets, labels = rows(80)
    both = solve(summed(features, targets, labels, n_matrices=2), np.ones(T), 0.1)
    for k in range(2):
        own = summed(features[k::2], targets[k::2], labels[k::2])
        np.testing.assert_allclose(both[k], solve(own, np.ones(T), 0.1)[0], atol=1e-5)


def whole(features, targets):
    """Return held-out windows of which everything is known."""
    return HeldOut(summed(features, targets), features[:0], targets[:0])


def test_missing_targets_are_in_no_validation_error():
    features, targets, labels = rows(60)
    held, held_targets, _ = rows(30, seed=1)
    held_targets[np.random.default_rng(0).random(held_targets.shape) < 0.3] = np.nan
    known = np.isfinite(held_targets).all(axis=1)
    parts = HeldOut(summed(held[known], held_targets[known]), held[~known], held_targets[~known])
    sums = summed(features, targets, labels)
    (error,) = validation_errors(sums, parts, [np.ones(T)], [0.1])[0, 0]
    expected = np.nanmean((held @ solve(sums, np.ones(T), 0.1)[0] - held_targets) ** 2)
    assert error == pytest.approx(expected, rel=1e-4)


def test_validation_errors_are_those_of_the_solutions():
    features, targets, labels = rows(60)
    held, held_targets, _ = rows(30, seed=1)
    sums, validation = summed(features, targets, labels), whole(held, held_targets)
    candidates = [np.zeros(T), 2.0 * exponential_weights(T, 1.0)]
    ridges = [0.01, 1.0]
    (errors,) = validation_errors(sums, validation, candidates, ridges)
    for i, ridge in enumerate(ridges):
        for j, weights in enumerate(candidates):
            solution = solve(sums, weights, ridge)[0]
            expected = ((held @ solution - held_targets) ** 2).mean()
            assert errors[i, j] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_matrices", [1, 2])
def test_a_sample_of_incomplete_rows_stands_for_all(n_matrices):
    features, targets, labels = rows(60)
    held, held_targets, _ = rows(16, seed=1)
    held_targets[10:, 0] = np.nan
    known = np.isfinite(held_targets)
    repeats = np.where(known.all(axis=1), 1, 4)
    sums = summed(features, targets, labels, n_matrices)
    whole_rows = summed(held[:10], held_targets[:10], n_matrices=n_matrices)
    parts = HeldOut(whole_rows, held[10:], held_targets[10:], row_weight=4.0)
    (error,) = validation_errors(sums, parts, [np.ones(T)], [0.1])[0, 0]
    weights = solve(sums, np.ones(T), 0.1)
    made = np.stack([row @ weights[i % n_matrices] for i, row in enumerate(held)])
    squares = np.where(known, made - held_targets, 0.0) ** 2
    expected = (repeats[:, None] * squares).sum() / (repeats[:, None] * known).sum()
    assert error == pytest.approx(expected, rel=1e-4)
    assert parts.n_rows == 10 + 4 * 6


def test_less_than_one_value_held_out_is_no_larger_error():
    features, targets, labels = rows(60)
    sums = summed(features, targets, labels)
    nothing = HeldOut(WindowSums(1, F, T), features[:0], targets[:0])
    np.testing.assert_array_equal(validation_errors(sums, nothing, [np.ones(T)], [0.1]), 0.0)


def test_twice_the_sums_are_those_of_every_window_twice():
    features, targets, labels = rows(40)
    twice = summed(features, targets, labels) * 2.0
    again = summed(*(np.concatenate([one, one]) for one in (features, targets, labels)))
    for name, value in vars(twice).items():
        np.testing.assert_allclose(value, getattr(again, name), rtol=1e-4, atol=1e-4)


def test_constant_windows_alone_can_be_solved():
    sums = summed(np.zeros((10, F), np.float32), np.zeros((10, T), np.float32))
    np.testing.assert_array_equal(solve(sums, np.zeros(T), 0.1), 0.0)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf, "large"])
def test_a_ridge_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="ridge must be"):
        Linear(ridge=bad)


def test_settings_of_the_wrong_type_are_refused():
    with pytest.raises(ValueError, match="pooling"):
        Linear(pooling="yes")
    with pytest.raises(ValueError, match="pooling"):
        Linear(pooling=-1.0)
    with pytest.raises(TypeError, match="ridge"):
        Linear(ridge=None)


def same(first, second, rtol=1e-5):
    for name, value in vars(first).items():
        np.testing.assert_allclose(value, getattr(second, name), rtol=rtol, atol=1e-4, err_msg=name)


def test_pooling_interpolates_between_own_sums_and_those_of_all():
    features, targets, labels = rows(40)
    sums = summed(features, targets, labels, n_matrices=2)
    one = summed(features, targets, labels)
    same(sums.pooled(np.inf), one)
    same(sums.pooled(0.0), sums)
    for k in range(2):
        half = 0.5 * sums.gram_target[k] + 0.5 * sums.gram_target.mean(axis=0)
        np.testing.assert_allclose(sums.pooled(1.0).gram_target[k], half)
        shared = solve(one, np.ones(T), 0.1)[0]
        np.testing.assert_allclose(solve(sums.pooled(1e9), np.ones(T), 0.1)[k], shared, atol=1e-4)


def test_residual_sums_are_those_of_residual_targets():
    features, targets, labels = rows(40)
    weights = np.random.default_rng(5).normal(size=(F, T)).astype(np.float32)
    sums = summed(features, targets, labels, n_matrices=2)
    rest = features @ weights
    same(sums.residual(weights), summed(features, targets - rest, labels - rest, 2), rtol=1e-3)


def test_projected_sums_are_those_of_projected_features():
    features, targets, labels = rows(40)
    basis = np.random.default_rng(5).normal(size=(F, 2)).astype(np.float32)
    expected = WindowSums(1, 2, T)
    expected.add(features @ basis, targets, labels)
    same(summed(features, targets, labels).projected(basis), expected, rtol=1e-3)


def test_merged_sums_have_the_solution_of_equal_weights():
    sums = summed(*rows(40))
    weights = np.full(T, 2.0)
    power = 1.0
    np.testing.assert_allclose(
        solve(sums.merged(weights), np.zeros(T), 0.1, power), solve(sums, weights, 0.1, power)
    )


@pytest.mark.parametrize("n_candidates", [1, 9])
def test_students_beside_each_other_have_the_errors_they_have_alone(n_candidates):
    sums = [summed(*rows(40, seed)) for seed in (0, 0)]
    sums[1].cross_target = sums[1].cross_target * 2.0
    held = [whole(*rows(30, 7)[:2]), whole(*rows(30, 7)[:2])]
    candidates = [np.full(T, float(k)) for k in range(n_candidates)]
    together = replace(held[0], sums=held[0].sums.beside([held[1].sums]))
    together = replace(together, targets=np.concatenate([one.targets for one in held], axis=1))
    made = validation_errors(sums[0].beside(sums[1:]), together, candidates, [0.1, 1.0], 1.0, 2)
    for k in range(2):
        alone = validation_errors(sums[k], held[k], candidates, [0.1, 1.0], 1.0)
        np.testing.assert_allclose(made[k], alone[0], rtol=1e-6)


@pytest.mark.parametrize("n_matrices", [1, 2])
def test_a_weight_is_as_good_as_so_many_rows(n_matrices):
    features, targets, labels = rows(40)
    targets[3, 1] = np.nan
    weight = np.repeat(np.random.default_rng(0).integers(0, 4, 40 // n_matrices), n_matrices)
    weighted = WindowSums(n_matrices, F, T)
    weighted.add(features, targets, labels, weight.astype(np.float32))
    groups = np.repeat(np.arange(40 // n_matrices), weight[::n_matrices])
    again = (groups[:, None] * n_matrices + np.arange(n_matrices)).ravel()
    repeated = summed(features[again], targets[again], n_matrices=n_matrices)
    for name in ("gram_target", "cross_target", "power_target", "known_target", "n_target"):
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(repeated, name), rtol=1e-4, atol=1e-4
        )
    plain = summed(features, targets, labels, n_matrices)
    np.testing.assert_array_equal(weighted.gram_teacher, plain.gram_teacher)
    assert weighted.n_teacher == plain.n_teacher
