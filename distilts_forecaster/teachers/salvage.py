"""Take what can be read out of a damaged label cache."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from distilts_forecaster.teachers.stores import checksum, open_database

__all__ = ["salvage"]

#: Most row numbers to skip at once where a page cannot be read.
_LONGEST_STEP = 64

#: Columns of the labels.
_COLUMNS = "key, value, checksum, used"

_Row = tuple[bytes, bytes, int, int]


def salvage(path: Path) -> int | None:
    """Replace a damaged database by one with the entries that can be read.

    Call it while nobody else opens the file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int or None
        How many entries were kept; None if the database is whole: another process has mended it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.sqlite"
    ...     open_database(path).close()
    ...     salvage(path) is None
    True
    """
    mended = path.with_name(f"{path.name}.mended")
    for leftover in _files(mended):
        leftover.unlink(missing_ok=True)
    kept = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as damaged:
        if _is_whole(damaged):
            return None
        with closing(open_database(mended)) as new:
            new.execute("BEGIN")
            with suppress(sqlite3.DatabaseError):
                settings = damaged.execute("SELECT name, value FROM settings").fetchall()
                new.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings)
            for row in _readable(damaged):
                if checksum(row[0], row[1]) == row[2]:
                    kept += new.execute(
                        "INSERT OR IGNORE INTO labels VALUES (?,?,?,?)", row
                    ).rowcount
            new.execute("COMMIT")
    for old in _files(path):
        old.unlink(missing_ok=True)
    os.replace(mended, path)
    return kept


def _files(path: Path) -> list[Path]:
    """Return a database and the files that SQLite keeps beside it."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _is_whole(connection: sqlite3.Connection) -> bool:
    """Say whether SQLite finds no damage."""
    try:
        return connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.DatabaseError:
        return False


def _readable(connection: sqlite3.Connection) -> Iterator[_Row]:
    """Yield the rows that can be read, in the order of their numbers."""
    try:
        (last,) = connection.execute("SELECT max(rowid) FROM labels").fetchone()
    except sqlite3.DatabaseError:
        return  # not even the way to the last row
    at, step = 0, 1
    while last is not None and at <= last:
        try:
            rows = connection.execute(
                f"SELECT rowid, {_COLUMNS} FROM labels WHERE rowid >= ? ORDER BY rowid", (at,)
            )
            for number, *row in rows:
                at, step = number + 1, 1
                yield tuple(row)
            return
        except sqlite3.DatabaseError:
            # The page of the next row, or pages of its value: go on behind it.
            at, step = at + step, min(2 * step, _LONGEST_STEP)
