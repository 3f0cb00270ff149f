"""The base of all fitted students: forecasts, quantiles and sample paths of arrays, NumPy only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from distilts_forecaster.runtime.checks import (
    LARGEST,
    SMALLEST,
    as_numbers,
    check_integer,
    check_magnitude,
)
from distilts_forecaster.runtime.covariates import KINDS, Covariates
from distilts_forecaster.runtime.gaps import check_not_infinite, complete
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.quantiles import (
    ErrorQuantiles,
    interpolate_levels,
    latent_paths,
    values_at,
)

__all__ = ["Forecaster"]

#: Windows (times sample paths) forecast at once: bounds the memory of a large batch.
_WINDOWS_PER_CHUNK = 8192

#: Sample paths that quantiles beyond T are taken from, and the levels taken of the distribution
#: of each.
_N_PATHS = 64
_EQUAL_PARTS = tuple((k + 0.5) / 9 for k in range(9))

_NONE = Covariates()


class Forecaster:
    """What fitted students have in common: shapes, gaps, quantiles, feeding forecasts back.

    Attributes
    ----------
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    n_components : int or None
        Components that a window must have; None takes any number.
    n_parameters : int
        Number of fitted numbers.
    n_covariates : tuple of int
        Past, future and static covariates that forecasts need.
    period : int or None
        Season by which gaps are filled; see :func:`~distilts_forecaster.runtime.gaps.fill_gaps`.
    nonnegative : bool
        Whether forecasts below zero become zero.
    error_quantiles : ErrorQuantiles or None
        Quantiles of the errors; None where the student forecasts points only.
    info : StudentInfo or None
        Where the student comes from: teacher, data, settings, errors.
    """

    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int
    n_components: int | None
    n_parameters: int
    n_covariates: tuple[int, int, int]
    period: int | None
    nonnegative: bool
    error_quantiles: ErrorQuantiles | None
    info: StudentInfo | None

    @property
    def follows_scale(self) -> bool:
        """Whether twice a context has twice the forecast."""
        return True

    def predict(
        self,
        contexts: np.ndarray,
        horizon: int | None = None,
        past_covariates: np.ndarray | None = None,
        future_covariates: np.ndarray | None = None,
        static_covariates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray, shape (L,), (L, C) or (N, L, C)
            One window, one multivariate window, or a batch. Longer contexts are
            cut to their last L steps. NaN means missing, and is filled (see
            :func:`~distilts_forecaster.runtime.gaps.fill_gaps`); shorter contexts are filled before
            their first value. A component without any value has a forecast of NaN.
        horizon : int, optional
            Steps to forecast; by default ``output_chunk_length``. Beyond it the
            forecast is fed back as context.
        past_covariates : numpy.ndarray, shape (N, L + max(0, horizon - T), P), optional
            Needed if the student was fitted with some, from the first step of the context on. A
            single window has no axis N. NaN is not allowed in any covariates.
        future_covariates : numpy.ndarray, shape (N, L + max(horizon, T), F), optional
            The context's, then the forecast's.
        static_covariates : numpy.ndarray, shape (N, C, S), optional

        Returns
        -------
        numpy.ndarray of float64, shape (horizon,), (horizon, C) or (N, horizon, C)

        Raises
        ------
        TypeError
            If the contexts hold anything but real numbers, or ``horizon`` is no integer.
        ValueError
            If the contexts are empty or infinite, have the wrong number of dimensions or
            components, or ``horizon`` is not positive, or beyond
            ``output_chunk_length`` with ``output_chunk_shift > 0``; or if the covariates are
            not those that the student was fitted with.
        """
        windows, horizon, given = self._check(contexts, horizon)
        covariates = self._check_covariates(
            windows, horizon, given, past_covariates, future_covariates, static_covariates
        )

        def forecast(part: np.ndarray, known: Covariates) -> np.ndarray:
            return self._predict(part, horizon, known)

        return _as_given(self._in_parts(forecast, windows, covariates), given)

    def predict_quantiles(
        self,
        contexts: np.ndarray,
        horizon: int | None = None,
        quantile_levels: Sequence[float] | None = None,
        past_covariates: np.ndarray | None = None,
        future_covariates: np.ndarray | None = None,
        static_covariates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecast quantiles of the steps that follow each context.

        Error quantiles are multiplied by the context's standard deviation: zero after a constant
        context. Beyond ``output_chunk_length`` 64 sample paths (always the same) are fed back
        instead of one forecast, and their quantiles are returned. So these widen as uncertainty
        adds up, around the forecast of :meth:`predict`.

        Parameters
        ----------
        contexts, horizon, past_covariates, future_covariates, static_covariates
            As for :meth:`predict`.
        quantile_levels : sequence of float, optional
            Increasing, between 0 and 1. By default those that the student knows; others are
            interpolated, see :func:`~distilts_forecaster.runtime.quantiles.interpolate_levels`.

        Returns
        -------
        numpy.ndarray of float64, shape (horizon, Q), (horizon, C, Q) or (N, horizon, C, Q)
            Not decreasing along the last axis: quantiles never cross.

        Raises
        ------
        ValueError
            If the student forecasts points only, or levels are not between 0 and 1, or what
            :meth:`predict` raises.
        """
        errors = self._known_errors()
        levels = tuple(errors.levels if quantile_levels is None else quantile_levels)
        if not levels or not all(0 < a < 1 for a in levels) or list(levels) != sorted(levels):
            raise ValueError(f"quantile_levels must increase between 0 and 1, got {levels}.")
        windows, horizon, given = self._check(contexts, horizon)
        covariates = self._check_covariates(
            windows, horizon, given, past_covariates, future_covariates, static_covariates
        )

        def forecast(part: np.ndarray, known: Covariates) -> np.ndarray:
            if horizon <= self.output_chunk_length:
                made = self._quantiles(part, known)[:, :horizon]
                return interpolate_levels(made, errors.levels, levels)
            return self._quantiles_beyond(part, horizon, known, levels)

        paths = 1 if horizon <= self.output_chunk_length else _N_PATHS
        return _as_given(self._in_parts(forecast, windows, covariates, paths), given)

    def sample(
        self,
        contexts: np.ndarray,
        horizon: int | None = None,
        n_samples: int = 100,
        random_state: int | np.random.Generator | None = None,
        past_covariates: np.ndarray | None = None,
        future_covariates: np.ndarray | None = None,
        static_covariates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw paths of what may follow each context.

        Errors of neighbouring steps of a path have the autocorrelation of those on held-out
        windows. Beyond ``output_chunk_length`` each path is fed back as its own context.

        Parameters
        ----------
        contexts, horizon, past_covariates, future_covariates, static_covariates
            As for :meth:`predict`.
        n_samples : int, default 100
            S.
        random_state : int or numpy.random.Generator, optional

        Returns
        -------
        numpy.ndarray of float64, shape (horizon, S), (horizon, C, S) or (N, horizon, C, S)

        Raises
        ------
        ValueError
            As :meth:`predict_quantiles`.
        """
        self._known_errors()
        windows, horizon, given = self._check(contexts, horizon)
        covariates = self._check_covariates(
            windows, horizon, given, past_covariates, future_covariates, static_covariates
        )
        rng = np.random.default_rng(random_state)

        def draw(part: np.ndarray, known: Covariates) -> np.ndarray:
            made = [paths for paths, _ in self._walk(part, horizon, known, n_samples, rng)]
            return np.concatenate(made, axis=2).transpose(0, 2, 3, 1)

        return _as_given(self._in_parts(draw, windows, covariates, n_samples), given)

    def _known_errors(self) -> ErrorQuantiles:
        """Return the quantiles of the errors, or raise where there are none."""
        if self.error_quantiles is None:
            raise ValueError(
                "This student forecasts points only: it was fitted without quantiles. Fit it with "
                "quantiles=[0.1, 0.5, 0.9], say."
            )
        return self.error_quantiles

    def _check(self, contexts: np.ndarray, horizon: int | None) -> tuple[np.ndarray, int, int]:
        """Return contexts as (N, L, C), the horizon, and the dimensions given; or raise."""
        horizon = self.output_chunk_length if horizon is None else horizon
        windows = as_numbers("contexts", contexts)
        given = windows.ndim
        if given not in (1, 2, 3):
            raise ValueError(f"contexts must be (L,), (L, C) or (N, L, C), got {given} dimensions.")
        if given == 1:
            windows = windows[:, None]
        if given < 3:
            windows = windows[None]
        _, length, components = windows.shape
        if length == 0:
            raise ValueError(
                f"Each context must have at least one step, got none. The student looks at "
                f"{self.input_chunk_length}."
            )
        if components == 0:
            raise ValueError("Each context must have at least one component, got none.")
        if self.n_components not in (None, components):
            raise ValueError(
                f"This student was fitted on {self.n_components} components, got {components}."
            )
        horizon = check_integer("horizon", horizon, at_least=1)
        if horizon > self.output_chunk_length and self.output_chunk_shift:
            raise ValueError(
                f"A student with output_chunk_shift={self.output_chunk_shift} cannot feed its "
                f"forecasts back: horizon must be at most {self.output_chunk_length}, "
                f"got {horizon}."
            )
        short = self.input_chunk_length - length
        if short > 0:
            windows = np.pad(windows, ((0, 0), (short, 0), (0, 0)), constant_values=np.nan)
        return windows[:, -self.input_chunk_length :], horizon, given

    def _check_covariates(
        self, windows: np.ndarray, horizon: int, given: int, *covariates: np.ndarray | None
    ) -> Covariates:
        """Return the covariates of all windows, or raise where they are not what is needed."""
        needed = self.n_covariates
        if needed == (0, 0, 0) and all(c is None for c in covariates):
            return _NONE
        n, length, components = windows.shape
        steps = self.output_chunk_length
        expected = (
            (n, length + max(0, horizon - steps), needed[0]),
            (n, length + max(horizon, steps), needed[1]),
            (n, components, needed[2]),
        )
        checked = []
        for kind, values, shape in zip(KINDS, covariates, expected, strict=True):
            if (values is None) != (shape[2] == 0):
                raise ValueError(
                    f"This student was fitted {'with' if shape[2] else 'without'} {kind} "
                    f"covariates: {'they are needed' if shape[2] else 'leave them out'}."
                )
            if values is not None:
                values = as_numbers(f"{kind}_covariates", values)
                values = values[None] if given < 3 and values.ndim == 2 else values
                if values.shape != shape:
                    raise ValueError(f"{kind}_covariates must be {shape}, got {values.shape}.")
                if not np.isfinite(values).all():
                    raise ValueError(f"{kind}_covariates must be finite: fill what is missing.")
            checked.append(values)
        return Covariates(*checked)

    def _in_parts(
        self,
        forecast: Callable[[np.ndarray, Covariates], np.ndarray],
        windows: np.ndarray,
        covariates: Covariates,
        paths: int = 1,
    ) -> np.ndarray:
        """Forecast some windows at a time, their gaps filled and negative forecasts mended."""
        n, step = len(windows), max(1, _WINDOWS_PER_CHUNK // paths)
        if n == 0:  # as for one, without it
            one = Covariates(
                *(None if c is None else np.zeros((1, *c.shape[1:])) for c in covariates.by_kind())
            )
            return self._in_parts(forecast, np.zeros((1, *windows.shape[1:])), one, paths)[:0]
        if n > step:
            starts = range(0, n, step)
            parts = (
                (
                    windows[i : i + step],
                    covariates.rows(slice(i, i + step)) if covariates else _NONE,
                )
                for i in starts
            )
            return np.concatenate([self._in_parts(forecast, *part, paths) for part in parts])
        # A gap makes the forecast NaN, and its sum: that is faster to look at than the contexts.
        # Sample paths must not be drawn twice, so for them the contexts are looked at first.
        made = forecast(windows, covariates) if paths == 1 else None
        if made is None or not SMALLEST < abs(made.sum()) < LARGEST:
            check_not_infinite(windows, "The contexts hold")
            windows, unit = self._in_range(windows)
            if np.isnan(windows).any():
                made = self._in_gaps(forecast, windows, covariates)
            elif made is None or unit is not None:
                made = forecast(windows, covariates)
            if unit is not None:
                made = made * unit.reshape(*unit.shape, *[1] * (made.ndim - 3))
        return np.maximum(made, 0.0) if self.nonnegative else made

    def _in_range(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Divide contexts by powers of two where float32 cannot hold their differences.

        Returns the divisors (N, 1, C), None if there are none. ValueError where forecasts do not
        follow the size of their context, and it is too large.
        """
        largest = np.nan_to_num(np.abs(windows)).max(axis=1, keepdims=True)
        outside = (largest > LARGEST) | ((largest > 0) & (largest < SMALLEST))
        if not outside.any():
            return windows, None
        if not self.follows_scale:  # what is too small counts as zero beside the effects
            if (largest > LARGEST).any():
                check_magnitude(windows, "The contexts hold values")
            return windows, None
        exponent = np.where(outside, np.frexp(largest)[1] - 1, 0)
        return np.ldexp(windows, -exponent), np.ldexp(1.0, exponent)

    def _in_gaps(
        self,
        forecast: Callable[[np.ndarray, Covariates], np.ndarray],
        windows: np.ndarray,
        covariates: Covariates,
    ) -> np.ndarray:
        """Forecast windows with their gaps filled; NaN for components without any value."""
        filled, unknown = complete(windows, self.period)
        made = forecast(filled, covariates)
        if unknown is not None:
            made = np.moveaxis(made, 2, 1).astype(np.float64)  # (n, C, horizon, ...)
            made[unknown] = np.nan
            made = np.moveaxis(made, 1, 2)
        return made

    def _predict(self, windows: np.ndarray, horizon: int, covariates: Covariates) -> np.ndarray:
        """Forecast complete (N, L, C) contexts, feeding forecasts back past T."""
        if horizon <= self.output_chunk_length:
            return self._step(windows, covariates)[:, :horizon]  # clipped by the caller
        parts: list[np.ndarray] = []
        recent = windows
        for start, first, stop in self._plan_chunks(horizon, covariates):
            made = self._step(*self._context(recent, start, first, covariates))[:, first:stop]
            parts.append(np.maximum(made, 0.0) if self.nonnegative else made)
            recent = self._append(recent, parts[-1])
        return np.concatenate(parts, axis=1)

    def _plan_chunks(self, horizon: int, covariates: Covariates) -> Iterator[tuple[int, int, int]]:
        """Yield where each chunk starts, and which of its steps are new: from first to stop."""
        steps, done = self.output_chunk_length, 0
        while done < horizon:
            # The last chunk ends with the horizon: no covariates are needed beyond it.
            start = min(done, max(0, horizon - steps)) if covariates else done
            stop = min(start + steps, horizon)
            yield start, done - start, stop - start
            done = stop

    def _context(
        self, recent: np.ndarray, start: int, first: int, covariates: Covariates
    ) -> tuple[np.ndarray, Covariates]:
        """Return what a chunk sees that starts ``start`` steps after the context.

        ``recent`` are the last known and forecast steps; the last ``first`` of them are forecast
        again by this chunk.
        """
        length, stop = self.input_chunk_length, recent.shape[1] - first
        if covariates:
            covariates = covariates.chunk(start, length, self.output_chunk_length)
        return recent[:, stop - length : stop], covariates

    def _append(self, recent: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Append forecasts to the steps before them, and keep what the next chunk can see."""
        most = self.input_chunk_length + self.output_chunk_length
        return np.concatenate([recent[:, -most:], made], axis=1)[:, -most:]

    def _walk(
        self,
        windows: np.ndarray,
        horizon: int,
        covariates: Covariates,
        n_paths: int,
        rng: np.random.Generator,
        alike: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw sample paths, chunk by chunk.

        Yields the paths' next steps (N, P, steps, C) and the quantiles that they were drawn
        from, (N, 1, steps, C, Q) for the first chunk and (N, P, steps, C, Q) after it. With
        ``alike`` the same random numbers serve all windows, each with its opposite.
        """
        errors = self._known_errors()
        n, _, components = windows.shape
        steps = self.output_chunk_length
        recent = windows
        known = covariates
        for start, first, stop in self._plan_chunks(horizon, covariates):
            made = self._quantiles(*self._context(recent, start, first, known))
            made = made.reshape(n, -1, steps, components, made.shape[-1])
            if alike:
                half = latent_paths(
                    rng, (steps, n_paths // 2, components), errors.error_autocorrelation
                )
                latent = np.concatenate([half, -half], axis=1).transpose(1, 0, 2)[None]
            else:
                shape = (steps, n, n_paths, components)
                latent = latent_paths(rng, shape, errors.error_autocorrelation).transpose(
                    1, 2, 0, 3
                )
            paths = values_at(made, errors.levels, latent)[:, :, first:stop]
            paths = np.maximum(paths, 0.0) if self.nonnegative else paths
            yield paths, made[:, :, first:stop]
            if len(recent) == n:  # from here on, each path has a context of its own
                recent = np.repeat(windows, n_paths, axis=0)
                known = covariates.rows(np.repeat(np.arange(n), n_paths)) if covariates else _NONE
            recent = self._append(recent, paths.reshape(n * n_paths, -1, components))

    def _quantiles_beyond(
        self, windows: np.ndarray, horizon: int, covariates: Covariates, levels: tuple[float, ...]
    ) -> np.ndarray:
        """Forecast quantiles past T: (N, horizon, C, Q)."""
        errors = self._known_errors()
        rng = np.random.default_rng(0)
        point = self._predict(windows, horizon, covariates)
        pooled: list[np.ndarray] = []
        for _, made in self._walk(windows, horizon, covariates, _N_PATHS, rng, alike=True):
            if not pooled:
                pooled.append(interpolate_levels(made[:, 0], errors.levels, levels))
                median = interpolate_levels(made[:, 0, -1], errors.levels, (0.5,))
                # The median keeps the distance from the forecast that it has at step T.
                kept = median[:, None] - point[:, made.shape[2] - 1, None, :, None]
                continue
            # Equal parts of each path's own distribution: (N, steps, C, P * parts).
            parts = interpolate_levels(made, errors.levels, _EQUAL_PARTS)
            n, _, steps, components, _ = parts.shape
            mixed = np.moveaxis(parts, 1, 3).reshape(n, steps, components, -1)
            mixed = np.moveaxis(np.quantile(mixed, [*levels, 0.5], axis=-1), 0, -1)
            done = sum(p.shape[1] for p in pooled)
            centre = point[:, done : done + steps, :, None] + kept
            pooled.append(centre + mixed[..., :-1] - mixed[..., -1:])
        return np.concatenate(pooled, axis=1)

    def _quantiles(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast quantiles of T steps for (N, L, C) contexts: (N, T, C, Q)."""
        errors = self._known_errors()
        return errors.around(self.central_forecast(windows, covariates), errors.unit(windows))

    def with_error_quantiles(self, errors: ErrorQuantiles) -> Self:
        """Return the same student with other quantiles of its errors."""
        return self._with("error_quantiles", errors)

    def with_info(self, info: StudentInfo | None) -> Self:
        """Return the same student with another ``info``."""
        return self._with("info", info)

    def _with(self, name: str, value: Any) -> Self:
        """Return a copy with another value, even of a frozen student."""
        other = copy.copy(self)
        object.__setattr__(other, name, value)
        return other

    def divided_by(self, std: np.ndarray) -> Self:
        """Return the student that forecasts the same series divided by ``std`` (C,).

        Forecasts follow the size of their contexts by themselves, effects of covariates may not.
        """
        return self

    def central_forecast(self, contexts: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Return the forecast that error quantiles are added to.

        Parameters
        ----------
        contexts : numpy.ndarray of float64, shape (N, L, C)
            Without gaps.
        covariates : Covariates

        Returns
        -------
        numpy.ndarray, shape (N, T, C, 1) or (N, T, C, Q)
            The forecast, or the quantiles that the student itself forecasts, sorted.
        """
        return self._step(contexts, covariates)[..., None]

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts."""
        raise NotImplementedError


def _as_given(forecasts: np.ndarray, given: int) -> np.ndarray:
    """Return forecasts (N, horizon, C, ...) with the dimensions that the contexts had."""
    if given == 1:
        return forecasts[0, :, 0]
    return forecasts[0] if given == 2 else forecasts
