from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill.pipeline import distill
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import Linear
from distilts_forecaster.teachers import FunctionTeacher, TeacherForecast, TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.source import prepare_series

L, T = 24, 6


def fit(values, teacher=None, validation=None, **changes):
    settings = make_settings(L, T, **changes)
    many = values if isinstance(values, list) else [values]
    labeller = (
        None if teacher is None else Labeller(teacher, MemoryStore(), settings.chunks.target_stop)
    )
    held_out = None if validation is None else [prepare_series(validation)]
    return distill([prepare_series(v) for v in many], settings, labeller, held_out)


def error(student, values):
    origins = np.arange(L, len(values) - T)
    contexts = np.stack([values[o - L : o] for o in origins])
    targets = np.stack([values[o : o + T] for o in origins])
    return ((student.predict(contexts) - targets) ** 2).mean()


def test_a_periodic_series_is_learned_exactly():
    values = seasonal(300, noise=0.0)
    student = fit(values, student=Linear(ridge=1e-6)).student
    assert error(student, seasonal(300, noise=0.0)) < 0.05 * values.var()


def test_the_summary_counts_every_window(teacher):
    result = fit([seasonal(200), seasonal(100, seed=1)], teacher)
    summary = result.summary
    assert summary.windows.seen == (200 - L - T + 1) + (100 - L - T + 1)
    assert summary.windows.labelled == (200 - L + 1) + (100 - L + 1)  # no target needed
    assert summary.windows.labelled == teacher.n_asked
    assert summary.windows.from_cache == 0
    assert summary.windows.skipped == 0
    assert summary.teacher == "counting|1|float32"
    assert summary.errors.horizon == T
    assert set(summary.seconds) == {"teacher", "sums", "choice", "solve"}


def season(contexts, horizon):
    return contexts[:, -6:][:, np.arange(horizon) % 6]


def season_with(value, where):
    def forecast(contexts, horizon):
        made = season(contexts, horizon).copy()
        made[where] = value
        return made

    return FunctionTeacher(forecast, name="season", revision="1")


@pytest.mark.parametrize("student", ["linear", "mlp"])
@pytest.mark.parametrize("value", [1e38, -1e30, 1e5])
def test_a_label_far_beyond_its_context_is_left_out_with_a_warning(student, value):
    values = seasonal(200)
    more = {"student": student, "random_state": 0, "distillation_weight": 10.0}
    honest = fit(values, season_with(0.0, np.s_[:0]), **more)
    with pytest.warns(UserWarning, match="'season' forecasts .* after values from") as caught:
        result = fit(values, season_with(value, np.s_[30:31, 2]), **more)
    assert len(caught) == 1
    for name in ("student", "teacher"):
        expected = getattr(honest.summary.errors, name)
        assert getattr(result.summary.errors, name) == pytest.approx(expected, rel=0.02)
    made, expected = (one.student.predict(values[-L:]) for one in (result, honest))
    np.testing.assert_allclose(made, expected, atol=0.05)


@pytest.mark.parametrize(("size", "value"), [(1.0, 1e9), (1e-6, 1e37), (1e30, -3e38)])
def test_a_teacher_whose_labels_are_all_absurd_is_no_teacher(size, value):
    values = size * seasonal(200)
    with pytest.warns(UserWarning, match="left out"):
        result = fit(values, season_with(value, np.s_[:]), distillation_weight=10.0)
    alone = fit(values, distillation_weight=0)
    np.testing.assert_allclose(result.student.weights, alone.student.weights, atol=1e-5)


def test_windows_of_which_too_little_is_observed_are_left_out_and_counted(teacher):
    values = seasonal(200)
    values[100 : 100 + L] = np.nan
    summary = fit(values, teacher).summary
    # Origins 100 to 118 have no target, 119 to 129 less than a quarter of their context.
    assert summary.windows.skipped == 19 + 11
    assert summary.windows.seen == 200 - L - T + 1 - summary.windows.skipped
    assert np.isfinite(fit(values, teacher).student.weights).all()


def test_without_any_usable_window_the_reason_is_given():
    values = seasonal(80)
    values[np.arange(80) % 20 > 0] = np.nan
    with pytest.raises(ValueError, match="too much is missing"):
        fit(values)


def test_no_weight_is_no_teacher(teacher):
    values = seasonal(200)
    alone = fit(values, student=Linear(ridge=0.1)).student
    zero = fit(values, teacher, distillation_weight=0.0, student=Linear(ridge=0.1)).student
    np.testing.assert_allclose(zero.weights, alone.weights, atol=1e-6)


def test_weight_pulls_the_student_to_its_teacher(teacher):
    values = seasonal(200, noise=1.0)
    contexts = np.stack([values[o - L : o] for o in range(L, 200)])
    labels = teacher.forecast(contexts, T, (0.5,)).quantiles[..., 0]
    students = [
        fit(values, teacher, distillation_weight=alpha, student=Linear(ridge=0.1)).student
        for alpha in (0.1, 1.0, 10.0)
    ]
    distances = [((student.predict(contexts) - labels) ** 2).mean() for student in students]
    assert distances[0] > distances[1] > distances[2]


def test_steeper_weights_move_the_late_steps_to_the_teacher_and_the_early_ones_away(teacher):
    values = seasonal(200, noise=1.0)
    contexts = np.stack([values[o - L : o] for o in range(L, 200)])
    labels = teacher.forecast(contexts, T, (0.5,)).quantiles[..., 0]

    def profile(tau):
        student = fit(
            values, teacher, distillation_weight=1.0, horizon_weights=tau, student=Linear(ridge=0.1)
        ).student
        return ((student.predict(contexts) - labels) ** 2).mean(axis=(0, 2))

    flat, steep = profile(0.0), profile(3.0)
    assert steep[0] > flat[0]
    assert steep[-1] < flat[-1]


def test_a_history_too_short_to_split_is_fitted_all_the_same(teacher):
    summary = fit(seasonal(8), teacher).summary
    assert summary.windows.seen == 2
    assert np.isfinite(summary.chosen.ridge)


def test_a_short_history_is_validated_on_fewer_steps(teacher):
    summary = fit(seasonal(12), teacher).summary
    assert 0 < summary.errors.horizon < T
    assert summary.errors.student > 0


def test_given_validation_series_choose_and_are_not_fitted_on(teacher):
    values = seasonal(200)
    first = fit(
        values,
        teacher,
        validation=seasonal(100, seed=5),
        student=Linear(ridge=0.1),
        distillation_weight=1.0,
        horizon_weights="auto",
    )
    again = fit(
        values,
        teacher,
        student=Linear(ridge=0.1),
        distillation_weight=1.0,
        horizon_weights=first.summary.chosen.tau,
    )
    assert first.summary.windows.seen == again.summary.windows.seen
    np.testing.assert_allclose(first.student.weights, again.student.weights, atol=1e-5)


def test_the_budget_bounds_the_labels_and_keeps_its_windows_as_a_series_grows(teacher):
    values = seasonal(400)
    store = MemoryStore()

    def labelled(n):
        settings = make_settings(L, T, label_budget=50)
        labeller = Labeller(teacher, store, T)
        distill([prepare_series(values[:n])], settings, labeller)
        return labeller

    assert labelled(300).n_labelled == 50
    assert sum(labelled(n).n_labelled for n in range(301, 321)) < 15


def test_the_budget_is_shared_by_all_series(teacher):
    summary = fit([seasonal(200), seasonal(300, seed=1)], teacher, label_budget=40).summary
    assert summary.windows.labelled == 40
    assert summary.windows.seen == (200 - L - T + 1) + (300 - L - T + 1)


def test_a_shift_leaves_a_gap(teacher):
    values = seasonal(300, noise=0.0)
    student = fit(values, output_chunk_shift=4, student=Linear(ridge=1e-6)).student
    origin = 200
    forecast = student.predict(values[origin - L : origin])
    np.testing.assert_allclose(forecast, values[origin + 4 : origin + 4 + T], atol=0.1)
    shifted = fit(values, teacher, output_chunk_shift=4).summary
    assert shifted.windows.seen == 300 - L - T - 4 + 1


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scales_and_offsets_change_nothing(teacher, scale, offset):
    values = seasonal(200, components=2)
    weights = fit(
        values, teacher, distillation_weight=1.0, student=Linear(ridge=0.1)
    ).student.weights
    moved = fit(
        (values + offset) * scale, teacher, distillation_weight=1.0, student=Linear(ridge=0.1)
    ).student.weights
    np.testing.assert_allclose(moved, weights, atol=2e-3)


def test_a_constant_series_and_component_are_continued(teacher):
    constant = fit(np.full((100, 1), 0.1), teacher).student
    np.testing.assert_allclose(constant.predict(np.full((L, 1), 0.1)), 0.1)
    mixed = np.column_stack([seasonal(200)[:, 0], np.full(200, 3.0)])
    forecast = fit(mixed, teacher).student.predict(mixed[-L:])
    np.testing.assert_allclose(forecast[:, 1], 3.0)


def test_nearly_constant_windows_among_normal_ones_do_no_harm():
    rng = np.random.default_rng(0)
    values = seasonal(600)
    flat = values.copy()
    flat[100:200] = flat[100] + 1e-9 * rng.normal(size=(100, 1))
    assert error(fit(flat).student, values) < 1.5 * error(fit(values).student, values)


def test_series_of_any_scale_weigh_the_same():
    """Two series with opposite patterns: neither decides because its numbers are larger."""
    one, other = seasonal(300, noise=0.0), seasonal(300, period=5, noise=0.0)
    even = fit([one, other], student=Linear(ridge=0.1)).student.weights
    uneven = fit([1e6 * one, 1e-3 * other], student=Linear(ridge=0.1)).student.weights
    np.testing.assert_allclose(even, uneven, atol=1e-3)


def test_the_order_of_series_is_irrelevant(teacher):
    one, other = seasonal(200), seasonal(150, seed=3)
    first = fit([one, other], teacher)
    second = fit([other, one], teacher)
    assert first.summary.chosen.distillation_weight == second.summary.chosen.distillation_weight
    np.testing.assert_allclose(first.student.weights, second.student.weights, atol=1e-5)


def test_one_matrix_per_component_on_request(teacher):
    values = np.column_stack([seasonal(300)[:, 0], seasonal(300, period=5)[:, 0]])
    shared = fit(values, teacher)
    own = fit(values, teacher, student=Linear(pooling="none"))
    assert shared.student.weights.shape == (1, L, T)
    assert own.student.weights.shape == (2, L, T)
    assert error(own.student, values) < error(shared.student, values)


def test_memory_does_not_grow_with_the_series():
    import tracemalloc

    def peak(n):
        prepared = [prepare_series(seasonal(n))]
        tracemalloc.start()
        distill(prepared, make_settings(256, 32, student=Linear(ridge=0.1)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    # 60,000 windows of 256 float32 are 61 MB.
    assert peak(60_000) - peak(20_000) < 10e6


def test_a_useless_teacher_gets_no_weight():
    def far_off(contexts, horizon):
        return 30.0 * contexts[:, -horizon:]

    values = seasonal(400)
    alone, taught = fit(values), fit(values, FunctionTeacher(far_off))
    assert taught.summary.chosen.distillation_weight == 0.0
    np.testing.assert_allclose(taught.student.weights, alone.student.weights, atol=1e-6)


def test_gaps_at_either_end_do_not_use_up_the_validation(teacher):
    for gap in (slice(None, 140), slice(-140, None)):
        values = seasonal(300)
        values[gap] = np.nan
        summary = fit(values, teacher).summary
        assert summary.errors.horizon == T
        assert summary.errors.student > 0


def test_validation_series_without_a_usable_window_are_refused(teacher):
    values = seasonal(80)
    values[np.arange(80) % 20 > 0] = np.nan
    with pytest.raises(ValueError, match="val_series has no window"):
        fit(seasonal(200), teacher, validation=values)
    assert teacher.n_asked == 0


def test_errors_of_a_perfect_fit_are_not_negative():
    summary = fit(seasonal(300, noise=0.0), student=Linear(ridge=1e-9)).summary
    summary = fit(np.sin(np.arange(300.0) / 3)[:, None]).summary
    assert summary.errors.without_teacher >= 0


class Recording:
    """Remember the contexts asked for; forecast their last value."""

    def __init__(self):
        self.info = TeacherInfo("recording", revision="1", longest_context=60, takes_missing=True)
        self.contexts = []

    def forecast(self, contexts, horizon, quantile_levels):
        self.contexts.append(contexts)
        last = np.repeat(contexts[:, -1:], horizon, axis=1)
        return TeacherForecast(np.repeat(last[..., None], len(quantile_levels), axis=3))


@pytest.mark.parametrize("context", [None, 10])
def test_a_label_is_made_from_the_history_before_its_origin_alone(context):
    values = np.arange(100.0)[:, None]
    teacher = Recording()
    fit(values, teacher, teacher_context=context)
    contexts = np.concatenate(teacher.contexts)[..., 0]
    assert contexts.shape == (100 - L + 1, context or 60)
    for asked in contexts:
        seen = asked[np.isfinite(asked)]
        origin = int(seen[-1]) + 1
        assert len(seen) == min(origin, context or 60)
        np.testing.assert_array_equal(seen, np.arange(origin - len(seen), origin))
        assert np.isnan(asked[: len(asked) - len(seen)]).all()


def test_a_teacher_that_knows_no_gaps_is_asked_where_it_has_all_its_history():
    values = np.arange(100.0)[:, None]
    teacher = Recording()
    teacher.info = TeacherInfo("recording", revision="1")
    fit(values, teacher, teacher_context=40)
    contexts = np.concatenate(teacher.contexts)
    assert contexts.shape == (100 - 40 + 1, 40, 1)
    assert np.isfinite(contexts).all()


def test_the_budget_keeps_its_windows_when_the_start_moves():
    values = seasonal(300)
    teacher = Recording()
    asked = []
    for start in (0, 5):
        teacher.contexts = []
        fit(values[start:], teacher, label_budget=40)
        asked.append({window[-L:].tobytes() for window in np.concatenate(teacher.contexts)})
    assert len(asked[0] & asked[1]) >= 38


def test_a_teacher_that_could_not_be_asked_at_all_is_not_passed_over():
    teacher = Recording()
    teacher.info = TeacherInfo("recording", revision="1")
    with pytest.raises(ValueError, match="needs teacher_context=500 steps without gaps"):
        fit(seasonal(300), teacher, teacher_context=500)
    assert not teacher.contexts


@pytest.mark.parametrize("n", [26, 30, 35])
def test_effects_of_short_histories_go_with_quantiles(teacher, n):
    """Fewer steps are validated on than are forecast."""
    settings = make_settings(12, 12, quantiles=(0.1, 0.5, 0.9))
    source = replace(
        prepare_series(seasonal(n)),
        covariates=Covariates(future=np.random.default_rng(0).normal(size=(n + 12, 1))),
    )
    result = distill([source], settings, Labeller(teacher, MemoryStore(), 12))
    assert 0 < result.summary.errors.horizon < 12
    assert result.student.effects.weights.shape[1] == 12


def test_the_summary_counts_what_calibration_asked_too(teacher):
    settings = make_settings(12, 6, quantiles=(0.1, 0.5, 0.9))
    labeller = Labeller(teacher, MemoryStore(), 6, (0.1, 0.5, 0.9))
    held_out = [prepare_series(seasonal(60, seed=1))]
    summary = distill([prepare_series(seasonal(91))], settings, labeller, held_out).summary
    assert summary.windows.labelled == teacher.n_asked > 91 - 12 + 1
    assert summary.windows.from_cache == 0


def test_what_calibration_asks_does_not_depend_on_the_cache(teacher):
    store = MemoryStore()
    settings = make_settings(12, 6, quantiles=(0.1, 0.5, 0.9), label_budget=10)
    made = [
        distill(
            [prepare_series(seasonal(91))],
            settings,
            Labeller(teacher, store, 6, (0.1, 0.5, 0.9)),
            [prepare_series(seasonal(60, seed=1))],
        ).student.error_quantiles.offsets
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*made)
    assert teacher.n_asked <= 10
