"""The effects of covariates on a linear student: least squares of its errors without them.

The sums over windows are made once; each penalty is then a few small solves, and its error on
held-out windows is a quadratic form of their sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.source import Chunks, WindowSource

__all__ = [
    "EffectSums",
    "choose_penalty",
    "empty_effects",
    "solve_effects",
    "sum_effects",
    "with_units",
]

#: Windows that effects are fitted to, evenly spaced.
_MOST_WINDOWS = 2000

#: Windows (times components) at once: features are many more numbers than contexts.
_ROWS_PER_CHUNK = 1024

#: Strengths of the ridge penalty tried, relative to the mean power of the features; infinity is
#: no effect: a covariate can be useless.
_PENALTIES = (1e-3, 1e-1, 1.0, 10.0, np.inf)

#: Weight of the penalty that draws the effect at each step towards the one effect of all steps,
#: relative to the mean power of a step's features. On vic_electricity the error is 1 % lower
#: with .1 than with one effect for all steps.
_SHARING = 0.1

#: A covariate of fewer different values has one slope.
_FEWEST_VALUES = 8

#: Sources with their windows to use: bool by origin.
Windows = Sequence[tuple[WindowSource, np.ndarray]]


@dataclass(frozen=True)
class EffectSums:
    """Sums over windows from which effects are solved, by component and step.

    ``gram`` (C, horizon, B, B) is of the features, ``cross`` (C, horizon, B) of the features with
    the student's errors, ``power`` the sum of squares of that; ``n_known`` targets are known.
    """

    gram: np.ndarray
    cross: np.ndarray
    power: float
    n_known: int

    def error(self, weights: np.ndarray) -> float:
        """Return the mean squared error with effects of some weights (C, at least horizon, B)."""
        weights = weights[:, : self.gram.shape[1]]
        explained = np.einsum("cti,ctij,ctj->", weights, self.gram, weights, optimize=True)
        total = self.power - 2.0 * float(np.vdot(weights, self.cross)) + float(explained)
        return max(total, 0.0) / max(self.n_known, 1)


def empty_effects(sources: Sequence[WindowSource], n_steps: int) -> Effects:
    """Return effects that are zero, with the scales and knots of some series' covariates."""
    scales = CovariateScales.of([source.covariates for source in sources])
    return Effects(np.zeros((1, n_steps, 1), np.float32), scales, _knots(sources, scales.future))


def with_units(effects: Effects, sources: Sequence[WindowSource]) -> tuple[Effects, Effects]:
    """Return :func:`empty_effects` with a unit and without one, the likelier first.

    The unit is the standard deviation of each component, the median of several series. One size is
    likely to fit one series, not many.
    """
    size = np.median([source.std for source in sources], axis=0)
    both = replace(effects, unit=size), replace(effects, unit=None)
    return both if len(sources) == 1 else both[::-1]


def sum_effects(
    student: LinearForecaster,
    effects: Effects,
    windows: Windows,
    horizon: int,
    weighted: bool = True,
) -> EffectSums:
    """Sum over windows what effects are solved from.

    The student is fitted without covariates, ``effects`` are :func:`empty_effects`. Targets count
    up to step ``horizon``; with ``weighted`` by the weights of their windows.
    """
    gram: np.ndarray | float = 0.0
    cross: np.ndarray | float = 0.0
    power, n_known = 0.0, 0
    for features, missed, weight in _misses(student, effects, windows, horizon):
        if weighted and weight is not None:
            root = np.sqrt(weight)[:, None, None]
            features, missed = features * root[..., None], missed * root
        known = np.isfinite(missed)
        missed = np.where(known, missed, 0.0)
        features = np.where(known[..., None], features, 0.0)
        gram = gram + np.einsum("ntcb,ntcd->ctbd", features, features, optimize=True)
        cross = cross + np.einsum("ntcb,ntc->ctb", features, missed, optimize=True)
        power += float((missed**2).sum())
        n_known += int(known.sum())
    return EffectSums(np.asarray(gram), np.asarray(cross), power, n_known)


def solve_effects(sums: EffectSums, effects: Effects, penalty: float) -> Effects:
    """Solve :func:`empty_effects` for one penalty; infinity leaves the covariates without effect.

    Steps beyond the horizon of the sums get the effect of all steps together.
    """
    n_components, _, n_features = sums.cross.shape
    n_steps = effects.weights.shape[1]
    weights = np.zeros((n_components, n_steps, n_features))
    if np.isfinite(penalty):
        for component in range(n_components):
            weights[component] = _solve(
                sums.gram[component], sums.cross[component], penalty, n_steps
            )
    return replace(effects, weights=weights.astype(np.float32))


def choose_penalty(sums: EffectSums, held_out: EffectSums, effects: Effects) -> tuple[float, float]:
    """Return the penalty with the smallest error on held-out windows, and that error.

    It is a mean squared error in units of each series' variance.
    """
    errors = [
        held_out.error(solve_effects(sums, effects, penalty).weights.astype(np.float64))
        for penalty in _PENALTIES
    ]
    best = int(np.argmin(errors))
    return _PENALTIES[best], errors[best]


def _misses(
    student: LinearForecaster, effects: Effects, windows: Windows, horizon: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield features in their units (n, horizon, C, B), errors (n, horizon, C), and weights."""
    chunks = Chunks(
        student.input_chunk_length, student.output_chunk_length, student.output_chunk_shift
    )
    every = max(1, -(-sum(int(mask.sum()) for _, mask in windows) // _MOST_WINDOWS))
    alone = replace(student, effects=None, error_quantiles=None)
    for source, mask in windows:
        taken = np.flatnonzero(mask)[::every]
        scaled = effects.divided_by(source.std)
        for origins in iterate_chunks(taken, source.n_components, _ROWS_PER_CHUNK):
            contexts, unknown = source.filled_contexts(origins, chunks.input_chunk_length)
            targets = source.known_targets(origins, horizon, chunks.output_chunk_shift, unknown)
            missed = targets - alone.predict(contexts, horizon)
            covariates = source.window_covariates(origins, chunks)
            features = effects.features(covariates, student.matrix)[:, :horizon]
            parts = [features * unit[..., None] for unit in scaled.units(contexts)]
            shape = np.broadcast_shapes(*(part.shape for part in parts))
            both = np.concatenate([np.broadcast_to(part, shape) for part in parts], axis=3)
            weight = None if source.weight is None else source.weight[origins]
            yield both, missed, weight


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


def _knots(sources: Sequence[WindowSource], scale: np.ndarray | None) -> np.ndarray | None:
    """Return where the slopes of future covariates change: at their quartiles."""
    if scale is None:
        return None
    known = [source.covariates.future for source in sources]
    values = np.concatenate([array for array in known if array is not None])
    values = (values - scale[0]) / scale[1]
    knots = np.quantile(values, [0.25, 0.5, 0.75], axis=0).T
    few = np.array([len(np.unique(column)) < _FEWEST_VALUES for column in values.T])
    return np.where(few[:, None], np.nan, knots)
