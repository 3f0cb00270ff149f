"""Covariates, and the scale on which students see them: NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["KINDS", "CovariateScales", "Covariates"]

#: Kinds of covariates, in the order in which they are given everywhere.
KINDS = ("past", "future", "static")


@dataclass(frozen=True)
class Covariates:
    """Covariates of windows, or of a whole series.

    Attributes
    ----------
    past : numpy.ndarray, shape (N, at least L, P), or None
        Known for the context only, from its first step on. Of a series: (n_points, P).
    future : numpy.ndarray, shape (N, at least L + T, F), or None
        Known for the context and for the forecast. Of a series: (at least n_points, F).
    static : numpy.ndarray, shape (N, C, S), or None
        The same at all times. Of a series: (C, S).
    """

    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return any(getattr(self, kind) is not None for kind in KINDS)

    def sizes(self) -> tuple[int, int, int]:
        """Return P, F and S."""
        return tuple(0 if c is None else c.shape[-1] for c in self.by_kind())  # type: ignore[return-value]

    def by_kind(self) -> tuple[np.ndarray | None, ...]:
        """Return past, future and static covariates."""
        return self.past, self.future, self.static

    def rows(self, chosen: slice | np.ndarray) -> Covariates:
        """Return those of some windows."""
        return Covariates(*(None if c is None else c[chosen] for c in self.by_kind()))

    def chunk(self, start: int, length: int, steps: int) -> Covariates:
        """Return the covariates of a chunk whose context begins ``start`` steps later."""
        past = None if self.past is None else self.past[:, start : start + length]
        future = None if self.future is None else self.future[:, start : start + length + steps]
        return Covariates(past, future, self.static)


@dataclass(frozen=True)
class CovariateScales:
    """Mean and standard deviation of each covariate, over all series that were fitted on.

    Attributes
    ----------
    past, future, static : numpy.ndarray of float64, shape (2, P), (2, F) and (2, S), or None
        Means, then standard deviations (1 for a covariate that never changes).
    """

    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None

    @classmethod
    def of(cls, series: Sequence[Covariates]) -> CovariateScales:
        """Measure the covariates of some whole series.

        >>> CovariateScales.of([Covariates(future=np.array([[1.0], [3.0]]))]).future
        array([[2.],
               [1.]])
        """
        return cls(*(_scale([c.by_kind()[i] for c in series]) for i in range(len(KINDS))))

    def sizes(self) -> tuple[int, int, int]:
        """Return the numbers of past, future and static covariates."""
        return tuple(0 if s is None else s.shape[1] for s in self.by_kind())  # type: ignore[return-value]

    def by_kind(self) -> tuple[np.ndarray | None, ...]:
        """Return the scales of past, future and static covariates."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def standardise(self, covariates: Covariates) -> Covariates:
        """Bring covariates to mean 0 and standard deviation 1, in float32.

        Kinds that have no scale are left out.
        """
        return Covariates(
            *(
                None if values is None or scale is None
                else ((values - scale[0]) / scale[1]).astype(np.float32)
                for values, scale in zip(covariates.by_kind(), self.by_kind(), strict=True)
            )
        )  # fmt: skip


def _scale(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return mean and standard deviation of each column over all arrays: (2, P)."""
    known = [array for array in arrays if array is not None]
    if not known:
        return None
    values = np.concatenate(known).astype(np.float64)
    std = values.std(axis=0)
    return np.stack([values.mean(axis=0), np.where(std > 0, std, 1.0)])
