"""What can be measured of models and of estimators, beyond the bound that training reports."""

from .laboratory import Measurement, gradient_variance, table
from .linear_gaussian import LinearGaussian, expectation_maximization
from .marginal_likelihood import log_joint, marginal_likelihood
from .quadrature import Quadrature, quadrature

__all__ = [
    "LinearGaussian", "Measurement", "Quadrature", "expectation_maximization", "gradient_variance", "log_joint",
    "marginal_likelihood", "quadrature", "table",
]  # fmt: skip
