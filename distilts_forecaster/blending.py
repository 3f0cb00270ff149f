"""Labels of several teachers, each kept by itself, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distilts_forecaster.labels import Labeller, LabelStore
from distilts_forecaster.plan import SeriesPlan, Settings, resolve_teacher_context
from distilts_forecaster.teachers.ensemble import (
    BY_HORIZON,
    EnsembleTeacher,
    average,
    weights_by_horizon,
)
from distilts_forecaster.windows import history_windows, iterate_chunks, target_windows

__all__ = ["EnsembleLabeller"]

#: Windows that weights are chosen on, evenly spread: more would not change them.
_MOST_WINDOWS = 2000


class EnsembleLabeller(Labeller):
    """Ask several teachers for labels, each through the store, and average them.

    Parameters
    ----------
    teacher : EnsembleTeacher
    stores : sequence of LabelStore
        One for each member.
    horizon : int
    quantile_levels : tuple of float, default (0.5,)

    Attributes
    ----------
    step_weights : numpy.ndarray, shape (horizon, K)
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

    def label(self, contexts: np.ndarray) -> np.ndarray:
        """Return the average of the members' forecasts, made now or before.

        Parameters
        ----------
        contexts : numpy.ndarray of float32, shape (N, L, C)

        Returns
        -------
        numpy.ndarray of float32, shape (N, horizon, C, Q)

        Raises
        ------
        ValueError
            If a member's forecast has the wrong shape or is not finite.
        """
        # A window is done when the last member has forecast it.
        self.members[-1].on_progress = self.on_progress
        made = average([member.label(contexts) for member in self.members], self.step_weights)
        self.n_labelled = sum(member.n_labelled for member in self.members)
        self.n_from_cache = sum(member.n_from_cache for member in self.members)
        self.seconds = sum(member.seconds for member in self.members)
        return made

    def choose_weights(self, plans: Sequence[SeriesPlan], settings: Settings) -> None:
        """Choose the weights of each step by the members' errors, if they are to be chosen.

        Errors count in units of each series' standard deviation.

        Parameters
        ----------
        plans : sequence of SeriesPlan
        settings : Settings
        """
        if self.teacher.weights != BY_HORIZON:  # type: ignore[attr-defined]
            return
        shift, steps = settings.output_chunk_shift, settings.output_chunk_length
        history = resolve_teacher_context(settings, self.teacher.info)
        every = -(-sum(int(plan.truth.sum()) for plan in plans) // _MOST_WINDOWS)
        self.members[-1].on_progress = self.on_progress
        products = np.zeros((steps, len(self.members), len(self.members)))
        count = 0
        for plan in plans:
            series = plan.series
            mine = np.flatnonzero(plan.truth & plan.labelled)[:: max(1, every)]
            for origins in iterate_chunks(mine, series.raw.shape[1]):
                contexts = history_windows(series.raw, origins, history)
                truth = target_windows(series.raw, origins, steps, shift)
                errors = np.stack(
                    [
                        (m.label(contexts)[:, shift:, :, settings.median] - truth) / series.spread
                        for m in self.members
                    ]
                )
                products += np.einsum("kntc,jntc->tkj", errors, errors)
                count += len(origins)
        if count:
            self.step_weights[shift:] = weights_by_horizon(products / count)
        # They are found in the cache when they are asked for again.
        for member in self.members:
            member.n_from_cache -= min(count, member.n_from_cache)
