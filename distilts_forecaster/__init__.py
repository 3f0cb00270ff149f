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

#: Public names, where they live, and the extra that brings what they need. Importing the package
#: imports none of them.
_PUBLIC = {
    "DLinear": ("students", "torch"),
    "DartsTeacher": ("teachers.darts", "darts"),
    "DistilledForecaster": ("facades.darts", "darts"),
    "Ensemble": ("teachers", "fit"),
    "FunctionTeacher": ("teachers", "fit"),
    "ITransformer": ("students", "torch"),
    "Linear": ("students", "fit"),
    "LinearForecaster": ("runtime", "fit"),
    "MLP": ("students", "torch"),
    "Network": ("students", "torch"),
    "Training": ("students", "torch"),
    "export_onnx": ("runtime.onnx", "onnx"),
    "from_long": ("tables.long", "darts"),
    "load_student": ("runtime", "fit"),
    "load_teacher": ("teachers", "fit"),
    "save_student": ("runtime", "fit"),
    "to_long": ("tables.long", "darts"),
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
    from distilts_forecaster.runtime.checks import extra_for

    module, extra = _PUBLIC[name]
    with extra_for(name, extra):
        try:
            value = getattr(import_module(f"{__name__}.{module}"), name)
        except AttributeError as error:
            # Python would say that there is no such name, and hide what a dependency lacks.
            raise ImportError(f"{name} cannot be imported: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted((*globals(), *__all__))
