"""One training loop for every network: batches in, trained weights and a record out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from distilts_forecaster.students.base import Epoch, Training
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

    ``best`` is the number of the epoch whose weights were kept, ``best_error`` its error on the
    held-out windows, None without them.
    """

    epochs: tuple[Epoch, ...]
    best: int
    best_error: float | None


def train(
    network: nn.Module,
    windows: TrainingWindows,
    objective: Objective,
    training: Training,
    held_out: TrainingWindows | None = None,
    aligner: nn.Module | None = None,
    seed: int = 0,
    n_epochs: int | None = None,
    verbose: bool | None = False,
    most_of_start: float = math.inf,
) -> Trained:
    """Train a network in place.

    See :mod:`~distilts_forecaster.students.networks` for what it takes and returns. It is left on
    the CPU, in evaluation mode, with the weights of its best epoch on ``held_out`` (without
    held-out windows, the last); or as it started, unless the best error is at most
    ``most_of_start`` times that at the start. The aligner, which takes hidden states of student and
    teacher, is trained with it. ``n_epochs`` stops without changing the schedule; ``verbose=None``
    shows progress on a terminal. ValueError if the network's forecast has the wrong shape, or the
    loss is not finite.
    """
    run = _Run(network, aligner, windows, objective, training)
    best = _Best()
    epochs: list[Epoch] = []
    last = training.max_epochs if n_epochs is None else n_epochs
    with (
        torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []),
        tqdm(
            total=last * run.n_batches,
            desc="training",
            unit="batch",
            disable=None if verbose is None else not verbose,
            leave=False,
        ) as bar,
    ):
        if held_out is not None:
            best.judge(0, _validate(network, held_out, objective, run.device), network)
        while len(epochs) < last and not (
            held_out is not None and len(epochs) - best.number >= training.patience
        ):
            number, started = len(epochs) + 1, time.perf_counter()
            means, rate = run.epoch(number, seed, bar.update)
            error = math.nan
            if held_out is not None:
                error = _validate(network, held_out, objective, run.device)
            total, supervised, distillation, alignment = means
            seconds = time.perf_counter() - started
            epochs.append(
                Epoch(number, total, supervised, distillation, alignment, error, rate, seconds)
            )
            best.judge(number, error, network)
            bar.set_postfix(loss=f"{means[0]:.4f}", validation=f"{error:.4f}")
    if best.error > most_of_start * best.start_error:
        best.number, best.error, best.weights = 0, best.start_error, best.start
    if best.weights is not None:
        network.load_state_dict(best.weights)
    network.to("cpu").eval()
    if best.weights is None:
        return Trained(tuple(epochs), len(epochs), None)
    return Trained(tuple(epochs), best.number, best.error)


class _Best:
    """The best epoch so far, with its weights; and the network before training."""

    def __init__(self) -> None:
        self.number = 0
        self.error = self.start_error = math.inf
        self.weights: dict[str, Tensor] | None = None
        self.start: dict[str, Tensor] | None = None

    def judge(self, number: int, error: float, network: nn.Module) -> None:
        """Keep the weights if they are the best so far; without held-out windows, never."""
        if error < self.error:
            self.number, self.error = number, error
            self.weights = {
                name: value.detach().cpu().clone() for name, value in network.state_dict().items()
            }
        if number == 0:
            self.start_error, self.start = error, self.weights


class _Run:
    """A training: modules, optimiser, and how windows become batches."""

    def __init__(
        self,
        network: nn.Module,
        aligner: nn.Module | None,
        windows: TrainingWindows,
        objective: Objective,
        training: Training,
    ) -> None:
        self.windows, self.objective, self.training = windows, objective, training
        self.device = resolve_device(training.device)
        modules = [network] if aligner is None else [network, aligner]
        self.modules = nn.ModuleList(modules).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.modules.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        n_windows = min(len(windows), training.max_windows_per_epoch or len(windows))
        if n_windows > 1 and n_windows % training.batch_size == 1:
            n_windows -= 1  # networks that normalise over a batch cannot take one of one window
        self.n_windows = n_windows
        self.n_batches = -(-n_windows // training.batch_size)

    def epoch(
        self, number: int, seed: int, on_batch: Callable[[], object]
    ) -> tuple[list[float], float]:
        """Train for one epoch; return the means of loss and terms, and the last learning rate."""
        torch.manual_seed(seed + number)
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(self.windows))[: self.n_windows]
        size, rate = self.training.batch_size, self.training.learning_rate
        terms, n_done = np.zeros(1 + len(_TERMS)), 0
        self.modules.train()
        for i in range(self.n_batches):
            chosen = order[i * size : (i + 1) * size]
            done = (number - 1) * self.n_batches + i
            rate = _learning_rate(self.training, done / (self.training.max_epochs * self.n_batches))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            terms += len(chosen) * self._step(chosen)
            n_done += len(chosen)
            on_batch()
        return [float(term) for term in terms / n_done], rate

    def _step(self, chosen: np.ndarray) -> np.ndarray:
        """Take one step; return total, supervised, distillation and alignment."""
        batch, windows, device = self.windows.batch(chosen), self.windows, self.device
        with _precision(self.training, device):
            forecast, hidden = _forecast(self.modules[0], batch, device, windows)
        total, values = self._loss(batch, chosen, forecast, hidden)
        if not torch.isfinite(total):
            raise ValueError(
                f"The training loss became {float(total.detach())}: the learning rate "
                f"{self.training.learning_rate:g} may be too high, or the network's forecast not "
                "finite."
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.training.gradient_clip)
        self.optimiser.step()
        return np.array([float(total.detach()), *(values.get(name, math.nan) for name in _TERMS)])

    def _loss(
        self, batch: Batch, chosen: np.ndarray, forecast: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and the value of each of its terms."""
        windows, device = self.windows, self.device
        steps = windows.n_target_steps
        target = torch.from_numpy(batch.target).to(device, non_blocking=True)
        losses = self.objective.supervised(forecast[:, :steps], target[:, :steps])
        losses = losses * torch.from_numpy(batch.weight).to(device)
        terms = {"supervised": _mean_of_known(losses, windows.has_target, chosen)}
        if batch.labels is not None:
            losses = self.objective.distillation(forecast, _tensor(batch.labels, device))
            terms["distillation"] = _mean_of_known(losses, windows.has_labels, chosen)
        if len(self.modules) > 1 and batch.hidden is not None and hidden is not None:
            known = torch.from_numpy(windows.has_labels[chosen]).to(device)
            losses = hidden.new_zeros(len(chosen), dtype=torch.float32)
            if known.any():
                theirs = _tensor(batch.hidden, device)[known]
                losses[known] = self.modules[1](hidden.float()[known], theirs)
            terms["alignment"] = _mean_of_known(losses, windows.has_labels, chosen)
        values = {name: float(term.detach()) for name, term in terms.items()}
        return self.objective.total(**terms), values


def resolve_device(name: str) -> torch.device:
    """Return the device by name ("auto": a GPU where there is one); ValueError without it."""
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
    """Forecast (B, L, C) -> (B, T, C, Q) float32, with hidden states (B, C, d) or None.

    Covariates are past (B, L, P), future (B, L + T, F) and static (B, C, S), or None. ValueError if
    the forecast has another shape than (B, *shape).
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
    given = batch.covariates.by_kind()
    covariates = [None if c is None else _tensor(c, device) for c in given]
    steps = windows.chunks.output_chunk_length
    shape = (steps, batch.context.shape[2], windows.n_quantiles)
    forecast, hidden = call_network(network, _tensor(batch.context, device), covariates, shape)
    return forecast * _tensor(batch.ratio, device)[..., None], hidden


def _validate(
    network: nn.Module, held_out: TrainingWindows, objective: Objective, device: torch.device
) -> float:
    """Return the error on held-out windows in units of the series' own std."""
    network.eval()
    step = max(1, _ROWS_PER_FORWARD // held_out.sources[0].n_components)
    steps = held_out.n_target_steps
    total, n_known = 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(held_out), step):
            chosen = np.arange(start, min(start + step, len(held_out)))
            batch = held_out.batch(chosen)
            forecast, _ = _forecast(network, batch, device, held_out)
            std = _tensor(batch.soft_std, device)
            target = torch.from_numpy(batch.target).to(device)[:, :steps] * std
            losses = objective.supervised(forecast[:, :steps] * std[..., None], target)
            total += float(losses.double().sum())
            n_known += float(torch.isfinite(target).double().mean((1, 2)).sum())
    return total / max(n_known, 1e-9)
