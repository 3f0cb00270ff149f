"""Accuracy on the ETT sets: ``python -m benchmarks.accuracy``.

Standardised mean squared error over every window of the test months, lookback 512:

* the student without a teacher and with the bundled one, on the full training months
  (settings chosen on the validation months, which are not fitted on);
* the same on histories cut to their last points before the test span (settings
  chosen on the history's own end), with alpha fixed and with "auto".
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from darts import TimeSeries

from benchmarks.data import add_data_argument, ett
from distilts_forecaster import DistilledForecaster, load_teacher
from distilts_forecaster.windows import context_windows, target_windows

LOOKBACK = 512
NAMES = ("ETTh1", "ETTh2", "ETTm1")
LENGTHS = (700, 1000, 2000, 5000)
ALPHAS = (0, 0.5, 1, 2, 5, "auto")


def mean_squared_error(
    forecast: Callable[[np.ndarray], np.ndarray], values: np.ndarray, start: int, horizon: int
) -> float:
    """Return the mean squared error over all windows with a target from ``start`` on."""
    origins = np.arange(start, len(values) - horizon + 1)
    total = 0.0
    for part in np.array_split(origins, max(1, len(origins) // 500)):
        error = forecast(context_windows(values, part, LOOKBACK)) - target_windows(
            values, part, horizon
        )
        total += float((error**2).mean()) * len(part)
    return total / len(origins)


def fit(
    train: np.ndarray,
    horizon: int,
    alpha: float | str,
    teacher: str,
    validation: np.ndarray | None = None,
) -> DistilledForecaster:
    """Fit the forecaster to an array."""
    model = DistilledForecaster(
        input_chunk_length=LOOKBACK,
        output_chunk_length=horizon,
        teacher=teacher,
        distillation_weight=alpha,
    )
    val_series = None if validation is None else TimeSeries.from_values(validation)
    return model.fit(TimeSeries.from_values(train), val_series=val_series)


def full_histories(data: Path, teacher_name: str) -> None:
    """Print the table of full training months."""
    teacher = load_teacher(teacher_name)
    print("\nFull training months (12 / 4 / 4), test MSE")
    print(f"{'':8}{'T':>5}{'no teacher':>12}{'auto':>8}{'teacher':>9}   alpha  ridge  seconds")
    for name in NAMES:
        values, train_stop, validation_stop, _ = ett(data, name)
        for horizon in (96, 192):
            validation = values[train_stop - LOOKBACK : validation_stop]
            errors = []
            for alpha in (0, "auto"):
                started = time.perf_counter()
                model = fit(values[:train_stop], horizon, alpha, teacher_name, validation)
                seconds = time.perf_counter() - started
                student = model.student_
                errors.append(mean_squared_error(student.predict, values, validation_stop, horizon))
            zero_shot = mean_squared_error(
                lambda x, h=horizon: teacher.forecast(x.astype(np.float32), h, (0.5,)).quantiles[
                    ..., 0
                ],
                values,
                validation_stop,
                horizon,
            )
            summary = model.training_summary_
            print(
                f"{name:8}{horizon:5}{errors[0]:12.5f}{errors[1]:9.5f}{zero_shot:9.4f}"
                f"{summary.distillation_weight:8.3g}{summary.ridge:7.2g}{seconds:9.1f}",
                flush=True,
            )


def short_histories(data: Path, teacher_name: str) -> None:
    """Print the table of histories cut to their last points."""
    print("\nLast N points before the test span, T = 96, test MSE")
    header = "".join(f"{('no teacher' if a == 0 else str(a)):>11}" for a in ALPHAS)
    print(f"{'':8}{'N':>6}{header}   auto: alpha  /best fixed  /no teacher")
    ratios = []
    for name in NAMES:
        values, _, validation_stop, _ = ett(data, name)
        for length in LENGTHS:
            errors = []
            for alpha in ALPHAS:
                model = fit(
                    values[validation_stop - length : validation_stop], 96, alpha, teacher_name
                )
                errors.append(
                    mean_squared_error(model.student_.predict, values, validation_stop, 96)
                )
            best, alone = errors[-1] / min(errors[1:-1]), errors[-1] / errors[0]
            ratios.append((length, best, alone))
            print(
                f"{name:8}{length:6}"
                + "".join(f"{e:11.4f}" for e in errors)
                + f"{model.training_summary_.distillation_weight:15.3g}{best:13.3f}{alone:13.3f}",
                flush=True,
            )
    print(f"auto / best fixed alpha: mean {np.mean([best for _, best, _ in ratios]):.3f}")
    for length in LENGTHS:
        mean = np.mean([alone for n, _, alone in ratios if n == length])
        print(f"auto / no teacher at {length}: mean {mean:.3f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="bundled")
    add_data_argument(parser)
    args = parser.parse_args()
    full_histories(args.data, args.teacher)
    short_histories(args.data, args.teacher)


if __name__ == "__main__":
    main()
