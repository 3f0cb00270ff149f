"""What to fit, and which windows are used for what."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distilts_forecaster.runtime.effects import Covariates
from distilts_forecaster.runtime.gaps import fill_gaps
from distilts_forecaster.students.linear import Linear
from distilts_forecaster.students.objective import HorizonWeights, resolve_horizon_weights
from distilts_forecaster.students.settings import MLP, DLinear, ITransformer, Network
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.bundled.mixture import fill_missing, normalise
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import (
    PreparedSeries,
    Split,
    history_windows,
    iterate_chunks,
    split_windows,
    usable_windows,
    window_covariates,
)
from distilts_forecaster.windows.periods import find_periods

__all__ = [
    "SeriesPlan",
    "Settings",
    "Student",
    "find_season",
    "plan_windows",
    "resolve_teacher_context",
    "shortened",
    "teacher_contexts",
    "teacher_covariates",
]

#: Steps of history that a teacher sees by default at most, unless the student sees more:
#: twice as many cost most teachers twice the time.
MOST_TEACHER_CONTEXT = 1024

#: Levels at which a teacher says how wide its forecasts are, to a student that does not
#: forecast quantiles itself. Five are enough: others are interpolated.
_WIDTH_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)

#: Series, and their last steps, that are searched for a season; and the autocorrelation that
#: makes it one.
_SEASON_SERIES, _SEASON_STEPS, _SEASON_CORRELATION = 16, 2048, 0.3

#: Settings of any student.
Student = Linear | DLinear | ITransformer | MLP | Network


@dataclass(frozen=True)
class Settings:
    """What to fit.

    Attributes
    ----------
    input_chunk_length, output_chunk_length, output_chunk_shift : int
        Shape of the windows: L, T and the steps between them.
    student : Linear, DLinear, ITransformer, MLP or Network
    distillation_weight : float or "auto"
        alpha; 0 fits without a teacher.
    horizon_weights : float, str, sequence, callable, or "auto"
        tau, or the weights themselves; see
        :func:`~distilts_forecaster.students.objective.resolve_horizon_weights`.
    label_budget : int or None
        Most windows to ask the teacher for.
    teacher_context : int or None
        Steps of history that the teacher sees of each window; see
        :func:`resolve_teacher_context`.
    alignment : {"auto", "factorised", "linear", "relational"} or None
        How hidden states are aligned; "auto" is factorised where both sides have some.
    alignment_weight : float
        beta.
    alignment_dim : int
        Numbers that are kept of each hidden state of the teacher.
    quantile_levels : tuple of float
        With the median among them; the median alone is a point forecast.
    random_state : int or None
        Seed of students trained by gradient.
    probabilistic : bool
        Whether quantiles are wanted; see :mod:`~distilts_forecaster.distill.calibration`.
    calibrate : bool
        Whether they are calibrated on held-out truth.
    nonnegative : bool
        Whether forecasts below zero become zero.
    augmentation : float
        Share of the labelled windows that is made up; see
        :mod:`~distilts_forecaster.distill.augmentation`.
    """

    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int = 0
    student: Student = field(default_factory=Linear)
    distillation_weight: float | str = "auto"
    horizon_weights: HorizonWeights = 1.0
    label_budget: int | None = None
    teacher_context: int | None = None
    alignment: str | None = "auto"
    alignment_weight: float = 0.3
    alignment_dim: int = 64
    quantile_levels: tuple[float, ...] = (0.5,)
    random_state: int | None = None
    probabilistic: bool = False
    calibrate: bool = True
    nonnegative: bool = False
    augmentation: float = 0.0

    @property
    def is_matrix(self) -> bool:
        """Whether the student is one matrix: covariates then act on what it misses."""
        return isinstance(self.student, (Linear, DLinear))

    @property
    def head_levels(self) -> tuple[float, ...]:
        """Levels that the student itself forecasts: the median, where it is one matrix."""
        return (0.5,) if self.is_matrix else self.quantile_levels

    def label_levels(self, info: TeacherInfo) -> tuple[float, ...]:
        """Return the levels to ask the teacher for: of those wanted, the ones that it knows."""
        if not self.probabilistic or info.quantile_levels is None:
            return (0.5,)
        wanted = self.head_levels if len(self.head_levels) > 1 else _WIDTH_LEVELS
        low, high = info.quantile_levels[0], info.quantile_levels[-1]
        # What lies outside is extrapolated from the outermost that it knows.
        return tuple(sorted({0.5, *(min(max(level, low), high) for level in wanted)}))

    @property
    def target_stop(self) -> int:
        """Steps from the end of the context to the end of the target."""
        return self.output_chunk_shift + self.output_chunk_length


@dataclass(frozen=True)
class SeriesPlan:
    """Which windows of one series are used for what.

    All but ``series`` are arrays of bool, shape (n_points + 1,), by origin.

    Attributes
    ----------
    series : PreparedSeries
    truth : numpy.ndarray
        Windows with a target, some of which may be missing.
    labelled : numpy.ndarray
        Windows the teacher is asked for.
    trial_target, trial_labelled : numpy.ndarray
        Those that are used while settings are chosen.
    validation : numpy.ndarray
        Held-out windows.
    """

    series: PreparedSeries
    truth: np.ndarray
    labelled: np.ndarray
    trial_target: np.ndarray
    trial_labelled: np.ndarray
    validation: np.ndarray

    @property
    def used(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The windows that something is fitted to, by what is known of them."""
        return self.truth, self.labelled, self.trial_target, self.trial_labelled


def shortened(settings: Settings, lengths: Sequence[int], has_covariates: bool = False) -> Settings:
    """Return settings that short series leave room for.

    They are short where they hold fewer windows than a context has steps, or half of them none.
    A student that looks at half of a history has windows to be fitted on. A teacher says what
    follows them, however far; without one, and with covariates, which have to be known as far, the
    student forecasts a third of the history at once. Longer forecasts are fed back.

    Parameters
    ----------
    settings : Settings
    lengths : sequence of int
        Points of each series; the median of them says how short they are.
    has_covariates : bool, default False

    Returns
    -------
    Settings
        Themselves where the series are long enough.

    Examples
    --------
    >>> short = shortened(Settings(512, 96), [120])
    >>> short.input_chunk_length, short.output_chunk_length
    (60, 96)
    >>> shortened(Settings(512, 96), [700] * 100).input_chunk_length
    512
    """
    n_points = int(np.median(lengths))
    needed = settings.input_chunk_length + settings.target_stop
    n_windows = sum(max(0, n - needed + 1) for n in lengths)
    if n_points >= needed and n_windows >= settings.input_chunk_length:
        return settings
    length = min(settings.input_chunk_length, max(1, n_points // 2))
    steps = settings.output_chunk_length
    if not settings.output_chunk_shift:  # else nothing can be fed back
        near = settings.distillation_weight == 0 or has_covariates
        steps = min(steps, max(1, n_points // 3 if near else n_points))
    weights = settings.horizon_weights
    if steps == settings.output_chunk_length:
        pass
    elif isinstance(weights, tuple):
        weights = weights[:steps]
    elif callable(weights):
        weights = tuple(resolve_horizon_weights(weights, settings.output_chunk_length)[:steps])
    return replace(
        settings,
        input_chunk_length=length,
        output_chunk_length=steps,
        horizon_weights=weights
        if steps < settings.output_chunk_length
        else settings.horizon_weights,
    )


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
        if prepared.future is not None:
            # The student cannot see a window whose future covariates are not known yet.
            mine[max(0, len(prepared.future) - settings.target_stop + 1) :] = False
        truth = usable_windows(prepared, length, settings.target_stop, shift)
        if split is None or split.horizon < horizon:
            nothing = np.zeros(len(prepared) + 1, dtype=bool)
            plans.append(SeriesPlan(prepared, truth, mine, truth, mine, nothing))
            continue
        at_horizon = usable_windows(prepared, length, shift + horizon, shift)
        origins = np.arange(len(prepared) + 1, dtype=np.int32)
        plans.append(
            SeriesPlan(
                prepared,
                truth,
                mine,
                trial_target=at_horizon & (origins < split.fit_stop),
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


def teacher_contexts(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, info: TeacherInfo
) -> np.ndarray:
    """Return what a teacher sees of some windows.

    A teacher that understands missing values sees them; another one sees its contexts filled
    as the student does. A component without any value is zero.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    settings : Settings
    info : TeacherInfo

    Returns
    -------
    numpy.ndarray of float32, shape (n, history, C)
    """
    contexts = history_windows(series.raw, origins, resolve_teacher_context(settings, info))
    if not np.isnan(contexts).any():
        return contexts
    if not info.takes_missing:
        contexts = fill_gaps(contexts, series.period)
    unknown = np.isnan(contexts).all(axis=1, keepdims=True)
    return np.where(unknown, np.float32(0.0), contexts)


def teacher_covariates(
    series: PreparedSeries, origins: np.ndarray, settings: Settings, info: TeacherInfo
) -> Covariates | None:
    """Return the covariates that a teacher sees of some windows.

    Parameters
    ----------
    series : PreparedSeries
    origins : numpy.ndarray of int, shape (n,)
    settings : Settings
    info : TeacherInfo

    Returns
    -------
    Covariates or None
        Past and future ones, of the steps of :func:`teacher_contexts` and those to forecast;
        None where the teacher takes none.
    """
    if not info.takes_covariates:
        return None
    history = resolve_teacher_context(settings, info)
    known = replace(series, static=None)
    return window_covariates(known, origins, history, settings.target_stop)


def find_season(series: Sequence[PreparedSeries]) -> int | None:
    """Return the season that most series have, by which gaps are filled.

    Parameters
    ----------
    series : sequence of PreparedSeries

    Returns
    -------
    int or None
        None where most have none.

    Examples
    --------
    >>> from distilts_forecaster.windows.cutting import prepare_series
    >>> find_season([prepare_series(np.sin(np.arange(200) * 2 * np.pi / 24)[:, None])])
    24
    """
    found: list[int] = []
    for one in series[:: max(1, len(series) // _SEASON_SERIES)]:
        if one.row_length is not None:
            return None
        length = max(32, min(len(one), _SEASON_STEPS))  # no lag falls outside of 32 steps
        rows = history_windows(one.values, np.array([len(one)]), length)[0].T
        rows = rows[np.isfinite(rows).sum(axis=1) > 3]
        if not len(rows):
            continue
        histories, _, _ = normalise(fill_missing(rows))
        periods = find_periods(histories)
        main = periods.steps[:, 0]
        strength = periods.correlation[np.arange(len(main)), main]
        found += np.where((strength > _SEASON_CORRELATION) & (main > 1), main, 0).tolist()
    most = max(set(found), key=found.count) if found else 0
    return int(most) if most > 1 else None


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
    usable = [usable_windows(s, needed) for s in series]
    budget = settings.label_budget
    if budget is None or sum(int(u.sum()) for u in usable) <= budget:
        return usable
    keys = (
        (key, i, int(origin))
        for i, (prepared, mine) in enumerate(zip(series, usable, strict=True))
        for part in iterate_chunks(np.flatnonzero(mine), prepared.raw.shape[1])
        for key, origin in zip(
            labeller.keys(history_windows(prepared.raw, part, length)), part, strict=True
        )
    )
    kept = [np.zeros_like(u) for u in usable]
    for _, i, origin in heapq.nsmallest(budget, keys):
        kept[i][origin] = True
    return kept
