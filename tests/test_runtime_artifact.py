import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import frame
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from distilts_forecaster.runtime import (
    LinearForecaster,
    NetworkForecaster,
    artifact,
    load_student,
    save_student,
)
from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.runtime.forward import Architecture
from distilts_forecaster.runtime.info import FitFacts, StudentInfo, ValidationErrors
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

L, T = 8, 3
LEVELS = (0.1, 0.5, 0.9)
SIZES = {
    "mlp": {"hidden_size": 4, "n_blocks": 1},
    "itransformer": {"d_model": 4, "n_heads": 2, "d_ff": 4, "n_layers": 1},
}
INFO = StudentInfo.from_json(
    {
        "teacher": {"name": "owner/teacher", "licence": "CC-BY-NC-4.0"},
        "data": {"n_series": 2, "sha256": "abc"},
        "fit": {
            "validation_error": 0.5,
            "validation_error_without_teacher": 0.6,
            "teacher_validation_error": 0.4,
            "naive_validation_error": 0.9,
            "validation_horizon": 3,
        },
        "settings": {"distillation_weight": "auto"},
        "versions": {"numpy": "2"},
    }
)


def scale(n):
    return np.stack([np.full(n, 0.5), np.full(n, 2.0)])


def make(kind):
    rng = np.random.default_rng(0)
    offsets = np.sort(rng.normal(size=(T, 3)), axis=1).astype(np.float32)
    spread = ErrorQuantiles(offsets, LEVELS, 0.5)
    if kind in SIZES:
        shapes = Architecture(kind, SIZES[kind], L, T, 3, (1, 2, 1)).array_shapes()
        return NetworkForecaster(
            kind=kind,
            sizes=SIZES[kind],
            arrays={n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()},
            input_chunk_length=L,
            output_chunk_length=T,
            quantile_levels=LEVELS,
            scales=CovariateScales(scale(1), scale(2), scale(1)),
            period=4,
            error_quantiles=spread,
            info=INFO,
        )
    n = 2 if kind == "per_component" else 1
    student = LinearForecaster((rng.normal(size=(n, L, T)) / L).astype(np.float32), info=INFO)
    if kind == "covariates":
        knots = np.array([[0.0, 1.0, np.nan], [np.nan] * 3])
        weights = rng.normal(size=(1, T, 2 * (2 + 2 + 4 + 1))).astype(np.float32)
        scales = CovariateScales(scale(1), scale(2), scale(1))
        effects = Effects(weights, scales, knots, np.array([3.0]))
        student = replace(student, effects=effects)
    shift = 2 if kind == "per_component" else 0
    if kind == "recent_scale":
        spread = replace(spread, scale_steps=3)
    return replace(
        student, error_quantiles=spread, nonnegative=kind == "linear", output_chunk_shift=shift
    )


KINDS = ["linear", "per_component", "covariates", "recent_scale", *SIZES]


def forecasts(student):
    rng = np.random.default_rng(1)
    contexts = rng.normal(size=(4, L, 2))
    contexts[0, 2:4, 0] = np.nan
    n_past, n_future, n_static = student.n_covariates
    given = {}
    if n_past:
        given["past_covariates"] = rng.normal(size=(4, L, n_past))
    if n_future:
        given["future_covariates"] = rng.normal(size=(4, L + T, n_future))
    if n_static:
        given["static_covariates"] = rng.normal(size=(4, 2, n_static))
    point = student.predict(contexts, **given)
    return point, student.predict_quantiles(contexts, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_is_the_identity(tmp_path, kind):
    original = make(kind)
    save_student(original, tmp_path / "deep" / "student")
    loaded = load_student(tmp_path / "deep" / "student")
    for made, expected in zip(forecasts(loaded), forecasts(original), strict=True):
        np.testing.assert_array_equal(made, expected)
    for name in ("period", "nonnegative", "output_chunk_shift", "n_components", "info"):
        assert getattr(loaded, name) == getattr(original, name)
    save_student(loaded, tmp_path / "deep" / "student")  # in its own place
    assert sorted(os.listdir(tmp_path / "deep" / "student")) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_windows_have_no_forecasts(kind):
    student = make(kind)
    n_past, n_future, n_static = student.n_covariates
    given = {}
    if n_past:
        given = {
            "past_covariates": np.empty((0, L, n_past)),
            "future_covariates": np.empty((0, L + T, n_future)),
            "static_covariates": np.empty((0, 2, n_static)),
        }
    assert student.predict(np.empty((0, L, 2)), **given).shape == (0, T, 2)
    assert student.predict_quantiles(np.empty((0, L, 2)), **given).shape == (0, T, 2, 3)
    assert student.sample(np.empty((0, L, 2)), n_samples=5, **given).shape == (0, T, 2, 5)


ARTIFACTS = Path(__file__).parent / "artifacts"


@pytest.mark.parametrize("kind", KINDS)
def test_artifacts_of_format_1_are_read_for_ever(kind):
    # Written by: make(kind), save_student, and forecasts of it. Never to be written anew.
    student = load_student(ARTIFACTS / "format-1" / kind)
    expected = load_file(ARTIFACTS / "format-1" / kind / "expected.safetensors")
    point, quantiles = forecasts(student)
    np.testing.assert_allclose(point, expected["point"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quantiles, expected["quantiles"], rtol=1e-5, atol=1e-6)


def test_the_card_tells_what_a_reader_must_know(tmp_path):
    save_student(make("linear"), tmp_path)
    card = (tmp_path / "README.md").read_text()
    for told in ("owner/teacher", "CC-BY-NC-4.0", "abc", "0.5000", "0.6000", "0.4000", "0.9000"):
        assert told in card
    assert card.startswith("---\nlibrary_name: distilts-forecaster\n")
    assert "base_model:\n- owner/teacher" in card
    assert "microseconds" in card


def test_a_student_without_a_history_has_a_card_too(tmp_path):
    save_student(LinearForecaster(np.zeros((1, L, T), np.float32)), tmp_path)
    assert "unknown" in (tmp_path / "README.md").read_text()


def test_a_card_cannot_be_broken_by_names(tmp_path):
    told = {"data": {"components": ["a | b\n---\nevil: true"]}, "teacher": {"name": "a/b\nx: y"}}
    save_student(make("linear").with_info(StudentInfo.from_json(told)), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "\nevil" not in card
    assert "\nx: y" not in card


def test_what_is_no_students_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(ValueError, match="holds no student"):
        save_student(make("linear"), tmp_path)
    assert (tmp_path / "README.md").read_text() == "my project"
    with pytest.raises(ValueError, match="is a file"):
        save_student(make("linear"), tmp_path / "README.md")


def test_names_that_no_file_can_have_are_refused():
    with pytest.raises(ValueError, match="no directory"):
        load_student("a" * 300)


def test_code_is_not_saved(tmp_path):
    torch = pytest.importorskip("torch")
    from distilts_forecaster.students.module import ModuleForecaster

    with pytest.raises(TypeError, match="export_onnx"):
        save_student(ModuleForecaster(torch.nn.Identity(), frame(L, T)), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def edit(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    write(directory, {**config, **changes}, load_file(directory / "model.safetensors"))


def remove(directory, name):
    config = json.loads((directory / "config.json").read_text())
    del config[name]
    write(directory, config, load_file(directory / "model.safetensors"))


def rewrite(directory, **changes):
    arrays = {**load_file(directory / "model.safetensors"), **changes}
    config = json.loads((directory / "config.json").read_text())
    write(directory, config, {name: a for name, a in arrays.items() if a is not None})


def write(directory, config, arrays):
    """Write files whose digests fit, as someone would who wants them to be believed."""
    config["weights_id"] = artifact._digest(arrays)
    config["config_id"] = artifact._config_digest(config)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(arrays, directory / "model.safetensors", {"weights_id": config["weights_id"]})


WEIGHTS = np.zeros((1, L, T), np.float32)
DAMAGE = {
    "no directory": (lambda d: [f.unlink() for f in d.iterdir()] and d.rmdir(), "no directory"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "a folder": (
        lambda d: (d / "config.json").unlink() or (d / "config.json").mkdir(),
        "is no file",
    ),
    "newer": (lambda d: edit(d, format_version=99), "pip install -U"),
    "version": (lambda d: edit(d, format_version=True), "format_version=True"),
    "kind": (lambda d: edit(d, student=["linear"]), "student="),
    "list": (lambda d: (d / "config.json").write_text("[]"), "no .student"),
    "text": (lambda d: (d / "config.json").write_text("no json"), "not the JSON"),
    "bytes": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe{"), "not the JSON"),
    "nested": (lambda d: (d / "config.json").write_text("[" * 100_000), "not the JSON"),
    "NaN": (lambda d: edit(d, period=float("nan")), "NaN is no number"),
    "large": (lambda d: (d / "config.json").write_text(" " * 5_000_000), "bytes"),
    "length": (lambda d: edit(d, input_chunk_length=4), "not what its config says"),
    "float": (lambda d: edit(d, input_chunk_length=8.0), "must be an integer"),
    "huge": (lambda d: edit(d, output_chunk_shift=10**12), "from 0 to"),
    "flag": (lambda d: edit(d, nonnegative="yes"), "true or false"),
    "counts": (lambda d: edit(d, n_covariates=[0, 0]), "three numbers"),
    "levels": (
        lambda d: edit(d, spread={"levels": [0.5, 0.1, 0.9], "persistence": 0}),
        "must increase",
    ),
    "persistence": (
        lambda d: edit(d, spread={"levels": list(LEVELS), "persistence": 1.0}),
        "persistence",
    ),
    "a key": (lambda d: remove(d, "n_components"), "n_components missing"),
    "large number": (
        lambda d: edit(d, spread={"levels": list(LEVELS), "persistence": 10**400}),
        "not the JSON|persistence",
    ),
    "infinite info": (
        lambda d: (d / "config.json").write_text(
            (d / "config.json").read_text().replace('"n_series": 2', '"n_series": 1e999')
        ),
        "1e999",
    ),
    "info of text": (lambda d: edit(d, info={"settings": "x"}), "info.settings"),
    "no matrix": (lambda d: rewrite(d, weights=np.zeros((0, L, T), np.float32)), "shape"),
    "info": (lambda d: edit(d, info="text"), "info must be"),
    "no safetensors": (lambda d: (d / "model.safetensors").write_bytes(b"no"), "safetensors"),
    "infinite": (lambda d: rewrite(d, weights=WEIGHTS + np.inf), "must be finite"),
    "doubles": (lambda d: rewrite(d, weights=WEIGHTS.astype(np.float64)), "not as F32"),
    "more": (lambda d: rewrite(d, evil=WEIGHTS), "which no such student has"),
    "flat": (lambda d: rewrite(d, weights=WEIGHTS[0]), "shape"),
    "fewer": (lambda d: rewrite(d, weights=None), "weights"),
    "offsets": (lambda d: rewrite(d, offsets=None), "offsets"),
    "crossing": (
        lambda d: rewrite(d, offsets=np.array([[1.0, 0, 2]] * T, np.float32)),
        "do not decrease",
    ),
    "rows": (
        lambda d: rewrite(d, offsets=np.array([[0.0, 1, 2]], np.float32)),
        "do not decrease",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_directory_that_is_not_a_student_is_refused(tmp_path, kind):
    save_student(make("linear"), tmp_path / "student")
    damage, message = DAMAGE[kind]
    damage(tmp_path / "student")
    with pytest.raises(ValueError, match=message):
        load_student(tmp_path / "student")


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_goes_unnoticed(tmp_path, kind):
    original = make(kind)
    save_student(original, tmp_path)
    rng = np.random.default_rng(0)
    for name in ("model.safetensors", "config.json"):
        content = (tmp_path / name).read_bytes()
        end_of_told = content.find(b'"info"') if name == "config.json" else len(content)
        for place in rng.integers(8 * end_of_told, size=150):
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << (place % 8)
            (tmp_path / name).write_bytes(damaged)
            try:
                loaded = load_student(tmp_path)
            except ValueError:
                continue
            # White space, or a name in what the student says of itself.
            for made, expected in zip(forecasts(loaded), forecasts(original), strict=True):
                np.testing.assert_array_equal(made, expected)
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize("changes", [{"period": 5}, {"nonnegative": False}, {"spread": None}])
def test_a_configuration_that_was_changed_is_refused(tmp_path, changes):
    save_student(make("linear"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match="settings were changed"):
        load_student(tmp_path)


def test_what_a_student_says_of_itself_may_be_changed(tmp_path):
    save_student(make("linear"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["info"]["teacher"]["licence"] = "MIT"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_student(tmp_path).info.teacher.licence == "MIT"


@pytest.mark.parametrize("kind", KINDS)
def test_files_larger_than_their_student_are_not_read(tmp_path, kind, monkeypatch):
    save_student(make(kind), tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2**30)  # sparse: takes no disk
    import safetensors

    monkeypatch.setattr(safetensors, "safe_open", None)
    with pytest.raises(ValueError, match="1073741824 bytes"):
        load_student(tmp_path)


def test_a_header_of_many_arrays_is_not_read(tmp_path):
    save_student(make("linear"), tmp_path)
    empty = np.empty(0, np.float32)
    save_file({f"a{i}": empty for i in range(1000)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not read"):
        load_student(tmp_path)


def test_files_of_two_students_are_refused(tmp_path):
    for name in ("a", "b"):
        student = make("linear")
        save_student(replace(student, weights=student.weights + (name == "b")), tmp_path / name)
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    with pytest.raises(ValueError, match="of two students"):
        load_student(tmp_path / "b")
    save_student(make("linear"), tmp_path / "b")  # mends it
    load_student(tmp_path / "b")


BROKEN = {
    "infinite": {"weights": np.full((1, L, T), np.inf, np.float32)},
    "crossing": {"error_quantiles": ErrorQuantiles(np.array([[1.0, 0, 2]] * T), LEVELS)},
    "levels": {"error_quantiles": ErrorQuantiles(np.zeros((T, 3)), (0.5, 0.1, 0.9))},
    "period": {"period": 0},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, kind):
    save_student(make("linear"), tmp_path / "student")
    for place in ("student", "new"):
        with pytest.raises(ValueError, match=r"finite|decrease|increase|integer|info"):
            save_student(replace(make("linear"), **BROKEN[kind]), tmp_path / place)
    load_student(tmp_path / "student")
    assert not (tmp_path / "new").exists()


def test_numbers_of_other_types_are_saved_as_they_must_be(tmp_path):
    student = make("linear")
    other = replace(
        student,
        weights=np.asfortranarray(student.weights.astype(np.float64)),
        error_quantiles=ErrorQuantiles(
            student.error_quantiles.offsets.astype(np.float64), LEVELS, np.float64(0.5)
        ),
        period=np.int64(4),
        info=StudentInfo(fit=FitFacts(errors=ValidationErrors(student=np.float32("nan")))),
    )
    save_student(other, tmp_path)
    np.testing.assert_array_equal(load_student(tmp_path).weights, student.weights)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mlp", {"network.head.bias": np.zeros(1, np.float32)}),
        ("mlp", {"network.evil": np.zeros(1, np.float32)}),
        ("mlp", {"past_scale": np.zeros((2, 1))}),
        ("mlp", {"future_scale": np.ones((3, 2))}),
        ("itransformer", {"network.head.bias": None}),
        ("covariates", {"effects.weights": np.zeros((1, T, 5), np.float32)}),
        ("covariates", {"effects.knots": np.zeros((1, 3))}),
        ("covariates", {"effects.knots": np.full((2, 3), np.inf)}),
        ("covariates", {"effects.static_scale": np.zeros(2)}),
        ("covariates", {"effects.unit": np.zeros(1)}),
        ("covariates", {"effects.unit": np.ones(3)}),
        ("covariates", {"effects.unit": None}),
        ("covariates", {"effects.past_scale": None}),
    ],
)
def test_arrays_of_another_shape_are_refused(tmp_path, kind, change):
    save_student(make(kind), tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_student(tmp_path)


def test_sizes_that_would_take_for_ever_are_refused(tmp_path):
    save_student(make("mlp"), tmp_path)
    edit(tmp_path, sizes={"hidden_size": 4, "n_blocks": 10**9})
    with pytest.raises(ValueError, match="n_blocks must be"):
        load_student(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_directory_are_refused(tmp_path, name):
    save_student(make("linear"), tmp_path / "student")
    (tmp_path / "student" / name).rename(tmp_path / name)
    (tmp_path / "student" / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="outside of the directory"):
        load_student(tmp_path / "student")


def test_links_in_a_circle_and_pipes_are_refused(tmp_path):
    save_student(make("linear"), tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ValueError, match="missing"):
        load_student(tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")  # reading it would wait for ever
    with pytest.raises(ValueError, match="no file"):
        load_student(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    save_student(make(data.draw(st.sampled_from(["linear", "mlp"]))), folder)
    path = folder / data.draw(st.sampled_from(["config.json", "model.safetensors"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        student = load_student(folder)
    except ValueError:
        return
    assert all(np.isfinite(made).all() for made in forecasts(student))


def test_the_runtime_runs_on_numpy_and_safetensors_alone(tmp_path):
    for kind in KINDS:
        save_student(make(kind), tmp_path / kind)
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'scipy', 'darts', 'sklearn', 'sktime', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from distilts_forecaster.runtime import load_student\n"
        f"for kind in {KINDS!r}:\n"
        f"    load_student({str(tmp_path)!r} + '/' + kind)\n"
        f"print(load_student({str(tmp_path / 'linear')!r}).predict(np.arange(8.0), 5).shape)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "(5,)", out.stderr
