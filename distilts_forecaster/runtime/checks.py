"""Checks of what users pass, and of what must be installed, that every room shares."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

__all__ = ["check_integer", "check_number", "extra_for", "warn_user"]


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


def warn_user(message: str) -> None:
    """Warn, at the line of the user's that called this package."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith(
        "distilts_forecaster"
    ):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(message, UserWarning, stacklevel=level)
