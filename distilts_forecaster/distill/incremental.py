"""Warm starts: sums over blocks of windows, kept for the next fit of series that have grown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distilts_forecaster.windows.source import PreparedSeries, prepare_series

__all__ = ["BLOCK", "WarmStart"]

#: Origins of a block. Blocks begin at multiples of it, so all but the last stay the same when a
#: series grows; 4,096 windows of 512 steps are two megabytes of sums for each matrix.
BLOCK = 4096

#: A series is scaled as in the first fit until its std changes by this factor, or its mean by as
#: many stds.
_MOST_CHANGE = 2.0


class WarmStart:
    """Sums over blocks of windows by content, and the scales that they were made with.

    The sums of a block depend on its windows, their labels, and the series' mean and standard
    deviation, which change with every value. So mean and standard deviation of the first fit are
    kept: they only weigh windows against each other.
    """

    def __init__(self) -> None:
        self._blocks: dict[bytes, Any] = {}
        self._fresh: dict[bytes, Any] = {}
        self._scales: list[tuple[np.ndarray, np.ndarray]] = []

    def prepare(self, values: Sequence[np.ndarray]) -> list[PreparedSeries]:
        """Prepare series (n_points, C) at the scales of the first fit, and in its order."""
        prepared = [prepare_series(array) for array in values]
        if [s.shape for s, _ in self._scales] == [one.location.shape for one in prepared]:
            for i, (one, (location, std)) in enumerate(zip(prepared, self._scales, strict=True)):
                change = np.abs(np.log(one.std / std))
                moved = np.abs(one.location - location) / std
                if change.max() < np.log(_MOST_CHANGE) and moved.max() < _MOST_CHANGE:
                    prepared[i] = prepare_series(values[i], (location, std))
        self._scales = [(one.location, one.std) for one in prepared]
        return prepared

    def __reduce__(self) -> tuple[type[WarmStart], tuple[()]]:
        """Copy and pickle an empty one: the sums only save time."""
        return WarmStart, ()

    def recall(self, content: Sequence[Any], make: Callable[[], Any]) -> Any:
        """Return what was made of this content before, or make it now.

        Arrays count by their bytes, other objects by their description.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in content:
            if isinstance(part, np.ndarray):
                digest.update(repr(part.shape).encode())
                digest.update(np.ascontiguousarray(part).data)
            else:
                digest.update(repr(part).encode())
        key = digest.digest()
        if key not in self._blocks:
            self._blocks[key] = make()
        self._fresh[key] = self._blocks[key]
        return self._blocks[key]

    def tidy(self) -> None:
        """Forget blocks that were not recalled since the last call."""
        self._blocks, self._fresh = self._fresh, {}
