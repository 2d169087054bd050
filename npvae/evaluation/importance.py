"""log p(x) by importance sampling with q(z|x) (Rezende et al., 2014), and when not to believe it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..conventions import array_of_shape
from ..fitted import Fitted
from ..model import Model
from ..noise import RowNoise
from ..parameters import Buffers
from ..preprocessing import Data
from .estimates import Estimates, effective_size, log_mean_exp

#: Number of samples z that are decoded together: so many that waking the threads takes little of the time.
CHUNK = 1000

#: Fewest weights in the tail that a Pareto distribution is fitted to.
FEWEST_IN_TAIL = 5


def importance_sampling(fitted: Fitted, data: Data, n_samples: int) -> Estimates:
    """Estimate log p(x) = log E_q[p(x, z) / q(z|x)] from k samples z of q(z|x): the logarithm of their mean weight.

    The mean weight is an unbiased estimate of p(x). Its logarithm is low on average, by half of its squared error where
    that is small, and never below the bound: for k = 1 it is the bound. What q(z|x) does not reach is missed. A family
    that ends somewhere would miss all beyond; its samples are then drawn from a Gaussian with the same mean and
    variance.

    Memory does not grow with k, except for one number a sample.

    Parameters
    ----------
    fitted : Fitted
    data : Data
    n_samples : int
        The k.

    Returns
    -------
    Estimates
        ``diagnosis`` has the "effective sample size" (sum w)^2 / sum w^2 of the weights, and their "Pareto shape":
        see `pareto_shape`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> vae = npvae.VAE(1, **settings).fit(X)
    >>> found = importance_sampling(vae.fitted_, vae.fitted_.data(X[:5]), n_samples=1000)
    >>> bool(np.all(found.error < 0.01)), bool(np.all(found.diagnosis["Pareto shape"] < 0.7))
    (True, True)
    """
    model = _proposing_everywhere(fitted.model)
    buffers, together, found = Buffers(model.backend, model.dtype), max(1, CHUNK // n_samples), []
    for start in range(0, len(data.X), together):
        rows = np.arange(start, min(start + together, len(data.X)))
        x = model.gather(data, rows, buffers)
        log_weights = _log_weights(model, fitted, x, n_samples, buffers)
        shapes = [pareto_shape(of_row) for of_row in log_weights.T]
        found.append((*log_mean_exp(log_weights), effective_size(log_weights), shapes))
    log_prob, error, size, shape = (np.concatenate(parts) for parts in zip(*found))
    return Estimates(
        log_prob + data.offset, error, {"effective sample size": size, "Pareto shape": np.array(shape, float)}
    )


def _proposing_everywhere(model: Model) -> Model:
    """Return the model, or one with a Gaussian q(z|x) of the same mean and variance where its family ends somewhere."""
    if np.isfinite(model.posterior.icdf(0.0)) or np.isfinite(model.posterior.icdf(1.0)):
        return Model(model.architecture._replace(posterior="gaussian"), model.backend, model.dtype, model.missing)
    return model


def _log_weights(model, fitted, x, n_samples, buffers):
    """Return log p(x, z) - log q(z|x) of so many samples z for each row of x (M, D), as float64 (n_samples, M)."""
    M, J, to_numpy = len(x), model.architecture.n_components, model.backend.to_numpy
    encoded, log_weights = model.encode(fitted.parameters, x, buffers), np.empty((n_samples, M))
    generators = RowNoise(to_numpy(x), fitted.seed).generators()
    step = max(1, CHUNK // M)
    for start in range(0, n_samples, step):
        L = min(step, n_samples - start)
        noise = np.empty((M, L, J), np.float32)
        for rng, of_row in zip(generators, noise):
            model.noise(rng, of_row)
        eps = model.backend.asarray(noise.transpose(1, 0, 2).reshape(L * M, J), model.dtype)
        z, log_ratio = model.latent(encoded, eps, False, buffers)  # log q(z|x) - log p(z)
        decoded = model.decode(fitted.parameters, z, buffers)
        log_likelihood = model.log_likelihood(x, decoded, buffers.full(1.0, L * M), buffers)
        log_weights[start : start + L] = np.subtract(to_numpy(log_likelihood), to_numpy(log_ratio)).reshape(L, M)
    return log_weights


def pareto_shape(log_weights: ArrayLike) -> float:
    """Estimate the shape of a generalized Pareto distribution of the largest importance weights.

    Moments of the weights up to 1 / shape exist. Above 0.5 their variance is infinite, and above 0.7 the mean of as
    many samples as there are in practice is not to be trusted (Vehtari, Simpson, Gelman, Yao and Gabry, 2024). The
    distribution is fitted to the 3 sqrt(k) largest of the k weights, at most a fifth of them, by the estimator of
    Zhang and Stephens (2009), with a weak prior at 0.5.

    Parameters
    ----------
    log_weights : array (k,)
        Logarithms of the weights, up to a constant.

    Returns
    -------
    float
        -inf where the largest weights are equal, inf where one of them dwarfs all others, and NaN where there are too
        few weights to tell, k < 25.

    Raises
    ------
    TypeError, ValueError
        If ``log_weights`` is not a vector.

    Examples
    --------
    The weights u^(-shape) of uniform numbers u have a Pareto distribution with this shape:

    >>> u = np.random.default_rng(2).random(100_000)
    >>> round(pareto_shape(-0.3 * np.log(u)), 1), round(pareto_shape(-0.9 * np.log(u)), 1)
    (0.3, 0.9)
    """
    log_weights = np.asarray(array_of_shape("log_weights", log_weights, ("k",)), float)
    k = len(log_weights)
    size = int(np.ceil(min(0.2 * k, 3 * np.sqrt(k))))
    if size < FEWEST_IN_TAIL or not np.all(log_weights < np.inf):  # NaN too
        return np.nan
    tail = np.sort(np.partition(log_weights, k - size - 1)[k - size - 1 :])
    if tail[-1] == -np.inf:
        return np.nan
    weights = np.exp(tail - tail[-1])
    excess = weights[1:] - weights[0]
    quartile = excess[int(size / 4 + 0.5) - 1]
    if quartile <= 0:  # a quarter equal the threshold: all weights are alike, or next to the largest they are 0
        return np.inf if tail[-1] - tail[0] > 1 else -np.inf
    return _fit(excess, quartile)


def _fit(excess: NDArray, quartile: float) -> float:
    """Return the shape for what is above the threshold, in ascending order (n,): Zhang and Stephens (2009).

    The likelihood depends on the shape and on b = shape / scale. For each b the best shape is a mean of logarithms. The
    result belongs to the mean of b under a posterior on a grid, whose width follows from the first quartile.
    """
    n = len(excess)
    m = 30 + int(np.sqrt(n))
    b = (np.sqrt(m / (np.arange(m) + 0.5)) - 1) / (3 * quartile) - 1 / excess[-1]
    shape = np.log1p(b[:, None] * excess).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_likelihood = n * (np.log(b / shape) - shape - 1)
    log_likelihood = np.where(np.isnan(log_likelihood), -np.inf, log_likelihood)  # b = 0
    posterior = np.exp(log_likelihood - log_likelihood.max())
    best = np.log1p(posterior @ b / posterior.sum() * excess).mean()
    return float((n * best + 10 * 0.5) / (n + 10))
