import numpy as np
from conftest import seasonal
from hypothesis import given
from hypothesis import strategies as st

from distilts_forecaster.windows.source import Chunks, prepare_rows, prepare_series
from distilts_forecaster.windows.splitting import split_windows


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


def test_rows_that_may_share_targets_are_kept_out_of_the_fit():
    rows = prepare_rows(np.zeros((50, 10, 1)), np.zeros((50, 4, 1)))
    split = split_windows(rows, Chunks(10, 4))
    assert (split.fit_stop, split.validation_start) == (37, 40)
