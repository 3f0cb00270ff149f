"""The bundled teacher: a mixture of linear experts, NumPy only.

A window is described by the autocorrelation and the root periodogram of its
normalised context. The description picks a mixture of experts, and each expert is
a matrix that was fitted to the synthetic windows that look alike: one knows daily
seasons at a quarter of an hour, one random walks, and so on. It is the idea of
Super-Linear (arXiv 2509.15105), fitted by this package's own exact solver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    check_quantile_levels,
    interpolate_quantiles,
)

__all__ = ["ExpertsTeacher", "describe", "fill_missing", "normalise"]

WEIGHTS = Path(__file__).with_name("experts.safetensors")

#: Windows forecast at once; (rows, experts * rank) float32 is the largest array.
_ROWS_PER_CHUNK = 1024


def fill_missing(rows: np.ndarray) -> np.ndarray:
    """Interpolate inner gaps, repeat the last value over trailing ones.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n, L)
        NaN means missing. Leading gaps stay: they mean a shorter history.

    Returns
    -------
    numpy.ndarray, shape (n, L)
        Rows without any observed value become zero.

    Examples
    --------
    >>> import numpy as np
    >>> fill_missing(np.array([[np.nan, 1.0, np.nan, 3.0, np.nan]]))
    array([[nan,  1.,  2.,  3.,  3.]])
    """
    missing = ~np.isfinite(rows)
    if not missing.any():
        return rows
    rows = rows.copy()
    steps = np.arange(rows.shape[1])
    for i in np.flatnonzero(missing.any(axis=1)):
        observed = np.flatnonzero(~missing[i])
        if len(observed) == 0:
            rows[i] = 0.0
            continue
        inner = slice(observed[0], None)
        rows[i, inner] = np.interp(steps[inner], observed, rows[i, observed])
    return rows


def normalise(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring rows (n, L) to mean zero and deviation one, leading gaps to zero.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n, L)
        Contexts; NaN only before the first observation.

    Returns
    -------
    normalised : numpy.ndarray of float32, shape (n, L)
    mean, scale : numpy.ndarray of float64, shape (n, 1)
        The scale of a constant row is one.
    """
    rows = rows.astype(np.float64)
    observed = np.isfinite(rows)
    count = np.maximum(observed.sum(axis=1, keepdims=True), 1)
    mean = np.where(observed, rows, 0.0).sum(axis=1, keepdims=True) / count
    centred = np.where(observed, rows - mean, 0.0)
    largest = np.abs(centred).max(axis=1, keepdims=True)
    # A constant's rounding error is not a pattern to be extrapolated.
    largest[largest <= 1e-6 * np.abs(mean)] = 0.0
    safe = np.where(largest > 0, largest, 1.0)
    centred = np.where(largest > 0, centred / safe, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    deviation[deviation == 0] = 1.0
    return (centred / deviation).astype(np.float32), mean, safe * deviation


def describe(normalised: np.ndarray) -> np.ndarray:
    """Return what the gate looks at: autocorrelation and root periodogram.

    Parameters
    ----------
    normalised : numpy.ndarray of float32, shape (n, L)

    Returns
    -------
    numpy.ndarray of float32, shape (n, L // 2 + L // 2)
        Autocorrelations at lags 1 to L / 2, then the square root of the
        periodogram at the Fourier frequencies above zero, of mean square one.
    """
    length = normalised.shape[1]
    power = np.abs(np.fft.rfft(normalised, 2 * length, axis=1)) ** 2
    autocovariance = np.fft.irfft(power, axis=1)[:, : length // 2 + 1]
    variance = np.maximum(autocovariance[:, :1], 1e-6 * length)
    periodogram = power[:, 2 : length + 1 : 2]
    total = np.maximum(periodogram.mean(axis=1, keepdims=True), 1e-6 * length)
    return np.concatenate(
        [autocovariance[:, 1:] / variance, np.sqrt(periodogram / total)], axis=1
    ).astype(np.float32)


class ExpertsTeacher:
    """The teacher that comes with the package.

    Contexts longer than 512 steps are cut to their last 512, shorter ones are
    padded; beyond its native horizon its forecast is fed back as context. Gaps are
    interpolated. Components are forecast one by one.

    Parameters
    ----------
    weights : path-like, optional
        A weights file; by default the one in the package.

    Examples
    --------
    >>> import numpy as np
    >>> season = np.sin(np.arange(512) * 2 * np.pi / 24).astype(np.float32)
    >>> teacher = ExpertsTeacher()
    >>> forecast = teacher.forecast(season[None, :, None], horizon=24, quantile_levels=[0.5])
    >>> forecast.quantiles.shape
    (1, 24, 1, 1)
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        from safetensors import safe_open

        with safe_open(str(weights), framework="numpy") as file:
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        self._experts = arrays["experts"]  # (L, E * R)
        self._basis = arrays["basis"]  # (R, T)
        self._projection = arrays["gate_projection"]  # (F, D)
        self._centre = arrays["gate_centre"]  # (F,)
        self._centroids = arrays["gate_centroids"]  # (E, D)
        self._temperature = float(arrays["gate_temperature"][0])
        self._residuals = arrays["residual_quantiles"]  # (E, T, Q)
        self._levels = tuple(round(float(q), 4) for q in arrays["quantile_levels"])
        self._path = weights

    @cached_property
    def info(self) -> TeacherInfo:
        """Identity and limits."""
        arrays = (self._experts, self._basis, self._projection, self._centre, self._centroids)
        return TeacherInfo(
            name="bundled",
            revision=hashlib.blake2b(self._path.read_bytes(), digest_size=8).hexdigest(),
            licence="Apache-2.0",
            n_parameters=sum(array.size for array in (*arrays, self._residuals)),
            native_horizon=self._basis.shape[1],
            longest_context=self._experts.shape[0],
            quantile_levels=self._levels,
        )

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
            Raw values, NaN where missing.
        horizon : int
            Steps to forecast, T.
        quantile_levels : sequence of float
            Between 0.1 and 0.9.

        Returns
        -------
        TeacherForecast
            Without hidden states.

        Raises
        ------
        ValueError
            If a quantile level is outside 0.1 to 0.9.
        """
        check_quantile_levels(self.info, quantile_levels)
        n, length, components = contexts.shape
        longest = self._experts.shape[0]
        rows = contexts.transpose(0, 2, 1).reshape(n * components, length)[:, -longest:]
        rows = fill_missing(rows)
        if rows.shape[1] < longest:
            rows = np.pad(rows, ((0, 0), (longest - rows.shape[1], 0)), constant_values=np.nan)
        quantiles = np.empty((len(rows), horizon, len(quantile_levels)), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_PER_CHUNK):
            part = slice(start, start + _ROWS_PER_CHUNK)
            quantiles[part] = self._forecast_rows(rows[part], horizon, quantile_levels)
        shaped = quantiles.reshape(n, components, horizon, len(quantile_levels))
        return TeacherForecast(np.ascontiguousarray(shaped.transpose(0, 2, 1, 3)))

    def _forecast_rows(
        self, rows: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast rows (n, L), feeding the point forecast back past the native horizon."""
        native = self._basis.shape[1]
        parts: list[np.ndarray] = []
        first_scale = None
        for done in range(0, horizon, native):
            normalised, mean, scale = normalise(rows)
            gate = self.gate(normalised)
            point = self.point(normalised, gate)
            spread = self._spread(gate, quantile_levels)
            if done:
                # The blocks fed back look smoother than they are: uncertainty is at
                # least that at the end of the first block.
                spread = np.broadcast_to(spread[:, -1:], spread.shape)
            first_scale = scale if first_scale is None else first_scale
            point = mean + scale * point
            parts.append(point[..., None] + first_scale[..., None] * spread)
            rows = np.concatenate([rows, point], axis=1)[:, -rows.shape[1] :]
        return np.concatenate(parts, axis=1)[:, :horizon]

    def gate(self, normalised: np.ndarray) -> np.ndarray:
        """Return the weights of the experts for normalised rows: (n, E)."""
        described = (describe(normalised) - self._centre) @ self._projection
        distance = (
            (described**2).sum(axis=1, keepdims=True)
            - 2.0 * described @ self._centroids.T
            + (self._centroids**2).sum(axis=1)
        )
        logits = -distance / self._temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def point(self, normalised: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """Return the mixture's point forecast on the normalised scale: (n, T)."""
        latent = (normalised @ self._experts).reshape(len(gate), gate.shape[1], -1)
        return np.einsum("ne,ner->nr", gate, latent) @ self._basis

    def _spread(self, gate: np.ndarray, quantile_levels: Sequence[float]) -> np.ndarray:
        """Return the residual quantiles of the mixture at the levels asked for: (n, T, Q)."""
        if tuple(quantile_levels) == (0.5,):
            return np.zeros((len(gate), self._basis.shape[1], 1), dtype=np.float32)
        wanted = interpolate_quantiles(self._residuals, self._levels, quantile_levels)
        return np.tensordot(gate, wanted.astype(np.float32), axes=1)
