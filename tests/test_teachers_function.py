import copy

import numpy as np
import pytest

from distilts_forecaster.teachers import FunctionTeacher
from distilts_forecaster.teachers.base import interpolate_quantiles

CONTEXTS = np.random.default_rng(0).normal(size=(5, 12, 2)).astype(np.float32)


def point(contexts, horizon):
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def three_quantiles(contexts, horizon):
    return point(contexts, horizon)[..., None] + np.array([-1.0, 0.0, 1.0])


def test_points_become_the_median():
    forecast = FunctionTeacher(point).forecast(CONTEXTS, 3, (0.5,))
    np.testing.assert_array_equal(forecast.quantiles[..., 0], point(CONTEXTS, 3))


def test_the_middle_of_unnamed_quantiles_is_the_median():
    forecast = FunctionTeacher(three_quantiles).forecast(CONTEXTS, 3, (0.5,))
    np.testing.assert_array_equal(forecast.quantiles[..., 0], point(CONTEXTS, 3))


def test_named_quantiles_are_interpolated():
    teacher = FunctionTeacher(three_quantiles, quantile_levels=[0.1, 0.5, 0.9])
    forecast = teacher.forecast(CONTEXTS, 3, (0.1, 0.3, 0.5))
    offsets = forecast.quantiles - point(CONTEXTS, 3)[..., None]
    np.testing.assert_allclose(offsets[0, 0, 0], [-1.0, -0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("function", "levels", "message"),
    [
        (
            lambda c, h: c[:, :h, 0],
            (0.5,),
            r"expected \(windows, horizon, components\) = \(5, 3, 2\)",
        ),
        (lambda c, h: c[:, : h + 1], (0.5,), r"returned shape \(5, 4, 2\)"),
        (lambda c, h: point(c, h)[..., None, None], (0.5,), "returned shape"),
        (
            lambda c, h: np.repeat(point(c, h)[..., None], 2, 3),
            (0.5,),
            "2 quantiles without saying",
        ),
        (three_quantiles, (0.1, 0.5), "without saying which"),
        (point, (0.1, 0.5), r"levels from 0.5 to 0.5, got \[0.1\]"),
    ],
)
def test_answers_that_are_not_what_was_asked_are_refused(function, levels, message):
    with pytest.raises(ValueError, match=message):
        FunctionTeacher(function).forecast(CONTEXTS, 3, levels)


def test_the_number_of_quantiles_must_fit_their_levels():
    with pytest.raises(ValueError, match="returned 3 quantiles, expected one for each"):
        FunctionTeacher(three_quantiles, quantile_levels=[0.1, 0.9]).forecast(CONTEXTS, 3, (0.5,))


def test_the_same_function_is_the_same_teacher_and_a_copy_is_itself():
    teacher = FunctionTeacher(point)
    assert FunctionTeacher(point) == teacher
    assert FunctionTeacher(three_quantiles).info.name != teacher.info.name
    assert copy.deepcopy(teacher) is teacher
    assert len({teacher, FunctionTeacher(point)}) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"function": 3}, TypeError, "must be callable"),
        ({"function": point, "name": "x"}, ValueError, "both name and revision"),
        ({"function": point, "quantile_levels": [0.9, 0.1]}, ValueError, "must increase"),
        ({"function": point, "quantile_levels": [0.0, 0.5]}, ValueError, "between 0 and 1"),
        ({"function": point, "quantile_levels": []}, ValueError, "quantile_levels"),
    ],
)
def test_bad_wrappers_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        FunctionTeacher(**arguments)


def test_interpolation_hits_the_known_levels():
    known = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(
        interpolate_quantiles(known, (0.1, 0.5, 0.9), (0.1, 0.5, 0.9)), known
    )


def test_a_masked_forecast_is_missing_and_a_tensor_is_a_forecast():
    hidden = np.zeros((5, 3, 2), dtype=bool)
    hidden[1, 2] = True
    masked = FunctionTeacher(lambda c, h: np.ma.array(point(c, h), mask=hidden))
    made = masked.forecast(CONTEXTS, 3, (0.5,)).quantiles[..., 0]
    np.testing.assert_array_equal(np.isnan(made), hidden)
    torch = pytest.importorskip("torch")
    graded = FunctionTeacher(lambda c, h: torch.tensor(point(c, h), requires_grad=True))
    made = graded.forecast(CONTEXTS, 3, (0.5,)).quantiles[..., 0]
    np.testing.assert_array_equal(made, point(CONTEXTS, 3))


@pytest.mark.parametrize("dtype", [complex, "datetime64[s]", "timedelta64[s]", "U3"])
def test_forecasts_that_are_no_real_numbers_are_refused(dtype):
    teacher = FunctionTeacher(lambda c, h: np.zeros((5, 3, 2), dtype=dtype))
    with pytest.raises(TypeError, match="real numbers"):
        teacher.forecast(CONTEXTS, 3, (0.5,))


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True, np.inf, "3", None])
def test_a_horizon_is_a_positive_integer(horizon):
    with pytest.raises((TypeError, ValueError), match="horizon must be"):
        FunctionTeacher(point).forecast(CONTEXTS, horizon, (0.5,))
