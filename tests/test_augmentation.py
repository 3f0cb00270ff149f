import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill.augmentation import augment
from distilts_forecaster.distill.plan import Settings, plan_windows
from distilts_forecaster.teachers import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller, MemoryStore
from distilts_forecaster.windows.cutting import history_windows, prepare_series, usable_windows

L, T = 24, 6
TAKES = TeacherInfo("taking", takes_missing=True, longest_context=64)


def made_up(n, share, teacher, **settings):
    settings = Settings(L, T, augmentation=share, **settings)
    labeller = Labeller(teacher, MemoryStore(), T)
    plans, _ = plan_windows([prepare_series(seasonal(n, components=2))], settings, labeller)
    n_own = sum(int(plan.labelled.sum()) for plan in plans)
    return augment(plans, settings, TAKES), n_own, plans


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_share_is_that_of_all_labelled_windows(teacher, share):
    plan, n_own, _ = made_up(100, share, teacher)
    n = int(plan.labelled.sum())
    assert n / (n + n_own) == pytest.approx(share, abs=0.02)
    assert not plan.truth.any()
    np.testing.assert_array_equal(plan.labelled, usable_windows(plan.series, L))


def test_none_are_made_unless_asked_for(teacher):
    assert made_up(100, 0.0, teacher)[0] is None


def test_the_budget_bounds_them_too(teacher):
    plan, n_own, _ = made_up(100, 0.9, teacher, label_budget=90)
    assert int(plan.labelled.sum()) + n_own == 90
    assert made_up(100, 0.9, teacher, label_budget=20)[0] is None


def test_a_window_always_gives_the_same_ones(teacher):
    short, *_ = made_up(100, 0.5, teacher)
    again, *_ = made_up(100, 0.5, teacher)
    np.testing.assert_array_equal(short.series.raw, again.series.raw)


def test_nothing_held_out_is_in_them(teacher):
    values = seasonal(100)
    other = values.copy()
    other[90:] += 100.0
    settings = Settings(L, T, augmentation=0.5)
    made = []
    for one in (values, other):
        series = prepare_series(one)
        plans, _ = plan_windows([series], settings, Labeller(teacher, MemoryStore(), T))
        assert np.flatnonzero(plans[0].validation).min() <= 90
        made.append(augment(plans, settings, TAKES))
    on_trial = [plan.trial_labelled for plan in made]
    np.testing.assert_array_equal(*on_trial)
    assert 0 < on_trial[0].sum() < made[0].labelled.sum()
    origins = np.flatnonzero(on_trial[0])
    np.testing.assert_array_equal(*(history_windows(plan.series.raw, origins, 64) for plan in made))


def test_components_keep_their_number_and_histories_begin_where_they_do(teacher):
    plan, _, _ = made_up(40, 0.5, teacher)
    assert plan.series.raw.shape[1] == 2
    rows = plan.series.raw.reshape(-1, plan.series.row_length, 2)
    assert plan.series.row_length == 64 + T
    assert np.isnan(rows[:, :24]).all()
    assert np.isfinite(rows[:, 64 - L : 64]).all()
    assert np.isnan(rows[:, 64:]).all()
