from functools import partial

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sktime", reason="needs the extra sktime")
from conftest import CountingTeacher, seasonal
from sklearn.base import clone
from sktime.forecasting.base import ForecastingHorizon
from sktime.forecasting.compose import (
    EnsembleForecaster,
    ForecastingPipeline,
    TransformedTargetForecaster,
)
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.model_selection import ForecastingGridSearchCV
from sktime.forecasting.naive import NaiveForecaster
from sktime.split import ExpandingWindowSplitter, SlidingWindowSplitter
from sktime.transformations.series.detrend import Detrender
from sktime.transformations.series.impute import Imputer
from sktime.utils import check_estimator

from distilts_forecaster import Linear
from distilts_forecaster.sktime import DistilledForecaster

L, T = 24, 6


def made(n=150, components=1, seed=0, index="datetime"):
    values = seasonal(n, components, seed=seed)
    times = {
        "datetime": lambda: pd.date_range("2024-01-01", periods=n, freq="D"),
        "period": lambda: pd.period_range("2000-01", periods=n, freq="M"),
        "integer": lambda: pd.RangeIndex(n),
    }[index]()
    return pd.DataFrame(values, index=times, columns=[f"y{i}" for i in range(components)])


def panel(n_series=3, n=150, levels=1):
    frames = {
        (f"region {i % 2}", f"series {i}") if levels == 2 else f"series {i}": made(n, seed=i)
        for i in range(n_series)
    }
    names = [f"level {i}" for i in range(levels)]
    return pd.concat(frames, names=[*names, "time"]).sort_index()


def make(teacher="bundled", **changes):
    settings = {"input_chunk_length": L, "output_chunk_length": T, "cache_dir": False}
    return DistilledForecaster(**(settings | {"teacher": teacher} | changes))


def test_sktimes_own_checks():
    results = check_estimator(DistilledForecaster, raise_exceptions=False, verbose=False)
    failed = {name: result for name, result in results.items() if result != "PASSED"}
    assert not failed
    assert len(results) > 500


@pytest.mark.parametrize("index", ["datetime", "period", "integer"])
@pytest.mark.parametrize("components", [1, 2])
def test_it_is_the_student_that_forecasts(teacher, index, components):
    y = made(components=components, index=index)
    forecaster = make(teacher).fit(y)
    predicted = forecaster.predict([1, 4, 9])
    expected = forecaster.student_.predict(y.to_numpy(), 9)[[0, 3, 8]]
    np.testing.assert_allclose(predicted, expected)
    absolute = ForecastingHorizon(predicted.index, is_relative=False)
    pd.testing.assert_frame_equal(forecaster.predict(absolute), predicted)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_panel_has_one_student(teacher, levels):
    y = panel(4, levels=levels)
    forecaster = make(teacher).fit(y)
    assert forecaster.training_summary_.windows.seen == 4 * (150 - L - T + 1)
    predicted = forecaster.predict([1, 2])
    assert len(predicted) == 8
    for key, group in y.groupby(level=list(range(levels))):
        expected = forecaster.student_.predict(group.to_numpy(), 2)
        np.testing.assert_allclose(predicted.loc[key], expected, atol=1e-6)


def test_series_of_a_panel_may_end_at_different_times(teacher):
    y = panel(2)
    y = y.drop(index=y.loc[["series 1"]].index[-10:])
    predicted = make(teacher).fit(y).predict([1])
    ends = y.groupby(level=0).apply(lambda one: one.index[-1][-1])
    times = predicted.index.get_level_values(-1)
    assert times.tolist() == (ends + pd.Timedelta(days=1)).tolist()


def test_in_sample_forecasts_are_made_from_what_came_before(teacher):
    y = made()
    forecaster = make(teacher).fit(y)
    fh = ForecastingHorizon(y.index, is_relative=False)
    fitted = forecaster.predict(fh)
    position = 80
    expected = forecaster.student_.predict(y.to_numpy()[:position], 1)[0]
    np.testing.assert_allclose(fitted.iloc[position], expected, atol=1e-6)
    changed = y.copy()
    changed.iloc[position:] += 100.0
    forecaster.update(changed, update_params=False)
    again = forecaster.predict(fh)
    np.testing.assert_allclose(again.iloc[: position + 1], fitted.iloc[: position + 1], atol=1e-6)
    short = forecaster.student_.predict(y.to_numpy()[:3], 1)[0]
    np.testing.assert_allclose(fitted.iloc[3], short, atol=1e-6)


def test_lengths_follow_horizon_and_series(teacher):
    free = {"input_chunk_length": None, "output_chunk_length": None}
    cases = ((150, [1, 2, 12], (600, 12)), (150, None, (600, 96)), (30, [1, 24], (120, 24)))
    for n, fh, expected in cases:
        student = make(teacher, **free).fit(made(n), fh=fh).student_
        assert (student.input_chunk_length, student.output_chunk_length) == expected
    assert make(teacher, **free).fit(made(4), fh=[1]).predict().notna().all(axis=None)


def test_pretraining_fits_the_student_and_fit_says_what_to_forecast(teacher):
    forecaster = make(teacher).pretrain(panel())
    student, n_asked = forecaster.student_, teacher.n_asked
    y = made(seed=9)
    forecaster.fit(y)
    assert forecaster.student_ is student
    np.testing.assert_allclose(forecaster.predict([1]), student.predict(y.to_numpy(), 1))
    forecaster.update(made(170, seed=9)[150:])  # not fitted again: it was pretrained
    assert forecaster.student_ is student
    assert teacher.n_asked == n_asked
    short = made(5, seed=3)
    assert forecaster.fit(short).predict([1, 2]).notna().all(axis=None)
    assert make(teacher).fit(y).student_ is not student


@pytest.mark.parametrize("y", [made(170), panel(2, 170)])
def test_updates_move_the_end_and_fit_again_if_asked_to(teacher, y):
    times = y.index.get_level_values(-1)
    old, new = y[times < times.unique()[150]], y[times >= times.unique()[150]]
    moved = make(teacher).fit(old).update(new, update_params=False)
    pd.testing.assert_index_equal(moved.predict([1]).index, make(teacher).fit(y).predict([1]).index)
    n_asked = teacher.n_asked
    refitted = make(teacher).fit(old).update(new)
    pd.testing.assert_frame_equal(refitted.predict([1, 2]), make(teacher).fit(y).predict([1, 2]))
    assert teacher.n_asked == n_asked  # all windows were known
    assert not np.allclose(moved.predict([1]), refitted.predict([1]), atol=1e-9)


def test_grids_share_the_labels_of_all_workers(tmp_path):
    teacher = CountingTeacher(tmp_path / "asked.txt")
    y = made()
    grid = {"distillation_weight": [0.5, 1.0], "horizon_weights": [0.0, 1.0]}
    search = ForecastingGridSearchCV(
        make(teacher, cache_dir=tmp_path),
        cv=ExpandingWindowSplitter(fh=[1, 2], initial_window=100, step_length=20),
        param_grid=grid,
    ).fit(y)
    assert len(search.cv_results_) == 4
    # Each origin with a whole context once, whatever fold or candidate it is in.
    assert teacher.n_asked == 150 - L + 1
    assert search.predict([1, 2]).notna().all(axis=None)


@pytest.mark.parametrize("build", [
    lambda f: TransformedTargetForecaster([("detrend", Detrender()), ("forecast", f)]),
    lambda f: ForecastingPipeline([("impute", Imputer()), ("forecast", f)]),
    lambda f: EnsembleForecaster([("distilled", f), ("naive", NaiveForecaster(sp=6))]),
])  # fmt: skip
def test_it_works_inside_compositions(teacher, build):
    predicted = build(make(teacher)).fit(made()["y0"], fh=[1, 2, 3]).predict()
    assert predicted.notna().all()


def test_it_can_be_evaluated(teacher):
    results = evaluate(
        make(teacher), SlidingWindowSplitter(fh=[1, 2], window_length=100, step_length=20),
        made()["y0"], strategy="no-update_params",
    )  # fmt: skip
    assert results.filter(like="test_").notna().all(axis=None)


def test_it_can_be_cloned_by_scikit_learn(teacher):
    forecaster = make(teacher).fit(made())
    cloned = clone(forecaster)
    assert not hasattr(cloned, "student_")
    assert cloned.get_params()["teacher"].info == teacher.info
    assert cloned.get_params().keys() == forecaster.get_params().keys()


class TestCovariates:
    @pytest.fixture(autouse=True)
    def _needs_torch(self):
        pytest.importorskip("torch", reason="the MLP needs torch")

    def make(self, **changes):
        from distilts_forecaster import MLP, Training

        training = Training(max_epochs=60, patience=60, learning_rate=3e-3, device="cpu")
        student = MLP(hidden_size=32, n_blocks=1, dropout=0.0, training=training)
        return make(student=student, distillation_weight=0, random_state=0, **changes)

    def data(self, n=400):
        rng = np.random.default_rng(0)
        index = pd.date_range("2024-01-01", periods=n, freq="h")
        X = pd.DataFrame({"signal": rng.choice([-1.0, 1.0], size=n)}, index=index)
        y = pd.DataFrame({"y": 10 * X["signal"] + 0.1 * rng.normal(size=n)}, index=index)
        return y, X

    def test_what_only_they_know_is_forecast(self):
        y, X = self.data()
        forecaster = self.make().fit(y[:-20], X=X[:-20])
        fh = list(range(1, 21))
        predicted = forecaster.predict(fh, X=X[-20:])
        assert np.abs(predicted - y[-20:]).mean(axis=None) < 3.0
        assert np.abs(make(distillation_weight=0).fit(y[:-20]).predict(fh) - y[-20:]).mean(
            axis=None
        ) > 5.0  # fmt: skip
        flipped = forecaster.predict(fh, X=-X[-20:])
        assert np.abs(flipped + y[-20:]).mean(axis=None) < 3.0

    def test_panels_have_their_own(self):
        y, X = self.data()
        both_y = pd.concat({"a": y[:-20], "b": -y[:-20]}, names=["id", "time"])
        both_X = pd.concat({"a": X[:-20], "b": -X[:-20]}, names=["id", "time"])
        after = pd.concat({"a": X[-20:], "b": -X[-20:]}, names=["id", "time"])
        forecaster = self.make().fit(both_y, X=both_X)
        predicted = forecaster.predict([1, 2, 3, 4, 5, 6], X=after)
        assert np.abs(predicted.loc["a"] - y[-20:-14]).mean(axis=None) < 3.0
        assert np.abs(predicted.loc["b"] + y[-20:-14]).mean(axis=None) < 3.0

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls):
        y, X = cls().data()
        X["other"] = X["signal"].shift(1).fillna(0.0)
        return cls().make().fit(y[:-40], X=X[:-40]), y, X

    def test_a_step_has_one_forecast_whatever_else_is_wanted(self, fitted):
        forecaster, _, X = fitted
        whole = forecaster.predict(range(1, 3 * T), X=X[-40:])
        for fh in ([1], [2, 5], [T, T + 1], range(1, T + 3)):
            some = forecaster.predict(fh, X=X[-40:])
            np.testing.assert_allclose(some, whole.loc[some.index], atol=1e-4)

    def test_columns_are_found_by_name(self, fitted):
        forecaster, _, X = fitted
        expected = forecaster.predict([1, 2], X=X[-40:])
        turned = X[["other", "signal"]].assign(more=1.0)
        pd.testing.assert_frame_equal(forecaster.predict([1, 2], X=turned[-40:]), expected)
        with pytest.raises(ValueError, match=r"lacks \['other'\]"):
            forecaster.predict([1, 2], X=X[["signal"]][-40:])

    def test_rows_that_are_needed_are_asked_for(self, fitted):
        forecaster, _, X = fitted
        with pytest.raises(ValueError, match="was fitted with X.*next 1 steps"):
            forecaster.predict([1])
        with pytest.raises(ValueError, match="lacks 1 rows for y, the first at"):
            forecaster.predict([1, 2, 3], X=X[-40:].drop(index=X.index[-39]))
        with pytest.raises(ValueError, match="lacks 3 rows"):
            forecaster.predict([1, 2, 3], X=X[:-40])

    def test_in_sample_needs_those_of_fit_alone(self, fitted):
        forecaster, y, X = fitted
        fh = ForecastingHorizon(y.index[:-40], is_relative=False)
        alone = forecaster.predict(fh)
        assert alone.notna().all(axis=None)
        assert np.abs(alone - y[:-40])[L:].mean(axis=None) < 3.0
        later = forecaster.predict(fh, X=X[-40:])
        np.testing.assert_allclose(later[:-T], alone[:-T], atol=1e-5)

    def test_they_cannot_be_forgotten(self):
        y, X = self.data(120)
        forecaster = self.make().fit(y[:-40], X=X[:-40])
        with pytest.raises(ValueError, match="was fitted with X"):
            forecaster.update(y[-40:-20])
        forecaster.update(y[-40:-20], X=X[-40:-20], update_params=False)
        assert forecaster.predict([1], X=X[-20:]).notna().all(axis=None)
        panel_y, panel_X = (
            pd.concat({"a": frame, "b": frame}, names=["id", "time"]) for frame in (y, X)
        )
        with pytest.raises(ValueError, match="lacks 1 rows for y of b"):
            self.make().fit(panel_y, X=panel_X.drop(index=("b", X.index[50])))
        with pytest.raises(ValueError, match="no rows for y of b"):
            self.make().fit(panel_y, X=panel_X.loc[["a"]])
        pretrained = self.make().pretrain(panel_y, X=panel_X)
        with pytest.raises(ValueError, match="was fitted with X"):
            pretrained.fit(y)


class TestQuantiles:
    def test_intervals_cover_what_they_say(self):
        rng = np.random.default_rng(0)
        values = np.sin(np.arange(3000) * 2 * np.pi / 12) + rng.normal(size=3000)
        y = pd.DataFrame({"y": values})
        forecaster = make(distillation_weight=0).fit(y[:2000])
        hits = []
        for stop in range(2000, 2990, 10):
            forecaster.update(y[stop - 10 : stop], update_params=False)
            made = forecaster.predict_interval(range(1, T + 1), coverage=[0.5, 0.9])["y"]
            targets = y["y"][stop : stop + T]
            hits.append([
                (made[c]["lower"] <= targets) & (targets <= made[c]["upper"]) for c in (0.5, 0.9)
            ])  # fmt: skip
        np.testing.assert_allclose(np.mean(hits, axis=(0, 2)), [0.5, 0.9], atol=0.05)

    def test_never_cross_and_commute_with_shift_and_scale(self, teacher):
        y = made(components=2)
        alpha = [0.01, 0.1, 0.5, 0.9, 0.99]
        fh = [-20, 1, T, 3 * T]
        quantiles = make(teacher).fit(y).predict_quantiles(fh, alpha=alpha)
        assert (np.diff(quantiles.to_numpy().reshape(4, 2, 5), axis=2) >= 0).all()
        moved = make(teacher).fit(100 + 7 * y).predict_quantiles(fh, alpha=alpha)
        np.testing.assert_allclose(moved, 100 + 7 * quantiles, rtol=1e-3)

    @pytest.mark.parametrize("n", [8, 12, 20])
    def test_have_a_width_however_short_the_series(self, n):
        y = pd.Series(np.random.default_rng(0).normal(size=n))
        free = {"input_chunk_length": None, "output_chunk_length": None}
        forecaster = make(distillation_weight=0, **free).fit(y, fh=[1, 2])
        interval = forecaster.predict_interval(coverage=[0.5, 0.9])
        values = interval.to_numpy()
        assert (values[:, 2] < values[:, 0]).all()
        assert (values[:, 0] < values[:, 1]).all()
        assert (values[:, 1] < values[:, 3]).all()

    def test_grow_beyond_the_steps_forecast_at_once(self, teacher):
        forecaster = make(teacher).fit(made())
        width = forecaster.predict_interval([T, 4 * T], coverage=0.8).diff(axis=1).iloc[:, -1]
        assert width.iloc[1] > 1.05 * width.iloc[0]

    def test_are_measured_on_windows_that_were_held_out(self):
        # A context of 100 steps fits 120 windows of noise nearly exactly.
        rng = np.random.default_rng(0)
        y = pd.DataFrame({"y": rng.normal(size=250)})
        forecaster = DistilledForecaster(
            100, 4, student=Linear(ridge=1e-6), distillation_weight=0, cache_dir=False
        ).fit(y)
        fitted = forecaster.predict(ForecastingHorizon(y.index[110:], is_relative=False))
        within = np.abs(fitted - y[110:]).mean(axis=None)
        spread = forecaster.student_.error_quantiles
        low, high = (spread.offsets[0, spread.levels.index(level)] for level in (0.25, 0.75))
        assert (high - low) / 2 > 1.5 * within


class TestGaps:
    def test_missing_values_of_series_and_covariates_are_filled(self, teacher):
        y = made(200)
        y.iloc[[3, 50, 51, 120, 199]] = np.nan
        X = pd.DataFrame({"x": np.arange(220.0)}, index=made(220).index)
        X.iloc[::9] = np.nan
        forecaster = make(teacher, distillation_weight=0).fit(y, X=X[:200])
        fh = [-100, -1, 1, T, 2 * T]
        assert forecaster.predict(fh, X=X[200:]).notna().all(axis=None)
        quantiles = forecaster.predict_quantiles(fh, X=X[200:], alpha=[0.9, 0.1]).to_numpy()
        assert (quantiles[:, 0] > quantiles[:, 1]).all()
        with pytest.raises(ValueError, match="a column without any value"):
            make(teacher).fit(y, X=X[:200] * np.nan)

    def test_gaps_of_covariates_ahead_are_filled_from_those_before(self):
        y = made(200)
        X = pd.DataFrame({"x": np.arange(220.0)}, index=made(220).index)
        forecaster = make(distillation_weight=0).fit(y, X=X[:200])
        missing = X[200:].copy()
        missing.iloc[0] = np.nan
        np.testing.assert_allclose(
            forecaster.predict([1, 2], X=missing), forecaster.predict([1, 2], X=X[200:]), rtol=1e-6
        )
        one = X[200:201] * np.nan
        assert forecaster.predict([1], X=one).notna().all(axis=None)

    def test_a_panel_may_hold_series_of_any_length_and_some_without_values(self, teacher):
        frames = {f"s{n}": made(n, seed=n) for n in (5, 20, 40, 150)}
        frames["empty"] = made(60) * np.nan
        y = pd.concat(frames, names=["id", "time"])
        forecaster = make(teacher).fit(y)
        predicted = forecaster.predict([1, 2, T])
        assert predicted.drop(index="empty", level=0).notna().all(axis=None)
        assert predicted.loc["empty"].isna().all(axis=None)

    def test_counts_are_not_forecast_below_zero_on_request(self):
        y = pd.Series(np.random.default_rng(0).poisson(0.3, size=200).astype(float))
        forecaster = make(nonnegative=True).fit(y)
        assert (forecaster.predict_interval(range(1, 20), coverage=0.95) >= 0).all(axis=None)


def test_the_linear_student_takes_covariates():
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=400, freq="h")
    X = pd.DataFrame({"signal": rng.normal(size=400)}, index=index)
    y = pd.DataFrame({"y": X["signal"] + 0.1 * rng.normal(size=400)}, index=index)
    fh = list(range(1, 21))
    known = make(distillation_weight=0).fit(y[:-20], X=X[:-20]).predict(fh, X=X[-20:])
    blind = make(distillation_weight=0).fit(y[:-20]).predict(fh)
    errors = [np.abs(made - y[-20:]).mean(axis=None) for made in (known, blind)]
    assert errors[0] < 0.6 * errors[1]


def test_updates_that_fit_again_are_as_fits_of_everything(teacher):
    y = made(240, components=2)
    forecaster = make(teacher).fit(y[:200])
    for stop in (220, 240):
        forecaster.update(y[stop - 20 : stop], update_params=True)
    whole = make(teacher).fit(y)
    np.testing.assert_allclose(
        forecaster.predict(range(1, T + 1)), whole.predict(range(1, T + 1)), atol=0.02
    )


def test_bad_input_is_refused_before_the_teacher_is_asked(teacher):
    with pytest.raises(ValueError, match="20 points, and one window .* needs 30"):
        make(teacher).fit(made(20))
    with pytest.raises(ValueError, match="Unknown student"):
        make(teacher, student="lstm")
    with pytest.raises(ValueError, match="Unknown teacher"):
        make("nobody").fit(made())
    with pytest.raises(ValueError, match="at least 1"):
        make(teacher, input_chunk_length=0).fit(made())
    gaps = made().drop(index=made().index[[50, 51]])
    for irregular in (gaps, gaps.reset_index(drop=True).rename(index={60: 60.5})):
        with pytest.raises((ValueError, TypeError)):
            make(teacher).fit(irregular)
    with pytest.raises(ValueError, match="not regular"):
        make(teacher).fit(made(index="integer").drop(index=70))
    with pytest.raises(ValueError, match="5 steps before the first"):
        make(teacher, distillation_weight=0).fit(made(100)).predict([-104])
    assert teacher.n_asked == 0


def test_drift_is_measured_at_the_scale_of_each_series_whatever_its_place():
    index = pd.MultiIndex.from_product([["a", "b"], range(80)], names=["i", "t"])
    wave = seasonal(80)[:, 0]
    panel = pd.DataFrame({"v": np.r_[1000 * wave, wave]}, index=index)
    forecaster = DistilledForecaster(L, T, distillation_weight=0, cache_dir=False)
    forecaster.fit(panel, fh=[1])
    again = pd.concat([panel.loc[["b"]], panel.loc[["a"]]])
    error = forecaster.drift_report(panel).student_error
    assert forecaster.drift_report(again).student_error == pytest.approx(error)


def test_a_pretrained_student_is_compared_at_the_scale_of_what_it_forecasts():
    y = pd.Series(seasonal(80)[:, 0])
    settings = {"distillation_weight": 0, "cache_dir": False}
    panel = pd.concat([1000 * y], keys=["a"], names=["i", "t"]).to_frame("v")
    pretrained = DistilledForecaster(L, T, **settings).pretrain(panel).fit(y, fh=[1])
    own = DistilledForecaster(L, T, **settings).fit(y, fh=[1])
    error = own.drift_report().student_error
    assert pretrained.drift_report().student_error == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("y", "error"),
    [
        (pd.DataFrame({"a": np.zeros(80), "b": np.zeros(80)}), ValueError),
        (pd.Series(np.r_[np.zeros(79), np.inf]), ValueError),
        ("series", TypeError),
    ],
)
def test_drift_of_something_else_is_refused(y, error):
    forecaster = DistilledForecaster(L, T, distillation_weight=0, cache_dir=False)
    forecaster.fit(pd.Series(seasonal(80)[:, 0]), fh=[1])
    with pytest.raises(error):
        forecaster.drift_report(y)


@pytest.mark.parametrize("quantiles", [False, True])
def test_forecasts_after_nothing_known_are_nan_and_the_others_are_kept(teacher, quantiles):
    whole, ending = made(150), made(150)
    ending.iloc[-60:] = np.nan
    y = pd.concat({"whole": whole, "ending": ending}, names=["id", "t"])
    forecaster = make(teacher).fit(y, fh=[1, 2])
    ask = forecaster.predict
    if quantiles:
        ask = partial(forecaster.predict_quantiles, alpha=[0.1, 0.9])
    with pytest.warns(UserWarning, match="1 of 2 contexts have no value") as caught:
        forecast = ask()
    assert len(caught) == 1
    unknown = forecast.isna().groupby(level=0).agg(["all", "any"]).to_numpy()
    np.testing.assert_array_equal(unknown.all(axis=1), unknown.any(axis=1))
    assert forecast.loc["ending"].isna().all(axis=None)
    assert forecast.loc["whole"].notna().all(axis=None)
