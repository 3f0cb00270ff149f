"""A student that is one matrix.

Whatever a linear student was fitted with (instance normalisation, a teacher,
standardised series) has been folded into one matrix, so that a forecast is
``mean + (context - mean) @ weights``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

__all__ = ["LinearForecaster"]


@dataclass(frozen=True)
class LinearForecaster(Forecaster):
    """A fitted linear student, folded for inference.

    Attributes
    ----------
    weights : numpy.ndarray of float32 or float64, shape (K, L, T)
        One matrix for all components (K = 1) or one for each (K = C). Forecasts are computed in
        their precision. In float32 the last digit may depend on what else is in the batch.
    output_chunk_shift : int
        Steps between the end of the context and the first forecast step.
    period : int or None
    nonnegative : bool
    error_quantiles : ErrorQuantiles or None
    effects : Effects or None
        What covariates add.
    info : StudentInfo or None
        Where it comes from; see :func:`~distilts_forecaster.load_student`.

    Examples
    --------
    >>> import numpy as np
    >>> last_value = np.zeros((1, 4, 2), dtype=np.float32)
    >>> last_value[0, -1] = 1.0
    >>> student = LinearForecaster(last_value)
    >>> student.predict(np.array([1.0, 2.0, 3.0, 4.0]))
    array([4., 4.])
    """

    weights: np.ndarray
    output_chunk_shift: int = 0
    period: int | None = None
    nonnegative: bool = False
    error_quantiles: ErrorQuantiles | None = None
    effects: Effects | None = None
    info: StudentInfo | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shape."""
        if self.weights.ndim != 3 or not self.weights.size:
            raise ValueError(
                f"A linear student needs weights of shape (K, L, T), got {self.weights.shape}."
            )

    @property
    def input_chunk_length(self) -> int:  # type: ignore[override]
        """Length of the context, L."""
        return self.weights.shape[1]

    @property
    def output_chunk_length(self) -> int:  # type: ignore[override]
        """Steps forecast at once, T."""
        return self.weights.shape[2]

    @property
    def n_components(self) -> int | None:  # type: ignore[override]
        """Components that a window must have, None for any."""
        shared = 1 if self.effects is None else len(self.effects.weights)
        n = max(len(self.weights), shared)
        return None if n == 1 else n

    @property
    def n_parameters(self) -> int:  # type: ignore[override]
        """Number of fitted numbers."""
        of_covariates = 0 if self.effects is None else self.effects.weights.size
        return self.weights.size + of_covariates

    @property
    def n_covariates(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Past, future and static covariates that forecasts need."""
        return (0, 0, 0) if self.effects is None else self.effects.scales.sizes()

    @cached_property
    def matrix(self) -> np.ndarray:
        """The matrix (L, T) that forecasts covariates: the mean over components."""
        return self.weights.mean(axis=0)

    @cached_property
    def folded(self) -> np.ndarray:
        """The mean folded into the matrix, (K, L, T): forecast = last + (context - last) @ folded.

        ``mean + (x - mean) @ W`` equals ``last + (x - last) @ (W + r)`` where each row of ``r``
        is ``(1 - sum of the rows of W) / L``: for columns of ``W + r`` that add up to one, any
        constant may be subtracted and added again. That saves one pass over the context.
        """
        rest = 1.0 - self.weights.sum(axis=1, keepdims=True, dtype=np.float64)
        return (self.weights + rest / self.input_chunk_length).astype(self.weights.dtype)

    @property
    def follows_scale(self) -> bool:
        """Whether twice a context has twice the forecast."""
        return self.effects is None or self.effects.unit is None

    def divided_by(self, std: np.ndarray) -> LinearForecaster:
        """Return the student that forecasts the same series divided by ``std`` (C,)."""
        if self.effects is None:
            return self
        return replace(self, effects=self.effects.divided_by(std))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts."""
        n, length, components = windows.shape
        if n == 1 and components == 1 and self.effects is None:
            window = windows[0, :, 0]
            last = window[-1]
            steps = (window - last).astype(self.folded.dtype) @ self.folded[0]
            return (steps + last)[None, :, None]
        rows = windows.transpose(0, 2, 1)  # (N, C, L)
        last = rows[:, :, -1:]
        moved = _subtract(rows, last, self.folded.dtype)
        if len(self.weights) == 1:
            steps = moved.reshape(n * components, length) @ self.folded[0]
            steps = steps.reshape(n, components, self.output_chunk_length)
        else:
            steps = (moved.transpose(1, 0, 2) @ self.folded).transpose(1, 0, 2)
        forecast = (steps + last).transpose(0, 2, 1)
        if self.effects is None:
            return forecast
        return forecast + self.effects.apply(covariates, self.matrix, windows)


def _subtract(rows: np.ndarray, last: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Subtract in float64, then round to ``dtype``: (N, C, L) - (N, C, 1).

    With a buffer of one row NumPy's inner loop never crosses rows: for 1,024 rows of 512,
    113 us instead of 219 (a matrix product with them: 800).
    """
    moved = np.empty(rows.shape, dtype=dtype)
    size = np.setbufsize(max(16, -(-rows.shape[2] // 16) * 16))
    try:
        np.subtract(rows, last, out=moved, casting="same_kind")
    finally:
        np.setbufsize(size)
    return moved
