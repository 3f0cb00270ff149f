"""What a teacher is worth to the student: ``python -m benchmarks.accuracy``.

Standardised mean squared error over windows of the test span:

* ``--part full``: the student without a teacher and with one, and the teacher, on the full
  training months of the ETT sets, lookback 512, 96 and 192 ahead, every test window
  (settings chosen on the validation months, which are not fitted on);
* ``--part short``: the same on histories of every data set cut to their last points before
  the test span, 96 ahead, beside seasonal naive, all with default settings;
* ``--part labels``: what 200 and 1,000 labels cost against all, drawn at random and evenly spread.

The teacher alone sees up to 1,024 steps, as it does when it labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from darts import TimeSeries

from benchmarks.data import add_data_argument, ett, load_all
from distilts_forecaster import DistilledForecaster, load_teacher
from distilts_forecaster.distill import plan as plan_module
from distilts_forecaster.distill.plan import MOST_TEACHER_CONTEXT
from distilts_forecaster.settings import Settings
from distilts_forecaster.teachers import FunctionTeacher, Teacher
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.windows.cutting import context_windows, history_windows, target_windows
from distilts_forecaster.windows.naive import repeat_season
from distilts_forecaster.windows.source import WindowSource

LOOKBACK = 512
NAMES = ("ETTh1", "ETTh2", "ETTm1")

#: Points of history, and test windows.
SHORT_LENGTHS = (300, 500, 1000, 2000)
MAX_ORIGINS = 150

RANDOM_RANKS = plan_module._label_ranks


def error_at(
    forecast: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    origins: np.ndarray,
    lookback: int,
    horizon: int = 96,
) -> float:
    """Return the mean squared error of the windows at some origins."""
    total = 0.0
    for part in np.array_split(origins, max(1, len(origins) // 500)):
        error = forecast(context_windows(values, part, lookback)) - target_windows(
            values, part, horizon
        )
        total += float((error**2).mean()) * len(part)
    return total / len(origins)


def mean_squared_error(
    forecast: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    start: int,
    horizon: int,
    lookback: int = LOOKBACK,
) -> float:
    """Return the mean squared error over all windows with a target from ``start`` on."""
    origins = np.arange(start, len(values) - horizon + 1)
    return error_at(forecast, values, origins, lookback, horizon)


def point(teacher: Teacher, horizon: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the teacher's point forecast as a function of contexts."""
    return lambda contexts: teacher.forecast(
        contexts.astype(np.float32), horizon, (0.5,)
    ).quantiles[..., 0]


def fit(
    train: np.ndarray,
    horizon: int,
    alpha: float | str,
    teacher: str,
    validation: np.ndarray | None = None,
    lookback: int | None = LOOKBACK,
) -> DistilledForecaster:
    """Fit the forecaster to an array."""
    model = DistilledForecaster(
        input_chunk_length=lookback,
        output_chunk_length=horizon,
        teacher=teacher,
        distillation_weight=alpha,
        cache_dir=False,  # what labels cost is part of the time
    )
    val_series = None if validation is None else TimeSeries.from_values(validation)
    return model.fit(TimeSeries.from_values(train), val_series=val_series)


def full_histories(data: Path, teacher_name: str) -> None:
    """Print the table of full training months."""
    teacher = load_teacher(teacher_name)
    print("\nFull training months (12 / 4 / 4), test MSE")
    print(f"{'':8}{'T':>5}{'no teacher':>12}{'auto':>8}{'teacher':>9}   alpha  ridge  seconds")
    for name in NAMES:
        values, train_stop, validation_stop, _ = ett(data, name)
        for horizon in (96, 192):
            validation = values[train_stop - LOOKBACK : validation_stop]
            errors = []
            for alpha in (0, "auto"):
                started = time.perf_counter()
                model = fit(values[:train_stop], horizon, alpha, teacher_name, validation)
                seconds = time.perf_counter() - started
                errors.append(
                    mean_squared_error(model.student_.predict, values, validation_stop, horizon)
                )
            zero_shot = mean_squared_error(
                point(teacher, horizon), values, validation_stop, horizon, MOST_TEACHER_CONTEXT
            )
            summary = model.training_summary_
            print(
                f"{name:8}{horizon:5}{errors[0]:12.5f}{errors[1]:9.5f}{zero_shot:9.4f}"
                f"{summary.chosen.distillation_weight:8.3g}{summary.chosen.ridge:7.2g}{seconds:9.1f}",
                flush=True,
            )


def short_histories(data: Path, teacher_name: str) -> None:
    """Print the table of histories cut to their last points: default lengths, 96 ahead."""
    teacher = load_teacher(teacher_name)
    print("\nLast N points before the test span, T = 96, test MSE relative to the teacher's alone")
    print(
        f"{'':16}{'N':>6}{'teacher':>9}{'no teacher':>12}{'auto':>7}{'naive':>7}"
        "   alpha  ridge  prior"
    )
    rows: dict[int, list[tuple[float, ...]]] = {length: [] for length in SHORT_LENGTHS}
    for found in load_all(data):
        values = found.values / found.values[: found.test_start].std(axis=0)
        last = len(values) - 96
        if last - found.test_start < 96 or values.shape[1] > 20:
            continue
        origins = np.unique(np.linspace(found.test_start, last, MAX_ORIGINS).astype(int))
        contexts = history_windows(values, origins, MOST_TEACHER_CONTEXT)
        targets = target_windows(values, origins, 96)

        def error(made: np.ndarray, targets: np.ndarray = targets) -> float:
            return float(((made - targets) ** 2).mean())

        # Zero-shot, whatever the student's history.
        zero_shot = error(point(teacher, 96)(contexts))
        naive = min(error(repeat_season(contexts, season, 96)) for season in (1, found.period))
        for length in SHORT_LENGTHS:
            if length > found.test_start:
                continue
            history = values[found.test_start - length : found.test_start]
            errors = []
            for alpha in (0, "auto"):
                model = fit(history, 96, alpha, teacher_name, lookback=None)
                errors.append(error(model.student_.predict(contexts, 96)))
            chosen = model.training_summary_.chosen
            rows[length].append((*errors, zero_shot, naive))
            print(
                f"{found.name:16}{length:6}{zero_shot:9.4f}{errors[0] / zero_shot:12.3f}"
                f"{errors[1] / zero_shot:7.3f}{naive / zero_shot:7.2f}"
                f"{chosen.distillation_weight:8.3g}{chosen.ridge:7.3g}  {chosen.prior}",
                flush=True,
            )
    print(f"\n{'N':>6}{'auto / none':>18}{'auto / teacher':>18}{'auto / best of all':>20}")
    for length, several in rows.items():
        if several:
            none, auto, teachers, naives = np.array(several).T
            best = np.minimum(np.minimum(none, teachers), naives)
            told = "".join(
                f"{np.exp(np.log(auto / other).mean()):9.3f} (max {(auto / other).max():.2f})"
                for other in (none, teachers, best)
            )
            print(f"{length:6}{told}")


def spread_ranks(
    series: Sequence[WindowSource], settings: Settings, labeller: Labeller | None
) -> list[np.ndarray]:
    """Rank windows so that any number of the first ones is evenly spread over time."""
    ranks = RANDOM_RANKS(series, settings, labeller)
    for rank in ranks:
        usable = np.flatnonzero(rank >= 0)
        # The golden ratio's multiples fill the unit interval evenly, however many there are.
        rank[usable[np.argsort(np.argsort(np.arange(len(usable)) * 0.618034 % 1.0))]] = np.arange(
            len(usable)
        )
    return ranks


def labels(data: Path, teacher_name: str) -> None:
    """Print what fewer labels cost, drawn at random and evenly spread, for three teachers."""
    bundled = load_teacher(teacher_name)

    def short_sighted(contexts: np.ndarray, horizon: int) -> np.ndarray:
        return bundled.forecast(contexts[:, -64:], horizon, (0.5,)).quantiles[..., 0]

    def naive(contexts: np.ndarray, horizon: int) -> np.ndarray:
        return repeat_season(contexts, 24, horizon)

    print("\n2,000 points, T = 96, alpha = .5: test MSE relative to the student without a teacher")
    print(f"{'':16}{'teacher':16}{'200':>16}{'1,000':>16}{'all':>8}   random / spread")
    kept: dict[str, list[list[float]]] = {}
    for found in load_all(data):
        if (
            found.test_start < 2000
            or found.values.shape[1] > 20
            or found.period not in (24, 48, 96)
        ):
            continue
        values = found.values / found.values[: found.test_start].std(axis=0)
        origins = np.unique(np.linspace(found.test_start, len(values) - 96, 150).astype(int))
        contexts, targets = (
            history_windows(values, origins, 512),
            target_windows(values, origins, 96),
        )
        history = TimeSeries.from_values(values[found.test_start - 2000 : found.test_start])
        for name, teacher in (
            ("bundled", bundled),
            ("64 steps of it", FunctionTeacher(short_sighted, name="short", revision="1")),
            ("last day", FunctionTeacher(naive, name="naive", revision="1")),
        ):
            errors = []
            for budget, order in (
                (0, None),
                (200, None),
                (200, spread_ranks),
                (1000, None),
                (1000, spread_ranks),
                (None, None),
            ):
                with patch.object(plan_module, "_label_ranks", order or RANDOM_RANKS):
                    model = DistilledForecaster(
                        512, 96, teacher=teacher, label_budget=budget or None, verbose=False,
                        distillation_weight=0 if budget == 0 else 0.5, cache_dir=False,
                    ).fit(history)  # fmt: skip
                made = model.student_.predict(contexts)
                errors.append(float(((made - targets) ** 2).mean()))
            ratios = [error / errors[0] for error in errors[1:]]
            kept.setdefault(name, []).append(ratios)
            told = "{:8.3f}{:8.3f}{:8.3f}{:8.3f}{:8.3f}".format(*ratios)
            print(f"{found.name:16}{name:16}{told}", flush=True)
    for name, several in kept.items():
        means = np.exp(np.log(several).mean(axis=0))
        print(f"{'mean':16}{name:16}" + "".join(f"{mean:8.3f}" for mean in means))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="bundled")
    parser.add_argument("--part", choices=("full", "short", "labels"), required=True)
    add_data_argument(parser)
    args = parser.parse_args()
    {"full": full_histories, "short": short_histories, "labels": labels}[args.part](
        args.data, args.teacher
    )


if __name__ == "__main__":
    main()
