"""Any sktime forecaster as a teacher."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import sktime
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
from tqdm import tqdm

from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    WrappedTeacher,
    check_name_and_revision,
    check_request,
    describe,
)

__all__ = ["SktimeTeacher"]

#: Show progress from so many windows on.
_SHOW_PROGRESS_FROM = 50


class SktimeTeacher(WrappedTeacher):
    """Wrap an sktime forecaster.

    A forecaster that was pretrained and takes panels forecasts all windows in one call. Any
    other is cloned and fitted to each window anew: the slow road, some 60 ms for each.
    Parameters that a fitted forecaster has found are not used; ``pretrain`` keeps them.

    Parameters
    ----------
    forecaster : sktime forecaster
    name, revision : str, optional
        Give both to keep the labels of a pretrained forecaster on disk. Change ``revision``
        whenever it is pretrained again. By default a new forecaster is known by its class,
        its parameters and sktime's version, where these can be written down.

    Raises
    ------
    TypeError
        If it is not an sktime forecaster.
    ValueError
        If only one of ``name`` and ``revision`` is given.

    Examples
    --------
    >>> from sktime.forecasting.naive import NaiveForecaster
    >>> teacher = SktimeTeacher(NaiveForecaster(sp=4))
    >>> contexts = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    >>> teacher.forecast(contexts, horizon=2, quantile_levels=[0.5]).quantiles.ravel()
    array([12., 13.], dtype=float32)
    """

    def __init__(
        self, forecaster: BaseForecaster, name: str | None = None, revision: str | None = None
    ) -> None:
        check_name_and_revision(name, revision)
        if not isinstance(forecaster, BaseForecaster):
            raise TypeError(f"forecaster must be an sktime forecaster, got {forecaster!r}.")
        self.forecaster = self.wrapped = forecaster
        kinds = forecaster.get_tag("y_inner_mtype")
        takes_panels = "pd-multiindex" in ([kinds] if isinstance(kinds, str) else kinds)
        # A panel that is fitted on as a whole would make labels depend on their batch.
        self._is_batched = takes_panels and forecaster.state == "pretrained"
        self._is_multivariate = bool(forecaster.get_tag("capability:multivariate"))
        self._has_quantiles = bool(forecaster.get_tag("capability:pred_int"))
        if name is None and forecaster.state == "new":
            # Clones of it, which grid searches make, are the same teacher.
            name, revision = describe(forecaster, forecaster.get_params(), sktime.__version__)
        self.info = TeacherInfo(
            name=name or type(forecaster).__name__,
            revision=revision,
            quantile_levels=(0.005, 0.995) if self._has_quantiles else None,
        )

    def forecast(
        self, contexts: np.ndarray, horizon: int, quantile_levels: Sequence[float]
    ) -> TeacherForecast:
        """Forecast what follows each context; see ``Teacher``. 0.5 alone is the point forecast."""
        check_request(self.info, horizon, quantile_levels)
        n, length, components = contexts.shape
        windows = contexts.astype(np.float64)
        if not self._is_multivariate:
            windows = windows.transpose(0, 2, 1).reshape(n * components, length, 1)
        width = windows.shape[2]
        levels = list(quantile_levels)
        if self._is_batched:
            index = pd.MultiIndex.from_product([range(len(windows)), range(length)])
            made = self._ask(pd.DataFrame(windows.reshape(-1, width), index=index), horizon, levels)
        else:
            made = np.concatenate(
                [
                    self._ask(pd.DataFrame(window), horizon, levels)
                    for window in tqdm(
                        windows,
                        desc=f"fitting {self.info.name}",
                        disable=None if len(windows) >= _SHOW_PROGRESS_FROM else True,
                        leave=False,
                    )
                ]
            )
        made = made.reshape(len(windows), horizon, width, len(levels))
        if width != components:
            made = made.reshape(n, components, horizon, -1).transpose(0, 2, 1, 3)
        return TeacherForecast(np.ascontiguousarray(made, dtype=np.float32))

    def _ask(self, y: pd.DataFrame, horizon: int, levels: list[float]) -> np.ndarray:
        """Forecast one window, or a panel of them."""
        fh = ForecastingHorizon(range(1, horizon + 1))
        with warnings.catch_warnings():
            # Of settings that will change in sktime's next version: once for every window.
            warnings.simplefilter("ignore", FutureWarning)
            forecaster = self.forecaster.clone().fit(y, fh=fh)
            if levels == [0.5]:
                return forecaster.predict(fh).to_numpy()[..., None]
            # Columns by variable, then by level.
            return forecaster.predict_quantiles(fh, alpha=levels).to_numpy()
