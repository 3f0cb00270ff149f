"""What the Darts facade tells Darts and scikit-learn about itself."""

from __future__ import annotations

import copy
import inspect
from functools import wraps
from typing import Any, Self

import numpy as np
from darts import TimeSeries
from darts.models.forecasting.forecasting_model import GlobalForecastingModel
from darts.utils.likelihood_models.base import Likelihood, LikelihoodType, quantile_names

from distilts_forecaster.runtime.checks import check_integer
from distilts_forecaster.settings import FEWEST_POINTS, LONGEST_CONTEXT, Settings, fewest_points

__all__ = ["DartsContract", "copy_parameters"]


class DartsContract:
    """Mixin of the Darts facade: lengths, lags, and what it supports.

    Lengths that the user gave never change. Where they were left open, Darts is told the smallest
    lags before ``fit``, since a few points can be fitted, and after it the history that the
    student needs, which may be less than it looks at. While a
    backtest fits again, the smallest are told all along: otherwise forecasts of one series would
    start later because another series was fitted before it.
    """

    _settings: Settings
    _static_names: list[str]
    _lengths: tuple[int, int] | None
    _history_needed: int | None
    _refitting: bool = False
    _n_draws: int = 0
    student_: Any
    model_params: Any
    uses_past_covariates: bool
    uses_future_covariates: bool

    def _forget_covariates(self) -> None:
        """Forget the covariates of the fit before."""
        self.past_covariate_series = self.future_covariate_series = None
        self._expect_past_covariates = self._uses_past_covariates = False
        self._expect_future_covariates = self._uses_future_covariates = False
        self._expect_static_covariates = self._uses_static_covariates = False
        self.static_covariates = None

    @property
    def input_chunk_length(self) -> int:
        """Steps of context the student looks at; 512 before ``fit`` where none was given."""
        return self._lengths[0] if self._lengths else self._settings.input_chunk_length

    @property
    def output_chunk_length(self) -> int:
        """Steps forecast at once; 96 before ``fit`` where none was given."""
        return self._lengths[1] if self._lengths else self._settings.output_chunk_length

    @property
    def _told_lengths(self) -> tuple[int, int]:
        """Return the lengths that Darts is told: the smallest ones where they are left open."""
        if self._lengths and not self._refitting:
            return self._history_needed or self._lengths[0], self._lengths[1]
        given, settings = self._settings.given, self._settings
        steps = settings.output_chunk_length if given[1] else 1
        least = max(1, FEWEST_POINTS - steps)
        return settings.input_chunk_length if given[0] else least, steps

    @property
    def output_chunk_shift(self) -> int:
        """Steps between the end of the context and the first forecast step."""
        return self._settings.output_chunk_shift

    @property
    def supports_multivariate(self) -> bool:
        """Several components are forecast by one student."""
        return True

    @property
    def supports_past_covariates(self) -> bool:
        """All students but the user's own modules take them."""
        return self._settings.student.takes_covariates

    @property
    def supports_future_covariates(self) -> bool:
        """All students but the user's own modules take them."""
        return self._settings.student.takes_covariates

    @property
    def supports_static_covariates(self) -> bool:
        """All students but the user's own modules take them."""
        return self._settings.student.takes_covariates

    @property
    def considers_static_covariates(self) -> bool:
        """Whether the student was fitted with some."""
        return bool(self._static_names)

    @property
    def supports_probabilistic_prediction(self) -> bool:
        """Whether quantiles were asked for."""
        return self._settings.quantiles.wanted

    @property
    def likelihood(self) -> Likelihood | None:
        """The quantiles, as Darts describes them."""
        if not self._settings.quantiles.wanted:
            return None
        names = quantile_names(list(self._settings.quantiles.levels))
        return Likelihood(LikelihoodType.Quantile, names)

    @property
    def supports_sample_weight(self) -> bool:
        """The targets of windows can be weighted."""
        return True

    @property
    def _supports_val_series(self) -> bool:
        """``fit`` takes ``val_series``."""
        return True

    @property
    def min_train_samples(self) -> int:
        """Windows that a history to fit must have at least: one is enough to solve."""
        needed = fewest_points(self._settings) - self.output_chunk_shift
        return max(1, 1 + needed - sum(self._told_lengths))

    @property
    def min_train_series_length(self) -> int:
        """Points that the shortest series must have: those of a window of the given lengths."""
        length, steps = self._told_lengths
        return max(length + steps + self.output_chunk_shift, fewest_points(self._settings))

    @property
    def _target_window_lengths(self) -> tuple[int, int]:
        """Steps of context that a validation series should begin with, and those that follow.

        Where the length is left open, as many as the longest student looks at: in a backtest the
        next student may look at more than the last one.
        """
        steps = self._told_lengths[1]
        length = self._settings.input_chunk_length if self._settings.given[0] else LONGEST_CONTEXT
        return length, self.output_chunk_shift + steps

    @property
    def extreme_lags(
        self,
    ) -> tuple[int | None, int | None, int | None, int | None, int | None, int | None, int]:
        """First and last lag of target, past and future covariates, and the shift."""
        length, steps = self._told_lengths
        first, last = -length, self.output_chunk_shift + steps - 1
        # Covariates that could be used, as in Darts' torch models: backtests ask before fit.
        past = (first, -1) if self.supports_past_covariates else (None, None)
        future = (first, last) if self.supports_future_covariates else (None, None)
        return first, last, *past, *future, self.output_chunk_shift

    @property
    def _model_encoder_settings(
        self,
    ) -> tuple[int | None, int | None, bool, bool, list[int] | None, list[int] | None]:
        """Steps and kinds of the covariates that encoders make."""
        takes_past, takes_future = self.supports_past_covariates, self.supports_future_covariates
        stop = self.output_chunk_shift + self.output_chunk_length
        return self.input_chunk_length, stop, takes_past, takes_future, None, None

    def _encoders_for(self, settings: Settings) -> Any:
        """Return encoders for the lengths that a student will have."""
        before = self._lengths
        self._lengths = (settings.input_chunk_length, settings.output_chunk_length)
        try:
            return self.initialize_encoders()  # type: ignore[attr-defined]
        finally:
            self._lengths = before

    @wraps(GlobalForecastingModel.historical_forecasts)
    def historical_forecasts(self, *args: Any, **kwargs: Any) -> Any:
        """Backtest as Darts does; where it fits again, open lengths are fitted to each history."""
        method = super().historical_forecasts  # type: ignore[misc]
        given = inspect.signature(method).bind_partial(*args, **kwargs)
        for name in ("forecast_horizon", "stride"):
            check_integer(name, given.arguments.get(name, 1))
        self._refitting = bool(given.arguments.get("retrain", True))
        try:
            return method(*args, **kwargs)
        finally:
            self._refitting = False

    def _check_optimizable_historical_forecasts(self, retrain: Any) -> bool:
        """Say whether a backtest is a few matrix products: without refits and covariates."""
        uses_covariates = (
            self.uses_past_covariates or self.uses_future_covariates or bool(self._static_names)
        )
        return (retrain is False or retrain == 0) and not uses_covariates

    def _call_student(
        self,
        contexts: np.ndarray,
        n: int,
        num_samples: int,
        parameters: bool,
        stream: np.random.Generator,
        **covariates: np.ndarray,
    ) -> np.ndarray:
        """Forecast contexts: (N, n, C, num_samples), or (N, n, C * Q, 1) of parameters."""
        student = self.student_
        if parameters:
            levels = self._settings.quantiles.levels
            made = student.predict_quantiles(contexts, n, levels, **covariates)
            return made.reshape(*made.shape[:2], -1, 1)
        if num_samples > 1:
            return student.sample(contexts, n, num_samples, stream, **covariates)
        return student.predict(contexts, n, **covariates)[..., None]

    def _sample_stream(self, random_state: int | None) -> np.random.Generator:
        """Return random numbers: of a seed, or by default the next ones of the model's own."""
        seed = self.model_params["random_state"]
        if random_state is not None or seed is None:
            return np.random.default_rng(random_state)
        self._n_draws += 1
        return np.random.default_rng([seed, self._n_draws])

    def _parameter_names(self, series: TimeSeries) -> list[str]:
        """Return the names of the quantiles of each component."""
        assert self.likelihood is not None
        return self.likelihood.component_names(series=series)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters that the model was made with, as scikit-learn asks for them.

        Parameters
        ----------
        deep : bool, default True
            No effect: parameters have none of their own.

        Returns
        -------
        dict of str to object
        """
        return dict(self.model_params)

    def set_params(self, **params: Any) -> Self:
        """Change parameters. The model is new then: it must be fitted again.

        Parameters
        ----------
        **params
            Of the constructor.

        Returns
        -------
        DistilledForecaster
            Itself.

        Raises
        ------
        TypeError, ValueError
            If there is no such parameter, or it cannot have such a value; nothing is changed.
        """
        unknown = sorted(params.keys() - self.model_params.keys())
        if unknown:
            raise ValueError(
                f"There are no parameters {unknown}; there are {sorted(self.model_params)}."
            )
        changed = type(self)(**copy_parameters({**self.model_params, **params}))
        self.__dict__ = changed.__dict__
        return self

    def __sklearn_clone__(self) -> Self:
        """Return a new model with the same parameters and the same teacher."""
        return self.untrained_model()  # type: ignore[attr-defined]


def copy_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Deep-copy constructor parameters, except for the teacher."""
    return {
        name: value if name == "teacher" else copy.deepcopy(value)
        for name, value in parameters.items()
    }
