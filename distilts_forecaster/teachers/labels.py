"""The label cache: a teacher never forecasts the same window twice.

A label is stored under a digest of everything it depends on: the teacher's identity and
precision, the horizon, the quantile levels, and the bytes of context and covariates. Student,
horizon weights and alpha stay out of it, so that a grid search, a backtest that fits again at
every step, a clone and tomorrow's run all find it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers.base import HiddenTeacher, Teacher, ask
from distilts_forecaster.teachers.identity import cache_identity
from distilts_forecaster.teachers.stores import PROCESS_STORE, LabelStore

__all__ = ["Labeller", "Progress", "ignore"]

#: Rows (windows times components) labelled between two commits: what an
#: interruption can cost at most.
ROWS_PER_COMMIT = 256

#: Called with the number of windows done.
Progress = Callable[[int], object]


def ignore(done: int) -> None:
    """Show no progress."""


class Labeller:
    """Ask a teacher for labels of ``horizon`` steps from the end of the context, through a store.

    ``identity`` tells its labels from those of other teachers. ``n_labelled`` windows were forecast
    by the teacher, in ``seconds``; ``n_from_cache`` were found in the store; ``n_absurd`` had a
    forecast that is left out.
    """

    def __init__(
        self,
        teacher: Teacher,
        store: LabelStore,
        horizon: int,
        quantile_levels: tuple[float, ...] = (0.5,),
    ) -> None:
        self.teacher = teacher
        self.store = store
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.n_labelled = 0
        self.n_from_cache = 0
        self.n_absurd = 0
        self.seconds = 0.0
        self.identity = cache_identity(teacher)

    @property
    def median(self) -> int:
        """Index of the median among the quantile levels."""
        return self.quantile_levels.index(0.5)

    def keys(self, contexts: np.ndarray, covariates: Covariates | None = None) -> list[bytes]:
        """Return the key of each window (N, L, C)."""
        keys = self._keys(contexts, f"{self.horizon}|{self.quantile_levels}")
        for known in () if covariates is None else (covariates.past, covariates.future):
            if known is not None:
                rows = np.ascontiguousarray(known, dtype="<f4")
                keys = [
                    hashlib.blake2b(row.data, digest_size=16, key=key).digest()
                    for row, key in zip(rows, keys, strict=True)
                ]
        return keys

    def label(
        self,
        contexts: np.ndarray,
        covariates: Covariates | None = None,
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Return the teacher's forecasts (N, horizon, C, Q), made now or before.

        Covariates, for a teacher that takes them, cover the steps of contexts and horizon.
        ``progress`` is called with the number of windows done, after each batch. ValueError if a
        forecast has the wrong shape or is not finite.
        """
        shape = (self.horizon, contexts.shape[2], len(self.quantile_levels))
        n_bytes = 4 * int(np.prod(shape))

        if not (covariates and self.teacher.info.takes_covariates):
            covariates = None

        def answer(chosen: list[int]) -> list[bytes]:
            windows = np.ascontiguousarray(contexts[chosen])
            known = None if covariates is None else covariates.rows(np.array(chosen))
            forecast = ask(self.teacher, windows, self.horizon, self.quantile_levels, known)
            labels = self._check(forecast.quantiles, (len(windows), *shape))
            self.n_labelled += len(windows)
            return [label.tobytes() for label in labels]

        def is_whole(value: bytes) -> bool:
            return len(value) == n_bytes and bool(np.isfinite(np.frombuffer(value, "<f4")).all())

        keys = self.keys(contexts, covariates)
        found, known = self._fetch(contexts, keys, answer, is_whole, progress)
        self.n_from_cache += known
        labels = np.empty((len(keys), *shape), dtype=np.float32)
        for i, key in enumerate(keys):
            labels[i] = np.frombuffer(found[key], dtype="<f4").reshape(shape)
        return labels

    def hidden(
        self,
        contexts: np.ndarray,
        steps: Sequence[int],
        size: int,
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Return the teacher's hidden states, made now or before.

        float16, (N, C or 1, len(steps) or 1, min(size, D)). States of more than ``size`` numbers
        are projected to ``size`` at random, always in the same way: distances are kept nearly
        (Johnson and Lindenstrauss), and a thousand windows of a large teacher are some megabytes.
        ValueError if the states have the wrong shape or are not finite.
        """

        def answer(chosen: list[int]) -> list[bytes]:
            assert isinstance(self.teacher, HiddenTeacher)
            windows = np.ascontiguousarray(contexts[chosen])
            states = np.asarray(self.teacher.hidden_states(windows, steps), dtype=np.float32)
            self._check_hidden(states, windows, len(steps))
            states = _project(states, size).astype("<f2")
            if not np.isfinite(states).all():
                raise ValueError(
                    f"Teacher {self.teacher.info.name!r} has hidden states beyond the range of "
                    "float16. Set alignment=None."
                )
            header = np.array(states.shape[1:], dtype="<u2").tobytes()
            return [header + state.tobytes() for state in states]

        def is_whole(value: bytes) -> bool:
            if len(value) != 6 + 2 * int(np.prod(np.frombuffer(value[:6], "<u2"), dtype=int)):
                return False
            return bool(np.isfinite(np.frombuffer(value[6:], "<f2")).all())

        keys = self._keys(contexts, f"hidden|{self.teacher.info.hidden}|{tuple(steps)}|{size}")
        found, _ = self._fetch(contexts, keys, answer, is_whole, progress)
        return np.stack(
            [
                np.frombuffer(found[key][6:], "<f2").reshape(np.frombuffer(found[key][:6], "<u2"))
                for key in keys
            ]
        )

    def _keys(self, contexts: np.ndarray, request: str) -> list[bytes]:
        """Return the key of what is requested for each window (N, L, C)."""
        request = f"{self.identity}|{request}|{contexts.shape[1:]}"
        namespace = hashlib.blake2b(request.encode(), digest_size=32).digest()
        contexts = np.ascontiguousarray(contexts, dtype="<f4")
        if np.isnan(contexts).any():  # one bit pattern for missing
            contexts = np.where(np.isnan(contexts), np.float32(np.nan), contexts)
        return [
            hashlib.blake2b(window.data, digest_size=16, key=namespace).digest()
            for window in contexts
        ]

    def _fetch(
        self,
        contexts: np.ndarray,
        keys: list[bytes],
        answer: Callable[[list[int]], list[bytes]],
        is_whole: Callable[[bytes], bool],
        progress: Progress,
    ) -> tuple[dict[bytes, bytes], int]:
        """Return answers by key, from the store or new, and how many windows the store had."""
        found = self._read(keys, is_whole)
        # The same window twice (a series that repeats itself) is asked for once.
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        known = len(keys) - len(missing)
        progress(known)
        step = max(1, ROWS_PER_COMMIT // contexts.shape[2])
        todo = list(missing.items())
        for start in range(0, len(todo), step):
            part = dict(todo[start : start + step])
            made, n_found = self._make(part, answer, is_whole)
            progress(len(part))
            found |= made
            known += n_found
        return found, known

    def _read(self, keys: Sequence[bytes], is_whole: Callable[[bytes], bool]) -> dict[bytes, bytes]:
        """Return what is stored and of the right size."""
        stored = self._use_store("get", list(keys))
        return {key: value for key, value in stored.items() if is_whole(value)}

    def _make(
        self,
        missing: dict[bytes, int],
        answer: Callable[[list[int]], list[bytes]],
        is_whole: Callable[[bytes], bool],
    ) -> tuple[dict[bytes, bytes], int]:
        """Ask for windows that were missing a moment ago."""
        with self.store.lock(self.identity):
            # Another process may have asked for them while this one waited.
            found = self._read(list(missing), is_whole)
            known = len(found)
            todo = {key: i for key, i in missing.items() if key not in found}
            if todo:
                start = time.perf_counter()
                answers = answer(list(todo.values()))
                self.seconds += time.perf_counter() - start
                made = dict(zip(todo, answers, strict=True))
                self._use_store("put", made)
                found |= made
        return found, known

    def _check_hidden(self, states: np.ndarray, windows: np.ndarray, n_steps: int) -> None:
        """Refuse hidden states that are not what was asked for, before they are stored."""
        expected = (len(windows), windows.shape[2], n_steps)
        if states.ndim != 4 or any(
            got not in allowed
            for got, allowed in zip(
                states.shape, ((expected[0],), (1, expected[1]), (1, n_steps)), strict=False
            )
        ):
            raise ValueError(
                f"Teacher {self.teacher.info.name!r} returned hidden states of shape "
                f"{states.shape}, expected (windows, components or 1, steps or 1, size) with the "
                f"first three {expected}."
            )
        if not np.isfinite(states).all():
            raise ValueError(
                f"Teacher {self.teacher.info.name!r} returned hidden states that are NaN or "
                "infinite. Set alignment=None."
            )

    def _use_store(self, action: Literal["get", "put"], argument: Any) -> Any:
        """Use the store, or go on in memory where it fails: labels are too dear to lose."""
        try:
            return getattr(self.store, action)(argument)
        except sqlite3.OperationalError as error:
            warnings.warn(
                f"The label cache failed ({error}): labels are kept in this process only. "
                "Is the disk full, or the cache directory read-only?",
                stacklevel=2,
            )
            self.store = PROCESS_STORE
            return getattr(self.store, action)(argument)

    def _check(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Refuse labels that are not what was asked for, before they are stored."""
        # A copy: the teacher may use its array again.
        labels = np.array(labels, dtype="<f4", order="C")
        if labels.shape != shape:
            raise ValueError(
                f"Teacher {self.teacher.info.name!r} returned forecasts of shape {labels.shape}, "
                f"expected (windows, horizon, components, quantiles) = {shape}."
            )
        if not np.isfinite(labels).all():
            raise ValueError(
                f"Teacher {self.teacher.info.name!r} returned {(~np.isfinite(labels)).sum()} "
                "forecasts that are NaN or infinite. Does it need longer or complete contexts?"
            )
        return labels


def _project(states: np.ndarray, size: int) -> np.ndarray:
    """Project the last axis to ``size`` numbers, at random but always alike; keep short ones."""
    given = states.shape[-1]
    if given <= size:
        return states
    projection = np.random.default_rng(given).normal(size=(given, size)) / np.sqrt(size)
    return states @ projection.astype(np.float32)
