"""Labels of several teachers, each kept by itself, averaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Literal

import numpy as np

from distilts_forecaster.distill.label import believable, teacher_contexts, teacher_covariates
from distilts_forecaster.distill.plan import Plan
from distilts_forecaster.runtime.covariates import Covariates
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers.base import Teacher
from distilts_forecaster.teachers.ensemble import (
    BY_HORIZON,
    EnsembleTeacher,
    average,
    weights_by_horizon,
)
from distilts_forecaster.teachers.labels import Labeller, Progress, ignore
from distilts_forecaster.teachers.stores import LabelStore, open_store
from distilts_forecaster.windows.cutting import iterate_chunks

__all__ = ["EnsembleLabeller", "open_labeller"]

#: Windows that weights are chosen on, evenly spaced: more would not change them.
_MOST_WINDOWS = 2000


@contextmanager
def open_labeller(
    teacher: Teacher, settings: Settings, cache_dir: str | os.PathLike | Literal[False] | None
) -> Iterator[Labeller]:
    """Open the store of a teacher's labels, or of each member's."""
    members = teacher.teachers if isinstance(teacher, EnsembleTeacher) else (teacher,)
    with ExitStack() as stack:
        stores = [
            stack.enter_context(closing(open_store(cache_dir, one.info.revision is not None)))
            for one in members
        ]
        request = (
            settings.chunks.target_stop,
            settings.label_levels(teacher.info.quantile_levels),
        )
        if isinstance(teacher, EnsembleTeacher):
            yield EnsembleLabeller(teacher, stores, *request)
        else:
            yield Labeller(teacher, stores[0], *request)


class EnsembleLabeller(Labeller):
    """Ask several teachers for labels, each through its own store, and average them.

    ``step_weights`` (horizon, K) holds the weight of each member at each step.
    """

    def __init__(
        self,
        teacher: EnsembleTeacher,
        stores: Sequence[LabelStore],
        horizon: int,
        quantile_levels: tuple[float, ...] = (0.5,),
    ) -> None:
        self.members = [
            Labeller(member, store, horizon, quantile_levels)
            for member, store in zip(teacher.teachers, stores, strict=True)
        ]
        super().__init__(teacher, stores[0], horizon, quantile_levels)
        self.step_weights = teacher.step_weights(horizon)
        # Without the weights: all fits that average the same teachers share it.
        self.identity = repr([member.identity for member in self.members])
        self._weighed = 0

    def label(
        self,
        contexts: np.ndarray,
        covariates: Covariates | None = None,
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Return the average of the members' forecasts; see :meth:`Labeller.label`."""
        answers = self._answers(contexts, covariates, progress)
        made = average(answers, self.step_weights)
        self.n_labelled = sum(member.n_labelled for member in self.members)
        # Labels that the weights were chosen on count as made in this fit, not as found.
        self.n_from_cache = max(0, sum(m.n_from_cache for m in self.members) - self._weighed)
        self.seconds = sum(member.seconds for member in self.members)
        return made

    def _answers(
        self, contexts: np.ndarray, covariates: Covariates | None, progress: Progress
    ) -> list[np.ndarray]:
        """Return the forecasts of each member. A window is done when the last one has it."""
        last = self.members[-1]
        return [
            member.label(contexts, covariates, progress if member is last else ignore)
            for member in self.members
        ]

    def choose_weights(self, plan: Plan, progress: Progress = ignore) -> None:
        """Choose the weights of each step by the members' errors, if they are to be chosen.

        Errors count in units of each series' standard deviation, on windows that are not held out:
        held-out windows are for the student's settings. Steps beyond ``plan.horizon`` get the
        weights of its last step, since their targets may be held out.
        """
        if self.teacher.weights != BY_HORIZON:  # type: ignore[attr-defined]
            return
        shift = plan.settings.output_chunk_shift
        held_out = plan.horizon if plan.holds_out_ends else 0
        steps = held_out or plan.settings.output_chunk_length
        usable = [one.trial_target & one.trial_labelled for one in plan.sources]
        every = max(1, -(-sum(int(mask.sum()) for mask in usable) // _MOST_WINDOWS))
        products = np.zeros((steps, len(self.members), len(self.members)))
        count = 0
        for one, mask in zip(plan.sources, usable, strict=True):
            source = one.source
            for origins in iterate_chunks(np.flatnonzero(mask)[::every], source.n_components):
                info = self.teacher.info
                contexts = teacher_contexts(source, origins, plan.settings, info)
                known = teacher_covariates(source, origins, plan.settings, info)
                targets = source.targets(origins, steps, shift)
                window = slice(shift, shift + steps)
                errors = np.stack(
                    [
                        believable(made[:, window, :, self.median, None], contexts, source, member)[
                            ..., 0
                        ]
                        - targets
                        for made, member in zip(
                            self._answers(contexts, known, progress), self.members, strict=True
                        )
                    ]
                )
                # Where the target is missing, or a member's forecast is left out, none counts.
                errors[:, np.isnan(errors).any(axis=0)] = 0.0
                products += np.einsum("kntc,jntc->tkj", errors, errors)
                count += len(origins)
        if count:
            weights = weights_by_horizon(products / count)
            self.step_weights[shift : shift + steps] = weights
            self.step_weights[shift + steps :] = weights[-1]
        self._weighed = count * len(self.members)
