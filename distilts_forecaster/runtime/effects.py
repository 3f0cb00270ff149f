"""What covariates add to the forecast of a linear student: NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["Covariates", "Effects"]


@dataclass(frozen=True)
class Covariates:
    """What is known beside the target, window by window.

    Attributes
    ----------
    past : numpy.ndarray, shape (N, at least L, P), or None
        Known for the context only, from its first step on.
    future : numpy.ndarray, shape (N, at least L + T, F), or None
        The context's, then the forecast's.
    static : numpy.ndarray, shape (N, C, S), or None
        The same at all times.
    """

    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def sizes(self) -> tuple[int, int, int]:
        """Return P, F and S."""
        return tuple(0 if c is None else c.shape[2] for c in (self.past, self.future, self.static))  # type: ignore[return-value]

    def rows(self, chosen: slice | np.ndarray) -> Covariates:
        """Return those of some windows."""
        return Covariates(
            *(None if c is None else c[chosen] for c in (self.past, self.future, self.static))
        )

    def chunk(self, start: int, length: int, steps: int) -> Covariates:
        """Return what a chunk sees whose context begins ``start`` steps later."""
        past = None if self.past is None else self.past[:, start : start + length]
        future = None if self.future is None else self.future[:, start : start + length + steps]
        return replace(self, past=past, future=future)


@dataclass(frozen=True)
class Effects:
    """A linear effect of covariates, in units of the context's deviation.

    Future covariates act by their *surprise*: how far they are at a step from what the
    student's own matrix forecasts of them. What the student expects is in its forecast
    already, as it is in the target's history. If the target is a sum of an effect and of a
    rest that the matrix forecasts, this is exact.

    Each future covariate has a slope that may change at its quartiles: demand for
    electricity rises with heat and with cold. On vic_electricity, with the temperature,
    the test error is .081 with such slopes, .136 with one slope, and .105 without a covariate.

    Past covariates act by the means of their last 1, 2, 4, ... values, static ones as they
    are.

    Attributes
    ----------
    weights : numpy.ndarray of float32, shape (C or 1, T, B)
        Of the B features of each step.
    past_scale, future_scale, static_scale : numpy.ndarray, shape (2, ...), or None
        Mean and standard deviation of the covariates that it was fitted with.
    knots : numpy.ndarray, shape (F, 3), or None
        Where slopes change, on the standardised scale; NaN for no change.
    """

    weights: np.ndarray
    past_scale: np.ndarray | None = None
    future_scale: np.ndarray | None = None
    static_scale: np.ndarray | None = None
    knots: np.ndarray | None = None

    def sizes(self) -> tuple[int, int, int]:
        """Return the numbers of past, future and static covariates."""
        scales = (self.past_scale, self.future_scale, self.static_scale)
        return tuple(0 if s is None else s.shape[1] for s in scales)  # type: ignore[return-value]

    def features(self, covariates: Covariates, matrix: np.ndarray) -> np.ndarray:
        """Return what the effect is linear in.

        Parameters
        ----------
        covariates : Covariates
        matrix : numpy.ndarray, shape (L, T)
            Of the student: what it forecasts of a centred context.

        Returns
        -------
        numpy.ndarray of float32, shape (N, T, 1 or C, B)
        """
        length, steps = matrix.shape
        parts = []
        if covariates.future is not None and self.knots is not None:
            basis = self._basis(_standardise(covariates.future, self.future_scale))
            context = basis[:, :length].transpose(0, 2, 1)
            mean = context.mean(axis=2, keepdims=True)
            expected = mean + (context - mean) @ matrix
            ahead = basis[:, length : length + steps].transpose(0, 2, 1)
            parts.append((ahead - expected).transpose(0, 2, 1)[:, :, None])
        if covariates.past is not None:
            parts.append(self._recent(covariates.past[:, :length])[:, None, None])
        if covariates.static is not None:
            parts.append(_standardise(covariates.static, self.static_scale)[:, None])
        n_components = max(part.shape[2] for part in parts)
        shape = (len(parts[0]), steps, n_components)
        return np.concatenate(
            [np.broadcast_to(part, (*shape, part.shape[3])) for part in parts], axis=3
        )

    def apply(
        self, covariates: Covariates, matrix: np.ndarray, deviation: np.ndarray
    ) -> np.ndarray:
        """Return what the covariates add to the forecast.

        Parameters
        ----------
        covariates : Covariates
        matrix : numpy.ndarray, shape (L, T)
        deviation : numpy.ndarray, shape (N, C)
            Standard deviations of the contexts.

        Returns
        -------
        numpy.ndarray, shape (N, T, C)
        """
        features = self.features(covariates, matrix)
        # One product where the components share their weights or their features.
        effect = np.einsum("ntcb,ctb->ntc", features, self.weights, optimize=True)
        return effect * deviation[:, None]

    def _basis(self, values: np.ndarray) -> np.ndarray:
        """Return slopes between knots: (N, steps, F) -> (N, steps, F + changes)."""
        assert self.knots is not None
        bent = [
            np.maximum(values[..., f] - knot, 0.0)
            for f, knots in enumerate(self.knots)
            for knot in knots[np.isfinite(knots)]
        ]
        return np.concatenate([values, *(b[..., None] for b in bent)], axis=2, dtype=np.float32)

    def _recent(self, past: np.ndarray) -> np.ndarray:
        """Return means of the last 1, 2, 4, ... values, less that of all: (N, P * M)."""
        values = _standardise(past, self.past_scale)
        mean = values.mean(axis=1)
        spans = 2 ** np.arange(int(np.log2(values.shape[1])) + 1)
        recent = [values[:, -span:].mean(axis=1) - mean for span in spans]
        return np.concatenate(recent, axis=1)


def _standardise(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Bring covariates to mean 0 and standard deviation 1, float32."""
    assert scale is not None
    return ((values - scale[0]) / scale[1]).astype(np.float32)
