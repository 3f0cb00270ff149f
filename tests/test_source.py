from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal
from hypothesis import given
from hypothesis import strategies as st

from distilts_forecaster.windows.source import prepare_rows, prepare_series


@given(
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e12]), shift=st.sampled_from([0.0, 1.0, -1e3])
)
def test_prepared_values_do_not_depend_on_shift_and_scale(scale, shift):
    values = np.random.default_rng(0).normal(size=(50, 2))
    prepared = prepare_series((values + shift) * scale)
    np.testing.assert_allclose(prepared.values, prepare_series(values).values, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 5.0, 1e30, 1e-300])
def test_a_constant_series_is_prepared_to_zeros(constant):
    prepared = prepare_series(np.full((20, 1), constant))
    np.testing.assert_array_equal(prepared.values, 0.0)


@pytest.mark.parametrize("size", [1e38, 1e150, 1e-35, 1e-200, 1e-320])
def test_values_that_float32_cannot_hold_are_refused(size):
    values = size * np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match="Multiply by a constant"):
        prepare_series(values)
    with pytest.raises(ValueError, match="Multiply by a constant"):
        prepare_rows(values.reshape(5, 6, 2)[:, :4], values.reshape(5, 6, 2)[:, 4:])


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
