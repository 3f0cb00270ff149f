"""What only real series can show; skipped where they are not."""

import pytest

from benchmarks.accuracy import LOOKBACK, fit, mean_squared_error
from benchmarks.data import ett


@pytest.mark.parametrize(("name", "expected"), [("ETTh1", 0.367), ("ETTh2", 0.267)])
def test_the_student_without_a_teacher_is_as_good_as_exact_ridge(data_folder, name, expected):
    values, train_stop, validation_stop, _ = ett(data_folder, name)
    validation = values[train_stop - LOOKBACK : validation_stop]
    model = fit(values[:train_stop], 96, 0, "bundled", validation)
    error = mean_squared_error(model.student_.predict, values, validation_stop, 96)
    assert round(error, 3) <= expected


def test_nearly_constant_windows_do_not_explode(data_folder):
    """Divided by their own deviation, a few windows of ETTh2 lead to an error of 523."""
    values, _, stop, _ = ett(data_folder, "ETTh2")
    model = fit(values[stop - 5000 : stop], 96, 0, "bundled")
    assert mean_squared_error(model.student_.predict, values, stop, 96) < 0.29


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_a_teacher_helps_where_histories_are_short(data_folder, name):
    values, _, stop, _ = ett(data_folder, name)
    alone, taught = (
        mean_squared_error(
            fit(values[stop - 1000 : stop], 96, alpha, "bundled").student_.predict,
            values,
            stop,
            96,
        )
        for alpha in (0, "auto")
    )
    assert taught < 0.98 * alone
