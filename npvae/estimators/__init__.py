"""Estimators of the bound and of its gradient, all behind one interface.

``draw`` makes the noise of a minibatch, ``sample`` fixes what the gradient holds constant, ``value_and_grad`` is then
deterministic, ``elbo`` is the bound that goes with its value, and ``first_nonfinite`` says where a computation went
wrong. ``model`` is the Model that all work on.
"""

from .elbo import WEIGHT_DRAWS, Scorer
from .full_vb import FullVB
from .score_function import ScoreFunction
from .sgvb import SGVB

#: Estimators by name, as functions from (model, samples z for each datapoint, datapoints N).
ESTIMATORS = {
    "sgvb-a": lambda model, L, N: SGVB(model, L, analytic_kl=False),
    "sgvb-b": lambda model, L, N: SGVB(model, L, analytic_kl=True),
    "score-function": lambda model, L, N: ScoreFunction(model, L),
    "score-function-running": lambda model, L, N: ScoreFunction(model, L, "running"),
    "score-function-leave-one-out": lambda model, L, N: ScoreFunction(model, L, "leave-one-out"),
    "full-vb": lambda model, L, N: FullVB(model, L, N, analytic_kl=True),
    "full-vb-sampled": lambda model, L, N: FullVB(model, L, N, analytic_kl=False),
}

#: What is random of the models that an estimator is for (`Architecture.random`), where anything is.
RANDOM = {"full-vb": "decoder", "full-vb-sampled": "decoder"}

#: Those that the backend "cuda" has kernels for.
ON_CUDA = ("sgvb-a", "sgvb-b")

#: Those that know q(z|x) as a Gaussian alone.
GAUSSIAN_ONLY = ("score-function", "score-function-running", "score-function-leave-one-out")

#: The fewest samples L for each datapoint, where one is not enough.
FEWEST_SAMPLES = {"score-function-leave-one-out": 2}


def available(posterior, backend="cpu"):
    """List the names of the estimators that know this family of q(z|x), on a backend."""
    if posterior != "gaussian":
        return [] if backend == "cuda" else [name for name in ESTIMATORS if name not in GAUSSIAN_ONLY]
    return list(ON_CUDA if backend == "cuda" else ESTIMATORS)


def suits(name, architecture):
    """Tell whether the estimator of that name works on a model."""
    return name in available(architecture.posterior) and RANDOM.get(name) == architecture.random


__all__ = [
    "ESTIMATORS", "FEWEST_SAMPLES", "ON_CUDA", "RANDOM", "SGVB", "WEIGHT_DRAWS", "FullVB", "ScoreFunction", "Scorer",
    "available", "suits",
]  # fmt: skip
