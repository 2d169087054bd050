"""p(x|z): the table of likelihoods. Everything that depends on the likelihood is in its row.

The row names the function of the backends that computes the density and its gradient. To add a likelihood, add a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from .backends.formulas import MIN_LOG_VAR
from .backends.reference import LOG_2PI, sigmoid


class Likelihood(NamedTuple):
    """A likelihood p(x|z). The ``outputs`` are those of the decoder's heads, (R, D) each, in the order of ``heads``.

    ``baseline`` is the mean log-likelihood, in nats, of a model with independent columns. A trained model should be
    better than that.

    Examples
    --------
    The mean of a Bernoulli is the sigmoid of its logit:

    >>> import numpy as np
    >>> from npvae.likelihoods import LIKELIHOODS
    >>> LIKELIHOODS["bernoulli"].mean(np.array([[0.0, np.log(3)]]))
    array([[0.5 , 0.75]])
    """

    heads: tuple[tuple[str, str], ...]  # (name, activation) of each head of the decoder
    log_prob: str  # name of the backend's function: log p(x|z) and its gradient at the outputs
    mean: Callable  # from the first head's output to E[x|z]
    draw: Callable  # from (generator, outputs) to x ~ p(x|z)
    unit_interval: bool  # True: training data must lie in [0, 1] and is not scaled. False: columns are standardized
    density: bool  # True: a density, of any number. False: a probability, of values in [0, 1] alone
    floor: int | None  # index of the head whose values have a lower limit, or None
    baseline: Callable  # from mean and variance (D,) of the data to the baseline


def _draw_bernoulli(rng: np.random.Generator, outputs: tuple) -> NDArray:
    return (rng.random(outputs[0].shape) < sigmoid(outputs[0])).astype(outputs[0].dtype)


def _draw_gaussian(rng: np.random.Generator, outputs: tuple) -> NDArray:
    mu, log_var = outputs
    return mu + np.exp(log_var / 2) * rng.standard_normal(mu.shape).astype(mu.dtype)


def _independent_bernoulli(mean: NDArray, variance: NDArray) -> float:
    return -float(np.sum(entr(mean) + entr(1 - mean)))


def _independent_gaussian(mean: NDArray, variance: NDArray) -> float:
    floored = np.maximum(variance, np.exp(MIN_LOG_VAR))
    return -0.5 * float(np.sum(LOG_2PI + np.log(floored) + variance / floored))


#: All likelihoods, by the name that users give.
LIKELIHOODS = {
    "bernoulli": Likelihood(
        heads=(("logits", "identity"),),
        log_prob="bernoulli_log_prob",
        mean=sigmoid,
        draw=_draw_bernoulli,
        unit_interval=True,
        density=False,
        floor=None,
        baseline=_independent_bernoulli,
    ),
    "gaussian": Likelihood(
        heads=(("mu", "identity"), ("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=np.array,
        draw=_draw_gaussian,
        unit_interval=False,
        density=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
    "sigmoid-gaussian": Likelihood(
        heads=(("mu", "sigmoid"), ("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=np.array,
        draw=_draw_gaussian,
        unit_interval=True,
        density=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
}
