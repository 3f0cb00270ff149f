"""What the exact student is shrunk towards where windows are few.

A ridge penalty draws weights to zero, in every direction alike. Here they are drawn to those of a
Gaussian process with the season of the history, in the metric of its covariance::

    minimise  sum_n |y_n - W' x_n|^2  +  lambda * tr((W - W0)' K (W - W0)),      W0 = K^-1 k

``K`` (L, L) is the process's covariance of a centred context, ``k`` (L, T) that of the context with
the targets. This is ridge regression of the residuals ``y - W0' x`` on other coordinates of the
context, ``B' x`` with ``B' K B = I``, so that one solver serves all priors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cholesky, solve_triangular, toeplitz

from distilts_forecaster.students.sums import RIDGE_GRID, HeldOut, WindowSums, eigenbasis
from distilts_forecaster.windows.naive import repeat_season
from distilts_forecaster.windows.source import Chunks

__all__ = ["Prior", "make_priors"]

# The process is the sum of what forecasters know of series before they see one. With 300 / 500 /
# 1,000 points of ten real sets, without any data but the season, W0 has 1.38 / 1.26 / 1.25 times
# the error of the bundled teacher; a student shrunk to zero had 1.81, 1.54 and 1.08 times as much.

#: Variances: of noise, of short-lived changes, of the season, and of its week.
_NOISE, _CHANGES, _SEASON, _WEEK = 0.1, 0.2, 0.5, 0.3

#: Variance that the level gains over a season at random; and by a trend, where there is one.
_WALK, _TREND = 0.02, 1.0

#: Steps after which short-lived changes are forgotten, and seasons after which a season is.
_CHANGES_LAST, _SEASONS_LAST = 6.0, 50.0

#: Parts of a season that differ from each other: hours of a day.
_PARTS = 24

#: A season without one changes its level as fast as if it had one of so many steps.
_NO_SEASON = 24

#: Steps of a day, for common sampling intervals: these have a week of seven.
_DAYS = (24, 48, 96, 144, 288)

#: Directions with less power than this share of the weakest penalty are left to the prior: they
#: would change the weights by a hundredth of that share.
_LEAST_POWER = 0.03

#: Most directions that windows decide on: those with most power.
_MOST_DIRECTIONS = 512


@dataclass(frozen=True)
class Prior:
    """Weights to shrink to, and the coordinates in which distances from them are equal.

    Attributes
    ----------
    name : str
        "seasonal", "trend" (the same with one), "last season", "last value" or "mean".
    weights : numpy.ndarray, shape (L, T)
        W0. A forecast is ``mean + (context - mean) @ W0``.
    basis : numpy.ndarray, shape (L, r)
        B. The solution is ``W0 + B D``, with the smallest ``D`` that explains the windows.
    power : float
        Mean power of a context's step: lambda is relative to it.
    """

    name: str
    weights: np.ndarray
    basis: np.ndarray
    power: float

    def transform(self, sums: WindowSums, like: WindowSums | None = None) -> WindowSums:
        """Return the sums of residuals, on the coordinates of the prior.

        ``like`` are the same sums as another prior transformed them: they share the coordinates.
        """
        steps = sums.cross_target.shape[2]
        return sums.residual(self.weights[:, :steps]).projected(self.basis, like)

    def transform_held_out(self, held_out: HeldOut, like: WindowSums | None = None) -> HeldOut:
        """Return the same of held-out windows."""
        steps = held_out.targets.shape[1]
        return HeldOut(
            self.transform(held_out.sums, like),
            held_out.features @ self.basis,
            held_out.targets - held_out.features @ self.weights[:, :steps],
            held_out.row_weight,
        )

    def at_steps(self, steps: slice) -> Prior:
        """Return the prior of some steps alone."""
        return replace(self, weights=self.weights[:, steps])

    def restore(self, solution: np.ndarray) -> np.ndarray:
        """Return weights (K, L, T) from a solution (K, r, T) for residuals."""
        return self.weights[:, : solution.shape[2]] + self.basis @ solution


def make_priors(chunks: Chunks, period: int | None, sums: WindowSums) -> list[Prior]:
    """Return the priors to choose from; ``sums`` say which directions the contexts have.

    Parameters
    ----------
    chunks : Chunks
    period : int or None
        Season, below L.
    sums : WindowSums
        Of all windows.

    Returns
    -------
    list of Prior
        The Gaussian process first.
    """
    length = chunks.input_chunk_length
    within, across = _covariance(chunks, period)
    pooled = sums.pooled(np.inf)
    gram = sum(
        total[0] / n
        for total, n in (
            (pooled.gram_target, pooled.n_target),
            (pooled.gram_teacher, pooled.n_teacher),
        )
        if n
    )
    # Of the windows with targets, so that a teacher does not change what lambda means.
    own = pooled.gram_target[0] / pooled.n_target if pooled.n_target else gram
    power = max(float(np.trace(own)) / length, 1e-9)
    root = cholesky(within, lower=True)
    inverse = solve_triangular(root, np.eye(length), lower=True)
    strength, rotation = eigenbasis(inverse @ gram @ inverse.T)
    kept = strength > _LEAST_POWER * RIDGE_GRID[0] * power
    kept[:-_MOST_DIRECTIONS] = False
    kept[-1] = True  # of a constant series
    basis = inverse.T @ rotation[:, kept]
    matrices = {
        "seasonal": inverse.T @ (inverse @ across),
        "trend": np.linalg.solve(*_covariance(chunks, period, _TREND)),
        "mean": np.zeros_like(across),
    }
    seasons = {"last value": 1} if period is None else {"last value": 1, "last season": period}
    for name, season in seasons.items():
        matrices[name] = _repeat(chunks, season)
    return [Prior(name, weights, basis, power) for name, weights in matrices.items()]


def _repeat(chunks: Chunks, season: int) -> np.ndarray:
    """Return the weights (L, T) of a seasonal naive forecast."""
    unit = np.eye(chunks.input_chunk_length)[:, :, None]  # the forecasts of each step alone
    steps, shift = chunks.output_chunk_length, chunks.output_chunk_shift
    return repeat_season(unit, season, steps, shift)[:, :, 0]


def _covariance(
    chunks: Chunks, period: int | None, trend: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariance of a centred context (L, L), and its covariance with targets (L, T).

    The variance of a context's step is one on average. ``trend`` is the variance of a trend over a
    season.
    """
    length, n = chunks.input_chunk_length, chunks.length
    lags = np.arange(n, dtype=np.float64)
    by_lag = _CHANGES * np.exp(-lags / _CHANGES_LAST)
    by_lag[0] += _NOISE
    if period is not None:
        by_lag += _SEASON * _season(lags, period, period / _PARTS)
        if period in _DAYS:
            by_lag += _WEEK * _season(lags, 7 * period, period / _PARTS)
    # A random walk that is zero at the end of the context.
    place = lags - (length - 1)
    walk = np.minimum(np.abs(place)[:, None], np.abs(place))
    walk[np.sign(place)[:, None] * np.sign(place) <= 0] = 0.0
    season = period or _NO_SEASON
    both = toeplitz(by_lag) + _WALK / season * walk
    both += trend * np.outer(place / season, place / season)
    # Everything is seen less the mean of the context.
    both -= both[:length].mean(axis=0)
    both -= both[:, :length].mean(axis=1, keepdims=True)
    within, across = both[:length, :length], both[:length, length + chunks.output_chunk_shift :]
    variance = max(float(np.trace(within)) / length, 1e-9)
    # A centred context has one degree of freedom less: any variance of its mean will do.
    return within / variance + 1.0 / length, across / variance


def _season(lags: np.ndarray, period: int, width: float) -> np.ndarray:
    """Return the autocorrelation of a season whose parts of ``width`` steps differ."""
    width = max(width, 1.0)
    angle = np.sin(np.pi * lags / period) / np.sin(np.pi * width / max(period, 2 * width))
    return np.exp(-(angle**2) - lags / (_SEASONS_LAST * period))
