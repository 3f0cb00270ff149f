"""One pass over all windows: teacher labels, and the sums that linear students are solved from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from distilts_forecaster.labels import Labeller
from distilts_forecaster.plan import SeriesPlan, Settings, resolve_teacher_context
from distilts_forecaster.students.linear import Linear, WindowSums
from distilts_forecaster.windows import (
    PreparedSeries,
    complete_windows,
    context_windows,
    history_windows,
    iterate_chunks,
    normalise_contexts,
    target_windows,
    to_rows,
)

__all__ = ["accumulate", "accumulate_validation"]


#: Called with a series' index, origins and labels (n, T, C, Q) in units of its values.
OnLabels = Callable[[int, np.ndarray, np.ndarray], object]


def accumulate(
    plans: Sequence[SeriesPlan],
    settings: Settings,
    labeller: Labeller | None,
    horizon: int,
    on_labels: OnLabels | None = None,
) -> tuple[WindowSums, WindowSums, np.ndarray | None]:
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

    Returns
    -------
    trial, final : WindowSums
        Of the windows used while choosing, and of all.
    teacher_error : numpy.ndarray, shape (T,), or None
        The teacher's mean squared error at each step on the windows with truth.
    """
    steps = settings.output_chunk_length
    trial, other = (_empty_sums(plans[0].series, settings, n) for n in (horizon or steps, steps))
    # Where trial windows have whole targets, the rest is summed apart and added.
    shared = trial.cross_truth.shape == other.cross_truth.shape
    squared_error, n_errors = np.zeros(steps), 0
    for index, plan in enumerate(plans):
        series = plan.series
        used = (plan.truth, plan.labelled, plan.trial_truth, plan.trial_labelled)
        for origins in iterate_chunks(
            np.flatnonzero(np.logical_or.reduce(used)), series.raw.shape[1]
        ):
            truth, labelled, trial_truth, trial_labelled = (mask[origins] for mask in used)
            contexts = context_windows(series.values, origins, settings.input_chunk_length)
            windows = normalise_contexts(contexts)
            targets = windows.normalise_targets(
                to_rows(target_windows(series.values, origins, steps, settings.output_chunk_shift))
            )
            labels = None
            if labeller is not None and labelled.any():
                made = _labels(series, origins[labelled], settings, labeller)
                if on_labels is not None:
                    on_labels(index, origins[labelled], made)
                labels = np.full_like(targets, np.nan)
                mask = np.repeat(labelled, series.raw.shape[1])
                labels[mask] = to_rows(made[..., settings.median])
                labels = windows.normalise_targets(labels)
                both = np.repeat(truth & labelled, series.raw.shape[1])
                error = ((labels - targets) * windows.scale)[both].astype(np.float64)
                squared_error += (error**2).sum(axis=0)
                n_errors += len(error)
            add = (windows.features, targets, labels, series.raw.shape[1])
            if horizon:
                _add(trial, *add, trial_truth, trial_labelled)
            if horizon and shared:
                _add(other, *add, truth & ~trial_truth, labelled & ~trial_labelled)
            else:
                _add(other, *add, truth, labelled)
    final = trial + other if horizon and shared else other
    return trial, final, squared_error / n_errors if n_errors else None


def _labels(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, labeller: Labeller
) -> np.ndarray:
    """Return the teacher's forecasts (n, T, C, Q), in units of ``series.values``."""
    history = resolve_teacher_context(settings, labeller.teacher.info)
    labels = labeller.label(history_windows(series.raw, origins, history))
    labels = labels[:, settings.output_chunk_shift :]
    location, spread = series.location[:, None], series.spread[:, None]
    return ((labels - location) / spread).astype(np.float32)


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
    steps = sums.cross_truth.shape[2]
    for group, with_truth, with_label in (
        (truth & labelled, True, True),
        (truth & ~labelled, True, False),
        (~truth & labelled, False, True),
    ):
        if not group.any():
            continue
        rows = slice(None) if group.all() else np.repeat(group, n_components)
        sums.add(
            features[rows],
            targets[rows, :steps] if with_truth else None,
            labels[rows, :steps] if with_label and labels is not None else None,
        )


def accumulate_validation(
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> WindowSums | None:
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
    WindowSums or None
        None if nothing is held out.
    """
    if not horizon:
        return None
    shift, length = settings.output_chunk_shift, settings.input_chunk_length
    held_out = (
        [(plan.series, plan.validation) for plan in plans]
        if validation is None
        else [(series, complete_windows(series, length, shift + horizon)) for series in validation]
    )
    sums = _empty_sums(plans[0].series, settings, horizon)
    for series, mask in held_out:
        for origins in iterate_chunks(np.flatnonzero(mask), series.raw.shape[1]):
            windows = normalise_contexts(context_windows(series.values, origins, length))
            targets = to_rows(target_windows(series.values, origins, horizon, shift))
            sums.add(windows.features * windows.scale, truth=targets - windows.mean)
    return sums if sums.n_truth else None


def _empty_sums(series: PreparedSeries, settings: Settings, n_outputs: int) -> WindowSums:
    """Return sums of the right shape."""
    student = settings.student
    per_component = isinstance(student, Linear) and student.per_component
    n_matrices = series.raw.shape[1] if per_component else 1
    return WindowSums(n_matrices, settings.input_chunk_length, n_outputs)
