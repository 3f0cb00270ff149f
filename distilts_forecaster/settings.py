"""What to fit: the parameters that every facade has, checked once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distilts_forecaster.runtime.checks import check_integer, check_number, warn_user
from distilts_forecaster.students.base import Alignment, StudentSettings
from distilts_forecaster.students.objective import (
    ALIGNMENTS,
    HorizonWeights,
    resolve_horizon_weights,
)
from distilts_forecaster.students.settings import (
    MLP,
    Copied,
    DLinear,
    ITransformer,
    Linear,
    Network,
)
from distilts_forecaster.windows.source import Chunks

__all__ = [
    "LONGEST_CONTEXT",
    "NOMINAL",
    "Quantiles",
    "Settings",
    "Teaching",
    "check_cache_dir",
    "check_student",
    "check_takes_covariates",
    "fit_lengths",
    "make_settings",
]

#: Lengths of context and forecast where the user gives none and the series are long enough.
NOMINAL = (512, 96)

#: Most steps that contexts reach back where series are short, and what series are short of.
LONGEST_CONTEXT, _FEW_POINTS = 1024, 10_000

#: Points that a series needs at least where lengths are fitted to the data.
FEWEST_POINTS = 4

#: Levels to ask a teacher for where the student itself forecasts the median alone. Others are
#: interpolated.
_WIDTH_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)

_STUDENTS: dict[str, type[StudentSettings]] = {
    "linear": Linear,
    "dlinear": DLinear,
    "itransformer": ITransformer,
    "mlp": MLP,
}

#: Whether the user was told already that lengths were fitted to the data.
_told: set[str] = set()


@dataclass(frozen=True)
class Teaching:
    """What is asked of the teacher, and how much it counts.

    ``distillation_weight`` is alpha (0 fits without a teacher), ``horizon_weights`` tau or the
    weights themselves (see
    :func:`~distilts_forecaster.students.objective.resolve_horizon_weights`), ``label_budget`` and
    ``time_limit`` the most windows to ask for, and seconds (see
    :mod:`~distilts_forecaster.distill.budget`), ``teacher_context`` the steps of history seen of
    each (see :func:`~distilts_forecaster.distill.plan.resolve_teacher_context`), ``accept`` the
    largest held-out error, relative to the teacher's, that nothing is said about.
    """

    distillation_weight: float | str = "auto"
    horizon_weights: HorizonWeights = 1.0
    label_budget: int | str | None = "auto"
    time_limit: float | None = None
    teacher_context: int | None = None
    accept: float | None = None

    def asks_for_all(self, n_windows: int) -> bool:
        """Say whether the teacher is asked for all of so many windows, in any order."""
        budget = self.label_budget
        enough = budget is None or (isinstance(budget, int) and budget >= n_windows)
        return enough and self.time_limit is None


@dataclass(frozen=True)
class Quantiles:
    """Which quantiles are forecast.

    ``levels`` increase, with 0.5 among them; ``(0.5,)`` is a point forecast. ``wanted`` says
    whether quantiles are wanted at all (see :mod:`~distilts_forecaster.distill.calibration`),
    ``calibrate`` whether they are calibrated on held-out targets.
    """

    levels: tuple[float, ...] = (0.5,)
    wanted: bool = False
    calibrate: bool = True


@dataclass(frozen=True)
class Settings:
    """What to fit.

    ``given`` says whether the user gave ``input_chunk_length``, and ``output_chunk_length``:
    lengths that were not given may be fitted to the data, by :func:`fit_lengths`. Then contexts
    may be longer than histories: ``history_needed`` are the steps that must be known of one, None
    for all.
    """

    chunks: Chunks
    given: tuple[bool, bool] = (True, True)
    history_needed: int | None = None
    student: StudentSettings = field(default_factory=Linear)
    teaching: Teaching = Teaching()
    alignment: Alignment = field(default_factory=Alignment)
    quantiles: Quantiles = Quantiles()
    nonnegative: bool = False
    random_state: int | None = None

    @property
    def input_chunk_length(self) -> int:
        """Steps of context, L."""
        return self.chunks.input_chunk_length

    @property
    def output_chunk_length(self) -> int:
        """Steps forecast at once, T."""
        return self.chunks.output_chunk_length

    @property
    def output_chunk_shift(self) -> int:
        """Steps between the end of the context and the first forecast step."""
        return self.chunks.output_chunk_shift

    @property
    def central_levels(self) -> tuple[float, ...]:
        """Levels that the student itself forecasts: the median alone, where it is one matrix."""
        return (0.5,) if self.student.is_matrix else self.quantiles.levels

    def label_levels(self, known: tuple[float, ...] | None) -> tuple[float, ...]:
        """Return the levels to ask a teacher for; ``known`` are the lowest and highest it knows.

        Wanted levels outside of ``known`` become its nearest end, and are extrapolated from there.
        """
        if not self.quantiles.wanted or known is None:
            return (0.5,)
        central = self.central_levels
        wanted = central if len(central) > 1 else _WIDTH_LEVELS
        return tuple(sorted({0.5, *(min(max(level, known[0]), known[-1]) for level in wanted)}))

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is asked."""
        return self.teaching.distillation_weight != 0

    def to_json(self) -> dict[str, Any]:
        """Return the settings as the flat parameters of a facade, as artifacts hold them."""
        return {
            "input_chunk_length": self.input_chunk_length,
            "output_chunk_length": self.output_chunk_length,
            "output_chunk_shift": self.output_chunk_shift,
            "history_needed": self.history_needed,
            "student": self.student,
            **vars(self.teaching),
            "alignment": self.alignment.kind,
            "alignment_weight": self.alignment.weight,
            "alignment_dim": self.alignment.size,
            "quantile_levels": self.quantiles.levels,
            "probabilistic": self.quantiles.wanted,
            "calibrate": self.quantiles.calibrate,
            "nonnegative": self.nonnegative,
            "random_state": self.random_state,
        }


def make_settings(
    input_chunk_length: Any = None,
    output_chunk_length: Any = None,
    output_chunk_shift: Any = 0,
    student: Any = "linear",
    distillation_weight: Any = "auto",
    horizon_weights: Any = 1.0,
    alignment: Any = "auto",
    alignment_weight: Any = 0.3,
    alignment_dim: Any = 64,
    quantiles: Any = None,
    label_budget: Any = "auto",
    time_limit: Any = None,
    teacher_context: Any = None,
    accept: Any = None,
    random_state: Any = None,
    probabilistic: bool = False,
    calibrate: Any = True,
    nonnegative: Any = False,
) -> Settings:
    """Check the parameters of a facade, and return them as settings.

    Parameters are those of :class:`~distilts_forecaster.DistilledForecaster`; ``probabilistic``
    asks for quantiles though no levels are named. TypeError or ValueError if a parameter has the
    wrong type or value.

    >>> make_settings(48, 12).chunks
    Chunks(input_chunk_length=48, output_chunk_length=12, output_chunk_shift=0)
    """
    kind = check_student(student)
    alpha = _check_distillation_weight(distillation_weight)
    if output_chunk_length is None and _is_sequence(horizon_weights):
        output_chunk_length = len(horizon_weights)  # as many weights as steps
    lengths = (input_chunk_length, output_chunk_length)
    length, steps = (
        nominal if given is None else check_integer(name, given)
        for name, given, nominal in zip(
            ("input_chunk_length", "output_chunk_length"), lengths, NOMINAL, strict=True
        )
    )
    shift = check_integer("output_chunk_shift", output_chunk_shift, at_least=0)
    chunks = Chunks(length, steps, shift)
    if isinstance(label_budget, str):
        if label_budget != "auto":
            raise ValueError(
                f'label_budget must be "auto", None or an integer, got {label_budget!r}.'
            )
    elif label_budget is not None:
        label_budget = check_integer("label_budget", label_budget)
    if time_limit is not None:
        check_number("time_limit", time_limit)
    if teacher_context is not None:
        check_integer("teacher_context", teacher_context)
    if accept is not None:
        check_number("accept", accept)
    if random_state is not None:
        random_state = check_integer("random_state", random_state, at_least=0)
        if random_state >= 2**32:
            raise ValueError(f"random_state must be below 2**32, got {random_state}.")
    return Settings(
        chunks=chunks,
        given=(input_chunk_length is not None, output_chunk_length is not None),
        student=kind,
        teaching=Teaching(
            alpha,
            _check_horizon_weights(horizon_weights, chunks.output_chunk_length),
            label_budget,
            time_limit,
            teacher_context,
            accept,
        ),
        alignment=_check_alignment(alignment, alignment_weight, alignment_dim, kind, alpha),
        quantiles=Quantiles(
            _check_quantiles(quantiles),
            probabilistic or quantiles is not None,
            _check_flag("calibrate", calibrate),
        ),
        nonnegative=_check_flag("nonnegative", nonnegative),
        random_state=random_state,
    )


def fewest_points(settings: Settings) -> int:
    """Return how many points one series must have to be fitted.

    >>> [fewest_points(make_settings(*given)) for given in ((24, 6), (2,), ())]
    [30, 4, 4]
    """
    if all(settings.given):
        return settings.chunks.length
    length = settings.input_chunk_length if settings.given[0] else 1
    steps = settings.output_chunk_length if settings.given[1] else 1
    return settings.output_chunk_shift + max(FEWEST_POINTS, length + steps)


def fit_lengths(
    settings: Settings,
    n_points: Sequence[int],
    has_covariates: bool = False,
    horizon: int | None = None,
    has_trend: bool = False,
) -> Settings:
    """Choose the lengths that the user left open, and refuse given ones that the data cannot fill.

    With n the median number of points, and n_windows the windows of all series together::

        T = min(horizon or 96, n)     with n // 3 for n without a teacher, or with covariates
        L = 512                       if n >= 512 + T and n_windows >= 512, else
            min(1024, 4 n)            if all series together have less than 10,000 points
            min(512, n // 2)          if they have more, or a steady trend; or with covariates

    A teacher forecasts beyond the end of a series. Without one, or with covariates, the T steps of
    a window must be known. Longer forecasts are fed back. Where one length is given, the other one
    leaves room for it.

    The fewer points there are, the more a context is worth beyond them: windows begin before the
    series does, filled as in predict, and the student's weights there are those of its prior.
    Relative to the teacher's, which sees 1,024 steps, the test error for 300 / 500 / 1,000 points
    of ten sets was 1.50 / 1.28 / 1.07 with 512 steps, and 1.37 / 1.16 / 1.06 with 1,024; for 2,000
    it was .89 with 512, and .93 with 1,024. What is filled in has no trend, so that where there is
    one contexts keep to the history.

    Parameters
    ----------
    settings : Settings
    n_points : sequence of int
        Points of each series.
    has_covariates : bool, default False
    horizon : int, optional
        Steps that will be forecast, where the user said so.
    has_trend : bool, default False
        Whether most series have a steady trend.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        If no series is as long as one window of the lengths that were given; the message has
        lengths that would do.

    Warns
    -----
    UserWarning
        Once, where series are too short for 512 -> 96.

    Examples
    --------
    >>> fitted = fit_lengths(make_settings(), [60])
    >>> fitted.input_chunk_length, fitted.output_chunk_length, fitted.history_needed
    (240, 60, 30)
    """
    n, longest = int(np.median(n_points)), max(n_points)
    length, steps = settings.input_chunk_length, settings.output_chunk_length
    shift = settings.output_chunk_shift
    if not settings.given[1]:
        steps = horizon or NOMINAL[1]
        near = not settings.has_teacher or has_covariates
        room = n // 3 if near else n
        if settings.given[0]:
            room = min(room, n - length - shift)
        if not shift:  # else nothing can be fed back
            steps = max(1, min(steps, room))
    history = None
    if not settings.given[0]:
        needed = length + shift + steps
        n_windows = sum(max(0, one - needed + 1) for one in n_points)
        if n < needed or n_windows < length:
            known = steps if settings.given[1] else 1
            history = max(1, min(NOMINAL[0], n // 2, longest - shift - known))
            stays = has_covariates or has_trend or sum(n_points) >= _FEW_POINTS
            length = history if stays else max(history, min(LONGEST_CONTEXT, 4 * n))
    needed = (history or length) + shift + (steps if settings.given[1] else 1)
    if longest < needed:
        raise ValueError(_too_short(settings, longest))
    if (length, steps) == (settings.input_chunk_length, settings.output_chunk_length):
        return settings
    if (length != NOMINAL[0] and not settings.given[0]) or (
        steps < (horizon or NOMINAL[1]) and not settings.given[1]
    ):
        _tell_of_lengths(length, steps, n)
    return _with_lengths(settings, length, steps, history)


def _with_lengths(settings: Settings, length: int, steps: int, history: int | None) -> Settings:
    """Return settings with other lengths; check a callable for horizon weights at that length."""
    teaching = settings.teaching
    if callable(teaching.horizon_weights) and steps != settings.output_chunk_length:
        resolve_horizon_weights(teaching.horizon_weights, steps)  # it can be wrong for this many
    chunks = Chunks(length, steps, settings.output_chunk_shift)
    reaches_back = history is not None and history < length
    return replace(settings, chunks=chunks, history_needed=history if reaches_back else None)


def _too_short(settings: Settings, longest: int) -> str:
    """Say which lengths would do for series that are too short for those given."""
    chunks = settings.chunks
    told = (
        f"The longest series has {longest} points, and one window of input_chunk_length="
        f"{chunks.input_chunk_length}, output_chunk_shift={chunks.output_chunk_shift} and "
        f"output_chunk_length={chunks.output_chunk_length} needs {chunks.length}."
    )
    free = longest - chunks.output_chunk_shift
    if isinstance(settings.teaching.horizon_weights, tuple):
        return (
            f"{told} horizon_weights holds {len(settings.teaching.horizon_weights)} weights, one "
            "for each step of output_chunk_length: pass fewer, or a number; or pass longer series."
        )
    if free < 2:
        return f"{told} Pass longer series."
    half = max(1, min(chunks.input_chunk_length, free // 2))
    steps = max(1, min(chunks.output_chunk_length, free - half))
    return (
        f"{told} Give input_chunk_length={half} and output_chunk_length={steps}, say, or leave "
        "them out to have them fitted to the data; or pass longer series."
    )


def _tell_of_lengths(length: int, steps: int, n_points: int) -> None:
    """Tell the user once that lengths were fitted to the data."""
    if not _told:
        _told.add("lengths")
        warn_user(
            f"Series of {n_points} points (the median) are short for {NOMINAL[0]} -> "
            f"{NOMINAL[1]} steps: the student looks at {length}"
            f"{', filled where they begin before a series,' if length > n_points else ''} and "
            f"forecasts {steps} at once. "
            "Give input_chunk_length and output_chunk_length to decide yourself. (Said once.)"
        )


def check_student(student: Any) -> StudentSettings:
    """Return the settings of a student, given as settings, name or module; or raise.

    >>> check_student("dlinear").kernel_size
    25
    """
    names = ", ".join(map(repr, _STUDENTS))
    if isinstance(student, StudentSettings):
        return student
    if isinstance(student, str):
        if student not in _STUDENTS:
            raise ValueError(f"Unknown student {student!r}. Known students: {names}.")
        return _STUDENTS[student]()
    if isinstance(student, type) and issubclass(student, StudentSettings):
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
        f"student must be one of {names}, settings such as Linear(...) or MLP(...), or a "
        f"torch.nn.Module, got {student!r}."
    )


def check_takes_covariates(student: StudentSettings, what: str) -> None:
    """Raise ValueError where ``what`` is given to a student that takes no covariates."""
    if not student.takes_covariates:
        raise ValueError(
            f"A network of your own takes no {what}: pass the series alone, or use one of the "
            'students that come with the package, such as student="mlp".'
        )


def check_cache_dir(cache_dir: Any) -> None:
    """Raise TypeError unless it is a path, None or False; ValueError if it is a file."""
    if cache_dir is None or cache_dir is False:
        return
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise TypeError(f"cache_dir must be a directory, None or False, got {cache_dir!r}.")
    if os.path.isfile(cache_dir):
        raise ValueError(f"cache_dir must be a directory, got the file {os.fspath(cache_dir)!r}.")


def _check_flag(name: str, flag: Any) -> bool:
    """Return True or False, or raise TypeError."""
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {flag!r}.")
    return bool(flag)


def _is_sequence(value: Any) -> bool:
    """Say whether it is a sequence, and no text."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_distillation_weight(weight: Any) -> float | str:
    """Return alpha, or raise."""
    if isinstance(weight, str):
        if weight != "auto":
            raise ValueError(
                f'distillation_weight must be "auto" or a number of at least 0, got {weight!r}.'
            )
        return weight
    return check_number('distillation_weight (if not "auto")', weight)


def _check_horizon_weights(weights: Any, horizon: int) -> HorizonWeights:
    """Return the horizon weights as given, or raise where they do not fit the horizon."""
    if isinstance(weights, str) and weights == "auto":
        return weights
    resolve_horizon_weights(weights, horizon)
    # A copy: the user may change the list later.
    if callable(weights) or isinstance(weights, str):
        return weights
    return float(weights) if np.ndim(weights) == 0 else tuple(weights)


def _check_alignment(
    kind: Any, weight: Any, size: Any, student: StudentSettings, alpha: float | str
) -> Alignment:
    """Return the alignment, or raise where it cannot be had with this student."""
    weight = check_number("alignment_weight", weight)
    size = check_integer("alignment_dim", size)
    if kind is None or kind == "auto":
        return Alignment(kind, weight, size)
    if kind not in ALIGNMENTS:
        raise ValueError(f'alignment must be "auto", one of {ALIGNMENTS} or None, got {kind!r}.')
    if alpha == 0:
        raise ValueError(
            f"alignment={kind!r} needs a teacher, and distillation_weight=0 is none: set "
            'alignment="auto" or None, or a larger distillation_weight.'
        )
    if student.is_matrix:
        raise ValueError(
            f"alignment={kind!r} needs a student with hidden states; {type(student).__name__} has "
            'none. Use student="itransformer" or "mlp", or alignment="auto" or None.'
        )
    return Alignment(kind, weight, size)


def _check_quantiles(quantiles: Any) -> tuple[float, ...]:
    """Return quantile levels, the median alone for None; or raise."""
    if quantiles is None:
        return (0.5,)
    try:
        levels = tuple(float(q) for q in quantiles)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"quantiles must be numbers, got {quantiles!r}. Example: quantiles=[0.1, 0.5, 0.9]"
        ) from error
    if 0.5 not in levels or not all(0 < q < 1 for q in levels) or not (np.diff(levels) > 0).all():
        raise ValueError(
            f"quantiles must increase between 0 and 1 and hold 0.5, got {quantiles!r}. "
            "Example: quantiles=[0.1, 0.5, 0.9]"
        )
    return levels
