"""What a saved model holds."""

from __future__ import annotations

import os
from typing import Any

from distilts_forecaster.distill import TrainingSummary
from distilts_forecaster.objective import resolve_horizon_weights
from distilts_forecaster.plan import Settings
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
    restore_network,
)
from distilts_forecaster.teachers.base import TeacherInfo, TeacherReference

__all__ = ["SAVED", "portable_parameters"]

#: Classes, and one function, that a saved model may name.
SAVED = (
    Copied,
    DLinear,
    Epoch,
    ITransformer,
    Linear,
    LinearForecaster,
    MLP,
    Network,
    Settings,
    TeacherInfo,
    TeacherReference,
    Training,
    TrainingSummary,
    restore_network,
)


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
    if not isinstance(portable["teacher"], (str, TeacherReference)):
        portable["teacher"] = TeacherReference(portable["teacher"].info)
    if callable(portable["horizon_weights"]):
        horizon = parameters["output_chunk_length"]
        weights = resolve_horizon_weights(portable["horizon_weights"], horizon)
        portable["horizon_weights"] = weights.tolist()
    return portable
