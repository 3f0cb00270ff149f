"""The sums of one pass, against the same sums taken window by window."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill import accumulate as module
from distilts_forecaster.distill.accumulate import accumulate, impute_targets, sum_held_out
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.plan import plan_windows, prepare_sources
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import Linear
from distilts_forecaster.students.base import Choice
from distilts_forecaster.students.prior import Prior
from distilts_forecaster.students.sums import WindowSums, solve
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.source import prepare_series

L, T = 8, 3


def planned(series, teacher=None, weight=None, validation=None, shift=0, **changes):
    settings = make_settings(L, T, output_chunk_shift=shift, **changes)
    prepared = [prepare_series(values) for values in series]
    if weight is not None:
        prepared = [replace(one, weight=weight(one.n_origins)) for one in prepared]
    if validation is not None:
        validation = [prepare_series(validation)]
    prepared, validation = prepare_sources(prepared, validation, settings)
    labeller = teacher and Labeller(teacher, MemoryStore(), settings.chunks.target_stop)
    return plan_windows(prepared, settings, labeller, validation), labeller


def windows(source, mask, steps, shift=0):
    """Yield (origin, component, context, mean, scale, target) one at a time."""
    for origin in np.flatnonzero(mask):
        context, _ = source.filled_contexts(np.array([origin]), L)
        for k in range(source.n_components):
            own = context[0, :, k].astype(float)
            mean, scale = own.mean(), np.sqrt(own.var() + 9.0)
            target = np.full(steps, np.nan)
            known = source.values[origin + shift : origin + shift + steps, k]
            target[: len(known)] = known
            yield origin, k, (own - mean) / scale, mean, scale, (target - mean) / scale


def label_of(source, origin, k, shift=0):
    """Return what the fake teacher says: the last season again."""
    season = source.filled_contexts(np.array([origin]), L)[0][0, -6:, k]
    return season[(np.arange(T) + shift) % 6]


def by_hand(plan, target, labelled, steps):
    """Return the sums over windows by name, in double precision."""
    shift, n = plan.settings.output_chunk_shift, plan.n_matrices
    total = {
        "gram_target": np.zeros((n, L, L)),
        "cross_target": np.zeros((n, L, steps)),
        "power_target": np.zeros((n, steps)),
        "known_target": np.zeros((n, steps)),
        "n_target": 0.0,
        "gram_teacher": np.zeros((n, L, L)),
        "cross_teacher": np.zeros((n, L, steps)),
        "n_teacher": 0.0,
    }
    for one in plan.sources:
        source = one.source
        for origin, k, features, _, _, y in windows(source, getattr(one, target), steps, shift):
            weight = 1.0 if source.weight is None else source.weight[origin]
            m, known = k % n, np.isfinite(y)
            y = np.where(known, y, 0.0)
            total["gram_target"][m] += weight * np.outer(features, features)
            total["cross_target"][m] += weight * np.outer(features, y)
            total["power_target"][m] += weight * y**2
            total["known_target"][m] += weight * known
            total["n_target"] += weight / n
        for origin, k, features, mean, scale, _ in windows(source, getattr(one, labelled), steps):
            label = (label_of(source, origin, k, shift)[:steps] - mean) / scale
            total["gram_teacher"][k % n] += np.outer(features, features)
            total["cross_teacher"][k % n] += np.outer(features, label)
            total["n_teacher"] += 1 / n
    return total


def same(sums, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(sums, name), value, rtol=1e-4, atol=1e-3, err_msg=name)


def gappy(n, seed=0):
    values = seasonal(n, components=2, seed=seed)
    values[n // 2 : n // 2 + 4, 0] = np.nan
    values[::11, 1] = np.nan
    return values


CASES = {
    "plain": {"series": [seasonal(60, components=2)]},
    "one matrix each": {
        "series": [seasonal(60, components=2)],
        "student": Linear(pooling="none"),
    },
    "gaps, two series": {"series": [gappy(70), gappy(50, seed=1)]},
    "gaps, one matrix each": {"series": [gappy(70)], "student": Linear(pooling="none")},
    "short series": {"series": [seasonal(14)]},
    "shift": {"series": [seasonal(60)], "shift": 2},
    "few labels": {"series": [seasonal(60)], "label_budget": 10},
    "weights": {"series": [gappy(60)], "weight": lambda n: 0.5 + np.arange(n) % 3},
}


@pytest.mark.parametrize("case", CASES)
def test_sums_are_those_taken_window_by_window(teacher, case, monkeypatch):
    monkeypatch.setattr(module, "iterate_chunks", lambda origins, _: iterate_chunks(origins, 1, 7))
    plan, labeller = planned(teacher=teacher, **CASES[case])
    made = accumulate(plan, labeller)
    horizon = plan.horizon
    same(made.trial, by_hand(plan, "trial_target", "trial_labelled", horizon))
    same(made.final, by_hand(plan, "target", "labelled", T))


@pytest.mark.parametrize("case", CASES)
def test_the_teachers_errors_are_those_of_its_labels(teacher, case):
    plan, labeller = planned(teacher=teacher, **CASES[case])
    shift = plan.settings.output_chunk_shift
    everywhere, held_out = [], []
    for one in plan.sources:
        for origin, k, _, mean, scale, y in windows(one.source, one.labelled, T, shift):
            error = label_of(one.source, origin, k, shift) - (y * scale + mean)
            if one.target[origin]:
                everywhere.append(error)
            if one.validation[origin]:
                held_out.append(error[: plan.horizon])
    made = accumulate(plan, labeller)
    np.testing.assert_allclose(made.teacher_error, np.nanmean(np.square(everywhere), 0), rtol=1e-4)
    if held_out:
        assert made.teacher_validation_error == pytest.approx(
            np.nanmean(np.square(held_out)), rel=1e-4
        )
    else:
        assert made.teacher_validation_error is None


def test_without_a_teacher_there_are_no_errors_of_it():
    plan, _ = planned([seasonal(60)])
    made = accumulate(plan, None)
    assert made.teacher_error is None
    assert made.teacher_validation_error is None
    assert made.final.n_teacher == 0
    same(made.final, by_hand(plan, "target", "labelled", T))


def test_a_step_that_is_never_known_counts_as_the_others(teacher):
    """Of one window, the first and the last step of the target are known."""
    plan, labeller = planned([seasonal(60)], teacher)
    one = plan.sources[0]
    only = np.arange(len(one.target)) == 57
    source = replace(one.source, values=one.source.values.copy())
    source.values[58] = np.nan
    plan = replace(plan, sources=(replace(one, source=source, target=only, labelled=only),))
    error = accumulate(plan, labeller).teacher_error
    assert error[1] == pytest.approx((error[0] + error[2]) / 2)
    assert error[0] != pytest.approx(error[2])


@pytest.mark.parametrize("case", ["plain", "one matrix each", "gaps, two series", "short series"])
def test_held_out_windows_count_in_the_units_of_their_series(case):
    plan, _ = planned(**CASES[case])
    held, horizon = sum_held_out(plan), plan.horizon
    n = len(held.sums.gram_target)
    cross, power, rows = np.zeros((n, L, horizon)), np.zeros((n, horizon)), []
    for source, mask in plan.held_out:
        groups = [list(windows(source, mask, horizon))]
        for _, k, features, _, scale, y in groups[0]:
            rows.append((k % n, features * scale, y * scale))
    # With a matrix for each component, a window is whole if all of its components are.
    whole = np.array([np.isfinite(y).all() for _, _, y in rows]).reshape(-1, n).all(axis=1)
    for (k, a, y), complete in zip(rows, np.repeat(whole, n), strict=True):
        if complete:
            cross[k] += np.outer(a, y)
            power[k] += y**2
    np.testing.assert_allclose(held.sums.cross_target, cross, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(held.sums.power_target, power, rtol=1e-4, atol=1e-3)
    partial = [
        y for (_, _, y), complete in zip(rows, np.repeat(whole, n), strict=True) if not complete
    ]
    if partial:
        np.testing.assert_allclose(held.targets, partial, rtol=1e-3, atol=1e-4)
    assert len(held.targets) == len(partial)
    assert held.n_rows == len(rows)


def test_of_many_incomplete_windows_a_sample_stands_for_all(monkeypatch):
    values = seasonal(400)
    values[::5] = np.nan
    plan, _ = planned([values])
    whole = sum_held_out(plan)
    monkeypatch.setattr(module, "_MOST_PARTIAL_ROWS", 20)
    some = sum_held_out(plan)
    assert 15 <= len(some.targets) <= 30 < len(whole.targets)
    assert some.n_rows == pytest.approx(whole.n_rows)
    assert whole.row_weight == 1.0


def test_given_validation_series_are_what_is_held_out():
    other = seasonal(40, seed=3)
    plan, _ = planned([seasonal(60)], validation=other)
    held = sum_held_out(plan)
    assert held.n_rows == 40 - L - T + 1
    source = prepare_series(other)
    expected = [y * scale for *_, scale, y in windows(source, plan.held_out[0][1], T)]
    np.testing.assert_allclose(
        held.sums.power_target[0], np.square(expected).sum(axis=0), rtol=1e-4
    )


def test_nothing_held_out_is_none(teacher):
    fixed = {"student": Linear(ridge=0.1), "distillation_weight": 1.0}
    plan, labeller = planned([seasonal(60)], teacher, **fixed)
    made = accumulate(plan, labeller)
    assert made.held_out is None
    same(made.final, by_hand(plan, "target", "labelled", T))
    assert made.trial.n_target == 0


def test_labels_are_kept_as_they_were_made(teacher):
    plan, labeller = planned([seasonal(30), seasonal(25, seed=1)], teacher)
    kept = accumulate(plan, labeller, keep=lambda labels: labels[..., labeller.median]).labels
    expected = [
        label_of(one.source, origin, 0)
        for one in plan.sources
        for origin in np.flatnonzero(one.labelled)
    ]
    np.testing.assert_allclose(kept.rows[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_blocks_add_up_to_the_whole(teacher, case, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    plan, labeller = planned(teacher=teacher, **CASES[case])
    whole, warm = accumulate(plan, labeller), WarmStart()
    for _ in range(2):
        blocks = accumulate(plan, labeller, warm=warm)
        same(blocks.trial, vars(whole.trial))
        same(blocks.final, vars(whole.final))
        np.testing.assert_allclose(blocks.teacher_error, whole.teacher_error, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, lambda n: 0.5 + np.arange(n) % 3])
@pytest.mark.parametrize("pooling", ["full", "none"])
def test_imputed_sums_are_solved_by_the_observed_targets_alone(weight, pooling):
    """Each step by itself, over the windows in which it is known."""
    ridge = 0.1
    plan, _ = planned([gappy(150)], weight=weight, student=Linear(pooling, ridge))
    sums = accumulate(plan, None).final
    prior = Prior("mean", np.zeros((L, T)), np.eye(L), None)
    choice = Choice(0.0, np.ones(T), ridge, prior, pooling=0.0)
    weights = solve(impute_targets(sums, plan, "target", choice), np.zeros(T), ridge)
    source, n = plan.first, len(weights)
    rows = list(windows(source, plan.sources[0].target, T))
    for m in range(n):
        mine = [row for row in rows if row[1] % n == m]
        features = np.array([row[2] for row in mine])
        each = np.ones(len(mine)) if weight is None else source.weight[[row[0] for row in mine]]
        power = (each[:, None] * features**2).sum() / L
        for t in range(T):
            y = np.array([row[5][t] for row in mine])
            known = np.isfinite(y)
            a, root = features[known], np.sqrt(each[known])[:, None]
            design = np.vstack([root * a, np.sqrt(ridge * power) * np.eye(L)])
            expected = np.linalg.lstsq(design, np.r_[root[:, 0] * y[known], np.zeros(L)])[0]
            np.testing.assert_allclose(weights[m, :, t], expected, atol=5e-3)


def test_complete_sums_need_no_imputing():
    plan, _ = planned([seasonal(60)])
    sums = accumulate(plan, None).final
    assert impute_targets(sums, plan, "target", None) is sums
    empty = WindowSums(1, L, T)
    assert impute_targets(empty, plan, "target", None) is empty
