"""What a student costs where it runs: ``python -m benchmarks.deploy``.

* ``--part call``: a call for 1 and for 1,024 windows, 512 -> 96, on one thread: each student by
  the runtime, onnxruntime, the Darts facade and eager torch; beside the bare matrix product,
  scikit-learn, statsforecast, Darts' DLinearModel, a Lightning trainer's predict, and teachers of
  the published sizes;
* ``--part cold``: import, load and first forecast in a new process, its memory and the size of
  what is installed: this package alone in an environment of its own;
* ``--part million``: a million series, streamed from and to files, on two threads;
* ``--part precision``: float16 and int8 graphs, their size, and their error on the test span;
* ``--part fuzz``: see :mod:`benchmarks.fuzzing`.

Needs the extras ``chronos`` and ``onnx``, and statsforecast for two rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

# Before NumPy is imported: one thread for everything but what says otherwise.
if "million" not in sys.argv:
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import numpy as np

from benchmarks.data import add_data_argument, ett
from distilts_forecaster.runtime import Forecaster, load_student, save_student
from distilts_forecaster.runtime.latency import median_seconds

LOOKBACK, HORIZON = 512, 96
BATCHES = (1, 1024)
KINDS = ("linear", "dlinear", "mlp", "itransformer")


def fitted(data: Path, kind: str) -> Any:
    """Return a model fitted to one component of ETTh1, quickly: speed does not depend on it."""
    from darts import TimeSeries

    from distilts_forecaster import MLP, DistilledForecaster, DLinear, ITransformer, Training

    few = Training(max_epochs=1, max_windows_per_epoch=256, device="cpu")
    students = {"dlinear": DLinear, "mlp": MLP, "itransformer": ITransformer}
    student = students[kind](training=few) if kind in students else kind
    series = TimeSeries.from_values(ett(data, "ETTh1")[0][:3000, -1:])
    return DistilledForecaster(student=student, distillation_weight=0, verbose=False).fit(series)


def windows(data: Path) -> np.ndarray:
    """Return 1,024 windows of the component: (1,024, L)."""
    values = ett(data, "ETTh1")[0][:, -1].astype(np.float64)
    return np.lib.stride_tricks.sliding_window_view(values, LOOKBACK)[3000:4024].copy()


def torch_of(student: Forecaster) -> Callable[[np.ndarray], np.ndarray]:
    """Return the student's forecast by eager torch, its arrays in torch's own layers."""
    import torch

    from distilts_forecaster.runtime import LinearForecaster
    from distilts_forecaster.students import MLP, ITransformer
    from distilts_forecaster.students.base import NetworkShape

    if isinstance(student, LinearForecaster):
        network: Any = torch.nn.Linear(LOOKBACK, HORIZON, bias=False)
        network.weight.data = torch.from_numpy(student.weights[0].T.copy())
        transposed = False
    else:
        kinds = {"mlp": MLP, "itransformer": ITransformer}
        settings = kinds[student.kind](**student.sizes)  # type: ignore[attr-defined]
        network = settings.make_network(NetworkShape(LOOKBACK, HORIZON))
        network.load_state_dict({n: torch.from_numpy(a) for n, a in student.arrays.items()})  # type: ignore[attr-defined]
        transposed = True
    network.eval()

    def forecast(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            contexts = torch.from_numpy(rows)
            mean = contexts.mean(dim=1, keepdim=True)
            centred = contexts - mean
            if not transposed:
                return (mean + network(centred.float())).numpy()
            deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
            made = network((centred / deviation).float()[..., None])
            return (mean + deviation * made[0][:, :, 0, 0]).numpy()

    return forecast


def lightning_of(rows: np.ndarray) -> Callable[[int], Any]:
    """Return what predicts as NeuralForecast does: a new Lightning trainer for each call."""
    import pytorch_lightning as lightning
    import torch

    class DLinear(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.trend = torch.nn.Linear(LOOKBACK, HORIZON)
            self.remainder = torch.nn.Linear(LOOKBACK, HORIZON)
            self.average = torch.nn.AvgPool1d(25, stride=1)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            (contexts,) = batch
            padded = torch.nn.functional.pad(contexts[:, None], (12, 12), mode="replicate")
            trend = self.average(padded)[:, 0]
            return self.trend(trend) + self.remainder(contexts - trend)

    module = DLinear()

    def predict(n: int) -> Any:
        contexts = torch.from_numpy(rows[:n]).float()
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(contexts), batch_size=1024
        )
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        return trainer.predict(module, loader)

    return predict


def calls(data: Path) -> None:
    """Time calls."""
    import torch
    from darts import TimeSeries

    from distilts_forecaster.runtime.onnx import export_onnx

    torch.set_num_threads(1)
    import onnxruntime

    rows = windows(data)
    table: list[tuple[str, dict[int, float]]] = []

    def measure(
        name: str, call: Callable[[int], Any], seconds: float = 1.0, most: int = 1024
    ) -> None:
        taken = {n: median_seconds(partial(call, n), seconds) for n in BATCHES if n <= most}
        if most < 1024:  # a large batch takes minutes: what it takes is told by a smaller one
            taken[1024] = median_seconds(partial(call, most), seconds) * 1024 / most
        table.append((name, taken))
        told = "".join(f"{1e6 * t:16,.1f}" for t in taken.values())
        ratios = (
            "".join(f"{t / table[1][1][n]:14,.1f}" for n, t in taken.items())
            if len(table) > 1
            else ""
        )
        print(f"{name:44s}{told}{ratios}", flush=True)

    print("\nmicroseconds a call, 512 -> 96, one thread, and relative to the runtime's linear")
    print(f"{'':44s}{'1 window':>16s}{'1,024 windows':>16s}{'1':>14s}{'1,024':>14s}")
    series = [TimeSeries.from_values(row) for row in rows]
    linear = fitted(data, "linear")
    matrix = linear.student_.folded[0]
    rows32 = rows.astype(np.float32)
    measure(
        "bare matrix product, float32", lambda n: (rows32[0] if n == 1 else rows32[:n]) @ matrix
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for kind in KINDS:
        model = linear if kind == "linear" else fitted(data, kind)
        student = model.student_
        with tempfile.TemporaryDirectory() as folder:
            made = export_onnx(student, Path(folder) / "student.onnx")
            session = onnxruntime.InferenceSession(made.path, options)
        eager = torch_of(student)
        np.testing.assert_allclose(
            eager(rows[:8]), student.predict(rows[:8, :, None])[:, :, 0], rtol=1e-4, atol=1e-4
        )
        measure(
            f"{kind}: runtime",
            lambda n, s=student: s.predict(rows[0] if n == 1 else rows[:n, :, None]),
        )
        measure(
            f"{kind}: onnxruntime",
            lambda n, s=session: s.run(None, {"context": rows32[:n, :, None]}),
        )
        measure(f"{kind}: eager torch", lambda n, f=eager: f(rows[:n]))
        measure(
            f"{kind}: Darts facade",
            lambda n, m=model: m.predict(HORIZON, series=series[0] if n == 1 else series[:n]),
        )
    from sklearn.linear_model import LinearRegression

    targets = np.random.default_rng(0).normal(size=(len(rows), HORIZON))
    regression = LinearRegression().fit(rows, targets)
    measure("scikit-learn LinearRegression.predict", lambda n: regression.predict(rows[:n]))
    with contextlib.suppress(ImportError):
        from statsforecast.models import AutoETS, SeasonalNaive

        for name, one, most in (
            ("SeasonalNaive", SeasonalNaive(season_length=24), 1024),
            ("AutoETS", AutoETS(season_length=24), 1),
        ):
            measure(
                f"statsforecast {name}, fitted to each window",
                lambda n, one=one: [one.forecast(y=row, h=HORIZON) for row in rows[:n]],
                most=most,
            )
    measure("Lightning, a trainer for each call", lightning_of(rows), 3.0)
    from benchmarks.speed import dlinear

    theirs = dlinear(TimeSeries.from_values(ett(data, "ETTh1")[0][:3000, -1:]))
    series32 = [one.astype(np.float32) for one in series]
    measure(
        "Darts DLinearModel.predict",
        lambda n: theirs.predict(
            HORIZON, series=series32[0] if n == 1 else series32[:n], verbose=False
        ),
        3.0,
    )
    from benchmarks.bolt import PUBLISHED, save_published
    from distilts_forecaster import load_teacher

    for name in PUBLISHED:
        with tempfile.TemporaryDirectory() as folder:
            save_published(Path(folder) / "weights", name)
            teacher = load_teacher(Path(folder) / "weights")
            measure(
                f"{name}, random weights (32 windows x 32)",
                lambda n, t=teacher: t.forecast(rows32[:n, :, None], HORIZON, (0.5,)),
                4.0,
                most=32,
            )


#: What a new process tells of itself at its end. (Its ru_maxrss would be its parent's, at first.)
_TELL = """
import json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"inside": seconds, "memory": int(status["VmHWM"].split()[0])}))
"""

#: Imports, loads, forecasts once.
_COLD = """
import time
start = time.perf_counter()
import sys
import numpy as np
from distilts_forecaster.runtime import load_student
student = load_student(sys.argv[1])
student.predict(np.arange(512.0))
seconds = time.perf_counter() - start
"""

_COLD_ONNX = """
import time
start = time.perf_counter()
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
session.run(None, {"context": np.arange(512, dtype=np.float32).reshape(1, 512, 1)})
seconds = time.perf_counter() - start
"""


def folder_size(folder: Path) -> int:
    """Return the bytes of all files but compiled ones."""
    files = (f for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    return sum(f.stat().st_size for f in files if f.suffix != ".pyc")


def run_cold(python: str, code: str, path: Path, repeats: int = 10) -> tuple[float, float, float]:
    """Return median seconds of the process, seconds inside, and its memory in MB."""
    outside, inside, memory = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        out = subprocess.run(
            [python, "-c", code + _TELL, str(path)], capture_output=True, check=True
        )
        outside.append(time.perf_counter() - start)
        told = json.loads(out.stdout)
        inside.append(told["inside"])
        memory.append(told["memory"] / 1000)
    return float(np.median(outside)), float(np.median(inside)), float(np.median(memory))


def cold(data: Path) -> None:
    """Install into an empty environment, and start."""
    from distilts_forecaster.runtime.onnx import export_onnx

    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        students = {}
        for kind in ("linear", "mlp", "itransformer"):
            students[kind] = fitted(data, kind)
            students[kind].save_student(folder / kind)
        export_onnx(students["linear"].student_, folder / "linear.onnx")
        for what, code, packages in (
            ("this package", _COLD, [str(root)]),
            ("onnxruntime", _COLD_ONNX, ["numpy", "onnxruntime"]),
        ):
            place = folder / what.replace(" ", "_")
            venv.create(place, with_pip=True)
            python = str(place / "bin" / "python")
            site = next((place / "lib").glob("python*/site-packages"))
            before = folder_size(site)
            pip = [python, "-m", "pip", "install", "-q", "--no-cache-dir", *packages]
            subprocess.run([*pip, "--disable-pip-version-check"], check=True)
            size = (folder_size(site) - before) / 1e6
            print(f"\n{what}: {size:.0f} MB installed (without bytecode)")
            paths = (
                [folder / "linear.onnx"] if code is _COLD_ONNX else [folder / k for k in students]
            )
            for path in paths:
                outside, inside, memory = run_cold(python, code, path)
                artifact = path.stat().st_size if path.is_file() else folder_size(path)
                print(
                    f"  {path.name:14s}{artifact / 1e3:7.0f} KB   import, load, first forecast "
                    f"{inside:.3f} s (the whole process {outside:.3f} s), {memory:.0f} MB resident"
                )


def million(data: Path, n: int = 1_000_000) -> None:
    """Forecast a million series from one file into another, a part at a time."""
    student = fitted(data, "linear").student_
    with tempfile.TemporaryDirectory() as name:
        save_student(student, Path(name) / "student")
        values = np.lib.stride_tricks.sliding_window_view(
            ett(data, "ETTh1")[0][:, -1].astype(np.float32), LOOKBACK
        )
        with open(Path(name) / "contexts.f32", "wb") as file:
            for start in range(0, n, 4096):
                places = np.arange(start, min(n, start + 4096)) % len(values)
                file.write(values[places].tobytes())
        for threads in (1, 2):
            code = f"from benchmarks.deploy import stream; stream({name!r}, {threads})"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            (Path(name) / "forecasts.f32").unlink()


def stream(folder: str, threads: int, part: int = 2048) -> None:
    """Forecast all rows of a file: what a batch job would do."""
    student = load_student(Path(folder) / "student")
    source = os.open(Path(folder) / "contexts.f32", os.O_RDONLY)
    target = os.open(Path(folder) / "forecasts.f32", os.O_WRONLY | os.O_CREAT)
    row = 4 * LOOKBACK
    n = os.fstat(source).st_size // row

    def forecast(first: int) -> None:
        content = os.pread(source, part * row, first * row)
        contexts = np.frombuffer(content, np.float32).reshape(-1, LOOKBACK, 1)
        made = student.predict(contexts, HORIZON)[:, :, 0].astype(np.float32)
        os.pwrite(target, made.tobytes(), first * HORIZON * 4)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(forecast, range(0, n, part)):
            pass
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(
        f"{n:,} series x {HORIZON} steps, {threads} thread(s): {seconds:.2f} s "
        f"({1e6 * seconds / n:.2f} us each), peak memory {peak / 1e3:.0f} MB"
    )


def precision(data: Path) -> None:
    """Compare graphs by size and by their error on the test months of ETTh1."""
    import onnxruntime
    from darts import TimeSeries

    from distilts_forecaster import DistilledForecaster
    from distilts_forecaster.runtime.onnx import export_onnx

    values, train_stop, test_start, stop = ett(data, "ETTh1")
    series = TimeSeries.from_values(values[:train_stop])
    cut = np.lib.stride_tricks.sliding_window_view(
        values[test_start - LOOKBACK : stop], LOOKBACK + HORIZON, axis=0
    )[::7].transpose(0, 2, 1)
    contexts, actual = cut[:, :LOOKBACK].astype(np.float32), cut[:, LOOKBACK:]
    print(f"\nETTh1, {len(cut):,} windows of the test months: mean squared error, standardised")
    for kind in ("linear", "mlp", "itransformer"):
        model = DistilledForecaster(student=kind, random_state=0, verbose=False).fit(series)
        error = float(np.mean((model.student_.predict(contexts) - actual) ** 2))
        print(f"  {kind}, NumPy: {error:.5f}")
        for what in ("float32", "float16", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                made = export_onnx(model.student_, Path(folder) / "s.onnx", precision=what)
                session = onnxruntime.InferenceSession(made.path)
            forecast = session.run(["forecast"], {"context": contexts})[0]
            changed = float(np.mean((forecast - actual) ** 2))
            taken = median_seconds(
                partial(session.run, ["forecast"], {"context": contexts[:1, :, :1]}), 0.3
            )
            print(
                f"    {what:8s} {made.size / 1e3:6.0f} KB  {changed:.5f} "
                f"({changed / error - 1:+.4%})  off by {made.rms_difference:.1e} (root mean "
                f"square), {made.largest_difference:.1e} (largest) of a context's deviation; "
                f"one window {1e6 * taken:.1f} us"
            )


def fuzz(data: Path) -> None:
    """Damage what is read, and ask for what cannot be."""
    from benchmarks.fuzzing import fuzz_all

    with tempfile.TemporaryDirectory() as folder:
        for kind in ("linear", "mlp", "itransformer"):
            fitted(data, kind).save_student(Path(folder) / kind)
        fuzz_all(Path(folder))


PARTS: dict[str, Callable[[Path], None]] = {
    "call": calls,
    "cold": cold,
    "million": million,
    "precision": precision,
    "fuzz": fuzz,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one part only")
    add_data_argument(parser)
    args = parser.parse_args(arguments)
    if args.part:
        warnings.simplefilter("ignore")
        for name in ("pytorch_lightning", "lightning.pytorch", "darts", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        PARTS[args.part](args.data)
        return
    for part in PARTS:
        command = [sys.executable, "-m", "benchmarks.deploy", "--part", part]
        subprocess.run([*command, "--data", str(args.data)], check=False)


if __name__ == "__main__":
    main()
