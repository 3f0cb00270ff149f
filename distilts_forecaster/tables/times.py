"""Times in tables: how they are written, and how often they come."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pandas as pd

__all__ = ["find_freq", "read_times"]

#: Formats that are tried beside ISO 8601, each for the whole column: guessing cell by cell
#: mixes the orders of day and month.
_DAYS = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%d{0}%m{0}%y", "%m{0}%d{0}%y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S")
_FORMATS = (
    *(day.format(mark) + clock for mark in "/.-" for clock in _CLOCKS for day in _DAYS),
    *(f"{day}{clock}" for clock in _CLOCKS for day in ("%Y/%m/%d", "%Y.%m.%d", "%d %b %Y")),
    *("%b-%y", "%b %y", "%b-%Y", "%b %Y", "%B %Y", "%Y/%m", "%m/%Y"),
)


def read_times(column: pd.Series) -> pd.Index:
    """Read a column of times: dates, text, or whole numbers.

    ``20240131`` and ``202401`` are dates where all are. Times are without a zone (in UTC where
    there was one). ValueError if it does not hold times.

    >>> read_times(pd.Series(["31.01.2024", "01.02.2024"]))[0]
    Timestamp('2024-01-31 00:00:00')
    """
    if pd.api.types.is_bool_dtype(column):
        raise ValueError(f"The column {column.name} holds no times, but {column.iloc[0]!r}.")
    if pd.api.types.is_numeric_dtype(column):
        return _from_numbers(column)
    if pd.api.types.is_datetime64_any_dtype(column):
        return _without_zone(column)
    text = column.astype(str).str.strip()
    if text.str.fullmatch(r"\d{4}-?Q[1-4]").all():
        return pd.PeriodIndex(text.str.replace("-", ""), freq="Q").to_timestamp()
    parsed = _parse(text, "ISO8601")
    if parsed is not None:
        return _without_zone(parsed)
    head = text.iloc[:: max(1, len(text) // 20)]
    fitting = [one for one in _FORMATS if _parse(head, one) is not None]
    readings = [made for one in fitting if (made := _parse(text, one)) is not None]
    if not readings:
        first = next((cell for cell in text if _parse(pd.Series([cell]), "ISO8601") is None), "")
        raise ValueError(
            f"The column {column.name} does not hold times, but {first!r:.60}: write them as "
            "2024-01-31 or 2024-01-31 18:30, or as whole numbers."
        )
    # Day first or month first: as the times are regular.
    steps = [_n_steps(made) for made in readings]
    if steps.count(min(steps)) > 1:
        warnings.warn(
            f"The column {column.name} can be read day first and month first: it is read day "
            "first. Write times as 2024-01-31 to be sure.",
            stacklevel=2,
        )
    return _without_zone(readings[int(np.argmin(steps))])


def _parse(text: pd.Series, form: str) -> pd.Series | None:
    """Read text as times of one format, None where it has another."""
    try:
        return pd.to_datetime(text, format=form, utc=True)
    except (ValueError, TypeError, OverflowError):
        return None


def _without_zone(times: pd.Series) -> pd.DatetimeIndex:
    """Return times in UTC, without a time zone."""
    index = pd.DatetimeIndex(times)
    return index if index.tz is None else index.tz_convert("UTC").tz_localize(None)


def _n_steps(times: pd.Series) -> int:
    """Return how many steps of different lengths there are, 0 where times are regular."""
    ordered = pd.DatetimeIndex(times).unique().sort_values()
    if len(ordered) > 2 and pd.infer_freq(ordered) is not None:
        return 0
    return len(np.unique(np.diff(ordered.to_numpy())))


def _from_numbers(column: pd.Series) -> pd.Index:
    """Read whole numbers: as dates if all can be read as 20240131 or 202401."""
    numbers = column.to_numpy(np.float64)
    if not (np.abs(numbers) < 2**53).all() or (numbers != np.round(numbers)).any():
        raise ValueError(f"The column {column.name} must hold dates or whole numbers.")
    whole = numbers.astype(np.int64)
    for form, low, high in (("%Y%m%d", 18000101, 22001231), ("%Y%m", 180001, 220012)):
        if whole.min() >= low and whole.max() <= high:
            parsed = _parse(pd.Series(whole).astype(str), form)
            if parsed is not None:
                return _without_zone(parsed)
    return pd.Index(whole)


def find_freq(times: pd.DatetimeIndex) -> str | None:
    """Find the frequency of times, some of which may be missing; None if it is not clear.

    >>> find_freq(pd.date_range("2024-01-01", periods=40, freq="h").delete([7, 20]))
    'h'
    """
    ordered = times.unique().sort_values()
    whole = pd.infer_freq(ordered) if len(ordered) > 2 else None
    if whole is not None:
        return whole
    # Where rows are missing, stretches between them tell.
    starts = np.unique(np.linspace(0, max(0, len(ordered) - 5), 100).astype(int))
    stretches = (ordered[start : start + 5] for start in starts)
    found = Counter(pd.infer_freq(one) for one in stretches if len(one) > 2)
    return next((freq for freq, _ in found.most_common() if freq is not None), None)
