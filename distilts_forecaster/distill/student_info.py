"""Where a student comes from, as JSON: what its artifact and its model card tell."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from distilts_forecaster.distill.plan import Settings
from distilts_forecaster.runtime.info import as_json
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.windows.cutting import PreparedSeries

__all__ = ["describe", "with_data"]

#: Packages whose versions are told, where they were imported.
_PACKAGES = ("numpy", "safetensors", "scipy", "pandas", "darts", "sktime", "sklearn", "torch")

#: Of a teacher.
_TOLD = ("name", "revision", "dtype", "licence", "n_parameters")

#: Of what happened in fit.
_MEASURED = (
    "windows_seen",
    "windows_skipped",
    "windows_labelled",
    "labels_from_cache",
    "teacher",
    "teacher_licence",
    "teacher_error",
    "horizon_weights",
    "distillation_weight",
    "tau",
    "ridge",
    "alignment",
    "best_epoch",
    "validation_horizon",
    "validation_error",
    "validation_error_without_teacher",
    "teacher_validation_error",
    "naive_validation_error",
    "naive_season",
)


def describe(
    series: Sequence[PreparedSeries],
    settings: Settings,
    teacher: TeacherInfo | None,
    summary: Any,
) -> dict[str, Any]:
    """Return where a student comes from.

    Parameters
    ----------
    series : sequence of PreparedSeries
    settings : Settings
    teacher : TeacherInfo or None
    summary : TrainingSummary

    Returns
    -------
    dict
        ``teacher``, ``data`` (a summary, and a digest of all values and covariates),
        ``settings``, ``fit`` and ``versions``, as JSON.
    """
    import distilts_forecaster

    digest = hashlib.sha256()
    for one in series:
        for part in (one.raw, one.past, one.future, one.static):
            if part is not None:
                digest.update(repr(part.shape).encode())
                digest.update(np.ascontiguousarray(part, dtype="<f4").data)
    versions = {"distilts-forecaster": distilts_forecaster.__version__}
    versions["python"] = platform.python_version()
    versions |= {
        name: str(getattr(sys.modules[name], "__version__", ""))
        for name in _PACKAGES
        if name in sys.modules
    }
    chosen = {item.name: as_json(getattr(settings, item.name)) for item in fields(settings)}
    if callable(settings.horizon_weights):
        chosen["horizon_weights"] = list(summary.horizon_weights)
    told = None if teacher is None else {name: getattr(teacher, name) for name in _TOLD}
    return {
        "teacher": as_json(told),
        "data": {
            "n_series": len(series),
            "n_points": sum(len(one) for one in series),
            "n_components": series[0].raw.shape[1],
            "n_missing": sum(int(np.isnan(one.raw).sum()) for one in series),
            "sha256": digest.hexdigest(),
        },
        "settings": chosen,
        "fit": {name: as_json(getattr(summary, name)) for name in _MEASURED},
        "versions": versions,
    }


def with_data(info: Mapping[str, Any] | None, **facts: Any) -> dict[str, Any]:
    """Add what only a facade knows of the data: times, names.

    Parameters
    ----------
    info : dict or None
        What :func:`describe` returned.
    **facts
        Turned into JSON, times into text.

    Returns
    -------
    dict
    """
    known = dict(info or {})
    told = {
        name: value if isinstance(value, (list, tuple, int, type(None))) else str(value)
        for name, value in facts.items()
    }
    known["data"] = {**known.get("data", {}), **as_json(told)}
    return known
