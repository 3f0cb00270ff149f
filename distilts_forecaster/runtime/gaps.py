"""Fill missing values of contexts, the same way in fit and predict: NumPy only."""

from __future__ import annotations

import numpy as np

__all__ = ["carry_forward", "check_not_infinite", "complete", "fill_covariates", "fill_gaps"]


def check_not_infinite(values: np.ndarray, holder: str, where: str = "") -> None:
    """Raise ValueError if there are infinite values; ``holder`` is who has them, with its verb."""
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(
            f"{holder} {int(infinite.sum())} infinite values{where}: replace them, NaN means "
            "missing."
        )


def fill_gaps(windows: np.ndarray, period: int | None = None) -> np.ndarray:
    """Fill the gaps of windows, each component of each window by itself.

    Only the window's own values are used, so nothing after a context leaks into it. Gaps of up to
    a sixth of a season are interpolated in time. Longer gaps, and those at either end (a history
    shorter than the window has a gap at its start), are interpolated from the same phase of the
    seasons around: from the same hour of other days, say. Without a season they are interpolated
    in time too, and the ends continued.

    Parameters
    ----------
    windows : numpy.ndarray of float, shape (N, L, C)
        NaN means missing.
    period : int, optional
        Steps of a season.

    Returns
    -------
    numpy.ndarray, shape (N, L, C)
        Itself where nothing is missing. A component without any value stays missing.

    Examples
    --------
    >>> gap = np.array([1.0, np.nan, 3.0, np.nan, 5.0, np.nan])
    >>> fill_gaps(gap[None, :, None])[0, :, 0]
    array([1., 2., 3., 4., 5., 5.])
    >>> fill_gaps(np.array([1.0, 2.0, np.nan, np.nan])[None, :, None], period=2)[0, :, 0]
    array([1., 2., 1., 2.])
    """
    missing = np.isnan(windows)
    if not missing.any():
        return windows
    filled = windows.copy()
    window, component = np.nonzero(missing.any(axis=1))
    rows = windows[window, :, component]
    done, gaps = _interpolate(rows)
    if period is not None and 1 < period < windows.shape[1]:
        seasonal = _along_phases(rows, period)
        # A sixth of a season: four hours of a day, two months of a year. Halving or doubling
        # it changes the error on ETTh1 with half of the values missing by less than 1 %.
        use = (gaps > max(1, period // 6)) & np.isfinite(seasonal)
        done = np.where(use, seasonal, done)
    filled[window, :, component] = done
    return filled


def complete(
    windows: np.ndarray, period: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Fill the gaps of windows (N, L, C), and mark the components (N, C) without any value.

    As :func:`fill_gaps`, with zeros where nothing is known. The mask is None if there are none.

    >>> filled, unknown = complete(np.array([[[1.0, np.nan], [np.nan, np.nan]]]))
    >>> filled[0].tolist(), unknown.tolist()
    ([[1.0, 0.0], [1.0, 0.0]], [[False, True]])
    """
    filled = fill_gaps(windows, period)
    unknown = np.isnan(filled[:, 0])
    if not unknown.any():
        return filled, None
    return np.where(unknown[:, None], filled.dtype.type(0.0), filled), unknown


def _interpolate(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate rows (n, L), ends continued; return them and how long the gap of each step is.

    Steps that are observed have a gap of zero, those before the first and after the last
    observation one of L.
    """
    length = rows.shape[1]
    observed = np.isfinite(rows)
    steps = np.arange(length)
    before = np.maximum.accumulate(np.where(observed, steps, -1), axis=1)
    after = np.minimum.accumulate(np.where(observed, steps, length)[:, ::-1], axis=1)[:, ::-1]
    at_start, at_end = before < 0, after >= length
    left = np.where(at_start, np.minimum(after, length - 1), before)
    right = np.where(at_end, np.maximum(before, 0), after)
    values = [np.take_along_axis(rows, side, axis=1) for side in (left, right)]
    share = (steps - left) / np.maximum(right - left, 1)
    filled = values[0] + share * (values[1] - values[0])
    gaps = np.where(at_start | at_end, length, after - before - 1)
    return np.where(observed, rows, filled).astype(rows.dtype), np.where(observed, 0, gaps)


def _along_phases(rows: np.ndarray, period: int) -> np.ndarray:
    """Interpolate each phase of rows (n, L) from season to season, NaN where it has no value."""
    n, length = rows.shape
    n_seasons = -(-length // period)
    padded = np.full((n, n_seasons * period), np.nan, rows.dtype)
    padded[:, -length:] = rows
    phases = padded.reshape(n, n_seasons, period).transpose(0, 2, 1).reshape(-1, n_seasons)
    filled, _ = _interpolate(phases)
    filled = filled.reshape(n, period, n_seasons).transpose(0, 2, 1).reshape(n, -1)
    return filled[:, -length:]


def fill_covariates(rows: np.ndarray, known_ahead: bool) -> np.ndarray:
    """Fill the gaps of covariates: (n, P). One without any value stays missing.

    Gaps of those ``known_ahead`` of time are interpolated, and the ends continued. Otherwise the
    last value is carried forward, so that nothing leaks back; before the first one it is the first.

    >>> rows = np.array([[1.0], [np.nan], [3.0], [np.nan]])
    >>> fill_covariates(rows, known_ahead=True).ravel()
    array([1., 2., 3., 3.])
    >>> fill_covariates(rows, known_ahead=False).ravel()
    array([1., 1., 3., 3.])
    """
    if np.isfinite(rows).all():
        return rows
    if known_ahead:
        return fill_gaps(rows[None])[0]
    carried = carry_forward(rows, axis=0)
    first = np.take_along_axis(rows, np.isfinite(rows).argmax(axis=0)[None], axis=0)
    return np.where(np.isnan(carried), first, carried)


def carry_forward(values: np.ndarray, axis: int) -> np.ndarray:
    """Fill each gap with the last value before it; ``axis`` is that of time.

    >>> carry_forward(np.array([np.nan, 1.0, np.nan, 3.0]), axis=0)
    array([nan,  1.,  1.,  3.])
    """
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = np.arange(values.shape[axis]).reshape(shape)
    last = np.maximum.accumulate(np.where(np.isfinite(values), steps, 0), axis=axis)
    return np.take_along_axis(values, last, axis=axis)
