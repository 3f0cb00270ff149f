"""Teachers: who the student learns from."""

from distilts_forecaster.teachers.base import Teacher, TeacherForecast, TeacherInfo
from distilts_forecaster.teachers.ensemble import Ensemble
from distilts_forecaster.teachers.function import FunctionTeacher
from distilts_forecaster.teachers.load import as_specification, load_teacher

__all__ = [
    "Ensemble",
    "FunctionTeacher",
    "Teacher",
    "TeacherForecast",
    "TeacherInfo",
    "as_specification",
    "load_teacher",
]
