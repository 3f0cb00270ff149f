"""The pipeline, on arrays: windows -> labels -> sums -> chosen settings -> student."""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from distilts_forecaster.distill.accumulate import (
    accumulate,
    accumulate_validation,
    held_out_windows,
    impute_targets,
    naive_error,
)
from distilts_forecaster.distill.augmentation import augment
from distilts_forecaster.distill.calibration import calibrate
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.plan import (
    SeriesPlan,
    Settings,
    Student,
    find_season,
    plan_windows,
    resolve_teacher_context,
)
from distilts_forecaster.distill.student_info import describe
from distilts_forecaster.distill.teacher_ensemble import EnsembleLabeller, open_labeller
from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.quantiles import interpolate_levels
from distilts_forecaster.students.covariates import choose_penalty, fit_effects
from distilts_forecaster.students.linear import (
    RIDGE_GRID,
    Choice,
    Linear,
    WindowSums,
    choose,
    solve,
)
from distilts_forecaster.students.objective import resolve_horizon_weights
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller, cache_folder
from distilts_forecaster.teachers.load import load_teacher
from distilts_forecaster.windows.batches import TeacherArray
from distilts_forecaster.windows.cutting import PreparedSeries

if TYPE_CHECKING:
    from distilts_forecaster.students.training import Epoch

__all__ = ["Distilled", "TrainingSummary", "distill", "fit_student"]

#: Tried where distillation_weight="auto". Zero is among them: a teacher can be useless.
ALPHA_GRID = (0.0, *(2.0**k for k in range(-8, 7)))

#: Tried where horizon_weights="auto".
TAU_GRID = (0.0, 0.5, 1.0, 2.0)

#: Teachers that the user was told of that they take no covariates.
_told: set[str] = set()

#: lambda by which missing truth is imputed while settings are chosen.
_TYPICAL_RIDGE = 0.1

#: Penalty on the effects of covariates where nothing is held out to choose it on.
_TYPICAL_PENALTY = 0.1

#: Series of fewer windows' lengths than these have windows whose targets reach beyond their
#: end; those of less than one have windows that begin before their start as well. With 50 months
#: of 80 retail series: MASE 1.29 with the former, 1.31 without, 1.39 with both.
_SHORT = 2


@dataclass(frozen=True)
class TrainingSummary:
    """What happened in ``fit``.

    Attributes
    ----------
    windows_seen : int
        Windows with truth that the student was fitted on.
    windows_skipped : int
        Windows left out because too little of them is observed.
    windows_labelled : int
        Windows the teacher forecast during this fit; those of several teachers count apart.
    labels_from_cache : int
        Windows whose forecast was known already.
    teacher : str or None
        Identity of the teacher, None if there was none.
    teacher_licence : str or None
        Licence of the teacher's weights, None where unknown.
    teacher_error : float or None
        Mean squared error of the teacher on all windows with truth, in units of
        each series' variance.
    teacher_validation_error : float or None
        The teacher's on the same windows; None where ``val_series`` was given.
    teacher_weights : tuple of tuple of float, or None
        Of an ensemble: the weight of each teacher, at each step.
    distillation_weight : float
        alpha, as given or chosen.
    tau : float or None
        Steepness of the horizon weights, as given or chosen; None if the weights
        themselves were given.
    horizon_weights : tuple of float
        w_t, one for each step, of mean one.
    ridge : float
        lambda, as given or chosen, of the exact solution: the linear student itself, and
        what the MLP starts from.
    alignment : str or None
        How hidden states were aligned, None if they were not.
    epochs : tuple of Epoch
        For students trained by gradient: each term of the loss, and the held-out error,
        epoch by epoch (``pandas.DataFrame(summary.epochs)`` is a table). Of the training that
        was stopped early, not of the one on all windows that may follow.
    best_epoch : int or None
        The epoch that was kept; 0 is the student before training.
    validation_horizon : int
        Steps validated on; 0 if there was nothing to hold out.
    validation_error : float or None
        Mean squared error on the held-out windows, in units of each series'
        variance, of the chosen settings (fitted without the held-out windows).
    validation_error_without_teacher : float or None
        The same for the best ridge with alpha = 0.
    naive_validation_error : float or None
        That of repeating the last value or the last season of a usual length, whichever is best.
    naive_season : int or None
        Steps that are repeated.
    seconds : dict of str to float
        Time for each stage: ``"teacher"``, ``"sums"`` (windows, cache and Gram
        sums), ``"choice"``, ``"solve"`` or ``"training"``.
    """

    windows_seen: int
    windows_skipped: int
    windows_labelled: int
    labels_from_cache: int
    teacher: str | None
    teacher_licence: str | None
    teacher_error: float | None
    distillation_weight: float
    tau: float | None
    horizon_weights: tuple[float, ...] = field(repr=False)
    ridge: float
    validation_horizon: int
    validation_error: float | None
    validation_error_without_teacher: float | None
    seconds: dict[str, float]
    teacher_validation_error: float | None = None
    alignment: str | None = None
    epochs: tuple[Epoch, ...] = field(default=(), repr=False)
    best_epoch: int | None = None
    teacher_weights: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    naive_validation_error: float | None = None
    naive_season: int | None = None


@dataclass(frozen=True)
class Distilled:
    """A fitted student, and how it came about."""

    student: Forecaster
    summary: TrainingSummary


def fit_student(
    series: Sequence[PreparedSeries],
    settings: Settings,
    teacher: Any,
    cache_dir: str | os.PathLike | Literal[False] | None = None,
    validation: Sequence[PreparedSeries] | None = None,
    verbose: bool | None = None,
    warm: WarmStart | None = None,
) -> Distilled:
    """Fit a student to series and to a teacher as the user wrote it: what facades call.

    Parameters
    ----------
    series : sequence of PreparedSeries
    settings : Settings
    teacher : object
        See :func:`~distilts_forecaster.load_teacher`. Not looked at where
        ``settings.distillation_weight`` is 0.
    cache_dir : path-like, False or None
        Where labels are kept, and trainings until they are done; see
        :func:`~distilts_forecaster.teachers.labels.cache_folder`.
    validation : sequence of PreparedSeries, optional
    verbose : bool, optional
    warm : WarmStart, optional
        What an earlier fit left.

    Returns
    -------
    Distilled

    Raises
    ------
    ValueError, TypeError
        As :func:`distill` and :func:`~distilts_forecaster.load_teacher`.
    ImportError
        If student or teacher need an extra that is not installed.
    """
    if not isinstance(settings.student, Linear) and importlib.util.find_spec("torch") is None:
        raise ImportError(
            f"The student {type(settings.student).__name__} is trained by torch, which is not "
            'installed: pip install "distilts-forecaster[torch]"'
        )
    folder = cache_folder(cache_dir)
    checkpoints = None if folder is None else folder / "training"
    if settings.distillation_weight == 0:
        result = distill(series, settings, None, validation, verbose, checkpoints, warm)
        info = describe(series, settings, None, result.summary)
        return replace(result, student=result.student.with_info(info))
    loaded = load_teacher(teacher)
    if series[0].past is not None or series[0].future is not None:
        _tell_of_covariates(loaded.info)
    with open_labeller(loaded, settings, cache_dir) as labeller:
        result = distill(series, settings, labeller, validation, verbose, checkpoints, warm)
    info = describe(series, settings, loaded.info, result.summary)
    return replace(result, student=result.student.with_info(info))


def _tell_of_covariates(info: TeacherInfo) -> None:
    """Tell the user once that a teacher does not see the covariates."""
    if not info.takes_covariates and info.identity not in _told:
        _told.add(info.identity)
        warnings.warn(
            f"The teacher {info.name!r} takes no covariates: it labels what it sees, and the "
            'student learns their effect from the truth alone. "amazon/chronos-2" and Darts models '
            "that were fitted with the same covariates take them.",
            stacklevel=4,
        )


def distill(
    series: Sequence[PreparedSeries],
    settings: Settings,
    labeller: Labeller | None = None,
    validation: Sequence[PreparedSeries] | None = None,
    verbose: bool | None = False,
    checkpoints: Path | None = None,
    warm: WarmStart | None = None,
) -> Distilled:
    """Fit a student to the truth and to a teacher's forecasts.

    Settings given as "auto" are chosen on held-out windows: those of ``validation``,
    else the last fifth of each series. They are chosen for the linear student, which can be
    solved for all of them, and used for any. The linear student is then solved on all windows
    of ``series``; a network is trained, and stopped early on the held-out windows.

    Parameters
    ----------
    series : sequence of PreparedSeries
        With the same number of components.
    settings : Settings
    labeller : Labeller, optional
        Source of teacher forecasts, with a horizon of ``settings.target_stop``.
        None fits without a teacher.
    validation : sequence of PreparedSeries, optional
        Each with at least ``input_chunk_length`` steps of context.
    verbose : bool or None, default False
        Show progress while the teacher forecasts and a network is trained; None shows it
        on a terminal.
    checkpoints : path-like, optional
        A folder where a network's training is kept after each epoch, until it is done.
    warm : WarmStart, optional
        Sums of earlier fits, for the linear student.

    Returns
    -------
    Distilled

    Raises
    ------
    ValueError
        If no window is complete, for the student or for the teacher; or an alignment is
        insisted on that cannot be had.
    """
    started = time.perf_counter()
    student = settings.student
    is_linear = isinstance(student, Linear)
    series, validation = _prepare(series, validation, settings)
    has_covariates = bool(series[0].n_covariates)
    whole = is_linear and not _choices(settings, labeller) and not settings.probabilistic
    whole = whole and not has_covariates
    plans, horizon = plan_windows(
        series, settings, labeller, hold_out=validation is None and not whole
    )
    _check_plans(plans, settings, labeller)
    if validation is not None and not whole:
        horizon = settings.output_chunk_length
        if not any(
            mask.any() for _, mask in held_out_windows(plans, validation, settings, horizon)
        ):
            raise ValueError(
                "val_series has no window to validate on: too little of it is observed. "
                "Pass a longer one, or leave val_series out."
            )
    plans_hold_out = validation is None and horizon > 0
    if labeller is not None:
        made_up = augment(plans, settings, labeller.teacher.info)
        plans = [*plans, made_up] if made_up is not None else plans
    align = False
    if not is_linear:
        from distilts_forecaster.distill.networks import aligns, fit_network, gather_windows, probe

        bare = [without_covariates(plan) if settings.is_matrix else plan for plan in plans]
        align = aligns(settings, labeller, probe(settings, bare[0].series))
    n_labels = sum(int(plan.labelled.sum()) for plan in plans)
    labels = None if is_linear or labeller is None else TeacherArray(n_labels)
    on_labels = None if labels is None else _keep_labels(labels, labeller, settings)
    if isinstance(labeller, EnsembleLabeller):
        with _labelling(labeller, None, "weighing teachers", verbose):
            labeller.choose_weights(plans, settings, horizon if plans_hold_out else 0)
    with _labelling(labeller, n_labels, "labelling", verbose):
        trial, final, error_by_step, held_out_error = accumulate(
            plans, settings, labeller, horizon, on_labels, warm
        )
    held_out = accumulate_validation(plans, validation, settings, horizon)
    horizon = horizon if held_out else 0
    weight_candidates = _weight_candidates(settings, error_by_step)
    guess = Choice(float(labeller is not None), weight_candidates[0], _ridges(student)[0])
    if len(_ridges(student)) > 1:
        guess = replace(guess, ridge=_TYPICAL_RIDGE)
    trial = impute_targets(trial, plans, settings, "trial_target", lambda s: _weights(s, guess))
    summed = time.perf_counter()

    n_windows = sum(int(plan.truth.sum()) for plan in plans)
    teacher_error = None if error_by_step is None else float(error_by_step.mean())
    chosen = choose(
        trial,
        held_out,
        ridges=_ridges(student),
        alphas=_alpha_candidates(settings, labeller),
        weights=weight_candidates,
        n_target=n_windows / settings.output_chunk_length,
        n_validation=held_out.n_rows / settings.output_chunk_length if held_out else 0.0,
        # At the steps that the student is validated on: near ones are easier.
        teacher_error=None
        if error_by_step is None
        else float(error_by_step[: horizon or None].mean()),
    )
    decided = time.perf_counter()
    teacher_seconds = labeller.seconds if labeller else 0.0
    final = impute_targets(final, plans, settings, "truth", lambda s: _weights(s, chosen))
    if is_linear:
        fitted: Forecaster = _solve(final, chosen, settings, series[0].period)
        judged = fitted
        if (settings.probabilistic or has_covariates) and held_out and validation is None:
            judged = _solve(trial, chosen, settings, series[0].period)
        outcome: dict[str, Any] = {"validation_error": chosen.error}
    else:
        with _labelling(labeller if align else None, n_labels, "hidden states", verbose):
            gathered = gather_windows(
                bare,
                settings,
                None if labels is None else labels.rows,
                labeller if align else None,
                _bare_validation(validation, settings),
                horizon,
            )
        fitted, judged, outcome = fit_network(
            gathered, settings, chosen, (trial, final), checkpoints, verbose
        )
    if has_covariates and isinstance(fitted, LinearForecaster):
        assert isinstance(judged, LinearForecaster)
        fitted, judged, error = _add_effects(fitted, judged, plans, validation, settings, horizon)
        outcome["validation_error"] = error
    # Those that errors are measured with are found again, which is no merit of the cache.
    n_from_cache = labeller.n_from_cache if labeller else 0
    if settings.probabilistic:
        errors = calibrate(judged, fitted, plans, validation, settings, horizon, labeller)
        fitted = fitted.with_error_quantiles(errors)
    possible = sum(
        s.count_windows(settings.input_chunk_length, settings.target_stop) for s in series
    )
    naive, season = naive_error(plans, validation, settings, horizon)
    summary = TrainingSummary(
        windows_seen=n_windows,
        windows_skipped=possible - n_windows,
        windows_labelled=labeller.n_labelled if labeller else 0,
        labels_from_cache=n_from_cache,
        teacher=labeller.teacher.info.identity if labeller else None,
        teacher_licence=labeller.teacher.info.licence if labeller else None,
        teacher_error=teacher_error,
        teacher_validation_error=held_out_error,
        distillation_weight=float(chosen.alpha),
        tau=_steepness(settings, chosen.weights),
        horizon_weights=tuple(float(w) for w in chosen.weights),
        ridge=float(chosen.ridge),
        validation_horizon=horizon,
        validation_error_without_teacher=chosen.error_without_teacher,
        naive_validation_error=naive,
        naive_season=season,
        seconds={
            "teacher": labeller.seconds if labeller else 0.0,
            "sums": summed - started - teacher_seconds,
            "choice": decided - summed,
            "solve" if is_linear else "training": time.perf_counter() - decided,
        },
        teacher_weights=(
            tuple(map(tuple, labeller.step_weights[settings.output_chunk_shift :].tolist()))
            if isinstance(labeller, EnsembleLabeller)
            else None
        ),
        **outcome,
    )
    return Distilled(fitted, summary)


def _prepare(
    series: Sequence[PreparedSeries],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
) -> tuple[list[PreparedSeries], list[PreparedSeries] | None]:
    """Find the season by which gaps are filled, and series that give few windows."""
    season = find_season(series)
    length = settings.input_chunk_length
    season = None if season is not None and season >= length else season

    needed = length + settings.target_stop
    prepared = [
        replace(
            one,
            period=season,
            open_start=one.row_length is None and len(one) < needed,
            open_end=one.row_length is None and len(one) < _SHORT * needed,
        )
        for one in series
    ]
    if validation is None:
        return prepared, None
    return prepared, [replace(s, period=season) for s in validation]


def without_covariates(plan: SeriesPlan) -> SeriesPlan:
    """Return the same windows without covariates, of which they are still required."""
    return replace(plan, series=_bare(plan.series))


def _bare(series: PreparedSeries) -> PreparedSeries:
    """Return a series without covariates."""
    return replace(series, past=None, future=None, static=None)


def _bare_validation(
    validation: Sequence[PreparedSeries] | None, settings: Settings
) -> Sequence[PreparedSeries] | None:
    """Return series to validate a network on."""
    if validation is None or not settings.is_matrix:
        return validation
    return [_bare(series) for series in validation]


def _keep_labels(
    labels: TeacherArray, labeller: Labeller | None, settings: Settings
) -> Callable[[int, np.ndarray, np.ndarray], object]:
    """Return what keeps labels at the levels that the student forecasts."""
    assert labeller is not None
    known, wanted = labeller.quantile_levels, settings.head_levels

    def keep(index: int, origins: np.ndarray, made: np.ndarray) -> None:
        # A teacher that knows the median only, or a student that forecasts nothing else.
        if len(known) == 1 or len(wanted) == 1:
            labels.append(made[..., labeller.median, None])
        else:
            labels.append(interpolate_levels(np.sort(made, axis=-1), known, wanted))

    return keep


def _add_effects(
    fitted: LinearForecaster,
    judged: LinearForecaster,
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> tuple[LinearForecaster, LinearForecaster, float | None]:
    """Add the effects of covariates to a student, and to what it was on trial, with its error."""
    every = [(plan.series, plan.truth) for plan in plans]
    trial = [(plan.series, plan.trial_target) for plan in plans]
    penalty, error = _TYPICAL_PENALTY, None
    if horizon:
        held_out = held_out_windows(plans, validation, settings, horizon)
        penalty, error = choose_penalty(judged, trial, held_out, horizon)
        judged = fit_effects(judged, trial, horizon, penalty)
    fitted = fit_effects(fitted, every, settings.output_chunk_length, penalty)
    return fitted, judged if horizon else fitted, error


def _choices(settings: Settings, labeller: Labeller | None) -> bool:
    """Say whether anything is left to choose for the linear student."""
    given = (getattr(settings.student, "ridge", "auto"), settings.horizon_weights)
    weight = None if labeller is None else settings.distillation_weight
    return any(isinstance(value, str) and value == "auto" for value in (*given, weight))


def _check_plans(
    plans: Sequence[SeriesPlan], settings: Settings, labeller: Labeller | None
) -> None:
    """Raise ValueError unless there is a window for the student and for the teacher."""
    if not any(plan.truth.any() for plan in plans):
        raise ValueError(
            f"No window of {settings.input_chunk_length} steps has a quarter of its values, and "
            f"one of the {settings.output_chunk_length} that follow: too much is missing. Pass "
            "more data, or a smaller input_chunk_length."
        )
    if labeller is not None and not any(plan.labelled.any() for plan in plans):
        raise ValueError(
            f"The teacher {labeller.teacher.info.name!r} needs teacher_context="
            f"{resolve_teacher_context(settings, labeller.teacher.info)} steps without gaps before "
            "a window, and no series has them. Give a smaller teacher_context, or longer series."
        )


@contextmanager
def _labelling(
    labeller: Labeller | None, n_windows: int | None, what: str, verbose: bool | None
) -> Iterator[None]:
    """Show how far the teacher has come."""
    with tqdm(
        total=n_windows,
        desc=what,
        unit="window",
        disable=None if verbose is None else not verbose,
        leave=False,
    ) as bar:
        if labeller is not None:
            labeller.on_progress = bar.update
        yield


def _weights(sums: WindowSums, chosen: Choice) -> np.ndarray:
    """Return the exact weights of the chosen settings, for as many steps as were summed."""
    alpha_weights = chosen.alpha * chosen.weights[: sums.cross_target.shape[2]]
    return solve(sums, alpha_weights, chosen.ridge)


def _solve(
    sums: WindowSums, chosen: Choice, settings: Settings, period: int | None
) -> LinearForecaster:
    """Solve the linear student of the chosen settings."""
    solution = _weights(sums, chosen)
    if not np.isfinite(solution).all():
        raise ValueError(
            "The least-squares problem has no finite solution: the series' values or the "
            f"teacher's forecasts are too large for float32, or distillation_weight="
            f"{chosen.alpha:g} or ridge={chosen.ridge:g} is too extreme."
        )
    return LinearForecaster(
        solution.astype(np.float32), settings.output_chunk_shift, period, settings.nonnegative
    )


def _ridges(student: Student) -> tuple[float, ...]:
    """Return the lambdas to choose from."""
    given = student.ridge if isinstance(student, Linear) else "auto"
    return RIDGE_GRID if isinstance(given, str) else (float(given),)


def _alpha_candidates(settings: Settings, labeller: Labeller | None) -> tuple[float, ...]:
    """Return the alphas to choose from."""
    if labeller is None:
        return (0.0,)
    if isinstance(settings.distillation_weight, str):
        return ALPHA_GRID
    return (float(settings.distillation_weight),)


def _weight_candidates(settings: Settings, teacher_error: np.ndarray | None) -> list[np.ndarray]:
    """Return the horizon weights to choose from."""
    given = settings.horizon_weights
    candidates = TAU_GRID if isinstance(given, str) and given == "auto" else (given,)
    steps = settings.output_chunk_length
    return [resolve_horizon_weights(one, steps, teacher_error) for one in candidates]


def _steepness(settings: Settings, weights: np.ndarray) -> float | None:
    """Return tau, as given or as it was chosen; None where the weights are of another kind."""
    given = settings.horizon_weights
    if isinstance(given, str) and given in ("auto", "exponential", "uniform"):
        return float(np.log(weights[-1] / weights[0]))
    return float(given) if isinstance(given, (int, float, np.number)) else None
