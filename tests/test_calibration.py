import numpy as np
import pytest
from scipy.stats import norm, t

from distilts_forecaster.distill import calibration
from distilts_forecaster.distill.calibration import _pool, calibrate
from distilts_forecaster.distill.plan import plan_windows
from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.runtime.quantiles import LEVELS
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import Linear
from distilts_forecaster.teachers import TeacherForecast, TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.source import prepare_series

L, T = 24, 4
GIVEN = {"student": Linear(ridge=0.1), "distillation_weight": 0.0, "probabilistic": True}
SETTINGS = make_settings(L, T, **GIVEN)
LAST = np.zeros((1, L, T), np.float32)
LAST[0, -1] = 1.0
AT = [LEVELS.index(level) for level in (0.1, 0.5, 0.9)]


class NormalTeacher:
    """Forecast a normal distribution of one width around the last value."""

    def __init__(self, width):
        self.width = width
        self.info = TeacherInfo("normal", revision="1", quantile_levels=(0.1, 0.5, 0.9))

    def forecast(self, contexts, horizon, quantile_levels):
        point = np.repeat(contexts[:, -1:], horizon, axis=1)[..., None]
        offsets = self.width * norm.ppf(quantile_levels)
        return TeacherForecast((point + offsets).astype(np.float32))


def measured(values, validation=None, teacher=None, settings=SETTINGS):
    labeller = None
    if teacher is not None:
        levels = settings.label_levels(teacher.info.quantile_levels)
        labeller = Labeller(teacher, MemoryStore(), T, levels)
    held_out = None if validation is None else [prepare_series(validation)]
    plan = plan_windows([prepare_series(values)], settings, labeller, held_out)
    student = LinearForecaster(LAST)
    return calibrate(plan, student, student, labeller)


def width(quantiles):
    return quantiles.offsets[:, AT[2]] - quantiles.offsets[:, AT[0]]


def test_errors_of_a_random_walk_grow_with_the_root_of_the_steps():
    walk = np.random.default_rng(0).normal(size=(20_000, 1)).cumsum(axis=0)
    widths = width(measured(walk))
    np.testing.assert_allclose(widths / widths[0], np.sqrt(np.arange(1, T + 1)), rtol=0.1)


def test_gaussian_noise_has_gaussian_quantiles():
    noise = np.random.default_rng(0).normal(size=(20_000, 1))
    quantiles = measured(noise)
    # The last value's own noise counts too; the context's deviation is nearly one.
    expected = np.sqrt(2) * norm.ppf([0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles.offsets[0, AT], expected, atol=0.15)


@pytest.mark.parametrize("given_validation", [True, False])
def test_only_held_out_windows_count(given_validation):
    rng = np.random.default_rng(0)
    quiet, loud = rng.normal(size=(600, 1)), 5 * rng.normal(size=(200, 1))
    values = np.concatenate([quiet, loud]) + 0.1 * np.arange(800)[:, None]
    other = values.copy()
    other[:500] *= 0.1
    if given_validation:
        quantiles = measured(values[:600], validation=values[600:])
        again = measured(other[:600], validation=values[600:])
    else:
        quantiles, again = measured(values), measured(other)
    np.testing.assert_allclose(again.offsets, quantiles.offsets, rtol=1e-3, atol=1e-4)
    assert width(quantiles)[0] > 1.0


def test_constant_contexts_say_nothing():
    quantiles = measured(np.ones((200, 1)))
    np.testing.assert_array_equal(quantiles.offsets, 0.0)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_many_targets_repair_a_teacher_that_is_wrong_about_its_errors(factor):
    noise = np.random.default_rng(0).normal(size=(20_000, 1))
    alone = measured(noise)
    taught = measured(noise, teacher=NormalTeacher(factor * np.sqrt(2)))
    np.testing.assert_allclose(width(taught), width(alone), rtol=0.1)


def test_with_few_targets_the_teacher_is_believed():
    noise = np.random.default_rng(0).normal(size=(60, 1))
    narrow, wide = (
        width(measured(noise, teacher=NormalTeacher(w)))[0] / width(measured(noise))[0]
        for w in (0.2, 5.0)
    )
    assert narrow < 0.9
    assert wide > 1.3


def test_without_calibration_the_spread_is_the_teachers():
    noise = np.random.default_rng(0).normal(size=(20_000, 1))
    settings = make_settings(L, T, **GIVEN, calibrate=False)
    quantiles = measured(noise, teacher=NormalTeacher(0.1), settings=settings)
    # Five windows' worth of it: as wide as Student's distribution.
    expected = 2 * 0.1 * norm.ppf(0.9)
    assert expected <= width(quantiles)[0] <= 1.25 * expected


def test_missing_targets_do_not_count():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 1))
    complete = measured(noise)
    holes = noise.copy()
    holes[rng.random(4000) < 0.3] = np.nan
    # Contexts end with a value that is filled, so the comparison is rough.
    assert 0.6 < width(measured(holes))[0] / width(complete)[0] < 1.4


def test_few_windows_have_wide_tails():
    noise = np.random.default_rng(0).normal(size=(40_000, 1))
    few = np.mean([width(measured(noise[i : i + 150]))[0] for i in range(0, 40_000, 1000)])
    assert few > 1.05 * width(measured(noise))[0]


def test_errors_of_neighbours_resemble_each_other_where_they_do():
    rng = np.random.default_rng(0)
    assert measured(rng.normal(size=(4000, 1)).cumsum(axis=0)).error_autocorrelation > 0.6
    # Half of each error is that of the last value, which all steps share.
    assert 0.3 < measured(rng.normal(size=(4000, 1))).error_autocorrelation < 0.7


@pytest.mark.parametrize("n", [25, 29, 30])
def test_few_errors_do_not_move_quantiles_that_are_right(n):
    levels = (0.1, 0.5, 0.9)
    central = norm.ppf(levels)
    made = []
    for seed in range(50):
        errors = np.random.default_rng(seed).normal(size=(n, 1, 1)) - central
        offsets = _pool(errors, np.empty((0, 1, 3)), central[None], np.array([float(n)]), levels)
        made.append(central + offsets[0])
    np.testing.assert_allclose(np.mean(made, axis=0), central, atol=0.15)


def test_a_validation_series_is_labelled_within_the_budget():
    values = np.random.default_rng(0).normal(size=(400, 1))
    settings = make_settings(L, T, **{**GIVEN, "distillation_weight": 1.0}, label_budget=30)
    prepared = [prepare_series(values)]
    labeller = Labeller(NormalTeacher(1.0), MemoryStore(), T, settings.label_levels((0.1, 0.9)))
    plan = plan_windows(prepared, settings, labeller, [prepare_series(values)])
    labeller.n_labelled = 25
    student = LinearForecaster(LAST)
    calibrate(plan, student, student, labeller)
    assert labeller.n_labelled <= 31


def test_all_held_out_windows_count_however_many_are_looked_at(monkeypatch):
    noise = np.random.default_rng(0).normal(size=(6000, 1)) + 1.0
    counted = []
    original = calibration._pool
    monkeypatch.setattr(
        calibration, "_pool", lambda *args: counted.append(args[3][0]) or original(*args)
    )
    measured(noise)
    monkeypatch.setattr(calibration, "_MOST_WINDOWS", 100)
    measured(noise)
    assert counted[0] == pytest.approx(6000 / 5 / T, rel=0.02)
    assert counted[1] == pytest.approx(counted[0], rel=0.05)


def test_quantiles_of_values_that_weigh_alike_are_hazens():
    values = np.random.default_rng(0).normal(size=(40, 3))
    values[4:, 1] = np.nan  # too few: normal
    values[::2, 2] += 100.0  # of no weight
    weights = np.isfinite(values) * 0.7
    weights[::2, 2] = 0.0
    weights[1::2, 2] = np.arange(1.0, 21.0)
    levels = (0.1, 0.3, 0.5, 0.9)
    made = calibration._weighted_quantiles(values, weights, levels, np.array([0.0, 2.0, 0.0]))
    np.testing.assert_allclose(made[0], np.quantile(values[:, 0], levels, method="hazen"))
    power = np.mean((values[:4, 1] + 2.0) ** 2)
    np.testing.assert_allclose(made[1], np.sqrt(power) * norm.ppf(levels) - 2.0)
    known = values[1::2, 2]
    power = np.average(known**2, weights=weights[1::2, 2])
    np.testing.assert_allclose(made[2], np.sqrt(power) * norm.ppf(levels))


@pytest.mark.parametrize(("n", "normal"), [(29, True), (30, False)])
def test_thirty_errors_have_quantiles_of_their_own(n, normal):
    values = np.random.default_rng(0).exponential(size=(n, 1))
    made = calibration._weighted_quantiles(values, np.ones((n, 1)), (0.1, 0.9), np.zeros(1))[0]
    assert (made[0] == pytest.approx(-made[1])) == normal
    if not normal:
        np.testing.assert_allclose(made, np.quantile(values, (0.1, 0.9), method="hazen"))


def test_weights_shift_quantiles_by_their_share():
    values = np.arange(40.0)[:, None]
    weights = np.repeat([3.0, 1.0], 20)[:, None]
    made = calibration._weighted_quantiles(values, weights, (0.375, 0.875), np.zeros(1))[0]
    # Three quarters of the weight are below 19.5: half of it at 9.5; half of the rest at 29.5.
    np.testing.assert_allclose(made, [9.5, 29.5])


def test_with_endless_targets_offsets_are_the_quantiles_of_the_errors_alone():
    rng = np.random.default_rng(0)
    levels = (0.1, 0.5, 0.9)
    errors, distances = rng.exponential(size=(200, 2, 1)), rng.normal(size=(50, 2, 1)) + 9.0
    offsets = _pool(errors, distances, np.zeros((2, 1)), np.full(2, 1e12), levels)
    expected = np.quantile(errors[..., 0], levels, axis=0, method="hazen").T
    np.testing.assert_allclose(offsets, expected, rtol=1e-6)
    alone = _pool(errors[:0], distances, np.zeros((2, 1)), np.zeros(2), levels)
    taught = np.quantile(distances[..., 0], levels, axis=0, method="hazen").T
    around = taught - taught[:, [1]]
    widened = t.ppf(0.9, 5) / norm.ppf(0.9)
    # Without targets the forecast stays where it is, and quantiles are those of five windows.
    np.testing.assert_allclose(alone, around * widened, atol=1e-9)


def test_each_of_a_students_own_quantiles_is_moved_by_its_own_errors():
    rng = np.random.default_rng(0)
    levels, own = (0.1, 0.5, 0.9), np.array([-1.0, 0.0, 2.0])
    errors = rng.normal(size=(500, 1, 1)) - own
    offsets = _pool(errors, errors[:0], own[None], np.array([1e12]), levels)[0]
    for k, level in enumerate(levels):
        expected = np.quantile(errors[:, 0, k], level, method="hazen")
        assert offsets[k] == pytest.approx(expected, abs=1e-6)


def test_the_median_moves_by_the_share_that_its_windows_earn():
    errors = np.full((50, 1, 1), 2.0)
    for count, share in ((10.0, 0.5), (30.0, 0.75)):
        offsets = _pool(errors, errors[:0], np.zeros((1, 1)), np.array([count]), (0.1, 0.5, 0.9))
        np.testing.assert_allclose(offsets, 2.0 * share)


def test_widening_is_that_of_students_distribution():
    levels = (0.05, 0.5, 0.8)
    made = calibration._widening(np.array([0.0, 1.0, 7.0]), levels)
    outer = [0.05, 0.8]
    for row, freedom in zip(made, (1, 1, 7), strict=True):
        np.testing.assert_allclose(row[[0, 2]], t.ppf(outer, freedom) / norm.ppf(outer))
    np.testing.assert_array_equal(made[:, 1], 1.0)


def test_unknown_steps_go_on_from_the_last_known_one():
    offsets = np.full((6, 2), np.nan)
    offsets[1], offsets[3] = [-1.0, 1.0], [-2.0, 3.0]
    offsets[4, 0] = 5.0  # half of a step is none
    made = calibration._continue(offsets, 6)
    np.testing.assert_allclose(made[[0, 1, 2]], np.outer([1, 1, np.sqrt(3 / 2)], [-1.0, 1.0]))
    np.testing.assert_allclose(made[3:], np.outer(np.sqrt([1, 5 / 4, 6 / 4]), [-2.0, 3.0]))
    np.testing.assert_array_equal(calibration._continue(offsets * np.nan, 3), np.zeros((3, 2)))


def test_the_autocorrelation_is_that_of_pairs_of_known_steps():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(300, 4, 1))
    errors[:, 1:] += 0.8 * errors[:, :-1]
    holes = errors.copy()
    holes[:50, 1] = np.nan
    first, second = holes[:, :-1, 0].ravel(), holes[:, 1:, 0].ravel()
    known = np.isfinite(first + second)
    first, second = first[known], second[known]
    expected = (first @ second) / np.sqrt((first @ first) * (second @ second))
    made = calibration._error_autocorrelation(holes, errors[:0])
    assert made == pytest.approx(expected)
    assert calibration._error_autocorrelation(errors * np.nan, holes) == pytest.approx(expected)
    assert calibration._error_autocorrelation(np.ones((5, 3, 1)), errors[:0]) == 0.99
    assert calibration._error_autocorrelation(errors * 0.0, errors) == 0.0
    assert calibration._error_autocorrelation(np.stack([[[1.0], [-1.0]]]), errors[:0]) == 0.0


@pytest.mark.parametrize(("n", "budget", "most"), [(1000, None, 200), (81, 60, 28), (1000, 60, 0)])
def test_teachers_are_asked_for_few_windows_of_validation_series(n, budget, most):
    values = np.random.default_rng(0).normal(size=(1000, 1))
    given = {**GIVEN, "distillation_weight": 1.0, "teacher_context": 50, "label_budget": budget}
    settings = make_settings(L, T, **given)
    labeller = Labeller(NormalTeacher(1.0), MemoryStore(), T, (0.1, 0.5, 0.9))
    held_out = [prepare_series(values), prepare_series(values[:500])]
    plan = plan_windows([prepare_series(values[:n])], settings, labeller, held_out)
    asked = calibration._asked(plan, plan.held_out, labeller)
    assert 0.8 * most <= sum(int(mask.sum()) for mask in asked) <= most
    for mask, one in zip(asked, held_out, strict=True):
        origins = np.flatnonzero(mask)
        assert len(mask) == one.n_origins
        assert not len(origins) or origins[0] == 50
        assert len(set(np.diff(origins))) <= 1
    labeller.quantile_levels = (0.5,)
    assert calibration._asked(plan, plan.held_out, labeller) is None


@pytest.mark.parametrize(
    ("most_windows", "every", "most_asked", "fewer"),
    [(2000, 1, 10**6, 1), (400, 3, 10**6, 1), (977, 1, 400, 2), (976, 2, 100, 4)],
)
def test_windows_are_measured_at_even_distances(
    monkeypatch, most_windows, every, most_asked, fewer
):
    monkeypatch.setattr(calibration, "_MOST_WINDOWS", most_windows)
    monkeypatch.setattr(calibration, "_MOST_ASKED", most_asked)
    values = np.random.default_rng(0).normal(size=(1000, 1))
    source = prepare_series(values)
    mask = np.arange(1001) >= L
    assert mask.sum() == 977
    labeller = Labeller(NormalTeacher(1.0), MemoryStore(), T, (0.1, 0.5, 0.9))
    student = LinearForecaster(LAST)
    found = calibration._measure([(student, T)], [(source, mask)], SETTINGS, labeller, [mask])
    taken = np.flatnonzero(mask)[::every]
    assert found.every == every
    assert len(found.errors) == len(taken)
    assert len(found.distances) == 19 * len(taken[::fewer])
    unit = np.array([source.values[o - L : o, 0].std() for o in taken])
    targets = np.stack([np.r_[source.values[o : o + T, 0], [np.nan] * T][:T] for o in taken])
    expected = (targets - source.values[taken - 1]) / unit[:, None]
    np.testing.assert_allclose(found.errors[..., 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.widths, 0.0)
    # The middle of the parts is the teacher's median: the last value, as the student's.
    middle = found.distances.reshape(19, -1, T)[9]
    np.testing.assert_allclose(middle, 0.0, atol=1e-4)
