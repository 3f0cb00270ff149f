"""How far a student is from its teacher, and both from the targets, since it was fitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.distill.label import teacher_labels
from distilts_forecaster.distill.plan import resolve_teacher_context
from distilts_forecaster.distill.teacher_ensemble import open_labeller
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import extra_for
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.load import load_teacher
from distilts_forecaster.windows.source import Chunks, WindowSource

__all__ = ["DriftReport", "measure_drift"]

#: Steps that are looked at, in horizons: recent enough to tell, long enough to mean something.
_RECENT_HORIZONS = 10

#: Growth of the student's error, over the teacher's, above which fitting again is advised.
_WORSE = 1.2


@dataclass(frozen=True)
class DriftReport:
    """Errors on recent windows, beside those when the student was fitted.

    All are mean squared errors in units of each series' variance in ``fit``, over the steps that
    were validated on there.

    Attributes
    ----------
    n_windows : int
        Recent windows looked at; the teacher was asked for those that it had not labelled.
    student_error, teacher_error : float
        Against the targets. NaN for the teacher where there is none.
    distance : float
        Mean squared difference of student and teacher.
    fitted_student_error, fitted_teacher_error : float
        On the held-out windows of ``fit``. NaN where not measured.
    student_by_step, teacher_by_step : numpy.ndarray, shape (T,)
        Against the targets, by step.
    """

    n_windows: int
    student_error: float
    teacher_error: float
    distance: float
    fitted_student_error: float
    fitted_teacher_error: float
    student_by_step: np.ndarray = field(repr=False)
    teacher_by_step: np.ndarray = field(repr=False)

    @property
    def change(self) -> float:
        """The student's error now, over its error in ``fit``.

        Divided by the same ratio of the teacher, where there is one: it has not changed, so if
        both became worse, the series is harder to forecast, and fitting again does not help.
        """
        change = _ratio(self.student_error, self.fitted_student_error)
        if np.isfinite(self.teacher_error) and np.isfinite(self.fitted_teacher_error):
            change = _ratio(change, _ratio(self.teacher_error, self.fitted_teacher_error))
        return change

    @property
    def should_refit(self) -> bool:
        """Whether the student has become worse by a fifth."""
        return self.change > _WORSE

    def __str__(self) -> str:
        """Tell it as a table."""
        told = [f"{'':22}{'recent':>10}{'in fit':>10}"]
        for name, recent, fitted in (
            ("student's error", self.student_error, self.fitted_student_error),
            ("teacher's error", self.teacher_error, self.fitted_teacher_error),
            ("student from teacher", self.distance, np.nan),
        ):
            told.append(f"{name:22}{recent:10.3f}{fitted:10.3f}".replace("nan", "  -"))
        if np.isnan(self.change):
            advice = "nothing was held out in fit to compare with"
        elif self.should_refit:
            advice = f"{self.change:.2f} times what it was: fit again"
        else:
            advice = f"{self.change:.2f} times what it was: no need to fit again"
        return "\n".join([*told, f"({self.n_windows} windows) The student's error is {advice}."])

    def plot(self) -> Any:
        """Draw the errors by step.

        Returns
        -------
        matplotlib.axes.Axes
        """
        with extra_for("a picture", "plot"):
            import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        steps = np.arange(1, len(self.student_by_step) + 1)
        axes.plot(steps, self.student_by_step, label="student")
        axes.plot(steps, self.teacher_by_step, label="teacher", linestyle="--")
        axes.set(xlabel="steps ahead", ylabel="mean squared error / variance", ylim=(0, None))
        axes.legend(frameon=False)
        return axes


def measure_drift(
    student: Forecaster,
    series: Sequence[WindowSource],
    settings: Settings,
    summary: TrainingSummary,
    teacher: Any,
    cache_dir: str | os.PathLike | Literal[False] | None = None,
    n_windows: int = 100,
) -> DriftReport:
    """Compare a student with its teacher and with the targets of recent windows.

    ``series`` go on beyond the fit that ``settings`` and ``summary`` belong to. The ``n_windows``
    are evenly spaced over the last ten horizons. A teacher without weight is not asked. ValueError
    if no window has a context and some of its target.
    """
    length, steps = student.input_chunk_length, student.output_chunk_length
    chunks = Chunks(length, steps, student.output_chunk_shift)
    needed = None if student.info is None else student.info.settings.get("history_needed")
    if needed is not None:
        series = [one.reaching_back(needed) for one in series]
    settings = replace(settings, chunks=chunks, history_needed=needed)
    with ExitStack() as stack:
        labeller, history = None, 0
        if settings.has_teacher:
            loaded = load_teacher(teacher)
            labeller = stack.enter_context(open_labeller(loaded, settings, cache_dir))
            if not loaded.info.takes_missing:
                history = resolve_teacher_context(settings, loaded.info)
        chosen = _recent_windows(series, chunks, n_windows, history)
        if not any(len(origins) for _, origins in chosen):
            raise ValueError(
                f"No window has a context of {max(needed or length, history)} steps and some of "
                f"the {steps} steps that "
                "follow: pass a longer series, with what has come since the model was fitted."
            )
        return _compare(student, chosen, settings, summary, labeller)


def _compare(
    student: Forecaster,
    chosen: Sequence[tuple[WindowSource, np.ndarray]],
    settings: Settings,
    summary: TrainingSummary,
    labeller: Labeller | None,
) -> DriftReport:
    """Measure errors and distances on some windows."""
    chunks = settings.chunks
    steps = chunks.output_chunk_length
    median = settings.central_levels.index(0.5)
    errors = {name: np.zeros(steps) for name in ("student", "teacher", "distance")}
    n_known, n_all = np.zeros(steps), 0
    for one, origins in chosen:
        if not len(origins):
            continue
        contexts, unknown = one.filled_contexts(origins, chunks.input_chunk_length)
        known = one.window_covariates(origins, chunks)
        made = student.divided_by(one.std).central_forecast(contexts.astype(np.float64), known)
        made = made[..., median if made.shape[-1] > 1 else 0]
        targets = one.known_targets(origins, steps, chunks.output_chunk_shift, unknown)
        targets = targets.astype(np.float64)
        n_known += np.isfinite(targets).sum(axis=(0, 2))
        n_all += len(origins) * targets.shape[2]
        errors["student"] += np.nansum((made - targets) ** 2, axis=(0, 2))
        if labeller is not None:
            labels = teacher_labels(one, origins, settings, labeller)[..., labeller.median]
            errors["teacher"] += np.nansum((labels - targets) ** 2, axis=(0, 2))
            errors["distance"] += np.nansum((labels - made) ** 2, axis=(0, 2))
    compared = summary.errors.horizon or steps
    by_step = {name: errors[name] / np.maximum(n_known, 1) for name in ("student", "teacher")}
    total = max(n_known[:compared].sum(), 1)
    # Without a teacher nothing was added up.
    unknown_teacher = np.nan if labeller is None else 1.0
    return DriftReport(
        n_windows=sum(len(origins) for _, origins in chosen),
        student_error=float(errors["student"][:compared].sum() / total),
        teacher_error=unknown_teacher * float(errors["teacher"][:compared].sum() / total),
        distance=unknown_teacher * float(errors["distance"][:compared].sum() / (n_all * compared)),
        fitted_student_error=_or_nan(summary.errors.student),
        fitted_teacher_error=_or_nan(summary.errors.teacher),
        student_by_step=by_step["student"],
        teacher_by_step=unknown_teacher * by_step["teacher"],
    )


def _recent_windows(
    series: Sequence[WindowSource], chunks: Chunks, n_windows: int, first: int
) -> list[tuple[WindowSource, np.ndarray]]:
    """Return the origins of recent windows, evenly spaced, as many of each series.

    None is before ``first``.
    """
    each = max(1, n_windows // len(series))
    chosen = []
    for one in series:
        shift = chunks.output_chunk_shift
        for stop in (chunks.target_stop, shift + 1):  # the whole target, or where none has it some
            origins = np.flatnonzero(one.usable(chunks.input_chunk_length, stop, shift))
            origins = origins[origins >= first]
            if len(origins):
                break
        origins = origins[-_RECENT_HORIZONS * chunks.output_chunk_length :]
        if len(origins) > each:
            origins = origins[np.linspace(0, len(origins) - 1, each).astype(int)]
        chosen.append((one, origins))
    return chosen


def _ratio(now: float, before: float) -> float:
    """Return how many times as large an error is; 1 where both are 0, or both infinite."""
    if now == before:
        return 1.0
    return float(now / before) if before else float("inf")


def _or_nan(value: float | None) -> float:
    """Return NaN for None."""
    return float("nan") if value is None else value
