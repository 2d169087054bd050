"""Measurements of models and of estimators, beyond the bound that training reports."""

from .appendix_d import marginal_likelihood
from .estimator_variance import Measurement, gradient_variance, table
from .grid import Quadrature, quadrature
from .health import Health, examine
from .linear_gaussian import LinearGaussian, expectation_maximization

__all__ = [
    "Health", "LinearGaussian", "Measurement", "Quadrature", "examine", "expectation_maximization",
    "gradient_variance", "marginal_likelihood", "quadrature", "table",
]  # fmt: skip
