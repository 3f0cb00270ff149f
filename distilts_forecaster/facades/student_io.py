"""What facades share: save, upload, export and load their student."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from distilts_forecaster.distill.judge import TrainingSummary
from distilts_forecaster.runtime.artifact import load_student, save_student
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.hub import upload
from distilts_forecaster.runtime.info import StudentInfo
from distilts_forecaster.runtime.networks import NetworkForecaster
from distilts_forecaster.students import MLP, DLinear, ITransformer, Linear, Training
from distilts_forecaster.teachers.base import TeacherInfo, TeacherReference

if TYPE_CHECKING:
    from distilts_forecaster.runtime.onnx import Export

__all__ = ["Shippable", "as_student", "recall_parameters", "recall_summary"]


def as_student(student: Any) -> Forecaster:
    """Return a student, loaded if it is a directory or a name on the hub.

    TypeError if it is neither; what :func:`~distilts_forecaster.load_student` raises.
    """
    if isinstance(student, Forecaster):
        return student
    if isinstance(student, (str, os.PathLike)):
        return load_student(student)
    raise TypeError(
        "student must be a fitted student (model.student_), a directory that save_student wrote, "
        f"or a name on the hub, got {type(student).__name__}."
    )


def recall_parameters(student: Forecaster) -> dict[str, Any]:
    """Return the parameters, of those that all facades share, that a student was fitted with.

    A teacher that was given as an object is a reference: it cannot be asked again.
    """
    info = student.info or StudentInfo()
    parameters: dict[str, Any] = {
        "input_chunk_length": student.input_chunk_length,
        "output_chunk_length": student.output_chunk_length,
        "nonnegative": student.nonnegative,
    }
    settings = info.settings
    if settings.get("history_needed") is not None:
        del parameters["input_chunk_length"]  # it was left open
    parameters["student"] = _recall_student(settings.get("student"), student)
    for name in (
        "distillation_weight",
        "horizon_weights",
        "alignment",
        "alignment_weight",
        "alignment_dim",
        "calibrate",
        "label_budget",
        "time_limit",
        "accept",
        "teacher_context",
        "random_state",
    ):
        if name in settings:
            parameters[name] = settings[name]
    if info.teacher is not None:
        teacher = info.teacher
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", teacher.name)
        reference = TeacherReference(
            TeacherInfo(
                teacher.name,
                teacher.revision,
                teacher.dtype or "float32",
                teacher.licence,
                teacher.n_parameters,
            )
        )
        by_name = teacher.name == "bundled" or on_hub
        parameters["teacher"] = teacher.name if by_name else reference
    return parameters


def _recall_student(told: Any, student: Forecaster) -> Any:
    """Return the settings of a student as recorded, else those of its kind."""
    kinds: dict[str, Any] = {k.__name__: k for k in (Linear, DLinear, MLP, ITransformer)}
    if isinstance(told, Mapping) and told.get("kind") in kinds:
        kind = kinds[str(told["kind"])]
        values = {item.name: told[item.name] for item in fields(kind) if item.name in told}
        training = values.get("training")
        if isinstance(training, Mapping):
            known = {item.name for item in fields(Training)}
            values["training"] = Training(**{n: v for n, v in training.items() if n in known})
        return kind(**values)
    if isinstance(student, NetworkForecaster):
        return {"mlp": MLP, "itransformer": ITransformer}[student.kind](**dict(student.sizes))
    return "linear"


def recall_summary(student: Forecaster) -> TrainingSummary | None:
    """Return what a student's ``info`` tells of its fit, None where it tells nothing."""
    info = student.info
    if info is None or info.fit is None:
        return None
    teacher = info.teacher
    return TrainingSummary(
        info.fit.windows,
        info.fit.chosen,
        info.fit.errors,
        None if teacher is None else f"{teacher.name}|{teacher.revision}|{teacher.dtype}",
        None if teacher is None else teacher.licence,
    )


class Shippable:
    """Mixin of facades: save, share and export the student."""

    student_: Forecaster

    def _fitted_student(self) -> Forecaster:
        """Return the student, or raise where there is none."""
        if not hasattr(self, "student_"):
            raise ValueError("There is no student yet: call fit first.")
        return self.student_

    def save_student(self, directory: str | os.PathLike) -> None:
        """Save the student alone: safetensors, JSON and a model card.

        :func:`~distilts_forecaster.load_student` loads it, with NumPy and safetensors alone.

        Parameters
        ----------
        directory : path-like
            Created if it does not exist.

        Raises
        ------
        ValueError
            If the model is not fitted, or the directory holds something else.
        TypeError
            If the student is a module of your own: :meth:`export_onnx` writes those.
        """
        save_student(self._fitted_student(), directory)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload student",
    ) -> str:
        """Upload the student to the Hugging Face hub (extra ``hub``).

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``; created if it does not exist.
        private : bool, optional
            Of a repository that is created; by default as the owner's settings say.
        token : str, optional
            By default the one that was stored by ``hf auth login``.
        commit_message : str, default "Upload student"

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        ValueError
            If the model is not fitted.
        ImportError
            If huggingface_hub is not installed.
        """
        student = self._fitted_student()
        with tempfile.TemporaryDirectory() as folder:
            save_student(student, folder)
            return upload(folder, repo_id, private, token, commit_message)

    def export_onnx(
        self,
        path: str | os.PathLike,
        quantile_levels: Sequence[float] | None = None,
        precision: str = "float32",
    ) -> Export:
        """Export the student as an ONNX graph (extra ``onnx``).

        Parameters
        ----------
        path : path-like
        quantile_levels : sequence of float, optional
            Levels of the output ``quantiles``; by default those that the student knows.
        precision : {"float32", "float16", "int8"}, default "float32"
            Of the weights in the file.

        Returns
        -------
        Export
            What was written, and how far it is from the student; see
            :func:`~distilts_forecaster.runtime.onnx.export_onnx`.
        """
        from distilts_forecaster.runtime.onnx import export_onnx

        return export_onnx(self._fitted_student(), path, quantile_levels, precision)
