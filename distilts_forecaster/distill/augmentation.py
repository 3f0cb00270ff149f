"""Augmentation: synthetic windows, mixed from the user's, for the teacher to label."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from distilts_forecaster.distill.plan import Plan, SourcePlan, resolve_teacher_context
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.windows.source import PreparedRows, prepare_rows

__all__ = ["augment"]

#: New windows are made of those with at least this share of the longest history: a teacher that
#: has seen more of a series forecasts it better.
_LATE = 0.75

#: Largest noise added, in units of the window's standard deviation; and largest change of the
#: amplitude over a window, as a share of it.
_MOST_JITTER, _MOST_GROWTH = 0.3, 0.5


def augment(plan: Plan, info: TeacherInfo) -> Plan:
    """Add synthetic windows, mixed from those that the teacher labels.

    Each is a weighted mean of two standardised windows of one series, whole seasons apart, with an
    amplitude that grows or falls, and noise. Synthetic windows have labels and no targets. A
    window always yields the same ones, so most are found in the cache when a series has grown.

    ``augmentation`` in the plan's settings is the synthetic share of all labelled windows, whose
    number stays within ``label_budget``. The plan is unchanged where no synthetic windows are
    wanted, there are covariates (which they do not have), or the windows were given as rows.
    """
    teaching = plan.settings.teaching
    n_own = plan.n_labels
    wanted = round(teaching.augmentation / (1.0 - teaching.augmentation) * n_own)
    if teaching.label_budget is not None:
        wanted = min(wanted, teaching.label_budget - n_own)
    parents = [(one, _late(np.flatnonzero(one.labelled))) for one in plan.sources]
    n_parents = sum(len(late) for _, late in parents)
    rows_given = isinstance(plan.first, PreparedRows)
    if wanted <= 0 or not n_parents or plan.first.covariates or rows_given:
        return plan
    history = resolve_teacher_context(plan.settings, info)
    made: list[np.ndarray] = []
    on_trial: list[bool] = []
    for copy in range(-(-wanted // n_parents)):
        for one, late in parents:
            for origin in late[: wanted - len(made)]:
                made.append(_mixed(one, int(origin), copy, history, plan.settings))
                on_trial.append(bool(one.trial_labelled[origin]))
    shape = (len(made), plan.settings.chunks.target_stop, plan.first.n_components)
    rows = prepare_rows(np.stack(made), np.full(shape, np.nan, np.float32))
    rows = replace(rows, period=plan.first.period)
    every, nothing = np.ones(len(made), dtype=bool), np.zeros(len(made), dtype=bool)
    added = SourcePlan(rows, nothing, every, nothing, np.array(on_trial), nothing)
    return replace(plan, sources=(*plan.sources, added))


def _late(origins: np.ndarray) -> np.ndarray:
    """Return the origins with most history, latest first."""
    return origins[origins >= _LATE * origins.max(initial=0)][::-1]


def _mixed(
    one: SourcePlan,
    origin: int,
    copy: int,
    history: int,
    settings: Settings,
) -> np.ndarray:
    """Make one window: (history, C)."""
    source = one.source
    own = source.history(np.array([origin]), history)[0]
    seed = hashlib.blake2b(own.tobytes(), digest_size=8, salt=str(copy).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    # An earlier window in phase: the same one when the series has grown.
    step = source.period or 1
    others = np.flatnonzero(one.labelled[:origin])
    others = others[(origin - others) % step == 0]
    weight = rng.uniform(0.0, 1.0)
    window = _standardised(own, settings.input_chunk_length)
    if len(others):
        other = source.history(rng.choice(others, 1), history)[0]
        mixed = weight * window + (1 - weight) * _standardised(other, settings.input_chunk_length)
        window = np.where(np.isnan(mixed), window, mixed)
    ramp = np.linspace(-1.0, 0.0, settings.input_chunk_length)[:, None]
    ramp = np.pad(ramp, ((history - len(ramp), 0), (0, 0)), mode="edge")[-history:]
    window = window * (1.0 + rng.uniform(-_MOST_GROWTH, _MOST_GROWTH) * ramp)
    jitter = rng.uniform(0.0, _MOST_JITTER) * rng.normal(size=window.shape)
    return (window + jitter).astype(np.float32)


def _standardised(window: np.ndarray, length: int) -> np.ndarray:
    """Scale a window (history, C) so that its last steps have mean 0, standard deviation 1."""
    window = window.astype(np.float64)
    recent = window[-length:]
    known = np.isfinite(recent)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, recent, 0.0).sum(axis=0) / count
    power = np.where(known, (recent - mean) ** 2, 0.0).sum(axis=0) / count
    std = np.sqrt(power)
    return (window - mean) / np.where(std > 0, std, 1.0)
