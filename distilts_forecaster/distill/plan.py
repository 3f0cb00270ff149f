"""The first stage: decide for every window what it is used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.periods import find_season
from distilts_forecaster.windows.source import PreparedSeries, WindowSource
from distilts_forecaster.windows.splitting import Split, split_windows

__all__ = [
    "Plan",
    "SourcePlan",
    "plan_windows",
    "prepare_sources",
    "resolve_teacher_context",
]

#: Steps of history that a teacher sees by default at most, unless the student sees more:
#: twice as many cost most teachers twice the time.
MOST_TEACHER_CONTEXT = 1024

#: Rows to look for a season in.
_MOST_HISTORIES = 16

#: Where a series is shorter than this many windows, targets may reach beyond its end; where it is
#: shorter than one, contexts may also begin before its start. MASE with 50 months of 80 retail
#: series: 1.29 with open ends, 1.31 without, 1.39 with open starts too.
_SHORT = 2


#: Windows of targets that do not overlap, below which all components share one matrix.
_FEWEST_TO_SPLIT = 16

#: Most numbers of the Gram matrices of all components: 16 of 512 steps. Each set of them takes 34
#: MB, and fit holds some ten of them.
_MOST_NUMBERS = 2**22


@dataclass(frozen=True)
class SourcePlan:
    """Which windows of one source are used for what: masks of bool, shape (n_origins,).

    ``target`` are windows with a target, some of which may be missing; ``labelled`` those that the
    teacher is asked for; ``trial_*`` those that are used while settings are chosen; ``validation``
    those held out. ``label_rank`` says in which order windows are labelled, -1 is never;
    ``label_stop`` is the first origin whose label may not be used while settings are chosen.
    """

    source: WindowSource
    target: np.ndarray
    label_rank: np.ndarray
    label_stop: int
    trial_target: np.ndarray
    validation: np.ndarray
    labelled: np.ndarray
    trial_labelled: np.ndarray

    def with_labels(self, start: int, stop: int) -> SourcePlan:
        """Return the plan with the labels of some ranks."""
        labelled = (self.label_rank >= start) & (self.label_rank < stop)
        may_use = np.arange(len(labelled)) < self.label_stop
        return replace(self, labelled=labelled, trial_labelled=labelled & may_use)

    def labels_alone(self) -> SourcePlan:
        """Return the plan without the windows that have targets."""
        nothing = np.zeros_like(self.target)
        return replace(self, target=nothing, trial_target=nothing)

    @property
    def used(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The windows that something is fitted to, by what is known of them."""
        return self.target, self.labelled, self.trial_target, self.trial_labelled


@dataclass(frozen=True)
class Plan:
    """Which windows are used for what.

    ``held_out`` are sources with masks to validate on: the ends of the sources, or series of their
    own. ``horizon`` steps are validated on, 0 if nothing is held out. With ``holds_out_ends`` the
    student is fitted to the held-out windows too, once it has been judged. ``labels_moved`` is how
    far the last half of the labels moved the held-out forecasts, see
    :mod:`~distilts_forecaster.distill.budget`.
    """

    settings: Settings
    sources: tuple[SourcePlan, ...]
    held_out: tuple[tuple[WindowSource, np.ndarray], ...]
    horizon: int
    holds_out_ends: bool
    labels_moved: float | None = None

    @property
    def first(self) -> WindowSource:
        """One of the sources: all have the same components and covariates."""
        return self.sources[0].source

    @property
    def n_labels(self) -> int:
        """Windows to ask the teacher for."""
        return sum(int(one.labelled.sum()) for one in self.sources)

    @property
    def n_labellable(self) -> int:
        """Windows that the teacher could be asked for."""
        return sum(int((one.label_rank >= 0).sum()) for one in self.sources)

    @property
    def n_targets(self) -> int:
        """Windows with a target."""
        return sum(int(one.target.sum()) for one in self.sources)

    @property
    def n_matrices(self) -> int:
        """Gram matrices to sum: one, or one for each component where they may be worth it."""
        pooling, n_components = self.settings.student.pooling, self.first.n_components
        if pooling == "full":
            return 1
        few = self.n_targets < _FEWEST_TO_SPLIT * self.settings.output_chunk_length
        many = n_components * self.settings.input_chunk_length**2 > _MOST_NUMBERS
        return 1 if pooling == "auto" and (few or many) else n_components

    def of(self, mask: str) -> list[tuple[WindowSource, np.ndarray]]:
        """Return each source with one of its masks, by name."""
        return [(one.source, getattr(one, mask)) for one in self.sources]

    def with_labels(self, start: int, stop: int, moved: float | None = None) -> Plan:
        """Return the plan with the labels of some ranks."""
        sources = tuple(one.with_labels(start, stop) for one in self.sources)
        return replace(self, sources=sources, labels_moved=moved)

    def labels_alone(self) -> Plan:
        """Return the plan without the windows that have targets."""
        return replace(self, sources=tuple(one.labels_alone() for one in self.sources))

    def without_covariates(self) -> Plan:
        """Return the plan without covariates, for the same windows."""
        return replace(
            self,
            sources=tuple(
                replace(one, source=one.source.without_covariates()) for one in self.sources
            ),
            held_out=tuple((s.without_covariates(), mask) for s, mask in self.held_out),
        )


def prepare_sources(
    series: Sequence[WindowSource],
    validation: Sequence[WindowSource] | None,
    settings: Settings,
) -> tuple[list[WindowSource], list[WindowSource] | None]:
    """Find the season to fill gaps by, and let windows of short series reach beyond their ends."""
    histories = [one for source in series for one in source.histories(_MOST_HISTORIES)]
    season = find_season(histories)
    longest = max((len(values) for values in histories), default=0)
    if season is not None and (season >= settings.input_chunk_length or 2 * season > longest):
        season = None  # one and a half periods are no season yet
    needed, least = settings.chunks.length, settings.history_needed

    def opened(one: WindowSource, few: int) -> WindowSource:
        one = replace(one, period=season)  # type: ignore[type-var]
        if not isinstance(one, PreparedSeries):
            return one
        n = len(one)
        if least is not None:
            one = one.reaching_back(least)
        elif few > 1:
            one = replace(one, open_start=n < needed)
        return replace(one, open_end=n < few * needed)

    prepared = [opened(one, _SHORT) for one in series]
    return prepared, None if validation is None else [opened(one, 1) for one in validation]


def _has_choices(settings: Settings, has_teacher: bool, n_components: int) -> bool:
    """Say whether anything is left to choose for the exact solution."""
    teaching = settings.teaching
    open_settings = [settings.student.ridge, teaching.horizon_weights]
    if has_teacher:
        open_settings.append(teaching.distillation_weight)
    if n_components > 1:
        open_settings.append(settings.student.pooling)
    return any(isinstance(value, str) and value == "auto" for value in open_settings)


def plan_windows(
    series: Sequence[WindowSource],
    settings: Settings,
    labeller: Labeller | None = None,
    validation: Sequence[WindowSource] | None = None,
) -> Plan:
    """Decide for every window what it is used for.

    ``series`` are as :func:`prepare_sources` returns them, with the same number of components.
    Without a labeller there is no teacher. By default the last fifth of each series is validated
    on. ValueError if there is no window for the student, for the teacher, or to validate on.
    """
    judges = (
        not settings.student.is_exact
        or _has_choices(settings, labeller is not None, series[0].n_components)
        or settings.quantiles.wanted
        or bool(series[0].covariates)
        or settings.teaching.accept is not None
    )
    ranks = _label_ranks(series, settings, labeller)
    splits = [
        split_windows(one, settings.chunks) if judges and validation is None else None
        for one in series
    ]
    # The horizon that half of the series can be split at; shorter ones are fitted whole.
    horizons = sorted((split.horizon for split in splits if split), reverse=True)
    horizon = horizons[len(horizons) // 2] if horizons else 0
    sources = _with_mean_weight_one(
        tuple(
            _plan_source(one, rank, settings, split, horizon)
            for one, rank, split in zip(series, ranks, splits, strict=True)
        )
    )
    held_out = tuple((one.source, one.validation) for one in sources)
    if validation is not None and judges:
        horizon = settings.output_chunk_length
        held_out = tuple((one, _usable(one, settings, horizon)) for one in validation)
        for _, mask in held_out:
            # A validation series begins with the end of what was fitted on.
            mask[: settings.history_needed or 0] = False
        if not any(mask.any() for _, mask in held_out):
            raise ValueError(
                "val_series has no window to validate on: too little of it is observed. "
                f"It needs {settings.history_needed or settings.input_chunk_length} steps of "
                "context, and some that follow. "
                "Pass a longer one, or leave val_series out."
            )
    plan = Plan(settings, sources, held_out if horizon else (), horizon, validation is None)
    _check_windows(plan, labeller)
    return plan


def _usable(source: WindowSource, settings: Settings, horizon: int) -> np.ndarray:
    """Return the windows with a target of ``horizon`` steps."""
    shift = settings.output_chunk_shift
    return source.usable(settings.input_chunk_length, shift + horizon, shift)


def _plan_source(
    source: WindowSource,
    rank: np.ndarray,
    settings: Settings,
    split: Split | None,
    horizon: int,
) -> SourcePlan:
    """Decide for every window of one source what it is used for."""
    target = _usable(source, settings, settings.output_chunk_length)
    nothing, label_stop = np.zeros(source.n_origins, dtype=bool), source.n_origins
    trial_target, validation = target, nothing
    if split is not None and split.horizon >= horizon:
        at_horizon = _usable(source, settings, horizon)
        origins = np.arange(source.n_origins, dtype=np.int32)
        trial_target = at_horizon & (origins < split.fit_stop)
        validation = at_horizon & (origins >= split.validation_start)
        label_stop = split.validation_start + 1
    plan = SourcePlan(source, target, rank, label_stop, trial_target, validation, nothing, nothing)
    budget = settings.teaching.label_budget
    return plan.with_labels(0, budget if isinstance(budget, int) else np.iinfo(rank.dtype).max)


def _with_mean_weight_one(sources: tuple[SourcePlan, ...]) -> tuple[SourcePlan, ...]:
    """Scale the weights of targets to a mean of one, so that ratios alone count.

    ValueError if all are zero.
    """
    weights = [one.source.weight for one in sources]
    counting = [
        weight[one.target]
        for weight, one in zip(weights, sources, strict=True)
        if weight is not None
    ]
    if not counting or not sum(len(some) for some in counting):
        return sources
    mean = np.concatenate(counting).mean()
    if not mean > 0:
        raise ValueError(
            "sample_weight is zero for the target of every window of this history. Start later, or "
            "leave it out to count all alike."
        )
    return tuple(
        one if weight is None else replace(one, source=replace(one.source, weight=weight / mean))  # type: ignore[type-var]
        for weight, one in zip(weights, sources, strict=True)
    )


def _label_ranks(
    series: Sequence[WindowSource], settings: Settings, labeller: Labeller | None
) -> list[np.ndarray]:
    """Return in which order the windows of each source are labelled; -1 is never.

    The order is that of digests of what the student sees: at random, and it hardly changes as a
    series grows or its start moves. So a backtest that fits at every step asks for few new windows.
    Where all are asked for, the order does not matter.
    """
    ranks = [np.full(one.n_origins, -1, dtype=np.int32) for one in series]
    if labeller is None:
        return ranks
    usable = _labellable(series, settings, labeller.teacher.info)
    total = sum(int(mask.sum()) for mask in usable)
    if settings.teaching.asks_for_all(total):
        order = np.arange(total, dtype=np.int32)
    else:
        keys = [
            key
            for source, mine in zip(series, usable, strict=True)
            for part in iterate_chunks(np.flatnonzero(mine), source.n_components)
            for key in labeller.keys(source.history(part, settings.input_chunk_length))
        ]
        order = np.empty(total, dtype=np.int32)
        order[np.argsort(np.array(keys, dtype="S16"), kind="stable")] = np.arange(total)
    start = 0
    for rank, mask in zip(ranks, usable, strict=True):
        rank[mask] = order[start : start + int(mask.sum())]
        start += int(mask.sum())
    return ranks


def _labellable(
    series: Sequence[WindowSource], settings: Settings, info: TeacherInfo
) -> list[np.ndarray]:
    """Return the windows that the teacher can be asked for."""
    context = resolve_teacher_context(settings, info)
    length = settings.input_chunk_length
    needed = length if info.takes_missing else max(length, context)
    usable = [one.usable(needed) for one in series]
    if settings.history_needed is not None and not info.takes_missing:
        # What such a teacher sees is not made up, where any series is long enough.
        whole = [mine & (np.arange(len(mine)) >= context) for mine in usable]
        usable = whole if any(mine.any() for mine in whole) else usable
    for one, mine in zip(series, usable, strict=True):
        if one.covariates.future is not None:
            # The student cannot see a window whose future covariates are not known yet.
            known = len(one.covariates.future) - settings.chunks.target_stop
            mine[max(0, known + 1) :] = False
    return usable


def resolve_teacher_context(settings: Settings, info: TeacherInfo) -> int:
    """Return how many steps of history the teacher sees of each window.

    The paper gives student and teacher the same lookback. Here the teacher may see more: labels are
    made once, and more history makes them better. So if ``teacher_context`` is not given, a teacher
    that takes missing values sees its ``longest_context``, between ``input_chunk_length`` and
    1,024; any other ``input_chunk_length``, or what is known of it of short series.
    """
    length = settings.input_chunk_length
    if settings.teaching.teacher_context is not None:
        return settings.teaching.teacher_context
    if not info.takes_missing:
        return settings.history_needed or length
    return max(length, min(info.longest_context or MOST_TEACHER_CONTEXT, MOST_TEACHER_CONTEXT))


def _check_windows(plan: Plan, labeller: Labeller | None) -> None:
    """Raise ValueError unless there is a window for the student and for the teacher."""
    settings = plan.settings
    if not plan.n_targets:
        raise ValueError(
            f"No window of {settings.input_chunk_length} steps has a quarter of its values, and "
            f"one of the {settings.output_chunk_length} that follow: too much is missing. Pass "
            "more data, or a smaller input_chunk_length."
        )
    if labeller is not None and not plan.n_labels:
        info = labeller.teacher.info
        raise ValueError(
            f"The teacher {info.name!r} needs teacher_context="
            f"{resolve_teacher_context(settings, info)} steps without gaps before a window, and no "
            "series has them. Give a smaller teacher_context, or longer series."
        )
