"""The scikit-learn facade: rows of X are contexts, rows of y what followed them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.distill.pipeline import fit_student
from distilts_forecaster.facades.student_io import (
    Shippable,
    as_student,
    recall_parameters,
    recall_summary,
)
from distilts_forecaster.runtime import Forecaster, LinearForecaster
from distilts_forecaster.runtime.checks import as_numbers
from distilts_forecaster.settings import check_cache_dir, make_settings
from distilts_forecaster.students.objective import HorizonWeights
from distilts_forecaster.teachers.load import as_specification
from distilts_forecaster.windows.source import prepare_rows

__all__ = ["DistilledRegressor"]


class DistilledRegressor(Shippable, RegressorMixin, BaseEstimator):
    """Multi-output regression on windows, with a teacher that knows time series.

    Each row of ``X`` is a context, oldest value first; each row of ``y`` the values that
    followed it, the targets. ``fit`` asks the teacher for forecasts from the rows of ``X`` and
    fits the student to them and to ``y``; ``predict`` runs the student alone. Rows need no
    scaling: a shifted and scaled row has the shifted and scaled forecast.

    Parameters
    ----------
    teacher : str, path-like, Darts model, callable or Teacher, default "bundled"
    student : str, settings or torch.nn.Module, default "linear"
    distillation_weight : float or "auto", default "auto"
    horizon_weights : float, str, sequence of float or callable, default 1.0
    alignment : str or None, default "auto"
    alignment_weight : float, default 0.3
    alignment_dim : int, default 64
    nonnegative : bool, default False
    label_budget : int, "auto" or None, default "auto"
    time_limit : float, optional
    accept : float, optional
    cache_dir : path-like or False, optional
    random_state : int, optional
    verbose : bool, optional
        All as in :class:`~distilts_forecaster.DistilledForecaster`. The teacher sees the row
        and nothing before it.

    Attributes
    ----------
    student_ : LinearForecaster, NetworkForecaster or ModuleForecaster
    training_summary_ : TrainingSummary
    n_features_in_ : int
        Length of the context, L.
    feature_names_in_ : numpy.ndarray of str, shape (L,)
        Where ``X`` was a frame.

    Notes
    -----
    "auto" settings are chosen on the last fifth of the rows. The T - 1 rows before them are used
    for neither: rows in the order of time may share targets.

    Examples
    --------
    >>> import numpy as np
    >>> wave = np.sin(np.arange(400) * 2 * np.pi / 24)
    >>> rows = np.lib.stride_tricks.sliding_window_view(wave, 48 + 12)
    >>> X, y = rows[:, :48], rows[:, 48:]
    >>> model = DistilledRegressor().fit(X[:300], y[:300])
    >>> model.predict(X[300:]).shape
    (41, 12)
    """

    def __init__(
        self,
        teacher: Any = "bundled",
        student: Any = "linear",
        distillation_weight: float | str = "auto",
        horizon_weights: HorizonWeights = 1.0,
        alignment: str | None = "auto",
        alignment_weight: float = 0.3,
        alignment_dim: int = 64,
        nonnegative: bool = False,
        label_budget: int | str | None = "auto",
        time_limit: float | None = None,
        accept: float | None = None,
        cache_dir: str | os.PathLike | Literal[False] | None = None,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.distillation_weight = distillation_weight
        self.horizon_weights = horizon_weights
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.alignment_dim = alignment_dim
        self.nonnegative = nonnegative
        self.label_budget = label_budget
        self.time_limit = time_limit
        self.accept = accept
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_student(cls, student: Forecaster | str | os.PathLike) -> DistilledRegressor:
        """Return a fitted regressor around a student: ``predict`` needs no ``fit``.

        Parameters
        ----------
        student : Forecaster, str or path-like
            A student, a directory that :meth:`save_student` wrote, or a name on the hub.

        Returns
        -------
        DistilledRegressor

        Raises
        ------
        TypeError, ValueError, ImportError
            If it is no student (see :func:`~distilts_forecaster.load_student`), or one of several
            components or with covariates, which rows of ``X`` do not hold.

        Examples
        --------
        >>> from distilts_forecaster import LinearForecaster
        >>> student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32))
        >>> DistilledRegressor.from_student(student).predict([[1.0, 2.0, 3.0, 4.0]])
        array([[2.5, 2.5]])
        """
        student = as_student(student)
        if any(student.n_covariates) or student.n_components not in (None, 1):
            raise ValueError(
                f"This student needs covariates {student.n_covariates} (past, future, static) or "
                f"forecasts {student.n_components} components: rows of X hold one series each. "
                "Use student.predict."
            )
        if student.output_chunk_shift:
            raise ValueError(
                f"This student leaves out {student.output_chunk_shift} steps after its context, "
                "which a regressor knows nothing of. Use student.predict."
            )
        known = recall_parameters(student)
        names = cls().get_params()
        regressor = cls(**{name: value for name, value in known.items() if name in names})
        regressor.student_ = _in_float64(student)
        summary = recall_summary(student)
        if summary is not None:
            regressor.training_summary_ = summary
        regressor.n_features_in_ = student.input_chunk_length
        regressor._is_one_column = False
        return regressor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DistilledRegressor:
        """Distil the teacher into a student fitted to these windows.

        Parameters
        ----------
        X : array-like, shape (N, L)
            Contexts, in the order of time if there is one.
        y : array-like, shape (N, T) or (N,)
            What followed. One column is a forecast of the next step.
        sample_weight : array-like, shape (N,), optional
            How much each row of ``y`` counts. The teacher's forecasts are not weighted.

        Returns
        -------
        DistilledRegressor

        Raises
        ------
        TypeError, ValueError
            If a parameter is invalid, or ``X`` and ``y`` are not finite numbers of these shapes;
            before the teacher is asked.
        ImportError
            If student or teacher need an extra that is not installed.
        """
        X, y = _unmasked("X", X), _unmasked("y", y)
        contexts, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        teacher = as_specification(self.teacher)
        check_cache_dir(self.cache_dir)
        rows = targets.astype(np.float64).reshape(len(targets), -1)
        settings = make_settings(
            input_chunk_length=contexts.shape[1],
            output_chunk_length=rows.shape[1],
            student=self.student,
            distillation_weight=self.distillation_weight,
            horizon_weights=self.horizon_weights,
            alignment=self.alignment,
            alignment_weight=self.alignment_weight,
            alignment_dim=self.alignment_dim,
            nonnegative=self.nonnegative,
            label_budget=self.label_budget,
            time_limit=self.time_limit,
            accept=self.accept,
            teacher_context=contexts.shape[1],
            random_state=self.random_state,
        )
        prepared = prepare_rows(contexts[:, :, None], rows[:, :, None])
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, contexts, ensure_non_negative=True)
            prepared = replace(prepared, weight=weight.astype(np.float64))
        result = fit_student([prepared], settings, teacher, self.cache_dir, verbose=self.verbose)
        self.student_: Forecaster = _in_float64(result.student)
        self.training_summary_: TrainingSummary = result.summary
        self._is_one_column = targets.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Forecast what follows each context, with the student alone.

        Parameters
        ----------
        X : array-like, shape (N, L)

        Returns
        -------
        numpy.ndarray of float64, shape (N, T), or (N,) where ``y`` was

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            If ``X`` has another number of columns, or values that are not finite.
        """
        check_is_fitted(self)
        contexts = validate_data(self, _unmasked("X", X), dtype=np.float64, reset=False)
        forecasts = self.student_.predict(contexts[:, :, None])[:, :, 0]
        return forecasts[:, 0] if self._is_one_column else forecasts

    def __sklearn_tags__(self) -> Tags:
        """Say that ``y`` may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _unmasked(name: str, values: Any) -> Any:
    """Refuse times, which scikit-learn takes as nanoseconds; what is masked is missing."""
    is_masked = isinstance(values, np.ma.MaskedArray)
    return (
        as_numbers(name, values) if is_masked or np.asarray(values).dtype.kind in "mM" else values
    )


def _in_float64(student: Forecaster) -> Forecaster:
    """Return a linear student that computes in float64.

    scikit-learn expects a row's forecast to be the same to 1e-9 whatever the order of the rows,
    which a product in float32 does not promise: kernels for the last rows add in another order.
    """
    if isinstance(student, LinearForecaster):
        return replace(student, weights=student.weights.astype(np.float64))
    return student
