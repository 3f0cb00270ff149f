"""Every student with every teacher: ``python -m benchmarks.students --folder WORK``.

* ``--part table``: test MSE and MAE in the protocol of the long-horizon literature, each
  student without a teacher and with each (bundled; Darts' TSMixer and a small Chronos-Bolt,
  both trained on the data set's training months, see ``benchmarks.trained``), all other
  settings at their defaults; lookback 512 for 96 steps, 512 and 1,024 for 192;
* ``--part ablation``: the paper's table, its iTransformer from three seeds, with each teacher;
* ``--part cost``: seconds and peak memory of each student's training on ETTm1;
* ``--part speed``: parameters and time of a forecast against teachers of the published sizes.

Runs are added to ``WORK/*.csv`` as they end, and not made again. Any CSV file can be named:
``--data FOLDER --names Weather ETTm2``. Needs the extra ``chronos``.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks.bolt import PUBLISHED, save_published
from benchmarks.data import add_data_argument, require_file
from benchmarks.trained import NAMES, bolt_teacher, tsmixer_teacher
from distilts_forecaster import DartsTeacher, DistilledForecaster, load_teacher
from distilts_forecaster.cli.ablation import (
    ARMS,
    Spans,
    ablate,
    append_row,
    read_spans,
    score,
    summarise,
)

CELLS = ((96, 512), (192, 512), (192, 1024))
STUDENTS = ("linear", "dlinear", "mlp", "itransformer")
TEACHERS = ("none", "bundled", "tsmixer", "bolt")


def get_teacher(kind: str, data: Spans, horizon: int, folder: Path) -> Any:
    """Return a teacher by kind, trained where it has to be."""
    if kind == "bolt":
        return bolt_teacher(data, folder)
    if kind == "tsmixer":
        # Its labels are kept on disk: the file's name says what it was trained on.
        return DartsTeacher(
            tsmixer_teacher(data, horizon, folder),
            name=f"tsmixer-{data.name}-{horizon}",
            revision="1",
            hidden_module="conditional_mixer.1",
        )
    return "bundled"


def table(datasets: list[Spans], args: argparse.Namespace) -> None:
    """Fit every student with every teacher, at its default settings."""
    path = args.folder / "students.csv"
    key = ["data", "horizon", "lookback", "student", "teacher"]
    known = set(pd.read_csv(path)[key].itertuples(index=False, name=None)) if path.is_file() else ()
    for data in datasets:
        for horizon, lookback in CELLS:
            train = TimeSeries.from_values(data.values[: data.train_stop])
            validation = TimeSeries.from_values(
                data.values[data.train_stop - lookback : data.validation_stop]
            )
            for kind in args.teachers:
                for student in args.students:
                    row = dict(zip(key, (data.name, horizon, lookback, student, kind), strict=True))
                    if tuple(row.values()) in known:
                        continue
                    teacher = get_teacher(kind, data, horizon, args.folder / "teachers")
                    started = time.perf_counter()
                    model = DistilledForecaster(
                        input_chunk_length=lookback,
                        output_chunk_length=horizon,
                        student=student,
                        teacher=teacher,
                        distillation_weight=0 if kind == "none" else "auto",
                        random_state=0,
                        cache_dir=args.folder / "cache",
                        verbose=False,
                    ).fit(train, val_series=validation)
                    seconds = time.perf_counter() - started
                    summary = model.training_summary_
                    mse, mae = score(model.student_, data.values, data.validation_stop, horizon)
                    row |= {
                        "mse": mse,
                        "mae": mae,
                        "validation": summary.errors.student,
                        "alpha": summary.chosen.distillation_weight,
                        "best_epoch": summary.chosen.best_epoch,
                        "epochs": len(summary.epochs),
                        "parameters": model.student_.n_parameters,
                        "seconds": round(seconds, 1),
                        "teacher_seconds": round(summary.seconds["teacher"], 1),
                    }
                    append_row(path, row)
                    print(" ".join(str(v) for v in row.values()), flush=True)
    show_table(pd.read_csv(path))


def show_table(runs: pd.DataFrame) -> None:
    """Print MSE / MAE of each student and teacher, and means over the cells."""
    runs["cell"] = (
        runs["data"] + " " + runs["lookback"].astype(str) + ">" + runs["horizon"].astype(str)
    )
    runs["errors"] = [f"{a:.3f} {b:.3f}" for a, b in zip(runs["mse"], runs["mae"], strict=True)]
    index = ["student", "teacher"]
    print(runs.pivot_table("errors", index, "cell", aggfunc="last", sort=False).to_string())
    means = runs.pivot_table(["mse", "mae"], index, aggfunc="mean", sort=False)
    at_paper = runs[(runs["horizon"] == 96) | (runs["lookback"] == 1024)]
    means["mse, the paper's lookbacks"] = at_paper.groupby(index)["mse"].mean()
    means["cells"] = runs.groupby(index).size()
    print(means.round(4).to_string())


def ablation(datasets: list[Spans], args: argparse.Namespace) -> None:
    """Print the paper's ablation, with its iTransformer and its settings of the loss."""
    from distilts_forecaster import ITransformer, Training

    student = ITransformer(
        d_model=512, n_heads=8, d_ff=2048, training=Training(learning_rate=1e-4, max_epochs=10)
    )
    teachers = [kind for kind in args.teachers if kind != "none"]
    parts = [
        ablate(
            data,
            horizon,
            lookback,
            student,
            get_teacher(kind, data, horizon, args.folder / "teachers"),
            table=args.folder / "ablation.csv",
            labels=("DistilTS-T", kind),
            # Without a teacher it is the same for all of them.
            arms=ARMS if kind == teachers[0] else ARMS[1:],
            verbose=False,
            cache_dir=args.folder / "cache",
        )
        for data in datasets
        for horizon, lookback in ((96, 512), (192, 1024))
        for kind in teachers
    ]
    print(summarise(pd.concat(parts)).to_string(index=False))


def cost(datasets: list[Spans], args: argparse.Namespace) -> None:
    """Fit each student on the last data set in a process of its own: its memory is its own."""
    data = datasets[-1]
    print(f"fit without a teacher, {data.name}: {data.train_stop} points, 512 -> 96")
    for student in args.students:
        command = [sys.executable, "-m", "benchmarks.students", "--part", "one-cost", "--data"]
        command += [str(args.data), "--folder", str(args.folder), "--names", data.name]
        subprocess.run([*command, "--students", student], check=False)


def one_cost(datasets: list[Spans], args: argparse.Namespace) -> None:
    """Fit one student and print seconds and peak memory, less that of importing torch."""
    data = datasets[0]
    train = TimeSeries.from_values(data.values[: data.train_stop])
    validation = TimeSeries.from_values(data.values[data.train_stop - 512 : data.validation_stop])
    model = DistilledForecaster(
        student=args.students[0], distillation_weight=0, random_state=0, cache_dir=False
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    model.fit(train, val_series=validation)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epochs = model.training_summary_.epochs
    each = f"{len(epochs)} epochs of {np.mean([e.seconds for e in epochs]):.1f} s" if epochs else ""
    print(
        f"  {args.students[0]:14} {seconds:7.1f} s   peak {peak / 1024:5.0f} MiB, of which "
        f"{before / 1024:.0f} before   {each}",
        flush=True,
    )


def speed(datasets: list[Spans], args: argparse.Namespace) -> None:
    """Time a forecast of each student and of teachers of the published sizes, one thread."""
    import torch

    torch.set_num_threads(1)
    data = datasets[0]
    train = TimeSeries.from_values(data.values[:2000, :1])
    rng = np.random.default_rng(0)
    windows = {n: rng.normal(size=(n, 512, 1)).astype(np.float32).cumsum(1) for n in (1, 32)}
    students: dict[str, dict[int, float]] = {}
    sizes: dict[str, int] = {}
    for name in args.students:
        fitted = DistilledForecaster(student=name, distillation_weight=0, cache_dir=False).fit(
            train
        )
        sizes[name] = fitted.student_.n_parameters
        students[name] = {
            n: _seconds(partial(fitted.student_.predict, w)) for n, w in windows.items()
        }
        print(f"{name:14} {sizes[name]:>11,} parameters", _milliseconds(students[name]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for published, horizons in PUBLISHED.items():
            save_published(Path(folder) / published, published)
            teacher = load_teacher(Path(folder) / published)
            size = teacher.info.n_parameters or 0
            for horizon in horizons:
                seconds = {
                    n: _seconds(partial(teacher.forecast, w, horizon, (0.5,)), most=3)
                    for n, w in windows.items()
                }
                print(f"{published} h={horizon} {size:>11,} parameters", _milliseconds(seconds))
                for name in args.students:
                    ratios = ", ".join(
                        f"batch {n}: {seconds[n] / students[name][n]:,.0f}x" for n in windows
                    )
                    print(
                        f"    {name:14} 1/{size / sizes[name]:,.0f} of its size; {ratios}",
                        flush=True,
                    )


def _milliseconds(seconds: dict[int, float]) -> str:
    """Lay out times by batch."""
    return "  ".join(f"batch {n}: {1e3 * s:.4g} ms" for n, s in seconds.items())


def _seconds(call: Callable[[], Any], most: int = 300) -> float:
    """Return the median time of a call."""
    call()
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < most and sum(seconds) < 2.0):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


PARTS = {"table": table, "ablation": ablation, "cost": cost, "speed": speed, "one-cost": one_cost}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="teachers, labels and results")
    parser.add_argument("--part", choices=PARTS, default="table")
    parser.add_argument("--names", nargs="+", default=list(NAMES), help="data sets (CSV files)")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    add_data_argument(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    (args.folder / "teachers").mkdir(parents=True, exist_ok=True)
    datasets = [read_spans(require_file(args.data, f"{name}.csv")) for name in args.names]
    PARTS[args.part](datasets, args)


if __name__ == "__main__":
    main()
