"""Students: what is fitted."""

from distilts_forecaster.students.linear import Linear
from distilts_forecaster.students.settings import MLP, DLinear, ITransformer, Network, Training

__all__ = ["MLP", "DLinear", "ITransformer", "Linear", "Network", "Training"]
