import numpy as np
import pytest
from test_sums import F, T, summed, whole

from distilts_forecaster.distill.select import (
    Candidates,
    Evidence,
    _teacher_penalty,
    choose,
    steepness,
)
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students.objective import exponential_weights
from distilts_forecaster.students.prior import Prior
from distilts_forecaster.students.sums import HeldOut


def simulated(n, teacher_noise, seed=0):
    """Return sums of n windows with noisy targets and a teacher of given quality."""
    rng = np.random.default_rng(seed)
    pattern = rng.normal(size=(F, T)).astype(np.float32)
    features = rng.normal(size=(n, F)).astype(np.float32)
    clean = features @ pattern
    targets = clean + rng.normal(size=clean.shape).astype(np.float32)
    labels = clean + teacher_noise * (features @ rng.normal(size=(F, T)).astype(np.float32))
    return summed(features, targets, labels), float(((labels - targets) ** 2).mean())


def flat(steps=T, name="mean", weights=None):
    """Return a prior that is a plain ridge penalty on the distance from weights, or from zero."""
    return Prior(name, np.zeros((F, steps)) if weights is None else weights, np.eye(F), 1.0)


def pick(sums, validation, ridges, alphas, weights, n_target, n_validation=0, error=None, **more):
    """Choose among candidates."""
    candidates = Candidates(ridges, alphas, weights, more.pop("priors", [flat(9)]), **more)
    return choose(sums, validation, candidates, Evidence(n_target, n_validation, error))


ALPHAS = tuple(2.0**k for k in range(-6, 4))


def chosen_alpha(n, teacher_noise):
    sums, error = simulated(n, teacher_noise)
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(F, T)).astype(np.float32)
    held = np.random.default_rng(9).normal(size=(n, F)).astype(np.float32)
    noise = np.random.default_rng(10).normal(size=(n, T)).astype(np.float32)
    validation = whole(held, held @ pattern + noise)
    return pick(sums, validation, (0.01, 0.1), ALPHAS, [np.ones(T)], n / T, n / T, error).alpha


def test_a_good_teacher_is_trusted_and_a_bad_one_is_not():
    assert chosen_alpha(60, teacher_noise=0.0) >= 0.25
    assert chosen_alpha(60, teacher_noise=3.0) < 0.1


def test_without_evidence_the_prior_decides():
    found = pick(simulated(20, 0.0)[0], None, (0.1,), ALPHAS, [np.ones(T)], 9)
    assert found.alpha == 0.25
    assert found.error is None
    assert np.isinf(found.pooling)


def test_without_evidence_tau_is_the_papers():
    weights = [exponential_weights(T, tau) for tau in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    sums = simulated(20, 0.0)[0]
    found = pick(sums, None, (0.1,), (1.0,), weights, 100)
    np.testing.assert_array_equal(found.weights, weights[3])


@pytest.mark.parametrize("tau", [-1.0, 0.0, 3.0])
def test_the_prior_on_tau_is_a_normal_one_of_deviation_one(tau):
    same = {"alpha": 1.0, "n_target": 50.0, "ratio": 1.0}
    there = _teacher_penalty(weights=exponential_weights(5, tau), **same)
    centre = _teacher_penalty(weights=exponential_weights(5, 1.0), **same)
    assert there - centre == pytest.approx(0.5 * (tau - 1.0) ** 2)
    # Weights that are zero at an end have no steepness.
    assert _teacher_penalty(weights=np.array([0.0, 1.0, 2.0]), **same) == pytest.approx(centre)


@pytest.mark.parametrize(
    ("n", "ratio", "centre"),
    [
        (4.0, 1.0, 0.25),
        (256.0, 1.0, 0.25),
        (4.0, 2.0, 0.5),  # a teacher twice as good
        (256.0, 2.0, 0.5),
        (1.0, 1.0, 4.0),  # few windows
        (0.1, 1.0, 16.0),
        (0.5, 0.25, 8.0),  # a teacher four times as bad, to the power n below one window,
        (4.0, 0.5, 0.125),  # else n / 4
        (8.0, 0.5, 0.0625),
        (256.0, 0.5, 0.25 / 16),  # of four at most
    ],
)
def test_the_prior_on_alpha_has_its_centre_where_it_says(n, ratio, centre):
    weights = exponential_weights(5, 1.0)
    assert _teacher_penalty(centre, weights, n, ratio) == pytest.approx(0.0, abs=1e-12)
    for factor in (0.5, 2.0):  # one half, per factor of two
        assert _teacher_penalty(factor * centre, weights, n, ratio) == pytest.approx(0.5)
    assert _teacher_penalty(0.0, weights, n, ratio) > _teacher_penalty(centre, weights, n, ratio)


def test_only_the_first_weights_are_validated_where_fewer_steps_are():
    """With no weight on the steps that are validated, every alpha is as good as none."""
    sums, _ = simulated(40, 3.0)
    rng = np.random.default_rng(1)
    held = whole(*(rng.normal(size=(30, n)).astype(np.float32) for n in (F, 2)))
    few = summed_steps(sums, 2)
    for weights, same in (([0.0, 0.0, 3.0], True), ([3.0, 0.0, 0.0], False)):
        found = pick(few, held, (0.1,), (100.0,), [np.array(weights)], 10, 10)
        assert (found.error == pytest.approx(found.error_without_teacher)) == same


def summed_steps(sums, steps):
    """Return the sums of the first steps alone."""
    fewer = sums * 1.0
    for name in ("cross_target", "cross_teacher", "power_target", "known_target"):
        setattr(fewer, name, getattr(sums, name)[..., :steps])
    return fewer


def test_ridges_have_their_centre_at_sixteen_over_the_windows():
    ridges = tuple(2.0**k for k in range(-6, 6))
    sums = simulated(20, 0.0)[0]
    for n, expected in ((1, 16.0), (0.25, 16.0), (8, 2.0), (64, 0.25)):
        found = pick(sums, None, ridges, (0.0,), [np.ones(T)], n)
        assert found.ridge == expected


def held_out_like(pattern, n=60):
    features = rng_rows(n, F)
    return whole(features, features @ pattern.astype(np.float32))


def test_the_prior_that_forecasts_best_is_taken_with_evidence_alone():
    truth = np.random.default_rng(0).normal(size=(F, T))
    sums = summed(rng_rows(3, F, 5), rng_rows(3, T, 5))
    priors = [flat(), flat(name="right", weights=truth)]
    held = held_out_like(truth)
    for n, name in ((0, "mean"), (1000, "right")):
        found = pick(sums, held, (10.0,), (0.0,), [np.ones(T)], 1, n, priors=priors)
        assert found.prior.name == name
    np.testing.assert_allclose(found.solve(sums)[0], truth, atol=0.5)


def test_matrices_of_their_own_are_taken_where_components_differ():
    rng = np.random.default_rng(0)
    no_rows = np.empty((0, F), np.float32), np.empty((0, T), np.float32)
    features = rng.normal(size=(400, F)).astype(np.float32)
    patterns = rng.normal(size=(2, F, T)).astype(np.float32)
    for same, pooled in ((True, True), (False, False)):
        targets = np.stack([row @ patterns[0 if same else i % 2] for i, row in enumerate(features)])
        noisy = targets + rng.normal(size=targets.shape).astype(np.float32)
        sums = summed(features[:200], noisy[:200], n_matrices=2)
        held = HeldOut(summed(features[200:], noisy[200:], n_matrices=2), *no_rows)
        found = pick(
            sums, held, (0.1, 1.0), (0.0,), [np.ones(T)], 60, 60, poolings=(np.inf, 1.0, 0.0)
        )
        assert np.isinf(found.pooling) == pooled
        assert found.solve(sums).shape == (1 if pooled else 2, F, T)


def test_much_evidence_overrules_the_prior_and_little_does_not():
    sums, error = simulated(60, 3.0)  # a bad teacher
    held, targets = (rng_rows(60, n) for n in (F, T))
    for n, trusted in ((0.0, True), (1e6, False)):
        found = pick(sums, whole(held, targets), (0.1,), (0.0, 8.0), [np.ones(T)], 1, n)
        assert (found.alpha == 8.0) == trusted
    assert error > 0


def rng_rows(n, width, seed=3):
    return np.random.default_rng(seed + width).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0.5, 0.5), ("auto", 2.0), ("exponential", 2.0), ("linear", None), ([1.0, 2.0], None)],
)
def test_steepness_is_told_where_weights_have_one(given, expected):
    settings = make_settings(4, 2, horizon_weights=given)
    found = steepness(settings, exponential_weights(2, 2.0))
    assert found == (None if expected is None else pytest.approx(expected))
