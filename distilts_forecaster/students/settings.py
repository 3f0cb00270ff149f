"""Settings and records of students that are trained by gradient; imports no torch itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MLP", "DLinear", "Epoch", "ITransformer", "Network", "Training"]


def _check_integer(name: str, value: Any, at_least: int = 1) -> None:
    """Raise unless it is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer of at least {at_least}, got {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")


def _check_number(name: str, value: Any, above: float, below: float = math.inf) -> None:
    """Raise unless it is a number between two others, the lower one allowed."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not above <= float(value) < below:
        raise ValueError(f"{name} must be at least {above:g} and below {below:g}, got {value!r}.")


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
            _check_integer(name, getattr(self, name))
        if self.max_windows_per_epoch is not None:
            _check_integer("max_windows_per_epoch", self.max_windows_per_epoch)
        for name in ("learning_rate", "gradient_clip"):
            _check_number(name, getattr(self, name), above=1e-12)
        _check_number("weight_decay", self.weight_decay, above=0.0)
        _check_choice("schedule", self.schedule, ("cosine", "constant"))
        _check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        if not isinstance(self.device, str):
            raise TypeError(f'device must be a name such as "cpu" or "cuda", got {self.device!r}.')


def _check_training(value: Any) -> None:
    """Raise unless it is a Training."""
    if not isinstance(value, Training):
        raise TypeError(f"training must be Training(...), got {value!r}.")


@dataclass(frozen=True)
class DLinear:
    """Decomposition and two linear maps, trained by gradient; folds to one matrix.

    Parameters
    ----------
    kernel_size : int or None, default 25
        Steps of the moving average, odd. None does not decompose: what is trained is then
        the exact student's problem, by gradient.
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

    kernel_size: int | None = 25
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kernel_size is not None:
            _check_integer("kernel_size", self.kernel_size)
            if self.kernel_size % 2 == 0:
                raise ValueError(
                    f"kernel_size must be odd, got {self.kernel_size}; try {self.kernel_size + 1}."
                )
        _check_training(self.training)


@dataclass(frozen=True)
class ITransformer:
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
            _check_integer(name, getattr(self, name))
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}."
            )
        _check_number("dropout", self.dropout, above=0.0, below=1.0)
        _check_training(self.training)


@dataclass(frozen=True)
class MLP:
    """A residual MLP over the lookback, beside a linear map; takes covariates.

    The linear map starts at the exact student, the residual at nothing: training keeps
    what improves the error on held-out windows.

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
            _check_integer(name, getattr(self, name))
        _check_number("dropout", self.dropout, above=0.0, below=1.0)
        _check_training(self.training)


@dataclass(frozen=True)
class Copied:
    """A function that builds copies of a module: each ``fit`` starts from the same weights."""

    module: Any

    def __call__(self, *sizes: int) -> Any:
        """Return a copy, whatever the sizes."""
        return copy.deepcopy(self.module)


@dataclass(frozen=True)
class Network:
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
