"""The distillation objective, and its weights over the horizon.

The loss of DistilTS (Li et al., ICASSP 2026, arXiv 2601.12785) is::

    mean (y - yS)^2  +  alpha * mean_t w_t (yT_t - yS_t)^2  +  beta * alignment

with ``y`` the target, ``yT`` the teacher and ``yS`` the student, and weights
``w_t`` of mean one that grow over the horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Objective", "exponential_weights", "resolve_horizon_weights"]

HorizonWeights = float | str | Sequence[float] | Callable[[int], Sequence[float]]

#: Horizon weights by name.
NAMED_WEIGHTS = ("exponential", "linear", "uniform", "inverse_error")

#: Ways to align hidden states.
ALIGNMENTS = ("factorised", "linear", "relational")


@dataclass(frozen=True)
class Objective:
    """What a student trained by gradient minimises.

    Errors are in units of each window's softened standard deviation (see
    :mod:`~distilts_forecaster.windows.scaling`), so series of any level and scale count alike. Each
    term is a mean over the windows that it can be computed for.
    ``distillation_weight`` is alpha, ``horizon_weights`` (T,) are w_t, of mean one,
    ``alignment_weight`` is beta. With one quantile level, the target enters by its squared error;
    with several by the pinball loss of each, doubled, so that the median's is the absolute error.

    >>> import torch
    >>> objective = Objective(0.5, exponential_weights(2, 0.0))
    >>> forecast = torch.zeros(1, 2, 1, 1)
    >>> target, labels = torch.ones(1, 2, 1), 2 * torch.ones(1, 2, 1, 1)
    >>> objective.supervised(forecast, target), objective.distillation(forecast, labels)
    (tensor([1.]), tensor([4.]))
    >>> float(objective.total(1.0, 4.0))
    3.0
    """

    distillation_weight: float
    horizon_weights: np.ndarray
    alignment_weight: float = 0.0
    quantile_levels: tuple[float, ...] = (0.5,)

    def supervised(self, forecast: Tensor, target: Tensor) -> Tensor:
        """Return each window's error (B,) against its target (B, T, C), NaN where missing."""
        known = (target == target)[..., None]
        # Replaced, not multiplied: the gradient of NaN times zero is NaN.
        error = (target[..., None] - forecast).where(known, forecast.new_zeros(()))
        if len(self.quantile_levels) == 1:
            return (error**2).mean((1, 2, 3))
        levels = error.new_tensor(self.quantile_levels)
        return 2.0 * ((levels - (error < 0).to(error.dtype)) * error).mean((1, 2, 3))

    def distillation(self, forecast: Tensor, labels: Tensor) -> Tensor:
        """Return each window's weighted squared error (B,) against the teacher.

        Labels are (B, T, C, Q), or (B, T, C, 1): the median, of a teacher that knows no others.
        """
        weights = forecast.new_tensor(self.horizon_weights)
        if labels.shape[-1] < forecast.shape[-1]:
            median = self.quantile_levels.index(0.5)
            forecast = forecast[..., median : median + 1]
        return ((labels - forecast) ** 2).mean((2, 3)) @ weights / len(weights)

    def total(self, supervised: Any, distillation: Any = 0.0, alignment: Any = 0.0) -> Any:
        """Add the terms up."""
        return (
            supervised + self.distillation_weight * distillation + self.alignment_weight * alignment
        )


def exponential_weights(horizon: int, tau: float) -> np.ndarray:
    r"""Return the paper's horizon weights, of mean one: (horizon,).

    .. math:: w_t = e^{\tau t / (T - 1)} / \mathrm{mean}_j\, e^{\tau j / (T - 1)}

    A tau of 0 is uniform, the paper uses 1; below 0 the near steps weigh more.

    >>> exponential_weights(3, 1.0).round(3)
    array([0.559, 0.922, 1.519])
    >>> exponential_weights(2, 0.0)
    array([1., 1.])
    """
    exponent = tau * np.linspace(0.0, 1.0, horizon) if horizon > 1 else np.zeros(1)
    weights = np.exp(exponent - exponent.max())
    return weights / weights.mean()


def resolve_horizon_weights(
    horizon_weights: HorizonWeights, horizon: int, teacher_error: np.ndarray | None = None
) -> np.ndarray:
    """Turn any accepted form of ``horizon_weights`` into weights of mean one: (horizon,).

    A number is the paper's tau. Or: ``"exponential"`` (tau = 1), ``"linear"`` (1, 2, ... T),
    ``"uniform"`` or ``"inverse_error"`` (one over ``teacher_error`` (horizon,), the teacher's mean
    squared error at each step: it counts most where it is best; uniform where that is not known);
    or one weight for each step; or a function of the horizon that returns those. TypeError if
    weights are not numbers; ValueError if there are not ``horizon`` of them, one is negative or not
    finite, or all are zero.

    >>> resolve_horizon_weights([1, 3], 2)
    array([0.5, 1.5])
    >>> resolve_horizon_weights(lambda T: range(T), 3)
    array([0., 1., 2.])
    """
    given: Any = horizon_weights(horizon) if callable(horizon_weights) else horizon_weights
    if isinstance(given, str) and given in NAMED_WEIGHTS:
        if given == "inverse_error" and teacher_error is not None:
            # A teacher that is right to the digit at one step must not take all the weight.
            floor = max(1e-3 * float(teacher_error.mean()), np.finfo(float).tiny)
            given = 1.0 / np.maximum(teacher_error, floor)
        else:
            given = {"exponential": 1.0, "linear": np.arange(1.0, horizon + 1)}.get(given, 0.0)
    if isinstance(given, str) or given is None or isinstance(given, bool):
        kind = ValueError if isinstance(given, str) else TypeError
        raise kind(
            f"horizon_weights must be a number (tau), one of {NAMED_WEIGHTS}, {horizon} weights, "
            f"or a function that returns {horizon} weights; got {given!r}. "
            "Example: horizon_weights=1.0"
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
