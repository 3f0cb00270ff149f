"""Hold out the last windows of a series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distilts_forecaster.windows.source import Chunks, WindowSource

__all__ = ["Split", "split_windows"]


@dataclass(frozen=True)
class Split:
    """Which windows are fitted on and which are held out while settings are chosen.

    Attributes
    ----------
    fit_stop : int
        Windows with an origin below this have their whole target before the first held-out
        target, and may be fitted on.
    validation_start : int
        First held-out origin. A context that ends here or before holds nothing that is validated
        on, so the teacher's forecast from it may be learned from.
    horizon : int
        Steps validated on: ``T`` where the history is long enough, else fewer.
    """

    fit_stop: int
    validation_start: int
    horizon: int


def split_windows(source: WindowSource, chunks: Chunks, held_out: float = 0.2) -> Split | None:
    """Hold out the last usable windows of one series, with no target on both sides.

    A window whose target straddles the border is used by neither side. Where the history is too
    short for that at the full horizon (512 -> 96 with 700 points: 93 windows, all of whose targets
    overlap), fewer steps are validated on: the horizon is halved until a third of the windows
    remain to fit on. None where even one step cannot be split.

    >>> from distilts_forecaster.windows.source import prepare_series
    >>> split_windows(prepare_series(np.arange(1000.0)[:, None]), Chunks(512, 96))
    Split(fit_stop=731, validation_start=826, horizon=96)
    >>> split_windows(prepare_series(np.arange(700.0)[:, None]), Chunks(512, 96)).horizon
    48
    """
    horizon, shift = chunks.output_chunk_length, chunks.output_chunk_shift
    while horizon >= 1:
        mask = source.usable(chunks.input_chunk_length, shift + horizon, shift)
        origins = np.flatnonzero(mask)
        if len(origins):
            first = len(origins) - max(1, round(held_out * len(origins)))
            fit_stop = source.last_before(origins, first, horizon)
            if (origins < fit_stop).sum() >= max(1, len(origins) / 3):
                return Split(fit_stop, int(origins[first]), horizon)
        horizon //= 2
    return None
