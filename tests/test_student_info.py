from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.distill.student_info import describe, with_data
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.info import (
    Chosen,
    DataFacts,
    StudentInfo,
    ValidationErrors,
    WindowCounts,
)
from distilts_forecaster.settings import make_settings
from distilts_forecaster.teachers import TeacherInfo
from distilts_forecaster.windows.source import prepare_rows, prepare_series

SUMMARY = TrainingSummary(WindowCounts(5), Chosen(2.0), ValidationErrors(3, 0.5))


def told(series, settings=None, teacher=None):
    return describe([series], settings or make_settings(8, 4), teacher, SUMMARY)


def digests(*series):
    return [told(one).data.sha256 for one in series]


@pytest.mark.parametrize("kind", ["past", "future", "static"])
def test_the_digest_is_that_of_all_values_and_covariates(kind):
    plain = prepare_series(seasonal(30))
    shape = (1, 2) if kind == "static" else (30, 2)
    known = np.random.default_rng(0).normal(size=shape)
    one, two = (replace(plain, covariates=Covariates(**{kind: v})) for v in (known, known + 1))
    other = prepare_series(seasonal(30) + 1)
    assert len(set(digests(plain, one, two, other))) == 4
    assert digests(plain) == digests(prepare_series(seasonal(30)))


def test_counts_are_those_of_the_data():
    values = seasonal(30, components=2)
    values[3:6, 1] = np.nan
    data = told(prepare_series(values)).data
    assert (data.n_series, data.n_points, data.n_components, data.n_missing) == (1, 30, 2, 3)
    rows = told(prepare_rows(np.zeros((7, 8, 1)), np.zeros((7, 4, 1)))).data
    assert (rows.n_points, rows.n_components, rows.n_missing) == (7 * 12, 1, 0)


def test_settings_are_the_parameters_of_a_facade():
    settings = make_settings(8, 4, horizon_weights=lambda n: range(1, n + 1), quantiles=[0.1, 0.5])
    info = told(prepare_series(seasonal(30)), settings, TeacherInfo("x", "1", n_parameters=3))
    assert info.settings["input_chunk_length"] == 8
    assert info.settings["horizon_weights"] == []  # those that were chosen
    assert info.settings["quantile_levels"] == [0.1, 0.5]
    assert info.settings["student"] == {"kind": "Linear", "pooling": "auto", "ridge": "auto"}
    assert (info.teacher.name, info.teacher.revision, info.teacher.n_parameters) == ("x", "1", 3)
    assert info.fit == SUMMARY.facts
    assert StudentInfo.from_json(info.to_json()) == info


def test_times_become_text_and_numbers_stay():
    info = with_data(StudentInfo(), pd.Timestamp("2024-01-01"), np.int64(7), "h", ["a"], None)
    assert info.data == DataFacts(start="2024-01-01 00:00:00", end=7, freq="h", components=("a",))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fit": {"validation_error": "small"}}, r"info\.fit: errors: validation_error"),
        ({"fit": {"windows_seen": 1.5}}, "windows_seen must be int"),
        ({"fit": {"ridge": True}}, "ridge must be float"),
        ({"fit": {"horizon_weights": [1, "x"]}}, "horizon_weights must be tuple"),
        ({"data": {"components": "abc"}}, "components must be tuple"),
        ({"teacher": {"name": 3}}, "name must be str"),
        ({"teacher": []}, "info.teacher must be an object"),
        ([], "info must be an object"),
    ],
)
def test_facts_of_the_wrong_type_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        StudentInfo.from_json(changed)


def test_unknown_facts_are_left_out():
    read = StudentInfo.from_json({"data": {"n_series": 2, "colour": "red"}, "more": 1})
    assert read == StudentInfo(data=DataFacts(n_series=2))
    assert StudentInfo.from_json(None) is None
