"""Seasonal naive forecasts: what every forecaster must beat."""

from __future__ import annotations

import numpy as np

from distilts_forecaster.windows.periods import CALENDAR

__all__ = ["USUAL_SEASONS", "repeat_season"]

#: Seasons that a naive forecast is tried with: the last value, weeks of five days, and the
#: periods of common calendars.
USUAL_SEASONS = (1, 5, *CALENDAR.tolist())


def repeat_season(
    contexts: np.ndarray, season: int, horizon: int, output_chunk_shift: int = 0
) -> np.ndarray:
    """Forecast by repeating the last season, of at most L steps: (N, L, C) -> (N, horizon, C).

    >>> repeat_season(np.arange(5.0)[None, :, None], season=2, horizon=3)[0, :, 0]
    array([3., 4., 3.])
    """
    steps = (np.arange(horizon) + output_chunk_shift) % season
    return contexts[:, contexts.shape[1] - season + steps]
