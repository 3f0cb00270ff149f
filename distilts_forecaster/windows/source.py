"""Sources of windows: a series, or rows that are windows already.

Windows are named by origin: the index of a step in a series, or the number of a row. The windows
of a series are gathered when they are needed, never all at once, so memory does not depend on
their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from distilts_forecaster.runtime.checks import check_magnitude
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.gaps import complete
from distilts_forecaster.windows.cutting import (
    history_windows,
    target_windows,
    window_covariates,
)

__all__ = [
    "Chunks",
    "PreparedRows",
    "PreparedSeries",
    "WindowSource",
    "prepare_rows",
    "prepare_series",
    "weights_by_origin",
]

#: Share of a context that must be observed for its window to be used in fit.
LEAST_OBSERVED = 0.25


@dataclass(frozen=True)
class Chunks:
    """Shape of the windows: steps of the context, L, of the target, T, and between the two."""

    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int = 0

    @property
    def target_stop(self) -> int:
        """Steps from the end of the context to the end of the target."""
        return self.output_chunk_shift + self.output_chunk_length

    @property
    def length(self) -> int:
        """Steps of a whole window."""
        return self.input_chunk_length + self.target_stop


class WindowSource(ABC):
    """Windows of one series, or given as rows; named by their origins.

    Attributes
    ----------
    location, std : numpy.ndarray of float64, shape (C,)
        Mean and standard deviation of the observed values (1 if constant). Students are fitted
        on ``(value - location) / std``, so 1e-12 and 1e12 are equally precise.
    period : int or None
        Season by which gaps are filled.
    covariates : Covariates
        Of the whole series.
    weight : numpy.ndarray of float64, shape (n_origins,), or None
        How much each window's target counts in the fit; None is all alike.
    """

    location: np.ndarray
    std: np.ndarray
    period: int | None
    covariates: Covariates
    weight: np.ndarray | None

    @property
    def n_components(self) -> int:
        """Number of components, C."""
        return len(self.location)

    @property
    @abstractmethod
    def n_origins(self) -> int:
        """Number of origins: the length of every mask over windows."""

    @property
    @abstractmethod
    def n_points(self) -> int:
        """Number of time steps."""

    @property
    @abstractmethod
    def has_gaps(self) -> bool:
        """Whether a value is missing in some window."""

    @property
    @abstractmethod
    def raw_parts(self) -> list[np.ndarray]:
        """All values as they were given, in float32."""

    @abstractmethod
    def histories(self, most: int) -> list[np.ndarray]:
        """Return up to ``most`` stretches of values in order, standardised: each (steps, C)."""

    @property
    @abstractmethod
    def varies(self) -> np.ndarray:
        """Whether each component takes more than one value: bool, shape (C,)."""

    @abstractmethod
    def history(self, origins: np.ndarray, length: int) -> np.ndarray:
        """Return what comes before some origins, as it was given: (n, length, C).

        float32, NaN where missing and before the start: what a teacher sees.
        """

    @abstractmethod
    def contexts(self, origins: np.ndarray, input_chunk_length: int) -> np.ndarray:
        """Return contexts, standardised: (n, L, C), NaN where missing."""

    @abstractmethod
    def targets(self, origins: np.ndarray, steps: int, shift: int = 0) -> np.ndarray:
        """Return targets, standardised: (n, steps, C), NaN where missing."""

    @abstractmethod
    def usable(
        self, input_chunk_length: int, target_stop: int = 0, output_chunk_shift: int = 0
    ) -> np.ndarray:
        """Say for every origin whether enough of its window is observed: (n_origins,).

        Enough is a quarter of the context's values, and one of the target's. The target goes from
        ``output_chunk_shift`` to ``target_stop`` steps after the origin; 0 is no target.
        """

    @abstractmethod
    def count_windows(self, chunks: Chunks) -> int:
        """Return how many windows there are, missing values or not."""

    @abstractmethod
    def last_before(self, origins: np.ndarray, first: int, steps: int) -> int:
        """Return the first origin whose target overlaps with that of ``origins[first]``."""

    @abstractmethod
    def content(self, span: slice, history: int, target_stop: int) -> list[Any]:
        """Return all that the windows of a span of origins depend on."""

    def filled_contexts(
        self, origins: np.ndarray, input_chunk_length: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return contexts as a student sees them: standardised, without gaps, (n, L, C) float32.

        Components without any value in the context are zero there; the second array (n, C) says
        which, None if there are none.
        """
        contexts = self.contexts(origins, input_chunk_length)
        return complete(contexts, self.period) if self.has_gaps else (contexts, None)

    def known_targets(
        self, origins: np.ndarray, steps: int, shift: int, unknown: np.ndarray | None
    ) -> np.ndarray:
        """Return targets (n, steps, C), NaN where missing or where the context is ``unknown``."""
        targets = self.targets(origins, steps, shift)
        if unknown is not None:
            targets = np.where(unknown[:, None], np.float32(np.nan), targets)
        return targets

    def window_covariates(self, origins: np.ndarray, chunks: Chunks) -> Covariates:
        """Return the covariates of some windows."""
        return window_covariates(
            self.covariates,
            origins,
            chunks.input_chunk_length,
            chunks.output_chunk_length,
            chunks.output_chunk_shift,
        )

    def reaching_back(self, history_needed: int) -> WindowSource:
        """Return the source with contexts that may begin long before it does, where it can."""
        return self

    def without_covariates(self) -> Self:
        """Return the same values, and windows, without covariates."""
        return replace(self, covariates=Covariates())  # type: ignore[type-var]


@dataclass(frozen=True)
class PreparedSeries(WindowSource):
    """One series, checked and ready to be cut.

    Attributes
    ----------
    raw : shape (n_points, C)
        The values as given: what a teacher sees. NaN means missing.
    values : shape (n_points, C)
        ``(raw - location) / std``, computed in float64.
    observed_before : shape (n_points + 1,)
        Number of observed values before each index, all components together.
    covariates : Covariates
        Past: must cover the context of a window, or it is left out. Future: at least n_points, as
        far ahead as they are known.
    open_start, open_end : bool
        Whether windows may begin before the series, and end after it: what lies outside is missing.
        For series that would give no window, or few, otherwise.
    least_known : float or None
        Steps of a context that must be observed; None is a quarter of it.
    """

    raw: np.ndarray
    values: np.ndarray
    location: np.ndarray
    std: np.ndarray
    observed_before: np.ndarray
    covariates: Covariates = field(default_factory=Covariates)
    period: int | None = None
    open_start: bool = False
    open_end: bool = False
    least_known: float | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of time steps."""
        return len(self.raw)

    @property
    def n_origins(self) -> int:
        """Number of origins: one for each step, and one after the end."""
        return len(self.raw) + 1

    @property
    def n_points(self) -> int:
        """Number of time steps."""
        return len(self.raw)

    @property
    def has_gaps(self) -> bool:
        """Whether a value is missing, in the series or around it."""
        missing = int(self.observed_before[-1]) < self.raw.size
        return missing or self.open_start or self.open_end

    @property
    def raw_parts(self) -> list[np.ndarray]:
        """All values as they were given."""
        return [self.raw]

    def histories(self, most: int) -> list[np.ndarray]:
        """Return the values."""
        return [self.values]

    def reaching_back(self, history_needed: int) -> PreparedSeries:
        """Return the series with contexts that may begin long before it does.

        What is known of one must be a quarter of all that is known, or ``history_needed`` steps.
        """
        known = int(self.observed_before[-1]) / self.n_components
        least = min(LEAST_OBSERVED * known, history_needed)
        return replace(self, open_start=True, least_known=least)

    @property
    def varies(self) -> np.ndarray:
        """Whether each component takes more than one value."""
        return np.nanstd(self.values, axis=0) > 0

    def history(self, origins: np.ndarray, length: int) -> np.ndarray:
        """Return what comes before some origins, as it was given."""
        return history_windows(self.raw, origins, length)

    def contexts(self, origins: np.ndarray, input_chunk_length: int) -> np.ndarray:
        """Return contexts, standardised."""
        return history_windows(self.values, origins, input_chunk_length)

    def targets(self, origins: np.ndarray, steps: int, shift: int = 0) -> np.ndarray:
        """Return targets, standardised."""
        return target_windows(self.values, origins, steps, shift)

    def usable(
        self, input_chunk_length: int, target_stop: int = 0, output_chunk_shift: int = 0
    ) -> np.ndarray:
        """Say for every origin whether enough of its window is observed."""
        n, length = len(self), input_chunk_length
        usable = np.zeros(n + 1, dtype=bool)
        first, last = 1 if self.open_start else length, n - target_stop
        if self.open_end and target_stop:
            last = n - output_chunk_shift - 1
        if first <= last:
            usable[first : last + 1] = True
        if self.has_gaps and usable.any():
            origins = np.arange(n + 1)
            count = self.observed_before
            known = count - count[np.maximum(origins - length, 0)]
            least = LEAST_OBSERVED * length if self.least_known is None else self.least_known
            usable &= known >= max(1.0, least * self.n_components)
            if target_stop:
                start, stop = (
                    np.minimum(origins + steps, n) for steps in (output_chunk_shift, target_stop)
                )
                usable &= count[stop] > count[start]
        if self.covariates.past is not None:
            usable[len(self.covariates.past) + 1 :] = False
        return usable

    def count_windows(self, chunks: Chunks) -> int:
        """Return how many windows there are, missing values or not."""
        first = 1 if self.open_start else chunks.input_chunk_length
        last = len(self) - (1 if self.open_end else chunks.target_stop)
        return max(0, last - first + 1)

    def last_before(self, origins: np.ndarray, first: int, steps: int) -> int:
        """Return the first origin whose target overlaps with that of ``origins[first]``."""
        return int(origins[first]) - steps + 1

    def content(self, span: slice, history: int, target_stop: int) -> list[Any]:
        """Return all that the windows of a span of origins depend on."""
        rows = slice(max(0, span.start - history), span.stop + target_stop)
        known = [c[rows] for c in (self.covariates.past, self.covariates.future) if c is not None]
        return [span.start == 0, self.raw[rows], self.values[rows], *known]


@dataclass(frozen=True)
class PreparedRows(WindowSource):
    """Windows that were given as rows; each row is an origin.

    Contexts are (N, H, C), targets (N, T, C), which begin at the end of the context; as given, and
    standardised in float64 by the mean and standard deviation of all values together.
    """

    raw_contexts: np.ndarray
    raw_targets: np.ndarray
    scaled_contexts: np.ndarray
    scaled_targets: np.ndarray
    location: np.ndarray
    std: np.ndarray
    period: int | None = None
    covariates: Covariates = field(default_factory=Covariates)
    weight: np.ndarray | None = None

    @property
    def n_origins(self) -> int:
        """Number of rows."""
        return len(self.raw_contexts)

    @property
    def n_points(self) -> int:
        """Number of time steps, all rows together."""
        return sum(part.shape[0] * part.shape[1] for part in self.raw_parts)

    @property
    def has_gaps(self) -> bool:
        """Whether a value is missing."""
        return any(bool(np.isnan(part).any()) for part in self.raw_parts)

    @property
    def raw_parts(self) -> list[np.ndarray]:
        """All values as they were given."""
        return [self.raw_contexts, self.raw_targets]

    def histories(self, most: int) -> list[np.ndarray]:
        """Return some contexts, evenly spread."""
        return list(self.scaled_contexts[:: -(-self.n_origins // most)])

    @property
    def varies(self) -> np.ndarray:
        """Whether each component takes more than one value."""
        return np.nanstd(self.scaled_contexts, axis=(0, 1)) > 0

    def history(self, origins: np.ndarray, length: int) -> np.ndarray:
        """Return the ends of some contexts, as they were given."""
        return _last_steps(self.raw_contexts[origins], length)

    def contexts(self, origins: np.ndarray, input_chunk_length: int) -> np.ndarray:
        """Return contexts, standardised."""
        return _last_steps(self.scaled_contexts[origins], input_chunk_length)

    def targets(self, origins: np.ndarray, steps: int, shift: int = 0) -> np.ndarray:
        """Return targets, standardised."""
        return self.scaled_targets[origins, shift : shift + steps]

    def usable(
        self, input_chunk_length: int, target_stop: int = 0, output_chunk_shift: int = 0
    ) -> np.ndarray:
        """Say for every row whether enough of it is observed."""
        rows = self.history(np.arange(self.n_origins), input_chunk_length)
        known = np.isfinite(rows).sum(axis=(1, 2))
        usable = known >= max(1.0, LEAST_OBSERVED * input_chunk_length * self.n_components)
        if target_stop:
            targets = self.raw_targets[:, output_chunk_shift:target_stop]
            usable &= np.isfinite(targets).any(axis=(1, 2))
        return usable

    def count_windows(self, chunks: Chunks) -> int:
        """Return how many windows there are."""
        return self.n_origins

    def last_before(self, origins: np.ndarray, first: int, steps: int) -> int:
        """Return the first row whose target may overlap with that of ``origins[first]``.

        Rows may have been cut one step apart.
        """
        return int(origins[max(0, first - steps + 1)])

    def content(self, span: slice, history: int, target_stop: int) -> list[Any]:
        """Return all that the windows of a span of rows depend on."""
        return [self.raw_contexts[span], self.raw_targets[span], self.location, self.std]


def _last_steps(rows: np.ndarray, length: int) -> np.ndarray:
    """Return the last steps of rows (n, steps, C), NaN before their start: (n, length, C)."""
    rows = rows[:, -length:]
    short = length - rows.shape[1]
    if short > 0:
        rows = np.pad(rows, ((0, 0), (short, 0), (0, 0)), constant_values=np.nan)
    return rows


def prepare_series(
    values: np.ndarray, scale: tuple[np.ndarray, np.ndarray] | None = None
) -> PreparedSeries:
    """Standardise one series (n_points, C) for the student and keep it raw for the teacher.

    NaN means missing. ``scale`` are location and standard deviation (C,) instead of its own.
    ValueError if its values or their deviations are too large or too small for float32.

    >>> prepared = prepare_series(np.arange(10.0)[:, None])
    >>> prepared.values.shape, float(prepared.location[0])
    ((10, 1), 4.5)
    """
    raw = _in_float32(values, order="F")
    centred = np.array(values, dtype=np.float64, order="F")
    missing = ~np.isfinite(centred)
    if scale is not None:
        location, std = scale
        standardised = ((centred - location) / std).astype(np.float32, order="F")
    else:
        location, std = _measure(centred, missing)
        check_magnitude(std, "A series has standard deviations")
        standardised = centred.astype(np.float32, order="F")
        standardised[missing] = np.nan
    return PreparedSeries(raw, standardised, location, std, _count_observed(missing))


def prepare_rows(contexts: np.ndarray, targets: np.ndarray) -> PreparedRows:
    """Standardise windows that were cut elsewhere, all by the same mean and standard deviation.

    Contexts are (N, H, C), targets (N, T, C), in the order of time, if they have one: the last are
    held out. ValueError as for :func:`prepare_series`.

    >>> prepared = prepare_rows(np.ones((3, 4, 1)), np.zeros((3, 2, 1)))
    >>> prepared.usable(4, 2)
    array([ True,  True,  True])
    """
    rows = np.concatenate([contexts, targets], axis=1).astype(np.float64)
    n_steps = contexts.shape[1]
    flat = rows.reshape(-1, rows.shape[2])
    scaled, missing = flat.copy(), ~np.isfinite(flat)
    location, std = _measure(scaled, missing)
    check_magnitude(std, "The rows have standard deviations")
    scaled[missing] = np.nan
    raw, standardised = _in_float32(rows), scaled.reshape(rows.shape).astype(np.float32)
    return PreparedRows(
        raw_contexts=raw[:, :n_steps],
        raw_targets=raw[:, n_steps:],
        scaled_contexts=standardised[:, :n_steps],
        scaled_targets=standardised[:, n_steps:],
        location=location,
        std=std,
    )


def _in_float32(values: np.ndarray, order: Literal["K", "F"] = "K") -> np.ndarray:
    """Return a copy in float32, as teachers see it; or raise where that is infinite."""
    with np.errstate(over="ignore"):
        raw = np.array(values, dtype=np.float32, order=order)
    check_magnitude(raw, "A series has values")
    return raw


def _measure(values: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise float64 values (n, C) in place; return their mean and standard deviation.

    Missing values become zero.
    """
    values[missing] = 0.0
    count = np.maximum((~missing).sum(axis=0), 1)
    location = values.sum(axis=0) / count
    values -= location
    values[missing] = 0.0
    largest = np.maximum(values.max(axis=0), -values.min(axis=0))
    # What rounding leaves of a constant is not a pattern.
    constant = largest <= 8 * np.finfo(float).eps * np.abs(location)
    largest[constant] = 1.0
    # The largest distance is divided out first: squares of 1e-200 vanish.
    values /= largest
    values[:, constant] = 0.0
    std = np.sqrt(np.einsum("nc,nc->c", values, values) / count)
    std[constant] = 1.0
    values /= std
    return location, largest * std


def weights_by_origin(weights: np.ndarray, chunks: Chunks) -> np.ndarray:
    """Return the mean weight over each window's target: (n_points,) -> (n_points + 1,).

    By origin, over as many steps as there are; 0 where there is none.

    >>> weights_by_origin(np.array([0.0, 1.0, 2.0]), Chunks(1, 2))
    array([0.5, 1.5, 2. , 0. ])
    """
    n = len(weights)
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    origins = np.arange(n + 1)
    start, stop = (
        np.minimum(origins + ahead, n) for ahead in (chunks.output_chunk_shift, chunks.target_stop)
    )
    return (sums[stop] - sums[start]) / np.maximum(stop - start, 1)


def _count_observed(missing: np.ndarray) -> np.ndarray:
    """Count the observed values before each index: (n, C) -> (n + 1,)."""
    dtype = np.int32 if missing.size < 2**31 else np.int64
    counts = np.zeros(len(missing) + 1, dtype=dtype)
    np.cumsum(missing.shape[1] - missing.sum(axis=1, dtype=dtype), out=counts[1:])
    return counts
