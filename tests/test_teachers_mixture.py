import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster.teachers import load_teacher
from distilts_forecaster.teachers.bundled import mixture
from distilts_forecaster.teachers.bundled.mixture import (
    WEIGHTS,
    MixtureTeacher,
    describe,
    end_at_last_observation,
    fill_missing,
    normalise,
    observed_share,
)

MEDIAN = (0.5,)


@pytest.fixture(scope="module")
def bundled():
    return load_teacher("bundled")


def season(period, n=512, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    values = np.sin(2 * np.pi * np.arange(n) / period) + noise * rng.normal(size=n)
    return values.astype(np.float32)[None, :, None]


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    content = WEIGHTS.read_bytes()
    damaged = tmp_path / WEIGHTS.name
    monkeypatch.setattr(mixture, "WEIGHTS", damaged)
    for place in (20, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged"):
            MixtureTeacher(damaged)
    damaged.write_bytes(content)
    MixtureTeacher(damaged)


def test_it_says_who_it_is(bundled):
    info = bundled.info
    assert info.name == "bundled"
    assert len(info.revision) == 16
    assert info.licence == "Apache-2.0"
    assert info.n_parameters > 1e4
    assert info.native_horizon == 336
    assert info.longest_context == 1024
    assert info.quantile_levels[0] == 0.1
    assert info.quantile_levels[-1] == 0.9


def test_its_weights_are_small():
    assert WEIGHTS.stat().st_size < 1e6


@pytest.mark.parametrize(
    ("period", "most"), [(7, 0.25), (12, 0.25), (24, 0.25), (48, 0.25), (131, 0.25), (365, 0.5)]
)
def test_it_continues_a_season_it_has_never_seen(bundled, period, most):
    # 365 is seven tenths of the context.
    values = season(period, 608, noise=0.1)
    forecast = bundled.forecast(values[:, :512], 96, MEDIAN).quantiles[..., 0]
    error = np.abs(forecast - values[:, 512:]).mean()
    assert error < most * np.abs(values[:, 512:]).mean()


def test_it_repeats_a_week_of_different_days(bundled):
    hours = np.arange(800)
    values = np.sin(2 * np.pi * hours / 24) * (1.0 + (hours // 24 % 7 < 5))
    noise = 0.1 * np.random.default_rng(0).normal(size=800)
    context = (values + noise).astype(np.float32)[None, :632, None]
    forecast = bundled.forecast(context, 168, MEDIAN).quantiles[0, :, 0, 0]
    assert np.abs(forecast - values[632:]).mean() < 0.2


def test_a_random_walk_stays_where_it_was_last_seen(bundled):
    walks = np.random.default_rng(0).normal(size=(200, 512, 1)).cumsum(axis=1)
    forecast = bundled.forecast(walks.astype(np.float32), 48, MEDIAN).quantiles[..., 0]
    moved = np.abs(forecast - walks[:, -1:]).mean()
    # The walk itself moves 0.8 * sqrt(24.5) = 3.9 steps on average.
    assert moved < 1.5


def test_its_intervals_of_a_random_walk_cover_what_they_say(bundled):
    walks = np.random.default_rng(1).normal(size=(1000, 560)).cumsum(axis=1)
    contexts = walks[:, :512, None].astype(np.float32)
    low, high = bundled.forecast(contexts, 48, (0.1, 0.9)).quantiles[:, :, 0].transpose(2, 0, 1)
    covered = ((walks[:, 512:] >= low) & (walks[:, 512:] <= high)).mean(axis=0)
    assert 0.7 < covered[:8].mean() < 0.9
    assert 0.7 < covered[-8:].mean() < 0.9


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e12]),
    st.floats(-10, 10),
    st.sampled_from([1, 96, 250]),
)
def test_forecasts_commute_with_shift_and_scale(scale, shift, horizon):
    bundled = load_teacher("bundled")
    values = season(24, noise=0.3).astype(np.float64)
    moved = bundled.forecast(((values + shift) * scale).astype(np.float32), horizon, (0.1, 0.5))
    expected = (
        bundled.forecast(values.astype(np.float32), horizon, (0.1, 0.5)).quantiles + shift
    ) * scale
    np.testing.assert_allclose(moved.quantiles, expected, atol=2e-3 * scale)


def test_a_batch_is_its_windows_one_by_one(bundled):
    windows = np.concatenate([season(p, noise=0.5, seed=p) for p in (7, 24, 96)])
    batch = bundled.forecast(windows, 96, MEDIAN).quantiles
    single = np.concatenate([bundled.forecast(w[None], 96, MEDIAN).quantiles for w in windows])
    np.testing.assert_allclose(batch, single, atol=1e-4)
    together = bundled.forecast(windows.transpose(2, 1, 0), 96, MEDIAN).quantiles
    np.testing.assert_allclose(together[0, :, :, 0], batch[:, :, 0, 0].T, atol=1e-4)


def test_quantiles_are_in_order_and_widen(bundled):
    windows = np.concatenate([season(p, noise=0.5, seed=p) for p in range(5, 40)])
    levels = np.arange(1, 10) / 10
    quantiles = bundled.forecast(windows, 300, levels).quantiles
    assert (np.diff(quantiles, axis=-1) >= -1e-5).all()
    width = (quantiles[..., -1] - quantiles[..., 0]).mean(axis=(0, 2))
    assert width[-1] >= width[100] > width[0]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 30, 511, 512, 2000])
def test_contexts_of_any_length_are_forecast(bundled, length):
    forecast = bundled.forecast(season(24, length), 24, MEDIAN).quantiles
    assert forecast.shape == (1, 24, 1, 1)
    assert np.isfinite(forecast).all()


def test_only_the_last_1024_steps_of_a_long_context_count(bundled):
    values = season(24, 1500, noise=0.3)
    np.testing.assert_array_equal(
        bundled.forecast(values, 48, MEDIAN).quantiles,
        bundled.forecast(values[:, -1024:], 48, MEDIAN).quantiles,
    )


def test_a_padded_history_is_the_same_as_a_short_one(bundled):
    values = season(24, 200, noise=0.3)
    padded = np.concatenate([np.full((1, 300, 1), np.nan, np.float32), values], axis=1)
    np.testing.assert_allclose(
        bundled.forecast(padded, 48, (0.1, 0.5)).quantiles,
        bundled.forecast(values, 48, (0.1, 0.5)).quantiles,
        atol=1e-3,
    )


def test_a_longer_horizon_does_not_change_the_first_steps(bundled):
    values = season(24, noise=0.3)
    np.testing.assert_allclose(
        bundled.forecast(values, 336, MEDIAN).quantiles[:, :48],
        bundled.forecast(values, 48, MEDIAN).quantiles,
        atol=1e-4,
    )


def test_the_hidden_state_tells_contexts_apart(bundled):
    windows = np.concatenate([season(24, noise=0.3), season(24, noise=0.3, seed=1), season(7)])
    hidden = bundled.hidden_states(windows, [-1])
    assert hidden.shape[:3] == (3, 1, 1)
    of_kind = np.linalg.norm(hidden[0] - hidden[1])
    assert np.linalg.norm(hidden[0] - hidden[2]) > 2 * of_kind
    scaled = bundled.hidden_states(100 * windows, [-1])
    np.testing.assert_allclose(scaled, hidden, atol=1e-2)


def test_gaps_do_little_harm(bundled):
    values = season(24)
    gappy = values.copy()
    gappy[0, [3, 100, 101, 300, 511]] = np.nan
    difference = (
        bundled.forecast(gappy, 24, MEDIAN).quantiles
        - bundled.forecast(values, 24, MEDIAN).quantiles
    )
    assert np.abs(difference).mean() < 0.15
    empty = np.full_like(values, np.nan)
    assert np.isfinite(bundled.forecast(empty, 24, MEDIAN).quantiles).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e12, -1e-12])
def test_a_constant_stays_constant(bundled, constant):
    values = np.full((1, 512, 1), constant, dtype=np.float32)
    forecast = bundled.forecast(values, 96, MEDIAN).quantiles
    np.testing.assert_allclose(forecast, values[0, 0, 0], rtol=1e-6)


def test_levels_outside_its_range_are_refused(bundled):
    with pytest.raises(ValueError, match=r"levels from 0.1 to 0.9, got \[0.05\]"):
        bundled.forecast(season(24), 24, (0.05, 0.5))


def test_the_description_is_finite_for_any_row():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 300))
    rows[1] = 0.0
    rows[2] = rng.random(300) < 0.02
    rows[3] = np.exp(8 * rng.normal(size=300))
    rows[4, :297] = np.nan
    rows[5] = np.arange(300)
    description = describe(normalise(rows)[0], np.ones(6))
    assert np.isfinite(description.features).all()
    assert np.abs(description.features).max() <= 20.0
    assert (description.unit > 0).all()


def test_a_gap_at_the_end_puts_the_forecast_further_ahead(bundled):
    values = season(24, noise=0.1)
    gappy = np.concatenate([values[:, 30:], np.full((1, 30, 1), np.nan, np.float32)], axis=1)
    after_gap = bundled.forecast(gappy, 24, (0.1, 0.5)).quantiles
    whole = bundled.forecast(values[:, 30:], 54, (0.1, 0.5)).quantiles[:, 30:]
    np.testing.assert_allclose(after_gap, whole, atol=1e-3)


def test_rows_end_at_their_last_observation():
    rows = np.array([[1, 2, np.nan, np.nan], [1, np.nan, 3, 4], [np.nan] * 4], dtype=np.float32)
    moved, gap = end_at_last_observation(rows)
    np.testing.assert_array_equal(gap, [2, 0, 0])
    np.testing.assert_array_equal(moved[0], [np.nan, np.nan, 1, 2])
    np.testing.assert_array_equal(moved[1:], rows[1:])
    np.testing.assert_allclose(observed_share(rows)[:2], [0.5, 0.75])


def test_a_batch_does_not_depend_on_how_it_is_cut_up(bundled):
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(700, 200, 1)).cumsum(axis=1).astype(np.float32)
    windows[::3, :120] = np.nan
    batch = bundled.forecast(windows, 12, MEDIAN).quantiles
    for part in (slice(0, 3), slice(255, 258), slice(690, 700)):
        some = bundled.forecast(windows[part], 12, MEDIAN).quantiles
        np.testing.assert_allclose(some, batch[part], atol=2e-3)


def test_overlapping_calls_leave_the_threads_of_blas_as_they_were(bundled):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]

    windows = np.random.default_rng(0).normal(size=(300, 64, 1)).astype(np.float32)
    before = threads()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: bundled.forecast(windows, 4, MEDIAN).quantiles, range(6)))
    assert threads() == before
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])


def test_large_batches_do_without_threadpoolctl(bundled, monkeypatch):
    windows = np.random.default_rng(0).normal(size=(300, 64, 1)).astype(np.float32)
    expected = bundled.forecast(windows, 4, MEDIAN).quantiles
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    mixture._blas.cache_clear()
    found = bundled.forecast(windows, 4, MEDIAN).quantiles
    mixture._blas.cache_clear()
    # BLAS rounds a little differently with its own threads.
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_is_forecast_of_no_windows(bundled):
    empty = np.empty((0, 64, 2), dtype=np.float32)
    assert bundled.forecast(empty, 5, (0.1, 0.5)).quantiles.shape == (0, 5, 2, 2)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        bundled.forecast(season(24), 0, MEDIAN)


def test_whole_numbers_are_forecast(bundled):
    counts = np.random.default_rng(0).poisson(3, size=(1, 20, 1))
    np.testing.assert_array_equal(
        bundled.forecast(counts, 4, MEDIAN).quantiles,
        bundled.forecast(counts.astype(np.float32), 4, MEDIAN).quantiles,
    )


def test_weights_may_be_named_by_a_string():
    assert MixtureTeacher(str(WEIGHTS)).info.revision == MixtureTeacher(WEIGHTS).info.revision


def test_filling_leaves_leading_gaps_and_complete_rows_alone():
    complete = np.arange(4.0)[None]
    assert fill_missing(complete) is complete
    rows = np.array([[np.nan, 1.0, np.nan, 2.0], [np.nan] * 4])
    np.testing.assert_array_equal(fill_missing(rows), [[np.nan, 1.0, 1.5, 2.0], [0.0] * 4])


def test_it_is_loaded_once_and_fast():
    start = time.perf_counter()
    MixtureTeacher()
    assert time.perf_counter() - start < 2.0
    assert load_teacher("bundled") is load_teacher("bundled")


def test_its_forecasts_are_those_that_its_revision_names(bundled):
    # Labels are kept by revision. If this fails because forecasts were meant to change,
    # raise _VERSION in mixture.py and write the new numbers here.
    time = np.arange(200.0)
    values = np.sin(2 * np.pi * time / 12) + 0.01 * time + 0.3 * np.sin(time**2)
    forecast = bundled.forecast(values.astype(np.float32)[None, :, None], 24, (0.1, 0.5, 0.9))
    expected = [[0.794, 1.049, 1.311], [2.232, 2.550, 2.882], [1.154, 1.551, 1.962]]
    np.testing.assert_allclose(forecast.quantiles[0, [0, 5, 23], 0], expected, atol=5e-3)
