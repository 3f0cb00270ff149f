"""The second stage asks the teacher: what it sees of a window, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from distilts_forecaster.distill.plan import Plan, resolve_teacher_context
from distilts_forecaster.runtime.checks import warn_user
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.gaps import fill_gaps
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller, Progress, ignore
from distilts_forecaster.windows.batches import TeacherArray, TeacherRows
from distilts_forecaster.windows.cutting import iterate_chunks, window_covariates
from distilts_forecaster.windows.source import WindowSource

__all__ = [
    "believable",
    "progress_bar",
    "teacher_contexts",
    "teacher_covariates",
    "teacher_labels",
    "with_hidden_states",
]

#: Positions in the student's lookback at which the teacher's hidden states are aligned.
N_POSITIONS = 8

#: A forecast further from its context's mean than this many times its range is none.
_ABSURD = 100.0

#: Windows to measure the mean and std of hidden states on.
_WINDOWS_FOR_SCALE = 4096

#: Rows (windows times components) whose hidden states are asked for at once.
_ROWS_OF_HIDDEN_STATES = 256


@contextmanager
def progress_bar(what: str, n_windows: int | None, verbose: bool | None) -> Iterator[Progress]:
    """Show how far a teacher has come; yield a function to call with the number of windows done.

    ``verbose=None`` shows it on a terminal; ``n_windows=None`` is a number not known yet.
    """
    with tqdm(
        total=n_windows,
        desc=what,
        unit="window",
        disable=None if verbose is None else not verbose,
        leave=False,
    ) as bar:
        yield bar.update


def teacher_contexts(
    source: WindowSource, origins: np.ndarray, settings: Settings, info: TeacherInfo
) -> np.ndarray:
    """Return what a teacher sees of some windows: (n, history, C) float32.

    A teacher that understands missing values sees them; another one sees its contexts filled as the
    student does. A component without any value is zero.
    """
    contexts = source.history(origins, resolve_teacher_context(settings, info))
    if not np.isnan(contexts).any():
        return contexts
    if not info.takes_missing:
        contexts = fill_gaps(contexts, source.period)
    unknown = np.isnan(contexts).all(axis=1, keepdims=True)
    return np.where(unknown, np.float32(0.0), contexts)


def teacher_covariates(
    source: WindowSource, origins: np.ndarray, settings: Settings, info: TeacherInfo
) -> Covariates | None:
    """Return the covariates that a teacher sees of some windows, None where it takes none.

    Past and future ones, of the steps of :func:`teacher_contexts` and those to forecast.
    """
    if not info.takes_covariates:
        return None
    history = resolve_teacher_context(settings, info)
    known = Covariates(source.covariates.past, source.covariates.future)
    return window_covariates(known, origins, history, settings.chunks.target_stop)


def teacher_labels(
    source: WindowSource,
    origins: np.ndarray,
    settings: Settings,
    labeller: Labeller,
    progress: Progress = ignore,
) -> np.ndarray:
    """Return the teacher's forecasts (n, T, C, Q), made now or before, at the labeller's levels.

    They are on the scale that students are fitted on; see :func:`believable` for NaN.
    """
    info = labeller.teacher.info
    contexts = teacher_contexts(source, origins, settings, info)
    known = teacher_covariates(source, origins, settings, info)
    labels = labeller.label(contexts, known, progress)[:, settings.output_chunk_shift :]
    return believable(labels, contexts, source, labeller)


def believable(
    labels: np.ndarray, contexts: np.ndarray, source: WindowSource, labeller: Labeller
) -> np.ndarray:
    """Return labels (n, T, C, Q), standardised; NaN for windows where one is absurd.

    Absurd is further from the mean of what the teacher saw than a hundred times its range and the
    standard deviation of the series: one such label would outweigh all others. Warns of the first.
    """
    made = (labels.astype(np.float64) - source.location[:, None]) / source.std[:, None]
    seen = (contexts - source.location) / source.std
    centre = np.nanmean(seen, axis=1)[:, None, :, None]
    reach = np.nanmax(seen, axis=1) - np.nanmin(seen, axis=1) + 1.0
    distance = np.abs(made - centre) / reach[:, None, :, None]
    absurd = (distance > _ABSURD).any(axis=(1, 2, 3))
    if absurd.any():
        made[absurd] = np.nan
        if not labeller.n_absurd:
            worst = np.unravel_index(int(distance.argmax()), distance.shape)
            window = contexts[worst[0], :, worst[2]]
            warn_user(
                f"Teacher {labeller.teacher.info.name!r} forecasts {labels[worst]:g} after values "
                f"from {np.nanmin(window):g} to {np.nanmax(window):g}. Windows with such forecasts "
                "are left out of what the student learns."
            )
        labeller.n_absurd += int(absurd.sum())
    return made.astype(np.float32)


def with_hidden_states(
    rows: TeacherRows, kept: TeacherArray, plan: Plan, labeller: Labeller, progress: Progress
) -> TeacherRows:
    """Ask for the teacher's hidden states of all labelled windows, in the order of ``kept``."""
    settings = plan.settings
    length = settings.input_chunk_length
    n_positions = min(N_POSITIONS, length)
    # The middles of equal parts of the lookback, counted from its end.
    steps = ((np.arange(n_positions) + 0.5) * length / n_positions).astype(int) - length
    array = TeacherArray(plan.n_labels)
    for owner, (source, mask) in enumerate(plan.of("labelled")):
        for origins in iterate_chunks(
            np.flatnonzero(mask), source.n_components, _ROWS_OF_HIDDEN_STATES
        ):
            contexts = teacher_contexts(source, origins, settings, labeller.teacher.info)
            states = labeller.hidden(contexts, steps.tolist(), settings.alignment.size, progress)
            array.append(owner, origins, states)
    assert array.same_windows(kept)
    hidden = array.rows
    sample = hidden[:: max(1, len(hidden) // _WINDOWS_FOR_SCALE)].astype(np.float32)
    mean = sample.mean(axis=(0, 1, 2))
    std = sample.std(axis=(0, 1, 2))
    # A hidden feature that never changes is zeroed, not divided by rounding errors.
    std = np.where(std > 1e-4 * (np.abs(mean) + std.max()), std, np.inf)
    return TeacherRows(rows.labels, hidden, mean.astype(np.float32), std.astype(np.float32))
