"""Tables that the command line reads: CSV or Parquet, long or wide."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distilts_forecaster.tables.times import find_freq, read_times

__all__ = ["Table", "read_table"]

#: Names by which columns are found where none is given, in the order of preference.
_ID_NAMES = ("unique_id", "item_id", "series_id", "id")
_TIME_NAMES = ("ds", "timestamp", "datetime", "date", "time", "year")
_TARGET_NAMES = ("y", "target", "value")


@dataclass(frozen=True)
class Table:
    """Series, as they were read.

    ``ids`` names each series; the one series of a wide table has the id None. ``times`` are regular
    and increasing, ``values`` (n_points, C) NaN where a value, or a whole row, is missing.
    ``time_name`` is "step" where no column has times. ``freqs`` are None where times are no dates.
    """

    ids: list[Any]
    times: list[Any]
    values: list[np.ndarray]
    components: list[str]
    id_name: str
    time_name: str
    freqs: list[str | None]

    def times_after(self, i: int, n: int) -> Any:
        """Return the n times that follow series i."""
        times, freq = self.times[i], self.freqs[i]
        if freq is None:
            return pd.RangeIndex(
                times[-1] + times.step, times[-1] + (n + 1) * times.step, times.step
            )
        return pd.date_range(times[-1], periods=n + 1, freq=freq)[1:]

    def to_frame(self, forecasts: Sequence[np.ndarray], columns: Sequence[str]) -> pd.DataFrame:
        """Return what follows each series (n, len(columns)) as a table like the one read."""
        parts = []
        for i, (name, made) in enumerate(zip(self.ids, forecasts, strict=True)):
            part = pd.DataFrame(made, columns=list(columns))
            part.insert(0, self.time_name, self.times_after(i, len(made)))
            if name is not None:
                part.insert(0, self.id_name, name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def read_table(
    source: str,
    id: str | None = None,
    time: str | None = None,
    target: Sequence[str] | None = None,
    freq: str | None = None,
) -> Table:
    """Read series.

    A table is long where it has a column that says which series a row is of (``id``, or one called
    unique_id, item_id, series_id or id): a row for each series and time. Otherwise it is wide: a
    row for each time, a column for each component of one series.

    ``source`` is a file, or "-" for standard input; Parquet is told by its first bytes. Columns are
    found by their usual names; the target is y, target or value in a long table, and all other
    columns in a wide one. ``freq`` is found by default. ValueError if it is no table, a column is
    missing or of the wrong kind, or times are missing, there twice, or not regular; OSError if
    there is no such file.
    """
    frame = _read_frame(source, id)
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"{_called(source)} has no rows.")
    frame.columns = [str(name) for name in frame.columns]
    if len(set(frame.columns)) < len(frame.columns):
        raise ValueError(f"{_called(source)} has columns of the same name: {list(frame.columns)}.")
    given_id, id = id, _find(frame, "--id", id, _ID_NAMES)
    if given_id is None and id is not None and _counts_rows(frame[id]):
        frame, id = frame.drop(columns=id), None
    time = _find(frame, "--time", time, ()) or _find_time(frame, id, target)
    targets = _targets(frame, target, id, time)
    values = np.column_stack([_numbers(frame, name) for name in targets])
    times = None
    if time is not None:
        if frame[time].isna().any():
            raise ValueError(f"{int(frame[time].isna().sum())} rows have no {time}.")
        times = read_times(frame[time])
    groups: dict[Any, Any] = {None: np.arange(len(frame))}
    if id is not None:
        if frame[id].isna().any():
            raise ValueError(f"{int(frame[id].isna().sum())} rows have no {id}: leave them out.")
        groups = dict(frame.groupby(id, sort=False).indices)
    freqs: list[str | None] = [freq] * len(groups)
    if isinstance(times, pd.DatetimeIndex):
        if freq is None:
            freqs = _find_freqs([times[rows] for rows in groups.values()])
    elif freq is not None:
        raise ValueError(f"--freq {freq}: there are no dates that it could be of.")
    parts = [
        _regular(key, rows, times, values, one)
        for (key, rows), one in zip(groups.items(), freqs, strict=True)
    ]
    return Table(
        ids=list(groups),
        times=[index for index, _ in parts],
        values=[made for _, made in parts],
        components=targets,
        id_name=id or "unique_id",
        time_name=time or "step",
        freqs=freqs,
    )


def _called(source: str) -> str:
    """Return what to call the source."""
    return "Standard input" if source == "-" else source


def _read_frame(source: str, id: str | None) -> pd.DataFrame:
    """Read CSV or Parquet. Ids in CSV stay text: 007 is not 7."""
    if source == "-" and sys.stdin is None:
        raise ValueError("There is no standard input.")
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    if content[:4] == b"PAR1":
        try:
            frame = pd.read_parquet(io.BytesIO(content))
        except ImportError as error:
            raise ImportError(
                'Parquet needs pyarrow: pip install "distilts-forecaster[cli]"'
            ) from error
        except Exception as error:  # pyarrow's own errors have no common class but this
            raise ValueError(f"{_called(source)} is no Parquet file: {error}") from error
        counted = frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
        return frame.reset_index(drop=counted)
    header = content.split(b"\n", 1)[0]
    separator = chr(max(b",;\t", key=lambda byte: header.count(byte)))
    # Where semicolons separate columns, commas are in numbers.
    options: dict[str, Any] = {"sep": separator, "decimal": "," if separator == ";" else "."}
    try:
        names = pd.read_csv(io.BytesIO(content), nrows=0, index_col=False, **options).columns
        ids = [name for name in names if name == id or (id is None and name.lower() in _ID_NAMES)]
        # With dtype=str instead, the id NA would be missing.
        frame = pd.read_csv(
            io.BytesIO(content), index_col=False, converters=dict.fromkeys(ids, str), **options
        )
        frame[ids] = frame[ids].replace("", None)
        return frame.drop(columns=[n for n in names if re.fullmatch(r"Unnamed: \d+", n)])
    except (ValueError, OverflowError) as error:  # of the parser, and of the encoding
        raise ValueError(f"{_called(source)} is no CSV file: {error}") from error


def _find(frame: pd.DataFrame, option: str, given: str | None, usual: Sequence[str]) -> str | None:
    """Return the name of a column, given or usual."""
    if given is not None:
        if given not in frame.columns:
            raise ValueError(f"{option} {given}: the table has {list(frame.columns)}.")
        return given
    lower = {name.lower(): name for name in frame.columns}
    return next((lower[name] for name in usual if name in lower), None)


def _counts_rows(column: pd.Series) -> bool:
    """Say whether a column called id numbers the rows, not the series: all numbers differ."""
    if len(column) < 2 or not column.is_unique:
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().all())


def _find_time(frame: pd.DataFrame, id: str | None, target: Sequence[str] | None) -> str | None:
    """Return the column that says when, by its name or by what it holds; None where none does."""
    others = [name for name in frame.columns if name != id and name not in (target or ())]
    lower = {name.lower(): name for name in others}
    usual = [lower[name] for name in _TIME_NAMES if name in lower]
    if not usual:
        usual = [name for name in others if _are_dates(frame[name])]
    # Of a day and a time, the one that tells rows apart.
    rows = [] if id is None else [id]
    apart = [name for name in usual if not frame.duplicated([*rows, name]).any()]
    return next(iter(apart or usual), None)


def _are_dates(column: pd.Series) -> bool:
    """Say whether a column is text that can be read as dates, or dates."""
    if pd.api.types.is_numeric_dtype(column):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_times(column.dropna().iloc[:10])
    except (ValueError, IndexError):
        return False
    return True


def _targets(
    frame: pd.DataFrame, given: Sequence[str] | None, id: str | None, time: str | None
) -> list[str]:
    """Return the columns with values."""
    others = [name for name in frame.columns if name not in (id, time)]
    if given:
        missing = [name for name in given if name not in others]
        if missing or len(set(given)) < len(given):
            raise ValueError(f"--target {' '.join(given)}: choose different ones of {others}.")
        return list(given)
    if not others:
        raise ValueError(f"The table has no column with values, only {list(frame.columns)}.")
    values = [name for name in others if not _are_dates(frame[name])] or others
    if id is None or len(values) == 1:
        return values
    usual = _find(frame[values], "--target", None, _TARGET_NAMES)
    if usual is None:
        numbers = [n for n in values if pd.api.types.is_numeric_dtype(frame[n])] or values
        raise ValueError(f"Say which of {numbers} to forecast: --target {numbers[0]}")
    return [usual]


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as finite numbers, NaN where missing."""
    column = frame[name]
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
        raise ValueError(f"The column {name} holds times, not numbers: --time {name} ?")
    try:
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The column {name} does not hold numbers: {error}") from error
    wrong = np.flatnonzero((np.isnan(values) & column.notna().to_numpy()) | np.isinf(values))
    if len(wrong):
        raise ValueError(
            f"The column {name} holds {column.iloc[wrong[0]]!r:.60} in row {wrong[0] + 1} (and "
            f"{len(wrong) - 1} more that are no finite number). Name the columns with values: "
            "--target; one that says which series a row is of: --id. Empty cells are missing."
        )
    return values


def _find_freqs(all_times: Sequence[pd.DatetimeIndex]) -> list[str | None]:
    """Return the frequency of each series; of those too short to tell, the most common one."""
    found = [find_freq(times) for times in all_times]
    known = Counter(freq for freq in found if freq is not None)
    if not known:
        raise ValueError("The times have no frequency that can be seen: give --freq (h, D, MS).")
    return [freq or known.most_common(1)[0][0] for freq in found]


def _regular(
    key: Any, rows: np.ndarray, times: pd.Index | None, values: np.ndarray, freq: str | None
) -> tuple[Any, np.ndarray]:
    """Return the times and values of one series, in order and with NaN where rows are missing."""
    which = "" if key is None else f" of {key!r:.60}"
    if times is None:
        return pd.RangeIndex(len(rows)), values[rows]
    mine = times[rows]
    order = np.argsort(mine, kind="stable")
    mine, values = mine[order], values[rows][order]
    if not mine.is_unique:
        twice = mine[mine.duplicated()][0]
        raise ValueError(f"There is more than one row{which} at {twice}: aggregate them first.")
    full: Any
    if freq is not None:
        try:
            first, second = pd.date_range(mine[0], periods=2, freq=freq)
            n_steps = (mine[-1] - mine[0]) / (second - first)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"--freq {freq}: {error}") from error
    else:
        steps = np.diff(mine.to_numpy())
        step = int(np.gcd.reduce(steps)) if len(steps) else 1
        full = pd.RangeIndex(mine[0], mine[-1] + step, step)
        n_steps = len(full)
    if n_steps > 100 * len(mine) + 1000:
        raise ValueError(
            f"The times{which} are mostly missing: {len(mine)} of {n_steps:.0f} steps of "
            f"{freq or step}. Give another --freq, or resample them."
        )
    if n_steps > 2 * len(mine) + 1:
        warnings.warn(
            f"{n_steps - len(mine):.0f} of {n_steps:.0f} steps{which} are missing, if times come "
            f"every {freq or step}: is that so?",
            stacklevel=2,
        )
    if freq is not None:
        full = pd.date_range(mine[0], mine[-1], freq=freq)
    places = full.get_indexer(mine)
    if (places < 0).any():
        wrong = mine[places < 0][0]
        raise ValueError(
            f"The times{which} are not regular: {wrong} is none of {mine[0]}, and so on by "
            f"{freq or full.step}. Give another --freq, or resample them."
        )
    made = np.full((len(full), values.shape[1]), np.nan)
    made[places] = values
    return full, made
