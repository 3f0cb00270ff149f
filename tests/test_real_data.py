"""What only real series can show. ETT is skipped where it is not."""

import itertools

import numpy as np
import pytest
from darts import TimeSeries
from numpy.lib.stride_tricks import sliding_window_view
from statsmodels import datasets

from benchmarks.accuracy import LOOKBACK, fit, mean_squared_error, point
from benchmarks.data import ett
from distilts_forecaster import DistilledForecaster, load_teacher
from distilts_forecaster.windows.cutting import history_windows, target_windows


@pytest.mark.parametrize(("name", "expected"), [("ETTh1", 0.367), ("ETTh2", 0.267)])
def test_the_student_without_a_teacher_is_as_good_as_exact_ridge(data_folder, name, expected):
    values, train_stop, validation_stop, _ = ett(data_folder, name)
    validation = values[train_stop - LOOKBACK : validation_stop]
    model = fit(values[:train_stop], 96, 0, "bundled", validation)
    error = mean_squared_error(model.student_.predict, values, validation_stop, 96)
    assert round(error, 3) <= expected


def test_nearly_constant_windows_do_not_explode(data_folder):
    """Divided by their own deviation, a few windows of ETTh2 lead to an error of 523."""
    values, _, stop, _ = ett(data_folder, "ETTh2")
    model = fit(values[stop - 5000 : stop], 96, 0, "bundled")
    assert mean_squared_error(model.student_.predict, values, stop, 96) < 0.29


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_a_short_history_is_enough_to_forecast_as_well_as_the_teacher(data_folder, name):
    """The student of 1,000 points, with a teacher and without, beside the teacher itself."""
    values, _, stop, _ = ett(data_folder, name)
    origins = np.arange(stop, len(values) - 96, 20)
    contexts = history_windows(values, origins, 1024)
    targets = target_windows(values, origins, 96)
    alone, taught = (
        np.square(
            fit(values[stop - 1000 : stop], 96, alpha, "bundled", lookback=None).student_.predict(
                contexts
            )
            - targets
        ).mean()
        for alpha in (0, "auto")
    )
    theirs = np.square(point(load_teacher("bundled"), 96)(contexts) - targets).mean()
    assert taught < 1.02 * alone
    assert taught < 1.1 * theirs


def load(name):
    """Return a series that comes with statsmodels, and its season."""
    data = getattr(datasets, name).load().data
    if name == "co2":
        return data["co2"].interpolate().to_numpy(), 52
    return data.set_index("YEAR").to_numpy().ravel(), 12


def test_students_of_short_histories_beat_naive_forecasts_and_gain_by_a_teacher():
    """Weekly CO2 and monthly sea temperatures, one season ahead, over the last 200 points."""
    gains = []
    for name, n in itertools.product(("co2", "elnino"), (200, 400)):
        values, season = load(name)
        stop = len(values) - 200
        origins = np.arange(stop, len(values) - season + 1)
        windows = [sliding_window_view(values, season)[origins - back] for back in (0, season)]
        naive = np.square(windows[1] - windows[0]).mean()
        errors = []
        for alpha in (0, "auto"):
            model = DistilledForecaster(
                n // 2, season, distillation_weight=alpha, cache_dir=False, verbose=False
            ).fit(TimeSeries.from_values(values[stop - n : stop]))
            contexts = sliding_window_view(values, n // 2)[origins - n // 2]
            made = model.student_.predict(contexts[..., None])[..., 0]
            errors.append(np.square(made - windows[0]).mean())
        assert errors[1] < 0.7 * naive
        gains.append(np.log(errors[1] / errors[0]))
    assert np.mean(gains) < 0
