import copy

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries
from darts.models import ExponentialSmoothing, LinearRegressionModel, NaiveSeasonal

from distilts_forecaster.teachers import darts as darts_teachers
from distilts_forecaster.teachers import load_teacher
from distilts_forecaster.teachers.darts import DartsTeacher

DATA = seasonal(300, components=2).astype(np.float32)
CONTEXTS = np.stack([DATA[o - 24 : o] for o in range(24, 60, 6)])


def fitted(components=1, **options):
    values = DATA[:, :components]
    return LinearRegressionModel(lags=12, output_chunk_length=4, **options).fit(
        TimeSeries.from_values(values)
    )


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("horizon", [3, 10])
def test_labels_are_the_models_forecasts(components, horizon):
    model = fitted(components)
    labels = load_teacher(model).forecast(CONTEXTS, horizon, (0.5,)).quantiles
    assert labels.shape == (6, horizon, 2, 1)
    for window, label in zip(CONTEXTS, labels[..., 0], strict=True):
        for c in range(2):
            one = window if components == 2 else window[:, c : c + 1]
            expected = model.predict(horizon, series=TimeSeries.from_values(one)).values()
            column = c if components == 2 else 0
            np.testing.assert_allclose(label[:, c], expected[:, column], rtol=1e-4, atol=1e-4)


def test_a_local_model_is_fitted_to_each_window():
    labels = load_teacher(NaiveSeasonal(K=6)).forecast(CONTEXTS, 6, (0.5,)).quantiles
    np.testing.assert_allclose(labels[..., 0], CONTEXTS[:, -6:])


def test_a_probabilistic_model_has_quantiles():
    model = fitted(likelihood="quantile", quantiles=[0.1, 0.5, 0.9])
    quantiles = load_teacher(model).forecast(CONTEXTS, 4, (0.1, 0.5, 0.9)).quantiles
    assert quantiles.shape == (6, 4, 2, 3)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    local = load_teacher(ExponentialSmoothing(seasonal_periods=6)).forecast(
        CONTEXTS[:2, :, :1], 4, (0.1, 0.9)
    )
    assert (np.diff(local.quantiles, axis=-1) > 0).all()


def test_a_point_model_has_no_quantiles():
    with pytest.raises(ValueError, match="levels from 0.5 to 0.5"):
        load_teacher(fitted()).forecast(CONTEXTS, 4, (0.1, 0.5))


def test_an_unfitted_model_is_refused():
    with pytest.raises(ValueError, match="LinearRegressionModel is not fitted"):
        load_teacher(LinearRegressionModel(lags=12))


def test_a_shifted_model_is_refused():
    model = LinearRegressionModel(lags=12, output_chunk_length=4, output_chunk_shift=2)
    with pytest.raises(ValueError, match="output_chunk_shift=2 steps late"):
        load_teacher(model.fit(TimeSeries.from_values(DATA)))


def test_a_torch_model_with_a_likelihood_answers_with_its_median(tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra torch")
    from darts.models import NLinearModel
    from darts.utils.likelihood_models.torch import GaussianLikelihood

    model = NLinearModel(
        24, 4, likelihood=GaussianLikelihood(), normalize=False, n_epochs=1, work_dir=str(tmp_path),
        pl_trainer_kwargs={
            "accelerator": "cpu", "enable_progress_bar": False, "logger": False,
        },
    ).fit(TimeSeries.from_values(DATA[:, :1]))  # fmt: skip
    same = np.repeat(CONTEXTS[:1, :, :1], 8, axis=0)
    labels = load_teacher(model).forecast(same, 4, (0.5,)).quantiles
    draws = model.predict(4, series=TimeSeries.from_values(same[0]), num_samples=200)
    # The median of 200 draws varies by a tenth of what a draw does.
    assert labels.std(axis=0).mean() < 0.3 * draws.all_values().std(axis=2).mean()


def test_what_windows_do_not_carry_is_refused():
    times = pd.date_range("2024", periods=len(DATA), freq="h")
    series = TimeSeries.from_times_and_values(times, DATA[:, :1])
    encoders = {"cyclic": {"future": ["hour"]}}
    model = LinearRegressionModel(lags=12, lags_future_covariates=[0], add_encoders=encoders)
    with pytest.raises(ValueError, match="static covariates or encoders"):
        load_teacher(model.fit(series))
    sized = series.with_static_covariates(pd.DataFrame({"size": [1.0]}))
    with pytest.raises(ValueError, match="static covariates or encoders"):
        load_teacher(LinearRegressionModel(lags=12).fit(sized))


def test_windows_too_short_for_the_model_are_refused():
    with pytest.raises(ValueError, match="looks at 12 steps, the windows have 8"):
        load_teacher(fitted()).forecast(CONTEXTS[:, :8], 4, (0.5,))


def test_a_name_needs_a_revision_and_a_copy_is_itself():
    with pytest.raises(ValueError, match="both name and revision"):
        DartsTeacher(fitted(), name="mine")
    teacher = DartsTeacher(fitted(), name="mine", revision="1", licence="MIT")
    assert copy.deepcopy(teacher) is teacher
    assert (teacher.info.name, teacher.info.licence) == ("mine", "MIT")


def test_a_torch_model_keeps_its_network(tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra torch")
    from darts.models import DLinearModel

    from distilts_forecaster import DistilledForecaster

    series = TimeSeries.from_values(DATA[:, :1])
    network = DLinearModel(
        24,
        6,
        n_epochs=1,
        work_dir=str(tmp_path),
        pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
    ).fit(series)
    model = DistilledForecaster(24, 6, teacher=network).untrained_model().untrained_model()
    assert model.fit(series).training_summary_.windows.labelled == 300 - 24 + 1
    labels = load_teacher(network).forecast(CONTEXTS[:, :, :1], 6, (0.5,)).quantiles[..., 0]
    for window, label in zip(CONTEXTS[:, :, :1], labels, strict=True):
        expected = network.predict(6, series=TimeSeries.from_values(window)).values()
        np.testing.assert_allclose(label, expected, atol=1e-5)


def test_a_foundation_model_is_made_ready(tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra torch")
    pytest.importorskip("chronos", reason="needs the extra chronos")
    from darts.models import Chronos2Model
    from test_teachers_chronos import save_chronos2

    save_chronos2(tmp_path)
    model = Chronos2Model(
        input_chunk_length=24,
        output_chunk_length=6,
        local_dir=str(tmp_path),
        pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
    )
    labels = load_teacher(model).forecast(CONTEXTS, 6, (0.5,)).quantiles
    assert labels.shape == (6, 6, 2, 1)
    assert np.isfinite(labels).all()


class TestHiddenStates:
    """The output of a named module, by a hook."""

    @pytest.fixture(scope="class")
    def model(self):
        pytest.importorskip("torch")
        from darts.models import TSMixerModel

        rng = np.random.default_rng(0)
        values = rng.normal(size=(80, 2)).astype(np.float32)
        return TSMixerModel(
            12, 4, hidden_size=5, ff_size=6, num_blocks=1, n_epochs=1, batch_size=16,
            pl_trainer_kwargs={
                "accelerator": "cpu", "enable_progress_bar": False, "logger": False,
                "enable_model_summary": False, "enable_checkpointing": False,
            },
        ).fit(TimeSeries.from_values(values))  # fmt: skip

    def test_are_what_the_module_puts_out(self, model):
        teacher = DartsTeacher(model, hidden_module="conditional_mixer.0")
        contexts = np.random.default_rng(1).normal(size=(40, 12, 2)).astype(np.float32)
        states = teacher.hidden_states(contexts, [-12, -7, -1])
        assert states.shape == (40, 1, 3, 5)
        alone = teacher.hidden_states(contexts[30:31], [-12, -7, -1])
        np.testing.assert_allclose(alone[0], states[30], atol=1e-5)
        # Its four positions are the four quarters of the context.
        quarters = teacher.hidden_states(contexts, [-12, -9, -6, -3])
        np.testing.assert_array_equal(states[:, :, 0], quarters[:, :, 0])
        np.testing.assert_array_equal(states[:, :, 1], quarters[:, :, 1])
        np.testing.assert_array_equal(states[:, :, 2], quarters[:, :, 3])
        assert not np.array_equal(quarters[:, :, 2], quarters[:, :, 3])

    def test_a_hook_leaves_nothing_behind(self, model):
        teacher = DartsTeacher(model, hidden_module="fc_hist")
        teacher.hidden_states(np.zeros((2, 12, 2), np.float32), [-1])
        assert not model.model.get_submodule("fc_hist")._forward_hooks

    def test_which_module_is_part_of_who_the_teacher_is(self, model):
        assert DartsTeacher(model, hidden_module="fc_hist").info.hidden == "fc_hist"
        assert DartsTeacher(model).info.hidden is None
        with pytest.raises(ValueError, match="without hidden_module"):
            DartsTeacher(model).hidden_states(np.zeros((2, 12, 2), np.float32), [-1])

    def test_modules_that_are_not_there_are_refused_with_those_that_are(self, model):
        with pytest.raises(ValueError, match="no module 'encoder'; it has .*conditional_mixer.0"):
            DartsTeacher(model, hidden_module="encoder")
        with pytest.raises(ValueError, match="needs a fitted torch model"):
            DartsTeacher(NaiveSeasonal(), hidden_module="encoder")


class TestTimesFM:
    @pytest.fixture
    def checkpoint(self, tmp_path, monkeypatch):
        """Save a tiny network in the published format, and give it out as the hub's."""
        pytest.importorskip("torch", reason="TimesFM needs torch")
        import dataclasses

        from darts.models.components import huggingface_connector
        from darts.models.forecasting import timesfm2p5_model as published
        from safetensors.torch import save_file

        sizes = {"input_dims": 64, "hidden_dims": 16, "output_dims": 16}
        definition = published._TimesFM2p5_200M_Definition()
        narrow = dataclasses.replace(
            definition.stacked_transformers.transformer,
            model_dims=16, hidden_dims=16, num_heads=2,
        )  # fmt: skip
        config = dataclasses.replace(
            definition,
            tokenizer=dataclasses.replace(definition.tokenizer, **sizes),
            stacked_transformers=dataclasses.replace(
                definition.stacked_transformers, num_layers=1, transformer=narrow
            ),
            output_projection_point=dataclasses.replace(
                definition.output_projection_point, **(sizes | {"input_dims": 16,
                "output_dims": 1280}),
            ),
            output_projection_quantiles=dataclasses.replace(
                definition.output_projection_quantiles, **(sizes | {"input_dims": 16,
                "output_dims": 10240}),
            ),
        )  # fmt: skip
        monkeypatch.setattr(published._TimesFM2p5Module, "config", config)
        fetched = []

        def fetch(repo_id, filename, revision=None, **given):
            fetched.append((repo_id, revision))
            return str(tmp_path / filename)

        monkeypatch.setattr(huggingface_connector, "hf_hub_download", fetch)
        darts_teachers.timesfm.cache_clear()
        (tmp_path / "config.json").write_text("{}")
        load = huggingface_connector.HuggingFaceConnector.load_model_weights

        def save_and_load(self, module):
            if not (tmp_path / "model.safetensors").exists():
                weights = {k: v.contiguous() for k, v in module.state_dict().items()}
                save_file(weights, tmp_path / "model.safetensors")
            load(self, module)

        monkeypatch.setattr(
            huggingface_connector.HuggingFaceConnector, "load_model_weights", save_and_load
        )
        yield fetched
        darts_teachers.timesfm.cache_clear()

    def test_is_asked_for_by_its_hub_name(self, checkpoint):
        teacher = load_teacher("google/timesfm-2.5-200m-pytorch")
        assert not checkpoint  # nothing is fetched before the first window
        contexts = np.random.default_rng(0).normal(size=(3, 64, 2)).astype(np.float32)
        labels = teacher.forecast(contexts, 140, (0.5,)).quantiles
        assert labels.shape == (3, 140, 2, 1)
        assert np.isfinite(labels).all()
        assert {name for name, _ in checkpoint} == {"google/timesfm-2.5-200m-pytorch"}
        assert {revision for _, revision in checkpoint} == {teacher.info.revision}
        assert load_teacher("google/timesfm-2.5-200m-pytorch") is teacher
        alone = teacher.forecast(contexts[1:2], 140, (0.5,)).quantiles
        np.testing.assert_allclose(alone, labels[1:2], rtol=1e-4, atol=1e-5)


def test_torch_teachers_leave_no_logs(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs torch")
    from darts.models import NLinearModel

    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    model = NLinearModel(8, 2, n_epochs=1, pl_trainer_kwargs=quiet)
    model.fit(TimeSeries.from_values(np.arange(40, dtype=np.float32)))
    model.save(str(tmp_path / "model.pt"), clean=True)
    loaded = NLinearModel.load(str(tmp_path / "model.pt"), map_location="cpu")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    DartsTeacher(loaded).forecast(np.ones((2, 8, 1), np.float32), 2, (0.5,))
    assert not list((tmp_path / "work").iterdir())


def test_a_network_lost_in_a_copy_is_noticed():
    pytest.importorskip("torch", reason="needs torch")
    import copy

    from darts.models import NLinearModel

    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    model = NLinearModel(8, 2, n_epochs=1, pl_trainer_kwargs=quiet)
    model.fit(TimeSeries.from_values(np.arange(40, dtype=np.float32)))
    with pytest.raises(ValueError, match="lost its network"):
        DartsTeacher(copy.deepcopy(model))
