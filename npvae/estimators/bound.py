"""The lower bound for each datapoint: the forward pass that estimators differentiate, and the score that all report.

Histories, early stopping, the choice of a step size and ``VAE.score_samples`` use `Scorer`, whatever the algorithm.
"""

from typing import NamedTuple

import numpy as np

from ..parameters import Buffers


class Forward(NamedTuple):
    """A forward pass from x to the bound; ``decoded.doutputs`` are the gradients of mean(log_likelihood)."""

    encoded: object  # nn.Pass
    kl: object  # (M,) KL divergence of q(z|x) from p(z), or (L * M,) log q(z|x) - log p(z) of each sample; in nats
    z: object  # (L * M, J)
    decoded: object  # nn.Pass
    log_likelihood: object  # (L * M,) log p(x|z), in nats


def forward(model, parameters, x, eps, analytic_kl, buffers):
    """Compute the terms of the bound for x (M, D) with the noise eps (L * M, J) of q(z|x)."""
    encoded = model.encode(parameters, x, buffers)
    z, kl = model.latent(encoded, eps, analytic_kl, buffers)
    decoded = model.decode(parameters, z, buffers)
    log_likelihood = model.log_likelihood(x, decoded, buffers.full(1 / len(eps), len(eps)), buffers)
    return Forward(encoded, kl, z, decoded, log_likelihood)


#: Draws of the weights that a score is averaged over, where weights are random.
WEIGHT_DRAWS = 10


class Scorer:
    """The bound of each datapoint, -D_KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l), deterministic in x and seed.

    The noise of a row is keyed by its content: a score depends neither on the other rows nor on their order. (One
    noise vector shared by all rows would do that too, but its error does not average out over rows.) Where weights are
    random, it is the mean over draws of them.

    Parameters
    ----------
    model : Model
    seed : int
    n_samples : int, the L above
    """

    batch_size = 500

    def __init__(self, model, seed, n_samples=1):
        self.model, self.seed, self.n_samples = model, seed, n_samples

    def __call__(self, parameters, data):
        """Return the bound of each row of ``data`` (preprocessing.Data), in nats of the data as given: float64 (N,)."""
        buffers, draws = Buffers(self.model.backend, self.model.dtype), []
        for drawn in self.model.weight_posterior.draws(parameters, self.seed, WEIGHT_DRAWS):
            draws.append(np.empty(len(data.X)))
            for start in range(0, len(data.X), self.batch_size):
                rows = np.arange(start, min(start + self.batch_size, len(data.X)))
                draws[-1][rows] = self._batch(drawn, data, rows, buffers)
        return np.mean(draws, axis=0) + data.log_jacobian

    def _batch(self, parameters, data, rows, buffers):
        model = self.model
        x = model.gather(data, rows, buffers)
        uniform = keyed_uniform(model.backend.to_numpy(x), self.seed, (self.n_samples, model.architecture.n_components))
        eps = model.backend.asarray(model.posterior.icdf(uniform), model.dtype)
        result = forward(model, parameters, x, eps, True, buffers)
        log_likelihood, kl = map(model.backend.to_numpy, (result.log_likelihood, result.kl))
        return log_likelihood.reshape(self.n_samples, -1).mean(axis=0, dtype=float) - kl


def keyed_uniform(x, seed, shape):
    """Draw numbers uniform on (0, 1) for each row from a hash of its content.

    Parameters
    ----------
    x (M, D) float; seed : int; shape : (L, J)

    Returns
    -------
    uniform (L * M, J) float64
    """
    L, J = shape
    bits = (x + 0.0).astype(np.float32).view(np.uint32).astype(np.uint64)  # + 0.0 makes one zero of two
    keys = _mix(np.arange(x.shape[1], dtype=np.uint64) + _mix(np.uint64(seed % 2**64))) | np.uint64(1)
    with np.errstate(over="ignore"):
        row_keys = _mix(bits @ keys)  # multilinear hashing, modulo 2^64
        counters = row_keys[None, :, None] + np.arange(L * J, dtype=np.uint64).reshape(L, 1, J)
    return ((_mix(counters) >> np.uint64(12)) + 0.5).reshape(-1, J) * 2.0**-52  # ends excluded


def _mix(key):
    """Scramble 64-bit integers: the finalizer of the SplitMix64 generator (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        key = key + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return key ^ (key >> np.uint64(31))
