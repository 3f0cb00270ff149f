"""What a saved model holds."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

from distilts_forecaster.distill import TrainingSummary
from distilts_forecaster.effects import Effects
from distilts_forecaster.inference import Forecaster
from distilts_forecaster.objective import resolve_horizon_weights
from distilts_forecaster.plan import Settings
from distilts_forecaster.quantiles import Spread
from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.students.linear import Linear
from distilts_forecaster.students.settings import (
    MLP,
    Copied,
    DLinear,
    Epoch,
    ITransformer,
    Network,
    Training,
)
from distilts_forecaster.teachers.base import TeacherInfo, TeacherReference
from distilts_forecaster.teachers.ensemble import Ensemble

__all__ = [
    "SAVED",
    "PackedStudent",
    "PortableModel",
    "pack_student",
    "portable_parameters",
    "unpack_student",
]

#: Classes that a saved model may name.
SAVED = (
    Copied,
    DLinear,
    Effects,
    Ensemble,
    Epoch,
    ITransformer,
    Linear,
    LinearForecaster,
    MLP,
    Network,
    Settings,
    Spread,
    TeacherInfo,
    TeacherReference,
    Training,
    TrainingSummary,
)


def pack_student(student: Forecaster) -> Any:
    """Return what to pickle of a student: arrays and settings, nothing of torch's.

    Parameters
    ----------
    student : Forecaster

    Returns
    -------
    LinearForecaster or dict
    """
    # A network says how to be built again; a matrix is what it is.
    return student if isinstance(student, LinearForecaster) else student.state()  # type: ignore[attr-defined]


def unpack_student(packed: Any) -> Forecaster:
    """Return the student that :func:`pack_student` packed.

    Parameters
    ----------
    packed : LinearForecaster or dict

    Returns
    -------
    Forecaster

    Raises
    ------
    ImportError
        If it is a network and torch is not installed.
    """
    if isinstance(packed, LinearForecaster):
        return packed
    try:
        from distilts_forecaster.students.forecaster import NetworkForecaster
    except ModuleNotFoundError as error:
        raise ImportError(
            f'This student needs {error.name}: pip install "distilts-forecaster[torch]"'
        ) from error
    return NetworkForecaster.from_state(packed)


def _portable_teacher(teacher: Any) -> Any:
    """Return a name as it is, and a reference to any other teacher."""
    if isinstance(teacher, os.PathLike):
        return os.fspath(teacher)
    if isinstance(teacher, Ensemble):
        return replace(teacher, members=[_portable_teacher(m) for m in teacher.members])
    if isinstance(teacher, (str, TeacherReference)):
        return teacher
    return TeacherReference(teacher.info)


def portable_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Replace what cannot or should not be saved: paths, functions, teachers.

    Parameters
    ----------
    parameters : dict
        Of a :class:`~distilts_forecaster.DistilledForecaster`, by name.

    Returns
    -------
    dict

    Examples
    --------
    >>> from pathlib import Path
    >>> from distilts_forecaster.teachers import load_teacher
    >>> given = {"cache_dir": Path("cache"), "teacher": "bundled", "horizon_weights": 1.0}
    >>> portable_parameters(given)["cache_dir"]
    'cache'
    """
    portable = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in parameters.items()
    }
    portable["teacher"] = _portable_teacher(portable["teacher"])
    if callable(portable["horizon_weights"]):
        horizon = parameters["output_chunk_length"]
        weights = resolve_horizon_weights(portable["horizon_weights"], horizon)
        portable["horizon_weights"] = weights.tolist()
    return portable


class PackedStudent:
    """Mixin of facades: pickles and copies ``student_`` without torch's classes."""

    def __getstate__(self) -> dict[str, Any]:
        """Pack the student."""
        state = dict(super().__getstate__() or {})  # type: ignore[call-overload]
        state.pop("_warm", None)  # sums that only save time
        if "student_" in state:
            state["student_"] = pack_student(state["student_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the student again."""
        state = dict(state)
        if "student_" in state:
            state["student_"] = unpack_student(state["student_"])
        if hasattr(super(), "__setstate__"):
            super().__setstate__(state)  # type: ignore[misc]
        else:
            self.__dict__.update(state)


class PortableModel(PackedStudent):
    """Mixin of the Darts facade: what is saved of it, and what is copied."""

    model_params: Any
    _settings: Settings

    def __copy__(self) -> PortableModel:
        """Copy everything, the teacher too."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> PortableModel:
        """Copy everything but the teacher, which copies as itself."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved, by ``save`` and with an ensemble that this is a member of.

        A teacher given by name stays with the model. One given as an object (a function, a
        Darts model) is replaced by a reference: the loaded model forecasts, and says that the
        teacher is missing when it is to be fitted again. A function given as
        ``horizon_weights`` is replaced by its weights, a network by its weights' arrays.
        """
        parameters = portable_parameters(self.model_params)
        weights = parameters["horizon_weights"]
        return super().__getstate__() | {
            "_model_params": parameters,
            "_settings": replace(self._settings, horizon_weights=weights),
            "_warm": None,
        }
