"""One pass over all windows: teacher labels, and the sums that linear students are solved from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from distilts_forecaster.distill.incremental import BLOCK, WarmStart
from distilts_forecaster.distill.plan import (
    SeriesPlan,
    Settings,
    resolve_teacher_context,
    teacher_contexts,
    teacher_covariates,
)
from distilts_forecaster.students.linear import HeldOut, Linear, WindowSums
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import (
    NormalisedWindows,
    PreparedSeries,
    filled_contexts,
    iterate_chunks,
    normalise_contexts,
    target_windows,
    to_rows,
    usable_windows,
)

__all__ = [
    "accumulate",
    "accumulate_validation",
    "cut",
    "held_out_windows",
    "impute_targets",
    "naive_error",
    "teacher_labels",
]

#: Passes over windows with missing truth at most; see :func:`impute_targets`.
_MOST_PASSES = 10

#: Rows with missing truth that are validated on at most, evenly spread.
_MOST_PARTIAL_ROWS = 2000

#: Held-out windows, or up to twice as many, that the naive error is measured on.
_NAIVE_WINDOWS = 2000

#: Quarters, days of work, weeks, months of a year, hours of a day, half and quarter hours,
#: weeks of a year, ten minutes, hours of a week, five minutes, half hours of a week, days.
_USUAL_SEASONS = (1, 4, 5, 7, 12, 24, 48, 52, 96, 144, 168, 288, 336, 365)

#: Called with a series' index, origins and labels (n, T, C, Q) in units of its values.
OnLabels = Callable[[int, np.ndarray, np.ndarray], object]


def accumulate(
    plans: Sequence[SeriesPlan],
    settings: Settings,
    labeller: Labeller | None,
    horizon: int,
    on_labels: OnLabels | None = None,
    warm: WarmStart | None = None,
) -> tuple[WindowSums, WindowSums, np.ndarray | None, float | None]:
    """Sum over all windows in one pass.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    settings : Settings
    labeller : Labeller, optional
        None: there is no teacher.
    horizon : int
        Steps validated on, 0 if nothing is held out.
    on_labels : callable, optional
        Gets the labels as they are made.
    warm : WarmStart, optional
        Where blocks of windows that were summed before are found.

    Returns
    -------
    trial, final : WindowSums
        Of the windows used while choosing, and of all.
    teacher_error : numpy.ndarray, shape (T,), or None
        The teacher's mean squared error at each step on the windows with truth.
    held_out_error : float or None
        Its mean squared error on the windows that the plans hold out, to be validated on.
    """

    def empty() -> _Totals:
        return _Totals(plans[0].series, settings, horizon)

    totals = empty()
    for index, plan in enumerate(plans):
        whole = slice(0, len(plan.truth))
        if warm is None or on_labels is not None:
            _sum_span(totals, index, plan, whole, settings, labeller, horizon, on_labels)
            continue
        for start in range(0, whole.stop, BLOCK):
            span = slice(start, min(start + BLOCK, whole.stop))

            def make(i: int = index, plan: SeriesPlan = plan, span: slice = span) -> _Totals:
                block = empty()
                _sum_span(block, i, plan, span, settings, labeller, horizon, None)
                return block

            if any(mask[span].any() for mask in plan.used):
                content = _content(plan, span, settings, labeller, horizon)
                totals.add(warm.recall(content, make))
    if warm is not None:
        warm.tidy()
    final = totals.trial + totals.other if totals.shared else totals.other
    n_errors, squared_error = totals.n_errors, totals.squared_error
    if not n_errors.any():
        return totals.trial, final, None, None
    # Steps whose truth is nowhere known: as good as the others.
    mean = squared_error.sum() / n_errors.sum()
    error_by_step = np.where(n_errors > 0, squared_error / np.maximum(n_errors, 1), mean)
    power, n_held_out = totals.held_out
    return totals.trial, final, error_by_step, power / n_held_out if n_held_out else None


class _Totals:
    """What is summed over windows."""

    def __init__(self, series: PreparedSeries, settings: Settings, horizon: int) -> None:
        steps = settings.output_chunk_length
        self.trial = _empty_sums(series, settings, horizon or steps)
        self.other = _empty_sums(series, settings, steps)
        # Where trial windows have whole targets, the rest is summed apart and added.
        self.shared = bool(horizon) and horizon == steps
        self.squared_error, self.n_errors = np.zeros(steps), np.zeros(steps)
        self.held_out = np.zeros(2)  # squared error of the teacher, and number of values

    def add(self, block: _Totals) -> None:
        """Add what was summed over other windows."""
        self.trial, self.other = self.trial + block.trial, self.other + block.other
        self.squared_error = self.squared_error + block.squared_error
        self.n_errors = self.n_errors + block.n_errors
        self.held_out = self.held_out + block.held_out


def _content(
    plan: SeriesPlan,
    span: slice,
    settings: Settings,
    labeller: Labeller | None,
    horizon: int,
) -> list[Any]:
    """Return all that the sums over a span of origins depend on."""
    series, length = plan.series, settings.input_chunk_length
    asked = None
    if labeller is not None:
        length = max(length, resolve_teacher_context(settings, labeller.teacher.info))
        weights = getattr(labeller, "step_weights", None)  # of an ensemble
        chosen = None if weights is None else weights.tobytes()
        asked = (labeller.identity, labeller.quantile_levels, length, chosen)
    rows = slice(max(0, span.start - length), span.stop + settings.target_stop)
    known = [c[rows] for c in (series.past, series.future) if c is not None]
    masks = [mask[span] for mask in (*plan.used, plan.validation)]
    shape = (settings.input_chunk_length, settings.output_chunk_length, settings.output_chunk_shift)
    described = (shape, horizon, asked, series.period, series.row_length, settings.student)
    return [described, span.start == 0, series.raw[rows], series.values[rows], *known, *masks]


def _sum_span(
    totals: _Totals,
    index: int,
    plan: SeriesPlan,
    span: slice,
    settings: Settings,
    labeller: Labeller | None,
    horizon: int,
    on_labels: OnLabels | None,
) -> None:
    """Add the windows of a span of origins."""
    series, steps = plan.series, settings.output_chunk_length
    n_components = series.raw.shape[1]
    chosen = span.start + np.flatnonzero(np.logical_or.reduce([mask[span] for mask in plan.used]))
    for origins in iterate_chunks(chosen, n_components):
        truth, labelled, trial_target, trial_labelled = (mask[origins] for mask in plan.used)
        windows, targets = cut(series, origins, settings, steps)
        labels = None
        if labeller is not None and labelled.any():
            made = teacher_labels(series, origins[labelled], settings, labeller)
            if on_labels is not None:
                on_labels(index, origins[labelled], made)
            labels = np.full_like(targets, np.nan)
            labels[np.repeat(labelled, n_components)] = to_rows(made[..., labeller.median])
            labels = windows.normalise_targets(labels)
            both = np.repeat(truth & labelled, n_components)
            error = ((labels - targets) * windows.scale).astype(np.float64)
            totals.squared_error += np.nansum(error[both] ** 2, axis=0)
            totals.n_errors += np.isfinite(error[both]).sum(axis=0)
            held_out = error[np.repeat(plan.validation[origins] & labelled, n_components), :horizon]
            totals.held_out += np.nansum(held_out**2), np.isfinite(held_out).sum()
        add = (windows.features, targets, labels, n_components)
        if horizon:
            _add(totals.trial, *add, trial_target, trial_labelled)
        if totals.shared:
            _add(totals.other, *add, truth & ~trial_target, labelled & ~trial_labelled)
        else:
            _add(totals.other, *add, truth, labelled)


def cut(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, n_steps: int
) -> tuple[NormalisedWindows, np.ndarray]:
    """Cut and normalise windows.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    settings : Settings
    n_steps : int
        Steps of the target.

    Returns
    -------
    windows : NormalisedWindows
        Their contexts, gaps filled.
    targets : numpy.ndarray of float32, shape (n * C, n_steps)
        Normalised; NaN where missing, or where nothing is known of the context.
    """
    contexts, unknown = filled_contexts(series, origins, settings.input_chunk_length)
    windows = normalise_contexts(contexts)
    targets = to_rows(target_windows(series.values, origins, n_steps, settings.output_chunk_shift))
    if unknown is not None:
        targets[unknown.reshape(-1)] = np.nan
    return windows, windows.normalise_targets(targets)


def teacher_labels(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, labeller: Labeller
) -> np.ndarray:
    """Return the teacher's forecasts, made now or before.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    settings : Settings
    labeller : Labeller

    Returns
    -------
    numpy.ndarray of float32, shape (n, T, C, Q)
        In units of ``series.values``, at the labeller's levels.
    """
    contexts = teacher_contexts(series, origins, settings, labeller.teacher.info)
    known = teacher_covariates(series, origins, settings, labeller.teacher.info)
    labels = labeller.label(contexts, known)[:, settings.output_chunk_shift :]
    location, std = series.location[:, None], series.std[:, None]
    return ((labels - location) / std).astype(np.float32)


def _add(
    sums: WindowSums,
    features: np.ndarray,
    targets: np.ndarray,
    labels: np.ndarray | None,
    n_components: int,
    truth: np.ndarray,
    labelled: np.ndarray,
) -> None:
    """Add a chunk's windows, in groups by what is known of each."""
    steps = sums.cross_target.shape[2]
    for group, with_target, with_label in (
        (truth & labelled, True, True),
        (truth & ~labelled, True, False),
        (~truth & labelled, False, True),
    ):
        if not group.any():
            continue
        rows = slice(None) if group.all() else np.repeat(group, n_components)
        sums.add(
            features[rows],
            targets[rows, :steps] if with_target else None,
            labels[rows, :steps] if with_label and labels is not None else None,
        )


def impute_targets(
    sums: WindowSums,
    plans: Sequence[SeriesPlan],
    settings: Settings,
    which: Literal["truth", "trial_target"],
    fit: Callable[[WindowSums], np.ndarray],
) -> WindowSums:
    """Make sums of windows with missing targets those of the observed targets alone.

    All steps share one Gram matrix, which is that of all windows. A missing target that is
    set to the student's own forecast has no error, so that the least-squares solution is that
    of the observed targets once it forecasts what was set: expectation maximisation. Each pass
    leaves the share that is missing of what was wrong before it, and ten are made at most:
    with half of the targets missing the weights are within 0.3 % of the solution, with four
    fifths missing within a half, and forecast no worse for it.

    Parameters
    ----------
    sums : WindowSums
        With zeros for missing targets.
    plans : sequence of SeriesPlan
    settings : Settings
    which : {"truth", "trial_target"}
        The windows that were summed.
    fit : callable
        Solves sums for weights (K, F, T).

    Returns
    -------
    WindowSums
        The same where nothing is missing.
    """
    known = sums.known_target / max(sums.n_target, 1)
    if (known == 1).all() or not sums.n_target:
        return sums
    steps = sums.cross_target.shape[2]
    observed = sums.cross_target
    imputed = sums * 1.0
    # As if what is missing were like what is not: a good start.
    imputed.cross_target = observed / np.maximum(known, 1e-3)[:, None]
    weights = fit(imputed)
    for _ in range(_MOST_PASSES):
        missing = np.zeros_like(observed)
        n_matrices = len(missing)
        for plan in plans:
            origins = np.flatnonzero(getattr(plan, which))
            if not plan.series.has_gaps:
                continue
            for part in iterate_chunks(origins, plan.series.raw.shape[1]):
                windows, targets = cut(plan.series, part, settings, steps)
                unknown = np.isnan(targets)
                partial = unknown.any(axis=1)
                for k in range(n_matrices):
                    rows = np.flatnonzero(partial[k::n_matrices]) * n_matrices + k
                    features = windows.features[rows]
                    made = features @ weights[k].astype(np.float32)
                    missing[k] += features.T @ np.where(unknown[rows], made, np.float32(0.0))
        imputed.cross_target = observed + missing
        before, weights = weights, fit(imputed)
        if np.abs(weights - before).max() <= 1e-3 * np.abs(weights).max():
            break
    return imputed


def accumulate_validation(
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> HeldOut | None:
    """Sum over the held-out windows.

    Windows count in the series' own units, not divided by their scale: what is
    validated is the standardised error that a user would look at.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    validation : sequence of PreparedSeries, optional
        By default the windows that the plans hold out.
    settings : Settings
    horizon : int
        Steps validated on.

    Returns
    -------
    HeldOut or None
        None if nothing is held out.
    """
    if not horizon:
        return None
    sums = _empty_sums(plans[0].series, settings, horizon)
    n_matrices = len(sums.gram_target)
    features = [np.empty((0, settings.input_chunk_length), np.float32)]
    partial = [np.empty((0, horizon), np.float32)]
    n_partial = 0
    held_out = held_out_windows(plans, validation, settings, horizon)
    n_rows = sum(int(mask.sum()) * series.raw.shape[1] for series, mask in held_out)
    every = max(1, n_rows // _MOST_PARTIAL_ROWS)
    for series, mask in held_out:
        for origins in iterate_chunks(np.flatnonzero(mask), series.raw.shape[1]):
            windows, targets = cut(series, origins, settings, horizon)
            rows, targets = windows.features * windows.scale, targets * windows.scale
            whole = np.isfinite(targets).all(axis=1)
            whole = np.repeat(whole.reshape(-1, n_matrices).all(axis=1), n_matrices)
            sums.add(rows[whole], truth=targets[whole])
            n_partial += int((~whole).sum())
            # Rows of all matrices together.
            groups = np.flatnonzero(~whole[::n_matrices])
            groups = groups[::every]
            chosen = (groups[:, None] * n_matrices + np.arange(n_matrices)).ravel()
            features.append(rows[chosen])
            partial.append(targets[chosen])
    kept = np.concatenate(partial)
    weight = n_partial / len(kept) if len(kept) else 1.0
    found = HeldOut(sums, np.concatenate(features), kept, weight)
    return found if found.n_rows else None


def held_out_windows(
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> list[tuple[PreparedSeries, np.ndarray]]:
    """Return the series that are validated on, with their windows by origin.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    validation : sequence of PreparedSeries, optional
        By default the windows that the plans hold out.
    settings : Settings
    horizon : int
        Steps validated on.

    Returns
    -------
    list of tuple
        PreparedSeries, and an array of bool, shape (n_points + 1,).
    """
    if validation is None:
        return [(plan.series, plan.validation) for plan in plans]
    length, shift = settings.input_chunk_length, settings.output_chunk_shift
    return [(s, usable_windows(s, length, shift + horizon, shift)) for s in validation]


def naive_error(
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> tuple[float | None, int | None]:
    """Return the error of naive forecasts on held-out windows.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    validation : sequence of PreparedSeries, optional
    settings : Settings
    horizon : int
        Steps held out.

    Returns
    -------
    error : float or None
        Of repeating the last value or the last season of a usual length, whichever has the
        smallest. Mean squared error in units of each series' variance, of at most some thousand
        windows, evenly spread; None where nothing is held out.
    season : int or None
        Steps that are repeated.
    """
    length, shift = settings.input_chunk_length, settings.output_chunk_shift
    chosen = held_out_windows(plans, validation, settings, horizon) if horizon else []
    every = max(1, sum(int(mask.sum()) for _, mask in chosen) // _NAIVE_WINDOWS)
    lags = [lag for lag in _USUAL_SEASONS if lag <= length]
    totals, count = np.zeros(len(lags)), 0
    for series, mask in chosen:
        for origins in iterate_chunks(np.flatnonzero(mask)[::every], series.raw.shape[1]):
            contexts, unknown = filled_contexts(series, origins, length)
            truth = target_windows(series.values, origins, horizon, shift).astype(np.float64)
            if unknown is not None:
                truth[np.repeat(unknown[:, None], horizon, axis=1)] = np.nan
            for i, lag in enumerate(lags):
                places = length - lag + (np.arange(horizon) + shift) % lag
                totals[i] += np.nansum((contexts[:, places] - truth) ** 2)
            count += int(np.isfinite(truth).sum())
    best = int(np.argmin(totals))
    return (float(totals[best]) / count, lags[best]) if count else (None, None)


def _empty_sums(series: PreparedSeries, settings: Settings, n_outputs: int) -> WindowSums:
    """Return sums of the right shape."""
    student = settings.student
    per_component = isinstance(student, Linear) and student.per_component
    n_matrices = series.raw.shape[1] if per_component else 1
    return WindowSums(n_matrices, settings.input_chunk_length, n_outputs)
