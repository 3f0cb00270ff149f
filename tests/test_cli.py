import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal

from distilts_forecaster import LinearForecaster, load_student, save_student
from distilts_forecaster.cli import main as main_module
from distilts_forecaster.cli.main import main
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles


@pytest.fixture
def table(tmp_path):
    values = seasonal(300, 2)
    times = pd.date_range("2024-01-01", periods=300, freq="h")
    frame = pd.DataFrame({"ds": times, "a": values[:, 0], "b": values[:, 1]})
    frame.to_csv(tmp_path / "data.csv", index=False)
    return tmp_path / "data.csv"


@pytest.fixture
def student(tmp_path):
    offsets = np.sort(np.random.default_rng(0).normal(size=(6, 25)), axis=1).astype(np.float32)
    weights = np.zeros((1, 24, 6), np.float32)
    weights[0, -6:] = np.eye(6)
    save_student(
        LinearForecaster(weights, error_quantiles=ErrorQuantiles(offsets, LEVELS)),
        tmp_path / "student",
    )
    return str(tmp_path / "student")


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


FIT = ("--horizon", 6, "--lookback", 24, "--quiet")


def test_fit_predict_report_export_bench_work_one_after_the_other(tmp_path, table, capsys):
    out = tmp_path / "student"
    code, printed, _ = run(
        capsys, "fit", table, "--out", out, *FIT, "--quantiles", 0.1, 0.5, 0.9, "--json"
    )
    assert code == 0
    told = json.loads(printed)
    assert told["fit"]["validation_error"] < told["fit"]["naive_validation_error"]
    assert told["teacher"]["name"] == "bundled"
    assert (out / "README.md").is_file()

    code, printed, _ = run(capsys, "predict", out, table, "--quantiles", 0.1, 0.9)
    frame = pd.read_csv(io.StringIO(printed), parse_dates=["ds"])
    assert list(frame.columns) == ["ds", "a", "a_q0.1", "a_q0.9", "b", "b_q0.1", "b_q0.9"]
    assert frame["ds"].tolist() == pd.date_range("2024-01-13 12:00", periods=6, freq="h").tolist()
    expected = load_student(out).predict(pd.read_csv(table)[["a", "b"]].to_numpy())
    np.testing.assert_allclose(frame[["a", "b"]], expected)

    code, printed, _ = run(
        capsys, "report", out, table, "--json", "--plot", tmp_path / "r.png", "--teacher", "bundled"
    )
    told = json.loads(printed)
    errors = told["errors"]
    assert errors["student"]["MASE"] < errors["repeating the last value"]["MASE"]
    assert "teacher" in errors
    assert 60 < told["coverage"]["80"] < 97
    assert (tmp_path / "r.png").stat().st_size > 10_000

    code, printed, _ = run(capsys, "bench", out, "--batch", 1, 4, "--json")
    assert json.loads(printed)["seconds"]["predict"]["1"] > 0

    pytest.importorskip("onnxruntime")
    code, printed, _ = run(capsys, "export", out, "--onnx", "--json")
    assert json.loads(printed)["largest_difference"] < 1e-4
    assert (out / "model.onnx").is_file()


@pytest.mark.filterwarnings("default")
def test_lengths_are_kept_or_refused_and_fitted_where_they_are_open(
    tmp_path, table, capsys, monkeypatch
):
    monkeypatch.setattr("distilts_forecaster.settings._told", set())
    out, given = tmp_path / "student", ("--lookback", 512, "--horizon", 6)
    code, _, err = run(capsys, "fit", table, "--out", out, *given, "--quiet")
    assert code == 2
    assert "Give input_chunk_length=" in err
    assert not out.exists()
    code, _, err = run(capsys, "fit", table, "--out", out, "--horizon", 6, "--quiet")
    assert code == 0
    assert "short for 512 -> 96 steps" in err
    assert load_student(out).output_chunk_length == 6


def test_a_fault_of_the_program_is_told_apart_from_one_of_the_user(table, capsys, monkeypatch):
    def broken(*args):
        raise KeyError("inner")

    monkeypatch.setitem(main_module._RUN, "predict", broken)
    code, _, err = run(capsys, "predict", "student", table)
    assert code == 70
    assert "--debug" in err
    for arguments in (["--debug", "predict"], ["predict", "--debug"]):
        with pytest.raises(KeyError):
            run(capsys, *arguments, "student", table)


def test_a_tau_that_cannot_be_is_the_users(tmp_path, table, capsys):
    code, _, err = run(capsys, "fit", table, "--out", tmp_path / "out", "--tau", "foo")
    assert code == 2
    assert "horizon_weights must be a number" in err


def test_json_keeps_all_digits(tmp_path, student, capsys):
    pd.DataFrame({"y": 1e-11 * np.arange(1, 31)}).to_csv(tmp_path / "small.csv", index=False)
    _, printed, _ = run(capsys, "predict", student, tmp_path / "small.csv", "--json")
    made = [row["y"] for row in json.loads(printed)]
    expected = load_student(student).predict(1e-11 * np.arange(1, 31))
    np.testing.assert_allclose(made, expected, rtol=1e-9)


def test_people_read_text(tmp_path, table, capsys):
    out = tmp_path / "student"
    code, printed, _ = run(capsys, "fit", table, "--out", out, *FIT)
    assert code == 0
    assert "the same without a teacher" in printed
    assert "repeating the last" in printed
    _, printed, _ = run(capsys, "report", out, table)
    assert "MASE" in printed
    _, printed, _ = run(capsys, "bench", out, "--batch", 1)
    assert "the matrix product alone" in printed


def test_long_tables_come_back_long(tmp_path, student, capsys):
    times = pd.date_range("2024-01-01", periods=30, freq="MS")
    frame = pd.concat(
        pd.DataFrame({"unique_id": name, "ds": times, "y": np.arange(30.0)}) for name in "xy"
    )
    frame.to_csv(tmp_path / "long.csv", index=False)
    code, _, _ = run(
        capsys, "predict", student, tmp_path / "long.csv", "--out", tmp_path / "out.csv"
    )
    assert code == 0
    made = pd.read_csv(tmp_path / "out.csv")
    assert list(made.columns) == ["unique_id", "ds", "y"]
    assert made["unique_id"].tolist() == ["x"] * 6 + ["y"] * 6
    assert made["ds"].iloc[0] == "2026-07-01"
    code, printed, _ = run(capsys, "predict", student, tmp_path / "long.csv", "--json")
    assert set(json.loads(printed)[0]) == {"unique_id", "ds", "y"}


def test_parquet_goes_in_and_out(tmp_path, student, table, capsys):
    pytest.importorskip("pyarrow")
    pd.read_csv(table, parse_dates=["ds"]).to_parquet(tmp_path / "data.parquet")
    out = tmp_path / "out.parquet"
    assert run(capsys, "predict", student, tmp_path / "data.parquet", "--out", out)[0] == 0
    assert list(pd.read_parquet(out).columns) == ["ds", "a", "b"]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["report", "STUDENT", "DATA", "--plot", "OUT.png"], "matplotlib"),
        (["predict", "STUDENT", "DATA", "--out", "OUT.parquet"], "pyarrow"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path, student, table, capsys, monkeypatch, arguments, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"{missing}.figure", raising=False)
    names = {"STUDENT": str(student), "DATA": str(table), "OUT": str(tmp_path / "out")}
    for name, value in names.items():
        arguments = [one.replace(name, value) for one in arguments]
    code, _, said = run(capsys, *arguments)
    assert code == 2
    assert f'needs {missing}: pip install "distilts-forecaster[cli]"' in said
    assert not list(tmp_path.glob("out.*"))


def test_standard_input_and_a_reader_that_has_enough(student, table):
    command = f"cat {table} | {sys.executable} -m distilts_forecaster.cli.main predict {student} -"
    out = subprocess.run(
        f"{command} --horizon 5000 | head -2",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.splitlines()[0] == "ds,a,b"
    assert out.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "no/such/place/at/all", "DATA"], "There is no directory"),
        (["predict", "STUDENT", "nothing.csv"], "No such file"),
        (["predict", "STUDENT", "DATA", "--target", "z"], "--target z"),
        (["predict", "STUDENT", "DATA", "--quantiles", "2"], "between 0 and 1"),
        (["predict", "STUDENT", "DATA", "--out", "no/such/folder/x.csv"], "does not exist"),
        (["predict", "STUDENT", "DATA", "--out", "x.txt"], "name a .csv"),
        (["predict", "STUDENT", "DATA", "--out", "x.csv", "--json"], "name a .csv"),
        (["report", "STUDENT", "DATA", "--season", "99"], "--season 99"),
        (["report", "STUDENT", "DATA", "--plot", "x.txt"], "--plot x.txt"),
        (["fit", "DATA", "--out", "DATA"], "is a file"),
        (["fit", "DATA", "--out", "out", "--alpha", "much"], "distillation_weight"),
        (["fit", "DATA", "--out", "out", "--quantiles", "0.1"], "0.5"),
        (["bench", "DATA"], "There is no directory"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(tmp_path, student, table, capsys, arguments, message):
    names = {"STUDENT": student, "DATA": str(table)}
    code, out, err = run(capsys, *(names.get(a, a) for a in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("distilts: ")
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["fit", "x"], ["predict"], ["bench", "x", "--batch", "0"], []]
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_student_with_covariates_is_refused(tmp_path, table, capsys):
    from test_runtime_artifact import make

    save_student(make("covariates"), tmp_path / "student")
    code, _, err = run(capsys, "predict", tmp_path / "student", table)
    assert code == 2
    assert "needs covariates" in err


def test_what_is_there_is_not_overwritten_and_nothing_is_fitted(tmp_path, table, capsys):
    (tmp_path / "README.md").write_text("mine")
    code, _, err = run(capsys, "fit", table, "--out", tmp_path)
    assert code == 2
    assert "holds no student" in err


def test_the_label_cache_is_shown_bounded_and_emptied(tmp_path, capsys):
    from distilts_forecaster.teachers.stores import DiskStore

    folder = tmp_path / "cache"
    code, printed, _ = run(capsys, "cache", "info", "--dir", folder, "--json")
    assert (code, json.loads(printed)["entries"]) == (0, 0)
    assert not folder.exists()
    store = DiskStore(folder)
    store.put({i.to_bytes(16, "big"): bytes(1000) for i in range(50)})
    code, printed, _ = run(capsys, "cache", "info", "--dir", folder)
    assert code == 0
    assert "50 entries" in printed
    code, printed, _ = run(capsys, "cache", "limit", "1MB", "--dir", folder, "--json")
    assert json.loads(printed)["limit"] == 1_000_000
    assert DiskStore(folder).max_bytes == 1_000_000
    code, printed, _ = run(capsys, "cache", "clear", "--dir", folder, "--json")
    assert json.loads(printed)["entries"] == 0
    assert store.count() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("limit",), "give a size with limit"),
        (("info", "5MB"), "give a size with limit"),
        (("limit", "much"), "number of bytes"),
    ],
)
def test_cache_says_what_is_wrong(tmp_path, capsys, arguments, message):
    code, _, err = run(capsys, "cache", *arguments, "--dir", tmp_path)
    assert code == 2
    assert message in err


def test_cache_leaves_a_foreign_file_alone(tmp_path, capsys):
    (tmp_path / "labels.sqlite").write_text("mine")
    for action in (("info",), ("clear",), ("limit", "1MB")):
        code, _, err = run(capsys, "cache", *action, "--dir", tmp_path)
        assert code == 2
        assert "is no label cache" in err
    assert (tmp_path / "labels.sqlite").read_text() == "mine"


@pytest.mark.filterwarnings("default")
def test_series_without_values_at_their_end_are_forecast_nan(tmp_path, student, capsys):
    times = pd.date_range("2024-01-01", periods=60, freq="h")
    values = np.sin(np.arange(60.0))
    ended = np.where(np.arange(60) < 20, values, np.nan)
    frame = pd.concat(
        pd.DataFrame({"unique_id": name, "ds": times, "y": y})
        for name, y in (("a", values), ("b", ended))
    )
    frame.to_csv(tmp_path / "data.csv", index=False)
    code, printed, err = run(capsys, "predict", student, tmp_path / "data.csv")
    assert code == 0
    assert err.count("1 of 2 contexts have no value") == 1
    made = pd.read_csv(io.StringIO(printed))
    assert made.groupby("unique_id")["y"].apply(lambda y: y.isna().all()).tolist() == [False, True]
