"""Calibrated quantiles: how far targets fall from a student's forecasts, by step.

Held-out errors measure this best, but a fifth of a short history holds few windows, whose errors
are nearly the same. So errors are pooled with the teacher's quantiles on the same windows. The
error quantiles of a step are those of two samples together: (target - student), and (teacher's
quantiles - student), which count as much as five independent windows of targets. With many
windows of targets this is conformalised quantile regression (Romano et al., NeurIPS 2019), by
step and level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from distilts_forecaster.distill.label import teacher_labels
from distilts_forecaster.distill.plan import Plan, resolve_teacher_context
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles, interpolate_levels
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.source import WindowSource

__all__ = ["calibrate"]

#: Windows that errors are taken from, evenly spaced: neighbours say nearly the same.
_MOST_WINDOWS = 2000

#: Most windows to take the teacher's quantiles on: 19 quantiles of each are enough.
_MOST_ASKED = 200

#: Independent windows of targets that the teacher's quantiles count as. Coverage of 90 % (80 %)
#: intervals on twelve real sets, mean over histories of 150, 300, 1,000 and 4,000 points: 91
#: (81) with three, 88 (78) with ten, 75 (66) without the teacher.
_TEACHER_COUNTS = 5.0

#: Independent windows with which half of the median error corrects the median: the errors of one
#: week say little about the level of the next.
_CENTRE_COUNTS = 10.0

#: Fewer errors than these are taken to be normally distributed.
_FEWEST_ERRORS = 30

#: Equal parts that the teacher's quantiles stand for.
_PARTS = tuple((k + 0.5) / 19 for k in range(19))


@dataclass(frozen=True)
class _Measured:
    """Distances from a student's forecasts, in units of the contexts' standard deviations.

    ``errors`` (n, T, Q) are targets less each of the student's own quantiles, NaN where unknown;
    ``distances`` (m, T, Q) the teacher's quantiles at the levels of ``_PARTS`` less the student's;
    ``widths`` (T, Q) how far the student's own quantiles are from its median, on average. One
    window in ``every`` was measured.
    """

    errors: np.ndarray
    distances: np.ndarray
    widths: np.ndarray
    every: int


def calibrate(
    plan: Plan, trial: Forecaster, student: Forecaster, labeller: Labeller | None = None
) -> ErrorQuantiles:
    """Measure a student's errors on windows that it was not fitted on.

    ``trial`` is the student that was fitted without the held-out windows. ``student`` is the final
    one, which is compared with the teacher at steps beyond the held-out ones. Where nothing is held
    out, errors are those on the windows that were fitted on. The labeller's quantiles, if it knows
    any, are pooled with the errors. With ``calibrate`` false in the settings, they are used alone;
    and a student that forecasts quantiles keeps its own.
    """
    settings, horizon, steps = plan.settings, plan.horizon, plan.settings.output_chunk_length
    several = len(settings.central_levels) > 1
    levels = settings.central_levels if several else LEVELS
    chosen = list(plan.held_out) if horizon else plan.of("target")
    asked = _asked(plan, chosen, labeller)
    stages = [(trial, horizon)] if horizon else []
    found = _measure([*stages, (student, steps)], chosen, settings, labeller, asked)
    autocorrelation = _error_autocorrelation(found.errors, found.distances)
    calibrated = settings.quantiles.calibrate
    if several and not calibrated:
        nothing = np.zeros((steps, len(levels)), np.float32)
        return ErrorQuantiles(nothing, levels, autocorrelation, settings.history_needed or 0)
    errors = found.errors
    if horizon:
        errors[:, horizon:] = np.nan
    if not calibrated and np.isfinite(found.distances).any():
        errors = np.full_like(errors[:1], np.nan)
    n_windows = np.isfinite(errors[..., 0]).sum(axis=0) / plan.first.n_components
    counts = found.every * n_windows / (horizon or steps)
    offsets = _pool(errors, found.distances, found.widths, counts, levels)
    offsets = _continue(offsets, steps).astype(np.float32)
    return ErrorQuantiles(offsets, levels, autocorrelation, settings.history_needed or 0)


def _asked(
    plan: Plan, chosen: Sequence[tuple[WindowSource, np.ndarray]], labeller: Labeller | None
) -> list[np.ndarray] | None:
    """Return the windows that the teacher is asked for; None where it knows no quantiles."""
    if labeller is None or len(labeller.quantile_levels) == 1:
        return None
    if plan.holds_out_ends or not plan.horizon:
        return [one.labelled for one in plan.sources]
    # Few windows of the validation series are labelled, within the budget.
    settings, info, most = plan.settings, labeller.teacher.info, _MOST_ASKED
    budget = settings.teaching.label_budget
    if isinstance(budget, int):
        most = min(most, max(0, budget - plan.n_labels))
    needed = 0 if info.takes_missing else resolve_teacher_context(settings, info)
    spare = []
    for _, mask in chosen:
        origins = np.flatnonzero(mask)
        origins = origins[origins >= needed]
        share = max(1, -(-len(origins) * len(chosen) // max(most, 1)))
        asked = np.zeros_like(mask)
        asked[origins[::share] if most else []] = True
        spare.append(asked)
    return spare


def _measure(
    stages: Sequence[tuple[Forecaster, int]],
    chosen: Sequence[tuple[WindowSource, np.ndarray]],
    settings: Settings,
    labeller: Labeller | None,
    asked: Sequence[np.ndarray] | None,
) -> _Measured:
    """Measure how far targets and the teacher's quantiles are from a student's forecasts.

    ``stages`` are students, each with the step up to which its forecasts count. ``asked`` are the
    windows that the teacher is asked for.
    """
    steps, n_levels = settings.output_chunk_length, len(settings.central_levels)
    every = max(1, -(-sum(int(mask.sum()) for _, mask in chosen) // _MOST_WINDOWS))
    nothing = np.empty((0, steps, n_levels))
    errors, distances, widths = [nothing], [nothing], [nothing]
    fewer = 1
    if asked is not None:
        both = sum(int((mask & a).sum()) for (_, mask), a in zip(chosen, asked, strict=True))
        fewer = max(1, both // every // _MOST_ASKED)
    median = settings.central_levels.index(0.5)
    for i, (source, mask) in enumerate(chosen):
        taken = np.flatnonzero(mask)[::every]
        for origins in iterate_chunks(taken, source.n_components):
            central, targets, unit = _forecast(stages, source, origins, settings)
            errors.append(_rows((targets[..., None] - central) / unit))
            widths.append(_rows((central - central[..., median, None]) / unit))
            if asked is None or labeller is None:
                continue
            rows = np.flatnonzero(asked[i][origins])[::fewer]
            if len(rows):
                labels = teacher_labels(source, origins[rows], settings, labeller)
                known = labeller.quantile_levels
                parts = interpolate_levels(np.sort(labels, axis=-1), known, _PARTS)
                away = (parts[..., None] - central[rows][..., None, :]) / unit[rows][..., None]
                distances += [_rows(away[..., part, :]) for part in range(len(_PARTS))]
    mean_width = np.concatenate([*widths, np.zeros((1, steps, n_levels))])
    return _Measured(
        np.concatenate(errors),
        np.concatenate(distances),
        np.nan_to_num(mean_width).mean(axis=0),
        every,
    )


def _forecast(
    stages: Sequence[tuple[Forecaster, int]],
    source: WindowSource,
    origins: np.ndarray,
    settings: Settings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return forecasts (n, T, C, Q), targets (n, T, C), and the unit of errors (n, 1, C, 1).

    The unit is the standard deviation of the context, of those steps that are known of short
    histories. It is NaN for a constant context, which says
    nothing about how wide errors are, and for an unknown one.
    """
    chunks = settings.chunks
    contexts, unknown = source.filled_contexts(origins, chunks.input_chunk_length)
    contexts = contexts.astype(np.float64)
    targets = source.targets(origins, chunks.output_chunk_length, chunks.output_chunk_shift)
    covariates = source.window_covariates(origins, chunks)
    shape = (len(origins), 0, source.n_components, len(settings.central_levels))
    central = np.empty(shape)
    for student, stop in stages:
        if central.shape[1] < stop:
            made = student.divided_by(source.std).central_forecast(contexts, covariates)
            central = np.concatenate([central, made[:, central.shape[1] : stop]], axis=1)
    std = contexts[:, -(settings.history_needed or 0) :].std(axis=1)
    varies = std > 1e-6
    if unknown is not None:
        varies &= ~unknown
    return central, targets, np.where(varies, std, np.nan)[:, None, :, None]


def _rows(windows: np.ndarray) -> np.ndarray:
    """Turn windows (n, steps, C, Q) into rows (n * C, steps, Q)."""
    return windows.transpose(0, 2, 1, 3).reshape(-1, windows.shape[1], windows.shape[3])


def _pool(
    errors: np.ndarray,
    distances: np.ndarray,
    widths: np.ndarray,
    counts: np.ndarray,
    levels: tuple[float, ...],
) -> np.ndarray:
    """Return the offsets of quantiles: (steps, Q), NaN where nothing is known.

    ``counts`` (steps,) is the number of independent windows of targets.
    """
    n_steps, n_own = widths.shape
    teacher_counts = _TEACHER_COUNTS if len(distances) else 0.0
    total = counts + teacher_counts
    pooled = np.concatenate([errors, distances])
    is_target = np.arange(len(pooled))[:, None] < len(errors)
    offsets = np.empty((n_steps, len(levels)))
    for own in range(n_own):
        values = pooled[..., own]
        known = np.isfinite(values)
        n_target = np.maximum((known & is_target).sum(axis=0), 1)
        n_teacher = np.maximum((known & ~is_target).sum(axis=0), 1)
        weights = known * np.where(is_target, counts / n_target, teacher_counts / n_teacher)
        wanted = levels if n_own == 1 else (levels[own],)
        made = _weighted_quantiles(values, weights, wanted, widths[:, own])
        offsets[:, slice(None) if n_own == 1 else slice(own, own + 1)] = made
    median = levels.index(0.5)
    centre = offsets[:, median].copy()
    around = widths + offsets - centre[:, None] if n_own > 1 else offsets - centre[:, None]
    wider = (_widening(total, levels) - 1.0) * around
    kept = (counts / (counts + _CENTRE_COUNTS)) * centre
    return offsets - centre[:, None] + kept[:, None] + wider


def _weighted_quantiles(
    values: np.ndarray, weights: np.ndarray, levels: Sequence[float], width: np.ndarray
) -> np.ndarray:
    """Return weighted quantiles of each column: (n, steps) -> (steps, Q).

    ``width`` (steps,) is the forecast quantile that errors are measured from, less the median.
    """
    order = np.argsort(values, axis=0)  # NaN, which has no weight, comes last
    values = np.take_along_axis(values, order, axis=0)
    weights = np.take_along_axis(weights, order, axis=0)
    total = weights.sum(axis=0)
    middle = (np.cumsum(weights, axis=0) - 0.5 * weights) / np.maximum(total, 1e-12)
    made = np.full((values.shape[1], len(levels)), np.nan)
    for step in np.flatnonzero(total > 0):
        known = weights[:, step] > 0
        if known.sum() >= _FEWEST_ERRORS:
            made[step] = np.interp(levels, middle[known, step], values[known, step])
        else:
            from_median = values[known, step] + width[step]
            power = np.average(from_median**2, weights=weights[known, step])
            made[step] = np.sqrt(power) * ndtri(levels) - width[step]
    return made


def _widening(counts: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return Student's t quantiles over normal ones, for so many windows: (steps, Q)."""
    normal = ndtri(levels)
    student = stdtrit(np.maximum(counts, 1.0)[:, None], np.asarray(levels))
    return np.where(np.abs(normal) > 1e-9, student / np.where(normal == 0, 1.0, normal), 1.0)


def _continue(offsets: np.ndarray, n_steps: int) -> np.ndarray:
    """Fill unknown steps from the last known one, growing with the square root of the step."""
    known = np.flatnonzero(np.isfinite(offsets).all(axis=1))
    if not len(known):
        return np.zeros((n_steps, offsets.shape[1]))
    steps = np.arange(n_steps)
    nearest = known[np.clip(np.searchsorted(known, steps, side="right") - 1, 0, None)]
    return offsets[nearest] * np.sqrt(np.maximum((steps + 1) / (nearest + 1), 1.0))[:, None]


def _error_autocorrelation(errors: np.ndarray, distances: np.ndarray) -> float:
    """Return the correlation of the errors of neighbouring steps."""
    rows = errors if np.isfinite(errors).any() else distances
    first, second = rows[:, :-1].mean(axis=2), rows[:, 1:].mean(axis=2)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    power = np.sqrt((first**2).sum() * (second**2).sum())
    return float(np.clip((first * second).sum() / power, 0.0, 0.99)) if power > 0 else 0.0
