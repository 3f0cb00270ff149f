"""The public path of the regressor for scikit-learn."""

from distilts_forecaster.runtime.checks import extra_for

with extra_for("distilts_forecaster.sklearn", "sklearn"):
    from distilts_forecaster.facades.sklearn import DistilledRegressor

__all__ = ["DistilledRegressor"]
