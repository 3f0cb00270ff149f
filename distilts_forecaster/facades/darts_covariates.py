"""Align covariates of Darts with the steps of their series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.typing import TimeSeriesLike
from darts.utils.utils import n_steps_between

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.covariates import KINDS, Covariates
from distilts_forecaster.runtime.gaps import check_not_infinite, fill_covariates
from distilts_forecaster.settings import Settings
from distilts_forecaster.windows.cutting import window_covariates
from distilts_forecaster.windows.source import PreparedSeries

__all__ = [
    "as_list",
    "check_same_covariates",
    "covariates_to_predict",
    "rows_of",
    "static_names",
    "static_values",
    "with_covariates",
]


def as_list(name: str, covariates: Any, n_series: int) -> list[TimeSeries] | None:
    """Return covariates as a list, one for each series; None where there are none.

    TypeError if they are not TimeSeries; ValueError if there is not one for each series, or they
    differ in their components.
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
    name: str,
    covariates: TimeSeries,
    series: TimeSeries,
    first: int,
    stop: int,
    least: int,
    known_ahead: bool,
) -> np.ndarray:
    """Return the values at steps ``first`` to ``stop`` of a series: at most (stop - first, C).

    Steps up to ``least`` are needed; later ones are returned where there are some. ``known_ahead``
    says how gaps are filled. ValueError if steps are not covered, or values are infinite, or
    missing throughout.

    >>> series = TimeSeries.from_values(np.zeros(4))
    >>> covariates = TimeSeries.from_values(np.arange(6.0))
    >>> rows_of("future_covariates", covariates, series, 2, 9, 5, True).ravel()
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
    empty = np.isnan(values).all(axis=0)
    check_not_infinite(values, f"{name} has")
    if empty.any():
        raise ValueError(
            f"{name} has no values at all in {list(covariates.columns[empty])}, at the steps that "
            "are needed: leave them out."
        )
    return fill_covariates(values.astype(np.float64), known_ahead)


def with_covariates(
    settings: Settings,
    encoders: Any,
    static: Sequence[str],
    series: TimeSeriesLike,
    prepared: Sequence[PreparedSeries],
    past: TimeSeriesLike | None,
    future: TimeSeriesLike | None,
    prefix: str = "",
) -> tuple[list[PreparedSeries], TimeSeriesLike | None, TimeSeriesLike | None]:
    """Return series with their covariates, those of encoders among them."""
    if encoders.encoding_available:
        past, future = encoders.encode_train(
            target=series, past_covariates=past, future_covariates=future
        )
    made = _add_covariates(
        series,
        list(prepared),
        {f"{prefix}past_covariates": past},
        {f"{prefix}future_covariates": future},
        static,
        settings.chunks.target_stop,
    )
    return made, past, future


def _add_covariates(
    series: TimeSeriesLike,
    prepared: list[PreparedSeries],
    past: dict[str, Any],
    future: dict[str, Any],
    static: Sequence[str],
    target_stop: int,
) -> list[PreparedSeries]:
    """Add covariates to their series, as far ahead as they are known.

    ``past`` and ``future`` are covariates by the name of their parameter, ``static`` names of the
    static ones to use. Future covariates are used up to ``target_stop`` steps past the end.
    TypeError or ValueError if they do not fit the series.
    """
    targets = [series] if isinstance(series, TimeSeries) else list(series)
    for field, named, ahead in (("past", past, 0), ("future", future, target_stop)):
        ((name, covariates),) = named.items()
        given = as_list(name, covariates, len(targets))
        if given is not None:
            # No context reaches into the last target.
            less = target_stop if field == "past" else 0
            rows = [
                rows_of(name, c, s, 0, len(s) + ahead, len(s) - less, field == "future")
                for c, s in zip(given, targets, strict=True)
            ]
            prepared = [
                replace(p, covariates=replace(p.covariates, **{field: row}))
                for p, row in zip(prepared, rows, strict=True)
            ]
    if static:
        prepared = [
            replace(p, covariates=replace(p.covariates, static=static_values(s, static)))
            for p, s in zip(prepared, targets, strict=True)
        ]
    return prepared


def static_names(series: TimeSeriesLike) -> list[str]:
    """Return the numeric static covariates that all series have, and that are not all the same."""
    targets = [series] if isinstance(series, TimeSeries) else list(series)
    frames = [s.static_covariates for s in targets]
    if any(frame is None for frame in frames):
        return []
    first = frames[0].select_dtypes(include=np.number)
    names = [name for name in first.columns if all(name in frame.columns for frame in frames)]
    known = [name for name in names if all(np.isfinite(frame[name]).all() for frame in frames)]
    values = {name: {float(v) for frame in frames for v in frame[name]} for name in known}
    return [name for name in known if len(values[name]) > 1]


def static_values(series: TimeSeries, names: Sequence[str]) -> np.ndarray:
    """Return static covariates of each component: (C, len(names)). ValueError if one is missing."""
    frame = series.static_covariates
    missing = [n for n in names if frame is None or n not in frame.columns]
    if missing:
        raise ValueError(
            f"The model was fitted with the static covariates {list(names)}; a series lacks "
            f"{missing}. Add them: series.with_static_covariates(frame)."
        )
    values = frame[list(names)].to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"A series has missing static covariates among {list(names)}.")
    return np.broadcast_to(values, (series.width, len(names)))


def check_same_covariates(series: PreparedSeries, validation: PreparedSeries) -> None:
    """Raise ValueError unless ``val_series`` comes with the covariates of ``series``."""
    for kind in ("past", "future"):
        both = (getattr(one.covariates, kind) for one in (series, validation))
        expected, got = (0 if c is None else c.shape[1] for c in both)
        if expected != got:
            raise ValueError(
                f"val_{kind}_covariates has {got} components, {kind}_covariates {expected}: "
                "val_series needs the same covariates as series."
            )


def covariates_to_predict(
    series: Sequence[TimeSeries],
    n: int,
    student: Forecaster,
    past: Any,
    future: Any,
    static: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the covariates that a student needs to forecast ``n`` steps after each series.

    As its ``predict`` takes them; empty without covariates. TypeError or ValueError if they do not
    fit the series, or do not reach far enough.
    """
    length, steps = student.input_chunk_length, student.output_chunk_length
    ahead, shift = max(n, steps), student.output_chunk_shift
    beyond = {"past": max(0, n - steps), "future": shift + ahead}
    known: dict[str, list[np.ndarray] | None] = {}
    for kind, covariates in (("past", past), ("future", future)):
        name = f"{kind}_covariates"
        given = as_list(name, covariates, len(series))
        known[kind] = None if given is None else [
            # Only the end of a long series.
            rows_of(
                name, one, target, max(0, len(target) - length), len(target) + beyond[kind],
                len(target) + beyond[kind], kind == "future",
            )
            for one, target in zip(given, series, strict=True)
        ]  # fmt: skip
    windows = []
    for i, target in enumerate(series):
        mine = {kind: None if rows is None else rows[i] for kind, rows in known.items()}
        mine["static"] = static_values(target, static) if static else None
        origin = np.array([min(len(target), length)])
        windows.append(
            window_covariates(Covariates(**mine), origin, length, ahead, shift, beyond["past"])
        )
    return {
        f"{kind}_covariates": np.concatenate([getattr(one, kind) for one in windows])
        for kind in KINDS
        if windows and getattr(windows[0], kind) is not None
    }
