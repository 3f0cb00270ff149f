"""Teachers with hidden states, trained on a data set's own training months.

``python -m benchmarks.trained --folder WORK`` trains, for each data set, a small Chronos-Bolt
checkpoint (hidden states through ``embed``) and Darts' TSMixer for each horizon (hidden states
through a hook), and keeps them in the folder: what is there is not trained again.
Needs the extra ``chronos``.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bolt import save_bolt
from benchmarks.data import add_data_argument, require_file
from distilts_forecaster.cli.ablation import Spans, read_spans

__all__ = ["bolt_teacher", "tsmixer_teacher"]

NAMES = ("ETTh1", "ETTh2", "ETTm1")

#: Steps of AdamW and windows in each: about five minutes on one core.
BOLT_STEPS, BOLT_BATCH = 1500, 128
BOLT_CONTEXT, BOLT_HORIZON = 1024, 192

TSMIXER_LOOKBACK = 512
TSMIXER_MAX_EPOCHS = 10


def bolt_teacher(data: Spans, folder: Path) -> Path:
    """Return the directory of a Chronos-Bolt checkpoint trained on the training months.

    1.1 M parameters, patches of 32 steps, 192 steps ahead in one pass, its own loss. The
    checkpoint kept is the one with the least loss on the validation months.
    """
    name, values = data.name, data.values
    target = folder / f"bolt-{name}"
    if (target / "config.json").is_file():
        return target
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    torch.manual_seed(0)
    start = folder / f"bolt-{name}-start"
    save_bolt(
        start,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_layers=2,
        context_length=BOLT_CONTEXT,
        prediction_length=BOLT_HORIZON,
        input_patch_size=32,
    )
    model = ChronosBoltModelForForecasting.from_pretrained(start)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, BOLT_STEPS, pct_start=0.05)
    rng = np.random.default_rng(0)
    held_out = _rows(values, rng, data.train_stop, data.validation_stop, 1024)
    best, started = np.inf, time.perf_counter()
    for step in range(1, BOLT_STEPS + 1):
        model.train()
        context, target_rows = _rows(values, rng, 64, data.train_stop, BOLT_BATCH)
        optimiser.zero_grad()
        loss = model(context=context, target=target_rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            model.eval()
            with torch.no_grad():
                error = float(model(context=held_out[0], target=held_out[1].clone()).loss)
            seconds = time.perf_counter() - started
            print(
                f"bolt {name} {step:5} {float(loss):8.3f} {error:8.3f} {seconds:6.0f} s", flush=True
            )
            if error < best:
                best = error
                model.save_pretrained(folder / f"bolt-{name}-best")
    (folder / f"bolt-{name}-best").rename(target)
    return target


def _rows(values: np.ndarray, rng: np.random.Generator, first: int, stop: int, n: int) -> Any:
    """Draw contexts (n, 1024), NaN before the series, and targets (n, 192)."""
    import torch

    origins = rng.integers(first, stop - BOLT_HORIZON, size=n)
    components = rng.integers(values.shape[1], size=n)
    padded = np.pad(values, ((BOLT_CONTEXT, 0), (0, 0)), constant_values=np.nan)
    window = np.arange(BOLT_CONTEXT + BOLT_HORIZON)
    rows = padded[origins[:, None] + window, components[:, None]].astype(np.float32)
    tensors = torch.from_numpy(rows)
    return tensors[:, :BOLT_CONTEXT].contiguous(), tensors[:, BOLT_CONTEXT:].contiguous()


def tsmixer_teacher(data: Spans, horizon: int, folder: Path) -> Any:
    """Return Darts' TSMixer, trained on the training months, stopped early on the validation."""
    from darts import TimeSeries
    from darts.models import TSMixerModel
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    name = data.name
    target = folder / f"tsmixer-{name}-{horizon}.pt"
    if target.is_file():
        return TSMixerModel.load(str(target), map_location="cpu")
    values = data.values.astype(np.float32)
    checkpoint = ModelCheckpoint(monitor="val_loss", dirpath=folder / f"tsmixer-{name}-{horizon}")
    started = time.perf_counter()
    model = TSMixerModel(
        input_chunk_length=TSMIXER_LOOKBACK,
        output_chunk_length=horizon,
        hidden_size=64,
        ff_size=64,
        num_blocks=2,
        dropout=0.3,
        use_reversible_instance_norm=True,
        batch_size=64,
        n_epochs=TSMIXER_MAX_EPOCHS,
        optimizer_kwargs={"lr": 1e-3},
        random_state=0,
        pl_trainer_kwargs={
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "enable_checkpointing": True,
            "callbacks": [EarlyStopping("val_loss", patience=2), checkpoint],
        },
    )
    model.fit(
        TimeSeries.from_values(values[: data.train_stop]),
        val_series=TimeSeries.from_values(
            values[data.train_stop - TSMIXER_LOOKBACK : data.validation_stop]
        ),
        max_samples_per_ts=10_000,
    )
    import torch

    best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=False)
    model.model.load_state_dict(best["state_dict"])
    model.save(str(target), clean=True)
    seconds = time.perf_counter() - started
    print(
        f"tsmixer {name} {horizon} {float(checkpoint.best_model_score):.4f} {seconds:.0f} s",
        flush=True,
    )
    return model


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where teachers are kept")
    parser.add_argument("--names", nargs="+", default=NAMES, help="data sets (CSV files)")
    parser.add_argument("--horizons", nargs="+", type=int, default=[96, 192])
    add_data_argument(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        data = read_spans(require_file(args.data, f"{name}.csv"))
        bolt_teacher(data, args.folder)
        for horizon in args.horizons:
            tsmixer_teacher(data, horizon, args.folder)


if __name__ == "__main__":
    main()
