"""The pipeline, on arrays: plan -> label -> select -> fit -> judge."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from distilts_forecaster.distill.accumulate import accumulate
from distilts_forecaster.distill.budget import ask_teacher
from distilts_forecaster.distill.calibration import calibrate
from distilts_forecaster.distill.fit import fit_stage, keep_labels, will_align
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.judge import TrainingSummary, advise, summarise
from distilts_forecaster.distill.plan import plan_windows, prepare_sources
from distilts_forecaster.distill.select import select_settings
from distilts_forecaster.distill.student_info import describe
from distilts_forecaster.distill.teacher_ensemble import open_labeller
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import warn_user
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.load import load_teacher
from distilts_forecaster.windows.source import WindowSource

__all__ = ["Distilled", "TrainingSummary", "distill", "fit_student"]

#: Identities of teachers without covariates that the user was warned of: once each.
_told: set[str] = set()


@dataclass(frozen=True)
class Distilled:
    """A fitted student, and how it came about."""

    student: Forecaster
    summary: TrainingSummary


def fit_student(
    series: Sequence[WindowSource],
    settings: Settings,
    teacher: Any,
    cache_dir: str | os.PathLike | Literal[False] | None = None,
    validation: Sequence[WindowSource] | None = None,
    verbose: bool | None = None,
    warm: WarmStart | None = None,
) -> Distilled:
    """Fit a student to series and to a teacher as the user wrote it: what facades call.

    ``teacher`` is what :func:`~distilts_forecaster.load_teacher` takes, and is ignored where its
    weight is 0; labels are kept in ``cache_dir`` (see
    :func:`~distilts_forecaster.teachers.stores.cache_folder`); ``warm`` are sums of an earlier
    fit. Raises what :func:`distill` and ``load_teacher`` do, and ImportError where an extra is
    missing.
    """
    settings.student.check_installed()
    _warn_of_levels(series)
    loaded = load_teacher(teacher) if settings.has_teacher else None
    if loaded is not None and series[0].covariates:
        _tell_of_covariates(loaded.info)
    opened = nullcontext(None) if loaded is None else open_labeller(loaded, settings, cache_dir)
    with opened as labeller:
        result = distill(series, settings, labeller, validation, verbose, warm)
    if loaded is not None:
        _tell_of_fidelity(result.summary, settings, loaded.info)
    info = describe(series, settings, None if loaded is None else loaded.info, result.summary)
    return replace(result, student=result.student.with_info(info))


def distill(
    series: Sequence[WindowSource],
    settings: Settings,
    labeller: Labeller | None = None,
    validation: Sequence[WindowSource] | None = None,
    verbose: bool | None = False,
    warm: WarmStart | None = None,
) -> Distilled:
    """Fit a student to targets and to a teacher's forecasts.

    Settings given as "auto" are chosen on held-out windows: those of ``validation``, else the last
    fifth of each series. The exact student is then solved on all windows of ``series``; a network
    is trained, and stopped early on the held-out windows.

    ``series`` have the same number of components. ``labeller`` forecasts up to the end of the
    target; None fits without a teacher. ``verbose`` shows progress, None on a terminal only.
    ``warm`` are sums of earlier fits, for the linear student. ValueError if there is no window for
    the student, for the teacher or to validate on; or an alignment asked for by name is not
    possible.
    """
    clock = [time.perf_counter()]
    series, validation = prepare_sources(series, validation, settings)
    plan = plan_windows(series, settings, labeller, validation)
    n_windows = sum(one.count_windows(settings.chunks) for one in series)
    info = None if labeller is None else labeller.teacher.info
    aligned_with = labeller if will_align(plan, info) else None
    if labeller is None:
        material = accumulate(plan, None, warm=warm)
    else:
        keep = keep_labels(settings, labeller)
        plan, material = ask_teacher(plan, labeller, keep, verbose, warm)
    asked = labeller.seconds if labeller else 0.0
    clock.append(time.perf_counter())
    choice, trial = select_settings(plan, material)
    clock.append(time.perf_counter())
    fitted = fit_stage(plan, material, choice, trial, aligned_with, verbose)
    clock.append(time.perf_counter())
    seconds = _seconds(clock, asked, settings)
    # Before calibration, which would count labels of this fit as found in the cache.
    summary = summarise(plan, material, choice, fitted, labeller, n_windows, seconds)
    student = fitted.student
    if settings.quantiles.wanted:
        errors = calibrate(plan, fitted.trial, student, labeller)
        student = student.with_error_quantiles(errors)
        if labeller is not None:
            windows = replace(summary.windows, labelled=labeller.n_labelled)
            summary = replace(summary, windows=windows)
    return Distilled(student, summary)


def _seconds(clock: Sequence[float], teacher: float, settings: Settings) -> dict[str, float]:
    """Return the time that each stage took."""
    label, select, fit = np.diff(clock).tolist()
    return {
        "teacher": teacher,
        "sums": label - teacher,
        "choice": select,
        "solve" if settings.student.is_exact else "training": fit,
    }


def _tell_of_covariates(info: TeacherInfo) -> None:
    """Tell the user once that a teacher does not see the covariates."""
    if not info.takes_covariates and info.identity not in _told:
        _told.add(info.identity)
        warn_user(
            f"The teacher {info.name!r} takes no covariates: it labels what it sees, and the "
            'student learns their effect from the targets alone. "amazon/chronos-2" and Darts '
            "models that were fitted with the same covariates take them."
        )


def _tell_of_fidelity(summary: TrainingSummary, settings: Settings, info: TeacherInfo) -> None:
    """Warn where the student is further from the teacher than was asked for."""
    accept, fidelity = settings.teaching.accept, summary.fidelity
    if accept is None:
        return
    if fidelity is None:
        warn_user(
            f"accept={accept:g} cannot be checked: the teacher has labelled no held-out window. "
            "It labels none of val_series, so leave that out; or pass a longer history."
        )
        return
    if fidelity <= accept:
        return
    warn_user(
        f"The student's error on held-out windows is {fidelity:.2f} times the teacher's, more than "
        f"accept={accept:g}. You can {advise(summary, settings, info)}."
    )


def _warn_of_levels(series: Sequence[WindowSource]) -> None:
    """Warn where a series varies too little around its level for the teacher's float32."""
    relative = [(np.abs(one.location) / one.std)[one.varies].max(initial=0.0) for one in series]
    worst = float(max(relative))
    if worst > 1e5:
        warn_user(
            f"A series varies by 1/{worst:.0e} of its level, which a teacher does not see in "
            "float32. Subtract a constant from it before fit, and add it to the forecasts."
        )
