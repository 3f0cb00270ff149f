"""One training loop for every network: batches in, trained weights and a record out."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from distilts_forecaster.students.settings import Epoch, Training

if TYPE_CHECKING:
    from distilts_forecaster.students.objective import Objective
    from distilts_forecaster.windows.batches import Batch, TrainingWindows

__all__ = ["Trained", "call_network", "resolve_device", "train"]

#: Windows (times components) validated on at once.
_ROWS_PER_FORWARD = 4096

#: The terms of the loss, in the order they are recorded.
_TERMS = ("supervised", "distillation", "alignment")


@dataclass(frozen=True)
class Trained:
    """The record of a training.

    Attributes
    ----------
    epochs : tuple of Epoch
    best : int
        Number of the epoch whose weights were kept.
    best_error : float or None
        Its error on the held-out windows, None without them.
    seed : int
    """

    epochs: tuple[Epoch, ...]
    best: int
    best_error: float | None
    seed: int


def train(
    network: nn.Module,
    windows: TrainingWindows,
    objective: Objective,
    training: Training,
    held_out: TrainingWindows | None = None,
    aligner: nn.Module | None = None,
    seed: int | None = None,
    n_epochs: int | None = None,
    checkpoint: Path | None = None,
    verbose: bool | None = False,
) -> Trained:
    """Train a network in place.

    Parameters
    ----------
    network : torch.nn.Module
        See :mod:`~distilts_forecaster.students.networks` for what it takes and returns. It
        is left on the CPU, in evaluation mode, with the weights of its best epoch (without
        held-out windows, the last).
    windows : TrainingWindows
    objective : Objective
    training : Training
    held_out : TrainingWindows, optional
        To stop early on.
    aligner : torch.nn.Module, optional
        Trained with the network; takes hidden states of student and teacher.
    seed : int, optional
        By default drawn at random.
    n_epochs : int, optional
        Stop after so many, without changing the schedule.
    checkpoint : path-like, optional
        A file to go on from if it is there, written after each epoch. What follows is then
        the same, to the bit, as without the interruption.
    verbose : bool or None, default False
        Progress bar; None shows it on a terminal.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        If the network's forecast has the wrong shape, or the loss is not finite.
    """
    device = resolve_device(training.device)
    modules = nn.ModuleList([network] if aligner is None else [network, aligner]).to(device)
    optimiser = torch.optim.AdamW(
        modules.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    n_windows = min(len(windows), training.max_windows_per_epoch or len(windows))
    if n_windows > 1 and n_windows % training.batch_size == 1:
        n_windows -= 1  # networks that normalise over a batch cannot take one of one window
    n_batches = -(-n_windows // training.batch_size)
    state = _State(seed=_draw() if seed is None else seed)
    state.load(checkpoint, modules, optimiser, device)
    last = training.max_epochs if n_epochs is None else n_epochs
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tqdm(
            total=last * n_batches,
            initial=len(state.epochs) * n_batches,
            desc="training",
            unit="batch",
            disable=None if verbose is None else not verbose,
            leave=False,
        ) as bar,
    ):
        if not state.epochs and held_out is not None:
            state.judge(0, _validate(network, held_out, objective, device), network)
        while len(state.epochs) < last and not state.is_over(training.patience, held_out):
            number = len(state.epochs) + 1
            # From the epoch's number alone: nothing else is needed to go on from a file.
            torch.manual_seed(state.seed + number)
            rng = np.random.default_rng([state.seed, number])
            started = time.perf_counter()
            order = rng.permutation(len(windows))[:n_windows]
            terms, n_done = np.zeros(4), 0
            modules.train()
            for i in range(n_batches):
                chosen = order[i * training.batch_size : (i + 1) * training.batch_size]
                progress = ((number - 1) * n_batches + i) / (training.max_epochs * n_batches)
                rate = _learning_rate(training, progress)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                values = _step(modules, windows, chosen, objective, optimiser, training, device)
                terms += len(chosen) * values
                n_done += len(chosen)
                bar.update()
            error = math.nan
            if held_out is not None:
                error = _validate(network, held_out, objective, device)
            means = [float(term) for term in terms / n_done]
            seconds = time.perf_counter() - started
            state.epochs.append(
                Epoch(number, means[0], means[1], means[2], means[3], error, rate, seconds)
            )
            state.judge(number, error, network)
            state.save(checkpoint, modules, optimiser)
            bar.set_postfix(loss=f"{means[0]:.4f}", validation=f"{error:.4f}")
    network.load_state_dict(state.best_weights or network.state_dict())
    network.to("cpu").eval()
    if state.best_weights is None:
        return Trained(tuple(state.epochs), len(state.epochs), None, state.seed)
    return Trained(tuple(state.epochs), state.best, state.best_error, state.seed)


class _State:
    """How far a training has come; what a checkpoint holds besides weights."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epochs: list[Epoch] = []
        self.best = 0
        self.best_error = math.inf
        self.best_weights: dict[str, Tensor] | None = None

    def judge(self, number: int, error: float, network: nn.Module) -> None:
        """Keep the weights if they are the best so far; without held-out windows, never."""
        if error < self.best_error:
            self.best, self.best_error = number, error
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in network.state_dict().items()
            }

    def is_over(self, patience: int, held_out: object) -> bool:
        """Say whether the error on held-out windows has stopped falling."""
        return held_out is not None and len(self.epochs) - self.best >= patience

    def save(self, path: Path | None, modules: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write a checkpoint, whole or not at all."""
        if path is None:
            return
        content = {
            "modules": modules.state_dict(),
            "optimiser": optimiser.state_dict(),
            "seed": self.seed,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": self.best,
            "best_error": self.best_error,
            "best_weights": self.best_weights,
        }
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            with suppress(OSError):
                part.unlink(missing_ok=True)
            if len(self.epochs) == 1:
                warnings.warn(
                    f"The training cannot be kept in {path.parent} ({error}): an interrupted fit "
                    "will start again. Pass a writable cache_dir, or cache_dir=False.",
                    stacklevel=4,
                )
        except BaseException:  # an interrupt leaves no part of a file
            part.unlink(missing_ok=True)
            raise

    def load(
        self,
        path: Path | None,
        modules: nn.Module,
        optimiser: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        """Go on from a checkpoint, if there is one."""
        if path is None or not path.is_file():
            return
        before = copy.deepcopy((modules.state_dict(), optimiser.state_dict()))
        try:
            content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            epochs = [Epoch(**epoch) for epoch in content["epochs"]]
            modules.load_state_dict(content["modules"])
            optimiser.load_state_dict(content["optimiser"])
            self.seed, self.best = content["seed"], content["best"]
            self.best_error, self.best_weights = content["best_error"], content["best_weights"]
            self.epochs = epochs
        except Exception as error:  # a damaged file fails in many ways
            modules.load_state_dict(before[0])
            optimiser.load_state_dict(before[1])
            warnings.warn(
                f"The interrupted training {path} is damaged ({error}): it starts again.",
                stacklevel=4,
            )
            with suppress(OSError):
                path.unlink()


def _draw() -> int:
    """Draw a seed that torch and NumPy both take."""
    return int(np.random.default_rng().integers(2**31))


def resolve_device(name: str) -> torch.device:
    """Return the device by name; "auto" is a GPU where there is one.

    Parameters
    ----------
    name : str

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'Training(device={name!r}) cannot be used here: {reason} Use device="auto".'
        ) from error
    return torch.device(name)


def _learning_rate(training: Training, progress: float) -> float:
    """Return the rate at a share of all epochs."""
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@contextmanager
def _precision(training: Training, device: torch.device) -> Iterator[None]:
    """Compute products in bfloat16 where that was asked for or pays."""
    wanted = training.precision == "bfloat16" or (
        training.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=wanted):
        yield


def _step(
    modules: nn.ModuleList,
    windows: TrainingWindows,
    chosen: np.ndarray,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    training: Training,
    device: torch.device,
) -> np.ndarray:
    """Take one step; return total, supervised, distillation and alignment."""
    batch = windows.batch(chosen)
    with _precision(training, device):
        forecast, hidden = _forecast(modules[0], batch, device, windows)
    steps = windows.n_target_steps
    truth = torch.from_numpy(batch.truth).to(device, non_blocking=True)
    losses = objective.supervised(forecast[:, :steps], truth[:, :steps])
    terms = {"supervised": _mean_of_known(losses, windows.has_target, chosen)}
    if batch.labels is not None:
        losses = objective.distillation(forecast, _tensor(batch.labels, device))
        terms["distillation"] = _mean_of_known(losses, windows.has_labels, chosen)
    if len(modules) > 1 and batch.hidden is not None and hidden is not None:
        known = torch.from_numpy(windows.has_labels[chosen]).to(device)
        losses = hidden.new_zeros(len(chosen), dtype=torch.float32)
        if known.any():
            theirs = _tensor(batch.hidden, device)[known]
            losses[known] = modules[1](hidden.float()[known], theirs)
        terms["alignment"] = _mean_of_known(losses, windows.has_labels, chosen)
    total = objective.total(**terms)
    if not torch.isfinite(total):
        raise ValueError(
            f"The training loss became {float(total.detach())}: the learning rate "
            f"{training.learning_rate:g} may be too high, or the network's forecast not finite."
        )
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(modules.parameters(), training.gradient_clip)
    optimiser.step()
    values = {name: float(term.detach()) for name, term in terms.items()}
    return np.array([float(total.detach()), *(values.get(name, math.nan) for name in _TERMS)])


def _mean_of_known(losses: Tensor, known: np.ndarray, chosen: np.ndarray) -> Tensor:
    """Return the batch's share of the mean over all windows for which the loss is known.

    Divided by the number of known windows expected in a batch of this size, not by those
    that it happens to hold: the mean over batches is the mean over windows.
    """
    mask = torch.from_numpy(known[chosen]).to(losses.device)
    share = max(float(known.mean()), 1.0 / len(known))
    return torch.where(mask, losses, torch.zeros_like(losses)).sum() / (share * len(chosen))


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Move an array to the device, 0 where unknown: unknown windows are masked out later."""
    return torch.nan_to_num(torch.from_numpy(array)).to(device, non_blocking=True)


def call_network(
    network: nn.Module,
    context: Tensor,
    covariates: Sequence[Tensor | None],
    shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor | None]:
    """Forecast, with covariates where there are some.

    Parameters
    ----------
    network : torch.nn.Module
    context : Tensor, shape (B, L, C)
    covariates : sequence of Tensor or None
        Past (B, L, P), future (B, L + T, F) and static (B, C, S).
    shape : tuple of int
        T, C and Q that the forecast has to have.

    Returns
    -------
    forecast : Tensor of float32, shape (B, T, C, Q)
        On the scale of ``context``.
    hidden : Tensor, shape (B, C, d), or None

    Raises
    ------
    ValueError
        If the forecast has another shape.
    """
    takes_covariates = any(c is not None for c in covariates)
    answer = network(context, *covariates) if takes_covariates else network(context)
    forecast, hidden = answer if isinstance(answer, tuple) else (answer, None)
    if forecast.ndim == 3:
        forecast = forecast[..., None]
    expected = (len(context), *shape)
    if tuple(forecast.shape) != expected:
        raise ValueError(
            f"The network returned a forecast of shape {tuple(forecast.shape)}, expected (windows, "
            f"steps, components, quantiles) = {expected}."
        )
    return forecast.float(), hidden


def _forecast(
    network: nn.Module, batch: Batch, device: torch.device, windows: TrainingWindows
) -> tuple[Tensor, Tensor | None]:
    """Forecast a batch on the scale of errors."""
    given = (batch.past, batch.future, batch.static)
    covariates = [None if c is None else _tensor(c, device) for c in given]
    shape = (windows.output_chunk_length, batch.context.shape[2], windows.n_quantiles)
    forecast, hidden = call_network(network, _tensor(batch.context, device), covariates, shape)
    return forecast * _tensor(batch.ratio, device)[..., None], hidden


def _validate(
    network: nn.Module, held_out: TrainingWindows, objective: Objective, device: torch.device
) -> float:
    """Return the error on held-out windows in units of the series' own std."""
    network.eval()
    step = max(1, _ROWS_PER_FORWARD // held_out.series[0].raw.shape[1])
    steps = held_out.n_target_steps
    total, n_known = 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(held_out), step):
            chosen = np.arange(start, min(start + step, len(held_out)))
            batch = held_out.batch(chosen)
            forecast, _ = _forecast(network, batch, device, held_out)
            std = _tensor(batch.std, device)
            truth = torch.from_numpy(batch.truth).to(device)[:, :steps] * std
            losses = objective.supervised(forecast[:, :steps] * std[..., None], truth)
            total += float(losses.double().sum())
            n_known += float(torch.isfinite(truth).double().mean((1, 2)).sum())
    return total / max(n_known, 1e-9)
