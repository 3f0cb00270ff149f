"""Students: what is fitted."""

from distilts_forecaster.students.linear import Linear

__all__ = ["Linear"]
