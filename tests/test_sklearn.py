import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import CountingTeacher, seasonal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from distilts_forecaster import DistilledForecaster, Linear
from distilts_forecaster.sklearn import DistilledRegressor

L, T = 24, 6


#: "auto" settings are chosen on the last rows, so that repeated rows move the border; and rows
#: are standardised together and summed in float32, which the check's tolerance of 1e-7 does not
#: allow for. test_weights_are_as_good_as_repeated_rows has settings that are given, and 1e-5.
NOT_EQUIVALENT = {
    "check_sample_weight_equivalence_on_dense_data": "settings are chosen on the last rows",
}


@parametrize_with_checks(
    [DistilledRegressor(cache_dir=False, random_state=0)],
    expected_failed_checks=lambda _: NOT_EQUIVALENT,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def rows(n=200, seed=0):
    values = seasonal(n + L + T - 1, seed=seed)[:, 0]
    windows = np.lib.stride_tricks.sliding_window_view(values, L + T)
    return windows[:, :L], windows[:, L:]


def test_weights_are_as_good_as_repeated_rows():
    X, y = rows()
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    settings = {"student": Linear(ridge=0.1), "distillation_weight": 0}
    weighted = DistilledRegressor(**settings).fit(X, y, sample_weight=weight)
    repeated = DistilledRegressor(**settings).fit(
        np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0)
    )
    plain = DistilledRegressor(**settings).fit(X, y)
    # Rows of no weight still say how large the series is, which softens the scale of windows.
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=0.02)
    assert np.abs(weighted.predict(X) - plain.predict(X)).max() > 0.1
    uniform = DistilledRegressor(**settings).fit(X, y, sample_weight=np.full(len(X), 7.0))
    np.testing.assert_allclose(uniform.predict(X), plain.predict(X), atol=1e-5)
    with pytest.raises(ValueError, match="zero"):
        DistilledRegressor(**settings).fit(X, y, sample_weight=np.zeros(len(X)))


def naive(contexts, horizon):
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def test_it_is_the_student_of_the_series_that_the_windows_are_cut_from():
    from darts import TimeSeries

    values = seasonal(200)
    settings = {"student": Linear(ridge=0.1), "distillation_weight": 2.0, "cache_dir": False}
    windows = np.lib.stride_tricks.sliding_window_view(values[:, 0], L + T)
    regressor = DistilledRegressor(teacher=naive, **settings)
    regressor.fit(windows[:, :L], windows[:, L:])
    model = DistilledForecaster(L, T, teacher=naive, **settings).fit(TimeSeries.from_values(values))
    # The series has T windows more, whose future only the teacher knows.
    expected = model.student_.predict(windows[:, :L, None])[..., 0]
    np.testing.assert_allclose(regressor.predict(windows[:, :L]), expected, atol=0.05)


def test_without_a_teacher_it_is_ridge():
    X, y = rows()
    fitted = DistilledRegressor(student=Linear(ridge=1e-9), distillation_weight=0).fit(X, y)
    centred = X - X.mean(axis=1, keepdims=True)
    power = np.sqrt((centred**2).mean(axis=1) + 9.0 * np.var(np.hstack([X, y])))
    ridge = Ridge(alpha=1e-6, fit_intercept=False)
    ridge.fit(centred, y - X.mean(axis=1, keepdims=True), sample_weight=power**-2)
    expected = ridge.predict(centred) + X.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict(X), expected, atol=1e-3)


def test_forecasts_commute_with_shift_and_scale():
    X, y = rows()
    fitted = DistilledRegressor(cache_dir=False).fit(X, y)
    np.testing.assert_allclose(fitted.predict(50 + 3 * X), 50 + 3 * fitted.predict(X), atol=1e-4)


def test_a_column_of_y_is_one_step():
    X, y = rows()
    one = DistilledRegressor(cache_dir=False).fit(X, y[:, 0])
    assert one.predict(X).shape == (200,)
    two = DistilledRegressor(cache_dir=False).fit(X, y[:, :1])
    np.testing.assert_array_equal(two.predict(X)[:, 0], one.predict(X))


def test_frames_are_rows_too():
    X, y = rows()
    names = [f"t-{L - i}" for i in range(L)]
    fitted = DistilledRegressor(cache_dir=False).fit(pd.DataFrame(X, columns=names), y)
    assert fitted.feature_names_in_.tolist() == names
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(pd.DataFrame(X, columns=names[::-1]))


def test_held_out_rows_share_no_target_with_rows_fitted_on(teacher):
    X, y = rows()
    summary = DistilledRegressor(teacher, cache_dir=False).fit(X, y).training_summary_
    assert summary.windows.seen == summary.windows.labelled == 200
    assert summary.windows.skipped == 0
    assert summary.errors.horizon == T


def test_a_grid_search_asks_the_teacher_for_each_window_once(tmp_path):
    X, y = rows()
    teacher = CountingTeacher(tmp_path / "asked.txt")
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(), DistilledRegressor(teacher, cache_dir=tmp_path)),
        {"distilledregressor__distillation_weight": [0.5, 1.0, "auto"],
         "distilledregressor__horizon_weights": [0.0, 1.0]},
        cv=TimeSeriesSplit(3, gap=T - 1), scoring="neg_mean_squared_error", n_jobs=2,
    ).fit(X, y)  # fmt: skip
    assert teacher.n_asked == 200
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape


@pytest.mark.parametrize("student", ["linear", "mlp"])
def test_clones_and_pickles(student):
    if student == "mlp":
        pytest.importorskip("torch", reason="students trained by gradient need torch")
        from distilts_forecaster import MLP, Training

        student = MLP(hidden_size=8, training=Training(max_epochs=2, device="cpu"))
    X, y = rows()
    regressor = DistilledRegressor(student=student, cache_dir=False, random_state=0)
    with pytest.raises(NotFittedError):
        regressor.predict(X)
    fitted = clone(regressor).fit(X, y)
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    again = clone(fitted).fit(X, y)
    np.testing.assert_allclose(again.predict(X), fitted.predict(X), atol=1e-6)


@pytest.mark.parametrize(("settings", "kind", "message"), [
    ({"teacher": "nobody"}, ValueError, "Unknown teacher"),
    ({"student": "lstm"}, ValueError, "Unknown student"),
    ({"distillation_weight": -1}, ValueError, "distillation_weight"),
    ({"horizon_weights": [1.0, 2.0]}, ValueError, "weights"),
    ({"label_budget": 0}, ValueError, "label_budget"),
    ({"cache_dir": 3}, TypeError, "cache_dir"),
    ({"random_state": "one"}, TypeError, "random_state"),
])  # fmt: skip
def test_bad_settings_are_refused_in_fit(settings, kind, message):
    with pytest.raises(kind, match=message):
        DistilledRegressor(**settings).fit(*rows())


def test_it_needs_neither_darts_nor_torch():
    code = (
        "import sys, numpy as np; from distilts_forecaster.sklearn import DistilledRegressor; "
        "X = np.random.default_rng(0).normal(size=(60, 12)); "
        "DistilledRegressor(cache_dir=False).fit(X, X[:, :3]).predict(X); "
        "assert not {'darts', 'torch', 'sktime', 'chronos'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_shifted_student_is_refused():
    from distilts_forecaster import LinearForecaster

    student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32), output_chunk_shift=2)
    with pytest.raises(ValueError, match="leaves out 2 steps"):
        DistilledRegressor.from_student(student)


@pytest.mark.parametrize("dtype", ["datetime64[s]", "timedelta64[s]", complex])
def test_times_and_complex_numbers_are_no_values(dtype):
    X, y = rows()
    with pytest.raises((TypeError, ValueError), match=r"real numbers|[Cc]omplex"):
        DistilledRegressor(cache_dir=False).fit(X.astype(np.int64).astype(dtype), y)
    with pytest.raises((TypeError, ValueError), match=r"real numbers|[Cc]omplex"):
        DistilledRegressor(cache_dir=False).fit(X, y.astype(np.int64).astype(dtype))


def test_what_is_masked_is_missing():
    X, y = rows()
    hidden = np.zeros(X.shape, dtype=bool)
    hidden[5, 3] = True
    with pytest.raises(ValueError, match="NaN"):  # as scikit-learn says of missing values
        DistilledRegressor(cache_dir=False).fit(np.ma.array(X, mask=hidden), y)
