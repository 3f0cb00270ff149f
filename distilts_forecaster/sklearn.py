"""The public path of the regressor for scikit-learn."""

from distilts_forecaster.facades.sklearn import DistilledRegressor

__all__ = ["DistilledRegressor"]
