"""Windows for students that are trained by gradient: what is known of each, batch by batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilts_forecaster.runtime.gaps import complete
from distilts_forecaster.windows.cutting import SOFTNESS, PreparedSeries

__all__ = ["Batch", "TeacherArray", "TrainingWindows"]

#: Teacher arrays up to this size are kept in memory, larger ones in a temporary file.
_MOST_IN_MEMORY = 256 * 2**20


@dataclass(frozen=True)
class Batch:
    """Some windows, on the scale that a network sees.

    Attributes
    ----------
    context : numpy.ndarray of float32, shape (B, L, C)
        Mean 0 and standard deviation 1 over each window and component.
    ratio : numpy.ndarray of float32, shape (B, 1, C)
        What brings a network's forecast to the scale that errors are measured on: the
        window's standard deviation over its softened one.
    std : numpy.ndarray of float32, shape (B, 1, C)
        The softened standard deviation, in units of the series' own.
    truth : numpy.ndarray of float32, shape (B, T, C)
        On the scale of errors; NaN where unknown.
    labels : numpy.ndarray of float32, shape (B, T, C, Q), or None
        On the scale of errors; NaN where the teacher was not asked.
    hidden : numpy.ndarray of float32, shape (B, C or 1, P, D), or None
        The teacher's hidden states, each of the D numbers standardised over all windows;
        NaN where the teacher was not asked.
    past, future, static : numpy.ndarray of float32, or None
        Covariates, standardised: (B, L, P), (B, L + T, F) and (B, C, S).
    """

    context: np.ndarray
    ratio: np.ndarray
    std: np.ndarray
    truth: np.ndarray
    labels: np.ndarray | None
    hidden: np.ndarray | None
    past: np.ndarray | None
    future: np.ndarray | None
    static: np.ndarray | None


class TeacherArray:
    """Rows of a teacher's answers, in memory or in a temporary file.

    Parameters
    ----------
    n_rows : int
        Rows to come.

    Examples
    --------
    >>> array = TeacherArray(3)
    >>> array.append(np.ones((2, 4), dtype=np.float32))
    >>> array.append(np.zeros((1, 4), dtype=np.float32))
    >>> array.rows.sum(axis=1)
    array([4., 4., 0.], dtype=float32)
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self._filled = 0
        self._rows: np.ndarray | None = None

    def append(self, rows: np.ndarray) -> None:
        """Add rows; the first say what shape and type all have."""
        if self._rows is None:
            shape = (self.n_rows, *rows.shape[1:])
            if int(np.prod(shape)) * rows.itemsize <= _MOST_IN_MEMORY:
                self._rows = np.empty(shape, rows.dtype)
            else:
                # Gone when nobody maps it any more.
                file = tempfile.TemporaryFile(prefix="distilts-")  # noqa: SIM115
                self._rows = np.memmap(file, rows.dtype, "w+", shape=shape)
        self._rows[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """All rows, in the order they were added."""
        assert self._rows is not None
        return self._rows[: self._filled]


@dataclass(frozen=True)
class TrainingWindows:
    """Windows of several series by number, cut when a batch of them is asked for.

    Attributes
    ----------
    series : sequence of PreparedSeries
    input_chunk_length, output_chunk_length, output_chunk_shift : int
        L, T, and the steps between them.
    owner, origins : numpy.ndarray of int32, shape (N,)
        Which series each window is of, and where.
    has_target : numpy.ndarray of bool, shape (N,)
    label_row : numpy.ndarray of int32, shape (N,)
        Row in ``labels`` and ``hidden``, -1 where the teacher was not asked.
    labels : numpy.ndarray of float32, shape (M, T, C, Q), or None
        In units of the series' values.
    hidden : numpy.ndarray of float16, shape (M, C or 1, P, D), or None
    hidden_mean, hidden_std : numpy.ndarray of float32, shape (D,), or None
    past_scale, future_scale, static_scale : numpy.ndarray of float64, shape (2, ...), or None
        Mean and standard deviation of each covariate.
    n_quantiles : int
        Q.
    n_target_steps : int or None
        Steps of the target that are known and validated on; None is T.
    """

    series: Sequence[PreparedSeries]
    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int
    owner: np.ndarray
    origins: np.ndarray
    has_target: np.ndarray
    label_row: np.ndarray
    labels: np.ndarray | None = None
    hidden: np.ndarray | None = None
    hidden_mean: np.ndarray | None = None
    hidden_std: np.ndarray | None = None
    past_scale: np.ndarray | None = None
    future_scale: np.ndarray | None = None
    static_scale: np.ndarray | None = None
    n_quantiles: int = 1
    n_target_steps: int | None = None

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.origins)

    @property
    def has_labels(self) -> np.ndarray:
        """Whether the teacher was asked for each window."""
        return self.label_row >= 0

    def subset(
        self, truth: np.ndarray, labelled: np.ndarray, n_target_steps: int
    ) -> TrainingWindows:
        """Return the windows of which something is known when only some of it may be used.

        Parameters
        ----------
        truth, labelled : numpy.ndarray of bool, shape (N,)
            Where the truth, and where the teacher, may be used.
        n_target_steps : int
            Steps of the target that may be used.

        Returns
        -------
        TrainingWindows
        """
        labelled = labelled & self.has_labels
        used = truth | labelled
        return replace(
            self,
            n_target_steps=n_target_steps,
            owner=self.owner[used],
            origins=self.origins[used],
            has_target=truth[used],
            label_row=np.where(labelled, self.label_row, -1)[used],
        )

    def batch(self, chosen: np.ndarray) -> Batch:
        """Cut and normalise some windows.

        Parameters
        ----------
        chosen : numpy.ndarray of int, shape (B,)

        Returns
        -------
        Batch
        """
        length, steps = self.input_chunk_length, self.output_chunk_length
        n, components = len(chosen), self.series[0].raw.shape[1]
        context = np.full((n, length, components), np.nan, np.float32)
        truth = np.full((n, steps, components), np.nan, np.float32)
        past, future = self._empty_covariates(n)
        for row, window in enumerate(chosen):
            series, origin = self.series[self.owner[window]], int(self.origins[window])
            first = max(0, origin - length)  # a short series may begin later than its window
            context[row, length - (origin - first) :] = series.values[first:origin]
            start = origin + self.output_chunk_shift
            if self.has_target[window]:
                known = series.values[start : start + (self.n_target_steps or steps)]
                truth[row, : len(known)] = known
            if past is not None and series.past is not None:
                past[row] = _edge_padded(series.past[first:origin], length, 0)
            if future is not None and series.future is not None:
                future[row, :length] = _edge_padded(series.future[first:origin], length, 0)
                # Where fewer steps are validated on than T, the last may not be known: they
                # are not looked at either.
                known = series.future[min(start, len(series.future) - 1) : start + steps]
                future[row, length:] = _edge_padded(known, steps, 1)
        if any(series.has_gaps for series in self.series):
            context, unknown = complete(context, self.series[0].period)
            if unknown is not None:
                truth[np.broadcast_to(unknown[:, None], truth.shape)] = np.nan
        mean = context.mean(axis=1, keepdims=True)
        context -= mean
        power = np.einsum("nlc,nlc->nc", context, context)[:, None] / length
        deviation = np.sqrt(power)
        std = np.sqrt(power + SOFTNESS**2) / SOFTNESS
        context /= np.where(deviation > 0, deviation, 1.0)
        return Batch(
            context=context,
            ratio=deviation / std,
            std=std,
            truth=(truth - mean) / std,
            labels=self._labels(chosen, mean, std),
            hidden=self._hidden(chosen),
            past=_standardise(past, self.past_scale),
            future=_standardise(future, self.future_scale),
            static=_standardise(self._static(chosen), self.static_scale),
        )

    def _empty_covariates(self, n: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return arrays for the covariates of ``n`` windows, None where there are none."""
        length, first = self.input_chunk_length, self.series[0]
        past = future = None
        if first.past is not None:
            past = np.empty((n, length, first.past.shape[1]))
        if first.future is not None:
            steps = length + self.output_chunk_length
            future = np.empty((n, steps, first.future.shape[1]))
        return past, future

    def _static(self, chosen: np.ndarray) -> np.ndarray | None:
        """Return the static covariates of some windows: (n, C, S)."""
        if self.series[0].static is None:
            return None
        return np.stack([self.series[i].static for i in self.owner[chosen]])

    def _labels(self, chosen: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray | None:
        """Return the teacher's forecasts of some windows, normalised."""
        if self.labels is None:
            return None
        labels = _gather(self.labels, self.label_row[chosen])
        return (labels - mean[..., None]) / std[..., None]

    def _hidden(self, chosen: np.ndarray) -> np.ndarray | None:
        """Return the teacher's hidden states of some windows, standardised."""
        if self.hidden is None:
            return None
        return (_gather(self.hidden, self.label_row[chosen]) - self.hidden_mean) / (self.hidden_std)


def _edge_padded(rows: np.ndarray, length: int, side: int) -> np.ndarray:
    """Repeat the first (side 0) or the last row until there are ``length``."""
    short = length - len(rows)
    if not short:
        return rows
    return np.pad(rows, ((short, 0) if side == 0 else (0, short), (0, 0)), mode="edge")


def _standardise(covariates: np.ndarray | None, scale: np.ndarray | None) -> np.ndarray | None:
    """Bring covariates (B, steps, P) to mean 0 and standard deviation 1, float32."""
    if covariates is None or scale is None:
        return None
    return ((covariates - scale[0]) / scale[1]).astype(np.float32)


def _gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows as float32, NaN for row -1."""
    found = array[np.maximum(rows, 0)].astype(np.float32)
    found[rows < 0] = np.nan
    return found
