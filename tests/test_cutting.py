import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from distilts_forecaster.windows.cutting import (
    context_windows,
    history_windows,
    iterate_chunks,
    target_windows,
)


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


def test_targets_past_the_end_are_missing():
    values = np.arange(10.0)[:, None]
    targets = target_windows(values, np.array([6, 8, 10]), 4)[:, :, 0]
    np.testing.assert_array_equal(targets, [[6, 7, 8, 9], [8, 9, np.nan, np.nan], [np.nan] * 4])


@given(n=st.integers(0, 20_000), components=st.integers(1, 9000))
def test_chunks_cover_all_origins_in_order(n, components):
    origins = np.arange(n)
    chunks = list(iterate_chunks(origins, components))
    assert sum(len(c) for c in chunks) == n
    if chunks:
        np.testing.assert_array_equal(np.concatenate(chunks), origins)
        assert max(len(c) for c in chunks) * components <= max(4096, components)
