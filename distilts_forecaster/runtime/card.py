"""The model card of a student: where it comes from, how good and how fast it is."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.info import StudentInfo, TeacherFacts, ValidationErrors
from distilts_forecaster.runtime.latency import measure_latency

__all__ = ["write_card"]

_USE = """```python
from distilts_forecaster.runtime import load_student

student = load_student("{source}")  # this directory, or its name on the hub
student.predict(context)  # {shape}; the last {length:,} steps, NaN where missing
```"""


def write_card(student: Forecaster, n_bytes: int) -> str:
    """Write the model card of a student, as Markdown with the hub's header.

    It tells what ``info`` holds; without one, most is unknown. The weights have ``n_bytes``.
    """
    info = student.info or StudentInfo()
    kind = getattr(student, "kind", "linear")
    components = student.n_components
    shape = "(L,), (L, C) or (N, L, C)" if components is None else f"(L, {components}) or (N, L, C)"
    length, steps = student.input_chunk_length, student.output_chunk_length
    title = f"# A tiny forecaster: {length} steps in, {steps} ahead"
    lines = [_header(info.teacher), "", title, ""]
    lines += [
        f"A student of kind `{kind}` with {student.n_parameters:,} parameters "
        f"({n_bytes / 1024:,.0f} KiB), made with "
        "[distilts-forecaster](https://pypi.org/project/distilts-forecaster/) by the method of "
        "[DistilTS](https://arxiv.org/abs/2601.12785). It runs with NumPy and safetensors alone.",
        "",
        _USE.format(source=".", shape=shape, length=length),
        "",
    ]
    data = {name: value for name, value in asdict(info.data).items() if value is not None}
    lines += ["## Teacher", "", *_table(_describe_teacher(student.info)), ""]
    lines += ["## Data it was fitted on", "", *_table(data), ""]
    lines += ["## Accuracy", "", *_describe_errors(info), ""]
    if student.error_quantiles is not None:
        levels = ", ".join(f"{level:g}" for level in student.error_quantiles.levels)
        lines += [f"Quantiles: {levels}; others are interpolated.", ""]
    took = measure_latency(student)
    machine = f"{platform.machine()}, {platform.system()}, NumPy {np.__version__}"
    lines += ["## Speed", "", f"Measured when this was saved ({machine}):", ""]
    lines += _table(
        {
            "one window": f"{1e6 * took[1]:,.1f} microseconds",
            "1,024 windows at once": f"{1e3 * took[1024]:,.2f} milliseconds",
        }
    )
    lines += ["", "## Settings", "", *_table(info.settings), ""]
    lines += ["## Versions", "", *_table(info.versions), ""]
    return "\n".join(lines)


def _header(teacher: TeacherFacts | None) -> str:
    """Return what the hub reads: YAML between lines of dashes."""
    lines = ["---", "library_name: distilts-forecaster", "pipeline_tag: time-series-forecasting"]
    if teacher is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", teacher.name):
        lines += ["base_model:", f"- {teacher.name}"]
    return "\n".join([*lines, "tags:", "- time-series", "- forecasting", "- distillation", "---"])


def _describe_teacher(info: StudentInfo | None) -> Mapping[str, Any]:
    """Return the rows about the teacher."""
    if info is None:
        return {"teacher": "unknown"}
    if info.teacher is None:
        return {"teacher": "none: it was fitted to the targets alone"}
    licence = info.teacher.licence or "unknown"
    note = "check whether it allows what you do with a student of these weights"
    return {**asdict(info.teacher), "licence": f"{licence} ({note})"}


def _describe_errors(info: StudentInfo) -> list[str]:
    """Return a table of errors on held-out windows, beside what they must be compared with."""
    errors = ValidationErrors() if info.fit is None else info.fit.errors
    if errors.student is None:
        return ["Nothing was held out to measure it on."]
    rows: dict[str, float | None] = {"this student": errors.student}
    if info.teacher is not None:
        rows["the same without a teacher"] = errors.without_teacher
        rows["the teacher"] = errors.teacher
    rows[f"repeating the last {errors.naive_season} steps"] = errors.naive
    return [
        f"Mean squared error in units of each series' variance, {errors.horizon} steps ahead, on "
        "windows that were held out while the settings were chosen. The student was then fitted "
        "to these windows too; the error is that of the student before:",
        "",
        *_table({name: "unknown" if e is None else f"{e:.4f}" for name, e in rows.items()}),
    ]


def _table(rows: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of two columns."""
    if not rows:
        return ["unknown"]
    cells = [
        (_cell(name.removeprefix("n_").replace("_", " ")), _cell(value))
        for name, value in rows.items()
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)]


def _cell(value: Any) -> str:
    """Return a value as one line of text."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value)) or "none"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").split())[:300]
