import time

import numpy as np
import pytest
from conftest import seasonal

from distilts_forecaster.distill import budget
from distilts_forecaster.distill.accumulate import Totals, accumulate, sum_windows
from distilts_forecaster.distill.budget import ask_teacher
from distilts_forecaster.distill.plan import plan_windows, prepare_sources
from distilts_forecaster.settings import make_settings
from distilts_forecaster.teachers.base import TeacherForecast
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import MemoryStore
from distilts_forecaster.windows.source import prepare_series


class Slow:
    """A teacher that takes its time for each window, and answers something else each time."""

    def __init__(self, teacher, seconds=0.0, noise=0.0):
        self.teacher, self.seconds, self.noise = teacher, seconds, noise
        self.info = teacher.info
        self.asked = 0

    def forecast(self, contexts, horizon, quantile_levels):
        time.sleep(self.seconds * len(contexts))
        self.asked += len(contexts)
        made = self.teacher.forecast(contexts, horizon, quantile_levels).quantiles
        rng = np.random.default_rng(self.asked)
        return TeacherForecast(made + self.noise * rng.normal(size=made.shape).astype(np.float32))


def ready(teacher, n=400, **changes):
    """Return the plan of one series, and a labeller."""
    settings = make_settings(8, 3, random_state=0, **changes)
    labeller = Labeller(teacher, MemoryStore(), 3)
    sources, _ = prepare_sources([prepare_series(seasonal(n, components=2))], None, settings)
    return plan_windows(sources, settings, labeller), labeller


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(budget, "_FIRST", 16)


def test_labels_that_change_nothing_are_not_asked_for(teacher):
    plan, labeller = ready(Slow(teacher))
    plan, _ = ask_teacher(plan, labeller)
    assert plan.n_labels == labeller.n_labelled == 32  # 16, and 16 more that changed nothing
    assert plan.labels_moved < budget._SETTLED
    assert plan.n_labellable > 300


def test_labels_that_change_much_are_asked_for_to_the_last(teacher):
    plan, labeller = ready(Slow(teacher, noise=50.0))
    plan, _ = ask_teacher(plan, labeller)
    assert plan.n_labels == plan.n_labellable
    assert plan.labels_moved > budget._SETTLED


@pytest.mark.parametrize(("given", "asked"), [(None, 393), (40, 40), (1000, 393), (1, 1)])
def test_a_number_is_met_exactly_and_none_is_all(teacher, given, asked):
    plan, labeller = ready(Slow(teacher), label_budget=given)
    plan, _ = ask_teacher(plan, labeller)
    assert plan.n_labels == labeller.n_labelled == asked
    assert plan.labels_moved is None


@pytest.mark.parametrize("given", ["auto", None, 300])
def test_time_ends_the_labelling_and_what_was_labelled_counts(teacher, given):
    plan, labeller = ready(
        Slow(teacher, seconds=2e-3, noise=50.0), label_budget=given, time_limit=0.2
    )
    started = time.perf_counter()
    plan, material = ask_teacher(plan, labeller)
    assert time.perf_counter() - started < 1.0  # all would take .8 s
    assert 16 <= plan.n_labels == labeller.n_labelled < 200
    assert material.final.n_teacher == plan.n_labels


def test_no_time_at_all_still_asks_for_the_first_windows(teacher):
    plan, labeller = ready(Slow(teacher), time_limit=0.0)
    plan, _ = ask_teacher(plan, labeller)
    assert plan.n_labels == 16


def test_batches_add_up_to_one_pass(teacher):
    plan, labeller = ready(teacher)
    totals = Totals(plan)
    sum_windows(totals, plan.with_labels(0, 100), labeller)
    sum_windows(totals, plan.with_labels(100, 250).labels_alone(), labeller)
    batches = totals.material(plan)
    once = accumulate(plan.with_labels(0, 250), labeller)
    for part in ("trial", "final"):
        for name, value in vars(getattr(once, part)).items():
            made = getattr(getattr(batches, part), name)
            np.testing.assert_allclose(made, value, rtol=1e-4, atol=1e-4, err_msg=f"{part} {name}")


def test_each_batch_holds_other_windows_and_a_larger_budget_the_smaller_one(teacher):
    plan, _ = ready(teacher)
    few, more, rest = (plan.with_labels(*r).sources[0] for r in ((0, 50), (0, 100), (50, 100)))
    assert few.labelled.sum() == 50
    np.testing.assert_array_equal(few.labelled | rest.labelled, more.labelled)
    assert not (few.labelled & rest.labelled).any()
    late = np.flatnonzero(more.labelled) >= more.label_stop
    assert late.any()
    assert not more.trial_labelled[more.label_stop :].any()


def test_networks_are_given_the_labels_that_the_sums_were_made_of(teacher):
    plan, labeller = ready(Slow(teacher), student="linear")
    plan, material = ask_teacher(plan, labeller, keep=lambda made: made[..., :1])
    assert len(material.labels.rows) == plan.n_labels == labeller.n_labelled
    assert labeller.n_from_cache == 0
