"""Students as ONNX graphs: they run in onnxruntime, in any language, without this package.

The graph is all of the student: the scaling of the context, the network, the quantiles in
order. Only gaps are not filled: NaN in, NaN out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import extra_for
from distilts_forecaster.runtime.covariates import KINDS, CovariateScales
from distilts_forecaster.runtime.effects import Effects, recent_spans
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.networks import NetworkForecaster
from distilts_forecaster.runtime.quantiles import interpolate_levels

__all__ = ["OPSET", "Export", "export_onnx"]

#: Version of the operators: the first with layer normalisation, of 2022. Every onnxruntime since
#: 1.12 runs it.
OPSET = 17
_IR_VERSION = 8

#: How far a graph may be from the student, in units of the context's standard deviation. A
#: float16 has 11 bits and an int8 8 of them: weights are off by 1/2048 and 1/254 of the largest
#: at most, and errors of hundreds of weights average out.
_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.1}

#: Arrays of fewer numbers stay as they are, whatever the precision.
_SMALL = 1024

_COVARIATES = tuple(f"{kind}_covariates" for kind in KINDS)


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes
    ----------
    path : pathlib.Path
    opset : int
    precision : str
        Of the weights.
    size : int
        Bytes of the file.
    inputs, outputs : dict of str to tuple
        Names and shapes; names in them can have any size. ``context`` is (N, L, C), float32 and
        without gaps, ``forecast`` (N, T, C), and ``quantiles`` (N, T, C, Q).
    quantile_levels : tuple of float
        Of the output ``quantiles``; empty for a point forecast.
    largest_difference, rms_difference : float
        Differences between the graph, run by onnxruntime, and the student, in forecasts and
        quantiles of random contexts, in units of each context's standard deviation.
    """

    path: Path
    opset: int
    precision: str
    size: int
    inputs: dict[str, tuple[str | int, ...]]
    outputs: dict[str, tuple[str | int, ...]]
    quantile_levels: tuple[float, ...]
    largest_difference: float
    rms_difference: float


def export_onnx(
    student: Forecaster,
    path: str | os.PathLike,
    quantile_levels: Sequence[float] | None = None,
    precision: str = "float32",
) -> Export:
    """Export a student as an ONNX graph, and compare the two.

    Parameters
    ----------
    student : Forecaster
        Any fitted student. A module of the user's own needs onnxscript too.
    path : path-like
        Where to write; nothing is left there if it fails.
    quantile_levels : sequence of float, optional
        Levels of the output ``quantiles``, increasing; by default the student's. An empty list
        leaves the output out, which is faster.
    precision : {"float32", "float16", "int8"}, default "float32"
        Of the weights in the file: half or a quarter of the bytes. They are turned into float32
        when the graph is loaded, so that nothing becomes slower, and no window's forecast depends
        on the others in its batch (as with activations in int8).

    Returns
    -------
    Export

    Raises
    ------
    ValueError
        If levels, path or precision are invalid, a module of the user's own is to be exported in
        another precision than float32, or the graph's forecasts differ from the student's.
    ImportError
        If onnx or onnxruntime are not installed.

    Examples
    --------
    >>> import tempfile
    >>> student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = export_onnx(student, f"{folder}/student.onnx")  # needs the extra "onnx"
    >>> made.outputs
    {'forecast': ('N', 2, 'C')}
    """
    with extra_for("export_onnx", "onnx"):
        import onnx
        import onnxruntime
    if precision not in _TOLERANCES:
        raise ValueError(f"precision must be one of {', '.join(_TOLERANCES)}; got {precision!r}.")
    levels = _check_levels(student, quantile_levels)
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"{target} must be a file in a directory that exists.")
    if isinstance(student, (LinearForecaster, NetworkForecaster)):
        model = _Graph(student, levels, precision).model
    elif precision != "float32":
        raise ValueError(f"A module of your own is exported as it is, in float32, not {precision}.")
    else:
        model = _trace(student, levels)
    onnx.helper.set_model_props(
        model,
        {
            "input_chunk_length": str(student.input_chunk_length),
            "output_chunk_length": str(student.output_chunk_length),
            "output_chunk_shift": str(student.output_chunk_shift),
            "quantile_levels": " ".join(f"{level:g}" for level in levels),
            "precision": precision,
        },
    )
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = _compare(student, levels, session)
    largest = float(np.abs(differences).max())
    if not largest <= _TOLERANCES[precision]:
        raise ValueError(
            f"The graph is off by {largest:.2g} of a context's standard deviation; with "
            f"{precision} at most {_TOLERANCES[precision]:g} is right: nothing was written."
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as folder:
        (Path(folder) / target.name).write_bytes(content)
        os.replace(Path(folder) / target.name, target)
    return Export(
        path=target,
        opset=model.opset_import[0].version,
        precision=precision,
        size=len(content),
        inputs={one.name: tuple(one.shape) for one in session.get_inputs()},
        outputs={one.name: tuple(one.shape) for one in session.get_outputs()},
        quantile_levels=levels,
        largest_difference=largest,
        rms_difference=float(np.sqrt(np.mean(differences**2))),
    )


def _check_levels(student: Forecaster, given: Sequence[float] | None) -> tuple[float, ...]:
    """Return the levels to export, none for a point forecast."""
    if student.error_quantiles is None:
        if given is not None:
            raise ValueError("This student forecasts points only: leave quantile_levels out.")
        return ()
    levels = tuple(map(float, student.error_quantiles.levels if given is None else given))
    if not all(0 < a < 1 for a in levels) or list(levels) != sorted(set(levels)):
        raise ValueError(f"quantile_levels must increase between 0 and 1, got {levels}.")
    return levels


def _input_shapes(student: Forecaster) -> dict[str, tuple[str | int, ...]]:
    """Return names and shapes of what goes in."""
    length, steps = student.input_chunk_length, student.output_chunk_length
    components: str | int = "C" if student.n_components is None else student.n_components
    shapes: dict[str, tuple[str | int, ...]] = {"context": ("N", length, components)}
    rows: tuple[tuple[str | int, ...], ...] = (("N", length), ("N", length + steps))
    for name, row, count in zip(
        _COVARIATES, (*rows, ("N", components)), student.n_covariates, strict=True
    ):
        if count:
            shapes[name] = (*row, count)
    return shapes


def _compare(student: Forecaster, levels: tuple[float, ...], session: Any) -> np.ndarray:
    """Return the graph's answers less the student's, in units of the contexts' stds."""
    rng = np.random.default_rng(0)
    components = student.n_components or 2
    differences = []
    for n, level in ((1, 0.0), (5, 100.0), (2, -100.0)):
        named: dict[str | int, Any] = {"N": n, "C": components}
        given = {
            name: rng.normal(size=[named.get(size, size) for size in shape])
            for name, shape in _input_shapes(student).items()
        }
        walks = given["context"] + rng.normal(size=given["context"].shape).cumsum(axis=1)
        given["context"] = walks / walks.std(axis=1, keepdims=True) + level
        for name, scale in zip(_COVARIATES, _scales(student).by_kind(), strict=True):
            if scale is not None:
                given[name] = scale[0] + scale[1] * given[name]
        given = {name: values.astype(np.float32) for name, values in given.items()}
        made = dict(zip(("forecast", "quantiles"), session.run(None, given), strict=False))
        contexts = given.pop("context").astype(np.float64)
        known: dict[str, Any] = given
        std = contexts.std(axis=1)[:, None]
        expected = student.predict(contexts, **known)
        differences.append(((made["forecast"] - expected) / std).ravel())
        if levels:
            expected = student.predict_quantiles(contexts, quantile_levels=levels, **known)
            off = (made["quantiles"] - expected) / std[..., None]
            differences.append(off.ravel())
    return np.concatenate(differences)


def _scales(student: Forecaster) -> CovariateScales:
    """Return the scales of a student's covariates."""
    of = student.effects if isinstance(student, LinearForecaster) else student
    return getattr(of, "scales", CovariateScales())


class _Graph:
    """The graph of a student, node by node. Names are those of the results."""

    def __init__(
        self,
        student: LinearForecaster | NetworkForecaster,
        levels: tuple[float, ...],
        precision: str,
    ) -> None:
        import onnx

        self.student, self.precision = student, precision
        self._helper, self._numpy = onnx.helper, onnx.numpy_helper
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []
        outputs = self._build(student, levels)
        for name in outputs:
            self._nodes.append(onnx.helper.make_node("Identity", [outputs[name]], [name]))
        components = _input_shapes(student)["context"][2]
        shape = ("N", student.output_chunk_length, components)
        shapes = {"forecast": shape, "quantiles": (*shape, len(levels))}
        inputs, results = (
            [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                for name, shape in some.items()
            ]
            for some in (_input_shapes(student), {name: shapes[name] for name in outputs})
        )
        graph = onnx.helper.make_graph(self._nodes, "student", inputs, results, self._arrays)
        self.model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="distilts-forecaster",
        )

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = f"{kind}_{len(self._nodes)}"
        # Named, since onnxruntime before 1.22 gives the nodes that it adds the same name otherwise.
        node = self._helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        self._nodes.append(node)
        return name

    def array(self, values: Any, dtype: Any = np.float32) -> str:
        """Add an array and return its name."""
        name = f"array_{len(self._arrays)}"
        self._arrays.append(self._numpy.from_array(np.asarray(values, dtype), name))
        return name

    def weights(self, values: np.ndarray) -> str:
        """Add a matrix (..., inputs, outputs) at the precision that was asked for."""
        if self.precision == "float32" or values.size < _SMALL:
            return self.array(values)
        if self.precision == "float16":
            return self.op("Cast", self.array(values, np.float16), to=1)
        axis = values.ndim - 1
        scale = np.abs(values).max(axis=tuple(range(axis))) / 127
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        rounded = self.array(np.rint(values / scale), np.int8)
        zero = self.array(np.zeros(len(scale)), np.int8)
        return self.op("DequantizeLinear", rounded, self.array(scale), zero, axis=axis)

    def reshape(self, name: str, *shape: int) -> str:
        """Reshape; 0 keeps a size, -1 is what is left."""
        return self.op("Reshape", name, self.array(shape, np.int64))

    def cut(self, name: str, axis: int, start: int, stop: int = 2**31) -> str:
        """Cut a part of one axis."""
        places = [self.array([value], np.int64) for value in (start, stop, axis)]
        return self.op("Slice", name, *places)

    # The operations of a forward pass, see distilts_forecaster.runtime.forward.Operations.

    def linear(self, value: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Multiply the last axis by a matrix (outputs, inputs), and add the bias."""
        made = self.op("MatMul", value, self.weights(weight.T))
        return made if bias is None else self.op("Add", made, self.array(bias))

    def layer_norm(self, value: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Bring the last axis to mean 0 and variance 1, multiply by weight, add bias."""
        both = self.array(weight), self.array(bias)
        return self.op("LayerNormalization", value, *both, epsilon=1e-5)

    def gelu(self, value: str) -> str:
        """Return ``x / 2 * (1 + erf(x / sqrt(2)))``."""
        tail = self.op("Erf", self.op("Mul", value, self.array(np.sqrt(0.5))))
        both = self.op("Mul", value, self.op("Add", tail, self.array(1.0)))
        return self.op("Mul", both, self.array(0.5))

    def add(self, value: str, other: str) -> str:
        """Add two values."""
        return self.op("Add", value, other)

    def concatenate(self, values: Sequence[str], axis: int) -> str:
        """Join values along an axis."""
        return self.op("Concat", *values, axis=axis)

    def transpose(self, value: str, *axes: int) -> str:
        """Permute the axes."""
        return self.op("Transpose", value, perm=list(axes))

    def take(self, value: str, place: int) -> str:
        """Return one place of the first axis."""
        return self.op("Gather", value, self.array(place, np.int64), axis=0)

    def drop_last(self, value: str, count: int) -> str:
        """Leave out the last ``count`` places of the second axis."""
        return self.cut(value, 1, 0, -count) if count else value

    def attend(self, query: str, key: str, value: str, scale: float) -> str:
        """Return ``softmax(scale * query @ key.T) @ value`` over the last two axes."""
        scores = self.op(
            "MatMul", self.op("Mul", query, self.array(scale)), self.transpose(key, 0, 1, 3, 2)
        )
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), value)

    def _build(
        self, student: LinearForecaster | NetworkForecaster, levels: tuple[float, ...]
    ) -> dict[str, str]:
        """Add everything, and return the results' names."""
        rows = self.op("Transpose", "context", perm=[0, 2, 1])  # (N, C, L)
        # The last value is subtracted here and added at the end: float32 stays precise.
        last = self.cut(rows, 2, -1)
        moved = self.op("Sub", rows, last)
        mean = self.op("ReduceMean", moved, axes=[2])
        centred = self.op("Sub", moved, mean)
        std = self._std(moved)
        wide = self.reshape(std, 0, 0, 1, 1)
        if isinstance(student, LinearForecaster):
            central = self._linear_steps(student, moved, std)  # (N, C, T, 1)
        else:
            varies = self.op("Greater", std, self.array(0.0))
            unit = self.op("Where", varies, std, self.array(1.0))
            central = self._network(student, self.op("Div", centred, unit))
            central = self.op("Mul", central, wide)
            central = self.op("Add", central, self.reshape(mean, 0, 0, 1, 1))
            central = self._sort(central, len(student.quantile_levels))
        results = {"forecast": self._median(student, central)}
        if levels and student.error_quantiles is not None:
            known = student.error_quantiles.levels
            between = interpolate_levels(np.eye(len(known)), known, levels)
            offsets = student.error_quantiles.offsets.astype(np.float64)
            if student.error_quantiles.scale_steps:
                recent = self.cut(rows, 2, -student.error_quantiles.scale_steps)
                wide = self.reshape(self._std(self.op("Sub", recent, last)), 0, 0, 1, 1)
            if isinstance(student, LinearForecaster):
                widths = self.op("Mul", wide, self.array(offsets @ between))
                results["quantiles"] = self.op("Add", central, widths)
            else:
                widths = self.op("Mul", wide, self.array(offsets))
                n_levels = len(known)
                made = self._sort(self.op("Add", central, widths), n_levels)
                if known != levels:
                    made = self.op("MatMul", made, self.array(between))
                results["quantiles"] = made
        level = self.reshape(last, 0, 0, 1, 1)
        for name, made in results.items():
            placed = self.op("Add", made, level)
            if student.nonnegative:
                placed = self.op("Relu", placed)
            placed = self.op("Transpose", placed, perm=[0, 2, 1, 3])
            if name == "forecast":
                placed = self.op("Squeeze", placed, self.array([3], np.int64))
            results[name] = placed
        return results

    def _std(self, rows: str) -> str:
        """Return the standard deviation of rows (N, C, L): (N, C, 1)."""
        centred = self.op("Sub", rows, self.op("ReduceMean", rows, axes=[2]))
        return self.op("Sqrt", self.op("ReduceMean", self.op("Mul", centred, centred), axes=[2]))

    def _median(self, student: LinearForecaster | NetworkForecaster, central: str) -> str:
        """Return the forecast itself: (N, C, T, 1)."""
        if isinstance(student, LinearForecaster) or len(student.quantile_levels) == 1:
            return central
        place = student.quantile_levels.index(0.5)
        return self.cut(central, 3, place, place + 1)

    def _sort(self, name: str, n: int) -> str:
        """Sort the last axis, of n values."""
        if n == 1:
            return name
        made = f"sorted_{len(self._nodes)}"
        count = self.array([n], np.int64)
        self._nodes.append(
            self._helper.make_node("TopK", [name, count], [made, f"{made}_places"], largest=0)
        )
        return made

    def _linear_steps(self, student: LinearForecaster, moved: str, std: str) -> str:
        """Add a linear student: (N, C, L), less the last value -> (N, C, T, 1)."""
        folded = student.folded
        if len(folded) == 1:
            steps = self.op("MatMul", moved, self.weights(folded[0]))
        else:
            rows = self.op("Unsqueeze", moved, self.array([2], np.int64))
            steps = self.op("MatMul", rows, self.weights(folded))  # (N, C, 1, T)
            steps = self.op("Squeeze", steps, self.array([2], np.int64))
        if student.effects is not None:
            effects, units = student.effects, [std]
            if effects.unit is not None:
                units = [self.array(effects.unit[:, None]), std]  # (C or 1, 1)
            features = self._effect_features(effects, folded.mean(axis=0))
            for weights, unit in zip(effects.weights_by_unit(), units, strict=True):
                effect = self._effect(features, weights)  # (N, T, C or 1)
                effect = self.op("Transpose", effect, perm=[0, 2, 1])
                steps = self.op("Add", steps, self.op("Mul", effect, unit))
        return self.op("Unsqueeze", steps, self.array([3], np.int64))

    def _standardised(self, name: str, scale: np.ndarray) -> str:
        """Bring covariates to mean 0 and standard deviation 1."""
        return self.op("Div", self.op("Sub", name, self.array(scale[0])), self.array(scale[1]))

    def _effect_features(self, effects: Effects, folded: np.ndarray) -> list[tuple[str, str, int]]:
        """Add features of covariates, see Effects: each with its equation, and their number."""
        length, steps = folded.shape
        parts = []
        if effects.scales.future is not None and effects.knots is not None:
            values = self._standardised("future_covariates", effects.scales.future)
            which, at = np.nonzero(np.isfinite(effects.knots))
            if len(which):
                bent = self.op("Gather", values, self.array(which, np.int64), axis=2)
                bent = self.op("Sub", bent, self.array(effects.knots[which, at]))
                values = self.op("Concat", values, self.op("Relu", bent), axis=2)
            columns = self.op("Transpose", values, perm=[0, 2, 1])
            # The matrix's forecast of them, with the mean folded in as for the target.
            expected = self.op("MatMul", self.cut(columns, 2, 0, length), self.weights(folded))
            innovation = self.op("Sub", self.cut(columns, 2, length, length + steps), expected)
            n = effects.scales.future.shape[1] + len(which)
            parts.append(("nbt,ctb->ntc", innovation, n))
        if effects.scales.past is not None:
            values = self._standardised("past_covariates", effects.scales.past)
            spans = recent_spans(length)
            recent = (np.arange(length)[:, None] >= length - spans) / spans - 1 / length
            means = self.op("Einsum", values, self.array(recent), equation="nlp,lm->nmp")
            n = effects.scales.past.shape[1] * len(spans)
            parts.append(("nb,ctb->ntc", self.reshape(means, 0, n), n))
        if effects.scales.static is not None:
            values = self._standardised("static_covariates", effects.scales.static)
            parts.append(("ncb,ctb->ntc", values, effects.scales.static.shape[1]))
        return parts

    def _effect(self, features: list[tuple[str, str, int]], weights: np.ndarray) -> str:
        """Add what covariates add, in one unit: (N, T, C or 1)."""
        total, start = "", 0
        for equation, values, n in features:
            own = weights[..., start : start + n]
            start += n
            if equation == "ncb,ctb->ntc" and len(own) == 1:  # as many components as values has
                equation, own = "ncb,tb->ntc", own[0]
            made = self.op("Einsum", values, self.array(own), equation=equation)
            total = self.op("Add", total, made) if total else made
        return total

    def _network(self, student: NetworkForecaster, rows: str) -> str:
        """Add a network: scaled contexts (N, C, L) -> (N, C, T, Q)."""
        covariates = [
            None if scale is None else self._standardised(name, scale)
            for name, scale in zip(_COVARIATES, student.scales.by_kind(), strict=True)
        ]
        return student.architecture.run(self, student.arrays, rows, covariates)


def _trace(student: Any, levels: tuple[float, ...]) -> Any:
    """Export a module of the user's own with torch, with the same scaling around it."""
    import torch

    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "To export a module of your own torch needs onnxscript: pip install onnxscript"
        ) from error
    median = student.quantile_levels.index(0.5)
    offsets, between, recent, errors = None, None, 0, student.error_quantiles
    if levels and errors is not None:
        recent = errors.scale_steps
        offsets = torch.from_numpy(errors.offsets[:, None].astype(np.float32))
        mixed = interpolate_levels(np.eye(len(errors.levels)), errors.levels, levels)
        between = torch.from_numpy(mixed.astype(np.float32))
    run: Callable[[Any], Any] = student.network

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = run

        def forward(self, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
            last = context[:, -1:]
            moved = context - last
            mean = moved.mean(dim=1, keepdim=True)
            std = (moved - mean).square().mean(dim=1, keepdim=True).sqrt()
            unit = torch.where(std > 0, std, torch.ones_like(std))
            made = self.network((moved - mean) / unit)
            made = made[0] if isinstance(made, tuple) else made
            made = made.unsqueeze(-1) if made.dim() == 3 else made
            made = std.unsqueeze(-1) * made + mean.unsqueeze(-1)
            made = made.sort(dim=-1).values if made.shape[-1] > 1 else made
            results = [made[..., median] + last]
            if offsets is not None and between is not None:
                if recent:
                    std = moved[:, -recent:].std(dim=1, keepdim=True, correction=0)
                moved_central = made + std.unsqueeze(-1) * offsets
                ordered = moved_central.sort(dim=-1).values if made.shape[-1] > 1 else moved_central
                results.append(ordered @ between + last.unsqueeze(-1))
            return tuple(one.clamp(min=0) if student.nonnegative else one for one in results)

    components = student.n_components or 2
    example = torch.randn(3, student.input_chunk_length, components)
    sizes: dict[int, Any] = {0: torch.export.Dim("N")}
    if student.n_components is None:
        sizes[2] = torch.export.Dim("C")
    names = ["forecast", "quantiles"][: 2 if levels else 1]
    program = torch.onnx.export(
        Scaled().eval(),
        (example,),
        input_names=["context"],
        output_names=names,
        opset_version=18,  # the exporter's lowest
        dynamic_shapes=(sizes,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto
