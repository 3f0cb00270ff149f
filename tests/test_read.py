import io
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster.tables.read import read_table

DATES = pd.date_range("2024-01-01", periods=8, freq="D")


def write(tmp_path, frame, name="data.csv", **options):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
        frame.to_parquet(path, **options)
    else:
        frame.to_csv(path, index=False, **options)
    return str(path)


def long_frame():
    parts = [pd.DataFrame({"unique_id": name, "ds": DATES, "y": np.arange(8.0)}) for name in "ba"]
    return pd.concat(parts)


@pytest.mark.parametrize("name", ["data.csv", "data.parquet", "no_ending"])
def test_long_tables_are_series_in_the_order_in_which_they_appear(tmp_path, name):
    table = read_table(write(tmp_path, long_frame().sample(frac=1, random_state=3), name))
    assert sorted(table.ids) == ["a", "b"]
    assert (table.freqs, table.components, table.id_name, table.time_name) == (
        ["D", "D"],
        ["y"],
        "unique_id",
        "ds",
    )
    for times, values in zip(table.times, table.values, strict=True):
        assert times.equals(DATES)
        np.testing.assert_array_equal(values[:, 0], np.arange(8))
    assert table.times_after(0, 2)[0] == pd.Timestamp("2024-01-09")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_wide_tables_are_the_components_of_one_series(tmp_path, separator):
    frame = pd.DataFrame({"when": DATES.astype(str), "p": range(8), "q": np.arange(8) / 2})
    table = read_table(write(tmp_path, frame, sep=separator))
    assert table.ids == [None]
    assert table.components == ["p", "q"]
    assert table.values[0].shape == (8, 2)
    assert table.times[0].equals(DATES)


def test_a_parquet_index_of_dates_is_a_column(tmp_path):
    frame = pd.DataFrame({"y": np.arange(8.0)}, index=DATES.rename("ds"))
    assert read_table(write(tmp_path, frame, "data.parquet")).freqs == ["D"]


def test_a_table_without_times_is_counted(tmp_path):
    table = read_table(write(tmp_path, pd.DataFrame({"p": [1.0, 2.0, np.nan]})))
    assert (table.freqs, table.time_name) == ([None], "step")
    assert list(table.times_after(0, 2)) == [3, 4]
    assert np.isnan(table.values[0][2, 0])


def test_whole_numbers_are_times_too(tmp_path):
    table = read_table(write(tmp_path, pd.DataFrame({"ds": [30, 10, 20, 50], "y": range(4)})))
    np.testing.assert_array_equal(table.values[0][:, 0], [1, 2, 0, np.nan, 3])
    assert list(table.times_after(0, 2)) == [60, 70]


@pytest.mark.parametrize("freq", ["MS", "h", "W-SUN", "QE", "B"])
def test_missing_rows_become_missing_values(tmp_path, freq):
    times = pd.date_range("2020-01-05", periods=40, freq=freq)
    frame = pd.DataFrame({"ds": times, "y": np.arange(40.0)}).drop([7, 20, 21])
    table = read_table(write(tmp_path, frame))
    assert table.times[0].equals(times)
    assert np.flatnonzero(np.isnan(table.values[0][:, 0])).tolist() == [7, 20, 21]


def test_zones_become_utc(tmp_path):
    frame = pd.DataFrame({"ds": DATES.tz_localize("Europe/Berlin").astype(str), "y": range(8)})
    assert read_table(write(tmp_path, frame)).times[0][0] == pd.Timestamp("2023-12-31 23:00")


def test_standard_input_is_read(monkeypatch):
    content = long_frame().to_csv(index=False).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_table("-").ids == ["b", "a"]


def test_columns_can_be_named(tmp_path):
    frame = long_frame().rename(columns={"unique_id": "Shop", "ds": "When", "y": "Sold"})
    frame["Weather"] = "fine"
    path = write(tmp_path, frame)
    table = read_table(path, "Shop", "When", ["Sold"])
    assert table.components == ["Sold"]
    out = table.to_frame([np.zeros((2, 1))] * 2, ["Sold"])
    assert list(out.columns) == ["Shop", "When", "Sold"]
    assert len(out) == 4


def test_an_id_stays_what_it_is(tmp_path):
    rows = "".join(f"{name},{day:%Y-%m-%d},1\n" for name in ("007", "08") for day in DATES)
    (tmp_path / "data.csv").write_text("id,ds,y\n" + rows)
    assert read_table(str(tmp_path / "data.csv")).ids == ["007", "08"]


def test_days_may_come_first_and_commas_be_in_numbers(tmp_path):
    times = pd.date_range("2024-01-01", periods=20, freq="D")
    rows = "".join(f"{day:%d.%m.%Y};{i},5\n" for i, day in enumerate(times))
    (tmp_path / "data.csv").write_text("Datum;Wert\n" + rows)
    table = read_table(str(tmp_path / "data.csv"))
    assert table.times[0].equals(times)
    np.testing.assert_array_equal(table.values[0][:, 0], np.arange(20) + 0.5)


@pytest.mark.parametrize(
    ("written", "freq"),
    [
        *(("%d/%m/%Y", "MS"), ("%m/%d/%Y", "MS"), ("%d/%m/%y", "D"), ("%b-%y", "MS")),
        *(("%Y%m", "MS"), ("%Y%m%d", "D"), ("%d.%m.%Y %H:%M", "h"), ("%Y/%m/%d", "W-MON")),
    ],
)
def test_however_dates_are_written_they_are_read_as_they_are_regular(tmp_path, written, freq):
    times = pd.date_range("2015-01-01", periods=60, freq=freq)
    rows = "".join(f"{one.strftime(written)},{i}\n" for i, one in enumerate(times))
    (tmp_path / "data.csv").write_text("date,y\n" + rows)
    table = read_table(str(tmp_path / "data.csv"))
    assert table.times[0].equals(times)
    assert table.freqs == [freq]


def test_what_cannot_be_told_is_told(tmp_path):
    (tmp_path / "data.csv").write_text("ds,y\n01/02/2024,1\n02/03/2024,2\n03/04/2024,3\n")
    with pytest.warns(UserWarning, match="day first"), pytest.raises(ValueError, match="--freq"):
        read_table(str(tmp_path / "data.csv"))


def test_series_of_a_panel_have_frequencies_of_their_own(tmp_path):
    parts = [
        pd.DataFrame(
            {"id": freq, "ds": pd.date_range("2024-01-01", periods=9, freq=freq), "y": 1.0}
        )
        for freq in ("D", "MS", "W-WED")
    ]
    table = read_table(write(tmp_path, pd.concat(parts)))
    assert table.freqs == ["D", "MS", "W-WED"]
    assert table.times_after(1, 1)[0] == pd.Timestamp("2024-10-01")


def test_times_are_found_wherever_they_are(tmp_path):
    frame = pd.DataFrame({"y": range(8), "when": DATES.astype(str), "Date": "2024-01-01"})
    assert read_table(write(tmp_path, frame[["y", "when"]]), target=["y"]).time_name == "when"
    frame["Time"] = DATES.astype(str)
    assert read_table(write(tmp_path, frame), target=["y"]).time_name == "Time"


def test_counted_rows_are_not_forecast(tmp_path):
    frame = pd.DataFrame({"ds": DATES, "y": range(8)})
    frame.to_csv(tmp_path / "data.csv")
    assert read_table(str(tmp_path / "data.csv")).components == ["y"]
    frame.insert(0, "id", range(8))
    table = read_table(write(tmp_path, frame))
    assert (table.ids, table.components) == ([None], ["y"])
    pytest.importorskip("pyarrow")
    frame = frame[["ds", "y"]][::-1]
    assert read_table(write(tmp_path, frame, "data.parquet")).components == ["y"]


def test_na_is_an_id(tmp_path):
    (tmp_path / "data.csv").write_text("id,y\nNA,1\nNA,2\nDE,3\nDE,\n")
    table = read_table(str(tmp_path / "data.csv"))
    assert table.ids == ["NA", "DE"]
    assert np.isnan(table.values[1][1, 0])


def test_many_missing_steps_are_told(tmp_path):
    frame = pd.DataFrame({"ds": [*range(10), 90, 91], "y": 1.0})
    with pytest.warns(UserWarning, match="80 of 92 steps"):
        read_table(write(tmp_path, frame))


BAD = {
    "empty": (b"", {}, "is no CSV file"),
    "no rows": (b"ds,y\n", {}, "no rows"),
    "text": (b"ds,y\n2024-01-01,abc\n2024-01-02,1\n", {}, "holds 'abc' in row 1"),
    "infinite": (b"ds,y\n2024-01-01,inf\n2024-01-02,1\n2024-01-03,1\n", {}, "no finite number"),
    "twice": (b"ds,y\n2024-01-01,1\n2024-01-01,2\n2024-01-02,2\n2024-01-03,2\n", {}, "more than"),
    "no frequency": (b"ds,y\n2024-01-01,1\n2024-01-05,2\n2024-01-06,3\n", {}, "give --freq"),
    "irregular": (
        b"ds,y\n2024-01-01,1\n2024-01-02 05:00,2\n2024-01-06,3\n",
        {"freq": "D"},
        "not regular",
    ),
    "no such column": (b"ds,y\n1,1\n", {"target": ["z"]}, "--target z"),
    "no such id": (b"ds,y\n1,1\n", {"id": "z"}, "--id z"),
    "which": (b"id,ds,a,b\n1,1,1,1\n", {}, "Say which"),
    "no id": (b"id,ds,y\n,1,1\na,1,1\n", {}, "have no id"),
    "no time": (b"ds,y\n,1\n2024-01-01,1\n", {}, "have no ds"),
    "freq": (b"ds,y\n1,1\n2,2\n", {"freq": "D"}, "no dates"),
    "wrong freq": (b"ds,y\n2024-01-01,1\n2024-01-02,1\n", {"freq": "nonsense"}, "nonsense"),
    "far apart": (b"ds,y\n1,1\n2,2\n9007199254740000,3\n", {}, "mostly missing"),
    "fractions": (b"ds,y\n1.5,1\n2,2\n", {}, "whole numbers"),
    "no dates": (b"ds,y\nx,1\ny,2\n", {}, "does not hold times"),
    "parquet": (b"PAR1 and then nothing", {}, "no Parquet file"),
    "bytes": (b"\xff\xfe\x00y\n1\n", {}, "is no CSV file"),
    "names": (b"ds,y\n1,1\n", {"target": ["y", "y"]}, "different"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables_are_refused_by_name(tmp_path, kind):
    content, options, message = BAD[kind]
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(str(tmp_path / "data"), **options)


CELLS = st.sampled_from(
    ["", "1", "-2.5", "1e308", "nan", "abc", "2024-01-01", "2024-01-03", "9999-99-99", '"', "é,;"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=8), st.booleans())
def test_any_text_is_a_table_or_refused(tmp_path_factory, rows, named):
    path = tmp_path_factory.mktemp("fuzz") / "data.csv"
    header = ["unique_id,ds,y\n"] if named else []
    path.write_text("".join([*header, *(",".join(row) + "\n" for row in rows)]))
    try:
        table = read_table(str(path))
    except ValueError:
        return
    assert len(table.ids) == len(table.times) == len(table.values)
    for times, values in zip(table.times, table.values, strict=True):
        assert values.shape == (len(times), len(table.components))
        assert not np.isinf(values).any()
