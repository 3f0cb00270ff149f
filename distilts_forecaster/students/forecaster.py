"""From what was trained to what forecasts: NumPy, or torch for a network of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.networks import SIZES, NetworkForecaster, ScaledForecaster
from distilts_forecaster.runtime.quantiles import ErrorQuantiles
from distilts_forecaster.students.networks import DLinearNetwork, ITransformerNetwork, MLPNetwork
from distilts_forecaster.students.settings import MLP, DLinear, ITransformer, Network

__all__ = ["ModuleForecaster", "as_forecaster", "build_network"]


def build_network(
    settings: DLinear | ITransformer | MLP | Network,
    input_chunk_length: int,
    output_chunk_length: int,
    n_quantiles: int = 1,
    n_covariates: tuple[int, int, int] = (0, 0, 0),
) -> nn.Module:
    """Build the network that settings describe.

    Parameters
    ----------
    settings : DLinear, ITransformer, MLP or Network
    input_chunk_length, output_chunk_length : int
    n_quantiles : int, default 1
    n_covariates : tuple of int, default (0, 0, 0)
        Past, future and static covariates, for the MLP and the iTransformer.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If the user's function does not build a module.

    Examples
    --------
    >>> network = build_network(DLinear(kernel_size=None), 8, 2)
    >>> sum(p.numel() for p in network.parameters())
    16
    """
    sizes = (input_chunk_length, output_chunk_length, n_quantiles)
    if isinstance(settings, DLinear):
        return DLinearNetwork(input_chunk_length, output_chunk_length, settings.kernel_size)
    if isinstance(settings, ITransformer):
        return ITransformerNetwork(
            *sizes,
            n_covariates=n_covariates,
            d_model=settings.d_model,
            n_heads=settings.n_heads,
            d_ff=settings.d_ff,
            n_layers=settings.n_layers,
            dropout=settings.dropout,
        )
    if isinstance(settings, MLP):
        return MLPNetwork(
            *sizes,
            n_covariates=n_covariates,
            hidden_size=settings.hidden_size,
            n_blocks=settings.n_blocks,
            dropout=settings.dropout,
        )
    network = settings.build(*sizes)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"The function in Network must build a torch.nn.Module, got {type(network).__name__}."
        )
    return network


def as_forecaster(
    network: nn.Module,
    settings: DLinear | ITransformer | MLP | Network,
    input_chunk_length: int,
    output_chunk_length: int,
    output_chunk_shift: int = 0,
    quantile_levels: tuple[float, ...] = (0.5,),
    past_scale: np.ndarray | None = None,
    future_scale: np.ndarray | None = None,
    static_scale: np.ndarray | None = None,
    period: int | None = None,
    nonnegative: bool = False,
) -> Forecaster:
    """Return what forecasts as a fitted network does.

    Parameters
    ----------
    network : torch.nn.Module
        Fitted; see :mod:`~distilts_forecaster.students.networks`.
    settings : ITransformer, MLP, DLinear or Network
        What it was built from.
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    quantile_levels : tuple of float, default (0.5,)
    past_scale, future_scale, static_scale : numpy.ndarray, shape (2, ...), optional
    period : int, optional
    nonnegative : bool, default False
        See :class:`~distilts_forecaster.runtime.networks.ScaledForecaster`.

    Returns
    -------
    LinearForecaster, NetworkForecaster or ModuleForecaster
        Without torch for all but the user's own modules.

    Examples
    --------
    >>> settings = DLinear(kernel_size=None)
    >>> student = as_forecaster(build_network(settings, 8, 2), settings, 8, 2)
    >>> student.predict(np.full(8, 5.0))  # a constant goes on
    array([5., 5.])
    """
    if isinstance(network, DLinearNetwork):
        folded = network.fold().float().numpy()[None]
        return LinearForecaster(folded, output_chunk_shift, period, nonnegative)
    common: dict[str, Any] = {
        "input_chunk_length": input_chunk_length,
        "output_chunk_length": output_chunk_length,
        "output_chunk_shift": output_chunk_shift,
        "quantile_levels": quantile_levels,
        "past_scale": past_scale,
        "future_scale": future_scale,
        "static_scale": static_scale,
        "period": period,
        "nonnegative": nonnegative,
    }
    if not isinstance(settings, (MLP, ITransformer)):
        return ModuleForecaster(network, **common)
    kind = type(settings).__name__.lower()
    return NetworkForecaster(
        kind=kind,
        sizes={name: getattr(settings, name) for name in SIZES[kind]},
        arrays={n: v.float().cpu().numpy().copy() for n, v in network.state_dict().items()},
        **common,
    )


class ModuleForecaster(ScaledForecaster):
    """A fitted network of the user's own: torch, without gradients.

    Parameters
    ----------
    network : torch.nn.Module
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    quantile_levels : tuple of float, default (0.5,)
    past_scale, future_scale, static_scale : None
        Modules of the user's own take no covariates.
    n_components : int, optional
    period : int, optional
    nonnegative : bool, default False
    error_quantiles : ErrorQuantiles, optional
        See :class:`~distilts_forecaster.runtime.Forecaster`.
    """

    def __init__(
        self,
        network: nn.Module,
        input_chunk_length: int,
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        quantile_levels: tuple[float, ...] = (0.5,),
        past_scale: None = None,
        future_scale: None = None,
        static_scale: None = None,
        n_components: int | None = None,
        period: int | None = None,
        nonnegative: bool = False,
        error_quantiles: ErrorQuantiles | None = None,
    ) -> None:
        self.network = network.eval()
        self.input_chunk_length = input_chunk_length
        self.output_chunk_length = output_chunk_length
        self.output_chunk_shift = output_chunk_shift
        self.quantile_levels = quantile_levels
        self.past_scale, self.future_scale = past_scale, future_scale
        self.static_scale = static_scale
        self.n_components = n_components
        self.period, self.nonnegative, self.error_quantiles = period, nonnegative, error_quantiles
        self.n_parameters = sum(p.numel() for p in network.parameters())
        self.info: Mapping[str, Any] | None = None

    def _run(
        self,
        context: np.ndarray,
        past: np.ndarray | None,
        future: np.ndarray | None,
        static: np.ndarray | None,
    ) -> np.ndarray:
        """Run the network: (N, L, C) -> (N, T, C, Q)."""
        with torch.no_grad():
            answer = self.network(torch.from_numpy(context))
        forecast = (answer[0] if isinstance(answer, tuple) else answer).double().numpy()
        return forecast[..., None] if forecast.ndim == 3 else forecast
