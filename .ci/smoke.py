"""What an installation with one extra must do: ``python smoke.py EXTRA``.

It also must not bring what the extra is not for.
"""

import importlib.util
import json
import runpy
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from pathlib import Path

import numpy as np

import distilts_forecaster
from distilts_forecaster import load_student

EXTRA = sys.argv[1]
ROOT = Path(__file__).resolve().parents[1]
STUDENT = str(ROOT / "tests" / "artifacts" / "format-1" / "linear")
WAVE = np.sin(np.arange(300) * 2 * np.pi / 24)
#: What must be missing: each extra brings what it needs, and nothing else that is heavy.
ABSENT = {
    "none": {"scipy", "pandas", "darts", "sktime", "sklearn", "torch", "matplotlib"},
    "fit": {"pandas", "darts", "sktime", "sklearn", "torch", "matplotlib"},
    "plot": {"pandas", "darts", "sktime", "sklearn", "torch", "scipy"},
    "darts": {"torch", "lightning", "sktime", "chronos"},
    "sktime": {"torch", "darts"},
    "sklearn": {"torch", "darts", "sktime", "pandas"},
    "sktime,torch": {"darts", "lightning"},
    "torch": {"darts", "lightning", "sktime"},
    "hub": {"torch", "darts", "pandas"},
    "onnx": {"torch", "darts", "pandas"},
    "cli": {"torch", "darts", "sktime"},
    "serve": {"torch", "darts", "sktime", "pandas", "scipy"},
    "chronos": {"darts", "sktime", "lightning"},
}


def run_student() -> None:
    """Load and run a saved student."""
    student = load_student(STUDENT)
    context = np.arange(student.input_chunk_length, dtype=float)
    assert np.isfinite(student.predict(context[:, None].repeat(student.n_components or 1, 1))).all()


def run_teacher() -> None:
    """Ask the bundled teacher."""
    teacher = distilts_forecaster.load_teacher("bundled")
    forecast = teacher.forecast(WAVE[None, :100, None].astype(np.float32), 5, (0.5,))
    assert forecast.quantiles.shape == (1, 5, 1, 1)


def run_darts(student: object = "linear") -> None:
    """Fit, forecast and backtest with Darts."""
    from darts import TimeSeries
    from darts.metrics import mae

    series = TimeSeries.from_values(WAVE)
    model = distilts_forecaster.DistilledForecaster(48, 12, student=student, verbose=False)
    assert len(model.fit(series).predict(n=30)) == 30
    assert model.backtest(series, retrain=False, metric=mae) < 0.01


def run_sktime(student: object = "linear") -> None:
    """Fit and forecast with sktime."""
    import pandas as pd

    from distilts_forecaster.sktime import DistilledForecaster

    forecaster = DistilledForecaster(48, 12, student=student, verbose=False)
    assert len(forecaster.fit(pd.Series(WAVE), fh=[1, 2, 30]).predict()) == 3


def run_sklearn() -> None:
    """Fit and forecast with scikit-learn."""
    from distilts_forecaster.sklearn import DistilledRegressor

    rows = np.lib.stride_tricks.sliding_window_view(WAVE, 60)
    made = DistilledRegressor(verbose=False).fit(rows[:, :48], rows[:, 48:]).predict(rows[:3, :48])
    assert made.shape == (3, 12)


def small_network() -> object:
    """Return a student that is trained by gradient, for a moment."""
    return distilts_forecaster.MLP(
        hidden_size=8, training=distilts_forecaster.Training(max_epochs=1)
    )


def run_torch() -> None:
    """Train a network on windows, without a facade."""
    from distilts_forecaster.distill.pipeline import fit_student
    from distilts_forecaster.settings import make_settings
    from distilts_forecaster.windows.source import prepare_series

    settings = make_settings(48, 12, student=small_network(), random_state=0)
    student = fit_student([prepare_series(WAVE[:, None])], settings, "bundled", False).student
    assert student.predict(WAVE[-48:]).shape == (12,)


def run_chronos() -> None:
    """Ask a Chronos-Bolt with random weights."""
    bolt = runpy.run_path(str(ROOT / "benchmarks" / "bolt.py"))
    with tempfile.TemporaryDirectory() as folder:
        bolt["save_bolt"](folder, 16, 8, 32, 1, 64, 16, 16)
        teacher = distilts_forecaster.load_teacher(folder)
        forecast = teacher.forecast(WAVE[None, :64, None].astype(np.float32), 8, (0.5,))
    assert forecast.quantiles.shape == (1, 8, 1, 1)


def run_hub() -> None:
    """Look for a student on the hub, which cannot be reached."""
    said = ""
    try:
        load_student("nobody/nothing")
    except ValueError as error:
        said = str(error)
    assert "hub" in said, said


def run_onnx() -> None:
    """Export students, which compares the graphs with them."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("linear", "mlp", "itransformer"):
            student = load_student(Path(STUDENT).with_name(kind))
            distilts_forecaster.export_onnx(student, Path(folder) / f"{kind}.onnx")


def run_cli(*more: str) -> None:
    """Forecast a table from the command line."""
    import pandas as pd

    student = load_student(STUDENT)
    columns = [f"c{i}" for i in range(student.n_components or 1)]
    times = pd.date_range("2024", periods=len(WAVE), freq="h", name="ds")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        pd.DataFrame(dict.fromkeys(columns, WAVE), index=times).to_csv(table)
        command = [str(Path(sys.executable).parent / "distilts")]
        out = Path(folder) / "out.parquet"
        subprocess.run([*command, "predict", STUDENT, str(table), "--out", str(out)], check=True)
        assert len(pd.read_parquet(out)) == student.output_chunk_length
        picture = ["--plot", str(Path(folder) / "report.png")]
        subprocess.run([*command, "report", STUDENT, str(table), *picture], check=True)
        if "fit" in more:
            fitted = ["--horizon", "6", "--out", str(Path(folder) / "fitted"), "--quiet"]
            subprocess.run([*command, "fit", str(table), *fitted], check=True)


def run_serve() -> None:
    """Answer a request over HTTP."""
    command = [str(Path(sys.executable).parent / "distilts"), "serve", STUDENT, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = process.stderr.readline().split(" at ")[1].partition(",")[0]
        student = load_student(STUDENT)
        context = [[1.0] * (student.n_components or 1)] * student.input_chunk_length
        body = json.dumps({"context": context}).encode()
        with urllib.request.urlopen(f"{address}/predict", body) as answer:
            assert len(json.load(answer)["forecast"]) == student.output_chunk_length
    finally:
        process.terminate()
        process.wait()


RUNS = {
    "none": [],
    "fit": [run_teacher],
    "plot": [],
    "darts": [run_darts],
    "sktime": [run_sktime],
    "sklearn": [run_sklearn],
    "torch": [run_torch],
    "sktime,torch": [run_sktime, lambda: run_sktime(small_network())],
    "darts-torch": [run_darts, lambda: run_darts(small_network())],
    "chronos": [run_chronos],
    "hub": [run_hub],
    "onnx": [run_onnx],
    "cli": [run_cli],
    "serve": [run_serve],
    "cli,darts": [lambda: run_cli("fit")],
    "lowest-darts": [run_darts, run_onnx, lambda: run_cli("fit"), run_serve],
    "lowest": [run_sklearn, run_sktime],
    "lowest-torch": [run_torch, run_sklearn, run_sktime, lambda: run_sktime(small_network())],
}

assert "site-packages" in distilts_forecaster.__file__, distilts_forecaster.__file__
found = {name for name in ABSENT.get(EXTRA, ()) if importlib.util.find_spec(name)}
assert not found, f"[{EXTRA}] brings {found}"
warnings.simplefilter("ignore")
run_student()
for run in RUNS[EXTRA]:
    run()
print(f"[{EXTRA}] works")
