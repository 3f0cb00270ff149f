"""Students: what is fitted."""

from distilts_forecaster.students.base import Training
from distilts_forecaster.students.settings import MLP, DLinear, ITransformer, Linear, Network

__all__ = ["MLP", "DLinear", "ITransformer", "Linear", "Network", "Training"]
