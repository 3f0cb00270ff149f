"""The Darts facade: TimeSeries in, TimeSeries out, arrays in between."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.models.forecasting.forecasting_model import GlobalForecastingModel
from darts.typing import TimeSeriesLike
from darts.utils.serialization import add_safe_globals

from distilts_forecaster.distill.drift import DriftReport, measure_drift
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.pipeline import fit_student
from distilts_forecaster.facades.darts_backtest import backtest
from distilts_forecaster.facades.darts_checks import (
    check_components,
    check_context,
    check_series,
    from_last_context,
    origin_weights,
)
from distilts_forecaster.facades.darts_contract import DartsContract, copy_parameters
from distilts_forecaster.facades.darts_covariates import (
    check_same_covariates,
    covariates_to_predict,
    static_names,
    with_covariates,
)
from distilts_forecaster.facades.darts_saving import SAVED, PortableModel
from distilts_forecaster.facades.darts_series import like, times_after
from distilts_forecaster.runtime.checks import check_integer, count_unknown, warn_of_unknown
from distilts_forecaster.settings import (
    FEWEST_POINTS,
    check_cache_dir,
    check_takes_covariates,
    fewest_points,
    fit_lengths,
    make_settings,
)
from distilts_forecaster.students.objective import HorizonWeights
from distilts_forecaster.teachers.load import as_specification
from distilts_forecaster.windows.periods import have_trend
from distilts_forecaster.windows.source import prepare_series

__all__ = ["DistilledForecaster"]


class DistilledForecaster(PortableModel, DartsContract, GlobalForecastingModel):
    """A tiny forecaster that has learned from a time-series foundation model.

    ``fit`` asks the teacher for forecasts on windows of the user's own series and
    fits the student to the series and to those forecasts (DistilTS, Li et al., ICASSP
    2026, arXiv 2601.12785). ``predict`` runs the student alone: one matrix product, or a
    small network.

    Parameters
    ----------
    input_chunk_length : int, optional
        Steps of context the student looks at, L. By default 512. Where the series are too short
        for it: up to 1,024, which then begin before the series do, or fewer; see
        :func:`~distilts_forecaster.settings.fit_lengths`.
    output_chunk_length : int, optional
        Steps forecast at once, T. Longer forecasts feed the first ones back. By default 96, or
        fewer where the series are too short for it.
    output_chunk_shift : int, default 0
        Steps between the end of the context and the first forecast step.
    teacher : str, path-like, Darts model, callable or Teacher, default "bundled"
        Who to learn from: ``"bundled"`` (comes with the package), a hub name
        (``"amazon/chronos-2"``), a directory with such weights, a Darts model, a function
        ``(contexts (N, L, C), horizon) -> (N, T, C)``; or a list of these, averaged. See
        :func:`~distilts_forecaster.load_teacher`.
    student : str, settings or torch.nn.Module, default "linear"
        What to fit: ``"linear"`` is solved exactly; ``"dlinear"``, ``"mlp"`` and
        ``"itransformer"`` are trained by gradient (extra ``torch``). Or one of them with
        settings: ``Linear(...)``, ``DLinear(...)``, ``MLP(...)``, ``ITransformer(...)``. Or
        your own module, see :class:`~distilts_forecaster.students.Network`.
    distillation_weight : float or "auto", default "auto"
        alpha, the weight of the teacher's forecasts against the targets. 0 is no teacher. "auto"
        chooses on held-out windows.
    horizon_weights : float, str, sequence of float or callable, default 1.0
        How much the teacher counts at each step. A number is the paper's tau
        (weights proportional to ``exp(tau * t / (T - 1))``, 0 is uniform); or
        ``"exponential"`` (tau = 1), ``"linear"``, ``"uniform"`` or ``"inverse_error"`` (of
        the teacher, by step); or T weights; or a function of T that returns them; or
        ``"auto"`` to choose tau. Weights are scaled to a mean of one.
    alignment : str or None, default "auto"
        How the student's hidden states are aligned with the teacher's: ``"factorised"``
        (the paper's), or the plain ``"linear"`` and ``"relational"``. "auto" is factorised
        where both have hidden states, None never aligns. ``"linear"`` and ``"dlinear"``
        students have none; ``"bundled"``, the Chronos family, and Darts torch models
        wrapped with ``DartsTeacher(model, hidden_module=...)`` do.
    alignment_weight : float, default 0.3
        beta, the weight of the alignment.
    alignment_dim : int, default 64
        Size that the teacher's hidden states are reduced to, by a random projection.
    quantiles : sequence of float, optional
        Levels to forecast, 0.5 among them. By default a point forecast. ``"mlp"`` and
        ``"itransformer"`` learn quantiles from the teacher's quantiles and from the targets. The
        other students forecast one value, and add to it error quantiles by step, from held-out
        errors and the teacher's quantiles. Levels outside of the teacher's range are
        extrapolated as those of a normal distribution.
    calibrate : bool, default True
        Whether quantiles are calibrated on held-out targets, which repairs a teacher whose
        intervals are too narrow or too wide.
    nonnegative : bool, default False
        Whether forecasts below zero become zero: for counts and other values that cannot be
        negative.
    label_budget : int, "auto" or None, default "auto"
        Most windows to ask the teacher for; None is all of them. "auto" doubles them from 512
        until that no longer moves the forecasts. Windows are drawn at random.
    time_limit : float, optional
        Seconds to spend on labels. ``fit`` goes on with those it has then.
    accept : float, optional
        Largest acceptable error on held-out windows, relative to the teacher's: 1.05 warns where
        the student is more than 5 % worse, and says what to do about it.
    teacher_context : int, optional
        Steps of history that the teacher sees of each window. By default as many as it
        looks at, up to 1,024, if it understands missing values (the bundled one and the
        Chronos family do); else ``input_chunk_length``. More history makes better labels, but
        they change when the series starts elsewhere: with a slow teacher and a rolling
        ``train_length``, set it to ``input_chunk_length`` to find most of them in the cache.
    cache_dir : path-like or False, optional
        Where the teacher's forecasts and hidden states are kept: an interrupted ``fit`` finds
        them there. By default the platform's cache directory; False keeps them in this process.
    add_encoders : dict, optional
        Covariates that Darts makes of the time index; see
        :class:`darts.dataprocessing.encoders.SequentialEncoder`.
    random_state : int, optional
        Seed of students trained by gradient (the linear student is solved exactly and needs
        none) and of sample paths: other ones at each call, the same in each new model.
    verbose : bool, optional
        Progress while the teacher forecasts and a student is trained: always, never, or (by
        default) on a terminal.

    Attributes
    ----------
    student_ : LinearForecaster, NetworkForecaster or ModuleForecaster
        The fitted student.
    training_summary_ : TrainingSummary
        ``windows`` seen and labelled, ``chosen`` settings, ``errors`` on held-out windows, each
        term of the loss by epoch, seconds.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from darts import TimeSeries
    >>> series = TimeSeries.from_values(np.sin(np.arange(400) * 2 * np.pi / 24))
    >>> model = DistilledForecaster(input_chunk_length=96, output_chunk_length=24)
    >>> forecast = model.fit(series).predict(n=48)
    >>> len(forecast)
    48
    """

    def __init__(
        self,
        input_chunk_length: int | None = None,
        output_chunk_length: int | None = None,
        output_chunk_shift: int = 0,
        teacher: Any = "bundled",
        student: Any = "linear",
        distillation_weight: float | str = "auto",
        horizon_weights: HorizonWeights = 1.0,
        alignment: str | None = "auto",
        alignment_weight: float = 0.3,
        alignment_dim: int = 64,
        quantiles: Sequence[float] | None = None,
        calibrate: bool = True,
        nonnegative: bool = False,
        label_budget: int | str | None = "auto",
        time_limit: float | None = None,
        accept: float | None = None,
        teacher_context: int | None = None,
        cache_dir: str | os.PathLike | bool | None = None,
        add_encoders: dict[str, Any] | None = None,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        check_cache_dir(cache_dir)
        self._settings = make_settings(
            input_chunk_length=input_chunk_length,
            output_chunk_length=output_chunk_length,
            output_chunk_shift=output_chunk_shift,
            student=student,
            distillation_weight=distillation_weight,
            horizon_weights=horizon_weights,
            alignment=alignment,
            alignment_weight=alignment_weight,
            alignment_dim=alignment_dim,
            quantiles=quantiles,
            label_budget=label_budget,
            time_limit=time_limit,
            accept=accept,
            teacher_context=teacher_context,
            random_state=random_state,
            calibrate=calibrate,
            nonnegative=nonnegative,
        )
        if add_encoders:
            check_takes_covariates(self._settings.student, "add_encoders")
        # Before Darts copies the parameters: a copied torch model is a broken one.
        self._teacher = as_specification(teacher)
        self._static_names: list[str] = []
        self._warm: WarmStart | None = None
        self._lengths: tuple[int, int] | None = None
        self._history_needed: int | None = None
        super().__init__(add_encoders=add_encoders)
        del self._teacher

    def _extract_model_creation_params(self) -> dict[str, Any]:
        """Copy the parameters, except for the teacher."""
        return copy_parameters({**self.model_params, "teacher": self._teacher})

    def untrained_model(self) -> DistilledForecaster:
        """Return a new model with the same parameters and the same teacher."""
        untrained = type(self)(**copy_parameters(self.model_params))
        untrained._refitting = self._refitting
        return untrained

    def fit(
        self,
        series: TimeSeriesLike,
        past_covariates: TimeSeriesLike | None = None,
        future_covariates: TimeSeriesLike | None = None,
        val_series: TimeSeriesLike | None = None,
        val_past_covariates: TimeSeriesLike | None = None,
        val_future_covariates: TimeSeriesLike | None = None,
        sample_weight: TimeSeriesLike | str | None = None,
        val_sample_weight: TimeSeriesLike | str | None = None,
        verbose: bool | None = None,
        warm_start: bool = False,
    ) -> DistilledForecaster:
        """Distil the teacher into a student fitted to these series.

        Parameters
        ----------
        series : TimeSeries or sequence of TimeSeries
            At least twenty points are sensible, four are needed. NaN means missing: gaps of a
            context are filled (see :func:`~distilts_forecaster.runtime.gaps.fill_gaps`), a
            missing target counts in no loss. Windows with less than a quarter of their context,
            or nothing of their target, are left out. Numeric static covariates that differ are
            used.
        past_covariates, future_covariates : TimeSeries or sequence of TimeSeries, optional
            One for each series, over all of its steps. Gaps are filled, those of past
            covariates by the value before. A teacher that takes covariates sees them too.
        val_series : TimeSeries or sequence of TimeSeries, optional
            To choose "auto" settings and the number of epochs on: a context, and some steps that
            follow. By default the last fifth of the windows.
        val_past_covariates, val_future_covariates : TimeSeries or sequence, optional
            The covariates of ``val_series``.
        sample_weight : TimeSeries, sequence of TimeSeries, "linear" or "exponential", optional
            How much each step counts as a target, as for Darts' other models. A window counts by
            the mean weight of its target. The teacher's forecasts are not weighted.
        val_sample_weight : TimeSeries, sequence of TimeSeries or str, optional
            No effect: all steps of ``val_series`` count alike. Backtests of Darts pass it.
        verbose : bool, optional
            Overrides the model's own ``verbose``.
        warm_start : bool, default False
            For a linear student that is fitted again as its series grow: keep the sums over all
            windows, and reuse those of the last warm fit; only new windows are labelled and
            summed. Series are scaled as in the first of these fits, which hardly changes the
            student. Sums take about two megabytes for 4,096 windows, times the components where
            there are up to 16. All windows are labelled that ``label_budget`` allows ("auto" allows
            all), whatever the ``time_limit``.

        Returns
        -------
        DistilledForecaster
            The fitted model.

        Raises
        ------
        TypeError, ValueError
            If the series cannot be fitted, before the teacher is asked: one is shorter than four
            points, none is as long as a window of the given lengths, and so on.
        ImportError
            If the teacher needs an extra that is not installed.
        """
        if past_covariates is not None or future_covariates is not None:
            check_takes_covariates(self._settings.student, "covariates")
        if val_series is None and (
            val_past_covariates is not None or val_future_covariates is not None
        ):
            raise ValueError(
                "val_past_covariates and val_future_covariates are the covariates of val_series, "
                "which is None. Pass it too, or leave them out."
            )
        shortest = min(
            self._settings.output_chunk_shift + FEWEST_POINTS, fewest_points(self._settings)
        )
        values = check_series("series", series, shortest)
        given = (past_covariates, future_covariates, self.model_params["add_encoders"])
        has_covariates = any(c is not None for c in given)
        lengths = [len(array) for array in values]
        trend = have_trend(values)
        settings = fit_lengths(self._settings, lengths, has_covariates, has_trend=trend)
        encoders = self._encoders_for(settings)
        names = static_names(series) if settings.student.takes_covariates else []
        warm = (self._warm or WarmStart()) if warm_start else None
        prepared = [prepare_series(v) for v in values] if warm is None else warm.prepare(values)
        weights = origin_weights(sample_weight, series, settings.chunks)
        prepared = [replace(p, weight=w) for p, w in zip(prepared, weights, strict=True)]
        prepared, past_covariates, future_covariates = with_covariates(
            settings, encoders, names, series, prepared, past_covariates, future_covariates
        )
        held_out = None
        if val_series is not None:
            length = settings.history_needed or settings.input_chunk_length
            if self._refitting and not settings.given[0]:
                val_series = from_last_context(series, val_series, length)
            shortest = length + settings.output_chunk_shift + 1
            checked = check_series("val_series", val_series, shortest, values[0].shape[1])
            held_out, *_ = with_covariates(
                settings, encoders, names, val_series, [prepare_series(v) for v in checked],
                val_past_covariates, val_future_covariates, "val_",
            )  # fmt: skip
            check_same_covariates(prepared[0], held_out[0])
        result = fit_student(
            prepared,
            settings,
            self.model_params["teacher"],
            self.model_params["cache_dir"],
            held_out,
            self.model_params["verbose"] if verbose is None else verbose,
            warm,
        )
        self._warm, self._static_names, self.encoders = warm, names, encoders
        self._forget_covariates()
        self._lengths = (settings.input_chunk_length, settings.output_chunk_length)
        self._history_needed = settings.history_needed
        super().fit(series, past_covariates, future_covariates)
        if not isinstance(series, TimeSeries):
            self.training_series = None
        self.student_ = self._with_facts(result.student, series, past_covariates, future_covariates)
        self.training_summary_ = result.summary
        self._n_components = values[0].shape[1]
        self._scales = [(one.location, one.std) for one in prepared]
        return self

    def predict(
        self,
        n: int,
        series: TimeSeriesLike | None = None,
        past_covariates: TimeSeriesLike | None = None,
        future_covariates: TimeSeriesLike | None = None,
        num_samples: int = 1,
        verbose: bool | None = None,
        predict_likelihood_parameters: bool = False,
        show_warnings: bool = True,
        random_state: int | None = None,
    ) -> TimeSeriesLike:
        """Forecast the ``n`` steps after the end of the series, with the student alone.

        Parameters
        ----------
        n : int
            Steps to forecast; beyond ``output_chunk_length`` forecasts are fed back.
        series : TimeSeries or sequence of TimeSeries, optional
            What to forecast; by default the series the model was fitted on. Gaps are filled, and
            so is the start of a series shorter than the context (see
            :func:`~distilts_forecaster.runtime.gaps.fill_gaps`). A component without any value in
            it has forecasts of NaN, with a warning.
        past_covariates, future_covariates : TimeSeries or sequence of TimeSeries, optional
            Needed if the model was fitted with some; by default those. Past covariates must reach
            ``max(0, n - output_chunk_length)`` steps beyond the end of the series, future ones
            ``output_chunk_shift + max(n, output_chunk_length)``.
        num_samples : int, default 1
            Sample paths to draw, of a model with ``quantiles``; 1 is the forecast itself.
        verbose, show_warnings : bool, optional
            No effect: there is nothing to show.
        predict_likelihood_parameters : bool, default False
            Return the quantiles as components, named as by Darts (``x_q0.100``), for ``n`` up to
            ``output_chunk_length``; beyond it they are taken from sample paths.
        random_state : int, optional
            Seed of the sample paths. By default they are the next ones of the model's own
            ``random_state``, which this call leaves alone if it is given one.

        Returns
        -------
        TimeSeries or list of TimeSeries
            As ``series``.

        Raises
        ------
        ValueError
            If the model is not fitted, ``n`` is below 1, or a series has other components
            than the model was fitted on, or has infinite values in its last
            ``input_chunk_length`` steps; or samples or quantiles are asked of a model without
            ``quantiles``.
        """
        check_integer("n", n, at_least=1)
        target = self.training_series if series is None else series
        n_series = 1 if target is None or isinstance(target, TimeSeries) else len(target)
        if past_covariates is None and self.past_covariate_series is not None:
            past_covariates = [self.past_covariate_series] * n_series
        if future_covariates is None and self.future_covariate_series is not None:
            future_covariates = [self.future_covariate_series] * n_series
        if target is not None and self.encoders.encoding_available:
            past_covariates, future_covariates = self.encoders.encode_inference(
                n=n,
                target=target,
                past_covariates=past_covariates,
                future_covariates=future_covariates,
            )
        super().predict(
            n,
            target,
            past_covariates,
            future_covariates,
            num_samples=num_samples,
            predict_likelihood_parameters=predict_likelihood_parameters,
            show_warnings=False,
        )
        if series is None:
            if self.training_series is None:
                raise ValueError(
                    "The model was fitted on several series (or loaded from a clean save): say "
                    "which series to forecast. Example: model.predict(n, series=series)"
                )
            series = self.training_series
        single = isinstance(series, TimeSeries)
        inputs = [series] if single else list(series)
        if not inputs:
            return []
        student = self.student_
        contexts = np.stack(
            [
                check_context(s, i, self._n_components, student.input_chunk_length)
                for i, s in enumerate(inputs)
            ]
        )
        if past_covariates is not None or future_covariates is not None:
            check_takes_covariates(self._settings.student, "covariates")
        covariates = covariates_to_predict(
            inputs, n, student, past_covariates, future_covariates, self._static_names
        )
        forecasts = self._call_student(
            contexts, n, num_samples, predict_likelihood_parameters,
            self._sample_stream(random_state), **covariates,
        )  # fmt: skip
        warn_of_unknown(count_unknown(forecasts), len(inputs), student.input_chunk_length)
        built = [
            like(
                s,
                times_after(s, n, self.output_chunk_shift),
                forecast.astype(s.dtype, copy=False),
                self._parameter_names(s) if predict_likelihood_parameters else None,
            )
            for forecast, s in zip(forecasts, inputs, strict=True)
        ]
        return built[0] if single else built

    def drift_report(
        self,
        series: TimeSeriesLike,
        past_covariates: TimeSeriesLike | None = None,
        future_covariates: TimeSeriesLike | None = None,
        n_windows: int = 100,
    ) -> DriftReport:
        """Compare the student with its teacher and with the targets of recent windows.

        Says when to fit again. The teacher labels at most ``n_windows``, most of which the next
        ``fit`` then finds in the cache.

        Parameters
        ----------
        series : TimeSeries or sequence of TimeSeries
            What the model was fitted on, with what has come since.
        past_covariates, future_covariates : TimeSeries or sequence of TimeSeries, optional
            As in ``fit``.
        n_windows : int, default 100
            Windows to look at, evenly spaced over the last ten horizons.

        Returns
        -------
        DriftReport
            ``print`` it, or look at ``should_refit``.

        Raises
        ------
        ValueError
            If the model is not fitted, or the series are too short.
        """
        if not hasattr(self, "training_summary_"):
            raise ValueError("The model must be fitted before it can drift: call fit first.")
        check_integer("n_windows", n_windows, at_least=1)
        values = check_series("series", series, 1, n_components=self._n_components)
        # At the scales of fit: a jump must not hide in its own variance.
        scales = self._scales if len(self._scales) == len(values) else [None] * len(values)
        prepared, *_ = with_covariates(
            self._settings,
            self.encoders,
            self._static_names,
            series,
            [
                replace(prepare_series(v, scale), period=self.student_.period)
                for v, scale in zip(values, scales, strict=True)
            ],
            past_covariates,
            future_covariates,
        )
        return measure_drift(
            self.student_,
            prepared,
            self._settings,
            self.training_summary_,
            self.model_params["teacher"],
            self.model_params["cache_dir"],
            n_windows,
        )

    def _optimized_historical_forecasts(
        self,
        series: Sequence[TimeSeries],
        past_covariates: Sequence[TimeSeries] | None = None,
        future_covariates: Sequence[TimeSeries] | None = None,
        num_samples: int = 1,
        start: pd.Timestamp | float | int | str | None = None,
        start_format: str = "value",
        forecast_horizon: int = 1,
        stride: int = 1,
        overlap_end: bool = False,
        last_points_only: bool = True,
        verbose: bool = False,
        show_warnings: bool = True,
        predict_likelihood_parameters: bool = False,
        random_state: int | None = None,
        predict_kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Forecast from every requested point of every series.

        Called by ``historical_forecasts(retrain=False)``; equal to calling
        ``predict`` on each shortened series.
        """
        if past_covariates is not None or future_covariates is not None:
            raise ValueError("The model was fitted without covariates: leave them out.")
        # No parameter of predict changes these forecasts; unknown ones are refused.
        unknown = set(predict_kwargs or {}) - set(inspect.signature(self.predict).parameters)
        if unknown:
            raise TypeError(f"predict has no parameters {sorted(unknown)}: see predict_kwargs.")
        # The checks of predict: fitted, no samples, no shifted auto-regression.
        super().predict(
            forecast_horizon,
            series,
            num_samples=num_samples,
            predict_likelihood_parameters=predict_likelihood_parameters,
            show_warnings=False,
        )

        stream = self._sample_stream(random_state)

        def forecast(contexts: np.ndarray) -> np.ndarray:
            return self._call_student(
                contexts, forecast_horizon, num_samples, predict_likelihood_parameters, stream
            )

        names = self._parameter_names if predict_likelihood_parameters else None
        return backtest(
            self,
            forecast,
            series,
            [check_components(one, i, self._n_components) for i, one in enumerate(series)],
            self.student_.input_chunk_length,
            forecast_horizon,
            stride,
            last_points_only,
            names,
            start=start,
            start_format=start_format,
            overlap_end=overlap_end,
            show_warnings=show_warnings,
        )


# Darts loads models with a restricted unpickler since 0.48.
add_safe_globals([DistilledForecaster, *SAVED])
