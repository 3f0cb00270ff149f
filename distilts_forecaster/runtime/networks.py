"""Students that are networks, between two scalings; the MLP and the iTransformer in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.covariates import Covariates, CovariateScales
from distilts_forecaster.runtime.forward import Architecture, NumpyOperations
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

__all__ = ["NetworkForecaster", "ScaledForecaster"]

#: Rows (windows times components) forecast at once: bounds the memory of a large batch.
_ROWS_PER_CHUNK = 8192

_NUMPY = NumpyOperations()


class ScaledForecaster(Forecaster):
    """A network between two scalings: ``mean + std * network((context - mean) / std)``.

    A component that is shifted and scaled has a forecast that is shifted and scaled alike.

    Attributes
    ----------
    quantile_levels : tuple of float
        Levels that the network forecasts, with the median among them.
    scales : CovariateScales
        Mean and standard deviation of the covariates that it was fitted with.
    """

    quantile_levels: tuple[float, ...]
    scales: CovariateScales

    @property
    def n_covariates(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Past, future and static covariates that forecasts need."""
        return self.scales.sizes()

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast the median of T steps for (N, L, C) contexts."""
        return self.central_forecast(windows, covariates)[..., self.quantile_levels.index(0.5)]

    def central_forecast(self, contexts: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts: (N, T, C, Q), sorted."""
        step = max(1, _ROWS_PER_CHUNK // contexts.shape[2])
        if len(contexts) > step:
            parts = [slice(i, i + step) for i in range(0, len(contexts), step)]
            return np.concatenate(
                [
                    self.central_forecast(
                        contexts[part], covariates.rows(part) if covariates else covariates
                    )
                    for part in parts
                ]
            )
        mean = contexts.mean(axis=1, keepdims=True)
        centred = contexts - mean
        std = np.sqrt(np.einsum("nlc,nlc->nc", centred, centred) / contexts.shape[1])[:, None]
        centred /= np.where(std > 0, std, 1.0)
        known = self.scales.standardise(covariates) if covariates else covariates
        forecast = self._run(centred.astype(np.float32), known)
        forecast = mean[..., None] + std[..., None] * forecast
        return np.sort(forecast, axis=-1) if forecast.shape[-1] > 1 else forecast

    def _run(self, context: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Run the network, all in float32: (N, L, C) -> (N, T, C, Q)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NetworkForecaster(ScaledForecaster):
    """A fitted MLP or iTransformer.

    Attributes
    ----------
    kind : {"mlp", "itransformer"}
    sizes : dict of str to int
        Those of :data:`~distilts_forecaster.runtime.forward.SIZES`.
    arrays : dict of str to numpy.ndarray of float32
        As :meth:`Architecture.array_shapes` says.
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    quantile_levels : tuple of float, default (0.5,)
        Levels that the network forecasts, with the median among them.
    scales : CovariateScales
    n_components : int or None
    period : int or None
    nonnegative : bool
    error_quantiles : ErrorQuantiles or None
    info : StudentInfo or None
        See :class:`~distilts_forecaster.runtime.Forecaster`.

    Raises
    ------
    ValueError
        If the arrays are not those of such a network.

    Examples
    --------
    >>> sizes = {"hidden_size": 2, "n_blocks": 1}
    >>> shapes = Architecture("mlp", sizes, 8, 3).array_shapes()
    >>> arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    >>> student = NetworkForecaster(
    ...     kind="mlp", sizes=sizes, arrays=arrays, input_chunk_length=8, output_chunk_length=3
    ... )
    >>> student.predict(np.full(8, 5.0))  # a constant goes on
    array([5., 5., 5.])
    """

    kind: str
    sizes: Mapping[str, int]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int = 0
    quantile_levels: tuple[float, ...] = (0.5,)
    scales: CovariateScales = field(default_factory=CovariateScales)
    n_components: int | None = None
    period: int | None = None
    nonnegative: bool = False
    error_quantiles: ErrorQuantiles | None = None
    info: StudentInfo | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check names and shapes."""
        expected = self.architecture.array_shapes()
        got = {name: array.shape for name, array in self.arrays.items()}
        if got != expected:
            wrong = sorted(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n))
            raise ValueError(
                f"A student of kind {self.kind!r} and sizes {dict(self.sizes)} needs other arrays: "
                + ", ".join(f"{n} is {got.get(n)}, not {expected.get(n)}" for n in wrong[:3])
            )

    @cached_property
    def architecture(self) -> Architecture:
        """The network without its arrays."""
        return Architecture(
            self.kind,
            self.sizes,
            self.input_chunk_length,
            self.output_chunk_length,
            len(self.quantile_levels),
            self.n_covariates,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def n_parameters(self) -> int:  # type: ignore[override]
        """Number of fitted numbers."""
        return sum(array.size for array in self.arrays.values())

    def _run(self, context: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Run the network: (N, L, C) -> (N, T, C, Q)."""
        rows = np.ascontiguousarray(context.transpose(0, 2, 1))
        made = self.architecture.run(_NUMPY, self.arrays, rows, covariates.by_kind())
        return made.transpose(0, 2, 1, 3)
