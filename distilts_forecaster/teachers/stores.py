"""Where labels are kept: in memory, or in one SQLite database on disk."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
import time
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol

from distilts_forecaster.runtime.checks import warn_user

__all__ = [
    "LIMIT_VARIABLE",
    "PROCESS_STORE",
    "DiskStore",
    "LabelStore",
    "MemoryStore",
    "ReadOnlyStore",
    "cache_file",
    "cache_folder",
    "checksum",
    "open_database",
    "open_store",
    "parse_bytes",
]

#: How long a write waits for another process's.
_BUSY_MILLISECONDS = 60_000

#: Layout of the database, and what tells it from other SQLite files: "DTLC".
_LAYOUT = 2
_APPLICATION = int.from_bytes(b"DTLC", "big")
_TABLE = (
    "CREATE TABLE labels (key BLOB PRIMARY KEY, value BLOB NOT NULL, "
    "checksum INTEGER NOT NULL, used INTEGER NOT NULL)"
)

#: Bound of a cache where none is set; and the environment variable that sets one.
_MOST_BYTES = 2 * 2**30
LIMIT_VARIABLE = "DISTILTS_CACHE_BYTES"

#: Bytes of labels in one transaction, and of a write-ahead log that is kept.
_BYTES_PER_WRITE = 4 * 2**20

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
    labelled again. What can be read of a damaged database is kept. A file that is no label cache is
    refused, one of another layout is left alone. Beyond ``max_bytes`` the least recently used
    entries go; by default it is the folder's own, or of the variable ``DISTILTS_CACHE_BYTES``.
    """

    def __init__(self, directory: str | Path, max_bytes: int | None = None) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path = self.directory / "labels.sqlite"
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked or not writable: not ours to remove
            self._mend(error)
        self.max_bytes = self._limit() if max_bytes is None else max_bytes

    def _connect(self) -> sqlite3.Connection:
        """Open the database, and make sure that it is one."""
        # SQLite does not wait where two processes switch to write-ahead logging at once.
        with self.lock("open"):
            self.path = cache_file(self.directory)
            return open_database(self.path)

    def _limit(self) -> int:
        """Return the bound that the environment sets, or the folder, or the usual one."""
        if given := os.environ.get(LIMIT_VARIABLE):
            return parse_bytes(given)
        found = None
        with self._mending():
            rows = self._connection.execute("SELECT value FROM settings WHERE name = 'max_bytes'")
            found = rows.fetchone()
        return _MOST_BYTES if found is None else int(found[0])

    def set_limit(self, max_bytes: int) -> None:
        """Bound this folder from now on, for all who use it, and drop what is beyond."""
        self.max_bytes = max_bytes
        rows = ("max_bytes", max_bytes)
        with self._mending():
            self._connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
            self._evict()
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def clear(self) -> None:
        """Drop all labels."""
        with self._mending():
            self._connection.execute("DELETE FROM labels")
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def count(self) -> int:
        """Return the number of entries: labels and hidden states of one window each."""
        with self._mending():
            return int(self._connection.execute("SELECT count(*) FROM labels").fetchone()[0])

    def _mend(self, error: sqlite3.DatabaseError) -> None:
        """Keep what can be read of a damaged database."""
        from distilts_forecaster.teachers.salvage import salvage

        with self.lock("open"):
            kept = salvage(self.path)
            self._connection = open_database(self.path)
        if kept is not None:
            warn_user(
                f"The label cache {self.path} is damaged ({error}). {kept} entries could be read "
                "and are kept; the others will be made again."
            )

    @contextmanager
    def _mending(self) -> Iterator[None]:
        """Mend a database that turns out to be damaged while it is used."""
        try:
            yield
        except sqlite3.OperationalError:
            raise  # locked, full or not writable: not ours to remove
        except sqlite3.DatabaseError as error:
            self._connection.close()
            self._mend(error)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the labels that are there and whole."""
        found: dict[bytes, bytes] = {}
        with self._mending():
            for among, part in _parts(keys):
                there = read_entries(self._connection, among, part)
                found |= there
                if there:
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
        """Keep labels, each whole or not at all; drop the least recently used beyond the bound."""
        now = time.time_ns()
        rows = [(key, value, checksum(key, value), now) for key, value in entries.items()]
        step = max(1, _BYTES_PER_WRITE * len(rows) // max(1, sum(map(len, entries.values()))))
        with self._mending():
            for start in range(0, len(rows), step):
                self._write(rows[start : start + step])
            self._bound_journal()

    def _write(self, rows: list[tuple[bytes, bytes, int, int]]) -> None:
        """Write some entries, all or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR REPLACE INTO labels VALUES (?,?,?,?)", rows)
            self._evict()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise

    def _bound_journal(self) -> None:
        """Empty a write-ahead log that others' reading has kept from starting again.

        With eight processes it had grown to 81 MB beside a cache of 4 MiB.
        """
        journal = self.path.with_name(f"{self.path.name}-wal")
        try:
            if journal.stat().st_size < 4 * _BYTES_PER_WRITE:
                return
        except OSError:
            return
        self._connection.execute("PRAGMA busy_timeout=1000")
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            pass  # the next write tries again
        finally:
            self._connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")

    def _evict(self) -> None:
        """Drop the least recently used tenth once the pages in use exceed the bound."""
        pages, free, page_size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        used = (pages - free) * page_size
        if used <= self.max_bytes:
            return
        (count,) = self._connection.execute("SELECT count(*) FROM labels").fetchone()
        # A tenth at least: sorting by age is not to be done at every write.
        drop = int(count * max(1 - self.max_bytes / used, 0.1)) + 1
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


class ReadOnlyStore:
    """Labels of a cache that cannot be written; new ones are kept in this process."""

    def __init__(self, directory: Path) -> None:
        self.path = cache_file(directory)
        # Nobody writes to a file system that is mounted read-only: no locks, no journal.
        address = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._connection.execute("SELECT count(*) FROM sqlite_master")  # opens the file

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the labels that are there and whole, or were made in this process."""
        found = PROCESS_STORE.get(keys)
        with suppress(sqlite3.DatabaseError):  # damaged: as if they were not there
            for among, part in _parts([key for key in keys if key not in found]):
                found |= read_entries(self._connection, among, part)
        return found

    def put(self, entries: dict[bytes, bytes]) -> None:
        """Keep labels in this process."""
        PROCESS_STORE.put(entries)

    def lock(self, teacher: str) -> AbstractContextManager:
        """Hold off other threads that would label with this teacher."""
        return PROCESS_STORE.lock(teacher)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def cache_file(directory: Path) -> Path:
    """Return the path of a folder's label cache.

    Where ``labels.sqlite`` is of another layout, which an earlier or later version of this package
    wrote, it is another file. ValueError if there is a file that is no label cache at all.
    """
    path = directory / "labels.sqlite"
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        return path
    if not start:
        return path
    is_ours = (
        start.startswith(b"SQLite format 3\0")
        and (
            int.from_bytes(start[68:72], "big") == _APPLICATION
            # Caches of earlier versions have no application id.
            or _TABLE.encode() in start
            # Nor have they anything at all in their first page where a process was killed early.
            or (start[28:32] == b"\0\0\0\1" and b"CREATE" not in start)
        )
    )
    if not is_ours:
        raise ValueError(
            f"{path} is no label cache of this package, and is left as it is. Move it away, or "
            "give another cache_dir."
        )
    is_other = int.from_bytes(start[60:64], "big") not in (0, _LAYOUT)
    return directory / f"labels-{_LAYOUT}.sqlite" if is_other else path


def open_database(path: Path) -> sqlite3.Connection:
    """Open a label cache to write to it, a new one if need be, while nobody else does."""
    # Waiting for another process's write is fine, it takes milliseconds.
    connection = sqlite3.connect(
        path, timeout=_BUSY_MILLISECONDS / 1000, isolation_level=None, check_same_thread=False
    )
    try:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if not {"labels", "settings"} <= names:
            # One transaction, before there is a log: the file says what it is from the start.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={_LAYOUT}")
            connection.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
            connection.execute("CREATE TABLE IF NOT EXISTS settings (name PRIMARY KEY, value)")
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={_BYTES_PER_WRITE}")
    except BaseException:
        connection.close()
        raise
    return connection


def read_entries(
    connection: sqlite3.Connection, among: str, keys: Sequence[bytes]
) -> dict[bytes, bytes]:
    """Return the entries that are there and fit their checksums."""
    rows = connection.execute(f"SELECT key, value, checksum FROM labels {among}", keys)
    return {key: value for key, value, check in rows if checksum(key, value) == check}


def checksum(key: bytes, value: bytes) -> int:
    """Return a checksum of an entry: a damaged index may name the row of another key."""
    return zlib.crc32(value, zlib.crc32(key))


def _parts(keys: Sequence[bytes]) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield keys as many at a time as a statement may name, with their WHERE clause."""
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        part = keys[start : start + _KEYS_PER_QUERY]
        yield f"WHERE key IN ({','.join('?' * len(part))})", part


def parse_bytes(text: str) -> int:
    """Return a number of bytes, given with or without a unit.

    ValueError if it is none.

    >>> parse_bytes("500 MB"), parse_bytes("2GiB"), parse_bytes("4096")
    (500000000, 2147483648, 4096)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(
            f"A size must be a number of bytes, or one with a unit, got {text!r}. Example: 500MB"
        )
    unit = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** unit)


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

    In memory without a folder, or where the teacher has no ``lasting`` identity. With a warning,
    where the folder cannot be written: its labels are read, and new ones kept in memory. ValueError
    if its file is no label cache.
    """
    directory = cache_folder(cache_dir)
    if directory is None or not lasting:
        return PROCESS_STORE
    try:
        return DiskStore(directory)
    except (OSError, sqlite3.OperationalError) as error:
        store: LabelStore = PROCESS_STORE
        with suppress(OSError, sqlite3.Error):
            store = ReadOnlyStore(directory)
        warn_user(
            f"The label cache {directory} cannot be written ({error}): new labels will not be kept "
            "after this process. Pass a writable cache_dir, or cache_dir=False."
        )
        return store
