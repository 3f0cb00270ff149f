from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal
from hypothesis import assume, given
from hypothesis import strategies as st

from distilts_forecaster.windows.cutting import (
    context_windows,
    history_windows,
    iterate_chunks,
    target_windows,
)
from distilts_forecaster.windows.scaling import SOFTNESS, normalise_contexts, to_rows
from distilts_forecaster.windows.source import Chunks, prepare_rows, prepare_series
from distilts_forecaster.windows.splitting import split_windows


@given(
    n=st.integers(12, 60),
    length=st.integers(1, 8),
    steps=st.integers(1, 4),
    shift=st.integers(0, 3),
)
def test_windows_are_the_slices_their_origin_names(n, length, steps, shift):
    values = np.arange(2.0 * n).reshape(n, 2)
    origins = np.arange(length, n - shift - steps + 1)[::-1]
    assume(len(origins))
    contexts = context_windows(values, origins, length)
    targets = target_windows(values, origins, steps, shift)
    for origin, context, target in zip(origins, contexts, targets, strict=True):
        np.testing.assert_array_equal(context, values[origin - length : origin])
        np.testing.assert_array_equal(target, values[origin + shift : origin + shift + steps])


def test_histories_are_padded_where_the_series_is_too_young():
    values = np.arange(20.0).reshape(10, 2)
    found = history_windows(values, np.array([3, 10]), 5)
    np.testing.assert_array_equal(found[1], values[5:])
    np.testing.assert_array_equal(found[0, 2:], values[:3])
    assert np.isnan(found[0, :2]).all()
    np.testing.assert_array_equal(
        history_windows(values, np.array([7, 5]), 5), context_windows(values, np.array([7, 5]), 5)
    )


def test_rows_are_ordered_by_window_then_component():
    windows = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(to_rows(windows)[1], windows[0, :, 1])
    np.testing.assert_array_equal(to_rows(windows)[2], windows[1, :, 0])


@given(
    n=st.integers(2, 3000),
    length=st.integers(1, 600),
    steps=st.integers(1, 200),
    shift=st.integers(0, 5),
)
def test_no_target_is_on_both_sides_of_a_split(n, length, steps, shift):
    split = split_windows(
        prepare_series(np.arange(float(n))[:, None]), Chunks(length, steps, shift)
    )
    if split is None:
        assert n - length - shift < 4  # too few windows to split even one step
        return
    first_held_out = split.validation_start + shift
    last_fitted = split.fit_stop - 1 + shift + split.horizon - 1
    assert last_fitted < first_held_out
    assert split.fit_stop > length
    assert split.validation_start + shift + split.horizon <= n
    assert split.horizon <= steps


def test_the_full_horizon_is_validated_on_where_the_history_allows_it():
    assert split_windows(prepare_series(seasonal(1000)), Chunks(512, 96)).horizon == 96
    assert split_windows(prepare_series(seasonal(700)), Chunks(512, 96)).horizon == 48


def test_a_split_counts_usable_windows_only():
    values = seasonal(500)
    whole = split_windows(prepare_series(values[:300]), Chunks(24, 6))
    values[300:] = np.nan
    # Later by the windows of whose targets a part is known, a fifth of which are held out.
    split = split_windows(prepare_series(values), Chunks(24, 6))
    assert whole.validation_start <= split.validation_start <= whole.validation_start + 5
    assert split.horizon == 6
    values[:] = np.nan
    assert split_windows(prepare_series(values), Chunks(24, 6)) is None


@given(
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e12]), shift=st.sampled_from([0.0, 1.0, -1e3])
)
def test_prepared_values_do_not_depend_on_shift_and_scale(scale, shift):
    values = np.random.default_rng(0).normal(size=(50, 2))
    prepared = prepare_series((values + shift) * scale)
    np.testing.assert_allclose(prepared.values, prepare_series(values).values, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 5.0, 1e300, 1e-300])
def test_a_constant_series_is_prepared_to_zeros(constant):
    with np.errstate(over="ignore"):  # 1e300 has no float32
        prepared = prepare_series(np.full((20, 1), constant))
    np.testing.assert_array_equal(prepared.values, 0.0)


def test_windows_need_a_quarter_of_their_context_and_some_of_their_target():
    values = np.arange(20.0)[:, None]
    values[10] = np.nan
    prepared = prepare_series(values)
    assert np.flatnonzero(prepared.usable(4)).tolist() == list(range(4, 21))
    values[7:14] = np.nan
    prepared = prepare_series(values)
    origins = np.flatnonzero(prepared.usable(4))
    assert origins.tolist() == [4, 5, 6, 7, 8, 9, 10, *range(15, 21)]
    origins = np.flatnonzero(prepared.usable(4, target_stop=3))
    assert origins.tolist() == [4, 5, 6, 15, 16, 17]
    origins = np.flatnonzero(prepared.usable(4, target_stop=4, output_chunk_shift=2))
    assert origins.tolist() == [4, 15, 16]


def test_windows_of_short_series_reach_beyond_its_ends():
    prepared = replace(prepare_series(np.arange(10.0)[:, None]), open_start=True, open_end=True)
    assert np.flatnonzero(prepared.usable(8)).tolist() == list(range(2, 11))
    origins = np.flatnonzero(prepared.usable(8, target_stop=6, output_chunk_shift=2))
    assert origins.tolist() == list(range(2, 8))
    contexts, unknown = prepared.filled_contexts(np.array([3]), 4)
    assert unknown is None
    np.testing.assert_allclose(contexts[0, :, 0], prepared.values[[0, 0, 1, 2], 0])


def test_a_component_without_values_is_marked():
    values = np.stack([np.arange(10.0), np.r_[np.full(6, np.nan), np.arange(4.0)]], axis=1)
    contexts, unknown = prepare_series(values).filled_contexts(np.array([6, 8]), 4)
    assert unknown.tolist() == [[False, True], [False, False]]
    assert np.isfinite(contexts).all()


@pytest.mark.parametrize(("length", "target_stop"), [(20, 0), (16, 4), (21, 0), (16, 5)])
def test_a_series_as_long_as_a_window_has_one_and_a_shorter_one_none(length, target_stop):
    complete = prepare_series(np.arange(20.0)[:, None]).usable(length, target_stop)
    assert complete.shape == (21,)
    assert complete.sum() == (length + target_stop <= 20)


def test_targets_past_the_end_are_missing():
    values = np.arange(10.0)[:, None]
    targets = target_windows(values, np.array([6, 8, 10]), 4)[:, :, 0]
    np.testing.assert_array_equal(targets, [[6, 7, 8, 9], [8, 9, np.nan, np.nan], [np.nan] * 4])


def test_normalised_windows_have_mean_zero_and_bounded_scale():
    values = np.random.default_rng(0).normal(size=(1, 40, 3)).astype(np.float32)
    values[0, :, 1] = 7.0  # constant
    windows = normalise_contexts(values)
    np.testing.assert_allclose(windows.features.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_array_equal(windows.features[1], 0.0)
    restored = windows.features * windows.scale + windows.mean
    np.testing.assert_allclose(restored, values[0].T, atol=1e-5)
    np.testing.assert_allclose(windows.normalise_targets(restored), windows.features, atol=1e-5)


@given(n=st.integers(0, 20_000), components=st.integers(1, 9000))
def test_chunks_cover_all_origins_in_order(n, components):
    origins = np.arange(n)
    chunks = list(iterate_chunks(origins, components))
    assert sum(len(c) for c in chunks) == n
    if chunks:
        np.testing.assert_array_equal(np.concatenate(chunks), origins)
        assert max(len(c) for c in chunks) * components <= max(4096, components)


def test_a_nearly_constant_window_is_not_blown_up():
    """Divided by its own deviation it would have targets of a thousand times that of others."""
    rng = np.random.default_rng(0)
    contexts = rng.normal(size=(2, 40, 1)).astype(np.float32)
    contexts[1] *= 1e-3
    windows = normalise_contexts(contexts)
    np.testing.assert_allclose(windows.scale[1], SOFTNESS, rtol=1e-4)
    np.testing.assert_allclose(windows.scale[0], np.hypot(contexts[0].std(), SOFTNESS), rtol=1e-4)
    assert SOFTNESS == 3.0  # of a series' standard deviation: measured, see the module
    targets = windows.normalise_targets(np.ones((2, 4), np.float32))
    assert np.abs(targets).max() < 0.5


@pytest.mark.parametrize("gaps", [False, True])
def test_rows_are_the_windows_they_were_cut_from(gaps):
    values = seasonal(40, components=2)
    if gaps:
        values[::7, 0] = np.nan
    origins = np.arange(10, 36)
    contexts = np.stack([values[o - 10 : o] for o in origins])
    targets = np.stack([values[o : o + 4] for o in origins])
    rows, series = prepare_rows(contexts, targets), prepare_series(values)
    assert rows.n_origins == len(origins)
    assert rows.has_gaps == gaps
    number = np.array([3, 0, 20])
    np.testing.assert_array_equal(rows.history(number, 6), series.history(origins[number], 6))
    for made, expected in (
        (rows.contexts(number, 6), series.contexts(origins[number], 6)),
        (rows.targets(number, 3, 1), series.targets(origins[number], 3, 1)),
    ):
        scale = (rows.std / series.std)[None, None]
        shift = ((rows.location - series.location) / series.std)[None, None]
        np.testing.assert_allclose(made * scale + shift, expected, atol=1e-5)
    np.testing.assert_array_equal(rows.usable(10, 4), series.usable(10, 4)[origins])
    longer = rows.history(number, 12)
    assert np.isnan(longer[:, :2]).all()
    np.testing.assert_array_equal(longer[:, 2:], contexts[number].astype(np.float32))


def test_rows_that_may_share_targets_are_kept_out_of_the_fit():
    rows = prepare_rows(np.zeros((50, 10, 1)), np.zeros((50, 4, 1)))
    split = split_windows(rows, Chunks(10, 4))
    assert (split.fit_stop, split.validation_start) == (37, 40)
