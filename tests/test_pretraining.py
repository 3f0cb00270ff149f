import numpy as np
import pytest

from pretraining import corpus


@pytest.mark.parametrize("generate", [corpus.nested_seasonal, corpus.random_walk])
def test_series_are_finite_varied_and_reproducible(generate):
    drawn = [generate(np.random.default_rng(seed), 600) for seed in range(30)]
    again = generate(np.random.default_rng(3), 600)
    np.testing.assert_array_equal(again, drawn[3])
    for series in drawn:
        assert series.shape == (600,)
        assert np.isfinite(series).all()
    assert len({float(series.std()) for series in drawn}) == 30


def test_batches_depend_on_their_seed_and_number_alone():
    pytest.importorskip("synforecast", reason="needs the extra pretrain")
    first = list(corpus.window_batches(2, 64, 16, seed=1))
    again = list(corpus.window_batches(2, 64, 16, seed=1))
    for (contexts, targets), (same, same_targets) in zip(first, again, strict=True):
        np.testing.assert_array_equal(contexts, same)
        np.testing.assert_array_equal(targets, same_targets)
        assert contexts.shape[1:] == (64,)
        assert targets.shape == (len(contexts), 16)
        assert np.isfinite(targets).all()
        assert 0.05 < np.isnan(contexts).mean() < 0.4
    assert not np.array_equal(first[0][1], first[1][1])


def test_the_recipe_makes_a_teacher(tmp_path):
    pytest.importorskip("synforecast", reason="needs the extra pretrain")
    from distilts_forecaster.teachers.experts import ExpertsTeacher
    from pretraining import train

    arrays = train.train(1, n_experts=4, rank=8, seed=0, shrinkage=300.0, ridge=1e-2, n_sampled=1)
    train.calibrate(arrays, tmp_path / "tiny.safetensors", seed=0, n_batches=1)
    teacher = ExpertsTeacher(tmp_path / "tiny.safetensors")
    season = np.sin(np.arange(512) * 2 * np.pi / 24).astype(np.float32)[None, :, None]
    quantiles = teacher.forecast(season, 96, (0.1, 0.5, 0.9)).quantiles
    assert quantiles.shape == (1, 96, 1, 3)
    assert (np.diff(quantiles, axis=-1) > 0).all()
