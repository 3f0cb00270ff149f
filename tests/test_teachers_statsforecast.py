import copy

import numpy as np
import pytest

pytest.importorskip("statsforecast", reason="needs statsforecast")
from statsforecast.models import AutoETS, CrostonClassic, HistoricAverage, SeasonalNaive

from distilts_forecaster.teachers import load_teacher
from distilts_forecaster.teachers.statsforecast import StatsForecastTeacher

CONTEXTS = np.random.default_rng(0).normal(size=(3, 24, 2)).astype(np.float32)


def test_a_model_is_fitted_to_each_window_and_component():
    teacher = StatsForecastTeacher(SeasonalNaive(season_length=6))
    labels = teacher.forecast(CONTEXTS, 6, [0.5]).quantiles
    np.testing.assert_allclose(labels[..., 0], CONTEXTS[:, -6:], rtol=1e-6)


def test_quantiles_are_those_of_the_models_intervals():
    teacher = StatsForecastTeacher(HistoricAverage())
    labels = teacher.forecast(CONTEXTS, 4, [0.1, 0.5, 0.75, 0.9]).quantiles
    window = CONTEXTS[2, :, 1].astype(float)
    expected = HistoricAverage().forecast(y=window, h=4, level=[50, 80])
    np.testing.assert_allclose(labels[2, :, 1, 0], expected["lo-80"], rtol=1e-5)
    np.testing.assert_allclose(labels[2, :, 1, 2], expected["hi-50"], rtol=1e-5)
    np.testing.assert_allclose(labels[2, :, 1, 3], expected["hi-80"], rtol=1e-5)


def test_a_fitted_model_keeps_its_parameters():
    level = 10 + np.random.default_rng(1).normal(size=200).cumsum()
    fitted = AutoETS(model="AAN").fit(level)
    teacher = load_teacher(fitted)
    labels = teacher.forecast(CONTEXTS, 4, [0.5]).quantiles[0, :, 0, 0]
    expected = fitted.forward(y=CONTEXTS[0, :, 0].astype(float), h=4)["mean"]
    np.testing.assert_allclose(labels, expected, rtol=1e-5)
    assert copy.deepcopy(teacher) is teacher


def test_copies_of_a_new_model_are_the_same_teacher():
    first, second = (StatsForecastTeacher(SeasonalNaive(season_length=6)) for _ in range(2))
    assert first.info == second.info
    assert first.info.revision
    assert StatsForecastTeacher(SeasonalNaive(season_length=5)).info != first.info


def test_a_model_without_intervals_says_so():
    with pytest.raises(ValueError, match="CrostonClassic gives no intervals"):
        StatsForecastTeacher(CrostonClassic()).forecast(CONTEXTS, 2, [0.1, 0.5])


def test_what_cannot_be_a_teacher_is_refused():
    with pytest.raises(TypeError, match="must be a model of statsforecast"):
        StatsForecastTeacher(object())
    with pytest.raises(ValueError, match="cannot forecast another series"):
        StatsForecastTeacher(HistoricAverage().fit(np.arange(20.0)))
