"""The model card of a student: where it comes from, how good and how fast it is."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster

__all__ = ["measure_latency", "median_seconds", "write_card"]

_USE = """```python
from distilts_forecaster.runtime import load_student

student = load_student("{source}")  # this directory, or its name on the hub
student.predict(context)  # {shape}; the last {length:,} steps, NaN where missing
```"""


def measure_latency(
    student: Forecaster, batch_sizes: tuple[int, ...] = (1, 1024), seconds: float = 0.05
) -> dict[int, float]:
    """Time calls of ``predict``.

    Parameters
    ----------
    student : Forecaster
    batch_sizes : tuple of int, default (1, 1024)
        Windows in a call.
    seconds : float, default 0.05
        Spent on each, or on at least three calls.

    Returns
    -------
    dict of int to float
        Median seconds of a call, by batch size, on as many threads as NumPy takes.

    Examples
    --------
    >>> from distilts_forecaster.runtime import LinearForecaster
    >>> sorted(measure_latency(LinearForecaster(np.zeros((1, 4, 2), np.float32))))
    [1, 1024]
    """
    rng = np.random.default_rng(0)
    components = student.n_components or 1
    length, steps = student.input_chunk_length, student.output_chunk_length
    medians = {}
    for n in batch_sizes:
        contexts = rng.normal(size=(n, length, components))
        shapes = ((n, length), (n, length + steps), (n, components))
        names = ("past_covariates", "future_covariates", "static_covariates")
        given: dict[str, Any] = {
            name: np.zeros((*shape, count))
            for name, shape, count in zip(names, shapes, student.n_covariates, strict=True)
            if count
        }
        if n == 1 and components == 1 and not given:
            contexts = contexts[0, :, 0]
        medians[n] = median_seconds(partial(student.predict, contexts, **given), seconds)
    return medians


def median_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Return the median time of a call, after one that is not counted.

    Parameters
    ----------
    call : callable
    seconds : float
        How long to call it, at least three times.

    Returns
    -------
    float
    """
    call()
    taken: list[float] = []
    now = time.perf_counter()
    stop = now + seconds
    while len(taken) < 3 or now < stop:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        taken.append(now - start)
    return float(np.median(taken))


def write_card(student: Forecaster, n_bytes: int) -> str:
    """Write the model card of a student, as Markdown with the hub's header.

    Parameters
    ----------
    student : Forecaster
        Its ``info`` is what the card tells; without one, it tells what can be seen.
    n_bytes : int
        Size of its weights.

    Returns
    -------
    str
    """
    info: Mapping[str, Any] = student.info or {}
    teacher, data = info.get("teacher"), info.get("data") or {}
    fit, settings = info.get("fit") or {}, info.get("settings") or {}
    kind = getattr(student, "kind", "linear")
    components = student.n_components
    shape = "(L,), (L, C) or (N, L, C)" if components is None else f"(L, {components}) or (N, L, C)"
    length, steps = student.input_chunk_length, student.output_chunk_length
    lines = [_header(teacher), "", f"# A tiny forecaster: {length} steps in, {steps} ahead", ""]
    lines += [
        f"A student of kind `{kind}` with {student.n_parameters:,} parameters "
        f"({n_bytes / 1024:,.0f} KiB), made with "
        "[distilts-forecaster](https://pypi.org/project/distilts-forecaster/) by the method of "
        "[DistilTS](https://arxiv.org/abs/2601.12785). It runs with NumPy and safetensors alone.",
        "",
        _USE.format(source=".", shape=shape, length=length),
        "",
    ]
    lines += ["## Teacher", "", *_table(_describe_teacher(teacher, info)), ""]
    lines += ["## Data it was fitted on", "", *_table(data), ""]
    lines += ["## Accuracy", "", *_describe_errors(fit, teacher), ""]
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
    lines += ["", "## Settings", "", *_table(settings), ""]
    lines += ["## Versions", "", *_table(info.get("versions") or {}), ""]
    return "\n".join(lines)


def _header(teacher: Mapping[str, Any] | None) -> str:
    """Return what the hub reads: YAML between lines of dashes."""
    lines = ["---", "library_name: distilts-forecaster", "pipeline_tag: time-series-forecasting"]
    name = str((teacher or {}).get("name", ""))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        lines += ["base_model:", f"- {name}"]
    return "\n".join([*lines, "tags:", "- time-series", "- forecasting", "- distillation", "---"])


def _describe_teacher(
    teacher: Mapping[str, Any] | None, info: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the rows about the teacher."""
    if teacher is None:
        told = "none: it was fitted to the truth alone" if info else "unknown"
        return {"teacher": told}
    licence = teacher.get("licence") or "unknown"
    note = "check whether it allows what you do with a student of these weights"
    return {**teacher, "licence": f"{licence} ({note})"}


def _describe_errors(fit: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> list[str]:
    """Return a table of errors on held-out windows, beside what they must be compared with."""
    if fit.get("validation_error") is None:
        return ["Nothing was held out to measure it on."]
    rows = {"this student": fit["validation_error"]}
    if teacher is not None:
        rows["the same without a teacher"] = fit.get("validation_error_without_teacher")
        rows["the teacher"] = fit.get("teacher_validation_error")
    rows[f"repeating the last {fit.get('naive_season')} steps"] = fit.get("naive_validation_error")
    return [
        f"Mean squared error in units of each series' variance, {fit.get('validation_horizon')} "
        "steps ahead, on windows that were held out while the settings were chosen (afterwards "
        "it was fitted to them too; the error is of the student before that):",
        "",
        *_table({name: "unknown" if e is None else f"{e:.4f}" for name, e in rows.items()}),
    ]


def _table(rows: Mapping[str, Any]) -> list[str]:
    """Return a table of two columns, its cells without what would break it."""
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
