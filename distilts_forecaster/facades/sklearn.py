"""The scikit-learn facade: rows of X are contexts, rows of y what followed them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from distilts_forecaster.distill.pipeline import TrainingSummary, fit_student
from distilts_forecaster.facades.student_io import Shippable
from distilts_forecaster.runtime import Forecaster, LinearForecaster
from distilts_forecaster.students.objective import HorizonWeights
from distilts_forecaster.teachers.load import as_specification
from distilts_forecaster.validation import check_cache_dir, make_settings, warn_of_levels
from distilts_forecaster.windows.cutting import prepare_rows

__all__ = ["DistilledRegressor"]


class DistilledRegressor(Shippable, RegressorMixin, BaseEstimator):
    """Multi-output regression on windows, with a teacher that knows time series.

    Each row of ``X`` is a context, oldest value first; each row of ``y`` the values that
    followed it. ``fit`` asks the teacher for forecasts from the rows of ``X`` and fits the
    student to them and to ``y``; ``predict`` runs the student alone. The student commutes with
    shifts and scales of a row, so the windows need no scaling.

    Parameters
    ----------
    teacher : str, path-like, Darts model, callable or Teacher, default "bundled"
    student : str, settings or torch.nn.Module, default "linear"
    distillation_weight : float or "auto", default "auto"
    horizon_weights : float, str, sequence of float or callable, default 1.0
    alignment : str or None, default "auto"
    alignment_weight : float, default 0.3
    alignment_dim : int, default 64
    label_budget : int, optional
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
    What "auto" chooses is chosen on the last fifth of the rows, without the T - 1 rows before
    them, as rows in the order of time may share targets.

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
        label_budget: int | None = None,
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
        self.label_budget = label_budget
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> DistilledRegressor:
        """Distil the teacher into a student fitted to these windows.

        Parameters
        ----------
        X : array-like, shape (N, L)
            Contexts, in the order of time if there is one.
        y : array-like, shape (N, T) or (N,)
            What followed. One column is a forecast of the next step.

        Returns
        -------
        DistilledRegressor

        Raises
        ------
        TypeError, ValueError
            If a parameter is not what it can be, or ``X`` and ``y`` are not finite numbers of
            these shapes, before the teacher is asked.
        ImportError
            If student or teacher need an extra that is not installed.
        """
        contexts, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        teacher = as_specification(self.teacher)
        check_cache_dir(self.cache_dir)
        rows = targets.astype(np.float64).reshape(len(targets), -1)
        settings = make_settings(
            input_chunk_length=contexts.shape[1],
            output_chunk_length=rows.shape[1],
            output_chunk_shift=0,
            student=self.student,
            distillation_weight=self.distillation_weight,
            horizon_weights=self.horizon_weights,
            alignment=self.alignment,
            alignment_weight=self.alignment_weight,
            alignment_dim=self.alignment_dim,
            quantiles=None,
            label_budget=self.label_budget,
            teacher_context=contexts.shape[1],
            random_state=self.random_state,
        )
        prepared = prepare_rows(contexts, rows)
        warn_of_levels([prepared])
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
        contexts = validate_data(self, X, dtype=np.float64, reset=False)
        forecasts = self.student_.predict(contexts[:, :, None])[:, :, 0]
        return forecasts[:, 0] if self._is_one_column else forecasts

    def __sklearn_tags__(self) -> Tags:
        """Say that ``y`` may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _in_float64(student: Forecaster) -> Forecaster:
    """Return a linear student that computes in float64.

    scikit-learn expects a row's forecast to be the same to 1e-9 whatever the order of the rows,
    which a product in float32 does not promise: kernels for the last rows add in another order.
    """
    if isinstance(student, LinearForecaster):
        return replace(student, weights=student.weights.astype(np.float64))
    return student
