"""Zero-shot accuracy and speed of a teacher: ``python -m benchmarks.teachers``.

On windows of the test spans, relative to repeating the last main period (1 is no
better): the total absolute error of the median; the mean quantile loss over the levels
0.1 to 0.9, twice, so that the repeated period's is its absolute error; and the share of
truth inside the 80 % interval. ``--span before`` takes windows from before the test
spans: what a teacher is developed on. ``--others`` sets AutoETS, AutoTheta (``pip install
statsforecast``) and the linear student fitted to all the history without a teacher
(lookback up to 512) beside it, on 5 origins of each set. AutoETS leaves out seasons longer
than 24 steps.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.data import DataSet, add_data_argument, load_all
from distilts_forecaster.teachers import load_teacher
from distilts_forecaster.teachers.base import Teacher

LEVELS = np.linspace(0.1, 0.9, 9)
MAX_ORIGINS = 200

#: Beside AutoETS and AutoTheta, which take seconds for a long series.
FEW_ORIGINS, FEW_COMPONENTS = 5, 7


@dataclass(frozen=True)
class Windows:
    """Windows of one data set, one component each.

    Contexts (n, L) have NaN before the series starts; targets and the repeated last
    period are (n, T); component and origin (n,) say whose and where they are.
    """

    contexts: np.ndarray
    targets: np.ndarray
    naive: np.ndarray
    component: np.ndarray
    origin: np.ndarray


def cut_windows(
    data: DataSet, context: int, span: str, max_origins: int, max_components: int | None = None
) -> Windows:
    """Cut windows of a data set at evenly spaced origins.

    Parameters
    ----------
    data : DataSet
    context : int
        Steps of history at most.
    span : {"test", "before"}
        Targets from the test span on, or wholly before it.
    max_origins : int
    max_components : int, optional

    Returns
    -------
    Windows
    """
    if span == "test":
        first, last = data.test_start, len(data.values) - data.horizon
    else:
        longest = min(context, data.test_start // 2)
        first, last = max(longest, data.period), data.test_start - data.horizon
    n_components = data.values.shape[1]
    # A panel needs fewer origins.
    n_origins = max(min(6, max_origins), max_origins // max(1, n_components // 7))
    origins = np.unique(np.linspace(first, last, min(n_origins, last - first + 1)).astype(int))
    picked = np.arange(n_components)
    if max_components is not None and n_components > max_components:
        picked = np.linspace(0, n_components - 1, max_components).astype(int)
    component, origin = np.tile(picked, len(origins)), np.repeat(origins, len(picked))
    ahead = np.arange(data.horizon)
    back = np.arange(-context, 0)
    position = origin[:, None] + back
    contexts = np.where(
        position >= 0, data.values[np.maximum(position, 0), component[:, None]], np.nan
    )
    cycle = origin[:, None] - data.period + ahead % data.period
    return Windows(
        contexts.astype(np.float32),
        data.values[origin[:, None] + ahead, component[:, None]],
        data.values[cycle, component[:, None]],
        component,
        origin,
    )


def relative(loss: np.ndarray, windows: Windows) -> float:
    """Return a loss (n, T) relative to the absolute error of the repeated period.

    Components may have different scales: each counts by its own error.
    """
    naive = np.abs(windows.naive - windows.targets)
    ratios = [
        loss[windows.component == c].sum() / naive[windows.component == c].sum()
        for c in np.unique(windows.component)
    ]
    return float(np.exp(np.mean(np.log(ratios))))


def evaluate(quantiles: np.ndarray, windows: Windows) -> tuple[float, float, float]:
    """Return relative error, relative quantile loss and coverage of quantiles (n, T, 9)."""
    error = windows.targets[..., None] - quantiles
    loss = 2 * np.maximum(LEVELS * error, (LEVELS - 1) * error).mean(axis=-1)
    inside = (windows.targets >= quantiles[..., 0]) & (windows.targets <= quantiles[..., -1])
    return (
        relative(np.abs(error[..., len(LEVELS) // 2]), windows),
        relative(loss, windows),
        float(inside.mean()),
    )


def forecast_windows(teacher: Teacher, windows: Windows) -> np.ndarray:
    """Return a teacher's quantiles of windows: (n, T, 9)."""
    horizon = windows.targets.shape[1]
    return teacher.forecast(windows.contexts[..., None], horizon, LEVELS).quantiles[:, :, 0]


def print_accuracy(teacher: Teacher, sets: list[DataSet], context: int, span: str) -> None:
    """Print the table of a teacher on every data set."""
    print(f"{'data set':16} {'error':>7} {'quantile loss':>14} {'80 % covers':>12}")
    rows = []
    for data in sets:
        windows = cut_windows(data, context, span, MAX_ORIGINS)
        rows.append(evaluate(forecast_windows(teacher, windows), windows))
        error, loss, covered = rows[-1]
        print(f"{data.name:16} {error:7.3f} {loss:14.3f} {covered:12.1%}", flush=True)
    error, loss = np.exp(np.log([row[:2] for row in rows]).mean(axis=0))
    covered = np.mean([row[2] for row in rows])
    print(f"{'geometric mean':16} {error:7.3f} {loss:14.3f} {covered:12.1%} (mean)")


def statistical(name: str, windows: Windows, period: int) -> np.ndarray:
    """Forecast every window with a statsforecast model: (n, T)."""
    from statsforecast import models

    horizon = windows.targets.shape[1]
    forecasts = []
    for context in windows.contexts:
        model = getattr(models, name)(season_length=period)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = context[np.isfinite(context)].astype(float)
            forecasts.append(model.forecast(y=known, h=horizon)["mean"])
    return np.stack(forecasts)


def student_alone(data: DataSet, windows: Windows) -> np.ndarray:
    """Forecast with the linear student, fitted to the history without a teacher: (n, T)."""
    from darts import TimeSeries

    from distilts_forecaster import DistilledForecaster

    lookback = min(512, (data.test_start - data.horizon) // 2)
    model = DistilledForecaster(
        input_chunk_length=lookback, output_chunk_length=data.horizon, distillation_weight=0
    )
    model.fit(TimeSeries.from_values(data.values[: data.test_start]))
    forecasts = {}
    for origin in np.unique(windows.origin):
        forecasts[origin] = model.student_.predict(data.values[None, origin - lookback : origin])[0]
    return np.stack(
        [forecasts[o][:, c] for o, c in zip(windows.origin, windows.component, strict=True)]
    )


def print_others(teacher: Teacher, sets: list[DataSet], context: int) -> None:
    """Print the relative errors of other forecasters on a few of the windows."""
    names = ("teacher", "AutoETS", "AutoTheta", "student alone")
    print(f"\n{'data set':16} {'windows':>7}" + "".join(f"{name:>15}" for name in names))
    rows, seconds = [], dict.fromkeys(names, 0.0)
    n_windows = 0
    for data in sets:
        windows = cut_windows(data, context, "test", FEW_ORIGINS, FEW_COMPONENTS)
        forecasters: dict[str, Callable[[], np.ndarray]] = {
            "teacher": lambda w=windows: forecast_windows(teacher, w)[..., len(LEVELS) // 2],
            "AutoETS": lambda w=windows, d=data: statistical("AutoETS", w, d.period),
            "AutoTheta": lambda w=windows, d=data: statistical("AutoTheta", w, d.period),
            "student alone": lambda w=windows, d=data: student_alone(d, w),
        }
        row = []
        for name, forecaster in forecasters.items():
            start = time.perf_counter()
            row.append(relative(np.abs(forecaster() - windows.targets), windows))
            seconds[name] += time.perf_counter() - start
        rows.append(row)
        n_windows += len(windows.origin)
        print(
            f"{data.name:16} {len(windows.origin):7}" + "".join(f"{error:15.3f}" for error in row),
            flush=True,
        )
    means = np.exp(np.log(rows).mean(axis=0))
    print(f"{'geometric mean':24}" + "".join(f"{mean:15.3f}" for mean in means))
    print(
        f"{'ms, fits included':24}"
        + "".join(f"{1e3 * seconds[name] / n_windows:15.2f}" for name in names)
    )


def print_speed(teacher: Teacher) -> None:
    """Print parameters and milliseconds per forecast."""
    rng = np.random.default_rng(0)
    print(f"\n{teacher.info.n_parameters:,} parameters")
    for size in (1, 1024, 8192):
        walks = rng.normal(size=(size, 512, 1)).cumsum(axis=1).astype(np.float32)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            teacher.forecast(walks, 96, LEVELS)
            times.append(time.perf_counter() - start)
        each = np.median(times) / size
        print(
            f"512 -> 96, batch {size:5}: {1e3 * each:.3f} ms a forecast, {1 / each:,.0f} a second"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="bundled")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--span", choices=("test", "before"), default="test")
    parser.add_argument("--others", action="store_true", help="AutoETS, AutoTheta, student alone")
    add_data_argument(parser)
    args = parser.parse_args()
    teacher = load_teacher(args.teacher)
    sets = load_all(args.data)
    print_accuracy(teacher, sets, args.context, args.span)
    if args.others:
        print_others(teacher, sets, args.context)
    print_speed(teacher)


if __name__ == "__main__":
    main()
