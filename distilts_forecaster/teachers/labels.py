"""The label cache: a teacher never forecasts the same window twice.

A label is stored under a digest of everything it depends on: the teacher's
identity and precision, the horizon, the quantile levels and the context's bytes.
Student, horizon weights and alpha stay out of it, so that a grid search, a
backtest that fits again at every step, a clone and tomorrow's run all find it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import warnings
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from distilts_forecaster.runtime.effects import Covariates
from distilts_forecaster.teachers.base import HiddenTeacher, Teacher, ask
from distilts_forecaster.teachers.identity import cache_identity

__all__ = ["DiskStore", "LabelStore", "Labeller", "MemoryStore", "cache_folder", "open_store"]

#: Rows (windows times components) labelled between two commits: what an
#: interruption can cost at most.
ROWS_PER_COMMIT = 256

#: How long a write waits for another process's.
_BUSY_MILLISECONDS = 60_000

#: Layout of the database; one with another is emptied.
_LAYOUT = 1

#: SQLite accepts at least 999 variables in a statement.
_KEYS_PER_QUERY = 900


class LabelStore(Protocol):
    """Where labels are kept."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the labels that are there."""

    def put(self, entries: dict[bytes, bytes]) -> None:
        """Keep labels."""

    def lock(self, teacher: str) -> AbstractContextManager:
        """Hold off everybody else who would label with this teacher."""

    def close(self) -> None:
        """Let go of files."""


class MemoryStore:
    """Labels of this process, bounded; the least recently used go first.

    Parameters
    ----------
    max_bytes : int, default 512 MiB
        Size of the labels kept.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._mutex = threading.Lock()
        self._labelling: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the labels that are there."""
        with self._mutex:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            for key in found:
                self._entries.move_to_end(key)
        return found

    def put(self, entries: dict[bytes, bytes]) -> None:
        """Keep labels, and drop the least recently used beyond the bound."""
        with self._mutex:
            for key, value in entries.items():
                self._size += len(value) - len(self._entries.pop(key, b""))
                self._entries[key] = value
            while self._size > self.max_bytes and self._entries:
                self._size -= len(self._entries.popitem(last=False)[1])

    def lock(self, teacher: str) -> AbstractContextManager:
        """Hold off other threads that would label with this teacher."""
        with self._mutex:
            return self._labelling[teacher]

    def close(self) -> None:
        """Do nothing: the labels stay for the process's next fit."""


class DiskStore:
    """Labels on disk, shared by processes and kept between runs.

    One SQLite database: writes are atomic, readers do not wait for writers, and an
    interrupted process leaves whole entries only. Each entry carries a checksum;
    one that does not fit is labelled again, and a file that is not a database is
    replaced.

    Parameters
    ----------
    directory : path-like
        Created if it does not exist.
    max_bytes : int, default 2 GiB
        Size of the database. Beyond it the least recently used entries go.
    """

    def __init__(self, directory: str | Path, max_bytes: int = 2 * 2**30) -> None:
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path = self.directory / "labels.sqlite"
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked or not writable: not ours to remove
            self._replace(error)

    def _connect(self) -> sqlite3.Connection:
        """Open the database, and make sure that it is one."""
        # SQLite does not wait where two processes switch to write-ahead logging at once.
        with self.lock("open"):
            return self._connect_alone()

    def _connect_alone(self) -> sqlite3.Connection:
        """Open the database while nobody else does."""
        # Waiting for another process's write is fine, it takes milliseconds.
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_MILLISECONDS / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                connection.execute("DROP TABLE IF EXISTS labels")
                connection.execute(f"PRAGMA user_version={_LAYOUT}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS labels (key BLOB PRIMARY KEY, value BLOB NOT NULL, "
                "checksum INTEGER NOT NULL, used INTEGER NOT NULL)"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Start again with an empty database where the file is damaged."""
        warnings.warn(
            f"The label cache {self.path} is damaged ({error}). It was emptied; its labels will "
            "be made again.",
            stacklevel=2,
        )
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._connection = self._connect()

    @contextmanager
    def _mending(self) -> Iterator[None]:
        """Replace a database that turns out to be damaged while it is used."""
        try:
            yield
        except sqlite3.OperationalError:
            raise  # locked, full or not writable: not ours to remove
        except sqlite3.DatabaseError as error:
            self._connection.close()
            self._replace(error)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the labels that are there and whole."""
        found: dict[bytes, bytes] = {}
        with self._mending():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                among = f"WHERE key IN ({','.join('?' * len(part))})"
                rows = self._connection.execute(
                    f"SELECT key, value, checksum FROM labels {among}", part
                ).fetchall()
                found |= {key: value for key, value, check in rows if zlib.crc32(value) == check}
                if rows:
                    self._touch(among, part)
        return found

    def _touch(self, among: str, keys: Sequence[bytes]) -> None:
        """Note that entries were used, unless somebody else is writing or none can."""
        self._connection.execute("PRAGMA busy_timeout=0")
        try:
            self._connection.execute(f"UPDATE labels SET used = {time.time_ns()} {among}", keys)
        except sqlite3.OperationalError:
            pass  # they are a little more likely to go
        finally:
            self._connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")

    def put(self, entries: dict[bytes, bytes]) -> None:
        """Keep labels, all or none, and drop the least recently used beyond the bound."""
        now = time.time_ns()
        rows = [(key, value, zlib.crc32(value), now) for key, value in entries.items()]
        with self._mending():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO labels VALUES (?,?,?,?)", rows)
                self._evict()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def _evict(self) -> None:
        """Drop the least recently used tenth once the pages in use exceed the bound."""
        pages, free, page_size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        excess = (pages - free) * page_size - self.max_bytes
        if excess <= 0:
            return
        count, mean = self._connection.execute(
            "SELECT count(*), avg(length(value) + 64) FROM labels"
        ).fetchone()
        # A tenth at least: sorting by age is not to be done at every write.
        drop = max(int(excess / (mean or 1)) + 1, count // 10)
        self._connection.execute(
            "DELETE FROM labels WHERE key IN (SELECT key FROM labels ORDER BY used LIMIT ?)",
            (drop,),
        )

    def lock(self, teacher: str) -> AbstractContextManager:
        """Hold off every process that would label with this teacher."""
        from filelock import FileLock

        digest = hashlib.blake2b(teacher.encode(), digest_size=8).hexdigest()
        return FileLock(self.directory / f"{digest}.lock")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


#: Labels of teachers without a lasting identity, and of fits without a disk cache.
_PROCESS_STORE = MemoryStore()


def cache_folder(cache_dir: str | os.PathLike | Literal[False] | None) -> Path | None:
    """Return the folder that a ``cache_dir`` means.

    Parameters
    ----------
    cache_dir : path-like, False or None

    Returns
    -------
    pathlib.Path or None
        None is the platform's cache directory, False no folder.

    Examples
    --------
    >>> cache_folder(False) is None
    True
    """
    if cache_dir is None:
        from platformdirs import user_cache_path

        return user_cache_path("distilts_forecaster")
    return None if cache_dir is False else Path(cache_dir)


def open_store(cache_dir: str | os.PathLike | Literal[False] | None, lasting: bool) -> LabelStore:
    """Open the store for a teacher's labels.

    Parameters
    ----------
    cache_dir : path-like, False or None
        None is the platform's cache directory; False keeps labels in this process.
    lasting : bool
        Whether the teacher has an identity that outlives this process.

    Returns
    -------
    LabelStore
        In memory, with a warning, where the directory cannot be written.
    """
    directory = cache_folder(cache_dir)
    if directory is None or not lasting:
        return _PROCESS_STORE
    try:
        return DiskStore(directory)
    except (OSError, sqlite3.OperationalError) as error:
        warnings.warn(
            f"The label cache {directory} cannot be used ({error}): labels will not be kept "
            "after this process. Pass a writable cache_dir, or cache_dir=False.",
            stacklevel=2,
        )
        return _PROCESS_STORE


class Labeller:
    """Ask a teacher for labels, through a store.

    Parameters
    ----------
    teacher : Teacher
    store : LabelStore
    horizon : int
        Steps forecast from the end of the context.
    quantile_levels : tuple of float, default (0.5,)
    on_progress : callable, optional
        Called with the number of windows done, after each batch.

    Attributes
    ----------
    identity : str
        What tells its labels from those of other teachers.
    n_labelled, n_from_cache : int
        Windows that the teacher forecast, and that were found in the store.
    seconds : float
        Time the teacher took.
    """

    def __init__(
        self,
        teacher: Teacher,
        store: LabelStore,
        horizon: int,
        quantile_levels: tuple[float, ...] = (0.5,),
        on_progress: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.teacher = teacher
        self.store = store
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.on_progress = on_progress
        self.n_labelled = 0
        self.n_from_cache = 0
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

    def label(self, contexts: np.ndarray, covariates: Covariates | None = None) -> np.ndarray:
        """Return the teacher's forecasts, made now or before.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
        covariates : Covariates, optional
            Of the same steps and the horizon's, for a teacher that takes them.

        Returns
        -------
        numpy.ndarray of float32, shape (N, horizon, C, Q)

        Raises
        ------
        ValueError
            If the teacher's forecast has the wrong shape or is not finite.
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
            return len(value) == n_bytes

        keys = self.keys(contexts, covariates)
        found, known = self._fetch(contexts, keys, answer, is_whole)
        self.n_from_cache += known
        labels = np.empty((len(keys), *shape), dtype=np.float32)
        for i, key in enumerate(keys):
            labels[i] = np.frombuffer(found[key], dtype="<f4").reshape(shape)
        return labels

    def hidden(self, contexts: np.ndarray, steps: Sequence[int], size: int) -> np.ndarray:
        """Return the teacher's hidden states, made now or before.

        States of more than ``size`` numbers are projected to ``size`` at random, always in the
        same way: distances are kept nearly (Johnson and Lindenstrauss), and a thousand
        windows of a large teacher are some megabytes.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
        steps : sequence of int
            See :meth:`~distilts_forecaster.teachers.base.HiddenTeacher.hidden_states`.
        size : int
            Most numbers to keep of each state.

        Returns
        -------
        numpy.ndarray of float16, shape (N, C or 1, len(steps) or 1, min(size, D))

        Raises
        ------
        ValueError
            If the states have the wrong shape or are not finite.
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
            return len(value) == 6 + 2 * int(np.prod(np.frombuffer(value[:6], "<u2"), dtype=int))

        keys = self._keys(contexts, f"hidden|{self.teacher.info.hidden}|{tuple(steps)}|{size}")
        found, _ = self._fetch(contexts, keys, answer, is_whole)
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
    ) -> tuple[dict[bytes, bytes], int]:
        """Return what is stored or asked for now by key, and how many windows were stored."""
        found = self._read(keys, is_whole)
        # The same window twice (a series that repeats itself) is asked for once.
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        known = len(keys) - len(missing)
        self.on_progress(known)
        step = max(1, ROWS_PER_COMMIT // contexts.shape[2])
        todo = list(missing.items())
        for start in range(0, len(todo), step):
            part = dict(todo[start : start + step])
            made, n_found = self._make(part, answer, is_whole)
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
        self.on_progress(len(missing))
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
            self.store = _PROCESS_STORE
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
