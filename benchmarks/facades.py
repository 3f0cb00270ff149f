"""The facades measured: ``python -m benchmarks.facades``.

* ``--part checks``: the estimator checks of sktime and scikit-learn: number, failures, seconds;
* ``--part grid``: 24 candidates x 3 folds through each library's grid search: windows the teacher
  forecast, windows asked for, seconds with the label cache and with a cold one per candidate;
* ``--part panel``: one student for 152 retail series against one for each, seasonal naive and
  AutoETS, the last 24 months;
* ``--part backtest``: ``historical_forecasts(retrain=False)``, 1,000 series x 100 windows, against
  Darts' DLinearModel and LinearRegressionModel.

Needs the extras ``torch`` and ``sktime``; statsforecast for AutoETS.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

import distilts_forecaster.facades.darts as darts_facade
import distilts_forecaster.sklearn as sklearn_facade
import distilts_forecaster.sktime as sktime_facade
from benchmarks.data import add_data_argument, require_file
from distilts_forecaster import DistilledForecaster, Linear, from_long

LOOKBACK, HORIZON = 128, 24
GRID = {
    "distillation_weight": [0.25, 1.0, 4.0, "auto"],
    "horizon_weights": [0.0, 1.0, 2.0],
    "student": [Linear(), Linear(ridge=0.1)],
}
MONTHS_HELD_OUT = 24


def checks(data: Path) -> None:
    """Run both libraries' own checks."""
    from sklearn.utils.estimator_checks import estimator_checks_generator
    from sktime.utils import check_estimator

    started = time.perf_counter()
    results = check_estimator(
        sktime_facade.DistilledForecaster, raise_exceptions=False, verbose=False
    )
    failed = sum(result != "PASSED" for result in results.values())
    seconds = time.perf_counter() - started
    print(f"sktime        {len(results)} checks, {failed} failed, {seconds:.1f} s", flush=True)
    started = time.perf_counter()
    regressor = sklearn_facade.DistilledRegressor(cache_dir=False, random_state=0)
    n_checks = failed = 0
    for estimator, check in estimator_checks_generator(regressor):
        n_checks += 1
        try:
            check(estimator)
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                failed += 1
                print(f"    {check}: {error}")
    seconds = time.perf_counter() - started
    print(f"scikit-learn  {n_checks} checks, {failed} failed, {seconds:.1f} s", flush=True)


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count fits, and windows that were labelled or found, in this process."""
    counts = {"fits": 0, "computed": 0, "asked": 0}
    fit_student = darts_facade.fit_student

    def counted(*args: Any, **options: Any) -> Any:
        result = fit_student(*args, **options)
        counts["fits"] += 1
        counts["computed"] += result.summary.windows.labelled
        counts["asked"] += result.summary.windows.labelled + result.summary.windows.from_cache
        return result

    facades: tuple[Any, ...] = (darts_facade, sklearn_facade, sktime_facade)
    for facade in facades:
        facade.fit_student = counted
    try:
        yield counts
    finally:
        for facade in facades:
            facade.fit_student = fit_student


def grid(data: Path) -> None:
    """Search one grid with each library, with a shared cache and with cold ones."""
    frame = pd.read_csv(require_file(data, "ETTh1.csv"), parse_dates=["date"], index_col="date")
    y = frame["OT"][:2000].asfreq("h")
    print(f"{np.prod([len(v) for v in GRID.values()])} candidates x 3 folds, 2,000 points")
    for name, search in (("sktime", _sktime), ("Darts", _darts), ("scikit-learn", _sklearn)):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            with counting() as counts:
                search(y, GRID, Path(folder))
            shared = time.perf_counter() - started
        cold = cold_computed = 0.0
        for candidate in _candidates():
            with tempfile.TemporaryDirectory() as folder, counting() as alone:
                started = time.perf_counter()
                search(y, candidate, Path(folder))
                cold += time.perf_counter() - started
                cold_computed += alone["computed"]
        print(
            f"{name:14}{counts['fits']} fits: {counts['computed']:,} windows computed of "
            f"{counts['asked']:,} asked for, {shared:.1f} s; cold for each candidate "
            f"{cold_computed:,.0f} computed, {cold:.1f} s, {cold / shared:.1f}x",
            flush=True,
        )


def _candidates() -> Iterator[dict[str, list[Any]]]:
    """Return grids of one candidate each."""
    from sklearn.model_selection import ParameterGrid

    for candidate in ParameterGrid(GRID):
        yield {name: [value] for name, value in candidate.items()}


def _sktime(y: pd.Series, grid: dict[str, list[Any]], folder: Path) -> None:
    """Search with sktime, refitting at each fold."""
    from sktime.forecasting.model_selection import ForecastingGridSearchCV
    from sktime.split import ExpandingWindowSplitter

    forecaster = sktime_facade.DistilledForecaster(LOOKBACK, HORIZON, cache_dir=folder)
    splitter = ExpandingWindowSplitter(
        fh=range(1, HORIZON + 1), initial_window=1700, step_length=HORIZON * 5
    )
    ForecastingGridSearchCV(forecaster, splitter, grid, backend=None, refit=False).fit(y)


def _darts(y: pd.Series, grid: dict[str, list[Any]], folder: Path) -> None:
    """Search with Darts, refitting at each step of an expanding window."""
    fixed = {
        "input_chunk_length": [LOOKBACK],
        "output_chunk_length": [HORIZON],
        "cache_dir": [folder],
    }
    DistilledForecaster.gridsearch(
        {**fixed, **grid},
        TimeSeries.from_series(y),
        forecast_horizon=HORIZON,
        start=1700,
        start_format="position",
        stride=HORIZON * 5,
        last_points_only=False,
    )


def _sklearn(y: pd.Series, grid: dict[str, list[Any]], folder: Path) -> None:
    """Search with scikit-learn on windows."""
    from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

    rows = np.lib.stride_tricks.sliding_window_view(y.to_numpy(), LOOKBACK + HORIZON)
    GridSearchCV(
        sklearn_facade.DistilledRegressor(cache_dir=folder),
        grid,
        cv=TimeSeriesSplit(3, gap=HORIZON - 1),
        scoring="neg_mean_squared_error",
        refit=False,
        error_score="raise",
    ).fit(rows[:, :LOOKBACK], rows[:, LOOKBACK:])


def panel(data: Path) -> None:
    """Fit 152 monthly series at once and one by one, through the sktime facade."""
    frame = pd.read_csv(require_file(data, "aus_retail_monthly_long.csv"))
    frame["Month"] = pd.PeriodIndex(frame["Month"], freq="M")
    y = from_long(frame, id="Series ID", time="Month", target="Turnover", to="sktime")
    series = [one.droplevel(0)["Turnover"] for _, one in y.groupby(level=0)]
    train = [one[:-MONTHS_HELD_OUT] for one in series]
    targets = np.stack([one[-MONTHS_HELD_OUT:] for one in series])
    # What seasonal naive errs by within each history: the denominator of MASE.
    scale = np.array(
        [one.diff(12 if len(one) > 24 else 1).abs().mean() for one in train], dtype=float
    )
    lengths = sorted(map(len, train))
    print(f"{len(series)} series of {lengths[0]} to {lengths[-1]} months, {MONTHS_HELD_OUT} ahead")

    def report(name: str, made: np.ndarray, seconds: float) -> None:
        error = np.abs(made - targets)
        mase, wape = (error.mean(axis=1) / scale).mean(), error.sum() / targets.sum()
        print(f"{name:34}MASE {mase:.3f}  WAPE {wape:.4f}  {seconds:7.1f} s", flush=True)

    fh = list(range(1, MONTHS_HELD_OUT + 1))
    together = pd.concat(dict(enumerate(train)), names=["id", "time"]).to_frame()
    for name, settings in (("", {}), (", no teacher", {"distillation_weight": 0})):
        forecaster = sktime_facade.DistilledForecaster(**settings, cache_dir=False)
        started = time.perf_counter()
        made = forecaster.clone().fit(together, fh=fh).predict()
        values = np.stack([made.loc[i, "Turnover"] for i in range(len(train))])
        report(f"one student for all{name}", values, time.perf_counter() - started)
        started = time.perf_counter()
        values = np.stack([forecaster.clone().fit(one, fh=fh).predict() for one in train])
        report(f"a student for each{name}", values, time.perf_counter() - started)
    naive = [
        np.resize(one[-12:], MONTHS_HELD_OUT) if len(one) >= 12 else np.full(24, one.iloc[-1])
        for one in train
    ]
    report("seasonal naive", np.stack(naive), 0.0)
    try:
        from statsforecast.models import AutoETS
    except ModuleNotFoundError:
        print("statsforecast is not installed: no AutoETS")
        return
    started = time.perf_counter()
    ets = [
        AutoETS(season_length=12).forecast(y=one.to_numpy(float), h=MONTHS_HELD_OUT)["mean"]
        for one in train
    ]
    report("AutoETS", np.stack(ets), time.perf_counter() - started)


def backtest(data: Path) -> None:
    """Backtest 1,000 series with 100 windows each."""
    from darts.models import DLinearModel, LinearRegressionModel

    n_windows = 100
    length = LOOKBACK + HORIZON + n_windows - 1
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=length, freq="h")
    values = np.sin(np.arange(length) * 2 * np.pi / 24) + rng.normal(size=(1000, length))
    series = [TimeSeries.from_times_and_values(times, row.astype(np.float32)) for row in values]
    quiet: dict[str, Any] = {"accelerator": "cpu", "max_steps": 1}
    for name in ("enable_progress_bar", "enable_model_summary", "logger"):
        quiet[name] = False
    models = {
        "DistilledForecaster": DistilledForecaster(
            LOOKBACK, HORIZON, distillation_weight=0, cache_dir=False
        ).fit(series),
        "LinearRegressionModel": LinearRegressionModel(
            lags=LOOKBACK, output_chunk_length=HORIZON
        ).fit(series[:50]),
        "DLinearModel": DLinearModel(
            LOOKBACK,
            HORIZON,
            n_epochs=1,
            pl_trainer_kwargs=quiet | {"max_steps": 1, "enable_model_summary": False},
        ).fit(series[:10]),
    }
    for last_points_only in (True, False):
        print(f"1,000 series x {n_windows} windows, last_points_only={last_points_only}")
        ours = 0.0
        for name, model in models.items():
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                made = model.historical_forecasts(
                    series,
                    forecast_horizon=HORIZON,
                    retrain=False,
                    last_points_only=last_points_only,
                    show_warnings=False,
                )
                seconds.append(time.perf_counter() - started)
            assert sum(map(len, made)) == 1000 * n_windows
            best = min(seconds)
            ours = ours or best
            micro = 1e6 * best / (1000 * n_windows)
            print(f"    {name:24}{micro:8.1f} us a window   {best / ours:5.1f}x", flush=True)


PARTS = {"checks": checks, "grid": grid, "panel": panel, "backtest": backtest}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    add_data_argument(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for part in args.part:
        PARTS[part](args.data)


if __name__ == "__main__":
    main()
