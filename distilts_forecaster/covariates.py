"""Covariates as Darts gives them, brought to the steps of their series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.typing import TimeSeriesLike
from darts.utils.utils import n_steps_between

from distilts_forecaster.plan import Settings
from distilts_forecaster.windows import PreparedSeries

__all__ = [
    "add_covariates",
    "as_list",
    "check_same_covariates",
    "covariates_to_predict",
    "rows_of",
]


def as_list(name: str, covariates: Any, n_series: int) -> list[TimeSeries] | None:
    """Return covariates as a list, one for each series.

    Parameters
    ----------
    name : str
        Name of the parameter.
    covariates : TimeSeries, sequence of TimeSeries or None
    n_series : int

    Returns
    -------
    list of TimeSeries or None

    Raises
    ------
    TypeError
        If they are not TimeSeries.
    ValueError
        If there is not one for each series, or they differ in their components.
    """
    if covariates is None:
        return None
    given = [covariates] if isinstance(covariates, TimeSeries) else covariates
    if not isinstance(given, Sequence) or any(not isinstance(c, TimeSeries) for c in given):
        raise TypeError(
            f"{name} must be a darts TimeSeries or a list of them, got {type(covariates).__name__}."
        )
    if len(given) != n_series:
        raise ValueError(
            f"{name} holds {len(given)} series for {n_series} target series: pass one for each."
        )
    widths = {c.width for c in given}
    if len(widths) > 1 or any(not c.is_deterministic for c in given):
        raise ValueError(
            f"{name} must be deterministic and have the same components throughout, got "
            f"{sorted(widths)} components."
        )
    return list(given)


def rows_of(
    name: str, covariates: TimeSeries, series: TimeSeries, first: int, stop: int, least: int
) -> np.ndarray:
    """Return the values at given steps of a series.

    Parameters
    ----------
    name : str
        What to call the covariates in messages.
    covariates, series : TimeSeries
        Of the same frequency.
    first, stop : int
        Steps wanted, counted from the start of ``series``.
    least : int
        Steps up to here are needed; later ones are returned where there are some.

    Returns
    -------
    numpy.ndarray of float64, shape (at most stop - first, n_components)

    Raises
    ------
    ValueError
        If steps are not covered, or values are missing.

    Examples
    --------
    >>> series = TimeSeries.from_values(np.zeros(4))
    >>> covariates = TimeSeries.from_values(np.arange(6.0))
    >>> rows_of("future_covariates", covariates, series, 2, 9, least=5).ravel()
    array([2., 3., 4., 5.])
    """
    if covariates.freq != series.freq or covariates.has_datetime_index != series.has_datetime_index:
        raise ValueError(
            f"{name} has frequency {covariates.freq_str}, the series {series.freq_str}: they must "
            "be the same. Resample the covariates."
        )
    start, freq = covariates.start_time(), series.freq
    offset = n_steps_between(end=series.start_time(), start=start, freq=freq)
    if start + offset * freq != series.start_time():
        raise ValueError(f"{name} and the series have no time steps in common: they are offset.")
    if offset + first < 0 or offset + least > len(covariates):
        wanted = [series.start_time() + step * freq for step in (first, least - 1)]
        raise ValueError(
            f"{name} must reach from {wanted[0]} to {wanted[1]}, got {start} to "
            f"{covariates.end_time()}."
        )
    values = covariates.all_values(copy=False)[offset + first : offset + stop, :, 0]
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} has {int((~np.isfinite(values)).sum())} missing or infinite values. Fill "
            "them, for instance with darts.utils.missing_values.fill_missing_values."
        )
    return values.astype(np.float64)


def add_covariates(
    series: TimeSeriesLike,
    prepared: list[PreparedSeries],
    past: dict[str, Any],
    future: dict[str, Any],
    target_stop: int,
) -> list[PreparedSeries]:
    """Add covariates to their series, as far ahead as they are known.

    Parameters
    ----------
    series : TimeSeries or sequence of TimeSeries
    prepared : list of PreparedSeries
        The same series.
    past, future : dict
        The covariates by the name of their parameter.
    target_stop : int
        Steps beyond the end of a series that future covariates are of use for.

    Returns
    -------
    list of PreparedSeries

    Raises
    ------
    TypeError, ValueError
        If they do not fit the series.
    """
    targets = [series] if isinstance(series, TimeSeries) else list(series)
    for field, named, ahead in (("past", past, 0), ("future", future, target_stop)):
        ((name, covariates),) = named.items()
        given = as_list(name, covariates, len(targets))
        if given is not None:
            # No context reaches into the last target.
            less = target_stop if field == "past" else 0
            rows = [
                rows_of(name, c, s, 0, len(s) + ahead, len(s) - less)
                for c, s in zip(given, targets, strict=True)
            ]
            prepared = [
                replace(p, past=row) if field == "past" else replace(p, future=row)
                for p, row in zip(prepared, rows, strict=True)
            ]
    return prepared


def check_same_covariates(series: PreparedSeries, validation: PreparedSeries) -> None:
    """Raise unless ``val_series`` comes with the covariates of ``series``.

    Parameters
    ----------
    series, validation : PreparedSeries

    Raises
    ------
    ValueError
        Otherwise.
    """
    for kind in ("past", "future"):
        expected, got = (
            0 if c is None else c.shape[1] for c in (getattr(s, kind) for s in (series, validation))
        )
        if expected != got:
            raise ValueError(
                f"val_{kind}_covariates has {got} components, {kind}_covariates {expected}: "
                "val_series needs the same covariates as series."
            )


def covariates_to_predict(
    series: Sequence[TimeSeries], n: int, settings: Settings, past: Any, future: Any
) -> dict[str, np.ndarray]:
    """Return the covariates that a student needs to forecast the end of each series.

    Parameters
    ----------
    series : sequence of TimeSeries
    n : int
        Steps to forecast.
    settings : Settings
    past, future : TimeSeries, sequence of TimeSeries or None

    Returns
    -------
    dict of str to numpy.ndarray
        ``past_covariates`` and ``future_covariates``, as
        :meth:`~distilts_forecaster.students.forecaster.NetworkForecaster.predict` takes them;
        empty without covariates.

    Raises
    ------
    TypeError, ValueError
        If they do not fit the series, or do not reach far enough.
    """
    length, steps = settings.input_chunk_length, settings.output_chunk_length
    shift, ahead = settings.output_chunk_shift, max(n, steps)
    arrays = {}
    given = as_list("past_covariates", past, len(series))
    if given is not None:
        rows = []
        for one, target in zip(given, series, strict=True):
            stop = len(target) + max(0, n - steps)
            rows.append(rows_of("past_covariates", one, target, len(target) - length, stop, stop))
        arrays["past_covariates"] = np.stack(rows)
    given = as_list("future_covariates", future, len(series))
    if given is not None:
        rows = []
        for one, target in zip(given, series, strict=True):
            stop = len(target) + shift + ahead
            row = rows_of("future_covariates", one, target, len(target) - length, stop, stop)
            rows.append(np.concatenate([row[:length], row[length + shift :]]))
        arrays["future_covariates"] = np.stack(rows)
    return arrays
