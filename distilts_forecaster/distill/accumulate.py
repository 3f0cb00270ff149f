"""One pass over all windows: teacher labels, and the sums that exact students are solved from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilts_forecaster.distill.incremental import BLOCK, WarmStart
from distilts_forecaster.distill.label import teacher_labels
from distilts_forecaster.distill.plan import Plan, SourcePlan, resolve_teacher_context
from distilts_forecaster.settings import Settings
from distilts_forecaster.students.base import Choice
from distilts_forecaster.students.sums import HeldOut, WindowSums
from distilts_forecaster.teachers.labels import Labeller, Progress, ignore
from distilts_forecaster.windows.batches import TeacherArray
from distilts_forecaster.windows.cutting import iterate_chunks
from distilts_forecaster.windows.scaling import NormalisedWindows, normalise_contexts, to_rows
from distilts_forecaster.windows.source import WindowSource

__all__ = [
    "Material",
    "Totals",
    "accumulate",
    "cut",
    "impute_targets",
    "sum_held_out",
    "sum_windows",
]

#: Most passes over windows with missing targets; see :func:`impute_targets`.
_MOST_PASSES = 10

#: Most rows with missing targets to validate on, evenly spaced.
_MOST_PARTIAL_ROWS = 2000


@dataclass(frozen=True)
class Material:
    """What students are fitted to, and settings chosen on.

    Attributes
    ----------
    trial, final
        Of the windows used while settings are chosen, and of all.
    held_out
        None if nothing is held out.
    teacher_error : shape (T,)
        The teacher's mean squared error at each step, on the windows with a target.
    teacher_validation_error
        The same on the held-out windows, over the steps validated on.
    labels
        The labels themselves, if ``keep`` was given.
    """

    trial: WindowSums
    final: WindowSums
    held_out: HeldOut | None
    teacher_error: np.ndarray | None
    teacher_validation_error: float | None
    labels: TeacherArray | None = None


class Totals:
    """What is summed over windows, so far."""

    def __init__(self, plan: Plan) -> None:
        steps, horizon = plan.settings.output_chunk_length, plan.horizon
        self.trial = empty_sums(plan, horizon or steps)
        self.other = empty_sums(plan, steps)
        # Where trial windows have whole targets, the rest is summed apart and added.
        self.shared = bool(horizon) and horizon == steps
        self.squared_error, self.n_errors = np.zeros(steps), np.zeros(steps)
        self.held_out = np.zeros(2)  # squared error of the teacher, and number of values

    def add(self, block: Totals) -> None:
        """Add what was summed over other windows."""
        self.trial, self.other = self.trial + block.trial, self.other + block.other
        self.squared_error = self.squared_error + block.squared_error
        self.n_errors = self.n_errors + block.n_errors
        self.held_out = self.held_out + block.held_out

    @property
    def trial_sums(self) -> WindowSums:
        """The sums to compare students by: of the trial windows, or of all."""
        return self.trial if self.trial.n_target else self.other

    def share_moved(self, before: np.ndarray, after: np.ndarray) -> float:
        """Return how far forecasts moved between two solutions (F, T), over their squared error.

        On the windows that were fitted on, which are like those held out and at hand.
        """
        pooled = self.trial_sums.pooled(np.inf)
        gram, cross = pooled.gram_target[0], pooled.cross_target[0]
        moved = np.vdot(after - before, gram @ (after - before))
        error = np.vdot(after, gram @ after - 2.0 * cross) + pooled.power_target.sum()
        return float(moved / max(error, 1e-12))

    def material(self, plan: Plan, labels: TeacherArray | None = None) -> Material:
        """Return what students are fitted to."""
        final = self.trial + self.other if self.shared else self.other
        return Material(self.trial, final, sum_held_out(plan), *_teacher_errors(self), labels)


def accumulate(
    plan: Plan,
    labeller: Labeller | None,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
    warm: WarmStart | None = None,
    progress: Progress = ignore,
) -> Material:
    """Sum over all windows in one pass, and keep labels (n, T, C, Q) as ``keep`` returns them.

    Without a labeller there is no teacher. Blocks that were summed before are found in ``warm``.
    ``progress`` is called with the number of windows labelled.
    """
    totals = Totals(plan)
    labels = None if keep is None or labeller is None else TeacherArray(plan.n_labels)
    for index, one in enumerate(plan.sources):
        whole = slice(0, one.source.n_origins)
        if warm is None or labels is not None:

            def on_labels(origins: np.ndarray, made: np.ndarray, owner: int = index) -> None:
                if labels is not None and keep is not None:
                    labels.append(owner, origins, keep(made))

            _sum_span(totals, plan, one, whole, labeller, on_labels, progress)
            continue
        for start in range(0, whole.stop, BLOCK):
            span = slice(start, min(start + BLOCK, whole.stop))

            def make(one: SourcePlan = one, span: slice = span) -> Totals:
                block = Totals(plan)
                _sum_span(block, plan, one, span, labeller, None, progress)
                return block

            if any(mask[span].any() for mask in one.used):
                totals.add(warm.recall(_content(plan, one, span, labeller), make))
    if warm is not None:
        warm.tidy()
    return totals.material(plan, labels)


def sum_windows(
    totals: Totals, plan: Plan, labeller: Labeller | None, progress: Progress = ignore
) -> None:
    """Add the windows of a plan to the totals."""
    for one in plan.sources:
        whole = slice(0, one.source.n_origins)
        _sum_span(totals, plan, one, whole, labeller, None, progress)


def _teacher_errors(totals: Totals) -> tuple[np.ndarray | None, float | None]:
    """Return the teacher's mean squared error by step, and on the held-out windows."""
    n_errors, squared_error = totals.n_errors, totals.squared_error
    if not n_errors.any():
        return None, None
    # A step without any known target gets the mean error.
    mean = squared_error.sum() / n_errors.sum()
    by_step = np.where(n_errors > 0, squared_error / np.maximum(n_errors, 1), mean)
    power, n_held_out = totals.held_out
    return by_step, float(power / n_held_out) if n_held_out else None


def _content(plan: Plan, one: SourcePlan, span: slice, labeller: Labeller | None) -> list[Any]:
    """Return all that the sums over a span of origins depend on."""
    source, settings = one.source, plan.settings
    length = settings.input_chunk_length
    asked = None
    if labeller is not None:
        length = max(length, resolve_teacher_context(settings, labeller.teacher.info))
        weights = getattr(labeller, "step_weights", None)  # of an ensemble
        chosen = None if weights is None else weights.tobytes()
        asked = (labeller.identity, labeller.quantile_levels, length, chosen)
    masks = [mask[span] for mask in (*one.used, one.validation)]
    weight = [] if source.weight is None else [source.weight[span]]
    kind = type(source).__name__
    described = (settings.chunks, plan.horizon, asked, source.period, kind, settings.student)
    values = source.content(span, length, settings.chunks.target_stop)
    return [described, *values, *masks, *weight]


def _sum_span(
    totals: Totals,
    plan: Plan,
    one: SourcePlan,
    span: slice,
    labeller: Labeller | None,
    on_labels: Callable[[np.ndarray, np.ndarray], object] | None,
    progress: Progress,
) -> None:
    """Add the windows of a span of origins."""
    source, settings = one.source, plan.settings
    steps, n_components = settings.output_chunk_length, source.n_components
    chosen = span.start + np.flatnonzero(np.logical_or.reduce([mask[span] for mask in one.used]))
    for origins in iterate_chunks(chosen, n_components):
        target, labelled, trial_target, trial_labelled = (mask[origins] for mask in one.used)
        windows, targets = cut(source, origins, settings, steps)
        labels = None
        if labeller is not None and labelled.any():
            asked = origins[labelled]
            made = teacher_labels(source, asked, settings, labeller, progress)
            if on_labels is not None:
                on_labels(asked, made)
            labels = np.full_like(targets, np.nan)
            labels[np.repeat(labelled, n_components)] = to_rows(made[..., labeller.median])
            labels = windows.normalise_targets(labels)
            kept = np.zeros(len(origins), bool)
            kept[labelled] = np.isfinite(made).all(axis=(1, 2, 3))
            labelled, trial_labelled = labelled & kept, trial_labelled & kept
            error = ((labels - targets) * windows.scale).astype(np.float64)
            both = np.repeat(target & labelled, n_components)
            totals.squared_error += np.nansum(error[both] ** 2, axis=0)
            totals.n_errors += np.isfinite(error[both]).sum(axis=0)
            held_out = np.repeat(one.validation[origins] & labelled, n_components)
            error = error[held_out, : plan.horizon]
            totals.held_out += np.nansum(error**2), np.isfinite(error).sum()
        weight = _row_weights(source, origins)
        if plan.horizon:
            _add(totals.trial, windows, targets, labels, trial_target, trial_labelled, weight)
        if totals.shared:
            target, labelled = target & ~trial_target, labelled & ~trial_labelled
        _add(totals.other, windows, targets, labels, target, labelled, weight)


def _row_weights(source: WindowSource, origins: np.ndarray) -> np.ndarray | None:
    """Return the weight of each row (window and component); None where all count alike."""
    if source.weight is None:
        return None
    return np.repeat(source.weight[origins], source.n_components).astype(np.float32)


def cut(
    source: WindowSource, origins: np.ndarray, settings: Settings, n_steps: int
) -> tuple[NormalisedWindows, np.ndarray]:
    """Cut and normalise windows: their contexts, gaps filled, and targets (n * C, n_steps).

    Targets are NaN where missing, or where nothing is known of the context.
    """
    contexts, unknown = source.filled_contexts(origins, settings.input_chunk_length)
    windows = normalise_contexts(contexts)
    targets = source.known_targets(origins, n_steps, settings.output_chunk_shift, unknown)
    return windows, windows.normalise_targets(to_rows(targets))


def _add(
    sums: WindowSums,
    windows: NormalisedWindows,
    targets: np.ndarray,
    labels: np.ndarray | None,
    has_target: np.ndarray,
    labelled: np.ndarray,
    weight: np.ndarray | None,
) -> None:
    """Add a chunk's windows, in groups by what is known of each."""
    steps = sums.cross_target.shape[2]
    n_components = len(targets) // len(has_target)
    for group, with_target, with_label in (
        (has_target & labelled, True, True),
        (has_target & ~labelled, True, False),
        (~has_target & labelled, False, True),
    ):
        if not group.any():
            continue
        rows = slice(None) if group.all() else np.repeat(group, n_components)
        sums.add(
            windows.features[rows],
            targets[rows, :steps] if with_target else None,
            labels[rows, :steps] if with_label and labels is not None else None,
            None if weight is None else weight[rows],
        )


def impute_targets(
    sums: WindowSums,
    plan: Plan,
    mask: str,
    choice: Choice,
) -> WindowSums:
    """Impute missing targets, so that solving the sums fits the observed targets alone.

    All steps share the Gram matrix of all windows. A missing target that is set to the student's
    own forecast has no error. So fitting and imputing in turn (expectation maximisation) leads to
    the least-squares solution of the observed targets. Each pass multiplies the distance to it by
    the share of missing targets. Ten passes are made at most: the weights are then within 0.3 % of
    it with half of the targets missing, within a half with four fifths missing, and forecasts are
    no worse.

    ``sums`` have zeros for missing targets, ``mask`` names the windows that were summed ("target"
    or "trial_target"). Complete sums stay as they are.
    """
    known = sums.known_target / max(sums.n_target, 1e-12)
    if (known >= 1 - 1e-9).all() or not sums.n_target:
        return sums
    observed = sums.cross_target
    imputed = sums * 1.0
    # As if missing targets were like the others: a good start.
    imputed.cross_target = observed / np.maximum(known, 1e-3)[:, None]
    fit = choice.solver(imputed)
    weights = fit(imputed)
    for _ in range(_MOST_PASSES):
        imputed.cross_target = observed + _expected_missing(observed, plan, mask, weights)
        before, weights = weights, fit(imputed)
        if np.abs(weights - before).max() <= 1e-3 * np.abs(weights).max():
            break
    return imputed


def _expected_missing(
    observed: np.ndarray, plan: Plan, mask: str, weights: np.ndarray
) -> np.ndarray:
    """Return the cross products (K, F, T) of missing targets set to the student's forecasts."""
    missing = np.zeros_like(observed)
    n_matrices, _, steps = observed.shape
    for source, chosen in plan.of(mask):
        if not source.has_gaps:
            continue
        for part in iterate_chunks(np.flatnonzero(chosen), source.n_components):
            windows, targets = cut(source, part, plan.settings, steps)
            unknown = np.isnan(targets)
            partial = unknown.any(axis=1)
            weight = _row_weights(source, part)
            for k in range(n_matrices):
                rows = np.flatnonzero(partial[k::n_matrices]) * n_matrices + k
                features = windows.features[rows]
                made = features @ weights[k % len(weights)].astype(np.float32)
                if weight is not None:
                    made *= weight[rows, None]
                missing[k] += features.T @ np.where(unknown[rows], made, np.float32(0.0))
    return missing


def sum_held_out(plan: Plan) -> HeldOut | None:
    """Sum over the held-out windows; None if there are none.

    Errors count in units of each series' standard deviation, not of each window's: this is the
    error that a user looks at.
    """
    if not plan.horizon:
        return None
    settings, horizon = plan.settings, plan.horizon
    sums = empty_sums(plan, horizon)
    n_matrices = len(sums.gram_target)
    features = [np.empty((0, settings.input_chunk_length), np.float32)]
    partial = [np.empty((0, horizon), np.float32)]
    n_partial = 0
    n_rows = sum(int(mask.sum()) * source.n_components for source, mask in plan.held_out)
    every = max(1, n_rows // _MOST_PARTIAL_ROWS)
    for source, mask in plan.held_out:
        for origins in iterate_chunks(np.flatnonzero(mask), source.n_components):
            windows, targets = cut(source, origins, settings, horizon)
            rows, targets = windows.features * windows.scale, targets * windows.scale
            whole = np.isfinite(targets).all(axis=1)
            whole = np.repeat(whole.reshape(-1, n_matrices).all(axis=1), n_matrices)
            sums.add(rows[whole], targets[whole])
            n_partial += int((~whole).sum())
            # Rows of all matrices together.
            groups = np.flatnonzero(~whole[::n_matrices])[::every]
            chosen = (groups[:, None] * n_matrices + np.arange(n_matrices)).ravel()
            features.append(rows[chosen])
            partial.append(targets[chosen])
    kept = np.concatenate(partial)
    weight = n_partial / len(kept) if len(kept) else 1.0
    return HeldOut(sums, np.concatenate(features), kept, weight)


def empty_sums(plan: Plan, n_outputs: int) -> WindowSums:
    """Return sums of the right shape."""
    return WindowSums(plan.n_matrices, plan.settings.input_chunk_length, n_outputs)
