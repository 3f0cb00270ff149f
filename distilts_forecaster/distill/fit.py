"""The fourth stage: fit the student to what was summed and labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distilts_forecaster.distill.accumulate import Material, impute_targets
from distilts_forecaster.distill.label import progress_bar, with_hidden_states
from distilts_forecaster.distill.plan import Plan
from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.quantiles import interpolate_levels
from distilts_forecaster.settings import Settings
from distilts_forecaster.students.base import Choice, FitTask, Fitted, Frame, NetworkShape
from distilts_forecaster.students.covariates import (
    choose_penalty,
    empty_effects,
    solve_effects,
    sum_effects,
    with_units,
)
from distilts_forecaster.students.sums import WindowSums
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.batches import (
    TeacherArray,
    TeacherRows,
    TrainingWindows,
    WindowSets,
)

__all__ = ["fit_stage", "gather_windows", "keep_labels", "will_align"]

#: Penalty on the effects of covariates where nothing is held out to choose it on.
_TYPICAL_PENALTY = 0.1


def will_align(plan: Plan, info: TeacherInfo | None) -> bool:
    """Try the student, and say whether its hidden states will be aligned.

    TypeError or ValueError if the student cannot be fitted; or an alignment was asked for by name,
    and teacher or student has no hidden states.
    """
    settings, first = plan.settings, plan.first
    covariates = (0, 0, 0) if settings.student.is_matrix else first.covariates.sizes()
    n_quantiles = len(settings.central_levels)
    shape = NetworkShape(
        settings.input_chunk_length, settings.output_chunk_length, n_quantiles, covariates
    )
    hidden_size = settings.student.probe(shape, first.n_components)
    alignment = settings.alignment
    if alignment.kind is None or alignment.weight == 0 or info is None:
        return False
    insists = alignment.kind != "auto"
    if info.hidden is None and insists:
        raise ValueError(
            f"alignment={alignment.kind!r} needs a teacher with hidden states; {info.name!r} has "
            "none to show. The bundled teacher and the Chronos family have some; for a Darts torch "
            'model name a module: DartsTeacher(model, hidden_module="..."). Or set '
            'alignment="auto" or None.'
        )
    if hidden_size is None and insists:
        raise ValueError(
            f"alignment={alignment.kind!r} needs a student with hidden states: a network with the "
            "attribute hidden_size whose forward returns (forecast, hidden (B, C, hidden_size)). "
            'Or set alignment="auto" or None.'
        )
    return info.hidden is not None and hidden_size is not None


def keep_labels(
    settings: Settings, labeller: Labeller
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a function that takes labels (n, T, C, Q) to the levels that the student forecasts.

    None where the labels need not be kept, since their sums are enough.
    """
    if settings.student.is_exact:
        return None
    known, wanted = labeller.quantile_levels, settings.central_levels

    def keep(made: np.ndarray) -> np.ndarray:
        # A teacher that knows the median only, or a student that forecasts nothing else.
        if len(known) == 1 or len(wanted) == 1:
            return made[..., labeller.median, None]
        return interpolate_levels(np.sort(made, axis=-1), known, wanted)

    return keep


def fit_stage(
    plan: Plan,
    material: Material,
    choice: Choice,
    trial: WindowSums,
    aligned_with: Labeller | None = None,
    verbose: bool | None = False,
) -> Fitted:
    """Fit the student.

    ``trial`` are the sums of the trial windows, with missing targets imputed. ``aligned_with`` is
    asked for hidden states; None if they are not aligned.
    """
    settings = plan.settings
    final = impute_targets(material.final, plan, "target", choice)
    windows = None
    if not settings.student.is_exact:
        windows = gather_windows(plan, material.labels, aligned_with, verbose)
    has_covariates = bool(plan.first.covariates)
    judges = settings.quantiles.wanted or has_covariates or not settings.student.is_exact
    scales = CovariateScales() if windows is None else windows.final.scales
    task = FitTask(
        frame=Frame(
            settings.chunks,
            settings.central_levels,
            scales,
            plan.first.period,
            settings.nonnegative,
        ),
        choice=choice,
        trial=trial,
        final=final,
        holds_out=judges and bool(plan.horizon) and plan.holds_out_ends,
        windows=windows,
        alignment=settings.alignment,
        random_state=settings.random_state,
        verbose=verbose,
    )
    fitted = settings.student.fit(task)
    return _add_effects(plan, fitted) if has_covariates and settings.student.is_matrix else fitted


def _add_effects(plan: Plan, fitted: Fitted) -> Fitted:
    """Add the effects of covariates to a student, and to what it was on trial, with its error."""
    student, trial = fitted.student, fitted.trial
    assert isinstance(student, LinearForecaster)
    assert isinstance(trial, LinearForecaster)
    sources, steps = [one.source for one in plan.sources], plan.settings.output_chunk_length
    effects, *_ = with_units(empty_effects(sources, steps), sources)
    penalty, error = _TYPICAL_PENALTY, None
    if plan.horizon:
        empty = empty_effects(sources, trial.output_chunk_length)
        for on_trial in with_units(empty, sources):
            sums = sum_effects(trial, on_trial, plan.of("trial_target"), plan.horizon)
            held_out = sum_effects(trial, on_trial, plan.held_out, plan.horizon, weighted=False)
            chosen, its_error = choose_penalty(sums, held_out, on_trial)
            if error is None or its_error < error:
                penalty, error = chosen, its_error
                effects = replace(effects, unit=on_trial.unit)
                better = solve_effects(sums, on_trial, penalty)
        trial = replace(trial, effects=better)
    every = sum_effects(student, effects, plan.of("target"), steps)
    student = replace(student, effects=solve_effects(every, effects, penalty))
    return replace(fitted, student=student, trial=trial if plan.horizon else student, error=error)


def gather_windows(
    plan: Plan,
    labels: TeacherArray | None,
    aligned_with: Labeller | None,
    verbose: bool | None = False,
) -> WindowSets:
    """Give all windows numbers, and ask for hidden states where they will be aligned."""
    settings = plan.settings
    if settings.student.is_matrix:
        plan = plan.without_covariates()
    used = [np.flatnonzero(o.target | o.labelled | o.trial_target) for o in plan.sources]
    owner = np.concatenate([np.full(len(u), i, np.int32) for i, u in enumerate(used)])
    origins = np.concatenate(used).astype(np.int32)

    def of_windows(mask: str) -> np.ndarray:
        parts = [m[mine] for (_, m), mine in zip(plan.of(mask), used, strict=True)]
        return np.concatenate(parts)

    teacher = None
    if labels is not None:
        teacher = TeacherRows(labels.rows)
        if aligned_with is not None:
            with progress_bar("hidden states", plan.n_labels, verbose) as progress:
                teacher = with_hidden_states(teacher, labels, plan, aligned_with, progress)
    windows = TrainingWindows(
        sources=[one.source for one in plan.sources],
        chunks=settings.chunks,
        owner=owner,
        origins=origins,
        has_target=of_windows("target"),
        label_row=_label_rows(labels, owner, origins),
        teacher=teacher,
        scales=CovariateScales.of([one.source.covariates for one in plan.sources]),
        n_quantiles=len(settings.central_levels),
        weight=_weights(plan, used),
    )
    held_out = _held_out(plan, windows)
    if held_out is None or not plan.holds_out_ends:
        return WindowSets(windows, windows, held_out)
    # Later steps of a trial window's target may be among those that are validated on.
    trial = windows.subset(of_windows("trial_target"), of_windows("trial_labelled"), plan.horizon)
    return WindowSets(_with_mean_weight_one(trial), windows, held_out)


def _label_rows(labels: TeacherArray | None, owner: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Return the row of each window's label, -1 for none and where it was left out as absurd."""
    if labels is None:
        return np.full(len(owner), -1, np.int32)
    rows = labels.places(owner, origins)
    left_out = np.isnan(labels.rows[:, 0].reshape(len(labels.rows), -1)).any(axis=1)
    rows[(rows >= 0) & left_out[rows]] = -1
    return rows


def _with_mean_weight_one(windows: TrainingWindows) -> TrainingWindows:
    """Scale weights as those of all windows are; where none of these counts, all count alike."""
    if windows.weight is None:
        return windows
    mean = float(windows.weight[windows.has_target].mean())
    weight = windows.weight / np.float32(mean) if mean > 0 else None
    return replace(windows, weight=weight)


def _weights(plan: Plan, used: list[np.ndarray]) -> np.ndarray | None:
    """Return the weight of each window; None where all count alike."""
    weights = [one.source.weight for one in plan.sources]
    if all(weight is None for weight in weights):
        return None
    parts = [
        np.ones(len(mine)) if weight is None else weight[mine]
        for weight, mine in zip(weights, used, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def _held_out(plan: Plan, windows: TrainingWindows) -> TrainingWindows | None:
    """Return the windows to validate on, None if there are none."""
    if not plan.horizon:
        return None
    origins = [np.flatnonzero(mask) for _, mask in plan.held_out]
    n_windows = sum(len(o) for o in origins)
    return replace(
        windows,
        sources=[source for source, _ in plan.held_out],
        owner=np.concatenate([np.full(len(o), i, np.int32) for i, o in enumerate(origins)]),
        origins=np.concatenate(origins).astype(np.int32),
        has_target=np.ones(n_windows, dtype=bool),
        label_row=np.full(n_windows, -1, np.int32),
        teacher=None,
        n_target_steps=plan.horizon,
        weight=None,
    )
