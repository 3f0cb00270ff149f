import numpy as np
import pandas as pd
import pytest
from conftest import seasonal

torch = pytest.importorskip("torch")

from distilts_forecaster import DistilledForecaster, ITransformer, LinearForecaster, Training  # noqa: E402
from distilts_forecaster.cli.ablation import (  # noqa: E402
    ARMS,
    ablate,
    plot,
    read_spans,
    score,
    summarise,
)
from distilts_forecaster.cli.main import main  # noqa: E402

L, T = 24, 6
STUDENT = ITransformer(d_model=16, d_ff=16, training=Training(max_epochs=1))


def write(path, n=300, components=2, **columns):
    frame = pd.DataFrame(seasonal(n, components), columns=[f"c{i}" for i in range(components)])
    times = pd.date_range("2024-01-01", periods=n, freq="h").astype(str)
    frame = frame.assign(**columns)
    frame.insert(0, "date", times)
    frame.to_csv(path, index=False)
    return path


def text(path, content):
    path.write_text(content)
    return path


def test_files_are_cut_and_standardised_by_the_training_span(tmp_path):
    data = read_spans(write(tmp_path / "mine.csv"))
    assert (data.name, data.train_stop, data.validation_stop) == ("mine", 210, 240)
    assert data.values.shape == (300, 2)
    np.testing.assert_allclose(data.values[:210].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.values[:210].std(axis=0), 1)


def test_ett_files_are_cut_by_months(tmp_path):
    hours = write(tmp_path / "ETTh9.csv", 15_000, 1)
    data = read_spans(hours)
    assert (data.train_stop, data.validation_stop, len(data.values)) == (8640, 11520, 14400)


@pytest.mark.parametrize("split", [(100, 50, 50), (0.5, 0.25, 0.25)])
def test_the_split_can_be_given_in_points_or_shares(tmp_path, split):
    data = read_spans(write(tmp_path / "mine.csv", 200), split)
    assert (data.train_stop, data.validation_stop, len(data.values)) == (100, 150, 200)


def test_gaps_are_filled_with_a_warning(tmp_path):
    path = write(tmp_path / "mine.csv", gappy=[np.nan] * 3 + [1.0, 2.0] * 148 + [np.nan])
    with pytest.warns(UserWarning, match="4 missing values interpolated"):
        assert np.isfinite(read_spans(path).values).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing.csv", "no file"),
        (lambda p: write(p / "words.csv", word=["a", "b", "c"] * 100), "word holds 'a' in row 1"),
        (lambda p: write(p / "empty.csv", components=0), "no column with values"),
        (lambda p: write(p / "tiny.csv", n=3), "cannot be split"),
        (lambda p: text(p / "void.csv", ""), "void.csv is no CSV file"),
        (lambda p: text(p / "two.csv", "id,y\n" + "a,1\nb,1\n" * 50), "holds 2 series"),
        # A component with a bad cell is not time.
        (lambda p: text(p / "bad.csv", "a,b\n?,1\n" + "1,2\n" * 50), "a holds"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        read_spans(make(tmp_path))


def test_the_score_is_that_of_every_window_of_the_test_span():
    values = seasonal(100, 2)
    last = np.zeros((1, L, T), np.float32)
    last[0, -1] = 1.0
    student = LinearForecaster(last)
    errors = [values[o - 1][None] - values[o : o + T] for o in range(60, 100 - T + 1)]
    mse, mae = score(student, values, 60, T)
    assert mse == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    assert mae == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)


def test_every_arm_and_seed_is_run_once_and_kept(tmp_path, monkeypatch):
    data = read_spans(write(tmp_path / "mine.csv"))
    table = tmp_path / "runs.csv"
    fits = []
    original = DistilledForecaster.fit

    def counting(self, *args, **kwargs):
        fits.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DistilledForecaster, "fit", counting)
    given = {"student": STUDENT, "table": table, "labels": ("small", "bundled"), "verbose": False}
    first = ablate(data, T, L, seeds=[0], **given)
    assert list(first["arm"]) == list(ARMS)
    settings = [
        (m.model_params["distillation_weight"], m.model_params["horizon_weights"],
         m.model_params["alignment"]) for m in fits
    ]  # fmt: skip
    assert settings[0][0] == 0
    assert settings[1:] == [
        (0.5, 0.0, None), (0.5, 1.0, None), (0.5, 0.0, "factorised"), (0.5, 1.0, "factorised")
    ]  # fmt: skip
    both = ablate(data, T, L, seeds=[0, 1], **given)
    assert len(fits) == 10
    assert len(both) == len(pd.read_csv(table)) == 10
    summary = summarise(both)
    assert list(summary.columns[-5:]) == list(ARMS)
    baseline = both[both["arm"] == "baseline"]["mse"]
    assert summary["baseline"][0] == f"{baseline.mean():.4f} +-{baseline.std():.4f}"
    plot(both, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert all(f"<!-- {arm} -->" in drawn for arm in ARMS)


def test_spans_too_short_for_a_window_are_refused(tmp_path):
    data = read_spans(write(tmp_path / "mine.csv"))
    with pytest.raises(ValueError, match="training span is too short for lookback 240"):
        ablate(data, T, 240)
    with pytest.raises(ValueError, match="test span is too short"):
        ablate(data, 80, L)


def test_the_command_prints_a_table_and_saves_a_picture(tmp_path, capsys):
    path = write(tmp_path / "mine.csv", 160, 1)
    picture = tmp_path / "picture.png"
    arguments = ["ablate", str(path), "--horizons", "4", "--lookback", "16", "--seeds", "1"]
    arguments += ["--student", "mlp", "--output", str(picture), "--quiet"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(arm in out for arm in ARMS)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["ablate", str(tmp_path / "no.csv")]) == 2
    assert "There is no file" in capsys.readouterr().err
    path = write(tmp_path / "mine.csv")
    assert main(["ablate", str(path), "--seeds", "0"]) == 2
    assert main(["ablate", str(path), "--output", str(tmp_path / "picture.txt")]) == 2


def test_runs_of_other_settings_or_data_are_not_taken_for_these(tmp_path):
    data = read_spans(write(tmp_path / "2024.csv"))
    table = tmp_path / "runs.csv"
    given = {"student": STUDENT, "table": table, "seeds": [0], "arms": ["baseline"]}
    first = ablate(data, T, L, alpha=0.5, **given)
    assert ablate(data, T, L, alpha=0.5, **given)["seconds"][0] == first["seconds"][0]
    assert len(pd.read_csv(table)) == 1
    ablate(data, T, L, alpha=5.0, **given)
    ablate(data, T, L, alpha=0.5, label_budget=20, **given)
    ablate(read_spans(write(tmp_path / "2024.csv", 250)), T, L, alpha=0.5, **given)
    assert len(pd.read_csv(table)) == 4


def test_half_a_line_in_the_table_is_no_run(tmp_path):
    data = read_spans(write(tmp_path / "mine.csv"))
    table = tmp_path / "runs.csv"
    given = {"student": STUDENT, "table": table, "arms": ["baseline"]}
    whole = ablate(data, T, L, seeds=[0, 1], **given)
    content = table.read_bytes()
    table.write_bytes(content[: -len(content.splitlines()[-1]) // 2])
    again = ablate(data, T, L, seeds=[0, 1], **given)
    np.testing.assert_allclose(again["mse"], whole["mse"])


@pytest.mark.parametrize(
    ("table", "message"),
    [("nowhere/runs.csv", "folder of the table"), ("mine.csv", "not one of runs")],
)
def test_a_table_that_cannot_be_is_refused_before_the_first_fit(tmp_path, table, message):
    data = read_spans(write(tmp_path / "mine.csv"))
    with pytest.raises(ValueError, match=message):
        ablate(data, T, L, student=STUDENT, table=tmp_path / table)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ablate(data, T, L, student=STUDENT, alpha=-1)


def test_files_of_one_name_cannot_be_told_apart(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    paths = [str(write(folder / "mine.csv")) for folder in (tmp_path, tmp_path / "other")]
    assert main(["ablate", *paths]) == 2
    assert "same name" in capsys.readouterr().err


def test_a_table_with_semicolons_is_read_as_everywhere_else(tmp_path):
    lines = (f"2024-01-{day:02d};{day},5;{-day}" for day in range(1, 31))
    path = text(tmp_path / "german.csv", "\n".join(["date;a;b", *lines]))
    data = read_spans(path, (20, 5, 5))
    assert data.values.shape == (30, 2)
    np.testing.assert_allclose(data.values[:, 0], -data.values[:, 1])
