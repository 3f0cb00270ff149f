"""What ``distilts cache`` does: show, empty or bound the folder of a teacher's labels."""

from __future__ import annotations

import argparse
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from distilts_forecaster.runtime.checks import extra_for

__all__ = ["manage"]


def manage(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Show, empty or bound a label cache; return what is in it then, for programs and people."""
    with extra_for("the label cache", "fit"):
        from distilts_forecaster.teachers.stores import (
            LIMIT_VARIABLE,
            DiskStore,
            cache_file,
            cache_folder,
            parse_bytes,
        )

        folder = args.dir or cache_folder(None) or Path()
    limit = parse_bytes(args.size) if args.action == "limit" else None
    path = cache_file(folder)
    if not path.exists() and args.action != "limit":
        return {"file": os.fspath(path), "entries": 0, "bytes": 0}, f"There is no {path} yet."
    try:
        with closing(DiskStore(folder)) as store:
            if limit is not None:
                store.set_limit(limit)
            elif args.action == "clear":
                store.clear()
            entries, most = store.count(), store.max_bytes
    except (sqlite3.OperationalError, OSError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    size = sum(
        file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()
    )
    result = {"file": os.fspath(path), "entries": entries, "bytes": size, "limit": most}
    source = f" (of {LIMIT_VARIABLE})" if os.environ.get(LIMIT_VARIABLE) else ""
    text = (
        f"{path}\n{entries:,} entries, each the labels or hidden states of one window\n"
        f"{size / 2**20:,.1f} MiB, at most {most / 2**20:,.1f} MiB of labels{source}"
    )
    return result, text
