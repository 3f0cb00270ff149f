"""Windows made of the user's own, for a teacher to label where there are few."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distilts_forecaster.distill.plan import SeriesPlan, Settings, resolve_teacher_context
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.windows.cutting import history_windows, prepare_series

__all__ = ["augment"]

#: Windows with at least this share of the longest history are made others of: a teacher that has
#: seen more of a series says more of it.
_LATE = 0.75

#: Largest noise added, and largest change of the amplitude over a window, in units of the
#: window's deviation and of the amplitude.
_MOST_JITTER, _MOST_GROWTH = 0.3, 0.5


def augment(
    plans: Sequence[SeriesPlan], settings: Settings, info: TeacherInfo
) -> SeriesPlan | None:
    """Make windows of those that the teacher is asked for on trial.

    Each is a mixture of two windows of a series, the second some seasons before the first, both
    brought to mean 0 and deviation 1; with an amplitude that grows or falls, and noise. They
    have no truth: what the student learns from them is what the teacher makes of them. A window
    always gives the same ones, so that most are found in the cache when a series has grown.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    settings : Settings
        ``augmentation`` is the share of all labelled windows that is made up. No more are made
        than ``label_budget`` leaves room for.
    info : TeacherInfo
        Of the teacher that will see them.

    Returns
    -------
    SeriesPlan or None
        A series of windows that lie end to end; None where none are wanted, or there are
        covariates, which a made-up window does not have.
    """
    n_own = sum(int(plan.labelled.sum()) for plan in plans)
    wanted = round(settings.augmentation / (1.0 - settings.augmentation) * n_own)
    if settings.label_budget is not None:
        wanted = min(wanted, settings.label_budget - n_own)
    sources = [(plan, _late(np.flatnonzero(plan.labelled))) for plan in plans]
    n_sources = sum(len(late) for _, late in sources)
    first = plans[0].series
    if wanted <= 0 or not n_sources or first.n_covariates or first.row_length is not None:
        return None
    history = resolve_teacher_context(settings, info)
    copies = -(-wanted // n_sources)
    made: list[np.ndarray] = []
    on_trial: list[bool] = []
    for copy in range(copies):
        for plan, late in sources:
            for origin in late[: wanted - len(made)]:
                made.append(_mixed(plan, int(origin), copy, history, settings))
                on_trial.append(bool(plan.trial_labelled[origin]))
    target = np.full((len(made), settings.target_stop, first.raw.shape[1]), np.nan, np.float32)
    rows = np.concatenate([np.stack(made), target], axis=1)
    length = rows.shape[1]
    series = replace(
        prepare_series(rows.reshape(-1, rows.shape[2])),
        row_length=length,
        row_context=history,
        period=first.period,
    )
    labelled = np.zeros(len(series) + 1, dtype=bool)
    labelled[history::length] = True
    trial, nothing = np.zeros_like(labelled), np.zeros_like(labelled)
    trial[history::length] = on_trial
    return SeriesPlan(series, nothing, labelled, nothing, trial, nothing)


def _late(origins: np.ndarray) -> np.ndarray:
    """Return the origins with most history, latest first."""
    return origins[origins >= _LATE * origins.max(initial=0)][::-1]


def _mixed(
    plan: SeriesPlan,
    origin: int,
    copy: int,
    history: int,
    settings: Settings,
) -> np.ndarray:
    """Make one window: (history, C)."""
    series = plan.series
    own = history_windows(series.raw, np.array([origin]), history)[0]
    seed = hashlib.blake2b(own.tobytes(), digest_size=8, salt=str(copy).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    # Before it, so that it is the same when the series has grown; in phase with it.
    step = series.period or 1
    others = np.flatnonzero(plan.labelled[:origin])
    others = others[(origin - others) % step == 0]
    weight = rng.uniform(0.0, 1.0)
    window = _standardised(own, settings.input_chunk_length)
    if len(others):
        other = history_windows(series.raw, rng.choice(others, 1), history)[0]
        mixed = weight * window + (1 - weight) * _standardised(other, settings.input_chunk_length)
        window = np.where(np.isnan(mixed), window, mixed)
    ramp = np.linspace(-1.0, 0.0, settings.input_chunk_length)[:, None]
    ramp = np.pad(ramp, ((history - len(ramp), 0), (0, 0)), mode="edge")[-history:]
    window = window * (1.0 + rng.uniform(-_MOST_GROWTH, _MOST_GROWTH) * ramp)
    jitter = rng.uniform(0.0, _MOST_JITTER) * rng.normal(size=window.shape)
    return (window + jitter).astype(np.float32)


def _standardised(window: np.ndarray, length: int) -> np.ndarray:
    """Bring the last ``length`` steps of a window (history, C) to mean 0 and deviation 1."""
    window = window.astype(np.float64)
    recent = window[-length:]
    known = np.isfinite(recent)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, recent, 0.0).sum(axis=0) / count
    power = np.where(known, (recent - mean) ** 2, 0.0).sum(axis=0) / count
    deviation = np.sqrt(power)
    return (window - mean) / np.where(deviation > 0, deviation, 1.0)
