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

from distilts_forecaster.runtime.effects import Covariates
from distilts_forecaster.runtime.gaps import complete

__all__ = [
    "NormalisedWindows",
    "PreparedSeries",
    "Split",
    "context_windows",
    "filled_contexts",
    "history_windows",
    "iterate_chunks",
    "normalise_contexts",
    "prepare_rows",
    "prepare_series",
    "split_windows",
    "target_windows",
    "usable_windows",
    "window_covariates",
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

#: Share of a context that must be observed for its window to be used in fit.
LEAST_OBSERVED = 0.25


@dataclass(frozen=True)
class PreparedSeries:
    """One series, checked and ready to be cut.

    Attributes
    ----------
    raw : numpy.ndarray of float32, shape (n_points, n_components)
        The values as given: what a teacher sees. NaN means missing.
    values : numpy.ndarray of float32, shape (n_points, n_components)
        ``(raw - location) / std`` in float64, then rounded: what a student is
        fitted on. Students commute with shifts and scales, so this changes
        nothing but the rounding; it keeps 1e-12 and 1e12 equally precise.
    location, std : numpy.ndarray of float64, shape (n_components,)
        Mean and standard deviation of the observed values (1 if constant).
    observed_before : numpy.ndarray of int, shape (n_points + 1,)
        Number of observed values before each index, all components together.
    past : numpy.ndarray of float64, shape (at most n_points, P), or None
        Covariates that are known for the context only. Windows whose context they do not
        reach are left out.
    future : numpy.ndarray of float64, shape (at least n_points, F), or None
        Covariates that are known for the horizon too, as far ahead as they are.
    static : numpy.ndarray of float64, shape (C, S), or None
        Covariates that are the same at all times.
    row_length : int or None
        Where windows were given instead of a series: they lie end to end, so many steps
        each, and no other window is cut.
    row_context : int or None
        Steps of each of these before its origin.
    period : int or None
        Season by which gaps are filled.
    open_start, open_end : bool
        Whether windows may begin before the series, and end after it: what is not there is
        missing. For series that would give no window, or few, otherwise.
    """

    raw: np.ndarray
    values: np.ndarray
    location: np.ndarray
    std: np.ndarray
    observed_before: np.ndarray
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None
    row_length: int | None = None
    row_context: int | None = None
    period: int | None = None
    open_start: bool = False
    open_end: bool = False

    @property
    def has_gaps(self) -> bool:
        """Whether a value is missing, in the series or around it."""
        missing = int(self.observed_before[-1]) < self.raw.size
        return missing or self.open_start or self.open_end

    def __len__(self) -> int:
        """Return the number of time steps."""
        return len(self.raw)

    @property
    def n_covariates(self) -> int:
        """Number of covariates of all kinds."""
        return sum(0 if c is None else c.shape[1] for c in (self.past, self.future, self.static))

    def count_windows(self, input_chunk_length: int, target_stop: int) -> int:
        """Return how many windows there are, missing values or not."""
        if self.row_length is not None:
            return len(self) // self.row_length
        first = 1 if self.open_start else input_chunk_length
        last = len(self) - (1 if self.open_end else target_stop)
        return max(0, last - first + 1)


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


def prepare_series(
    values: np.ndarray, scale: tuple[np.ndarray, np.ndarray] | None = None
) -> PreparedSeries:
    """Standardise one series for the student and keep it raw for the teacher.

    Parameters
    ----------
    values : numpy.ndarray, shape (n_points, n_components)
        The series; NaN means missing.
    scale : tuple of numpy.ndarray, shape (n_components,), optional
        Location and std to standardise by, instead of the series' own.

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
    if scale is not None:
        standardised = ((centred - scale[0]) / scale[1]).astype(np.float32, order="F")
        return PreparedSeries(raw, standardised, *scale, observed_before=_count_observed(missing))
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
        std=largest * deviation,
        observed_before=_count_observed(missing),
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
    >>> np.flatnonzero(usable_windows(prepared, 4, 2))
    array([ 4, 10, 16])
    """
    rows = np.concatenate([contexts, targets], axis=1)
    return replace(
        prepare_series(rows.reshape(-1, 1)),
        row_length=rows.shape[1],
        row_context=contexts.shape[1],
    )


def _count_observed(missing: np.ndarray) -> np.ndarray:
    """Count the observed values before each index: (n, C) -> (n + 1,)."""
    dtype = np.int32 if missing.size < 2**31 else np.int64
    counts = np.zeros(len(missing) + 1, dtype=dtype)
    np.cumsum(missing.shape[1] - missing.sum(axis=1, dtype=dtype), out=counts[1:])
    return counts


def usable_windows(
    series: PreparedSeries,
    input_chunk_length: int,
    target_stop: int = 0,
    output_chunk_shift: int = 0,
) -> np.ndarray:
    """Say for every origin whether enough of its window is observed.

    A quarter of the context's values, and one of the target's.

    Parameters
    ----------
    series : PreparedSeries
        The series to cut.
    input_chunk_length : int
        Length of the context.
    target_stop : int, default 0
        Steps after the origin that belong to the window (``shift + T``), or 0 for
        windows that need no target.
    output_chunk_shift : int, default 0
        Steps after the origin that the target starts at.

    Returns
    -------
    numpy.ndarray of bool, shape (n_points + 1,)
        By origin. A byte each, where a list of origins would take eight.
    """
    n, length = len(series), input_chunk_length
    usable = np.zeros(n + 1, dtype=bool)
    first, last = 1 if series.open_start else length, n - target_stop
    if series.open_end and target_stop:
        last = n - output_chunk_shift - 1
    if first <= last:
        usable[first : last + 1] = True
    if series.has_gaps and usable.any():
        origins = np.arange(n + 1)
        count = series.observed_before
        known = count - count[np.maximum(origins - length, 0)]
        usable &= known >= max(1.0, LEAST_OBSERVED * length * series.raw.shape[1])
        if target_stop:
            start, stop = (
                np.minimum(origins + steps, n) for steps in (output_chunk_shift, target_stop)
            )
            usable &= count[stop] > count[start]
    if series.past is not None:
        usable[len(series.past) + 1 :] = False
    if series.row_length is not None:
        usable &= np.arange(n + 1) % series.row_length == series.row_context
    return usable


def split_windows(
    series: PreparedSeries,
    input_chunk_length: int,
    output_chunk_length: int,
    output_chunk_shift: int = 0,
    held_out: float = 0.2,
) -> Split | None:
    """Hold out the last usable windows of one series, with no target on both sides.

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
        stop = output_chunk_shift + horizon
        origins = np.flatnonzero(
            usable_windows(series, input_chunk_length, stop, output_chunk_shift)
        )
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


def filled_contexts(
    series: PreparedSeries, origins: np.ndarray, input_chunk_length: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gather standardised contexts as a student sees them: without gaps.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    input_chunk_length : int

    Returns
    -------
    contexts : numpy.ndarray of float32, shape (n, L, C)
    unknown : numpy.ndarray of bool, shape (n, C), or None
        Components without any value in the context, which are zero there; None if there
        are none.
    """
    if not series.has_gaps:
        return context_windows(series.values, origins, input_chunk_length), None
    contexts = history_windows(series.values, origins, input_chunk_length)
    return complete(contexts, series.period)


def target_windows(
    values: np.ndarray, origins: np.ndarray, output_chunk_length: int, output_chunk_shift: int = 0
) -> np.ndarray:
    """Gather the targets that follow ``origins``: (n, T, C), NaN past the end."""
    first = int(origins.min()) + output_chunk_shift
    stop = int(origins.max()) + output_chunk_shift + output_chunk_length
    block = values[first:stop]
    beyond = stop - first - len(block)
    if beyond:
        block = np.pad(block, ((0, beyond), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(block, output_chunk_length, axis=0)
    return windows[origins + (output_chunk_shift - first)].transpose(0, 2, 1)


def window_covariates(
    series: PreparedSeries,
    origins: np.ndarray,
    input_chunk_length: int,
    output_chunk_length: int,
    output_chunk_shift: int = 0,
) -> Covariates:
    """Gather the covariates of windows, their ends repeated where they are not known.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    input_chunk_length, output_chunk_length, output_chunk_shift : int
        Shape of the windows.

    Returns
    -------
    Covariates
    """
    length, steps = input_chunk_length, output_chunk_length
    past = future = static = None
    if series.past is not None:
        known = np.pad(series.past, ((length, 0), (0, 0)), mode="edge")
        past = context_windows(known, origins + length, length)
    if series.future is not None:
        ahead = max(0, int(origins.max()) + output_chunk_shift + steps - len(series.future))
        known = np.pad(series.future, ((length, ahead), (0, 0)), mode="edge")
        after = target_windows(known, origins + length, steps, output_chunk_shift)
        future = np.concatenate([context_windows(known, origins + length, length), after], axis=1)
    if series.static is not None:
        static = np.repeat(series.static[None], len(origins), axis=0)
    return Covariates(past, future, static)


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
