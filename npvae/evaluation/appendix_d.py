"""log p(x) of a datapoint from samples of its posterior p(z|x) (Appendix D of the paper).

`marginal` is the whole of it: samples of the posterior by Hamiltonian Monte Carlo, a density q(z) fitted to a first set
of them, and the harmonic mean over new ones. `marginal_likelihood` is the last step, for samples and densities of one's
own.

`npvae.inference.fit_posterior` fits a q(z) to one datapoint as well. Its bound minus the encoder's bound is what is
lost because one network serves all datapoints (amortization gap).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, ndtri

from ..backends.reference import LOG_2PI
from ..conventions import array_of_shape, check_choice, check_each
from ..fitted import BATCH, Fitted
from ..noise import RowNoise
from ..parameters import Buffers
from ..preprocessing import Data
from ..samplers import Noise, sample
from .estimates import Estimates, log_mean_exp
from .standardized import Standardized

#: Sets of new samples. Each comes from chains of its own, so the spread between sets is that of independent estimates.
SETS = 10

#: Fewest samples of a set. Fewer may lie nearly on a line, and a Gaussian fitted to them has no width beside it.
FEWEST = 5

#: Leapfrog steps of a transition, their first size in units of the deviation of q(z|x), and transitions before the
#: first sample.
LEAPFROG, STEP_SIZE, WARM_UP = 15, 0.2, 50


def marginal_likelihood(log_q: ArrayLike, log_p: ArrayLike) -> float:
    """Estimate log p(x) from samples z_l of p(z|x): ``-log mean_l q(z_l) / (p(z_l) p(x|z_l))`` (Appendix D).

    q may be any density that was not fitted to these samples and does not have heavier tails than the posterior. The
    closer q is to the posterior, the smaller the variance of the estimate; where they are equal, it is zero.

    Parameters
    ----------
    log_q : array (L,)
        log q(z_l).
    log_p : array (L,)
        log p(z_l) + log p(x|z_l), as `Fitted.log_joint` computes it.

    Returns
    -------
    float
        log p(x) in nats.

    Raises
    ------
    TypeError, ValueError
        If the arguments are not vectors of the same length, L >= 1; if some log_p are not finite (samples of the
        posterior have a density), or some log_q are NaN or infinite, or all of them -infinity.

    Examples
    --------
    If q is the posterior itself, one sample is enough:

    >>> round(marginal_likelihood([-1.5], [-4.5]), 6)
    -3.0
    """
    log_q = array_of_shape("log_q", log_q, ("L",), ", a value for each sample")
    log_p = array_of_shape("log_p", log_p, log_q.shape, ", as log_q has")
    check_each("log_q", log_q, log_q < np.inf, "numbers less than infinity")  # False for NaN
    check_each("log_p", log_p, np.isfinite(log_p), "finite numbers")
    if np.all(log_q == -np.inf):
        raise ValueError("log_q is -inf for every sample; expected a q that has a density where the posterior has")
    log_ratio = log_q - log_p
    return float(np.log(len(log_ratio)) - logsumexp(log_ratio))


def marginal(fitted: Fitted, data: Data, n_samples: int, density: str = "gaussian") -> Estimates:
    """Estimate log p(x) by the three stages of Appendix D.

    1. Sample z from p(z|x) by Hamiltonian Monte Carlo. Every set of ``n_samples`` comes from a chain of its own, which
       begins at a sample of q(z|x), or of the prior if the model has no encoder.
    2. Fit a density q(z) to a first set.
    3. Draw new sets, and put them into ``-log mean_l q(z_l) / (p(z_l) p(x|z_l))``. (The first set would give a value
       that is too low, for q is larger at the samples that it was fitted to.)

    Parameters
    ----------
    fitted : Fitted
    data : Data
    n_samples : int
        Samples of each set; at least `FEWEST`.
    density : str
        The q(z) of the second stage: a name in `DENSITIES`.

    Returns
    -------
    Estimates
        The standard error is that of the mean over `SETS` sets. ``diagnosis`` has the "spread of the sets": the
        standard deviation of their estimates, in nats.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> vae = npvae.VAE(1, **settings).fit(X)
    >>> found = marginal(vae.fitted_, vae.fitted_.data(X[:5]), n_samples=20)
    >>> bool(np.all(found.error < 0.2))
    True
    """
    check_choice("density", density, tuple(DENSITIES))
    model, found = fitted.model, []
    buffers = Buffers(model.backend, model.dtype)
    together = max(1, BATCH // (SETS + 1))
    for start in range(0, len(data.X), together):
        x = model.gather(data, np.arange(start, min(start + together, len(data.X))), buffers)
        log_density, noise = Standardized(fitted, x), RowNoise(model.backend.to_numpy(x), fitted.seed)
        of_sets = np.full((SETS, len(x)), np.nan)  # log mean q / p
        u = ndtri(noise.uniform((1 + SETS, model.architecture.n_components)))
        finite = np.isfinite(log_density(u)[0]).reshape(-1, len(x)).all(axis=0)
        if finite.any():  # the other rows are too far from what the model knows
            u, log_p = _sample(log_density, u, noise, finite, n_samples)
            q = DENSITIES[density].fit(u[0])
            log_ratio = np.array([DENSITIES[density].log_prob(q, of_set) for of_set in u[1:]]) - log_p[1:]
            of_sets[:, finite], _ = log_mean_exp(np.moveaxis(log_ratio, 1, 0))
        log_inverse, error = log_mean_exp(of_sets)
        found.append((-log_inverse, error, of_sets.std(axis=0, ddof=1)))
    log_prob, error, spread = (np.concatenate(parts) for parts in zip(*found))
    return Estimates(log_prob + data.offset, error, {"spread of the sets": spread})


def _sample(log_density, u, noise, finite, n_samples):
    """Sample the posterior of the M rows that are ``finite``, from u on: (1 + SETS, n, M, J), and the log-densities.

    The other rows stay among the chains, with a density that is flat.
    """
    J, flat = u.shape[1], ~np.tile(finite, 1 + SETS)

    def without_others(u):
        log_p, gradient = log_density(u)
        log_p[flat], gradient[flat] = 0, 0
        return log_p, gradient

    found = sample(
        without_others,
        u,
        n_samples,
        n_warmup=WARM_UP,
        n_leapfrog=LEAPFROG,
        step_size=STEP_SIZE,
        noise=lambda: Noise.of_uniform(noise.uniform((1 + SETS, J + 2))),
    )
    by_chain = (array.reshape(n_samples, 1 + SETS, len(finite), *array.shape[2:]) for array in (found.z, found.log_p))
    return tuple(np.moveaxis(array, 1, 0)[:, :, finite] for array in by_chain)


# Densities fitted to samples (n, M, J) of M posteriors, each to its own --------------------------------------------


class Density(NamedTuple):
    """A density that is fitted to samples: a row of `DENSITIES`.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_normal((1000, 1, 2))  # of one posterior, N(0, I)
    >>> gaussian = DENSITIES["gaussian"]
    >>> gaussian.log_prob(gaussian.fit(z), np.zeros((1, 1, 2))).round(1)  # log N(0; 0, I) is -log(2 pi) = -1.84
    array([[-1.8]])
    """

    fit: Callable  # from samples z (n, M, J) to the parameters
    log_prob: Callable  # from the parameters and z (n, M, J) to log q(z) (n, M), in nats


def _fit_gaussian(z):
    """Return mean (M, J) and Cholesky factor (M, J, J) of the covariance.

    The correlations r are shrunk to zero by the ratio of their sampling variance, (1 - r^2)^2 / (n - 1), to their
    square (after Schaefer and Strimmer, 2005): with few samples the covariance has an inverse all the same, and strong
    correlations remain. The variances are not shrunk to a common one: they differ by orders, as unused dimensions keep
    that of the prior.
    """
    n, _, J = z.shape
    mean, scale = z.mean(axis=0), z.std(axis=0, ddof=1)
    scale = np.maximum(scale, TINY)  # chains that never moved
    unit = (z - mean) / scale
    correlation = np.einsum("nmi,nmj->mij", unit, unit) / (n - 1)
    off = ~np.eye(J, dtype=bool)
    squares = correlation[:, off] ** 2
    with np.errstate(invalid="ignore", divide="ignore"):  # one dimension, or no correlation at all
        shrinkage = ((1 - squares) ** 2).sum(axis=1) / (n - 1) / squares.sum(axis=1)
    shrinkage = np.clip(np.nan_to_num(shrinkage, nan=1.0), 0, 1)[:, None, None]
    correlation = np.where(off, (1 - shrinkage) * correlation, 1.0)
    return mean, scale[:, :, None] * np.linalg.cholesky(correlation + TINY * np.eye(J))


def _log_prob_gaussian(parameters, z):
    mean, factor = parameters
    error = np.linalg.solve(factor, (z - mean).transpose(1, 2, 0))  # (M, J, n)
    log_scale = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    return -0.5 * (LOG_2PI * mean.shape[1] + np.square(error).sum(axis=1).T) - log_scale


def _fit_kernels(z):
    """Return the centres (n, M, J) and the widths (M, J) of Gaussian kernels, as in the authors' code.

    The widths are a multiple of the deviations of the samples. The multiple is the one with which kernels on the first
    half of the samples give the second half the highest density.
    """
    fitted, held_out = np.array_split(z, 2)
    scale = np.maximum(z.std(axis=0, ddof=1), TINY)
    scores = [_log_prob_kernels((fitted, width * scale), held_out).mean(axis=0) for width in WIDTHS]
    return z, WIDTHS[np.argmax(scores, axis=0)][:, None] * scale


def _log_prob_kernels(parameters, z):
    centres, widths = parameters
    distance = np.zeros((len(centres), *z.shape[:2]))
    for j in range(z.shape[2]):
        distance += ((z[:, :, j] - centres[:, None, :, j]) / widths[:, j]) ** 2
    log_norm = 0.5 * LOG_2PI * z.shape[2] + np.log(widths).sum(axis=1) + np.log(len(centres))
    return logsumexp(-0.5 * distance, axis=0) - log_norm


#: Widths of kernels that are compared, in standard deviations of the samples.
WIDTHS = np.geomspace(0.05, 1.0, 20)

#: Smallest standard deviation of samples; keeps a density finite.
TINY = 1e-10

#: Densities by name.
DENSITIES = {
    "gaussian": Density(_fit_gaussian, _log_prob_gaussian),
    "kernel": Density(_fit_kernels, _log_prob_kernels),
}
