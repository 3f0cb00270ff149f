import numpy as np
import pytest
from conftest import CountingTeacher, seasonal
from darts import TimeSeries
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distilts_forecaster import DistilledForecaster, Ensemble, load_teacher
from distilts_forecaster.teachers.ensemble import weights_by_horizon

L, T = 24, 6
CONTEXTS = np.random.default_rng(0).normal(size=(5, L, 3)).astype(np.float32)


def last(contexts, horizon):
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def mean(contexts, horizon):
    return np.repeat(contexts.mean(axis=1, keepdims=True), horizon, axis=1)


def make(teacher, **changes):
    settings = {"input_chunk_length": L, "output_chunk_length": T, "cache_dir": False}
    return DistilledForecaster(**(settings | {"teacher": teacher} | changes))


def series(n=200):
    return TimeSeries.from_values(seasonal(n, 2))


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([1, 3], 0.25), ([2, 0], 1.0)])
def test_forecasts_are_averaged(weights, share):
    teacher = load_teacher(Ensemble([last, mean], weights=weights))
    answer = teacher.forecast(CONTEXTS, T, [0.5]).quantiles[..., 0]
    expected = share * last(CONTEXTS, T) + (1 - share) * mean(CONTEXTS, T)
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_quantiles_are_averaged_level_by_level():
    teacher = load_teacher(["bundled", "bundled"])
    alone = load_teacher("bundled")
    levels = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(
        teacher.forecast(CONTEXTS, T, levels).quantiles,
        alone.forecast(CONTEXTS, T, levels).quantiles,
        rtol=1e-6,
    )
    mixed = load_teacher(["bundled", last])
    assert mixed.info.quantile_levels is None
    assert not mixed.info.takes_missing


def test_a_student_learns_from_the_average():
    given = make([last, mean], distillation_weight=50.0).fit(series())

    def average(contexts, horizon):
        return (last(contexts, horizon) + mean(contexts, horizon)) / 2

    expected = make(average, distillation_weight=50.0).fit(series())
    np.testing.assert_allclose(
        given.predict(T).values(), expected.predict(T).values(), rtol=1e-4, atol=1e-4
    )
    assert given.training_summary_.teacher_weights == ((0.5, 0.5),) * T


def test_each_member_is_asked_once_whatever_is_made_of_it(tmp_path):
    one = CountingTeacher(tmp_path / "first.txt", name="one")
    two = CountingTeacher(tmp_path / "second.txt", name="two", period=4)
    make(one, cache_dir=tmp_path).fit(series())
    n = one.n_asked
    assert n > 0
    make([one, two], cache_dir=tmp_path).fit(series())
    make(Ensemble([two, one], weights=[1, 5]), cache_dir=tmp_path).fit(series())
    make(Ensemble([two, one], weights="by_horizon"), cache_dir=tmp_path).fit(series())
    assert one.n_asked == two.n_asked == n


def test_weights_follow_the_errors_by_horizon():
    rng = np.random.default_rng(0)
    walk = rng.normal(size=600).cumsum()
    truth = np.concatenate([walk[:, None]], axis=1)

    def good_at_first(contexts, horizon):
        answer = last(contexts, horizon).copy()
        answer[:, horizon // 2 :] += 50.0
        return answer

    def good_at_last(contexts, horizon):
        answer = last(contexts, horizon).copy()
        answer[:, : horizon // 2] -= 50.0
        return answer

    model = make(Ensemble([good_at_first, good_at_last], weights="by_horizon"))
    model.fit(TimeSeries.from_values(truth))
    weights = np.array(model.training_summary_.teacher_weights)
    assert weights.shape == (T, 2)
    assert (weights[: T // 2, 0] > 0.9).all()
    assert (weights[T // 2 :, 1] > 0.9).all()
    equal = make([good_at_first, good_at_last]).fit(TimeSeries.from_values(truth))
    assert (
        model.training_summary_.errors.teacher_everywhere
        < 0.1 * equal.training_summary_.errors.teacher_everywhere
    )


def test_a_budget_spends_itself_on_the_same_windows_in_every_fit():
    asked = []

    def noted(contexts, horizon):
        asked.extend(window.tobytes() for window in contexts)
        return last(contexts, horizon)

    for weight in (0.5, 1.0, 2.0):
        make([noted, mean], label_budget=20, distillation_weight=weight).fit(series())
    assert len(asked) == 20


def test_weights_are_not_chosen_on_what_is_held_out():
    values = seasonal(300)
    changed = values.copy()
    changed[-30:] += 40.0  # among the targets of the last fifth of the windows
    chosen = [
        make(Ensemble([last, mean], weights="by_horizon")).fit(TimeSeries.from_values(v))
        for v in (values, changed)
    ]
    # Errors count in units of the series' deviation, which cancels.
    np.testing.assert_allclose(*(m.training_summary_.teacher_weights for m in chosen), atol=1e-4)


def test_labels_that_weights_were_chosen_on_count_once(tmp_path):
    one, two = (CountingTeacher(tmp_path / n, name=n, period=p) for n, p in (("a", 6), ("b", 4)))
    ensemble = Ensemble([one, two], weights="by_horizon")
    summary = make(ensemble, cache_dir=tmp_path).fit(series()).training_summary_
    assert summary.windows.labelled == one.n_asked + two.n_asked
    assert summary.windows.from_cache == 0
    again = make(ensemble, cache_dir=tmp_path).fit(series()).training_summary_
    assert (again.windows.labelled, again.windows.from_cache) == (0, summary.windows.labelled)


@given(arrays(float, (3, 4, 20), elements=st.floats(-1e3, 1e3)))
def test_weights_are_weights_and_not_worse_than_equal(errors):
    products = np.einsum("tkn,tjn->tkj", errors, errors) / 20
    weights = weights_by_horizon(products)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    scale = np.einsum("tkk->t", products) / 4
    chosen = np.einsum("tk,tkj,tj->t", weights, products, weights)
    equal = products.mean(axis=(1, 2))
    assert (chosen <= equal + 0.06 * scale + 1e-9).all()


def test_an_ensemble_of_names_survives_saving(tmp_path):
    model = make(["bundled", "bundled"]).fit(series())
    model.save(tmp_path / "model.pkl")
    loaded = DistilledForecaster.load(tmp_path / "model.pkl")
    loaded.fit(series())
    np.testing.assert_allclose(loaded.predict(T).values(), model.predict(T).values())
    mixed = make(["bundled", last]).fit(series())
    mixed.save(tmp_path / "mixed.pkl")
    with pytest.raises(ValueError, match="was given as an object"):
        DistilledForecaster.load(tmp_path / "mixed.pkl").fit(series())


@pytest.mark.parametrize(("members", "weights", "kind", "message"), [
    (["bundled"], None, ValueError, "at least two"),
    ("bundled", None, TypeError, "list of teachers"),
    (["bundled", ["bundled", last]], None, ValueError, "cannot be an ensemble"),
    (["bundled", last], [1.0], ValueError, "for each member"),
    (["bundled", last], [-1.0, 2.0], ValueError, "for each member"),
    (["bundled", last], [0, 0], ValueError, "for each member"),
    (["bundled", last], "best", ValueError, "by_horizon"),
    (["bundled", last], {"bundled": None}, TypeError, "for each member"),
])  # fmt: skip
def test_bad_ensembles_are_refused(members, weights, kind, message):
    with pytest.raises(kind, match=message):
        Ensemble(members, weights)


def test_a_bad_member_is_refused_before_anything_is_asked():
    with pytest.raises(ValueError, match="Unknown teacher"):
        make(["bundled", "nobody"])


def test_chosen_weights_shrink_towards_equal_ones():
    """Errors of variance 1 and 4: by least squares .8 and .2, with a twentieth of the mean
    variance added to both as 1 / 1.125 to 1 / 4.125."""
    found = weights_by_horizon(np.array([[[1.0, 0.0], [0.0, 4.0]]]))[0]
    odds = np.array([1 / 1.125, 1 / 4.125])
    np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-6)
