"""The MLP and the iTransformer: their arrays, and their forward passes.

A forward pass is written once, over a small set of operations. In NumPy
(:class:`NumpyOperations`) an operation takes and returns arrays; in an ONNX graph
(:mod:`distilts_forecaster.runtime.onnx`) it adds a node and returns the name of its result. The
networks are described where they are trained, in :mod:`distilts_forecaster.students.networks`;
their arrays have the names that torch gives them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["SIZES", "STEP_SIZE", "Architecture", "NumpyOperations", "Operations", "gelu"]

#: The sizes of a network, by its kind.
SIZES = {
    "itransformer": ("d_model", "n_heads", "d_ff", "n_layers"),
    "mlp": ("hidden_size", "n_blocks"),
}

#: Size that the MLP reduces the covariates of one step to.
STEP_SIZE = 4

Arrays = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Operations(Protocol):
    """What the forward passes are made of.

    A ``value`` is an array or stands for one. :meth:`add` may overwrite its first value.
    """

    def linear(self, value: Any, weight: np.ndarray, bias: np.ndarray | None = None) -> Any:
        """Multiply the last axis by a matrix (outputs, inputs), and add the bias."""

    def layer_norm(self, value: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
        """Bring the last axis to mean 0 and variance 1, multiply by weight, add bias."""

    def gelu(self, value: Any) -> Any:
        """Return ``x / 2 * (1 + erf(x / sqrt(2)))``."""

    def add(self, value: Any, other: Any) -> Any:
        """Add two values; the second is broadcast to the first."""

    def concatenate(self, values: Sequence[Any], axis: int) -> Any:
        """Join values along an axis."""

    def reshape(self, value: Any, *shape: int) -> Any:
        """Reshape; 0 keeps the size at that place."""

    def transpose(self, value: Any, *axes: int) -> Any:
        """Permute the axes."""

    def take(self, value: Any, place: int) -> Any:
        """Return one place of the first axis."""

    def drop_last(self, value: Any, count: int) -> Any:
        """Leave out the last ``count`` places of the second axis."""

    def attend(self, query: Any, key: Any, value: Any, scale: float) -> Any:
        """Return ``softmax(scale * query @ key.T) @ value`` over the last two axes."""


@dataclass(frozen=True)
class Architecture:
    """A network without its fitted arrays: kind, sizes and shapes.

    ``sizes`` are those of :data:`SIZES`, ``n_covariates`` past, future and static ones: P, F and S.
    ValueError if there is no such kind, or it has other sizes.

    >>> sizes = {"hidden_size": 2, "n_blocks": 0}
    >>> Architecture("mlp", sizes, 8, 3).array_shapes()["skip.weight"]
    (3, 8)
    """

    kind: str
    sizes: Mapping[str, int]
    input_chunk_length: int
    output_chunk_length: int
    n_quantiles: int = 1
    n_covariates: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        """Check the kind and its sizes."""
        if self.kind not in SIZES or set(self.sizes) != set(SIZES[self.kind]):
            raise ValueError(
                f"A student of kind {self.kind!r} has no sizes {sorted(self.sizes)}; kinds and "
                f"their sizes: {SIZES}."
            )
        if self.kind == "itransformer" and self.sizes["d_model"] % self.sizes["n_heads"]:
            raise ValueError(
                f"d_model={self.sizes['d_model']} is no multiple of "
                f"n_heads={self.sizes['n_heads']}."
            )

    def array_shapes(self) -> Shapes:
        """Return the shape of each array by its name."""
        return _mlp_shapes(self) if self.kind == "mlp" else _itransformer_shapes(self)

    def run(self, ops: Operations, arrays: Arrays, rows: Any, covariates: Sequence[Any]) -> Any:
        """Forecast from contexts of mean 0 and standard deviation 1: (N, C, L) -> (N, C, T, Q).

        Covariates are standardised: past (N, L, P), future (N, L + T, F), static (N, C, S), or
        None.
        """
        run = _run_mlp if self.kind == "mlp" else _run_itransformer
        return run(self, ops, arrays, rows, *covariates)


def _linear_shapes(name: str, n_inputs: int, n_outputs: int) -> Shapes:
    """Return the shapes of a linear layer."""
    return {f"{name}.weight": (n_outputs, n_inputs), f"{name}.bias": (n_outputs,)}


def _norm_shapes(name: str, size: int) -> Shapes:
    """Return the shapes of a layer normalisation."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _mlp_shapes(of: Architecture) -> Shapes:
    """Return the shapes of the MLP's arrays."""
    length, steps, hidden = of.input_chunk_length, of.output_chunk_length, of.sizes["hidden_size"]
    n_past, n_future, n_static = of.n_covariates
    shapes: Shapes = {"skip.weight": (steps, length)}
    n_inputs = length + n_static
    for name, n, span in (("past", n_past, length), ("future", n_future, length + steps)):
        if n:
            shapes |= _linear_shapes(name, n, min(n, STEP_SIZE))
            n_inputs += min(n, STEP_SIZE) * span
    shapes |= _linear_shapes("embedding", n_inputs, hidden)
    for i in range(of.sizes["n_blocks"]):
        shapes |= _norm_shapes(f"blocks.{i}.0", hidden)
        shapes |= _linear_shapes(f"blocks.{i}.1", hidden, 2 * hidden)
        shapes |= _linear_shapes(f"blocks.{i}.4", 2 * hidden, hidden)
    return (
        shapes
        | _norm_shapes("norm", hidden)
        | _linear_shapes("head", hidden, steps * of.n_quantiles)
    )


def _itransformer_shapes(of: Architecture) -> Shapes:
    """Return the shapes of the iTransformer's arrays."""
    length, steps, size = of.input_chunk_length, of.output_chunk_length, of.sizes["d_model"]
    n_past, n_future, n_static = of.n_covariates
    shapes = _linear_shapes("embedding.0", length, size)
    for name, n, n_inputs in (
        ("past", n_past, length),
        ("future", n_future, length + steps),
        ("static", n_static, n_static),
    ):
        if n:
            shapes |= _linear_shapes(name, n_inputs, size)
    for i in range(of.sizes["n_layers"]):
        layer = f"encoder.layers.{i}"
        shapes[f"{layer}.self_attn.in_proj_weight"] = (3 * size, size)
        shapes[f"{layer}.self_attn.in_proj_bias"] = (3 * size,)
        shapes |= _linear_shapes(f"{layer}.self_attn.out_proj", size, size)
        shapes |= _linear_shapes(f"{layer}.linear1", size, of.sizes["d_ff"])
        shapes |= _linear_shapes(f"{layer}.linear2", of.sizes["d_ff"], size)
        shapes |= _norm_shapes(f"{layer}.norm1", size) | _norm_shapes(f"{layer}.norm2", size)
    head = _linear_shapes("head", size, steps * of.n_quantiles)
    return shapes | _norm_shapes("encoder.norm", size) | head


def _layer(ops: Operations, arrays: Arrays, name: str, value: Any) -> Any:
    """Apply a linear layer by its name."""
    return ops.linear(value, arrays[f"{name}.weight"], arrays[f"{name}.bias"])


def _norm(ops: Operations, arrays: Arrays, name: str, value: Any) -> Any:
    """Apply a layer normalisation by its name."""
    return ops.layer_norm(value, arrays[f"{name}.weight"], arrays[f"{name}.bias"])


def _run_mlp(
    of: Architecture,
    ops: Operations,
    arrays: Arrays,
    rows: Any,
    past: Any,
    future: Any,
    static: Any,
) -> Any:
    """Forecast each component by itself: (N, C, L) -> (N, C, T, Q)."""
    length, steps = of.input_chunk_length, of.output_chunk_length
    # Each input has its own columns of the embedding, so that what all components share (past
    # and future covariates) is multiplied once.
    weight, start = arrays["embedding.weight"], length
    hidden = ops.linear(rows, weight[:, :length], arrays["embedding.bias"])
    if static is not None:
        start += of.n_covariates[2]
        hidden = ops.add(hidden, ops.linear(static, weight[:, length:start]))
    for name, values, span in (("past", past, length), ("future", future, length + steps)):
        if values is not None:
            size = span * len(arrays[f"{name}.weight"])
            flat = ops.reshape(_layer(ops, arrays, name, values), 0, 1, size)
            hidden = ops.add(hidden, ops.linear(flat, weight[:, start : start + size]))
            start += size
    for i in range(of.sizes["n_blocks"]):
        wide = _layer(ops, arrays, f"blocks.{i}.1", _norm(ops, arrays, f"blocks.{i}.0", hidden))
        hidden = ops.add(hidden, _layer(ops, arrays, f"blocks.{i}.4", ops.gelu(wide)))
    made = _layer(ops, arrays, "head", _norm(ops, arrays, "norm", hidden))
    skip = ops.reshape(ops.linear(rows, arrays["skip.weight"]), 0, 0, steps, 1)
    return ops.add(ops.reshape(made, 0, 0, steps, of.n_quantiles), skip)


def _run_itransformer(
    of: Architecture,
    ops: Operations,
    arrays: Arrays,
    rows: Any,
    past: Any,
    future: Any,
    static: Any,
) -> Any:
    """Forecast all components together, each of them a token: (N, C, L) -> (N, C, T, Q)."""
    tokens = _layer(ops, arrays, "embedding.0", rows)
    if static is not None:
        tokens = ops.add(tokens, _layer(ops, arrays, "static", static))
    for name, values in (("past", past), ("future", future)):
        if values is not None:
            more = _layer(ops, arrays, name, ops.transpose(values, 0, 2, 1))
            tokens = ops.concatenate([tokens, more], axis=1)
    for i in range(of.sizes["n_layers"]):
        layer = f"encoder.layers.{i}"
        attended = _self_attention(of, ops, arrays, f"{layer}.self_attn", tokens)
        tokens = _norm(ops, arrays, f"{layer}.norm1", ops.add(attended, tokens))
        wide = ops.gelu(_layer(ops, arrays, f"{layer}.linear1", tokens))
        narrow = _layer(ops, arrays, f"{layer}.linear2", wide)
        tokens = _norm(ops, arrays, f"{layer}.norm2", ops.add(narrow, tokens))
    of_components = ops.drop_last(tokens, sum(of.n_covariates[:2]))
    made = _layer(ops, arrays, "head", _norm(ops, arrays, "encoder.norm", of_components))
    return ops.reshape(made, 0, 0, of.output_chunk_length, of.n_quantiles)


def _self_attention(
    of: Architecture, ops: Operations, arrays: Arrays, name: str, tokens: Any
) -> Any:
    """Let each token look at all: (N, S, d) -> (N, S, d)."""
    size, n_heads = of.sizes["d_model"], of.sizes["n_heads"]
    weight, bias = arrays[f"{name}.in_proj_weight"], arrays[f"{name}.in_proj_bias"]
    parts = ops.reshape(ops.linear(tokens, weight, bias), 0, 0, 3, n_heads, size // n_heads)
    parts = ops.transpose(parts, 2, 0, 3, 1, 4)  # (3, N, heads, S, d / heads)
    query, key, value = (ops.take(parts, place) for place in range(3))
    mixed = ops.attend(query, key, value, (size // n_heads) ** -0.5)
    mixed = ops.reshape(ops.transpose(mixed, 0, 2, 1, 3), 0, 0, size)
    return _layer(ops, arrays, f"{name}.out_proj", mixed)


class NumpyOperations:
    """:class:`Operations` on NumPy arrays of float32."""

    def linear(
        self, value: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> np.ndarray:
        """Multiply the last axis by a matrix (outputs, inputs), and add the bias."""
        # One product: NumPy multiplies stacks of matrices one by one.
        made = value.reshape(-1, value.shape[-1]) @ weight.T
        if bias is not None:
            made += bias
        return made.reshape(*value.shape[:-1], len(weight))

    def layer_norm(self, value: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Bring the last axis to mean 0 and variance 1, multiply by weight, add bias."""
        centred = value - value.mean(axis=-1, keepdims=True)
        variance = np.einsum("...d,...d->...", centred, centred)[..., None] / value.shape[-1]
        centred /= np.sqrt(variance + np.float32(1e-5))
        centred *= weight
        centred += bias
        return centred

    def gelu(self, value: np.ndarray) -> np.ndarray:
        """Return ``x / 2 * (1 + erf(x / sqrt(2)))``."""
        return gelu(value)

    def add(self, value: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Add the second value to the first, in place."""
        value += other
        return value

    def concatenate(self, values: Sequence[np.ndarray], axis: int) -> np.ndarray:
        """Join arrays along an axis."""
        return np.concatenate(values, axis=axis)

    def reshape(self, value: np.ndarray, *shape: int) -> np.ndarray:
        """Reshape; 0 keeps the size at that place."""
        return value.reshape([n or value.shape[i] for i, n in enumerate(shape)])

    def transpose(self, value: np.ndarray, *axes: int) -> np.ndarray:
        """Permute the axes."""
        return value.transpose(axes)

    def take(self, value: np.ndarray, place: int) -> np.ndarray:
        """Return one place of the first axis."""
        return value[place]

    def drop_last(self, value: np.ndarray, count: int) -> np.ndarray:
        """Leave out the last ``count`` places of the second axis."""
        return value[:, : value.shape[1] - count]

    def attend(
        self, query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float
    ) -> np.ndarray:
        """Return ``softmax(scale * query @ key.T) @ value`` over the last two axes."""
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32(scale)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (scores / scores.sum(axis=-1, keepdims=True)) @ value


def gelu(values: np.ndarray) -> np.ndarray:
    """Return ``x / 2 * (1 + erf(x / sqrt(2)))``, in float32.

    NumPy has no error function. This one is formula 7.1.26 of Abramowitz and Stegun, whose error is
    1.5e-7 at most: as precise as float32.

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
