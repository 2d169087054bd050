"""log p(x) and D_KL(q(z|x) || p(z|x)) of a fitted model by quadrature on a grid, for a few latent dimensions.

Equation 1 of the paper can be checked with them: log p(x) is this KL divergence plus the bound.
"""

from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ..conventions import check_number, kind_of
from ..fitted import Fitted
from ..parameters import Buffers
from ..preprocessing import Data
from .estimates import Estimates

#: Largest number of latent dimensions: the grid has ``n_nodes`` to this power nodes.
MOST_LATENTS = 3

#: The grid for p(x) extends this many sigma from its centre, in each dimension. The grid for the KL divergence leaves
#: out this probability of q(z|x) at each end.
REACH, TAIL = 9.0, 1e-9

#: A grid is moved to where the posterior is, so many times at most, until its ends have less than this share of it and
#: the result does not change by more nats if every second node is left out.
MOVES, SHARE_OF_ENDS, CHANGE = 8, 1e-6, 1e-3

#: Number of nodes that are decoded together.
BATCH = 1000


class Quadrature(NamedTuple):
    """What `quadrature` returns: arrays (N,) with a value for each row.

    Examples
    --------
    The bound is log p(x) minus the KL divergence (equation 1):

    >>> found = Quadrature(log_prob=np.array([-2.0]), divergence=np.array([0.25]), error=np.array([1e-9]))
    >>> found.log_prob - found.divergence
    array([-2.25])
    """

    log_prob: np.ndarray  # log p(x) in nats of the data as given
    divergence: np.ndarray  # D_KL(q(z|x) || p(z|x)) in nats
    error: np.ndarray  # change of log_prob if every second node is left out in each dimension, in nats


def quadrature(model: Any, X: ArrayLike, *, n_nodes: int = 41) -> Quadrature:
    """Compute log p(x) by integrating p(x, z) over z, and the KL divergence of q(z|x) from the posterior.

    log p(x) is computed by the trapezoidal rule on a grid around the mean of q(z|x). For a smooth integrand that
    vanishes at the ends of the grid, the error falls faster than any power of ``n_nodes``. Where the posterior reaches
    beyond the grid, or is too narrow for it, the next grid has the mean and the spread that this one has found. If the
    posterior has another mode, far outside the grid, the result is wrong and ``error`` does not show it.

    Parameters
    ----------
    model : VAE
        Fitted, with at most 3 latent dimensions and fixed weights.
    X : array (N, D)
    n_nodes : int
        Nodes in each dimension: 5, 9, 13, ... (one more than a multiple of 4).

    Returns
    -------
    Quadrature

    Raises
    ------
    TypeError
        If ``model`` is not a VAE.
    ValueError
        If ``n_nodes`` is not such a number, or the model has more latent dimensions or random weights. If X does not
        match the training data: see `VAE.score_samples`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> vae = npvae.VAE(1, **settings).fit(X)
    >>> found = quadrature(vae, X[:5])
    >>> bool(np.all(found.error < 1e-3)), bool(np.all(found.divergence > 0))
    (True, True)
    """
    check_nodes("n_nodes", n_nodes)
    if not hasattr(type(model), "fitted_"):
        raise TypeError(f"model is {kind_of(model)}; expected a fitted VAE")
    fitted = model.fitted_
    data, architecture = fitted.data(X), fitted.model.architecture
    if architecture.n_components > MOST_LATENTS or architecture.random_weights:
        raise ValueError(
            f"the model has {architecture.n_components} latent dimensions and "
            f"{'random' if architecture.random_weights else 'fixed'} weights; "
            f"expected at most {MOST_LATENTS}, and fixed weights"
        )
    found = []
    for x, mu, log_var in _encoded(fitted, data):
        log_prob, error = _evidence(fitted, x, mu, log_var, n_nodes)
        found.append((log_prob, _divergence(fitted, x, mu, log_var, n_nodes, log_prob), error))
    log_prob, divergence, error = np.transpose(found)
    return Quadrature(log_prob + data.offset, divergence, error)


def integrate(fitted: Fitted, data: Data, n_samples: int) -> Estimates:
    """Compute log p(x) as `quadrature` does, on ``n_samples`` nodes in each dimension, without the KL divergence.

    Parameters
    ----------
    fitted : Fitted
        With at most 3 latent dimensions.
    data : Data
    n_samples : int
        See `check_nodes`.

    Returns
    -------
    Estimates
        The standard error, which is also the only diagnosis, is the "change if every second node is left out".

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> vae = npvae.VAE(1, **settings).fit(X)
    >>> found = integrate(vae.fitted_, vae.fitted_.data(X[:5]), n_samples=41)
    >>> np.array_equal(found.log_prob, quadrature(vae, X[:5]).log_prob)
    True
    """
    found = [_evidence(fitted, x, mu, log_var, n_samples) for x, mu, log_var in _encoded(fitted, data)]
    log_prob, error = np.transpose(found)
    return Estimates(log_prob + data.offset, error, {"change if every second node is left out": error})


def check_nodes(name: str, n_nodes: int) -> None:
    """Raise ValueError if a number of nodes is not 5, 9, 13, ...: with others the ends are not in every second node.

    Examples
    --------
    >>> check_nodes("n_nodes", 41)
    """
    check_number(name, n_nodes, np.integer, 5)
    if n_nodes % 4 != 1:
        raise ValueError(
            f"{name} is {n_nodes}; expected one more than a multiple of 4: every second node must include the ends"
        )


def _encoded(fitted, data):
    """Yield x (1, D) and the mean and the log-variance (J,) of q(z|x), for one row after the other."""
    model, to_numpy = fitted.model, fitted.model.backend.to_numpy
    buffers = Buffers(model.backend, model.dtype)
    for row in range(len(data.X)):
        x = model.gather(data, np.array([row]), buffers)
        outputs = model.encode(fitted.parameters, x, buffers).outputs
        yield x, *(np.array(to_numpy(output)[0], float) for output in outputs)


@np.errstate(invalid="ignore")  # a row so far from the training data that its density is zero or not finite
def _evidence(fitted, x, mu, log_var, n_nodes):
    """Return log p(x) and its error for one row."""
    t = np.linspace(-REACH, REACH, n_nodes)
    noise = np.array(list(product(t, repeat=len(mu))))
    second, ends = np.all(np.isin(noise, t[::2]), axis=1), np.any(np.abs(noise) == REACH, axis=1)
    centre, scale, found = mu, np.exp(log_var / 2), []
    for _ in range(1 + MOVES):
        log_joint = _log_joint(fitted, x, centre + scale * noise)
        log_volume = np.sum(np.log(scale * (t[1] - t[0])))
        log_prob = logsumexp(log_joint) + log_volume
        coarse = logsumexp(log_joint[second]) + log_volume + len(mu) * np.log(2)
        posterior = np.exp(log_joint + log_volume - log_prob)
        beyond, error = posterior[ends].sum(), abs(log_prob - coarse)
        found.append((max(beyond, error), log_prob, error))
        if not (beyond > SHARE_OF_ENDS or error > CHANGE):
            break
        # The spread is about this centre, not about the mean: so a grid that moves reaches beyond where it came from. A
        # posterior between two nodes seems to have no spread at all.
        spread = np.maximum(np.sqrt(posterior @ noise**2), (t[1] - t[0]) / 2)
        centre, scale = centre + scale * (posterior @ noise), scale * spread
    _, log_prob, error = min(found)
    return log_prob, error


def _divergence(fitted, x, mu, log_var, n_nodes, log_prob):
    """Return the KL divergence for one row, given its log p(x)."""
    posterior = fitted.model.posterior
    noise, weights = _nodes_of_q(posterior, len(mu), n_nodes)
    log_q = posterior.log_prob(noise).sum(axis=1) - log_var.sum() / 2
    return log_prob - weights @ (_log_joint(fitted, x, mu + np.exp(log_var / 2) * noise) - log_q)


def _nodes_of_q(posterior, J, n_nodes):
    """Return nodes (R, J) and weights (R,) for expectations under q, by a Gauss-Legendre rule on two halves.

    Some families of noise have a kink at 0, where the halves meet, and some have a jump at their ends.
    """
    points, weights = np.polynomial.legendre.leggauss(n_nodes // 2)
    ends = [posterior.icdf(TAIL), 0.0, posterior.icdf(1 - TAIL)]
    halves = [((b - a) / 2 * points + (a + b) / 2, (b - a) / 2 * weights) for a, b in pairwise(ends)]
    t, w = (np.concatenate(parts) for parts in zip(*halves))
    noise = np.array(list(product(t, repeat=J)))
    weights = np.prod(list(product(w, repeat=J)), axis=1) * np.exp(posterior.log_prob(noise).sum(axis=1))
    return noise, weights / weights.sum()


def _log_joint(fitted, x, z):
    """Return log p(z) + log p(x|z) for one x (1, D) and each z (R, J), as float64 (R,)."""
    model, parts = fitted.model, []
    for part in np.split(z, range(BATCH, len(z), BATCH)):
        buffers = Buffers(model.backend, model.dtype)
        part = model.backend.asarray(part, model.dtype)
        log_joint, _ = model.log_joint(fitted.parameters, x, part, buffers, gradient=False)
        parts.append(model.backend.to_numpy(log_joint).astype(float))
    return np.concatenate(parts)
