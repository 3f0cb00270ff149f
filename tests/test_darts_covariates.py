import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries

torch = pytest.importorskip("torch")

from distilts_forecaster import MLP, DistilledForecaster, Training  # noqa: E402
from distilts_forecaster.facades.darts_covariates import rows_of  # noqa: E402

L, T = 24, 6
MIXED = MLP(hidden_size=32, training=Training(max_epochs=15, learning_rate=3e-3))


def made(n, seed=0, start="2024-01-01", lead=20):
    """Return a series that follows a random signal, and the signal, known ``lead`` further."""
    rng = np.random.default_rng(seed)
    signal = rng.choice([-1.0, 1.0], size=n + lead)
    values = 100 + 10 * signal[:n] + rng.normal(size=n)
    times = pd.date_range(start, periods=n + lead, freq="h")
    return (
        TimeSeries.from_times_and_values(times[:n], values),
        TimeSeries.from_times_and_values(times, 50 * signal + 7),
    )


def make(**changes):
    settings = {"input_chunk_length": L, "output_chunk_length": T, "distillation_weight": 0}
    settings |= {"student": MIXED, "random_state": 0, "cache_dir": False}
    return DistilledForecaster(**(settings | changes))


@pytest.fixture(scope="module")
def fitted():
    series, signal = made(600)
    return make().fit(series[:500], future_covariates=signal), series, signal


def error(model, series, **covariates):
    forecasts = model.historical_forecasts(
        series, start=510, forecast_horizon=T, retrain=False, last_points_only=False, stride=5,
        **covariates,
    )  # fmt: skip
    return np.mean([
        np.abs(f.values() - series.slice_intersect(f).values()).mean() for f in forecasts
    ])  # fmt: skip


def test_what_only_the_future_covariates_know_is_forecast(fitted):
    model, series, signal = fitted
    without = error(make().fit(series[:500]), series)
    assert error(model, series, future_covariates=signal) < 0.5 * without


@pytest.mark.parametrize("rate", [0.03, 0.15])
@pytest.mark.parametrize("length", [14, 56])
def test_events_known_ahead_count_after_a_flat_context_too(rate, length):
    """As in a linear regression on the same lags."""
    rng = np.random.default_rng(0)
    events = (rng.random(900) < rate).astype(float)
    values = 20 + 10 * events
    series, signal = TimeSeries.from_values(values), TimeSeries.from_values(events)
    model = DistilledForecaster(length, 7, distillation_weight=0, cache_dir=False)
    model.fit(series[:600], future_covariates=signal)
    flat = TimeSeries.from_values(np.full(length, 20.0))
    ahead = TimeSeries.from_values(np.r_[np.zeros(length), 0, 0, 1, 0, 1, 0, 0])
    made = model.predict(7, series=flat, future_covariates=ahead).values().ravel()
    np.testing.assert_allclose(made, 20 + 10 * ahead.values().ravel()[length:], atol=0.5)


def test_predict_uses_the_covariates_of_fit_unless_given_others(fitted):
    model, series, signal = fitted
    own = model.predict(9)
    given = model.predict(9, series=series[:500], future_covariates=signal)
    np.testing.assert_array_equal(own.values(), given.values())
    flipped = model.predict(9, future_covariates=signal * -1 + 14)
    assert np.abs(flipped.values() - own.values()).mean() > 3


@pytest.mark.parametrize("n", [1, T, T + 3, 3 * T])
def test_covariates_are_needed_up_to_the_forecast_and_not_used_beyond(fitted, n):
    model, series, signal = fitted
    past, last = series[:400], 400 + max(n, T)
    enough = model.predict(n, series=past, future_covariates=signal[:last])
    more = model.predict(n, series=past, future_covariates=signal)
    np.testing.assert_array_equal(enough.values(), more.values())
    with pytest.raises(ValueError, match="future_covariates must reach from"):
        model.predict(n, series=past, future_covariates=signal[: last - 1])


def test_past_covariates_end_with_the_series():
    # The signal of one step ago decides.
    series, signal = made(600, lead=0)
    shifted = signal.shift(-1)[1:]
    model = make().fit(series[1:500], past_covariates=shifted)
    n = 2 * T
    forecast = model.predict(n, series=series[100:300], past_covariates=shifted[: 300 + n - T])
    assert len(forecast) == n
    with pytest.raises(ValueError, match="past_covariates must reach"):
        model.predict(n, series=series[100:300], past_covariates=shifted[: 299 + n - T])


def test_lists_of_series_have_lists_of_covariates():
    pairs = [made(300, seed) for seed in range(2)]
    series, signals = map(list, zip(*pairs, strict=True))
    model = make().fit(series, future_covariates=signals)
    both = model.predict(T, series=series, future_covariates=signals)
    single = model.predict(T, series=series[1], future_covariates=signals[1])
    np.testing.assert_allclose(both[1].values(), single.values(), rtol=1e-5)
    with pytest.raises(ValueError, match="holds 1 series for 2"):
        model.predict(T, series=series, future_covariates=signals[0])


def test_a_backtest_that_refits_passes_covariates_on():
    series, signal = made(150)
    model = make(student=MLP(hidden_size=8, training=Training(max_epochs=1)))
    past = model.historical_forecasts(
        series, future_covariates=signal, start=140, forecast_horizon=T, retrain=True
    )
    assert np.isfinite(past.values()).all()


def test_saved_models_keep_their_covariates_scale(fitted, tmp_path):
    model, series, signal = fitted
    model.save(tmp_path / "model.pkl")
    loaded = DistilledForecaster.load(str(tmp_path / "model.pkl"))
    given = {"series": series, "future_covariates": signal}
    np.testing.assert_array_equal(
        loaded.predict(T, **given).values(), model.predict(T, **given).values()
    )


def test_a_teacher_labels_only_windows_whose_covariates_are_known(teacher):
    series, signal = made(200, lead=0)
    model = make(teacher=teacher, distillation_weight=1.0)
    model.fit(series, future_covariates=signal)
    assert teacher.n_asked == 200 - L - T + 1


def test_bad_covariates_are_refused_before_the_teacher_is_asked(teacher):
    series, signal = made(200)
    model = make(teacher=teacher, distillation_weight=1.0)
    cases = [
        ({"future_covariates": signal[10:]}, ValueError, "future_covariates must reach from 2024"),
        ({"past_covariates": signal[:150]}, ValueError, "past_covariates must reach"),
        ({"past_covariates": signal.values()}, TypeError, "must be a darts TimeSeries"),
        ({"past_covariates": [signal, signal]}, ValueError, "holds 2 series for 1"),
        ({"future_covariates": signal.resample("2h")}, ValueError, "has frequency 2h"),
        ({"past_covariates": signal * np.nan}, ValueError, "no values at all in"),
        ({"past_covariates": signal * np.inf}, ValueError, "infinite values"),
        ({"future_covariates": signal, "val_series": series}, ValueError, "val_future_covariates"),
    ]
    for given, kind, message in cases:
        with pytest.raises(kind, match=message):
            model.fit(series, **given)
    assert teacher.n_asked == 0
    with pytest.raises(ValueError, match='of your own takes no covariates.*student="mlp"'):
        make(student=torch.nn.Linear(L, T)).fit(series, past_covariates=signal)


def test_predict_falls_back_on_the_covariates_of_fit_for_any_series(fitted):
    model, series, signal = fitted
    part = series[:520]
    expected = model.predict(T, series=part, future_covariates=signal)
    np.testing.assert_array_equal(model.predict(T, series=part).values(), expected.values())
    several = model.predict(T, series=[part, series[:530]])
    np.testing.assert_allclose(several[0].values(), expected.values(), rtol=1e-6)
    late = TimeSeries.from_times_and_values(series.time_index + 500 * series.freq, series.values())
    with pytest.raises(ValueError, match="future_covariates must reach"):
        model.predict(T, series=late)
    refitted = make().fit(series, future_covariates=signal).fit(series)
    assert np.isfinite(refitted.predict(T, series=series).values()).all()


def test_models_fitted_on_several_series_ask_for_covariates():
    series, signal = made(300)
    model = make().fit([series, series], future_covariates=[signal, signal])
    with pytest.raises(ValueError, match="future_covariates"):
        model.predict(T, series=series)


@pytest.mark.parametrize("kind", ["past_covariates", "future_covariates"])
def test_a_backtest_that_fits_keeps_to_where_covariates_reach(kind):
    series, signal = made(120)
    forecasts = make().historical_forecasts(
        series, forecast_horizon=2, start=-40, start_format="position", stride=8, retrain=2,
        last_points_only=False, **{kind: signal[:110]},
    )  # fmt: skip
    assert forecasts
    assert forecasts[-1].end_time() <= signal[:110].end_time() + 3 * series.freq


def test_past_covariates_may_end_before_the_last_target():
    series, signal = made(300)
    short = make().fit(series, past_covariates=signal[: 300 - T])
    assert (
        short.training_summary_.windows.seen
        == make().fit(series, past_covariates=signal[:300]).training_summary_.windows.seen
    )
    with pytest.raises(ValueError, match="past_covariates must reach"):
        make().fit(series, past_covariates=signal[: 299 - T])


def test_encoders_are_covariates():
    encoders = {"cyclic": {"future": ["hour"]}, "position": {"past": ["relative"]}}
    series, _ = made(300)
    times = pd.date_range("2024-01-01", periods=300, freq="h")
    series = TimeSeries.from_times_and_values(times, series.values())
    model = make(add_encoders=encoders).fit(series, val_series=series[-150:])
    made_by_hand = model.generate_fit_predict_encodings(n=T, series=series)
    by_hand = make().fit(
        series,
        past_covariates=model.generate_fit_encodings(series)[0],
        future_covariates=model.generate_fit_encodings(series)[1],
        val_series=series[-150:],
        val_past_covariates=made_by_hand[0],
        val_future_covariates=made_by_hand[1],
    )
    expected = by_hand.predict(
        T, past_covariates=made_by_hand[0], future_covariates=made_by_hand[1]
    )
    np.testing.assert_allclose(model.predict(T).values(), expected.values(), rtol=1e-5)
    assert model.student_.scales.future.shape == (2, 2)
    several = make(add_encoders=encoders).fit([series, series])
    assert len(several.predict(T, series=series[:200])) == T
    refitting = make(add_encoders=encoders).historical_forecasts(
        series, forecast_horizon=T, start=-20, start_format="position", stride=10
    )
    assert np.isfinite(refitting.values()).all()


def test_rows_are_found_by_time():
    series = TimeSeries.from_times_and_values(
        pd.date_range("2024-01-31", periods=5, freq="ME"), np.zeros(5)
    )
    covariates = TimeSeries.from_times_and_values(
        pd.date_range("2023-12-31", periods=8, freq="ME"), np.arange(8.0)
    )
    rows = rows_of("past_covariates", covariates, series, 0, 9, 5, False)
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, 8))
    later = covariates.shift(3)
    with pytest.raises(ValueError, match="must reach"):
        rows_of("past_covariates", later, series, 0, 5, 5, False)


@pytest.mark.parametrize("n", [37, 43, 50, 60])
def test_short_series_need_no_covariates_beyond_their_end(n):
    series, signal = made(n, lead=0)
    student = MLP(hidden_size=8, training=Training(max_epochs=2))
    model = make(output_chunk_length=12, student=student).fit(series, future_covariates=signal)
    assert model.training_summary_.windows.seen > n - L - 12 + 1


def test_covariates_at_a_high_level_keep_their_precision():
    series, signal = made(600)
    level = TimeSeries.from_times_and_values(signal.time_index, 1e9 + signal.values() / 1e3)
    plain = make().fit(series[:500], future_covariates=signal).predict(T)
    lifted = make().fit(series[:500], future_covariates=level).predict(T)
    np.testing.assert_allclose(lifted.values(), plain.values(), rtol=0.02)


def test_quantiles_are_forecast_with_covariates():
    series, signal = made(300)
    model = make(quantiles=[0.1, 0.5, 0.9]).fit(series[:250], future_covariates=signal)
    contexts = series.values()[None, 250 - L : 250]
    future = signal.values()[None, 250 - L : 250 + T]
    quantiles = model.student_.predict_quantiles(contexts, future_covariates=future)
    expected = model.predict(T, series=series[:250], future_covariates=signal)
    parameters = model.predict(
        T, series=series[:250], future_covariates=signal, predict_likelihood_parameters=True
    )
    np.testing.assert_allclose(quantiles[0, :, 0], parameters.values(), rtol=1e-6)
    assert np.abs(quantiles[0, :, :, 1] - expected.values()).max() < 1.0
    with pytest.raises(ValueError, match="they are needed"):
        model.student_.predict_quantiles(contexts)
    with pytest.raises(ValueError, match=r"must be \(1, 30, 1\), got \(1, 29, 1\)"):
        model.student_.predict_quantiles(contexts, future_covariates=future[:, 1:])


def test_a_backtest_refuses_covariates_that_the_model_does_not_know():
    series, signal = made(200)
    model = make(student=MLP(hidden_size=8, training=Training(max_epochs=1))).fit(series)
    with pytest.raises(ValueError, match="fitted without covariates"):
        model.historical_forecasts(series, past_covariates=signal, retrain=False, start=150)


def test_encoders_learn_their_scale_from_the_training_series_alone():
    from darts.dataprocessing.transformers import Scaler

    encoders = {"datetime_attribute": {"future": ["dayofyear"]}, "transformer": Scaler()}

    def encoded(**more):
        model = DistilledForecaster(
            L, T, add_encoders=encoders, distillation_weight=0, cache_dir=False
        )
        series = TimeSeries.from_times_and_values(
            pd.date_range("2020", periods=200, freq="D"), seasonal(200)
        )
        model.fit(series, **more)
        return model.encoders.encode_inference(n=3, target=series)[1].values()

    later = TimeSeries.from_times_and_values(
        pd.date_range("2023-06", periods=80, freq="D"), seasonal(80)
    )
    np.testing.assert_array_equal(encoded(val_series=later), encoded())
