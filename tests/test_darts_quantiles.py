"""Quantiles as Darts knows them."""

import copy

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries
from darts.metrics import ic, mae, mic, mql
from darts.models import ConformalNaiveModel, ConformalQRModel, LinearRegressionModel

from distilts_forecaster import MLP, DistilledForecaster, DLinear, ITransformer, Training
from distilts_forecaster.settings import make_settings

L, T = 24, 6
QUANTILES = [0.05, 0.1, 0.5, 0.9, 0.95]
FAST = Training(max_epochs=2)
STUDENTS = {
    "linear": "linear",
    "dlinear": DLinear(training=FAST),
    "mlp": MLP(hidden_size=16, training=FAST),
    "itransformer": ITransformer(d_model=16, d_ff=32, training=FAST),
}
DATA = TimeSeries.from_values(seasonal(400, components=2))


def make(student="linear", teacher="bundled", **settings):
    settings = {"quantiles": QUANTILES, "random_state": 0, "verbose": False} | settings
    if student != "linear":
        pytest.importorskip("torch")
    return DistilledForecaster(L, T, teacher=teacher, student=STUDENTS[student], **settings)


@pytest.fixture(scope="module", params=list(STUDENTS))
def fitted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return make(request.param, cache_dir=folder).fit(DATA[:350])


def test_parameters_are_named_as_by_darts_and_never_cross(fitted):
    made = fitted.predict(T, predict_likelihood_parameters=True)
    expected = [f"{c}_q{q:.3f}" for c in DATA.components for q in QUANTILES]
    assert made.components.tolist() == expected
    assert (np.diff(made.values().reshape(T, 2, -1), axis=2) >= 0).all()


def test_samples_fall_within_the_quantiles(fitted):
    samples = fitted.predict(2 * T, num_samples=500, random_state=1)
    assert samples.n_samples == 500
    parameters = fitted.predict(T, predict_likelihood_parameters=True).values()
    inside = samples.all_values()[:T] <= parameters.reshape(T, 2, -1)[..., 3:4]
    assert inside.mean() == pytest.approx(0.9, abs=0.03)
    again = fitted.predict(2 * T, num_samples=500, random_state=1)
    np.testing.assert_array_equal(samples.all_values(), again.all_values())


def draws(model, **more):
    return model.predict(2 * T, num_samples=20, **more).all_values()


def test_samples_follow_the_models_random_state(fitted):
    one, other = copy.deepcopy(fitted), copy.deepcopy(fitted)
    first, second = draws(one), draws(one)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(draws(other), first)
    apart = draws(other, random_state=7)  # leaves the model's own stream alone
    np.testing.assert_array_equal(apart, draws(one, random_state=7))
    np.testing.assert_array_equal(draws(other), second)
    unseeded = copy.deepcopy(fitted)
    unseeded.model_params["random_state"] = None
    assert not np.array_equal(draws(unseeded), draws(copy.deepcopy(unseeded)))


def test_backtests_follow_the_models_random_state(fitted):
    def backtest(model, **more):
        made = model.historical_forecasts(
            DATA, start=360, forecast_horizon=T, num_samples=5, retrain=False,
            last_points_only=False, **more,
        )  # fmt: skip
        return np.stack([one.all_values() for one in made])

    one, other = copy.deepcopy(fitted), copy.deepcopy(fitted)
    first = backtest(one)
    np.testing.assert_array_equal(backtest(other), first)
    assert not np.array_equal(backtest(one), first)
    seeded = backtest(one, random_state=3)
    np.testing.assert_array_equal(seeded, backtest(other, random_state=3))
    # Each window has random numbers of its own: their errors are not all alike.
    size = first.std(axis=-1, keepdims=True) + 1e-9
    noise = (first - first.mean(axis=-1, keepdims=True)) / size
    assert np.abs(noise[0] - noise[1]).max() > 0.1


def test_one_sample_is_the_forecast(fitted):
    one, again = fitted.predict(2 * T), fitted.predict(2 * T)
    np.testing.assert_array_equal(one.values(), again.values())
    assert one.n_samples == 1


def test_backtests_forecast_samples_and_parameters(fitted):
    settings = {"start": 350, "forecast_horizon": T, "retrain": False, "stride": 4}
    made = fitted.historical_forecasts(
        DATA, **settings, last_points_only=False, predict_likelihood_parameters=True
    )
    one = fitted.predict(T, series=DATA[:354], predict_likelihood_parameters=True)
    assert made[1].components.equals(one.components)
    assert made[1].start_time() == one.start_time()
    np.testing.assert_allclose(made[1].values(), one.values(), rtol=1e-4, atol=1e-5)
    last = fitted.historical_forecasts(DATA, **settings, predict_likelihood_parameters=True)
    np.testing.assert_array_equal(last.values()[1], made[1].values()[-1])
    assert np.isfinite(mql([DATA] * len(made), made, q=0.9)).all()
    assert 0 <= mic(DATA, made[0], q_interval=(0.05, 0.95)) <= 1
    samples = fitted.historical_forecasts(DATA, **settings, num_samples=20)
    assert samples.n_samples == 20
    score = fitted.backtest(
        DATA, **settings, num_samples=50, metric=[mql, mae], metric_kwargs=[{"q": 0.1}, {}]
    )
    assert np.isfinite(score).all()


def test_a_saved_model_forecasts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model.pt")
    loaded = DistilledForecaster.load(tmp_path / "model.pt")
    one, other = (m.predict(T, predict_likelihood_parameters=True) for m in (fitted, loaded))
    np.testing.assert_array_equal(one.values(), other.values())


@pytest.mark.parametrize("wrapper", [ConformalNaiveModel, ConformalQRModel])
def test_conformal_models_can_be_put_around_it(wrapper, teacher):
    quantiles = [0.1, 0.5, 0.9]
    model = make(teacher=teacher, quantiles=quantiles).fit(DATA[:350])
    wrapped = wrapper(model, quantiles=quantiles)
    made = wrapped.predict(T, series=DATA[:380], predict_likelihood_parameters=True)
    assert (np.diff(made.values().reshape(T, 2, 3), axis=2) >= 0).all()


def test_intervals_cover_what_they_say_after_the_cut_off(teacher):
    rng = np.random.default_rng(0)
    season = np.sin(np.arange(3000) * 2 * np.pi / 6)
    data = TimeSeries.from_values(season + rng.standard_t(4, size=3000))
    model = make(teacher=teacher).fit(data[:1500])
    made = model.historical_forecasts(
        data,
        start=1500,
        forecast_horizon=T,
        retrain=False,
        predict_likelihood_parameters=True,
        last_points_only=False,
        stride=T,
    )
    inside = ic([data] * len(made), made, q_interval=[(0.1, 0.9), (0.05, 0.95)])
    np.testing.assert_allclose(np.mean(inside, axis=(0, 1)), [0.8, 0.9], atol=0.03)


def test_without_quantiles_there_are_none(teacher):
    model = make(teacher=teacher, quantiles=None).fit(DATA)
    assert not model.supports_probabilistic_prediction
    with pytest.raises(ValueError, match="num_samples"):
        model.predict(T, num_samples=2)
    with pytest.raises(ValueError, match="likelihood"):
        model.predict(T, predict_likelihood_parameters=True)


def test_a_teacher_without_quantiles_leaves_them_to_the_targets():
    def last(contexts, horizon):
        return np.repeat(contexts[:, -1:], horizon, axis=1)

    made = make(teacher=last).fit(DATA).predict(T, predict_likelihood_parameters=True).values()
    assert (np.diff(made.reshape(T, 2, -1), axis=2) > 0).all()
    pytest.importorskip("torch")
    made = make("mlp", teacher=last).fit(DATA).predict(T, predict_likelihood_parameters=True)
    assert (np.diff(made.values().reshape(T, 2, -1), axis=2) >= 0).all()


def test_labels_with_quantiles_are_asked_once(teacher):
    make(teacher=teacher).fit(DATA)
    asked = teacher.n_asked
    make(teacher=teacher, quantiles=[0.2, 0.5, 0.8], calibrate=False).fit(DATA)
    assert teacher.n_asked == asked


def test_a_grid_search_may_score_quantiles(teacher):
    best, settings, _ = DistilledForecaster.gridsearch(
        {
            "input_chunk_length": [L],
            "output_chunk_length": [T],
            "teacher": [teacher],
            "quantiles": [[0.1, 0.5, 0.9]],
            "calibrate": [True, False],
        },
        DATA[:350],
        val_series=DATA[350:380],
    )
    assert settings["quantiles"] == [0.1, 0.5, 0.9]
    assert not best._fit_called


def test_calendar_times_are_kept(teacher):
    times = pd.date_range("2024-01-31", periods=200, freq="ME")
    data = TimeSeries.from_times_and_values(times, seasonal(200))
    model = make(teacher=teacher).fit(data)
    assert model.predict(3, num_samples=5).freq_str == "ME"
    assert (
        model.predict(3, predict_likelihood_parameters=True).start_time()
        == data.end_time() + data.freq
    )


def test_a_validation_series_and_a_teacher_that_knows_no_gaps(teacher):
    values = seasonal(300)
    teaching = LinearRegressionModel(
        lags=60, output_chunk_length=T, likelihood="quantile", quantiles=[0.1, 0.5, 0.9]
    ).fit(TimeSeries.from_values(values))
    model = make(teacher=teaching, teacher_context=64, cache_dir=False)
    model.fit(TimeSeries.from_values(values[:200]), val_series=TimeSeries.from_values(values[180:]))
    assert np.isfinite(model.predict(T).values()).all()


@pytest.mark.parametrize("quantiles", [(0.01, 0.5, 0.99), (0.01, 0.1, 0.5, 0.9, 0.99)])
def test_levels_beyond_a_teachers_are_asked_for_as_its_outermost(quantiles):
    settings = make_settings(L, T, student=MLP(), quantiles=quantiles)
    assert settings.label_levels((0.1, 0.9)) == (0.1, 0.5, 0.9)
