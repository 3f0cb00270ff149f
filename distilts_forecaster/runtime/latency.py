"""How long calls take: the one way in which this package times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster

__all__ = ["measure_latency", "median_seconds"]


def measure_latency(
    student: Forecaster, batch_sizes: Sequence[int] = (1, 1024), seconds: float = 0.05
) -> dict[int, float]:
    """Return the median seconds of a call of ``predict``, by the number of windows in it.

    ``seconds`` are spent on each, on as many threads as NumPy takes.

    >>> from distilts_forecaster.runtime import LinearForecaster
    >>> sorted(measure_latency(LinearForecaster(np.zeros((1, 4, 2), np.float32))))
    [1, 1024]
    """
    rng = np.random.default_rng(0)
    components = student.n_components or 1
    length, steps = student.input_chunk_length, student.output_chunk_length
    medians = {}
    for n in batch_sizes:
        contexts = rng.normal(size=(n, length, components))
        shapes = ((n, length), (n, length + steps), (n, components))
        names = ("past_covariates", "future_covariates", "static_covariates")
        given: dict[str, Any] = {
            name: np.zeros((*shape, count))
            for name, shape, count in zip(names, shapes, student.n_covariates, strict=True)
            if count
        }
        if n == 1 and components == 1 and not given:
            contexts = contexts[0, :, 0]
        medians[n] = median_seconds(partial(student.predict, contexts, **given), seconds)
    return medians


def median_seconds(call: Callable[[], Any], seconds: float = 0.5, most: int | None = None) -> float:
    """Return the median time of a call, after one that is not counted.

    It is called for ``seconds``, but at least three times, and at most ``most`` times.
    """
    call()
    taken: list[float] = []
    now = time.perf_counter()
    stop = now + seconds
    while len(taken) < 3 or (now < stop and len(taken) < (most or len(taken) + 1)):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        taken.append(now - start)
    return float(np.median(taken))
