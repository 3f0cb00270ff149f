from dataclasses import replace

import numpy as np
import pytest
from conftest import network as build_network
from conftest import seasonal

torch = pytest.importorskip("torch")

from distilts_forecaster.students import DLinear, ITransformer, Training  # noqa: E402
from distilts_forecaster.students.alignment import FactorisedAlignment  # noqa: E402
from distilts_forecaster.students.objective import Objective, exponential_weights  # noqa: E402
from distilts_forecaster.students.training import train  # noqa: E402
from distilts_forecaster.windows.batches import TeacherRows, TrainingWindows  # noqa: E402
from distilts_forecaster.windows.source import Chunks, prepare_series  # noqa: E402

L, T = 24, 6
QUICK = Training(max_epochs=3, batch_size=16)


def make_windows(n=150, components=2, labelled=True, seed=0):
    series = prepare_series(seasonal(n, components, seed=seed))
    origins = np.arange(L, n - T + 1)
    rng = np.random.default_rng(seed)
    count = len(origins)
    last = series.values[origins - 1][:, None, :, None]
    teacher = TeacherRows(
        np.repeat(last, T, axis=1),
        rng.normal(size=(count, components, 3, 5)).astype(np.float16),
        np.zeros(5, np.float32),
        np.ones(5, np.float32),
    )
    return TrainingWindows(
        sources=[series],
        chunks=Chunks(L, T),
        owner=np.zeros(count, np.int32),
        origins=origins,
        has_target=np.ones(count, dtype=bool),
        label_row=np.arange(count) if labelled else np.full(count, -1),
        teacher=teacher if labelled else None,
    )


def objective(alpha=1.0, beta=0.3, tau=1.0):
    return Objective(alpha, exponential_weights(T, tau), beta)


def network(seed=0):
    torch.manual_seed(seed)
    settings = ITransformer(d_model=16, d_ff=32)
    return build_network(settings, L, T), FactorisedAlignment(16, 5, 3)


def weights(module):
    return np.concatenate([p.detach().numpy().ravel() for p in module.state_dict().values()])


def run(windows=None, training=QUICK, held_out=None, seed=1, start=0, **options):
    net, aligner = network(start)
    windows = windows or make_windows()
    record = train(net, windows, objective(), training, held_out, aligner, seed=seed, **options)
    return net, aligner, record


def test_each_term_is_recorded_by_epoch_and_falls():
    training = Training(max_epochs=15, batch_size=16, learning_rate=3e-3)
    _, _, record = run(training=training)
    assert [epoch.number for epoch in record.epochs] == list(range(1, 16))
    first, last = record.epochs[0], record.epochs[-1]
    for term in ("total", "supervised", "distillation", "alignment"):
        assert getattr(last, term) < getattr(first, term), term
    expected = last.supervised + last.distillation + 0.3 * last.alignment
    assert last.total == pytest.approx(expected, rel=1e-5)
    assert last.learning_rate < first.learning_rate


def test_terms_that_cannot_be_computed_are_nan():
    net, _ = network()
    record = train(net, make_windows(labelled=False), objective(), QUICK, seed=0)
    epoch = record.epochs[0]
    assert np.isnan([epoch.distillation, epoch.alignment, epoch.validation_error]).all()
    assert epoch.total == pytest.approx(epoch.supervised)


def test_a_seed_decides_everything_and_leaves_the_users_random_state():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    net, aligner = network()  # draws; so does what follows
    torch.manual_seed(7)
    train(net, make_windows(), objective(), QUICK, aligner=aligner, seed=1)
    torch.testing.assert_close(torch.rand(3), expected)
    first, second = run()[0], run()[0]
    np.testing.assert_array_equal(weights(first), weights(second))
    assert not np.array_equal(weights(run(seed=2)[0]), weights(first))


def test_training_stops_early_and_keeps_the_best_epoch():
    # Held-out targets with nothing in common with what is trained on.
    held_out = make_windows(labelled=False)
    values = -held_out.sources[0].values
    backwards = replace(held_out.sources[0], values=np.ascontiguousarray(values[::-1]))
    held_out = replace(held_out, sources=[backwards])
    training = Training(max_epochs=30, patience=2, batch_size=16, learning_rate=1e-2)
    net, _, record = run(training=training, held_out=held_out)
    errors = [epoch.validation_error for epoch in record.epochs]
    assert len(record.epochs) < 30
    assert len(record.epochs) - record.best == 2
    assert record.best_error <= min(errors)
    short, _, _ = run(training=training, n_epochs=record.best)
    np.testing.assert_array_equal(weights(net), weights(short))


@pytest.mark.parametrize(("share", "returns"), [(0.0, True), (np.inf, False)])
def test_a_start_that_is_not_beaten_beyond_noise_is_returned(share, returns):
    windows = make_windows()
    start = weights(network()[0])
    net, _, record = run(windows, held_out=make_windows(seed=1), most_of_start=share)
    assert (record.best == 0) == returns
    assert record.best_error is not None
    assert np.array_equal(start, weights(net)) == returns


def test_windows_without_a_label_do_not_dilute_the_teacher():
    windows = make_windows(200)
    few = replace(
        windows, label_row=np.where(np.arange(len(windows)) % 4 == 0, np.arange(len(windows)), -1)
    )
    frozen = Training(max_epochs=1, batch_size=len(windows), learning_rate=1e-12)
    all_, some = (run(w, frozen)[2].epochs[0] for w in (windows, few))
    assert some.distillation == pytest.approx(all_.distillation, rel=0.3)
    assert some.supervised == pytest.approx(all_.supervised, rel=1e-4)


def test_an_epoch_can_be_bounded():
    windows = make_windows(400)
    training = Training(max_epochs=2, max_windows_per_epoch=32, batch_size=16)
    calls = []
    original = TrainingWindows.batch

    def counting(self, chosen):
        calls.append(chosen)
        return original(self, chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingWindows, "batch", counting)
        run(windows, training)
    assert [len(c) for c in calls] == [16] * 4
    assert len(np.unique(np.concatenate(calls[:2]))) == 32
    assert set(np.concatenate(calls[:2])) != set(np.concatenate(calls[2:]))


def test_a_network_of_the_wrong_shape_is_refused():
    class Wrong(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(L, T)

        def forward(self, context):
            return self.layer(context.transpose(1, 2))  # (B, C, T)

    with pytest.raises(ValueError, match=r"shape \(16, 2, 6, 1\), expected .* \(16, 6, 2, 1\)"):
        train(Wrong(), make_windows(), objective(), QUICK, seed=0)


def test_a_loss_that_runs_away_is_reported():
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(float("inf")))

        def forward(self, context):
            return context[:, -T:] * self.gain

    with pytest.raises(ValueError, match="training loss became"):
        train(Broken(), make_windows(), objective(), QUICK, seed=0)


def test_bfloat16_is_close_to_float32():
    settings = DLinear(kernel_size=None)
    results = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        net = build_network(settings, L, T)
        train(net, make_windows(), objective(beta=0), replace(QUICK, precision=precision), seed=0)
        results.append(weights(net))
    assert 0 < np.abs(results[0] - results[1]).max() < 0.02


def test_weights_of_windows_count_in_their_targets_alone():
    windows = make_windows(200)
    n = np.arange(len(windows))
    weighted = replace(windows, weight=np.where(n % 2, 2.0, 0.0).astype(np.float32))
    half = replace(windows, has_target=n % 2 == 1)
    frozen = Training(max_epochs=1, batch_size=len(windows), learning_rate=1e-12)
    mine, expected = (run(w, frozen)[2].epochs[0] for w in (weighted, half))
    assert mine.supervised == pytest.approx(expected.supervised, rel=0.01)
    assert mine.distillation == pytest.approx(expected.distillation, rel=1e-4)
