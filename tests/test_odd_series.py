"""Gaps, short histories, and the other states that real series are in."""

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster import MLP, DistilledForecaster, DLinear, ITransformer, Training

L, T = 24, 6
FAST = Training(max_epochs=2)
STUDENTS = {
    "linear": "linear",
    "dlinear": DLinear(training=FAST),
    "mlp": MLP(hidden_size=16, training=FAST),
    "itransformer": ITransformer(d_model=16, d_ff=32, training=FAST),
}
students = pytest.mark.parametrize("student", list(STUDENTS))


def make(teacher="bundled", student="linear", **more):
    if student != "linear":
        pytest.importorskip("torch")
    more = {"random_state": 0, "verbose": False, "cache_dir": False} | more
    more = {"input_chunk_length": L, "output_chunk_length": T} | more
    return DistilledForecaster(teacher=teacher, student=STUDENTS[student], **more)


def open_lengths(student="linear", **more):
    """Return a model whose lengths are fitted to the data."""
    return make(student=student, input_chunk_length=None, output_chunk_length=None, **more)


def holes(values, share, block=1, seed=0):
    rng = np.random.default_rng(seed)
    missing = rng.random((-(-len(values) // block), values.shape[1])) < share
    values = values.copy()
    values[np.repeat(missing, block, axis=0)[: len(values)]] = np.nan
    return values


@students
@pytest.mark.parametrize("where", ["leading", "trailing", "scattered", "stretch", "one component"])
def test_gaps_anywhere_leave_forecasts_without_gaps(student, where):
    values = seasonal(300, components=2)
    if where == "leading":
        values[:50] = np.nan
    elif where == "trailing":
        values[-10:] = np.nan
    elif where == "scattered":
        values = holes(values, 0.4)
    elif where == "stretch":
        values[100:180] = np.nan
    else:
        values[100:200, 1] = np.nan
    series = TimeSeries.from_values(values)
    model = open_lengths(student=student, quantiles=[0.1, 0.5, 0.9]).fit(series)
    assert np.isfinite(model.predict(2 * T).values()).all()
    assert np.isfinite(model.predict(T, num_samples=5).all_values()).all()
    backtest = model.historical_forecasts(series, start=250, retrain=False, forecast_horizon=T)
    one = model.predict(T, series=series[:250])
    np.testing.assert_allclose(backtest.values()[0], one.values()[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("share", "block", "most"), [(0.3, 1, 1.15), (0.5, 1, 1.3), (0.3, 12, 1.4)]
)
def test_a_student_of_gappy_data_is_nearly_as_good(share, block, most):
    values = seasonal(1200)
    complete = make(distillation_weight=0).fit(TimeSeries.from_values(values[:600]))
    gappy = make(distillation_weight=0).fit(
        TimeSeries.from_values(holes(values[:600], share, block))
    )
    origins = range(600 + L, 1190, 5)
    contexts = np.stack([values[o - L : o] for o in origins])
    targets = np.stack([values[o : o + T] for o in origins])
    errors = [((m.student_.predict(contexts) - targets) ** 2).mean() for m in (complete, gappy)]
    assert errors[1] < most * errors[0]


def test_missing_truth_counts_in_no_loss():
    # Noise-free: what is observed has an exact solution, which zeros for missing values would bend.
    values = np.sin(np.arange(600) * 2 * np.pi / 12)[:, None]
    gappy = holes(values, 0.3)
    gappy[-L:] = values[-L:]
    model = make(distillation_weight=0).fit(TimeSeries.from_values(gappy))
    expected = np.sin(np.arange(600, 600 + T) * 2 * np.pi / 12)
    np.testing.assert_allclose(model.predict(T).values()[:, 0], expected, atol=0.1)


def test_the_future_never_leaks_into_what_is_filled():
    values = seasonal(300)
    values[240:250] = np.nan
    other = values.copy()
    other[250:] += 50.0
    model = make(distillation_weight=0).fit(TimeSeries.from_values(seasonal(300, seed=1)))
    made = [
        model.historical_forecasts(
            TimeSeries.from_values(v), start=244, retrain=False, forecast_horizon=T
        ).values()[:6]
        for v in (values, other)
    ]
    np.testing.assert_array_equal(*made)


def test_teachers_see_gaps_if_they_understand_them_and_filled_ones_if_not():
    seen = []

    class Watching:
        def __init__(self, takes_missing):
            from distilts_forecaster.teachers import TeacherInfo

            self.info = TeacherInfo("watching", takes_missing=takes_missing, longest_context=L)

        def forecast(self, contexts, horizon, quantile_levels):
            from distilts_forecaster.teachers import TeacherForecast

            seen.append(np.isnan(contexts).any())
            last = np.nan_to_num(contexts[:, -1:])
            return TeacherForecast(np.repeat(last, horizon, axis=1)[..., None])

    series = TimeSeries.from_values(holes(seasonal(200), 0.2))
    make(Watching(True)).fit(series)
    assert all(seen)
    seen.clear()
    make(Watching(False)).fit(series)
    assert seen
    assert not any(seen)


@students
@pytest.mark.parametrize("n", [4, 10, 20, 29, 50])
def test_a_history_of_any_length_is_fitted_and_forecast(student, n):
    series = TimeSeries.from_values(seasonal(n))
    model = open_lengths(student=student, quantiles=[0.1, 0.5, 0.9]).fit(series)
    assert np.isfinite(model.predict(2 * T).values()).all()
    assert np.isfinite(model.predict(3, num_samples=3).all_values()).all()
    longer = TimeSeries.from_values(seasonal(100))
    assert np.isfinite(model.predict(T, series=longer).values()).all()


def test_a_series_shorter_than_the_lookback_is_forecast():
    values = seasonal(300)
    model = make().fit(TimeSeries.from_values(values))
    short = TimeSeries.from_values(values[-8:])
    made = model.predict(T, series=[short, TimeSeries.from_values(values)])
    assert all(np.isfinite(one.values()).all() for one in made)


def test_a_panel_of_all_lengths_is_one_student(teacher):
    lengths = (3, 8, 15, 30, 200, 300)
    panel = [TimeSeries.from_values(seasonal(n, seed=n)) for n in lengths if n > 3]
    model = make(teacher).fit(panel)
    made = model.predict(T, series=[TimeSeries.from_values(seasonal(3)), *panel])
    assert len(made) == 6
    with pytest.raises(ValueError, match=r"series\[0\] has 3 points"):
        make(teacher).fit([TimeSeries.from_values(seasonal(3)), *panel])


def test_twenty_points_beat_the_seasonal_naive_forecast_on_average():
    errors = []
    for seed in range(20):
        values = seasonal(40, seed=seed, noise=0.3)[:, 0]
        model = make(input_chunk_length=None).fit(TimeSeries.from_values(values[:20]))
        made = model.predict(T).values()[:, 0]
        errors.append([np.abs(v - values[20:26]).mean() for v in (made, values[14:20])])
    student, naive = np.mean(errors, axis=0)
    assert student <= naive


INDEXES = {
    "integer": pd.RangeIndex(5, 305),
    "every other integer": pd.RangeIndex(0, 600, 2),
    "minutes": pd.date_range("2024", periods=300, freq="5min"),
    "hours": pd.date_range("2024-03-30", periods=300, freq="h"),
    "business days": pd.date_range("2024", periods=300, freq="B"),
    "weeks": pd.date_range("2024", periods=300, freq="W-WED"),
    "months": pd.date_range("1990", periods=300, freq="MS"),
    "quarters": pd.date_range("1950", periods=300, freq="QE"),
    "years": pd.date_range("1700", periods=300, freq="YS"),
}


@pytest.mark.parametrize("kind", list(INDEXES))
def test_every_frequency_goes_on(kind, teacher):
    series = TimeSeries.from_times_and_values(INDEXES[kind], seasonal(300))
    forecast = make(teacher, quantiles=[0.1, 0.5, 0.9]).fit(series).predict(T, num_samples=3)
    assert forecast.start_time() == series.end_time() + series.freq
    assert forecast.freq == series.freq


def test_frequencies_may_differ_in_a_list(teacher):
    panel = [TimeSeries.from_times_and_values(i, seasonal(300)) for i in INDEXES.values()]
    made = make(teacher).fit(panel).predict(T, series=panel)
    assert [one.freq for one in made] == [one.freq for one in panel]


@pytest.mark.filterwarnings("ignore")
def test_time_zones_are_taken_as_darts_takes_them(teacher):
    times = pd.date_range("2024-03-25", periods=300, freq="h", tz="Asia/Tokyo")
    series = TimeSeries.from_series(pd.Series(seasonal(300)[:, 0], index=times))
    assert np.isfinite(make(teacher).fit(series).predict(T).values()).all()


@pytest.mark.parametrize("dtype", [int, bool, np.float32, np.int64])
def test_integers_and_truth_values_are_numbers(dtype, teacher):
    values = (5 * seasonal(300)).astype(dtype)
    series = TimeSeries.from_values(values)
    assert np.isfinite(make(teacher).fit(series).predict(T).values()).all()


def test_counts_are_not_forecast_below_zero_on_request():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.2, size=(400, 1)).astype(float) * rng.integers(1, 5, size=(400, 1))
    series = TimeSeries.from_values(counts)
    model = make(quantiles=[0.1, 0.5, 0.9], nonnegative=True).fit(series)
    for made in (
        model.predict(3 * T),
        model.predict(3 * T, num_samples=50),
        model.predict(T, predict_likelihood_parameters=True),
    ):
        assert (made.all_values() >= 0).all()
    assert make().fit(series).student_.nonnegative is False


@students
@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_goes_on(student, value):
    series = TimeSeries.from_values(np.full((200, 1), value))
    model = make(student=student, quantiles=[0.1, 0.5, 0.9]).fit(series)
    np.testing.assert_allclose(model.predict(2 * T).values(), value)
    np.testing.assert_allclose(model.predict(T, num_samples=3).all_values(), value)


def test_a_level_jump_at_the_end_is_followed():
    values = seasonal(400)
    values[-L // 2 :] += 20.0
    made = (
        make()
        .fit(TimeSeries.from_values(seasonal(400)))
        .predict(T, series=TimeSeries.from_values(values))
    )
    assert (made.values() > 8.0).all()


@settings(max_examples=15, deadline=None)
@given(
    scale=st.floats(0.01, 1000),
    shift=st.floats(-100, 100),
    share=st.floats(0, 0.4),
    seed=st.integers(0, 5),
)
def test_fit_and_forecast_commute_with_shift_and_scale_of_gappy_data(scale, shift, share, seed):
    values = holes(seasonal(120, seed=seed), share, seed=seed)
    plain = make(distillation_weight=0, quantiles=[0.1, 0.5, 0.9]).fit(
        TimeSeries.from_values(values)
    )
    moved = make(distillation_weight=0, quantiles=[0.1, 0.5, 0.9]).fit(
        TimeSeries.from_values(shift + scale * values)
    )
    one, other = (m.predict(T, predict_likelihood_parameters=True).values() for m in (plain, moved))
    np.testing.assert_allclose(other, shift + scale * one, rtol=1e-3, atol=2e-3 * scale)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), share=st.floats(0, 0.4))
def test_the_order_of_series_is_irrelevant(seed, share):
    panel = [
        TimeSeries.from_values(holes(seasonal(n, seed=seed + n), share, seed=seed))
        for n in (60, 90, 150)
    ]
    one = make(distillation_weight=0, quantiles=[0.1, 0.5, 0.9]).fit(panel)
    other = make(distillation_weight=0, quantiles=[0.1, 0.5, 0.9]).fit(panel[::-1])
    for series in panel:
        a, b = (m.predict(T, series=series).values() for m in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), origin=st.integers(60, 140))
def test_what_comes_after_the_training_span_does_not_matter(seed, origin):
    values = holes(seasonal(150, seed=seed), 0.2, seed=seed)
    other = values.copy()
    other[origin:] = np.random.default_rng(seed).normal(size=other[origin:].shape) * 100
    made = [
        make(quantiles=[0.1, 0.5, 0.9])
        .fit(TimeSeries.from_values(v[:origin]))
        .predict(T, predict_likelihood_parameters=True)
        .values()
        for v in (values, other)
    ]
    np.testing.assert_array_equal(*made)


def test_models_of_short_series_have_their_students_lengths():
    times = pd.date_range("2000", periods=60, freq="MS")
    series = TimeSeries.from_times_and_values(times, seasonal(60, period=12))
    encoders = {"cyclic": {"past": ["month"], "future": ["month"]}}
    model = DistilledForecaster(cache_dir=False, verbose=False, add_encoders=encoders).fit(series)
    assert (model.input_chunk_length, model.output_chunk_length) == (30, 20)
    assert len(model.predict(96)) == 96
    model = DistilledForecaster(cache_dir=False, verbose=False).fit(series)
    made = model.historical_forecasts(series, start=40, forecast_horizon=3, retrain=False)
    assert len(made) == 18
    assert model.untrained_model().input_chunk_length == 512
