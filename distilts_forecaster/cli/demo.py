"""The demonstration: teacher, student, the same student alone, and seasonal naive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.datasets import ETTh1Dataset
from darts.datasets.dataset_loaders import DatasetLoadingException

from distilts_forecaster.distill.plan import resolve_teacher_context
from distilts_forecaster.facades.darts import DistilledForecaster
from distilts_forecaster.runtime.latency import median_seconds
from distilts_forecaster.settings import make_settings
from distilts_forecaster.teachers import Teacher, load_teacher
from distilts_forecaster.windows.cutting import context_windows, history_windows, target_windows
from distilts_forecaster.windows.naive import repeat_season

__all__ = ["DemoSeries", "Row", "compare", "demo_series", "format_table", "plot"]

#: Points of the short history, which ends where the test span begins.
SHORT = 700

#: Windows of the test span that are forecast, evenly spaced.
MAX_TEST_WINDOWS = 300

Forecast = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class DemoSeries:
    """A series, its main period in steps, and the index where testing starts."""

    name: str
    series: TimeSeries
    period: int
    test_start: int


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``history`` is what the student was fitted on, ``name`` who forecasts. ``mase`` is the absolute
    error relative to seasonal naive in the training span, ``mse`` that of the standardised series.
    ``milliseconds`` is the median time for one forecast, ``error_by_step`` (T,) the squared error
    at each step, ``example`` (T,) the forecast of the first component in the last test window.
    """

    history: str
    name: str
    mase: float
    mse: float
    n_parameters: int
    milliseconds: float
    error_by_step: np.ndarray
    example: np.ndarray


def demo_series() -> list[DemoSeries]:
    """Return weekly CO2 at Mauna Loa, and ETTh1 where ``darts.datasets`` can load it."""
    from statsmodels.datasets import co2

    weekly = co2.load().data["co2"].interpolate()
    found = [
        DemoSeries(
            "CO2 (weekly)",
            TimeSeries.from_series(weekly.rename("CO2, ppm")),
            period=52,
            test_start=int(0.8 * len(weekly)),
        )
    ]
    month = 30 * 24
    try:
        etth1 = ETTh1Dataset().load()[: 20 * month]
    except (DatasetLoadingException, OSError):  # offline: the demo goes on without it
        return found
    return [*found, DemoSeries("ETTh1 (hourly)", etth1, period=24, test_start=16 * month)]


def compare(
    data: DemoSeries, teacher_name: str = "bundled", verbose: bool | None = None
) -> list[Row]:
    """Fit the default forecaster with the full and with a short history, and measure."""
    teacher = load_teacher(teacher_name)
    values = data.series.values(copy=False)
    model = DistilledForecaster(teacher=teacher_name, verbose=verbose)
    length, horizon = model.input_chunk_length, model.output_chunk_length
    last = len(values) - horizon
    step = max(1, (last - data.test_start) // MAX_TEST_WINDOWS)
    origins = np.arange(last, data.test_start - 1, -step)[::-1]
    contexts = context_windows(values, origins, length)
    targets = target_windows(values, origins, horizon)
    train = values[: data.test_start]
    naive_error = np.abs(train[data.period :] - train[: -data.period]).mean(axis=0)
    std = train.std(axis=0)

    def measure(
        history: str,
        name: str,
        forecast: Forecast,
        n_parameters: int,
        contexts: np.ndarray = contexts,
    ) -> Row:
        predicted = forecast(contexts)
        error = predicted - targets
        return Row(
            history,
            name,
            mase=float((np.abs(error) / naive_error).mean()),
            mse=float(((error / std) ** 2).mean()),
            n_parameters=n_parameters,
            milliseconds=1e3 * median_seconds(partial(forecast, contexts[-1:]), most=500),
            error_by_step=((error / std) ** 2).mean(axis=(0, 2)),
            example=predicted[-1, :, 0],
        )

    rows = [
        measure(
            "", "seasonal naive", partial(repeat_season, season=data.period, horizon=horizon), 0
        ),
        measure(
            "",
            "teacher",
            _point(teacher, horizon),
            teacher.info.n_parameters or 0,
            # What it sees when it labels.
            history_windows(
                values,
                origins,
                resolve_teacher_context(make_settings(length, horizon), teacher.info),
            ),
        ),
    ]
    for history, start in (("full", 0), (f"last {SHORT}", data.test_start - SHORT)):
        past = data.series[start : data.test_start]
        for name, weight in (("student", "auto"), ("student, no teacher", 0)):
            fitted = DistilledForecaster(
                teacher=teacher_name, distillation_weight=weight, verbose=verbose
            ).fit(past)
            student = fitted.student_
            seen = history_windows(values, origins, student.input_chunk_length)
            rows.append(measure(history, name, student.predict, student.n_parameters, seen))
    return rows


def _point(teacher: Teacher, horizon: int) -> Forecast:
    """Return the teacher's point forecast as a function of contexts."""
    return lambda contexts: teacher.forecast(
        contexts.astype(np.float32), horizon, (0.5,)
    ).quantiles[..., 0]


def format_table(rows: list[Row]) -> str:
    """Lay the rows out as text."""
    teacher = next(row for row in rows if row.name == "teacher")
    frame = pd.DataFrame(
        {
            "forecaster": [row.name for row in rows],
            "fitted on": [row.history for row in rows],
            "MASE": [f"{row.mase:.3f}" for row in rows],
            "MSE": [f"{row.mse:.3f}" for row in rows],
            "parameters": [f"{row.n_parameters:,}" for row in rows],
            "ms": [f"{row.milliseconds:.3f}" for row in rows],
            "vs teacher": [f"{teacher.milliseconds / row.milliseconds:.0f}x" for row in rows],
        }
    )
    return frame.to_string(index=False)


def plot(results: list[tuple[DemoSeries, list[Row]]], path: Path) -> None:
    """Draw the last test window's forecasts and the error by horizon, and save the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, squeeze=False)
    colours = {
        "seasonal naive": "0.65",
        "teacher": "tab:orange",
        "student": "tab:blue",
        "student, no teacher": "tab:green",
    }
    for (left, right), (data, rows) in zip(axes, results, strict=True):
        horizon = len(rows[0].example)
        shown = data.series[-3 * horizon :]
        actual = shown.values(copy=False)[:, 0]
        left.plot(shown.time_index, actual, color="black", lw=1.2, label="actual")
        for row in rows:
            short = row.history.startswith("last")
            label = f"{row.name} ({row.history})" if row.history else row.name
            style = {"color": colours[row.name], "ls": "--" if short else "-", "lw": 1.3}
            if not short:
                left.plot(shown.time_index[-horizon:], row.example, label=label, **style)
            right.plot(np.arange(1, horizon + 1), row.error_by_step, label=label, **style)
        left.axvline(shown.time_index[-horizon], color="0.8", zorder=0)
        left.set_title(f"{data.name}: last test window, {data.series.columns[0]}")
        left.legend(fontsize=8)
        right.set_title(f"{data.name}: squared error by step, all test windows")
        right.set_xlabel("steps ahead")
        right.set_ylim(0, 1.6 * max(row.error_by_step.max() for row in rows[:4]))
        right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
