"""The regressor for scikit-learn: ``from distilts_forecaster.sklearn import DistilledRegressor``."""

from distilts_forecaster.facades.sklearn import DistilledRegressor

__all__ = ["DistilledRegressor"]
