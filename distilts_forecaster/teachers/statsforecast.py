"""Models of statsforecast as teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import statsforecast
from tqdm import tqdm

from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    WrappedTeacher,
    check_name_and_revision,
    check_request,
    describe,
)

__all__ = ["StatsForecastTeacher"]

#: Show progress from so many windows on.
_SHOW_PROGRESS_FROM = 50


class StatsForecastTeacher(WrappedTeacher):
    """Wrap a model of statsforecast: ``AutoETS(season_length=12)``, ``AutoARIMA(...)`` ...

    A fitted model forecasts each window with the parameters it has (its ``forward``); one that
    is not fitted is fitted to each window and component anew: the slow road, a window at a time.

    Parameters
    ----------
    model : object
        With statsforecast's ``forecast(y, h, level=...)``, and ``forward`` once it is fitted.
    name, revision : str, optional
        Give both to keep the labels of a fitted model on disk. Change ``revision`` whenever it
        is fitted again. By default a new model is known by its class, its parameters and
        statsforecast's version, where these can be written down.

    Raises
    ------
    TypeError
        If it is not such a model.
    ValueError
        If it is fitted and cannot be used on other series, or only one of ``name`` and
        ``revision`` is given.

    Examples
    --------
    >>> from statsforecast.models import SeasonalNaive
    >>> teacher = StatsForecastTeacher(SeasonalNaive(season_length=4))
    >>> contexts = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    >>> teacher.forecast(contexts, horizon=2, quantile_levels=[0.5]).quantiles.ravel()
    array([12., 13.], dtype=float32)
    """

    def __init__(self, model: Any, name: str | None = None, revision: str | None = None) -> None:
        check_name_and_revision(name, revision)
        kind = type(model).__name__
        if not callable(getattr(model, "forecast", None)) or not hasattr(model, "uses_exog"):
            raise TypeError(
                f"model must be a model of statsforecast, such as AutoETS(season_length=12), got "
                f"{model!r}. Of a StatsForecast object, pass one of its models."
            )
        self._is_fitted = hasattr(model, "model_")
        if self._is_fitted and not hasattr(model, "forward"):
            raise ValueError(
                f"A fitted {kind} cannot forecast another series than its own. Pass a new "
                f"{kind}(...), which is fitted to each window."
            )
        self.model = self.wrapped = model
        if name is None and not self._is_fitted:
            # Copies of it, which grid searches make, are the same teacher.
            name, revision = describe(model, vars(model), statsforecast.__version__)
        self.info = TeacherInfo(
            name=name or kind, revision=revision, licence=None, quantile_levels=(0.005, 0.995)
        )

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Forecast the steps that follow each context; see ``Teacher``.

        0.5 is the model's point forecast, other levels come from its intervals.
        """
        check_request(self.info, horizon, quantile_levels)
        n, _, components = contexts.shape
        method = self.model.forward if self._is_fitted else self.model.forecast
        widths = {q: round(100 * abs(2 * q - 1), 6) for q in quantile_levels if q != 0.5}
        levels = sorted(set(widths.values()))
        answer = np.empty((n, horizon, components, len(quantile_levels)), dtype=np.float32)
        rows = [(i, c) for i in range(n) for c in range(components)]
        for i, c in tqdm(
            rows,
            desc=self.info.name,
            disable=None if len(rows) >= _SHOW_PROGRESS_FROM else True,
            leave=False,
        ):
            made = self._ask(method, contexts[i, :, c].astype(np.float64), horizon, levels)
            for k, q in enumerate(quantile_levels):
                side = "lo" if q < 0.5 else "hi"
                answer[i, :, c, k] = made["mean" if q == 0.5 else f"{side}-{widths[q]}"]
        return TeacherForecast(answer)

    def _ask(
        self, method: Callable[..., Any], y: np.ndarray, horizon: int, levels: list[float]
    ) -> Any:
        """Forecast one window; say what is wrong where the model has no intervals."""
        if not levels:
            return method(y=y, h=horizon)
        try:
            return method(y=y, h=horizon, level=levels)
        except Exception as error:  # statsforecast raises bare exceptions
            raise ValueError(
                f"{self.info.name} gives no intervals ({error}), which quantiles are read from. "
                "Ask for the median alone, or use another model."
            ) from error
