"""The networks that are trained by gradient: DLinear, iTransformer, residual MLP.

A network is any ``torch.nn.Module`` with ::

    forward(context) -> forecast, or (forecast, hidden)

where ``context`` is (B, L, C), each window and component brought to mean 0 and standard
deviation 1 over its own L steps; ``forecast`` is (B, T, C, Q), or (B, T, C) for a point
forecast, on the same scale; and ``hidden`` is (B, C, d), one state for each component, what
an alignment with the teacher's hidden states can act on. A network that takes covariates has
three more arguments, ``past_covariates`` (B, L, P), ``future_covariates`` (B, L + T, F) and
``static_covariates`` (B, C, S), standardised, each of them None where there are none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from distilts_forecaster.runtime.forward import STEP_SIZE
from distilts_forecaster.students.base import NetworkShape

__all__ = ["DLinearNetwork", "ITransformerNetwork", "MLPNetwork"]


class DLinearNetwork(nn.Module):
    """Two linear maps, of a moving average and of the remainder (Zeng et al., AAAI 2023).

    Without biases: with instance normalisation the whole is one matrix, see :meth:`fold`. The
    average is over ``kernel_size`` steps, odd; None does not decompose.
    """

    def __init__(
        self, input_chunk_length: int, output_chunk_length: int, kernel_size: int | None
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        sizes = (input_chunk_length, output_chunk_length)
        self.remainder = nn.Linear(*sizes, bias=False)
        self.trend = None if kernel_size is None else nn.Linear(*sizes, bias=False)

    def _average(self, rows: Tensor) -> Tensor:
        """Average over ``kernel_size`` steps, with the ends repeated: (..., L) -> (..., L)."""
        assert self.kernel_size is not None
        side = (self.kernel_size - 1) // 2
        padded = torch.cat(
            [
                rows[..., :1].expand(*rows.shape[:-1], side),
                rows,
                rows[..., -1:].expand(*rows.shape[:-1], side),
            ],
            dim=-1,
        )
        return padded.unfold(-1, self.kernel_size, 1).mean(-1)

    def forward(self, context: Tensor) -> Tensor:
        """Forecast (B, L, C) -> (B, T, C)."""
        rows = context.transpose(1, 2)
        if self.trend is None:
            steps = self.remainder(rows)
        else:
            trend = self._average(rows)
            steps = self.remainder(rows - trend) + self.trend(trend)
        return steps.transpose(1, 2)

    def fold(self) -> Tensor:
        """Return the one matrix that the network is: (L, T)."""
        with torch.no_grad():
            unit = torch.eye(self.remainder.in_features, dtype=torch.float64)
            weight = self.remainder.weight.double().cpu()
            if self.trend is None:
                return unit @ weight.T
            trend = self._average(unit)  # row l: what step l gives to each average
            return (unit - trend) @ weight.T + trend @ self.trend.weight.double().cpu().T


class ITransformerNetwork(nn.Module):
    """A transformer whose tokens are the components (Liu et al., ICLR 2024).

    Past and future covariates are tokens beside those of the components; static ones are added to
    the token of each component.
    """

    def __init__(
        self,
        shape: NetworkShape,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.shape = (shape.output_chunk_length, shape.n_quantiles)
        self.hidden_size = d_model
        length, ahead = shape.input_chunk_length, shape.output_chunk_length
        n_past, n_future, n_static = shape.n_covariates
        self.embedding = nn.Sequential(nn.Linear(length, d_model), nn.Dropout(dropout))
        self.past = nn.Linear(length, d_model) if n_past else None
        self.future = nn.Linear(length + ahead, d_model) if n_future else None
        self.static = nn.Linear(n_static, d_model) if n_static else None
        layer = nn.TransformerEncoderLayer(
            d_model, n_heads, d_ff, dropout, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, n_layers, norm=nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        self.head = nn.Linear(d_model, ahead * shape.n_quantiles)

    def forward(
        self,
        context: Tensor,
        past_covariates: Tensor | None = None,
        future_covariates: Tensor | None = None,
        static_covariates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forecast (B, L, C) -> (B, T, C, Q), with hidden states (B, C, d_model)."""
        tokens = self.embedding(context.transpose(1, 2))
        n_components = tokens.shape[1]
        if self.static is not None:
            tokens = tokens + self.static(static_covariates)
        for layer, covariates in ((self.past, past_covariates), (self.future, future_covariates)):
            if layer is not None and covariates is not None:
                tokens = torch.cat([tokens, layer(covariates.transpose(1, 2))], dim=1)
        hidden = self.encoder(tokens)[:, :n_components]
        return self.head(hidden).unflatten(-1, self.shape).transpose(1, 2), hidden


class MLPNetwork(nn.Module):
    """A linear map plus residual blocks, each component by itself (TiDE, Das et al., 2023)."""

    def __init__(
        self, shape: NetworkShape, hidden_size: int, n_blocks: int, dropout: float
    ) -> None:
        super().__init__()
        length, steps = shape.input_chunk_length, shape.output_chunk_length
        self.shape = (steps, shape.n_quantiles)
        self.hidden_size = hidden_size
        self.skip = nn.Linear(length, steps, bias=False)
        n_past, n_future, n_static = shape.n_covariates
        n_inputs = length + n_static
        self.past = self.future = None
        if n_past:
            size = min(n_past, STEP_SIZE)
            self.past = nn.Linear(n_past, size)
            n_inputs += size * length
        if n_future:
            size = min(n_future, STEP_SIZE)
            self.future = nn.Linear(n_future, size)
            n_inputs += size * (length + steps)
        self.embedding = nn.Linear(n_inputs, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, steps * shape.n_quantiles)
        # The residual starts at nothing: what is trained starts from the linear map alone.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def start_from(self, weights: np.ndarray) -> None:
        """Set the linear map (L, T). Weights of fewer steps leave the other steps at zero."""
        with torch.no_grad():
            self.skip.weight.zero_()
            self.skip.weight[: weights.shape[1]] = torch.from_numpy(weights.T).float()

    def forward(
        self,
        context: Tensor,
        past_covariates: Tensor | None = None,
        future_covariates: Tensor | None = None,
        static_covariates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forecast (B, L, C) -> (B, T, C, Q), with hidden states (B, C, hidden_size)."""
        rows = context.transpose(1, 2)
        inputs = [rows]
        if static_covariates is not None:
            inputs.append(static_covariates)
        for layer, covariates in ((self.past, past_covariates), (self.future, future_covariates)):
            if layer is not None:
                flat = layer(covariates).flatten(1)
                inputs.append(flat[:, None].expand(-1, rows.shape[1], -1))
        hidden = self.embedding(torch.cat(inputs, dim=-1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        hidden = self.norm(hidden)
        steps = self.head(hidden).unflatten(-1, self.shape) + self.skip(rows).unsqueeze(-1)
        return steps.transpose(1, 2), hidden


class _Block(nn.Sequential):
    """Normalise, widen, GELU, narrow."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(size),
            nn.Linear(size, 2 * size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * size, size),
            nn.Dropout(dropout),
        )
