"""Run a fitted student: NumPy and safetensors only.

Whatever a linear student was fitted with (instance normalisation, a teacher,
standardised series) has been folded into one matrix, so that a forecast is
``mean + (context - mean) @ weights``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distilts_forecaster.effects import Covariates, Effects
from distilts_forecaster.inference import Forecaster
from distilts_forecaster.quantiles import Spread

__all__ = ["Forecaster", "LinearForecaster", "load_student", "save_student"]

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class LinearForecaster(Forecaster):
    """A fitted linear student, folded for inference.

    Attributes
    ----------
    weights : numpy.ndarray of float32, shape (K, L, T)
        One matrix for all components (K = 1) or one for each (K = C).
    output_chunk_shift : int
        Steps between the end of the context and the first forecast step.
    period : int or None
    nonnegative : bool
    spread : Spread or None
    effects : Effects or None
        What covariates add.

    Examples
    --------
    >>> import numpy as np
    >>> last_value = np.zeros((1, 4, 2), dtype=np.float32)
    >>> last_value[0, -1] = 1.0
    >>> student = LinearForecaster(last_value)
    >>> student.predict(np.array([1.0, 2.0, 3.0, 4.0]))
    array([4., 4.])
    """

    weights: np.ndarray
    output_chunk_shift: int = 0
    period: int | None = None
    nonnegative: bool = False
    spread: Spread | None = None
    effects: Effects | None = None

    def __post_init__(self) -> None:
        """Check the shape."""
        if self.weights.ndim != 3:
            raise ValueError(
                f"A linear student needs weights of shape (K, L, T), got {self.weights.shape}."
            )

    @property
    def input_chunk_length(self) -> int:  # type: ignore[override]
        """Length of the context, L."""
        return self.weights.shape[1]

    @property
    def output_chunk_length(self) -> int:  # type: ignore[override]
        """Steps forecast at once, T."""
        return self.weights.shape[2]

    @property
    def n_components(self) -> int | None:  # type: ignore[override]
        """Components that a window must have, None for any."""
        shared = 1 if self.effects is None else len(self.effects.weights)
        n = max(len(self.weights), shared)
        return None if n == 1 else n

    @property
    def n_parameters(self) -> int:  # type: ignore[override]
        """Number of fitted numbers."""
        of_covariates = 0 if self.effects is None else self.effects.weights.size
        return self.weights.size + of_covariates

    @property
    def n_covariates(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Past, future and static covariates that forecasts need."""
        return (0, 0, 0) if self.effects is None else self.effects.sizes()

    @cached_property
    def matrix(self) -> np.ndarray:
        """The matrix by which covariates are expected: (L, T), the components' mean."""
        return self.weights.mean(axis=0)

    def with_spread(self, spread: Spread) -> LinearForecaster:
        """Return the same student with other quantiles of its errors."""
        return replace(self, spread=spread)

    def _step(self, windows: np.ndarray, covariates: Covariates) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts."""
        n, length, components = windows.shape
        if n == 1 and components == 1 and self.effects is None:
            return self._step_single(windows[0, :, 0])[None, :, None]
        rows = windows.transpose(0, 2, 1)  # (N, C, L): sums along contiguous memory
        mean = rows.mean(axis=2, keepdims=True)
        # Subtracted in float64 and rounded on the way out, in one pass.
        centred = np.empty(rows.shape, dtype=np.float32)
        np.subtract(rows, mean, out=centred, casting="same_kind")
        if self.weights.shape[0] == 1:
            steps = centred.reshape(n * components, length) @ self.weights[0]
            steps = steps.reshape(n, components, -1)
        else:
            steps = (centred.transpose(1, 0, 2) @ self.weights).transpose(1, 0, 2)
        forecast = (mean + steps).transpose(0, 2, 1)
        if self.effects is None:
            return forecast
        return forecast + self.effects.apply(covariates, self.matrix, windows.std(axis=1))

    def _step_single(self, window: np.ndarray) -> np.ndarray:
        """Forecast T steps for one univariate context: the shortest road there is."""
        mean = window.sum() / len(window)
        return mean + (window - mean).astype(np.float32) @ self.weights[0]


def save_student(student: LinearForecaster, directory: str | os.PathLike) -> None:
    """Write a student as ``model.safetensors`` and ``config.json``.

    Parameters
    ----------
    student : LinearForecaster
        The student to save.
    directory : path-like
        Created if it does not exist.

    Raises
    ------
    TypeError
        If the student is a network: those are saved with the model, by ``model.save``.
    """
    from safetensors.numpy import save_file

    if not isinstance(student, LinearForecaster):
        raise TypeError(
            "Only students that are one matrix (linear, dlinear) can be saved by themselves, got "
            f"{type(student).__name__}. Save the model: model.save(path)."
        )

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": FORMAT_VERSION,
        "student": "linear",
        "input_chunk_length": student.input_chunk_length,
        "output_chunk_length": student.output_chunk_length,
        "output_chunk_shift": student.output_chunk_shift,
    }
    config |= {"period": student.period, "nonnegative": student.nonnegative}
    arrays = {"weights": student.weights}
    if student.spread is not None:
        config["quantile_levels"] = list(student.spread.levels)
        config["persistence"] = student.spread.persistence
        arrays["offsets"] = student.spread.offsets
    if student.effects is not None:
        arrays |= {
            f"effects.{name}": np.asarray(value)
            for name, value in vars(student.effects).items()
            if value is not None
        }
    save_file(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()},
        target / WEIGHTS_FILE,
    )
    (target / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_student(directory: str | os.PathLike) -> LinearForecaster:
    """Load a student that :func:`save_student` wrote.

    Parameters
    ----------
    directory : path-like
        A directory with ``model.safetensors`` and ``config.json``.

    Returns
    -------
    LinearForecaster

    Raises
    ------
    ValueError
        If the directory does not hold a student of a known format, or its arrays
        are not what its configuration says, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    source = Path(directory)
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (source / name).is_file()]
    if missing:
        raise ValueError(f"{source} is not a saved student: {' and '.join(missing)} missing.")
    try:
        config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
        arrays = load_file(source / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{source} is not a saved student: {error}") from error
    expected_keys = {"input_chunk_length", "output_chunk_length", "output_chunk_shift"}
    if not isinstance(config, dict) or not expected_keys <= config.keys():
        raise ValueError(f"{source / CONFIG_FILE} must hold {sorted(expected_keys)}.")
    known = {"format_version": FORMAT_VERSION, "student": "linear"}
    for key, value in known.items():
        if config.get(key) != value:
            raise ValueError(
                f"{source / CONFIG_FILE} has {key}={config.get(key)!r}; this version reads "
                f"{value!r}."
            )
    if "weights" not in arrays or not arrays.keys() <= _ARRAYS:
        raise ValueError(f"{source / WEIGHTS_FILE} holds {sorted(arrays)}, not weights.")
    finite = (a for name, a in arrays.items() if name != "effects.knots")  # NaN is no knot
    if arrays["weights"].dtype != np.float32 or not all(np.isfinite(a).all() for a in finite):
        raise ValueError(f"{source / WEIGHTS_FILE} must hold finite float32 numbers.")
    try:
        student = _build(config, arrays)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{source} is not a saved student: {error!r}") from error
    shape = (student.input_chunk_length, student.output_chunk_length)
    if shape != (config["input_chunk_length"], config["output_chunk_length"]):
        raise ValueError(f"{source}: the weights are {shape}, which is not what its config says.")
    return student


#: Arrays that a saved student may hold.
_ARRAYS = {"weights", "offsets", *(f"effects.{name}" for name in Effects.__dataclass_fields__)}


def _build(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> LinearForecaster:
    """Put a student together from what was read."""
    spread = effects = None
    if "offsets" in arrays:
        levels = tuple(float(level) for level in config["quantile_levels"])
        spread = Spread(arrays["offsets"], levels, float(config["persistence"]))
    of_effects = {n.removeprefix("effects."): a for n, a in arrays.items() if "." in n}
    if of_effects:
        effects = Effects(**of_effects)
    period = config.get("period")
    return LinearForecaster(
        arrays["weights"],
        int(config["output_chunk_shift"]),
        None if period is None else int(period),
        bool(config.get("nonnegative", False)),
        spread,
        effects,
    )
