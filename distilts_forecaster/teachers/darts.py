"""Any Darts forecasting model as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models.forecasting.forecasting_model import ForecastingModel, GlobalForecastingModel
from tqdm import tqdm

from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    WrappedTeacher,
    check_name_and_revision,
    check_request,
)

__all__ = ["DartsTeacher", "timesfm"]

#: Most steps of context that TimesFM sees, and the steps that it forecasts in one pass.
_TIMESFM_CONTEXT, _TIMESFM_HORIZON = 1024, 128

#: Sample paths drawn from a probabilistic model for each quantile forecast.
SAMPLES = 200

#: Local models are fitted to each window: beyond this many, show progress.
_SHOW_PROGRESS_FROM = 50


class DartsTeacher(WrappedTeacher):
    """Wrap a Darts model.

    A fitted global model forecasts all windows in one call. A foundation model of
    Darts (``Chronos2Model``, ``TimesFM2p5Model`` ...) may be passed unfitted: it is
    made ready on the first windows, which trains nothing. A local model (ETS,
    Theta ...) is fitted to each window anew: the slow road.

    Windows carry an integer index: a model that encodes the calendar, or was fitted with static
    covariates, cannot be a teacher. One that was fitted with past or future covariates sees those
    of the student: fit the student with the same.

    Without a name and a revision, its labels are kept in this process, for as long
    as the model lives. Do not fit it again meanwhile: its old labels would be found.

    Parameters
    ----------
    model : darts ForecastingModel
    name, revision : str, optional
        Give both to keep the labels on disk. Change ``revision`` whenever the model
        is fitted again.
    licence : str, optional
        Recorded with the student.
    hidden_module : str, optional
        Of a fitted torch model: the module whose output are its hidden states, for
        alignment, by its name in ``model.model.named_modules()``.

    Raises
    ------
    ValueError
        If a global model is neither fitted nor a foundation model; a local model uses
        covariates, or any model static covariates, encoders or an output_chunk_shift; only one
        of ``name`` and ``revision`` is given; or there is no such ``hidden_module``.

    Examples
    --------
    >>> from darts.models import NaiveSeasonal
    >>> teacher = DartsTeacher(NaiveSeasonal(K=4))
    >>> contexts = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    >>> teacher.forecast(contexts, horizon=2, quantile_levels=[0.5]).quantiles.ravel()
    array([12., 13.], dtype=float32)
    """

    def __init__(
        self,
        model: ForecastingModel,
        name: str | None = None,
        revision: str | None = None,
        licence: str | None = None,
        hidden_module: str | None = None,
    ) -> None:
        check_name_and_revision(name, revision)
        kind = type(model).__name__
        self._is_global = isinstance(model, GlobalForecastingModel)
        self._is_foundation = any(c.__name__ == "FoundationModel" for c in type(model).__mro__)
        self._is_torch = any(c.__name__ == "TorchForecastingModel" for c in type(model).__mro__)
        if self._is_global and not model._fit_called and not self._is_foundation:
            raise ValueError(
                f"The Darts model {kind} is not fitted: a teacher must know how to forecast. "
                "Fit it first, or pass a foundation model. If it was fitted, a copy has lost that, "
                "as clone and grid searches make of parameters: pass DartsTeacher(model)."
            )
        if self._is_torch and model._fit_called and getattr(model, "model", None) is None:
            raise ValueError(
                f"The Darts model {kind} has lost its network in a copy: torch models do not "
                "survive copy.deepcopy, which clone and grid searches make of parameters. Pass "
                "DartsTeacher(model), which does."
            )
        if (
            (not self._is_global and (model.uses_past_covariates or model.uses_future_covariates))
            or model.uses_static_covariates
            or model.add_encoders is not None
        ):
            raise ValueError(
                f"The Darts model {kind} uses static covariates or encoders, or is a local model "
                "with covariates, which windows do not carry. Fit a teacher without them."
            )
        if model.output_chunk_shift:
            raise ValueError(
                f"The Darts model {kind} starts its forecasts output_chunk_shift="
                f"{model.output_chunk_shift} steps late; a teacher must start with the next step."
            )
        self._is_probabilistic = (
            model.likelihood is not None
            if self._is_torch  # unfitted, it cannot say yet whether it is
            else model.supports_probabilistic_prediction
        )
        self.model = self.wrapped = model
        if hidden_module is not None:
            self._check_module(hidden_module)
        longest = None if self._is_foundation else _context_length(model)
        self.info = TeacherInfo(
            name=name or kind,
            revision=revision,
            licence=licence,
            native_horizon=model.output_chunk_length,
            longest_context=longest,
            quantile_levels=(0.01, 0.99) if self._is_probabilistic else None,
            takes_covariates=model.uses_past_covariates or model.uses_future_covariates,
            hidden=hidden_module,
        )

    def forecast(
        self,
        contexts: np.ndarray,
        horizon: int,
        quantile_levels: Sequence[float],
        covariates: Covariates | None = None,
    ) -> TeacherForecast:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
        horizon : int
        quantile_levels : sequence of float
            Levels other than 0.5 need a probabilistic model; they are estimated
            from 200 samples.
        covariates : Covariates, optional
            Those that the model was fitted with.

        Returns
        -------
        TeacherForecast

        Raises
        ------
        ValueError
            If the windows are shorter than the model's context, or the model has
            no such quantiles, or was fitted on another number of components, or with other
            covariates.
        """
        check_request(self.info, horizon, quantile_levels)
        n, _, components = contexts.shape
        series = self._to_series(contexts)
        known = self._covariate_series(covariates, horizon, len(series) // n)
        point_only = tuple(quantile_levels) == (0.5,)
        # A torch model with a likelihood answers num_samples=1 with one random draw.
        samples = SAMPLES if self._is_probabilistic and (self._is_torch or not point_only) else 1
        if self._is_global:
            if not self.model._fit_called:
                self.model.fit(series[0])
            forecasts = self.model.predict(
                n=horizon,
                series=series,
                num_samples=samples,
                random_state=0,
                show_warnings=False,
                verbose=False,
                **known,
                **self._without_logs(),
            )
        else:
            forecasts = [
                self.model.untrained_model().fit(window).predict(horizon, num_samples=samples)
                for window in tqdm(
                    series,
                    desc=f"fitting {self.info.name}",
                    disable=None if len(series) >= _SHOW_PROGRESS_FROM else True,
                    leave=False,
                )
            ]
        values = np.stack([forecast.all_values(copy=False) for forecast in forecasts])
        quantiles = (
            values
            if samples == 1
            else np.moveaxis(np.quantile(values, list(quantile_levels), axis=-1), 0, -1)
        )
        shaped = (
            quantiles
            if series[0].width == components
            else quantiles.reshape(n, components, horizon, -1).transpose(0, 2, 1, 3)
        )
        return TeacherForecast(np.ascontiguousarray(shaped, dtype=np.float32))

    def hidden_states(self, contexts: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Return the output of ``hidden_module`` on each context.

        The output is (windows, D), (windows, P, D), or (windows, C, P, D) where the module
        keeps components apart. Its P positions are taken to be spread evenly over the
        context, whatever they are in the model (TSMixer's are steps of the horizon).

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)
        steps : sequence of int
            Counted from the end, -1 is the last.

        Returns
        -------
        numpy.ndarray of float32, shape (N, C or 1, len(steps) or 1, D)

        Raises
        ------
        ValueError
            If ``hidden_module`` was not given, or its output has another shape.
        """
        if self.info.hidden is None:
            raise ValueError(
                f"The Darts model {self.info.name!r} was wrapped without hidden_module: "
                'DartsTeacher(model, hidden_module="...") says where its hidden states are.'
            )
        n, length, components = contexts.shape
        series = self._to_series(contexts)
        outputs: list[np.ndarray] = []

        def keep(module: object, inputs: object, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            outputs.append(output.detach().float().cpu().numpy())

        network: Any = self.model
        hook = network.model.get_submodule(self.info.hidden).register_forward_hook(keep)
        try:
            # One step: a longer forecast would run the module again for each batch.
            network.predict(
                n=1,
                series=series,
                num_samples=1,
                show_warnings=False,
                verbose=False,
                **self._without_logs(),
            )
        finally:
            hook.remove()
        states = np.concatenate(outputs)
        if len(states) != len(series) or states.ndim not in (2, 3, 4):
            raise ValueError(
                f"The module {self.info.hidden!r} of {self.info.name!r} gave outputs of shape "
                f"{states.shape} for {len(series)} windows; expected (windows, D), (windows, P, D) "
                "or (windows, C, P, D). Name another module."
            )
        if states.ndim == 2:
            states = states[:, None]
        if states.ndim == 3:  # one set of states for all components that went in
            states = states.reshape(n, -1, *states.shape[1:])
        elif states.shape[0] != n or states.shape[1] not in (1, components):
            raise ValueError(
                f"The module {self.info.hidden!r} of {self.info.name!r} gave {states.shape[1]} "
                f"states for each window, expected one for each of {components} components."
            )
        at = (np.asarray(steps) + length) * states.shape[2] // length
        return states if states.shape[2] == 1 else states[:, :, np.clip(at, 0, None)]

    def _to_series(self, contexts: np.ndarray) -> list[TimeSeries]:
        """Turn windows into series, one for each component where the model needs that."""
        n, length, components = contexts.shape
        if self.info.longest_context is not None and length < self.info.longest_context:
            raise ValueError(
                f"The Darts model {self.info.name!r} looks at {self.info.longest_context} steps, "
                f"the windows have {length}. Set teacher_context to at least "
                f"{self.info.longest_context}."
            )
        if not self.model.supports_multivariate or self._fitted_width() == 1:
            contexts = contexts.transpose(0, 2, 1).reshape(n * components, length, 1)
        return [TimeSeries.from_values(np.ascontiguousarray(window)) for window in contexts]

    def _covariate_series(
        self, covariates: Covariates | None, horizon: int, repeats: int
    ) -> dict[str, list[TimeSeries]]:
        """Return the covariates of all windows, once for each series made of a window."""
        made: dict[str, list[TimeSeries]] = {}
        for kind, used in (
            ("past", self.model.uses_past_covariates),
            ("future", self.model.uses_future_covariates),
        ):
            if not used:
                continue
            rows = None if covariates is None else getattr(covariates, kind)
            if rows is None:
                raise ValueError(
                    f"The Darts model {self.info.name!r} was fitted with {kind} covariates: fit "
                    "the student with the same."
                )
            if kind == "past" and horizon > (self.info.native_horizon or horizon):
                raise ValueError(
                    f"The Darts model {self.info.name!r} forecasts {self.info.native_horizon} "
                    "steps at once, and beyond them needs past covariates that are not known yet: "
                    f"{horizon} steps were asked for. Use a shorter output_chunk_length."
                )
            rows = np.repeat(rows.astype(np.float32), repeats, axis=0)
            made[f"{kind}_covariates"] = [TimeSeries.from_values(row) for row in rows]
        return made

    def _without_logs(self) -> dict[str, Any]:
        """Return a trainer that writes no files when a torch model forecasts.

        By default Lightning writes a folder of logs for every call, and a model that was saved
        clean has lost the settings that prevent it.
        """
        if not self._is_torch:
            return {}
        from pytorch_lightning import Trainer

        network: Any = self.model
        settings = {k: v for k, v in network.trainer_params.items() if k != "callbacks"}
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        return {"trainer": Trainer(**{**settings, **dict.fromkeys(quiet, False)})}

    def _check_module(self, name: str) -> None:
        """Raise ValueError unless the model has this module."""
        network: Any = getattr(self.model, "model", None)
        if not self._is_torch or network is None:
            raise ValueError(
                f"hidden_module={name!r} needs a fitted torch model of Darts, got "
                f"{type(self.model).__name__}."
            )
        known = [module for module, _ in network.named_modules() if module]
        if name not in known:
            raise ValueError(
                f"{type(self.model).__name__} has no module {name!r}; it has {', '.join(known)}."
            )

    def _fitted_width(self) -> int | None:
        """Return the number of components the model was fitted on, where Darts knows it."""
        fitted = self.model.training_series
        return None if fitted is None else fitted.width


def _context_length(model: ForecastingModel) -> int | None:
    """Return the steps of context a global model needs."""
    if not isinstance(model, GlobalForecastingModel):
        return None
    first = model.extreme_lags[0]
    return None if first is None else -first


@lru_cache(maxsize=1)
def timesfm(name: str) -> DartsTeacher:
    """Return TimesFM 2.5, run by Darts; its weights are fetched for the first window.

    It forecasts the median, up to 128 steps at once, from up to 1,024 steps. Kept in the process: a
    backtest that fits a hundred times loads it once. ImportError where torch is missing.
    """
    try:
        from darts.models import TimesFM2p5Model

        model = TimesFM2p5Model(
            input_chunk_length=(1, _TIMESFM_CONTEXT),
            output_chunk_length=_TIMESFM_HORIZON,
            hub_model_name=name,
            pl_trainer_kwargs={"logger": False, "enable_progress_bar": False},
        )
    except (ImportError, TypeError) as error:  # Darts puts a stub where torch is missing
        raise ImportError(
            f"Teacher {name!r} needs Darts with torch: "
            'pip install "distilts-forecaster[darts-torch]"'
        ) from error
    revision = str(model.model_params["hub_model_revision"])
    return DartsTeacher(model, name=name, revision=revision, licence="Apache-2.0")
