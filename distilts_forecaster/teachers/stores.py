"""Where labels are kept: in memory, or in one SQLite database on disk."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import warnings
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["PROCESS_STORE", "DiskStore", "LabelStore", "MemoryStore", "cache_folder", "open_store"]

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
    """Labels of this process, up to ``max_bytes``; the least recently used go first."""

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

    One SQLite database: writes are atomic, readers do not wait for writers, and an interrupted
    process leaves whole entries only. Each entry carries a checksum; one that does not fit is
    labelled again, and a file that is not a database is replaced. Beyond ``max_bytes`` the least
    recently used entries go.
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
PROCESS_STORE = MemoryStore()


def cache_folder(cache_dir: str | os.PathLike | Literal[False] | None) -> Path | None:
    """Return the folder that a ``cache_dir`` means: None is the platform's, False no folder.

    >>> cache_folder(False) is None
    True
    """
    if cache_dir is None:
        from platformdirs import user_cache_path

        return user_cache_path("distilts_forecaster")
    return None if cache_dir is False else Path(cache_dir)


def open_store(cache_dir: str | os.PathLike | Literal[False] | None, lasting: bool) -> LabelStore:
    """Open the store for a teacher's labels.

    In memory without a folder, or where the teacher has no ``lasting`` identity; and, with a
    warning, where the folder cannot be written.
    """
    directory = cache_folder(cache_dir)
    if directory is None or not lasting:
        return PROCESS_STORE
    try:
        return DiskStore(directory)
    except (OSError, sqlite3.OperationalError) as error:
        warnings.warn(
            f"The label cache {directory} cannot be used ({error}): labels will not be kept "
            "after this process. Pass a writable cache_dir, or cache_dir=False.",
            stacklevel=2,
        )
        return PROCESS_STORE
