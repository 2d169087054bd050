"""Estimators of the bound and of its gradient, all behind one interface: draw, sample, value_and_grad."""

from .elbo import Scorer
from .sgvb import SGVB

#: What `make` knows, by name: each builds an estimator from (model, n_samples).
ESTIMATORS = {
    "sgvb-a": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=False),
    "sgvb-b": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=True),
}

__all__ = ["ESTIMATORS", "SGVB", "Scorer"]
