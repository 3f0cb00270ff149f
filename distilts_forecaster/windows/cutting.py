"""Cut arrays into windows: NumPy alone, and nothing is copied but the windows asked for.

A *window* is named by its **origin**: the index of the first step after its context. For an
origin ``o`` the context is ``values[o - L : o]`` and the target ``values[o + shift : o + shift +
T]``, where ``L`` is ``input_chunk_length`` and ``T`` is ``output_chunk_length``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from distilts_forecaster.runtime.covariates import Covariates

__all__ = [
    "context_windows",
    "history_windows",
    "iterate_chunks",
    "target_windows",
    "window_covariates",
]

#: Rows (windows times components) gathered at once: large enough for the matrix product to run
#: at full speed, small enough for the processor's cache.
ROWS_PER_CHUNK = 4096


def context_windows(values: np.ndarray, origins: np.ndarray, input_chunk_length: int) -> np.ndarray:
    """Gather the contexts that end before some origins: (n_points, C) -> (n, L, C).

    Fastest, here and in what follows, where ``values`` are in Fortran order: the steps of a context
    then lie side by side in memory.
    """
    windows = sliding_window_view(values, input_chunk_length, axis=0)
    return windows[origins - input_chunk_length].transpose(0, 2, 1)


def history_windows(values: np.ndarray, origins: np.ndarray, length: int) -> np.ndarray:
    """Gather up to ``length`` steps before some origins, NaN before the start: (n, length, C).

    >>> history_windows(np.arange(3.0)[:, None], np.array([1, 3]), 2)[..., 0]
    array([[nan,  0.],
           [ 1.,  2.]])
    """
    short = length - int(origins.min())
    if short > 0:
        values = np.pad(values[: origins.max()], ((short, 0), (0, 0)), constant_values=np.nan)
        origins = origins + short
    return context_windows(values, origins, length)


def target_windows(
    values: np.ndarray, origins: np.ndarray, output_chunk_length: int, output_chunk_shift: int = 0
) -> np.ndarray:
    """Gather the targets that follow some origins, NaN past the end: (n, T, C).

    >>> target_windows(np.arange(3.0)[:, None], np.array([1, 2]), 2)[..., 0]
    array([[ 1.,  2.],
           [ 2., nan]])
    """
    first = int(origins.min()) + output_chunk_shift
    stop = int(origins.max()) + output_chunk_shift + output_chunk_length
    block = values[first:stop]
    beyond = stop - first - len(block)
    if beyond:
        block = np.pad(block, ((0, beyond), (0, 0)), constant_values=np.nan)
    windows = sliding_window_view(block, output_chunk_length, axis=0)
    return windows[origins + (output_chunk_shift - first)].transpose(0, 2, 1)


def window_covariates(
    series: Covariates,
    origins: np.ndarray,
    input_chunk_length: int,
    output_chunk_length: int,
    output_chunk_shift: int = 0,
    past_steps_ahead: int = 0,
) -> Covariates:
    """Gather the covariates of windows. Beyond the ends of a series its end values are repeated.

    Past are (n, L + past_steps_ahead, P), future (n, L + T, F), static (n, C, S). Past ones are
    needed beyond the context where forecasts are fed back.

    >>> calendar = Covariates(future=np.arange(5.0)[:, None])
    >>> window_covariates(calendar, np.array([1, 4]), 2, 2).future[..., 0]
    array([[0., 0., 1., 2.],
           [2., 3., 4., 4.]])
    """
    length, steps = input_chunk_length, output_chunk_length
    past = future = static = None
    if series.past is not None:
        past = _edge_windows(series.past, origins - length, length + past_steps_ahead)
    if series.future is not None:
        future = _edge_windows(series.future, origins - length, length)
        ahead = _edge_windows(series.future, origins + output_chunk_shift, steps)
        future = np.concatenate([future, ahead], axis=1)
    if series.static is not None:
        static = np.repeat(series.static[None], len(origins), axis=0)
    return Covariates(past, future, static)


def _edge_windows(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Gather rows (n, length, P) from some starts on, the first and the last row repeated."""
    first = int(starts.min())
    places = np.arange(first, int(starts.max()) + length).clip(0, len(values) - 1)
    windows = sliding_window_view(values[places], length, axis=0)
    return windows[starts - first].transpose(0, 2, 1)


def iterate_chunks(
    origins: np.ndarray, n_components: int, rows: int = ROWS_PER_CHUNK
) -> Iterator[np.ndarray]:
    """Yield the origins in runs of about ``rows`` rows (windows times components)."""
    step = max(1, rows // n_components)
    for start in range(0, len(origins), step):
        yield origins[start : start + step]
