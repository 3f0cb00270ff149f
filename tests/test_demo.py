import numpy as np
import pytest
from conftest import seasonal
from darts import TimeSeries

from distilts_forecaster.cli import demo
from distilts_forecaster.cli.main import main


@pytest.fixture
def _small(monkeypatch):
    series = TimeSeries.from_values(seasonal(1400, period=24))
    monkeypatch.setattr(
        demo, "demo_series", lambda: [demo.DemoSeries("small", series, period=24, test_start=1200)]
    )


@pytest.mark.usefixtures("_small")
def test_the_demo_prints_a_table_and_saves_a_picture(tmp_path, capsys):
    picture = tmp_path / "demo.png"
    assert main(["demo", "--output", str(picture), "--quiet"]) == 0
    out = capsys.readouterr().out
    for name in ("seasonal naive", "teacher", "student", "student, no teacher", "last 700"):
        assert name in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["demo.png"]


@pytest.mark.usefixtures("_small")
def test_every_row_is_measured_on_the_same_windows():
    rows = demo.compare(demo.demo_series()[0])
    assert [row.name for row in rows[:2]] == ["seasonal naive", "teacher"]
    assert [row.history for row in rows[2:]] == ["full", "full", "last 700", "last 700"]
    for row in rows:
        assert np.isfinite([row.mase, row.mse]).all()
        assert row.error_by_step.mean() == pytest.approx(row.mse)
        assert row.milliseconds > 0
    assert rows[2].n_parameters == 512 * 96


def test_the_demo_runs_offline(monkeypatch):
    from darts.datasets.dataset_loaders import DatasetLoadingException

    class Offline:
        def load(self):
            raise DatasetLoadingException("no network")

    monkeypatch.setattr(demo, "ETTh1Dataset", Offline)
    (only,) = demo.demo_series()
    assert only.name == "CO2 (weekly)"
    assert not np.isnan(only.series.values()).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "nobody"], "Unknown teacher 'nobody'"),
        (["--output", "/no/such/folder/x.png"], "does not exist"),
        (["--output", "picture.xyz"], "name a file that ends in .png"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_wrong_arguments_end_with_a_message_and_status_two(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err
