"""Build Darts TimeSeries at the speed of the forecasts they hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.utils import generate_index

__all__ = ["like", "moved", "times_after"]


def times_after(series: TimeSeries, n: int, shift: int = 0) -> pd.Index:
    """Return the n times that follow a series, ``shift`` steps after its end.

    They are kept, since many forecasts start at the same time: making 96 hours takes
    20 microseconds, three times the forecast; 96 weeks or months take 500.
    """
    index = series.time_index
    # Equal timestamps may differ in their resolution.
    unit = getattr(index, "unit", None)
    return _times_after(series.end_time(), series.freq, n, shift, index.name, unit)


@lru_cache(maxsize=64)
def _times_after(
    end: pd.Timestamp | int, freq: Any, n: int, shift: int, name: str | None, unit: str | None
) -> pd.Index:
    """Make the times; ``unit`` keeps equal timestamps apart in the cache."""
    times = generate_index(start=end + (1 + shift) * freq, length=n, freq=freq, name=name)
    # pandas 2 makes nanoseconds of any unit.
    return times if unit is None else times.as_unit(unit)


#: What a TimeSeries of Darts 0.48 is made of; its first and last time are found when
#: they are first asked for.
_TIME_SERIES_FIELDS = {
    "_attrs", "_bottom_level_components", "_components", "_freq", "_freq_str",
    "_has_datetime_index", "_time_dim", "_time_index", "_top_level_component", "_values",
}  # fmt: skip


def moved(template: TimeSeries, times: pd.Index, values: np.ndarray) -> TimeSeries:
    """Build a series like ``template`` at other times with other values.

    The checks of the constructor take 12 microseconds, as long as the forecast itself, and are
    skipped, unless a TimeSeries has other attributes than in Darts 0.48.
    """
    if vars(template).keys() != _TIME_SERIES_FIELDS:
        return like(template, times, values)
    built = TimeSeries.__new__(TimeSeries)
    vars(built).update(
        vars(template), _time_index=times, _values=values, _attrs=template._attrs.copy()
    )
    return built


def like(
    series: TimeSeries, times: pd.Index, values: np.ndarray, names: Sequence[str] | None = None
) -> TimeSeries:
    """Build a series (n, C, S) with the components and attributes of another.

    With ``names`` its components are renamed, and lose static covariates and hierarchy.
    """
    return TimeSeries(
        times=times,
        values=values,
        components=series.columns if names is None else names,
        static_covariates=series.static_covariates if names is None else None,
        hierarchy=series.hierarchy if names is None else None,
        metadata=series.metadata,
        copy=False,
    )
