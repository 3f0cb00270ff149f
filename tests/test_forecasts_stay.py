"""Forecasts on fixed inputs, beside those that were written down before the code was rearranged.

``python -m tests.test_forecasts_stay`` writes them down anew: only where a change of forecasts is
meant, and the commit says so.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from darts import TimeSeries, concatenate

from distilts_forecaster import DistilledForecaster, Ensemble, FunctionTeacher, Linear

FILE = Path(__file__).parent / "forecasts" / "fixed.npz"

#: Of the series' standard deviation, which is about one. Networks are trained in float32, whose
#: rounding differs between processors.
TOLERANCES = {"exact": 1e-4, "trained": 1e-2}


def wave(n, period=24.0, components=1, phase=0.0):
    """Return values (n, components) that are the same on every machine."""
    steps = np.arange(n)[:, None] + phase
    place = np.arange(components)[None]
    season = np.sin(2 * np.pi * steps / period + place) + 0.5 * np.sin(2 * np.pi * steps / 7.3)
    noise = np.modf(np.abs(np.sin(steps * 12.9898 + place * 78.233)) * 43758.5453)[0] - 0.5
    return season + 0.6 * noise + 0.002 * steps


def series(n, components=1, **options):
    return TimeSeries.from_values(wave(n, components=components, **options))


def last_cycle(contexts, horizon, period=24):
    """Forecast by repeating the last ``period`` values."""
    repeats = -(-horizon // period)
    return np.tile(contexts[:, -period:], (1, repeats, 1))[:, :horizon]


def last_value(contexts, horizon):
    """Forecast by repeating the last value."""
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def forecast(target, n=24, fit=None, predict=None, **parameters):
    """Fit a Darts model to ``target`` and return its forecast."""
    given = {"input_chunk_length": 48, "output_chunk_length": 12, "cache_dir": False}
    model = DistilledForecaster(**{**given, "verbose": False, **parameters})
    model.fit(target, **(fit or {}))
    several = not isinstance(target, TimeSeries)
    made = model.predict(n, **({"series": target} if several else {}), **(predict or {}))
    return np.stack([m.all_values() for m in made]) if several else made.all_values()


def with_gaps():
    values = wave(400, components=2)
    values[50:60] = np.nan
    values[::7, 1] = np.nan
    values[-5:, 0] = np.nan
    return TimeSeries.from_values(values)


def covariates(n):
    return {"past_covariates": series(n + 60, 2, phase=3.0), "future_covariates": series(n + 60)}


def with_static(kind):
    target = series(400, 2)
    return target.with_static_covariates(kind(target))


def static_frame(target):
    import pandas as pd

    return pd.DataFrame({"size": [1.0, 3.0]}, index=target.components)


def ensemble():
    members = [
        FunctionTeacher(last_cycle, name="cycle", revision="1"),
        FunctionTeacher(last_value, name="value", revision="1"),
    ]
    return Ensemble(members, weights="by_horizon")


def warm():
    model = DistilledForecaster(48, 12, cache_dir=False, verbose=False)
    model.fit(series(500), warm_start=True).fit(series(520), warm_start=True)
    return model.predict(24).all_values()


def trained(kind, **parameters):
    """Return a forecast of a network that was trained for two epochs."""
    from distilts_forecaster import MLP, DLinear, ITransformer, Training

    training = Training(max_epochs=2, learning_rate=1e-3, device="cpu")
    students = {
        "dlinear": DLinear(training=training),
        "mlp": MLP(hidden_size=16, n_blocks=1, training=training),
        "itransformer": ITransformer(16, 2, 32, training=training),
    }
    n = parameters.pop("n", 24)
    return forecast(
        series(300, 2), n, student=students[kind], random_state=0, quantiles=None, **parameters
    )


def trained_with_covariates():
    from distilts_forecaster import MLP, Training

    student = MLP(16, 1, training=Training(max_epochs=2, learning_rate=1e-3, device="cpu"))
    return forecast(with_static(static_frame), 24, covariates(400), student=student, random_state=0)


def trained_quantiles():
    from distilts_forecaster import ITransformer, Training

    training = Training(max_epochs=2, learning_rate=1e-3, device="cpu")
    return forecast(
        series(300, 2), 12, student=ITransformer(16, 2, 32, training=training), random_state=0,
        quantiles=[0.1, 0.5, 0.9], predict={"predict_likelihood_parameters": True},
    )  # fmt: skip


def sktime_quantiles():
    import pandas as pd

    from distilts_forecaster.sktime import DistilledForecaster as Sktime

    index = pd.MultiIndex.from_product([["a", "b"], range(300)], names=["id", "time"])
    y = pd.DataFrame({"y": np.concatenate([wave(300), wave(300, phase=5.0)])[:, 0]}, index=index)
    X = pd.DataFrame({"x": np.concatenate([wave(340, phase=1.0), wave(340)])[:, 0]})
    X.index = pd.MultiIndex.from_product([["a", "b"], range(340)], names=["id", "time"])
    model = Sktime(48, 12, cache_dir=False, verbose=False)
    model.fit(y, X=X.loc[y.index], fh=[-2, 1, 12, 20])
    return model.predict_quantiles(X=X, alpha=[0.1, 0.5, 0.9]).to_numpy()


def regressor():
    from distilts_forecaster.sklearn import DistilledRegressor

    rows = np.lib.stride_tricks.sliding_window_view(wave(300)[:, 0], 60)
    model = DistilledRegressor(cache_dir=False, verbose=False).fit(rows[:200, :48], rows[:200, 48:])
    return model.predict(rows[200:, :48])


QUANTILES = {"quantiles": [0.1, 0.5, 0.9]}

CASES = {
    "default": lambda: forecast(series(600, 2)),
    "steep weights, one matrix each": lambda: forecast(
        series(600, 2), student=Linear(per_component=True), horizon_weights="auto"
    ),
    "nothing to choose": lambda: forecast(
        series(300), student=Linear(ridge=0.1), distillation_weight=0
    ),
    "inverse error": lambda: forecast(series(400), horizon_weights="inverse_error"),
    "gaps": lambda: forecast(with_gaps()),
    "shift": lambda: forecast(series(400), 12, output_chunk_shift=3),
    "covariates": lambda: forecast(with_static(static_frame), 24, covariates(400)),
    "panel with covariates": lambda: forecast(
        [series(200), series(260, phase=9.0)],
        24,
        {"future_covariates": [series(330), series(330)]},
        {"future_covariates": [series(330), series(330)]},
    ),
    "quantiles": lambda: forecast(
        series(400), 12, **QUANTILES, predict={"predict_likelihood_parameters": True}
    ),
    "quantiles, no teacher": lambda: forecast(
        series(400), 12, **QUANTILES, distillation_weight=0,
        predict={"predict_likelihood_parameters": True},
    ),
    "sample paths": lambda: forecast(
        series(400), 30, **QUANTILES, predict={"num_samples": 5, "random_state": 0}
    ),
    "short": lambda: forecast(series(60), input_chunk_length=None, output_chunk_length=None),
    "shorter": lambda: forecast(series(20), input_chunk_length=None, output_chunk_length=None),
    "validation series": lambda: forecast(series(300), fit={"val_series": series(120, phase=8.0)}),
    "few labels, made up": lambda: forecast(series(300), augmentation=0.5, label_budget=100),
    "ensemble": lambda: forecast(series(300), teacher=ensemble()),
    "encoders": lambda: forecast(
        concatenate([series(200), series(100).shift(200)]),
        add_encoders={"position": {"future": ["relative"]}},
    ),
    "warm": warm,
    "dlinear": lambda: trained("dlinear"),
    "mlp": lambda: trained("mlp"),
    "itransformer, aligned": lambda: trained("itransformer", alignment="factorised"),
    "mlp with covariates": trained_with_covariates,
    "itransformer, quantiles": trained_quantiles,
    "sktime": sktime_quantiles,
    "regressor": regressor,
}  # fmt: skip


def is_trained(name):
    return name.startswith(("dlinear", "mlp", "itransformer"))


@pytest.mark.parametrize("name", CASES)
def test_forecasts_are_what_they_were(name):
    with np.load(FILE) as known:
        expected = known[name]
    if is_trained(name):
        pytest.importorskip("torch")
    tolerance = TOLERANCES["trained" if is_trained(name) else "exact"]
    made = CASES[name]()
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= tolerance


if __name__ == "__main__":
    made = {name: case() for name, case in CASES.items()}
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **made)
    sys.exit(f"{len(made)} forecasts written to {FILE.name}")
