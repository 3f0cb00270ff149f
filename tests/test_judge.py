import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill.judge import naive_error
from distilts_forecaster.distill.plan import plan_windows
from distilts_forecaster.settings import make_settings
from distilts_forecaster.students import Linear
from distilts_forecaster.windows.naive import USUAL_SEASONS, repeat_season
from distilts_forecaster.windows.source import prepare_series


def planned(values, length=40, steps=6, shift=0, **settings):
    settings = make_settings(length, steps, shift, **settings)
    return plan_windows([prepare_series(values)], settings)


@pytest.mark.parametrize("period", [1, 4, 5, 7, 12, 24, 48, 52, 96, 144, 168, 288, 336, 365])
def test_every_usual_season_is_tried(period):
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=period) if period > 1 else np.zeros(1)
    n = 4 * max(period, 20)
    values = np.tile(pattern, -(-n // period))[:n]
    if period == 1:
        values = rng.normal(size=n).cumsum()
    error, season = naive_error(planned(values[:, None], length=max(period, 8), steps=3))
    assert season == period
    assert period in USUAL_SEASONS
    assert period == 1 or error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("shift", [0, 3])
def test_the_naive_error_is_that_of_its_forecasts(shift):
    values = seasonal(200, components=2, period=7)
    values[150:155, 0] = np.nan
    plan = planned(values, shift=shift)
    (source, mask), total, count = plan.held_out[0], 0.0, 0
    origins = np.flatnonzero(mask)
    contexts, _ = source.filled_contexts(origins, 40)
    for i, origin in enumerate(origins):
        for step in range(plan.horizon):
            place = origin + shift + step
            if place < 200:
                # Whole seasons back, until the context is reached.
                back = place - 7 * -(-(place - origin + 1) // 7)
                missed = contexts[i, back - origin] - source.values[place]
                total += np.nansum(missed.astype(float) ** 2)
                count += np.isfinite(missed).sum()
    error, season = naive_error(plan)
    assert season == 7
    assert error == pytest.approx(total / count, rel=1e-5)


def test_where_nothing_is_held_out_there_is_no_naive_error():
    given = {"student": Linear(ridge=0.1), "distillation_weight": 0}
    assert naive_error(planned(seasonal(200), **given)) == (None, None)


@pytest.mark.parametrize(("season", "horizon", "shift"), [(1, 3, 0), (4, 10, 0), (4, 3, 5)])
def test_a_repeated_season_keeps_its_phase(season, horizon, shift):
    contexts = np.arange(12.0)[None, :, None]
    made = repeat_season(contexts, season, horizon, shift)[0, :, 0]
    steps = np.arange(12 + shift, 12 + shift + horizon)
    np.testing.assert_array_equal(made % season, steps % season)
    assert made.min() >= 12 - season
