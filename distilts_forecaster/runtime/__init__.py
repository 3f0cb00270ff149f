"""Run a fitted student: NumPy and safetensors only, whatever it was fitted with."""

from distilts_forecaster.runtime.artifact import load_student, save_student
from distilts_forecaster.runtime.base import Forecaster
from distilts_forecaster.runtime.linear import LinearForecaster
from distilts_forecaster.runtime.networks import NetworkForecaster

__all__ = ["Forecaster", "LinearForecaster", "NetworkForecaster", "load_student", "save_student"]
