"""The sktime facade: pandas in, pandas out, the same core in between."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from sktime.datatypes import get_cutoff, update_data
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon

from distilts_forecaster.distill import fit_student
from distilts_forecaster.objective import HorizonWeights
from distilts_forecaster.saving import PackedStudent
from distilts_forecaster.students.settings import MLP, Training
from distilts_forecaster.teachers.load import as_specification
from distilts_forecaster.validation import (
    check_cache_dir,
    check_student,
    make_settings,
    warn_of_levels,
)
from distilts_forecaster.windows import PreparedSeries, context_windows, prepare_series

__all__ = ["DistilledForecaster"]

#: Lengths of context and forecast where neither the user nor the data say otherwise.
_CONTEXT, _HORIZON = 512, 96

#: What ``pretrain`` leaves for ``fit``, ``clone`` and ``predict``.
_FITTED = ["student_", "training_summary_", "spread_"]


@dataclass(frozen=True)
class _Instance:
    """One series of a panel.

    Attributes
    ----------
    key : tuple
        Its labels in the index, without time; empty for a series by itself.
    times : pandas.Index
    values : numpy.ndarray of float64, shape (n_points, C)
    covariates : numpy.ndarray of float64, shape (n_points, F), or None
    """

    key: tuple[Any, ...]
    times: pd.Index
    values: np.ndarray
    covariates: np.ndarray | None


class DistilledForecaster(PackedStudent, BaseForecaster):
    """A tiny forecaster that has learned from a time-series foundation model.

    ``fit`` asks the teacher for forecasts on windows of ``y`` and fits the student to the
    truth and to those forecasts; ``predict`` runs the student alone. A panel or a hierarchy is
    fitted by one student, as a whole. ``pretrain`` on a panel fits the student, and ``fit`` on a
    series then only says what to forecast from.

    Parameters
    ----------
    input_chunk_length : int, optional
        Steps of context, L. By default half of a series' length (the median, in a panel), and
        at most 512.
    output_chunk_length : int, optional
        Steps forecast at once, T. By default as far as the ``fh`` of ``fit`` reaches, 96
        without one, and at most a third of a series. Longer forecasts feed the first ones
        back.
    teacher : str, path-like, sktime forecaster, callable or Teacher, default "bundled"
        See :class:`~distilts_forecaster.DistilledForecaster` of Darts.
    student : str, settings or torch.nn.Module, default "linear"
    distillation_weight : float or "auto", default "auto"
    horizon_weights : float, str, sequence of float or callable, default 1.0
    alignment : str or None, default "auto"
    alignment_weight : float, default 0.3
    alignment_dim : int, default 64
    label_budget : int, optional
    teacher_context : int, optional
    cache_dir : path-like or False, optional
    random_state : int, optional
    verbose : bool, optional
        As there.

    Attributes
    ----------
    student_ : LinearForecaster or NetworkForecaster
        The fitted student.
    training_summary_ : TrainingSummary
        Windows, labels found in the cache, chosen settings, errors, seconds.
    spread_ : Spread
        Quantiles of the errors on held-out windows, by step.

    Notes
    -----
    ``predict_quantiles`` and ``predict_interval`` put the quantiles of the errors on held-out
    windows (the last fifth of each series) around the forecasts, by step and in units of the
    context's standard deviation. Beyond T they grow with the square root of time.

    At predict, and in-sample, a history shorter than the context is continued to the left
    with its first value. In-sample forecasts are made one step ahead, from what came before;
    the first step of a series has nothing before it, and is forecast by itself.

    ``X`` is known over the horizon, and taken by ``student="mlp"``; other students ignore it,
    and the teacher does not see it.

    ``update`` moves the point to forecast from; with ``update_params=True`` it also fits again
    on everything seen, unless the student was pretrained. Only windows that are new are
    labelled.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from distilts_forecaster.sktime import DistilledForecaster
    >>> y = pd.Series(np.sin(np.arange(200) * 2 * np.pi / 12))
    >>> forecaster = DistilledForecaster(input_chunk_length=48)
    >>> forecaster.fit(y, fh=[1, 2, 3]).predict().round(2).tolist()
    [-0.87, -1.0, -0.87]
    """

    _tags: ClassVar = {
        "authors": ["distilts-forecaster developers"],
        "python_dependencies": ["sktime>=1.2"],
        "object_type": "forecaster",
        "y_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "X_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "capability:multivariate": True,
        "capability:exogenous": True,
        "capability:insample": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": True,
        "capability:missing_values": False,
        "capability:categorical_in_X": False,
        "capability:update": True,
        "capability:pretrain": True,
        "capability:random_state": True,
        "property:randomness": "derandomized",
        "pretrain:fitted_params": _FITTED,
        "requires-fh-in-fit": False,
    }

    # What is remembered is remembered here, once.
    _config: ClassVar = {"remember_data": False}

    def __init__(
        self,
        input_chunk_length: int | None = None,
        output_chunk_length: int | None = None,
        teacher: Any = "bundled",
        student: Any = "linear",
        distillation_weight: float | str = "auto",
        horizon_weights: HorizonWeights = 1.0,
        alignment: str | None = "auto",
        alignment_weight: float = 0.3,
        alignment_dim: int = 64,
        label_budget: int | None = None,
        teacher_context: int | None = None,
        cache_dir: str | os.PathLike | Literal[False] | None = None,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.input_chunk_length = input_chunk_length
        self.output_chunk_length = output_chunk_length
        self.teacher = teacher
        self.student = student
        self.distillation_weight = distillation_weight
        self.horizon_weights = horizon_weights
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.alignment_dim = alignment_dim
        self.label_budget = label_budget
        self.teacher_context = teacher_context
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.verbose = verbose
        self._y = self._X = None
        super().__init__()

    def __post_init__(self) -> None:
        """Say whether the student takes covariates."""
        self.set_tags(**{"capability:exogenous": isinstance(check_student(self.student), MLP)})

    def _pretrain(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, fh: ForecastingHorizon | None = None
    ) -> DistilledForecaster:
        """Fit the student to a panel."""
        return self._distil(list(_instances(y, X)), fh)

    def _pretrain_update(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, fh: ForecastingHorizon | None = None
    ) -> DistilledForecaster:
        """Fit the student to another panel, instead of the one before."""
        return self._distil(list(_instances(y, X)), fh)

    def _fit(
        self, y: pd.DataFrame, X: pd.DataFrame | None, fh: ForecastingHorizon | None
    ) -> DistilledForecaster:
        """Fit the student, unless it was pretrained; and remember what to forecast from."""
        instances = list(_instances(y, X))
        self._is_pretrained = hasattr(self, "student_")
        if not self._is_pretrained:
            self._distil(instances, fh)
        self._seen_y, self._seen_X, self._instances = y, X, instances
        return self

    def _update(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, update_params: bool = True
    ) -> DistilledForecaster:
        """Remember what is new; fit again if asked to."""
        self._seen_y = update_data(self._seen_y, y)
        self._seen_X = None if X is None else update_data(self._seen_X, X)
        self._instances = list(_instances(self._seen_y, self._seen_X))
        if update_params and not self._is_pretrained:
            self._distil(self._instances, self._fh)
        return self

    def _distil(
        self, instances: Sequence[_Instance], fh: ForecastingHorizon | None
    ) -> DistilledForecaster:
        """Fit the student."""
        check_cache_dir(self.cache_dir)
        teacher = as_specification(self.teacher)
        length, horizon = self._resolve_lengths(instances, fh)
        settings = make_settings(
            input_chunk_length=length,
            output_chunk_length=horizon,
            output_chunk_shift=0,
            student=self.student,
            distillation_weight=self.distillation_weight,
            horizon_weights=self.horizon_weights,
            alignment=self.alignment,
            alignment_weight=self.alignment_weight,
            alignment_dim=self.alignment_dim,
            quantiles=None,
            label_budget=self.label_budget,
            teacher_context=self.teacher_context,
            random_state=self.random_state,
        )
        settings = replace(settings, calibrated=True)
        prepared = [_prepare(one) for one in instances if len(one.times) >= length + horizon]
        if not prepared:
            raise ValueError(
                f"The longest series has {max(len(one.times) for one in instances)} points, at "
                f"least {length + horizon} are needed (input_chunk_length + output_chunk_length). "
                "Give smaller ones, or leave them out to have them chosen."
            )
        warn_of_levels(prepared)
        result = fit_student(prepared, settings, teacher, self.cache_dir, verbose=self.verbose)
        self.student_ = result.student
        self.training_summary_ = result.summary
        assert result.spread is not None
        self.spread_ = result.spread
        return self

    def _resolve_lengths(
        self, instances: Sequence[_Instance], fh: ForecastingHorizon | None
    ) -> tuple[int, int]:
        """Return input_chunk_length and output_chunk_length, as given or by the data."""
        n_points = int(np.median([len(one.times) for one in instances]))
        horizon = self.output_chunk_length
        if horizon is None:
            last = _HORIZON
            if fh is not None:
                cutoff = _cutoff(instances[0].times)
                last = int(np.max(_steps(fh, cutoff)))
            horizon = max(1, min(last, n_points // 3))
        length = self.input_chunk_length
        if length is None:
            length = max(1, min(_CONTEXT, n_points // 2))
        return length, horizon

    def _predict(self, fh: ForecastingHorizon, X: pd.DataFrame | None = None) -> pd.DataFrame:
        """Forecast every series, all in one call of the student."""
        values, _, _, index = self._run(fh, X)
        return pd.DataFrame(values, index=index, columns=self._seen_y.columns)

    def _predict_quantiles(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None, alpha: list[float]
    ) -> pd.DataFrame:
        """Put the quantiles of held-out errors around the forecasts."""
        values, deviation, steps, index = self._run(fh, X)
        offsets = self.spread_.at(steps, alpha)
        quantiles = values[:, :, None] + deviation[:, :, None] * offsets[:, None]
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return pd.DataFrame(quantiles.reshape(len(index), -1), index=index, columns=columns)

    def _run(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.Index]:
        """Return forecasts and deviations of their contexts (n, C), steps ahead (n,), and index."""
        cutoffs = [_cutoff(one.times) for one in self._instances]
        steps = [_steps(fh, cutoff) for cutoff in cutoffs]
        horizon = max(1, *(int(some.max()) for some in steps))
        future = _covariates_ahead(self._instances, X, cutoffs, horizon)
        ends = [np.full(int((some > 0).any()), len(one.times)) for one, some in self._zip(steps)]
        # In-sample, the origin is the step itself: what came before is the context.
        inside = [
            np.maximum(len(one.times) - 1 + some[some <= 0], 0) for one, some in self._zip(steps)
        ]
        ahead, ahead_deviation = self._forecast(ends, horizon, future)
        fitted, fitted_deviation = self._forecast(inside, 1, future)
        shape = (sum(map(len, steps)), self._seen_y.shape[1])
        values, deviation = np.empty(shape), np.empty(shape)
        indices: list[Any] = []
        start = 0
        for i, (one, some) in enumerate(self._zip(steps)):
            mine = slice(start, start + len(some))
            start += len(some)
            values[mine][some <= 0] = fitted[i][:, 0]
            deviation[mine][some <= 0] = fitted_deviation[i]
            if len(ahead[i]):
                values[mine][some > 0] = ahead[i][0, some[some > 0] - 1]
                deviation[mine][some > 0] = ahead_deviation[i][0]
            times = pd.Index(fh.to_absolute_index(cutoffs[i]))
            indices += [(*one.key, time) for time in times] if one.key else [times]
        index: pd.Index = (
            pd.MultiIndex.from_tuples(indices, names=self._seen_y.index.names)
            if self._instances[0].key
            else indices[0]
        )
        return values, deviation, np.maximum(np.concatenate(steps), 1), index

    def _zip(self, steps: Sequence[np.ndarray]) -> Iterator[tuple[_Instance, np.ndarray]]:
        """Return each series with the steps wanted of it."""
        return zip(self._instances, steps, strict=True)

    def _forecast(
        self, origins: Sequence[np.ndarray], horizon: int, future: Sequence[np.ndarray | None]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Forecast each series from some of its steps.

        Returns forecasts (n_origins, horizon, C), and deviations of contexts (n_origins, C).
        """
        if not any(map(len, origins)):
            empty = np.empty((0, horizon, self._seen_y.shape[1]))
            return [empty] * len(origins), [empty[:, 0]] * len(origins)
        length, ahead = self.student_.input_chunk_length, self.student_.output_chunk_length
        ahead = max(horizon, ahead)
        contexts, covariates = [], []
        for one, mine, rows in zip(self._instances, origins, future, strict=True):
            padded = np.pad(one.values, ((length, 0), (0, 0)), mode="edge")
            contexts.append(context_windows(padded, mine + length, length))
            if one.covariates is not None and rows is not None:
                known = np.concatenate([one.covariates, rows])
                known = np.pad(known, ((length, ahead), (0, 0)), mode="edge")
                windows = np.lib.stride_tricks.sliding_window_view(known, length + ahead, axis=0)
                covariates.append(windows[mine].transpose(0, 2, 1))
        given = {"future_covariates": np.concatenate(covariates)} if covariates else {}
        windows = np.concatenate(contexts)
        forecasts = self.student_.predict(windows, horizon, **given)
        borders = np.cumsum([len(mine) for mine in origins])[:-1]
        return np.split(forecasts, borders), np.split(windows.std(axis=1), borders)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return settings for sktime's own checks: small ones, and no files.

        Parameters
        ----------
        parameter_set : str, default "default"
            Ignored: there is one set of settings.

        Returns
        -------
        list of dict
        """
        small: dict[str, Any] = {"cache_dir": False, "random_state": 0, "verbose": False}
        short = {**small, "input_chunk_length": 4, "output_chunk_length": 2}
        settings = [small, {**short, "distillation_weight": 0}]
        if importlib.util.find_spec("torch") is not None:
            training = Training(max_epochs=1, batch_size=4, device="cpu")
            student = MLP(hidden_size=4, n_blocks=1, training=training)
            settings.append({**short, "student": student})
        return settings


def _instances(y: pd.DataFrame, X: pd.DataFrame | None) -> Iterator[_Instance]:
    """Take a frame of one series, a panel or a hierarchy apart."""
    if not isinstance(y.index, pd.MultiIndex):
        yield _instance((), y, X)
        return
    levels = list(range(y.index.nlevels - 1))
    covariates = {} if X is None else dict(iter(X.groupby(level=levels, sort=False)))
    for key, group in y.groupby(level=levels, sort=False):
        mine = covariates.get(key)
        yield _instance(
            key if isinstance(key, tuple) else (key,),
            group.droplevel(levels),
            None if mine is None else mine.droplevel(levels),
        )


def _instance(key: tuple[Any, ...], y: pd.DataFrame, X: pd.DataFrame | None) -> _Instance:
    """Turn one series into arrays."""
    covariates = None if X is None else X.reindex(y.index).to_numpy(np.float64)
    return _Instance(key, y.index, y.to_numpy(np.float64), covariates)


def _prepare(one: _Instance) -> PreparedSeries:
    """Prepare a series to be fitted on."""
    return replace(prepare_series(one.values), future=one.covariates)


def _cutoff(times: pd.Index) -> pd.Index:
    """Return the last time of a series, with its frequency."""
    return get_cutoff(pd.DataFrame(index=times), return_index=True)


def _steps(fh: ForecastingHorizon, cutoff: pd.Index) -> np.ndarray:
    """Return how far from the end of a series each step wanted is: 1 is the next."""
    return np.asarray(fh.to_relative(cutoff).to_pandas(), dtype=np.int64)


def _covariates_ahead(
    instances: Sequence[_Instance],
    X: pd.DataFrame | None,
    cutoffs: Sequence[pd.Index],
    horizon: int,
) -> list[np.ndarray | None]:
    """Return the covariates (horizon, F) after the end of each series; gaps are filled forward."""
    if X is None or instances[0].covariates is None:
        return [None] * len(instances)
    known = {one.key: one for one in _instances(X, None)}
    steps = ForecastingHorizon(range(1, horizon + 1))
    rows: list[np.ndarray | None] = []
    for one, cutoff in zip(instances, cutoffs, strict=True):
        frame = pd.DataFrame(known[one.key].values, index=known[one.key].times)
        times = pd.Index(steps.to_absolute_index(cutoff))
        rows.append(frame.reindex(times).ffill().bfill().to_numpy(np.float64))
    return rows
