"""Estimators of the bound and of its gradient, all behind one interface.

``draw`` makes the noise of a minibatch, ``sample`` fixes what the gradient holds constant, ``value_and_grad`` is then
deterministic, and ``first_nonfinite`` says where a computation went wrong. ``model`` is the Model that all work on.
"""

from .elbo import Scorer
from .sgvb import SGVB

#: Estimators by name, as functions from (model, n_samples).
ESTIMATORS = {
    "sgvb-a": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=False),
    "sgvb-b": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=True),
}

__all__ = ["ESTIMATORS", "SGVB", "Scorer"]
