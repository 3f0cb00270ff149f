"""Where a student comes from: typed facts, and how they are written as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self

import numpy as np

__all__ = [
    "Chosen",
    "DataFacts",
    "FitFacts",
    "StudentInfo",
    "TeacherFacts",
    "ValidationErrors",
    "WindowCounts",
    "as_json",
]


@dataclass(frozen=True)
class TeacherFacts:
    """Who the teacher was.

    Attributes
    ----------
    name : str
    revision, dtype, licence : str or None
        None where unknown.
    n_parameters : int or None
    """

    name: str = "unknown"
    revision: str | None = None
    dtype: str | None = None
    licence: str | None = None
    n_parameters: int | None = None


@dataclass(frozen=True)
class DataFacts:
    """What data the student was fitted on.

    Attributes
    ----------
    n_series, n_points, n_components, n_missing : int or None
        Points and missing values of all series together.
    sha256 : str or None
        Digest of all values and covariates.
    start, end, freq : str, int or None
        First and last time, and the frequency, where a facade knows them.
    components, covariates : tuple of str or None
        Their names.
    """

    n_series: int | None = None
    n_points: int | None = None
    n_components: int | None = None
    n_missing: int | None = None
    sha256: str | None = None
    start: str | int | None = None
    end: str | int | None = None
    freq: str | None = None
    components: tuple[str, ...] | None = None
    covariates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WindowCounts:
    """How many windows the student was fitted on.

    Attributes
    ----------
    seen : int
        Windows with a target.
    skipped : int
        Windows left out because too little of them is observed.
    labelled : int
        Windows that the teacher forecast during this fit; each member of an ensemble counts.
    from_cache : int
        Windows whose forecast was in the cache.
    unlabelled : int
        Windows that the teacher could have forecast, and was not asked for.
    labels_moved : float or None
        What the last doubling of the labels changed: mean squared change of the forecasts over
        their squared error. Another doubling would change about half as much. None where labels
        were not doubled.
    """

    seen: int = 0
    skipped: int = 0
    labelled: int = 0
    from_cache: int = 0
    unlabelled: int = 0
    labels_moved: float | None = None


@dataclass(frozen=True)
class Chosen:
    """The settings that the student was fitted with, as given or as chosen.

    Attributes
    ----------
    distillation_weight : float
        alpha.
    tau : float or None
        Steepness of the horizon weights; None if the weights themselves were given.
    horizon_weights : tuple of float
        w_t, one for each step, of mean one.
    ridge : float
        lambda of the exact solution: the linear student itself, and what the MLP starts from.
    prior : str
        What it is shrunk towards: "seasonal", "trend", "last season", "last value" or "mean"; see
        :mod:`~distilts_forecaster.students.prior`. "" in students saved before there was a choice.
    pooling : float or None
        kappa, how much the windows of all components count for each one; None is one matrix for
        all components.
    alignment : str or None
        How hidden states were aligned, None if they were not.
    best_epoch : int or None
        The epoch that was kept; 0 is the network before training.
    """

    distillation_weight: float = 0.0
    tau: float | None = None
    horizon_weights: tuple[float, ...] = field(default=(), repr=False)
    ridge: float = 0.0
    prior: str = ""
    pooling: float | None = None
    alignment: str | None = None
    best_epoch: int | None = None


@dataclass(frozen=True)
class ValidationErrors:
    """Mean squared errors on the held-out windows, in units of each series' variance.

    Attributes
    ----------
    horizon : int
        Steps that were compared; 0 if nothing was held out.
    student : float or None
        Of the student as it was before it was fitted to the held-out windows too.
    without_teacher : float or None
        Of the exact student with alpha = 0.
    teacher : float or None
        None where ``val_series`` was given.
    naive : float or None
        Of repeating the last ``naive_season`` steps: the best of the usual seasons.
    naive_season : int or None
    teacher_everywhere : float or None
        Of the teacher on all windows with a target, not only the held-out ones.
    """

    horizon: int = 0
    student: float | None = None
    without_teacher: float | None = None
    teacher: float | None = None
    naive: float | None = None
    naive_season: int | None = None
    teacher_everywhere: float | None = None


@dataclass(frozen=True)
class FitFacts:
    """What happened in ``fit``.

    Attributes
    ----------
    windows : WindowCounts
    chosen : Chosen
    errors : ValidationErrors
    """

    windows: WindowCounts = WindowCounts()
    chosen: Chosen = Chosen()
    errors: ValidationErrors = ValidationErrors()


#: Names in ``config.json`` of format 1, part by part.
_FIT_NAMES = {
    "windows": {
        "windows_seen": "seen",
        "windows_skipped": "skipped",
        "windows_labelled": "labelled",
        "labels_from_cache": "from_cache",
    },
    "chosen": {item.name: item.name for item in fields(Chosen)},
    "errors": {
        "validation_horizon": "horizon",
        "validation_error": "student",
        "validation_error_without_teacher": "without_teacher",
        "teacher_validation_error": "teacher",
        "naive_validation_error": "naive",
        "naive_season": "naive_season",
        "teacher_error": "teacher_everywhere",
    },
}
_FIT_PARTS = {"windows": WindowCounts, "chosen": Chosen, "errors": ValidationErrors}


@dataclass(frozen=True)
class StudentInfo:
    """Where a student comes from.

    Attributes
    ----------
    teacher : TeacherFacts or None
        None: it was fitted to the targets alone.
    data : DataFacts
    settings : dict
        The parameters of the facade that fitted it, as JSON.
    fit : FitFacts or None
    versions : dict of str to str
        Packages that were imported when it was fitted.
    darts, sktime : dict or None
        What that facade needs to run the student again.

    Examples
    --------
    >>> info = StudentInfo(teacher=TeacherFacts("bundled"), fit=FitFacts())
    >>> StudentInfo.from_json(info.to_json()) == info
    True
    """

    teacher: TeacherFacts | None = None
    data: DataFacts = DataFacts()
    settings: Mapping[str, Any] = field(default_factory=dict)
    fit: FitFacts | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    darts: Mapping[str, Any] | None = None
    sktime: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as ``config.json`` of format 1 has them."""
        written = {item.name: as_json(getattr(self, item.name)) for item in fields(self)}
        for name in ("teacher", "data"):
            if written[name] is not None:
                written[name].pop("kind")
        if self.fit is not None:
            written["fit"] = {
                name: as_json(getattr(getattr(self.fit, part), of))
                for part, names in _FIT_NAMES.items()
                for name, of in names.items()
            }
        return written

    @classmethod
    def from_json(cls, told: Any) -> Self | None:
        """Read facts, and check each of them.

        Parameters
        ----------
        told : object
            What stands in ``config.json``. Unknown names are left out.

        Returns
        -------
        StudentInfo or None
            None for null.

        Raises
        ------
        ValueError
            If a part is no object, or a fact has the wrong type.
        """
        if told is None:
            return None
        told = _object("info", told)
        parts = {name: _object(f"info.{name}", told.get(name)) for name in _PARTS}
        fit = None
        if told.get("fit") is not None:
            fit = FitFacts(
                *(
                    _read(f"info.fit: {part}", _FIT_PARTS[part], parts["fit"], names)
                    for part, names in _FIT_NAMES.items()
                )
            )
        teacher = None
        if told.get("teacher") is not None:
            teacher = _read("info.teacher", TeacherFacts, parts["teacher"])
        return cls(
            teacher,
            _read("info.data", DataFacts, parts["data"]),
            parts["settings"],
            fit,
            {str(name): str(version) for name, version in parts["versions"].items()},
            None if told.get("darts") is None else parts["darts"],
            None if told.get("sktime") is None else parts["sktime"],
        )


_PARTS = tuple(item.name for item in fields(StudentInfo))

#: The JSON types that a fact may have, by the text of its annotation.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "tuple[str, ...]": (list,),
    "tuple[float, ...]": (list,),
    "None": (type(None),),
}


def _object(name: str, value: Any) -> Mapping[str, Any]:
    """Return a JSON object, empty for null; or raise ValueError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object or null, got {value!r:.80}.")
    return value


def _read(
    where: str, kind: type, told: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> Any:
    """Build a dataclass of facts from JSON, each fact of the type that is annotated."""
    annotated = {item.name: str(item.type) for item in fields(kind)}
    values = {}
    for name, of in (names or {name: name for name in annotated}).items():
        value = told.get(name)
        if value is None:
            continue
        allowed = tuple(t for part in annotated[of].split(" | ") for t in _TYPES[part])
        inner = (str,) if "str, ..." in annotated[of] else (int, float)
        right = isinstance(value, allowed) and not isinstance(value, bool)
        if not right or (isinstance(value, list) and not all(isinstance(v, inner) for v in value)):
            raise ValueError(f"{where}: {name} must be {annotated[of]}, got {value!r:.80}.")
        values[of] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def as_json(value: Any) -> Any:
    """Return a value in JSON's types; anything else becomes its name, or its type's.

    >>> as_json({"levels": (0.1, np.float32(0.5)), "path": np.arange(2)})
    {'levels': [0.1, 0.5], 'path': [0, 1]}
    """
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, np.generic):
        return as_json(value.item())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        named = {item.name: as_json(getattr(value, item.name)) for item in fields(value)}
        return {"kind": type(value).__name__, **named}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return getattr(value, "__name__", type(value).__name__)
