"""One rule for lengths in every facade: given ones are kept or refused, open ones are fitted."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import seasonal
from darts import TimeSeries
from sklearn.base import clone

from distilts_forecaster import MLP, DistilledForecaster, Linear
from distilts_forecaster import settings as settings_module
from distilts_forecaster.distill.pipeline import fit_student
from distilts_forecaster.facades import darts as darts_module
from distilts_forecaster.settings import fit_lengths, make_settings
from distilts_forecaster.sktime import DistilledForecaster as Sktime

QUIET = {"cache_dir": False, "verbose": False}


def darts(n, *lengths, **options):
    model = DistilledForecaster(*lengths, **QUIET)
    return model.fit(TimeSeries.from_values(seasonal(n)), **options)


def sktime(n, *lengths, fh=None):
    return Sktime(*lengths, **QUIET).fit(pd.Series(seasonal(n)[:, 0]), fh=fh)


@pytest.mark.parametrize("n", [8, 20, 60, 200, 700])
def test_open_lengths_are_the_same_in_darts_and_sktime(n):
    fitted = [model.student_ for model in (darts(n), sktime(n))]
    lengths = {(one.input_chunk_length, one.output_chunk_length) for one in fitted}
    assert lengths == {(min(1024, 4 * n), min(96, n))}


@pytest.mark.parametrize("fit", [darts, sktime])
@pytest.mark.parametrize("lengths", [(24, 6), (48, 12), (1, 1), (2, 1)])
def test_given_lengths_are_kept_or_refused(fit, lengths):
    needed = max(sum(lengths), 4 if fit is sktime else 2)
    student = fit(needed, *lengths).student_
    assert (student.input_chunk_length, student.output_chunk_length) == lengths
    if sum(lengths) > 4:
        with pytest.raises(ValueError, match=r"needs \d+. Give input_chunk_length=\d+ and"):
            fit(sum(lengths) - 1, *lengths)


@pytest.mark.parametrize("n", [5, 9, 17, 59, 300])
@pytest.mark.parametrize("shift", [0, 2])
def test_the_lengths_that_a_refusal_names_would_do(n, shift):
    given = make_settings(400, 40, shift)
    with pytest.raises(ValueError, match="Give input_chunk_length") as error:
        fit_lengths(given, [n])
    words = str(error.value).split("Give ")[1].replace(",", "").split()
    length, steps = (int(w.split("=")[1]) for w in words if "=" in w)
    assert fit_lengths(make_settings(length, steps, shift), [n]).chunks.length <= n


@pytest.mark.parametrize("n", range(4, 80, 5))
@pytest.mark.parametrize("given", [(None, None), (3, None), (None, 2)])
@pytest.mark.parametrize("alpha", ["auto", 0])
def test_open_lengths_leave_a_window(n, given, alpha):
    made = fit_lengths(make_settings(*given, distillation_weight=alpha), [n])
    assert made.input_chunk_length >= 1
    assert made.output_chunk_length >= 1
    for want, got in zip(given, (made.input_chunk_length, made.output_chunk_length), strict=True):
        assert want is None or got == want
    if any(given):
        needed = made.history_needed or made.input_chunk_length
        assert needed + made.output_chunk_length <= n
    assert (made.history_needed is None) == (given[0] is not None)
    if alpha == 0 and not any(given):
        assert made.output_chunk_length <= max(1, n // 3)


def test_a_horizon_is_what_the_student_forecasts_at_once():
    assert sktime(150, fh=[1, 12]).student_.output_chunk_length == 12
    assert sktime(150, None, 5, fh=[1, 12]).student_.output_chunk_length == 5


def test_fitted_lengths_are_said_once(monkeypatch):
    monkeypatch.setattr(settings_module, "_told", set())
    said = "looks at 240, filled where .* forecasts 60 at once"
    with pytest.warns(UserWarning, match=said) as told:
        darts(60)
    assert told[0].filename.endswith("test_facades_agree.py")  # the user's line, not ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sktime(50)


def test_as_many_horizon_weights_are_as_many_steps():
    model = DistilledForecaster(24, horizon_weights=[1.0, 2.0, 3.0], **QUIET)
    assert model.output_chunk_length == 3
    model.fit(TimeSeries.from_values(seasonal(100)))
    assert model.student_.output_chunk_length == 3
    assert len(darts(40).training_summary_.chosen.horizon_weights) == 40


@pytest.mark.parametrize("lengths", [(None, None), (12, 4), (12, None), (None, 4)])
def test_identical_series_have_identical_backtests(lengths):
    same = [TimeSeries.from_values(seasonal(50))] * 3
    model = DistilledForecaster(*lengths, distillation_weight=0, **QUIET)
    made = model.historical_forecasts(same, forecast_horizon=2, retrain=True, stride=5, start=20)
    assert len({(len(one), one.start_time()) for one in made}) == 1
    made = model.historical_forecasts(same, forecast_horizon=2, retrain=True, stride=20)
    assert len({(len(one), one.start_time()) for one in made}) == 1


@pytest.mark.parametrize("lengths", [(None, None), (12, 4), (12, None)])
def test_backtests_with_a_validation_span_run(lengths):
    series = TimeSeries.from_values(seasonal(90))
    model = DistilledForecaster(*lengths, **QUIET)
    made = model.historical_forecasts(
        series, forecast_horizon=3, retrain=True, stride=10, start=60, val_length=5
    )
    assert len(made) == 3


@pytest.mark.parametrize(
    "lengths", [(None, None), (1, 1), (2, 1), (5, 3), (1, None), (2, None), (6, None), (None, 3)]
)
@pytest.mark.parametrize("shift", [0, 2, 5, 12])
def test_the_shortest_series_that_darts_is_told_of_can_be_fitted(lengths, shift):
    model = DistilledForecaster(*lengths, shift, distillation_weight=0, **QUIET)
    n = model.min_train_series_length
    series = TimeSeries.from_values(seasonal(n + 3))
    made = model.historical_forecasts(series, retrain=True, overlap_end=True)
    assert made.start_time() == n + shift
    model.fit(series[:n])
    assert np.isfinite(model.predict(1).values()).all()
    with pytest.raises(ValueError, match="points"):
        model.fit(series[: n - 1])


def test_past_covariates_are_needed_no_further_than_was_said():
    known = TimeSeries.from_values(seasonal(30))
    model = DistilledForecaster(12, 12, **QUIET)
    model.fit(TimeSeries.from_values(seasonal(30)), past_covariates=known)
    assert len(model.predict(12)) == 12


def test_fitted_models_tell_the_lags_of_their_students_clones_too():
    series = TimeSeries.from_values(seasonal(60))
    model = DistilledForecaster(**QUIET)
    assert model.extreme_lags[:2] == (-3, 0)
    for one in (model, model.untrained_model(), clone(model), copy.deepcopy(model)):
        assert one.fit(series).extreme_lags[:2] == (-30, 59)
    assert DistilledForecaster(24, 6).extreme_lags[:2] == (-24, 5)


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("cloned", [True, False])
def test_the_future_is_in_no_backtest(cloned, refit):
    values = seasonal(60)
    model = DistilledForecaster(distillation_weight=0, **QUIET)
    if cloned:
        model = clone(model)
    model.fit(TimeSeries.from_values(values))
    settings = {"forecast_horizon": 2, "retrain": refit, "stride": 6, "last_points_only": False}
    for one in model.historical_forecasts(TimeSeries.from_values(values), **settings):
        changed = values.copy()
        changed[one.start_time() :] += 100.0
        again = model.historical_forecasts(TimeSeries.from_values(changed), **settings)
        (same,) = (other for other in again if other.start_time() == one.start_time())
        np.testing.assert_allclose(same.values(), one.values(), atol=1e-4)


@pytest.mark.parametrize("lengths", [(None, None), (None, 3), (12, None)])
def test_a_fitted_model_backtests_as_an_unfitted_one_where_it_is_fitted_again(lengths):
    series = TimeSeries.from_values(seasonal(60))
    model = DistilledForecaster(*lengths, distillation_weight=0, **QUIET)
    settings = {"forecast_horizon": 2, "retrain": True, "stride": 10}
    before = model.historical_forecasts([series] * 2, **settings)
    model.fit(TimeSeries.from_values(seasonal(50)))
    after = model.historical_forecasts([series] * 2, **settings)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.values(), other.values())
        assert one.time_index.equals(other.time_index)
    given = model.model_params["input_chunk_length"]
    assert model.extreme_lags[0] == -(given or 25)  # half of the history


def test_a_validation_span_holds_no_target_of_the_training_span(monkeypatch):
    given = []
    monkeypatch.setattr(
        darts_module,
        "fit_student",
        lambda *args: given.append(args) or fit_student(*args),
    )
    model = DistilledForecaster(distillation_weight=0, **QUIET)
    model.historical_forecasts(
        TimeSeries.from_values(seasonal(200)),
        retrain=True,
        val_length=20,
        start=190,
        stride=50,
    )
    ((train, settings, _, _, validation, *_),) = given
    assert len(train[0]) == 170
    assert len(validation[0]) == settings.history_needed + 20


def test_weights_by_a_function_are_saved_at_the_length_that_was_fitted():
    model = DistilledForecaster(horizon_weights=lambda n: np.linspace(1, 2, n), **QUIET)
    model.fit(TimeSeries.from_values(seasonal(60)))
    loaded = pickle.loads(pickle.dumps(model))
    for one in (loaded, loaded.untrained_model()):
        one.fit(TimeSeries.from_values(seasonal(80)))
        assert one.student_.output_chunk_length == 60
    again = model.fit(TimeSeries.from_values(seasonal(80)))  # the model itself has the function
    assert again.student_.output_chunk_length == 80


def test_a_number_in_an_array_is_tau():
    model = DistilledForecaster(24, 6, horizon_weights=np.array(1.0), **QUIET)
    assert model._settings.teaching.horizon_weights == 1.0


def test_too_many_horizon_weights_are_named():
    with pytest.raises(ValueError, match="horizon_weights holds 60 weights"):
        fit_lengths(make_settings(horizon_weights=[1.0] * 60), [60])


def test_contexts_longer_than_histories_need_half_of_one_alone(tmp_path):
    model = darts(200)
    assert model.input_chunk_length == model.student_.input_chunk_length == 800
    model.save_student(tmp_path)
    short = TimeSeries.from_values(seasonal(120))
    for one in (model, DistilledForecaster.from_student(tmp_path)):
        assert one.extreme_lags[0] == -100
        made = one.historical_forecasts(short, retrain=False, forecast_horizon=2, stride=7)
        assert made.start_time() == 101  # the last of two steps
        for time, value in zip(made.time_index, made.values()[:, 0], strict=True):
            alone = one.predict(2, series=short[: int(time) - 1])
            np.testing.assert_allclose(value, alone.values()[-1, 0], rtol=1e-5)


def test_with_covariates_contexts_are_no_longer_than_histories():
    settings = fit_lengths(make_settings(), [200], has_covariates=True)
    assert settings.input_chunk_length == 100
    assert settings.history_needed is None


@pytest.mark.parametrize(
    ("n_points", "length"),
    [
        ([300], 1024),
        ([100], 400),
        ([1100], 1024),
        ([1119], 512),
        ([100] * 200, 50),
        ([600] * 30, 300),
    ],
)
def test_few_points_let_contexts_reach_far_back(n_points, length):
    assert fit_lengths(make_settings(), n_points).input_chunk_length == length


def naive_season(contexts, horizon):
    return contexts[:, -6:][:, np.arange(horizon) % 6]


def test_a_student_of_a_short_series_is_fitted_again_on_it():
    series = TimeSeries.from_values(seasonal(200))
    again = DistilledForecaster.from_student(darts(200).student_)
    assert again.fit(series).input_chunk_length == 800
    assert len(again.historical_forecasts(series, retrain=True, stride=50, start=100)) > 0


def test_drift_is_measured_where_a_teacher_knows_its_context():
    model = DistilledForecaster(teacher=naive_season, **QUIET)
    model.fit(TimeSeries.from_values(seasonal(200)))
    report = model.drift_report(TimeSeries.from_values(seasonal(150)))  # half of 200, and more
    assert report.n_windows > 10
    with pytest.raises(ValueError, match="has a context of 100 steps"):
        model.drift_report(TimeSeries.from_values(seasonal(90)))


def test_without_a_teacher_the_student_is_the_one_without_a_teacher():
    values = np.random.default_rng(0).normal(size=(2000, 3))
    for i in range(1, 2000):  # the next value is near the last one, opposite, or neither
        values[i] += np.array([0.9, -0.9, 0.0]) * values[i - 1]
    model = DistilledForecaster(48, 12, distillation_weight=0, **QUIET)
    errors = model.fit(TimeSeries.from_values(values)).training_summary_
    assert errors.chosen.pooling is not None
    assert model.student_.weights.shape == (3, 48, 12)
    assert errors.errors.without_teacher == errors.errors.student


@pytest.mark.parametrize(
    ("settings", "accept", "said"),
    [
        ({}, 0.5, "times the teacher's, more than accept=0.5. You can"),
        ({}, 100.0, None),
        ({"student": Linear(ridge=0.1), "distillation_weight": 1.0}, 0.5, "You can"),
        ({"student": MLP(hidden_size=8), "quantiles": [0.1, 0.5, 0.9]}, 100.0, None),
    ],
)
def test_a_student_that_is_not_accepted_is_said_to_be_with_advice(settings, accept, said):
    series = TimeSeries.from_values(seasonal(300))
    model = DistilledForecaster(24, 6, teacher=naive_season, accept=accept, **settings, **QUIET)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(series)
    told = [str(one.message) for one in told if "accept" in str(one.message)]
    assert [said in one for one in told] == ([True] if said else [])


def test_what_cannot_be_accepted_or_not_is_said():
    values = seasonal(300)
    model = DistilledForecaster(24, 6, teacher=naive_season, accept=1.0, **QUIET)
    with pytest.warns(UserWarning, match="accept=1 cannot be checked"):
        model.fit(
            TimeSeries.from_values(values[:200]), val_series=TimeSeries.from_values(values[176:])
        )


def test_an_mlp_learns_from_covariates_that_its_start_does_not_know():
    x = np.random.default_rng(0).normal(size=700)
    known = TimeSeries.from_values(x)
    series = TimeSeries.from_values(seasonal(600)[:, 0] + 2 * x[:600])
    model = DistilledForecaster(
        24, 6, student=MLP(hidden_size=16), distillation_weight=0, random_state=0, **QUIET
    ).fit(series, future_covariates=known)
    assert model.training_summary_.chosen.best_epoch > 0
    other = known.with_values(-known.values())
    made = [model.predict(6, future_covariates=one).values() for one in (known, other)]
    assert np.abs(made[0] - made[1]).mean() > 0.2


@pytest.mark.parametrize("fit", [DistilledForecaster, Sktime])
def test_contexts_of_a_steady_trend_keep_to_the_history(fit):
    rising = seasonal(200)[:, 0] + np.arange(200.0)
    y = TimeSeries.from_values(rising) if fit is DistilledForecaster else pd.Series(rising)
    student = fit(**QUIET).fit(y).student_
    assert student.input_chunk_length == 100
