"""Series, panels and hierarchies of pandas, taken apart into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sktime.datatypes import get_cutoff
from sktime.forecasting.base import ForecastingHorizon

from distilts_forecaster.runtime.gaps import check_not_infinite, fill_covariates

__all__ = ["Instance", "covariates_ahead", "steps_ahead", "take_apart"]


@dataclass(frozen=True)
class Instance:
    """One series of a panel.

    ``key`` are its labels in the index, without time (empty for a series by itself); ``values`` are
    (n_points, C), ``covariates`` (n_points, F) or None; ``cutoff`` is the last time, with its
    frequency.
    """

    key: tuple[Any, ...]
    times: pd.Index
    values: np.ndarray
    covariates: np.ndarray | None
    cutoff: pd.Index

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"y of {', '.join(map(str, self.key))}" if self.key else "y"


def take_apart(
    y: pd.DataFrame, X: pd.DataFrame | None, columns: Sequence[Any] | None
) -> list[Instance]:
    """Take a frame of one series, a panel or a hierarchy apart.

    ``X`` has the index levels of ``y``, and at least its rows; ``columns`` of it are taken, in this
    order, None takes no covariates. ValueError if times are not regular, or ``X`` lacks columns,
    series, rows or values.
    """
    known = {} if columns is None else _groups(_select(X, columns))
    instances = []
    for key, group in _groups(y).items():
        times = group.index
        cutoff = get_cutoff(pd.DataFrame(index=times), return_index=True)
        one = Instance(key, times, group.to_numpy(np.float64), None, cutoff)
        _check_regular(one)
        check_not_infinite(one.values, f"{one.name} has")
        if columns is not None:
            rows = _rows(known, one, times)
            one = Instance(key, times, one.values, rows, cutoff)
        instances.append(one)
    return instances


def steps_ahead(fh: ForecastingHorizon, instance: Instance) -> np.ndarray:
    """Return the steps of ``fh``, counted from the end of a series: 1 is the next.

    ValueError if a step lies before the start of the series.
    """
    steps = np.asarray(fh.to_relative(instance.cutoff).to_pandas(), dtype=np.int64)
    if steps.min() <= -len(instance.times):
        raise ValueError(
            f"fh reaches {-steps.min() - len(instance.times) + 1} steps before the first one of "
            f"{instance.name}, {instance.times[0]}."
        )
    return steps


def covariates_ahead(
    instances: Sequence[Instance],
    X: pd.DataFrame | None,
    columns: Sequence[Any] | None,
    wanted: Sequence[int],
    most: int,
) -> list[np.ndarray | None]:
    """Return the covariates after the end of each series, as far as they are known.

    At least the ``wanted`` steps of each series, at most ``most``: (n, F) each, or None where the
    student takes none. ValueError if ``X`` lacks columns, series, rows or values.
    """
    if columns is None:
        return [None] * len(instances)
    if X is None:
        if max(wanted) > 0:
            raise ValueError(
                f"The forecaster was fitted with X ({list(columns)}): predict needs it too, for "
                f"the next {max(wanted)} steps."
            )
        return [np.empty((0, len(columns)))] * len(instances)
    known = _groups(_select(X, columns))
    steps = ForecastingHorizon(range(1, most + 1))
    rows: list[np.ndarray | None] = []
    for one, needed in zip(instances, wanted, strict=True):
        times = pd.Index(steps.to_absolute_index(one.cutoff))
        mine = known.get(one.key)
        there = np.zeros(most, dtype=bool) if mine is None else times.isin(mine.index)
        n_known = most if there.all() else int(there.argmin())
        rows.append(_rows(known, one, times[: max(n_known, needed)], one.covariates))
    return rows


def _groups(frame: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Return the frame of each series by its labels."""
    if not isinstance(frame.index, pd.MultiIndex):
        return {(): frame}
    levels = list(range(frame.index.nlevels - 1))
    return {
        key if isinstance(key, tuple) else (key,): group.droplevel(levels)
        for key, group in frame.groupby(level=levels, sort=False)
    }


def _select(X: pd.DataFrame | None, columns: Sequence[Any]) -> pd.DataFrame:
    """Return the columns of X in their order, or say which are missing."""
    if X is None:
        raise ValueError(f"The forecaster was fitted with X ({list(columns)}): pass it here too.")
    missing = [name for name in columns if name not in X.columns]
    if missing:
        raise ValueError(
            f"X has the columns {list(X.columns)}, and lacks {missing} that the forecaster was "
            "fitted with."
        )
    return X[list(columns)]


def _rows(
    known: dict[tuple[Any, ...], pd.DataFrame],
    one: Instance,
    times: pd.Index,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Return the covariates of a series at given times, or say what is missing.

    Gaps are filled, at the start from what came ``before``.
    """
    if one.key not in known:
        raise ValueError(f"X has no rows for {one.name}: it needs the same series as y.")
    frame = known[one.key]
    missing = times[~times.isin(frame.index)]
    if len(missing):
        raise ValueError(
            f"X lacks {len(missing)} rows for {one.name}, the first at {missing[0]}. It needs one "
            "for each step of y, and at predict for each step up to the last of fh."
        )
    rows = frame.loc[times].to_numpy(np.float64)
    check_not_infinite(rows, "X has", f" for {one.name}")
    n_before = 0 if before is None else len(before)
    if before is not None:
        rows = np.concatenate([before, rows])
    if np.isnan(rows).all(axis=0).any():
        raise ValueError(f"X has a column without any value for {one.name}: leave it out.")
    return fill_covariates(rows, known_ahead=True)[n_before:]


def _check_regular(one: Instance) -> None:
    """Raise ValueError unless times are evenly spaced: steps are counted, not looked up."""
    times = one.times
    if isinstance(times, pd.DatetimeIndex):
        regular = len(times) < 3 or getattr(one.cutoff, "freq", None) is not None
    elif isinstance(times, pd.PeriodIndex):
        regular = bool((np.diff(times.asi8) == times.freq.n).all())
    else:
        regular = bool((np.diff(times.to_numpy()) == 1).all())
    if not regular:
        raise ValueError(
            f"The times of {one.name} are not regular (from {times[0]} to {times[-1]}, "
            f"{len(times)} rows): steps are missing, or it has no frequency. Resample it, for "
            "instance y.asfreq('D').ffill(), or number its steps 0, 1, 2, ..."
        )
