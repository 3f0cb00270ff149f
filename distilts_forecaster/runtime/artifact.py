"""A student as files: ``model.safetensors``, ``config.json`` and a model card.

Nothing in them is code, and nothing is trusted: sizes, names, types, shapes, ranges, finiteness
and digests are checked before a student is built, and files outside of the directory are not
opened.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.card import write_card
from distilts_forecaster.runtime.covariates import KINDS, CovariateScales
from distilts_forecaster.runtime.effects import Effects, recent_spans
from distilts_forecaster.runtime.forward import SIZES, Architecture
from distilts_forecaster.runtime.hub import download
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.networks import NetworkForecaster
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

__all__ = ["WEIGHTS_FILE", "check_free", "load_student", "save_student"]

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

#: Largest configuration: its bytes, and the numbers in it. No small student has more.
_MOST_BYTES = 4 * 2**20
_MOST_STEPS = 2**20
_MOST_SIZE = 2**16
_MOST_LAYERS = 256
_MOST_LEVELS = 1000

_KINDS = ("linear", *SIZES)
_KEYS = {
    "format_version",
    "student",
    "input_chunk_length",
    "output_chunk_length",
    "output_chunk_shift",
    "n_components",
    "n_covariates",
    "period",
    "nonnegative",
    "spread",
    "info",
    "weights_id",
}
#: Arrays that hold the scales of covariates.
_SCALES = tuple(f"{kind}_scale" for kind in KINDS)
_NETWORK = "network."
_EFFECTS = "effects."


def save_student(student: Forecaster, directory: str | os.PathLike) -> None:
    """Write a student as safetensors, JSON and a model card.

    Parameters
    ----------
    student : LinearForecaster or NetworkForecaster
    directory : path-like
        Created if it does not exist. A student that is there already is replaced.

    Raises
    ------
    TypeError
        If the student is a module of the user's own, which is code: export it to ONNX, or save
        the model.
    ValueError
        If the directory holds a ``README.md``, ``config.json`` or ``model.safetensors`` of
        something else; or the student could not be loaded again, since its numbers are not
        finite, say. Nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> student = LinearForecaster(np.full((1, 4, 2), 0.25, np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_student(student, folder)
    ...     load_student(folder).predict(np.array([1.0, 2.0, 3.0, 4.0]))
    array([2.5, 2.5])
    """
    from safetensors.numpy import save

    if not isinstance(student, (LinearForecaster, NetworkForecaster)):
        raise TypeError(
            "Only students that come with the package can be saved by themselves, got "
            f"{type(student).__name__}. A module of your own is code: export_onnx(path) writes it "
            "as a graph, model.save(path) saves the model."
        )
    target = Path(directory)
    check_free(target)
    config, arrays = _take_apart(student)
    # Files of two savings are told apart: an interrupted one could leave some of each.
    config["weights_id"] = _digest(arrays)
    config["config_id"] = _config_digest(config)
    weights = save(arrays, {"weights_id": config["weights_id"]})
    contents = {
        WEIGHTS_FILE: weights,
        CONFIG_FILE: (json.dumps(config, indent=2, allow_nan=False) + "\n").encode(),
        CARD_FILE: write_card(student, len(weights)).encode(errors="replace"),
    }
    with tempfile.TemporaryDirectory() as folder:
        _write(contents, Path(folder))
        load_student(folder)  # raises before anything is saved
    target.mkdir(parents=True, exist_ok=True)
    # Each file is whole at all times: written under another name, then renamed.
    with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as folder:
        _write(contents, Path(folder))
        for name in contents:
            os.replace(Path(folder) / name, target / name)


def _write(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write files."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a digest of arrays and their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()[:16]


def _config_digest(config: Mapping[str, Any]) -> str:
    """Return a digest of all that a forecast depends on in a configuration."""
    told = {name: value for name, value in config.items() if name not in ("info", "config_id")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def check_free(target: Path) -> None:
    """Raise ValueError if saving would overwrite anything but a student."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file: name a directory to save the student in.")
    there = [n for n in (CARD_FILE, CONFIG_FILE, WEIGHTS_FILE) if os.path.lexists(target / n)]
    if not there:
        return
    try:
        is_student = "student" in _read_config(target)
    except ValueError:
        is_student = False
    if not is_student:
        raise ValueError(
            f"{target} has a {' and a '.join(there)}, and holds no student: name another directory."
        )


def _take_apart(student: LinearForecaster | NetworkForecaster) -> tuple[dict, dict]:
    """Return a student's configuration and its arrays."""
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "student": student.kind if isinstance(student, NetworkForecaster) else "linear",
        "input_chunk_length": student.input_chunk_length,
        "output_chunk_length": student.output_chunk_length,
        "output_chunk_shift": student.output_chunk_shift,
        "n_components": student.n_components,
        "n_covariates": list(student.n_covariates),
        "period": None if student.period is None else int(student.period),
        "nonnegative": bool(student.nonnegative),
        "spread": None,
    }
    arrays: dict[str, Any] = {}
    if isinstance(student, NetworkForecaster):
        config["sizes"] = dict(student.sizes)
        config["quantile_levels"] = list(student.quantile_levels)
        arrays = {f"{_NETWORK}{name}": value for name, value in student.arrays.items()}
        arrays |= dict(zip(_SCALES, student.scales.by_kind(), strict=True))
    else:
        arrays["weights"] = student.weights
        if student.effects is not None:
            effects = student.effects
            named = dict(zip(_SCALES, effects.scales.by_kind(), strict=True))
            named |= {"weights": effects.weights, "knots": effects.knots, "unit": effects.unit}
            arrays |= {f"{_EFFECTS}{name}": value for name, value in named.items()}
    if student.error_quantiles is not None:
        errors = student.error_quantiles
        # Names of format 1.
        config["spread"] = {
            "levels": list(errors.levels),
            "persistence": float(errors.error_autocorrelation),
        }
        if errors.scale_steps:
            config["spread"]["scale_steps"] = errors.scale_steps
        arrays["offsets"] = errors.offsets
    config["info"] = None if student.info is None else student.info.to_json()
    return config, {
        name: np.ascontiguousarray(a, np.float64 if _is_scale(name) else np.float32)
        for name, a in arrays.items()
        if a is not None
    }


def _is_scale(name: str) -> bool:
    """Say whether an array is on the scale of the data, which float32 may not tell apart."""
    return name.removeprefix(_EFFECTS) in (*_SCALES, "knots", "unit")


def load_student(
    source: str | os.PathLike, revision: str | None = None, token: str | bool | None = None
) -> LinearForecaster | NetworkForecaster:
    """Load a student that :func:`save_student` wrote.

    Parameters
    ----------
    source : str or path-like
        A directory, or a name on the Hugging Face hub (``"me/my-student"``, extra ``hub``).
        A directory is looked for first.
    revision, token : str, optional
        Of the hub: a branch, tag or commit; and a token, where it needs another than the one
        that was stored by ``hf auth login``.

    Returns
    -------
    LinearForecaster or NetworkForecaster
        Its ``info`` says where it comes from: ``teacher``, ``data``, ``settings``, ``fit``,
        ``versions``.

    Raises
    ------
    ValueError
        If there is no such directory; or it does not hold a student of a known format; or the
        arrays are not what the configuration says, or not finite; or the files lie outside of
        the directory.
    ImportError
        If it is on the hub, and huggingface_hub is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_student(LinearForecaster(np.zeros((1, 512, 96), np.float32)), folder)
    ...     load_student(folder).input_chunk_length
    512
    """
    directory = Path(source)
    try:
        is_there = directory.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        if isinstance(source, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", source):
            directory = download(source, (CONFIG_FILE, WEIGHTS_FILE), revision, token)
        else:
            raise ValueError(
                f"There is no directory {os.fspath(source)[:200]}, and it is no name on the hub "
                'either ("owner/name"). model.save_student(directory) writes one.'
            )
    config = _read_config(directory)
    arrays = _read_arrays(directory, config)
    try:
        student = _build(config, arrays)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{directory} is not a saved student: {error}") from error
    _check(student, config, directory)
    return student


def _file(directory: Path, name: str) -> Path:
    """Return the path of a file, which must lie inside the directory."""
    path = directory / name
    try:
        resolved, root = path.resolve(strict=True), directory.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before 3.13
        raise ValueError(f"{directory} is not a saved student: {name} is missing.") from error
    roots = [root]
    if root.parent.name == "snapshots":  # the hub's cache: files are links to blobs beside them
        roots.append(root.parent.parent / "blobs")
    if not any(resolved.is_relative_to(one) for one in roots):
        raise ValueError(f"{path} is a link to {resolved}, outside of the directory: refused.")
    if not resolved.is_file():
        raise ValueError(f"{directory} is not a saved student: {name} is no file.")
    return resolved


def _read_config(directory: Path) -> dict[str, Any]:
    """Read and check the configuration."""
    path = _file(directory, CONFIG_FILE)
    where = directory / CONFIG_FILE
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{where} has more than {_MOST_BYTES} bytes: that is no student.")
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not the JSON of a saved student: {error}") from error
    if not isinstance(config, dict) or "student" not in config:
        raise ValueError(f'{where} is not of a saved student: it has no "student".')
    version = config.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        hint = ""
        if isinstance(version, int) and version > FORMAT_VERSION:
            hint = ' It was written by a newer one: pip install -U "distilts-forecaster"'
        raise ValueError(
            f"{where} has format_version={version!r}; this version reads {FORMAT_VERSION}.{hint}"
        )
    kind = config["student"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{where} has student={kind!r}; this version reads {', '.join(_KINDS)}.")
    try:
        _check_config(config, kind)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return config


def _refuse(constant: str) -> None:
    """Raise ValueError: NaN and infinity are no JSON."""
    raise ValueError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    """Return a finite number, or raise ValueError."""
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _check_config(config: dict[str, Any], kind: str) -> None:
    """Raise ValueError unless all settings are there and valid."""
    missing = (_KEYS if kind == "linear" else _KEYS | {"sizes", "quantile_levels"}) - config.keys()
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} missing.")
    _integer(config, "input_chunk_length", 1, _MOST_STEPS)
    _integer(config, "output_chunk_length", 1, _MOST_STEPS)
    _integer(config, "output_chunk_shift", 0, _MOST_STEPS)
    for name in ("n_components", "period"):
        if config[name] is not None:
            _integer(config, name, 1, _MOST_STEPS)
    if not isinstance(config.get("nonnegative"), bool):
        raise ValueError(f"nonnegative must be true or false, got {config.get('nonnegative')!r}.")
    counts = config.get("n_covariates")
    if not isinstance(counts, list) or len(counts) != 3:
        raise ValueError(f"n_covariates must be three numbers, got {counts!r:.80}.")
    for place in range(3):
        _integer(dict(enumerate(counts)), place, 0, _MOST_SIZE, "n_covariates")
    spread = config.get("spread")
    if spread is not None:
        if not isinstance(spread, dict):
            raise ValueError(f"spread must be an object or null, got {spread!r:.80}.")
        _levels(spread.get("levels"))
        persistence: Any = spread.get("persistence")
        if not _is_number(persistence) or not 0 <= persistence < 1:
            raise ValueError(f"persistence must be in [0, 1), got {persistence!r:.80}.")
        steps: Any = spread.get("scale_steps", 0)
        if type(steps) is not int or steps < 0:
            raise ValueError(f"scale_steps must be an integer of at least 0, got {steps!r:.80}.")
    # Students of earlier versions have no digest of their configuration.
    if config.get("config_id", expected := _config_digest(config)) != expected:
        raise ValueError("its settings were changed, they have another digest. Save again.")
    StudentInfo.from_json(config["info"])
    if kind == "linear":
        return
    sizes = config.get("sizes")
    if not isinstance(sizes, dict) or set(sizes) != set(SIZES[kind]):
        raise ValueError(f"sizes of {kind!r} must be {SIZES[kind]}, got {sizes!r:.80}.")
    for name in sizes:
        _integer(sizes, name, 1, _MOST_LAYERS if name in ("n_blocks", "n_layers") else _MOST_SIZE)
    if 0.5 not in _levels(config.get("quantile_levels")):
        raise ValueError("quantile_levels must hold 0.5.")


def _is_number(value: Any) -> bool:
    """Say whether ``value`` is a number below 1e300 in size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _integer(config: Mapping[Any, Any], key: Any, low: int, high: int, name: str = "") -> None:
    """Raise ValueError unless it is an integer in a range."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"{name or key} must be an integer from {low} to {high}, got {str(value)[:80]}."
        )


def _levels(values: Any) -> tuple[float, ...]:
    """Return quantile levels, or raise ValueError."""
    right = isinstance(values, list) and 0 < len(values) <= _MOST_LEVELS
    right = right and all(_is_number(v) and 0 < v < 1 for v in values)
    if not right or any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"quantile levels must increase between 0 and 1, got {values!r:.80}.")
    return tuple(map(float, values))


def _read_arrays(directory: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Check the names and types of the arrays, then read them."""
    from safetensors import SafetensorError, safe_open

    path, where = _file(directory, WEIGHTS_FILE), directory / WEIGHTS_FILE
    _check_size(path, where, config)
    is_linear = config["student"] == "linear"
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                stem = name.removeprefix(_EFFECTS)
                known = name in (("weights", "offsets") if is_linear else ("offsets", *_SCALES))
                if is_linear:
                    known |= stem != name and stem in ("weights", "knots", "unit", *_SCALES)
                else:
                    known |= name.startswith(_NETWORK)
                if not known:
                    raise ValueError(f"{where} holds {name!r:.80}, which no such student has.")
                dtype, right = file.get_slice(name).get_dtype(), "F64" if _is_scale(name) else "F32"
                if dtype != right:
                    raise ValueError(f"{where} holds {name!r:.80} as {dtype}, not as {right}.")
            identity = file.metadata() or {}
            if identity.get("weights_id") != config["weights_id"]:
                raise ValueError(f"{where} and {CONFIG_FILE} are of two students: save again.")
            arrays = {name: file.get_tensor(name) for name in names}
        if _digest(arrays) != config["weights_id"]:
            raise ValueError(f"{where} is damaged: its numbers have another digest. Save again.")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{where} is not what safetensors writes: {error}") from error
    for name, array in arrays.items():
        finite = np.isfinite(array)
        if name == "effects.knots":  # NaN is no knot
            finite |= np.isnan(array)
        if not finite.all():
            raise ValueError(f"{where}: {name} must be finite.")
        if name.removeprefix(_EFFECTS) in _SCALES and not (
            array.ndim == 2 and len(array) == 2 and array.size and (array[1] > 0).all()
        ):
            raise ValueError(f"{where}: {name} must be means and positive standard deviations.")
    return arrays


def _check_size(path: Path, where: Path, config: dict[str, Any]) -> None:
    """Raise ValueError if a file is larger than the arrays that its configuration describes."""
    steps, length = config["output_chunk_length"], config["input_chunk_length"]
    n_components = config["n_components"] or 1
    n_past, n_future, n_static = config["n_covariates"]
    n_arrays, most = 2 + len(_SCALES), 2 * (n_past + n_future + n_static)
    if config["spread"] is not None:
        most += steps * len(config["spread"]["levels"])
    if config["student"] == "linear":
        n_features = 2 * (4 * n_future + n_past * (length.bit_length() + 1) + n_static)
        most += n_components * (steps * (length + n_features) + 1) + 3 * n_future
        n_arrays += 3
    else:
        shapes = _architecture(config).array_shapes().values()
        most += sum(math.prod(shape) for shape in shapes)
        n_arrays += len(shapes)
    # Each array has a line in the header.
    size, most_bytes = path.stat().st_size, 8 * most + 512 * n_arrays + 4096
    if size > most_bytes:
        raise ValueError(
            f"{where} has {size} bytes, and the student of {CONFIG_FILE} at most {most_bytes}: it "
            "is not read."
        )


def _architecture(config: dict[str, Any]) -> Architecture:
    """Return the architecture of a network that is described by a configuration."""
    return Architecture(
        config["student"],
        config["sizes"],
        config["input_chunk_length"],
        config["output_chunk_length"],
        len(config["quantile_levels"]),
        tuple(config["n_covariates"]),
    )


def _build(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """Put a student together from what was read."""
    errors = None
    if config["spread"] is not None:
        levels = _levels(config["spread"]["levels"])
        errors = ErrorQuantiles(
            arrays.pop("offsets"),
            levels,
            float(config["spread"]["persistence"]),
            config["spread"].get("scale_steps", 0),
        )
    common: dict[str, Any] = {
        "output_chunk_shift": config["output_chunk_shift"],
        "period": config["period"],
        "nonnegative": config["nonnegative"],
        "error_quantiles": errors,
        "info": StudentInfo.from_json(config["info"]),
    }
    if config["student"] == "linear":
        found = {
            name.removeprefix(_EFFECTS): array
            for name, array in arrays.items()
            if name.startswith(_EFFECTS)
        }
        effects = None
        if found:
            effects = Effects(
                found["weights"], _scales(found), found.get("knots"), found.get("unit")
            )
        return LinearForecaster(arrays["weights"], effects=effects, **common)
    return NetworkForecaster(
        scales=_scales(arrays),
        kind=config["student"],
        sizes=config["sizes"],
        arrays={
            name.removeprefix(_NETWORK): array
            for name, array in arrays.items()
            if name.startswith(_NETWORK)
        },
        input_chunk_length=config["input_chunk_length"],
        output_chunk_length=config["output_chunk_length"],
        quantile_levels=_levels(config["quantile_levels"]),
        n_components=config["n_components"],
        **common,
    )


def _scales(arrays: Mapping[str, np.ndarray]) -> CovariateScales:
    """Return the scales of covariates among some arrays."""
    return CovariateScales(*(arrays.get(name) for name in _SCALES))


def _check(student: Any, config: dict[str, Any], directory: Path) -> None:
    """Raise ValueError unless a student is what its configuration says."""
    got = {
        "input_chunk_length": student.input_chunk_length,
        "output_chunk_length": student.output_chunk_length,
        "n_components": student.n_components,
        "n_covariates": list(student.n_covariates),
    }
    wrong = {name: value for name, value in got.items() if value != config[name]}
    if wrong:
        raise ValueError(
            f"{directory}: the arrays are of {wrong}, which is not what its config says."
        )
    steps = student.output_chunk_length
    parts = getattr(student, "effects", None)
    if isinstance(student, LinearForecaster):
        n_components = student.n_components or 1
        counts = {len(student.weights), 1 if parts is None else len(parts.weights)}
        if not counts <= {1, n_components} or (parts is not None and not any(parts.scales.sizes())):
            raise ValueError(f"{directory}: the weights are of the wrong number of components.")
    if parts is not None:
        n_recent = len(recent_spans(student.input_chunk_length))
        n_past, n_future, n_static = student.n_covariates
        knots = np.empty((0, 3)) if parts.knots is None else parts.knots
        n_features = n_future + int(np.isfinite(knots).sum()) + n_past * n_recent + n_static
        right = knots.shape == (n_future, 3) and parts.weights.ndim == 3
        if parts.unit is not None:
            n_features *= 2
            right = right and parts.unit.shape in ((1,), (n_components,)) and (parts.unit > 0).all()
        right = right and parts.weights.shape[1:] == (steps, n_features)
        right = right and len(parts.weights) in (1, len(student.weights), student.n_components)
        if not right:
            raise ValueError(f"{directory}: the effects of covariates are of the wrong shape.")
    if student.error_quantiles is not None:
        offsets = student.error_quantiles.offsets
        moves_heads = isinstance(student, NetworkForecaster) and len(student.quantile_levels) > 1
        if len(offsets) != steps or (not moves_heads and (np.diff(offsets, axis=1) < 0).any()):
            raise ValueError(f"{directory}: offsets must be {steps} rows that do not decrease.")
        if moves_heads and student.error_quantiles.levels != student.quantile_levels:
            raise ValueError(f"{directory}: the levels of spread and network differ.")
