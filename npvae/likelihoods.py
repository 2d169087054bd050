"""p(x|z): the table of likelihoods. Everything that depends on the likelihood is in its row.

The row names the function of the backends that computes the density and its gradient. To add a likelihood, add a row.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from .backends.formulas import MIN_LOG_VAR
from .backends.reference import LOG_2PI, sigmoid


class Head(NamedTuple):
    """A head of the decoder: an output layer.

    Examples
    --------
    >>> from npvae.likelihoods import LIKELIHOODS
    >>> [head.name for head in LIKELIHOODS["gaussian"].heads]
    ['mu', 'log_var']
    """

    name: str
    activation: str
    columns: str = "all"  # of x that it has an output for: all, or those of a kind in data of several kinds


class Likelihood(NamedTuple):
    """A likelihood p(x|z). The ``outputs`` are those of the decoder's heads, in the order of ``heads``.

    They are (R, D) each. In data with several kinds of columns, the binary columns are the first ones of x, and a head
    has the columns of its kind.

    ``baseline`` is the mean log-likelihood, in nats, of a model with independent columns. A trained model should be
    better than that.

    Examples
    --------
    The mean of a Bernoulli is the sigmoid of its logit:

    >>> import numpy as np
    >>> from npvae.likelihoods import LIKELIHOODS
    >>> LIKELIHOODS["bernoulli"].mean([np.array([[0.0, np.log(3)]])])
    array([[0.5 , 0.75]])
    """

    heads: tuple[Head, ...]
    log_prob: str  # name of the backend's function: log p(x|z) and its gradient at the outputs
    mean: Callable  # from the outputs to E[x|z]
    draw: Callable  # from (generator, outputs) to x ~ p(x|z)
    unit_interval: bool  # True: training data must lie in [0, 1] and is not scaled. False: columns are standardized
    density: bool  # True: a density, of any number. False: a probability, of values in [0, 1] alone
    floor: int | None  # index of the head whose values have a lower limit, or None
    baseline: Callable  # from mean and variance (D,) of the data, and the number of binary columns, to the baseline

    @property
    def has_kinds(self) -> bool:
        """Whether the data has columns of several kinds."""
        return any(head.columns != "all" for head in self.heads)


def _draw_bernoulli(rng: np.random.Generator, outputs: Sequence) -> NDArray:
    return (rng.random(outputs[0].shape) < sigmoid(outputs[0])).astype(outputs[0].dtype)


def _draw_gaussian(rng: np.random.Generator, outputs: Sequence) -> NDArray:
    mu, log_var = outputs
    return mu + np.exp(log_var / 2) * rng.standard_normal(mu.shape).astype(mu.dtype)


def _mean_bernoulli(outputs: Sequence) -> NDArray:
    return sigmoid(outputs[0])


def _mean_gaussian(outputs: Sequence) -> NDArray:
    return np.array(outputs[0])


def _mixed(binary: Callable, real: Callable, *arguments: Any) -> NDArray:
    """Return what two functions make of the outputs for binary and for real columns, side by side."""
    *others, outputs = arguments
    return np.concatenate([binary(*others, outputs[:1]), real(*others, outputs[1:])], axis=1)


def _independent_bernoulli(mean: NDArray, variance: NDArray, n_binary: int) -> float:
    return -float(np.sum(entr(mean) + entr(1 - mean)))


def _independent_gaussian(mean: NDArray, variance: NDArray, n_binary: int) -> float:
    floored = np.maximum(variance, np.exp(MIN_LOG_VAR))
    return -0.5 * float(np.sum(LOG_2PI + np.log(floored) + variance / floored))


def _independent_mixed(mean: NDArray, variance: NDArray, B: int) -> float:
    return _independent_bernoulli(mean[:B], variance[:B], B) + _independent_gaussian(mean[B:], variance[B:], 0)


#: All likelihoods, by the name that users give.
LIKELIHOODS = {
    "bernoulli": Likelihood(
        heads=(Head("logits", "identity"),),
        log_prob="bernoulli_log_prob",
        mean=_mean_bernoulli,
        draw=_draw_bernoulli,
        unit_interval=True,
        density=False,
        floor=None,
        baseline=_independent_bernoulli,
    ),
    "gaussian": Likelihood(
        heads=(Head("mu", "identity"), Head("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=_mean_gaussian,
        draw=_draw_gaussian,
        unit_interval=False,
        density=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
    "sigmoid-gaussian": Likelihood(
        heads=(Head("mu", "sigmoid"), Head("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=_mean_gaussian,
        draw=_draw_gaussian,
        unit_interval=True,
        density=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
    "mixed": Likelihood(
        heads=(
            Head("logits", "identity", "binary"),
            Head("mu", "identity", "real"),
            Head("log_var", "soft_floor", "real"),
        ),
        log_prob="mixed_log_prob",
        mean=partial(_mixed, _mean_bernoulli, _mean_gaussian),
        draw=partial(_mixed, _draw_bernoulli, _draw_gaussian),
        unit_interval=False,
        density=True,
        floor=2,
        baseline=_independent_mixed,
    ),
}
