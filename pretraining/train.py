"""Pre-train the bundled teacher on synthetic series: ``python -m pretraining.train``.

1. Write shards of examples: windows of the corpus, described and forecast by every
   expert, in as many processes as there are cores.
2. Train the mixture's network on them with the quantile loss.
3. Write the weights.

Stopped at any time, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from distilts_forecaster.teachers.bundled.mixture import WEIGHTS
from pretraining import network as network_module
from pretraining.examples import read_shuffled, write_shard
from pretraining.network import MixtureNetwork, arrays_of, quantile_loss

BATCH_SIZE = 512
LEARNING_RATE = 2e-3

#: Shards that are not trained on, to watch the loss.
N_HELD_OUT = 4


def write_shards(folder: Path, n_shards: int, seed: int, workers: int) -> list[Path]:
    """Write the shards that are missing; return all in order."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(write_shard, folder, i, seed) for i in range(n_shards)]
        for job in tqdm(as_completed(jobs), total=n_shards, desc="examples", disable=None):
            job.result()
    return [job.result() for job in jobs]


def loss_of(network: MixtureNetwork, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Return the quantile loss of a batch, in the units of its rows."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    truth = tensors.pop("truth")
    quantiles, pivot = network(**tensors)
    return quantile_loss(quantiles, (truth - pivot) / tensors["unit"][:, None])


def held_out_loss(network: MixtureNetwork, paths: list[Path]) -> float:
    """Return the mean loss over the held-out shards."""
    with torch.no_grad():
        return float(np.mean([float(loss_of(network, dict(np.load(path)))) for path in paths]))


def new_network(paths: list[Path]) -> MixtureNetwork:
    """Return an untrained network that knows the scale of its features."""
    features = np.concatenate([np.load(path)["features"] for path in paths[:16]])
    return MixtureNetwork(
        torch.from_numpy(features.mean(axis=0)), torch.from_numpy(features.std(axis=0) + 0.05)
    )


def train(paths: list[Path], epochs: int, seed: int, checkpoint: Path) -> MixtureNetwork:
    """Train on the shards, going on from the checkpoint if there is one."""
    torch.manual_seed(seed)
    held_out, paths = paths[:N_HELD_OUT], paths[N_HELD_OUT:]
    network = new_network(paths)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-3)
    per_shard = len(np.load(paths[0])["unit"])
    n_steps = epochs * len(paths) * per_shard // BATCH_SIZE
    warm_up = min(200, n_steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / warm_up, 0.01 + 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))
        ),
    )
    done = 0
    code = b"".join(Path(str(path)).read_bytes() for path in (__file__, network_module.__file__))
    digest = hashlib.blake2b(code, digest_size=8).hexdigest()
    recipe = [seed, epochs, digest, *(path.name for path in paths)]
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != recipe:
            raise ValueError(
                f"{checkpoint} is of another run: other shards, epochs, seed or code. Delete it to "
                "start anew, or give another --folder."
            )
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        done = state["epochs"]
    for epoch in range(done, epochs):
        rng = np.random.default_rng([seed, epoch])
        batches = read_shuffled(paths, BATCH_SIZE, rng)
        total = len(paths) * per_shard // BATCH_SIZE
        for batch in tqdm(batches, total=total, desc=f"epoch {epoch + 1}", disable=None):
            loss = loss_of(network, batch)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}: held-out loss {held_out_loss(network, held_out):.4f}", flush=True
        )
        state = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "epochs": epoch + 1,
            "recipe": recipe,
        }
        unfinished = checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, checkpoint)
    return network


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=460, help="of about 2,700 windows each")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, required=True, help="for shards and checkpoints")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    if args.shards <= N_HELD_OUT:
        parser.error(f"--shards must be more than {N_HELD_OUT}, which are held out")
    start = time.perf_counter()
    paths = write_shards(args.folder, args.shards, args.seed, args.workers)
    print(f"{len(paths)} shards after {time.perf_counter() - start:.0f} s", flush=True)
    torch.set_num_threads(args.workers)
    network = train(paths, args.epochs, args.seed, args.folder / "checkpoint.pt")
    save_file(arrays_of(network), args.output)
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB, "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
