"""Windows for students that are trained by gradient: what is known of each, batch by batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distilts_forecaster.runtime.covariates import KINDS, Covariates, CovariateScales
from distilts_forecaster.windows.scaling import SOFTNESS, centre
from distilts_forecaster.windows.source import Chunks, WindowSource

__all__ = ["Batch", "TeacherArray", "TeacherRows", "TrainingWindows", "WindowSets"]

#: Teacher arrays up to this size are kept in memory, larger ones in a temporary file.
_MOST_IN_MEMORY = 256 * 2**20


@dataclass(frozen=True)
class Batch:
    """Some windows, on the scale that a network sees.

    Attributes
    ----------
    context : shape (B, L, C)
        Mean 0 and standard deviation 1 over each window and component.
    ratio : shape (B, 1, C)
        Factor from the network's forecast to the scale of errors: the window's standard deviation
        over ``soft_std``.
    soft_std : shape (B, 1, C)
        The softened standard deviation over :data:`~distilts_forecaster.windows.scaling.SOFTNESS`,
        in units of the series' own.
    target, labels : shape (B, T, C) and (B, T, C, Q)
        On the scale of errors; NaN where unknown, and where the teacher was not asked.
    hidden : shape (B, C or 1, P, D)
        The teacher's hidden states, each of the D numbers standardised over all windows; NaN
        likewise.
    weight : shape (B,)
        How much each window's target counts; of mean one over all windows.
    """

    context: np.ndarray
    ratio: np.ndarray
    soft_std: np.ndarray
    target: np.ndarray
    labels: np.ndarray | None
    hidden: np.ndarray | None
    covariates: Covariates
    weight: np.ndarray


class TeacherArray:
    """A teacher's answers by series and origin, in memory or in a temporary file.

    >>> array = TeacherArray(3)
    >>> array.append(0, np.array([7, 9]), np.ones((2, 4), dtype=np.float32))
    >>> array.append(1, np.array([7]), np.zeros((1, 4), dtype=np.float32))
    >>> array.places(np.array([0, 1, 1]), np.array([9, 7, 8]))
    array([ 1,  2, -1], dtype=int32)
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self._filled = 0
        self._rows: np.ndarray | None = None
        self._keys: list[np.ndarray] = []

    def append(self, owner: int, origins: np.ndarray, rows: np.ndarray) -> None:
        """Add answers (n, ...) for windows of one series; the first say what shape all have."""
        if self._rows is None:
            shape = (self.n_rows, *rows.shape[1:])
            if int(np.prod(shape)) * rows.itemsize <= _MOST_IN_MEMORY:
                self._rows = np.empty(shape, rows.dtype)
            else:
                # The file goes when the last map of it does.
                file = tempfile.TemporaryFile(prefix="distilts-")  # noqa: SIM115
                self._rows = np.memmap(file, rows.dtype, "w+", shape=shape)
        self._rows[self._filled : self._filled + len(rows)] = rows
        self._keys.append(_key(owner, origins))
        self._filled += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """All rows, in the order they were added."""
        assert self._rows is not None
        return self._rows[: self._filled]

    def same_windows(self, other: TeacherArray) -> bool:
        """Say whether the rows of another array are of the same windows, in the same order."""
        mine, theirs = (np.concatenate(one._keys) for one in (self, other))
        return np.array_equal(mine, theirs)

    def places(self, owner: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Return the row of each window, -1 where the teacher was not asked."""
        known = np.concatenate([*self._keys, np.empty(0, np.int64)])
        order = np.argsort(known)
        wanted = _key(owner, origins)
        at = np.searchsorted(known, wanted, sorter=order).clip(0, max(len(known) - 1, 0))
        found = known[order[at]] == wanted if len(known) else np.zeros(len(wanted), bool)
        return np.where(found, order[at] if len(known) else -1, -1).astype(np.int32)


@dataclass(frozen=True)
class TeacherRows:
    """What a teacher says of the windows that it was asked for.

    ``labels`` (M, T, C, Q) are standardised as the series; ``hidden`` (M, C or 1, P, D) is float16,
    with mean and standard deviation (D,).
    """

    labels: np.ndarray
    hidden: np.ndarray | None = None
    hidden_mean: np.ndarray | None = None
    hidden_std: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingWindows:
    """Windows of several series by number, cut when a batch of them is asked for.

    Attributes
    ----------
    owner, origins : shape (N,)
        Which source each window is of, and where.
    label_row : shape (N,)
        Row in ``teacher``, -1 where the teacher was not asked.
    n_target_steps
        Steps of the target that are known and validated on; None is T.
    weight : shape (N,)
        How much the target of each window counts; None is all alike.
    """

    sources: Sequence[WindowSource]
    chunks: Chunks
    owner: np.ndarray
    origins: np.ndarray
    has_target: np.ndarray
    label_row: np.ndarray
    teacher: TeacherRows | None = None
    scales: CovariateScales = field(default_factory=CovariateScales)
    n_quantiles: int = 1
    n_target_steps: int | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.origins)

    @property
    def has_labels(self) -> np.ndarray:
        """Whether the teacher was asked for each window."""
        return self.label_row >= 0

    def subset(
        self, target: np.ndarray, labelled: np.ndarray, n_target_steps: int
    ) -> TrainingWindows:
        """Return the windows that have a target or label which may be used.

        ``target`` and ``labelled`` (N,) say whose target, and whose labels, may be used.
        """
        labelled = labelled & self.has_labels
        used = target | labelled
        return replace(
            self,
            n_target_steps=n_target_steps,
            owner=self.owner[used],
            origins=self.origins[used],
            has_target=target[used],
            label_row=np.where(labelled, self.label_row, -1)[used],
            weight=None if self.weight is None else self.weight[used],
        )

    def batch(self, chosen: np.ndarray) -> Batch:
        """Cut and normalise some windows."""
        context, target, covariates = self._cut(chosen)
        scale = centre(context, axis=1)
        soft_std = scale.soft_std / np.float32(SOFTNESS)
        context /= np.where(scale.std > 0, scale.std, 1.0)
        labels = hidden = None
        if self.teacher is not None:
            rows = self.label_row[chosen]
            labels = _gather(self.teacher.labels, rows)
            labels = (labels - scale.mean[..., None]) / soft_std[..., None]
            if self.teacher.hidden is not None:
                hidden = _gather(self.teacher.hidden, rows) - self.teacher.hidden_mean
                hidden /= self.teacher.hidden_std
        weight = np.ones(len(chosen), np.float32) if self.weight is None else self.weight[chosen]
        return Batch(
            context=context,
            ratio=scale.std / soft_std,
            soft_std=soft_std,
            target=(target - scale.mean) / soft_std,
            labels=labels,
            hidden=hidden,
            covariates=self.scales.standardise(covariates),
            weight=weight,
        )

    def _cut(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, Covariates]:
        """Cut windows out of their sources: contexts without gaps, targets, covariates."""
        length, steps = self.chunks.input_chunk_length, self.chunks.output_chunk_length
        n, components = len(chosen), self.sources[0].n_components
        context = np.empty((n, length, components), np.float32)
        target = np.full((n, steps, components), np.nan, np.float32)
        n_known = self.n_target_steps or steps
        owner, parts = self.owner[chosen], []
        groups = [np.flatnonzero(owner == one) for one in np.unique(owner)]
        for rows in groups:
            source, origins = self.sources[owner[rows[0]]], self.origins[chosen[rows]]
            context[rows], unknown = source.filled_contexts(origins, length)
            shift = self.chunks.output_chunk_shift
            target[rows, :n_known] = source.known_targets(origins, n_known, shift, unknown)
            parts.append(source.window_covariates(origins, self.chunks))
        target[~self.has_target[chosen]] = np.nan
        order = np.argsort(np.concatenate(groups))
        known = [[getattr(part, kind) for part in parts] for kind in KINDS]
        joined = (None if some[0] is None else np.concatenate(some)[order] for some in known)
        return context, target, Covariates(*joined)


@dataclass(frozen=True)
class WindowSets:
    """Windows to train on while the number of epochs is chosen, all of them, and those held out."""

    trial: TrainingWindows
    final: TrainingWindows
    held_out: TrainingWindows | None


def _key(owner: int | np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Return one number for each window of each series."""
    return np.asarray(owner, dtype=np.int64) * 2**40 + origins


def _gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows as float32, NaN for row -1."""
    found = array[np.maximum(rows, 0)].astype(np.float32)
    found[rows < 0] = np.nan
    return found
