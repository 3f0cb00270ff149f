import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries

from distilts_forecaster.facades import darts_series as timeseries
from distilts_forecaster.facades.darts_series import like, moved, times_after

TIMES = pd.date_range("2024-01-01", periods=50, freq="h", name="hour")


def series(n=50):
    return TimeSeries(
        times=TIMES[:n],
        values=seasonal(n, components=2),
        components=["a", "b"],
        static_covariates=pd.DataFrame({"site": [1.0, 2.0]}),
        metadata={"unit": "kW"},
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_moved_series_is_what_the_constructor_builds(monkeypatch, known):
    if not known:  # as with a future version of Darts
        monkeypatch.setattr(timeseries, "_TIME_SERIES_FIELDS", set())
    template = series(10)
    values = np.random.default_rng(0).normal(size=(10, 2, 1))
    built = moved(template, TIMES[7:17], values)
    expected = like(template, TIMES[7:17], values)
    assert built == expected
    assert vars(built).keys() == vars(expected).keys()
    assert (built.start_time(), built.end_time()) == (TIMES[7], TIMES[16])
    assert built.freq == template.freq
    assert built.metadata == {"unit": "kW"}
    pd.testing.assert_frame_equal(built.static_covariates, template.static_covariates)
    assert built.append_values(np.zeros((1, 2))).end_time() == TIMES[17]
    assert (template.start_time(), template.end_time()) == (TIMES[0], TIMES[9])


def test_this_version_of_darts_is_known():
    assert vars(series()).keys() == timeseries._TIME_SERIES_FIELDS


@pytest.mark.parametrize("freq", ["h", "W-SAT", "MS"])
@pytest.mark.parametrize("shift", [0, 2])
def test_times_follow_the_end(freq, shift):
    times = pd.date_range("2024-01-01", periods=20, freq=freq)
    known = TimeSeries.from_times_and_values(times[: 10 - shift], np.zeros(10 - shift))
    assert times_after(known, 10, shift).equals(times[10:])


def test_integer_times_follow_the_end():
    known = TimeSeries.from_times_and_values(pd.RangeIndex(0, 12, 3), np.zeros(4))
    assert times_after(known, 4, shift=1).equals(pd.RangeIndex(15, 27, 3))
