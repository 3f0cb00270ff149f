"""The third stage: choose the settings that were left open, on held-out windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distilts_forecaster.distill.accumulate import Material, impute_targets
from distilts_forecaster.distill.plan import Plan
from distilts_forecaster.settings import Settings
from distilts_forecaster.students.base import Choice
from distilts_forecaster.students.objective import resolve_horizon_weights
from distilts_forecaster.students.sums import (
    RIDGE_GRID,
    HeldOut,
    WindowSums,
    solve_choice,
    validation_errors,
)

__all__ = ["choose", "select_settings", "steepness"]

#: Tried where distillation_weight="auto". Zero is among them: a teacher can be useless.
ALPHA_GRID = (0.0, *(2.0**k for k in range(-8, 7)))

#: Tried where horizon_weights="auto".
TAU_GRID = (0.0, 0.5, 1.0, 2.0)

#: lambda by which missing targets are imputed while settings are chosen.
_TYPICAL_RIDGE = 0.1

#: Keeps logarithms finite where an error is zero.
_TINY = 1e-9


def select_settings(plan: Plan, material: Material) -> tuple[Choice, WindowSums]:
    """Choose alpha, the horizon weights and lambda, where they were left open.

    They are chosen by the exact solution, which is fast for every candidate, and used for any
    student. Returns the trial sums too, with missing targets imputed.
    """
    settings = plan.settings
    has_teacher = bool(plan.n_labels)
    weights = _weight_candidates(settings, material.teacher_error)
    ridges = _ridge_candidates(settings)
    guess = Choice(float(has_teacher), weights[0], ridges[0])
    if len(ridges) > 1:
        guess = replace(guess, ridge=_TYPICAL_RIDGE)
    trial = impute_targets(
        material.trial,
        plan,
        "trial_target",
        lambda sums: solve_choice(sums, *guess.objective),
    )
    steps, held_out = settings.output_chunk_length, material.held_out
    teacher_error = None
    if material.teacher_error is not None:
        # At the steps that the student is validated on: near ones are easier.
        teacher_error = float(material.teacher_error[: plan.horizon or None].mean())
    choice = choose(
        trial,
        held_out,
        ridges,
        _alpha_candidates(settings, has_teacher),
        weights,
        n_target=plan.n_targets / steps,
        n_validation=held_out.n_rows / steps if held_out else 0.0,
        teacher_error=teacher_error,
    )
    return choice, trial


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


def choose(
    sums: WindowSums,
    validation: HeldOut | None,
    ridges: Sequence[float],
    alphas: Sequence[float],
    weights: Sequence[np.ndarray],
    n_target: float,
    n_validation: float,
    teacher_error: float | None,
) -> Choice:
    """Choose alpha, the horizon weights and lambda together, cautiously.

    The held-out error of each candidate is a noisy measurement: windows overlap, and a short
    history has few independent ones. So the candidate with the smallest ::

        n log(error) / 2  +  penalty(alpha) + penalty(tau) + penalty(lambda)

    is taken: the likelihood of ``n`` independent Gaussian errors times a prior. With few targets
    the prior decides, with many the data do. The prior's alpha falls with the number of windows
    with a target, and falls faster the worse the teacher is than the student alone. The teacher's
    error is known well, since the teacher has seen none of the windows; the student's is not, where
    few windows are held out.

    ``ridges``, ``alphas`` and ``weights`` (T,) are candidates. ``n_target`` counts the windows
    whose targets do not overlap, ``n_validation`` the held-out ones, times components.
    ``teacher_error`` is the teacher's at the steps of ``validation``, in the same units. Without
    validation the prior decides.
    """
    prior_ridge = np.array([_ridge_penalty(ridge, n_target) for ridge in ridges])
    grid = [(alpha, w) for alpha in alphas for w in weights]
    alone, errors, evidence, ratio = None, None, 0.0, 1.0
    if validation is not None:
        steps = validation.sums.power_target.shape[1]
        candidates = [alpha * w[:steps] for alpha, w in grid] + [np.zeros(steps)]
        all_errors = validation_errors(sums, validation, candidates, ridges)
        n_errors = min(_ERRORS_PER_WINDOW * n_validation, _MOST_ERRORS)
        likelihood = 0.5 * n_errors * np.log(np.maximum(all_errors, _TINY))
        alone = float(all_errors[(likelihood[:, -1] + prior_ridge).argmin(), -1])
        errors, evidence = all_errors[:, :-1], likelihood[:, :-1]
        if teacher_error is not None:
            ratio = min(1.0, (alone + _TINY) / (teacher_error + _TINY))
    prior = np.array([_teacher_penalty(alpha, w, n_target, ratio) for alpha, w in grid])
    scores = evidence + prior_ridge[:, None] + prior
    i, j = np.unravel_index(scores.argmin(), scores.shape)
    error = None if errors is None else float(errors[i, j])
    return Choice(*grid[j], ridges[i], error, alone)


# The constants were set on 200 histories of 300 to 2,000 points, all before the test spans
# of 11 real sets (electricity, traffic, weather, fuel, sunspots, heart rate), 96 ahead,
# with the bundled teacher. Test error relative to no teacher, geometric mean, and share of
# histories harmed by more than 1 %: 0.84, 11 % with them; 0.87, 14 % with four errors to a
# window, the square of the teacher's relative error and the square root of n; 0.87,
# 17 % with alpha = 2 throughout. On 20 histories of 4,000 and 8,000 points: 0.96, 15 %.
# Those for few windows were set on 66 histories of 150, 300 and 600 points of the same sets
# and 200 of 24 to 200 months (retail), again before the test spans: 0.87, 0.89, 0.94, and
# 0.89, 0.83, 0.94, 0.84, where the former gave 0.92, 0.93, 0.95, and 0.90, 0.88, 0.95, 0.87.

#: Centre of lambda for one window of targets, and of alpha for many: the centre of lambda is
#: this over the square root of the number n of windows that do not overlap.
_PRIOR_SCALE = 4.0

#: The centre of alpha is max(8 / n**.5, 4 / n**.25), with 8 / n where n < 1, times ratio**power.
#: The ratio is the student's error alone over the teacher's, at most 1; the power is n / 4, at
#: least min(n, 1), at most 4.
_PRIOR_SCALE_OF_FEW, _WINDOWS_PER_POWER = 8.0, 4.0

#: Independent errors that a held-out window of T steps counts as.
_ERRORS_PER_WINDOW = 0.5

#: Most independent errors that a held-out span counts as: all of it is one season or
#: two, and more windows of the same weeks are not more evidence about the next.
_MOST_ERRORS = 100.0

#: What alpha = 0 counts as, on the prior's logarithmic scale.
_NO_WEIGHT = 2.0**-9


def _ridge_penalty(ridge: float, n_target: float) -> float:
    """Return the prior's penalty on lambda: one per factor of ten from its centre."""
    centre = _PRIOR_SCALE / np.sqrt(max(n_target, 1.0))
    return float(0.5 * np.log10(ridge / centre) ** 2)


def _teacher_penalty(alpha: float, weights: np.ndarray, n_target: float, ratio: float) -> float:
    """Return the prior's penalty on alpha (per factor of two) and on tau (from the paper's 1)."""
    n = max(n_target, 0.1)
    # With less than one window, the student's own error is not known either.
    power = min(max(n / _WINDOWS_PER_POWER, min(n, 1.0)), 4.0)
    of_few = _PRIOR_SCALE_OF_FEW / (n**0.5 if n > 1.0 else n)
    weight = max(of_few, _PRIOR_SCALE / n**0.25)
    centre = max(weight * ratio**power, _NO_WEIGHT)
    # alpha = 0 has no logarithm: it counts as a very small one.
    total = float(0.5 * np.log2(max(alpha, _NO_WEIGHT) / centre) ** 2)
    if weights[0] > 0 and weights[-1] > 0:
        total += 0.5 * (np.log(weights[-1] / weights[0]) - 1.0) ** 2
    return float(total)
