"""Students that are networks, run in NumPy: the MLP and the iTransformer.

What they are is told where they are trained, in
:mod:`distilts_forecaster.students.networks`; their arrays have the names that they have there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.effects import Covariates
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

__all__ = ["SIZES", "STEP_SIZE", "NetworkForecaster", "ScaledForecaster", "array_shapes"]

#: What says how large a network is, by its kind.
SIZES = {
    "itransformer": ("d_model", "n_heads", "d_ff", "n_layers"),
    "mlp": ("hidden_size", "n_blocks"),
}

#: Numbers that the MLP condenses the covariates of one step to.
STEP_SIZE = 4

#: Rows (windows times components) forecast at once: bounds the memory of a large batch.
_ROWS_PER_CHUNK = 8192


class ScaledForecaster(Forecaster):
    """A network between two scalings: ``mean + deviation * network((context - mean) / deviation)``.

    Commutes with shift and scale of each component, whatever the network is.

    Attributes
    ----------
    quantile_levels : tuple of float
        Those that the network forecasts, with the median among them.
    past_scale, future_scale, static_scale : numpy.ndarray, shape (2, ...), or None
        Mean and standard deviation of the covariates that it was fitted with.
    """

    quantile_levels: tuple[float, ...]
    past_scale: np.ndarray | None
    future_scale: np.ndarray | None
    static_scale: np.ndarray | None

    @property
    def n_covariates(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Past, future and static covariates that forecasts need."""
        scales = (self.past_scale, self.future_scale, self.static_scale)
        return tuple(0 if scale is None else scale.shape[1] for scale in scales)  # type: ignore[return-value]

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast the median of T steps for (N, L, C) contexts."""
        return self.central_forecast(windows, covariates)[..., self.quantile_levels.index(0.5)]

    def central_forecast(self, contexts: np.ndarray, covariates: Covariates) -> np.ndarray:
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
                    self.central_forecast(
                        windows[part], covariates.rows(part) if covariates else covariates
                    )
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
        standardised = [
            ((values - scale[0]) / scale[1]).astype(np.float32)
            if values is not None and scale is not None
            else None
            for values, scale in zip(known, scales, strict=True)
        ]
        forecast = self._run(centred.astype(np.float32), *standardised)
        forecast = mean[..., None] + deviation[..., None] * forecast
        return np.sort(forecast, axis=-1) if forecast.shape[-1] > 1 else forecast

    def _run(
        self,
        context: np.ndarray,
        past: np.ndarray | None,
        future: np.ndarray | None,
        static: np.ndarray | None,
    ) -> np.ndarray:
        """Run the network, all in float32: (N, L, C) -> (N, T, C, Q)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NetworkForecaster(ScaledForecaster):
    """A fitted MLP or iTransformer.

    Attributes
    ----------
    kind : {"mlp", "itransformer"}
    sizes : dict of str to int
        Those of :data:`SIZES`.
    arrays : dict of str to numpy.ndarray of float32
        As :func:`array_shapes` says.
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    quantile_levels : tuple of float, default (0.5,)
        Those that the network forecasts, with the median among them.
    past_scale, future_scale, static_scale : numpy.ndarray, shape (2, ...), or None
    n_components : int or None
    period : int or None
    nonnegative : bool
    error_quantiles : ErrorQuantiles or None
    info : dict or None
        See :class:`~distilts_forecaster.runtime.Forecaster`.

    Raises
    ------
    ValueError
        If the arrays are not those of such a network.

    Examples
    --------
    >>> sizes = {"hidden_size": 2, "n_blocks": 1}
    >>> shapes = array_shapes("mlp", sizes, 8, 3)
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
    past_scale: np.ndarray | None = None
    future_scale: np.ndarray | None = None
    static_scale: np.ndarray | None = None
    n_components: int | None = None
    period: int | None = None
    nonnegative: bool = False
    error_quantiles: ErrorQuantiles | None = None
    info: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check names and shapes."""
        lengths = (self.input_chunk_length, self.output_chunk_length, len(self.quantile_levels))
        expected = array_shapes(self.kind, self.sizes, *lengths, self.n_covariates)
        got = {name: array.shape for name, array in self.arrays.items()}
        if got != expected:
            wrong = sorted(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n))
            raise ValueError(
                f"A student of kind {self.kind!r} and sizes {dict(self.sizes)} needs other arrays: "
                + ", ".join(f"{n} is {got.get(n)}, not {expected.get(n)}" for n in wrong[:3])
            )

    @property
    def n_parameters(self) -> int:  # type: ignore[override]
        """Number of fitted numbers."""
        return sum(array.size for array in self.arrays.values())

    @property
    def _head_shape(self) -> tuple[int, int]:
        """Return (T, Q)."""
        return self.output_chunk_length, len(self.quantile_levels)

    def _run(
        self,
        context: np.ndarray,
        past: np.ndarray | None,
        future: np.ndarray | None,
        static: np.ndarray | None,
    ) -> np.ndarray:
        """Run the network: (N, L, C) -> (N, T, C, Q)."""
        run = self._mlp if self.kind == "mlp" else self._itransformer
        rows = np.ascontiguousarray(context.transpose(0, 2, 1))
        return run(rows, past, future, static).transpose(0, 2, 1, 3)

    def _mlp(
        self,
        rows: np.ndarray,
        past: np.ndarray | None,
        future: np.ndarray | None,
        static: np.ndarray | None,
    ) -> np.ndarray:
        """Forecast each component by itself: (N, C, L) -> (N, C, T, Q)."""
        n, components, _ = rows.shape
        inputs = [rows] if static is None else [rows, static]
        for name, covariates in (("past", past), ("future", future)):
            if covariates is not None:
                made = self._linear(name, covariates)
                flat = made.reshape(n, 1, made.shape[1] * made.shape[2])
                inputs.append(np.repeat(flat, components, axis=1))
        hidden = self._linear("embedding", np.concatenate(inputs, axis=2))
        for i in range(self.sizes["n_blocks"]):
            wide = self._linear(f"blocks.{i}.1", self._normalise(f"blocks.{i}.0", hidden))
            hidden += self._linear(f"blocks.{i}.4", gelu(wide))
        steps = self._linear("head", self._normalise("norm", hidden))
        steps = steps.reshape(n, components, *self._head_shape)
        return steps + self._linear("skip", rows)[..., None]

    def _itransformer(
        self,
        rows: np.ndarray,
        past: np.ndarray | None,
        future: np.ndarray | None,
        static: np.ndarray | None,
    ) -> np.ndarray:
        """Forecast all components together: (N, C, L) -> (N, C, T, Q)."""
        n, components, _ = rows.shape
        tokens = self._linear("embedding.0", rows)
        if static is not None:
            tokens += self._linear("static", static)
        for name, covariates in (("past", past), ("future", future)):
            if covariates is not None:
                more = self._linear(name, np.ascontiguousarray(covariates.transpose(0, 2, 1)))
                tokens = np.concatenate([tokens, more], axis=1)
        for i in range(self.sizes["n_layers"]):
            layer = f"encoder.layers.{i}"
            tokens = self._normalise(f"{layer}.norm1", tokens + self._attend(layer, tokens))
            wide = gelu(self._linear(f"{layer}.linear1", tokens))
            narrow = self._linear(f"{layer}.linear2", wide)
            tokens = self._normalise(f"{layer}.norm2", tokens + narrow)
        hidden = self._normalise("encoder.norm", tokens[:, :components])
        return self._linear("head", hidden).reshape(n, components, *self._head_shape)

    def _attend(self, layer: str, tokens: np.ndarray) -> np.ndarray:
        """Let each token look at all: (N, S, d) -> (N, S, d)."""
        n, n_tokens, size = tokens.shape
        n_heads = self.sizes["n_heads"]
        weight = self.arrays[f"{layer}.self_attn.in_proj_weight"]
        parts = tokens.reshape(-1, size) @ weight.T + self.arrays[f"{layer}.self_attn.in_proj_bias"]
        parts = parts.reshape(n, n_tokens, 3, n_heads, size // n_heads)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)  # each (N, heads, S, d / heads)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size // n_heads))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(n, n_tokens, size)
        return self._linear(f"{layer}.self_attn.out_proj", mixed)

    def _linear(self, name: str, values: np.ndarray) -> np.ndarray:
        """Apply a linear layer to the last axis."""
        weight = self.arrays[f"{name}.weight"]
        # One product: NumPy multiplies stacks of matrices one by one.
        made = values.reshape(-1, values.shape[-1]) @ weight.T
        bias = self.arrays.get(f"{name}.bias")
        if bias is not None:
            made += bias
        return made.reshape(*values.shape[:-1], len(weight))

    def _normalise(self, name: str, values: np.ndarray) -> np.ndarray:
        """Bring the last axis to mean 0 and deviation 1, then scale and move it."""
        values = values - values.mean(axis=-1, keepdims=True)
        variance = np.einsum("...d,...d->...", values, values)[..., None] / values.shape[-1]
        values /= np.sqrt(variance + np.float32(1e-5))
        values *= self.arrays[f"{name}.weight"]
        values += self.arrays[f"{name}.bias"]
        return values


def gelu(values: np.ndarray) -> np.ndarray:
    """Return ``x / 2 * (1 + erf(x / sqrt(2)))``.

    NumPy has no error function. This one is formula 7.1.26 of Abramowitz and Stegun, which is
    off by at most 1.5e-7, what float32 can tell.

    Parameters
    ----------
    values : numpy.ndarray of float32

    Returns
    -------
    numpy.ndarray of float32

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0], np.float32)).round(4)
    array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """
    size = np.abs(values) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.float32(1.061405429) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    tail = series * np.exp(-size * size)  # 1 - erf(|x| / sqrt(2))
    # x * (1 - tail / 2) right of zero, x * tail / 2 left of it.
    return np.maximum(values, 0) - np.abs(values) * tail * np.float32(0.5)


def array_shapes(
    kind: str,
    sizes: Mapping[str, int],
    input_chunk_length: int,
    output_chunk_length: int,
    n_quantiles: int = 1,
    n_covariates: tuple[int, int, int] = (0, 0, 0),
) -> dict[str, tuple[int, ...]]:
    """Return the arrays that a network consists of, by name.

    Parameters
    ----------
    kind : {"mlp", "itransformer"}
    sizes : dict of str to int
    input_chunk_length, output_chunk_length, n_quantiles : int
    n_covariates : tuple of int
        Past, future and static ones.

    Returns
    -------
    dict of str to tuple of int

    Raises
    ------
    ValueError
        If there is no such kind, or it has other sizes.

    Examples
    --------
    >>> array_shapes("mlp", {"hidden_size": 2, "n_blocks": 0}, 8, 3)["skip.weight"]
    (3, 8)
    """
    if kind not in SIZES or set(sizes) != set(SIZES[kind]):
        raise ValueError(
            f"A student of kind {kind!r} has no sizes {sorted(sizes)}; kinds and their sizes: "
            f"{SIZES}."
        )
    length, steps = input_chunk_length, output_chunk_length
    n_past, n_future, n_static = n_covariates
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, n_inputs: int, n_outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (n_outputs, n_inputs)
        if bias:
            shapes[f"{name}.bias"] = (n_outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    if kind == "mlp":
        hidden = sizes["hidden_size"]
        n_inputs = length + n_static
        for name, n, span in (("past", n_past, length), ("future", n_future, length + steps)):
            if n:
                linear(name, n, min(n, STEP_SIZE))
                n_inputs += min(n, STEP_SIZE) * span
        linear("skip", length, steps, bias=False)
        linear("embedding", n_inputs, hidden)
        for i in range(sizes["n_blocks"]):
            norm(f"blocks.{i}.0", hidden)
            linear(f"blocks.{i}.1", hidden, 2 * hidden)
            linear(f"blocks.{i}.4", 2 * hidden, hidden)
        norm("norm", hidden)
        linear("head", hidden, steps * n_quantiles)
        return shapes
    size = sizes["d_model"]
    if size % sizes["n_heads"]:
        raise ValueError(f"d_model={size} is no multiple of n_heads={sizes['n_heads']}.")
    linear("embedding.0", length, size)
    for name, n, n_inputs in (
        ("past", n_past, length),
        ("future", n_future, length + steps),
        ("static", n_static, n_static),
    ):
        if n:
            linear(name, n_inputs, size)
    for i in range(sizes["n_layers"]):
        layer = f"encoder.layers.{i}"
        shapes[f"{layer}.self_attn.in_proj_weight"] = (3 * size, size)
        shapes[f"{layer}.self_attn.in_proj_bias"] = (3 * size,)
        linear(f"{layer}.self_attn.out_proj", size, size)
        linear(f"{layer}.linear1", size, sizes["d_ff"])
        linear(f"{layer}.linear2", sizes["d_ff"], size)
        norm(f"{layer}.norm1", size)
        norm(f"{layer}.norm2", size)
    norm("encoder.norm", size)
    linear("head", size, steps * n_quantiles)
    return shapes
