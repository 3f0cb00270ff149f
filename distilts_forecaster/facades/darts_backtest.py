"""All forecasts of a backtest with one fitted student, in a few matrix products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.models.forecasting.forecasting_model import ForecastingModel
from darts.utils.historical_forecasts.utils import _get_historical_forecast_boundaries
from darts.utils.utils import generate_index

from distilts_forecaster.facades.darts_series import like, moved
from distilts_forecaster.runtime.checks import count_unknown, warn_of_unknown
from distilts_forecaster.runtime.gaps import check_not_infinite
from distilts_forecaster.windows.cutting import history_windows, iterate_chunks

__all__ = ["backtest"]

#: Windows times components forecast at once: float64 contexts of 512 steps that stay in the
#: processor's cache (half the time of 4,096 rows).
_ROWS_PER_CHUNK = 512

Forecast = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Places:
    """Where to forecast from in all series with the same time index.

    ``origins`` are the steps after each context, evenly spaced; ``times`` the times of the last
    step of each forecast, or a list of all times of each forecast.
    """

    origins: np.ndarray
    times: Any


def backtest(
    model: ForecastingModel,
    forecast: Forecast,
    series: Sequence[TimeSeries],
    values: Sequence[np.ndarray],
    input_chunk_length: int,
    horizon: int,
    stride: int,
    last_points_only: bool,
    names: Callable[[TimeSeries], list[str]] | None,
    **boundaries: Any,
) -> list[Any]:
    """Forecast from every requested point of every series: the last step of each, or each forecast.

    The lags of ``model`` say where forecasts can start; ``forecast`` turns contexts (N, L, C) into
    (N, horizon, C, S); ``values`` (n_points, C) are the series' own; ``names`` returns the
    component names of a series' forecasts, by default its own; ``boundaries`` are ``start``,
    ``start_format``, ``overlap_end`` and ``show_warnings`` of ``historical_forecasts``. ValueError
    if a series has infinite values, or no forecast can be made. A component without any value in a
    context has forecasts of NaN there, with one warning.
    """
    # Series of a panel mostly share their times. Finding out where to start, and cutting the
    # times of each forecast, takes several times as long as the forecasts.
    places: dict[Any, _Places] = {}
    made = []
    unknown = Counter[str]()

    def counted(contexts: np.ndarray) -> np.ndarray:
        forecasts = forecast(contexts)
        unknown.update(contexts=len(contexts), unknown=count_unknown(forecasts))
        return forecasts

    for index, (one, array) in enumerate(zip(series, values, strict=True)):
        start = one.start_time()
        key = (start, getattr(start, "unit", None), len(one), one.freq, one.time_dim)
        if key not in places:
            origins = _origins(model, one, index, horizon, stride, **boundaries)
            places[key] = _Places(
                origins, _times(model, one, origins, horizon, stride, last_points_only)
            )
        where = places[key]
        called = None if names is None else names(one)
        forecasts = _forecasts(counted, array, index, where.origins, input_chunk_length, one.dtype)
        if last_points_only:
            block = np.concatenate([part[:, -1] for part in forecasts])
            if stride == 1 and called is None:
                built: Any = moved(one, where.times, block)
            else:
                built = like(one, where.times, block, called)
        else:
            width = one.width if called is None else len(called)
            template = like(one, where.times[0], np.empty((horizon, width, 1)), called)
            several = (block for part in forecasts for block in part)
            built = [
                moved(template, times, block)
                for times, block in zip(where.times, several, strict=True)
            ]
        made.append(built)
    warn_of_unknown(unknown["unknown"], unknown["contexts"], input_chunk_length)
    return made


def _origins(
    model: ForecastingModel,
    series: TimeSeries,
    index: int,
    horizon: int,
    stride: int,
    **boundaries: Any,
) -> np.ndarray:
    """Return where forecasts start, by Darts' own rules."""
    first, last, *_ = _get_historical_forecast_boundaries(
        model=model,
        series=series,
        series_idx=index,
        past_covariates=None,
        future_covariates=None,
        forecast_horizon=horizon,
        stride=stride,
        freq=series.freq,
        **boundaries,
    )
    bounds = [
        series.get_index_at_point(point) if point <= series.end_time() else len(series)
        for point in (first, last)
    ]
    return np.arange(bounds[0], bounds[1] + 1, stride)


def _times(
    model: ForecastingModel,
    series: TimeSeries,
    origins: np.ndarray,
    horizon: int,
    stride: int,
    last_points_only: bool,
) -> pd.Index | list[pd.Index]:
    """Return the times of the last steps, or of each forecast."""
    shift, name = model.output_chunk_shift, series.time_index.name
    if last_points_only:
        return generate_index(
            start=series.start_time() + (int(origins[0]) + shift + horizon - 1) * series.freq,
            length=len(origins),
            freq=series.freq * stride,
            name=name,
        )
    # One index over everything, of which each forecast gets a slice: building an
    # index for each would take longer than all forecasts together.
    times = generate_index(
        start=series.start_time(),
        length=int(origins[-1]) + shift + horizon,
        freq=series.freq,
        name=name,
    )
    return [times[start : start + horizon] for start in (origins + shift).tolist()]


def _forecasts(
    forecast: Forecast,
    values: np.ndarray,
    index: int,
    origins: np.ndarray,
    input_chunk_length: int,
    dtype: Any,
) -> Iterator[np.ndarray]:
    """Yield forecasts (n, steps, C, S) from some origins at a time."""
    values = np.asfortranarray(values)
    check_not_infinite(values, f"series[{index}] has")
    for part in iterate_chunks(origins, values.shape[1], _ROWS_PER_CHUNK):
        yield forecast(history_windows(values, part, input_chunk_length)).astype(dtype)
