"""Synthetic windows to pre-train the bundled teacher on.

A third of the series come from synforecast's pre-training pool (SARIMA, ETS,
Gaussian processes, chaotic systems, intermittent demand and so on). The others are
what that pool lacks: nested seasonalities of the common sampling intervals, days
that differ, seasons that grow with the level or drift in phase, counts and
intermittent demand, level shifts, changing noise, random and nearly random walks.
No real series is used, so that every real data set stays zero-shot.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from scipy.signal import lfilter

__all__ = ["window_batches"]

#: Nested periods of common sampling intervals, in steps.
CALENDARS = (
    (24, 168), (24, 168), (24, 168), (24,), (24, 8766),  # hours
    (48, 336), (48, 336), (48,),  # half-hours
    (96, 672), (96, 672), (96,),  # quarters of an hour
    (144, 1008), (288, 2016), (60, 1440),  # minutes
    (7, 365.25), (7,), (7, 30.44), (365.25,), (365.25, 7), (5, 252),  # days
    (52.18,), (52.18,), (13,),  # weeks
    (12,), (12,), (12,), (12, 132), (4,), (6,),  # months, quarters
)  # fmt: skip

#: Generators of the pool that take more than 100 ms a series.
SLOW_GENERATORS = ("KernelSynthGenerator",)


def _profile(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Draw a periodic function and evaluate it at phases in [0, 1)."""
    kind = rng.random()
    if kind < 0.55:  # harmonics of falling amplitude
        decay = rng.uniform(0.5, 2.5)
        total = np.zeros_like(phase)
        for h in range(1, rng.integers(1, 9) + 1):
            total += rng.normal() / h**decay * np.sin(2 * np.pi * (h * phase + rng.random()))
        return total
    if kind < 0.75:  # one to three bumps
        total = np.zeros_like(phase)
        for _ in range(rng.integers(1, 4)):
            distance = (phase - rng.random() + 0.5) % 1.0 - 0.5
            total += rng.uniform(0.3, 1.0) * np.exp(-0.5 * (distance / rng.uniform(0.02, 0.2)) ** 2)
        return total * rng.choice([-1.0, 1.0], p=[0.3, 0.7])
    if kind < 0.85:  # nothing outside part of the cycle, as of sunshine
        wave = np.sin(2 * np.pi * (phase + rng.random())) - rng.uniform(-0.7, 0.7)
        return np.maximum(wave, 0.0)
    knots = rng.normal(size=rng.integers(4, 25))  # steps, as of shifts and opening hours
    return knots[np.minimum((phase * len(knots)).astype(int), len(knots) - 1)]


def _smooth_noise(rng: np.random.Generator, length: int, memory: float) -> np.ndarray:
    """Draw a stationary first-order autoregression of unit variance."""
    shocks = rng.normal(size=length) * np.sqrt(1 - memory**2)
    shocks[0] = rng.normal()
    return lfilter([1.0], [1.0, -memory], shocks)


def _unit(series: np.ndarray) -> np.ndarray:
    """Return a series of mean zero and deviation one; a constant becomes zero."""
    centred = series - series.mean()
    return centred / max(centred.std(), 1e-9)


def _season(rng: np.random.Generator, length: int, time: np.ndarray) -> np.ndarray:
    """Draw the sum of one or more periodic components, of unit variance."""
    if rng.random() < 0.75:
        periods: tuple[float, ...] = CALENDARS[rng.integers(len(CALENDARS))]
    else:
        periods = tuple(np.exp(rng.uniform(np.log(3), np.log(600), size=rng.integers(1, 3))))
    # Sunspots and business cycles keep no calendar: their phase drifts.
    drift = np.zeros(length)
    if rng.random() < 0.2:
        drift = np.cumsum(rng.normal(size=length)) * rng.uniform(0.01, 0.15) / np.sqrt(periods[0])
    season = np.zeros(length)
    for i, period in enumerate(periods):
        amplitude = 1.0 if i == 0 else rng.uniform(0.0, 1.0)
        component = _unit(_profile(rng, (time / period + drift) % 1.0))
        ratio = round(periods[1] / period) if i == 0 and len(periods) > 1 else 1
        if ratio == 7 and rng.random() < 0.6:  # weekends differ, and some holidays
            day = (time // period).astype(int)
            holiday = rng.random(day[-1] - day[0] + 1) < rng.choice([0.0, 0.02, 0.05])
            weekend = (day % 7 >= 5) | holiday[day - day[0]]
            component *= np.where(weekend, rng.uniform(0.1, 1.2), 1.0)
            component -= rng.uniform(0.0, 1.0) * weekend
        if rng.random() < 0.5:  # the amplitude drifts, or differs from day to day as the weather
            memory = rng.choice([0.0, 0.5, 0.8, 0.99])
            cycle = (time // max(period, 2)).astype(int)
            cycle -= cycle[0]
            daily = _smooth_noise(rng, cycle[-1] + 1, memory)
            component *= np.exp(rng.uniform(0.05, 0.6) * daily[cycle])
        season += amplitude * component
    return _unit(season)


def _level(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw a slow level: nothing, mean-reverting, a walk, growth at a changing rate, shifts."""
    level = np.zeros(length)
    kind = rng.random()
    if kind < 0.35:
        memory = 1 - 10 ** rng.uniform(-3.5, -1.3)
        level += rng.lognormal(-0.5, 0.9) * _smooth_noise(rng, length, memory)
    elif kind < 0.55:
        walk = np.cumsum(rng.normal(size=length))
        level += rng.lognormal(-0.3, 1.0) * walk / np.sqrt(length)
    elif kind < 0.75:
        # Economies grow for years, and then slow down: the rate itself is persistent.
        memory = 1 - 10 ** rng.uniform(-2.5, -1.0)
        rate = rng.normal() + rng.lognormal(-0.5, 0.7) * _smooth_noise(rng, length, memory)
        level += rng.lognormal(1.0, 0.6) * np.cumsum(rate) / length
    if rng.random() < 0.25:
        # From a point on, so that some windows see the trend change.
        start = rng.integers(-length, length // 2)
        level += rng.normal() * 3 * np.maximum(np.arange(length) - start, 0) / length
    if rng.random() < 0.12:
        for at in rng.integers(length, size=rng.integers(1, 4)):
            level[at:] += 1.5 * rng.normal()
    return level


def _noise(rng: np.random.Generator, length: int, season: np.ndarray) -> np.ndarray:
    """Draw noise of unit scale: white to persistent, of constant or changing size."""
    noise = _smooth_noise(rng, length, rng.choice([0.0, 0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98]))
    kind = rng.random()
    if kind < 0.15:
        noise *= np.exp(0.7 * _smooth_noise(rng, length, rng.choice([0.9, 0.99, 0.998])))
    elif kind < 0.35:  # larger in one part of the cycle
        noise *= np.exp(rng.uniform(-0.8, 0.8) * season)
    if rng.random() < 0.1:  # outliers
        at = rng.random(length) < rng.uniform(0.001, 0.02)
        noise[at] += rng.normal(size=at.sum()) * rng.uniform(3, 10)
    return noise


def nested_seasonal(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw a series with calendar or free periods, a level and noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    length : int

    Returns
    -------
    numpy.ndarray, shape (length,)
    """
    time = np.arange(length) + rng.integers(0, 100_000)
    season = _season(rng, length, time)
    if rng.random() < 0.15:
        season *= np.exp(0.5 * _smooth_noise(rng, length, 0.998))
    # Share of what is not season: from almost nothing to most of it.
    series = season + _level(rng, length) + rng.lognormal(-1.2, 0.9) * _noise(rng, length, season)
    if rng.random() < 0.35:
        # Seasons and noise that grow with the level, as of sales, traffic and prices.
        series = np.exp(rng.uniform(0.1, 0.9) * series / max(series.std(), 1e-6))
    kind = rng.random()
    if kind < 0.06:
        series = np.maximum(series, np.quantile(series, rng.uniform(0.0, 0.5)))
    elif kind < 0.09:
        series = np.minimum(series, np.quantile(series, rng.uniform(0.5, 1.0)))
    elif kind < 0.14:  # a coarse instrument
        step = series.std() * rng.choice([0.1, 0.3, 0.6])
        series = np.round(series / max(step, 1e-9)) * step
    return series


def counts(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw counts: sales of single items, visits, intermittent demand.

    Parameters
    ----------
    rng : numpy.random.Generator
    length : int

    Returns
    -------
    numpy.ndarray, shape (length,)
        Whole numbers, not negative.
    """
    time = np.arange(length) + rng.integers(0, 100_000)
    log_rate = rng.uniform(-2.0, 4.0) + 0.4 * _level(rng, length)
    if rng.random() < 0.7:
        log_rate = log_rate + rng.uniform(0.1, 0.9) * _season(rng, length, time)
    rate = np.exp(np.minimum(log_rate, 8.0))
    if rng.random() < 0.5:
        shape = rng.uniform(0.5, 10.0)
        rate = rate * rng.gamma(shape, 1 / shape, size=length)
    demand = rng.poisson(rate).astype(float)
    if rng.random() < 0.3:
        demand *= rng.random(length) < rng.uniform(0.1, 0.9)
    return demand


def random_walk(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw a random walk, a nearly random walk, or a local level under noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    length : int

    Returns
    -------
    numpy.ndarray, shape (length,)
    """
    steps = rng.standard_t(rng.choice([3, 5, 30]), size=length)
    if rng.random() < 0.3:
        steps *= np.exp(0.7 * _smooth_noise(rng, length, 0.98))
    kind = rng.random()
    if kind < 0.2:  # momentum
        steps = lfilter([1.0], [1.0, -rng.uniform(0.1, 0.9)], steps)
    walk = np.cumsum(steps + 0.1 * rng.normal())
    if kind > 0.75:
        walk = _smooth_noise(rng, length, 1 - 10 ** rng.uniform(-3, -1.3)) * 10
    if rng.random() < 0.4:
        walk = walk + rng.lognormal(0, 1) * rng.normal(size=length)
    if rng.random() < 0.3:
        walk = np.exp(rng.uniform(0.1, 1.0) * walk / max(walk.std(), 1e-6))
    if rng.random() < 0.2:
        walk = walk + rng.uniform(0.1, 0.5) * walk.std() * _season(rng, length, np.arange(length))
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


def _augment(rng: np.random.Generator, series: np.ndarray) -> np.ndarray:
    """Standardise series, flip some, and add mixtures of two."""
    unit = (series - series.mean(axis=1, keepdims=True)) / (
        series.std(axis=1, keepdims=True) + 1e-9
    )
    # Mixtures of two standardised series, as in TSMixup (Chronos, arXiv 2403.07815).
    share = rng.uniform(0.1, 0.9, size=(len(series) // 5, 1))
    first, second = rng.integers(len(series), size=(2, len(share)))
    mixed = share * unit[first] + (1 - share) * unit[second]
    flipped = rng.random(len(unit)) < 0.15
    unit[flipped] *= -1
    return np.concatenate([unit, mixed])


def _observe(rng: np.random.Generator, contexts: np.ndarray) -> np.ndarray:
    """Cut some histories shorter, and leave out values: NaN is missing."""
    n, longest = contexts.shape
    length = np.exp(rng.uniform(np.log(6), np.log(longest), size=n)).astype(int)
    length[rng.random(n) < 0.6] = longest
    steps = np.arange(longest)
    contexts[steps < longest - length[:, None]] = np.nan
    for i in np.flatnonzero(rng.random(n) < 0.08):
        if rng.random() < 0.5:
            contexts[i, rng.random(longest) < rng.uniform(0.01, 0.7)] = np.nan
        else:
            at = rng.integers(longest)
            contexts[i, at : at + rng.integers(1, 60)] = np.nan
    return contexts


def _history_length(rng: np.random.Generator, context: int) -> int:
    """Draw how long the histories of a batch are.

    Trends and shifts are drawn relative to a series' length, so that short series
    have to be drawn short: a piece of a long one hardly trends.
    """
    kind = rng.random()
    if kind < 0.4:
        return context
    if kind < 0.6:
        return context // 2
    return int(np.exp(rng.uniform(np.log(context / 32), np.log(context))))


def window_batches(
    n_batches: int, context: int, horizon: int, seed: int, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of raw windows, about 2,700 each.

    Parameters
    ----------
    n_batches : int
        Batches to draw.
    context, horizon : int
        Length of the two parts.
    seed : int
        Batch ``i`` depends on ``(seed, i)`` alone.
    first : int, default 0
        Number of the first batch, to go on after a stop.

    Yields
    ------
    contexts : numpy.ndarray of float32, shape (n, context)
        Many have a shorter history, with NaN before it; some have gaps.
    targets : numpy.ndarray of float32, shape (n, horizon)
        NaN further ahead than two and a half times the longest history of the batch.
    """
    for batch in range(first, first + n_batches):
        rng = np.random.default_rng([seed, batch])
        history = _history_length(rng, context)
        future = min(horizon, 5 * history // 2)
        length = (history + future) * 5 // 4
        pool = _pool_series(int(rng.integers(2**31)), length, per_generator=16)
        n = len(pool)
        own = [nested_seasonal(rng, length) for _ in range(3 * n // 2)]
        walks = [random_walk(rng, length) for _ in range(n // 4)]
        demand = [counts(rng, length) for _ in range(n // 6)]
        series = np.concatenate([pool, own, walks, demand])
        series = _augment(rng, series[np.isfinite(series).all(axis=1)])
        start = rng.integers(0, length - history - future + 1, size=len(series))
        windows = np.take_along_axis(series, start[:, None] + np.arange(history + future), axis=1)
        contexts = np.full((len(windows), context), np.nan, dtype=np.float32)
        contexts[:, context - history :] = _observe(rng, windows[:, :history].astype(np.float32))
        targets = np.full((len(windows), horizon), np.nan, dtype=np.float32)
        targets[:, :future] = windows[:, history:]
        keep = np.isfinite(contexts).sum(axis=1) >= 2
        yield contexts[keep], targets[keep]
