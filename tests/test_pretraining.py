import numpy as np
import pytest

from distilts_forecaster.teachers.bundled import experts
from distilts_forecaster.teachers.bundled.mixture import (
    MixtureTeacher,
    describe,
    describe_steps,
    normalise,
)
from pretraining import corpus, examples

torch = pytest.importorskip("torch", reason="needs the extra pretrain")
pytest.importorskip("synforecast", reason="needs the extra pretrain")
from safetensors.numpy import save_file  # noqa: E402

from pretraining import network, train  # noqa: E402


@pytest.mark.parametrize("generate", [corpus.nested_seasonal, corpus.random_walk, corpus.counts])
def test_series_are_finite_and_reproducible(generate):
    drawn = [generate(np.random.default_rng(seed), 600) for seed in range(30)]
    again = generate(np.random.default_rng(3), 600)
    np.testing.assert_array_equal(again, drawn[3])
    for series in drawn:
        assert series.shape == (600,)
        assert np.isfinite(series).all()
    assert len({float(series.std()) for series in drawn}) > 25


def test_counts_are_whole_and_not_negative():
    for seed in range(30):
        drawn = corpus.counts(np.random.default_rng(seed), 300)
        assert (drawn >= 0).all()
        np.testing.assert_array_equal(drawn, np.round(drawn))


def test_batches_depend_on_their_seed_and_number_alone():
    first = list(corpus.window_batches(2, 64, 16, seed=1))
    second = list(corpus.window_batches(1, 64, 16, seed=1, first=1))
    np.testing.assert_array_equal(first[1][0], second[0][0])
    np.testing.assert_array_equal(first[1][1], second[0][1])
    assert not np.array_equal(first[0][1], first[1][1])
    for contexts, targets in first:
        assert contexts.shape[1:] == (64,)
        assert targets.shape == (len(contexts), 16)
        assert np.isfinite(contexts).sum(axis=1).min() >= 2


def a_shard(folder, number):
    """A few seasonal windows as a shard."""
    rng = np.random.default_rng(number)
    series = np.stack([corpus.nested_seasonal(rng, 360) for _ in range(64)])
    part = examples.make_examples(series[:, :256].copy(), series[:, 256:], rng)
    path = folder / f"{number}.npz"
    np.savez(path, **part)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return [a_shard(folder, number) for number in range(6)]


def test_examples_hold_the_truth_on_the_normalised_scale():
    rng = np.random.default_rng(0)
    contexts = rng.normal(5, 3, size=(3, 100))
    contexts[2] = 1.0
    targets = np.tile(np.arange(1.0, 21.0), (3, 1))
    found = examples.make_examples(contexts, targets, np.random.default_rng(1))
    assert len(found["truth"]) == 2  # a constant teaches nothing
    _, mean, scale = normalise(contexts[:2])
    steps = found["truth"] * scale + mean
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert steps.min() >= 1 - 1e-4
    assert steps.max() <= 20 + 1e-4


def test_a_shard_is_written_once(tmp_path, monkeypatch):
    made = []

    def few(n_batches, context, horizon, seed, first):
        made.append(first)
        drawn = np.random.default_rng([seed, first]).normal(size=(4, context + horizon))
        yield drawn[:, :context], drawn[:, context:]

    monkeypatch.setattr(examples, "window_batches", few)
    path = examples.write_shard(tmp_path, 3, seed=0)
    before = path.read_bytes()
    assert examples.write_shard(tmp_path, 3, seed=0) == path
    assert path.read_bytes() == before
    assert made == [3]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.name.startswith("0-00003-")


def test_every_example_is_read_once(shards):
    n = sum(len(np.load(path)["unit"]) for path in shards)
    batches = list(examples.read_shuffled(shards, 1, np.random.default_rng(0)))
    assert len(batches) == n
    units = np.sort([float(batch["unit"][0]) for batch in batches])
    expected = np.sort(np.concatenate([np.load(path)["unit"] for path in shards]))
    np.testing.assert_array_equal(units, expected)


def test_the_teacher_computes_what_the_network_does(shards, tmp_path):
    torch.manual_seed(0)
    trained = train.new_network(shards)
    for layer in (trained.answer, trained.answer_row):
        torch.nn.init.normal_(layer.weight, std=0.2)
    save_file(network.arrays_of(trained), tmp_path / "weights.safetensors")
    teacher = MixtureTeacher(tmp_path / "weights.safetensors")
    series = corpus.nested_seasonal(np.random.default_rng(0), 300)
    rows, mean, scale = normalise(series[None])
    description = describe(rows, np.ones(1))
    steps = np.arange(1, 25)[None]
    log_errors, encoded = describe_steps(description, steps)
    candidates = experts.forecast(rows, description.fitted, steps)
    arrays = (description.features, log_errors, encoded, description.unit, candidates)
    with torch.no_grad():
        quantiles, pivot = trained(*(torch.from_numpy(array) for array in arrays))
    expected = pivot[..., None].numpy() + description.unit[:, None, None] * quantiles.numpy()
    found = teacher.forecast(series[None, :, None].astype(np.float32), 24, network.LEVELS)
    np.testing.assert_allclose(
        found.quantiles[0, :, 0], (mean[..., None] + scale[..., None] * expected)[0], atol=1e-3
    )


def test_training_lowers_the_loss_and_goes_on_where_it_stopped(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "BATCH_SIZE", 32)
    monkeypatch.setattr(train, "N_HELD_OUT", 2)
    untrained = train.held_out_loss(train.new_network(shards[2:]), shards[:2])
    whole = train.train(shards, 4, 0, tmp_path / "whole.pt")
    assert train.held_out_loss(whole, shards[:2]) < untrained

    class Stopped(Exception):
        pass

    written = []
    replace = train.os.replace

    def stop_after_two(*paths):
        replace(*paths)
        written.append(paths)
        if len(written) == 2:
            raise Stopped

    monkeypatch.setattr(train.os, "replace", stop_after_two)
    with pytest.raises(Stopped):
        train.train(shards, 4, 0, tmp_path / "stopped.pt")
    resumed = train.train(shards, 4, 0, tmp_path / "stopped.pt")
    with pytest.raises(ValueError, match="is of another run"):
        train.train(shards, 4, 1, tmp_path / "stopped.pt")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor)


def test_quantile_loss_is_least_at_the_quantiles_and_leaves_out_the_unknown():
    sample = torch.tensor(np.random.default_rng(0).normal(size=(1, 20000)))
    truth = sample.clone()
    truth[0, :1000] = float("nan")

    def loss(shift):
        quantiles = torch.quantile(sample, torch.tensor(network.LEVELS)) + shift
        return network.quantile_loss(quantiles.expand(1, 20000, 9), truth)

    assert loss(0.0) < loss(0.1)
    assert loss(0.0) < loss(-0.1)
    assert torch.isfinite(loss(0.0))
