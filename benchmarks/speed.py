"""Speed, each figure as a ratio in the same run: ``python -m benchmarks.speed``.

Needs the extra ``chronos`` (for Darts' DLinearModel and a Chronos-Bolt pipeline).
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks.bolt import save_published
from benchmarks.data import add_data_argument, ett, require_file
from distilts_forecaster import DistilledForecaster, load_teacher
from distilts_forecaster.runtime.latency import median_seconds

LOOKBACK, HORIZON = 512, 96


def etth1(data: Path) -> TimeSeries:
    """Return ETTh1 with its time index, 20 months."""
    frame = pd.read_csv(require_file(data, "ETTh1.csv"), parse_dates=["date"], index_col="date")
    return TimeSeries.from_dataframe(frame[: 20 * 30 * 24])


def dlinear(series: TimeSeries) -> Any:
    """Return Darts' DLinearModel, fitted for one step: its speed does not depend on its fit."""
    from darts.models import DLinearModel

    return DLinearModel(
        LOOKBACK,
        HORIZON,
        n_epochs=1,
        pl_trainer_kwargs={
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "max_steps": 1,
        },
    ).fit(series.astype(np.float32))


def predicting(data: Path) -> None:
    """Predict 96 steps of one univariate series through the Darts API."""
    series = etth1(data)["OT"]
    train = series[:3000]
    ours = DistilledForecaster(distillation_weight=0).fit(train)
    theirs = dlinear(train)
    mine = median_seconds(lambda: ours.predict(HORIZON))
    # Series that end at different times: nothing can be kept from one to the next.
    others = iter([series[i : i + LOOKBACK] for i in range(1001)])
    new = median_seconds(lambda: ours.predict(HORIZON, series=next(others)), most=1000)
    darts = median_seconds(lambda: theirs.predict(HORIZON, verbose=False))
    window = train.values()[-LOOKBACK:, 0].copy()
    student = median_seconds(lambda: ours.student_.predict(window))
    print("\npredict(n=96), lookback 512, one univariate series, median")
    print(f"  DistilledForecaster.predict       {1e3 * mine:8.4f} ms")
    print(f"  ... of a series that just came in {1e3 * new:8.4f} ms")
    print(f"  the student on an array           {1e3 * student:8.4f} ms")
    print(f"  Darts DLinearModel.predict        {1e3 * darts:8.4f} ms   {darts / mine:6.0f}x")


def backtesting(data: Path) -> None:
    """Backtest without refitting over the test months of ETTh1."""
    series = etth1(data)
    month = 30 * 24
    train, test = series[: 12 * month], series[16 * month - LOOKBACK :]
    ours = DistilledForecaster(distillation_weight=0).fit(train)
    theirs = dlinear(train)
    arguments: dict[str, Any] = {"forecast_horizon": HORIZON, "retrain": False}
    fast = ours.historical_forecasts(test, last_points_only=False, **arguments)
    slow = [ours.predict(HORIZON, series=test[: LOOKBACK + i]) for i in range(0, len(fast), 50)]
    difference = max(
        float(np.abs(a.values() - b.values()).max()) for a, b in zip(fast[::50], slow, strict=True)
    )
    print(f"\nhistorical_forecasts(retrain=False), ETTh1, {len(fast)} windows of 7 components")
    print(f"  largest difference from predict window by window: {difference:.1e}")
    for last_points_only in (True, False):
        arguments["last_points_only"] = last_points_only
        mine = median_seconds(lambda: ours.historical_forecasts(test, **arguments))
        darts = median_seconds(
            lambda: theirs.historical_forecasts(test.astype(np.float32), **arguments)
        )
        print(f"  last_points_only={last_points_only}")
        print(f"    DistilledForecaster             {1e6 * mine / len(fast):7.1f} us a window")
        print(
            f"    Darts DLinearModel, optimised   {1e6 * darts / len(fast):7.1f} us"
            f"   {darts / mine:6.1f}x"
        )


def fitting(data: Path) -> None:
    """Fit without a teacher on ETTm1's training months, and its peak memory."""
    values, train_stop, _, _ = ett(data, "ETTm1")
    series = TimeSeries.from_values(values[:train_stop])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model = DistilledForecaster(distillation_weight=0).fit(series)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nfit without a teacher, ETTm1: {train_stop} points x 7 components, 512 -> 96")
    stages = {name: round(s, 2) for name, s in model.training_summary_.seconds.items()}
    print(f"  {seconds:.1f} s: {stages}")
    print(f"  peak memory {peak / 1024:.0f} MiB, of which {before / 1024:.0f} before fit")


def many_windows() -> None:
    """Fit ten million windows without a teacher."""
    n = 10_000_000 + LOOKBACK + HORIZON
    time_ = np.arange(n)
    values = np.sin(time_ * (2 * np.pi / 24)) + np.random.default_rng(0).normal(size=n)
    series = TimeSeries.from_values(values.astype(np.float32))
    del time_, values
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model = DistilledForecaster(distillation_weight=0).fit(series)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nfit without a teacher, {model.training_summary_.windows.seen:,} windows of 512 -> 96")
    print(f"  {seconds:.0f} s, peak memory {peak / 1024:.0f} MiB, {before / 1024:.0f} before fit")


def labelling(data: Path) -> None:
    """Overhead of windows, cache and adapter over the bare Chronos-Bolt pipeline."""
    import torch
    from chronos import BaseChronosPipeline

    values, train_stop, _, _ = ett(data, "ETTh1")
    series = TimeSeries.from_values(values[: train_stop // 4, :1])
    with tempfile.TemporaryDirectory() as folder:
        save_published(Path(folder) / "bolt", "chronos-bolt-tiny")
        pipeline = BaseChronosPipeline.from_pretrained(str(Path(folder) / "bolt"), dtype="float32")
        rows = torch.from_numpy(series.values()[:, 0].astype(np.float32)).unfold(0, LOOKBACK, 1)
        teacher = load_teacher(Path(folder) / "bolt")
        teacher.forecast(rows[:8].numpy()[..., None], 64, (0.5,))  # loads the weights
        bare, ours = [], []
        for i in range(3):
            start = time.perf_counter()
            for first in range(0, len(rows), 256):
                pipeline.predict_quantiles(
                    rows[first : first + 256], prediction_length=64, quantile_levels=[0.5]
                )
            bare.append(time.perf_counter() - start)
            # Choosing and solving are not labelling: their time is taken off.
            model = DistilledForecaster(
                LOOKBACK, 64, teacher=teacher, cache_dir=Path(folder) / f"cache{i}"
            )
            start = time.perf_counter()
            summary = model.fit(series).training_summary_
            total = time.perf_counter() - start
            ours.append(total - summary.seconds["choice"] - summary.seconds["solve"])
        ratio = float(np.median(np.array(ours) / np.array(bare)))
    print(f"\nlabelling {len(rows)} windows with Chronos-Bolt-tiny (random weights), h = 64")
    print(f"  bare pipeline, batches of 256     {np.median(bare):8.2f} s")
    print(f"  fit, less choice and solution     {np.median(ours):8.2f} s   {ratio:.3f}x")


GRID = {
    "input_chunk_length": [LOOKBACK],
    "output_chunk_length": [HORIZON],
    "distillation_weight": [0.5, 1.0, 2.0, 5.0],
    "horizon_weights": [0.0, 1.0, 2.0],
}


def grid_search(data: Path) -> None:
    """Search a grid of 12 settings, against one cold fit and twelve warm ones."""
    values = ett(data, "ETTh1")[0]
    series = TimeSeries.from_values(values[:2000])
    after = TimeSeries.from_values(values[2000:2096]).shift(2000)

    def fit(folder: str) -> float:
        start = time.perf_counter()
        model = DistilledForecaster(distillation_weight=1.0, cache_dir=folder)
        model.fit(series).predict(HORIZON)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as cold, tempfile.TemporaryDirectory() as searched:
        first = fit(cold)
        warm = sum(fit(cold) for _ in range(12))
        start = time.perf_counter()
        grid = GRID | {"cache_dir": [searched]}
        DistilledForecaster.gridsearch(grid, series, val_series=after)
        seconds = time.perf_counter() - start
    print("\ngridsearch of 12 settings, ETTh1, 2,000 points x 7 components")
    print(f"  one cold fit {first:.1f} s + 12 warm fits {warm:.1f} s = {first + warm:.1f} s")
    print(f"  gridsearch   {seconds:.1f} s   {seconds / (first + warm):.2f}x")


PARTS = {
    "predict": predicting,
    "backtest": backtesting,
    "fit": fitting,
    "labelling": labelling,
    "gridsearch": grid_search,
    "memory": lambda data: many_windows(),
}


def main() -> None:
    """Run each part in a process of its own: peak memory is that of a process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one part only")
    add_data_argument(parser)
    args = parser.parse_args()
    if args.part:
        warnings.simplefilter("ignore")
        for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
            logging.getLogger(name).setLevel(logging.ERROR)
        PARTS[args.part](args.data)
        return
    for part in PARTS:
        command = [sys.executable, "-m", "benchmarks.speed", "--part", part]
        subprocess.run([*command, "--data", str(args.data)], check=False)


if __name__ == "__main__":
    main()
