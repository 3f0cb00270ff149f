from dataclasses import replace

import numpy as np
import pytest
from conftest import seasonal
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster.windows.batches import TeacherArray, TeacherRows, TrainingWindows
from distilts_forecaster.windows.scaling import SOFTNESS
from distilts_forecaster.windows.source import Chunks, prepare_series

L, T, C = 12, 4, 2


def windows_of(series, **changes):
    prepared = [prepare_series(values) for values in series]
    origins = [np.arange(L, len(values) - T + 1) for values in series]
    n = sum(len(o) for o in origins)
    given_ = {
        "sources": prepared,
        "chunks": Chunks(L, T),
        "owner": np.concatenate([np.full(len(o), i) for i, o in enumerate(origins)]),
        "origins": np.concatenate(origins),
        "has_target": np.ones(n, dtype=bool),
        "label_row": np.full(n, -1),
    }
    return TrainingWindows(**(given_ | changes))


def test_a_batch_holds_the_windows_asked_for_on_their_own_scale():
    values = seasonal(60, C)
    windows = windows_of([values, values[:40] ** 3])
    batch = windows.batch(np.array([3, 50]))
    for row, number in enumerate([3, 50]):
        series = windows.sources[windows.owner[number]].values
        origin = windows.origins[number]
        context, target = series[origin - L : origin], series[origin : origin + T]
        mean, std = context.mean(axis=0), context.std(axis=0)
        soft = np.sqrt(std**2 + SOFTNESS**2) / SOFTNESS
        np.testing.assert_allclose(batch.context[row], (context - mean) / std, atol=1e-5)
        np.testing.assert_allclose(batch.target[row], (target - mean) / soft, atol=1e-5)
        np.testing.assert_allclose(batch.ratio[row, 0], std / soft, rtol=1e-5)
        # A forecast equal to the target is one on the network's scale too.
        forecast = (target - mean) / std
        np.testing.assert_allclose(forecast * batch.ratio[row], batch.target[row], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(scale=st.sampled_from([1e-3, 1.0, 1e6]), shift=st.floats(-1e3, 1e3))
def test_series_of_any_level_and_spread_make_the_same_batch(scale, shift):
    values = seasonal(60, C)
    plain = windows_of([values]).batch(np.arange(5))
    moved = windows_of([scale * (values + shift)]).batch(np.arange(5))
    np.testing.assert_allclose(moved.context, plain.context, atol=2e-3)
    np.testing.assert_allclose(moved.target, plain.target, atol=2e-3)


def test_constant_windows_are_zero_and_weigh_nothing():
    values = np.concatenate([np.zeros((30, 1)), seasonal(30)])
    batch = windows_of([values]).batch(np.array([0]))
    assert not batch.context.any()
    assert not batch.ratio.any()


def test_what_is_unknown_is_nan():
    windows = windows_of([seasonal(30, C)])
    labels = np.ones((2, T, C, 3), np.float32)
    hidden = np.full((2, 1, 2, 5), 3.0, np.float16)
    label_row = np.full(len(windows), -1)
    label_row[[1, 4]] = [0, 1]
    windows = replace(
        windows,
        teacher=TeacherRows(labels, hidden, np.float32(1.0), np.float32(2.0)),
        label_row=label_row,
        has_target=np.arange(len(windows)) < 3,
    )
    batch = windows.batch(np.arange(5))
    np.testing.assert_array_equal(
        np.isnan(batch.target[:, 0, 0]), [False, False, False, True, True]
    )
    np.testing.assert_array_equal(
        np.isnan(batch.labels[:, 0, 0, 0]), [True, False, True, True, False]
    )
    np.testing.assert_array_equal(batch.hidden[[1, 4]], np.ones((2, 1, 2, 5)))


def test_a_subset_forgets_what_may_not_be_used():
    windows = windows_of([seasonal(30, C)])
    windows = replace(windows, label_row=np.arange(len(windows)))
    n = np.arange(len(windows))
    part = windows.subset(target=n < 4, labelled=(n >= 2) & (n < 6), n_target_steps=2)
    np.testing.assert_array_equal(part.origins, windows.origins[:6])
    np.testing.assert_array_equal(part.has_target, [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(part.label_row, [-1, -1, 2, 3, 4, 5])
    batch = part.batch(np.arange(6))
    # Later steps of the target are not even cut.
    np.testing.assert_array_equal(np.isnan(batch.target[0, :, 0]), [False, False, True, True])


@pytest.mark.parametrize("limit", [10**9, 0])
def test_teacher_arrays_are_the_same_in_memory_and_in_a_file(limit, monkeypatch):
    monkeypatch.setattr("distilts_forecaster.windows.batches._MOST_IN_MEMORY", limit)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 3, 2)).astype(np.float32)
    array = TeacherArray(7)
    array.append(0, np.array([5, 6, 8, 9]), rows[:4])
    array.append(1, np.array([3, 4, 5]), rows[4:])
    np.testing.assert_array_equal(array.rows, rows)
    assert isinstance(array.rows, np.memmap) == (limit == 0)


def test_a_row_is_found_by_its_series_and_origin_alone():
    array = TeacherArray(4)
    array.append(2, np.array([9, 5]), np.zeros((2, 1), np.float32))
    array.append(0, np.array([5, 6]), np.ones((2, 1), np.float32))
    owner, origins = np.array([0, 0, 2, 2, 1]), np.array([6, 7, 5, 9, 5])
    assert array.places(owner, origins).tolist() == [3, -1, 1, 0, -1]
    assert TeacherArray(0).places(owner, origins).tolist() == [-1] * 5


def test_covariates_come_in_the_order_of_the_windows():
    from distilts_forecaster.runtime.covariates import Covariates, CovariateScales

    known = [Covariates(future=np.arange(60.0)[:, None] + 100 * i) for i in range(2)]
    windows = windows_of([seasonal(60), seasonal(60)])
    sources = [replace(s, covariates=c) for s, c in zip(windows.sources, known, strict=True)]
    scales = CovariateScales(future=np.array([[0.0], [1.0]]))
    windows = replace(windows, sources=sources, scales=scales)
    chosen = np.array([60, 3, 50, 0])
    batch = windows.batch(chosen)
    first = windows.origins[chosen] - L + 100 * windows.owner[chosen]
    np.testing.assert_allclose(batch.covariates.future[:, 0, 0], first)
    np.testing.assert_allclose(batch.covariates.future[:, -1, 0], first + L + T - 1)
