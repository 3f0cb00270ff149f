import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import CountingTeacher, seasonal
from darts import TimeSeries
from darts.metrics import mae
from darts.models import (
    ConformalNaiveModel,
    LinearRegressionModel,
    NaiveEnsembleModel,
    NaiveSeasonal,
    RegressionEnsembleModel,
)
from sklearn.base import clone

from distilts_forecaster import DistilledForecaster, FunctionTeacher, Linear

L, T = 24, 6


def series(n=200, components=1, seed=0, start="2024-01-01", freq="h"):
    values = seasonal(n, components, seed=seed)
    if start is None:
        return TimeSeries.from_values(values)
    times = pd.date_range(start, periods=n, freq=freq)
    return TimeSeries.from_times_and_values(times, values)


def make(teacher, **changes):
    settings = {"input_chunk_length": L, "output_chunk_length": T, "cache_dir": False}
    return DistilledForecaster(**(settings | {"teacher": teacher} | changes))


def naive(contexts, horizon):
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def last_of_two_axes(contexts, horizon):
    return naive(contexts, horizon)[:, :, 0]


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("start", [None, "2024-01-01"])
@pytest.mark.parametrize("n", [1, T, 3 * T + 1])
def test_predict_continues_the_series(teacher, components, start, n):
    data = series(components=components, start=start)
    forecast = make(teacher).fit(data).predict(n)
    assert len(forecast) == n
    assert forecast.start_time() == data.end_time() + data.freq
    assert forecast.freq == data.freq
    assert forecast.columns.equals(data.columns)
    assert np.isfinite(forecast.values()).all()


def test_the_forecast_is_close_to_what_comes(teacher):
    data = series(400)
    model = make(teacher).fit(data[:350])
    assert mae(data, model.predict(50)) < 0.6 * mae(
        data, NaiveSeasonal(K=1).fit(data[:350]).predict(50)
    )


def test_calendar_frequencies_are_kept(teacher):
    data = series(freq="MS")
    forecast = make(teacher).fit(data).predict(T)
    assert forecast.time_index.equals(pd.date_range(data.end_time(), periods=T + 1, freq="MS")[1:])


def test_components_static_covariates_and_dtype_are_carried_over(teacher):
    data = series(components=2).with_static_covariates(pd.DataFrame({"site": [1.0, 2.0]}))
    forecast = make(teacher).fit(data.astype(np.float32)).predict(T)
    assert forecast.dtype == np.float32
    pd.testing.assert_frame_equal(
        forecast.static_covariates, data.static_covariates, check_dtype=False
    )


def test_several_series_are_forecast_as_one_by_one(teacher):
    many = [series(seed=s) for s in range(3)]
    model = make(teacher).fit(many)
    together = model.predict(2 * T, series=many)
    for one, forecast in zip(many, together, strict=True):
        np.testing.assert_allclose(
            model.predict(2 * T, series=one).values(), forecast.values(), rtol=1e-5
        )
    assert model.predict(T, series=[]) == []
    with pytest.raises(ValueError, match="say which series"):
        model.predict(T)


def test_a_model_fitted_on_one_series_forecasts_another(teacher):
    model = make(teacher).fit(series())
    other = series(L, seed=7, start="2030-05-05")
    assert model.predict(T, series=other).start_time() == other.end_time() + other.freq


def test_a_shift_starts_later_and_forbids_feeding_back(teacher):
    data = series()
    model = make(teacher, output_chunk_shift=3).fit(data)
    assert model.predict(T).start_time() == data.end_time() + 4 * data.freq
    with pytest.raises(ValueError, match="shift"):
        model.predict(T + 1)


def test_fitting_twice_gives_the_same(teacher):
    data = series()
    first = make(teacher, random_state=1).fit(data).predict(T)
    assert make(teacher, random_state=1).fit(data).predict(T) == first


def test_what_comes_after_the_training_span_does_not_matter(teacher):
    data = series(300)
    changed = data.with_values(
        np.where(np.arange(300)[:, None, None] < 200, data.all_values(), 99.0)
    )
    assert make(teacher).fit(data[:200]).predict(T) == make(teacher).fit(changed[:200]).predict(T)


@pytest.mark.parametrize("last_points_only", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"forecast_horizon": T},
        {"forecast_horizon": 2, "stride": 3},
        {"forecast_horizon": 2 * T + 1, "stride": 5},
        {"forecast_horizon": T, "overlap_end": True},
        {"forecast_horizon": 3, "start": 0.5},
        {"forecast_horizon": 3, "start": -20, "start_format": "position"},
    ],
)
@pytest.mark.parametrize("start", [None, "2024-01-01"])
def test_historical_forecasts_equal_predict_window_by_window(
    teacher, options, last_points_only, start
):
    many = [series(components=2, start=start), series(150, components=2, seed=4, start=start)]
    model = make(teacher).fit(many)
    arguments = {"last_points_only": last_points_only, "retrain": False, **options}
    fast = model.historical_forecasts(many, **arguments)
    slow = model.historical_forecasts(many, enable_optimization=False, **arguments)
    for one, other in zip(fast, slow, strict=True):
        pairs = [(one, other)] if last_points_only else zip(one, other, strict=True)
        for a, b in pairs:
            assert a.time_index.equals(b.time_index)
            assert a.columns.equals(b.columns)
            np.testing.assert_allclose(a.values(), b.values(), rtol=1e-5, atol=1e-6)


def test_historical_forecasts_with_a_shift_equal_predict(teacher):
    data = series()
    model = make(teacher, output_chunk_shift=2).fit(data)
    arguments = {"forecast_horizon": T, "retrain": False, "stride": 4}
    for last_points_only in (True, False):
        fast, slow = (
            model.historical_forecasts(
                data, last_points_only=last_points_only, enable_optimization=e, **arguments
            )
            for e in (True, False)
        )
        fast, slow = ([f] if last_points_only else f for f in (fast, slow))
        for a, b in zip(fast, slow, strict=True):
            assert a.time_index.equals(b.time_index)
            np.testing.assert_allclose(a.values(), b.values(), rtol=1e-5, atol=1e-6)


def test_backtest_residuals_and_validation_length_work(teacher):
    data = series(140)
    model = make(teacher).fit(data[:100])
    assert model.backtest(data, forecast_horizon=T, retrain=False, metric=mae) > 0
    assert len(model.residuals(data, retrain=False)) > 50
    refitted = make(teacher).historical_forecasts(
        data,
        forecast_horizon=T,
        retrain=True,
        start=-20,
        start_format="position",
        val_length=30,
        stride=10,
    )
    assert np.isfinite(refitted.values()).all()


GRID = {
    "input_chunk_length": [L],
    "output_chunk_length": [T],
    "distillation_weight": [0.5, 1.0, 2.0, "auto"],
    "horizon_weights": [0.0, 1.0, 2.0],
}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_labels_each_window_once(tmp_path, n_jobs):
    data = series(120)
    asking = CountingTeacher(tmp_path / "asked.txt")
    grid = GRID | {"teacher": [asking], "cache_dir": [str(tmp_path / "cache")]}
    best, parameters, score = DistilledForecaster.gridsearch(
        grid, data[:100], val_series=data[100:], metric=mae, n_jobs=n_jobs
    )
    assert asking.n_asked == 100 - L + 1
    assert np.isfinite(score)
    assert best.fit(data[:100]).training_summary_.windows.labelled == 0
    assert parameters["teacher"] is asking


def test_a_backtest_that_refits_asks_for_new_windows_only(tmp_path):
    asking = CountingTeacher(tmp_path / "asked.txt")
    model = make(asking, cache_dir=tmp_path / "cache")
    data = series(120)
    model.historical_forecasts(data, start=100, forecast_horizon=1, retrain=True, overlap_end=True)
    # From 100 points (the first forecast) to 120: 21 refits, one new window each.
    assert asking.n_asked == (100 - L + 1) + 20


SECOND_PROCESS = """
import sys
sys.path.insert(0, {tests!r})
from test_darts import CountingTeacher, make, series
model = make(CountingTeacher({log!r}), cache_dir={cache!r}).fit(series())
print(model.training_summary_.windows.labelled, model.training_summary_.windows.from_cache)
"""


def test_a_second_process_finds_the_labels(tmp_path, request):
    log, cache = str(tmp_path / "asked.txt"), str(tmp_path / "cache")
    model = make(CountingTeacher(log), cache_dir=cache).fit(series())
    code = SECOND_PROCESS.format(tests=str(request.path.parent), log=log, cache=cache)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["0", str(model.training_summary_.windows.labelled)]
    assert CountingTeacher(log).n_asked == model.training_summary_.windows.labelled


def test_a_bare_function_keeps_its_labels_in_the_process(tmp_path):
    calls = []

    def function(contexts, horizon):
        calls.append(len(contexts))
        return naive(contexts, horizon)

    data = series()
    make(function, cache_dir=tmp_path / "cache").fit(data)
    model = make(function, cache_dir=tmp_path / "cache").fit(data)
    assert sum(calls) == 200 - L + 1
    model.untrained_model().fit(data)
    assert sum(calls) == 200 - L + 1
    assert not (tmp_path / "cache").exists()


def test_cache_on_and_off_give_the_same_student(teacher, tmp_path):
    data = series()
    off = make(teacher, cache_dir=False).fit(data)
    for _ in range(2):
        on = make(teacher, cache_dir=tmp_path / "cache").fit(data)
        np.testing.assert_array_equal(on.student_.weights, off.student_.weights)


def test_an_interrupted_fit_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("distilts_forecaster.teachers.labels.ROWS_PER_COMMIT", 10)
    asking = CountingTeacher(tmp_path / "asked.txt")
    forecast = asking.forecast

    def interrupted(*arguments):
        if asking.n_asked >= 50:
            raise KeyboardInterrupt
        return forecast(*arguments)

    asking.forecast = interrupted
    model = make(asking, cache_dir=tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        model.fit(series())
    with pytest.raises(ValueError, match="must be fit"):
        model.predict(T)
    asking.forecast = forecast
    summary = model.fit(series()).training_summary_
    assert (summary.windows.from_cache, summary.windows.labelled) == (50, 200 - L + 1 - 50)


@pytest.mark.parametrize("clean", [False, True])
def test_saving_and_loading_is_the_identity(teacher, tmp_path, clean):
    data = series(components=2)
    model = make(teacher).fit(data)
    model.save(tmp_path / "model.pkl", clean=clean)
    loaded = DistilledForecaster.load(tmp_path / "model.pkl")
    assert loaded.predict(2 * T, series=data) == model.predict(2 * T)
    assert loaded.training_summary_ == model.training_summary_
    assert (loaded.training_series is None) == clean
    with pytest.raises(ValueError, match="not saved with the model"):
        loaded.fit(series(components=2, seed=9))
    assert model.fit(data).predict(T) == loaded.predict(T, series=data)


def test_a_saved_model_with_a_named_teacher_can_be_fitted_again(tmp_path):
    data = series(300)
    model = make("bundled").fit(data)
    model.save(tmp_path / "model.pkl")
    assert DistilledForecaster.load(tmp_path / "model.pkl").fit(data).predict(T) == model.predict(T)


def test_a_saved_model_holds_neither_teacher_nor_labels(tmp_path):
    model = make("bundled").fit(series(300))
    model.save(tmp_path / "model.pkl", clean=True)
    assert (tmp_path / "model.pkl").stat().st_size < model.student_.weights.nbytes + 8000


def test_a_saved_model_can_also_be_made_from_a_function(tmp_path):
    model = make(lambda contexts, horizon: naive(contexts, horizon)).fit(series())
    model.save(tmp_path / "model.pkl")
    assert DistilledForecaster.load(tmp_path / "model.pkl").predict(T) == model.predict(T)


@pytest.mark.parametrize("wrap", [ConformalNaiveModel, NaiveEnsembleModel])
@pytest.mark.parametrize("kind", ["lambda", "darts model", "bundled"])
def test_models_that_hold_one_can_be_saved(wrap, kind, tmp_path):
    one = series()
    teacher = {
        "lambda": lambda contexts, horizon: naive(contexts, horizon),
        "darts model": LinearRegressionModel(lags=4).fit(one),
        "bundled": "bundled",
    }[kind]
    model = make(teacher)
    if wrap is ConformalNaiveModel:
        holder = wrap(model.fit(one), quantiles=[0.1, 0.5, 0.9])
    else:
        holder = wrap([model]).fit(one)
    holder.save(tmp_path / "holder.pkl")
    loaded = wrap.load(tmp_path / "holder.pkl")
    np.testing.assert_array_equal(
        loaded.predict(2, series=one).all_values(), holder.predict(2, series=one).all_values()
    )


def test_a_copy_keeps_the_teacher_and_a_pickle_of_what_is_fitted_does_not():
    model = make(lambda contexts, horizon: naive(contexts, horizon)).fit(series())
    copied = copy.deepcopy(model)
    assert copied.model_params["teacher"] is model.model_params["teacher"]
    copied.fit(series())
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(T).values(), model.predict(T).values())
    with pytest.raises(ValueError, match="was given as an object"):
        loaded.fit(series())


@pytest.mark.parametrize("start", [-1, -4])
def test_the_last_points_have_the_frequency_of_the_stride(start):
    one = series()
    model = make(naive).fit(one)
    given = {"start": start, "start_format": "position", "stride": 3, "forecast_horizon": 1}
    fast, slow = (
        model.historical_forecasts(one, retrain=False, enable_optimization=quick, **given)
        for quick in (True, False)
    )
    assert fast.freq == slow.freq == 3 * one.freq
    pd.testing.assert_index_equal(fast.time_index, slow.time_index)


@pytest.mark.parametrize("optimised", [True, False])
def test_what_predict_does_not_take_is_refused_in_backtests(optimised):
    model = make(naive).fit(series())
    with pytest.raises(TypeError, match="unknown"):
        model.historical_forecasts(
            series(), retrain=False, enable_optimization=optimised, predict_kwargs={"unknown": 1}
        )
    model.historical_forecasts(
        series(), retrain=False, enable_optimization=optimised, predict_kwargs={"verbose": False}
    )


def test_functions_and_paths_among_the_settings_can_be_saved(teacher, tmp_path):
    model = make(teacher, horizon_weights=lambda T: np.ones(T), cache_dir=tmp_path / "cache")
    model.fit(series()).save(tmp_path / "model.pkl")
    loaded = DistilledForecaster.load(tmp_path / "model.pkl")
    assert loaded.predict(T) == model.predict(T)
    assert loaded.model_params["horizon_weights"] == [1.0] * T
    assert callable(model.model_params["horizon_weights"])


def test_untrained_copies_share_the_teacher_and_nothing_else(teacher):
    model = make(teacher, horizon_weights=[1.0] * T).fit(series())
    copy = model.untrained_model()
    assert copy.model_params["teacher"] is teacher
    assert copy.model_params["horizon_weights"] is not model.model_params["horizon_weights"]
    assert not copy._fit_called


def test_predict_asks_no_teacher_and_changes_nothing(teacher):
    model = make(teacher).fit(series())
    asked, before = teacher.n_asked, pickle.dumps(model.student_)
    model.predict(3 * T)
    assert teacher.n_asked == asked
    assert pickle.dumps(model.student_) == before


def test_no_teacher_is_asked_where_it_has_no_weight(teacher):
    model = make(teacher, distillation_weight=0).fit(series())
    assert teacher.n_asked == 0
    assert model.training_summary_.teacher is None


def test_a_darts_model_can_teach():
    data = series(300)
    fitted = LinearRegressionModel(lags=L, output_chunk_length=T).fit(data)
    model = make(fitted).fit(data)
    assert model.training_summary_.windows.labelled == 300 - L + 1
    assert model.untrained_model().fit(data).training_summary_.windows.from_cache == 300 - L + 1


def test_the_model_works_inside_an_ensemble(teacher):
    data = series(300)
    ensemble = RegressionEnsembleModel(
        [make(teacher), LinearRegressionModel(lags=L)], regression_train_n_points=20
    ).fit(data)
    assert len(ensemble.predict(2 * T)) == 2 * T


def test_validation_series_are_taken(teacher):
    data = series(300)
    summary = make(teacher).fit(data[:200], val_series=data[200 - L :]).training_summary_
    assert summary.windows.seen == 200 - L - T + 1
    assert summary.errors.horizon == T


def test_printing_says_what_is_not_default(teacher):
    assert "input_chunk_length=24" in str(make(teacher))
    assert "distillation_weight=auto" in repr(make(teacher))


BAD_SETTINGS = [
    ({"input_chunk_length": 0}, ValueError, "input_chunk_length must be at least 1, got 0"),
    ({"output_chunk_length": 1.5}, TypeError, "output_chunk_length must be an integer"),
    ({"output_chunk_shift": -1}, ValueError, "output_chunk_shift must be at least 0"),
    ({"input_chunk_length": True}, TypeError, "input_chunk_length"),
    ({"teacher": "nobody"}, ValueError, "Unknown teacher 'nobody'.*\"bundled\".*amazon/chronos-2"),
    ({"teacher": "../nowhere/at/all"}, ValueError, "Unknown teacher"),
    ({"teacher": 3}, TypeError, "teacher must be"),
    ({"student": "transformer"}, ValueError, "Unknown student .*'linear', 'dlinear'"),
    ({"student": 1}, TypeError, "student must be"),
    ({"distillation_weight": -0.1}, ValueError, "at least 0, got -0.1"),
    ({"distillation_weight": np.nan}, ValueError, "distillation_weight"),
    ({"distillation_weight": "much"}, ValueError, "distillation_weight"),
    ({"distillation_weight": None}, TypeError, "distillation_weight"),
    ({"horizon_weights": [1.0, 2.0]}, ValueError, "one weight for each of the 6 steps"),
    ({"horizon_weights": [1.0] * 5 + [-1.0]}, ValueError, "got -1.0 at step 5"),
    ({"horizon_weights": "steep"}, ValueError, "horizon_weights"),
    ({"alignment": "factorised"}, ValueError, "Linear has none"),
    ({"alignment": "other"}, ValueError, 'alignment must be "auto"'),
    ({"alignment_weight": -1}, ValueError, "alignment_weight"),
    ({"alignment_dim": 0}, ValueError, "alignment_dim must be at least 1"),
    ({"student": Linear}, TypeError, r"pass Linear\(\)"),
    ({"student": "dlinear", "alignment": "linear"}, ValueError, "DLinear has none"),
    ({"student": "mlp", "quantiles": [0.1, 0.9]}, ValueError, "hold 0.5"),
    ({"student": "mlp", "quantiles": [0.5, 0.1]}, ValueError, "must increase"),
    ({"quantiles": [0.1, 0.5, float("nan")]}, ValueError, "must increase"),
    ({"student": "mlp", "quantiles": "all"}, TypeError, "quantiles must be numbers"),
    ({"student": "mlp", "quantiles": 0.5}, TypeError, "quantiles must be numbers"),
    ({"label_budget": 0}, ValueError, "label_budget must be at least 1"),
    ({"teacher_context": 0}, ValueError, "teacher_context must be at least 1"),
    ({"cache_dir": 3}, TypeError, "cache_dir"),
    ({"cache_dir": __file__}, ValueError, "cache_dir must be a directory"),
    ({"quantiles": [0.1, 0.9]}, ValueError, "hold 0.5"),
    ({"calibrate": 1}, TypeError, "calibrate must be True or False"),
    ({"nonnegative": "yes"}, TypeError, "nonnegative must be True or False"),
    ({"random_state": "seed"}, TypeError, "random_state"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused_at_once(teacher, settings, kind, message):
    with pytest.raises(kind, match=message):
        make(**({"teacher": teacher} | settings))


def with_value(value, where=slice(50, 60)):
    values = seasonal(200)
    values[where] = value
    return TimeSeries.from_values(values)


BAD_SERIES = [
    (lambda: series(3), ValueError, "has 3 points, at least 4 are needed"),
    (lambda: series(L + T - 1), ValueError, "needs 30. Give input_chunk_length=14"),
    (lambda: [series(), series(3)], ValueError, r"series\[1\] has 3 points"),
    (lambda: with_value(np.nan, slice(None)), ValueError, "has no values at all"),
    (lambda: with_value(np.inf), ValueError, "has 10 infinite values"),
    (lambda: [series(), series(components=2)], ValueError, r"series\[1\] has 2 components"),
    (list, ValueError, "empty list"),
    (lambda: [series(), "no series"], TypeError, r"series\[1\] must be a darts TimeSeries"),
    (lambda: seasonal(100), TypeError, "TimeSeries.from_dataframe"),
    (lambda: "series", TypeError, "must be a darts TimeSeries"),
    (
        lambda: TimeSeries.from_values(np.random.default_rng(0).normal(size=(100, 1, 5))),
        ValueError,
        "holds 5 samples",
    ),
]


@pytest.mark.parametrize(("data", "kind", "message"), BAD_SERIES)
def test_bad_series_are_refused_before_the_teacher_is_asked(teacher, data, kind, message):
    with pytest.raises(kind, match=message):
        make(teacher).fit(data())
    assert teacher.n_asked == 0


def test_bad_validation_series_are_refused_before_the_teacher_is_asked(teacher):
    with pytest.raises(ValueError, match="val_series has 20 points"):
        make(teacher).fit(series(), val_series=series(20))
    with pytest.raises(ValueError, match="val_series has 2 components, expected 1"):
        make(teacher).fit(series(), val_series=series(components=2))
    assert teacher.n_asked == 0


def forecasts_around(gap, model, how):
    """Return forecasts before, in and after a gap from 100 to 150, and whether each is NaN."""
    if how == "predict":
        return [model.predict(T, series=gap[:150]).all_values()], [True]
    if how == "list":
        made = model.predict(T, series=[gap[:100], gap[:150]])
        return [one.all_values() for one in made], [False, True]
    more = {"quantiles": {"predict_likelihood_parameters": True}, "samples": {"num_samples": 5}}
    made = model.historical_forecasts(
        gap, start=L, forecast_horizon=T, retrain=False, last_points_only=how == "points",
        **more.get(how, {}),
    )  # fmt: skip
    values = list(made.all_values()) if how == "points" else [one.all_values() for one in made]
    # Contexts that end at 124 to 150 hold nothing but the gap.
    return values, [124 <= L + i <= 150 for i in range(len(values))]


@pytest.mark.parametrize("how", ["predict", "list", "backtest", "points", "quantiles", "samples"])
def test_forecasts_after_nothing_known_are_nan_and_the_others_are_kept(teacher, how):
    quantiles = [0.1, 0.5, 0.9] if how in ("quantiles", "samples") else None
    model = make(teacher, quantiles=quantiles).fit(series())
    gap = with_value(np.nan, slice(100, 150))
    with pytest.warns(UserWarning, match="no value of a component") as caught:
        values, expected = forecasts_around(gap, model, how)
    assert [bool(np.isnan(one).all()) for one in values] == expected
    assert [bool(np.isnan(one).any()) for one in values] == expected
    assert len(caught) == 1


def test_bad_requests_are_refused(teacher):
    data = series()
    with pytest.raises(ValueError, match="must be fit"):
        make(teacher).predict(T)
    model = make(teacher).fit(data)
    for n in (0, -1):
        with pytest.raises(ValueError, match="n must be at least 1"):
            model.predict(n)
    with pytest.raises(TypeError, match="n must be an integer"):
        model.predict(1.0)
    with pytest.raises(ValueError, match="2 components"):
        model.predict(T, series=series(components=2))
    with pytest.raises(ValueError, match="num_samples"):
        model.predict(T, num_samples=10)
    with pytest.raises(ValueError, match="covariates"):
        model.predict(T, past_covariates=data)
    with pytest.raises(ValueError, match="likelihood"):
        model.predict(T, predict_likelihood_parameters=True)
    infinite = with_value(np.inf, slice(195, 197))
    with pytest.raises(ValueError, match="2 infinite values in its last 24 steps"):
        model.predict(T, series=infinite)
    with pytest.raises(ValueError, match="2 infinite values"):
        model.historical_forecasts(infinite, retrain=False)


def test_a_function_of_the_wrong_shape_is_told_what_was_expected():
    with pytest.raises(ValueError, match=r"expected \(windows, horizon, components\)"):
        make(last_of_two_axes).fit(series())


def test_gaps_in_the_history_are_filled(teacher):
    model = make(teacher).fit(with_value(np.nan))
    assert model.training_summary_.windows.skipped == 10 - T + 1  # those without any targets
    assert np.isfinite(model.predict(T).values()).all()


def test_named_functions_keep_their_labels_on_disk(tmp_path):
    data = series()
    named = FunctionTeacher(naive, name="last value", revision="1")
    assert make(named, cache_dir=tmp_path).fit(data).training_summary_.windows.labelled > 0
    again = FunctionTeacher(naive, name="last value", revision="1")
    assert make(again, cache_dir=tmp_path).fit(data).training_summary_.windows.labelled == 0


def test_student_settings_are_taken(teacher):
    model = make(teacher, student=Linear(pooling="none", ridge=0.5)).fit(series(components=2))
    assert model.student_.weights.shape == (2, L, T)
    assert model.training_summary_.chosen.ridge == 0.5


def test_progress_is_shown_on_request_only(teacher, capsys):
    make(teacher, verbose=False).fit(series())
    make(teacher).fit(series(seed=1))  # not a terminal
    assert capsys.readouterr().err == ""
    make(teacher, verbose=True).fit(series(seed=2))
    assert "labelling" in capsys.readouterr().err


def test_backtests_refuse_what_predict_refuses(teacher):
    data = series()
    model = make(teacher).fit(data)
    with pytest.raises(ValueError, match="covariates"):
        model.historical_forecasts(data, past_covariates=data, retrain=False)
    samples = TimeSeries.from_values(np.random.default_rng(0).normal(size=(100, 1, 5)))
    with pytest.raises(ValueError, match="5 samples"):
        model.historical_forecasts(samples, retrain=False)


def test_backtests_take_a_gap_that_no_context_touches(teacher):
    gap = with_value(np.nan, slice(30, 33))
    model = make(teacher).fit(with_value(0.5))
    arguments = {"retrain": False, "start": 60, "stride": 7, "forecast_horizon": T}
    fast, slow = (
        model.historical_forecasts(gap, enable_optimization=e, **arguments) for e in (True, False)
    )
    np.testing.assert_allclose(fast.values(), slow.values(), rtol=1e-5, atol=1e-6)


def test_times_keep_their_resolution(teacher):
    data = series()
    model = make(teacher).fit(data)
    for unit in ("s", "ns"):
        times = data.time_index.as_unit(unit)
        other = TimeSeries.from_times_and_values(times, data.values())
        assert model.predict(T, series=other).time_index.unit == unit


def test_a_list_of_weights_may_change_afterwards(teacher):
    weights = [1.0] * T
    model = make(teacher, horizon_weights=weights)
    weights.append(1.0)
    assert len(model.fit(series()).training_summary_.chosen.horizon_weights) == T


def test_a_level_that_hides_the_series_from_its_teacher_is_said(teacher):
    with pytest.warns(UserWarning, match="Subtract a constant"):
        make(teacher).fit(series() + 1e8)


def test_it_can_be_cloned_and_changed_as_scikit_learn_does():
    model = make(naive, horizon_weights=[1.0] * T, student=Linear(ridge=0.5)).fit(series())
    cloned = clone(model)
    assert not hasattr(cloned, "student_")
    assert cloned.get_params() == model.get_params()
    assert cloned.get_params()["teacher"] is model.get_params()["teacher"]
    np.testing.assert_array_equal(
        cloned.fit(series()).predict(T).values(), model.predict(T).values()
    )
    assert model.set_params(distillation_weight=3.0, teacher="bundled") is model
    assert model.get_params()["distillation_weight"] == 3.0
    with pytest.raises(ValueError, match="must be fit before"):
        model.predict(T)
    with pytest.raises(ValueError, match=r"no parameters \['alpha'\]"):
        model.set_params(alpha=1.0)
    with pytest.raises(ValueError, match="distillation_weight"):
        model.set_params(distillation_weight=-1.0)
    assert model.get_params()["distillation_weight"] == 3.0


@pytest.mark.parametrize("n_series", [1, 3])
def test_last_points_are_exactly_those_of_the_whole_forecasts(n_series):
    # Darts compares them with ==: a product with one column rounds differently.
    several = [series(seed=i, components=2) for i in range(n_series)]
    model = make(naive).fit(several)
    given = {"forecast_horizon": 4, "retrain": False, "stride": 2}
    last = model.historical_forecasts(several, last_points_only=True, **given)
    whole = model.historical_forecasts(several, last_points_only=False, **given)
    for one, many in zip(last, whole, strict=True):
        np.testing.assert_array_equal(one.values(), [f.values()[-1] for f in many])
        assert one.time_index.tolist() == [f.end_time() for f in many]


def test_series_of_a_panel_need_not_share_their_times():
    several = [
        series(150), series(150, seed=1), series(120, start="2024-02-01"),
        series(150, freq="D"), series(100, start=None),
    ]  # fmt: skip
    model = make(naive).fit(several)
    for last_points_only in (True, False):
        given = {"forecast_horizon": 3, "retrain": False, "last_points_only": last_points_only}
        together = model.historical_forecasts(several, **given)
        for one, made in zip(several, together, strict=True):
            alone = model.historical_forecasts(one, **given)
            assert made == alone
