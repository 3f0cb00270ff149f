"""Run a student that is a network: torch, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from distilts_forecaster.runtime import Forecaster
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
    n_past: int = 0,
    n_future: int = 0,
) -> nn.Module:
    """Build the network that settings describe.

    Parameters
    ----------
    settings : DLinear, ITransformer, MLP or Network
    input_chunk_length, output_chunk_length : int
    n_quantiles : int, default 1
    n_past, n_future : int, default 0
        Covariates, for the MLP.

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
        return DLinearNetwork(*sizes, settings.kernel_size)
    if isinstance(settings, ITransformer):
        return ITransformerNetwork(
            *sizes,
            d_model=settings.d_model,
            n_heads=settings.n_heads,
            d_ff=settings.d_ff,
            n_layers=settings.n_layers,
            dropout=settings.dropout,
        )
    if isinstance(settings, MLP):
        return MLPNetwork(
            *sizes,
            n_past=n_past,
            n_future=n_future,
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
        With the median among them.
    past_scale, future_scale : numpy.ndarray, shape (2, P) and (2, F), optional
        Mean and standard deviation of the covariates that it was fitted with.
    n_components : int, optional
        Components that a window must have; by default any number.

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
        n_components: int | None = None,
    ) -> None:
        self.network = network.eval()
        self.settings = settings
        self.input_chunk_length = input_chunk_length
        self.output_chunk_length = output_chunk_length
        self.output_chunk_shift = output_chunk_shift
        self.quantile_levels = quantile_levels
        self.past_scale, self.future_scale = past_scale, future_scale
        self.n_components = n_components
        self.n_parameters = sum(p.numel() for p in network.parameters())

    def state(self) -> dict[str, Any]:
        """Return the constructor's arguments, the network's weights as arrays.

        The network itself where it is the user's own: its settings do not say how it is
        built from arrays.
        """
        names = (
            "settings input_chunk_length output_chunk_length output_chunk_shift quantile_levels "
            "past_scale future_scale n_components"
        )
        state = {name: getattr(self, name) for name in names.split()}
        if isinstance(self.settings, Network):
            return {**state, "network": self.network}
        weights = self.network.state_dict()
        return {**state, "network": {name: value.numpy() for name, value in weights.items()}}

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
                *(
                    0 if s is None else s.shape[1]
                    for s in (state["past_scale"], state["future_scale"])
                ),
            )
            network.load_state_dict(weights)
        return cls(network, **state)

    @property
    def takes_covariates(self) -> bool:
        """Whether forecasts need covariates."""
        return self.past_scale is not None or self.future_scale is not None

    def predict(
        self,
        contexts: np.ndarray,
        horizon: int | None = None,
        past_covariates: np.ndarray | None = None,
        future_covariates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray, shape (L,), (L, C) or (N, L, C)
            With covariates only (N, L, C).
        horizon : int, optional
            By default ``output_chunk_length``; beyond it the forecast is fed back.
        past_covariates : numpy.ndarray, shape (N, L + max(0, horizon - T), P), optional
            From the first step of the context on.
        future_covariates : numpy.ndarray, shape (N, L + max(horizon, T), F), optional
            The context's, then the forecast's.

        Returns
        -------
        numpy.ndarray of float64, shape (horizon,), (horizon, C) or (N, horizon, C)
            The median, where quantiles are forecast.

        Raises
        ------
        ValueError
            If the covariates are not those that the student was fitted with, or what
            :meth:`~distilts_forecaster.runtime.Forecaster.predict` raises.
        """
        windows, horizon, _ = self._check(contexts, horizon)
        past, future = self._check_covariates(windows, horizon, past_covariates, future_covariates)
        if not self.takes_covariates:
            return super().predict(contexts, horizon)
        length, steps = self.input_chunk_length, self.output_chunk_length
        parts = [windows]
        done = 0
        while done < horizon:
            # The last chunk ends with the horizon: no covariates are needed beyond it.
            start = min(done, max(0, horizon - steps))
            known = np.concatenate(parts, axis=1)[:, start : start + length]
            quantiles = self._quantiles(
                known,
                None if past is None else past[:, start : start + length],
                None if future is None else future[:, start : start + length + steps],
            )
            parts.append(quantiles[:, done - start : horizon - start, :, self._median])
            done += parts[-1].shape[1]
        return np.concatenate(parts[1:], axis=1)

    def _check_covariates(
        self,
        windows: np.ndarray,
        horizon: int,
        past: np.ndarray | None,
        future: np.ndarray | None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Standardise covariates, or raise where they are missing, not wanted or too short."""
        more = (
            max(0, horizon - self.output_chunk_length),
            max(horizon, self.output_chunk_length),
        )
        scaled: list[np.ndarray | None] = []
        for kind, given, scale, steps in zip(
            ("past", "future"),
            (past, future),
            (self.past_scale, self.future_scale),
            more,
            strict=True,
        ):
            if (given is None) != (scale is None):
                raise ValueError(
                    f"This student was fitted {'without' if scale is None else 'with'} {kind} "
                    f"covariates: {'leave them out' if scale is None else 'they are needed'}."
                )
            if given is None or scale is None:
                scaled.append(None)
                continue
            expected = (len(windows), self.input_chunk_length + steps, scale.shape[1])
            if given.shape != expected:
                raise ValueError(f"{kind}_covariates must be {expected}, got {given.shape}.")
            scaled.append((given - scale[0]) / scale[1])
        return scaled[0], scaled[1]

    @property
    def _median(self) -> int:
        """Index of the median among the quantile levels."""
        return self.quantile_levels.index(0.5)

    def predict_quantiles(
        self,
        contexts: np.ndarray,
        horizon: int | None = None,
        past_covariates: np.ndarray | None = None,
        future_covariates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast the quantiles of the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray, shape (L,), (L, C) or (N, L, C)
        horizon : int, optional
            By default ``output_chunk_length``, and at most that: quantiles are not fed back.
        past_covariates, future_covariates : numpy.ndarray, optional
            See :meth:`predict`.

        Returns
        -------
        numpy.ndarray of float64, shape (N, horizon, C, Q)
            In the order of ``quantile_levels``, sorted: they never cross.

        Raises
        ------
        ValueError
            If ``horizon`` is beyond ``output_chunk_length``, or what :meth:`predict` raises.
        """
        windows, horizon, _ = self._check(contexts, horizon)
        if horizon > self.output_chunk_length:
            raise ValueError(
                f"Quantiles are forecast up to output_chunk_length={self.output_chunk_length} "
                f"steps, got horizon={horizon}."
            )
        past, future = self._check_covariates(windows, horizon, past_covariates, future_covariates)
        return self._quantiles(windows, past, future)[:, :horizon]

    def _step(self, windows: np.ndarray) -> np.ndarray:
        """Forecast the median of T steps for (N, L, C) contexts."""
        quantiles = self._quantiles(windows)
        return quantiles[..., self._median]

    def _quantiles(
        self,
        windows: np.ndarray,
        past: np.ndarray | None = None,
        future: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts: (N, T, C, Q)."""
        step = max(1, _ROWS_PER_CHUNK // windows.shape[2])
        if len(windows) > step:
            parts = [
                self._quantiles(
                    windows[i : i + step],
                    None if past is None else past[i : i + step],
                    None if future is None else future[i : i + step],
                )
                for i in range(0, len(windows), step)
            ]
            return np.concatenate(parts)
        mean = windows.mean(axis=1, keepdims=True)
        centred = windows - mean
        deviation = np.sqrt(np.einsum("nlc,nlc->nc", centred, centred) / windows.shape[1])
        deviation = deviation[:, None]
        centred /= np.where(deviation > 0, deviation, 1.0)
        with torch.no_grad():
            inputs = [
                None if array is None else torch.from_numpy(array.astype(np.float32))
                for array in (centred, past, future)
            ]
            answer = self.network(*inputs) if self.takes_covariates else self.network(inputs[0])
            forecast = (answer[0] if isinstance(answer, tuple) else answer).double().numpy()
        if forecast.ndim == 3:
            forecast = forecast[..., None]
        forecast = mean[..., None] + deviation[..., None] * forecast
        return np.sort(forecast, axis=-1) if forecast.shape[-1] > 1 else forecast
