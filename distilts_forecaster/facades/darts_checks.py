"""Checks of Darts series: what was got, what was expected, how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.typing import TimeSeriesLike
from darts.utils.data.utils import _process_sample_weight

from distilts_forecaster.facades.darts_covariates import rows_of
from distilts_forecaster.runtime.gaps import check_not_infinite
from distilts_forecaster.windows.source import Chunks, weights_by_origin

__all__ = ["check_components", "check_context", "check_series", "origin_weights"]


def check_series(
    name: str, series: Any, min_length: int, n_components: int | None = None
) -> list[np.ndarray]:
    """Return the values (n_points, n_components) of Darts series, or of one, checked.

    ``name`` is the parameter's, for messages. By default all need as many components as the first.
    TypeError if ``series`` is neither a TimeSeries nor a sequence of them; ValueError if it is
    empty, or a series is shorter than ``min_length``, probabilistic, infinite somewhere, has other
    components, or one without any value.
    """
    single = isinstance(series, TimeSeries)
    if not single and not (isinstance(series, Sequence) and not isinstance(series, (str, bytes))):
        raise TypeError(
            f"{name} must be a darts TimeSeries or a list of them, got {type(series).__name__}. "
            "Example: TimeSeries.from_dataframe(frame)"
        )
    given = [series] if single else list(series)
    if not given:
        raise ValueError(f"{name} is an empty list: pass at least one TimeSeries.")
    values: list[np.ndarray] = []
    for i, one in enumerate(given):
        label = name if single else f"{name}[{i}]"
        if not isinstance(one, TimeSeries):
            raise TypeError(f"{label} must be a darts TimeSeries, got {type(one).__name__}.")
        if not one.is_deterministic:
            raise ValueError(
                f"{label} holds {one.n_samples} samples of each value: pass a deterministic series."
            )
        expected = values[0].shape[1] if values and n_components is None else n_components
        if expected is not None and one.width != expected:
            raise ValueError(
                f"{label} has {one.width} components, expected {expected}: all series must have "
                "the same."
            )
        if len(one) < min_length:
            raise ValueError(
                f"{label} has {len(one)} points, at least {min_length} are needed: pass a longer "
                "series."
            )
        array = one.all_values(copy=False)[:, :, 0]
        check_not_infinite(array, f"{label} has")
        empty = np.isnan(array).all(axis=0)
        if empty.any():
            raise ValueError(f"{label} has no values at all in {list(one.columns[empty])}.")
        values.append(array)
    return values


def check_components(series: Any, index: int, n_components: int | None) -> np.ndarray:
    """Return the values (n_points, C) of a series, if it has the components of the model.

    ``index`` is its place in the call, for messages. ValueError if it has other components, or
    samples.
    """
    values = series.all_values(copy=False)
    if n_components not in (None, values.shape[1]) or values.shape[2] != 1:
        raise ValueError(
            f"series[{index}] has {values.shape[1]} components and {values.shape[2]} samples; "
            f"the model was fitted on {n_components or 'any'} components and forecasts "
            "deterministic series."
        )
    return values[:, :, 0]


def check_context(
    series: Any, index: int, n_components: int | None, input_chunk_length: int
) -> np.ndarray:
    """Return the last steps of a series to forecast: (input_chunk_length, C), NaN where missing.

    ``index`` is its place in the call, for messages. TypeError if it is not a TimeSeries;
    ValueError if it has other components, or infinite values in those steps.
    """
    if not isinstance(series, TimeSeries):
        raise TypeError(f"series[{index}] must be a darts TimeSeries, got {type(series).__name__}.")
    values = check_components(series, index, n_components)
    context = values[-input_chunk_length:]
    # The sum is finite if every value is, and costs a tenth of checking each.
    if not np.isfinite(context.sum()) and not np.isfinite(context).all():
        where = f" in its last {input_chunk_length} steps"
        check_not_infinite(context, f"series[{index}] has", where)
    if len(context) < input_chunk_length:
        short = input_chunk_length - len(context)
        context = np.pad(context, ((short, 0), (0, 0)), constant_values=np.nan)
    return context


def from_last_context(
    series: TimeSeriesLike, validation: TimeSeriesLike, input_chunk_length: int
) -> TimeSeriesLike:
    """Return what a series of ``validation`` holds from the last context of its series on.

    A backtest that fits open lengths again passes as much as the longest student looks at, whose
    targets the student would be fitted to as well.
    """
    if not isinstance(series, TimeSeries):
        return [
            from_last_context(one, other, input_chunk_length)
            for one, other in zip(series, validation, strict=True)
        ]
    n_known = int(validation.time_index.searchsorted(series.end_time(), side="right"))
    return validation[max(0, n_known - input_chunk_length) :]


def origin_weights(
    sample_weight: TimeSeriesLike | str | None, series: TimeSeriesLike, chunks: Chunks
) -> list[np.ndarray] | list[None]:
    """Return how much the target of each window counts: by series (n_points + 1,), or None.

    It is the mean weight over steps and components. "linear" and "exponential" fall towards the
    past, by Darts' own formula. TypeError or ValueError if it is none of these, or weights do not
    cover their series or are negative.
    """
    targets = [series] if isinstance(series, TimeSeries) else list(series)
    if sample_weight is None:
        return [None] * len(targets)
    if isinstance(sample_weight, (list, tuple)) and not all(
        isinstance(one, TimeSeries) for one in sample_weight
    ):
        raise TypeError('sample_weight must be TimeSeries, "linear" or "exponential".')
    given = _process_sample_weight(sample_weight, targets)
    made = []
    for one, target in zip(given, targets, strict=True):
        n = len(target)
        rows = rows_of("sample_weight", one, target, 0, n, n, known_ahead=True)
        if rows.shape[1] not in (1, target.width):
            raise ValueError(
                f"sample_weight must have 1 component, or the {target.width} of its series, got "
                f"{rows.shape[1]}."
            )
        if (rows < 0).any():
            raise ValueError(f"sample_weight must be at least 0, got {rows.min():g}.")
        made.append(weights_by_origin(rows.mean(axis=1), chunks))
    return made
