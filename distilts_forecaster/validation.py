"""Checks of what users pass: what was got, what was expected, how to mend it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from distilts_forecaster.distill.plan import Settings, Student
from distilts_forecaster.students.linear import Linear
from distilts_forecaster.students.objective import (
    ALIGNMENTS,
    HorizonWeights,
    resolve_horizon_weights,
)
from distilts_forecaster.students.settings import MLP, Copied, DLinear, ITransformer, Network
from distilts_forecaster.windows.cutting import PreparedSeries

__all__ = [
    "check_alignment",
    "check_augmentation",
    "check_cache_dir",
    "check_components",
    "check_context",
    "check_distillation_weight",
    "check_horizon_weights",
    "check_integer",
    "check_quantiles",
    "check_series",
    "check_student",
    "check_takes_covariates",
    "make_settings",
    "warn_of_levels",
]


def check_integer(name: str, value: Any, at_least: int) -> None:
    """Raise unless ``value`` is an integer of at least ``at_least``.

    Parameters
    ----------
    name : str
        Name of the parameter.
    value : object
    at_least : int

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is too small.

    Examples
    --------
    >>> check_integer("n", 96, at_least=1)
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least {at_least}, got {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")


def make_settings(
    input_chunk_length: Any,
    output_chunk_length: Any,
    output_chunk_shift: Any,
    student: Any,
    distillation_weight: Any,
    horizon_weights: Any,
    alignment: Any,
    alignment_weight: Any,
    alignment_dim: Any,
    quantiles: Any,
    label_budget: Any,
    teacher_context: Any,
    random_state: Any,
    probabilistic: bool = False,
    calibrate: Any = True,
    nonnegative: Any = False,
    augmentation: Any = 0.0,
) -> Settings:
    """Return what to fit, checked.

    Parameters
    ----------
    input_chunk_length, ..., random_state : object
        Of :class:`~distilts_forecaster.DistilledForecaster`.

    Returns
    -------
    Settings

    Raises
    ------
    TypeError, ValueError
        If one is not what it can be.
    """
    check_integer("input_chunk_length", input_chunk_length, at_least=1)
    check_integer("output_chunk_length", output_chunk_length, at_least=1)
    check_integer("output_chunk_shift", output_chunk_shift, at_least=0)
    for name, given in (("label_budget", label_budget), ("teacher_context", teacher_context)):
        if given is not None:
            check_integer(name, given, at_least=1)
    if random_state is not None:
        check_integer("random_state", random_state, at_least=0)
        if random_state >= 2**32:
            raise ValueError(f"random_state must be below 2**32, got {random_state}.")
    for name, flag in (("calibrate", calibrate), ("nonnegative", nonnegative)):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {flag!r}.")
    settings = check_student(student)
    levels = check_quantiles(quantiles)
    alpha = check_distillation_weight(distillation_weight)
    check_alignment(alignment, alignment_weight, alignment_dim, settings, alpha)
    return Settings(
        input_chunk_length=int(input_chunk_length),
        output_chunk_length=int(output_chunk_length),
        output_chunk_shift=int(output_chunk_shift),
        student=settings,
        distillation_weight=alpha,
        horizon_weights=check_horizon_weights(horizon_weights, int(output_chunk_length)),
        label_budget=label_budget,
        teacher_context=teacher_context,
        alignment=alignment,
        alignment_weight=float(alignment_weight),
        alignment_dim=int(alignment_dim),
        quantile_levels=levels,
        random_state=None if random_state is None else int(random_state),
        probabilistic=probabilistic or quantiles is not None,
        calibrate=bool(calibrate),
        nonnegative=bool(nonnegative),
        augmentation=check_augmentation(augmentation),
    )


def check_student(student: Any) -> Student:
    """Return the student's settings.

    Parameters
    ----------
    student : str, Linear, DLinear, ITransformer, MLP, Network or torch.nn.Module

    Returns
    -------
    Linear, DLinear, ITransformer, MLP or Network

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor settings.

    Examples
    --------
    >>> check_student("dlinear").kernel_size
    25
    """
    known = {"linear": Linear, "dlinear": DLinear, "itransformer": ITransformer, "mlp": MLP}
    if isinstance(student, Student):
        return student
    if isinstance(student, str):
        if student not in known:
            raise ValueError(
                f"Unknown student {student!r}. Known students: {', '.join(map(repr, known))}."
            )
        return known[student]()
    if isinstance(student, type) and issubclass(student, Student):
        raise TypeError(f"student is the class {student.__name__}; pass {student.__name__}().")
    if isinstance(student, type):
        raise TypeError(
            f"student is the class {student.__name__}; pass a module, or the class as "
            f"Network({student.__name__}), which is called with (input_chunk_length, "
            "output_chunk_length, n_quantiles)."
        )
    if callable(student) and hasattr(student, "state_dict"):
        return Network(Copied(student))
    raise TypeError(
        f"student must be one of {', '.join(map(repr, known))}, settings such as Linear(...) or "
        f"MLP(...), or a torch.nn.Module, got {student!r}."
    )


def check_distillation_weight(weight: Any) -> float | str:
    """Return alpha, checked.

    Parameters
    ----------
    weight : float or "auto"

    Returns
    -------
    float or "auto"

    Raises
    ------
    TypeError
        If it is neither a number nor "auto".
    ValueError
        If it is negative or not finite.
    """
    expected = 'distillation_weight must be "auto" or a number of at least 0'
    if isinstance(weight, str):
        if weight != "auto":
            raise ValueError(f"{expected}, got {weight!r}.")
        return weight
    _check_weight(expected, weight)
    return float(weight)


def _check_weight(expected: str, value: Any) -> None:
    """Raise unless ``value`` is a finite number of at least zero."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{expected}, got {value!r}.")
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"{expected}, got {value!r}.")


def check_takes_covariates(student: Student, what: str) -> None:
    """Raise unless the student takes covariates.

    Parameters
    ----------
    student : Linear, DLinear, ITransformer, MLP or Network
    what : str
        What was given, for the message.

    Raises
    ------
    ValueError
        If it is a network of the user's own.
    """
    if isinstance(student, Network):
        raise ValueError(
            f"A network of your own takes no {what}: pass the series alone, or use one of the "
            'students that come with the package, such as student="mlp".'
        )


def check_augmentation(share: Any) -> float:
    """Return the share of labelled windows that is made up, checked.

    Parameters
    ----------
    share : float

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not from 0 to below 1.
    """
    expected = "augmentation must be a share from 0 to below 1"
    _check_weight(expected, share)
    if share >= 1:
        raise ValueError(f"{expected}, got {share!r}.")
    return float(share)


def check_horizon_weights(weights: Any, horizon: int) -> HorizonWeights:
    """Return the horizon weights as given, checked against the horizon.

    Parameters
    ----------
    weights : float, str, sequence or callable
    horizon : int

    Returns
    -------
    float, str, sequence or callable

    Raises
    ------
    TypeError, ValueError
        See :func:`~distilts_forecaster.students.objective.resolve_horizon_weights`.
    """
    if isinstance(weights, str) and weights == "auto":
        return weights
    resolve_horizon_weights(weights, horizon)
    # A copy: what the user's list becomes later is not what was checked.
    keep = callable(weights) or np.isscalar(weights)
    return weights if keep else tuple(weights)


def check_alignment(
    alignment: Any, weight: Any, size: Any, student: Student, alpha: float | str
) -> None:
    """Raise unless the alignment can be had with this student.

    Parameters
    ----------
    alignment : str or None
    weight : float
        beta.
    size : int
        Numbers kept of each hidden state.
    student : Linear, DLinear, ITransformer, MLP or Network
    alpha : float or "auto"
        The weight of the teacher.

    Raises
    ------
    TypeError, ValueError
        If a value is unknown, or alignment is insisted on and the student has no hidden
        states, or there is no teacher.
    """
    _check_weight("alignment_weight must be a number of at least 0", weight)
    check_integer("alignment_dim", size, at_least=1)
    if alignment is None or alignment == "auto":
        return
    if alignment not in ALIGNMENTS:
        raise ValueError(
            f'alignment must be "auto", one of {ALIGNMENTS} or None, got {alignment!r}.'
        )
    if alpha == 0:
        raise ValueError(
            f"alignment={alignment!r} needs a teacher, and distillation_weight=0 is none: set "
            'alignment="auto" or None, or a larger distillation_weight.'
        )
    if isinstance(student, (Linear, DLinear)):
        raise ValueError(
            f"alignment={alignment!r} needs a student with hidden states; {type(student).__name__} "
            'has none. Use student="itransformer" or "mlp", or alignment="auto" or None.'
        )


def check_quantiles(quantiles: Any) -> tuple[float, ...]:
    """Return the quantile levels of the student.

    Parameters
    ----------
    quantiles : sequence of float or None

    Returns
    -------
    tuple of float
        ``(0.5,)`` for None.

    Raises
    ------
    TypeError
        If it is no sequence of numbers.
    ValueError
        If levels do not increase between 0 and 1, or the median is not among them.

    Examples
    --------
    >>> check_quantiles([0.1, 0.5, 0.9])
    (0.1, 0.5, 0.9)
    """
    if quantiles is None:
        return (0.5,)
    try:
        levels = tuple(float(q) for q in quantiles)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"quantiles must be numbers, got {quantiles!r}. Example: quantiles=[0.1, 0.5, 0.9]"
        ) from error
    if 0.5 not in levels or not 0 < min(levels) <= max(levels) < 1 or np.any(np.diff(levels) <= 0):
        raise ValueError(
            f"quantiles must increase between 0 and 1 and hold 0.5, got {quantiles!r}. "
            "Example: quantiles=[0.1, 0.5, 0.9]"
        )
    return levels


def check_cache_dir(cache_dir: Any) -> None:
    """Raise unless ``cache_dir`` is a path, None or False.

    Parameters
    ----------
    cache_dir : path-like, None or False

    Raises
    ------
    TypeError
        Otherwise.
    ValueError
        If it is a file.
    """
    if cache_dir is None or cache_dir is False:
        return
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise TypeError(f"cache_dir must be a directory, None or False, got {cache_dir!r}.")
    if os.path.isfile(cache_dir):
        raise ValueError(f"cache_dir must be a directory, got the file {os.fspath(cache_dir)!r}.")


def check_series(
    name: str, series: Any, min_length: int, n_components: int | None = None
) -> list[np.ndarray]:
    """Return the values of Darts series as arrays, checked.

    Parameters
    ----------
    name : str
        Name of the parameter.
    series : TimeSeries or sequence of TimeSeries
    min_length : int
        Points that each must have.
    n_components : int, optional
        Components that each must have; by default as many as the first.

    Returns
    -------
    list of numpy.ndarray, shape (n_points, n_components)

    Raises
    ------
    TypeError
        If it is not a TimeSeries, or a sequence of them.
    ValueError
        If there is none, or one is too short, is probabilistic, has other
        components, is infinite somewhere, or missing throughout.
    """
    from darts import TimeSeries

    single = isinstance(series, TimeSeries)
    if not single and not (isinstance(series, Sequence) and not isinstance(series, (str, bytes))):
        raise TypeError(
            f"{name} must be a darts TimeSeries or a list of them, got {type(series).__name__}. "
            "Example: TimeSeries.from_dataframe(frame)"
        )
    given = [series] if single else list(series)
    if not given:
        raise ValueError(f"{name} is an empty list: pass at least one TimeSeries.")
    values: list[np.ndarray] = []
    for i, one in enumerate(given):
        label = name if single else f"{name}[{i}]"
        if not isinstance(one, TimeSeries):
            raise TypeError(f"{label} must be a darts TimeSeries, got {type(one).__name__}.")
        if not one.is_deterministic:
            raise ValueError(
                f"{label} holds {one.n_samples} samples of each value: pass a deterministic series."
            )
        expected = values[0].shape[1] if values and n_components is None else n_components
        if expected is not None and one.width != expected:
            raise ValueError(
                f"{label} has {one.width} components, expected {expected}: all series must have "
                "the same."
            )
        if len(one) < min_length:
            raise ValueError(
                f"{label} has {len(one)} points, at least {min_length} are needed. Pass a longer "
                "series, or make the model's chunks shorter."
            )
        array = one.all_values(copy=False)[:, :, 0]
        if np.isinf(array).any():
            raise ValueError(
                f"{label} has {int(np.isinf(array).sum())} infinite values: replace them, NaN "
                "means missing."
            )
        empty = np.isnan(array).all(axis=0)
        if empty.any():
            raise ValueError(f"{label} has no values at all in {list(one.columns[empty])}.")
        values.append(array)
    return values


def check_components(series: Any, index: int, n_components: int | None) -> np.ndarray:
    """Return the values of a series like those that a model was fitted on.

    Parameters
    ----------
    series : TimeSeries
    index : int
        Of the series among those of the call, for messages.
    n_components : int or None
        Of the model; None for any.

    Returns
    -------
    numpy.ndarray, shape (n_points, n_components)

    Raises
    ------
    ValueError
        If it has other components, or samples.
    """
    values = series.all_values(copy=False)
    if n_components not in (None, values.shape[1]) or values.shape[2] != 1:
        raise ValueError(
            f"series[{index}] has {values.shape[1]} components and {values.shape[2]} samples; "
            f"the model was fitted on {n_components or 'any'} components and forecasts "
            "deterministic series."
        )
    return values[:, :, 0]


def check_context(
    series: Any, index: int, n_components: int | None, input_chunk_length: int
) -> np.ndarray:
    """Return the last steps of a series to forecast.

    Parameters
    ----------
    series : TimeSeries
    index : int
        Of the series among those of the call, for messages.
    n_components, input_chunk_length : int
        Of the model.

    Returns
    -------
    numpy.ndarray, shape (input_chunk_length, n_components)
        NaN where missing, and before the series.

    Raises
    ------
    TypeError
        If it is not a TimeSeries.
    ValueError
        If it has other components, or infinite values or none at all there.
    """
    from darts import TimeSeries

    if not isinstance(series, TimeSeries):
        raise TypeError(f"series[{index}] must be a darts TimeSeries, got {type(series).__name__}.")
    values = check_components(series, index, n_components)
    context = values[-input_chunk_length:]
    # The sum is finite if every value is, and costs a tenth of checking each.
    if not np.isfinite(context.sum()) and not np.isfinite(context).all():
        if np.isinf(context).any():
            raise ValueError(
                f"series[{index}] has {int(np.isinf(context).sum())} infinite values in its last "
                f"{input_chunk_length} steps: replace them, NaN means missing."
            )
        empty = np.isnan(context).all(axis=0)
        if empty.any():
            raise ValueError(
                f"series[{index}] has no value of {list(series.columns[empty])} in its last "
                f"{input_chunk_length} steps: there is nothing to forecast from."
            )
    if len(context) < input_chunk_length:
        short = input_chunk_length - len(context)
        context = np.pad(context, ((short, 0), (0, 0)), constant_values=np.nan)
    return context


def warn_of_levels(series: Sequence[PreparedSeries]) -> None:
    """Warn where the teacher's float32 contexts lose the series under its level.

    Parameters
    ----------
    series : sequence of PreparedSeries
    """
    worst = max(
        float((np.abs(s.location) / s.std)[np.nanstd(s.values, axis=0) > 0].max(initial=0.0))
        for s in series
    )
    if worst > 1e5:
        warnings.warn(
            f"A series varies by 1/{worst:.0e} of its level, which a teacher does not see in "
            "float32. Subtract a constant from it before fit, and add it to the forecasts.",
            stacklevel=3,
        )
