"""Long tables (a row for each series and time) to and from what the facades take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from distilts_forecaster.runtime.checks import extra_for

__all__ = ["from_long", "to_long"]


def from_long(
    frame: Any,
    id: str = "unique_id",
    time: str = "ds",
    target: str | Sequence[str] = "y",
    freq: str | int | None = None,
    to: Literal["darts", "sktime"] = "darts",
) -> Any:
    """Turn a long table into series.

    Parameters
    ----------
    frame : pandas.DataFrame or polars.DataFrame
        A row for each series and time, in any order.
    id, time : str, default "unique_id" and "ds"
        Columns that say which series a row is of, and when.
    target : str or sequence of str, default "y"
        The column with the values; several are the components of each series. Other columns are
        left out.
    freq : str or int, optional
        Of all series, for Darts; inferred from each by default. Times that are missing are
        filled with NaN where it is given.
    to : {"darts", "sktime"}, default "darts"

    Returns
    -------
    list of TimeSeries, or pandas.DataFrame
        Series in the order in which they first appear, with their id as metadata, in UTC where
        times have a zone (Darts keeps none); or a panel with index ``(id, time)`` as sktime's
        facade takes it.

    Raises
    ------
    TypeError
        If it is not a table.
    ValueError
        If a column is missing, a row is there twice or has no id or time, there is no row, or
        times are not regular.

    Examples
    --------
    >>> frame = pd.DataFrame({"unique_id": ["a"] * 3 + ["b"] * 3, "ds": [0, 1, 2] * 2})
    >>> frame["y"] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    >>> [len(series) for series in from_long(frame)]
    [3, 3]
    >>> from_long(frame, to="sktime").loc["b", "y"].tolist()
    [4.0, 5.0, 6.0]
    """
    if to not in ("darts", "sktime"):
        raise ValueError(f'to must be "darts" or "sktime", got {to!r}.')
    names = _names(id, time, target)
    if not hasattr(frame, "columns") or not hasattr(frame, "__len__"):
        raise TypeError(
            f"frame must be a pandas or polars DataFrame, got {type(frame).__name__} (of a "
            "LazyFrame, pass frame.collect())."
        )
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"The table has no column {missing}; it has {list(frame.columns)}. Name its columns: "
            'from_long(frame, id="item_id", time="timestamp", target="target")'
        )
    if not len(frame):
        raise ValueError("The table has no rows.")
    table = (
        frame[names].reset_index(drop=True)
        if isinstance(frame, pd.DataFrame)
        else pd.DataFrame({name: frame[name].to_numpy() for name in names})
    )
    unknown = table[[id, time]].isna().any(axis=1)
    if unknown.any():
        raise ValueError(f"{int(unknown.sum())} rows have no {id} or no {time}: leave them out.")
    twice = table.duplicated([id, time])
    if twice.any():
        first = table[twice].iloc[0]
        raise ValueError(
            f"{int(twice.sum())} rows are there twice, the first for {id}={first[id]!r} at "
            f"{first[time]}. Aggregate them first."
        )
    if to == "sktime":
        return table.set_index([id, time]).sort_index()
    return [
        _to_series(key, group, id, time, names[2:], freq)
        for key, group in table.groupby(id, sort=False)
    ]


def _names(id: str, time: str, target: str | Sequence[str]) -> list[str]:
    """Return the names of all columns, which must differ."""
    names = [id, time, *([target] if isinstance(target, str) else target)]
    if len(names) < 3 or len(set(names)) < len(names):
        raise ValueError(
            f"id, time and target must name at least three different columns, got {names}."
        )
    return names


def _to_series(
    key: Any, group: pd.DataFrame, id: str, time: str, targets: list[str], freq: str | int | None
) -> Any:
    """Build the Darts series of one id, with the id as metadata."""
    with extra_for('to="darts"', "darts"):
        from darts import TimeSeries

    group = group.sort_values(time, kind="stable")
    zone = getattr(group[time].dt, "tz", None) if hasattr(group[time], "dt") else None
    if zone is not None:
        group[time] = group[time].dt.tz_convert("UTC").dt.tz_localize(None)
    try:
        return TimeSeries.from_dataframe(
            group,
            time_col=time,
            value_cols=targets,
            freq=freq,
            fill_missing_dates=freq is not None,
            metadata={id: key},
        )
    except ValueError as error:
        raise ValueError(
            f"The rows of {id}={key!r} make no series: {error} Give freq where times are missing."
        ) from error


def to_long(
    series: Any,
    id: str = "unique_id",
    time: str = "ds",
    target: str | Sequence[str] = "y",
    backend: Literal["pandas", "polars"] = "pandas",
) -> Any:
    """Turn series, or forecasts of them, into a long table.

    Parameters
    ----------
    series : TimeSeries, sequence of TimeSeries, or a panel of sktime
        The id of a Darts series is read from its metadata or static covariates; without one it is
        its place: 0, 1, ...
    id, time : str, default "unique_id" and "ds"
        Names of the columns.
    target : str or sequence of str, default "y"
        Name of the values' column; of several components, one name for each.
    backend : {"pandas", "polars"}, default "pandas"

    Returns
    -------
    pandas.DataFrame or polars.DataFrame
        With the columns ``id``, ``time`` and the targets.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If there is not one name for each component.
    ImportError
        If polars is asked for and not installed.

    Examples
    --------
    >>> frame = pd.DataFrame({"unique_id": ["a"] * 2, "ds": [0, 1], "y": [1.0, 2.0]})
    >>> to_long(from_long(frame)).equals(frame)
    True
    """
    if backend not in ("pandas", "polars"):
        raise ValueError(f'backend must be "pandas" or "polars", got {backend!r}.')
    names = _names(id, time, target)
    if isinstance(series, (pd.DataFrame, pd.Series)):
        panel = series.to_frame() if isinstance(series, pd.Series) else series
        if panel.index.nlevels != 2:
            raise ValueError(
                f"A panel has the index (instance, time), got {panel.index.nlevels} levels: "
                "join those of a hierarchy first."
            )
        parts = [panel.set_axis(panel.index.set_names([id, time])).reset_index()]
    else:
        parts = _parts(series, id, time)
    for part in parts:
        if part.shape[1] != len(names):
            raise ValueError(
                f"A series has {part.shape[1] - 2} components, name as many targets; got "
                f"{names[2:]}."
            )
    table = pd.concat([part.set_axis(names, axis=1) for part in parts], ignore_index=True)
    if backend == "pandas":
        return table
    try:
        import polars
    except ModuleNotFoundError as error:
        raise ImportError('backend="polars" needs polars: pip install polars') from error
    return polars.DataFrame({name: table[name].to_numpy() for name in names})


def _parts(series: Any, id: str, time: str) -> list[pd.DataFrame]:
    """Return a table for each Darts series."""
    from darts import TimeSeries

    several = [series] if isinstance(series, TimeSeries) else series
    if (
        not isinstance(several, Sequence)
        or not several
        or not all(isinstance(one, TimeSeries) and one.is_deterministic for one in several)
    ):
        raise TypeError(
            "series must be a deterministic TimeSeries, a list of at least one, or a panel of "
            f"sktime, got {type(series).__name__} {series!r:.60}. Join the forecasts of a backtest "
            "first, with darts.concatenate."
        )
    parts = []
    for place, one in enumerate(several):
        known = one.static_covariates
        name: Any = place
        if one.metadata is not None and id in one.metadata:
            name = one.metadata[id]
        elif known is not None and id in known.columns:
            name = known[id].iloc[0]
        values = one.values(copy=False)
        columns = {i: values[:, i] for i in range(values.shape[1])}
        part: dict[Any, Any] = {"id": [name] * len(one), "time": one.time_index} | columns
        parts.append(pd.DataFrame(part))
    return parts
