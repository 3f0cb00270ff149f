"""The pipeline, on arrays: windows -> labels -> Gram sums -> chosen settings -> student."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from distilts_forecaster.labels import Labeller
from distilts_forecaster.objective import HorizonWeights, resolve_horizon_weights
from distilts_forecaster.runtime import LinearForecaster
from distilts_forecaster.students.linear import (
    RIDGE_GRID,
    Linear,
    WindowSums,
    choose,
    solve,
)
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.windows import (
    PreparedSeries,
    Split,
    complete_windows,
    context_windows,
    history_windows,
    iterate_chunks,
    normalise_contexts,
    split_windows,
    target_windows,
    to_rows,
)

__all__ = [
    "Distilled",
    "Settings",
    "TrainingSummary",
    "distill",
    "plan_windows",
    "resolve_teacher_context",
]

#: Tried where distillation_weight="auto". Zero is among them: a teacher can be useless.
ALPHA_GRID = (0.0, *(2.0**k for k in range(-8, 4)))

#: Steps of history that a teacher sees by default at most, unless the student sees more:
#: twice as many cost most teachers twice the time.
MOST_TEACHER_CONTEXT = 1024

#: Tried where horizon_weights="auto".
TAU_GRID = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Settings:
    """What to fit.

    Attributes
    ----------
    input_chunk_length, output_chunk_length, output_chunk_shift : int
        Shape of the windows: L, T and the steps between them.
    student : Linear
    distillation_weight : float or "auto"
        alpha; 0 fits without a teacher.
    horizon_weights : float, sequence, callable, or "auto"
        tau, or the weights themselves; see
        :func:`~distilts_forecaster.objective.resolve_horizon_weights`.
    label_budget : int or None
        Most windows to ask the teacher for.
    teacher_context : int or None
        Steps of history that the teacher sees of each window; see
        :func:`resolve_teacher_context`.
    """

    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int = 0
    student: Linear = field(default_factory=Linear)
    distillation_weight: float | str = "auto"
    horizon_weights: HorizonWeights | str = 1.0
    label_budget: int | None = None
    teacher_context: int | None = None

    @property
    def target_stop(self) -> int:
        """Steps from the end of the context to the end of the target."""
        return self.output_chunk_shift + self.output_chunk_length


@dataclass(frozen=True)
class TrainingSummary:
    """What happened in ``fit``.

    Attributes
    ----------
    windows_seen : int
        Windows with truth that the student was fitted on.
    windows_skipped : int
        Windows left out because a value is missing.
    windows_labelled : int
        Windows the teacher forecast during this fit.
    labels_from_cache : int
        Windows whose forecast was known already.
    teacher : str or None
        Identity of the teacher, None if there was none.
    teacher_licence : str or None
        Licence of the teacher's weights, None where unknown.
    teacher_error : float or None
        Mean squared error of the teacher on all windows with truth, in units of
        each series' variance.
    distillation_weight : float
        alpha, as given or chosen.
    tau : float or None
        Steepness of the horizon weights, as given or chosen; None if the weights
        themselves were given.
    horizon_weights : tuple of float
        w_t, one for each step, of mean one.
    ridge : float
        lambda, as given or chosen.
    validation_horizon : int
        Steps validated on; 0 if there was nothing to hold out.
    validation_error : float or None
        Mean squared error on the held-out windows, in units of each series'
        variance, of the chosen settings (fitted without the held-out windows).
    validation_error_without_teacher : float or None
        The same for the best ridge with alpha = 0.
    seconds : dict of str to float
        Time for each stage: ``"teacher"``, ``"sums"`` (windows, cache and Gram
        sums), ``"choice"``, ``"solve"``.
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


@dataclass(frozen=True)
class Distilled:
    """A fitted student and how it came about."""

    student: LinearForecaster
    summary: TrainingSummary


@dataclass(frozen=True)
class SeriesPlan:
    """Which windows of one series are used for what.

    All but ``series`` are arrays of bool, shape (n_points + 1,), by origin.

    Attributes
    ----------
    series : PreparedSeries
    truth : numpy.ndarray
        Windows with a whole target.
    labelled : numpy.ndarray
        Windows the teacher is asked for.
    trial_truth, trial_labelled : numpy.ndarray
        Those that are used while settings are chosen.
    validation : numpy.ndarray
        Held-out windows.
    """

    series: PreparedSeries
    truth: np.ndarray
    labelled: np.ndarray
    trial_truth: np.ndarray
    trial_labelled: np.ndarray
    validation: np.ndarray


def plan_windows(
    series: Sequence[PreparedSeries],
    settings: Settings,
    labeller: Labeller | None = None,
    hold_out: bool = True,
) -> tuple[list[SeriesPlan], int]:
    """Decide for every window what it is used for.

    Parameters
    ----------
    series : sequence of PreparedSeries
    settings : Settings
    labeller : Labeller, optional
        None: there is no teacher.
    hold_out : bool, default True
        Whether to hold out windows at the end of each series.

    Returns
    -------
    plans : list of SeriesPlan
    validation_horizon : int
        Steps validated on, 0 without validation windows.
    """
    length, shift = settings.input_chunk_length, settings.output_chunk_shift
    splits: list[Split | None] = [
        split_windows(s, length, settings.output_chunk_length, shift) if hold_out else None
        for s in series
    ]
    # The horizon that half of the series can be split at; shorter ones are fitted whole.
    horizons = sorted((split.horizon for split in splits if split), reverse=True)
    horizon = horizons[len(horizons) // 2] if horizons else 0
    labelled = (
        [np.zeros(len(s) + 1, dtype=bool) for s in series]
        if labeller is None
        else _spend_budget(series, settings, labeller)
    )
    plans = []
    for prepared, split, mine in zip(series, splits, labelled, strict=True):
        truth = complete_windows(prepared, length, settings.target_stop)
        if split is None or split.horizon < horizon:
            nothing = np.zeros(len(prepared) + 1, dtype=bool)
            plans.append(SeriesPlan(prepared, truth, mine, truth, mine, nothing))
            continue
        at_horizon = complete_windows(prepared, length, shift + horizon)
        origins = np.arange(len(prepared) + 1, dtype=np.int32)
        plans.append(
            SeriesPlan(
                prepared,
                truth,
                mine,
                trial_truth=at_horizon & (origins < split.fit_stop),
                trial_labelled=mine & (origins <= split.validation_start),
                validation=at_horizon & (origins >= split.validation_start),
            )
        )
    return plans, horizon


def resolve_teacher_context(settings: Settings, info: TeacherInfo) -> int:
    """Return how many steps of history the teacher sees of each window.

    The paper gives student and teacher the same lookback. But labels are made once,
    before the student is there, and a teacher that sees two weeks knows what a student
    that sees three days can only be told.

    Parameters
    ----------
    settings : Settings
        ``teacher_context`` decides if it is given.
    info : TeacherInfo
        Else a teacher that understands missing values sees as much as it looks at,
        between ``input_chunk_length`` and 1,024; another one ``input_chunk_length``.

    Returns
    -------
    int
    """
    length = settings.input_chunk_length
    if settings.teacher_context is not None:
        return settings.teacher_context
    if not info.takes_missing:
        return length
    return max(length, min(info.longest_context or MOST_TEACHER_CONTEXT, MOST_TEACHER_CONTEXT))


def _spend_budget(
    series: Sequence[PreparedSeries], settings: Settings, labeller: Labeller
) -> list[np.ndarray]:
    """Choose the windows to label: all, or the ``label_budget`` lowest in key order.

    The keys are digests of what the student sees, so this is a random sample that hardly
    changes as a series grows or its start moves: a backtest that fits again at every
    step asks for few new windows, which windows at even distances would not allow.
    """
    length, info = settings.input_chunk_length, labeller.teacher.info
    needed = length if info.takes_missing else max(length, resolve_teacher_context(settings, info))
    complete = [complete_windows(s, needed) for s in series]
    budget = settings.label_budget
    if budget is None or sum(int(c.sum()) for c in complete) <= budget:
        return complete
    keys = (
        (key, i, int(origin))
        for i, (prepared, mine) in enumerate(zip(series, complete, strict=True))
        for part in iterate_chunks(np.flatnonzero(mine), prepared.raw.shape[1])
        for key, origin in zip(
            labeller.keys(context_windows(prepared.raw, part, length)), part, strict=True
        )
    )
    kept = [np.zeros_like(c) for c in complete]
    for _, i, origin in heapq.nsmallest(budget, keys):
        kept[i][origin] = True
    return kept


def distill(
    series: Sequence[PreparedSeries],
    settings: Settings,
    labeller: Labeller | None = None,
    validation: Sequence[PreparedSeries] | None = None,
    verbose: bool | None = False,
) -> Distilled:
    """Fit the linear student to the truth and to a teacher's forecasts.

    Settings given as "auto" are chosen on held-out windows: those of ``validation``,
    else the last fifth of each series. The student is then solved on all windows of
    ``series``.

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
        Show progress while the teacher forecasts; None shows it on a terminal.

    Returns
    -------
    Distilled

    Raises
    ------
    ValueError
        If no window is complete, for the student or for the teacher.
    """
    started = time.perf_counter()
    student = settings.student
    nothing_to_choose = (
        not isinstance(settings.distillation_weight, str) or labeller is None
    ) and (not isinstance(student.ridge, str) and not isinstance(settings.horizon_weights, str))
    plans, horizon = plan_windows(
        series, settings, labeller, hold_out=validation is None and not nothing_to_choose
    )
    n_windows = sum(int(plan.truth.sum()) for plan in plans)
    if not n_windows:
        raise ValueError(
            f"No window of {settings.input_chunk_length + settings.target_stop} steps is complete: "
            "every one has missing values. Fill them, for instance with "
            "darts.utils.missing_values.fill_missing_values."
        )
    if labeller is not None and not any(plan.labelled.any() for plan in plans):
        raise ValueError(
            f"The teacher {labeller.teacher.info.name!r} needs teacher_context="
            f"{resolve_teacher_context(settings, labeller.teacher.info)} steps without gaps before "
            "a window, and no series has them. Give a smaller teacher_context, or longer series."
        )
    if validation is not None and not nothing_to_choose:
        horizon = settings.output_chunk_length
        if not any(
            complete_windows(s, settings.input_chunk_length, settings.target_stop).any()
            for s in validation
        ):
            raise ValueError(
                "val_series has no complete window to validate on: every one has missing values. "
                "Fill them, or leave val_series out."
            )
    with tqdm(
        total=sum(int(plan.labelled.sum()) for plan in plans),
        desc="labelling",
        unit="window",
        disable=None if verbose is None else not verbose,
        leave=False,
    ) as bar:
        if labeller is not None:
            labeller.on_progress = bar.update
        trial, final, teacher_error = _accumulate(plans, settings, labeller, horizon)
    held_out = _accumulate_validation(plans, validation, settings, horizon)
    summed = time.perf_counter()

    chosen = choose(
        trial,
        held_out,
        ridges=RIDGE_GRID if student.ridge == "auto" else (float(student.ridge),),
        alphas=_alpha_candidates(settings, labeller),
        weights=_weight_candidates(settings),
        n_truth=n_windows / settings.output_chunk_length,
        n_validation=held_out.n_truth * len(held_out.gram_truth) / horizon if held_out else 0.0,
        teacher_error=teacher_error,
    )
    decided = time.perf_counter()
    solution = solve(final, chosen.alpha * chosen.weights, chosen.ridge)
    if not np.isfinite(solution).all():
        raise ValueError(
            "The least-squares problem has no finite solution: the series' values or the "
            f"teacher's forecasts are too large for float32, or distillation_weight="
            f"{chosen.alpha:g} or ridge={chosen.ridge:g} is too extreme."
        )
    forecaster = LinearForecaster(solution.astype(np.float32), settings.output_chunk_shift)
    teacher_seconds = labeller.seconds if labeller else 0.0
    possible = sum(
        max(0, len(s) - settings.input_chunk_length - settings.target_stop + 1) for s in series
    )
    summary = TrainingSummary(
        windows_seen=n_windows,
        windows_skipped=possible - n_windows,
        windows_labelled=labeller.n_labelled if labeller else 0,
        labels_from_cache=labeller.n_from_cache if labeller else 0,
        teacher=labeller.teacher.info.identity if labeller else None,
        teacher_licence=labeller.teacher.info.licence if labeller else None,
        teacher_error=teacher_error,
        distillation_weight=float(chosen.alpha),
        tau=_steepness(settings, chosen.weights),
        horizon_weights=tuple(float(w) for w in chosen.weights),
        ridge=float(chosen.ridge),
        validation_horizon=horizon if held_out else 0,
        validation_error=chosen.error,
        validation_error_without_teacher=chosen.error_without_teacher,
        seconds={
            "teacher": teacher_seconds,
            "sums": summed - started - teacher_seconds,
            "choice": decided - summed,
            "solve": time.perf_counter() - decided,
        },
    )
    return Distilled(forecaster, summary)


def _alpha_candidates(settings: Settings, labeller: Labeller | None) -> tuple[float, ...]:
    """Return the alphas to choose from."""
    if labeller is None:
        return (0.0,)
    if isinstance(settings.distillation_weight, str):
        return ALPHA_GRID
    return (float(settings.distillation_weight),)


def _weight_candidates(settings: Settings) -> list[np.ndarray]:
    """Return the horizon weights to choose from."""
    horizon = settings.output_chunk_length
    given = settings.horizon_weights
    taus = TAU_GRID if isinstance(given, str) else (given,)
    return [resolve_horizon_weights(tau, horizon) for tau in taus]


def _steepness(settings: Settings, weights: np.ndarray) -> float | None:
    """Return tau, as given or as it was chosen."""
    if isinstance(settings.horizon_weights, str):
        return float(np.log(weights[-1] / weights[0]))
    given = settings.horizon_weights
    return float(given) if isinstance(given, (int, float, np.number)) else None


def _accumulate(
    plans: Sequence[SeriesPlan], settings: Settings, labeller: Labeller | None, horizon: int
) -> tuple[WindowSums, WindowSums, float | None]:
    """Sum over all windows in one pass.

    Returns the sums of the windows used while choosing, those of all windows, and
    the teacher's mean squared error on the windows with truth.
    """
    steps = settings.output_chunk_length
    trial, other = (_empty_sums(plans[0].series, settings, n) for n in (horizon or steps, steps))
    # Where trial windows have whole targets, the rest is summed apart and added.
    shared = trial.cross_truth.shape == other.cross_truth.shape
    squared_error, n_errors = 0.0, 0
    for plan in plans:
        series = plan.series
        used = (plan.truth, plan.labelled, plan.trial_truth, plan.trial_labelled)
        for origins in iterate_chunks(
            np.flatnonzero(np.logical_or.reduce(used)), series.raw.shape[1]
        ):
            truth, labelled, trial_truth, trial_labelled = (mask[origins] for mask in used)
            contexts = context_windows(series.values, origins, settings.input_chunk_length)
            windows = normalise_contexts(contexts)
            targets = windows.normalise_targets(
                to_rows(target_windows(series.values, origins, steps, settings.output_chunk_shift))
            )
            labels = None
            if labeller is not None and labelled.any():
                rows = _labels(series, origins[labelled], settings, labeller)
                labels = np.full_like(targets, np.nan)
                mask = np.repeat(labelled, series.raw.shape[1])
                labels[mask] = rows
                labels = windows.normalise_targets(labels)
                both = np.repeat(truth & labelled, series.raw.shape[1])
                error = ((labels - targets) * windows.scale)[both].astype(np.float64)
                squared_error += float(np.vdot(error, error))
                n_errors += error.size
            add = (windows.features, targets, labels, series.raw.shape[1])
            if horizon:
                _add(trial, *add, trial_truth, trial_labelled)
            if horizon and shared:
                _add(other, *add, truth & ~trial_truth, labelled & ~trial_labelled)
            else:
                _add(other, *add, truth, labelled)
    final = trial + other if horizon and shared else other
    return trial, final, squared_error / n_errors if n_errors else None


def _labels(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, labeller: Labeller
) -> np.ndarray:
    """Return the teacher's point forecasts as rows (n * C, T), in units of ``series.values``."""
    history = resolve_teacher_context(settings, labeller.teacher.info)
    contexts = history_windows(series.raw, origins, history)
    labels = labeller.label(contexts)[:, settings.output_chunk_shift :, :, 0]
    return to_rows(((labels - series.location) / series.spread).astype(np.float32))


def _add(
    sums: WindowSums,
    features: np.ndarray,
    targets: np.ndarray,
    labels: np.ndarray | None,
    n_components: int,
    truth: np.ndarray,
    labelled: np.ndarray,
) -> None:
    """Add a chunk's windows, in groups by what is known of each."""
    steps = sums.cross_truth.shape[2]
    for group, with_truth, with_label in (
        (truth & labelled, True, True),
        (truth & ~labelled, True, False),
        (~truth & labelled, False, True),
    ):
        if not group.any():
            continue
        rows = slice(None) if group.all() else np.repeat(group, n_components)
        sums.add(
            features[rows],
            targets[rows, :steps] if with_truth else None,
            labels[rows, :steps] if with_label and labels is not None else None,
        )


def _accumulate_validation(
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> WindowSums | None:
    """Sum over the held-out windows, None if there are none.

    Windows count in the series' own units, not divided by their scale: what is
    validated is the standardised error that a user would look at.
    """
    if not horizon:
        return None
    shift, length = settings.output_chunk_shift, settings.input_chunk_length
    held_out = (
        [(plan.series, plan.validation) for plan in plans]
        if validation is None
        else [(series, complete_windows(series, length, shift + horizon)) for series in validation]
    )
    sums = _empty_sums(plans[0].series, settings, horizon)
    for series, mask in held_out:
        for origins in iterate_chunks(np.flatnonzero(mask), series.raw.shape[1]):
            windows = normalise_contexts(context_windows(series.values, origins, length))
            targets = to_rows(target_windows(series.values, origins, horizon, shift))
            sums.add(windows.features * windows.scale, truth=targets - windows.mean)
    return sums if sums.n_truth else None


def _empty_sums(series: PreparedSeries, settings: Settings, n_outputs: int) -> WindowSums:
    """Return sums of the right shape."""
    n_matrices = series.raw.shape[1] if settings.student.per_component else 1
    return WindowSums(n_matrices, settings.input_chunk_length, n_outputs)
