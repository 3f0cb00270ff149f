import numpy as np
import pytest
from scipy.stats import norm

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


def width(spread):
    return spread.offsets[:, AT[2]] - spread.offsets[:, AT[0]]


def test_errors_of_a_random_walk_grow_with_the_root_of_the_steps():
    walk = np.random.default_rng(0).normal(size=(20_000, 1)).cumsum(axis=0)
    widths = width(measured(walk))
    np.testing.assert_allclose(widths / widths[0], np.sqrt(np.arange(1, T + 1)), rtol=0.1)


def test_gaussian_noise_has_gaussian_quantiles():
    noise = np.random.default_rng(0).normal(size=(20_000, 1))
    spread = measured(noise)
    # The last value's own noise counts too; the context's deviation is nearly one.
    expected = np.sqrt(2) * norm.ppf([0.1, 0.5, 0.9])
    np.testing.assert_allclose(spread.offsets[0, AT], expected, atol=0.15)


@pytest.mark.parametrize("given_validation", [True, False])
def test_only_held_out_windows_count(given_validation):
    rng = np.random.default_rng(0)
    quiet, loud = rng.normal(size=(600, 1)), 5 * rng.normal(size=(200, 1))
    values = np.concatenate([quiet, loud]) + 0.1 * np.arange(800)[:, None]
    other = values.copy()
    other[:500] *= 0.1
    if given_validation:
        spread = measured(values[:600], validation=values[600:])
        again = measured(other[:600], validation=values[600:])
    else:
        spread, again = measured(values), measured(other)
    np.testing.assert_allclose(again.offsets, spread.offsets, rtol=1e-3, atol=1e-4)
    assert width(spread)[0] > 1.0


def test_constant_contexts_say_nothing():
    spread = measured(np.ones((200, 1)))
    np.testing.assert_array_equal(spread.offsets, 0.0)


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
    spread = measured(noise, teacher=NormalTeacher(0.1), settings=settings)
    # Five windows' worth of it: as wide as Student's distribution.
    expected = 2 * 0.1 * norm.ppf(0.9)
    assert expected <= width(spread)[0] <= 1.25 * expected


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
