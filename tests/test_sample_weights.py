"""Weights of steps: what they change, and that their scale changes nothing, in every student."""

import numpy as np
import pytest
from conftest import seasonal
from darts import TimeSeries
from hypothesis import given, settings
from hypothesis import strategies as st

from distilts_forecaster import MLP, DistilledForecaster, DLinear, Linear, Training
from distilts_forecaster.sklearn import DistilledRegressor

L, T, N = 12, 6, 150
QUIET = {"cache_dir": False, "verbose": False, "random_state": 0}
FAST = Training(max_epochs=2, device="cpu")
STUDENTS = {
    "linear": Linear(),
    "per component": Linear(pooling="none"),
    "dlinear": DLinear(training=FAST),
    "mlp": MLP(hidden_size=8, training=FAST),
}
students = pytest.mark.parametrize("student", STUDENTS)


def constant(values, n=N):
    return TimeSeries.from_values(np.full(n, values))


def fit(weight, student="linear", n_components=2, **more):
    if student not in ("linear", "per component"):
        pytest.importorskip("torch")
    model = DistilledForecaster(L, T, student=STUDENTS[student], **QUIET, **more)
    return model.fit(TimeSeries.from_values(seasonal(N, n_components)), sample_weight=weight)


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(1e-30, 1e30), alpha=st.sampled_from([0.0, 1.0, "auto"]))
def test_ratios_alone_count(scale, alpha):
    weight = 1.0 + np.arange(N) % 3
    one, other = (
        fit(TimeSeries.from_values(w), distillation_weight=alpha).predict(T).values()
        for w in (weight, scale * weight)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@students
def test_weights_that_are_all_alike_change_nothing(student):
    alike, plain = fit(constant(7.0), student), fit(None, student)
    np.testing.assert_allclose(
        alike.predict(T).values(), plain.predict(T).values(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("student", ["dlinear", "mlp"])
def test_a_network_is_tried_where_recent_steps_alone_count(student):
    """None of the windows that are not held out has a weight: then all are tried alike."""
    pytest.importorskip("torch")
    recent = fit(TimeSeries.from_values((np.arange(N) > N - 12) * 1.0), student)
    plain = fit(None, student)
    assert recent.training_summary_.epochs[0].supervised == pytest.approx(
        plain.training_summary_.epochs[0].supervised, rel=0.1
    )
    assert recent.training_summary_.errors.student < 2 * plain.training_summary_.errors.student


@students
@pytest.mark.parametrize("more", [{"quantiles": [0.1, 0.5, 0.9]}, {"label_budget": 20}])
def test_weights_go_with_everything_else(student, more):
    model = fit("linear", student, **more)
    assert np.isfinite(model.predict(2 * T).values()).all()


def test_the_scale_of_weights_means_nothing_to_the_regressor():
    windows = np.lib.stride_tricks.sliding_window_view(seasonal(N)[:, 0], L + T)
    X, y = windows[:, :L], windows[:, L:]
    made = [
        DistilledRegressor(distillation_weight=1.0, **QUIET)
        .fit(X, y, sample_weight=scale * (1.0 + np.arange(len(X)) % 3))
        .predict(X)
        for scale in (1.0, 1e-3, 1e38)
    ]
    np.testing.assert_allclose(made[1], made[0], atol=1e-5)
    np.testing.assert_allclose(made[2], made[0], atol=1e-5)


def test_effects_of_covariates_are_fitted_to_the_steps_that_count():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=630)
    slope = np.where(np.arange(600) < 300, -2.0, 2.0)
    values = np.sin(np.arange(600) * 0.9) + 0.05 * rng.normal(size=600) + slope * signal[:600]
    known, series = TimeSeries.from_values(signal), TimeSeries.from_values(values)
    weight = TimeSeries.from_values(np.r_[np.zeros(306), np.ones(294)])

    def forecast(series, **more):
        model = DistilledForecaster(L, T, distillation_weight=0, **QUIET)
        return model.fit(series, future_covariates=known, **more).predict(24).values()

    weighted, plain = forecast(series, sample_weight=weight), forecast(series)
    dropped = forecast(series[300:])
    assert np.abs(weighted - dropped).max() < 0.2 * np.abs(plain - dropped).max()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.stack([-np.ones(N), 3 * np.ones(N)], axis=1), "at least 0, got -1"),
        (np.ones((N, 3)), "1 component, or the 2 of its series, got 3"),
        (np.zeros(N), "zero for the target of every window"),
    ],
)
def test_weights_that_cannot_be_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        fit(TimeSeries.from_values(weight))
