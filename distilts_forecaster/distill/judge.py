"""The last stage: compare the student with what it must beat, and sum up what happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from distilts_forecaster.distill.accumulate import Material
from distilts_forecaster.distill.plan import Plan, resolve_teacher_context
from distilts_forecaster.distill.select import steepness
from distilts_forecaster.distill.teacher_ensemble import EnsembleLabeller
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.info import Chosen, FitFacts, ValidationErrors, WindowCounts
from distilts_forecaster.settings import Settings
from distilts_forecaster.students.base import Choice, Epoch, Fitted
from distilts_forecaster.teachers.base import TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.naive import USUAL_SEASONS, repeat_season
from distilts_forecaster.windows.source import WindowSource

__all__ = ["TrainingSummary", "advise", "naive_error", "summarise"]

#: Labels whose last doubling moved the forecasts by more would move them on.
_STILL_MOVES = 0.0025

#: Held-out windows, or up to twice as many, that the naive error is measured on.
_NAIVE_WINDOWS = 2000


@dataclass(frozen=True)
class TrainingSummary:
    """What happened in ``fit``.

    Attributes
    ----------
    windows : WindowCounts
        Windows seen, skipped, labelled, found in the cache, and not asked for.
    chosen : Chosen
        Settings, as given or chosen.
    errors : ValidationErrors
        On held-out windows: student, the same without a teacher, teacher, naive.
    teacher : str or None
        Identity of the teacher, None if there was none.
    teacher_licence : str or None
        Licence of the teacher's weights, None where unknown.
    teacher_weights : tuple of tuple of float, or None
        Of an ensemble: the weight of each teacher, at each step.
    epochs : tuple of Epoch
        For students trained by gradient: each term of the loss, and the held-out error,
        epoch by epoch (``pandas.DataFrame(summary.epochs)`` is a table). Of the training that
        was stopped early, not of the one on all windows that may follow.
    seconds : dict of str to float
        Time for each stage: ``"teacher"``, ``"sums"`` (windows, cache and Gram sums),
        ``"choice"``, ``"solve"`` or ``"training"``.
    """

    windows: WindowCounts
    chosen: Chosen
    errors: ValidationErrors
    teacher: str | None = None
    teacher_licence: str | None = None
    teacher_weights: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    epochs: tuple[Epoch, ...] = field(default=(), repr=False)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def fidelity(self) -> float | None:
        """The student's held-out error over the teacher's; None where one is not known.

        The teacher's is measured on those held-out windows that it labelled.
        """
        student, teacher = self.errors.student, self.errors.teacher
        return student / teacher if student is not None and teacher else None

    @property
    def verdict(self) -> str:
        """How the student compares with what it must beat, in words."""
        errors, told = self.errors, []
        if errors.student is None:
            return "Nothing is held out, so the student is not compared with anything."
        naive = f"repeating the last {errors.naive_season} steps"
        if errors.naive_season == 1:
            naive = "repeating the last value"
        rivals = (
            ("the teacher", errors.teacher),
            ("the exact student without a teacher", errors.without_teacher),
            (naive, errors.naive),
        )
        known = [(error, name) for name, error in rivals if error is not None]
        for error, name in known:
            if error > 0:
                told.append(f"{errors.student / error:.2f} times that of {name}")
            elif errors.student > 0:
                told.append(f"more than that of {name}, which is zero")
            else:
                told.append(f"zero, as that of {name} is")
        said = f"On held-out windows the student's error is {', '.join(told)}." if told else ""
        best, name = min(known, default=(np.inf, ""))
        if best < 0.95 * errors.student:
            said += f" {name[0].upper()}{name[1:]} is better there."
        return said

    @property
    def facts(self) -> FitFacts:
        """What a saved student keeps of the summary."""
        return FitFacts(self.windows, self.chosen, self.errors)


def summarise(
    plan: Plan,
    material: Material,
    choice: Choice,
    fitted: Fitted,
    labeller: Labeller | None,
    n_windows: int,
    seconds: dict[str, float],
) -> TrainingSummary:
    """Sum up what happened, with the errors of what the student must beat.

    ``n_windows`` are those of all series, missing values or not.
    """
    naive, season = naive_error(plan)
    settings, teacher_error = plan.settings, material.teacher_error
    info = None if labeller is None else labeller.teacher.info
    error = fitted.error
    if len(settings.central_levels) > 1:  # a network was stopped by its pinball loss
        error = held_out_error(plan, fitted.trial)
    weights = None
    if isinstance(labeller, EnsembleLabeller):
        chosen = labeller.step_weights[settings.output_chunk_shift :]
        weights = tuple(map(tuple, chosen.tolist()))
    return TrainingSummary(
        windows=WindowCounts(
            seen=plan.n_targets,
            skipped=n_windows - plan.n_targets,
            labelled=labeller.n_labelled if labeller else 0,
            from_cache=labeller.n_from_cache if labeller else 0,
            unlabelled=plan.n_labellable - plan.n_labels,
            labels_moved=plan.labels_moved,
        ),
        chosen=Chosen(
            distillation_weight=float(choice.alpha),
            tau=steepness(settings, choice.weights),
            horizon_weights=tuple(float(w) for w in choice.weights),
            ridge=float(choice.ridge),
            prior=choice.prior.name,
            pooling=None if np.isinf(choice.pooling) else float(choice.pooling),
            alignment=fitted.alignment,
            best_epoch=fitted.best_epoch,
        ),
        errors=ValidationErrors(
            horizon=plan.horizon,
            student=error,
            without_teacher=choice.error_without_teacher,
            teacher=material.teacher_validation_error,
            naive=naive,
            naive_season=season,
            teacher_everywhere=None if teacher_error is None else float(teacher_error.mean()),
        ),
        teacher=None if info is None else info.identity,
        teacher_licence=None if info is None else info.licence,
        teacher_weights=weights,
        epochs=fitted.epochs,
        seconds=seconds,
    )


def advise(summary: TrainingSummary, settings: Settings, info: TeacherInfo) -> str:
    """Say what to do about a student that is worse than its teacher."""
    errors, windows = summary.errors, summary.windows
    advice = []
    moved, limit = windows.labels_moved, settings.teaching.time_limit
    if windows.unlabelled and (moved is None or moved > _STILL_MOVES):
        cost = summary.seconds["teacher"] / max(windows.labelled, 1)
        advice.append(
            f"ask for more labels ({windows.unlabelled} windows are unlabelled, at "
            f"{1000 * cost:.1f} ms each): label_budget=None"
            + ("" if limit is None else ", time_limit=None")
        )
    seen = resolve_teacher_context(settings, info)
    if seen > settings.input_chunk_length and errors.horizon == settings.output_chunk_length:
        advice.append(f"let it look further back, as the teacher does: input_chunk_length={seen}")
    if settings.student.is_matrix:
        advice.append('try a student that is not linear: student="mlp"')
    alone = errors.without_teacher
    if alone is not None and errors.student is not None and alone < errors.student:
        advice.append("fit it without the teacher: distillation_weight=0")
    advice.append(f"or forecast with the teacher itself: load_teacher({info.name!r})")
    return "; ".join(advice)


def _held_out_windows(
    plan: Plan, every: int = 1
) -> Iterator[tuple[WindowSource, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield held-out windows, one in ``every``: source, origins, contexts, targets."""
    length, shift = plan.settings.input_chunk_length, plan.settings.output_chunk_shift
    for source, mask in plan.held_out:
        for origins in iterate_chunks(np.flatnonzero(mask)[::every], source.n_components):
            contexts, unknown = source.filled_contexts(origins, length)
            yield (
                source,
                origins,
                contexts,
                source.known_targets(origins, plan.horizon, shift, unknown),
            )


def held_out_error(plan: Plan, student: Forecaster) -> float | None:
    """Return a student's mean squared error on held-out windows, in units of each series' variance.

    Of its median, if it forecasts quantiles. None where nothing is held out.
    """
    median, total, count = plan.settings.central_levels.index(0.5), 0.0, 0
    for source, origins, contexts, targets in _held_out_windows(plan):
        covariates = source.window_covariates(origins, plan.settings.chunks)
        scaled = student.divided_by(source.std)
        made = scaled.central_forecast(contexts.astype(np.float64), covariates)
        missed = made[:, : plan.horizon, :, median] - targets
        total += float(np.nansum(missed**2))
        count += int(np.isfinite(missed).sum())
    return total / count if count else None


def naive_error(plan: Plan) -> tuple[float | None, int | None]:
    """Return the error of the best naive forecast on held-out windows, and the season it repeats.

    The best repeats the last value or season, with the smallest mean squared error in units of each
    series' variance, on some thousand windows at most, evenly spaced. None twice where nothing is
    held out.
    """
    length, shift = plan.settings.input_chunk_length, plan.settings.output_chunk_shift
    every = max(1, sum(int(mask.sum()) for _, mask in plan.held_out) // _NAIVE_WINDOWS)
    seasons = [season for season in USUAL_SEASONS if season <= length]
    totals, count = np.zeros(len(seasons)), 0
    for _, _, contexts, targets in _held_out_windows(plan, every):
        targets = targets.astype(np.float64)
        for i, season in enumerate(seasons):
            made = repeat_season(contexts, season, plan.horizon, shift)
            totals[i] += np.nansum((made - targets) ** 2)
        count += int(np.isfinite(targets).sum())
    best = int(np.argmin(totals))
    return (float(totals[best]) / count, seasons[best]) if count else (None, None)
