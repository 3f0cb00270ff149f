"""From synthetic windows to what the mixture's network learns from.

A shard holds the examples of one batch of windows. Shards are files, written once: a
run that was stopped goes on with those that are missing, and training reads them in
turn, so that memory stays bounded however many there are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from distilts_forecaster.teachers.bundled import experts, mixture
from distilts_forecaster.teachers.bundled.mixture import (
    LONGEST_CONTEXT,
    NATIVE_HORIZON,
    describe_steps,
    read_contexts,
)
from distilts_forecaster.windows import periods
from pretraining import corpus
from pretraining.corpus import window_batches

__all__ = ["make_examples", "read_shuffled", "write_shard"]

#: Steps drawn from each window: near ones, those of common horizons, any.
STEPS = ((24, 3), (96, 5), (NATIVE_HORIZON, 4))

_ROWS = 256

#: Shards held in memory and shuffled together.
_BUFFER = 24


def make_examples(
    contexts: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Describe windows and forecast a few steps of each with every expert.

    Parameters
    ----------
    contexts : numpy.ndarray, shape (n, L)
        NaN is missing.
    targets : numpy.ndarray, shape (n, T)
        NaN is unknown.
    rng : numpy.random.Generator
        Draws the steps.

    Returns
    -------
    dict of str to numpy.ndarray of float32
        What the network's forward pass takes, and ``truth``, on the normalised scale.
        Constant contexts are left out.
    """
    horizon = targets.shape[1]
    parts = []
    for start in range(0, len(contexts), _ROWS):
        part = slice(start, start + _ROWS)
        rows, mean, scale, description, gap = read_contexts(contexts[part])
        shape = len(rows.length)
        ahead = np.concatenate(
            [rng.integers(1, min(last, horizon) + 1, (shape, count)) for last, count in STEPS],
            axis=1,
        )
        steps = ahead + gap[:, None]
        log_errors, encoded = describe_steps(description, steps)
        example = {
            "features": description.features,
            "log_errors": log_errors,
            "encoded": encoded,
            "unit": description.unit,
            "candidates": experts.forecast(rows, description.fitted, steps),
            "truth": (np.take_along_axis(targets[part], ahead - 1, axis=1) - mean) / scale,
        }
        varied = rows.values.any(axis=1)
        parts.append({name: array[varied].astype(np.float32) for name, array in example.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@lru_cache(maxsize=1)
def _source_digest() -> str:
    """Return a digest of the code that examples are made with: a change makes new shards."""
    digest = hashlib.blake2b(digest_size=4)
    for path in (__file__, *(m.__file__ for m in (corpus, periods, experts, mixture))):
        digest.update(Path(str(path)).read_bytes())
    return digest.hexdigest()


def write_shard(folder: Path, number: int, seed: int) -> Path:
    """Write the examples of a batch of the corpus, unless they are there.

    Parameters
    ----------
    folder : pathlib.Path
    number : int
        Of the batch.
    seed : int

    Returns
    -------
    pathlib.Path
    """
    path = folder / f"{seed}-{number:05d}-{_source_digest()}.npz"
    if not path.exists():
        ((contexts, targets),) = window_batches(1, LONGEST_CONTEXT, NATIVE_HORIZON, seed, number)
        examples = make_examples(contexts, targets, np.random.default_rng([seed, number, 1]))
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, **examples)
        os.replace(unfinished, path)
    return path


def read_shuffled(
    paths: list[Path], batch_size: int, rng: np.random.Generator
) -> Iterator[dict[str, np.ndarray]]:
    """Yield whole batches of examples from shards, once through, in random order.

    Parameters
    ----------
    paths : list of pathlib.Path
    batch_size : int
    rng : numpy.random.Generator

    Yields
    ------
    dict of str to numpy.ndarray
    """
    order = rng.permutation(len(paths))
    for start in range(0, len(order), _BUFFER):
        shards = [dict(np.load(paths[i])) for i in order[start : start + _BUFFER]]
        together = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        rows = rng.permutation(len(together["unit"]))
        for first in range(0, len(rows) - batch_size + 1, batch_size):
            picked = rows[first : first + batch_size]
            yield {name: array[picked] for name, array in together.items()}
