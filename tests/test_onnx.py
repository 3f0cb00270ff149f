import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import frame
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from distilts_forecaster.runtime import LinearForecaster, NetworkForecaster  # noqa: E402
from distilts_forecaster.runtime.covariates import CovariateScales  # noqa: E402
from distilts_forecaster.runtime.effects import Effects  # noqa: E402
from distilts_forecaster.runtime.forward import Architecture  # noqa: E402
from distilts_forecaster.runtime.onnx import OPSET, export_onnx  # noqa: E402
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles  # noqa: E402

L, T = 24, 6
SIZES = {
    "mlp": {"hidden_size": 16, "n_blocks": 2},
    "itransformer": {"d_model": 16, "n_heads": 4, "d_ff": 32, "n_layers": 2},
}


def scale(n):
    return np.stack([np.full(n, 0.3), np.linspace(1, 2, n)]) if n else None


def make_effects(rng, n_past, n_future, n_static, per_component):
    knots = rng.normal(size=(n_future, 3))
    knots[:1, 1:] = np.nan
    n_recent = n_past * (int(np.log2(L)) + 1)
    n_features = n_future + int(np.isfinite(knots).sum()) + n_recent + n_static
    unit = np.array([0.5, 1.0, 20.0]) if per_component else None
    shape = (3, T, 2 * n_features) if per_component else (1, T, n_features)
    weights = rng.normal(size=shape)
    return Effects(
        weights.astype(np.float32),
        CovariateScales(scale(n_past), scale(n_future), scale(n_static)),
        knots.astype(np.float32) if n_future else None,
        unit,
    )


def make(kind, counts=(0, 0, 0), quantiles=True, **more):
    rng = np.random.default_rng(0)
    if kind in ("linear", "per_component"):
        errors = ErrorQuantiles(
            np.sort(rng.normal(size=(T, 25)), axis=1).astype(np.float32), LEVELS
        )
        n = 3 if kind == "per_component" else 1
        weights = (rng.normal(size=(n, L, T)) / L).astype(np.float32)
        effects = make_effects(rng, *counts, n == 3) if any(counts) else None
        student = LinearForecaster(weights, error_quantiles=errors, effects=effects, **more)
    else:
        levels = (0.1, 0.5, 0.9) if quantiles else (0.5,)
        shapes = Architecture(kind, SIZES[kind], L, T, len(levels), counts).array_shapes()
        arrays = {n: rng.normal(0, 0.2, s).astype(np.float32) for n, s in shapes.items()}
        errors = ErrorQuantiles(rng.normal(0, 0.1, (T, len(levels))).astype(np.float32), levels)
        student = NetworkForecaster(
            kind=kind,
            sizes=SIZES[kind],
            arrays=arrays,
            input_chunk_length=L,
            output_chunk_length=T,
            quantile_levels=levels,
            error_quantiles=errors,
            scales=CovariateScales(*map(scale, counts)),
            **more,
        )
    return student if quantiles else student.with_error_quantiles(None)


KINDS = ["linear", "per_component", "mlp", "itransformer"]


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 3, 2), (0, 2, 0), (1, 0, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_student_is_exported_as_it_is(tmp_path, kind, counts):
    if counts == (1, 0, 0) and kind == "linear":
        counts = (0, 0, 1)
    made = export_onnx(make(kind, counts), tmp_path / "student.onnx")
    assert made.largest_difference < 1e-4
    assert made.outputs["quantiles"][-1] == len(made.quantile_levels)
    assert made.opset == onnx.load(made.path).opset_import[0].version == OPSET
    assert made.path.stat().st_size == made.size
    assert [p.name for p in tmp_path.iterdir()] == ["student.onnx"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_covariates_far_from_zero_are_no_hindrance(tmp_path, kind):
    student = make(kind, (0, 1, 0))
    moved = np.array([[2020.0], [0.5]])
    if kind == "linear":
        scales = CovariateScales(future=moved)
        student = replace(student, effects=replace(student.effects, scales=scales))
    else:
        student = replace(student, scales=CovariateScales(future=moved))
    assert export_onnx(student, tmp_path / "student.onnx").largest_difference < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_points_have_no_quantiles(tmp_path, kind):
    made = export_onnx(make(kind, quantiles=False), tmp_path / "student.onnx")
    assert list(made.outputs) == ["forecast"]
    assert made.quantile_levels == ()


@pytest.mark.parametrize("kind", KINDS)
def test_other_levels_are_interpolated_as_the_student_does(tmp_path, kind):
    levels = (0.05, 0.3, 0.5, 0.97)
    made = export_onnx(make(kind), tmp_path / "student.onnx", levels)
    assert made.quantile_levels == levels
    assert made.largest_difference < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_of_the_scale_of_late_are_exported(tmp_path, kind):
    student = make(kind)
    late = student.with_error_quantiles(replace(student.error_quantiles, scale_steps=3))
    made = export_onnx(late, tmp_path / "student.onnx")
    assert made.largest_difference < 1e-4
    context = np.random.default_rng(0).normal(size=(1, L, 3))
    context[:, :-3] *= 10.0
    whole, recent = (one.predict_quantiles(context) for one in (student, late))
    assert not np.allclose(whole, recent)


@pytest.mark.parametrize("kind", KINDS)
def test_forecasts_below_zero_become_zero(tmp_path, kind):
    made = export_onnx(make(kind, nonnegative=True), tmp_path / "student.onnx")
    context = np.linspace(1, 0, 3 * L, dtype=np.float32).reshape(1, L, 3)
    forecast, quantiles = onnxruntime.InferenceSession(made.path).run(None, {"context": context})
    assert forecast.min() >= 0
    assert quantiles.min() >= 0


@pytest.mark.parametrize("kind", ["linear", "mlp", "itransformer"])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_weights_cost_little(tmp_path, kind, precision, monkeypatch):
    monkeypatch.setattr("distilts_forecaster.runtime.onnx._SMALL", 0)
    rng = np.random.default_rng(0)
    student = make(kind)
    if kind == "linear":
        weights = (rng.normal(size=(1, 256, 48)) / 16).astype(np.float32)
        student = LinearForecaster(weights)
    whole = export_onnx(student, tmp_path / "whole.onnx")
    made = export_onnx(student, tmp_path / "small.onnx", precision=precision)
    assert whole.rms_difference < made.rms_difference < made.largest_difference < 0.1
    if kind == "linear":
        assert made.size < {"float16": 0.55, "int8": 0.35}[precision] * whole.size


SESSIONS = {}


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    level=st.floats(-1e5, 1e5, width=32),
    kind=st.sampled_from(["linear", "mlp", "itransformer"]),
)
def test_any_batch_is_its_windows_and_levels_cost_no_precision(tmp_path_factory, n, level, kind):
    student = make(kind)
    if kind not in SESSIONS:
        path = tmp_path_factory.mktemp("onnx") / "student.onnx"
        SESSIONS[kind] = onnxruntime.InferenceSession(export_onnx(student, path).path)
    walks = np.random.default_rng(n).normal(size=(n, L, 2)).cumsum(axis=1) + level
    contexts = walks.astype(np.float32)
    made = SESSIONS[kind].run(["forecast"], {"context": contexts})[0]
    np.testing.assert_allclose(
        made, student.predict(contexts), rtol=1e-5, atol=1e-3 * contexts.std(axis=1).max()
    )


def test_a_constant_goes_on(tmp_path):
    for kind in ("linear", "mlp"):
        made = export_onnx(make(kind), tmp_path / "student.onnx")
        context = np.full((1, L, 1), 7.0, np.float32)
        for output in onnxruntime.InferenceSession(made.path).run(None, {"context": context}):
            np.testing.assert_array_equal(output, 7.0)


def test_a_graph_runs_without_this_package(tmp_path):
    student = make("mlp")
    path = export_onnx(student, tmp_path / "student.onnx").path
    code = (
        "import sys; sys.modules['distilts_forecaster'] = None\n"
        "import json, numpy as np, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        f"context = np.arange({L}, dtype=np.float32).reshape(1, {L}, 1)\n"
        "print(json.dumps(session.run(['forecast'], {'context': context})[0].ravel().tolist()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(out.stdout), student.predict(np.arange(L)), rtol=1e-5)


def test_a_graph_that_is_off_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    student = make("linear")
    monkeypatch.setattr("distilts_forecaster.runtime.onnx._TOLERANCES", {"float32": 1e-12})
    with pytest.raises(ValueError, match="nothing was written"):
        export_onnx(student, tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "precision must be one of"),
        ({"quantile_levels": [0.5, 0.1]}, "must increase"),
        ({"quantile_levels": [0.5, 1.0]}, "must increase"),
        ({"path": "no/such/folder/student.onnx"}, "directory that exists"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(make("linear"), **({"path": tmp_path / "student.onnx"} | arguments))


def test_levels_of_a_point_student_are_refused(tmp_path):
    with pytest.raises(ValueError, match="points only"):
        export_onnx(make("linear", quantiles=False), tmp_path / "student.onnx", [0.5])


@pytest.mark.parametrize("quantiles", [True, False])
def test_a_module_of_the_users_own_is_exported_with_its_scaling(tmp_path, quantiles):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from distilts_forecaster.students.module import ModuleForecaster

    levels = (0.1, 0.5, 0.9) if quantiles else (0.5,)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(L, T * len(levels))

        def forward(self, context):
            made = self.layer(context.transpose(1, 2)).unflatten(-1, (T, len(levels)))
            return made.transpose(1, 2)

    torch.manual_seed(0)
    errors = ErrorQuantiles(np.full((T, 3), 0.1, np.float32), levels) if quantiles else None
    student = ModuleForecaster(Own(), frame(L, T, 0, levels), errors)
    wanted = (0.2, 0.5) if quantiles else None
    made = export_onnx(student, tmp_path / "student.onnx", wanted)
    assert made.largest_difference < 1e-4
    with pytest.raises(ValueError, match="in float32"):
        export_onnx(student, tmp_path / "student.onnx", precision="int8")
