"""Pre-train the bundled teacher on synthetic windows: ``python -m pretraining.train``.

1. Describe a sample of windows; cluster the descriptions (k-means).
2. Accumulate the Gram sums of every cluster, with the linear student's own code.
3. Solve each with the student's solver, shrunk towards the fit to all windows.
4. Keep the horizon patterns that carry the forecasts (a common low-rank basis).
5. Measure residual quantiles and the best gate temperature on fresh windows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import eigh
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from tqdm import tqdm

from distilts_forecaster.students.linear import WindowSums, solve
from distilts_forecaster.teachers.experts import WEIGHTS, ExpertsTeacher, describe, normalise
from pretraining.corpus import window_batches

CONTEXT, HORIZON = 512, 192
LEVELS = np.linspace(0.1, 0.9, 9)
#: Targets further than this many deviations from the context's mean are cut.
CLIP = 6.0


def prepare(contexts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalise a batch and leave out constant contexts."""
    rows, mean, scale = normalise(contexts)
    target = np.clip((targets - mean) / scale, -CLIP, CLIP).astype(np.float32)
    keep = rows.any(axis=1) & np.isfinite(target).all(axis=1)
    return rows[keep], target[keep]


def train(
    n_batches: int,
    n_experts: int,
    rank: int,
    seed: int,
    shrinkage: float,
    ridge: float,
    n_sampled: int = 25,
) -> dict[str, np.ndarray]:
    """Return the arrays of a weights file; clusters are found on ``n_sampled`` batches."""
    sample = [prepare(*batch)[0] for batch in window_batches(n_sampled, CONTEXT, HORIZON, seed + 1)]
    described = np.concatenate([describe(rows) for rows in sample])
    pca = PCA(48, random_state=seed).fit(described)
    projected = pca.transform(described)
    clusters = KMeans(n_experts, n_init=2, random_state=seed).fit(projected)

    sums = [WindowSums(1, CONTEXT, HORIZON) for _ in range(n_experts)]
    batches = window_batches(n_batches, CONTEXT, HORIZON, seed)
    for contexts, targets in tqdm(batches, total=n_batches, desc="windows", disable=None):
        rows, target = prepare(contexts, targets)
        member = clusters.predict(pca.transform(describe(rows)))
        for expert in np.unique(member):
            mine = member == expert
            sums[expert].add(rows[mine], truth=target[mine])

    common = sum(sums[1:], start=sums[0])
    common = common * (shrinkage / common.n_truth)
    no_teacher = np.zeros(HORIZON)
    experts = np.concatenate([solve(own + common, no_teacher, ridge) for own in sums])
    # Directions over the horizon in which the experts' forecasts have most power.
    power = sum(w.T @ own.gram_truth[0] @ w for w, own in zip(experts, sums, strict=True))
    eigenvalues, vectors = eigh(power)
    basis = vectors[:, ::-1][:, :rank]
    print(f"rank {rank} keeps {1 - eigenvalues[:-rank].sum() / eigenvalues.sum():.5f} of the power")
    low_rank = (experts @ basis).transpose(1, 0, 2).reshape(CONTEXT, n_experts * rank)
    return {
        "experts": low_rank.astype(np.float16),
        "basis": basis.T.astype(np.float32),
        "gate_projection": pca.components_.T.astype(np.float16),
        "gate_centre": pca.mean_.astype(np.float32),
        "gate_centroids": clusters.cluster_centers_.astype(np.float32),
        "gate_temperature": np.array([1.0], dtype=np.float32),
        "residual_quantiles": np.zeros((n_experts, HORIZON, len(LEVELS)), dtype=np.float16),
        "quantile_levels": LEVELS.astype(np.float32),
    }


def calibrate(arrays: dict[str, np.ndarray], path: Path, seed: int, n_batches: int = 15) -> None:
    """Choose the gate's temperature and measure residual quantiles on fresh windows."""
    batches = [prepare(*b) for b in window_batches(n_batches, CONTEXT, HORIZON, seed + 2)]
    rows, target = (np.concatenate(part) for part in zip(*batches, strict=True))
    errors = {}
    for temperature in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        arrays["gate_temperature"][:] = temperature
        save_file(arrays, path)
        teacher = ExpertsTeacher(path)
        forecast = np.concatenate(
            [teacher.point(part, teacher.gate(part)) for part in np.array_split(rows, 30)]
        )
        errors[temperature] = np.abs(forecast - target).mean()
    print("absolute error by temperature", {t: round(float(e), 4) for t, e in errors.items()})
    arrays["gate_temperature"][:] = min(errors, key=errors.__getitem__)
    save_file(arrays, path)
    teacher = ExpertsTeacher(path)
    gate = np.concatenate([teacher.gate(part) for part in np.array_split(rows, 30)])
    residual = target - np.concatenate(
        [
            teacher.point(p, g)
            for p, g in zip(np.array_split(rows, 30), np.array_split(gate, 30), strict=True)
        ]
    )
    common = np.quantile(residual, LEVELS, axis=0).T
    member = gate.argmax(axis=1)
    for expert in range(gate.shape[1]):
        mine = residual[member == expert]
        own = np.quantile(mine, LEVELS, axis=0).T if len(mine) else common
        share = len(mine) / (len(mine) + 30)
        measured = share * own + (1 - share) * common
        # A running mean over the horizon: quantiles of a few windows are noisy.
        padded = np.pad(measured, ((8, 8), (0, 0)), mode="edge")
        arrays["residual_quantiles"][expert] = np.stack(
            [padded[t : t + 17].mean(axis=0) for t in range(HORIZON)]
        )
    save_file(arrays, path)


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=1200, help="of about 1,800 windows each")
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument(
        "--shrinkage", type=float, default=300.0, help="windows' worth of the common fit"
    )
    parser.add_argument("--ridge", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    start = time.perf_counter()
    arrays = train(args.batches, args.experts, args.rank, args.seed, args.shrinkage, args.ridge)
    calibrate(arrays, args.output, args.seed)
    megabytes = args.output.stat().st_size / 1e6
    print(f"{args.output}: {megabytes:.1f} MB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
