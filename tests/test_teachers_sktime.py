import copy

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sktime", reason="needs the extra sktime")
from sktime.forecasting.base import BaseForecaster
from sktime.forecasting.naive import NaiveForecaster
from sktime.forecasting.trend import PolynomialTrendForecaster

from distilts_forecaster.sktime import DistilledForecaster
from distilts_forecaster.teachers import as_specification, load_teacher
from distilts_forecaster.teachers.sktime import SktimeTeacher

CONTEXTS = np.random.default_rng(0).normal(size=(5, 24, 3)).astype(np.float32)


def test_a_forecaster_is_fitted_to_each_window_and_component():
    teacher = SktimeTeacher(NaiveForecaster(sp=6))
    labels = teacher.forecast(CONTEXTS, 8, [0.5]).quantiles
    expected = np.concatenate([CONTEXTS[:, -6:], CONTEXTS[:, -6:-4]], axis=1)
    np.testing.assert_allclose(labels[..., 0], expected, rtol=1e-6)
    alone = teacher.forecast(CONTEXTS[2:3], 8, [0.5]).quantiles
    np.testing.assert_allclose(labels[2:3], alone, rtol=1e-6)


def test_quantiles_are_those_of_the_forecaster():
    teacher = SktimeTeacher(NaiveForecaster())
    labels = teacher.forecast(CONTEXTS, 3, [0.1, 0.5, 0.9]).quantiles
    window = pd.Series(CONTEXTS[1, :, 2].astype(float))
    expected = NaiveForecaster().fit(window).predict_quantiles([1, 2, 3], alpha=[0.1, 0.5, 0.9])
    np.testing.assert_allclose(labels[1, :, 2], expected.to_numpy(), rtol=1e-5)
    assert (np.diff(labels, axis=-1) > 0).all()


def test_a_pretrained_panel_forecaster_is_asked_once(monkeypatch):
    index = pd.MultiIndex.from_product([range(4), range(60)])
    wave = np.sin(np.arange(60) * 2 * np.pi / 12)
    panel = pd.DataFrame({"y": np.tile(wave, 4)}, index=index)
    forecaster = DistilledForecaster(24, 8, distillation_weight=0, cache_dir=False)
    teacher = SktimeTeacher(forecaster.pretrain(panel))
    calls = []
    fit = BaseForecaster.fit
    monkeypatch.setattr(
        BaseForecaster, "fit", lambda self, y, **given: calls.append(1) or fit(self, y, **given)
    )
    labels = teacher.forecast(CONTEXTS, 8, [0.5]).quantiles[..., 0]
    assert len(calls) == 1
    np.testing.assert_allclose(labels, forecaster.student_.predict(CONTEXTS, 8), atol=1e-5)


def test_a_global_forecaster_that_is_not_pretrained_sees_one_window_at_a_time():
    forecaster = DistilledForecaster(8, 2, distillation_weight=0, cache_dir=False)
    teacher = SktimeTeacher(forecaster)
    together = teacher.forecast(CONTEXTS, 2, [0.5]).quantiles
    apart = [teacher.forecast(window[None], 2, [0.5]).quantiles for window in CONTEXTS]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_a_forecaster_is_a_teacher_as_it_is():
    y = pd.Series(np.arange(60.0) + np.random.default_rng(0).normal(size=60))
    forecaster = DistilledForecaster(
        12, 4, teacher=PolynomialTrendForecaster(), distillation_weight=100.0, cache_dir=False
    )
    predicted = forecaster.fit(y).predict([1, 2, 3, 4])
    np.testing.assert_allclose(predicted, [60, 61, 62, 63], atol=1.5)
    assert forecaster.training_summary_.windows.labelled == 49
    assert isinstance(load_teacher(NaiveForecaster()), SktimeTeacher)


def test_copies_are_the_teacher_itself_and_bad_ones_are_refused():
    teacher = as_specification(NaiveForecaster())
    assert copy.deepcopy(teacher) is teacher
    with pytest.raises(TypeError, match="must be an sktime forecaster"):
        SktimeTeacher("naive")
    with pytest.raises(ValueError, match="both name and revision"):
        SktimeTeacher(NaiveForecaster(), name="naive")
    with pytest.raises(ValueError, match="knows quantile levels"):
        SktimeTeacher(PolynomialTrendForecaster()).forecast(CONTEXTS, 2, [0.1, 0.5])


def test_clones_of_a_new_forecaster_share_their_labels(monkeypatch, recwarn):
    y = pd.Series(np.random.default_rng(3).normal(size=60))
    forecaster = DistilledForecaster(12, 4, teacher=NaiveForecaster(sp=3), cache_dir=False)
    n = forecaster.fit(y).training_summary_.windows.labelled
    assert n > 0
    cloned = forecaster.clone().fit(y).training_summary_
    assert (cloned.windows.labelled, cloned.windows.from_cache) == (0, n)
    other = forecaster.clone().set_params(teacher__sp=4).fit(y).training_summary_
    assert other.windows.labelled == n
    assert SktimeTeacher(NaiveForecaster(sp=3)).info == SktimeTeacher(NaiveForecaster(sp=3)).info
    about_remembering = [w for w in recwarn if "remember_data" in str(w.message)]
    assert len(about_remembering) < n  # not once for each window
