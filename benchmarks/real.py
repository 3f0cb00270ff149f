"""Real series as they are: ``python -m benchmarks.real``.

* ``--part quantiles``: coverage of 50, 80 and 90 % intervals and weighted quantile loss, after
  the training cut-off, of the teacher, the student, the student without calibration, the same
  student without a teacher, and Darts' ConformalNaiveModel around the point student;
* ``--part covariates``: demand for electricity with and without the temperature, beside Darts'
  LinearRegressionModel and LightGBMModel with the same lags and covariates;
* ``--part events``: rare events known ahead, which contexts without any say nothing of, beside the
  LinearRegressionModel: made, since it takes series whose truth is known;
* ``--part gaps``: 10, 30 and 50 % of all values missing, at random and in blocks of two days;
* ``--part short``: histories of 24 to 1,000 points, beside the student without a teacher, AutoETS
  and seasonal naive.

LightGBM and statsforecast are used where they are installed. LightGBM fits a model for each step:
half an hour with the default lengths, minutes with ``--lookback 96 --horizon 24``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks.data import DataSet, add_data_argument, ett, load_all, require_file
from distilts_forecaster import MLP, DistilledForecaster, load_teacher
from distilts_forecaster.runtime.quantiles import interpolate_levels
from distilts_forecaster.windows.cutting import context_windows, history_windows, target_windows
from distilts_forecaster.windows.naive import repeat_season

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
TEACHER_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
Forecast = Callable[[np.ndarray], np.ndarray]


def series_of(values: np.ndarray) -> TimeSeries:
    """Return a series, at equal steps."""
    return TimeSeries.from_values(values)


def spread(origins: int, stop: int, most: int) -> np.ndarray:
    """Return up to ``most`` origins between two, evenly spread."""
    return np.unique(np.linspace(origins, stop, most).astype(int))


# --- quantiles -----------------------------------------------------------------------------


def score(quantiles: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return coverage and weighted quantile loss of (..., Q) at LEVELS."""
    error = targets[..., None] - quantiles
    levels = np.array(LEVELS)
    loss = np.maximum(levels * error, (levels - 1) * error)
    found = {"loss": 2 * float(loss.mean() / np.abs(targets).mean())}
    for i, nominal in enumerate((90, 80, 50)):
        inside = (targets >= quantiles[..., i]) & (targets <= quantiles[..., -1 - i])
        found[str(nominal)] = 100 * float(inside.mean())
    return found


def conformal(history: np.ndarray, values: np.ndarray, origins: np.ndarray, steps: int) -> Any:
    """Return the quantiles of ConformalNaiveModel around the point student."""
    from darts.models import ConformalNaiveModel

    model = DistilledForecaster(output_chunk_length=steps, verbose=False).fit(series_of(history))
    n_calibration = max(30, len(history) // 5 - steps)
    wrapped = ConformalNaiveModel(model, quantiles=list(LEVELS), cal_length=n_calibration)
    made = []
    for origin in origins:
        known = series_of(values[:origin])
        made.append(
            wrapped.predict(steps, series=known, predict_likelihood_parameters=True)
            .values()
            .reshape(steps, -1, len(LEVELS))
        )
    return np.stack(made)


def quantiles(data: Path, teacher_name: str, lengths: tuple[int, ...]) -> None:
    """Print coverage and loss."""
    teacher = load_teacher(teacher_name)
    rows = []
    for found in load_all(data):
        if found.values.shape[1] > 20:
            continue
        values = found.values / found.values[: found.test_start].std(axis=0)
        for length in lengths:
            if length > found.test_start:
                continue
            steps = min(found.horizon, length // 4)
            history = values[found.test_start - length : found.test_start]
            origins = spread(found.test_start, len(values) - steps, 200)
            targets = target_windows(values, origins, steps)
            made = {}
            for name, settings in (
                ("student", {}),
                ("not calibrated", {"calibrate": False}),
                ("no teacher", {"distillation_weight": 0}),
                ("neither", {"distillation_weight": 0, "calibrate": False}),
            ):
                model = DistilledForecaster(
                    output_chunk_length=steps,
                    teacher=teacher,
                    quantiles=LEVELS,
                    verbose=False,
                    **settings,
                ).fit(series_of(history))
                student = model.student_
                contexts = context_windows(values, origins, student.input_chunk_length)
                made[name] = student.predict_quantiles(contexts, steps, LEVELS)
            contexts = history_windows(values.astype(np.float32), origins, 1024)
            answer = teacher.forecast(contexts, steps, TEACHER_LEVELS).quantiles
            made["teacher"] = interpolate_levels(answer, TEACHER_LEVELS, LEVELS)
            few = slice(None, None, 10)
            made["conformal"] = conformal(history, values, origins[few], steps)
            for name, one in made.items():
                at = few if name == "conformal" else slice(None)
                rows.append(
                    {"set": found.name, "points": length, "of": name, **score(one, targets[at])}
                )
            # What the conformal model is compared with: the same windows.
            rows.append(
                {"set": found.name, "points": length, "of": "student, those windows"}
                | score(made["student"][few], targets[few])
            )
            print(pd.DataFrame(rows[-7:]).round(3).to_string(index=False, header=False), flush=True)
    table = pd.DataFrame(rows)
    for nominal in (50, 80, 90):
        table[f"off {nominal}"] = (table[str(nominal)] - nominal).abs()
    print("\nMeans over the sets; off: how far coverage is from nominal, set by set")
    means = table.groupby(["points", "of"]).mean(numeric_only=True)
    base = table[table.of == "teacher"].set_index(["set", "points"]).loss
    table["relative"] = table.apply(lambda r: np.log(r.loss / base[r["set"], r.points]), axis=1)
    means["loss / teacher's"] = np.exp(table.groupby(["points", "of"]).relative.mean())
    print(means.drop(columns="loss").round(3).to_string())


# --- covariates ----------------------------------------------------------------------------


def covariates(data: Path, teacher_name: str, n_points: int, length: int, steps: int) -> None:
    """Print errors with and without the temperature."""
    frame = pd.read_csv(require_file(data, "vic_electricity.csv"))
    times = pd.DatetimeIndex(pd.to_datetime(frame.Time).dt.tz_localize(None))
    demand = TimeSeries.from_times_and_values(times, frame.Demand.to_numpy(np.float32))
    known = np.stack([frame.Temperature, frame.Holiday.astype(str).str.upper() == "TRUE"], axis=1)
    known = TimeSeries.from_times_and_values(times, known.astype(np.float32))
    start = int(0.8 * len(demand))
    train = demand[start - n_points : start]
    scale = float(train.values().std())
    stride = steps + 1
    print(f"\n{n_points} points, {length} -> {steps}, mean squared error in units of the variance")

    def report(name: str, model: Any, with_covariates: bool) -> None:
        given = {"future_covariates": known} if with_covariates else {}
        started = time.perf_counter()
        model.fit(train, **given)
        seconds = time.perf_counter() - started
        made = model.historical_forecasts(
            demand,
            start=start,
            start_format="position",
            forecast_horizon=steps,
            stride=stride,
            retrain=False,
            last_points_only=False,
            **given,
        )
        error = np.mean(
            [((one.values() - demand.slice_intersect(one).values()) ** 2).mean() for one in made]
        )
        print(f"{name:42}{error / scale**2:8.4f}   fitted in {seconds:6.1f} s", flush=True)

    for teacher, weight in (("no teacher", 0), (teacher_name, "auto")):
        for given in (False, True):
            model = DistilledForecaster(
                length, steps, teacher=teacher_name, distillation_weight=weight, verbose=False
            )
            report(f"linear, {teacher}{', temperature' * given}", model, given)
    for given in (False, True):
        model = DistilledForecaster(
            length, steps, teacher=teacher_name, student=MLP(), random_state=0, verbose=False
        )
        report(f"mlp, {teacher_name}{', temperature' * given}", model, given)
    from darts.models import LinearRegressionModel

    for given in (False, True):
        lags = {"lags_future_covariates": (length, steps)} if given else {}
        model = LinearRegressionModel(lags=length, output_chunk_length=steps, **lags)
        report(f"LinearRegressionModel{', temperature' * given}", model, given)
    try:
        from darts.models import LightGBMModel

        for given in (False, True):
            lags = {"lags_future_covariates": (length, steps)} if given else {}
            model = LightGBMModel(lags=length, output_chunk_length=steps, verbose=-1, **lags)
            report(f"LightGBMModel{', temperature' * given}", model, given)
    except ImportError:
        print("LightGBM is not installed")


# --- events --------------------------------------------------------------------------------


def events(teacher_name: str, n_points: int = 900, steps: int = 7, n_seeds: int = 5) -> None:
    """Print r2 on the last third of ``20 + 10 x + noise``, x being known ahead."""
    from darts.models import LinearRegressionModel

    print(
        f"\n{n_points} points, {steps} steps ahead, r2 of the last third, mean of {n_seeds} seeds"
    )
    print(f"{'events':>8s}{'noise':>7s}{'context':>9s}{'student':>9s}{'regression':>12s}")
    cut = 2 * n_points // 3
    for rate, noise, length in [
        (r, s, n) for r in (0.03, 0.15) for s in (0.1, 1.0) for n in (14, 56)
    ]:
        found = []
        for seed in range(n_seeds):
            rng = np.random.default_rng(seed)
            x = (rng.random(n_points) < rate).astype(float)
            y = 20 + 10 * x + noise * rng.normal(size=n_points)
            series, known = series_of(y), series_of(x)
            lags = {"lags": length, "lags_future_covariates": (length, steps)}
            for model in (
                DistilledForecaster(length, steps, teacher=teacher_name, verbose=False),
                LinearRegressionModel(**lags, output_chunk_length=steps),
            ):
                model.fit(series[:cut], future_covariates=known)
                made = model.historical_forecasts(
                    series, future_covariates=known, start=cut, forecast_horizon=steps,
                    stride=steps, retrain=False, last_points_only=False,
                )  # fmt: skip
                forecast = np.concatenate([one.values().ravel() for one in made])
                truth = y[cut : cut + len(forecast)]
                found.append(1 - ((forecast - truth) ** 2).mean() / truth.var())
        ours, theirs = np.array(found).reshape(-1, 2).mean(axis=0)
        print(f"{rate:8.0%}{noise:7.1f}{length:9d}{ours:9.4f}{theirs:12.4f}", flush=True)


# --- gaps ----------------------------------------------------------------------------------


def with_gaps(values: np.ndarray, share: float, block: int, seed: int) -> np.ndarray:
    """Return values with gaps of ``block`` steps, each component's its own."""
    rng = np.random.default_rng(seed)
    values = values.copy()
    for column in range(values.shape[1]):
        missing = rng.random(-(-len(values) // block)) < share
        values[np.repeat(missing, block)[: len(values)], column] = np.nan
    return values


def gaps(data: Path, teacher_name: str) -> None:
    """Print errors where values are missing, in fit and in predict."""
    print("\nMean squared error relative to complete data (history of 4,000 points, 512 -> 96)")
    for name in ("ETTh1", "ETTh2", "ETTm1"):
        values, _, start, _ = ett(data, name)
        origins = spread(start, len(values) - 96, 300)
        targets = target_windows(values, origins, 96)
        day = 96 if "m" in name else 24
        for weight in (0, "auto"):
            base = None
            line = f"{name} {'no teacher' if weight == 0 else teacher_name:10}"
            for share, block in (
                (0, 1),
                (0.1, 1),
                (0.3, 1),
                (0.5, 1),
                *((s, 2 * day) for s in (0.1, 0.3, 0.5)),
            ):
                known = with_gaps(values, share, block, seed=0)
                model = DistilledForecaster(
                    teacher=teacher_name, distillation_weight=weight, verbose=False
                ).fit(series_of(known[start - 4000 : start]))
                made = model.student_.predict(context_windows(known, origins, 512))
                error = float(np.nanmean((made - targets) ** 2))
                base = base or error
                line += f"  {share:.0%}{'' if block == 1 else ' blocks'} {error / base:.3f}"
            print(line, flush=True)


# --- short histories -----------------------------------------------------------------------


def short(data: Path, teacher_name: str) -> None:
    """Print errors of short histories."""
    sets: list[DataSet] = [s for s in load_all(data) if s.name in ("retail", "ETTh1")]
    for found in sets:
        steps = min(24, found.horizon)
        for length in (24, 50, 100, 200, 500, 1000):
            columns = spread(0, found.values.shape[1] - 1, 40)
            end = found.test_start
            if length > end:
                continue
            errors: dict[str, list[float]] = {}
            for column in columns:
                one = found.values[:, column : column + 1]
                for origin in spread(end, len(one) - steps, 1 if found.name == "retail" else 12):
                    history, targets = (
                        one[origin - length : origin],
                        one[origin : origin + steps, 0],
                    )
                    period = found.period if length >= 2 * found.period else 1
                    scale = np.abs(history[period:] - history[:-period]).mean()
                    for name, made in _short_forecasts(
                        history, steps, period, teacher_name
                    ).items():
                        error = np.abs(made - targets).mean() / max(scale, 1e-9)
                        errors.setdefault(name, []).append(float(error))
            line = f"{found.name:8}{length:6} points:"
            for name, several in errors.items():
                line += f"  {name} {np.mean(several):.3f}"
            best = np.array([errors["student"], errors["no teacher"], errors["seasonal naive"]])
            line += f"  (student best of the three: {np.mean(best.argmin(axis=0) == 0):.0%})"
            print(line, flush=True)


def _short_forecasts(
    history: np.ndarray, steps: int, period: int, teacher_name: str
) -> dict[str, np.ndarray]:
    """Return the forecasts of all methods."""
    series = series_of(history)
    made = {}
    for name, weight in (("student", "auto"), ("no teacher", 0)):
        model = DistilledForecaster(
            # Of a history that is no longer than what is forecast, the length is left open.
            output_chunk_length=steps if len(history) > steps + 3 else None,
            teacher=teacher_name,
            distillation_weight=weight,
            verbose=False,
        ).fit(series)
        made[name] = model.predict(steps).values()[:, 0]
    contexts = history_windows(history.astype(np.float32), np.array([len(history)]), 1024)
    made["teacher"] = (
        load_teacher(teacher_name).forecast(contexts, steps, (0.5,)).quantiles[0, :, 0, 0]
    )
    made["seasonal naive"] = repeat_season(history[None], period, steps)[0, :, 0]
    try:
        from statsforecast.models import AutoETS

        ets = AutoETS(season_length=period).forecast(y=history[:, 0].astype(float), h=steps)
        made["AutoETS"] = ets["mean"]
    except ImportError:
        pass
    return made


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="bundled")
    parser.add_argument(
        "--part", choices=("quantiles", "covariates", "events", "gaps", "short"), required=True
    )
    parser.add_argument("--points", type=int, nargs="+", default=None, help="lengths of histories")
    parser.add_argument("--lookback", type=int, default=512, help="of --part covariates")
    parser.add_argument("--horizon", type=int, default=96, help="of --part covariates")
    add_data_argument(parser)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if args.part == "quantiles":
        quantiles(args.data, args.teacher, tuple(args.points or (300, 1000, 4000)))
    elif args.part == "covariates":
        n_points = (args.points or [10_000])[0]
        covariates(args.data, args.teacher, n_points, args.lookback, args.horizon)
    elif args.part == "events":
        events(args.teacher)
    elif args.part == "gaps":
        gaps(args.data, args.teacher)
    else:
        short(args.data, args.teacher)


if __name__ == "__main__":
    main()
