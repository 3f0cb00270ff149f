"""A fitted network of the user's own: it forecasts with torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.networks import ScaledForecaster
from distilts_forecaster.runtime.quantiles import ErrorQuantiles
from distilts_forecaster.students.base import Frame

__all__ = ["ModuleForecaster"]


class ModuleForecaster(ScaledForecaster):
    """A fitted network of the user's own: torch, without gradients and covariates."""

    def __init__(
        self, network: nn.Module, frame: Frame, error_quantiles: ErrorQuantiles | None = None
    ) -> None:
        self.network = network.eval()
        self.input_chunk_length = frame.chunks.input_chunk_length
        self.output_chunk_length = frame.chunks.output_chunk_length
        self.output_chunk_shift = frame.chunks.output_chunk_shift
        self.quantile_levels = frame.quantile_levels
        self.scales = frame.scales
        self.n_components: int | None = None
        self.period, self.nonnegative = frame.period, frame.nonnegative
        self.error_quantiles = error_quantiles
        self.n_parameters = sum(p.numel() for p in network.parameters())
        self.info: StudentInfo | None = None

    def _run(self, context: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Run the network: (N, L, C) -> (N, T, C, Q)."""
        with torch.no_grad():
            answer = self.network(torch.from_numpy(context))
        forecast = (answer[0] if isinstance(answer, tuple) else answer).double().numpy()
        return forecast[..., None] if forecast.ndim == 3 else forecast
