"""What can be measured of models and of estimators, beyond the bound that training reports."""

from .laboratory import Measurement, gradient_variance, table

__all__ = ["Measurement", "gradient_variance", "table"]
