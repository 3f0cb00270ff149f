import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from distilts_forecaster.runtime.gaps import fill_covariates, fill_gaps

windows = arrays(
    np.float64,
    array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12),
    elements=st.one_of(st.floats(-100, 100), st.just(np.nan)),
)
periods = st.one_of(st.none(), st.integers(1, 15))


@given(windows, periods)
def test_what_is_observed_stays_and_what_is_missing_is_filled(given_windows, period):
    filled = fill_gaps(given_windows, period)
    known = np.isfinite(given_windows)
    np.testing.assert_array_equal(filled[known], given_windows[known])
    some = known.any(axis=1)
    assert np.isfinite(np.moveaxis(filled, 1, 2)[some]).all()
    assert np.isnan(np.moveaxis(filled, 1, 2)[~some]).all()


@given(windows, periods, st.floats(0.1, 10), st.floats(-10, 10))
def test_filling_commutes_with_shift_and_scale(given_windows, period, scale, shift):
    moved = fill_gaps(shift + scale * given_windows, period)
    np.testing.assert_allclose(moved, shift + scale * fill_gaps(given_windows, period), atol=1e-9)


@given(windows, periods)
def test_what_is_filled_lies_between_what_is_observed(given_windows, period):
    filled = fill_gaps(given_windows, period)
    with np.errstate(all="ignore"):
        low = np.nanmin(np.where(np.isnan(given_windows), np.inf, given_windows), axis=1)
        high = np.nanmax(np.where(np.isnan(given_windows), -np.inf, given_windows), axis=1)
    inside = (filled >= low[:, None] - 1e-9) & (filled <= high[:, None] + 1e-9)
    assert (inside | np.isnan(filled)).all()


@given(windows, periods)
def test_windows_and_components_are_filled_one_by_one(given_windows, period):
    together = fill_gaps(given_windows, period)
    for i, window in enumerate(given_windows):
        for c in range(window.shape[1]):
            alone = fill_gaps(window[None, :, c : c + 1], period)[0, :, 0]
            np.testing.assert_array_equal(together[i, :, c], alone)


@pytest.mark.parametrize("gap", [slice(0, 20), slice(40, 60), slice(80, 96)])
def test_a_season_is_continued_over_long_gaps(gap):
    season = np.sin(np.arange(96) * 2 * np.pi / 12)
    values = season.copy()
    values[gap] = np.nan
    filled = fill_gaps(values[None, :, None], period=12)[0, :, 0]
    np.testing.assert_allclose(filled, season, atol=1e-12)
    without = fill_gaps(values[None, :, None])[0, :, 0]
    assert np.abs(without - season).max() > 0.5


def test_short_gaps_are_interpolated_in_time():
    values = np.arange(48.0) + 10 * (np.arange(48) % 24 == 3)
    values[30:33] = np.nan
    filled = fill_gaps(values[None, :, None], period=24)[0, :, 0]
    np.testing.assert_allclose(filled[30:33], [30, 31, 32])


def test_what_is_complete_is_not_copied():
    complete = np.ones((2, 3, 1))
    assert fill_gaps(complete) is complete


@given(arrays(np.float64, (10, 2), elements=st.one_of(st.floats(-5, 5), st.just(np.nan))))
def test_past_covariates_are_filled_by_what_came_before(rows):
    filled = fill_covariates(rows, known_ahead=False)
    for stop in range(1, 11):
        seen = np.isfinite(rows[:stop]).any(axis=0)
        early = fill_covariates(rows[:stop], known_ahead=False)
        np.testing.assert_array_equal(early[:, seen], filled[:stop, seen])
