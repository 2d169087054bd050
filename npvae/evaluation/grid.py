"""log p(x) and D_KL(q(z|x) || p(z|x)) of a fitted model by quadrature on a grid, for a few latent dimensions.

With the bound they make equation 1 of the paper something that can be looked at: log p(x) = divergence + bound.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from ..conventions import check_number
from ..parameters import Buffers

#: Most latent dimensions: the number of nodes is raised to this power.
MOST_LATENTS = 3

#: The nodes of p(x) reach this many sigma of q(z|x) from its mean, in each dimension; those of the divergence leave
#: this share of q out at each end.
REACH, TAIL = 9.0, 1e-9

#: Nodes that are decoded together.
BATCH = 1000


class Quadrature(NamedTuple):
    """What `quadrature` returns, a value a row each: (N,)."""

    log_prob: np.ndarray  # log p(x) in nats of the data as given
    divergence: np.ndarray  # D_KL(q(z|x) || p(z|x)) in nats
    error: np.ndarray  # of log_prob: how much it changes if every second node is left out in each dimension, in nats


def quadrature(model, X, *, n_nodes=41):
    """Integrate p(x, z) over z, by the trapezoidal rule on a grid around the mean of q(z|x).

    The integrand is smooth and vanishes at both ends, where this rule converges faster than any power of the number of
    nodes. It must vanish there: a posterior with a mode far from q is not seen, nor does ``error`` show it.

    Parameters
    ----------
    model : VAE, fitted, with at most 3 latent dimensions and fixed weights
    X : array (N, D)
    n_nodes : int, in each dimension; odd

    Returns
    -------
    Quadrature

    Raises
    ------
    ValueError
        If the model has more latent dimensions, or random weights.
    """
    check_number("n_nodes", n_nodes, np.integer, 5)
    if n_nodes % 4 != 1:
        raise ValueError(
            f"n_nodes is {n_nodes}; expected one more than a multiple of 4: every second node has both ends"
        )
    fitted = model.fitted_
    data, architecture = fitted.data(X), fitted.model.architecture
    if architecture.n_components > MOST_LATENTS or architecture.random_weights:
        raise ValueError(
            f"the model has {architecture.n_components} latent dimensions and "
            f"{'random' if architecture.random_weights else 'fixed'} weights; expected at most {MOST_LATENTS}, and fixed"
        )
    rows = [_integrate(fitted.model, fitted.parameters, data, row, n_nodes) for row in range(len(data.X))]
    log_prob, divergence, error = np.transpose(rows)
    return Quadrature(log_prob + data.log_jacobian, divergence, error)


def _integrate(model, parameters, data, row, n_nodes):
    """Return log p(x), the divergence, and the error of the first, for one row."""
    buffers, to_numpy = Buffers(model.backend, model.dtype), model.backend.to_numpy
    x = model.gather(data, np.array([row]), buffers)
    mu, log_var = (to_numpy(output).astype(float)[0] for output in model.encode(parameters, x, buffers).outputs)
    sigma, t = np.exp(log_var / 2), np.linspace(-REACH, REACH, n_nodes)
    noise = np.array(list(product(t, repeat=len(mu))))
    z = mu + sigma * noise
    log_joint = _log_joint(model, parameters, x, z)
    log_volume = np.sum(np.log(sigma * (t[1] - t[0])))
    log_prob = logsumexp(log_joint) + log_volume

    second = np.all(np.isin(noise, t[::2]), axis=1)
    coarse = logsumexp(log_joint[second]) + log_volume + len(mu) * np.log(2)

    noise, weights = _nodes_of_q(model.posterior, len(mu), n_nodes)
    log_q = model.posterior.log_prob(noise).sum(axis=1) - log_var.sum() / 2
    divergence = log_prob - weights @ (_log_joint(model, parameters, x, mu + sigma * noise) - log_q)
    return log_prob, divergence, abs(log_prob - coarse)


def _nodes_of_q(posterior, J, n_nodes):
    """Return noise (R, J) and weights (R,) of a rule for expectations under q: Gauss and Legendre's, in two halves.

    The halves meet where some densities have a corner, and end where some have a jump.
    """
    points, weights = np.polynomial.legendre.leggauss(n_nodes // 2)
    ends = [posterior.icdf(TAIL), 0.0, posterior.icdf(1 - TAIL)]
    halves = [((b - a) / 2 * points + (a + b) / 2, (b - a) / 2 * weights) for a, b in zip(ends, ends[1:])]
    t, w = (np.concatenate(parts) for parts in zip(*halves))
    noise = np.array(list(product(t, repeat=J)))
    weights = np.prod(list(product(w, repeat=J)), axis=1) * np.exp(posterior.log_prob(noise).sum(axis=1))
    return noise, weights / weights.sum()


def _log_joint(model, parameters, x, z):
    """Return log p(z) + log p(x|z) of one x (1, D) for each z (R, J)."""
    parts = []
    for part in np.split(z, range(BATCH, len(z), BATCH)):
        buffers = Buffers(model.backend, model.dtype)
        part = model.backend.asarray(part, model.dtype)
        log_joint, _ = model.log_joint(parameters, x, part, buffers, gradient=False)
        parts.append(model.backend.to_numpy(log_joint).astype(float))
    return np.concatenate(parts)
