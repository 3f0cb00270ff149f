"""Tables that the command line reads: CSV or Parquet, long or wide."""

from __future__ import annotations

import io
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Table", "read_table"]

#: Names by which columns are found where none is given, in the order of preference.
_ID_NAMES = ("unique_id", "item_id", "series_id", "id")
_TIME_NAMES = ("ds", "timestamp", "datetime", "date", "time", "year")
_TARGET_NAMES = ("y", "target", "value")


@dataclass(frozen=True)
class Table:
    """Series, as they were read.

    Attributes
    ----------
    ids : list
        One for each series; a wide table is one series without a name, None.
    times : list of pandas.DatetimeIndex or pandas.RangeIndex
        Regular, and increasing.
    values : list of numpy.ndarray of float64, shape (n_points, C)
        NaN where a value, or a whole row, is missing.
    components : list of str
    id_name, time_name : str
        Of the columns; ``time_name`` is "step" where there is none.
    freq : str or None
        Of times that are dates.
    """

    ids: list[Any]
    times: list[Any]
    values: list[np.ndarray]
    components: list[str]
    id_name: str
    time_name: str
    freq: str | None

    def times_after(self, i: int, n: int) -> Any:
        """Return the n times that follow a series.

        Parameters
        ----------
        i : int
            Its place.
        n : int

        Returns
        -------
        pandas.DatetimeIndex or pandas.RangeIndex
        """
        times = self.times[i]
        if self.freq is None:
            return pd.RangeIndex(
                times[-1] + times.step, times[-1] + (n + 1) * times.step, times.step
            )
        return pd.date_range(times[-1], periods=n + 1, freq=self.freq)[1:]

    def to_frame(self, forecasts: Sequence[np.ndarray], columns: Sequence[str]) -> pd.DataFrame:
        """Return what follows each series as a table like the one that was read.

        Parameters
        ----------
        forecasts : sequence of numpy.ndarray, shape (n, len(columns))
        columns : sequence of str

        Returns
        -------
        pandas.DataFrame
        """
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

    A table is long where it has a column that says which series a row is of (``id``, or one
    called unique_id, item_id, series_id or id): a row for each series and time. Otherwise it is
    wide: a row for each time, a column for each component of one series.

    Parameters
    ----------
    source : str
        A file, or "-" for standard input. Parquet is told by its first bytes.
    id, time : str, optional
        Names of columns; by default those that are usual.
    target : sequence of str, optional
        Columns with values; by default one called y, target or value in a long table, and all
        others in a wide one.
    freq : str, optional
        Of the times, as pandas calls it; by default it is found.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If it is no table, a column is missing or holds something else, times are missing, there
        twice or not regular.
    OSError
        If there is no such file.
    """
    frame = _read_frame(source, id)
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"{_called(source)} has no rows.")
    frame.columns = [str(name) for name in frame.columns]
    if len(set(frame.columns)) < len(frame.columns):
        raise ValueError(f"{_called(source)} has columns of the same name: {list(frame.columns)}.")
    id = _find(frame, "--id", id, _ID_NAMES)
    time = _find(frame, "--time", time, _TIME_NAMES)
    if time is None and id is None and _are_dates(frame.iloc[:, 0]):
        time = str(frame.columns[0])
    targets = _targets(frame, target, id, time)
    values = np.column_stack([_numbers(frame, name) for name in targets])
    times = None if time is None else _times(frame[time])
    groups: dict[Any, Any] = {None: np.arange(len(frame))}
    if id is not None:
        if frame[id].isna().any():
            raise ValueError(f"{int(frame[id].isna().sum())} rows have no {id}: leave them out.")
        groups = dict(frame.groupby(id, sort=False).indices)
    if freq is None and isinstance(times, pd.DatetimeIndex):
        freq = _common_freq([times[rows] for rows in groups.values()])
    if freq is not None and not isinstance(times, pd.DatetimeIndex):
        raise ValueError(f"--freq {freq}: there are no dates that it could be of.")
    parts = [_regular(key, rows, times, values, freq) for key, rows in groups.items()]
    return Table(
        ids=list(groups),
        times=[index for index, _ in parts],
        values=[made for _, made in parts],
        components=targets,
        id_name=id or "unique_id",
        time_name=time or "step",
        freq=freq,
    )


def _called(source: str) -> str:
    """Return what to call the source."""
    return "Standard input" if source == "-" else source


def _read_frame(source: str, id: str | None) -> pd.DataFrame:
    """Read CSV or Parquet. Of CSV, what says which series stays text: 007 is not 7."""
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
        return frame.reset_index(drop=isinstance(frame.index, pd.RangeIndex))
    header = content.split(b"\n", 1)[0]
    separator = chr(max(b",;\t", key=lambda byte: header.count(byte)))
    # Where semicolons separate columns, commas are in numbers.
    options: dict[str, Any] = {"sep": separator, "decimal": "," if separator == ";" else "."}
    try:
        names = pd.read_csv(io.BytesIO(content), nrows=0, index_col=False, **options).columns
        ids = [name for name in names if name == id or (id is None and name.lower() in _ID_NAMES)]
        return pd.read_csv(
            io.BytesIO(content), index_col=False, dtype=dict.fromkeys(ids, str), **options
        )
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


def _are_dates(column: pd.Series) -> bool:
    """Say whether a column is text that can be read as dates, or dates."""
    if pd.api.types.is_numeric_dtype(column):
        return False
    try:
        with warnings.catch_warnings():  # of formats that cannot be told
            warnings.simplefilter("ignore")
            pd.to_datetime(column.iloc[:10], dayfirst=True)
    except (ValueError, TypeError, OverflowError):
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
    if id is None or len(others) == 1:
        return others
    usual = _find(frame[others], "--target", None, _TARGET_NAMES)
    if usual is None:
        raise ValueError(f"Say which of {others} to forecast: --target {others[0]}")
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
            f"{len(wrong) - 1} more that are no finite number). Leave columns out with --target; "
            "empty cells are missing values."
        )
    return values


def _times(column: pd.Series) -> pd.Index:
    """Return a column as dates without a zone, or as integers."""
    if column.isna().any():
        raise ValueError(f"{int(column.isna().sum())} rows have no {column.name}.")
    if pd.api.types.is_bool_dtype(column):
        raise ValueError(f"The column {column.name} holds no times, but {column.iloc[0]!r}.")
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.to_numpy(np.float64)
        if not (np.abs(numbers) < 2**53).all() or (numbers != np.round(numbers)).any():
            raise ValueError(f"The column {column.name} must hold dates or whole numbers.")
        return pd.Index(numbers.astype(np.int64))
    # Day first only where month first cannot be.
    for options in ({"format": "ISO8601"}, {}, {"dayfirst": True}):
        try:
            with warnings.catch_warnings():  # of formats that are found for each cell
                warnings.simplefilter("ignore")
                parsed = pd.to_datetime(column, utc=True, **options)
        except (ValueError, TypeError, OverflowError):
            continue
        return pd.DatetimeIndex(parsed).tz_localize(None)
    raise ValueError(
        f"The column {column.name} does not hold times, but {column.iloc[0]!r:.60}: write them "
        "as 2024-01-31 or 2024-01-31 18:30, or as whole numbers."
    )


def _common_freq(all_times: Sequence[pd.DatetimeIndex]) -> str:
    """Return the frequency that most stretches of consecutive times have."""
    found: Counter[str] = Counter()
    for times in all_times[:: max(1, len(all_times) // 50)]:
        ordered = times.unique().sort_values()
        whole = pd.infer_freq(ordered) if len(ordered) > 2 else None
        if whole is not None:
            found[whole] += 20
            continue
        # Where rows are missing, stretches between them tell.
        for start in np.linspace(0, max(0, len(ordered) - 5), 20).astype(int):
            stretch = ordered[start : start + 5]
            freq = pd.infer_freq(stretch) if len(stretch) > 2 else None
            if freq is not None:
                found[freq] += 1
    if not found:
        raise ValueError(
            "The times have no frequency that can be seen: give --freq (h, D, MS ...)."
        )
    return found.most_common(1)[0][0]


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
