import json

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries

from distilts_forecaster import MLP, DistilledForecaster, Linear, Training, load_student
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.sklearn import DistilledRegressor
from distilts_forecaster.sktime import DistilledForecaster as SktimeForecaster

L, T = 24, 6
TIMES = pd.date_range("2024-01-01", periods=300, freq="h")


def series(components=1):
    return TimeSeries.from_times_and_values(TIMES, seasonal(300, components))


def make(**settings):
    return DistilledForecaster(L, T, verbose=False, **settings)


def test_a_model_around_a_saved_student_forecasts_alike(teacher, tmp_path):
    target = series(2)
    model = make(teacher=teacher, quantiles=[0.1, 0.5, 0.9], nonnegative=True).fit(target)
    model.save_student(tmp_path)
    asked = teacher.n_asked
    again = DistilledForecaster.from_student(tmp_path)
    arguments = {"forecast_horizon": 3, "retrain": False, "start": 250}
    for method, options in (
        ("predict", {"n": 2 * T}),
        ("predict", {"n": T, "predict_likelihood_parameters": True}),
        ("predict", {"n": T, "num_samples": 5, "random_state": 0}),
        ("historical_forecasts", arguments),
    ):
        made, expected = (getattr(m, method)(series=target, **options) for m in (again, model))
        np.testing.assert_array_equal(made.all_values(), expected.all_values())
        assert made.time_index.equals(expected.time_index)
        assert list(made.components) == list(expected.components)
    assert teacher.n_asked == asked
    assert again.training_summary_.errors.student == model.training_summary_.errors.student


def test_a_student_knows_its_teacher_data_and_settings(teacher, tmp_path):
    model = make(teacher=teacher).fit(series(2))
    info = model.student_.info
    assert info.teacher.name == "counting"
    assert info.data.n_points == 300
    assert info.data.start == "2024-01-01 00:00:00"
    assert info.data.components == ("0", "1")
    assert info.settings["input_chunk_length"] == L
    assert info.fit.errors.student < info.fit.errors.naive
    json.dumps(info.to_json(), allow_nan=False)
    assert StudentInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert make(teacher=teacher).fit(series(2)).student_.info.data == info.data
    other = make(teacher=teacher).fit(series(2) + 1).student_.info.data
    assert other.sha256 != info.data.sha256


def test_a_teacher_given_as_an_object_is_missing_when_it_is_needed(teacher, tmp_path):
    make(teacher=teacher).fit(series()).save_student(tmp_path)
    again = DistilledForecaster.from_student(tmp_path)
    again.fit(series())  # all that the teacher says of these windows is known
    with pytest.raises(ValueError, match="'counting' was given as an object"):
        again.fit(series() * series())


def test_a_teacher_given_by_name_fits_again(tmp_path):
    model = make(distillation_weight=1.0, horizon_weights=[1.0] * T).fit(series())
    model.save_student(tmp_path)
    again = DistilledForecaster.from_student(tmp_path).fit(series())
    np.testing.assert_array_equal(again.student_.weights, model.student_.weights)


def test_drift_is_measured_against_the_fit_of_the_saved_student(tmp_path):
    model = make().fit(series())
    model.save_student(tmp_path)
    report = DistilledForecaster.from_student(tmp_path).drift_report(series())
    assert report.fitted_student_error == model.training_summary_.errors.student


def test_encoders_and_covariates_come_back(tmp_path):
    encoders = {"cyclic": {"future": ("hour",)}, "datetime_attribute": {"past": ["dayofweek"]}}
    target = series()
    model = make(distillation_weight=0, add_encoders=encoders).fit(target)
    model.save_student(tmp_path)
    again = DistilledForecaster.from_student(tmp_path)
    made, expected = again.predict(T, series=target), model.predict(T)
    np.testing.assert_array_equal(made.values(), expected.values())


def hour_of_five(index):
    return index.hour % 5


def test_encoders_that_are_functions_must_be_given_again(tmp_path):
    encoders = {"custom": {"future": [hour_of_five]}}
    model = make(distillation_weight=0, add_encoders=encoders).fit(series())
    model.save_student(tmp_path)
    with pytest.raises(ValueError, match="give add_encoders"):
        DistilledForecaster.from_student(tmp_path)
    again = DistilledForecaster.from_student(tmp_path, add_encoders=encoders)
    made = again.predict(T, series=series())
    np.testing.assert_array_equal(made.values(), model.predict(T).values())


def test_encoders_that_have_learned_are_refused(tmp_path):
    encoders = {"position": {"past": ["relative"], "future": ["relative"]}}
    make(distillation_weight=0, add_encoders=encoders).fit(series()).save_student(tmp_path)
    with pytest.raises(ValueError, match="save and load the model itself"):
        DistilledForecaster.from_student(tmp_path)


@pytest.mark.parametrize("quantiles", [[0.5], [0.2, 0.5]])
def test_the_levels_come_back(tmp_path, quantiles):
    make(distillation_weight=0, quantiles=quantiles).fit(series()).save_student(tmp_path)
    assert DistilledForecaster.from_student(tmp_path).model_params["quantiles"] == quantiles


def test_the_students_own_settings_come_back(tmp_path):
    model = make(student=Linear(pooling="none", ridge=0.3), distillation_weight=0)
    model.fit(series(2)).save_student(tmp_path / "a")
    again = DistilledForecaster.from_student(tmp_path / "a")
    assert again.model_params["student"] == Linear(pooling="none", ridge=0.3)
    refitted = again.fit(series(2)).student_
    np.testing.assert_array_equal(refitted.weights, model.student_.weights)


def test_a_network_becomes_a_model_too(tmp_path):
    pytest.importorskip("torch")
    student = MLP(hidden_size=8, training=Training(max_epochs=1))
    model = make(student=student, distillation_weight=0, random_state=0).fit(series())
    model.save_student(tmp_path)
    again = DistilledForecaster.from_student(load_student(tmp_path))
    made = again.predict(T, series=series())
    np.testing.assert_array_equal(made.values(), model.predict(T).values())
    assert again.model_params["student"] == student


def test_a_model_around_a_student_is_saved_as_any(tmp_path):
    make().fit(series()).save_student(tmp_path / "student")
    again = DistilledForecaster.from_student(tmp_path / "student")
    again.save(tmp_path / "model.pt")
    loaded = DistilledForecaster.load(tmp_path / "model.pt")
    made = loaded.predict(T, series=series())
    np.testing.assert_array_equal(made.values(), again.predict(T, series=series()).values())


@pytest.mark.parametrize("wrong", [3, None, "no/such/folder/at/all"])
def test_what_is_no_student_is_refused(wrong):
    for facade in (DistilledForecaster, SktimeForecaster):
        with pytest.raises((TypeError, ValueError), match="student|directory"):
            facade.from_student(wrong)


def test_nothing_is_saved_before_fit(tmp_path):
    for model in (make(), SktimeForecaster(), DistilledRegressor()):
        with pytest.raises(ValueError, match="call fit first"):
            model.save_student(tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("column", ["hour", 0])
def test_sktime_forecasts_from_a_saved_student_and_keeps_it(tmp_path, column):
    y = pd.Series(seasonal(300)[:, 0], index=TIMES)
    X = pd.DataFrame({column: TIMES.hour.to_numpy(float)}, index=TIMES)
    ahead = pd.date_range(TIMES[-1] + TIMES.freq, periods=T, freq="h")
    later = pd.DataFrame({column: ahead.hour.to_numpy(float)}, index=ahead)
    fitted = SktimeForecaster(L, T, distillation_weight=0, cache_dir=False)
    expected = fitted.fit(y, X, fh=range(1, T + 1)).predict(X=later)
    fitted.save_student(tmp_path)
    forecaster = SktimeForecaster.from_student(tmp_path)
    assert forecaster.state == "pretrained"
    for one in (forecaster, forecaster.clone()):
        made = one.fit(y, X, fh=range(1, T + 1)).predict(X=later)
        pd.testing.assert_series_equal(made, expected)
        student = one.student_
        one.fit(y[:200], X[:200], fh=[1])
        assert one.student_ is student
    intervals = forecaster.fit(y, X, fh=[1, 2]).predict_interval(X=later)
    assert intervals.shape == (2, 2)


def test_sktime_refuses_what_it_cannot_run(tmp_path):
    make(output_chunk_shift=2, distillation_weight=0).fit(series()).save_student(tmp_path)
    with pytest.raises(ValueError, match="is shifted"):
        SktimeForecaster.from_student(tmp_path)


def test_a_student_goes_from_one_facade_to_another(tmp_path):
    X = np.lib.stride_tricks.sliding_window_view(seasonal(300)[:, 0], L + T)
    regressor = DistilledRegressor(distillation_weight=0).fit(X[:, :L], X[:, L:])
    regressor.save_student(tmp_path)
    made = DistilledForecaster.from_student(tmp_path).predict(T, series=series())
    expected = regressor.predict(series().values()[-L:].T)
    np.testing.assert_allclose(made.values()[:, 0], expected[0], rtol=1e-5, atol=1e-6)
    y = pd.Series(series().values()[:, 0], index=TIMES)
    other = SktimeForecaster.from_student(tmp_path).fit(y, fh=range(1, T + 1)).predict()
    np.testing.assert_allclose(other, expected[0], rtol=1e-5, atol=1e-6)
    again = DistilledRegressor.from_student(tmp_path).predict(series().values()[-L:].T)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


def test_a_facade_exports_its_student(tmp_path):
    pytest.importorskip("onnxruntime")
    made = make(distillation_weight=0).fit(series()).export_onnx(tmp_path / "student.onnx")
    assert made.outputs == {"forecast": ("N", T, "C")}
