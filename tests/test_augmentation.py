import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill import augmentation
from distilts_forecaster.distill.augmentation import augment
from distilts_forecaster.distill.plan import plan_windows
from distilts_forecaster.settings import make_settings
from distilts_forecaster.teachers import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.source import prepare_series

L, T = 24, 6
TAKES = TeacherInfo("taking", takes_missing=True, longest_context=64)


def planned(values, teacher, **settings):
    settings = make_settings(L, T, **settings)
    return plan_windows([prepare_series(values)], settings, Labeller(teacher, MemoryStore(), T))


def made_up(n, share, teacher, **settings):
    """Return the windows that were made, and how many there were before."""
    plan = planned(seasonal(n, components=2), teacher, augmentation=share, **settings)
    more = augment(plan, TAKES)
    added = more.sources[1] if len(more.sources) > 1 else None
    return added, plan.n_labels


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_share_is_that_of_all_labelled_windows(teacher, share):
    added, n_own = made_up(100, share, teacher)
    n = int(added.labelled.sum())
    assert n / (n + n_own) == pytest.approx(share, abs=0.02)
    assert not added.target.any()
    assert added.labelled.all()
    assert added.source.usable(L).all()


def test_none_are_made_unless_asked_for(teacher):
    assert made_up(100, 0.0, teacher)[0] is None


def test_the_budget_bounds_them_too(teacher):
    added, n_own = made_up(100, 0.9, teacher, label_budget=90)
    assert int(added.labelled.sum()) + n_own == 90
    assert made_up(100, 0.9, teacher, label_budget=20)[0] is None


def test_a_window_always_gives_the_same_ones(teacher):
    short, again = (made_up(100, 0.5, teacher)[0].source for _ in range(2))
    np.testing.assert_array_equal(short.raw_contexts, again.raw_contexts)


def test_nothing_held_out_is_in_them(teacher):
    values = seasonal(100)
    other = values.copy()
    other[90:] += 100.0
    made = []
    for one in (values, other):
        plan = planned(one, teacher, augmentation=0.5)
        assert np.flatnonzero(plan.sources[0].validation).min() <= 90
        made.append(augment(plan, TAKES).sources[1])
    on_trial = [one.trial_labelled for one in made]
    np.testing.assert_array_equal(*on_trial)
    assert 0 < on_trial[0].sum() < made[0].labelled.sum()
    np.testing.assert_array_equal(*(one.source.raw_contexts[on_trial[0]] for one in made))


def test_components_keep_their_number_and_histories_begin_where_they_do(teacher):
    source = made_up(40, 0.5, teacher)[0].source
    assert source.n_components == 2
    assert source.raw_contexts.shape[1:] == (64, 2)
    assert source.raw_targets.shape[1:] == (T, 2)
    assert np.isnan(source.raw_contexts[:, :24]).all()
    assert np.isfinite(source.raw_contexts[:, 64 - L :]).all()
    assert np.isnan(source.raw_targets).all()


def strayed(rows):
    """Return how far windows of one wave stray from it, and how much its amplitude grows."""
    rows = rows.raw_contexts[:, -L:, 0].astype(float)
    basis = np.stack([f(np.arange(L) * 2 * np.pi / 12) for f in (np.sin, np.cos)], axis=1)
    basis = np.column_stack([basis, basis * np.linspace(-1, 0, L)[:, None], np.ones(L)])
    fitted = np.linalg.lstsq(basis, rows.T, rcond=None)[0]
    return (rows.T - basis @ fitted).std(axis=0), np.hypot(*fitted[2:4]) / np.hypot(*fitted[:2])


WAVE = np.sin(np.arange(400) * 2 * np.pi / 12)[:, None]


def test_noise_is_uniform_up_to_three_tenths_of_the_windows_std(teacher):
    noise, _ = strayed(augment(planned(WAVE, teacher, augmentation=0.5), TAKES).sources[1].source)
    assert 0.05 < np.median(noise) < 0.25
    assert noise.max() < 0.45


def test_amplitudes_change_by_up_to_half(teacher, monkeypatch):
    monkeypatch.setattr(augmentation, "_MOST_JITTER", 0.0)
    noise, growth = strayed(
        augment(planned(WAVE, teacher, augmentation=0.5), TAKES).sources[1].source
    )
    assert noise.max() < 1e-6
    assert 0.15 < np.median(growth) < 0.35
    assert 0.45 < growth.max() <= 0.5 + 1e-6


def test_new_windows_are_made_of_those_with_the_longest_history(teacher, monkeypatch):
    parents = []

    def noted(one, origin, *rest):
        parents.append(origin)
        return mixed(one, origin, *rest)

    mixed = augmentation._mixed
    monkeypatch.setattr(augmentation, "_mixed", noted)
    plan = planned(seasonal(400), teacher, augmentation=0.5)
    augment(plan, TAKES)
    labelled = np.flatnonzero(plan.sources[0].labelled)
    assert len(parents) == len(labelled)
    assert set(parents) == set(labelled[labelled >= 0.75 * labelled.max()])
