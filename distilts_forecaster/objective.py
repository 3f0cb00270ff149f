"""The distillation objective: weights over the horizon.

The loss of DistilTS (Li et al., ICASSP 2026, arXiv 2601.12785) is::

    mean (y - yS)^2  +  alpha * mean_t w_t (yT_t - yS_t)^2  +  beta * alignment

with ``y`` the truth, ``yT`` the teacher and ``yS`` the student, and weights
``w_t`` of mean one that grow over the horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["exponential_weights", "resolve_horizon_weights"]

HorizonWeights = float | Sequence[float] | Callable[[int], Sequence[float]]


def exponential_weights(horizon: int, tau: float) -> np.ndarray:
    r"""Return the paper's horizon weights, of mean one.

    .. math:: w_t = e^{\tau t / (T - 1)} / \mathrm{mean}_j\, e^{\tau j / (T - 1)}

    Parameters
    ----------
    horizon : int
        Number of steps, T.
    tau : float
        Steepness. 0 is uniform, the paper uses 1; below 0 the near steps weigh more.

    Returns
    -------
    numpy.ndarray of float64, shape (horizon,)

    Examples
    --------
    >>> exponential_weights(3, 1.0).round(3)
    array([0.559, 0.922, 1.519])
    >>> exponential_weights(2, 0.0)
    array([1., 1.])
    """
    exponent = tau * np.linspace(0.0, 1.0, horizon) if horizon > 1 else np.zeros(1)
    weights = np.exp(exponent - exponent.max())
    return weights / weights.mean()


def resolve_horizon_weights(horizon_weights: HorizonWeights, horizon: int) -> np.ndarray:
    """Turn any accepted form of ``horizon_weights`` into weights of mean one.

    Parameters
    ----------
    horizon_weights : float, sequence of float, or callable
        The paper's tau; or one weight for each step; or a function of the horizon
        that returns one weight for each step.
    horizon : int
        Number of steps, T.

    Returns
    -------
    numpy.ndarray of float64, shape (horizon,)
        Weights of mean one: the strength of the distillation is set by alpha alone.

    Raises
    ------
    TypeError
        If the weights are not numbers.
    ValueError
        If there are not ``horizon`` of them, or one is negative or not finite, or
        all are zero.

    Examples
    --------
    >>> resolve_horizon_weights([1, 3], 2)
    array([0.5, 1.5])
    >>> resolve_horizon_weights(lambda T: range(T), 3)
    array([0., 1., 2.])
    """
    given = horizon_weights(horizon) if callable(horizon_weights) else horizon_weights
    if isinstance(given, str) or given is None or isinstance(given, bool):
        raise TypeError(
            f"horizon_weights must be a number (tau), {horizon} weights, or a function that "
            f"returns {horizon} weights; got {given!r}. Example: horizon_weights=1.0"
        )
    try:
        weights = np.asarray(list(given) if isinstance(given, (range, tuple)) else given, float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"horizon_weights must be numbers, got {given!r}. Example: horizon_weights=1.0"
        ) from error
    if weights.ndim == 0:
        if not np.isfinite(weights):
            raise ValueError(f"horizon_weights (tau) must be finite, got {given!r}.")
        return exponential_weights(horizon, float(weights))
    if weights.shape != (horizon,):
        raise ValueError(
            f"horizon_weights must hold one weight for each of the {horizon} steps of "
            f"output_chunk_length, got shape {weights.shape}. "
            f"Pass {horizon} weights, or a number (tau) to have them made."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        bad = int(np.flatnonzero(~np.isfinite(weights) | (weights < 0))[0])
        raise ValueError(
            f"horizon_weights must be finite and at least 0, got {weights[bad]} at step {bad}."
        )
    if weights.sum() == 0:
        raise ValueError(
            "horizon_weights are all zero; to fit without a teacher, set distillation_weight=0."
        )
    return weights / weights.mean()
