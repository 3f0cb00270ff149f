"""Turn what a user writes as ``teacher`` into a teacher."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distilts_forecaster.runtime.checks import extra_for
from distilts_forecaster.teachers.base import Teacher
from distilts_forecaster.teachers.ensemble import Ensemble, EnsembleTeacher
from distilts_forecaster.teachers.function import FunctionTeacher

__all__ = ["as_specification", "load_teacher"]

#: TimesFM 2.5 on the hub, which Darts runs.
_TIMESFM = "google/timesfm-2.5-200m-pytorch"

_KNOWN = (
    '"bundled"; a hub name such as "amazon/chronos-2", "amazon/chronos-bolt-small" or '
    '"google/timesfm-2.5-200m-pytorch"; the path of a directory with such weights; a Darts '
    "forecasting model, an sktime forecaster, a model of statsforecast; a function (contexts (N, "
    "L, C), horizon) -> (N, T, C); an object with info and forecast; or a list of these, to be "
    "averaged"
)


def as_specification(teacher: Any) -> Any:
    """Check a teacher argument and make it cheap to copy, without loading anything.

    Names and paths stay as they are; models and functions are wrapped in a teacher whose deep copy
    is itself; lists become an :class:`Ensemble`. ValueError if it is an unknown name, or a
    directory or Darts model that cannot be a teacher; TypeError for other objects that cannot.

    >>> as_specification("bundled")
    'bundled'
    """
    if isinstance(teacher, (str, os.PathLike)):
        _check_name(teacher)
        return teacher
    if isinstance(teacher, (list, tuple)):
        teacher = Ensemble(teacher)
    if isinstance(teacher, Ensemble):
        return replace(teacher, members=[as_specification(m) for m in teacher.members])
    wrapped = _wrap_model(teacher)
    if wrapped is not None:
        return wrapped
    if isinstance(teacher, Teacher):
        return teacher
    if callable(teacher) and not isinstance(teacher, type):
        return FunctionTeacher(teacher)
    raise TypeError(f"teacher must be {_KNOWN}; got {teacher!r}.")


def _wrap_model(model: Any) -> Teacher | None:
    """Wrap a model of another library, None if it is none."""
    # It can only be given by someone who has imported the library.
    darts = sys.modules.get("darts.models.forecasting.forecasting_model")
    if darts is not None and isinstance(model, darts.ForecastingModel):
        from distilts_forecaster.teachers.darts import DartsTeacher

        return DartsTeacher(model)
    sktime = sys.modules.get("sktime.forecasting.base")
    if sktime is not None and isinstance(model, sktime.BaseForecaster):
        from distilts_forecaster.teachers.sktime import SktimeTeacher

        return SktimeTeacher(model)
    statsforecast = sys.modules.get("statsforecast.models")
    if statsforecast is not None and isinstance(model, statsforecast._TS):
        from distilts_forecaster.teachers.statsforecast import StatsForecastTeacher

        return StatsForecastTeacher(model)
    return None


def _check_name(teacher: str | os.PathLike) -> None:
    """Refuse names that cannot be a teacher, without touching the network."""
    from distilts_forecaster.teachers.chronos import is_chronos_directory, refuse_code

    name = os.fspath(teacher)
    if name == "bundled":
        return
    if name and Path(name).is_dir():
        if not is_chronos_directory(Path(name)):
            raise ValueError(
                f"The directory {name!r} is not a teacher: it needs a config.json with a "
                "chronos_config, and weights, as save_pretrained writes them."
            )
        refuse_code(Path(name))
        return
    if name and Path(name).exists():
        raise ValueError(
            f"The teacher {name!r} is a file; pass the directory that holds config.json and the "
            "weights."
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"Unknown teacher {name!r}: no such directory. A teacher is {_KNOWN}.")


def load_teacher(teacher: Any) -> Teacher:
    """Turn a specification into a teacher.

    Parameters
    ----------
    teacher : str, path-like, model, callable, Teacher, Ensemble, or a list of them
        ``"bundled"``; a hub name or a directory with a model of the Chronos family;
        a Darts model, sktime forecaster or model of statsforecast; a function ``(contexts
        (N, L, C), horizon) -> (N, T, C) or (N, T, C, Q)``; anything with ``info`` and
        ``forecast``; or several of these, which are averaged.

    Returns
    -------
    Teacher
        Weights are read when the first window is forecast.

    Raises
    ------
    ValueError, TypeError
        If it cannot be a teacher.
    ImportError
        If it needs an extra that is not installed; the message has the command.

    Examples
    --------
    >>> load_teacher("bundled").info.licence
    'Apache-2.0'
    """
    specification = as_specification(teacher)
    if isinstance(specification, Ensemble):
        members = [load_teacher(member) for member in specification.members]
        return EnsembleTeacher(members, specification.weights)
    if isinstance(specification, Teacher):
        return specification
    name = os.fspath(specification)
    if name == "bundled":
        return _bundled()
    if name == _TIMESFM:
        with extra_for(f"the teacher {name!r}", "darts-torch"):
            from distilts_forecaster.teachers.darts import timesfm

        return timesfm(name)
    from distilts_forecaster.teachers.chronos import ChronosTeacher, from_hub

    return ChronosTeacher(name) if Path(name).is_dir() else from_hub(name)


@lru_cache(maxsize=1)
def _bundled() -> Teacher:
    """Load the bundled teacher once."""
    from distilts_forecaster.teachers.bundled.mixture import MixtureTeacher

    return MixtureTeacher()
