import numpy as np
import pytest
from conftest import seasonal
from darts import TimeSeries

from distilts_forecaster import DistilledForecaster
from distilts_forecaster.distill.incremental import WarmStart

L, T = 24, 6


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for module in ("distill.incremental", "distill.accumulate"):
        monkeypatch.setattr(f"distilts_forecaster.{module}.BLOCK", 64)


def make(teacher, **settings):
    return DistilledForecaster(L, T, teacher=teacher, verbose=False, **settings)


def test_a_warm_fit_is_a_cold_one(teacher):
    series = TimeSeries.from_values(seasonal(600, components=2))
    cold = make(teacher, label_budget=None).fit(series)
    warm = make(teacher).fit(series, warm_start=True)
    np.testing.assert_allclose(warm.student_.weights, cold.student_.weights, atol=1e-5)
    again = warm.fit(series, warm_start=True)
    np.testing.assert_allclose(again.student_.weights, cold.student_.weights, atol=1e-5)
    assert again.training_summary_.errors.teacher_everywhere == pytest.approx(
        cold.training_summary_.errors.teacher_everywhere, rel=1e-5
    )


def test_only_new_windows_are_summed_and_labelled(teacher, monkeypatch):
    import distilts_forecaster.distill.accumulate as module

    summed = []
    original = module._sum_span
    monkeypatch.setattr(
        module, "_sum_span", lambda *args: summed.append(args[3]) or original(*args)
    )
    values = seasonal(600)
    model = make(teacher).fit(TimeSeries.from_values(values[:560]), warm_start=True)
    n_cold, n_asked = len(summed), teacher.n_asked
    model.fit(TimeSeries.from_values(values), warm_start=True)
    # The last block, and those that the border of what is held out has moved through.
    assert n_cold == 9
    assert len(summed) - n_cold <= 4
    assert teacher.n_asked - n_asked == 40
    exact = make(teacher).fit(TimeSeries.from_values(values))
    np.testing.assert_allclose(model.student_.weights, exact.student_.weights, atol=2e-3)


def test_a_changed_past_is_noticed(teacher):
    values = seasonal(600)
    model = make(teacher).fit(TimeSeries.from_values(values), warm_start=True)
    values[100:110] += 1.0
    model.fit(TimeSeries.from_values(values), warm_start=True)
    exact = make(teacher).fit(TimeSeries.from_values(values))
    np.testing.assert_allclose(model.student_.weights, exact.student_.weights, atol=2e-3)


def test_settings_are_part_of_what_is_remembered(teacher):
    values = seasonal(600)
    series = TimeSeries.from_values(values)
    model = make(teacher).fit(series, warm_start=True)
    other = make(teacher, distillation_weight=0)
    other._warm = model._warm
    other.fit(series, warm_start=True)
    exact = make(teacher, distillation_weight=0).fit(series)
    np.testing.assert_allclose(other.student_.weights, exact.student_.weights, atol=1e-5)


def test_another_scale_is_scaled_anew(teacher):
    values = seasonal(600)
    model = make(teacher).fit(TimeSeries.from_values(values), warm_start=True)
    model.fit(TimeSeries.from_values(1e6 + 1e3 * values), warm_start=True)
    exact = make(teacher).fit(TimeSeries.from_values(1e6 + 1e3 * values))
    np.testing.assert_allclose(model.student_.weights, exact.student_.weights, atol=1e-4)


def test_sums_are_not_saved(teacher, tmp_path):
    model = make(teacher).fit(TimeSeries.from_values(seasonal(600)), warm_start=True)
    model.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 100_000
    assert DistilledForecaster.load(tmp_path / "model.pt")._warm is None


def test_what_is_not_asked_for_is_forgotten():
    warm = WarmStart()
    calls = []
    make_it = lambda: calls.append(1) or len(calls)  # noqa: E731
    one = [np.arange(3), "a"]
    assert warm.recall(one, make_it) == warm.recall([np.arange(3), "a"], make_it) == 1
    assert warm.recall([np.arange(3.0), "a"], make_it) == 2
    warm.tidy()
    assert warm.recall(one, make_it) == 1
    warm.tidy()
    assert warm.recall([np.arange(3.0), "a"], make_it) == 3
