"""Run a fitted student: NumPy and safetensors only.

Whatever a linear student was fitted with (instance normalisation, a teacher,
standardised series) has been folded into one matrix, so that a forecast is
``mean + (context - mean) @ weights``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Forecaster", "LinearForecaster", "load_student", "save_student"]

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

#: Windows forecast at once: bounds the memory of a large batch.
_WINDOWS_PER_CHUNK = 8192


class Forecaster:
    """What fitted students have in common: shapes, chunks, and feeding forecasts back.

    Attributes
    ----------
    input_chunk_length, output_chunk_length, output_chunk_shift : int
    n_components : int or None
        Components that a window must have; None takes any number.
    n_parameters : int
        Number of fitted numbers.
    """

    input_chunk_length: int
    output_chunk_length: int
    output_chunk_shift: int
    n_components: int | None
    n_parameters: int

    def predict(self, contexts: np.ndarray, horizon: int | None = None) -> np.ndarray:
        """Forecast the steps that follow each context.

        Parameters
        ----------
        contexts : numpy.ndarray, shape (L,), (L, C) or (N, L, C)
            One window, one multivariate window, or a batch. Longer contexts are
            cut to their last L steps. Missing values give missing forecasts.
        horizon : int, optional
            Steps to forecast; by default ``output_chunk_length``. Beyond it the
            forecast is fed back as context.

        Returns
        -------
        numpy.ndarray of float64, shape (horizon,), (horizon, C) or (N, horizon, C)

        Raises
        ------
        ValueError
            If the contexts are too short, have the wrong number of dimensions or
            components, or ``horizon`` is not positive, or beyond
            ``output_chunk_length`` with ``output_chunk_shift > 0``.
        """
        windows, horizon, given = self._check(contexts, horizon)
        n, _, components = windows.shape
        if n <= _WINDOWS_PER_CHUNK:
            forecasts = self._predict(windows, horizon)
        else:
            forecasts = np.empty((n, horizon, components))
            for start in range(0, n, _WINDOWS_PER_CHUNK):
                part = slice(start, start + _WINDOWS_PER_CHUNK)
                forecasts[part] = self._predict(windows[part], horizon)
        if given == 1:
            return forecasts[0, :, 0]
        return forecasts[0] if given == 2 else forecasts

    def _check(self, contexts: np.ndarray, horizon: int | None) -> tuple[np.ndarray, int, int]:
        """Return contexts as (N, L, C), the horizon, and the dimensions given; or raise."""
        horizon = self.output_chunk_length if horizon is None else horizon
        windows = np.asarray(contexts, dtype=np.float64)
        given = windows.ndim
        if given not in (1, 2, 3):
            raise ValueError(f"contexts must be (L,), (L, C) or (N, L, C), got {given} dimensions.")
        if given == 1:
            windows = windows[:, None]
        if given < 3:
            windows = windows[None]
        _, length, components = windows.shape
        if length < self.input_chunk_length:
            raise ValueError(
                f"Each context must have at least input_chunk_length="
                f"{self.input_chunk_length} steps, got {length}."
            )
        if self.n_components not in (None, components):
            raise ValueError(
                f"This student was fitted on {self.n_components} components, got {components}."
            )
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}.")
        if horizon > self.output_chunk_length and self.output_chunk_shift:
            raise ValueError(
                f"A student with output_chunk_shift={self.output_chunk_shift} cannot feed its "
                f"forecasts back: horizon must be at most {self.output_chunk_length}, "
                f"got {horizon}."
            )
        return windows[:, -self.input_chunk_length :], horizon, given

    def _predict(self, windows: np.ndarray, horizon: int) -> np.ndarray:
        """Forecast (N, L, C) contexts, feeding forecasts back past T."""
        forecasts = self._step(windows)
        if horizon <= self.output_chunk_length:
            return forecasts[:, :horizon]
        parts = [forecasts]
        done = self.output_chunk_length
        while done < horizon:
            windows = np.concatenate([windows, parts[-1]], axis=1)[:, -self.input_chunk_length :]
            parts.append(self._step(windows))
            done += self.output_chunk_length
        return np.concatenate(parts, axis=1)[:, :horizon]

    def _step(self, windows: np.ndarray) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearForecaster(Forecaster):
    """A fitted linear student, folded for inference.

    Attributes
    ----------
    weights : numpy.ndarray of float32, shape (K, L, T)
        One matrix for all components (K = 1) or one for each (K = C).
    output_chunk_shift : int
        Steps between the end of the context and the first forecast step.

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
        return None if len(self.weights) == 1 else len(self.weights)

    @property
    def n_parameters(self) -> int:  # type: ignore[override]
        """Number of fitted numbers."""
        return self.weights.size

    def _step(self, windows: np.ndarray) -> np.ndarray:
        """Forecast T steps for (N, L, C) contexts."""
        n, length, components = windows.shape
        if n == 1 and components == 1:
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
        return (mean + steps).transpose(0, 2, 1)

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
    save_file({"weights": np.ascontiguousarray(student.weights)}, target / WEIGHTS_FILE)
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
    if set(arrays) != {"weights"}:
        raise ValueError(f"{source / WEIGHTS_FILE} holds {sorted(arrays)}, not weights.")
    weights = arrays["weights"]
    if weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise ValueError(f"{source / WEIGHTS_FILE} must hold finite float32 numbers.")
    student = LinearForecaster(weights, int(config["output_chunk_shift"]))
    shape = (student.input_chunk_length, student.output_chunk_length)
    if shape != (config["input_chunk_length"], config["output_chunk_length"]):
        raise ValueError(f"{source}: the weights are {shape}, which is not what its config says.")
    return student
