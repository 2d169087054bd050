"""Measurements of models and of estimators, beyond the bound that training reports."""

from .annealing import Sandwich, annealed_importance_sampling, sandwich
from .appendix_d import marginal, marginal_likelihood
from .estimates import Estimates
from .estimator_variance import Measurement, gradient_variance, table
from .grid import Quadrature, quadrature
from .health import Health, examine
from .importance import importance_sampling, pareto_shape
from .linear_gaussian import LinearGaussian, expectation_maximization
from .log_likelihood import METHODS, estimate

__all__ = [
    "METHODS", "Estimates", "Health", "LinearGaussian", "Measurement", "Quadrature", "Sandwich",
    "annealed_importance_sampling", "estimate", "examine",
    "expectation_maximization", "gradient_variance", "importance_sampling", "marginal", "marginal_likelihood",
    "pareto_shape", "quadrature", "sandwich", "table",
]  # fmt: skip
