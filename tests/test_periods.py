import numpy as np
import pytest

from distilts_forecaster.teachers.bundled.mixture import normalise
from distilts_forecaster.windows import periods
from distilts_forecaster.windows.periods import Histories, find_periods, have_trend


def rows_of(*series):
    width = max(len(s) for s in series)
    padded = [
        np.pad(s, (width - len(s), 0), constant_values=np.nan) for s in map(np.asarray, series)
    ]
    return normalise(np.stack(padded))[0]


def season(period, n, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * np.arange(n) / period) + noise * rng.normal(size=n)


@pytest.mark.parametrize(
    ("period", "n"), [(4, 60), (7, 512), (12, 100), (24, 512), (52, 200), (168, 300), (365, 512)]
)
def test_the_main_period_is_found_up_to_most_of_the_history(period, n):
    rows = rows_of(*(season(period, n, seed=seed) for seed in range(10)))
    found = find_periods(rows).steps[:, 0]
    assert np.median(np.abs(found - period)) <= 0.02 * period


def test_a_week_is_found_beside_its_days():
    hours = np.arange(700)
    days = np.sin(2 * np.pi * hours / 24) * (1 + (hours // 24 % 7 < 5))
    noise = np.random.default_rng(0).normal(size=(5, 700))
    found = find_periods(rows_of(*(days + 0.2 * noise))).steps
    np.testing.assert_array_equal(found[:, 0], 24)
    np.testing.assert_array_equal(found[:, 1], 168)


def test_a_season_is_found_under_a_random_walk():
    rng = np.random.default_rng(0)
    walks = rng.normal(size=(10, 600)).cumsum(axis=1)
    rows = rows_of(*(walk + 4 * season(24, 600, noise=0.0) for walk in walks))
    assert (find_periods(rows).steps == 24).any(axis=1).mean() >= 0.9


def test_trough_before_is_the_minimum_of_the_window_before_a_lag():
    correlation = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    found = periods._trough_before(correlation)
    for lag in range(2, 300):
        np.testing.assert_array_equal(found[:, lag], correlation[:, lag // 2 : lag].min(axis=1))


def test_overlap_correlation_is_the_correlation_over_the_overlap():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 64)).astype(np.float32)
    values[1, :24] = 0.0
    found = periods._overlap_correlation(values, np.array([64, 40]))
    for row, first in ((0, 0), (1, 24)):
        known = values[row, first:].astype(float)
        for lag in (1, 5, 20):
            late, early = known[lag:], known[:-lag]
            expected = late @ early / np.sqrt((late @ late) * (early @ early))
            assert found[row, lag] == pytest.approx(expected, abs=1e-4)
    assert (found[1, 40:] == 0).all()


def test_differences_and_means_leave_out_what_was_not_observed():
    values = np.array([[0.0, 0.0, 5.0, 1.0, 4.0], [1.0, 2.0, 4.0, 8.0, 16.0]], dtype=np.float32)
    rows = Histories.of(values, np.array([3, 5]), np.zeros(2))
    np.testing.assert_array_equal(
        rows.difference(np.array([1, 2]), 5), [[0, 0, 0, -4, 3], [0, 0, 3, 6, 12]]
    )
    np.testing.assert_allclose(rows.mean_of_last(np.array([2, 2]), np.array([1, 0])), [3.0, 12.0])
    before = rows.before(np.array([1, 3]), np.array([0, 1]))
    np.testing.assert_array_equal(before.values, [[0, 0, 0, 5, 1], [0, 0, 0, 1, 2]])
    np.testing.assert_array_equal(before.length, [2, 2])


@pytest.mark.parametrize("scale", [1e-9, 1.0, -1e9])
def test_a_steady_trend_is_seen_under_a_season_and_gaps(scale):
    time = np.arange(200.0)[:, None]
    season = 10 * np.sin(time * 2 * np.pi / 12)
    rising = (season + time) * scale
    rising[50:90] = np.nan
    assert have_trend([rising])
    assert not have_trend([season * scale])
    assert not have_trend([rising[:19], np.full((200, 1), np.nan), np.zeros((200, 1))])
    # Most components and series must have one.
    assert have_trend([rising, rising, season])
    assert not have_trend([np.hstack([rising, season])])


def test_random_walks_seldom_have_a_trend():
    steps = np.random.default_rng(0).normal(size=(300, 300, 1))
    assert np.mean([have_trend([walk]) for walk in steps.cumsum(axis=1)]) < 0.03
