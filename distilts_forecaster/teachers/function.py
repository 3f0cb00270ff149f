"""Any function on arrays as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distilts_forecaster.runtime.checks import as_numbers, check_integer
from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    check_name_and_revision,
    check_request,
    interpolate_quantiles,
)

__all__ = ["FunctionTeacher"]


class FunctionTeacher:
    """Wrap ``function(contexts (N, L, C), horizon) -> (N, T, C) or (N, T, C, Q)``.

    Parameters
    ----------
    function : callable
        Gets float32 contexts (NaN where missing) and the number of steps.
    name, revision : str, optional
        Give both to keep the labels on disk: a function's code and the data it
        closes over cannot be told apart otherwise. Change ``revision`` whenever
        what the function returns changes. Without them, labels are kept in this
        process, for as long as the function lives, and it must not change.
    quantile_levels : sequence of float, optional
        Levels of the last axis, where there is one. Without it, the middle one of
        an odd number is taken for the median.
    licence : str, optional
        Recorded with the student.

    Raises
    ------
    TypeError
        If ``function`` is not callable.
    ValueError
        If only one of ``name`` and ``revision`` is given, or the levels are not
        increasing and between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> def last_value(contexts, horizon):
    ...     return np.repeat(contexts[:, -1:], horizon, axis=1)
    >>> teacher = FunctionTeacher(last_value, name="last value", revision="1")
    >>> contexts = np.ones((2, 8, 1), dtype=np.float32)
    >>> teacher.forecast(contexts, horizon=3, quantile_levels=[0.5]).quantiles.shape
    (2, 3, 1, 1)
    """

    def __init__(
        self,
        function: Callable[[np.ndarray, int], np.ndarray],
        name: str | None = None,
        revision: str | None = None,
        quantile_levels: Sequence[float] | None = None,
        licence: str | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}.")
        check_name_and_revision(name, revision)
        levels = None if quantile_levels is None else tuple(float(q) for q in quantile_levels)
        if levels is not None and (
            not levels or levels[0] <= 0 or levels[-1] >= 1 or np.any(np.diff(levels) <= 0)
        ):
            raise ValueError(
                f"quantile_levels must increase between 0 and 1, got {quantile_levels!r}. "
                "Example: quantile_levels=[0.1, 0.5, 0.9]"
            )
        self.function = function
        self._levels = levels
        shown = name or str(getattr(function, "__qualname__", type(function).__name__))
        self.info = TeacherInfo(
            name=shown, revision=revision, licence=licence, quantile_levels=levels
        )

    @property
    def wrapped(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """The function: labels without a revision belong to it."""
        return self.function

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionTeacher:
        """Return itself: Darts copies a model's parameters at every refit."""
        return self

    def __eq__(self, other: object) -> bool:
        """Two wrappers of the same function under the same name are equal."""
        if not isinstance(other, FunctionTeacher):
            return NotImplemented
        return self.function is other.function and self.info == other.info

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash((id(self.function), self.info))

    def __repr__(self) -> str:
        """Name the function."""
        return f"FunctionTeacher({self.info.name!r}, revision={self.info.revision!r})"

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Call the function and put its answer into (N, T, C, Q).

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
        horizon : int
        quantile_levels : sequence of float

        Returns
        -------
        TeacherForecast

        Raises
        ------
        ValueError
            If the answer has neither shape, or the levels asked for are not in it.
        """
        check_integer("horizon", horizon)
        answer = as_numbers("The answer of the teacher function", self.function(contexts, horizon))
        answer = answer.astype(np.float32)
        n, _, components = contexts.shape
        point = (n, horizon, components)
        if answer.shape[:3] != point or answer.ndim not in (3, 4):
            raise ValueError(
                f"The teacher function {self.info.name!r} returned shape {answer.shape}, expected "
                f"(windows, horizon, components) = {point}, with one more axis for quantiles if "
                "it has them."
            )
        if answer.ndim == 3:
            check_request(TeacherInfo(self.info.name), horizon, quantile_levels)
            return TeacherForecast(answer[..., None])
        if self._levels is None:
            if tuple(quantile_levels) != (0.5,) or answer.shape[3] % 2 == 0:
                raise ValueError(
                    f"The teacher function {self.info.name!r} returned {answer.shape[3]} quantiles "
                    "without saying which. Wrap it: "
                    "FunctionTeacher(function, quantile_levels=[0.1, 0.5, 0.9])"
                )
            middle = answer.shape[3] // 2
            return TeacherForecast(answer[..., middle : middle + 1])
        if answer.shape[3] != len(self._levels):
            raise ValueError(
                f"The teacher function {self.info.name!r} returned {answer.shape[3]} quantiles, "
                f"expected one for each of quantile_levels={self._levels}."
            )
        check_request(self.info, horizon, quantile_levels)
        return TeacherForecast(interpolate_quantiles(answer, self._levels, quantile_levels))
