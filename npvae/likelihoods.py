"""p(x|z): the table of likelihoods. Everything that depends on the likelihood is in its row.

The row names the function of the backends that computes the density and its gradient. To add a likelihood, add a row.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

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

    ``baseline`` is the mean log-likelihood of each column, in nats, in a model with independent columns. A trained
    model should be better than their sum.

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
    noise: Callable  # fills a C-contiguous array (R, D) of float32 from (generator, array, number of binary columns)
    drawn: Callable  # from (noise, outputs) to x ~ p(x|z)
    unit_interval: bool  # True: training data must lie in [0, 1] and is not scaled. False: columns are standardized
    density: bool  # True: a density, of any number. False: a probability, of values in [0, 1] alone
    floor: int | None  # index of the head whose values have a lower limit, or None
    baseline: Callable  # from mean and variance (D,) of the data, and the number of binary columns, to (D,)

    @property
    def has_kinds(self) -> bool:
        """Whether the data has columns of several kinds."""
        return any(head.columns != "all" for head in self.heads)

    def draw(self, rng: np.random.Generator, outputs: Sequence) -> NDArray:
        """Draw x ~ p(x|z), (R, D) in the type of the outputs."""
        widths = {head.columns: output.shape[1] for head, output in zip(self.heads, outputs)}
        noise = np.empty((len(outputs[0]), sum(widths.values())), np.float32)
        return self.drawn(self.noise(rng, noise, widths.get("binary", 0)), outputs)


def _uniform(rng: np.random.Generator, noise: NDArray, n_binary: int) -> NDArray:
    return rng.random(out=noise, dtype=np.float32)


def _normal(rng: np.random.Generator, noise: NDArray, n_binary: int) -> NDArray:
    return rng.standard_normal(out=noise, dtype=np.float32)


def _uniform_and_normal(rng: np.random.Generator, noise: NDArray, n_binary: int) -> NDArray:
    R, D = noise.shape
    noise[:, :n_binary] = rng.random((R, n_binary), np.float32)
    noise[:, n_binary:] = rng.standard_normal((R, D - n_binary), np.float32)
    return noise


def _drawn_bernoulli(uniform: NDArray, outputs: Sequence) -> NDArray:
    """Return 1 where the noise is below the sigmoid of the logits, in fewer passes than the sigmoid takes."""
    (logits,) = outputs
    return (uniform * (1 + np.exp(np.minimum(-logits, 80))) < 1).astype(logits.dtype)  # exp(80) is finite in float32


def _drawn_gaussian(normal: NDArray, outputs: Sequence) -> NDArray:
    mu, log_var = outputs
    return mu + np.exp(log_var / 2) * normal


def _drawn_mixed(noise: NDArray, outputs: Sequence) -> NDArray:
    B = outputs[0].shape[1]
    binary, real = _drawn_bernoulli(noise[:, :B], outputs[:1]), _drawn_gaussian(noise[:, B:], outputs[1:])
    return np.concatenate([binary, real], axis=1)


def _mean_bernoulli(outputs: Sequence) -> NDArray:
    return sigmoid(outputs[0])


def _mean_gaussian(outputs: Sequence) -> NDArray:
    return np.array(outputs[0])


def _mean_mixed(outputs: Sequence) -> NDArray:
    return np.concatenate([_mean_bernoulli(outputs[:1]), _mean_gaussian(outputs[1:])], axis=1)


def _independent_bernoulli(mean: NDArray, variance: NDArray, n_binary: int) -> NDArray:
    return -(entr(mean) + entr(1 - mean))


def _independent_gaussian(mean: NDArray, variance: NDArray, n_binary: int) -> NDArray:
    floored = np.maximum(variance, np.exp(MIN_LOG_VAR))
    return -0.5 * (LOG_2PI + np.log(floored) + variance / floored)


def _independent_mixed(mean: NDArray, variance: NDArray, B: int) -> NDArray:
    binary, real = _independent_bernoulli(mean[:B], variance[:B], B), _independent_gaussian(mean[B:], variance[B:], 0)
    return np.concatenate([binary, real])


#: All likelihoods, by the name that users give.
LIKELIHOODS = {
    "bernoulli": Likelihood(
        heads=(Head("logits", "identity"),),
        log_prob="bernoulli_log_prob",
        mean=_mean_bernoulli,
        noise=_uniform,
        drawn=_drawn_bernoulli,
        unit_interval=True,
        density=False,
        floor=None,
        baseline=_independent_bernoulli,
    ),
    "gaussian": Likelihood(
        heads=(Head("mu", "identity"), Head("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=_mean_gaussian,
        noise=_normal,
        drawn=_drawn_gaussian,
        unit_interval=False,
        density=True,
        floor=1,
        baseline=_independent_gaussian,
    ),
    "sigmoid-gaussian": Likelihood(
        heads=(Head("mu", "sigmoid"), Head("log_var", "soft_floor")),
        log_prob="gaussian_log_prob",
        mean=_mean_gaussian,
        noise=_normal,
        drawn=_drawn_gaussian,
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
        mean=_mean_mixed,
        noise=_uniform_and_normal,
        drawn=_drawn_mixed,
        unit_interval=False,
        density=True,
        floor=2,
        baseline=_independent_mixed,
    ),
}
