"""How many windows the teacher is asked for: all, so many, or as many as help or time allows."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from distilts_forecaster.distill.accumulate import Material, Totals, accumulate, sum_windows
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.label import progress_bar
from distilts_forecaster.distill.plan import Plan
from distilts_forecaster.distill.teacher_ensemble import EnsembleLabeller
from distilts_forecaster.students.sums import WindowSums, solve
from distilts_forecaster.teachers.labels import Labeller, Progress

__all__ = ["ask_teacher"]

#: Windows of the first batch; each further one doubles the labels.
_FIRST, _FIRST_IN_TIME = 512, 16

#: Labels are enough when doubling them moves the held-out forecasts by less than this share of
#: their mean squared error. Half of it is what the next doubling would move.
_SETTLED = 0.005

#: lambda and alpha by which batches are compared.
_TYPICAL_RIDGE, _TYPICAL_ALPHA = 0.1, 1.0

#: Takes labels (n, T, C, Q) to what is kept of them.
Keep = Callable[[np.ndarray], np.ndarray]


def ask_teacher(
    plan: Plan,
    labeller: Labeller,
    keep: Keep | None = None,
    verbose: bool | None = False,
    warm: WarmStart | None = None,
) -> tuple[Plan, Material]:
    """Ask for labels within ``label_budget`` and ``time_limit``; return the plan with those asked.

    Windows are drawn at random, always alike: 512 to begin with, then as many again, and so on.
    ``label_budget="auto"`` stops when that no longer moves the forecasts, ``time_limit`` when the
    next batch would take too long. Labels are kept as ``keep`` returns them. Blocks that were
    summed before are found in ``warm``; then all windows are asked for that the budget allows.
    """
    teaching, most = plan.settings.teaching, plan.n_labellable
    automatic = teaching.label_budget == "auto"
    if isinstance(teaching.label_budget, int):
        most = min(most, teaching.label_budget)
    limit = teaching.time_limit
    first = _FIRST if limit is None else _FIRST_IN_TIME
    few = most <= (2 * first if limit is None else first)
    if warm is not None or few or not (automatic or limit is not None):
        plan = plan.with_labels(0, most)
        _weigh(plan, labeller, verbose)
        with progress_bar("labelling", most, verbose) as progress:
            return plan, accumulate(plan, labeller, keep, warm, progress)
    started = time.perf_counter()
    plan = plan.with_labels(0, first)
    _weigh(plan, labeller, verbose)
    totals = Totals(plan)
    with progress_bar("labelling", None if automatic else most, verbose) as progress:
        sum_windows(totals, plan, labeller, progress)
        plan = _double(plan, totals, labeller, most, started, progress)
    if keep is None:
        return plan, totals.material(plan)
    known = labeller.n_from_cache
    material = accumulate(plan, labeller, keep)  # all are in the store now
    labeller.n_from_cache = known
    return plan, material


def _double(
    plan: Plan,
    totals: Totals,
    labeller: Labeller,
    most: int,
    started: float,
    progress: Progress,
) -> Plan:
    """Double the labels until they are enough; return the plan with those asked for."""
    teaching = plan.settings.teaching
    automatic = teaching.label_budget == "auto"
    before = _solution(totals.trial_sums) if automatic else None
    done, moved = plan.n_labels, None
    while done < most:
        size = min(done, most - done)
        if teaching.time_limit is not None:
            left = teaching.time_limit - (time.perf_counter() - started)
            cost = labeller.seconds / max(labeller.n_labelled, 1)
            size = min(size, int(left / max(cost, 1e-9)) if left > 0 else 0)
        if size < 1:
            break
        sum_windows(totals, plan.with_labels(done, done + size).labels_alone(), labeller, progress)
        done += size
        if before is not None:
            after = _solution(totals.trial_sums)
            moved, before = totals.share_moved(before, after), after
            if moved < _SETTLED:
                break
    return plan.with_labels(0, done, moved)


def _solution(sums: WindowSums) -> np.ndarray:
    """Return the weights (F, T) of a typical student, one matrix for all components."""
    pooled = sums.pooled(np.inf)
    steps = pooled.cross_target.shape[2]
    return solve(pooled, np.full(steps, _TYPICAL_ALPHA), _TYPICAL_RIDGE)[0]


def _weigh(plan: Plan, labeller: Labeller, verbose: bool | None) -> None:
    """Choose the weights of an ensemble's teachers."""
    if isinstance(labeller, EnsembleLabeller):
        with progress_bar("weighing teachers", plan.n_labels, verbose) as progress:
            labeller.choose_weights(plan, progress)
