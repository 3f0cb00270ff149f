"""Real series for the benchmarks, read from a folder of CSV files.

The folder is ``--data``, else the environment variable ``DISTILTS_DATA``, else the
cache of ``darts.datasets``. Files are found by name, in subfolders too; those that
are absent are left out.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = [
    "DataSet",
    "add_data_argument",
    "ett",
    "find_file",
    "load_all",
    "require_file",
]


@dataclass(frozen=True)
class DataSet:
    """Values (n_points, n_components), the main period, and where testing starts."""

    name: str
    values: np.ndarray
    period: int
    test_start: int
    horizon: int


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` to a benchmark's command line."""
    default = os.environ.get("DISTILTS_DATA", Path.home() / ".darts" / "datasets")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of CSV files")


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file in the folder or below, or None."""
    return next(iter(sorted(folder.rglob(name))), None)


def require_file(folder: Path, name: str) -> Path:
    """Return the path of a file in the folder or below, or say that it is not there."""
    path = find_file(folder, name)
    if path is None:
        raise FileNotFoundError(f"{name} is not in {folder}; pass its folder as --data")
    return path


def ett(folder: Path, name: str) -> tuple[np.ndarray, int, int, int]:
    """Load an ETT file as the long-horizon literature does.

    Returns
    -------
    values : numpy.ndarray, shape (n_points, 7)
        Standardised by the training months.
    train_stop, validation_stop, test_stop : int
        12 / 4 / 4 months of 30 days.
    """
    values = pd.read_csv(require_file(folder, f"{name}.csv")).iloc[:, 1:].to_numpy(float)
    month = 30 * 24 * (4 if "m" in name else 1)
    train = values[: 12 * month]
    values = (values - train.mean(axis=0)) / train.std(axis=0)
    return values[: 20 * month], 12 * month, 16 * month, 20 * month


#: name: (file, value columns, main period, horizon)
_FILES = {
    "taxi": ("taxi_new_york_passengers.csv", [1], 48, 96),
    "vic_electricity": ("vic_electricity.csv", [1], 48, 96),
    "bdg2": ("bdg2_hourly_sample.csv", [1, 2], 24, 96),
    "temperatures": ("temperatures.csv", [1], 365, 96),
    "taylor": ("taylor.csv", [0], 48, 96),
    "us_gasoline": ("us_gasoline.csv", [1], 52, 52),
    "sunspots": ("sunspots.csv", [1], 132, 96),
    "air_passengers": ("air_passengers.csv", [1], 12, 24),
    "milk": ("monthly_milk.csv", [1], 12, 24),
    "heart_rate": ("heart_rate.csv", [0], 1, 96),
}


def load_all(folder: Path) -> list[DataSet]:
    """Load every data set that is there; the last fifth is for testing."""
    found = []
    for name in ("ETTh1", "ETTh2", "ETTm1"):
        if find_file(folder, f"{name}.csv"):
            values, _, test_start, _ = ett(folder, name)
            found.append(DataSet(name, values, 96 if "m" in name else 24, test_start, 96))
    for name, (file, columns, period, horizon) in _FILES.items():
        path = find_file(folder, file)
        if path is None:
            continue
        values = pd.read_csv(path).iloc[:, columns].to_numpy(float)
        if name == "us_gasoline":  # newest first
            values = values[::-1]
        found.append(DataSet(name, values, period, int(0.8 * len(values)), horizon))
    path = find_file(folder, "aus_retail_monthly_long.csv")
    if path is not None:
        frame = pd.read_csv(path)
        wide = frame.pivot_table(index="Month", columns="Series ID", values="Turnover").dropna(
            axis=1
        )
        values = wide.to_numpy(float)
        found.append(DataSet("retail", values, 12, int(0.8 * len(values)), 24))
    return found
