"""The interface of all kinds of students, and what they are fitted to."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import check_integer, check_number
from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.students.prior import Prior
from distilts_forecaster.students.sums import WindowSums, make_solver
from distilts_forecaster.windows.batches import WindowSets
from distilts_forecaster.windows.source import Chunks

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Alignment",
    "Choice",
    "Epoch",
    "FitTask",
    "Fitted",
    "Frame",
    "NetworkSettings",
    "NetworkShape",
    "StudentSettings",
    "Training",
]


@dataclass(frozen=True)
class Choice:
    """Settings of the objective, given or chosen on held-out windows.

    ``alpha`` is the weight of the teacher, ``weights`` (T,) are of mean one, ``ridge`` is lambda,
    ``pooling`` kappa (infinite: one matrix for all components). ``error`` and
    ``error_without_teacher`` are the held-out mean squared errors of the choice, and of the best
    one without a teacher; None without held-out windows.
    """

    alpha: float
    weights: np.ndarray
    ridge: float
    prior: Prior
    pooling: float = np.inf
    error: float | None = None
    error_without_teacher: float | None = None

    def solve(self, sums: WindowSums) -> np.ndarray:
        """Solve the exact student, for as many steps as were summed: weights (K, L, T)."""
        return self.solver(sums)(sums)

    def solver(self, sums: WindowSums) -> Callable[[WindowSums], np.ndarray]:
        """Return what solves sums with the same Gram matrices, and any targets."""
        alpha_weights = self.alpha * self.weights[: sums.cross_target.shape[2]]
        prior, pooling = self.prior, self.pooling
        own = prior.transform(sums.pooled(pooling))
        solve = make_solver(own, alpha_weights, self.ridge, prior.power)

        def weights(other: WindowSums) -> np.ndarray:
            rest = other.pooled(pooling).residual(prior.weights[:, : len(alpha_weights)])
            crosses = (prior.basis.T @ rest.cross_target, prior.basis.T @ rest.cross_teacher)
            return prior.restore(solve(*crosses))

        return weights


@dataclass(frozen=True)
class Alignment:
    """How the student's hidden states are aligned with the teacher's.

    ``kind`` "auto" is factorised where both sides have hidden states, None never aligns. ``weight``
    is beta, ``size`` what the teacher's hidden states are reduced to.
    """

    kind: str | None = "auto"
    weight: float = 0.3
    size: int = 64

    @property
    def named(self) -> str:
        """The kind that is used where hidden states are aligned."""
        return "factorised" if self.kind in (None, "auto") else str(self.kind)


@dataclass(frozen=True)
class Frame:
    """What a forecaster needs besides its fitted numbers.

    ``quantile_levels`` are those that the student itself forecasts, ``period`` the season by which
    gaps are filled.
    """

    chunks: Chunks
    quantile_levels: tuple[float, ...] = (0.5,)
    scales: CovariateScales = field(default_factory=CovariateScales)
    period: int | None = None
    nonnegative: bool = False


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of what goes into a network and comes out of it: L, T, Q; covariates P, F, S."""

    input_chunk_length: int
    output_chunk_length: int
    n_quantiles: int = 1
    n_covariates: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class FitTask:
    """What a student is fitted to.

    ``trial`` and ``final`` are sums over the windows used while settings are chosen, and over all.
    ``holds_out``: a student is also fitted to the trial windows alone, and judged on the others.
    ``windows`` are for students that are trained on them.
    """

    frame: Frame
    choice: Choice
    trial: WindowSums
    final: WindowSums
    holds_out: bool
    windows: WindowSets | None = None
    alignment: Alignment = Alignment()
    random_state: int | None = None
    verbose: bool | None = False


@dataclass(frozen=True)
class Fitted:
    """A fitted student.

    ``trial`` is the student that was fitted without the held-out windows (``student`` if there are
    none), ``error`` its error on them, ``alignment`` how hidden states were aligned.
    """

    student: Forecaster
    trial: Forecaster
    error: float | None
    alignment: str | None = None
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None


@dataclass(frozen=True)
class Epoch:
    """What happened in one pass over the windows.

    Attributes
    ----------
    number : int
        From 1; 0 is the network before training.
    total, supervised, distillation, alignment : float
        Means over the epoch of the loss and of its terms, before they are weighted; on the
        scale of errors. NaN where a term cannot be computed.
    validation_error : float
        On the held-out windows, NaN without them: mean squared error in units of each
        series' variance; with quantiles, the pinball loss.
    learning_rate : float
        At the end.
    seconds : float
    """

    number: int
    total: float
    supervised: float
    distillation: float
    alignment: float
    validation_error: float
    learning_rate: float
    seconds: float


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise unless it is one of the known names."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")


@dataclass(frozen=True)
class Training:
    """How a student is trained by gradient: AdamW, in batches of windows.

    Parameters
    ----------
    learning_rate : float, default 1e-3
        At the start; see ``schedule``.
    batch_size : int, default 32
        Windows (with all their components) in a step.
    max_epochs : int, default 10
        Passes over the windows at most.
    patience : int, default 3
        Stop after so many epochs without a smaller error on held-out windows. The best
        epoch's weights are kept.
    schedule : {"cosine", "constant"}, default "cosine"
        Whether the learning rate falls to zero over ``max_epochs``.
    weight_decay : float, default 0.0
        Of AdamW, which is Adam at 0.
    gradient_clip : float, default 1.0
        Largest norm of a gradient; longer ones are shortened.
    max_windows_per_epoch : int or None, default None
        Windows drawn for an epoch, anew for each; None takes all of them.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        What products are computed in. "auto" is bfloat16 on a GPU that has it and
        float32 elsewhere: most CPUs only emulate it.
    device : str, default "auto"
        ``"cpu"``, ``"cuda"``, ...; "auto" is a GPU where there is one.

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of the above.

    Examples
    --------
    >>> Training(max_epochs=3).max_epochs
    3
    """

    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 10
    patience: int = 3
    schedule: str = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    max_windows_per_epoch: int | None = None
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("batch_size", "max_epochs", "patience"):
            check_integer(name, getattr(self, name))
        if self.max_windows_per_epoch is not None:
            check_integer("max_windows_per_epoch", self.max_windows_per_epoch)
        for name in ("learning_rate", "gradient_clip"):
            check_number(name, getattr(self, name), at_least=1e-12)
        check_number("weight_decay", self.weight_decay)
        _check_choice("schedule", self.schedule, ("cosine", "constant"))
        _check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        if not isinstance(self.device, str):
            raise TypeError(f'device must be a name such as "cpu" or "cuda", got {self.device!r}.')


class StudentSettings(ABC):
    """Settings of a kind of student, which know how it is fitted.

    ``is_matrix``: it is one matrix. Covariates are then fitted to its errors, it forecasts no
    quantiles itself, and it has no hidden states. ``is_exact``: it is solved from sums; other
    students are trained on the windows themselves. ``ridge`` is lambda of the exact solution,
    ``pooling`` kappa, "full" where all components share a matrix.
    """

    is_matrix: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    takes_covariates: ClassVar[bool] = True
    pooling: float | str = "full"
    ridge: float | str = "auto"

    def check_installed(self) -> None:  # noqa: B027 (most need nothing)
        """Raise ImportError, with the command that helps, where an extra is missing."""

    def probe(self, shape: NetworkShape, n_components: int) -> int | None:
        """Try the student before anything expensive is done; return the size of its hidden states.

        None if it has none; TypeError or ValueError if it cannot be fitted.
        """
        return None

    @abstractmethod
    def fit(self, task: FitTask) -> Fitted:
        """Fit the student; ValueError if there is no finite solution."""


class NetworkSettings(StudentSettings):
    """Settings of a student that is trained by gradient."""

    training: Training

    def check_installed(self) -> None:
        """Raise ImportError where torch is not installed."""
        if importlib.util.find_spec("torch") is None:
            raise ImportError(
                f"The student {type(self).__name__} is trained by torch, which is not "
                'installed: pip install "distilts-forecaster[torch]" '
                '("distilts-forecaster[darts-torch]" with Darts, which then needs Lightning too)'
            )

    @abstractmethod
    def make_network(self, shape: NetworkShape) -> nn.Module:
        """Build the network as it starts."""

    def start_from(self, network: nn.Module, exact: Callable[[], np.ndarray]) -> bool:
        """Start the network, if it can, at the exact solution ``exact()``: weights (K, L, T).

        Returns whether it did: then training must pay, or the network stays as it started.
        """
        return False

    @abstractmethod
    def to_forecaster(self, network: nn.Module, frame: Frame) -> Forecaster:
        """Return a forecaster that runs the fitted network."""
