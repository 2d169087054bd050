"""p(x|z): one complete row for each likelihood. Everything that depends on the likelihood reads it here.

A row names the density, which is a function of the backends with its gradient, and says what else a model needs: the
heads of the decoder, the mean, draws, what data it takes, its floor, and the baseline that training is measured by.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from .backends.formulas import MIN_LOG_VAR
from .backends.reference import LOG_2PI, sigmoid


class Likelihood(NamedTuple):
    """A likelihood; ``outputs`` are what the decoder's heads give, (R, D) each, in the order of ``heads``."""

    heads: tuple  # of (name, activation)
    log_prob: str  # the function of a backend
    mean: Callable  # from the first head's output to E[x|z]
    draw: Callable  # from (generator, outputs) to x ~ p(x|z)
    unit_interval: bool  # data must lie in [0, 1] and is taken as it is; else columns are standardized
    floor: int | None  # the head whose values have a floor
    baseline: Callable  # from mean and variance (D,) of data to the log-likelihood of independent columns, in nats


def _draw_bernoulli(rng, outputs):
    return (rng.random(outputs[0].shape) < sigmoid(outputs[0])).astype(outputs[0].dtype)


def _draw_gaussian(rng, outputs):
    mu, log_var = outputs
    return mu + np.exp(log_var / 2) * rng.standard_normal(mu.shape).astype(mu.dtype)


def _independent_bernoulli(mean, variance):
    return -float(np.sum(entr(mean) + entr(1 - mean)))


def _independent_gaussian(mean, variance):
    floored = np.maximum(variance, np.exp(MIN_LOG_VAR))
    return -0.5 * float(np.sum(LOG_2PI + np.log(floored) + variance / floored))


LIKELIHOODS = {
    "bernoulli": Likelihood(
        heads=(("logits", "identity"),),
        log_prob="bernoulli_log_prob",
        mean=sigmoid,
        draw=_draw_bernoulli,
        unit_interval=True,
        floor=None,
        baseline=_independent_bernoulli,
    ),
    "gaussian": Likelihood(
        heads=(("mu", "identity"), ("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=np.array,
        draw=_draw_gaussian,
        unit_interval=False,
        floor=1,
        baseline=_independent_gaussian,
    ),
    "sigmoid-gaussian": Likelihood(
        heads=(("mu", "sigmoid"), ("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=np.array,
        draw=_draw_gaussian,
        unit_interval=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
}
