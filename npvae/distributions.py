"""Probability distributions by their parameters: log densities, entropies, divergences, inverse CDFs.

The densities of the Normal and the Bernoulli are those of ``backends/reference``, one element at a time; names and
parameters are those of PyTorch's distributions. Densities and divergences broadcast.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from .backends import reference


def _elementwise(function, *arrays):
    """Apply a function of columns (n, 1) to the elements of broadcast arrays, in float64."""
    arrays = np.broadcast_arrays(*(np.asarray(array, float) for array in arrays))
    return function(*(array.reshape(-1, 1) for array in arrays)).reshape(arrays[0].shape)


@dataclass(frozen=True)
class Normal:
    """The Gaussian N(loc, scale^2); scale is the standard deviation."""

    loc: object = 0.0
    scale: object = 1.0

    @property
    def log_var(self):
        """Logarithm of the variance."""
        return 2 * np.log(self.scale)

    def log_prob(self, x):
        """Return log N(x; loc, scale^2) in nats (Appendix C.2, one element)."""
        return _elementwise(lambda *a: reference.gaussian_log_prob(*a, 1)[0], x, self.loc, self.log_var)

    def entropy(self):
        """Return 1/2 (1 + log 2 pi + log scale^2) in nats."""
        return 0.5 * (1 + reference.LOG_2PI + self.log_var)

    def icdf(self, p):
        """Return the x below which a share p of the probability lies."""
        return self.loc + self.scale * ndtri(p)


@dataclass(frozen=True)
class Bernoulli:
    """1 with probability sigmoid(logits), else 0."""

    logits: object

    @property
    def probs(self):
        """Probability of a 1."""
        return reference.sigmoid(np.asarray(self.logits, float))

    def log_prob(self, x):
        """Return x log y + (1 - x) log(1 - y) in nats, with y = probs (Appendix C.1, one element)."""
        return _elementwise(lambda *a: reference.bernoulli_log_prob(*a, 1)[0], x, self.logits)

    def entropy(self):
        """Return the expected surprise in nats."""
        return -self.log_prob(self.probs)


def kl_divergence(q, p):
    """Return D_KL(q || p) = E_q[log q - log p] of two Normals in nats, element by element (Appendix B).

    It does not change when x is standardized by p: what remains is the divergence from N(0, 1) of the latent layer.
    """
    if not (isinstance(q, Normal) and isinstance(p, Normal)):
        raise TypeError(f"the divergence of {type(q).__name__} from {type(p).__name__} is not known in closed form")
    loc, log_var = (np.subtract(q.loc, p.loc) / p.scale, q.log_var - p.log_var)
    return _elementwise(lambda mu, s: reference.gaussian_latent(mu, s, np.zeros_like(mu), True)[1], loc, log_var)
