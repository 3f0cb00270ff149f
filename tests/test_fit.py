"""Students trained by gradient, from series to student: that each term acts."""

import itertools

import numpy as np
import pytest
from conftest import seasonal

torch = pytest.importorskip("torch")

from conftest import frame, network  # noqa: E402

from distilts_forecaster.distill.accumulate import accumulate  # noqa: E402
from distilts_forecaster.distill.fit import gather_windows, keep_labels  # noqa: E402
from distilts_forecaster.distill.label import N_POSITIONS  # noqa: E402
from distilts_forecaster.distill.pipeline import distill  # noqa: E402
from distilts_forecaster.distill.plan import plan_windows  # noqa: E402
from distilts_forecaster.settings import make_settings  # noqa: E402
from distilts_forecaster.students import (  # noqa: E402
    MLP,
    DLinear,
    ITransformer,
    Linear,
    Network,
    Training,
)
from distilts_forecaster.students.objective import Objective, exponential_weights  # noqa: E402
from distilts_forecaster.students.training import train  # noqa: E402
from distilts_forecaster.teachers import TeacherForecast, TeacherInfo  # noqa: E402
from distilts_forecaster.teachers.labels import Labeller  # noqa: E402
from distilts_forecaster.teachers.stores import MemoryStore  # noqa: E402
from distilts_forecaster.windows.source import prepare_series  # noqa: E402

L, T = 24, 8
SHORT = Training(max_epochs=2, batch_size=32)


class PatternTeacher:
    """Repeat the last value; hidden states are patch means and slopes.

    ``wrong_after`` turns all later steps upside down.
    """

    def __init__(self, wrong_after=None, n_hidden=12, quantile_levels=None):
        self.wrong_after = wrong_after
        self.n_hidden = n_hidden
        self.info = TeacherInfo(
            "pattern", revision=f"{wrong_after}{n_hidden}{quantile_levels}", takes_missing=False,
            quantile_levels=quantile_levels, hidden="patches",
        )  # fmt: skip
        self.asked = 0

    def forecast(self, contexts, horizon, quantile_levels):
        pattern = np.repeat(contexts[:, -1:], horizon, axis=1)
        if self.wrong_after is not None:
            pattern[:, self.wrong_after :] *= -2.0
        offsets = np.asarray(quantile_levels) - 0.5
        return TeacherForecast((pattern[..., None] + offsets).astype(np.float32))

    def hidden_states(self, contexts, steps):
        self.asked += len(contexts)
        _n, length, _c = contexts.shape
        rng = np.random.default_rng(0)
        mixing = rng.normal(size=(length, self.n_hidden))
        rows = contexts.transpose(0, 2, 1)
        rows = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True)
        states = []
        for step in steps:
            mask = np.abs(np.arange(length) - length - step) < 6
            states.append((rows * mask) @ mixing)
        return np.stack(states, axis=2).astype(np.float32)


def fit(values, student, teacher=None, validation=None, series=None, **changes):
    settings = make_settings(
        **(
            {"input_chunk_length": L, "output_chunk_length": T, "student": student}
            | {"distillation_weight": 1.0, "random_state": 0, "alignment": None}
            | changes
        )
    )
    labeller = None
    if teacher is not None:
        labeller = Labeller(
            teacher, MemoryStore(), settings.chunks.target_stop, settings.quantiles.levels
        )
    prepared = [prepare_series(v) for v in (series or [values])]
    held_out = None if validation is None else [prepare_series(validation)]
    return distill(prepared, settings, labeller, held_out)


def _labeller(teacher, levels=(0.5,)):
    return Labeller(teacher, MemoryStore(), T, levels)


def contexts_of(values, n=50):
    return np.lib.stride_tricks.sliding_window_view(values, L, axis=0)[:n].transpose(0, 2, 1)


def error_to_teacher(student, values, teacher):
    contexts = contexts_of(values)
    labels = teacher.forecast(contexts, T, (0.5,)).quantiles[..., 0]
    return ((student.predict(contexts) - labels) ** 2).mean(axis=(0, 2))


def test_alpha_draws_the_student_towards_the_teacher():
    values, teacher = seasonal(400), PatternTeacher()
    distances = [
        error_to_teacher(
            fit(
                values, DLinear(training=Training(max_epochs=8)), teacher, distillation_weight=a
            ).student,
            values,
            teacher,
        ).mean()
        for a in (0.0, 1.0, 10.0)
    ]
    assert distances[0] > 1.3 * distances[1] > 1.3 * distances[2]


def train_on_all(values, student, teacher, alpha, tau):
    """Train without held-out windows, so that all is the objective's doing."""
    settings = make_settings(L, T, student=student, distillation_weight=alpha)
    labeller = _labeller(teacher)
    plan = plan_windows([prepare_series(values)], settings, labeller)
    material = accumulate(plan, labeller, keep_labels(settings, labeller))
    windows = gather_windows(plan, material.labels, None).final
    torch.manual_seed(0)
    net = network(student, L, T)
    objective = Objective(alpha, exponential_weights(T, tau))
    record = train(net, windows, objective, student.training, seed=0)
    return student.to_forecaster(net, frame(L, T)), record


@pytest.mark.parametrize(
    "student",
    [
        DLinear(training=Training(max_epochs=20, learning_rate=1e-2)),
        ITransformer(d_model=32, d_ff=64),
    ],
)
def test_steeper_horizon_weights_move_the_student_to_the_teacher_at_far_steps(student):
    # A teacher that is wrong everywhere: following it shows in the error against the targets.
    values, teacher = seasonal(400), PatternTeacher(wrong_after=0)
    profiles = [
        error_to_teacher(train_on_all(values, student, teacher, 2.0, tau)[0], values, teacher)
        for tau in (-3.0, 0.0, 3.0)
    ]
    for gentle, steep in itertools.pairwise(profiles):
        assert steep[-1] < 0.9 * gentle[-1]
        assert steep[0] > 1.1 * gentle[0]


def test_no_weight_at_a_step_is_no_teacher_at_that_step():
    values = seasonal(400)
    weights = [1.0] * (T // 2) + [0.0] * (T // 2)
    students = [
        fit(values, DLinear(), PatternTeacher(after), horizon_weights=weights).student.weights
        for after in (None, T // 2)  # teachers that differ in the later half only
    ]
    np.testing.assert_array_equal(students[0], students[1])


def test_inverse_error_weights_are_those_of_the_teacher_on_the_targets():
    values = seasonal(400)
    teacher = PatternTeacher(wrong_after=T // 2)
    for student in (Linear(), DLinear(training=SHORT)):
        summary = fit(values, student, teacher, horizon_weights="inverse_error").summary
        early, late = np.split(np.array(summary.chosen.horizon_weights), 2)
        assert early.mean() > 2 * late.mean()
        assert summary.chosen.tau is None


def test_dlinear_without_decomposition_approaches_the_exact_solution():
    values, teacher = seasonal(600, components=2), PatternTeacher()
    exact = fit(values, Linear(ridge=1e-6), teacher)
    contexts = contexts_of(values, 200)
    expected = exact.student.predict(contexts)
    distances = []
    for n_epochs in (5, 200):
        training = Training(
            max_epochs=n_epochs, batch_size=128, learning_rate=1e-2, gradient_clip=100.0
        )
        student, record = train_on_all(values, DLinear(None, training), teacher, 1.0, tau=1.0)
        distances.append(((student.predict(contexts) - expected) ** 2).mean() / expected.var())
    assert distances[1] < 0.01
    assert distances[1] < 0.1 * distances[0]
    # And so does what it minimises, computed from the definition.
    least = _loss(exact, values, teacher)
    assert least < record.epochs[-1].total < 1.02 * least


def _loss(found, values, teacher):
    """Return the distillation loss of a student, computed from the definition."""
    series = prepare_series(values)
    standardised = series.values
    origins = np.arange(L, len(values) - T + 1)
    total, weights = 0.0, np.array(found.summary.chosen.horizon_weights)
    for origin in range(L, len(values) + 1):
        context = standardised[origin - L : origin]
        spread = np.sqrt(context.var(axis=0) + 9) / 3
        forecast = found.student.predict(context)
        raw = teacher.forecast(series.raw[None, origin - L : origin], T, (0.5,)).quantiles[
            0, ..., 0
        ]
        label = (raw - series.location) / series.std
        n_labelled = len(values) + 1 - L
        total += ((weights[:, None] * (label - forecast) ** 2) / spread**2).mean() / n_labelled
        if origin <= origins[-1]:
            target = standardised[origin : origin + T]
            total += (((target - forecast) / spread) ** 2).mean() / len(origins)
    return total


@pytest.mark.parametrize("kind", ["factorised", "linear", "relational"])
def test_alignment_is_trained_and_moves_the_student(kind):
    values, teacher = seasonal(400, components=2), PatternTeacher()
    training = Training(max_epochs=6, batch_size=32, learning_rate=3e-3)
    student = ITransformer(d_model=32, d_ff=64, dropout=0.0, training=training)
    without = fit(values, student, teacher)
    aligned = fit(values, student, teacher, alignment=kind)
    assert without.summary.chosen.alignment is None
    assert np.isnan(without.summary.epochs[0].alignment)
    assert aligned.summary.chosen.alignment == kind
    losses = [epoch.alignment for epoch in aligned.summary.epochs]
    assert losses[-1] < 0.7 * losses[0]
    contexts = contexts_of(values)
    assert not np.allclose(
        aligned.student.predict(contexts), without.student.predict(contexts), atol=1e-3
    )


def test_hidden_states_of_an_aligned_student_predict_the_teachers():
    values, teacher = seasonal(500), PatternTeacher()
    training = Training(max_epochs=12, patience=12, learning_rate=3e-3)
    student = ITransformer(d_model=32, d_ff=64, dropout=0.0, training=training)
    contexts = contexts_of(values, 300)
    hidden = teacher.hidden_states(contexts, [-20, -3]).reshape(300, -1)
    scores = {}
    for beta in (0.0, 3.0):
        found = fit(values, student, teacher, alignment="factorised", alignment_weight=beta)
        scaled = contexts - contexts.mean(axis=1, keepdims=True)
        scaled = (scaled / scaled.std(axis=1, keepdims=True)).astype(np.float32)
        net = network(student, L, T)
        arrays = found.student.arrays
        net.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
        with torch.no_grad():
            states = net.eval()(torch.from_numpy(scaled))[1][:, 0].numpy()
        inputs = np.column_stack([states, np.ones(300)])
        fitted = np.linalg.lstsq(inputs[::2], hidden[::2], rcond=1e-3)[0]
        error = (inputs[1::2] @ fitted - hidden[1::2]).var() / hidden[1::2].var()
        scores[beta] = error
    assert scores[3.0] < 0.7 * scores[0.0]


def test_no_gradient_reaches_the_teacher():
    class TorchTeacher(PatternTeacher):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forecast(self, contexts, horizon, quantile_levels):
            steps = torch.from_numpy(contexts[:, -1:]).repeat(1, horizon, 1) * self.gain
            return TeacherForecast(steps.detach()[..., None].numpy())

        def hidden_states(self, contexts, steps):
            return (self.gain * torch.ones(len(contexts), 1, 1, 4)).detach().numpy()

    teacher = TorchTeacher()
    fit(seasonal(200), ITransformer(training=SHORT), teacher, alignment="factorised")
    assert teacher.gain.grad is None
    assert float(teacher.gain.detach()) == 1.0


def test_hidden_states_are_few_small_and_asked_for_once(monkeypatch):
    values, teacher = seasonal(300), PatternTeacher(n_hidden=300)
    store = MemoryStore()
    settings = make_settings(
        L, T, student=MLP(training=SHORT), distillation_weight=1.0, alignment="factorised",
        alignment_dim=16, random_state=0,
    )  # fmt: skip
    made = {}
    original = store.put

    def put(entries):
        made.update(entries)
        original(entries)

    monkeypatch.setattr(store, "put", put)
    for _ in range(2):
        distill([prepare_series(values)], settings, Labeller(teacher, store, T))
    n_windows = 300 - L + 1
    assert teacher.asked == n_windows
    states = [v for v in made.values() if len(v) == 6 + 2 * N_POSITIONS * 16]
    assert len(states) == n_windows


def test_alignment_that_cannot_be_had_is_refused_before_the_teacher_is_asked():
    class Blind(PatternTeacher):
        def __init__(self):
            super().__init__()
            self.info = TeacherInfo("blind", revision="1")

        def forecast(self, contexts, horizon, quantile_levels):
            raise AssertionError("was asked")

    class NoStates(torch.nn.Module):
        def __init__(self, *sizes):
            super().__init__()
            self.layer = torch.nn.Linear(L, T)

        def forward(self, context):
            return self.layer(context.transpose(1, 2)).transpose(1, 2)

    with pytest.raises(ValueError, match="'blind' has none to show"):
        fit(seasonal(200), MLP(), Blind(), alignment="factorised")
    with pytest.raises(ValueError, match="attribute hidden_size"):
        fit(seasonal(200), Network(NoStates), PatternTeacher(), alignment="linear")
    found = fit(seasonal(200), Network(NoStates, SHORT), PatternTeacher(), alignment="auto")
    assert found.summary.chosen.alignment is None


def test_series_of_all_scales_train_evenly():
    base = [seasonal(200, seed=seed) for seed in range(3)]
    plain = fit(None, DLinear(), PatternTeacher(), series=base, distillation_weight=0.0)
    scaled = [v * s + m for v, s, m in zip(base, (1e-3, 1.0, 1e6), (0, 5, -1e5), strict=True)]
    mixed = fit(None, DLinear(), PatternTeacher(), series=scaled, distillation_weight=0.0)
    np.testing.assert_allclose(mixed.student.weights, plain.student.weights, atol=1e-3)


def test_the_mlp_starts_at_the_exact_student_and_keeps_it_where_nothing_is_better():
    values = seasonal(400)
    # Held-out values that only the start could suit: training makes it worse at once.
    training = Training(max_epochs=3, learning_rate=1.0, patience=1)
    found = fit(values, MLP(training=training), validation=values[200:])
    exact = fit(values, Linear(), validation=values[200:])
    assert found.summary.chosen.best_epoch == 0
    np.testing.assert_allclose(
        found.student.predict(values[:L]), exact.student.predict(values[:L]), rtol=1e-3, atol=1e-4
    )


def test_a_history_too_short_to_split_at_the_whole_horizon_can_be_fitted():
    found = fit(seasonal(12), MLP(training=SHORT), PatternTeacher())
    assert 0 < found.summary.errors.horizon < T
    assert np.isfinite(found.student.predict(seasonal(L))).all()


def test_the_future_of_the_held_out_windows_is_not_trained_on():
    values = seasonal(300)
    other = values.copy()
    other[-10:] += 5.0
    # The trials see nothing of it; the student that is returned is fitted on all of it.
    one, two = (
        fit(v - v[:200].mean(), ITransformer(training=SHORT)).summary for v in (values, other)
    )
    spread = other.std() / values.std()
    for mine, theirs in zip(one.epochs, two.epochs, strict=True):
        assert theirs.supervised == pytest.approx(mine.supervised / spread**2, rel=0.1)


def test_a_refit_follows_on_all_windows_for_as_many_epochs_as_were_best(monkeypatch):
    import distilts_forecaster.students.fitting as module

    calls = []
    original = module.train

    def recording(network, windows, *args):
        calls.append((len(windows), args[5]))
        return original(network, windows, *args)

    monkeypatch.setattr(module, "train", recording)
    found = fit(seasonal(300), DLinear(training=SHORT))
    (n_trial, _), (n_all, n_epochs) = calls
    assert n_trial < 0.85 * n_all
    assert n_epochs == found.summary.chosen.best_epoch
    calls.clear()
    fit(seasonal(300), DLinear(training=SHORT), validation=seasonal(100, seed=1))
    assert len(calls) == 1


def test_quantiles_are_distilled_and_do_not_cross():
    levels = (0.1, 0.5, 0.9)
    teacher = PatternTeacher(quantile_levels=levels)
    values = seasonal(500)
    for student in (
        DLinear(training=Training(max_epochs=10)),
        MLP(hidden_size=32),
        ITransformer(d_model=32, d_ff=64),
    ):
        settings = {"quantiles": levels}
        found = fit(values, student, teacher, **settings, distillation_weight=0.5)
        contexts = contexts_of(values)
        quantiles = found.student.predict_quantiles(contexts, None, levels)
        assert quantiles.shape == (50, T, 1, 3)
        assert (np.diff(quantiles, axis=-1) >= 0).all()
        width = (quantiles[..., 2] - quantiles[..., 0]).mean()
        assert 0.2 < width < 3.0
    # The teacher's are .8 apart: with all the weight on it, so are the student's.
    settings["calibrate"] = False
    student = MLP(hidden_size=32)
    found = fit(values, student, teacher, **settings, distillation_weight=100.0)
    quantiles = found.student.predict_quantiles(contexts)
    assert (quantiles[..., 2] - quantiles[..., 0]).mean() == pytest.approx(0.8, rel=0.35)
