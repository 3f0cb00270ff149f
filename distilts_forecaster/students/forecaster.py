"""Run a student that is a network: torch, without gradients."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from distilts_forecaster.effects import Covariates
from distilts_forecaster.inference import Forecaster
from distilts_forecaster.quantiles import Spread
from distilts_forecaster.students.networks import DLinearNetwork, ITransformerNetwork, MLPNetwork
from distilts_forecaster.students.settings import MLP, DLinear, ITransformer, Network

__all__ = ["NetworkForecaster", "build_network"]

#: Rows (windows times components) forecast at once: bounds the memory of a large batch.
_ROWS_PER_CHUNK = 8192


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


class NetworkForecaster(Forecaster):
    """A fitted network: ``mean + deviation * network((context - mean) / deviation)``.

    Commutes with shift and scale of each component, whatever the network is.

    Parameters
    ----------
    network : torch.nn.Module
        Fitted; see :mod:`~distilts_forecaster.students.networks`.
    settings : ITransformer, MLP, DLinear or Network
        What it was built from.
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    quantile_levels : tuple of float, default (0.5,)
        Those that the network forecasts, with the median among them.
    past_scale, future_scale, static_scale : numpy.ndarray, shape (2, ...), optional
        Mean and standard deviation of the covariates that it was fitted with.
    n_components : int, optional
        Components that a window must have; by default any number.
    period : int, optional
    nonnegative : bool, default False
    spread : Spread, optional
        See :class:`~distilts_forecaster.inference.Forecaster`.

    Examples
    --------
    >>> settings = DLinear(kernel_size=None)
    >>> student = NetworkForecaster(build_network(settings, 8, 2), settings, 8, 2)
    >>> student.predict(np.full(8, 5.0))  # a constant goes on
    array([5., 5.])
    """

    def __init__(
        self,
        network: nn.Module,
        settings: DLinear | ITransformer | MLP | Network,
        input_chunk_length: int,
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        quantile_levels: tuple[float, ...] = (0.5,),
        past_scale: np.ndarray | None = None,
        future_scale: np.ndarray | None = None,
        static_scale: np.ndarray | None = None,
        n_components: int | None = None,
        period: int | None = None,
        nonnegative: bool = False,
        spread: Spread | None = None,
    ) -> None:
        self.network = network.eval()
        self.settings = settings
        self.input_chunk_length = input_chunk_length
        self.output_chunk_length = output_chunk_length
        self.output_chunk_shift = output_chunk_shift
        self.quantile_levels = quantile_levels
        self.past_scale, self.future_scale = past_scale, future_scale
        self.static_scale = static_scale
        self.n_components = n_components
        self.period, self.nonnegative, self.spread = period, nonnegative, spread
        self.n_parameters = sum(p.numel() for p in network.parameters())
        self.n_covariates = tuple(  # type: ignore[assignment]
            0 if scale is None else scale.shape[1]
            for scale in (past_scale, future_scale, static_scale)
        )

    def state(self) -> dict[str, Any]:
        """Return the constructor's arguments, the network's weights as arrays.

        The network itself where it is the user's own: its settings do not say how it is
        built from arrays.
        """
        names = (
            "settings input_chunk_length output_chunk_length output_chunk_shift quantile_levels "
            "past_scale future_scale static_scale n_components period nonnegative spread"
        )
        state = {name: getattr(self, name) for name in names.split()}
        if isinstance(self.settings, Network):
            return {**state, "network": self.network}
        weights = self.network.state_dict()
        return {**state, "network": {name: value.numpy() for name, value in weights.items()}}

    def with_spread(self, spread: Spread) -> NetworkForecaster:
        """Return the same student with other quantiles of its errors."""
        other = copy.copy(self)
        other.spread = spread
        return other

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> NetworkForecaster:
        """Build a student from what :meth:`state` returned.

        Parameters
        ----------
        state : dict

        Returns
        -------
        NetworkForecaster
        """
        state = dict(state)
        network = state.pop("network")
        if isinstance(network, dict):
            weights = {name: torch.from_numpy(value.copy()) for name, value in network.items()}
            network = build_network(
                state["settings"],
                state["input_chunk_length"],
                state["output_chunk_length"],
                len(state["quantile_levels"]),
                tuple(  # type: ignore[arg-type]
                    0 if state[name] is None else state[name].shape[1]
                    for name in ("past_scale", "future_scale", "static_scale")
                ),
            )
            network.load_state_dict(weights)
        return cls(network, **state)

    @property
    def _median(self) -> int:
        """Index of the median among the quantile levels."""
        return self.quantile_levels.index(0.5)

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast the median of T steps for (N, L, C) contexts."""
        return self.heads(windows, covariates)[..., self._median]

    def heads(self, contexts: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts: (N, T, C, Q), sorted.

        Parameters
        ----------
        contexts : numpy.ndarray of float64, shape (N, L, C)
        covariates : Covariates

        Returns
        -------
        numpy.ndarray, shape (N, T, C, Q)
        """
        windows = contexts
        step = max(1, _ROWS_PER_CHUNK // windows.shape[2])
        if len(windows) > step:
            parts = [slice(i, i + step) for i in range(0, len(windows), step)]
            return np.concatenate(
                [
                    self.heads(windows[part], covariates.rows(part) if covariates else covariates)
                    for part in parts
                ]
            )
        mean = windows.mean(axis=1, keepdims=True)
        centred = windows - mean
        deviation = np.sqrt(np.einsum("nlc,nlc->nc", centred, centred) / windows.shape[1])
        deviation = deviation[:, None]
        centred /= np.where(deviation > 0, deviation, 1.0)
        known = (covariates.past, covariates.future, covariates.static)
        scales = (self.past_scale, self.future_scale, self.static_scale)
        with torch.no_grad():
            inputs: list[torch.Tensor | None] = [torch.from_numpy(centred.astype(np.float32))]
            if covariates:
                inputs += [
                    torch.from_numpy(((c - s[0]) / s[1]).astype(np.float32))
                    if c is not None and s is not None
                    else None
                    for c, s in zip(known, scales, strict=True)
                ]
            answer = self.network(*inputs)
            forecast = (answer[0] if isinstance(answer, tuple) else answer).double().numpy()
        if forecast.ndim == 3:
            forecast = forecast[..., None]
        forecast = mean[..., None] + deviation[..., None] * forecast
        return np.sort(forecast, axis=-1) if forecast.shape[-1] > 1 else forecast
