"""The experts of the bundled teacher: simple forecasters fitted to the context itself.

Nothing here is learned beforehand. From a context and its periods alone the functions
fit levels, trends, seasonal profiles and autoregressions, and forecast any step ahead
with each of them; :func:`backtest` says how well each would have done on the last steps
of the context. The mixture that weighs them is in
:mod:`distilts_forecaster.teachers.bundled.mixture`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distilts_forecaster.windows.periods import N_PERIODS, Histories

__all__ = [
    "EXPERTS",
    "Fitted",
    "backtest",
    "backtest_share",
    "fit",
    "forecast",
]

#: Exponential memories, in steps, of the levels and of the trends; inf is the whole context.
LEVEL_SPANS = (3.0, 10.0, 40.0, np.inf)
TREND_SPANS = (12.0, 60.0, np.inf)

#: Cycles that a seasonal profile is averaged over, and how an older one counts.
N_CYCLES, CYCLE_DECAY = 6, 0.85

#: Strength of the ridge penalty of the autoregressions, in steps of history. Error of the
#: first on 14 real sets before their test spans, contexts of 512 / 1,024, at 3, 6, 8, 15, 25:
#: .806/.721, .806/.724, .809/.726, .828/.742, .850/.761.
RIDGE = 6.0

#: Steps before the end from which the experts forecast what is known, for histories of
#: 384 steps or more (in proportion for shorter ones), and the bounds between which the
#: errors of the steps ahead are averaged.
BACKTEST_ORIGINS = np.array([8, 24, 48, 72, 96, 128])
BACKTEST_BOUNDS = np.array([0, 8, 24, 64, 128])
BACKTEST_FULL_LENGTH = 384

#: How many of the steps ahead of each origin are checked.
_BACKTEST_STEPS = 12

_SEASONAL = ("repeat", "repeat_last", "repeat_recent", "drift", "profile", "profile_level")
_AUTOREGRESSIONS = ("values", "seasonal_difference", "difference")

#: Names of the experts, in the order of the last axis of every forecast.
EXPERTS = (
    "last",
    *(f"level_{span:.0f}" for span in LEVEL_SPANS),
    *(f"trend_{span:.0f}" for span in TREND_SPANS),
    "median",
    *(f"{kind}_{period}" for period in range(N_PERIODS) for kind in _SEASONAL),
    *(f"autoregression_{kind}" for kind in _AUTOREGRESSIONS),
)


@dataclass(frozen=True)
class Autoregression:
    """A linear regression on lagged values: lags and coefficients (n, F)."""

    lags: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """What :func:`forecast` needs of n rows, besides the rows.

    ``periods`` are (n, N_PERIODS), ``season`` (n,) is the lag of the seasonal differences.
    """

    periods: np.ndarray
    season: np.ndarray
    autoregressions: tuple[Autoregression, ...]

    def take(self, index: np.ndarray) -> Fitted:
        """Return the fit of some rows."""
        return Fitted(
            self.periods[index],
            self.season[index],
            tuple(
                Autoregression(a.lags[index], a.coefficients[index]) for a in self.autoregressions
            ),
        )


def _levels_and_trends(rows: Histories, steps: np.ndarray) -> list[np.ndarray]:
    """Forecast with exponentially weighted levels and damped lines: (n, 1) or (n, S) each."""
    width = rows.values.shape[1]
    at = rows.length - 1
    recent = rows.values[:, ::-1]
    age = np.arange(width)
    forecasts = []
    spans = (*LEVEL_SPANS, *TREND_SPANS)
    weights = np.stack([np.exp(-age / span) for span in spans], axis=1)
    weighted = recent @ weights.astype(np.float32)
    sums = np.cumsum(weights, axis=0)[at]
    for i in range(len(LEVEL_SPANS)):
        forecasts.append((weighted[:, i] / sums[:, i])[:, None])
    weights = weights[:, len(LEVEL_SPANS) :]
    by_age = recent @ (weights * age[:, None]).astype(np.float32)
    age_sums = np.cumsum(weights * age[:, None], axis=0)[at]
    square_sums = np.cumsum(weights * age[:, None] ** 2, axis=0)[at]
    for i, span in enumerate(TREND_SPANS):
        total, first, second = sums[:, len(LEVEL_SPANS) + i], age_sums[:, i], square_sums[:, i]
        values = weighted[:, len(LEVEL_SPANS) + i].astype(np.float64)
        determinant = np.where(rows.length >= 4, total * second - first**2, np.inf)
        slope = (first * values - total * by_age[:, i]) / determinant
        end = (values + slope * first) / total
        memory = np.minimum(span, rows.length)[:, None]
        # Each line is damped as if its slope were forgotten at the pace it is measured at.
        ahead = (slope[:, None] * memory).astype(np.float32) * -np.expm1(
            -steps / memory.astype(np.float32)
        )
        forecasts.append(end[:, None].astype(np.float32) + ahead)
    return forecasts


def _seasonal(rows: Histories, period: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    """Forecast with the last cycles at a period (n,), as ``_SEASONAL`` names them: (n, S) each."""
    n, width = rows.values.shape
    length = rows.length
    period = np.where(period <= length, period, 1)
    zero = np.zeros_like(period)
    cycles_ahead, within = np.divmod(steps - 1, period[:, None])
    last = rows.mean_of_last(period, zero)
    flat = rows.padded.reshape(-1)
    position = (np.arange(n)[:, None] + 1) * 2 * width + within
    profile, profile_weight = np.zeros((2, *steps.shape), dtype=np.float32)
    shape = np.zeros_like(profile)
    shape_weight = np.zeros(n, dtype=np.float32)
    repeat = profile
    for k in range(N_CYCLES):
        back = np.minimum((k + 1) * period, 2 * width)
        cycle = flat[position - back[:, None]]
        weight = np.float32(CYCLE_DECAY**k)
        seen = weight * ((k + 1) * period[:, None] - within <= length[:, None])
        profile, profile_weight = profile + seen * cycle, profile_weight + seen
        # The shape is that of whole cycles about their own levels.
        whole = weight * ((k + 1) * period <= length)
        level = rows.mean_of_last(period, np.minimum(k * period, width))
        shape = shape + whole[:, None] * (cycle - level[:, None])
        shape_weight = shape_weight + whole
        if k == 0:
            repeat = cycle

    def change(count: np.ndarray) -> np.ndarray:
        """Return how far the last ``count`` values are from those a period before."""
        count = np.clip(count, 0, length - period)
        moved = rows.mean_of_last(count, zero) - rows.mean_of_last(count, period)
        return (moved * (count > 0))[:, None]

    return [
        repeat,
        repeat + change(np.ones_like(period)),
        repeat + change(np.maximum(period // 8, 2)),
        repeat + change(period) * (cycles_ahead + 1).astype(np.float32),
        profile / profile_weight,
        shape / shape_weight[:, None] + last[:, None],
    ]


def _lags(periods: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the lags (n, F) of each autoregression, and the season (n,) of the second."""
    main, multiple, other = periods.T
    one = np.ones_like(main)
    # A lag is worth having if enough steps are left to learn its coefficient from.
    main = np.where(1.5 * main > length, one, main)
    multiple = np.where(1.5 * multiple > length, main, multiple)
    other = np.where(1.5 * other > length, one, other)
    twice = np.where(2.5 * main > length, main, 2 * main)
    thrice = np.where(4 * main > length, twice, 3 * main)
    before_main, before_multiple = np.maximum(main - 1, 1), np.maximum(multiple - 1, 1)
    first = (one, 2 * one, 3 * one)
    values = (
        *first, 4 * one, 5 * one, 6 * one, before_main, main, main + 1, main + 2,
        twice, twice + 1, thrice, before_multiple, multiple, multiple + 1, other, other + 1,
    )  # fmt: skip
    seasonal = (*first, before_main, main, main + 1, multiple, multiple + 1)
    difference = (*first, before_main, main, main + 1, before_multiple, multiple, multiple + 1)
    lags = (np.stack(columns, axis=1) for columns in (values, seasonal, difference))
    return (*lags, main)


def _regress(rows: Histories, lags: np.ndarray) -> Autoregression:
    """Fit the values to the values ``lags`` (n, F) before them, with a small ridge penalty."""
    n, width = rows.values.shape
    n_lags = lags.shape[1]
    design = np.empty((n, n_lags, width), dtype=np.float32)
    for i in range(n_lags):
        design[:, i] = rows.lagged(lags[:, i], width)
    usable = np.arange(width) >= (width - rows.length + lags.max(axis=1))[:, None]
    design *= usable[:, None]
    gram = design @ design.transpose(0, 2, 1)
    cross = design @ (rows.values * usable)[..., None]
    power = np.einsum("nff->n", gram) / n_lags / np.maximum(usable.sum(axis=1), 1)
    gram += (RIDGE * power + 1e-3)[:, None, None] * np.eye(n_lags, dtype=np.float32)
    return Autoregression(lags, np.linalg.solve(gram, cross)[..., 0])


def fit(rows: Histories, periods: np.ndarray) -> Fitted:
    """Fit the autoregressions to rows of mean zero and standard deviation one."""
    values, seasonal, difference, season = _lags(periods, rows.length)

    def changes(lag: np.ndarray) -> Histories:
        """Return the history of the differences at a lag."""
        differences = rows.difference(lag, rows.values.shape[1])
        return Histories.of(differences, np.maximum(rows.length - lag, 1), rows.median)

    return Fitted(
        periods,
        season,
        (
            _regress(rows, values),
            _regress(changes(season), seasonal),
            _regress(changes(np.ones_like(season)), difference),
        ),
    )


def _run(
    past: np.ndarray, model: Autoregression, low: np.ndarray, high: np.ndarray, until: np.ndarray
) -> np.ndarray:
    """Iterate an autoregression within bounds until step ``until`` (n,): (n, max(until)).

    ``past`` (n, R) are the last values, at least as many as the longest lag.
    """
    n, width = past.shape
    n_steps = int(until.max())
    series = np.concatenate([past, np.zeros((n, n_steps), np.float32)], axis=1)
    flat = series.reshape(-1)
    order = np.argsort(until, kind="stable")
    target = order * series.shape[1] + width
    source = target[:, None] - model.lags[order]
    coefficients, low, high = model.coefficients[order], low[order], high[order]
    first = np.searchsorted(until[order], np.arange(n_steps), side="right")
    for going in first:
        value = np.einsum("nf,nf->n", flat.take(source[going:]), coefficients[going:])
        np.maximum(value, low[going:], out=value)
        np.minimum(value, high[going:], out=value)
        flat[target[going:]] = value
        source += 1
        target += 1
    return series[:, width:]


def _autoregressive(rows: Histories, fitted: Fitted, until: np.ndarray) -> list[np.ndarray]:
    """Forecast with the autoregressions until step ``until`` (n,): (n, max(until)) each."""
    lowest, highest = rows.values.min(axis=1), rows.values.max(axis=1)
    value_range = highest - lowest
    # An unstable regression stays near what was seen.
    low, high = lowest - 0.5 * value_range, highest + 0.5 * value_range
    values, seasonal, difference = fitted.autoregressions
    forecasts = [_run(rows.values[:, -int(values.lags.max()) :], values, low, high, until)]

    season = np.minimum(fitted.season, rows.length)
    past = rows.difference(season, int(seasonal.lags.max()))
    changes = _run(past, seasonal, -value_range, value_range, until)
    reach = int(season.max())
    series = np.concatenate([rows.values[:, -reach:], changes], axis=1)
    flat = series.reshape(-1)
    position = np.arange(len(series)) * series.shape[1] + reach
    for step in range(changes.shape[1]):
        flat[position + step] += flat[position + step - season]
    forecasts.append(np.clip(series[:, reach:], low[:, None], high[:, None]))

    past = rows.difference(np.ones_like(season), int(difference.lags.max()))
    changes = _run(past, difference, -value_range, value_range, until)
    walk = rows.values[:, -1:] + np.cumsum(changes, axis=1)
    forecasts.append(np.clip(walk, low[:, None], high[:, None]))
    return forecasts


def forecast(rows: Histories, fitted: Fitted, steps: np.ndarray) -> np.ndarray:
    """Forecast steps (n, S) ahead, the first is 1, with every expert: (n, S, len(EXPERTS))."""
    forecasts = [rows.values[:, -1:], *_levels_and_trends(rows, steps), rows.median[:, None]]
    for period in fitted.periods.T:
        forecasts += _seasonal(rows, period, steps)
    at = np.arange(len(steps))[:, None], steps - 1
    forecasts += [path[at] for path in _autoregressive(rows, fitted, steps.max(axis=1))]
    together = np.empty((*steps.shape, len(EXPERTS)), dtype=np.float32)
    for i, each in enumerate(forecasts):
        together[..., i] = each
    return together


def backtest(rows: Histories, fitted: Fitted) -> np.ndarray:
    """Measure the experts on the last steps of the histories: mean absolute errors (n, B, E).

    B goes from the nearest steps ahead to the farthest. The periods, the regressions, the median
    and the scale are those of the whole history: forecasts of its last steps are a little better
    than they would have been. The mixture learns how much.
    """
    n, n_origins, n_bounds = len(rows.length), len(BACKTEST_ORIGINS), len(BACKTEST_BOUNDS) - 1
    share = backtest_share(rows.length)
    ahead = np.ceil(BACKTEST_ORIGINS[:, None] * share).astype(int)
    ahead = np.clip(ahead, 1, np.maximum(rows.length // 2, 1))
    index = np.tile(np.arange(n), n_origins)
    ahead = ahead.reshape(-1)
    past = rows.before(ahead, index)
    fractions = np.arange(1, _BACKTEST_STEPS + 1) / _BACKTEST_STEPS
    steps = np.ceil(ahead[:, None] * fractions - 1e-9).astype(int)
    error = forecast(past, fitted.take(index), steps)
    targets = rows.values[index[:, None], steps - ahead[:, None] - 1]
    error -= targets[..., None]
    np.abs(error, out=error)
    bound = np.searchsorted(BACKTEST_BOUNDS, steps / share[index, None] - 1e-6) - 1
    bound = np.clip(bound, 0, n_bounds - 1)
    member = (bound[..., None] == np.arange(n_bounds)).astype(np.float32)  # (O n, S, B)
    total = (member.transpose(0, 2, 1) @ error).reshape(n_origins, n, n_bounds, -1).sum(axis=0)
    count = member.sum(axis=1).reshape(n_origins, n, n_bounds, 1).sum(axis=0)
    overall = total.sum(axis=1, keepdims=True) / count.sum(axis=1, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1.0), overall)


def backtest_share(length: np.ndarray) -> np.ndarray:
    """Return how far the backtest of histories (n,) looks, relative to that of long ones."""
    return np.minimum(1.0, length / BACKTEST_FULL_LENGTH)
