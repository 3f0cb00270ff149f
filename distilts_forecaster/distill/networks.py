"""Fit a network: gather what is known of each window, train, and wrap the result."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distilts_forecaster.distill.accumulate import held_out_windows
from distilts_forecaster.distill.checkpoints import reserve, training_key
from distilts_forecaster.distill.plan import SeriesPlan, Settings, teacher_contexts
from distilts_forecaster.runtime import Forecaster
from distilts_forecaster.students.alignment import make_aligner
from distilts_forecaster.students.covariates import covariate_scale
from distilts_forecaster.students.forecaster import as_forecaster, build_network
from distilts_forecaster.students.linear import Choice, Linear, WindowSums, solve
from distilts_forecaster.students.networks import MLPNetwork
from distilts_forecaster.students.objective import Objective
from distilts_forecaster.students.training import (
    Trained,
    call_network,
    resolve_device,
    train,
)
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.batches import TeacherArray, TrainingWindows
from distilts_forecaster.windows.cutting import PreparedSeries

__all__ = ["Gathered", "aligns", "fit_network", "gather_windows", "probe"]

#: Positions in the student's lookback at which the teacher's hidden states are aligned.
N_POSITIONS = 8

#: Windows whose hidden states say how large they are.
_WINDOWS_FOR_SCALE = 4096


@dataclass(frozen=True)
class Gathered:
    """Windows to train on and to validate on.

    Attributes
    ----------
    trial : TrainingWindows
        Those used while the number of epochs is chosen.
    final : TrainingWindows
        All.
    held_out : TrainingWindows or None
    """

    trial: TrainingWindows
    final: TrainingWindows
    held_out: TrainingWindows | None


def probe(settings: Settings, first: PreparedSeries) -> int | None:
    """Build the student's network and try it, before anything expensive is done.

    Parameters
    ----------
    settings : Settings
    first : PreparedSeries
        One of the series to fit on: how many components and covariates there are.

    Returns
    -------
    int or None
        Size of the network's hidden states, None if it has none.

    Raises
    ------
    TypeError
        If the user's function does not build a module.
    ValueError
        If there is nothing to train, or forecast or hidden states have the wrong shape, or
        the device is not there.
    """
    assert not isinstance(settings.student, Linear)
    resolve_device(settings.student.training.device)
    length, steps = settings.input_chunk_length, settings.output_chunk_length
    components = first.raw.shape[1]
    n_past, n_future, n_static = _count_covariates(first)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = _build(settings, first).eval()
        _, hidden = call_network(
            network,
            torch.randn(2, length, components),
            (
                torch.randn(2, length, n_past) if n_past else None,
                torch.randn(2, length + steps, n_future) if n_future else None,
                torch.randn(2, components, n_static) if n_static else None,
            ),
            (steps, components, len(settings.head_levels)),
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"{type(network).__name__} has no parameters to train. Is a layer kept in a plain "
            "list? Use torch.nn.ModuleList."
        )
    size = _hidden_size(network)
    if size is not None and (hidden is None or tuple(hidden.shape) != (2, components, size)):
        got = "none" if hidden is None else f"shape {tuple(hidden.shape)}"
        raise ValueError(
            f"{type(network).__name__} has hidden_size={size!r}, so that its forward must return "
            f"(forecast, hidden) with hidden (windows, components, hidden_size) = "
            f"{(2, components, size)}; got {got}."
        )
    return size


def aligns(settings: Settings, labeller: Labeller | None, hidden_size: int | None) -> bool:
    """Say whether hidden states will be aligned, or raise where they were insisted on.

    Parameters
    ----------
    settings : Settings
    labeller : Labeller, optional
    hidden_size : int or None
        Of the student's hidden states, None if it has none.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If an alignment was asked for by name, and teacher or student has no hidden states.
    """
    if settings.alignment is None or settings.alignment_weight == 0 or labeller is None:
        return False
    info = labeller.teacher.info
    insists = settings.alignment != "auto"
    if info.hidden is None and insists:
        raise ValueError(
            f"alignment={settings.alignment!r} needs a teacher with hidden states; "
            f"{info.name!r} has none to show. The bundled teacher and the Chronos family have "
            "some; for a Darts torch model name a module: "
            'DartsTeacher(model, hidden_module="..."). Or set alignment="auto" or None.'
        )
    if hidden_size is None and insists:
        raise ValueError(
            f"alignment={settings.alignment!r} needs a student with hidden states: a network with "
            "the attribute hidden_size whose forward returns (forecast, hidden (B, C, "
            'hidden_size)). Or set alignment="auto" or None.'
        )
    return info.hidden is not None and hidden_size is not None


def _build(settings: Settings, first: PreparedSeries | None = None) -> nn.Module:
    """Build the student's network, with covariates where the series has some."""
    assert not isinstance(settings.student, Linear)
    return build_network(
        settings.student,
        settings.input_chunk_length,
        settings.output_chunk_length,
        len(settings.head_levels),
        _count_covariates(first),
    )


def _hidden_size(network: nn.Module) -> int | None:
    """Return the size of the network's hidden states, None if it has none."""
    return getattr(network, "hidden_size", None)


def _count_covariates(series: PreparedSeries | None) -> tuple[int, int, int]:
    """Return the numbers of past, future and static covariates that the network is given."""
    if series is None:
        return 0, 0, 0
    given = (series.past, series.future, series.static)
    return tuple(0 if c is None else c.shape[1] for c in given)  # type: ignore[return-value]


def gather_windows(
    plans: Sequence[SeriesPlan],
    settings: Settings,
    labels: np.ndarray | None,
    labeller: Labeller | None,
    validation: Sequence[PreparedSeries] | None,
    horizon: int,
) -> Gathered:
    """Give all windows numbers, and ask for hidden states where they will be aligned.

    Parameters
    ----------
    plans : sequence of SeriesPlan
    settings : Settings
    labels : numpy.ndarray of float32, shape (M, T, C, Q), or None
        Of the labelled windows, by series and origin.
    labeller : Labeller, optional
        Who to ask for hidden states; None if they are not aligned.
    validation : sequence of PreparedSeries, optional
        By default the windows that the plans hold out.
    horizon : int
        Steps validated on, 0 if nothing is held out.

    Returns
    -------
    Gathered
    """
    used = [np.flatnonzero(plan.truth | plan.labelled | plan.trial_target) for plan in plans]
    owner = np.concatenate([np.full(len(u), i, np.int32) for i, u in enumerate(used)])

    def of_windows(name: str) -> np.ndarray:
        masks = [getattr(plan, name)[mine] for plan, mine in zip(plans, used, strict=True)]
        return np.concatenate(masks)

    labelled = of_windows("labelled")
    windows = TrainingWindows(
        series=[plan.series for plan in plans],
        input_chunk_length=settings.input_chunk_length,
        output_chunk_length=settings.output_chunk_length,
        output_chunk_shift=settings.output_chunk_shift,
        owner=owner,
        origins=np.concatenate(used).astype(np.int32),
        has_target=of_windows("truth"),
        label_row=np.where(labelled, np.cumsum(labelled) - 1, -1).astype(np.int32),
        labels=labels,
        past_scale=covariate_scale([plan.series.past for plan in plans]),
        future_scale=covariate_scale([plan.series.future for plan in plans]),
        static_scale=covariate_scale([plan.series.static for plan in plans]),
        n_quantiles=len(settings.head_levels),
    )
    if labeller is not None:
        windows = _with_hidden_states(windows, settings, labeller)
    held_out = _held_out(plans, settings, validation, horizon)
    if held_out is not None:
        held_out = replace(
            held_out,
            past_scale=windows.past_scale,
            future_scale=windows.future_scale,
            static_scale=windows.static_scale,
        )
    if held_out is None or validation is not None:
        return Gathered(windows, windows, held_out)
    # Later steps of a trial window's target may be among those that are validated on.
    trial = windows.subset(of_windows("trial_target"), of_windows("trial_labelled"), horizon)
    return Gathered(trial, windows, held_out)


def _held_out(
    plans: Sequence[SeriesPlan],
    settings: Settings,
    validation: Sequence[PreparedSeries] | None,
    horizon: int,
) -> TrainingWindows | None:
    """Return the windows to validate on, None if there are none."""
    if not horizon:
        return None
    found = held_out_windows(plans, validation, settings, horizon)
    series = [one for one, _ in found]
    origins = [np.flatnonzero(mask) for _, mask in found]
    n_windows = sum(len(o) for o in origins)
    if not n_windows:
        return None
    return TrainingWindows(
        series=series,
        input_chunk_length=settings.input_chunk_length,
        output_chunk_length=settings.output_chunk_length,
        output_chunk_shift=settings.output_chunk_shift,
        owner=np.concatenate([np.full(len(o), i, np.int32) for i, o in enumerate(origins)]),
        origins=np.concatenate(origins).astype(np.int32),
        has_target=np.ones(n_windows, dtype=bool),
        label_row=np.full(n_windows, -1, np.int32),
        n_quantiles=len(settings.head_levels),
        n_target_steps=horizon,
    )


def _with_hidden_states(
    windows: TrainingWindows, settings: Settings, labeller: Labeller
) -> TrainingWindows:
    """Ask for the hidden states of all labelled windows."""
    length = settings.input_chunk_length
    n_positions = min(N_POSITIONS, length)
    # The middles of equal parts of the lookback, counted from its end.
    steps = ((np.arange(n_positions) + 0.5) * length / n_positions).astype(int) - length
    rows = np.flatnonzero(windows.has_labels)
    array = TeacherArray(len(rows))
    step = 256
    for owner in np.unique(windows.owner[rows]):
        series = windows.series[owner]
        mine = rows[windows.owner[rows] == owner]
        for start in range(0, len(mine), step):
            origins = windows.origins[mine[start : start + step]]
            contexts = teacher_contexts(series, origins, settings, labeller.teacher.info)
            array.append(labeller.hidden(contexts, steps.tolist(), settings.alignment_dim))
    hidden = array.rows
    sample = hidden[:: max(1, len(hidden) // _WINDOWS_FOR_SCALE)].astype(np.float32)
    mean = sample.mean(axis=(0, 1, 2))
    std = sample.std(axis=(0, 1, 2))
    # A number that never changes says nothing, and must not be divided by what rounding left.
    std = np.where(std > 1e-4 * (np.abs(mean) + std.max()), std, np.inf)
    return replace(
        windows,
        hidden=hidden,
        hidden_mean=mean.astype(np.float32),
        hidden_std=std.astype(np.float32),
    )


def fit_network(
    gathered: Gathered,
    settings: Settings,
    chosen: Choice,
    sums: tuple[WindowSums, WindowSums],
    checkpoints: Path | None = None,
    verbose: bool | None = False,
) -> tuple[Forecaster, Forecaster, dict[str, Any]]:
    """Train the student, stopped early on the held-out windows, then on all windows.

    Where the held-out windows are the end of the series themselves, the student is trained a
    second time, on all windows and for as many epochs as were best.

    Parameters
    ----------
    gathered : Gathered
    settings : Settings
    chosen : Choice
        alpha and the horizon weights; and lambda of the exact solution that the MLP
        starts from.
    sums : tuple of WindowSums
        Of the trial windows, and of all.
    checkpoints : path-like, optional
        A folder: an interrupted training of the same windows and settings goes on from its
        last epoch.
    verbose : bool or None, default False

    Returns
    -------
    student : Forecaster
    judged : Forecaster
        The student as it was while the held-out windows were held out.
    outcome : dict
        The part of the :class:`~distilts_forecaster.distill.pipeline.TrainingSummary` that is known
        here, of the first training.

    Raises
    ------
    ValueError
        If a custom network's output has the wrong shape.
    """
    student = settings.student
    assert not isinstance(student, Linear)
    objective = Objective(
        chosen.alpha, chosen.weights, settings.alignment_weight, settings.head_levels
    )
    split = gathered.trial is not gathered.final
    seed = settings.random_state
    record: Trained | None = None
    stages: list[tuple[TrainingWindows, TrainingWindows | None, WindowSums, str]] = []
    if gathered.held_out is not None:
        stages.append((gathered.trial, gathered.held_out, sums[0], "stopped early"))
    if split or not stages:
        stages.append((gathered.final, None, sums[1], "refit" if stages else "all"))
    with ExitStack() as stack:
        for windows, held_out, gram, name in stages:
            n_epochs = record.best if name == "refit" and record is not None else None
            if seed is None:
                seed = int(np.random.default_rng().integers(2**31))
            network, aligner = _start(windows, settings, objective, chosen.ridge, gram, seed)
            file = None
            if checkpoints is not None:
                key = training_key(windows, held_out, settings, objective, network, n_epochs)
                file = stack.enter_context(reserve(checkpoints, key))
            trained = train(
                network,
                windows,
                objective,
                student.training,
                held_out,
                aligner,
                seed,
                n_epochs,
                file,
                verbose,
            )
            seed = trained.seed
            if record is None:
                record, judged = trained, _wrap(network, settings, windows)
    assert record is not None
    kind = "factorised" if settings.alignment == "auto" else settings.alignment
    outcome = {
        "alignment": None if aligner is None else kind,
        "epochs": record.epochs,
        "best_epoch": record.best,
        "validation_error": record.best_error,
    }
    return _wrap(network, settings, windows), judged, outcome


def _start(
    windows: TrainingWindows,
    settings: Settings,
    objective: Objective,
    ridge: float,
    sums: WindowSums,
    seed: int,
) -> tuple[nn.Module, nn.Module | None]:
    """Build the network and the aligner, always alike for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(settings, windows.series[0])
        if isinstance(network, MLPNetwork):
            alpha_weights = objective.distillation_weight * objective.horizon_weights
            exact = solve(sums, alpha_weights[: sums.cross_target.shape[2]], ridge)
            network.start_from(torch.from_numpy(exact[0]).float())
        aligner = None
        size = _hidden_size(network)
        if windows.hidden is not None and size is not None:
            *_, n_positions, teacher_size = windows.hidden.shape
            kind = "factorised" if settings.alignment == "auto" else str(settings.alignment)
            aligner = make_aligner(kind, size, teacher_size, n_positions)
    return network, aligner


def _wrap(network: nn.Module, settings: Settings, windows: TrainingWindows) -> Forecaster:
    """Return what forecasts."""
    return as_forecaster(
        network,
        settings.student,  # type: ignore[arg-type]
        settings.input_chunk_length,
        settings.output_chunk_length,
        settings.output_chunk_shift,
        settings.head_levels,
        windows.past_scale,
        windows.future_scale,
        windows.static_scale,
        windows.series[0].period,
        settings.nonnegative,
    )
