"""Long tables (a row for each series and time) to and from what the facades take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

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
        Series in the order in which they first appear, with their id as a static covariate; or
        a panel with index ``(id, time)`` as sktime's facade takes it.

    Raises
    ------
    ValueError
        If a column is missing, a row is there twice, or there is no row.

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
    targets = [target] if isinstance(target, str) else list(target)
    missing = [name for name in (id, time, *targets) if name not in frame.columns]
    if missing:
        raise ValueError(
            f"The table has no column {missing}; it has {list(frame.columns)}. Name its columns: "
            'from_long(frame, id="item_id", time="timestamp", target="target")'
        )
    if not len(frame):
        raise ValueError("The table has no rows.")
    table = frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()
    table = table[[id, time, *targets]]
    twice = table.duplicated([id, time])
    if twice.any():
        first = table[twice].iloc[0]
        raise ValueError(
            f"{int(twice.sum())} rows are there twice, the first for {id}={first[id]!r} at "
            f"{first[time]}. Aggregate them first."
        )
    if to == "sktime":
        panel = table.set_index([id, time])
        return panel.sort_index()
    from darts import TimeSeries

    series = TimeSeries.from_group_dataframe(
        table.sort_values(time, kind="stable"),
        group_cols=id,
        time_col=time,
        value_cols=targets,
        freq=freq,
        fill_missing_dates=freq is not None,
    )
    by_id = {one.static_covariates[id].iloc[0]: one for one in series}
    return [by_id[key] for key in table[id].unique()]


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
        A series of Darts without a static covariate ``id`` is called by its place: 0, 1, ...
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
    targets = [target] if isinstance(target, str) else list(target)
    parts = []
    if isinstance(series, (pd.DataFrame, pd.Series)):
        panel = series.to_frame() if isinstance(series, pd.Series) else series
        if panel.index.nlevels != 2:
            raise ValueError(
                f"A panel has the index (instance, time), got {panel.index.nlevels} levels: "
                "join those of a hierarchy first."
            )
        parts = [panel.set_axis(panel.index.set_names([id, time])).reset_index()]
    else:
        several = series if isinstance(series, Sequence) else [series]
        for place, one in enumerate(several):
            known = one.static_covariates
            name = known[id].iloc[0] if known is not None and id in known.columns else place
            part = one.to_dataframe(time_as_index=False)
            part.insert(0, id, name)
            parts.append(part)
    n_values = parts[0].shape[1] - 2
    if n_values != len(targets):
        raise ValueError(f"There are {n_values} components, name as many targets; got {targets}.")
    table = pd.concat([part.set_axis([id, time, *targets], axis=1) for part in parts])
    table = table.reset_index(drop=True)
    if backend == "pandas":
        return table
    try:
        import polars
    except ModuleNotFoundError as error:
        raise ImportError('backend="polars" needs polars: pip install polars') from error
    return polars.from_pandas(table)
