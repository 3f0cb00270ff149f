"""The exact solution: weighted least squares from Gram sums.

With normalised contexts ``a`` and a student ``yS = W a``, the distillation loss
without alignment is a weighted least-squares problem for each horizon step::

    W_t = (G_y + alpha w_t G_T + lambda I)^-1 (R_y,t + alpha w_t R_T,t)

``G_y, R_y`` are the mean Gram matrix and cross products over the windows with
targets, ``G_T, R_T`` those over the windows with teacher labels. One pass over the
windows gives them; every (alpha, tau, lambda) afterwards costs a small solve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import eigh

__all__ = [
    "RIDGE_GRID",
    "HeldOut",
    "WindowSums",
    "eigenbasis",
    "make_solver",
    "solve",
    "validation_errors",
]

#: Ridge strengths tried, relative to the mean power of the features.
RIDGE_GRID = tuple(float(r) for r in np.logspace(-3, 1.8, 9))

#: Keeps the system regular when every window is constant.
_TINY = 1e-9


#: The arrays of sums whose last axis is the outputs.
_OVER_OUTPUTS = ("cross_target", "power_target", "known_target", "cross_teacher")


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
        total = copy.copy(self)
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    def __mul__(self, weight: float) -> WindowSums:
        """Return the sums with every window counted ``weight`` times."""
        return self._mapped(lambda value: value * weight)

    def _mapped(self, change: Callable[[Any], Any]) -> WindowSums:
        """Return the sums with every array, and every count, changed."""
        changed = copy.copy(self)
        for name, value in vars(self).items():
            setattr(changed, name, change(value))
        return changed

    def pooled(self, kappa: float) -> WindowSums:
        """Return sums in which each component counts the mean of all ``kappa`` times as well.

        ``(A_k + kappa mean(A)) / (1 + kappa)``, and the cross products alike; infinity is one
        matrix for all components.
        """
        n_matrices = len(self.gram_target)
        if np.isinf(kappa):
            together = self._mapped(
                lambda v: v.sum(axis=0, keepdims=True) if isinstance(v, np.ndarray) else v
            )
            together.n_target *= n_matrices
            together.n_teacher *= n_matrices
            return together
        return self._mapped(
            lambda v: (
                (v + kappa * v.mean(axis=0)) / (1.0 + kappa) if isinstance(v, np.ndarray) else v
            )
        )

    def thinned(self, steps: slice) -> WindowSums:
        """Return the sums of some steps: neighbouring ones say nearly the same."""
        other = copy.copy(self)
        for name in _OVER_OUTPUTS:
            setattr(other, name, getattr(self, name)[..., steps])
        return other

    def beside(self, others: Sequence[WindowSums]) -> WindowSums:
        """Return the sums with the outputs of others, of the same features, beside its own."""
        wide = copy.copy(self)
        for name in _OVER_OUTPUTS:
            parts = [getattr(one, name) for one in (self, *others)]
            setattr(wide, name, np.concatenate(parts, axis=-1))
        return wide

    def merged(self, alpha_weights: np.ndarray) -> WindowSums:
        """Return one set of windows, targets and labels alike, with their weights (T,).

        The Gram matrix has the weights' mean: one matrix serves all steps and every lambda.
        """
        one = copy.copy(self)
        n_target, n_teacher = self.n_target or 1.0, self.n_teacher or 1.0
        share = alpha_weights.mean() / n_teacher
        one.gram_target = self.gram_target / n_target + share * self.gram_teacher
        labels = self.cross_teacher * (alpha_weights / n_teacher)
        one.cross_target = self.cross_target / n_target + labels
        one.n_target, one.n_teacher = 1.0, 0.0
        return one

    def residual(self, weights: np.ndarray) -> WindowSums:
        """Return the sums with ``target - features @ weights`` (F, T) in place of each target."""
        rest = copy.copy(self)
        explained = self.gram_target @ weights
        rest.cross_target = self.cross_target - explained
        rest.power_target = self.power_target + np.einsum(
            "ft,kft->kt", weights, explained - 2.0 * self.cross_target
        )
        rest.cross_teacher = self.cross_teacher - self.gram_teacher @ weights
        return rest

    def projected(self, basis: np.ndarray, like: WindowSums | None = None) -> WindowSums:
        """Return the sums with ``features @ basis`` (F, r) in place of the features.

        ``like`` are sums with the same Gram matrices that were projected before.
        """
        other = copy.copy(self)
        other.cross_target, other.cross_teacher = (
            basis.T @ self.cross_target,
            basis.T @ self.cross_teacher,
        )
        if like is None:
            other.gram_target = basis.T @ self.gram_target @ basis
            other.gram_teacher = (
                basis.T @ self.gram_teacher @ basis
                if self.n_teacher
                else np.zeros_like(other.gram_target)
            )
        else:
            other.gram_target, other.gram_teacher = like.gram_target, like.gram_teacher
        return other


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

    def pooled(self) -> HeldOut:
        """Return the same rows, as of one matrix for all components."""
        return replace(self, sums=self.sums.pooled(np.inf))

    def thinned(self, steps: slice) -> HeldOut:
        """Return some steps of the same rows."""
        return replace(self, sums=self.sums.thinned(steps), targets=self.targets[:, steps])

    @property
    def n_rows(self) -> float:
        """Rows (windows times components) that are held out."""
        return self.sums.n_target * len(self.sums.gram_target) + self.row_weight * len(self.targets)


def solve(
    sums: WindowSums, alpha_weights: np.ndarray, ridge: float, power: float | None = None
) -> np.ndarray:
    """Solve the student of one setting exactly: (K, F, T).

    ``alpha_weights`` (T,) are ``alpha * w_t``, the weight of the teacher at each step; ``ridge`` is
    lambda, relative to ``power``, by default the mean power of the features.
    """
    solver = make_solver(sums, alpha_weights, ridge, power)
    return solver(sums.cross_target, sums.cross_teacher)


def make_solver(
    sums: WindowSums, alpha_weights: np.ndarray, ridge: float, power: float | None = None
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of cross products with targets and labels (K, F, T); see :func:`solve`."""
    n_target, n_teacher = sums.n_target or 1.0, sums.n_teacher or 1.0
    parts = [next(_diagonalise(sums, k, [ridge], power)) for k in range(len(sums.gram_target))]

    def solve_for(cross_target: np.ndarray, cross_teacher: np.ndarray) -> np.ndarray:
        solutions = np.empty_like(cross_target)
        for k, (basis, values, *_) in enumerate(parts):
            target = basis.T @ (cross_target[k] / n_target)
            teacher = basis.T @ (cross_teacher[k] / n_teacher)
            solutions[k] = basis @ _coefficients(values, target, teacher, alpha_weights)
        return solutions

    return solve_for


def _diagonalise(
    sums: WindowSums, k: int, ridges: Sequence[float], power: float | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Diagonalise the problem of matrix k for each lambda.

    Yields ``(P, d, P' R_y, P' R_T)`` with ``P' (G_y + lambda I) P = I`` and
    ``P' G_T P = diag(d)``. The eigenbasis of G_y serves every lambda, which leaves
    one symmetric eigenproblem for each, and none without a teacher.
    """
    n_target, n_teacher = sums.n_target or 1.0, sums.n_teacher or 1.0
    powers, basis = eigenbasis(sums.gram_target[k] / n_target)
    mean_power = max(powers.mean() if power is None else power, _TINY)
    cross_target = basis.T @ (sums.cross_target[k] / n_target)
    cross_teacher = basis.T @ (sums.cross_teacher[k] / n_teacher)
    if sums.n_teacher:
        gram_teacher = basis.T @ (sums.gram_teacher[k] / n_teacher) @ basis
    for ridge in ridges:
        scale = 1.0 / np.sqrt(np.maximum(powers, 0.0) + ridge * mean_power)
        if not sums.n_teacher:
            column = scale[:, None]
            yield basis * scale, np.zeros(len(scale)), column * cross_target, column * cross_teacher
            continue
        values, rotation = eigenbasis(scale[:, None] * gram_teacher * scale)
        rotation = scale[:, None] * rotation
        yield (
            basis @ rotation,
            np.maximum(values, 0.0),
            rotation.T @ cross_target,
            rotation.T @ cross_teacher,
        )


def eigenbasis(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, increasing, and eigenvectors as columns.

    NumPy takes several times as long for 30 rows.
    """
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
    power: float | None = None,
    n_groups: int = 1,
) -> np.ndarray:
    """Mean squared error on held-out windows for every setting: (groups, ridges, alpha_weights).

    ``sums`` are those of the windows fitted on. Candidates are ``alpha * w_t`` (T,), and lambda,
    relative to ``power``. The outputs are those of ``n_groups`` students, one beside the other.
    """
    errors = np.zeros((n_groups, len(ridges), len(alpha_weights)))
    whole, n_matrices = validation.sums, len(sums.gram_target)
    every = [np.tile(candidate, n_groups) for candidate in alpha_weights]
    count = float(whole.known_target.sum())
    # Few solutions are brought back to the features, instead of the features to the basis.
    few = sum(map(len, every)) < sums.gram_target.shape[1]

    def by_group(values: np.ndarray) -> np.ndarray:
        return values.reshape(n_groups, -1).sum(axis=1)

    for k in range(n_matrices):
        power_target = by_group(whole.power_target[k])
        features, targets = (
            rows[k::n_matrices] for rows in (validation.features, validation.targets)
        )
        known = np.isfinite(targets)
        count += float(known.sum()) * validation.row_weight
        for i, (basis, values, target, teacher) in enumerate(_diagonalise(sums, k, ridges, power)):
            gram, cross, rotated = whole.gram_target[k], whole.cross_target[k], features
            if not few:
                gram, cross, rotated = basis.T @ gram @ basis, basis.T @ cross, features @ basis
            for j, candidate in enumerate(every):
                fitted = _coefficients(values, target, teacher, candidate)
                if few:
                    fitted = basis @ fitted
                missed = np.einsum("ft,ft->t", fitted, gram @ fitted - 2.0 * cross)
                errors[:, i, j] += by_group(missed) + power_target
                if len(targets):
                    missed = np.where(known, targets - rotated @ fitted, 0.0)
                    power_missed = by_group((missed**2).sum(axis=0))
                    errors[:, i, j] += validation.row_weight * power_missed
    # A difference of large numbers: what is left of a perfect fit may be negative.
    return np.maximum(errors * n_groups / max(count, 1.0), 0.0)
