"""What a saved model holds."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from darts import TimeSeries
from darts.typing import TimeSeriesLike

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.distill.student_info import with_data
from distilts_forecaster.facades.student_io import (
    Shippable,
    as_student,
    recall_parameters,
    recall_summary,
)
from distilts_forecaster.runtime import Forecaster, LinearForecaster, NetworkForecaster
from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.runtime.info import (
    Chosen,
    DataFacts,
    FitFacts,
    StudentInfo,
    TeacherFacts,
    ValidationErrors,
    WindowCounts,
    as_json,
)
from distilts_forecaster.runtime.quantiles import ErrorQuantiles
from distilts_forecaster.settings import NOMINAL, Quantiles, Settings, Teaching
from distilts_forecaster.students.base import Alignment, Epoch, Training
from distilts_forecaster.students.objective import resolve_horizon_weights
from distilts_forecaster.students.settings import (
    MLP,
    Copied,
    DLinear,
    ITransformer,
    Linear,
    Network,
)
from distilts_forecaster.teachers.base import TeacherInfo, TeacherReference
from distilts_forecaster.teachers.ensemble import Ensemble
from distilts_forecaster.windows.source import Chunks

__all__ = ["SAVED", "PortableModel", "portable_parameters"]

#: Classes that a saved model may name.
SAVED = (
    Alignment,
    Chosen,
    Chunks,
    Copied,
    CovariateScales,
    DLinear,
    DataFacts,
    Effects,
    Ensemble,
    Epoch,
    ErrorQuantiles,
    FitFacts,
    ITransformer,
    Linear,
    LinearForecaster,
    MLP,
    Network,
    NetworkForecaster,
    Quantiles,
    Settings,
    StudentInfo,
    TeacherFacts,
    TeacherInfo,
    TeacherReference,
    Teaching,
    Training,
    TrainingSummary,
    ValidationErrors,
    WindowCounts,
)


def _portable_teacher(teacher: Any) -> Any:
    """Return a name as it is, and a reference to any other teacher."""
    if isinstance(teacher, os.PathLike):
        return os.fspath(teacher)
    if isinstance(teacher, Ensemble):
        return replace(teacher, members=[_portable_teacher(m) for m in teacher.members])
    if isinstance(teacher, (str, TeacherReference)):
        return teacher
    return TeacherReference(teacher.info)


def portable_parameters(
    parameters: dict[str, Any], output_chunk_length: int | None = None
) -> dict[str, Any]:
    """Replace what cannot or should not be saved: paths, functions, teachers.

    Horizon weights are taken at ``output_chunk_length``, that of a student that was fitted.

    >>> from pathlib import Path
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
        horizon = output_chunk_length or parameters["output_chunk_length"] or NOMINAL[1]
        weights = resolve_horizon_weights(portable["horizon_weights"], horizon)
        portable["horizon_weights"] = weights.tolist()
    return portable


#: Most names of components that a student's info holds.
_MOST_NAMES = 100


def _first(times: list[Any], last: bool = False) -> Any:
    """Return the first of all times, or the last; None where some are numbers and some are not."""
    if len({isinstance(one, int) for one in times}) > 1:
        return None
    return max(times) if last else min(times)


def _with_lists(value: Any) -> Any:
    """Turn tuples into lists."""
    if isinstance(value, Mapping):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


class PortableModel(Shippable):
    """Mixin of the Darts facade: what is saved of it, and what is copied."""

    model_params: Any
    _settings: Settings
    _static_names: list[str]
    _lengths: tuple[int, int] | None
    _history_needed: int | None

    @classmethod
    def from_student(
        cls, student: Forecaster | str | os.PathLike, add_encoders: dict[str, Any] | None = None
    ) -> Self:
        """Return a fitted model around a student: for forecasts and backtests without a teacher.

        Parameters
        ----------
        student : Forecaster, str or path-like
            A student, a directory that :meth:`save_student` wrote, or a name on the hub.
        add_encoders : dict, optional
            Those that the student was fitted with; needed only where they hold functions, which
            are not saved.

        Returns
        -------
        DistilledForecaster
            ``predict`` needs ``series``. Fitted again, it learns with the student's settings, from
            the same teacher if that was given by name.

        Raises
        ------
        TypeError, ValueError, ImportError
            If it is no student (see :func:`~distilts_forecaster.load_student`), or its encoders
            learn from the series of ``fit`` (positions, transformers): save the model then.

        Examples
        --------
        >>> import numpy as np
        >>> from darts import TimeSeries
        >>> from distilts_forecaster import DistilledForecaster, LinearForecaster
        >>> student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32))
        >>> model = DistilledForecaster.from_student(student)
        >>> model.predict(2, series=TimeSeries.from_values(np.arange(1.0, 5.0))).values().ravel()
        array([2.5, 2.5])
        """
        student = as_student(student)
        info = student.info or StudentInfo()
        told = info.darts or {}
        encoders = told.get("add_encoders") if add_encoders is None else add_encoders
        if told.get("needs_encoders") and encoders is None:
            raise ValueError(
                "The student was fitted with encoders that hold functions, which are not saved: "
                "give add_encoders=..., those that the model was made with."
            )
        if encoders and {"position", "transformer"} & set(encoders):
            raise ValueError(
                "Encoders of positions, and transformers, have learned from the series of fit, "
                "which a student does not keep: save and load the model itself."
            )
        parameters = recall_parameters(student)
        if student.error_quantiles is not None:
            wanted = info.settings.get("quantile_levels") if told else None
            parameters["quantiles"] = wanted or list(student.error_quantiles.levels)
        parameters["output_chunk_shift"] = student.output_chunk_shift
        model = cls(**parameters, add_encoders=encoders)  # type: ignore[call-arg]
        model._adopt(student, told.get("static_covariates") or [])
        return model

    def _adopt(self, student: Forecaster, static_names: list[str]) -> None:
        """Take over a student, as after ``fit``."""
        n_past, n_future, n_static = student.n_covariates
        if n_static != len(static_names):
            raise ValueError(
                f"The student needs {n_static} static covariates, and does not say which: it was "
                "not fitted by this facade. Call student.predict with arrays."
            )
        self.student_ = student
        summary = recall_summary(student)
        if summary is not None:
            self.training_summary_ = summary
        self._lengths = (student.input_chunk_length, student.output_chunk_length)
        told = None if student.info is None else student.info.settings.get("history_needed")
        self._history_needed = told if isinstance(told, int) else None
        self._n_components = student.n_components
        self._scales: list[Any] = []
        self._static_names = static_names
        self._uses_past_covariates, self._uses_future_covariates = n_past > 0, n_future > 0
        self._expect_past_covariates, self._expect_future_covariates = n_past > 0, n_future > 0
        self._uses_static_covariates = self._expect_static_covariates = n_static > 0
        self.encoders = self._encoders_for(self._settings)  # type: ignore[attr-defined]
        self._fit_called = True

    def _with_facts(
        self, student: Forecaster, series: TimeSeriesLike, past: Any, future: Any
    ) -> Forecaster:
        """Add to the student's info what only Darts knows: times, names, encoders."""
        every = [series] if isinstance(series, TimeSeries) else series
        covariates = [c if isinstance(c, TimeSeries) else c[0] for c in (past, future) if c]
        info = with_data(
            student.info or StudentInfo(),
            start=_first([one.start_time() for one in every]),
            end=_first([one.end_time() for one in every], last=True),
            freq=every[0].freq_str,
            components=list(map(str, every[0].components[:_MOST_NAMES])),
            covariates=[str(name) for one in covariates for name in one.components],
        )
        encoders = self.model_params["add_encoders"]
        told: dict[str, Any] = {"static_covariates": self._static_names}
        if as_json(encoders) == _with_lists(encoders):  # no functions, no transformers
            told["add_encoders"] = as_json(encoders)
        else:
            told["needs_encoders"] = True
        return student.with_info(replace(info, darts=told))

    def __copy__(self) -> PortableModel:
        """Copy everything, the teacher too."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> PortableModel:
        """Copy everything but the teacher."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved, by ``save`` and with an ensemble that this is a member of.

        A teacher given by name stays with the model. One given as an object (a function, a
        Darts model) is replaced by a reference: the loaded model forecasts, and says that the
        teacher is missing when it is to be fitted again. A function given as ``horizon_weights``
        is replaced by its weights, which then say how long the output chunk is.
        """
        fitted = self._lengths[1] if self._lengths else None
        parameters = portable_parameters(self.model_params, fitted)
        settings, weights = self._settings, parameters["horizon_weights"]
        if callable(self.model_params["horizon_weights"]):
            settings = replace(
                settings,
                chunks=replace(settings.chunks, output_chunk_length=len(weights)),
                given=(settings.given[0], True),
                teaching=replace(settings.teaching, horizon_weights=weights),
            )
        return self.__dict__ | {
            "_model_params": parameters,
            "_settings": settings,
            "_warm": None,
            "_refitting": False,
        }
