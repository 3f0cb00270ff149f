"""The bundled teacher: a learned mixture of experts fitted to the context, NumPy only.

The experts (:mod:`distilts_forecaster.teachers.bundled.experts`) are levels, trends, seasonal
profiles and autoregressions, fitted to each context anew. A small network, trained on
synthetic series, looks at the context's statistics, at the experts' errors on its last steps, and
at how they disagree about the step to forecast; it returns their weights and the widths of the
forecast quantiles. Weights depend on the step ahead: one pass serves any horizon.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    check_request,
    interpolate_quantiles,
)
from distilts_forecaster.teachers.bundled import experts
from distilts_forecaster.teachers.bundled.experts import Fitted
from distilts_forecaster.windows.periods import (
    Histories,
    Periods,
    fill_missing,
    find_periods,
    normalise,
)

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = [
    "Description",
    "MixtureTeacher",
    "describe",
    "describe_steps",
    "end_at_last_observation",
    "observed_share",
    "read_contexts",
]

_BLAS_LOCK = Lock()

#: The weights, and their digest (BLAKE2b of 16 bytes): a flipped bit would forecast something else.
WEIGHTS = Path(__file__).with_name("mixture.safetensors")
_DIGEST = "5062ba75db31132a114481c92c3fd29a"

#: Steps of context looked at.
LONGEST_CONTEXT = 1024

#: Horizons up to this were trained on.
NATIVE_HORIZON = 336

#: To be raised whenever the code changes what is forecast: kept labels are found by it.
_VERSION = 1

#: Shorter rows are padded with NaN, so that no lag falls outside.
_SHORTEST_ROW = 32

#: Rows described, and steps mixed, at once: few calls, and arrays that stay in a core's
#: cache.
_ROWS_PER_CHUNK, _STEPS_PER_CHUNK = 512, 2048

#: Errors of the experts are known at about these steps (of a long history).
_ERROR_STEPS = np.array([3.0, 14.0, 40.0, 92.0])


def end_at_last_observation(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move rows (n, L) right until they end with an observation; return them and the steps moved.

    Forecasts lie that much further ahead. Zero steps for rows without any observation.
    """
    observed = np.isfinite(rows)
    gap = np.where(observed.any(axis=1), observed[:, ::-1].argmax(axis=1), 0)
    if not gap.any():
        return rows, gap
    position = np.arange(rows.shape[1]) - gap[:, None]
    moved = np.take_along_axis(rows, np.maximum(position, 0), axis=1)
    return np.where(position >= 0, moved, np.nan).astype(rows.dtype), gap


def observed_share(rows: np.ndarray) -> np.ndarray:
    """Return the share of observed steps since each row's first observation: (n,)."""
    observed = np.isfinite(rows)
    length = rows.shape[1] - observed.argmax(axis=1)
    return observed.sum(axis=1) / length


@dataclass(frozen=True)
class Description:
    """What is known of n rows before any step is forecast.

    ``errors`` (n, B, E) come from :func:`~.experts.backtest`; ``unit`` (n,) is the mean error of
    the best expert: the unit of the network's inputs and outputs. ``features`` are (n, D).
    """

    fitted: Fitted
    length: np.ndarray
    errors: np.ndarray
    unit: np.ndarray
    features: np.ndarray


def _statistics(rows: Histories, periods: Periods, observed_share: np.ndarray) -> np.ndarray:
    """Return statistics of normalised rows: (n, 39)."""
    values, width = rows.values, rows.values.shape[1]
    length = rows.length.astype(np.float32)
    n_changes = np.maximum(length - 1, 1)
    observed = np.arange(width) >= (width - rows.length)[:, None]
    changes = rows.difference(np.ones_like(rows.length), width)
    squares = changes**2
    std = np.sqrt(squares.sum(axis=1) / n_changes) + 1e-4
    absolute = np.abs(changes)
    lowest = values.min(axis=1, initial=np.inf, where=observed)
    highest = values.max(axis=1, initial=-np.inf, where=observed)
    quarter, zero = np.maximum(rows.length // 4, 1), np.zeros_like(rows.length)
    recent = rows.mean_of_last(quarter, zero)
    square = values**2

    def mean_of_quarter(of: np.ndarray) -> np.ndarray:
        """Return the mean over the last quarter of the history."""
        sums = np.cumsum(of, axis=1, dtype=np.float64)
        before = sums[np.arange(len(of)), width - quarter - 1] if width > 1 else 0.0
        return (sums[:, -1] - np.where(quarter < width, before, 0.0)) / quarter

    recent_variance = np.maximum(mean_of_quarter(square) - recent**2, 1e-4)
    recent_change = np.sqrt(np.maximum(mean_of_quarter(squares), 1e-8))
    fourth = np.minimum((squares**2).sum(axis=1) / n_changes / std**4, 1e3)
    lags = np.minimum([1, 2, 3, 4, 8], width - 1)
    columns = [
        np.log(length),
        np.log(std),
        np.log((absolute.sum(axis=1) / n_changes + 1e-4) / std),
        values[:, -1],
        lowest,
        highest,
        ((absolute < 1e-6) & observed).sum(axis=1) / length,
        ((values <= lowest[:, None] + 1e-6) & observed).sum(axis=1) / length,
        np.arcsinh((square * values).sum(axis=1) / length),
        np.log1p((square**2).sum(axis=1) / length),
        np.log1p(fourth),
        recent,
        np.log(recent_variance),
        np.log(recent_change / std),
        rows.median,
        observed_share,
        *periods.correlation[:, lags].T,
        *periods.difference_correlation[:, lags[:3]].T,
        *np.log(periods.steps).T,
        *(periods.steps / length[:, None]).T,
    ]
    return np.concatenate([np.stack(columns, axis=1), periods.features], axis=1)


def describe(rows: Histories, observed_share: np.ndarray) -> Description:
    """Find periods, fit and backtest the experts, and gather the network's features.

    ``rows`` are normalised. ``observed_share`` (n,) is the observed share of the steps since the
    first observation: interpolated values look smoother than the series is.
    """
    periods = find_periods(rows)
    fitted = experts.fit(rows, periods.steps)
    errors = experts.backtest(rows, fitted)
    unit = errors.mean(axis=1).min(axis=1) + 2e-3
    relative = np.log(errors / unit[:, None, None] + 0.05).reshape(len(unit), -1)
    features = np.concatenate(
        [_statistics(rows, periods, observed_share), np.log(unit)[:, None], relative], axis=1
    )
    return Description(
        fitted,
        rows.length,
        errors,
        unit.astype(np.float32),
        np.clip(features, -20.0, 20.0).astype(np.float32),
    )


def read_contexts(
    rows: np.ndarray,
) -> tuple[Histories, np.ndarray, np.ndarray, Description, np.ndarray]:
    """Fill, normalise and describe contexts (n, L), in training as in use.

    Returns the normalised rows, mean and scale (n, 1), description, and gap (n,): forecasts lie
    that much further ahead.
    """
    rows, gap = end_at_last_observation(rows)
    normalised, mean, scale = normalise(fill_missing(rows))
    return normalised, mean, scale, describe(normalised, observed_share(rows)), gap


def describe_steps(description: Description, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Describe steps (n, S) ahead.

    Returns log backtest errors of the experts at about that many steps ahead, in units, (n, S, E);
    and the step, relative to periods and history, (n, S, 6).
    """
    share = experts.backtest_share(description.length)[:, None]
    place = np.interp(np.log(steps / share), np.log(_ERROR_STEPS), np.arange(len(_ERROR_STEPS)))
    left = np.minimum(place.astype(int), len(_ERROR_STEPS) - 2)
    part = (place - left)[..., None].astype(np.float32)
    logs = np.log(description.errors + 1e-4) - np.log(description.unit)[:, None, None]
    at = np.arange(len(steps))[:, None]
    log_errors = logs[at, left] * (1 - part) + logs[at, left + 1] * part
    main, multiple = description.fitted.periods[:, :2, None].transpose(1, 0, 2)
    encoded = [
        np.log(steps) / 3 - 1,
        np.log(steps / main),
        np.log(steps / multiple),
        np.log(steps / description.length[:, None]),
        np.minimum(steps / NATIVE_HORIZON, 3.0),
        (steps - 1) % main / main,
    ]
    return log_errors.astype(np.float32), np.stack(encoded, axis=-1).astype(np.float32)


class MixtureTeacher:
    """The teacher that comes with the package.

    Looks at the last 1,024 steps of a context, and forecasts any horizon in one pass;
    it was trained on horizons up to 336, and on histories of 6 steps or more. Gaps
    are interpolated; after a gap at the end, the steps asked for are further ahead.
    Components are forecast one by one.

    Parameters
    ----------
    weights : path-like, optional
        A weights file; by default the one in the package.

    Examples
    --------
    >>> import numpy as np
    >>> season = np.sin(np.arange(512) * 2 * np.pi / 24).astype(np.float32)
    >>> teacher = MixtureTeacher()
    >>> forecast = teacher.forecast(season[None, :, None], horizon=24, quantile_levels=[0.5])
    >>> forecast.quantiles.shape
    (1, 24, 1, 1)
    """

    def __init__(self, weights: str | os.PathLike = WEIGHTS) -> None:
        from safetensors import safe_open

        content = Path(weights).read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        if Path(weights) == WEIGHTS and digest != _DIGEST:
            raise ValueError(
                f"{weights} is damaged, it is not the file that this version came with. Install "
                "the package again."
            )
        with safe_open(str(weights), framework="numpy") as file:
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        self._levels = tuple(round(float(q), 4) for q in arrays.pop("quantile_levels"))
        self._arrays = arrays
        version = f"{_VERSION}|".encode() + content
        self._revision = hashlib.blake2b(version, digest_size=8).hexdigest()

    @cached_property
    def info(self) -> TeacherInfo:
        """Identity and limits."""
        return TeacherInfo(
            name="bundled",
            revision=self._revision,
            licence="Apache-2.0",
            n_parameters=sum(array.size for array in self._arrays.values()),
            native_horizon=NATIVE_HORIZON,
            longest_context=LONGEST_CONTEXT,
            takes_missing=True,
            quantile_levels=self._levels,
            hidden="network",
        )

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Forecast what follows each context, at levels between 0.1 and 0.9; see ``Teacher``."""
        check_request(self.info, horizon, quantile_levels)
        n, _, components = contexts.shape
        if n * components == 0:
            return TeacherForecast(
                np.empty((n, horizon, components, len(quantile_levels)), dtype=np.float32)
            )
        quantiles = _in_parts(lambda rows: self._forecast_rows(rows, horizon), _to_rows(contexts))
        quantiles = interpolate_quantiles(quantiles, self._levels, quantile_levels)
        shaped = quantiles.reshape(n, components, horizon, len(quantile_levels))
        return TeacherForecast(np.ascontiguousarray(shaped.transpose(0, 2, 1, 3), np.float32))

    def hidden_states(self, contexts: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Return the network's encoding of statistics and experts' errors: (N, C, 1, D).

        ``steps`` are ignored: one state stands for the whole context.
        """
        n, _, components = contexts.shape
        if n * components == 0:
            return np.empty((n, components, 1, 0), dtype=np.float32)
        states = _in_parts(
            lambda rows: self._hidden(read_contexts(rows)[3].features), _to_rows(contexts)
        )
        return states.reshape(n, components, 1, -1).astype(np.float32)

    def _forecast_rows(self, rows: np.ndarray, horizon: int) -> np.ndarray:
        """Forecast rows (n, L): quantiles (n, T, Q)."""
        normalised, mean, scale, description, gap = read_contexts(rows)
        steps = np.arange(1, horizon + 1) + gap[:, None]
        candidates = experts.forecast(normalised, description.fitted, steps)
        hidden = self._hidden(description.features)
        quantiles = self._mix(description, hidden, candidates, steps)
        constant = (normalised.values == 0).all(axis=1)
        quantiles[constant] = 0.0
        return mean[..., None] + scale[..., None] * quantiles

    def _hidden(self, features: np.ndarray) -> np.ndarray:
        """Return the network's encoding of descriptions: (n, D)."""
        arrays = self._arrays
        hidden = np.clip((features - arrays["centre"]) / arrays["deviation"], -5.0, 5.0)
        for layer in ("describe_1", "describe_2"):
            hidden = np.maximum(hidden @ arrays[f"{layer}.weight"] + arrays[f"{layer}.bias"], 0.0)
        return hidden

    def _mix(
        self,
        description: Description,
        hidden: np.ndarray,
        candidates: np.ndarray,
        steps: np.ndarray,
    ) -> np.ndarray:
        """Weigh the experts' forecasts (n, S, E): quantiles (n, S, Q) on the normalised scale."""
        n, n_steps, n_experts = candidates.shape
        log_errors, encoded = describe_steps(description, steps)
        # One row for each step of each context, a cache's worth at a time.
        log_errors, candidates = (a.reshape(-1, n_experts) for a in (log_errors, candidates))
        encoded = encoded.reshape(len(candidates), -1)
        of_step = hidden @ self._arrays["step_row.weight"] + self._arrays["step_row.bias"]
        of_logit = hidden @ self._arrays["answer_row.weight"]
        quantiles = np.empty((len(candidates), len(self._levels)), dtype=np.float32)
        for start in range(0, len(candidates), _STEPS_PER_CHUNK):
            part = slice(start, start + _STEPS_PER_CHUNK)
            context = np.arange(start, min(part.stop, len(candidates))) // n_steps
            quantiles[part] = self._mix_steps(
                log_errors[part],
                candidates[part],
                encoded[part],
                description.unit[context],
                of_step[context],
                of_logit[context],
            )
        return quantiles.reshape(n, n_steps, -1)

    def _mix_steps(
        self,
        log_errors: np.ndarray,
        candidates: np.ndarray,
        encoded: np.ndarray,
        unit: np.ndarray,
        of_step: np.ndarray,
        of_logit: np.ndarray,
    ) -> np.ndarray:
        """Weigh the experts' forecasts (r, E) of r steps: quantiles (r, Q)."""
        arrays, n_experts = self._arrays, candidates.shape[1]
        trust = _softmax(-2.0 * log_errors)
        pivot = np.einsum("re,re->r", trust, candidates)
        distance = (candidates - pivot[:, None]) / unit[:, None]
        error = np.einsum("re,re->r", trust, log_errors)
        size = np.abs(distance)
        disagreement = np.log(np.einsum("re,re->r", trust, size) + np.float32(0.05))
        seen = np.empty((len(unit), len(arrays["step_1.weight"])), dtype=np.float32)
        # The inverse hyperbolic sine, with functions that NumPy has vectorised.
        seen[:, :n_experts] = np.copysign(np.log(size + np.sqrt(size * size + 1)), distance)
        np.clip(log_errors, -4.0, 6.0, out=seen[:, n_experts : 2 * n_experts])
        seen[:, 2 * n_experts : -2] = encoded
        seen[:, -2], seen[:, -1] = disagreement, error
        state = seen @ arrays["step_1.weight"]
        state += of_step
        np.maximum(state, 0.0, out=state)
        state = state @ arrays["step_2.weight"] + arrays["step_2.bias"]
        np.maximum(state, 0.0, out=state)
        answer = state @ arrays["answer.weight"] + arrays["answer.bias"]
        logits = answer[:, :n_experts] + of_logit - arrays["sharpness"] * log_errors
        point = np.einsum("re,re->r", _softmax(logits), distance)
        log_spread, shift = answer[:, n_experts], answer[:, n_experts + 1]
        widths = answer[:, n_experts + 2 :]
        scale = np.exp(0.5 * (error + disagreement) + np.clip(log_spread, -6.0, 6.0))
        # The softplus.
        widths = np.maximum(widths, 0.0) + np.log1p(np.exp(-np.abs(widths)))
        widths *= scale[:, None]
        middle = len(self._levels) // 2
        median = (point + shift * scale)[:, None]
        below = np.cumsum(widths[:, :middle], axis=1)[:, ::-1]
        above = np.cumsum(widths[:, middle:], axis=1)
        quantiles = np.concatenate([median - below, median, median + above], axis=1)
        return pivot[:, None] + unit[:, None] * quantiles


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController | None:
    """Return a controller of the threads of BLAS, None where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()  # looks for the libraries, for milliseconds


def _to_rows(contexts: np.ndarray) -> np.ndarray:
    """Turn windows (N, L, C) into rows (N * C, l), from the first step known in any row."""
    n, _, components = contexts.shape
    rows = contexts[:, -LONGEST_CONTEXT:].transpose(0, 2, 1).astype(np.float32)
    rows = rows.reshape(n * components, -1)
    # Columns before every first observation cost time and say nothing.
    known = np.isfinite(rows).any(axis=0)
    rows = rows[:, known.argmax() if known.any() else -1 :]
    if rows.shape[1] < _SHORTEST_ROW:
        padding = ((0, 0), (_SHORTEST_ROW - rows.shape[1], 0))
        rows = np.pad(rows, padding, constant_values=np.nan)
    return rows


def _in_parts(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Apply a function to chunks of rows, on two threads where there are many."""
    n_parts = max(-(-len(rows) // _ROWS_PER_CHUNK), 2 if len(rows) >= _ROWS_PER_CHUNK // 2 else 1)
    parts = np.array_split(rows, n_parts)
    limiter = _blas()
    if n_parts == 1 or limiter is None:
        return np.concatenate([function(part) for part in parts])
    # NumPy releases the interpreter for most of it: two threads are 1.5 times as fast
    # as one, if BLAS does not start its own in each (0.8 times). Its number of threads
    # is the process's, so that one call at a time may lower and restore it.
    with (
        _BLAS_LOCK,
        limiter.limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(2) as pool,
    ):
        return np.concatenate(list(pool.map(function, parts)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Return positive weights that sum to one over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
