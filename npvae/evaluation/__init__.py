"""Measurements of models and of estimators, beyond the bound that training reports."""

from .appendix_d import marginal, marginal_likelihood
from .estimates import Estimates
from .estimator_variance import Measurement, gradient_variance, table
from .grid import Quadrature, quadrature
from .health import Health, examine
from .importance import importance_sampling, pareto_shape
from .linear_gaussian import LinearGaussian, expectation_maximization
from .log_likelihood import METHODS, estimate

__all__ = [
    "METHODS", "Estimates", "Health", "LinearGaussian", "Measurement", "Quadrature", "estimate", "examine",
    "expectation_maximization", "gradient_variance", "importance_sampling", "marginal", "marginal_likelihood",
    "pareto_shape", "quadrature", "table",
]  # fmt: skip
