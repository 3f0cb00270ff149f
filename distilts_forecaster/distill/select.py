"""The third stage: choose the settings that were left open, on held-out windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilts_forecaster.distill.accumulate import Material, impute_targets
from distilts_forecaster.distill.plan import Plan
from distilts_forecaster.settings import Settings
from distilts_forecaster.students.base import Choice
from distilts_forecaster.students.objective import resolve_horizon_weights
from distilts_forecaster.students.prior import Prior, make_priors
from distilts_forecaster.students.sums import (
    RIDGE_GRID,
    HeldOut,
    WindowSums,
    validation_errors,
)

__all__ = ["Candidates", "Evidence", "choose", "select_settings", "steepness"]

#: Tried where distillation_weight="auto". Zero is among them: a teacher can be useless.
ALPHA_GRID = (0.0, *(2.0**k for k in (-8, -6, -4, -2, -1, 0, 1, 2, 3, 4, 6)))

#: Tried where horizon_weights="auto".
TAU_GRID = (0.0, 0.5, 1.0, 2.0)

#: kappa tried where pooling="auto"; infinity is one matrix for all components.
POOLING_GRID = (np.inf, 1.0, 0.1)

#: Steps of the horizon that candidates are compared at, evenly spaced.
_MOST_STEPS = 32

#: lambda by which missing targets are imputed while settings are chosen.
_TYPICAL_RIDGE = 0.1

#: Keeps logarithms finite where an error is zero.
_TINY = 1e-9


def select_settings(plan: Plan, material: Material) -> tuple[Choice, WindowSums]:
    """Choose alpha, the horizon weights, lambda, the prior and kappa, where they were left open.

    They are chosen by the exact solution, which is fast for every candidate, and used for any
    student. Returns the trial sums too, with missing targets imputed.
    """
    settings = plan.settings
    has_teacher = bool(plan.n_labels)
    candidates = Candidates(
        _ridge_candidates(settings),
        _alpha_candidates(settings, has_teacher),
        _weight_candidates(settings, material.teacher_error),
        make_priors(settings.chunks, plan.first.period, material.final),
        _pooling_candidates(settings, len(material.final.gram_target)),
    )
    ridges = candidates.ridges
    guess = Choice(
        float(has_teacher),
        candidates.weights[0],
        _TYPICAL_RIDGE if len(ridges) > 1 else ridges[0],
        candidates.priors[0],
    )
    trial = impute_targets(material.trial, plan, "trial_target", guess)
    steps, held_out = settings.output_chunk_length, material.held_out
    evidence = Evidence(
        n_target=plan.n_targets / steps,
        n_validation=held_out.n_rows / steps if held_out else 0.0,
        teacher_error=material.teacher_validation_error,
    )
    return choose(trial, held_out, candidates, evidence), trial


def steepness(settings: Settings, weights: np.ndarray) -> float | None:
    """Return tau, as given or chosen; None where the weights are of another kind."""
    given = settings.teaching.horizon_weights
    if isinstance(given, str) and given in ("auto", "exponential", "uniform"):
        return float(np.log(weights[-1] / weights[0]))
    return float(given) if isinstance(given, (int, float, np.number)) else None


def _ridge_candidates(settings: Settings) -> tuple[float, ...]:
    """Return the lambdas to choose from."""
    given = settings.student.ridge
    return RIDGE_GRID if isinstance(given, str) else (float(given),)


def _pooling_candidates(settings: Settings, n_matrices: int) -> tuple[float, ...]:
    """Return the kappas to choose from."""
    given = settings.student.pooling
    if given == "full" or n_matrices == 1:
        return (np.inf,)
    if given == "none":
        return (0.0,)
    return POOLING_GRID if isinstance(given, str) else (float(given),)


def _alpha_candidates(settings: Settings, has_teacher: bool) -> tuple[float, ...]:
    """Return the alphas to choose from."""
    if not has_teacher:
        return (0.0,)
    given = settings.teaching.distillation_weight
    return ALPHA_GRID if isinstance(given, str) else (float(given),)


def _weight_candidates(settings: Settings, teacher_error: np.ndarray | None) -> list[np.ndarray]:
    """Return the horizon weights to choose from."""
    given = settings.teaching.horizon_weights
    candidates = TAU_GRID if isinstance(given, str) and given == "auto" else (given,)
    steps = settings.output_chunk_length
    return [resolve_horizon_weights(one, steps, teacher_error) for one in candidates]


@dataclass(frozen=True)
class Candidates:
    """What is chosen from: lambdas, alphas, horizon weights (T,), priors, kappas."""

    ridges: Sequence[float]
    alphas: Sequence[float]
    weights: Sequence[np.ndarray]
    priors: Sequence[Prior]
    poolings: Sequence[float] = (np.inf,)


@dataclass(frozen=True)
class Evidence:
    """How much is known.

    ``n_target`` counts the windows whose targets do not overlap, ``n_validation`` the held-out
    ones, times components. ``teacher_error`` is the teacher's at the steps validated on, in the
    same units.
    """

    n_target: float
    n_validation: float = 0.0
    teacher_error: float | None = None

    @property
    def n_errors(self) -> float:
        """Independent errors that the held-out windows count as."""
        return min(_ERRORS_PER_WINDOW * self.n_validation, _MOST_ERRORS)


def choose(
    sums: WindowSums, validation: HeldOut | None, candidates: Candidates, evidence: Evidence
) -> Choice:
    """Choose alpha, the horizon weights, lambda and the prior together, cautiously; then kappa.

    The held-out error of each candidate is a noisy measurement: windows overlap, and a short
    history has few independent ones. So the candidate with the smallest ::

        n log(error) / 2  +  penalty(alpha) + penalty(tau) + penalty(lambda) + penalty(prior)

    is taken: the likelihood of ``n`` independent Gaussian errors times a prior. With few targets
    the prior decides, with many the data do. The prior's alpha is a quarter; up to a half for a
    teacher that is better than the student alone, less for one that is worse, and more where there
    are less than two windows of targets. The prior's lambda falls with their number. Without
    validation the prior decides.
    """
    if validation is None:
        return _most_likely(candidates, evidence)
    n_target, ridges = evidence.n_target, candidates.ridges
    of_ridge = np.array([_ridge_penalty(ridge, n_target) for ridge in ridges])
    grid = [(alpha, w) for alpha in candidates.alphas for w in candidates.weights]
    n_steps = validation.sums.power_target.shape[1]
    some = slice(None, None, -(-n_steps // _MOST_STEPS))
    alpha_weights = [alpha * w[:n_steps][some] for alpha, w in grid]
    alpha_weights.append(np.zeros_like(alpha_weights[0]))
    sums, validation = sums.thinned(some), validation.thinned(some)
    pooled = sums.pooled(np.inf)
    priors = [prior.at_steps(some) for prior in candidates.priors]
    errors = _errors_of(priors, pooled, validation.pooled(), alpha_weights, ridges)
    scores = 0.5 * evidence.n_errors * np.log(np.maximum(errors, _TINY))
    scores += of_ridge[:, None]
    scores += _prior_penalties(priors, pooled, n_target)[:, None, None]
    alone = float(errors[..., -1].ravel()[scores[..., -1].argmin()])
    ratio = 1.0
    if evidence.teacher_error is not None:
        ratio = min((alone + _TINY) / (evidence.teacher_error + _TINY), _MOST_TRUSTED)
    of_teacher = [_teacher_penalty(alpha, w, n_target, ratio) for alpha, w in grid]
    scores = scores[..., :-1] + of_teacher
    p, i, j = np.unravel_index(scores.argmin(), scores.shape)
    prior, error = candidates.priors[p], float(errors[p, i, j])
    choice = Choice(*grid[j], ridges[i], prior, np.inf, error, alone)
    if tuple(candidates.poolings) == (np.inf,):
        return choice
    own, held_out = priors[p].transform(sums), priors[p].transform_held_out(validation)
    taught, alone_sums = own.merged(alpha_weights[j]), own.merged(alpha_weights[-1])
    return _choose_pooling(taught, alone_sums, held_out, candidates, evidence, choice)


def _prior_penalties(priors: Sequence[Prior], sums: WindowSums, n_target: float) -> np.ndarray:
    """Return the penalty on each prior, by its own error on the windows that are fitted on.

    Its weights were fitted to nothing, so that this error is as honest as that of held-out windows.
    """
    n_steps = sums.power_target.shape[1]
    powers = [sums.residual(prior.weights[:, :n_steps]).power_target.sum() for prior in priors]
    n_errors = min(max(_ERRORS_PER_WINDOW * n_target, 1.0), _MOST_PRIOR_ERRORS)
    penalties = 0.5 * n_errors * np.log(np.maximum(powers, _TINY))
    penalties[1:] += _OTHER_PRIOR
    return penalties - penalties.min()


def _errors_of(
    priors: Sequence[Prior],
    sums: WindowSums,
    validation: HeldOut,
    alpha_weights: Sequence[np.ndarray],
    ridges: Sequence[float],
) -> np.ndarray:
    """Return the held-out error of every candidate: (priors, ridges, alpha_weights)."""
    own, first = priors[0].transform(sums), priors[0].transform_held_out(validation)
    others = [prior.transform(sums, own) for prior in priors[1:]]
    rest = [prior.transform_held_out(validation, first.sums) for prior in priors[1:]]
    together = replace(
        first,
        sums=first.sums.beside([one.sums for one in rest]),
        targets=np.concatenate([one.targets for one in (first, *rest)], axis=1),
    )
    wide = own.beside(others)
    return validation_errors(wide, together, alpha_weights, ridges, priors[0].power, len(priors))


def _most_likely(candidates: Candidates, evidence: Evidence) -> Choice:
    """Choose where nothing is held out."""
    n = evidence.n_target
    alpha, weights = min(
        ((alpha, w) for alpha in candidates.alphas for w in candidates.weights),
        key=lambda pair: _teacher_penalty(pair[0], pair[1], n, 1.0),
    )
    ridge = min(candidates.ridges, key=lambda ridge: _ridge_penalty(ridge, n))
    return Choice(alpha, weights, ridge, candidates.priors[0], candidates.poolings[0])


def _choose_pooling(
    sums: WindowSums,
    alone: WindowSums,
    validation: HeldOut,
    candidates: Candidates,
    evidence: Evidence,
    choice: Choice,
) -> Choice:
    """Choose kappa, and lambda again. All components share a matrix unless it pays not to.

    ``sums`` hold targets and labels together, on the coordinates of the prior; ``alone`` hold the
    targets.
    """
    ridges = candidates.ridges
    nothing = [np.zeros(sums.cross_target.shape[2])]
    of_ridge = np.array([_ridge_penalty(ridge, evidence.n_target) for ridge in ridges])
    best, chosen = np.inf, choice
    for kappa in candidates.poolings:
        shared = bool(np.isinf(kappa))
        held_out = validation.pooled() if shared else validation
        errors, errors_alone = (
            validation_errors(one.pooled(kappa), held_out, nothing, ridges, choice.prior.power)[
                0, :, 0
            ]
            for one in (sums, alone)
        )
        scores = 0.5 * evidence.n_errors * np.log(np.maximum(errors, _TINY)) + of_ridge
        scores += 0.0 if shared else _OWN_MATRICES
        i = int(scores.argmin())
        if scores[i] < best:
            best = scores[i]
            chosen = replace(
                choice,
                ridge=ridges[i],
                pooling=kappa,
                error=float(errors[i]),
                error_without_teacher=float(errors_alone[i]),
            )
    return chosen


# The constants were set on histories of 300, 500, 1,000, 2,000 and 5,000 points of eleven real sets
# (electricity, traffic, weather, fuel, sunspots, heart rate), 96 ahead, with the bundled teacher,
# by the errors on the spans that follow: geometric means of the student's error over the teacher's
# 1.30, 1.13, .96, .91, .94. Typical alphas of 1 and 4: 1.30, 1.18, .98, .95, .95 and 1.35, 1.22,
# 1.00, .97, .96. A centre of lambda twice as large: .96 instead of .91 with 2,000 points. Those for
# fewer than two windows were set on 40 series of 24 to 200 months (retail).

#: The centre of lambda is this over the number n of windows that do not overlap.
_RIDGE_SCALE = 16.0

#: Penalties on another prior than the Gaussian process, and on matrices that are not shared.
_OTHER_PRIOR, _OWN_MATRICES = 1.0, 1.0

#: The centre of alpha is this times the student's error alone over the teacher's, at most 2; where
#: that is below 1, its power n / 4, at least min(n, 1), at most 4.
_TYPICAL_ALPHA, _MOST_TRUSTED, _WINDOWS_PER_POWER = 0.25, 2.0, 4.0

#: With fewer windows of targets than this it grows with (2 / n)**4, up to 64 times.
_FEW_WINDOWS, _MOST_OF_FEW = 2.0, 64.0

#: Independent errors that a held-out window of T steps counts as.
_ERRORS_PER_WINDOW = 0.5

#: Most independent errors that a held-out span counts as: all of it is one season or
#: two, and more windows of the same weeks are not more evidence about the next.
_MOST_ERRORS = 100.0

#: Most independent errors of a prior that count in choosing it: the student is not the prior.
_MOST_PRIOR_ERRORS = 4.0

#: What alpha = 0 counts as, on the prior's logarithmic scale.
_NO_WEIGHT = 2.0**-9


def _ridge_penalty(ridge: float, n_target: float) -> float:
    """Return the prior's penalty on lambda: one per factor of ten from its centre."""
    centre = _RIDGE_SCALE / max(n_target, 1.0)
    return float(0.5 * np.log10(ridge / centre) ** 2)


def _teacher_penalty(alpha: float, weights: np.ndarray, n_target: float, ratio: float) -> float:
    """Return the prior's penalty on alpha (per factor of two) and on tau (from the paper's 1)."""
    power = min(max(n_target / _WINDOWS_PER_POWER, min(n_target, 1.0)), 4.0)
    trust = ratio**power if ratio < 1.0 else ratio
    few = min(max(_FEW_WINDOWS / max(n_target, 0.1), 1.0) ** 4, _MOST_OF_FEW)
    centre = max(_TYPICAL_ALPHA * few * trust, _NO_WEIGHT)
    # alpha = 0 has no logarithm: it counts as a very small one.
    total = float(0.5 * np.log2(max(alpha, _NO_WEIGHT) / centre) ** 2)
    if weights[0] > 0 and weights[-1] > 0:
        total += 0.5 * (np.log(weights[-1] / weights[0]) - 1.0) ** 2
    return float(total)
