"""The periods of contexts, from their autocorrelation, and the season of whole series.

A context of one component is a row of :class:`Histories`. Rows are aligned at their
ends, so that a shorter history has zeros on its left; everything is done for many
rows at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from distilts_forecaster.runtime.gaps import fill_gaps
from distilts_forecaster.windows.cutting import history_windows

__all__ = [
    "CALENDAR",
    "N_PERIODS",
    "Histories",
    "Periods",
    "fill_missing",
    "find_periods",
    "find_season",
    "have_trend",
    "normalise",
]

#: Periods looked for in each row: the main one, a multiple of it (the week of a day),
#: and the one that the differenced row shows most.
N_PERIODS = 3

#: Periods of common calendars, in steps. Noise moves a peak of the autocorrelation by a
#: few steps: a calendar period within a tenth that correlates as well is preferred.
CALENDAR = np.array([4, 7, 12, 24, 48, 52, 60, 96, 144, 168, 288, 336, 365, 672])


#: Most series to search for a season, and most steps of each; and the autocorrelation that a
#: season must have.
_SEASON_SERIES, _SEASON_STEPS, _SEASON_CORRELATION = 16, 2048, 0.3

#: Means that a trend is seen in, and the share of their variance that a line must explain.
_TREND_PARTS, _TREND_SHARE = 10, 0.97


@dataclass(frozen=True)
class Histories:
    """Histories of one component each, aligned at their ends.

    ``padded`` (n, 2 L) has L zeros, then the values, zero before the first observation; ``length``
    (n,) counts the steps since then, at least 1; ``median`` is (n,).
    """

    padded: np.ndarray
    length: np.ndarray
    median: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, length: np.ndarray, median: np.ndarray) -> Histories:
        """Return the histories of values (n, L)."""
        n, width = values.shape
        padded = np.zeros((n, 2 * width), dtype=np.float32)
        padded[:, width:] = values
        return cls(padded, length, median)

    @property
    def values(self) -> np.ndarray:
        """Values: (n, L)."""
        return self.padded[:, self.padded.shape[1] // 2 :]

    @cached_property
    def sums(self) -> np.ndarray:
        """Running sums of the values: (n, L + 1)."""
        sums = np.zeros((len(self.values), self.values.shape[1] + 1), dtype=np.float32)
        np.cumsum(self.values, axis=1, out=sums[:, 1:])
        return sums

    def lagged(self, lag: np.ndarray, width: int) -> np.ndarray:
        """Return the ``width`` values that end ``lag`` (n,) steps before the end: (n, width)."""
        # Copies of slices: 20 times as fast as gathering the values one by one.
        slices = sliding_window_view(self.padded.reshape(-1), width)
        n, padded_length = self.padded.shape
        return slices[(np.arange(n) + 1) * padded_length - width - lag]

    def before(self, lag: np.ndarray, index: np.ndarray) -> Histories:
        """Return the rows of an index as they were ``lag`` steps ago."""
        width = self.values.shape[1]
        slices = sliding_window_view(self.padded.reshape(-1), width)
        values = slices[(index + 1) * self.padded.shape[1] - width - lag]
        length = np.maximum(self.length[index] - lag, 1)
        return Histories.of(values, length, self.median[index])

    def difference(self, lag: np.ndarray, width: int) -> np.ndarray:
        """Return the last ``width`` differences at ``lag`` (n,), zero where unknown: (n, width)."""
        changes = self.values[:, -width:] - self.lagged(lag, width)
        changes[np.arange(-width, 0) < (lag - self.length)[:, None]] = 0.0
        return changes

    def mean_of_last(self, count: np.ndarray, lag: np.ndarray) -> np.ndarray:
        """Return the mean of the ``count`` values that end ``lag`` steps before the end: (n,)."""
        rows, width = np.arange(len(self.padded)), self.padded.shape[1] // 2
        newest, oldest = width - lag, np.maximum(width - lag - count, 0)
        total = self.sums[rows, newest] - self.sums[rows, oldest]
        return total / np.maximum(count, 1).astype(np.float32)


def fill_missing(rows: np.ndarray) -> np.ndarray:
    """Interpolate inner gaps of rows (n, L), repeat the last value over trailing ones.

    Leading gaps stay: they mean a shorter history. Rows without any observed value become zero.

    >>> import numpy as np
    >>> fill_missing(np.array([[np.nan, 1.0, np.nan, 3.0, np.nan]]))
    array([[nan,  1.,  2.,  3.,  3.]])
    """
    missing = ~np.isfinite(rows)
    if not missing.any():
        return rows
    known = np.where(missing, rows.dtype.type(np.nan), rows)
    filled = fill_gaps(known[..., None])[..., 0]
    filled[missing.all(axis=1)] = 0.0
    leading = np.logical_and.accumulate(missing, axis=1) & ~missing.all(axis=1, keepdims=True)
    filled[leading] = np.nan
    return filled


def normalise(rows: np.ndarray) -> tuple[Histories, np.ndarray, np.ndarray]:
    """Bring rows (n, L) to mean zero and standard deviation one, leading gaps to zero.

    NaN may stand before the first observation alone. Returns mean and scale (n, 1) too; the scale
    of a constant row is one.
    """
    rows = rows.astype(np.float64)
    observed = np.isfinite(rows)
    length = np.maximum(observed.sum(axis=1), 1)
    count = length[:, None]
    mean = np.where(observed, rows, 0.0).sum(axis=1, keepdims=True) / count
    centred = np.where(observed, rows - mean, 0.0)
    largest = np.abs(centred).max(axis=1, keepdims=True)
    # A constant's rounding error is not a pattern to be extrapolated.
    largest[largest <= 4 * np.finfo(np.float32).eps * np.abs(mean)] = 0.0
    safe = np.where(largest > 0, largest, 1.0)
    centred = np.where(largest > 0, centred / safe, 0.0)
    std = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    std[std == 0] = 1.0
    values = (centred / std).astype(np.float32)
    # Zeros stand before the first observation: sorting puts them behind.
    order = np.sort(np.where(observed, values, np.inf), axis=1)
    at = np.arange(len(rows))
    median = 0.5 * (order[at, (length - 1) // 2] + order[at, length // 2])
    return Histories.of(values, length, median.astype(np.float32)), mean, safe * std


@dataclass(frozen=True)
class Periods:
    """What was found of the periods of n rows.

    ``steps`` (n, N_PERIODS) is one where no period was found; ``features`` (n, 3 * N_PERIODS) are
    how far each stands out, and the autocorrelations of values and differences at each; the
    correlations (n, 3 L / 4 + 2) are by lag.
    """

    steps: np.ndarray
    features: np.ndarray
    correlation: np.ndarray
    difference_correlation: np.ndarray


def _overlap_correlation(values: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the correlation of rows with themselves, over the steps that overlap: (n, L).

    Dividing by the power of the overlapping parts keeps long lags comparable with
    short ones: a year can be seen in a year and a half.
    """
    width = values.shape[1]
    spectrum = np.fft.rfft(values, 2 * width, axis=1)
    covariance = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, 2 * width, axis=1)[:, :width]
    power = np.zeros((len(values), 2 * width + 1), dtype=np.float32)
    np.cumsum(values**2, axis=1, out=power[:, 1 : width + 1])
    power[:, width + 1 :] = power[:, width : width + 1]
    total = power[:, -1:]
    starts = np.arange(len(values)) * power.shape[1] + width - length
    late = total - sliding_window_view(power.reshape(-1), width)[starts]
    early = power[:, width:0:-1]
    floor = 1e-4 * total + 1e-12
    correlation = covariance / np.sqrt(np.maximum(late, floor) * np.maximum(early, floor))
    correlation[np.arange(width) >= length[:, None]] = 0.0
    return np.clip(correlation, -1.0, 1.0).astype(np.float32)


def _detrended(rows: Histories) -> np.ndarray:
    """Return the rows less their least-squares line: (n, L)."""
    width = rows.values.shape[1]
    length = rows.length[:, None].astype(np.float32)
    age = np.arange(width, dtype=np.float32)[::-1]
    observed = age < length
    centred = np.where(observed, age - (length - 1) / 2, 0.0)
    slope = (rows.values * centred).sum(axis=1, keepdims=True) / np.maximum(
        (length**3 - length) / 12, 1.0
    )
    mean = rows.values.sum(axis=1, keepdims=True) / length
    return np.where(observed, rows.values - mean - slope * centred, 0.0).astype(np.float32)


def _trough_before(correlation: np.ndarray) -> np.ndarray:
    """Return the minimum over the lags [p / 2, p) for every lag p: (n, L)."""
    width = correlation.shape[1]
    lowest = np.zeros_like(correlation)
    lowest[:, 1:3] = correlation[:, 0:2]
    # Two windows whose width is a power of two cover any window.
    minimum, span = correlation, 1
    while 2 * span < width:
        lag = np.arange(2 * span, min(4 * span, width))
        lowest[:, lag] = np.minimum(minimum[:, lag // 2], minimum[:, lag - span])
        minimum = np.concatenate(
            [np.minimum(minimum[:, :-span], minimum[:, span:]), minimum[:, -span:]], axis=1
        )
        span *= 2
    return lowest


def _prominence(correlation: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return how far each lag's peak stands out of its surroundings: (n, L), -1 for no peak."""
    width = correlation.shape[1]
    lag = np.arange(width)
    longest = (0.75 * length).astype(int)[:, None]
    before = _trough_before(correlation)
    # The trough after p, where it is still seen: what precedes 3 p / 2.
    after_lag = np.minimum(lag + lag // 2 + 1, width - 1)
    trough = np.where(after_lag <= longest, np.maximum(before, before[:, after_lag]), before)
    # Long lags are seen in few pairs of steps and few cycles.
    pairs = np.maximum(length[:, None] - lag, 1)
    doubt = 1.0 / np.sqrt(pairs) + 0.2 * lag / length[:, None]
    bonus = np.zeros(width, dtype=np.float32)
    bonus[CALENDAR[width > CALENDAR]] = 0.05
    peak = np.zeros(correlation.shape, dtype=bool)
    middle = correlation[:, 1:-1]
    peak[:, 1:-1] = (middle >= correlation[:, :-2]) & (middle >= correlation[:, 2:])
    allowed = peak & (lag >= 2) & (lag <= longest)
    return np.where(allowed, correlation - trough - doubt + bonus, -1.0)


def _main_period(prominence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shortest lag that stands out nearly as much as any, and by how much: (n,)."""
    best = prominence.max(axis=1)
    found = best > 0
    # Multiples of a period stand out as much as itself.
    first = (prominence >= 0.65 * best[:, None]).argmax(axis=1)[:, None]
    # Noise breaks a wide peak into many: take the highest of it.
    lag = np.arange(prominence.shape[1])
    wide = (lag >= first) & (lag <= 1.3 * first)
    period = np.where(found, np.where(wide, prominence, -1.0).argmax(axis=1), 1)
    return period, np.where(found, prominence[np.arange(len(period)), period], 0.0)


def _long_multiple(
    correlation: np.ndarray, period: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiple of a period that correlates more than its neighbours: (n,) twice."""
    rows = np.arange(len(period))
    multiples = np.arange(1, 18)
    lags = period[:, None] * multiples
    inside = lags <= 0.75 * length[:, None]
    at = correlation[rows[:, None], np.minimum(lags, correlation.shape[1] - 1)]
    after = np.where(inside[:, 2:], at[:, 2:], at[:, :-2])
    candidate = lags[:, 1:-1]
    excess = (
        at[:, 1:-1]
        - 0.5 * (at[:, :-2] + after)
        - 0.2 * candidate / length[:, None]
        - 0.5 / np.sqrt(np.maximum(length[:, None] - candidate, 1))
        + 0.06 * (multiples[1:-1] == 7)  # weeks
    )
    possible = inside[:, 1:-1] & (period[:, None] > 1)
    excess = np.where(possible, excess, -9.0)
    best = excess.argmax(axis=1)
    found = possible.any(axis=1)
    return (
        np.where(found, candidate[rows, best], period),
        np.where(found, excess[rows, best], -1.0),
    )


def _to_calendar(correlation: np.ndarray, period: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Replace a period by one of the calendar within a tenth, if it correlates as well: (n,)."""
    rows = np.arange(len(period))
    known = CALENDAR[correlation.shape[1] > CALENDAR]
    if len(known) == 0:
        return period
    near = (np.abs(known - period[:, None]) <= 0.1 * period[:, None]) & (
        known <= 0.75 * length[:, None]
    )
    value = np.where(near, correlation[:, known], -9.0)
    # A smooth period a twentieth off still correlates at .95: more slack moves 23 to 24.
    as_good = value.max(axis=1) >= correlation[rows, period] - 0.02
    return np.where(as_good, known[value.argmax(axis=1)], period)


def find_periods(rows: Histories) -> Periods:
    """Find the periods of histories, up to three quarters of their length.

    >>> import numpy as np
    >>> season = np.sin(2 * np.pi * np.arange(512) / 24).astype(np.float32)[None]
    >>> find_periods(Histories.of(season, np.array([512]), np.zeros(1))).steps[0, 0]
    np.int64(24)
    """
    length = rows.length
    detrended = Histories.of(_detrended(rows), length, rows.median)
    width = rows.values.shape[1]
    changes = detrended.difference(np.ones_like(length), width)
    # Periods beyond three quarters of the history are not looked for.
    width = int(0.75 * width) + 2
    correlation = _overlap_correlation(detrended.values, length)[:, :width]
    of_changes = _overlap_correlation(changes, np.maximum(length - 1, 1))[:, :width]
    # The values show a smooth season, the differences one under a wandering level.
    mostly_values = 0.8 * correlation + 0.2 * of_changes
    prominence = _prominence(mostly_values, length)
    found, main_excess = _main_period(prominence)
    main = _to_calendar(mostly_values, found, length)
    multiple, multiple_excess = _long_multiple(mostly_values, found, length)
    moved = np.round(multiple / found).astype(int) * main
    multiple = np.where(moved <= 0.75 * length, moved, multiple)

    other, other_excess = _main_period(_prominence(of_changes, length))
    other = _to_calendar(mostly_values, other, length)
    # Where that is the main period again, take the next that is no multiple of it.
    off = np.arange(width) % found[:, None]
    off = np.minimum(off, found[:, None] - off)
    multiples = (off <= np.maximum(1, 0.08 * found)[:, None]) & (
        np.arange(width) >= 0.9 * found[:, None]
    )
    second = np.where(multiples, -1.0, prominence)
    next_best = second.argmax(axis=1)
    next_excess = np.maximum(second.max(axis=1), 0.0)
    next_best = np.where(next_excess > 0, next_best, 1)
    again = np.abs(other - main) <= 1
    other = np.where(again, next_best, other)
    other_excess = np.where(again, next_excess, other_excess)

    steps = np.stack([main, multiple, other], axis=1)
    at = np.arange(len(main))[:, None]
    features = np.concatenate(
        [
            np.stack([main_excess, multiple_excess, other_excess], axis=1),
            correlation[at, steps],
            of_changes[at, steps],
        ],
        axis=1,
    )
    return Periods(steps, features.astype(np.float32), correlation, of_changes)


def have_trend(histories: Sequence[np.ndarray]) -> bool:
    """Say whether most series (n_points, C) rise or fall steadily.

    Such are those of which a line explains 97 % of the variance of ten means, over equal parts of
    the last 2,048 steps; of one random walk in a hundred.

    >>> have_trend([np.arange(60.0)[:, None]]), have_trend([np.ones((60, 1))])
    (True, False)
    """
    found: list[bool] = []
    for values in histories[:: max(1, len(histories) // _SEASON_SERIES)]:
        recent = values[-_SEASON_STEPS:]
        if len(recent) < 2 * _TREND_PARTS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of parts without any value
            parts = np.array_split(recent, _TREND_PARTS)
            means = np.stack([np.nanmean(part, axis=0) for part in parts])
        for column in means.T:
            place = np.flatnonzero(np.isfinite(column))
            if 2 * len(place) <= _TREND_PARTS:
                found.append(False)
                continue
            line, away = place - place.mean(), column[place] - column[place].mean()
            share = (line @ away) ** 2 / max((line @ line) * (away @ away), 1e-300)
            found.append(bool(share > _TREND_SHARE))
    return sum(found) > len(found) / 2


def find_season(histories: Sequence[np.ndarray]) -> int | None:
    """Return the season that most series (n_points, C) have, None where most have none.

    At most 16 of them are looked at, and their last 2,048 steps. NaN means missing.

    >>> find_season([np.sin(np.arange(200) * 2 * np.pi / 24)[:, None]])
    24
    """
    found: list[int] = []
    for values in histories[:: max(1, len(histories) // _SEASON_SERIES)]:
        length = max(32, min(len(values), _SEASON_STEPS))  # no lag falls outside of 32 steps
        rows = history_windows(values, np.array([len(values)]), length)[0].T
        rows = rows[np.isfinite(rows).sum(axis=1) > 3]
        if not len(rows):
            continue
        normalised, _, _ = normalise(fill_missing(rows))
        periods = find_periods(normalised)
        main = periods.steps[:, 0]
        strength = periods.correlation[np.arange(len(main)), main]
        found += np.where((strength > _SEASON_CORRELATION) & (main > 1), main, 0).tolist()
    most = max(set(found), key=found.count) if found else 0
    return int(most) if most > 1 else None
