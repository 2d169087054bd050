"""log p(x) as in Figure 3 of the paper: Appendix D with its settings, for models with an encoder and without.

`evaluation.appendix_d` has eleven chains a row, with an error for each. Here all models of the figure are scored in the
same way, with one chain a row, in a ninth of the time.
"""

import numpy as np
from numpy.typing import NDArray

from ..evaluation.appendix_d import DENSITIES, marginal_likelihood
from ..inference import LogJoint
from ..samplers import sample
from ..vae import VAE

#: Rows that are scored; values of z for each, in each of the two sets; leapfrog steps of a transition. As in the paper.
ROWS, VALUES, LEAPFROG = 1000, 50, 4

#: Transitions before the first value, and from each value to the next, which is then nearly independent of it.
WARM_UP, THIN = 100, 3

#: Draws of the prior, of which one is where a chain begins.
STARTS = 200


def log_likelihood(model: VAE, X: NDArray) -> float:
    """Estimate the mean of log p(x) over the first rows of X, in nats.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> model = npvae.VAE(1, **settings).fit(X)
    >>> abs(log_likelihood(model, X) - float(model.log_likelihood(X, method="quadrature").mean())) < 0.05
    True
    """
    return float(np.mean(of_rows(model, X[:ROWS])))


def of_rows(model: VAE, X: NDArray) -> NDArray[np.float64]:
    """Estimate log p(x) of each row, in nats.

    A Gaussian is fitted to a first set of values of z from p(z|x), and a second set is put into the estimator of
    Appendix D. The random numbers are the same for each model.

    Parameters
    ----------
    model : VAE, with up to 4 latents
    X : array (N, D)

    Returns
    -------
    array (N,)

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> model = npvae.VAE(1, **settings).fit(X)
    >>> of_rows(model, X[:2]).shape
    (2,)
    """
    rng, J = np.random.default_rng(0), model.n_components
    log_joint = model.fitted_.log_joint(X)
    z = start(log_joint, len(X), J, rng)
    chains = sample(
        log_joint, z, 2 * VALUES * THIN, n_warmup=WARM_UP, n_leapfrog=LEAPFROG, target=0.9, random_state=rng
    )
    z, log_p = chains.z[::THIN], chains.log_p[::THIN]
    gaussian = DENSITIES["gaussian"]
    log_q = gaussian.log_prob(gaussian.fit(z[:VALUES]), z[VALUES:])
    return np.array([marginal_likelihood(*of_row) for of_row in zip(log_q.T, log_p[VALUES:].T)])


def start(log_joint: LogJoint, n_rows: int, n_components: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return z (N, J) where the chains of N rows begin: for each one of `STARTS` draws of the prior.

    It is drawn with probabilities in proportion to p(x|z), so that a posterior of several modes is entered at one that
    matters. (The largest sum of a logarithm and Gumbel noise is at a draw with these probabilities.)

    Examples
    --------
    >>> log_joint = lambda z: (-np.sum(z**2 / 2 + 50 * (z - 1) ** 2, axis=1), -z - 100 * (z - 1))  # one that is near 1
    >>> np.round(start(log_joint, 3, 1, np.random.default_rng(0)).ravel())
    array([1., 1., 1.])
    """
    chosen, best = np.zeros((n_rows, n_components)), np.full(n_rows, -np.inf)
    for _ in range(STARTS):
        z = rng.standard_normal(chosen.shape)
        log_p = log_joint(z)[0] + 0.5 * np.sum(z**2, axis=1)  # log p(x|z), up to a constant
        keys = log_p + rng.gumbel(size=n_rows)
        better = keys > best
        chosen[better], best[better] = z[better], keys[better]
    return chosen
