"""All forecasts of a backtest with one fitted student, in a few matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models.forecasting.forecasting_model import ForecastingModel
from darts.utils.historical_forecasts.utils import _get_historical_forecast_boundaries
from darts.utils.utils import generate_index

from distilts_forecaster.runtime import Forecaster
from distilts_forecaster.timeseries import like, moved
from distilts_forecaster.windows import context_windows, iterate_chunks

__all__ = ["forecast_origins", "origins_of"]

#: Windows times components forecast at once: float64 contexts of 512 steps that stay in the
#: processor's cache (half the time of 4,096 rows).
_ROWS_PER_CHUNK = 512


def origins_of(
    model: ForecastingModel,
    series: TimeSeries,
    index: int,
    start: Any,
    start_format: str,
    horizon: int,
    overlap_end: bool,
    stride: int,
    show_warnings: bool,
) -> np.ndarray:
    """Return where a backtest forecasts from, by Darts' own rules.

    Parameters
    ----------
    model : ForecastingModel
    series : TimeSeries
    index : int
        Of the series among those of the call, for messages.
    start, start_format, horizon, overlap_end, stride, show_warnings : object
        See ``historical_forecasts``.

    Returns
    -------
    numpy.ndarray of int
        The step after each context.
    """
    first, last, *_ = _get_historical_forecast_boundaries(
        model=model,
        series=series,
        series_idx=index,
        past_covariates=None,
        future_covariates=None,
        start=start,
        start_format=start_format,
        forecast_horizon=horizon,
        overlap_end=overlap_end,
        stride=stride,
        freq=series.freq,
        show_warnings=show_warnings,
    )
    bounds = [
        series.get_index_at_point(point) if point <= series.end_time() else len(series)
        for point in (first, last)
    ]
    return np.arange(bounds[0], bounds[1] + 1, stride)


def forecast_origins(
    student: Forecaster,
    series: TimeSeries,
    values: np.ndarray,
    index: int,
    origins: np.ndarray,
    horizon: int,
    last_points_stride: int | None,
) -> Any:
    """Forecast from given points of a series.

    Parameters
    ----------
    student : Forecaster
    series : TimeSeries
    values : numpy.ndarray, shape (n_points, C)
        Of the series.
    index : int
        Of the series among those of the call, for messages.
    origins : numpy.ndarray of int
        Evenly spaced; the forecast from o follows the context that ends before o.
    horizon : int
    last_points_stride : int or None
        Steps between origins, where only the last step of each forecast is wanted; None
        returns whole forecasts.

    Returns
    -------
    TimeSeries or list of TimeSeries
        The last step of each forecast, or each forecast.

    Raises
    ------
    ValueError
        If a context has missing values.
    """
    values = np.asfortranarray(values)
    missing = np.concatenate([[0], np.cumsum(~np.isfinite(values).all(axis=1))])
    n_missing = missing[origins] - missing[origins - student.input_chunk_length]
    if n_missing.any():
        raise ValueError(
            f"series[{index}] has up to {n_missing.max()} steps with missing or infinite "
            "values in a context to forecast from. Fill them, for instance with "
            "darts.utils.missing_values.fill_missing_values."
        )

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in iterate_chunks(origins, values.shape[1], _ROWS_PER_CHUNK):
            contexts = context_windows(values, part, student.input_chunk_length)
            yield part, student.predict(contexts, horizon).astype(series.dtype)

    shift = student.output_chunk_shift
    if last_points_stride is not None:
        return _last_points(series, origins, shift + horizon - 1, last_points_stride, chunks())
    return _all_forecasts(series, origins, shift, horizon, chunks())


def _last_points(
    series: TimeSeries,
    origins: np.ndarray,
    last: int,
    stride: int,
    chunks: Iterator[tuple[np.ndarray, np.ndarray]],
) -> TimeSeries:
    """Return the last step of each forecast as one series."""
    values = np.concatenate([forecasts[:, -1] for _, forecasts in chunks])
    times = generate_index(
        start=series.start_time() + (int(origins[0]) + last) * series.freq,
        length=len(values),
        freq=series.freq * stride,
        name=series.time_index.name,
    )
    return like(series, times, values[..., None])


def _all_forecasts(
    series: TimeSeries,
    origins: np.ndarray,
    shift: int,
    horizon: int,
    chunks: Iterator[tuple[np.ndarray, np.ndarray]],
) -> list[TimeSeries]:
    """Return each forecast as a series of its own."""
    # One index over everything, of which each forecast gets a slice: building an
    # index for each would take longer than all forecasts together.
    times = generate_index(
        start=series.start_time(),
        length=int(origins[-1]) + shift + horizon,
        freq=series.freq,
        name=series.time_index.name,
    )
    first = int(origins[0]) + shift
    template = like(series, times[first : first + horizon], np.empty((horizon, series.width)))
    built = []
    for part, forecasts in chunks:
        for start, values in zip((part + shift).tolist(), forecasts[..., None], strict=True):
            built.append(moved(template, times[start : start + horizon], values))
    return built
