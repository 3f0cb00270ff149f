"""Fit what covariates add to a linear student: least squares of what it misses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.windows.cutting import (
    PreparedSeries,
    filled_contexts,
    iterate_chunks,
    target_windows,
    window_covariates,
)

__all__ = ["choose_penalty", "covariate_scale", "fit_effects"]

#: Windows that effects are fitted to, evenly spread.
_MOST_WINDOWS = 2000

#: Strengths of the ridge penalty tried, relative to the mean power of the features; infinity is
#: no effect: a covariate can be useless.
_PENALTIES = (1e-3, 1e-1, 1.0, 10.0, np.inf)

#: How strongly the effects of single steps are drawn to that of all: one tenth of a step's own
#: truth. On vic_electricity the error is 1 % lower than with one effect for all steps.
_SHARING = 0.1

#: Fewer different values than these have one slope.
_FEWEST_VALUES = 8

#: Series with their windows to use: bool by origin.
Windows = Sequence[tuple[PreparedSeries, np.ndarray]]


def covariate_scale(covariates: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return mean and standard deviation of each covariate over all series.

    Parameters
    ----------
    covariates : sequence of numpy.ndarray, shape (n, P), or None

    Returns
    -------
    numpy.ndarray of float64, shape (2, P), or None

    Examples
    --------
    >>> covariate_scale([np.array([[1.0], [3.0]])])
    array([[2.],
           [1.]])
    """
    arrays = [array for array in covariates if array is not None]
    if not arrays:
        return None
    values = np.concatenate(arrays).astype(np.float64)
    std = values.std(axis=0)
    return np.stack([values.mean(axis=0), np.where(std > 0, std, 1.0)])


def fit_effects(
    student: LinearForecaster, windows: Windows, horizon: int, penalty: float
) -> LinearForecaster:
    """Fit the effects of covariates to what a student misses without them.

    Parameters
    ----------
    student : LinearForecaster
        Fitted without covariates.
    windows : sequence of tuple
        PreparedSeries and the windows to use.
    horizon : int
        Steps whose truth may be looked at.
    penalty : float
        Of the ridge; infinity leaves the covariates without effect.

    Returns
    -------
    LinearForecaster
        With ``effects``, for all of its steps.
    """
    series = [one for one, _ in windows]
    scales = {
        f"{kind}_scale": covariate_scale([getattr(one, kind) for one in series])
        for kind in ("past", "future", "static")
    }
    knots = _knots(series, scales["future_scale"])
    steps = student.output_chunk_length
    effects = Effects(np.zeros((1, steps, 1), np.float32), knots=knots, **scales)
    n_components = series[0].raw.shape[1]
    gram, cross = np.empty(0), np.empty(0)
    for features, missed in _misses(student, effects, windows, horizon):
        if not gram.size:
            n_features = features.shape[3]
            gram = np.zeros((n_components, horizon, n_features, n_features))
            cross = np.zeros((n_components, horizon, n_features))
        known = np.isfinite(missed)
        missed = np.where(known, missed, 0.0)
        features = np.where(known[..., None], features, 0.0)
        gram += np.einsum("ntcb,ntcd->ctbd", features, features, optimize=True)
        cross += np.einsum("ntcb,ntc->ctb", features, missed, optimize=True)
    weights = np.zeros((n_components, steps, gram.shape[-1]))
    if np.isfinite(penalty):
        for component in range(n_components):
            weights[component] = _solve(gram[component], cross[component], penalty, steps)
    return replace(student, effects=replace(effects, weights=weights.astype(np.float32)))


def choose_penalty(
    student: LinearForecaster, windows: Windows, held_out: Windows, horizon: int
) -> tuple[float, float]:
    """Return the penalty whose effects have the smallest error on held-out windows, and it.

    Parameters
    ----------
    student : LinearForecaster
        Fitted to ``windows``, without covariates.
    windows, held_out : sequence of tuple
        PreparedSeries and the windows to use.
    horizon : int
        Steps whose truth may be looked at.

    Returns
    -------
    penalty, error : float
        Mean squared error in units of each series' variance.
    """
    errors = []
    for penalty in _PENALTIES:
        fitted = fit_effects(student, windows, horizon, penalty)
        assert fitted.effects is not None
        total, n_known = 0.0, 0
        for features, missed in _misses(student, fitted.effects, held_out, horizon):
            explained = np.einsum(
                "ntcb,ctb->ntc", features, fitted.effects.weights[:, :horizon], optimize=True
            )
            total += float(np.nansum((missed - explained) ** 2))
            n_known += int(np.isfinite(missed).sum())
        errors.append(total / max(n_known, 1))
    best = int(np.argmin(errors))
    return _PENALTIES[best], errors[best]


def _misses(
    student: LinearForecaster, effects: Effects, windows: Windows, horizon: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield features times the deviation (n, horizon, C, B), and what is missed (n, horizon, C)."""
    length, shift = student.input_chunk_length, student.output_chunk_shift
    steps = student.output_chunk_length
    every = max(1, -(-sum(int(mask.sum()) for _, mask in windows) // _MOST_WINDOWS))
    alone = replace(student, effects=None, error_quantiles=None)
    for series, mask in windows:
        for origins in iterate_chunks(np.flatnonzero(mask)[::every], series.raw.shape[1], 1024):
            contexts, unknown = filled_contexts(series, origins, length)
            truth = target_windows(series.values, origins, horizon, shift)
            missed = truth - alone.predict(contexts, horizon)
            if unknown is not None:
                missed = np.where(unknown[:, None], np.nan, missed)
            covariates = window_covariates(series, origins, length, steps, shift)
            features = effects.features(covariates, student.matrix)[:, :horizon]
            deviation = contexts.std(axis=1, dtype=np.float64)
            yield features * deviation[:, None, :, None], missed


def _solve(gram: np.ndarray, cross: np.ndarray, penalty: float, n_steps: int) -> np.ndarray:
    """Solve one effect for all steps, then each step's own, drawn to it: (n_steps, B)."""
    n_features = gram.shape[-1]
    identity = np.eye(n_features)
    total = gram.sum(axis=0)
    power = max(float(np.trace(total)) / n_features, 1e-12)
    shared = np.linalg.solve(total + penalty * power * identity, cross.sum(axis=0))
    strength = (_SHARING + penalty) * power / len(gram)
    own = np.linalg.solve(gram + strength * identity, (cross + strength * shared)[..., None])[
        ..., 0
    ]
    beyond = np.repeat(shared[None], n_steps - len(own), axis=0)
    return np.concatenate([own, beyond])


def _knots(series: Sequence[PreparedSeries], scale: np.ndarray | None) -> np.ndarray | None:
    """Return where the slopes of future covariates change: at their quartiles."""
    if scale is None:
        return None
    values = np.concatenate([one.future for one in series if one.future is not None])
    values = (values - scale[0]) / scale[1]
    knots = np.quantile(values, [0.25, 0.5, 0.75], axis=0).T
    few = np.array([len(np.unique(column)) < _FEWEST_VALUES for column in values.T])
    return np.where(few[:, None], np.nan, knots)
