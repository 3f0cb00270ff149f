from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill.plan import (
    MOST_TEACHER_CONTEXT,
    plan_windows,
    prepare_sources,
    resolve_teacher_context,
)
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import MLP, Linear
from distilts_forecaster.teachers import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.source import prepare_rows, prepare_series

L, T = 24, 6
MASKS = ("target", "labelled", "trial_target", "trial_labelled", "validation")


def planned(values, teacher=None, validation=None, length=4, steps=2, **changes):
    settings = make_settings(length, steps, **changes)
    labeller = teacher and Labeller(teacher, MemoryStore(), settings.chunks.target_stop)
    many = values if isinstance(values, list) else [values]
    return plan_windows([prepare_series(v) for v in many], settings, labeller, validation)


def origins(one):
    """Return the first and last origin of each use, None where there is none."""
    found = {name: np.flatnonzero(getattr(one, name)) for name in MASKS}
    for where in found.values():
        assert not len(where) or len(where) == where[-1] - where[0] + 1
    return {name: (where[0], where[-1]) if len(where) else None for name, where in found.items()}


def test_each_window_of_twenty_steps_has_its_uses(teacher):
    """4 -> 2: 15 windows have a target; the last fifth of them, 3, are held out."""
    plan = planned(seasonal(20), teacher)
    assert origins(plan.sources[0]) == {
        "target": (4, 18),
        "labelled": (4, 20),
        "trial_target": (4, 14),
        "trial_labelled": (4, 16),
        "validation": (16, 18),
    }
    assert (plan.horizon, plan.n_targets, plan.n_labels) == (2, 15, 17)
    assert plan.holds_out_ends
    assert plan.held_out[0][0] is plan.first
    np.testing.assert_array_equal(plan.held_out[0][1], plan.sources[0].validation)


def test_a_shift_moves_the_targets_alone(teacher):
    assert origins(planned(seasonal(23), teacher, output_chunk_shift=3).sources[0]) == {
        "target": (4, 18),
        "labelled": (4, 23),
        "trial_target": (4, 14),
        "trial_labelled": (4, 16),
        "validation": (16, 18),
    }


@pytest.mark.parametrize(
    ("given", "judged"),
    [
        ({}, True),
        ({"distillation_weight": 1.0}, True),
        ({"distillation_weight": 1.0, "student": Linear(ridge=0.1)}, False),
        ({"student": Linear(ridge=0.1)}, True),
        (
            {
                "distillation_weight": 1.0,
                "student": Linear(ridge=0.1),
                "horizon_weights": "auto",
            },
            True,
        ),
        (
            {
                "distillation_weight": 1.0,
                "student": Linear(ridge=0.1),
                "quantiles": (0.1, 0.5, 0.9),
            },
            True,
        ),
        ({"distillation_weight": 1.0, "student": MLP()}, True),
    ],
)
def test_windows_are_held_out_where_something_is_judged_by_them(teacher, given, judged):
    plan = planned(seasonal(40), teacher, **given)
    assert plan.horizon == (2 if judged else 0)
    assert bool(plan.held_out) == judged
    one = plan.sources[0]
    assert one.validation.any() == judged
    if not judged:
        np.testing.assert_array_equal(one.trial_target, one.target)
        np.testing.assert_array_equal(one.trial_labelled, one.labelled)


def test_without_a_teacher_its_weight_is_no_choice():
    assert planned(seasonal(40), student=Linear(ridge=0.1)).horizon == 0
    assert planned(seasonal(40)).n_labels == 0


def test_given_validation_series_leave_all_windows_to_the_fit(teacher):
    validation = [prepare_series(seasonal(30, seed=1)), prepare_series(seasonal(12, seed=2))]
    plan = planned(seasonal(40), teacher, validation)
    one = plan.sources[0]
    assert not plan.holds_out_ends
    assert not one.validation.any()
    np.testing.assert_array_equal(one.trial_target, one.target)
    assert [np.flatnonzero(mask)[[0, -1]].tolist() for _, mask in plan.held_out] == [
        [4, 28],
        [4, 10],
    ]
    fixed = planned(seasonal(40), None, [prepare_series(seasonal(3))], student=Linear(ridge=0.1))
    assert fixed.horizon == 0
    assert not fixed.held_out


def test_the_horizon_is_what_half_of_the_series_can_be_split_at():
    """4 -> 8: 40 steps split at 8, 16 steps at 4; 5 steps have too little to split at 4."""
    long, short, tiny = seasonal(40), seasonal(16), seasonal(5)

    def horizon(*many):
        return planned(list(many), length=4, steps=8).horizon

    assert (horizon(long), horizon(short)) == (8, 4)
    assert horizon(long, long, short) == 8
    assert horizon(long, short) == 4
    assert horizon(long, short, short) == 4
    plan = planned([long, long, tiny], length=4, steps=8)
    assert plan.horizon == 8
    left = plan.sources[2]
    assert not left.validation.any()
    np.testing.assert_array_equal(left.trial_target, left.target)


def test_future_covariates_bound_the_labelled_windows(teacher):
    future = Covariates(future=np.zeros((21, 1)))
    values = replace(prepare_series(seasonal(20)), covariates=future)
    settings = make_settings(4, 2)
    labeller = Labeller(teacher, MemoryStore(), 2)
    plan = plan_windows([values], settings, labeller)
    # Origin 19 needs the future of steps 19 and 20; there are 21.
    assert origins(plan.sources[0])["labelled"] == (4, 19)
    for mask in MASKS:
        bare = plan.without_covariates()
        np.testing.assert_array_equal(
            getattr(bare.sources[0], mask), getattr(plan.sources[0], mask)
        )
    assert bare.first.covariates.future is None


def test_weights_of_zero_alone_are_refused(teacher):
    settings = make_settings(4, 2)
    labeller = Labeller(teacher, MemoryStore(), 2)

    def weighted(weight):
        return replace(prepare_series(seasonal(20)), weight=np.array(weight, dtype=float))

    # Origins below 4 have no window, and those from 19 on no target.
    unused = [1.0] * 4 + [0.0] * 15 + [1.0] * 2
    with pytest.raises(ValueError, match="zero for the target of every window"):
        plan_windows([weighted(unused)] * 2, settings, labeller)
    unused[18] = 0.1
    assert plan_windows([weighted(unused)], settings, labeller).n_targets == 15
    some = [weighted([0.0] * 21), weighted([5.0] * 21)]
    plan = plan_windows(some, settings, labeller)
    assert plan.n_targets == 30
    assert [one.source.weight.max() for one in plan.sources] == [0.0, 2.0]  # of mean one


def test_a_budget_is_met_exactly_by_a_sample_of_all_windows(teacher):
    every = planned([seasonal(60), seasonal(90, seed=1)], teacher)
    some = planned([seasonal(60), seasonal(90, seed=1)], teacher, label_budget=40)
    assert some.n_labels == 40
    for one, all_of_it in zip(some.sources, every.sources, strict=True):
        assert 5 < one.labelled.sum() < 35
        assert not (one.labelled & ~all_of_it.labelled).any()
    exact = planned([seasonal(60), seasonal(90, seed=1)], teacher, label_budget=every.n_labels)
    assert exact.n_labels == every.n_labels


def test_a_teacher_that_knows_no_gaps_is_asked_where_its_context_is_complete(teacher):
    assert origins(planned(seasonal(40), teacher, teacher_context=10).sources[0])["labelled"] == (
        10,
        40,
    )
    assert origins(planned(seasonal(40), teacher, teacher_context=2).sources[0])["labelled"] == (
        4,
        40,
    )


@pytest.mark.parametrize(
    ("n", "opened"),
    [(29, (True, True)), (30, (False, True)), (59, (False, True)), (60, (False,) * 2)],
)
def test_short_series_are_open_at_their_ends(n, opened):
    settings = make_settings(L, T)
    (one,), validation = prepare_sources([prepare_series(seasonal(n))], None, settings)
    assert (one.open_start, one.open_end) == opened
    assert validation is None
    _, (held_out,) = prepare_sources(
        [prepare_series(seasonal(80))], [prepare_series(seasonal(n))], settings
    )
    assert held_out.open_end == (n < L + T)
    assert not held_out.open_start


def test_gaps_are_filled_by_a_season_that_the_context_holds():
    series = [prepare_series(seasonal(300, period=12, noise=0.1))]
    rows = prepare_rows(np.zeros((20, 12, 1)), np.zeros((20, 2, 1)))
    assert [s.period for s in prepare_sources(series, series, make_settings(13, 2))[1]] == [12]
    assert prepare_sources([rows], None, make_settings(13, 2))[0][0].period is None
    cut = np.lib.stride_tricks.sliding_window_view(series[0].values[:, 0], 40)[..., None]
    rows = prepare_rows(cut[:, :36], cut[:, 36:])
    assert prepare_sources([rows], None, make_settings(36, 2))[0][0].period == 12
    assert prepare_sources(series, None, make_settings(12, 2))[0][0].period is None


def test_what_is_held_out_does_not_touch_the_trial():
    """Settings are tried on a student that knows nothing of the held-out values."""
    values = seasonal(300, components=2)
    settings = make_settings(L, T)
    plan = plan_windows([prepare_series(values)], settings)
    one, horizon = plan.sources[0], plan.horizon
    first_held_out_value = np.flatnonzero(one.validation).min()
    assert np.flatnonzero(one.trial_target).max() + horizon <= first_held_out_value
    assert one.trial_target.sum() + one.validation.sum() + horizon - 1 == one.target.sum()


def test_labels_on_trial_come_from_contexts_before_the_held_out_values(teacher):
    settings = make_settings(L, T)
    labeller = Labeller(teacher, MemoryStore(), T)
    one = plan_windows([prepare_series(seasonal(300))], settings, labeller).sources[0]
    held_out = np.flatnonzero(one.validation)
    assert np.flatnonzero(one.trial_labelled).max() <= held_out.min()
    assert np.flatnonzero(one.labelled).max() == 300


def test_one_longer_series_does_not_take_over_the_validation():
    short = [seasonal(L + T + 6, seed=i) for i in range(9)]
    series = [prepare_series(v) for v in [seasonal(300), *short]]
    plan = plan_windows(series, make_settings(L, T))
    assert plan.horizon < T
    assert all(one.validation.any() for one in plan.sources)


@pytest.mark.parametrize(
    ("given", "takes_missing", "longest", "expected"),
    [
        (None, False, 2048, L),
        (None, True, 60, 60),
        (None, True, 8, L),
        (None, True, 8192, MOST_TEACHER_CONTEXT),
        (None, True, None, MOST_TEACHER_CONTEXT),
        (100, True, 60, 100),
        (10, False, None, 10),
    ],
)
def test_a_teacher_sees_as_much_history_as_it_understands(given, takes_missing, longest, expected):
    info = TeacherInfo("any", longest_context=longest, takes_missing=takes_missing)
    assert resolve_teacher_context(make_settings(L, T, teacher_context=given), info) == expected
