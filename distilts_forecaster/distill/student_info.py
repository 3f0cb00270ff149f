"""The origin of a student: data, teacher, settings and versions."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.runtime.info import DataFacts, StudentInfo, TeacherFacts, as_json
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.windows.source import WindowSource

__all__ = ["describe", "with_data"]

#: Packages whose versions are told, where they were imported.
_PACKAGES = ("numpy", "safetensors", "scipy", "pandas", "darts", "sktime", "sklearn", "torch")


def describe(
    series: Sequence[WindowSource],
    settings: Settings,
    teacher: TeacherInfo | None,
    summary: TrainingSummary,
) -> StudentInfo:
    """Return where a student comes from, with a digest of all values and covariates."""
    digest = hashlib.sha256()
    for one in series:
        for part in (*one.raw_parts, *one.covariates.by_kind()):
            if part is not None:
                digest.update(repr(part.shape).encode())
                digest.update(np.ascontiguousarray(part, dtype="<f4").data)
    # Importing the package here would be circular.
    own = sys.modules[__name__.partition(".")[0]]
    versions = {"distilts-forecaster": own.__version__, "python": platform.python_version()}
    versions |= {
        name: str(getattr(sys.modules[name], "__version__", ""))
        for name in _PACKAGES
        if name in sys.modules
    }
    chosen: dict[str, Any] = as_json(settings.to_json())
    if callable(settings.teaching.horizon_weights):
        chosen["horizon_weights"] = list(summary.chosen.horizon_weights)
    told = None
    if teacher is not None:
        told = TeacherFacts(
            teacher.name, teacher.revision, teacher.dtype, teacher.licence, teacher.n_parameters
        )
    return StudentInfo(
        teacher=told,
        data=DataFacts(
            n_series=len(series),
            n_points=sum(one.n_points for one in series),
            n_components=series[0].n_components,
            n_missing=sum(int(np.isnan(p).sum()) for one in series for p in one.raw_parts),
            sha256=digest.hexdigest(),
        ),
        settings=chosen,
        fit=summary.facts,
        versions=versions,
    )


def with_data(
    info: StudentInfo,
    start: Any,
    end: Any,
    freq: str | None = None,
    components: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
) -> StudentInfo:
    """Add what only a facade knows of the data: names, and times.

    Times are kept as text, unless they are whole numbers or None.
    """
    first, last = (
        one if one is None or isinstance(one, int) else str(one)
        for one in (as_json(start) if isinstance(start, np.generic) else start,
                    as_json(end) if isinstance(end, np.generic) else end)
    )  # fmt: skip
    data = replace(
        info.data,
        start=first,
        end=last,
        freq=freq,
        components=None if components is None else tuple(components),
        covariates=None if covariates is None else tuple(covariates),
    )
    return replace(info, data=data)
