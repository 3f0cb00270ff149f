"""The sktime facade: pandas in, pandas out, the same core in between."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from sktime.datatypes import update_data
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon

from distilts_forecaster.distill.drift import DriftReport, measure_drift
from distilts_forecaster.distill.incremental import WarmStart
from distilts_forecaster.distill.pipeline import fit_student
from distilts_forecaster.distill.student_info import with_data
from distilts_forecaster.facades.sktime_panels import (
    Instance,
    covariates_ahead,
    steps_ahead,
    take_apart,
)
from distilts_forecaster.facades.student_io import (
    Shippable,
    as_student,
    recall_parameters,
    recall_summary,
)
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import check_integer, count_unknown, warn_of_unknown
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.settings import (
    Settings,
    check_cache_dir,
    check_student,
    fit_lengths,
    make_settings,
)
from distilts_forecaster.students import MLP, Training
from distilts_forecaster.students.objective import HorizonWeights
from distilts_forecaster.teachers.load import as_specification
from distilts_forecaster.windows.cutting import (
    history_windows,
    iterate_chunks,
    window_covariates,
)
from distilts_forecaster.windows.periods import have_trend
from distilts_forecaster.windows.source import PreparedSeries, prepare_series

__all__ = ["DistilledForecaster"]

#: What ``pretrain`` leaves for ``fit``, ``clone`` and ``predict``.
_FITTED = ["student_", "training_summary_", "covariate_names_", "scales_"]


class DistilledForecaster(Shippable, BaseForecaster):
    """A tiny forecaster that has learned from a time-series foundation model.

    ``fit`` asks the teacher for forecasts on windows of ``y`` and fits the student to ``y``
    and to those forecasts; ``predict`` runs the student alone. A panel or a hierarchy is
    fitted by one student, as a whole. ``pretrain`` on a panel fits the student, and ``fit`` on a
    series then only says what to forecast from.

    Parameters
    ----------
    input_chunk_length : int, optional
        Steps of context, L. By default 512, or what suits series that are too short for it; see
        :func:`~distilts_forecaster.settings.fit_lengths`.
    output_chunk_length : int, optional
        Steps forecast at once, T. Longer forecasts feed the first ones back. By default up to the
        last step of the ``fh`` of ``fit``, or 96; fewer where the series are too short for it.
    teacher : str, path-like, sktime forecaster, callable or Teacher, default "bundled"
    student : str, settings or torch.nn.Module, default "linear"
    distillation_weight : float or "auto", default "auto"
    horizon_weights : float, str, sequence of float or callable, default 1.0
    alignment : str or None, default "auto"
    alignment_weight : float, default 0.3
    alignment_dim : int, default 64
    calibrate : bool, default True
    nonnegative : bool, default False
    label_budget : int, "auto" or None, default "auto"
    time_limit : float, optional
    accept : float, optional
    teacher_context : int, optional
    cache_dir : path-like or False, optional
    random_state : int, optional
    verbose : bool, optional
        All as in :class:`~distilts_forecaster.DistilledForecaster` of Darts.

    Attributes
    ----------
    student_ : LinearForecaster, NetworkForecaster or ModuleForecaster
        The fitted student.
    training_summary_ : TrainingSummary
        Windows, labels found in the cache, chosen settings, errors, seconds.
    covariate_names_ : list or None
        The columns of ``X`` that the student was fitted with.
    scales_ : dict
        Mean and standard deviation of each series of ``fit``, by its labels in the index.

    Notes
    -----
    ``predict_quantiles`` and ``predict_interval`` add error quantiles to the forecasts, by step and
    in units of the context's standard deviation. They are those of the errors on held-out windows
    (the last fifth of each series), pooled with the teacher's. Beyond T sample paths are fed back.

    NaN means missing. Gaps of a context, and the start of a history shorter than it, are filled
    (see :func:`~distilts_forecaster.runtime.gaps.fill_gaps`); a missing target counts in no loss.
    In-sample forecasts are made one step ahead, from what came before; the first step of a series
    has nothing before it, and is forecast from itself.

    Gaps of ``X`` are interpolated, and a teacher that takes covariates sees ``X`` too.
    ``predict`` needs rows of ``X`` for every step up to the last of ``fh``. Of later steps the
    student uses the rows that are given, up to its T steps, and repeats the last one.

    ``update`` moves the point to forecast from; with ``update_params=True`` it also fits again
    on everything seen, unless the student was pretrained. Only windows that are new are
    labelled and, from the second time on, summed.

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
        "capability:non_contiguous_X": False,
        "capability:insample": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": True,
        "capability:missing_values": True,
        "capability:categorical_in_X": False,
        "capability:update": True,
        "capability:pretrain": True,
        "capability:random_state": True,
        "property:randomness": "derandomized",
        "pretrain:fitted_params": _FITTED,
        "requires-fh-in-fit": False,
    }

    # This class keeps the data itself; sktime must not keep it again.
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
        calibrate: bool = True,
        nonnegative: bool = False,
        label_budget: int | str | None = "auto",
        time_limit: float | None = None,
        accept: float | None = None,
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
        self.calibrate = calibrate
        self.nonnegative = nonnegative
        self.label_budget = label_budget
        self.time_limit = time_limit
        self.accept = accept
        self.teacher_context = teacher_context
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.verbose = verbose
        self._y = self._X = None
        super().__init__()

    def __post_init__(self) -> None:
        """Say whether the student takes covariates."""
        takes = check_student(self.student).takes_covariates
        self.set_tags(**{"capability:exogenous": takes})

    @classmethod
    def from_student(
        cls, student: Forecaster | str | os.PathLike, covariate_names: Sequence[Any] | None = None
    ) -> DistilledForecaster:
        """Return a pretrained forecaster around a student: ``fit`` asks no teacher.

        Parameters
        ----------
        student : Forecaster, str or path-like
            A student, a directory that :meth:`save_student` wrote, or a name on the hub.
        covariate_names : sequence, optional
            The columns of ``X`` that it was fitted with. Needed if another facade fitted it, or
            they are neither text nor integers.

        Returns
        -------
        DistilledForecaster
            ``fit(y, fh)`` says what to forecast from.

        Raises
        ------
        TypeError, ValueError, ImportError
            If it is no student (see :func:`~distilts_forecaster.load_student`), or one that this
            facade cannot run: with past or static covariates, or shifted.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> from distilts_forecaster import LinearForecaster
        >>> from distilts_forecaster.sktime import DistilledForecaster
        >>> student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32))
        >>> y = pd.Series([1.0, 2.0, 3.0, 4.0])
        >>> DistilledForecaster.from_student(student).fit(y, fh=[1, 2]).predict().tolist()
        [2.5, 2.5]
        """
        student = as_student(student)
        n_past, n_future, n_static = student.n_covariates
        if n_past or n_static or student.output_chunk_shift:
            raise ValueError(
                "This student needs past or static covariates, or is shifted "
                f"({n_past}, {n_static}, {student.output_chunk_shift}), of which sktime knows "
                "nothing: use DistilledForecaster.from_student of Darts, or student.predict."
            )
        told = (student.info or StudentInfo()).sktime or {}
        names = told.get("covariate_names") if covariate_names is None else list(covariate_names)
        if len(names or []) != n_future:
            raise ValueError(
                f"The student was fitted with {n_future} covariates, got the names {names}: give "
                'covariate_names=["the", "columns", "of X"].'
            )
        forecaster = cls(**recall_parameters(student))
        forecaster.student_ = student
        summary = recall_summary(student)
        if summary is not None:
            forecaster.training_summary_ = summary
        forecaster.covariate_names_ = names
        forecaster.scales_ = {}
        forecaster._pretrained_attrs = list(_FITTED)
        forecaster._state = "pretrained"
        return forecaster

    def _pretrain(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, fh: ForecastingHorizon | None = None
    ) -> DistilledForecaster:
        """Fit the student to a panel."""
        columns = None if X is None else list(X.columns)
        return self._distil(take_apart(y, X, columns), columns, fh)

    def _pretrain_update(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, fh: ForecastingHorizon | None = None
    ) -> DistilledForecaster:
        """Fit the student to another panel, instead of the one before."""
        return self._pretrain(y, X, fh)

    def _fit(
        self, y: pd.DataFrame, X: pd.DataFrame | None, fh: ForecastingHorizon | None
    ) -> DistilledForecaster:
        """Fit the student, unless it was pretrained; and remember what to forecast from."""
        self._is_pretrained = hasattr(self, "student_")
        columns = None if X is None else list(X.columns)
        if self._is_pretrained:
            columns = self.covariate_names_
        instances = take_apart(y, X, columns)
        if not self._is_pretrained:
            self._distil(instances, columns, fh)
        self._seen_y, self._seen_X, self._instances = y, X, instances
        return self

    def _update(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, update_params: bool = True
    ) -> DistilledForecaster:
        """Remember what is new; fit again if asked to."""
        columns = self.covariate_names_
        take_apart(y, X, columns)  # checked by itself before anything is remembered
        seen_y = update_data(self._seen_y, y)
        seen_X = None if columns is None else update_data(self._seen_X, X)
        instances = take_apart(seen_y, seen_X, columns)
        if update_params and not self._is_pretrained:
            self._warm = getattr(self, "_warm", None) or WarmStart()
            self._distil(instances, columns, self._fh, self._warm)
        self._seen_y, self._seen_X, self._instances = seen_y, seen_X, instances
        return self

    def _distil(
        self,
        instances: Sequence[Instance],
        columns: list[Any] | None,
        fh: ForecastingHorizon | None,
        warm: WarmStart | None = None,
    ) -> DistilledForecaster:
        """Fit the student."""
        check_cache_dir(self.cache_dir)
        teacher = as_specification(self.teacher)
        known = [one for one in instances if np.isfinite(one.values).any()]
        if not known:
            raise ValueError("y has no values at all: every one is missing.")
        horizon = None if fh is None else max(1, int(np.max(steps_ahead(fh, instances[0]))))
        lengths = [len(one.times) for one in known]
        trend = have_trend([one.values for one in known])
        settings = fit_lengths(self._settings(), lengths, columns is not None, horizon, trend)
        values = [one.values for one in known]
        scaled = [prepare_series(v) for v in values] if warm is None else warm.prepare(values)
        prepared = _with_covariates(scaled, known)
        result = fit_student(
            prepared, settings, teacher, self.cache_dir, verbose=self.verbose, warm=warm
        )
        info = with_data(
            result.student.info or StudentInfo(),
            start=min(one.times[0] for one in known),
            end=max(one.times[-1] for one in known),
            covariates=None if columns is None else list(map(str, columns)),
        )
        plain = None if columns is None else [c if isinstance(c, int) else str(c) for c in columns]
        info = replace(info, sktime={"covariate_names": plain})
        self.student_ = result.student.with_info(info)
        self.training_summary_ = result.summary
        self.covariate_names_ = columns
        self.scales_ = {
            one.key: (mine.location, mine.std) for one, mine in zip(known, prepared, strict=True)
        }
        return self

    def _settings(self) -> Settings:
        """Return what to fit."""
        return make_settings(
            input_chunk_length=self.input_chunk_length,
            output_chunk_length=self.output_chunk_length,
            student=self.student,
            distillation_weight=self.distillation_weight,
            horizon_weights=self.horizon_weights,
            alignment=self.alignment,
            alignment_weight=self.alignment_weight,
            alignment_dim=self.alignment_dim,
            label_budget=self.label_budget,
            time_limit=self.time_limit,
            accept=self.accept,
            teacher_context=self.teacher_context,
            random_state=self.random_state,
            probabilistic=True,
            calibrate=self.calibrate,
            nonnegative=self.nonnegative,
        )

    def drift_report(
        self, y: Any = None, X: pd.DataFrame | None = None, n_windows: int = 100
    ) -> DriftReport:
        """Compare the student with its teacher and with the targets of recent windows.

        Says when to fit again.

        Parameters
        ----------
        y : pandas.Series or DataFrame, optional
            What was fitted on, with what has come since. By default all that ``fit`` and
            ``update`` have seen.
        X : pandas.DataFrame, optional
            Its covariates, if the student was fitted with some.
        n_windows : int, default 100
            Windows to look at, evenly spaced over the last ten horizons.

        Returns
        -------
        DriftReport
            ``print`` it, or look at ``should_refit``.

        Raises
        ------
        ValueError
            If the forecaster is not fitted, or the series are too short.
        """
        self.check_is_fitted()
        check_integer("n_windows", n_windows)
        if not hasattr(self, "training_summary_"):
            raise ValueError("This student does not say how good it was when it was fitted.")
        instances = self._instances
        if y is not None:
            X, y = self._check_X_y(X=X, y=y)
            if list(y.columns) != list(self._seen_y.columns):
                raise ValueError(
                    f"y must have the columns of fit, {list(self._seen_y.columns)}, got "
                    f"{list(y.columns)}."
                )
            instances = take_apart(y, X, self.covariate_names_)
        # A pretrained student was fitted to other series, whatever their labels.
        scales = {} if self._is_pretrained else self.scales_
        prepared = [
            replace(prepare_series(one.values, scales.get(one.key)), period=self.student_.period)
            for one in instances
        ]
        return measure_drift(
            self.student_,
            _with_covariates(prepared, instances),
            self._settings(),
            self.training_summary_,
            as_specification(self.teacher),
            self.cache_dir,
            n_windows,
        )

    def _predict(self, fh: ForecastingHorizon, X: pd.DataFrame | None = None) -> pd.DataFrame:
        """Forecast every series, all in one call of the student."""
        values, index = self._run(fh, X)
        return pd.DataFrame(values[..., 0], index=index, columns=self._seen_y.columns)

    def _predict_quantiles(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None, alpha: list[float]
    ) -> pd.DataFrame:
        """Forecast quantiles of every series."""
        levels = sorted(set(alpha))
        values, index = self._run(fh, X, levels)
        values = values[..., [levels.index(level) for level in alpha]]
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)

    def _run(
        self,
        fh: ForecastingHorizon,
        X: pd.DataFrame | None,
        levels: Sequence[float] | None = None,
    ) -> tuple[np.ndarray, pd.Index]:
        """Return forecasts (n, C, 1), or quantiles (n, C, Q), and their index."""
        steps = [steps_ahead(fh, one) for one in self._instances]
        wanted = [max(0, int(some.max())) for some in steps]
        ahead = self.student_.output_chunk_length
        # Whole chunks: the forecast of a step must not depend on the other steps wanted.
        horizon = max(wanted)
        if self.covariate_names_ is not None:
            horizon = -(-max(1, horizon) // ahead) * ahead
        future = covariates_ahead(self._instances, X, self.covariate_names_, wanted, horizon)
        n_levels = 1 if levels is None else len(levels)
        values = np.empty((sum(map(len, steps)), self._seen_y.shape[1], n_levels))
        stops = np.cumsum([len(some) for some in steps])
        places = [slice(stop - len(some), stop) for stop, some in zip(stops, steps, strict=True)]
        beyond = [i for i, most in enumerate(wanted) if most > 0]
        n_contexts, n_unknown = len(beyond), 0
        if beyond:
            made = self._forecast_ends(beyond, horizon, future, levels)
            n_unknown = count_unknown(made)
            for i, forecast in zip(beyond, made, strict=True):
                later = steps[i] > 0
                values[places[i]][later] = forecast[steps[i][later] - 1]
        for i, (one, some) in enumerate(zip(self._instances, steps, strict=True)):
            if (some <= 0).any():
                # The origin is the step itself: what came before is the context.
                origins = len(one.times) - 1 + some[some <= 0]
                fitted = self._forecast_inside(one, origins, future[i], levels)
                values[places[i]][some <= 0] = fitted
                n_contexts, n_unknown = n_contexts + len(origins), n_unknown + count_unknown(fitted)
        warn_of_unknown(n_unknown, n_contexts, self.student_.input_chunk_length)
        times = [pd.Index(fh.to_absolute_index(one.cutoff)) for one in self._instances]
        index = times[0]
        if self._instances[0].key:
            index = pd.MultiIndex.from_tuples(
                [
                    (*one.key, time)
                    for one, mine in zip(self._instances, times, strict=True)
                    for time in mine
                ],
                names=self._seen_y.index.names,
            )
        return values, index

    def _forecast_ends(
        self,
        chosen: Sequence[int],
        horizon: int,
        future: Sequence[np.ndarray | None],
        levels: Sequence[float] | None,
    ) -> np.ndarray:
        """Forecast what follows some series: (n, horizon, C, Q)."""
        student = self.student_
        ahead = max(horizon, student.output_chunk_length)
        parts = [
            _window(one, np.array([len(one.times)]), student.input_chunk_length, ahead, future[i])
            for i, one in ((i, self._instances[i]) for i in chosen)
        ]
        contexts = np.concatenate([part for part, _ in parts])
        return self._call(contexts, horizon, [known for _, known in parts], levels)

    def _forecast_inside(
        self,
        one: Instance,
        origins: np.ndarray,
        future: np.ndarray | None,
        levels: Sequence[float] | None,
    ) -> np.ndarray:
        """Forecast steps of a series from what came before each: (n, C, Q)."""
        length, ahead = self.student_.input_chunk_length, self.student_.output_chunk_length
        made = []
        for part in iterate_chunks(origins, one.values.shape[1]):
            contexts, known = _window(one, part, length, ahead, future)
            made.append(self._call(contexts, 1, [known], levels)[:, 0])
        return np.concatenate(made)

    def _call(
        self,
        contexts: np.ndarray,
        horizon: int,
        covariates: Sequence[np.ndarray | None],
        levels: Sequence[float] | None,
    ) -> np.ndarray:
        """Run the student: (n, horizon, C, Q)."""
        given = {}
        if self.covariate_names_ is not None:
            given["future_covariates"] = np.concatenate([c for c in covariates if c is not None])
        if levels is None:
            return self.student_.predict(contexts, horizon, **given)[..., None]
        return self.student_.predict_quantiles(contexts, horizon, levels, **given)

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


def _with_covariates(
    series: Sequence[PreparedSeries], instances: Sequence[Instance]
) -> list[PreparedSeries]:
    """Return series with their covariates, which are known ahead."""
    return [
        replace(one, covariates=Covariates(future=instance.covariates))
        for one, instance in zip(series, instances, strict=True)
    ]


def _window(
    one: Instance, origins: np.ndarray, length: int, ahead: int, future: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut contexts (n, L, C), NaN before the series, and covariates (n, L + ahead, F)."""
    # Only what is needed is copied: a series may have a million steps.
    first, last = max(0, int(origins.min()) - length), int(origins.max())
    values = one.values[first : max(last, first + 1)]
    places = origins - first
    contexts = history_windows(values, np.maximum(places, 1), length)
    if not places.min():  # nothing comes before the first step: it is forecast by itself
        contexts = contexts.copy()
        contexts[places == 0, -1] = values[0]
    if one.covariates is None or future is None:
        return contexts, None
    known = np.concatenate([one.covariates[first : last + ahead], future])
    return contexts, window_covariates(Covariates(future=known), places, length, ahead).future
