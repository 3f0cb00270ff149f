"""Several teachers as one: their quantiles averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers.base import Teacher, TeacherForecast, TeacherInfo, ask

__all__ = ["BY_HORIZON", "Ensemble", "EnsembleTeacher", "weights_by_horizon"]

#: Weights are chosen for each step, by the members' errors on windows with a target.
BY_HORIZON = "by_horizon"

#: How strongly chosen weights shrink towards equal ones, relative to the members' mean error.
_SHRINKAGE = 0.05


@dataclass(frozen=True)
class Ensemble:
    """Teachers to average, as a user writes them.

    The label cache keeps the forecasts of each member apart: after adding a member, or changing
    weights, no teacher forecasts again what it has forecast before.

    Parameters
    ----------
    members : sequence of str, path-like, Darts model, callable or Teacher
        At least two; see :func:`~distilts_forecaster.load_teacher`.
    weights : sequence of float or "by_horizon", optional
        One for each member, scaled to a sum of one; equal by default. "by_horizon" chooses them
        for each step of the forecast, by the members' errors on the windows of ``fit`` that have
        a target.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two members, one is an ensemble itself, or the weights are not
        one finite number of at least zero for each.

    Examples
    --------
    >>> Ensemble(["bundled", "amazon/chronos-2"], weights=[1, 3]).weights
    (0.25, 0.75)
    """

    members: Sequence[Any]
    weights: Sequence[float] | str | None = None

    def __post_init__(self) -> None:
        """Check members and weights."""
        if isinstance(self.members, str) or not isinstance(self.members, Sequence):
            raise TypeError(f"members must be a list of teachers, got {self.members!r}.")
        if len(self.members) < 2:
            raise ValueError(f"An ensemble needs at least two teachers, got {self.members!r}.")
        if any(isinstance(m, (list, tuple, Ensemble)) for m in self.members):
            raise ValueError("A member of an ensemble cannot be an ensemble: list all teachers.")
        object.__setattr__(self, "members", tuple(self.members))
        if self.weights is None or (isinstance(self.weights, str) and self.weights == BY_HORIZON):
            return
        expected = f'weights must be "{BY_HORIZON}" or one number of at least 0 for each member'
        if isinstance(self.weights, str):
            raise ValueError(f"{expected}, got {self.weights!r}.")
        try:
            weights = np.array(self.weights, dtype=float)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{expected}, got {self.weights!r}.") from error
        if (
            weights.shape != (len(self.members),)
            or not np.isfinite(weights).all()
            or weights.min() < 0
            or weights.sum() == 0
        ):
            raise ValueError(f"{expected} ({len(self.members)}), got {self.weights!r}.")
        object.__setattr__(self, "weights", tuple((weights / weights.sum()).tolist()))


class EnsembleTeacher:
    """Teachers that are averaged, loaded. By horizon, weights are equal until they are chosen."""

    def __init__(
        self, teachers: Sequence[Teacher], weights: Sequence[float] | str | None = None
    ) -> None:
        self.teachers = tuple(teachers)
        self.weights = weights
        infos = [teacher.info for teacher in self.teachers]
        levels = [info.quantile_levels for info in infos]
        licences = {info.licence for info in infos}
        contexts = [info.longest_context for info in infos]
        known = [c for c in contexts if c is not None]
        self.info = TeacherInfo(
            name=" + ".join(info.name for info in infos),
            revision=(
                None
                if any(info.revision is None for info in infos)
                else " + ".join(str(info.revision) for info in infos)
            ),
            dtype=" + ".join(dict.fromkeys(info.dtype for info in infos)),
            licence=" + ".join(sorted(map(str, licences))) if licences != {None} else None,
            longest_context=max(known) if len(known) == len(contexts) else None,
            takes_missing=all(info.takes_missing for info in infos),
            takes_covariates=any(info.takes_covariates for info in infos),
            # What all of them know.
            quantile_levels=(
                None
                if any(some is None for some in levels)
                else (
                    max(some[0] for some in levels if some),
                    min(some[-1] for some in levels if some),
                )
            ),
        )

    def forecast(
        self,
        contexts: np.ndarray,
        horizon: int,
        quantile_levels: Sequence[float],
        covariates: Covariates | None = None,
    ) -> TeacherForecast:
        """Average the members' forecasts; those that take covariates are given them."""
        answers = [ask(t, contexts, horizon, quantile_levels, covariates) for t in self.teachers]
        return TeacherForecast(average([a.quantiles for a in answers], self.step_weights(horizon)))

    def step_weights(self, horizon: int) -> np.ndarray:
        """Return the weights as given, or equal ones, for each step: (horizon, K)."""
        count = len(self.teachers)
        given = self.weights
        row = np.full(count, 1 / count) if given is None or isinstance(given, str) else given
        return np.tile(np.asarray(row, dtype=np.float32), (horizon, 1))


def average(quantiles: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Average forecasts (N, T, C, Q), with weights (T, K)."""
    total = np.zeros_like(quantiles[0])
    for k, part in enumerate(quantiles):
        total += weights[:, k, None, None].astype(np.float32) * part
    return total


def weights_by_horizon(products: np.ndarray) -> np.ndarray:
    """Return the weights (T, K) of least squared error for each step.

    They are at least zero, with a sum of one; drawn a little to equal weights. ``products`` (T, K,
    K) are the mean products of the members' errors at each step.

    >>> import numpy as np
    >>> errors = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1000.0]]])
    >>> weights_by_horizon(errors).round(1)
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    from scipy.optimize import nnls

    steps, count, _ = products.shape
    weights = np.full((steps, count), 1 / count)
    for t in range(steps):
        mean = np.trace(products[t]) / count
        if not mean > 0:
            continue
        matrix = products[t] / mean + _SHRINKAGE * np.eye(count)
        # min w'Mw, w >= 0, sum w = 1: without the sum, the solution of min w'Mw - 2 sum(w),
        # scaled. As least squares: M = R'R, R'b = 1.
        root = np.linalg.cholesky(matrix).T
        found, _ = nnls(root, np.linalg.solve(root.T, np.ones(count)))
        if found.sum() > 0:
            weights[t] = found / found.sum()
    return weights
