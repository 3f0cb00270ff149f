"""Checks of what users pass, and of what must be installed, that every room shares."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = [
    "LARGEST",
    "SMALLEST",
    "as_numbers",
    "check_integer",
    "check_magnitude",
    "check_number",
    "count_unknown",
    "extra_for",
    "warn_of_unknown",
    "warn_user",
]


#: Sizes of values, and of their differences, that float32 holds with all its digits, and with room
#: for sums. Teachers and students compute in float32.
SMALLEST, LARGEST = 1e-30, 1e37


def check_integer(name: str, value: Any, at_least: int = 1) -> int:
    """Return an integer of at least ``at_least``, or raise TypeError or ValueError.

    True and False are not integers here, nor is 96.0.

    >>> check_integer("n", 96)
    96
    """
    # bool and numpy.bool_ both have this name.
    if type(value).__name__.startswith("bool") or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer of at least {at_least}, got {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")
    return int(value)


def check_number(name: str, value: Any, at_least: float = 0.0, below: float = math.inf) -> float:
    """Return a finite number in [at_least, below), or raise TypeError or ValueError.

    >>> check_number("dropout", 0.1, below=1)
    0.1
    """
    allowed = f"a number of at least {at_least:g}"
    allowed += f" and below {below:g}" if math.isfinite(below) else ""
    if type(value).__name__.startswith("bool") or not isinstance(value, Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r}.")
    if not at_least <= float(value) < below:
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")
    return float(value)


def as_numbers(name: str, values: Any) -> np.ndarray:
    """Return real numbers as a float64 array; what is masked is NaN.

    TypeError for times, complex numbers and whatever else is no real number: NumPy would turn
    dates into nanoseconds, and drop imaginary parts. Tensors are taken without their gradient.

    >>> as_numbers("y", np.ma.array([1, 2], mask=[False, True]))
    array([ 1., nan])
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.dtype.kind in "cmM":
        raise TypeError(f"{name} must be real numbers, got {array.dtype}.")
    try:
        numbers = array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be real numbers, got {array.dtype}: {error}") from error
    return np.ma.filled(numbers, np.nan)


def check_magnitude(values: np.ndarray, holder: str) -> None:
    """Raise ValueError where float32 would make numbers infinite, or all of them zero.

    ``holder`` is who has them, with its verb. NaN is no number.
    """
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    if largest > LARGEST or 0.0 < largest < SMALLEST:
        raise ValueError(
            f"{holder} of up to {largest:g}; float32, which forecasts are computed in, holds "
            f"{SMALLEST:g} to {LARGEST:g} with all digits. Multiply by a constant first, and "
            "divide the forecasts by it."
        )


@contextmanager
def extra_for(what: str, extra: str) -> Iterator[None]:
    """Turn a missing package into an ImportError that has the command which installs it.

    ``what`` names the thing imported, ``extra`` the extra that brings it.

    >>> with extra_for("a graph", "onnx"):
    ...     import no_such_package
    Traceback (most recent call last):
    ImportError: a graph needs no_such_package: pip install "distilts-forecaster[onnx]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("distilts_forecaster"):
            raise
        missing = error.name.partition(".")[0]
        raise ImportError(
            f'{what} needs {missing}: pip install "distilts-forecaster[{extra}]"'
        ) from error


def count_unknown(forecasts: np.ndarray) -> int:
    """Return how many of some forecasts (N, ...) are NaN somewhere.

    >>> count_unknown(np.array([[1.0, 2.0], [np.nan, 2.0]]))
    1
    """
    if math.isfinite(forecasts.sum()):
        return 0
    return int(np.isnan(forecasts.reshape(len(forecasts), -1)).any(axis=1).sum())


def warn_of_unknown(n_unknown: int, n_contexts: int, input_chunk_length: int) -> None:
    """Warn where forecasts are NaN, since nothing is known of some contexts."""
    if n_unknown:
        warn_user(
            f"{n_unknown} of {n_contexts} contexts have no value of a component in their "
            f"{input_chunk_length} steps: its forecasts are NaN. Fill the gap to have them."
        )


def warn_user(message: str) -> None:
    """Warn, at the line of the user's that called this package."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith(
        "distilts_forecaster"
    ):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(message, UserWarning, stacklevel=level)
