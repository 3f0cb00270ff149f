"""Checks of what users pass: what was got, what was expected, how to mend it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from distilts_forecaster.objective import HorizonWeights, resolve_horizon_weights
from distilts_forecaster.students.linear import Linear
from distilts_forecaster.windows import PreparedSeries

__all__ = [
    "check_alignment",
    "check_cache_dir",
    "check_distillation_weight",
    "check_horizon_weights",
    "check_integer",
    "check_series",
    "check_student",
    "warn_of_levels",
]


def check_integer(name: str, value: Any, at_least: int) -> None:
    """Raise unless ``value`` is an integer of at least ``at_least``.

    Parameters
    ----------
    name : str
        Name of the parameter.
    value : object
    at_least : int

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is too small.

    Examples
    --------
    >>> check_integer("n", 96, at_least=1)
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least {at_least}, got {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")


def check_student(student: Any) -> Linear:
    """Return the student's settings.

    Parameters
    ----------
    student : str or Linear

    Returns
    -------
    Linear

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor settings.
    """
    if isinstance(student, Linear):
        return student
    if isinstance(student, str):
        if student != "linear":
            raise ValueError(f'Unknown student {student!r}. Known students: "linear".')
        return Linear()
    raise TypeError(f'student must be "linear" or Linear(...), got {student!r}.')


def check_distillation_weight(weight: Any) -> float | str:
    """Return alpha, checked.

    Parameters
    ----------
    weight : float or "auto"

    Returns
    -------
    float or "auto"

    Raises
    ------
    TypeError
        If it is neither a number nor "auto".
    ValueError
        If it is negative or not finite.
    """
    expected = 'distillation_weight must be "auto" or a number of at least 0'
    if isinstance(weight, str):
        if weight != "auto":
            raise ValueError(f"{expected}, got {weight!r}.")
        return weight
    _check_weight(expected, weight)
    return float(weight)


def _check_weight(expected: str, value: Any) -> None:
    """Raise unless ``value`` is a finite number of at least zero."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{expected}, got {value!r}.")
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"{expected}, got {value!r}.")


def check_horizon_weights(weights: Any, horizon: int) -> HorizonWeights | str:
    """Return the horizon weights as given, checked against the horizon.

    Parameters
    ----------
    weights : float, sequence, callable or "auto"
    horizon : int

    Returns
    -------
    float, sequence, callable or "auto"

    Raises
    ------
    TypeError, ValueError
        See :func:`~distilts_forecaster.objective.resolve_horizon_weights`.
    """
    if isinstance(weights, str) and weights == "auto":
        return weights
    resolve_horizon_weights(weights, horizon)
    # A copy: what the user's list becomes later is not what was checked.
    return weights if callable(weights) or np.isscalar(weights) else tuple(weights)


def check_alignment(alignment: Any, weight: Any) -> None:
    """Raise unless the alignment can be had with a student without hidden states.

    Parameters
    ----------
    alignment : str or None
    weight : float
        beta.

    Raises
    ------
    TypeError, ValueError
        If the values are unknown, or alignment is insisted on.
    """
    _check_weight("alignment_weight must be a number of at least 0", weight)
    if alignment is None or alignment == "auto":
        return
    if alignment == "factorised":
        raise ValueError(
            'alignment="factorised" needs a student with hidden states; the linear student has '
            'none. Use alignment="auto" or None.'
        )
    raise ValueError(f'alignment must be "auto", "factorised" or None, got {alignment!r}.')


def check_cache_dir(cache_dir: Any) -> None:
    """Raise unless ``cache_dir`` is a path, None or False.

    Parameters
    ----------
    cache_dir : path-like, None or False

    Raises
    ------
    TypeError
        Otherwise.
    ValueError
        If it is a file.
    """
    if cache_dir is None or cache_dir is False:
        return
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise TypeError(f"cache_dir must be a directory, None or False, got {cache_dir!r}.")
    if os.path.isfile(cache_dir):
        raise ValueError(f"cache_dir must be a directory, got the file {os.fspath(cache_dir)!r}.")


def check_series(
    name: str, series: Any, min_length: int, n_components: int | None = None
) -> list[np.ndarray]:
    """Return the values of Darts series as arrays, checked.

    Parameters
    ----------
    name : str
        Name of the parameter.
    series : TimeSeries or sequence of TimeSeries
    min_length : int
        Points that each must have.
    n_components : int, optional
        Components that each must have; by default as many as the first.

    Returns
    -------
    list of numpy.ndarray, shape (n_points, n_components)

    Raises
    ------
    TypeError
        If it is not a TimeSeries, or a sequence of them.
    ValueError
        If there is none, or one is too short, is probabilistic, has other
        components, is infinite somewhere, or missing throughout.
    """
    from darts import TimeSeries

    single = isinstance(series, TimeSeries)
    if not single and not (isinstance(series, Sequence) and not isinstance(series, (str, bytes))):
        raise TypeError(
            f"{name} must be a darts TimeSeries or a list of them, got {type(series).__name__}. "
            "Example: TimeSeries.from_dataframe(frame)"
        )
    given = [series] if single else list(series)
    if not given:
        raise ValueError(f"{name} is an empty list: pass at least one TimeSeries.")
    values: list[np.ndarray] = []
    for i, one in enumerate(given):
        label = name if single else f"{name}[{i}]"
        if not isinstance(one, TimeSeries):
            raise TypeError(f"{label} must be a darts TimeSeries, got {type(one).__name__}.")
        if not one.is_deterministic:
            raise ValueError(
                f"{label} holds {one.n_samples} samples of each value: pass a deterministic series."
            )
        expected = values[0].shape[1] if values and n_components is None else n_components
        if expected is not None and one.width != expected:
            raise ValueError(
                f"{label} has {one.width} components, expected {expected}: all series must have "
                "the same."
            )
        if len(one) < min_length:
            raise ValueError(
                f"{label} has {len(one)} points, at least {min_length} are needed "
                "(input_chunk_length + output_chunk_shift + output_chunk_length). "
                "Pass a longer series or make the model's chunks shorter."
            )
        array = one.all_values(copy=False)[:, :, 0]
        if np.isinf(array).any():
            raise ValueError(
                f"{label} has {int(np.isinf(array).sum())} infinite values: replace them, NaN "
                "means missing."
            )
        empty = np.isnan(array).all(axis=0)
        if empty.any():
            raise ValueError(f"{label} has no values at all in {list(one.columns[empty])}.")
        values.append(array)
    return values


def warn_of_levels(series: Sequence[PreparedSeries]) -> None:
    """Warn where the teacher's float32 contexts lose the series under its level.

    Parameters
    ----------
    series : sequence of PreparedSeries
    """
    worst = max(
        float((np.abs(s.location) / s.spread)[np.nanstd(s.values, axis=0) > 0].max(initial=0.0))
        for s in series
    )
    if worst > 1e5:
        warnings.warn(
            f"A series varies by 1/{worst:.0e} of its level, which a teacher does not see in "
            "float32. Subtract a constant from it before fit, and add it to the forecasts.",
            stacklevel=3,
        )
