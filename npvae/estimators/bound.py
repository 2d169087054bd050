"""The terms of the lower bound (`forward`, equations 6 and 7), and the score of each datapoint (`Scorer`).

Early stopping, the choice of a step size and ``VAE.score_samples`` use `Scorer` for every estimator.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ..backends.interface import Array
from ..model import Model
from ..noise import keyed_uniform
from ..parameters import Buffers, Parameters
from ..preprocessing import Data


class Forward(NamedTuple):
    """A forward pass from x to the terms of the bound, as arrays of the backend.

    ``kl`` is the KL divergence of q(z|x) from p(z), or log q(z|x) - log p(z) of each sample. ``decoded.doutputs`` holds
    the gradients of mean(log_likelihood), or of another multiple of its sum, at the outputs of the decoder.

    Examples
    --------
    The bound of a minibatch is the difference of two means:

    >>> done = Forward(None, np.array([0.5, 1.5]), None, None, np.array([-2.0, -4.0]))
    >>> float(done.log_likelihood.mean() - done.kl.mean())
    -4.0
    """

    encoded: Any  # nn.Pass, or the backend's class with the same attributes
    kl: Array  # (M,) or (L * M,), in nats
    z: Array  # (L * M, J)
    decoded: Any  # nn.Pass, or the backend's class with the same attributes
    log_likelihood: Array  # (L * M,) log p(x|z), in nats


def forward(
    model: Model,
    parameters: Parameters,
    x: Array,
    eps: Array,
    analytic_kl: bool,
    buffers: Buffers,
    weight: float | None = None,
) -> Forward:
    """Compute the terms of the bound: equation 6 of the paper, or equation 7 with ``analytic_kl``.

    Parameters
    ----------
    model : Model
    parameters : Parameters
    x : array (M, D)
    eps : array (L * M, J)
        Noise of q(z|x). Row ``l * M + i`` belongs to datapoint i.
    analytic_kl : bool
        Whether ``kl`` is the KL divergence in closed form, or log q(z|x) - log p(z) of each sample.
    buffers : Buffers
        Hold the results. The next call with the same buffers overwrites them.
    weight : float, optional
        ``decoded.doutputs`` has the gradients of ``weight * sum(log_likelihood)``; by default, of the mean.

    Returns
    -------
    Forward

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters = model.parameters(model.initial(rng, std=0.1))
    >>> x, eps = rng.random((5, 3)), rng.standard_normal((10, 2))  # M = 5, L = 2
    >>> done = forward(model, parameters, x, eps, True, Buffers(model.backend, model.dtype))
    >>> done.z.shape, done.log_likelihood.shape, done.kl.shape
    ((10, 2), (10,), (5,))
    """
    encoded = model.encode(parameters, x, buffers)
    z, kl = model.latent(encoded, eps, analytic_kl, buffers)
    decoded = model.decode(parameters, z, buffers)
    weights = buffers.full(1 / len(eps) if weight is None else weight, len(eps))
    log_likelihood = model.log_likelihood(x, decoded, weights, buffers)
    return Forward(encoded, kl, z, decoded, log_likelihood)


#: With random weights, a score is the mean over this many draws of them.
WEIGHT_DRAWS = 10


class Scorer:
    """Estimate the bound of each datapoint, -D_KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l) (equation 7).

    The score of a row is a function of the row, the parameters and the seed alone. The noise of a row is computed from
    a hash of its content, so the score depends neither on the other rows nor on their order. (One noise vector shared
    by all rows would also do this, but then the errors of the rows would not average out.) Where weights are random,
    the score is the mean over `WEIGHT_DRAWS` draws of them.

    A `Scorer` keeps its buffers from call to call, for training scores validation data after every epoch. It is for one
    thread at a time.

    Parameters
    ----------
    model : Model
    seed : int
    n_samples : int
        The L of the equation.
    importance_weighted : bool
        Estimate the importance-weighted bound instead, log 1/L sum_l p(x, z_l) / q(z_l|x): see `importance_weighted`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> vae = npvae.VAE(2, hidden_layer_sizes=(4,), learning_rate=0.05, max_epochs=1, backend="reference").fit(X)
    >>> fitted = vae.fitted_
    >>> score = Scorer(fitted.model, seed=0, n_samples=5)
    >>> score(fitted.parameters, fitted.data(X[:10])).shape
    (10,)
    """

    batch_size = 500  # rows of samples

    def __init__(self, model: Model, seed: int, n_samples: int = 1, importance_weighted: bool = False) -> None:
        self.model, self.seed, self.n_samples = model, seed, n_samples
        # That of one sample is the plain bound, which equation 7 estimates with less variance.
        self._analytic_kl = not importance_weighted or n_samples == 1
        self._buffers = Buffers(model.backend, model.dtype)

    def __call__(self, parameters: Parameters, data: Data) -> np.ndarray:
        """Return the bound of each row of the data, in nats of the data as given: float64 (N,)."""
        draws, size = [], max(self.batch_size // self.n_samples, 1)
        for drawn in self.model.weight_posterior.draws(parameters, self.seed, WEIGHT_DRAWS):
            draws.append(np.empty(len(data.X)))
            for start in range(0, len(data.X), size):
                rows = np.arange(start, min(start + size, len(data.X)))
                draws[-1][rows] = self._batch(drawn, data, rows)
        return np.mean(draws, axis=0) + data.offset

    def _batch(self, parameters, data, rows):
        model, buffers = self.model, self._buffers
        x = model.gather(data, rows, buffers)
        uniform = keyed_uniform(model.backend.to_numpy(x), self.seed, (self.n_samples, model.architecture.n_components))
        eps = model.backend.asarray(model.posterior.icdf(uniform), model.dtype)
        result = forward(model, parameters, x, eps, self._analytic_kl, buffers)
        log_likelihood, kl = map(model.backend.to_numpy, (result.log_likelihood, result.kl))
        if self._analytic_kl:
            return log_likelihood.reshape(self.n_samples, -1).mean(axis=0, dtype=float) - kl
        log_weights = log_likelihood.astype(float) - kl
        return logsumexp(log_weights.reshape(self.n_samples, -1), axis=0) - np.log(self.n_samples)
