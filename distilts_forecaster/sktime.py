"""The public path of the forecaster for sktime."""

from distilts_forecaster.runtime.checks import extra_for

with extra_for("distilts_forecaster.sktime", "sktime"):
    from distilts_forecaster.facades.sktime import DistilledForecaster

__all__ = ["DistilledForecaster"]
