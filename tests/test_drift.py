import sys

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries

from distilts_forecaster import DistilledForecaster

L, T = 24, 6


def make(teacher, **settings):
    return DistilledForecaster(L, T, teacher=teacher, verbose=False, **settings)


@pytest.fixture
def values():
    return seasonal(600)


def test_a_series_that_goes_on_as_before_needs_no_fit(teacher, values):
    model = make(teacher).fit(TimeSeries.from_values(values[:400]))
    report = model.drift_report(TimeSeries.from_values(values))
    assert 0.7 < report.change < 1.2
    assert not report.should_refit
    assert "no need to fit again" in str(report)
    assert report.n_windows == 60  # ten horizons


def test_a_series_that_behaves_otherwise_needs_one(teacher, values):
    model = make(teacher).fit(TimeSeries.from_values(values[:400]))
    changed = values.copy()
    # The teacher repeats the last season, which is as good in antiphase; the student is not.
    changed[400:] = 3 * seasonal(200, period=3, noise=0.1)
    report = model.drift_report(TimeSeries.from_values(changed))
    assert report.should_refit
    assert report.teacher_error < report.student_error
    assert "fit again" in str(report)
    assert report.student_by_step.shape == report.teacher_by_step.shape == (T,)
    again = make(teacher).fit(TimeSeries.from_values(changed))
    assert again.drift_report(TimeSeries.from_values(changed)).student_error < report.student_error


def test_only_a_small_sample_is_labelled_and_found_again(teacher, values):
    model = make(teacher).fit(TimeSeries.from_values(values[:400]))
    before = teacher.n_asked
    model.drift_report(TimeSeries.from_values(values), n_windows=20)
    assert teacher.n_asked - before == 20
    make(teacher).fit(TimeSeries.from_values(values))
    assert teacher.n_asked == 600 - L + 1


def test_without_a_teacher_the_student_is_compared_with_itself(teacher, values):
    model = make(teacher, distillation_weight=0).fit(TimeSeries.from_values(values[:400]))
    report = model.drift_report(TimeSeries.from_values(values))
    assert np.isnan(report.teacher_error)
    assert np.isfinite(report.change)
    assert teacher.n_asked == 0


def test_gaps_covariates_and_several_series(teacher, values):
    holes = values.copy()
    holes[::7] = np.nan
    times = pd.date_range("2024", periods=600, freq="h")
    series = TimeSeries.from_times_and_values(times, holes)
    known = TimeSeries.from_times_and_values(times, np.arange(600.0))
    model = make(teacher, distillation_weight=0)
    model.fit([series[:400]] * 2, future_covariates=[known] * 2)
    report = model.drift_report(
        [series] * 2, future_covariates=[known.append_values([600.0] * T)] * 2
    )
    assert np.isfinite(report.student_error)


def test_it_is_drawn(teacher, values):
    model = make(teacher).fit(TimeSeries.from_values(values[:400]))
    report = model.drift_report(TimeSeries.from_values(values))
    axes = report.plot()
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines.pop("student"), report.student_by_step)
    np.testing.assert_array_equal(lines.pop("teacher"), report.teacher_by_step)
    assert not lines
    assert axes.get_xlabel() == "steps ahead"


def test_errors_of_zero_are_compared_too(teacher):
    constant = TimeSeries.from_values(np.ones((200, 1)))
    model = make(teacher).fit(constant)
    assert model.drift_report(constant).change == 1.0
    moved = constant.append_values(np.arange(1.0, 30.0))
    assert model.drift_report(moved).change == 1.0  # the teacher was as right, and is as wrong
    alone = make(teacher, distillation_weight=0).fit(constant).drift_report(moved)
    assert alone.should_refit
    assert "fit again" in str(alone)


def test_a_series_without_a_whole_target_is_compared_as_far_as_it_is_known(teacher, values):
    model = DistilledForecaster(teacher=teacher, cache_dir=False)
    series = TimeSeries.from_values(values[:60])
    report = model.fit(series).drift_report(series)
    assert model.student_.output_chunk_length == 60
    assert report.n_windows == 30
    assert report.student_error > 0


def test_a_missing_matplotlib_is_named(teacher, values, monkeypatch):
    model = make(teacher).fit(TimeSeries.from_values(values[:400]))
    report = model.drift_report(TimeSeries.from_values(values))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with pytest.raises(ImportError, match=r"distilts-forecaster\[plot\]"):
        report.plot()


def test_what_cannot_be_measured_is_refused(teacher, values):
    with pytest.raises(ValueError, match="call fit first"):
        make(teacher).drift_report(TimeSeries.from_values(values))
    model = make(teacher).fit(TimeSeries.from_values(values))
    with pytest.raises(ValueError, match="pass a longer series"):
        model.drift_report(TimeSeries.from_values(values[:20]))
    with pytest.raises(ValueError, match="n_windows must be at least 1"):
        model.drift_report(TimeSeries.from_values(values), n_windows=0)


def test_a_jump_does_not_hide_in_its_own_variance(teacher, values):
    model = make(teacher, distillation_weight=0).fit(TimeSeries.from_values(values[:400]))
    jumped = values.copy()
    jumped[400:] = 30 + values[400:] + np.random.default_rng(0).normal(size=(200, 1))
    assert model.drift_report(TimeSeries.from_values(jumped)).change > 2


def test_errors_with_covariates_are_compared_with_errors_with_covariates():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=600)
    y = np.sin(np.arange(600) * 2 * np.pi / 12) + 2 * signal + 0.05 * rng.normal(size=600)
    known = TimeSeries.from_values(np.r_[signal, np.zeros(T)])
    model = make("bundled", distillation_weight=0)
    model.fit(TimeSeries.from_values(y[:500]), future_covariates=known)
    assert model.training_summary_.errors.student < 0.1
    report = model.drift_report(TimeSeries.from_values(y), future_covariates=known)
    assert 0.5 < report.change < 2.0
    y[500:] += rng.normal(size=100)
    assert model.drift_report(TimeSeries.from_values(y), future_covariates=known).should_refit
