"""How far the truth falls from a student's forecasts, by step: calibrated quantiles.

Held-out truth says it best, but there is little of it: a fifth of a short history is a few
windows, whose errors are nearly one. What the teacher holds possible on the same windows says
it again, with its own quantiles around its own forecast, which differs from the student's. Both
are pooled: the quantiles of a step are those of the errors against the truth and of the
distances to the teacher's quantiles, where the teacher counts as much as five windows of
truth. With much truth this is conformalised quantile regression (Romano et al., NeurIPS 2019),
by step and level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from distilts_forecaster.distill.accumulate import held_out_windows, teacher_labels
from distilts_forecaster.distill.plan import SeriesPlan, Settings, resolve_teacher_context
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles, interpolate_levels
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import (
    PreparedSeries,
    filled_contexts,
    iterate_chunks,
    target_windows,
    window_covariates,
)

__all__ = ["calibrate"]

#: Windows that errors are taken from, evenly spread: neighbours say nearly the same.
_MOST_WINDOWS = 2000

#: Windows that the teacher's quantiles are taken from: with 19 parts each, enough.
_MOST_ASKED = 200

#: Independent windows of truth that the teacher's quantiles count as. Coverage of 90 % (80 %)
#: intervals on twelve real sets, mean over histories of 150, 300, 1,000 and 4,000 points: 91
#: (81) with three, 88 (78) with ten, 75 (66) without the teacher.
_TEACHER_COUNTS = 5.0

#: Independent windows of truth that move the median half of the way to theirs: the errors of
#: one week say little about the level of the next.
_CENTRE_COUNTS = 10.0

#: Fewer errors than these have no quantiles of their own: they are taken to be normal.
_FEWEST_ERRORS = 30

#: Equal parts that the teacher's quantiles stand for.
_PARTS = tuple((k + 0.5) / 19 for k in range(19))


def calibrate(
    student: Forecaster,
    fitted: Forecaster,
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
    labeller: Labeller | None = None,
) -> ErrorQuantiles:
    """Measure a student's errors on windows that it was not fitted on.

    Parameters
    ----------
    student : Forecaster
        As it was while the held-out windows were held out.
    fitted : Forecaster
        As it is: looked at for steps beyond those that are held out, of which the teacher knows.
    plans : sequence of SeriesPlan
    validation : sequence of PreparedSeries, optional
        By default the windows that the plans hold out; where nothing is held out, those that
        were fitted on.
    settings : Settings
        With ``calibrate`` false, the truth is left out where the teacher has quantiles, or the
        student forecasts some.
    horizon : int
        Steps held out, 0 for none.
    labeller : Labeller, optional
        Whose quantiles are pooled, if it knows any.

    Returns
    -------
    ErrorQuantiles
    """
    has_heads = len(settings.head_levels) > 1
    levels = settings.head_levels if has_heads else LEVELS
    if horizon:
        chosen = held_out_windows(plans, validation, settings, horizon)
    else:
        chosen = [(plan.series, plan.truth) for plan in plans]
    asked: list[np.ndarray] | None = None
    if labeller is not None and len(labeller.quantile_levels) > 1:
        asked = [plan.labelled for plan in plans]
        if validation is not None and horizon:
            asked = _spare_labels(chosen, settings, labeller)
    stages = [(student, horizon)] if horizon else []
    stages += [(fitted, settings.output_chunk_length)]
    errors, distances, widths, every = _measure(stages, chosen, settings, labeller, asked)
    error_autocorrelation = _error_autocorrelation(errors, distances)
    if has_heads and not settings.calibrate:
        nothing = np.zeros((settings.output_chunk_length, len(levels)), np.float32)
        return ErrorQuantiles(nothing, levels, error_autocorrelation)
    if horizon:
        errors[:, horizon:] = np.nan
    if not settings.calibrate and np.isfinite(distances).any():
        errors = np.full_like(errors[:1], np.nan)
    n_windows = np.isfinite(errors[..., 0]).sum(axis=0) / plans[0].series.raw.shape[1]
    counts = every * n_windows / (horizon or settings.output_chunk_length)
    offsets = _pool(errors, distances, widths, counts, levels)
    offsets = _continue(offsets, settings.output_chunk_length)
    return ErrorQuantiles(offsets.astype(np.float32), levels, error_autocorrelation)


def _spare_labels(
    chosen: Sequence[tuple[PreparedSeries, np.ndarray]], settings: Settings, labeller: Labeller
) -> list[np.ndarray]:
    """Choose windows of validation series to ask the teacher for, a few and within its budget."""
    most = _MOST_ASKED
    if settings.label_budget is not None:
        most = min(most, max(0, settings.label_budget - labeller.n_labelled))
    info = labeller.teacher.info
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
    chosen: Sequence[tuple[PreparedSeries, np.ndarray]],
    settings: Settings,
    labeller: Labeller | None,
    asked: Sequence[np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return errors and distances, in units of the contexts' deviations.

    Errors (n, T, Q) of the truth from each of the student's quantiles, NaN where
    unknown; distances (m, T, Q) of the teacher's equal parts from them; and how far the
    quantiles are from the median on average (T, Q); and how many windows each that was looked at
    stands for. ``asked`` are the windows that the teacher is asked for. ``stages`` are the
    students whose steps count up to one and up to the next.
    """
    steps = settings.output_chunk_length
    length, shift = settings.input_chunk_length, settings.output_chunk_shift
    every = max(1, -(-sum(int(mask.sum()) for _, mask in chosen) // _MOST_WINDOWS))
    n_heads = len(settings.head_levels)
    errors = [np.empty((0, steps, n_heads))]
    distances = [np.empty((0, steps, n_heads))]
    widths = [np.empty((0, steps, n_heads))]
    fewer = 1
    if asked is not None:
        both = sum(int((mask & a).sum()) for (_, mask), a in zip(chosen, asked, strict=True))
        fewer = max(1, both // every // _MOST_ASKED)
    for i, (series, mask) in enumerate(chosen):
        taken = np.flatnonzero(mask)[::every]
        for origins in iterate_chunks(taken, series.raw.shape[1]):
            contexts, unknown = filled_contexts(series, origins, length)
            contexts = contexts.astype(np.float64)
            truth = target_windows(series.values, origins, steps, shift)
            known = window_covariates(series, origins, length, steps, shift)
            heads = np.empty((len(origins), 0, series.raw.shape[1], n_heads))
            for student, stop in stages:
                if heads.shape[1] < stop:
                    more = student.central_forecast(contexts, known)[:, heads.shape[1] : stop]
                    heads = np.concatenate([heads, more], axis=1)
            deviation = contexts.std(axis=1)
            # A constant context says nothing about how wide errors are.
            varies = deviation > 1e-6
            if unknown is not None:
                varies &= ~unknown
            unit = np.where(varies, deviation, np.nan)[:, None, :, None]
            errors.append(_rows((truth[..., None] - heads) / unit))
            widths.append(_rows((heads - heads[..., settings.head_levels.index(0.5), None]) / unit))
            if asked is None or labeller is None:
                continue
            rows = np.flatnonzero(asked[i][origins])[::fewer]
            if len(rows):
                labels = teacher_labels(series, origins[rows], settings, labeller)
                parts = interpolate_levels(
                    np.sort(labels, axis=-1), labeller.quantile_levels, _PARTS
                )
                away = (parts[..., None] - heads[rows][..., None, :]) / unit[rows][..., None]
                distances += [_rows(away[..., part, :]) for part in range(len(_PARTS))]
    return (
        np.concatenate(errors),
        np.concatenate(distances),
        np.nan_to_num(np.concatenate([*widths, np.zeros((1, steps, n_heads))])).mean(axis=0),
        every,
    )


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
    """Return what quantiles are moved by: (steps, Q), NaN where nothing is known.

    ``counts`` (steps,) are the independent windows of truth.
    """
    n_steps, n_heads = widths.shape
    teacher_counts = _TEACHER_COUNTS if len(distances) else 0.0
    total = counts + teacher_counts
    pooled = np.concatenate([errors, distances])
    is_target = np.arange(len(pooled))[:, None] < len(errors)
    offsets = np.empty((n_steps, len(levels)))
    for head in range(n_heads):
        values = pooled[..., head]
        known = np.isfinite(values)
        n_target = np.maximum((known & is_target).sum(axis=0), 1)
        n_teacher = np.maximum((known & ~is_target).sum(axis=0), 1)
        weights = known * np.where(is_target, counts / n_target, teacher_counts / n_teacher)
        wanted = levels if n_heads == 1 else (levels[head],)
        made = _weighted_quantiles(values, weights, wanted, widths[:, head])
        offsets[:, slice(None) if n_heads == 1 else slice(head, head + 1)] = made
    median = levels.index(0.5)
    centre = offsets[:, median].copy()
    around = widths + offsets - centre[:, None] if n_heads > 1 else offsets - centre[:, None]
    wider = (_widening(total, levels) - 1.0) * around
    kept = (counts / (counts + _CENTRE_COUNTS)) * centre
    return offsets - centre[:, None] + kept[:, None] + wider


def _weighted_quantiles(
    values: np.ndarray, weights: np.ndarray, levels: Sequence[float], width: np.ndarray
) -> np.ndarray:
    """Return weighted quantiles of each column: (n, steps) -> (steps, Q).

    ``width`` (steps,) is how far what errors are measured from is from the median.
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
    """Return how much wider quantiles are that so many windows were measured on: (steps, Q).

    As those of Student's distribution are than those of the normal one.
    """
    normal = ndtri(levels)
    student = stdtrit(np.maximum(counts, 1.0)[:, None], np.asarray(levels))
    return np.where(np.abs(normal) > 1e-9, student / np.where(normal == 0, 1.0, normal), 1.0)


def _continue(offsets: np.ndarray, n_steps: int) -> np.ndarray:
    """Fill steps about which nothing is known: as the one before, growing with its root."""
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
