"""Distil a time-series foundation model into a tiny forecaster fitted to your series.

>>> from distilts_forecaster import DistilledForecaster  # needs the extra "darts"
>>> model = DistilledForecaster(input_chunk_length=96, output_chunk_length=24)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilts_forecaster.facades.darts import DistilledForecaster
    from distilts_forecaster.runtime import LinearForecaster, load_student, save_student
    from distilts_forecaster.runtime.onnx import export_onnx
    from distilts_forecaster.students import MLP, DLinear, ITransformer, Linear, Network, Training
    from distilts_forecaster.tables.long import from_long, to_long
    from distilts_forecaster.teachers import Ensemble, FunctionTeacher, load_teacher
    from distilts_forecaster.teachers.darts import DartsTeacher

__version__ = "0.1.0"

#: Public names and where they live: importing the package imports none of them.
_PUBLIC = {
    "DLinear": "students",
    "DartsTeacher": "teachers.darts",
    "DistilledForecaster": "facades.darts",
    "Ensemble": "teachers",
    "FunctionTeacher": "teachers",
    "ITransformer": "students",
    "Linear": "students",
    "LinearForecaster": "runtime",
    "MLP": "students",
    "Network": "students",
    "Training": "students",
    "export_onnx": "runtime.onnx",
    "from_long": "tables.long",
    "load_student": "runtime",
    "load_teacher": "teachers",
    "save_student": "runtime",
    "to_long": "tables.long",
}

__all__ = [
    "MLP",
    "DLinear",
    "DartsTeacher",
    "DistilledForecaster",
    "Ensemble",
    "FunctionTeacher",
    "ITransformer",
    "Linear",
    "LinearForecaster",
    "Network",
    "Training",
    "export_onnx",
    "from_long",
    "load_student",
    "load_teacher",
    "save_student",
    "to_long",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__):
            raise
        raise ImportError(
            f"{name} needs {error.name}, which is not installed: "
            'pip install "distilts-forecaster[darts]"'
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted((*globals(), *__all__))
