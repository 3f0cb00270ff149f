"""The first stage: decide for every window what it is used for."""

from __future__ import annotations

import heapq
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

#: Where a series is shorter than this many windows, targets may reach beyond its end; where it is
#: shorter than one, contexts may also begin before its start. MASE with 50 months of 80 retail
#: series: 1.29 with open ends, 1.31 without, 1.39 with open starts too.
_SHORT = 2


@dataclass(frozen=True)
class SourcePlan:
    """Which windows of one source are used for what: masks of bool, shape (n_origins,).

    ``target`` are windows with a target, some of which may be missing; ``labelled`` those that the
    teacher is asked for; ``trial_*`` those that are used while settings are chosen; ``validation``
    those held out.
    """

    source: WindowSource
    target: np.ndarray
    labelled: np.ndarray
    trial_target: np.ndarray
    trial_labelled: np.ndarray
    validation: np.ndarray

    @property
    def used(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The windows that something is fitted to, by what is known of them."""
        return self.target, self.labelled, self.trial_target, self.trial_labelled


@dataclass(frozen=True)
class Plan:
    """Which windows are used for what.

    ``held_out`` are sources with masks to validate on: the ends of the sources, or series of their
    own. ``horizon`` steps are validated on, 0 if nothing is held out. With ``holds_out_ends`` the
    student is fitted to the held-out windows too, once it has been judged.
    """

    settings: Settings
    sources: tuple[SourcePlan, ...]
    held_out: tuple[tuple[WindowSource, np.ndarray], ...]
    horizon: int
    holds_out_ends: bool

    @property
    def first(self) -> WindowSource:
        """One of the sources: all have the same components and covariates."""
        return self.sources[0].source

    @property
    def n_labels(self) -> int:
        """Windows to ask the teacher for."""
        return sum(int(one.labelled.sum()) for one in self.sources)

    @property
    def n_targets(self) -> int:
        """Windows with a target."""
        return sum(int(one.target.sum()) for one in self.sources)

    def of(self, mask: str) -> list[tuple[WindowSource, np.ndarray]]:
        """Return each source with one of its masks, by name."""
        return [(one.source, getattr(one, mask)) for one in self.sources]

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
    histories = [one.values for one in series if isinstance(one, PreparedSeries)]
    season = find_season(histories)
    if season is not None and season >= settings.input_chunk_length:
        season = None
    needed = settings.chunks.length
    prepared: list[WindowSource] = []
    for one in series:
        if isinstance(one, PreparedSeries):
            n = len(one)
            one = replace(one, open_start=n < needed, open_end=n < _SHORT * needed)
        prepared.append(replace(one, period=season))  # type: ignore[type-var]
    if validation is None:
        return prepared, None
    return prepared, [
        replace(one, period=season, open_end=one.n_points < needed)  # type: ignore[type-var]
        for one in validation
    ]


def _has_choices(settings: Settings, has_teacher: bool) -> bool:
    """Say whether anything is left to choose for the exact solution."""
    teaching = settings.teaching
    open_settings = [settings.student.ridge, teaching.horizon_weights]
    if has_teacher:
        open_settings.append(teaching.distillation_weight)
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
        or _has_choices(settings, labeller is not None)
        or settings.quantiles.wanted
        or bool(series[0].covariates)
    )
    labelled = _labelled(series, settings, labeller)
    splits = [
        split_windows(one, settings.chunks) if judges and validation is None else None
        for one in series
    ]
    # The horizon that half of the series can be split at; shorter ones are fitted whole.
    horizons = sorted((split.horizon for split in splits if split), reverse=True)
    horizon = horizons[len(horizons) // 2] if horizons else 0
    sources = _with_mean_weight_one(
        tuple(
            _plan_source(one, mine, settings, split, horizon)
            for one, mine, split in zip(series, labelled, splits, strict=True)
        )
    )
    held_out = tuple((one.source, one.validation) for one in sources)
    if validation is not None and judges:
        horizon = settings.output_chunk_length
        held_out = tuple((one, _usable(one, settings, horizon)) for one in validation)
        if not any(mask.any() for _, mask in held_out):
            raise ValueError(
                "val_series has no window to validate on: too little of it is observed. "
                f"It needs {settings.input_chunk_length} steps of context, and some that follow. "
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
    labelled: np.ndarray,
    settings: Settings,
    split: Split | None,
    horizon: int,
) -> SourcePlan:
    """Decide for every window of one source what it is used for."""
    target = _usable(source, settings, settings.output_chunk_length)
    if split is None or split.horizon < horizon:
        nothing = np.zeros(source.n_origins, dtype=bool)
        return SourcePlan(source, target, labelled, target, labelled, nothing)
    at_horizon = _usable(source, settings, horizon)
    origins = np.arange(source.n_origins, dtype=np.int32)
    return SourcePlan(
        source,
        target,
        labelled,
        trial_target=at_horizon & (origins < split.fit_stop),
        trial_labelled=labelled & (origins <= split.validation_start),
        validation=at_horizon & (origins >= split.validation_start),
    )


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


def _labelled(
    series: Sequence[WindowSource], settings: Settings, labeller: Labeller | None
) -> list[np.ndarray]:
    """Return the windows of each source that the teacher is asked for."""
    if labeller is None:
        return [np.zeros(one.n_origins, dtype=bool) for one in series]
    chosen = _spend_budget(series, settings, labeller)
    for one, mine in zip(series, chosen, strict=True):
        if one.covariates.future is not None:
            # The student cannot see a window whose future covariates are not known yet.
            known = len(one.covariates.future) - settings.chunks.target_stop
            mine[max(0, known + 1) :] = False
    return chosen


def _spend_budget(
    series: Sequence[WindowSource], settings: Settings, labeller: Labeller
) -> list[np.ndarray]:
    """Choose the windows to label: all, or the ``label_budget`` lowest in key order.

    The keys are digests of what the student sees: a random sample that hardly changes as a series
    grows or its start moves. So a backtest that fits at every step asks for few new windows.
    """
    length, info = settings.input_chunk_length, labeller.teacher.info
    needed = length if info.takes_missing else max(length, resolve_teacher_context(settings, info))
    usable = [one.usable(needed) for one in series]
    budget = settings.teaching.label_budget
    if budget is None or sum(int(u.sum()) for u in usable) <= budget:
        return usable
    keys = (
        (key, i, int(origin))
        for i, (source, mine) in enumerate(zip(series, usable, strict=True))
        for part in iterate_chunks(np.flatnonzero(mine), source.n_components)
        for key, origin in zip(labeller.keys(source.history(part, length)), part, strict=True)
    )
    kept = [np.zeros_like(u) for u in usable]
    for _, i, origin in heapq.nsmallest(budget, keys):
        kept[i][origin] = True
    return kept


def resolve_teacher_context(settings: Settings, info: TeacherInfo) -> int:
    """Return how many steps of history the teacher sees of each window.

    The paper gives student and teacher the same lookback. Here the teacher may see more: labels are
    made once, and more history makes them better. So if ``teacher_context`` is not given, a teacher
    that takes missing values sees its ``longest_context``, between ``input_chunk_length`` and
    1,024; any other ``input_chunk_length``.
    """
    length = settings.input_chunk_length
    if settings.teaching.teacher_context is not None:
        return settings.teaching.teacher_context
    if not info.takes_missing:
        return length
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
