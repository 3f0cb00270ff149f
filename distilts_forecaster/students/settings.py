"""The kinds of students, with their settings. torch is imported when a network is fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.checks import check_integer, check_number
from distilts_forecaster.runtime.forward import SIZES
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.networks import NetworkForecaster
from distilts_forecaster.students.base import (
    FitTask,
    Fitted,
    Frame,
    NetworkSettings,
    NetworkShape,
    StudentSettings,
    Training,
)
from distilts_forecaster.students.sums import WindowSums

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MLP",
    "Copied",
    "DLinear",
    "ITransformer",
    "Linear",
    "Network",
]


def _check_training(value: Any) -> None:
    """Raise unless it is a Training."""
    if not isinstance(value, Training):
        raise TypeError(f"training must be Training(...), got {value!r}.")


@dataclass(frozen=True)
class Linear(StudentSettings):
    """The exact linear student: weighted least squares, solved in a second.

    Parameters
    ----------
    pooling : "auto", "full", "none" or float, default "auto"
        Which windows the matrix of a component is fitted to: those of all components alike
        ("full": one matrix), its own ("none"), or its own and those of all, which count kappa
        times as much (a number): ``(A_k + kappa mean(A)) W_k = B_k + kappa mean(B)``. "auto"
        chooses on held-out windows; many components (more than 16 of
        512 steps) always share one.
    ridge : float or "auto", default "auto"
        Strength of the penalty (lambda) on the distance from a prior, see
        :mod:`~distilts_forecaster.students.prior`, relative to the mean power of the normalised
        contexts. "auto" chooses on held-out windows.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong type, ``ridge`` is not positive, or ``pooling`` negative.

    Examples
    --------
    >>> Linear(ridge=0.01)
    Linear(pooling='auto', ridge=0.01)
    """

    is_matrix: ClassVar[bool] = True
    is_exact: ClassVar[bool] = True

    pooling: float | str = "auto"
    ridge: float | str = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.pooling, str):
            check_number("pooling", self.pooling)
        elif self.pooling not in ("auto", "full", "none"):
            raise ValueError(
                'pooling must be "auto", "full", "none" or a number of at least 0, got '
                f"{self.pooling!r}."
            )
        if isinstance(self.ridge, str):
            if self.ridge != "auto":
                raise ValueError(f'ridge must be "auto" or a positive number, got {self.ridge!r}.')
        else:
            check_number("ridge", self.ridge, at_least=1e-300)

    def fit(self, task: FitTask) -> Fitted:
        """Solve the least-squares problem."""
        student = self._solved(task.final, task)
        trial = self._solved(task.trial, task) if task.holds_out else student
        return Fitted(student, trial, task.choice.error)

    def _solved(self, sums: WindowSums, task: FitTask) -> LinearForecaster:
        """Return the student of the chosen settings."""
        choice, frame = task.choice, task.frame
        solution = choice.solve(sums)
        if not np.isfinite(solution).all():
            raise ValueError(
                "The least-squares problem has no finite solution: the series' values or the "
                f"teacher's forecasts are too large for float32, or distillation_weight="
                f"{choice.alpha:g} or ridge={choice.ridge:g} is too extreme."
            )
        shift = frame.chunks.output_chunk_shift
        weights = solution.astype(np.float32)
        return LinearForecaster(weights, shift, frame.period, frame.nonnegative)


class _Trained(NetworkSettings):
    """What networks of this package and the user's own have in common."""

    def to_forecaster(self, network: nn.Module, frame: Frame) -> Forecaster:
        """Return a NumPy forecaster that runs the fitted network."""
        kind = type(self).__name__.lower()
        state = network.state_dict()
        return NetworkForecaster(
            kind=kind,
            sizes={name: getattr(self, name) for name in SIZES[kind]},
            arrays={name: v.float().cpu().numpy().copy() for name, v in state.items()},
            input_chunk_length=frame.chunks.input_chunk_length,
            output_chunk_length=frame.chunks.output_chunk_length,
            output_chunk_shift=frame.chunks.output_chunk_shift,
            quantile_levels=frame.quantile_levels,
            scales=frame.scales,
            period=frame.period,
            nonnegative=frame.nonnegative,
        )

    def probe(self, shape: NetworkShape, n_components: int) -> int | None:
        """Build the network and try it on random windows."""
        from distilts_forecaster.students.fitting import probe_network

        return probe_network(self, shape, n_components)

    def fit(self, task: FitTask) -> Fitted:
        """Train the network, stopped early on the held-out windows, then on all windows."""
        from distilts_forecaster.students.fitting import fit_network

        return fit_network(self, task)


@dataclass(frozen=True)
class DLinear(_Trained):
    """Decomposition and two linear maps, trained by gradient; folds to one matrix.

    Parameters
    ----------
    kernel_size : int or None, default 25
        Steps of the moving average, odd. None does not decompose: the exact student's problem,
        solved by gradient.
    training : Training

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of the above.

    Examples
    --------
    >>> DLinear(kernel_size=49).kernel_size
    49
    """

    is_matrix: ClassVar[bool] = True

    kernel_size: int | None = 25
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kernel_size is not None:
            check_integer("kernel_size", self.kernel_size)
            if self.kernel_size % 2 == 0:
                raise ValueError(
                    f"kernel_size must be odd, got {self.kernel_size}; try {self.kernel_size + 1}."
                )
        _check_training(self.training)

    def make_network(self, shape: NetworkShape) -> nn.Module:
        """Build the network as it starts."""
        from distilts_forecaster.students.networks import DLinearNetwork

        return DLinearNetwork(shape.input_chunk_length, shape.output_chunk_length, self.kernel_size)

    def to_forecaster(self, network: nn.Module, frame: Frame) -> Forecaster:
        """Fold the network into one matrix."""
        folded = network.fold().float().numpy()[None]  # type: ignore[operator]
        shift = frame.chunks.output_chunk_shift
        return LinearForecaster(folded, shift, frame.period, frame.nonnegative)


@dataclass(frozen=True)
class ITransformer(_Trained):
    """A transformer over components as tokens: the paper's DistilTS-T.

    The paper's sizes are the defaults but for the width; its own is ``d_model=512,
    d_ff=2048``.

    Parameters
    ----------
    d_model : int, default 128
    n_heads : int, default 4
    d_ff : int, default 256
    n_layers : int, default 1
    dropout : float, default 0.1
    training : Training

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of the above.

    Examples
    --------
    >>> ITransformer(d_model=512, n_heads=8, d_ff=2048).n_layers
    1
    """

    d_model: int = 128
    n_heads: int = 4
    d_ff: int = 256
    n_layers: int = 1
    dropout: float = 0.1
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("d_model", "n_heads", "d_ff", "n_layers"):
            check_integer(name, getattr(self, name))
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}."
            )
        check_number("dropout", self.dropout, below=1.0)
        _check_training(self.training)

    def make_network(self, shape: NetworkShape) -> nn.Module:
        """Build the network as it starts."""
        from distilts_forecaster.students.networks import ITransformerNetwork

        return ITransformerNetwork(
            shape, self.d_model, self.n_heads, self.d_ff, self.n_layers, self.dropout
        )


@dataclass(frozen=True)
class MLP(_Trained):
    """A residual MLP over the lookback, beside a linear map; takes covariates.

    The linear map starts at the exact student, the residual at zero. The epoch with the smallest
    held-out error is kept if that is smaller than at the start beyond noise; else the start is.

    Parameters
    ----------
    hidden_size : int, default 128
    n_blocks : int, default 2
    dropout : float, default 0.1
    training : Training

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of the above.

    Examples
    --------
    >>> MLP(hidden_size=64).n_blocks
    2
    """

    hidden_size: int = 128
    n_blocks: int = 2
    dropout: float = 0.1
    training: Training = field(default_factory=lambda: Training(learning_rate=3e-4))

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("hidden_size", "n_blocks"):
            check_integer(name, getattr(self, name))
        check_number("dropout", self.dropout, below=1.0)
        _check_training(self.training)

    def make_network(self, shape: NetworkShape) -> nn.Module:
        """Build the network as it starts."""
        from distilts_forecaster.students.networks import MLPNetwork

        return MLPNetwork(shape, self.hidden_size, self.n_blocks, self.dropout)

    def start_from(self, network: nn.Module, exact: Callable[[], np.ndarray]) -> bool:
        """Set the linear map to the exact solution."""
        network.start_from(exact()[0])  # type: ignore[operator]
        return True


@dataclass(frozen=True)
class Copied:
    """A function that builds copies of a module: each ``fit`` starts from the same weights."""

    module: Any

    def __call__(self, *sizes: int) -> Any:
        """Return a copy, whatever the sizes."""
        return copy.deepcopy(self.module)


@dataclass(frozen=True)
class Network(_Trained):
    """Your own ``torch.nn.Module`` as the student.

    Parameters
    ----------
    build : callable
        ``build(input_chunk_length, output_chunk_length, n_quantiles) -> nn.Module``, called
        by each ``fit``. The module's ``forward(context)`` gets (B, L, C), each window and
        component of mean 0 and standard deviation 1, and returns the forecast on that scale,
        (B, T, C) or (B, T, C, Q) with quantiles; or a tuple of it and hidden states
        (B, C, d), with the attribute ``hidden_size`` = d, which alignment acts on. A model
        with a network of your own is loaded with ``DistilledForecaster.load(path,
        trusted=True)``, and can only be saved if ``build`` can be pickled (no lambda).
    training : Training

    Raises
    ------
    TypeError
        If ``build`` is not callable, or is a module.

    Examples
    --------
    >>> import torch
    >>> class LastValue(torch.nn.Module):
    ...     def __init__(self, input_chunk_length, output_chunk_length, n_quantiles):
    ...         super().__init__()
    ...         self.n_steps = output_chunk_length
    ...         self.gain = torch.nn.Parameter(torch.ones(()))
    ...     def forward(self, context):
    ...         return self.gain * context[:, -1:].expand(-1, self.n_steps, -1)
    >>> student = Network(LastValue)
    """

    takes_covariates: ClassVar[bool] = False

    build: Callable[[int, int, int], nn.Module]
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Check the settings."""
        if not callable(self.build) or (
            hasattr(self.build, "state_dict") and not isinstance(self.build, type)
        ):
            raise TypeError(
                "Network needs a function or class that builds the module, "
                f"(input_chunk_length, output_chunk_length, n_quantiles) -> nn.Module, got "
                f"{self.build!r}. Pass a module as it is as the student: student=module."
            )
        _check_training(self.training)

    def make_network(self, shape: NetworkShape) -> nn.Module:
        """Call the user's function."""
        from torch import nn

        sizes = (shape.input_chunk_length, shape.output_chunk_length, shape.n_quantiles)
        network = self.build(*sizes)
        if not isinstance(network, nn.Module):
            raise TypeError(
                "The function in Network must build a torch.nn.Module, got "
                f"{type(network).__name__}."
            )
        return network

    def to_forecaster(self, network: nn.Module, frame: Frame) -> Forecaster:
        """Wrap the user's module: it forecasts with torch."""
        from distilts_forecaster.students.module import ModuleForecaster

        return ModuleForecaster(network, frame)
