"""Interrupted trainings: what tells them apart, and where they are kept."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn

from distilts_forecaster.distill.plan import Settings, Student
from distilts_forecaster.students.objective import Objective
from distilts_forecaster.students.settings import Network
from distilts_forecaster.windows.batches import TrainingWindows

__all__ = ["reserve", "training_key"]

#: Of what a checkpoint holds; raise it when the training loop changes.
_FORMAT = 1

#: Seconds that an interrupted training is kept.
_KEPT = 30 * 24 * 3600


@contextmanager
def reserve(folder: Path, key: str | None) -> Iterator[Path | None]:
    """Give a training its file, for itself alone, and remove the file when it is done.

    Parameters
    ----------
    folder : pathlib.Path
        Created if it does not exist. Trainings that were interrupted and not gone on with
        for a month are removed from it.
    key : str or None

    Yields
    ------
    pathlib.Path or None
        None without a key, or where the same training runs elsewhere just now, or the
        folder cannot be used: then nothing is kept.
    """
    if key is None:
        yield None
        return
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f"{key}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        lock.acquire()
    except Timeout:
        yield None
        return
    except OSError:
        # The training will say so, with its first checkpoint.
        yield folder / f"{key}.pt"
        return
    try:
        yield folder / f"{key}.pt"
        with suppress(OSError):
            (folder / f"{key}.pt").unlink()
    finally:
        lock.release()
        with suppress(OSError):
            (folder / f"{key}.lock").unlink()


def _tidy(folder: Path) -> None:
    """Remove what has lain here for a month."""
    for file in folder.iterdir():
        with suppress(OSError):  # another process was faster
            if time.time() - file.stat().st_mtime > _KEPT:
                file.unlink()


def _describe(student: Student) -> str:
    """Return what tells a student's settings from all others; of a user's own, its pickle."""
    if not isinstance(student, Network):
        return repr(student)
    return f"{pickle.dumps(student.build).hex()}{student.training!r}"


def training_key(
    windows: TrainingWindows,
    held_out: TrainingWindows | None,
    settings: Settings,
    objective: Objective,
    network: nn.Module,
    n_epochs: int | None,
) -> str | None:
    """Return what tells a training from all others.

    Parameters
    ----------
    windows : TrainingWindows
    held_out : TrainingWindows or None
    settings : Settings
    objective : Objective
    network : torch.nn.Module
        As it starts.
    n_epochs : int or None

    Returns
    -------
    str or None
        None where the user's own function or module cannot be told from others: one that
        cannot be pickled.
    """
    try:
        described_student = _describe(settings.student)
    except Exception:  # pickling runs the user's code
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in (windows, held_out):
        if part is None:
            continue
        for series in part.series:
            for array in (series.values, series.past, series.future):
                if array is not None:
                    digest.update(np.ascontiguousarray(array).data)
        for array in (part.owner, part.origins, part.has_target, part.label_row):
            digest.update(np.ascontiguousarray(array).data)
        # A few of the teacher's rows tell teachers apart.
        for array in (part.labels, part.hidden):
            if array is not None:
                digest.update(np.ascontiguousarray(array[:: max(1, len(array) // 100)]).data)
    objective_ = {**asdict(objective), "horizon_weights": objective.horizon_weights.tolist()}
    described = [
        _FORMAT,
        None if held_out is None else held_out.n_target_steps,
        described_student,
        repr(network),
        objective_,
        settings.input_chunk_length,
        settings.output_chunk_length,
        settings.output_chunk_shift,
        settings.alignment,
        settings.alignment_dim,
        settings.random_state,
        n_epochs,
    ]
    digest.update(json.dumps(described).encode())
    if settings.random_state is not None:  # else they start anew each time
        for weights in network.state_dict().values():
            digest.update(weights.numpy().tobytes())
    return digest.hexdigest()
