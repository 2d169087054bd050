"""p(x, z) in coordinates in which q(z|x) is N(0, I): what samplers of the posterior are given."""

import numpy as np
from numpy.typing import NDArray

from ..backends.interface import Array
from ..fitted import Fitted
from ..parameters import Buffers


class Standardized:
    """log p(x, u) of rows x (M, D), where z = mu + sigma u, as a function of u (L * M, J), with its gradient.

    mu and sigma are those of q(z|x), or of the prior. With q(z|x) the posterior of u has about the same width in each
    dimension, which Hamiltonian Monte Carlo needs to be efficient.

    Parameters
    ----------
    fitted : Fitted
    x : array (M, D) of the backend
    start : {"encoder", "prior"}, optional
        By default "encoder" if the model has one.

    Attributes
    ----------
    mu, sigma : arrays (M, J)

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> fitted = npvae.VAE(2, **settings).fit(X).fitted_
    >>> (_, x, _), *_ = fitted.batches(fitted.data(X[:5]))
    >>> log_density = Standardized(fitted, x)
    >>> log_p, gradient = log_density(np.zeros((15, 2)))  # three for each row
    >>> log_p.shape, gradient.shape
    ((15,), (15, 2))
    """

    def __init__(self, fitted: Fitted, x: Array, start: str | None = None) -> None:
        model, shape = fitted.model, (len(x), fitted.model.architecture.n_components)
        self._log_joint = model.log_density(fitted.parameters, x)
        self.mu, self.sigma = np.zeros(shape), np.ones(shape)
        if start == "encoder" or (start is None and model.architecture.has_encoder):
            outputs = model.encode(fitted.parameters, x, Buffers(model.backend, model.dtype)).outputs
            mu, log_var = (np.array(model.backend.to_numpy(output), float) for output in outputs)
            self.mu, self.sigma = mu, np.exp(log_var / 2)

    def __call__(self, u: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return log p(x, u) (L * M,) in nats, and its gradient (L * M, J)."""
        samples = u.reshape(-1, *self.mu.shape)
        log_p, dz = self._log_joint((self.mu + self.sigma * samples).reshape(u.shape))
        log_volume = np.tile(np.log(self.sigma).sum(axis=1), len(samples))
        return log_p + log_volume, (self.sigma * dz.reshape(samples.shape)).reshape(u.shape)

    def at(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the u (M, J) of z (M, J)."""
        return (z - self.mu) / self.sigma
