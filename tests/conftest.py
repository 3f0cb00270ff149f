"""Shared fixtures: a deterministic fake teacher, small series, a private cache."""

import os
from pathlib import Path

import numpy as np
import pytest

from distilts_forecaster.teachers import TeacherForecast, TeacherInfo


class CountingTeacher:
    """Repeat the last ``period`` values, and write every window asked for to a file.

    The file is shared by processes: what it holds is what the teacher was asked.
    """

    def __init__(self, log, period=6, name="counting", revision="1"):
        self.log = Path(log)
        self.period = period
        self.info = TeacherInfo(name, revision=revision, quantile_levels=(0.1, 0.5, 0.9))

    def forecast(self, contexts, horizon, quantile_levels):
        with self.log.open("a") as file:
            file.writelines(f"{hash(window.tobytes())}\n" for window in contexts)
        repeats = -(-horizon // self.period)
        point = np.tile(contexts[:, -self.period :], (1, repeats, 1))[:, :horizon]
        return TeacherForecast(np.repeat(point[..., None], len(quantile_levels), axis=3))

    @property
    def n_asked(self):
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def teacher(tmp_path):
    return CountingTeacher(tmp_path / "asked.txt")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """Keep the default label cache out of the user's home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def data_folder():
    """Return a folder with real series, or skip."""
    folder = Path(os.environ.get("DISTILTS_DATA", Path.home() / ".darts" / "datasets"))
    if not any(folder.rglob("ETTh1.csv")):
        pytest.skip(f"no ETTh1.csv in {folder}: set DISTILTS_DATA to a folder with real series")
    return folder


def seasonal(n, components=1, period=6, seed=0, noise=0.3):
    """Return values (n, components): a season, a drift and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(n)[:, None]
    phase = np.arange(components)[None]
    return (
        np.sin(2 * np.pi * time / period + phase)
        + 0.3 * np.cumsum(rng.normal(size=(n, components)), axis=0) / np.sqrt(n)
        + noise * rng.normal(size=(n, components))
    )


def network(settings, input_chunk_length, output_chunk_length, n_quantiles=1, covariates=(0, 0, 0)):
    """Build the network of some settings."""
    from distilts_forecaster.students.base import NetworkShape

    sizes = (input_chunk_length, output_chunk_length, n_quantiles, covariates)
    return settings.make_network(NetworkShape(*sizes))


def frame(input_chunk_length, output_chunk_length, shift=0, levels=(0.5,), **options):
    """Return what a forecaster needs besides its numbers."""
    from distilts_forecaster.students.base import Frame
    from distilts_forecaster.windows.source import Chunks

    return Frame(Chunks(input_chunk_length, output_chunk_length, shift), levels, **options)
