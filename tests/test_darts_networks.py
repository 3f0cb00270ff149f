"""The Darts facade with students trained by gradient."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries

torch = pytest.importorskip("torch")

from distilts_forecaster import (  # noqa: E402
    MLP,
    DistilledForecaster,
    DLinear,
    ITransformer,
    Network,
    Training,
)

L, T = 24, 6
SHORT = Training(max_epochs=2)
STUDENTS = {
    "dlinear": DLinear(training=SHORT),
    "mlp": MLP(hidden_size=16, training=SHORT),
    "itransformer": ITransformer(d_model=16, d_ff=32, training=SHORT),
}
students = pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)


def series(n=200, components=1, seed=0):
    times = pd.date_range("2024-01-01", periods=n, freq="h")
    return TimeSeries.from_times_and_values(times, seasonal(n, components, seed=seed))


def make(teacher, student, **changes):
    settings = {"input_chunk_length": L, "output_chunk_length": T, "cache_dir": False}
    settings |= {"random_state": 0, "student": student, "teacher": teacher}
    return DistilledForecaster(**(settings | changes))


@pytest.mark.parametrize("name", ["dlinear", "mlp", "itransformer"])
def test_a_student_can_be_named(teacher, name):
    model = make(teacher, name).fit(series(120, 2))
    forecast = model.predict(2 * T)
    assert forecast.values().shape == (2 * T, 2)
    assert np.isfinite(forecast.values()).all()
    summary = model.training_summary_
    assert [e.number for e in summary.epochs] == list(range(1, len(summary.epochs) + 1))
    assert len(pd.DataFrame(summary.epochs).columns) == 8
    assert summary.errors.student > 0


def test_what_is_not_fitted_by_gradient_has_no_epochs(teacher):
    assert make(teacher, "linear").fit(series()).training_summary_.epochs == ()


@students
def test_historical_forecasts_are_those_of_predict(teacher, student):
    data = series(150, 2)
    model = make(teacher, student).fit(data[:100])
    past = model.historical_forecasts(
        data, start=120, forecast_horizon=T, retrain=False, last_points_only=False, stride=7
    )
    for forecast in past:
        alone = model.predict(T, series=data.drop_after(forecast.start_time()))
        np.testing.assert_allclose(forecast.values(), alone.values(), rtol=1e-5, atol=1e-5)


@students
def test_equal_seeds_give_equal_models_and_fits_forget_each_other(teacher, student):
    data = series()
    first = make(teacher, student).fit(data)
    second = make(teacher, student).fit(series(seed=3)).fit(data)
    np.testing.assert_array_equal(first.predict(T).values(), second.predict(T).values())
    clone = first.untrained_model().fit(data)
    np.testing.assert_array_equal(first.predict(T).values(), clone.predict(T).values())


@students
def test_saving_and_loading_change_nothing(teacher, student, tmp_path):
    model = make(teacher, student).fit(series())
    model.save(tmp_path / "model.pkl")
    loaded = DistilledForecaster.load(str(tmp_path / "model.pkl"))
    np.testing.assert_array_equal(loaded.predict(9).values(), model.predict(9).values())
    assert loaded.training_summary_ == model.training_summary_ or any(
        np.isnan(e.alignment) for e in model.training_summary_.epochs
    )


def test_a_model_loads_in_a_process_that_has_not_imported_torch(teacher, tmp_path):
    path = tmp_path / "model.pkl"
    model = make(teacher, STUDENTS["mlp"]).fit(series())
    model.save(path)
    code = (
        "from distilts_forecaster import DistilledForecaster\n"
        f"model = DistilledForecaster.load({str(path)!r})\n"
        "print(float(model.predict(3).values()[2, 0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout.split()[-1]) == pytest.approx(model.predict(3).values()[2, 0])


def test_pickles_and_copies_hold_nothing_of_torch(teacher):
    model = make(teacher, STUDENTS["itransformer"]).fit(series())
    content = pickle.dumps(model.untrained_model().fit(series()).student_.with_info(None))
    assert b"torch" not in content
    again = copy.deepcopy(model)
    assert again.student_ is not model.student_
    np.testing.assert_array_equal(again.predict(T).values(), model.predict(T).values())


class LastValue(torch.nn.Module):
    """The user's own network: a learned share of the last value."""

    def __init__(self, n_steps=T):
        super().__init__()
        self.n_steps = n_steps
        self.gain = torch.nn.Parameter(torch.zeros(()))

    def forward(self, context):
        return self.gain * context[:, -1:].expand(-1, self.n_steps, -1)


@pytest.mark.parametrize("as_settings", [False, True])
def test_the_users_own_module_is_trained(teacher, as_settings):
    module = LastValue()
    student = Network(lambda length, steps, levels: LastValue(steps)) if as_settings else module
    walk = np.random.default_rng(0).normal(size=(300, 1)).cumsum(axis=0)
    model = make(teacher, student).fit(TimeSeries.from_values(walk))
    assert float(module.gain) == 0.0  # a copy is trained
    assert float(model.student_.network.gain.detach()) != 0.0
    assert len(model.predict(2 * T)) == 2 * T
    assert model.student_.n_parameters == 1


def test_validation_series_decide_when_to_stop(teacher):
    model = make(teacher, STUDENTS["dlinear"])
    model.fit(series(), val_series=series(100, seed=4))
    assert model.training_summary_.errors.horizon == T


def test_grid_search_over_students_labels_once(teacher, tmp_path):
    data = series(200)
    grid = {
        "input_chunk_length": [L],
        "output_chunk_length": [T],
        "teacher": [teacher],
        "student": ["linear", STUDENTS["dlinear"], STUDENTS["mlp"]],
        "alignment": [None],
        "horizon_weights": ["uniform", "inverse_error"],
        "cache_dir": [tmp_path],
        "random_state": [0],
    }
    best, *_ = DistilledForecaster.gridsearch(grid, data[:160], val_series=data[160:])
    assert best.model_params["student"] in grid["student"]
    # 160 points: 137 contexts.
    assert teacher.n_asked == 160 - L + 1


def test_quantiles_are_a_parameter(teacher):
    model = make(teacher, STUDENTS["mlp"], quantiles=[0.1, 0.5, 0.9]).fit(series())
    contexts = series().values()[None, -L:]
    quantiles = model.student_.predict_quantiles(contexts)
    assert quantiles.shape == (1, T, 1, 3)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    parameters = model.predict(T, predict_likelihood_parameters=True)
    np.testing.assert_allclose(parameters.values(), quantiles[0, :, 0], rtol=1e-6)


def test_levels_that_the_teacher_does_not_know_are_extrapolated(teacher):
    model = make(teacher, STUDENTS["mlp"], quantiles=[0.01, 0.5, 0.99]).fit(series())
    made = model.predict(T, predict_likelihood_parameters=True).values()
    assert (np.diff(made, axis=1) > 0).all()


def test_alignment_insisted_on_with_a_teacher_that_has_no_states(teacher):
    with pytest.raises(ValueError, match="has none to show"):
        make(teacher, "mlp", alignment="factorised").fit(series())
    assert teacher.n_asked == 0


def test_the_bundled_teacher_is_aligned_with_by_default():
    model = make("bundled", STUDENTS["mlp"], cache_dir=None).fit(series(150))
    assert model.training_summary_.chosen.alignment == "factorised"
    assert np.isfinite([e.alignment for e in model.training_summary_.epochs]).all()


class Plain(torch.nn.Module):
    """A linear map over the context, wrong in a way of choice."""

    def __init__(self, length=L, steps=T, levels=1, wrong=None, gain=1.0):
        super().__init__()
        self.wrong, self.gain = wrong, gain
        self.layers = torch.nn.ModuleList([torch.nn.Linear(length, steps)])
        if wrong == "no parameters":
            layers = list(self.layers)
            del self.layers
            self.layers = layers
        if wrong == "hidden_size":
            self.hidden_size = 7
        if wrong == "normalised":
            self.layers.append(torch.nn.BatchNorm1d(steps))

    def forward(self, context):
        steps = self.gain * self.layers[0](context.transpose(1, 2)).transpose(1, 2)
        if self.wrong == "normalised":
            steps = self.layers[1](steps)
        return steps[:, 1:] if self.wrong == "shape" else steps


BAD_STUDENTS = [
    (lambda: MLP(training=Training(device="gpu")), ValueError, "device='gpu'.*cannot be used"),
    (lambda: Network(lambda *sizes: 3), TypeError, "must build a torch.nn.Module, got int"),
    (lambda: Plain(wrong="shape"), ValueError, r"shape \(2, 5, 1, 1\), expected .*\(2, 6, 1, 1\)"),
    (lambda: Plain(wrong="no parameters"), ValueError, "no parameters to train"),
    (lambda: Plain(wrong="hidden_size"), ValueError, "hidden_size=7.*got none"),
]


@pytest.mark.parametrize(("student", "kind", "message"), BAD_STUDENTS)
def test_students_that_cannot_be_trained_are_refused_before_the_teacher_is_asked(
    teacher, student, kind, message
):
    with pytest.raises(kind, match=message):
        make(teacher, student()).fit(series())
    assert teacher.n_asked == 0


def test_settings_that_contradict_each_other_are_refused(teacher):
    with pytest.raises(TypeError, match=r"pass a module, or the class as Network\(Plain\)"):
        make(teacher, Plain)
    with pytest.raises(ValueError, match="distillation_weight=0 is none"):
        make(teacher, "mlp", alignment="linear", distillation_weight=0)
    with pytest.raises(ValueError, match=r"below 2\*\*32"):
        make(teacher, "mlp", random_state=2**32)
    with pytest.raises(ValueError, match="covariates of val_series, which is None"):
        make(teacher, "mlp").fit(series(), val_past_covariates=series())


@pytest.mark.parametrize("n", [60, 61, 62])
def test_networks_that_normalise_over_a_batch_meet_no_batch_of_one(teacher, n):
    student = Network(BatchNormed, training=Training(max_epochs=1, batch_size=2))
    assert len(make(teacher, student, distillation_weight=0).fit(series(n)).predict(T)) == T


class BatchNormed(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes, wrong="normalised")
