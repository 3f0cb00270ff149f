import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill.judge import TrainingSummary, advise, naive_error
from distilts_forecaster.distill.plan import plan_windows
from distilts_forecaster.runtime.info import Chosen, ValidationErrors, WindowCounts
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import MLP, Linear
from distilts_forecaster.teachers import TeacherInfo
from distilts_forecaster.windows.naive import USUAL_SEASONS, repeat_season
from distilts_forecaster.windows.source import prepare_series


def planned(values, length=40, steps=6, shift=0, **settings):
    settings = make_settings(length, steps, shift, **settings)
    return plan_windows([prepare_series(values)], settings)


@pytest.mark.parametrize("period", [1, 4, 5, 7, 12, 24, 48, 52, 96, 144, 168, 288, 336, 365])
def test_every_usual_season_is_tried(period):
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=period) if period > 1 else np.zeros(1)
    n = 4 * max(period, 20)
    values = np.tile(pattern, -(-n // period))[:n]
    if period == 1:
        values = rng.normal(size=n).cumsum()
    error, season = naive_error(planned(values[:, None], length=max(period, 8), steps=3))
    assert season == period
    assert period in USUAL_SEASONS
    assert period == 1 or error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("shift", [0, 3])
def test_the_naive_error_is_that_of_its_forecasts(shift):
    values = seasonal(200, components=2, period=7)
    values[150:155, 0] = np.nan
    plan = planned(values, shift=shift)
    (source, mask), total, count = plan.held_out[0], 0.0, 0
    origins = np.flatnonzero(mask)
    contexts, _ = source.filled_contexts(origins, 40)
    for i, origin in enumerate(origins):
        for step in range(plan.horizon):
            place = origin + shift + step
            if place < 200:
                # Whole seasons back, until the context is reached.
                back = place - 7 * -(-(place - origin + 1) // 7)
                missed = contexts[i, back - origin] - source.values[place]
                total += np.nansum(missed.astype(float) ** 2)
                count += np.isfinite(missed).sum()
    error, season = naive_error(plan)
    assert season == 7
    assert error == pytest.approx(total / count, rel=1e-5)


def test_where_nothing_is_held_out_there_is_no_naive_error():
    given = {"student": Linear(ridge=0.1), "distillation_weight": 0}
    assert naive_error(planned(seasonal(200), **given)) == (None, None)


@pytest.mark.parametrize(("season", "horizon", "shift"), [(1, 3, 0), (4, 10, 0), (4, 3, 5)])
def test_a_repeated_season_keeps_its_phase(season, horizon, shift):
    contexts = np.arange(12.0)[None, :, None]
    made = repeat_season(contexts, season, horizon, shift)[0, :, 0]
    steps = np.arange(12 + shift, 12 + shift + horizon)
    np.testing.assert_array_equal(made % season, steps % season)
    assert made.min() >= 12 - season


def summary(student=1.0, alone=2.0, teacher=0.5, naive=4.0, season=24, **windows):
    return TrainingSummary(
        WindowCounts(labelled=10, **windows),
        Chosen(),
        ValidationErrors(
            horizon=6,
            student=student,
            without_teacher=alone,
            teacher=teacher,
            naive=naive,
            naive_season=season,
        ),
        seconds={"teacher": 0.5},
    )


def test_the_verdict_names_everything_that_must_be_beaten():
    said = summary().verdict
    assert "2.00 times that of the teacher" in said
    assert "0.50 times that of the exact student without a teacher" in said
    assert "0.25 times that of repeating the last 24 steps" in said
    assert said.endswith("The teacher is better there.")
    assert "better there" not in summary(teacher=0.96).verdict
    assert summary(naive=0.1).verdict.endswith("Repeating the last 24 steps is better there.")
    assert "repeating the last value" in summary(season=1).verdict
    assert "more than that of repeating the last 24 steps, which" in summary(naive=0.0).verdict
    assert "zero, as that of repeating" in summary(student=0.0, naive=0.0).verdict
    assert "compared" in summary(student=None).verdict
    assert summary().fidelity == 2.0
    assert summary(teacher=None).fidelity is None
    assert summary(student=None).fidelity is None


@pytest.mark.parametrize(
    ("windows", "settings", "alone", "expected"),
    [
        (
            {"unlabelled": 90, "labels_moved": 0.01},
            {},
            2.0,
            "90 windows are unlabelled, at 50.0 ms",
        ),
        ({"unlabelled": 90}, {}, 2.0, "label_budget=None"),
        ({"unlabelled": 90}, {"time_limit": 3}, 2.0, "label_budget=None, time_limit=None"),
        ({}, {}, 2.0, "input_chunk_length=1024"),
        ({}, {}, 2.0, 'student="mlp"'),
        ({}, {}, 0.5, "distillation_weight=0"),
        ({}, {}, 2.0, "load_teacher('slow')"),
    ],
)
def test_advice_is_what_would_help(windows, settings, alone, expected):
    info = TeacherInfo("slow", takes_missing=True)
    said = advise(summary(alone=alone, **windows), make_settings(40, 6, **settings), info)
    assert expected in said


def test_advice_that_would_not_help_is_not_given():
    info = TeacherInfo("slow", longest_context=40)
    windows = {"unlabelled": 90, "labels_moved": 1e-4}
    said = advise(summary(**windows), make_settings(40, 6, student=MLP()), info)
    assert said == "or forecast with the teacher itself: load_teacher('slow')"
