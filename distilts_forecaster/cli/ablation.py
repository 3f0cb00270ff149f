"""What each part of the objective is worth on given data: ``distilts ablate``.

The protocol of the long-horizon literature and of DistilTS: series standardised by the
training span, every window of the test span, mean squared and absolute errors over all steps
and components, early stopping on the validation span.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

from distilts_forecaster.facades.darts import DistilledForecaster
from distilts_forecaster.runtime import Forecaster
from distilts_forecaster.runtime.gaps import fill_gaps
from distilts_forecaster.tables.read import read_table
from distilts_forecaster.windows.cutting import context_windows, iterate_chunks, target_windows

__all__ = [
    "ARMS",
    "Spans",
    "ablate",
    "append_row",
    "plot",
    "read_spans",
    "score",
    "summarise",
]

_RESULTS = ("mse", "mae", "epochs", "seconds")

#: What is compared: whether there is a teacher, horizon weights, alignment.
ARMS = ("no teacher", "baseline", "+HW", "+FTA", "full")

_KEY = ("data", "horizon", "lookback", "student", "teacher", "arm", "seed", "settings")


@dataclass(frozen=True)
class Spans:
    """A data set cut into training, validation and test span.

    ``values`` (n_points, C) float64 are standardised by the training span; ``train_stop`` and
    ``validation_stop`` are where validation and test begin.
    """

    name: str
    values: np.ndarray
    train_stop: int
    validation_stop: int


def read_spans(path: Path, split: tuple[float, float, float] | None = None) -> Spans:
    """Read a table of one series, a column for each component, as ``distilts fit`` reads it.

    Missing values are interpolated, with a warning. ``split`` sizes training, validation and test
    span, in points or shares. By default what the literature uses: 12, 4 and 4 months of 30 days
    for files whose name begins with ETT (hourly, or quarter-hourly where it has an "m"), else .7,
    .1, .2. ValueError for several series, or fewer points than the split.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    table = read_table(str(path))
    if len(table.ids) != 1:
        raise ValueError(
            f"{path} holds {len(table.ids)} series, and an ablation takes one, with a column for "
            "each component."
        )
    values = table.values[0]
    n_missing = int(np.isnan(values).sum())
    if n_missing:
        warnings.warn(f"{path.name}: {n_missing} missing values interpolated.", stacklevel=2)
        values = fill_gaps(values[None])[0]
    if split is None:
        month = 30 * 24 * (4 if "m" in path.stem else 1)
        is_ett = path.stem.startswith("ETT") and len(values) >= 20 * month
        split = (12 * month, 4 * month, 4 * month) if is_ett else (0.7, 0.1, 0.2)
    sizes = [round(s * len(values)) if s <= 1 else int(s) for s in split]
    if min(sizes) < 1 or sum(sizes) > len(values) + 2:
        raise ValueError(f"{path} has {len(values)} points, which cannot be split into {split}.")
    values = values[: sum(sizes)]
    train = values[: sizes[0]]
    std = train.std(axis=0)
    values = (values - train.mean(axis=0)) / np.where(std > 0, std, 1.0)
    return Spans(path.stem, values, sizes[0], sizes[0] + sizes[1])


def score(student: Forecaster, values: np.ndarray, start: int, horizon: int) -> tuple[float, float]:
    """Return mean squared and mean absolute error over all windows with a target from ``start`` on.

    ``values`` are (n_points, C); contexts reach back beyond ``start``.
    """
    origins = np.arange(start, len(values) - horizon + 1)
    squared = absolute = 0.0
    values = np.asfortranarray(values)
    for part in iterate_chunks(origins, values.shape[1]):
        contexts = context_windows(values, part, student.input_chunk_length)
        error = student.predict(contexts, horizon) - target_windows(values, part, horizon)
        squared += float((error**2).mean()) * len(part)
        absolute += float(np.abs(error).mean()) * len(part)
    return squared / len(origins), absolute / len(origins)


def _arm(arm: str, alpha: float, tau: float, beta: float) -> dict[str, Any]:
    """Return the settings of an arm."""
    if arm == "no teacher":
        return {"distillation_weight": 0}
    return {
        "distillation_weight": alpha,
        "horizon_weights": tau if arm in ("+HW", "full") else 0.0,
        "alignment": "factorised" if arm in ("+FTA", "full") else None,
        "alignment_weight": beta,
    }


def ablate(
    data: Spans,
    horizon: int,
    lookback: int,
    student: Any = "itransformer",
    teacher: Any = "bundled",
    seeds: Sequence[int] = (0, 1, 2),
    alpha: float = 0.5,
    tau: float = 1.0,
    beta: float = 0.3,
    arms: Sequence[str] = ARMS,
    table: Path | None = None,
    labels: tuple[str, str] | None = None,
    verbose: bool | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Fit a student with each part of the objective, from several seeds, and test it.

    Parameters
    ----------
    data : Spans
    horizon, lookback : int
        T and L.
    student, teacher : object
        See :class:`~distilts_forecaster.DistilledForecaster`.
    seeds : sequence of int
    alpha, tau, beta : float
        The paper's settings by default.
    arms : sequence of str
        Of :data:`ARMS`.
    table : pathlib.Path, optional
        CSV file to add each run to. Runs that it holds already are not repeated.
    labels : tuple of str, optional
        What to call student and teacher in the table.
    verbose : bool, optional
    **options
        Other parameters of ``DistilledForecaster``.

    Returns
    -------
    pandas.DataFrame
        A row for each run: ``data, horizon, lookback, student, teacher, arm, seed, settings,
        mse, mae, epochs, seconds``.

    Raises
    ------
    ValueError
        If a span is too short, a setting is invalid, or ``table`` is no table of runs.
    """
    for name, points in (
        ("test", len(data.values) - data.validation_stop),
        ("validation", data.validation_stop - data.train_stop),
        ("training", data.train_stop - lookback),
    ):
        if points < horizon:
            raise ValueError(
                f"{data.name}: the {name} span is too short for lookback {lookback} and horizon "
                f"{horizon}. Give smaller ones, or another split."
            )
    student_name, teacher_name = map(_plain, labels or (str(student), str(teacher)))
    known = None if table is None else _read_table(table)
    train = TimeSeries.from_values(data.values[: data.train_stop])
    validation = TimeSeries.from_values(
        data.values[data.train_stop - lookback : data.validation_stop]
    )

    def make(arm: str, seed: int) -> DistilledForecaster:
        return DistilledForecaster(
            input_chunk_length=lookback,
            output_chunk_length=horizon,
            student=student,
            teacher=teacher,
            random_state=seed,
            verbose=verbose,
            **{**options, **_arm(arm, alpha, tau, beta)},
        )

    for arm in arms:  # a bad setting shows before the first fit
        make(arm, 0)
    name, settings = _plain(data.name), _settings(data, alpha=alpha, tau=tau, beta=beta, **options)
    rows = []
    for seed in seeds:
        for arm in arms:
            key = (name, horizon, lookback, student_name, teacher_name, arm, seed, settings)
            found = _find(known, key)
            if found is not None:
                rows.append(found)
                continue
            started = time.perf_counter()
            model = make(arm, seed).fit(train, val_series=validation)
            mse, mae = score(model.student_, data.values, data.validation_stop, horizon)
            row = dict(zip(_KEY, key, strict=True)) | {
                "mse": mse,
                "mae": mae,
                "epochs": len(model.training_summary_.epochs),
                "seconds": round(time.perf_counter() - started, 1),
            }
            rows.append(row)
            if table is not None:
                append_row(table, row)
    return pd.DataFrame(rows)


def _settings(data: Spans, **settings: Any) -> str:
    """Return what else tells runs apart: settings, and a digest of the data and its split."""
    digest = hashlib.blake2b(np.ascontiguousarray(data.values).tobytes(), digest_size=4)
    digest.update(f"{data.train_stop} {data.validation_stop}".encode())
    told = [f"{name}={value}" for name, value in settings.items() if name != "cache_dir"]
    return _plain(" ".join([*told, digest.hexdigest()]))


def _plain(text: str) -> str:
    """Return text that needs no quotes in CSV: half a line with quotes spoils those after it."""
    return re.sub(r'[,"\r\n]+', ";", text)


def _read_table(table: Path) -> pd.DataFrame | None:
    """Return the runs in a CSV file, None if there is no file; raise if it holds no runs."""
    if not table.exists():
        if not table.parent.is_dir():
            raise ValueError(f"The folder of the table {table} does not exist.")
        return None
    try:
        # Names stay text (a file may be called 2024.csv); a line cut short is skipped.
        known = pd.read_csv(
            table, dtype=str, keep_default_na=False, on_bad_lines="skip", quoting=csv.QUOTE_NONE
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"The table {table} cannot be read: {error}") from error
    missing = [name for name in (*_KEY, *_RESULTS) if name not in known]
    if missing:
        raise ValueError(
            f"The table {table} is not one of runs: it has no {missing}. Name another file."
        )
    return known[known["seconds"] != ""]


def _find(known: pd.DataFrame | None, key: tuple[Any, ...]) -> dict[str, Any] | None:
    """Return the row of a run that was made before."""
    if known is None:
        return None
    same = np.logical_and.reduce([known[n] == str(k) for n, k in zip(_KEY, key, strict=True)])
    if not same.any():
        return None
    row = known[same].iloc[-1]
    results = {name: float(row[name]) for name in _RESULTS}
    return dict(zip(_KEY, key, strict=True)) | results | {"epochs": int(results["epochs"])}


def append_row(table: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file, with a header if it is new."""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, row)
    before = table.read_bytes()[-1:] if table.is_file() else None
    if before is None:
        writer.writeheader()
    elif before != b"\n":  # somebody was interrupted in the middle of a line
        lines.write("\r\n")
    writer.writerow(row)
    with table.open("a", newline="", encoding="utf-8") as file:
        file.write(lines.getvalue())


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean squared error as ``mean +-std`` over seeds, a column for each arm."""
    index = ["data", "horizon", "lookback", "student", "teacher"]
    grouped = runs.groupby([*index, "arm"])["mse"].agg(["mean", "std"]).fillna(0.0)
    text = grouped.apply(lambda row: f"{row['mean']:.4f} +-{row['std']:.4f}", axis=1)
    wide = text.unstack("arm")
    return wide[[arm for arm in ARMS if arm in wide]].reset_index()


def plot(runs: pd.DataFrame, path: Path) -> None:
    """Draw the mean test error of each arm, with every seed as a dot."""
    from matplotlib.figure import Figure

    cells = list(runs.groupby(["data", "horizon", "lookback", "teacher"], sort=False))
    figure = Figure(figsize=(max(4.0, 3.2 * min(4, len(cells))), 3.2 * -(-len(cells) // 4)))
    axes = figure.subplots(-(-len(cells) // 4), min(4, len(cells)), squeeze=False).ravel()
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    for axis, ((name, horizon, lookback, teacher), group) in zip(axes, cells, strict=False):
        arms = [arm for arm in ARMS if arm in set(group["arm"])]
        means = group.groupby("arm")["mse"].mean()[arms]
        colours = ["0.6" if arm == "no teacher" else "tab:blue" for arm in arms]
        axis.bar(arms, means, color=colours, alpha=0.6)
        for place, arm in enumerate(arms):
            errors = group[group["arm"] == arm]["mse"]
            axis.plot([place] * len(errors), errors, "k.", ms=4)
        low, high = group["mse"].min(), group["mse"].max()
        axis.set_ylim(low - 0.5 * (high - low) - 1e-3, high + 0.2 * (high - low) + 1e-3)
        axis.set_title(f"{name}, {lookback} -> {horizon}\nteacher {teacher}", fontsize=9)
        axis.tick_params(axis="x", labelrotation=30, labelsize=8)
        axis.set_ylabel("test MSE", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
