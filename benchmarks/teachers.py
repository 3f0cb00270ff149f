"""Zero-shot error of a teacher against seasonal naive: ``python -m benchmarks.teachers``.

Total absolute error over every test window, relative to that of repeating the last
main period (1 is no better), and the share of truth inside the 80 % interval.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.data import DataSet, add_data_argument, load_all
from distilts_forecaster.teachers import load_teacher
from distilts_forecaster.teachers.base import Teacher

CONTEXT = 512
MAX_ORIGINS = 300


def seasonal_naive(history: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Repeat the last ``period`` steps of (n, L, C) contexts: (n, horizon, C)."""
    last = history[:, -period:]
    return np.tile(last, (1, horizon // last.shape[1] + 1, 1))[:, :horizon]


def relative_error(teacher: Teacher, data: DataSet) -> tuple[float, float]:
    """Return the error relative to seasonal naive, and the 80 % interval's coverage."""
    last = len(data.values) - data.horizon
    step = max(1, (last - data.test_start) // MAX_ORIGINS)
    origins = np.arange(data.test_start, last + 1, step)
    length = min(CONTEXT, data.test_start)
    values = data.values.astype(np.float32)
    contexts = np.stack([values[o - length : o] for o in origins])
    targets = np.stack([values[o : o + data.horizon] for o in origins])
    low, middle, high = np.moveaxis(
        teacher.forecast(contexts, data.horizon, (0.1, 0.5, 0.9)).quantiles, -1, 0
    )
    naive = seasonal_naive(contexts, data.horizon, data.period)
    # Components may have different scales: each counts by its own naive error.
    ratio = np.abs(middle - targets).sum(axis=(0, 1)) / np.abs(naive - targets).sum(axis=(0, 1))
    covered = float(((targets >= low) & (targets <= high)).mean())
    return float(np.exp(np.log(ratio).mean())), covered


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="bundled")
    add_data_argument(parser)
    args = parser.parse_args()
    teacher = load_teacher(args.teacher)
    ratios = {}
    print(f"{'data set':16} {'error':>6} {'80 % covers':>12}")
    for data in load_all(args.data):
        ratios[data.name], covered = relative_error(teacher, data)
        print(f"{data.name:16} {ratios[data.name]:6.3f} {covered:12.1%}")
    print(f"{'geometric mean':16} {np.exp(np.mean(np.log(list(ratios.values())))):6.3f}")
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(2048, CONTEXT, 1)).astype(np.float32)
    start = time.perf_counter()
    teacher.forecast(batch, 96, (0.5,))
    print(f"{len(batch) / (time.perf_counter() - start):,.0f} forecasts of 512 -> 96 a second")


if __name__ == "__main__":
    main()
