"""Covariates of all students, and of the teachers that take them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.models import LinearRegressionModel

from distilts_forecaster import MLP, DistilledForecaster, DLinear, ITransformer, Training
from distilts_forecaster.distill import pipeline
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers import TeacherForecast, TeacherInfo, load_teacher
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore

L, T = 24, 6
STUDENTS = {
    "linear": "linear",
    "dlinear": DLinear(),
    "mlp": MLP(hidden_size=32, training=Training(max_epochs=10, learning_rate=3e-3)),
    "itransformer": ITransformer(
        d_model=32, d_ff=64, training=Training(max_epochs=20, learning_rate=3e-3)
    ),
}
TIMES = pd.date_range("2024", periods=700, freq="h")


def made(n=600, seed=0):
    """Return a season plus the effect of a signal, and the signal for as long as the times."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=len(TIMES))
    values = np.sin(np.arange(len(TIMES)) * 2 * np.pi / 12) + signal
    known = TimeSeries.from_times_and_values(TIMES, signal)
    series = TimeSeries.from_times_and_values(TIMES, values)
    return series[:n], series, known


def make(student="linear", **settings):
    if student != "linear":
        pytest.importorskip("torch")
    settings = {"distillation_weight": 0, "random_state": 0, "verbose": False} | settings
    return DistilledForecaster(L, T, student=STUDENTS[student], **settings)


def error(model, series, **covariates):
    made = model.historical_forecasts(
        series,
        start=600,
        forecast_horizon=T,
        stride=3,
        retrain=False,
        last_points_only=False,
        **covariates,
    )
    return np.mean([(one - series.slice_intersect(one)).values() ** 2 for one in made])


@pytest.mark.parametrize("student", list(STUDENTS))
def test_every_student_learns_from_what_is_known_ahead(student):
    train, series, known = made()
    informed = make(student).fit(train, future_covariates=known)
    blind = make(student).fit(train)
    assert error(informed, series, future_covariates=known) < 0.6 * error(blind, series)


@pytest.mark.parametrize("student", ["linear", "itransformer"])
def test_quantiles_and_longer_forecasts_come_with_covariates(student):
    train, _, known = made()
    model = make(student, quantiles=[0.1, 0.5, 0.9]).fit(train, future_covariates=known)
    assert np.isfinite(model.predict(3 * T, num_samples=5).all_values()).all()
    parameters = model.predict(T, predict_likelihood_parameters=True).values()
    assert (np.diff(parameters, axis=1) >= 0).all()


@pytest.mark.parametrize("student", list(STUDENTS))
def test_past_and_static_covariates_are_taken(student, tmp_path):
    train, series, known = made(300)
    panel = [
        train.with_static_covariates(pd.DataFrame({"size": [size], "name": ["a"]}))
        for size in (1.0, 2.0)
    ]
    past = [known[:300]] * 2
    model = make(student).fit(panel, past_covariates=past)
    assert model.uses_static_covariates
    forecast = model.predict(2 * T, series=panel[0], past_covariates=known)
    assert np.isfinite(forecast.values()).all()
    with pytest.raises(ValueError, match="static"):
        model.predict(T, series=series[:300], past_covariates=known)
    model.save(tmp_path / "model.pt")
    loaded = DistilledForecaster.load(tmp_path / "model.pt")
    again = loaded.predict(2 * T, series=panel[0], past_covariates=known)
    np.testing.assert_array_equal(again.values(), forecast.values())


def test_static_covariates_that_say_nothing_are_not_needed():
    train, series, _ = made(300)
    model = make().fit(train.with_static_covariates(pd.DataFrame({"size": [1.0]})))
    assert not model.uses_static_covariates
    assert np.isfinite(model.predict(T, series=series[:300]).values()).all()


def test_gaps_in_covariates_are_filled_and_none_at_all_is_refused():
    train, _, known = made()
    values = known.values().copy()
    values[np.random.default_rng(0).random(len(values)) < 0.2] = np.nan
    holes = TimeSeries.from_times_and_values(TIMES, values)
    model = make().fit(train, future_covariates=holes, past_covariates=holes)
    assert np.isfinite(model.predict(T).values()).all()
    with pytest.raises(ValueError, match="no values at all"):
        make().fit(train, future_covariates=known * np.nan)


def test_a_series_shorter_than_the_context_needs_only_its_own_covariates():
    train, series, known = made()
    model = make().fit(train, future_covariates=known)
    short = series[590:600]
    made_of = model.predict(T, series=short, future_covariates=known[590:])
    assert np.isfinite(made_of.values()).all()


def test_calendar_features_are_covariates_of_the_linear_student():
    train, _, _ = made()
    model = make(add_encoders={"cyclic": {"future": ["hour"]}}).fit(train)
    assert np.isfinite(model.predict(2 * T).values()).all()
    assert model.student_.n_covariates == (0, 2, 0)


class Listening:
    """Repeat the last value, and keep the covariates that came with the windows."""

    def __init__(self, takes):
        self.heard = []
        self.info = TeacherInfo(
            "listening", revision="1", takes_covariates=takes, takes_missing=True, longest_context=L
        )

    def forecast(self, contexts, horizon, quantile_levels, covariates=None):
        self.heard.append(covariates)
        last = np.repeat(contexts[:, -1:], horizon, axis=1)
        return TeacherForecast(last[..., None])


def test_a_teacher_that_takes_covariates_sees_those_of_its_windows():
    train, _, known = made(100)
    teacher = Listening(True)
    model = make(teacher=teacher, distillation_weight=1.0, cache_dir=False)
    model.fit(train, future_covariates=known, past_covariates=known)
    first = teacher.heard[0]
    signal = known.values()[:, 0]
    np.testing.assert_allclose(first.past[0, :, 0], signal[:L])
    np.testing.assert_allclose(first.future[0, :, 0], signal[: L + T])
    assert sum(len(heard.future) for heard in teacher.heard) == 100 - L + 1


def test_one_that_does_not_is_said_once(monkeypatch):
    monkeypatch.setattr(pipeline, "_told", set())
    train, _, known = made(100)
    teacher = Listening(False)
    model = make(teacher=teacher, distillation_weight=1.0, cache_dir=False)
    with pytest.warns(UserWarning, match="'listening' takes no covariates"):
        model.fit(train, future_covariates=known)
    assert all(heard is None for heard in teacher.heard)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(train, future_covariates=known)


def test_labels_made_with_other_covariates_are_others():
    contexts = np.zeros((2, L, 1), np.float32)
    labeller = Labeller(Listening(True), MemoryStore(), T)
    one, other = (Covariates(future=np.full((2, L + T, 1), v)) for v in (0.0, 1.0))
    assert labeller.keys(contexts, one)[0] == labeller.keys(contexts, one)[1]
    assert labeller.keys(contexts, one) != labeller.keys(contexts, other)
    assert labeller.keys(contexts, one) != labeller.keys(contexts)
    labeller.label(contexts, one)
    labeller.label(contexts, other)
    labeller.label(contexts, one)
    assert labeller.n_labelled == 2  # the two windows are the same


def test_a_darts_model_with_the_same_covariates_can_teach():
    train, _, known = made()
    teacher = LinearRegressionModel(
        lags=L, lags_future_covariates=(0, T), output_chunk_length=T
    ).fit(train, future_covariates=known)
    assert load_teacher(teacher).info.takes_covariates
    model = make(teacher=teacher, distillation_weight=1.0).fit(train, future_covariates=known)
    assert model.training_summary_.errors.teacher_everywhere < 0.1
    with pytest.raises(ValueError, match="was fitted with future covariates: fit the student with"):
        make(teacher=teacher, distillation_weight=1.0).fit(train)
    past = LinearRegressionModel(lags=L, lags_past_covariates=[-1]).fit(
        train, past_covariates=known
    )
    with pytest.raises(ValueError, match="not known yet: 6 steps were asked for"):
        make(teacher=past, distillation_weight=1.0).fit(train, past_covariates=known)
