"""Chronos adapters on tiny models with random weights, saved as the hub's are."""

import io
import json
import sys

import numpy as np
import pytest
from conftest import seasonal

pytest.importorskip("chronos", reason="needs the extra chronos")
import torch
from chronos import BaseChronosPipeline
from darts import TimeSeries

from benchmarks import bolt
from distilts_forecaster import DistilledForecaster, load_student
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers import chronos as adapter
from distilts_forecaster.teachers import load_teacher

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def save_bolt(directory):
    bolt.save_bolt(
        directory,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        context_length=64,
        prediction_length=16,
        input_patch_size=8,
    )


def save_chronos2(directory):
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    config = Chronos2CoreConfig(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=2, pad_token_id=0,
        chronos_config={
            "context_length": 128, "input_patch_size": 8, "input_patch_stride": 8,
            "output_patch_size": 8, "max_output_patches": 8, "use_reg_token": True,
            "use_arcsinh": True, "time_encoding_scale": 128,
            "quantiles": [0.01, 0.05, *LEVELS, 0.95, 0.99],
        },
    )  # fmt: skip
    config.architectures = ["Chronos2Model"]
    config.chronos_pipeline_class = "Chronos2Pipeline"
    Chronos2Model(config).save_pretrained(directory)


def save_t5(directory):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        vocab_size=64, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    config.chronos_config = {
        "tokenizer_class": "MeanScaleUniformBins",
        "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
        "n_tokens": 64, "n_special_tokens": 2, "pad_token_id": 0, "eos_token_id": 1,
        "use_eos_token": True, "model_type": "seq2seq", "context_length": 64,
        "prediction_length": 16, "num_samples": 20, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
    }  # fmt: skip
    config.architectures = ["T5ForConditionalGeneration"]
    T5ForConditionalGeneration(config).save_pretrained(directory)


SAVE = {"bolt": save_bolt, "chronos2": save_chronos2, "t5": save_t5}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    torch.manual_seed(0)
    made = {}
    for kind, save in SAVE.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        save(made[kind])
    return made


@pytest.fixture(params=list(SAVE))
def kind(request):
    return request.param


@pytest.fixture
def chronos_teacher(directories, kind):
    return load_teacher(directories[kind])


CONTEXTS = seasonal(5 * 48, components=2).reshape(5, 48, 2).astype(np.float32)


def test_it_says_who_it_is_without_loading_weights(chronos_teacher, kind, directories, monkeypatch):
    monkeypatch.setattr(BaseChronosPipeline, "from_pretrained", None)
    info = load_teacher(directories[kind]).info
    assert info.revision == chronos_teacher.info.revision
    assert info.dtype == "float32"
    assert info.n_parameters > 1000
    assert info.native_horizon == {"bolt": 16, "chronos2": 64, "t5": 16}[kind]
    assert info.longest_context == {"bolt": 64, "chronos2": 128, "t5": 64}[kind]


def test_other_weights_are_another_teacher(tmp_path):
    revisions = set()
    for seed in range(2):
        torch.manual_seed(seed)
        save_bolt(tmp_path)
        revisions.add(load_teacher(tmp_path).info.revision)
    assert len(revisions) == 2


def test_weights_in_the_older_format_tell_teachers_apart(tmp_path):
    revisions = set()
    for content in (b"one", b"two"):
        save_bolt(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        revisions.add(load_teacher(tmp_path).info.revision)
    assert len(revisions) == 2


CANARY = "from pathlib import Path; Path(__file__).with_name('it ran').touch()\n"
LOADERS = {
    "load_teacher": lambda d: load_teacher(d).forecast(CONTEXTS, 4, (0.5,)),
    "fit": lambda d: DistilledForecaster(teacher=d).fit(TimeSeries.from_values(np.arange(400.0))),
    "ChronosTeacher": lambda d: adapter.ChronosTeacher(d).forecast(CONTEXTS, 4, (0.5,)),
    "a student": load_student,
}


def save_bolt_with_code(directory, place):
    save_bolt(directory)
    for name in ("modeling_x.py", "configuration_x.py"):
        (directory / name).write_text(CANARY)
    path = directory / ("config.json" if place == "nested" else place)
    config = json.loads(path.read_text()) if path.exists() else {}
    auto_map = {"AutoConfig": "configuration_x.X", "AutoModelForSeq2SeqLM": "modeling_x.X"}
    if place == "nested":
        config["encoder"] = [{"auto_map": auto_map}]
    else:
        config |= {"auto_map": auto_map, "model_type": "x"}
    path.write_text(json.dumps(config))


@pytest.fixture
def says_yes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("place", ["config.json", "generation_config.json", "nested"])
def test_code_in_a_directory_is_never_run(tmp_path, loader, place, says_yes, capsys):
    save_bolt_with_code(tmp_path, place)
    with pytest.raises(ValueError, match="saved student" if loader == "a student" else "runs none"):
        LOADERS[loader](tmp_path)
    assert not (tmp_path / "it ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


def test_transformers_is_told_to_run_no_code(tmp_path, says_yes, capsys, monkeypatch):
    # As if the check before it had overlooked the map.
    monkeypatch.setattr(adapter, "refuse_code", lambda directory: None)
    save_bolt_with_code(tmp_path, "config.json")
    with pytest.raises(ValueError, match="trust_remote_code"):
        adapter.ChronosTeacher(tmp_path).forecast(CONTEXTS, 4, (0.5,))
    assert not (tmp_path / "it ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


def test_an_adapter_of_peft_is_refused(tmp_path):
    save_bolt(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge_and_unload"):
        DistilledForecaster(teacher=tmp_path)


ODD = {
    "no architecture": {"architectures": []},
    "another architecture": {"architectures": ["torch"]},
    "another pipeline": {"chronos_pipeline_class": "EvilPipeline"},
    "no model type": {"model_type": "nothing"},
    "a list": {"chronos_config": []},
    "sizes": {"d_model": "many"},
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_directory_is_named(tmp_path, kind):
    save_bolt(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **ODD[kind]}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_teacher(tmp_path).forecast(CONTEXTS, 4, (0.5,))


def test_the_licence_is_read_from_the_model_card(directories, tmp_path):
    assert load_teacher(directories["bolt"]).info.licence is None
    save_bolt(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert load_teacher(tmp_path).info.licence == "apache-2.0"


@pytest.mark.parametrize("horizon", [8, 16, 24])
def test_forecasts_are_those_of_the_bare_pipeline(chronos_teacher, kind, directories, horizon):
    levels = (0.1, 0.5, 0.9)
    ours = chronos_teacher.forecast(CONTEXTS, horizon, levels).quantiles
    assert ours.shape == (5, horizon, 2, 3)
    pipeline = BaseChronosPipeline.from_pretrained(directories[kind], dtype="float32")
    torch.manual_seed(0)
    if kind == "chronos2":
        theirs, _ = pipeline.predict_quantiles(
            torch.from_numpy(CONTEXTS.transpose(0, 2, 1).copy()), horizon, list(levels)
        )
        theirs = np.stack([t.numpy() for t in theirs]).transpose(0, 2, 1, 3)
    else:
        rows = torch.from_numpy(CONTEXTS.transpose(0, 2, 1).reshape(10, 48).copy())
        options = {"num_samples": 20} if kind == "t5" else {}
        theirs, _ = pipeline.predict_quantiles(
            rows, prediction_length=horizon, quantile_levels=list(levels), **options
        )
        theirs = theirs.numpy().reshape(5, 2, horizon, 3).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_do_not_see_each_other(directories):
    for kind in ("bolt", "chronos2"):
        teacher = load_teacher(directories[kind])
        batch = teacher.forecast(CONTEXTS, 8, (0.5,)).quantiles
        single = np.concatenate([teacher.forecast(c[None], 8, (0.5,)).quantiles for c in CONTEXTS])
        np.testing.assert_allclose(batch, single, rtol=1e-4, atol=1e-4)


def test_batches_are_bounded(chronos_teacher, kind, monkeypatch):
    whole = chronos_teacher.forecast(CONTEXTS, 8, (0.5,)).quantiles
    sizes = []
    inner = adapter.ChronosTeacher._forecast_batch

    def spy(self, pipeline, contexts, horizon, levels, covariates):
        sizes.append(contexts.shape[0] * contexts.shape[2])
        return inner(self, pipeline, contexts, horizon, levels, covariates)

    monkeypatch.setattr(adapter.ChronosTeacher, "_forecast_batch", spy)
    monkeypatch.setattr(adapter, "ROWS_PER_BATCH", 4)
    parts = chronos_teacher.forecast(CONTEXTS, 8, (0.5,)).quantiles
    assert max(sizes) <= 4
    if kind != "t5":  # samples depend on the batch
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


def test_missing_values_are_passed_on(chronos_teacher):
    gappy = CONTEXTS.copy()
    gappy[:, 3:9] = np.nan
    assert np.isfinite(chronos_teacher.forecast(gappy, 8, (0.5,)).quantiles).all()


class TestCovariates:
    KNOWN = Covariates(
        past=np.random.default_rng(0).normal(size=(5, 48, 1)),
        future=np.random.default_rng(1).normal(size=(5, 48 + 8, 2)),
    )

    def test_only_chronos_2_takes_them(self, directories):
        takes = {k: load_teacher(d).info.takes_covariates for k, d in directories.items()}
        assert takes == {"bolt": False, "chronos2": True, "t5": False}

    def test_it_sees_them_as_its_pipeline_does(self, directories):
        teacher = load_teacher(directories["chronos2"])
        made = teacher.forecast(CONTEXTS, 8, (0.1, 0.5), self.KNOWN).quantiles
        told = [
            {
                "target": CONTEXTS[i].T,
                "past_covariates": {
                    "a": self.KNOWN.past[i, :, 0],
                    "b": self.KNOWN.future[i, :48, 0],
                    "c": self.KNOWN.future[i, :48, 1],
                },
                "future_covariates": {
                    "b": self.KNOWN.future[i, 48:, 0],
                    "c": self.KNOWN.future[i, 48:, 1],
                },
            }
            for i in range(5)
        ]
        pipeline = BaseChronosPipeline.from_pretrained(directories["chronos2"])
        expected, _ = pipeline.predict_quantiles(told, 8, quantile_levels=[0.1, 0.5])
        expected = torch.stack(list(expected)).permute(0, 2, 1, 3)
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)
        without = teacher.forecast(CONTEXTS, 8, (0.1, 0.5)).quantiles
        assert not np.allclose(made, without, atol=1e-4)

    def test_windows_do_not_see_each_others(self, directories):
        teacher = load_teacher(directories["chronos2"])
        together = teacher.forecast(CONTEXTS, 8, (0.5,), self.KNOWN).quantiles
        alone = teacher.forecast(CONTEXTS[3:4], 8, (0.5,), self.KNOWN.rows(slice(3, 4))).quantiles
        np.testing.assert_allclose(together[3:4], alone, rtol=1e-3, atol=1e-4)


def test_labels_are_reproducible_and_leave_the_random_state_alone(chronos_teacher):
    adapter._loaded.clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = chronos_teacher.forecast(CONTEXTS, 8, (0.5,)).quantiles
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, chronos_teacher.forecast(CONTEXTS, 8, (0.5,)).quantiles)


def test_levels_outside_the_models_range_are_refused(directories):
    with pytest.raises(ValueError, match="levels from 0.1 to 0.9"):
        load_teacher(directories["bolt"]).forecast(CONTEXTS, 8, (0.05,))
    wider = load_teacher(directories["chronos2"]).forecast(CONTEXTS, 8, (0.05, 0.5)).quantiles
    assert wider.shape == (len(CONTEXTS), 8, CONTEXTS.shape[2], 2)
    assert (wider[..., 0] != wider[..., 1]).any()


def test_at_most_one_model_stays_loaded(directories):
    for name in SAVE:
        load_teacher(directories[name]).forecast(CONTEXTS, 8, (0.5,))
        load_teacher(directories[name]).forecast(CONTEXTS, 8, (0.5,))
        assert len(adapter._loaded) == 1


def test_a_forecaster_learns_from_a_directory_and_loads_it_only_once(
    directories, kind, tmp_path, monkeypatch
):
    data = TimeSeries.from_values(seasonal(120))
    model = DistilledForecaster(32, 8, teacher=directories[kind], cache_dir=tmp_path / "cache")
    adapter._loaded.clear()
    assert model.fit(data).training_summary_.windows.labelled == 120 - 32 + 1
    adapter._loaded.clear()
    monkeypatch.setattr(BaseChronosPipeline, "from_pretrained", None)  # would fail if called
    again = model.untrained_model().fit(data)
    assert again.training_summary_.windows.from_cache == 120 - 32 + 1
    assert again.predict(8) == model.predict(8)
    model.save(tmp_path / "model.pkl")
    assert DistilledForecaster.load(tmp_path / "model.pkl").predict(8) == model.predict(8)


class TestHiddenStates:
    """States of patches, placed in time."""

    @pytest.fixture(scope="class")
    def states(self, directories):
        """Return, for each kind, its embedding of a window and the steps to a state."""

        def embed(kind, contexts):
            pipeline = BaseChronosPipeline.from_pretrained(str(directories[kind]), dtype="float32")
            inputs = torch.from_numpy(contexts.transpose(0, 2, 1))
            if kind == "chronos2":
                return pipeline.embed(inputs)[0][0].numpy()[:, :-2], 8
            states = pipeline.embed(inputs[:, 0])[0].numpy()[:, :-1]
            return states, 1 if kind == "t5" else 8

        return embed

    @pytest.mark.parametrize("kind", list(SAVE))
    def test_are_those_of_the_pipeline_without_other_tokens(self, directories, states, kind):
        context = CONTEXTS[:1, :, :1]
        expected, patch = states(kind, context)
        assert expected.shape[1] == 48 // patch
        teacher = load_teacher(directories[kind])
        steps = [-48, -47, -patch - 1, -patch, -1]
        found = teacher.hidden_states(context, steps)
        at = [(48 + step) // patch for step in steps]
        np.testing.assert_allclose(found[0, 0], expected[0][at], atol=1e-5)
        assert teacher.info.hidden == "encoder"

    @pytest.mark.parametrize("kind", list(SAVE))
    def test_one_window_has_the_states_it_has_in_a_batch(self, directories, kind):
        contexts = CONTEXTS
        teacher = load_teacher(directories[kind])
        together = teacher.hidden_states(contexts, [-48, -1])
        assert together.shape[:3] == (5, 2, 2)
        alone = teacher.hidden_states(contexts[3:4], [-48, -1])
        np.testing.assert_allclose(alone[0], together[3], atol=1e-4)

    def test_steps_before_the_longest_context_get_the_first_state(self, directories):
        teacher = load_teacher(directories["bolt"])
        context = seasonal(100).reshape(1, 100, 1).astype(np.float32)
        found = teacher.hidden_states(context, [-100, -64])
        np.testing.assert_array_equal(found[0, 0, 0], found[0, 0, 1])
