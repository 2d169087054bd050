"""Estimators of the bound and of its gradient, all behind one interface.

``draw`` makes the noise of a minibatch, ``sample`` fixes what the gradient holds constant, ``value_and_grad`` is then
deterministic, ``elbo`` is the bound that goes with its value, and ``first_nonfinite`` says where a computation went
wrong. ``model`` is the Model that all work on.
"""

from .elbo import Scorer
from .score_function import ScoreFunction
from .sgvb import SGVB

#: Estimators by name, as functions from (model, n_samples).
ESTIMATORS = {
    "sgvb-a": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=False),
    "sgvb-b": lambda model, n_samples: SGVB(model, n_samples, analytic_kl=True),
    "score-function": ScoreFunction,
    "score-function-running": lambda model, n_samples: ScoreFunction(model, n_samples, "running"),
    "score-function-leave-one-out": lambda model, n_samples: ScoreFunction(model, n_samples, "leave-one-out"),
}

#: The fewest samples L for each datapoint, where one is not enough.
FEWEST_SAMPLES = {"score-function-leave-one-out": 2}

__all__ = ["ESTIMATORS", "FEWEST_SAMPLES", "SGVB", "ScoreFunction", "Scorer"]
