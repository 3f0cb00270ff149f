"""The Chronos family as teachers: Chronos-T5, Chronos-Bolt, Chronos-2.

Weights come from a directory or, through huggingface_hub, from a hub name; both
end up as a directory, so everything here works offline on one. Nothing is loaded
until a window has to be forecast: a fit whose labels are all in the cache never
reads the weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distilts_forecaster.runtime.checks import extra_for
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.teachers.base import (
    TeacherForecast,
    TeacherInfo,
    check_request,
)

__all__ = ["ChronosTeacher", "is_chronos_directory", "refuse_code"]

#: Series (windows times components) forecast at once. Bolt multiplies this by nine
#: beyond its native horizon, T5 by the number of samples.
ROWS_PER_BATCH = 256

#: Sample paths drawn from Chronos-T5, which has no quantiles of its own.
T5_SAMPLES = 20

#: Files that the digest of a model covers.
_FILES = ("*.json", "*.safetensors", "*.bin")

#: Pipelines kept loaded in this process, most recently used last.
_MAX_LOADED = 1
_loaded: OrderedDict[tuple[str, str, str], Any] = OrderedDict()


def is_chronos_directory(directory: Path) -> bool:
    """Say whether a directory holds a Chronos configuration."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict) or not isinstance(config.get("chronos_config", {}), dict):
        return False
    return "chronos_config" in config or "chronos_pipeline_class" in config


class ChronosTeacher:
    """A Chronos model from a directory.

    Computes in float32 on a CPU (bfloat16 is up to 40 times slower on some) and on
    the GPU where there is one. Chronos-2 sees all components of a window together,
    and each window by itself; the others see components one by one.

    Beyond the native horizon, Chronos-Bolt (64 steps) and Chronos-T5 (64) feed
    their forecasts back; Bolt does so for nine quantile paths, which makes h = 96
    about five times as expensive as h = 64, and its quantiles narrow there.
    Chronos-2 forecasts 1,024 steps in one pass.

    Chronos-T5 draws sample paths: its labels are reproducible for the same batch of
    windows, and vary by sampling error with the batch.

    Parameters
    ----------
    directory : path-like
        A directory with ``config.json`` and weights, as ``save_pretrained`` writes.
    name : str, optional
        Hub name, or the directory's own.
    revision : str, optional
        Commit. By default a digest of the files.

    Raises
    ------
    ValueError
        If the directory does not hold a Chronos model, or names code of its own: that is never
        run.

    Examples
    --------
    >>> teacher = ChronosTeacher("models/chronos-2")  # doctest: +SKIP
    >>> teacher.info.native_horizon  # doctest: +SKIP
    1024
    """

    def __init__(
        self, directory: str | Path, name: str | None = None, revision: str | None = None
    ) -> None:
        self.directory = Path(directory)
        if not is_chronos_directory(self.directory):
            raise ValueError(
                f"{self.directory} is not a Chronos model: its config.json is missing or has no "
                "chronos_config. A teacher directory is what save_pretrained writes."
            )
        refuse_code(self.directory)
        self._config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        self._name = name or str(self.directory)
        self._revision = revision

    def __deepcopy__(self, memo: dict[int, Any]) -> ChronosTeacher:
        """Return itself: it carries a path, not weights."""
        return self

    def __repr__(self) -> str:
        """Name the model."""
        return f"ChronosTeacher({self._name!r})"

    @cached_property
    def info(self) -> TeacherInfo:
        """Identity and limits, read from the files without loading the weights."""
        chronos = self._config.get("chronos_config", {})
        kind = self._kind
        quantiles = chronos.get("quantiles")
        return TeacherInfo(
            # A directory may be moved: its digest says what it holds.
            name=self._name if self._revision else f"chronos:{self.directory.name}",
            revision=self._revision or _digest(self.directory),
            dtype="float32",
            licence=_licence(self.directory),
            n_parameters=_count_parameters(self.directory),
            native_horizon=_native_horizon(kind, chronos),
            longest_context=chronos.get("context_length"),
            takes_missing=True,
            takes_covariates=kind == "chronos2",
            quantile_levels=(tuple(quantiles) if quantiles else (0.01, 0.99)),
            hidden="encoder",
        )

    @property
    def _kind(self) -> str:
        """``"t5"``, ``"bolt"`` or ``"chronos2"``."""
        pipeline = self._config.get("chronos_pipeline_class", "ChronosPipeline")
        return {"ChronosBoltPipeline": "bolt", "Chronos2Pipeline": "chronos2"}.get(pipeline, "t5")

    def forecast(
        self,
        contexts: np.ndarray,
        horizon: int,
        quantile_levels: Sequence[float],
        covariates: Covariates | None = None,
    ) -> TeacherForecast:
        """Forecast the steps that follow each context, in batches of bounded size; see ``Teacher``.

        Levels: Bolt 0.1 to 0.9, Chronos-2 and T5 0.01 to 0.99. Covariates are for Chronos-2.
        """
        check_request(self.info, horizon, quantile_levels)
        n, _, components = contexts.shape
        rows = self._in_batches(
            contexts,
            lambda pipeline, batch, known: self._forecast_batch(
                pipeline, batch, horizon, quantile_levels, known
            ),
            covariates,
        )
        shaped = rows.reshape(n, components, horizon, len(quantile_levels))
        return TeacherForecast(np.ascontiguousarray(shaped.transpose(0, 2, 1, 3), np.float32))

    def hidden_states(self, contexts: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Return the encoder's states of given steps of each context: (N, C, len(steps), D).

        What ``embed`` of the pipeline gives, without the states of [REG], end-of-sequence and
        output tokens. Chronos-Bolt and Chronos-2 have a state for each patch (usually of 16 steps,
        the last of which ends with the context), Chronos-T5 for each step. Steps before the model's
        longest context get its first state.
        """
        back = -1 - np.asarray(steps)  # steps between the one asked for and the last
        rows = self._in_batches(
            contexts, lambda pipeline, batch, _: self._embed_batch(pipeline, batch, back)
        )
        return rows.reshape(len(contexts), contexts.shape[2], len(steps), -1)

    def _in_batches(
        self,
        contexts: np.ndarray,
        ask: Callable[[Any, np.ndarray, Covariates | None], np.ndarray],
        covariates: Covariates | None = None,
    ) -> np.ndarray:
        """Ask the pipeline in batches of bounded size: rows ordered by window, then component."""
        n, length, components = contexts.shape
        if self._kind != "chronos2":
            contexts = contexts.transpose(0, 2, 1).reshape(n * components, length, 1)
        step = max(1, ROWS_PER_BATCH // contexts.shape[2])
        torch = _import_torch()
        # Loading and sampling draw random numbers; the user's stay untouched.
        with torch.random.fork_rng():
            pipeline = self._load()
            parts = []
            for start in range(0, len(contexts), step):
                torch.manual_seed(0)
                part = slice(start, start + step)
                known = None if covariates is None else covariates.rows(part)
                parts.append(ask(pipeline, contexts[part], known))
        return np.concatenate(parts)

    def _embed_batch(self, pipeline: Any, contexts: np.ndarray, back: np.ndarray) -> np.ndarray:
        """Return the states of one batch: (n, L, C) -> (n * C, P, D)."""
        import torch

        chronos = self._config.get("chronos_config", {})
        inputs = torch.from_numpy(np.ascontiguousarray(contexts.transpose(0, 2, 1)))  # (n, C, L)
        with torch.no_grad():
            if self._kind == "chronos2":
                states = torch.cat(pipeline.embed(inputs, batch_size=ROWS_PER_BATCH)[0])
                others, patch = 2, chronos["input_patch_size"]  # [REG] and an output token
            else:
                states = pipeline.embed(inputs[:, 0])[0]
                if self._kind == "bolt":
                    others = int(chronos.get("use_reg_token", False))
                    patch = chronos["input_patch_stride"]
                else:
                    others, patch = int(chronos.get("use_eos_token", False)), 1
        n_states = states.shape[1] - others
        wanted = np.maximum(n_states - 1 - back // patch, 0)
        return states[:, torch.from_numpy(wanted)].float().cpu().numpy()

    def _forecast_batch(
        self,
        pipeline: Any,
        contexts: np.ndarray,
        horizon: int,
        quantile_levels: Sequence[float],
        covariates: Covariates | None,
    ) -> np.ndarray:
        """Forecast one batch: (n, L, C) -> (n * C, T, Q)."""
        import torch

        inputs = torch.from_numpy(np.ascontiguousarray(contexts.transpose(0, 2, 1)))  # (n, C, L)
        levels = list(quantile_levels)
        if self._kind == "chronos2":
            quantiles, _ = pipeline.predict_quantiles(
                inputs if covariates is None else _with_covariates(inputs, covariates),
                prediction_length=horizon,
                quantile_levels=levels,
                batch_size=ROWS_PER_BATCH,
                # A label that depends on its batch could not be cached by window.
                cross_learning=False,
            )
            return torch.cat(list(quantiles)).float().cpu().numpy()
        options = {} if self._kind == "bolt" else {"num_samples": T5_SAMPLES}
        quantiles, _ = pipeline.predict_quantiles(
            inputs[:, 0], prediction_length=horizon, quantile_levels=levels, **options
        )
        return quantiles.float().cpu().numpy()

    def _load(self) -> Any:
        """Return the pipeline, loaded at most once in this process."""
        key = (str(self.directory), str(self.info.revision), self.info.dtype)
        if key in _loaded:
            _loaded.move_to_end(key)
            return _loaded[key]
        torch = _import_torch()
        from chronos import BaseChronosPipeline

        while len(_loaded) >= _MAX_LOADED:
            _loaded.popitem(last=False)
        try:
            with _quiet_loading():
                _loaded[key] = BaseChronosPipeline.from_pretrained(
                    str(self.directory),
                    device_map="cuda" if torch.cuda.is_available() else "cpu",
                    dtype="float32",
                    trust_remote_code=False,
                )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of whatever reads the files: "list index out of range"
            raise ValueError(
                f"The files in {self.directory} are not those of a whole Chronos model "
                f"({type(error).__name__}: {error}). Fetch or save them again, with "
                "save_pretrained."
            ) from error
        return _loaded[key]


def refuse_code(directory: Path) -> None:
    """Raise ValueError if loading a directory would run code that it names.

    transformers runs the modules of an ``auto_map`` where someone answers its prompt with yes; an
    adapter of peft names a module to import, and other weights to fetch.
    """
    for path in sorted(directory.glob("*.json")):
        if path.name == "adapter_config.json":
            raise ValueError(
                f"{path} makes the directory an adapter of peft, which names modules to import. "
                "Merge it into its model, and save that: "
                "model.merge_and_unload().save_pretrained(directory)."
            )
        try:
            names_code = "auto_map" in _all_keys(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue  # no JSON: transformers cannot read it either
        if names_code:
            raise ValueError(
                f"{path} has an auto_map, which names code in the directory to be run. This "
                "package runs none: use the weights of a model that transformers or "
                "chronos-forecasting knows, and delete auto_map."
            )


def _all_keys(value: Any) -> set[str]:
    """Return the keys of JSON objects, nested ones too."""
    if isinstance(value, dict):
        return set(value).union(*map(_all_keys, value.values()))
    return set().union(*map(_all_keys, value)) if isinstance(value, list) else set()


def _with_covariates(inputs: Any, covariates: Covariates) -> list[dict[str, Any]]:
    """Return windows (n, C, L) and their covariates as Chronos-2 takes them."""
    length = inputs.shape[2]
    told = []
    for i, target in enumerate(inputs):
        past: dict[str, np.ndarray] = {}
        future: dict[str, np.ndarray] = {}
        if covariates.past is not None:
            past |= {f"past {k}": row for k, row in enumerate(covariates.past[i].T)}
        if covariates.future is not None:
            rows = covariates.future[i].T
            past |= {f"future {k}": row[:length] for k, row in enumerate(rows)}
            future |= {f"future {k}": row[length:] for k, row in enumerate(rows)}
        told.append({"target": target, "past_covariates": past, "future_covariates": future})
    return told


def _import_torch() -> Any:
    """Import torch, or say what to install."""
    with extra_for("a teacher of the Chronos family", "chronos"):
        import chronos  # noqa: F401
        import torch
    return torch


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hide the progress bar of loading weights where there is no terminal to draw on."""
    from transformers.utils import logging

    hide = logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


@lru_cache(maxsize=8)
def from_hub(name: str) -> ChronosTeacher:
    """Fetch a model such as "amazon/chronos-2", or take it from the hub's local cache.

    Asked of the hub once in a process: a backtest that refits a hundred times does not ask a
    hundred times. ValueError if it cannot be fetched, or is not of the Chronos family.
    """
    with extra_for(f"the teacher {name!r}", "chronos"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    wanted = ["*.json", "*.safetensors", "README.md"]
    try:
        directory = Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"Teacher {name!r} is neither a directory here nor to be had from the hub "
            f"({type(error).__name__}). Without a network, use "
            'teacher="bundled" or the path of a directory with the weights.'
        ) from error
    # A snapshot's folder is named by its commit.
    return ChronosTeacher(directory, name=name, revision=directory.name)


def _digest(directory: Path) -> str:
    """Hash the configuration and the weights, once for each state of the files."""
    paths = sorted(p for pattern in _FILES for p in directory.glob(pattern))
    return _hash_files(tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths))


@lru_cache(maxsize=8)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files; time and size are there to notice that one was replaced."""
    digest = hashlib.blake2b(digest_size=16)
    for path, _, _ in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def _count_parameters(directory: Path) -> int | None:
    """Add up the shapes in the headers of the weight files."""
    from safetensors import safe_open

    files = sorted(directory.glob("*.safetensors"))
    total = 0
    for path in files:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                total += int(np.prod(file.get_slice(name).get_shape()))
    return total if files else None


def _licence(directory: Path) -> str | None:
    """Read the licence from the model card's front matter."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
        if line.startswith("license:"):
            return line.split(":", 1)[1].strip()
    return None


def _native_horizon(kind: str, chronos: dict[str, Any]) -> int | None:
    """Return the steps forecast in one pass."""
    if kind == "chronos2":
        return chronos.get("max_output_patches", 0) * chronos.get("output_patch_size", 0) or None
    return chronos.get("prediction_length")
