"""Synthetic windows to pre-train the bundled teacher on.

Half of the series come from synforecast's pre-training pool (SARIMA, ETS, Gaussian
processes, chaotic systems, intermittent demand and so on); the other half are
nested seasonalities of the kind found in hourly and sub-hourly data, which that
pool lacks, local levels and random walks. No real series is used, so that every
real data set stays zero-shot.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

__all__ = ["window_batches"]

#: Nested periods of common sampling intervals, in steps.
CALENDARS = (
    (96, 672), (48, 336), (24, 168), (24, 168), (144, 1008), (288,), (7, 365.25), (7, 30.44),
    (52.18,), (12,), (4,), (5, 21), (24,), (96,), (48,), (7,), (60,),
)  # fmt: skip

#: Generators of the pool that take more than 50 ms a series.
SLOW_GENERATORS = ("KernelSynthGenerator",)


def _profile(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Draw a periodic function and evaluate it at phases in [0, 1)."""
    kind = rng.random()
    if kind < 0.6:  # harmonics of falling amplitude
        n_harmonics = rng.integers(1, 9)
        decay = rng.uniform(0.5, 2.0)
        total = np.zeros_like(phase)
        for h in range(1, n_harmonics + 1):
            total += rng.normal() / h**decay * np.sin(2 * np.pi * (h * phase + rng.random()))
        return total
    if kind < 0.85:  # one to three bumps
        total = np.zeros_like(phase)
        for _ in range(rng.integers(1, 4)):
            distance = (phase - rng.random() + 0.5) % 1.0 - 0.5
            total += rng.uniform(0.3, 1.0) * np.exp(-0.5 * (distance / rng.uniform(0.02, 0.2)) ** 2)
        return total * rng.choice([-1.0, 1.0])
    knots = rng.normal(size=rng.integers(4, 25))  # steps, as of shifts and opening hours
    return knots[np.minimum((phase * len(knots)).astype(int), len(knots) - 1)]


def _smooth_noise(rng: np.random.Generator, length: int, memory: float) -> np.ndarray:
    """Draw a stationary first-order autoregression of unit variance."""
    from scipy.signal import lfilter

    shocks = rng.normal(size=length) * np.sqrt(1 - memory**2)
    shocks[0] = rng.normal()
    return lfilter([1.0], [1.0, -memory], shocks)


def nested_seasonal(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw a series with one or more calendar or free periods, a level and noise."""
    time = np.arange(length) + rng.integers(0, 100_000)
    if rng.random() < 0.75:
        periods = CALENDARS[rng.integers(len(CALENDARS))]
    else:
        periods = tuple(np.exp(rng.uniform(np.log(3), np.log(400), size=rng.integers(1, 3))))
    season = np.zeros(length)
    for i, period in enumerate(periods):
        amplitude = rng.lognormal(0, 0.5) * (1.0 if i == 0 else rng.uniform(0.0, 1.0))
        component = amplitude * _profile(rng, (time / period) % 1.0)
        if i == 0 and len(periods) > 1 and rng.random() < 0.6:  # days of the week differ
            ratio = max(1, round(periods[1] / period))
            day = (time // period).astype(int) % ratio
            scale = np.where(
                day >= ratio - min(2, ratio - 1), rng.uniform(0.2, 1.0), 1 + 0.1 * rng.normal()
            )
            component *= scale
        if rng.random() < 0.3:  # the amplitude drifts
            component *= np.exp(0.5 * _smooth_noise(rng, length, 0.998))
        season += component
    series = season / max(season.std(), 1e-6) if rng.random() < 0.9 else np.zeros(length)
    # Share of what is not season: from almost nothing to most of it.
    series = series + rng.lognormal(-1.2, 0.8) * _smooth_noise(
        rng, length, rng.choice([0.0, 0.5, 0.8, 0.9, 0.95])
    )
    level = rng.random()
    if level < 0.35:
        series += rng.lognormal(-0.5, 0.8) * _smooth_noise(
            rng, length, 1 - 10 ** rng.uniform(-4, -1.5)
        )
    elif level < 0.55:
        walk = np.cumsum(rng.normal(size=length))
        series += rng.lognormal(-0.5, 1.0) * walk / np.sqrt(length)
    if rng.random() < 0.25:
        series += rng.normal() * 2 * np.linspace(-1, 1, length)
    if rng.random() < 0.1:
        at = rng.integers(length)
        series[at:] += 2 * rng.normal()
    if rng.random() < 0.2:
        series = np.exp(0.5 * series / max(series.std(), 1e-6))
    if rng.random() < 0.1:
        series = np.maximum(series, np.quantile(series, rng.uniform(0.0, 0.4)))
    return series


def random_walk(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw a random walk, a nearly random walk, or a local level under noise."""
    steps = rng.standard_t(rng.choice([3, 5, 30]), size=length)
    if rng.random() < 0.3:
        steps *= np.exp(0.7 * _smooth_noise(rng, length, 0.98))
    walk = np.cumsum(steps + 0.05 * rng.normal())
    if rng.random() < 0.3:
        walk = _smooth_noise(rng, length, 1 - 10 ** rng.uniform(-3, -1.3)) * 10
    if rng.random() < 0.4:
        walk = walk + rng.lognormal(0, 1) * rng.normal(size=length)
    return walk


def _pool_series(seed: int, length: int, per_generator: int) -> np.ndarray:
    """Draw series from synforecast's pool: (n, length)."""
    from synforecast import pretraining_pool

    rng = np.random.default_rng(seed)
    freq = rng.choice(["15min", "30min", "h", "D", "W", "MS"])
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for generator in pretraining_pool(length, length, freq=str(freq), seed=seed):
            if type(generator).__name__ in SLOW_GENERATORS:
                continue
            if "GaussianProcess" in type(generator).__name__ and per_generator > 2:
                n = 2  # one of its variants takes 80 ms a series
            else:
                n = per_generator
            values = generator.generate(n)["y"].to_numpy(dtype=float)
            rows.append(values.reshape(n, length))
    return np.concatenate(rows)


def window_batches(
    n_batches: int, context: int, horizon: int, seed: int, windows_per_series: int = 2
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of raw windows.

    Parameters
    ----------
    n_batches : int
        Batches to draw, about 1,500 windows each.
    context, horizon : int
        Length of the two parts.
    seed : int
        Batch ``i`` depends on ``(seed, i)`` alone.
    windows_per_series : int, default 2
        Windows cut from each series, at random places.

    Yields
    ------
    contexts : numpy.ndarray of float32, shape (n, context)
        A quarter of them are cut to a shorter history, with NaN before it.
    targets : numpy.ndarray of float32, shape (n, horizon)
    """
    length = 2 * (context + horizon)
    for batch in range(n_batches):
        rng = np.random.default_rng([seed, batch])
        pool = _pool_series(int(rng.integers(2**31)), length, per_generator=7)
        own = [nested_seasonal(rng, length) for _ in range(len(pool))]
        walks = [random_walk(rng, length) for _ in range(len(pool) // 6)]
        series = np.concatenate([pool, own, walks])
        series = series[np.isfinite(series).all(axis=1)]
        # Mixtures of two standardised series, as in TSMixup (Chronos, arXiv 2403.07815).
        unit = (series - series.mean(axis=1, keepdims=True)) / (
            series.std(axis=1, keepdims=True) + 1e-9
        )
        share = rng.uniform(0.1, 0.9, size=(len(series) // 4, 1))
        first, second = rng.integers(len(series), size=(2, len(share)))
        series = np.concatenate([unit, share * unit[first] + (1 - share) * unit[second]])
        rows = np.repeat(np.arange(len(series)), windows_per_series)
        start = rng.integers(0, length - context - horizon + 1, size=len(rows))
        windows = series[rows[:, None], start[:, None] + np.arange(context + horizon)]
        contexts = windows[:, :context].astype(np.float32)
        short = rng.random(len(rows)) < 0.25
        observed = np.exp(rng.uniform(np.log(24), np.log(context), size=len(rows))).astype(int)
        contexts[short[:, None] & (np.arange(context) < context - observed[:, None])] = np.nan
        yield contexts, windows[:, context:].astype(np.float32)
