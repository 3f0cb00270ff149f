"""The exact solution: weighted least squares from Gram sums.

With normalised contexts ``a`` and a student ``yS = W a``, the distillation loss
without alignment is a weighted least-squares problem for each horizon step::

    W_t = (G_y + alpha w_t G_T + lambda I)^-1 (R_y,t + alpha w_t R_T,t)

``G_y, R_y`` are the mean Gram matrix and cross products over the windows with
targets, ``G_T, R_T`` those over the windows with teacher labels. One pass over the
windows gives them; every (alpha, tau, lambda) afterwards costs a small solve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

__all__ = [
    "RIDGE_GRID",
    "HeldOut",
    "WindowSums",
    "solve",
    "solve_choice",
    "validation_errors",
]

#: Ridge strengths tried, relative to the mean power of the features.
RIDGE_GRID = tuple(float(r) for r in np.logspace(-3, 1.5, 10))

#: Keeps the system regular when every window is constant.
_TINY = 1e-9


class WindowSums:
    """Sums over windows from which any linear student can be solved.

    float32 rows go in, float64 sums are kept; the sums of two sets of windows add up (``first +
    second``), in any order. There are K matrices (1 if all components share one, else one for each
    component) of F features and T outputs.

    Attributes
    ----------
    gram_target, gram_teacher : shape (K, F, F)
    cross_target, cross_teacher : shape (K, F, T)
    power_target, known_target : shape (K, T)
        Sum of squared targets, and how many of them are known.
    n_target, n_teacher : float
        Rows summed (windows times components, divided by K); weights count as rows.
    """

    def __init__(self, n_matrices: int, n_features: int, n_outputs: int) -> None:
        self.gram_target = np.zeros((n_matrices, n_features, n_features))
        self.cross_target = np.zeros((n_matrices, n_features, n_outputs))
        self.power_target = np.zeros((n_matrices, n_outputs))
        self.known_target = np.zeros((n_matrices, n_outputs))
        self.n_target = 0.0
        self.gram_teacher = np.zeros_like(self.gram_target)
        self.cross_teacher = np.zeros_like(self.cross_target)
        self.n_teacher = 0.0

    def add(
        self,
        features: np.ndarray,
        targets: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        """Add rows ordered by window, then component: features (n, F), targets and labels (n, T).

        A target of NaN is missing: it counts as zero here, and is imputed before the sums are
        solved. ``weight`` (n,) says how much each row's target counts.
        """
        n_matrices = len(self.gram_target)
        n_rows = len(features) // n_matrices
        for k in range(n_matrices):
            rows = features[k::n_matrices]
            gram = None
            if labels is not None or weight is None:
                # A product of a matrix with its own transpose: BLAS does half the work.
                gram = rows.T @ rows
            if targets is not None:
                self._add_targets(k, rows, targets[k::n_matrices], gram, weight)
            if labels is not None:
                self.gram_teacher[k] += gram
                self.cross_teacher[k] += rows.T @ labels[k::n_matrices]
        if targets is not None:
            total = n_rows if weight is None else weight.sum(dtype=np.float64) / n_matrices
            self.n_target += float(total)
        self.n_teacher += n_rows if labels is not None else 0

    def _add_targets(
        self,
        k: int,
        rows: np.ndarray,
        targets: np.ndarray,
        gram: np.ndarray | None,
        weight: np.ndarray | None,
    ) -> None:
        """Add the rows of matrix k that have targets."""
        known = np.isfinite(targets)
        if not known.all():
            targets = np.where(known, targets, np.float32(0.0))
        if weight is not None:
            mine = weight[k :: len(self.gram_target), None]
            self.known_target[k] += (known * mine.astype(np.float64)).sum(axis=0)
            root = np.sqrt(mine)
            rows, targets = rows * root, targets * root
            gram = rows.T @ rows
        else:
            self.known_target[k] += known.sum(axis=0)
        self.gram_target[k] += gram
        self.cross_target[k] += rows.T @ targets
        self.power_target[k] += np.einsum("nt,nt->t", targets, targets, dtype=np.float64)

    def __add__(self, other: WindowSums) -> WindowSums:
        """Return the sums over both sets of windows."""
        total = WindowSums(*self.cross_target.shape)
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    def __mul__(self, weight: float) -> WindowSums:
        """Return the sums with every window counted ``weight`` times."""
        weighted = WindowSums(*self.cross_target.shape)
        for name, value in vars(self).items():
            setattr(weighted, name, value * weight)
        return weighted


@dataclass(frozen=True)
class HeldOut:
    """What is known of the held-out windows.

    ``sums`` are over the rows whose targets are whole. ``features`` (n_rows, F) and ``targets``
    (n_rows, T; NaN where missing) are the other rows, or some of them: each of these stands for
    ``row_weight`` rows.
    """

    sums: WindowSums
    features: np.ndarray
    targets: np.ndarray
    row_weight: float = 1.0

    @property
    def n_rows(self) -> float:
        """Rows (windows times components) that are held out."""
        return self.sums.n_target * len(self.sums.gram_target) + self.row_weight * len(self.targets)


def solve(sums: WindowSums, alpha_weights: np.ndarray, ridge: float) -> np.ndarray:
    """Solve the student of one setting exactly: (K, F, T).

    ``alpha_weights`` (T,) are ``alpha * w_t``, the weight of the teacher at each step; ``ridge`` is
    lambda.
    """
    solutions = np.empty_like(sums.cross_target)
    for k in range(len(solutions)):
        ((basis, values, target, teacher),) = _diagonalise(sums, k, [ridge])
        solutions[k] = basis @ _coefficients(values, target, teacher, alpha_weights)
    return solutions


def _diagonalise(
    sums: WindowSums, k: int, ridges: Sequence[float]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Diagonalise the problem of matrix k for each lambda.

    Yields ``(P, d, P' R_y, P' R_T)`` with ``P' (G_y + lambda I) P = I`` and
    ``P' G_T P = diag(d)``. The eigenbasis of G_y serves every lambda, which leaves
    one symmetric eigenproblem for each, and none without a teacher.
    """
    n_target, n_teacher = sums.n_target or 1.0, sums.n_teacher or 1.0
    powers, basis = _eigh(sums.gram_target[k] / n_target)
    mean_power = max(powers.mean(), _TINY)
    cross_target = basis.T @ (sums.cross_target[k] / n_target)
    cross_teacher = basis.T @ (sums.cross_teacher[k] / n_teacher)
    gram_teacher = basis.T @ (sums.gram_teacher[k] / n_teacher) @ basis
    for ridge in ridges:
        scale = 1.0 / np.sqrt(np.maximum(powers, 0.0) + ridge * mean_power)
        if sums.n_teacher:
            values, rotation = _eigh(scale[:, None] * gram_teacher * scale)
        else:
            values, rotation = np.zeros(len(scale)), np.eye(len(scale))
        rotation = scale[:, None] * rotation
        yield (
            basis @ rotation,
            np.maximum(values, 0.0),
            rotation.T @ cross_target,
            rotation.T @ cross_teacher,
        )


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues and eigenvectors. NumPy takes several times as long for 30 rows."""
    # SciPy before 1.13.1 fails with "evd" where there is one row.
    return eigh(matrix, check_finite=False, driver="evd" if len(matrix) > 1 else "ev")


def _coefficients(
    values: np.ndarray, target: np.ndarray, teacher: np.ndarray, alpha_weights: np.ndarray
) -> np.ndarray:
    """Solve in the common eigenbasis: a division for each feature and step."""
    return (target + alpha_weights * teacher) / (1.0 + values[:, None] * alpha_weights)


def validation_errors(
    sums: WindowSums,
    validation: HeldOut,
    alpha_weights: Sequence[np.ndarray],
    ridges: Sequence[float],
) -> np.ndarray:
    """Mean squared error on held-out windows for every setting: (len(ridges), len(alpha_weights)).

    ``sums`` are those of the windows fitted on. Candidates are ``alpha * w_t`` (T,), and lambda.
    """
    errors = np.zeros((len(ridges), len(alpha_weights)))
    whole, n_matrices = validation.sums, len(sums.gram_target)
    count = float(whole.known_target.sum())
    for k in range(n_matrices):
        power = whole.power_target[k].sum()
        features, targets = (
            rows[k::n_matrices] for rows in (validation.features, validation.targets)
        )
        known = np.isfinite(targets)
        count += float(known.sum()) * validation.row_weight
        for i, (basis, values, target, teacher) in enumerate(_diagonalise(sums, k, ridges)):
            gram = basis.T @ whole.gram_target[k] @ basis
            cross = basis.T @ whole.cross_target[k]
            rotated = features @ basis
            for j, candidate in enumerate(alpha_weights):
                fitted = _coefficients(values, target, teacher, candidate)
                errors[i, j] += np.vdot(fitted, gram @ fitted - 2.0 * cross) + power
                if len(targets):
                    missed = np.where(known, targets - rotated @ fitted, 0.0)
                    errors[i, j] += validation.row_weight * np.vdot(missed, missed)
    # A difference of large numbers: what is left of a perfect fit may be negative.
    return np.maximum(errors / max(count, 1.0), 0.0)


def solve_choice(sums: WindowSums, alpha: float, weights: np.ndarray, ridge: float) -> np.ndarray:
    """Solve for chosen settings, for as many steps as were summed: (K, F, T)."""
    return solve(sums, alpha * weights[: sums.cross_target.shape[2]], ridge)
