"""The interface of teachers.

A teacher is any object with :attr:`Teacher.info` and :meth:`Teacher.forecast`; nothing needs to be
inherited. :func:`~distilts_forecaster.load_teacher` makes one of a name, a directory, a model or a
function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from distilts_forecaster.runtime.checks import check_integer
from distilts_forecaster.runtime.covariates import Covariates

__all__ = [
    "HiddenTeacher",
    "Teacher",
    "TeacherForecast",
    "TeacherInfo",
    "TeacherReference",
    "WrappedTeacher",
    "ask",
    "check_request",
    "describe",
    "interpolate_quantiles",
]


@dataclass(frozen=True)
class TeacherForecast:
    """What a teacher says of a batch of windows.

    Attributes
    ----------
    quantiles : numpy.ndarray of float32, shape (N, T, C, Q)
        Forecast quantiles at the levels asked for.
    """

    quantiles: np.ndarray


@dataclass(frozen=True)
class TeacherInfo:
    """Name, revision and abilities of a teacher.

    Attributes
    ----------
    name : str
        Hub name, directory, or the user's own name for it.
    revision : str or None
        What tells two versions of the same name apart: a commit, or a digest of
        the weights. None means that the labels cannot outlive this process.
    dtype : str
        Precision that it computes in. Part of its identity: bfloat16 labels differ.
    licence : str or None
        Licence of the weights, None where unknown.
    n_parameters : int or None
        Number of parameters, None where unknown.
    native_horizon : int or None
        Steps forecast in one pass; None if there is no such limit. What happens
        beyond it is the teacher's to document.
    longest_context : int or None
        Steps of context looked at; earlier ones are ignored. None: no limit.
    takes_missing : bool
        Whether NaN in a context is understood as missing. Such a teacher is given more
        history than the student sees, with NaN where there is less.
    quantile_levels : tuple of float or None
        Lowest to highest level known. Others between them are interpolated; those
        outside are refused. None if it gives a point forecast only (the level 0.5).
    takes_covariates : bool
        Whether ``forecast`` takes the covariates of the windows too, as ``covariates``: a
        :class:`~distilts_forecaster.runtime.covariates.Covariates` with ``past`` (N, L, P) and
        ``future`` (N, L + T, F), either of them None where there are none.
    hidden : str or None
        Which hidden states :meth:`HiddenTeacher.hidden_states` gives ("encoder", the name
        of a module); None where the teacher has none to show.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    licence: str | None = None
    n_parameters: int | None = None
    native_horizon: int | None = None
    longest_context: int | None = None
    takes_missing: bool = False
    quantile_levels: tuple[float, ...] | None = None
    takes_covariates: bool = False
    hidden: str | None = None

    @property
    def identity(self) -> str:
        """Name, revision and precision, for people to read."""
        return f"{self.name}|{self.revision}|{self.dtype}"


@runtime_checkable
class Teacher(Protocol):
    """A forecaster to learn from.

    Each window must be forecast independently of the others in its batch: labels
    are cached by window.
    """

    @property
    def info(self) -> TeacherInfo:
        """Identity and limits."""

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
            Raw values, NaN where missing.
        horizon : int
            Steps to forecast, T.
        quantile_levels : sequence of float
            Levels wanted, in increasing order; ``(0.5,)`` is the point forecast.

        Returns
        -------
        TeacherForecast
        """


def ask(
    teacher: Teacher,
    contexts: np.ndarray,
    horizon: int,
    quantile_levels: Sequence[float],
    covariates: Covariates | None = None,
) -> TeacherForecast:
    """Ask a teacher for forecasts, with the covariates if it takes them."""
    given: dict[str, Any] = {}
    if covariates and teacher.info.takes_covariates:
        given["covariates"] = covariates
    return teacher.forecast(contexts, horizon, quantile_levels, **given)


@runtime_checkable
class HiddenTeacher(Teacher, Protocol):
    """A teacher with hidden states, for alignment."""

    def hidden_states(self, contexts: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Return the states that stand for given steps of each context.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
            Raw values, NaN where missing.
        steps : sequence of int
            Counted from the end: -1 is the context's last step, -L its first. The state
            of a patch stands for each of its steps.

        Returns
        -------
        numpy.ndarray of float32, shape (N, C, P, D)
            P is ``len(steps)``, or 1 where one state stands for the whole context; C may
            be 1 where one state stands for all components.
        """


def check_request(info: TeacherInfo, horizon: int, quantile_levels: Sequence[float]) -> None:
    """Raise TypeError or ValueError if a teacher cannot be asked for that.

    The horizon must be an integer of at least 1, levels within the range that the teacher knows.

    >>> check_request(TeacherInfo("point forecasts"), 96, [0.5])
    """
    check_integer("horizon", horizon)
    known = info.quantile_levels or (0.5,)
    outside = [q for q in quantile_levels if not known[0] <= q <= known[-1]]
    if outside:
        raise ValueError(
            f"Teacher {info.name!r} knows quantile levels from {known[0]} to {known[-1]}, "
            f"got {outside}. Ask for levels between them."
        )


def check_name_and_revision(name: str | None, revision: str | None) -> None:
    """Raise ValueError unless both are given, or neither: together they name labels in the cache.

    >>> check_name_and_revision("my model", "2024-05-01")
    """
    if (name is None) != (revision is None):
        raise ValueError(
            f"Give both name and revision, or neither, got name={name!r}, revision={revision!r}. "
            "Together they name the labels in the cache."
        )


def describe(
    model: object, parameters: Mapping[str, Any], version: str
) -> tuple[str | None, str | None]:
    """Return name and revision of a model that is nothing but its parameters.

    None twice where a parameter is an object without a description of its own. ``version`` is the
    version of the model's library.

    >>> describe(1.0, {"sp": 12}, "1.2")
    ('float', "1.2 builtins.float {'sp': 12}")
    """
    told = repr(dict(sorted(parameters.items())))
    if " at 0x" in told or "..." in told:  # an address, or a shortened array
        return None, None
    kind = type(model)
    return kind.__name__, f"{version} {kind.__module__}.{kind.__qualname__} {told}"


def interpolate_quantiles(
    quantiles: np.ndarray, known: Sequence[float], wanted: Sequence[float]
) -> np.ndarray:
    """Interpolate quantiles (..., Q) linearly between the levels that are known.

    >>> import numpy as np
    >>> interpolate_quantiles(np.array([[0.0, 10.0]]), [0.1, 0.9], [0.5])
    array([[5.]])
    """
    levels = np.asarray(known)
    if len(levels) == 1:
        return quantiles
    right = np.clip(np.searchsorted(levels, wanted), 1, len(levels) - 1)
    share = (np.asarray(wanted) - levels[right - 1]) / (levels[right] - levels[right - 1])
    share = share.astype(np.result_type(quantiles, np.float32))  # float32 stays float32
    return quantiles[..., right - 1] * (1 - share) + quantiles[..., right] * share


class WrappedTeacher:
    """Base of the teachers that wrap a model of another library.

    Labels without a revision belong to this one ``wrapped`` object.
    """

    info: TeacherInfo
    wrapped: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> WrappedTeacher:
        """Return itself: a copied model is another one, and a copied torch model a broken one."""
        return self

    def __repr__(self) -> str:
        """Name the model."""
        return f"{type(self).__name__}({self.info.name!r})"


@dataclass(frozen=True)
class TeacherReference:
    """What is left of a teacher in a saved model: who it was."""

    info: TeacherInfo

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Raise ValueError: the teacher itself was not saved."""
        raise ValueError(
            f"The teacher {self.info.name!r} was given as an object and not saved with the model. "
            "To fit again, make a new model with teacher=... ; to forecast, nothing is needed."
        )
