"""What the commands ``fit``, ``predict``, ``report``, ``export`` and ``bench`` do.

Each returns its result as a dict for JSON and as text for people; ``predict`` returns a table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilts_forecaster.runtime import Forecaster, LinearForecaster, load_student
from distilts_forecaster.runtime.artifact import WEIGHTS_FILE, check_free
from distilts_forecaster.runtime.checks import count_unknown, extra_for, warn_of_unknown
from distilts_forecaster.runtime.gaps import carry_forward
from distilts_forecaster.runtime.info import StudentInfo, ValidationErrors
from distilts_forecaster.runtime.info import as_json as as_json_value
from distilts_forecaster.runtime.latency import measure_latency, median_seconds
from distilts_forecaster.windows.naive import repeat_season

if TYPE_CHECKING:
    from distilts_forecaster.tables.read import Table

__all__ = ["bench", "export", "fit", "predict", "report", "write_frame"]

#: Intervals whose coverage is reported: levels below and above.
_INTERVALS = {50: (0.25, 0.75), 80: (0.1, 0.9), 90: (0.05, 0.95)}

#: Default name of an exported graph, in the student's directory.
ONNX_FILE = "model.onnx"

#: Seconds for which each forecaster is timed.
_SECONDS = 0.5


def _read(args: argparse.Namespace) -> Table:
    """Read the table that the arguments name."""
    with extra_for("a table", "cli"):
        from distilts_forecaster.tables.read import read_table
    return read_table(args.data, args.id, args.time, args.target, args.freq)


def fit(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Fit a student to a table and save it.

    Returns ``student`` (the directory), ``seconds``, ``bytes`` and the fields of ``StudentInfo``;
    and the same for people.
    """
    check_free(args.out)
    table = _read(args)
    with extra_for("fit", "cli,darts"):
        from darts import TimeSeries

        from distilts_forecaster.facades.darts import DistilledForecaster
    model = DistilledForecaster(
        input_chunk_length=args.lookback,
        output_chunk_length=args.horizon,
        teacher=args.teacher,
        student=args.student,
        distillation_weight=args.alpha,
        horizon_weights=args.tau,
        quantiles=args.quantiles,
        nonnegative=args.nonnegative,
        label_budget=args.label_budget or "auto",
        time_limit=args.time_limit,
        random_state=args.seed,
        verbose=False if args.quiet else None,
    )
    series = [
        TimeSeries.from_times_and_values(times, values, freq=freq, columns=table.components)
        for times, values, freq in zip(table.times, table.values, table.freqs, strict=True)
    ]
    start = time.perf_counter()
    model.fit(series[0] if len(series) == 1 else series)
    seconds = time.perf_counter() - start
    model.save_student(args.out)
    (args.out / ONNX_FILE).unlink(missing_ok=True)  # of the student that was there before
    student = model.student_
    info = student.info or StudentInfo()
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.is_file())
    result = {"student": os.fspath(args.out), "seconds": seconds, "bytes": size, **info.to_json()}
    lines = [
        f"{len(series):,} series, {sum(map(len, series)):,} points, "
        f"{student.input_chunk_length} -> {student.output_chunk_length} steps, {seconds:.1f} s",
        *_told_errors(info),
        f"Saved to {args.out} ({size / 1024:,.0f} KiB): see {args.out / 'README.md'}",
    ]
    return result, "\n".join(lines)


def _told_errors(info: StudentInfo) -> list[str]:
    """Return the lines about errors on held-out windows."""
    errors = ValidationErrors() if info.fit is None else info.fit.errors
    if errors.student is None:
        return []
    rows = {
        "student": errors.student,
        "the same without a teacher": errors.without_teacher,
        "teacher": errors.teacher,
        f"repeating the last {errors.naive_season} steps": errors.naive,
    }
    return [
        f"Mean squared error on held-out windows, {errors.horizon} steps ahead, in units of the "
        "variance:",
        *(f"  {name:30s}{error:.4f}" for name, error in rows.items() if error is not None),
    ]


def _plain_student(source: str) -> Forecaster:
    """Load a student that needs no covariates: tables hold none."""
    student = load_student(source)
    if any(student.n_covariates):
        raise ValueError(
            f"The student needs covariates {student.n_covariates} (past, future, static), which "
            "the command line cannot give it: use load_student(...).predict in Python."
        )
    return student


def _check_table(student: Forecaster, table: Table) -> None:
    """Raise unless a student can forecast the components of a table."""
    if student.n_components not in (None, len(table.components)):
        raise ValueError(
            f"The student forecasts {student.n_components} components, the table has "
            f"{table.components}: choose them with --target."
        )


def predict(args: argparse.Namespace) -> Any:
    """Forecast what follows each series of a table: long or wide, as the table was.

    Quantiles are further columns, ``y_q0.1``.
    """
    student = _plain_student(args.student)
    table = _read(args)
    _check_table(student, table)
    horizon = args.horizon or student.output_chunk_length
    length = student.input_chunk_length
    contexts = np.full((len(table.ids), length, len(table.components)), np.nan)
    for context, values in zip(contexts, table.values, strict=True):
        context[-min(length, len(values)) :] = values[-length:]
    made = student.predict(contexts, horizon)[..., None]
    warn_of_unknown(count_unknown(made), len(made), length)
    names: list[str] = list(table.components)
    if args.quantiles:
        levels = sorted(set(args.quantiles))
        more = student.predict_quantiles(contexts, horizon, levels)
        made = np.concatenate([made, more], axis=3)
        names = [f"{c}{q}" for c in names for q in ("", *(f"_q{level:g}" for level in levels))]
    return table.to_frame(list(made.reshape(*made.shape[:2], -1)), names)


def report(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Measure a student on data that it was not fitted on, beside naive forecasts.

    Returns errors by forecaster, coverage of intervals, errors by step; and the same for people.
    """
    student = _plain_student(args.student)
    table = _read(args)
    _check_table(student, table)
    horizon = min(args.horizon or student.output_chunk_length, student.output_chunk_length)
    shift, length = student.output_chunk_shift, student.input_chunk_length
    season = args.season or _usual_season(student)
    if season > length:
        raise ValueError(f"--season {season}: the student sees {length} steps.")
    contexts, targets, scales = _windows(table, length, shift, horizon, season, args.windows)
    made = _forecasts(student, contexts, horizon, season)
    if args.teacher:
        made["teacher"] = _ask_teacher(args.teacher, contexts, horizon, shift)
    # Errors count where every forecaster has a forecast.
    known = np.all([np.isfinite(forecast) for forecast in made.values()], axis=0)
    targets = np.where(known, targets, np.nan)
    errors = {name: np.abs(forecast - targets) for name, forecast in made.items()}
    rows = {
        name: {
            "MAE": float(np.nanmean(e)),
            "RMSE": float(np.sqrt(np.nanmean(e**2))),
            "MASE": float(np.nanmean(e / scales[:, None])),
        }
        for name, e in errors.items()
    }
    by_step = {name: np.nanmean(e / scales[:, None], axis=(0, 2)) for name, e in errors.items()}
    coverage = _coverage(student, contexts, targets)
    result = {
        "windows": len(contexts),
        "horizon": horizon,
        "season": season,
        "errors": rows,
        "coverage": coverage,
        "mase_by_step": {name: steps.tolist() for name, steps in by_step.items()},
    }
    lines = [f"{len(contexts):,} windows of {len(table.ids):,} series, {horizon} steps ahead"]
    lines += _report_lines(rows, coverage, season)
    if args.plot:
        _plot_report(by_step, contexts, targets, made["student"], student, args.plot)
        lines.append(f"Picture: {args.plot}")
    return result, "\n".join(lines)


def _usual_season(student: Forecaster) -> int:
    """Return the season of the best naive forecast in ``fit``, else the student's period, or 1."""
    info = student.info
    found = None if info is None or info.fit is None else info.fit.errors.naive_season
    return found or student.period or 1


def _forecasts(
    student: Forecaster, contexts: np.ndarray, horizon: int, season: int
) -> dict[str, np.ndarray]:
    """Return the forecasts of a student and of naive ones, by name."""
    shift, filled = student.output_chunk_shift, carry_forward(contexts, axis=1)
    last = repeat_season(filled, 1, horizon, shift)
    made = {"student": student.predict(contexts, horizon)}
    if season > 1:
        seasonal = repeat_season(filled, season, horizon, shift)
        # Where the season before is missing, the last value is repeated.
        seasonal = np.where(np.isfinite(seasonal), seasonal, last)
        made[f"repeating the last {season} steps"] = seasonal
    made["repeating the last value"] = last
    return made


def _coverage(student: Forecaster, contexts: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the share of targets inside of each interval, in percent."""
    if student.error_quantiles is None:
        return {}
    levels = sorted({level for pair in _INTERVALS.values() for level in pair})
    quantiles = student.predict_quantiles(contexts, targets.shape[1], levels)
    known = np.isfinite(targets)
    coverage = {}
    for percent, (low, high) in _INTERVALS.items():
        inside = targets >= quantiles[..., levels.index(low)]
        inside &= targets <= quantiles[..., levels.index(high)]
        coverage[str(percent)] = 100 * float(inside[known].mean())
    return coverage


def _report_lines(
    rows: dict[str, dict[str, float]], coverage: dict[str, float], season: int
) -> list[str]:
    """Lay errors and coverage out for people."""
    width = max(map(len, rows)) + 2
    lines = [f"{'':{width}s}" + "".join(f"{name:>12s}" for name in ("MAE", "RMSE", "MASE"))]
    lines += [
        f"{name:{width}s}" + "".join(f"{value:12.4g}" for value in row.values())
        for name, row in rows.items()
    ]
    if coverage:
        told = (f"{value:.0f} % of {percent} %" for percent, value in coverage.items())
        lines.append("Inside of the intervals: " + ", ".join(told))
    lines.append(f"MASE: relative to repeating the last {season} steps, in the same series.")
    return lines


def _windows(
    table: Table, length: int, shift: int, horizon: int, season: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut windows (N, L, C), targets (N, horizon, C) and scales (N, C), evenly spaced."""
    spans = []
    for i, values in enumerate(table.values):
        # A short series has one window: half of it is its context.
        last = len(values) - shift - horizon
        spans += [(i, origin) for origin in range(min(length, max(1, len(values) // 2)), last + 1)]
    if not spans:
        longest = max(map(len, table.values))
        raise ValueError(
            f"The longest series has {longest} points: too few for a context and the "
            f"{horizon + shift} steps that are compared with. Give a shorter --horizon."
        )
    chosen = np.linspace(0, len(spans) - 1, min(most, len(spans))).astype(int)
    n, components = len(chosen), len(table.components)
    contexts = np.full((n, length, components), np.nan)
    targets, scales = np.empty((n, horizon, components)), np.empty((n, components))
    naive = []
    for values in table.values:
        lag = min(season, max(1, len(values) - 1))
        steps = np.abs(values[lag:] - values[:-lag])
        known = np.isfinite(steps)
        mean = np.where(known, steps, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        naive.append(np.where(mean > 0, mean, np.nan))  # a constant series has no scale
    for row, (i, origin) in enumerate(spans[place] for place in chosen):
        context = table.values[i][max(0, origin - length) : origin]
        contexts[row, length - len(context) :] = context
        targets[row] = table.values[i][origin + shift : origin + shift + horizon]
        scales[row] = naive[i]
    if not np.isfinite(targets).any():
        raise ValueError("There is nothing to compare with: all targets are missing.")
    return contexts, targets, scales


def _ask_teacher(name: str, contexts: np.ndarray, horizon: int, shift: int) -> np.ndarray:
    """Return the forecasts of a teacher that sees what the student does."""
    from distilts_forecaster.runtime.gaps import complete
    from distilts_forecaster.teachers import load_teacher

    teacher = load_teacher(name)
    given = contexts if teacher.info.takes_missing else complete(contexts)[0]
    made = [
        teacher.forecast(given[i : i + 256].astype(np.float32), shift + horizon, (0.5,)).quantiles
        for i in range(0, len(given), 256)
    ]
    return np.concatenate(made)[:, shift:, :, 0].astype(np.float64)


def _plot_report(
    by_step: dict[str, np.ndarray],
    contexts: np.ndarray,
    targets: np.ndarray,
    forecast: np.ndarray,
    student: Forecaster,
    path: Path,
) -> None:
    """Draw errors by step, and the forecast of one window."""
    with extra_for("a picture", "cli"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(targets[0]) + 1)
    for name, errors in by_step.items():
        left.plot(steps, errors, label=name)
    left.set(xlabel="steps ahead", ylabel="MASE", title="Error by step", ylim=(0, None))
    left.legend(frameon=False)
    place = len(contexts) // 2
    past = contexts[place, -3 * len(steps) :, 0]
    right.plot(np.arange(-len(past) + 1, 1), past, color="0.5")
    right.plot(steps, targets[place, :, 0], color="0.5", label="actual")
    right.plot(steps, forecast[place, :, 0], color="C0", label="student")
    if student.error_quantiles is not None:
        low, high = _INTERVALS[80]
        made = student.predict_quantiles(contexts[place], len(steps), (low, high))
        right.fill_between(
            steps, made[:, 0, 0], made[:, 0, 1], color="C0", alpha=0.2, lw=0, label="80 %"
        )
    right.set(xlabel="steps", title="One of the windows")
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)


def export(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Export a student as an ONNX graph; return ``Export`` as a dict, and the same for people."""
    from distilts_forecaster.runtime.onnx import export_onnx

    student = load_student(args.student)
    path = args.onnx if args.onnx is not None else Path(args.student) / ONNX_FILE
    made = export_onnx(student, path, args.quantiles, args.precision)
    result = {**vars(made), "path": os.fspath(made.path)}
    text = (
        f"{made.path}: {made.size / 1024:,.0f} KiB, {made.precision}, opset {made.opset}\n"
        f"  inputs {made.inputs}\n  outputs {made.outputs}\n"
        f"  differs from the student by at most {made.largest_difference:.1e} of a context's "
        "standard deviation"
    )
    return result, text


def bench(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Time a student, beside the bare matrix product and onnxruntime where that is installed.

    Returns seconds by forecaster and batch size, seconds to load, bytes of weights and number of
    parameters; and the same for people.
    """
    start = time.perf_counter()
    student = load_student(args.student)
    loading = time.perf_counter() - start
    sizes = tuple(args.batch)
    with _one_thread():
        rows = {"predict": measure_latency(student, sizes, _SECONDS)}
        if isinstance(student, LinearForecaster):
            rows["the matrix product alone"] = _time_products(student, sizes)
        with suppress(ImportError):
            rows["onnxruntime"] = _time_onnx(student, sizes)
    size = None
    if (Path(args.student) / WEIGHTS_FILE).is_file():
        size = (Path(args.student) / WEIGHTS_FILE).stat().st_size
    result = {
        "seconds": {name: {str(n): t for n, t in row.items()} for name, row in rows.items()},
        "load_seconds": loading,
        "weights_bytes": size,
        "parameters": student.n_parameters,
    }
    width = max(map(len, rows)) + 2
    lines = [
        f"{student.input_chunk_length} -> {student.output_chunk_length}, "
        f"{student.n_parameters:,} parameters, loaded in {1e3 * loading:.1f} ms, one thread",
        f"{'microseconds a call':{width}s}" + "".join(f"{n:>12,} windows" for n in sizes),
    ]
    lines += [
        f"{name:{width}s}" + "".join(f"{1e6 * row[n]:20,.1f}" for n in sizes)
        for name, row in rows.items()
    ]
    return result, "\n".join(lines)


def _one_thread() -> Any:
    """Return a context in which NumPy uses one thread, where threadpoolctl is installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return nullcontext()
    return threadpool_limits(1)


def _time_products(student: LinearForecaster, sizes: Sequence[int]) -> dict[int, float]:
    """Time the matrix product alone of a linear student."""
    matrix, taken = student.folded[0], {}
    for n in sizes:
        rows = np.random.default_rng(0).normal(size=(n, len(matrix))).astype(np.float32)
        contexts = rows[0] if n == 1 else rows
        taken[n] = median_seconds(partial(np.matmul, contexts, matrix), _SECONDS)
    return taken


def _time_onnx(student: Forecaster, sizes: Sequence[int]) -> dict[int, float]:
    """Time the exported graph."""
    import tempfile

    from distilts_forecaster.runtime.onnx import export_onnx

    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        points = None if student.error_quantiles is None else ()
        made = export_onnx(student, Path(folder) / "student.onnx", points)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(made.path, options)
    rng = np.random.default_rng(0)
    for n in sizes:
        named: dict[str | int, Any] = {"N": n, "C": student.n_components or 1}
        given = {
            name: rng.normal(size=[named.get(s, s) for s in shape]).astype(np.float32)
            for name, shape in made.inputs.items()
        }
        taken[n] = median_seconds(partial(session.run, ["forecast"], given), _SECONDS)
    return taken


def write_frame(frame: Any, out: Path | None, as_json: bool) -> None:
    """Write a table: CSV, Parquet or JSON by the file's name, CSV or JSON to standard output.

    JSON is an object for each row.
    """
    kinds = {None: "csv", ".csv": "csv", ".parquet": "parquet", ".json": "json"}
    suffix = None if out is None else out.suffix.lower()
    if suffix not in kinds or (as_json and suffix not in (None, ".json")):
        raise ValueError(f"--out {out}: name a .csv, .parquet or .json file (with --json a .json).")
    kind = "json" if as_json else kinds[suffix]
    if kind == "parquet":
        with extra_for("Parquet", "cli"):
            import pyarrow  # noqa: F401
        frame.to_parquet(out, index=False)
    elif kind == "csv":
        frame.to_csv(sys.stdout if out is None else out, index=False)
    else:
        plain = frame.copy()
        for name in plain.columns:
            if plain[name].dtype.kind == "M":
                plain[name] = plain[name].dt.strftime("%Y-%m-%dT%H:%M:%S")
        text = json.dumps(as_json_value(plain.to_dict("records")), allow_nan=False)
        if out is None:
            print(text)
        else:
            out.write_text(text + "\n", encoding="utf-8")
