"""The forecaster for sktime: ``from distilts_forecaster.sktime import DistilledForecaster``."""

from distilts_forecaster.facades.sktime import DistilledForecaster

__all__ = ["DistilledForecaster"]
