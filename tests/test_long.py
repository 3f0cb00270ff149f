import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries

from distilts_forecaster import DistilledForecaster, from_long, to_long


@pytest.fixture
def frame():
    times = pd.date_range("2024-01-01", periods=80, freq="D")
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"unique_id": name, "ds": times[:n], "y": rng.normal(size=n)})
        for name, n in (("west", 80), ("east", 60))
    ]
    return pd.concat(parts, ignore_index=True)


def test_there_and_back(frame):
    series = from_long(frame)
    assert [len(one) for one in series] == [80, 60]
    pd.testing.assert_frame_equal(to_long(series), frame, check_dtype=False)
    panel = from_long(frame, to="sktime")
    sorted_frame = frame.sort_values(["unique_id", "ds"], ignore_index=True)
    pd.testing.assert_frame_equal(to_long(panel), sorted_frame)


def test_the_order_of_rows_does_not_matter(frame):
    shuffled = frame.sample(frac=1.0, random_state=0)
    shuffled = pd.concat([frame[:1], shuffled.drop(index=0)])  # "west" still comes first
    for one, other in zip(from_long(frame), from_long(shuffled), strict=True):
        np.testing.assert_array_equal(one.values(), other.values())


def test_polars_is_the_same(frame):
    polars = pytest.importorskip("polars", reason="polars is optional")
    table = polars.DataFrame({name: frame[name].to_numpy() for name in frame})
    for one, other in zip(from_long(frame), from_long(table), strict=True):
        assert one == other
    back = to_long(from_long(table), backend="polars")
    assert back.columns == ["unique_id", "ds", "y"]
    np.testing.assert_array_equal(back["y"].to_numpy(), frame["y"])


def test_other_names_and_several_components(frame):
    chronos = frame.rename(columns={"unique_id": "item_id", "ds": "timestamp", "y": "target"})
    chronos["second"] = chronos["target"] * 2
    names = {"id": "item_id", "time": "timestamp", "target": ["target", "second"]}
    series = from_long(chronos, **names)
    assert series[0].width == 2
    pd.testing.assert_frame_equal(to_long(series, **names), chronos, check_dtype=False)


def test_missing_times_are_filled_where_a_frequency_is_given(frame):
    series = from_long(frame.drop(index=[5, 6]), freq="D")
    assert len(series[0]) == 80
    assert np.isnan(series[0].values()[5:7]).all()


def test_forecasts_keep_their_names(frame):
    model = DistilledForecaster(24, 6, distillation_weight=0, cache_dir=False)
    series = from_long(frame)
    forecast = to_long(model.fit(series).predict(6, series=series))
    assert forecast["unique_id"].tolist() == ["west"] * 6 + ["east"] * 6
    assert forecast["ds"].iloc[0] == frame["ds"].iloc[79] + pd.Timedelta(days=1)
    nameless = [TimeSeries.from_times_and_values(s.time_index, s.values()) for s in series]
    assert to_long(nameless)["unique_id"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("ids", [(7, 3), (2**53, 2**53 + 1), (1.5, 0.5), ("b", "a")])
def test_ids_stay_what_they_are(frame, ids):
    named = frame.replace({"unique_id": {"west": ids[0], "east": ids[1]}})
    named["unique_id"] = named["unique_id"].astype(type(ids[0]))
    pd.testing.assert_frame_equal(to_long(from_long(named)), named)
    assert to_long(from_long(named, to="sktime"))["unique_id"].dtype == named["unique_id"].dtype


def test_times_with_a_zone_go_on_across_a_change_of_the_clock():
    times = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"unique_id": 1, "ds": times, "y": np.arange(60.0)})
    (series,) = from_long(frame)
    assert len(series) == 60
    assert series.start_time() == times[0].tz_convert("UTC").tz_localize(None)


def test_bad_tables_are_refused(frame):
    with pytest.raises(ValueError, match=r"no column \['unique_id'\].*id=\"item_id\""):
        from_long(frame.rename(columns={"unique_id": "item_id"}))
    with pytest.raises(ValueError, match="1 rows are there twice.*'west'"):
        from_long(pd.concat([frame, frame[:1]]))
    with pytest.raises(ValueError, match="no rows"):
        from_long(frame[:0])
    with pytest.raises(ValueError, match='"darts" or "sktime"'):
        from_long(frame, to="pandas")
    with pytest.raises(ValueError, match="1 components"):
        to_long(from_long(frame), target=["a", "b"])
    with pytest.raises(ValueError, match='"pandas" or "polars"'):
        to_long(from_long(frame), backend="arrow")
    with pytest.raises(ValueError, match="1 rows have no unique_id or no ds"):
        from_long(frame.assign(unique_id=["west"] * 139 + [None]))
    with pytest.raises(ValueError, match="'west' make no series.*Give freq"):
        from_long(frame.drop(index=5))
    with pytest.raises(ValueError, match="three different columns"):
        from_long(frame, target=["y", "y"])
    with pytest.raises(TypeError, match="pandas or polars"):
        from_long({"unique_id": [1]})
    for bad in ([], [[from_long(frame)[0]]], 3):
        with pytest.raises(TypeError, match="deterministic TimeSeries"):
            to_long(bad)
    with pytest.raises(ValueError, match="3 levels"):
        to_long(pd.concat({"region": from_long(frame, to="sktime")}))
