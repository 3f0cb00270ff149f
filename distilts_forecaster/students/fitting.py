"""Fit a network: build it, train it, and wrap what was trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distilts_forecaster.students.alignment import make_aligner
from distilts_forecaster.students.base import FitTask, Fitted, NetworkSettings, NetworkShape
from distilts_forecaster.students.objective import Objective
from distilts_forecaster.students.training import Trained, call_network, resolve_device, train
from distilts_forecaster.windows.batches import TrainingWindows, WindowSets

__all__ = ["fit_network", "probe_network"]


def probe_network(settings: NetworkSettings, shape: NetworkShape, n_components: int) -> int | None:
    """Build a network and try it on random windows; return the size of its hidden states, or None.

    TypeError if the user's function does not build a module; ValueError if there is nothing to
    train, or forecast or hidden states have the wrong shape, or the device is not there.
    """
    resolve_device(settings.training.device)
    length, steps = shape.input_chunk_length, shape.output_chunk_length
    n_past, n_future, n_static = shape.n_covariates
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = settings.make_network(shape).eval()
        _, hidden = call_network(
            network,
            torch.randn(2, length, n_components),
            (
                torch.randn(2, length, n_past) if n_past else None,
                torch.randn(2, length + steps, n_future) if n_future else None,
                torch.randn(2, n_components, n_static) if n_static else None,
            ),
            (steps, n_components, shape.n_quantiles),
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"{type(network).__name__} has no parameters to train. Is a layer kept in a plain "
            "list? Use torch.nn.ModuleList."
        )
    size = _hidden_size(network)
    if size is not None and (hidden is None or tuple(hidden.shape) != (2, n_components, size)):
        got = "none" if hidden is None else f"shape {tuple(hidden.shape)}"
        raise ValueError(
            f"{type(network).__name__} has hidden_size={size!r}, so that its forward must return "
            f"(forecast, hidden) with hidden (windows, components, hidden_size) = "
            f"{(2, n_components, size)}; got {got}."
        )
    return size


def fit_network(settings: NetworkSettings, task: FitTask) -> Fitted:
    """Train a network, stopped early on the held-out windows, then on all windows.

    Where the held-out windows are the end of the series themselves, the network is trained a second
    time, on all windows and for as many epochs as were best; ``epochs``, ``best_epoch`` and
    ``error`` are those of the first training.
    """
    sets = task.windows
    assert sets is not None
    seed = task.random_state
    if seed is None:
        seed = int(np.random.default_rng().integers(2**31))
    if sets.held_out is None:
        network, record = _train(settings, task, sets.final, None, seed, None)
        student = settings.to_forecaster(network, task.frame)
        return _fitted(task, student, student, record)
    network, record = _train(settings, task, sets.trial, sets.held_out, seed, None)
    trial = settings.to_forecaster(network, task.frame)
    if sets.trial is sets.final:
        return _fitted(task, trial, trial, record)
    network, _ = _train(settings, task, sets.final, None, seed, record.best)
    return _fitted(task, settings.to_forecaster(network, task.frame), trial, record)


def _fitted(task: FitTask, student: object, trial: object, record: Trained) -> Fitted:
    """Return the student with the record of its first training."""
    aligned = _aligns(task.windows)
    return Fitted(
        student,  # type: ignore[arg-type]
        trial,  # type: ignore[arg-type]
        record.best_error,
        task.alignment.named if aligned else None,
        record.epochs,
        record.best,
    )


def _aligns(sets: WindowSets | None) -> bool:
    """Say whether there are hidden states to align with."""
    teacher = None if sets is None else sets.final.teacher
    return teacher is not None and teacher.hidden is not None


def _train(
    settings: NetworkSettings,
    task: FitTask,
    windows: TrainingWindows,
    held_out: TrainingWindows | None,
    seed: int,
    n_epochs: int | None,
) -> tuple[nn.Module, Trained]:
    """Build and train a network, always alike for a seed."""
    choice, alignment = task.choice, task.alignment
    objective = Objective(
        choice.alpha, choice.weights, alignment.weight, task.frame.quantile_levels
    )
    sums = task.trial if held_out is not None and task.holds_out else task.final
    shape = NetworkShape(
        task.frame.chunks.input_chunk_length,
        task.frame.chunks.output_chunk_length,
        windows.n_quantiles,
        windows.scales.sizes(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = settings.make_network(shape)
        exact = settings.start_from(network, lambda: choice.solve(sums))
        aligner, size = None, _hidden_size(network)
        if _aligns(task.windows) and size is not None:
            *_, n_positions, teacher_size = windows.teacher.hidden.shape  # type: ignore[union-attr]
            aligner = make_aligner(alignment.named, size, teacher_size, n_positions)
    record = train(
        network,
        windows,
        objective,
        settings.training,
        held_out,
        aligner,
        seed,
        n_epochs,
        task.verbose,
        _beyond_noise(held_out) if exact and _is_whole(windows) and held_out else np.inf,
    )
    return network, record


def _is_whole(windows: TrainingWindows) -> bool:
    """Say whether the exact student knows and forecasts all that the network does."""
    return windows.n_quantiles == 1 and not any(windows.scales.sizes())


def _beyond_noise(held_out: TrainingWindows) -> float:
    """Return which share of the error at the start training must reach to be believed.

    ``exp(-2 / n)`` for n independent errors: their log-likelihood gains one. Half a held-out window
    of T steps counts as one, and all of them as 100 at most, as where settings are chosen.
    """
    n_steps = held_out.n_target_steps or held_out.chunks.output_chunk_length
    n_windows = len(held_out) * held_out.sources[0].n_components / n_steps
    return float(np.exp(-2.0 / min(max(0.5 * n_windows, 0.5), 100.0)))


def _hidden_size(network: nn.Module) -> int | None:
    """Return the size of the network's hidden states, None if it has none."""
    return getattr(network, "hidden_size", None)
