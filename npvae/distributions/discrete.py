"""Discrete distributions: their samples are not differentiable functions of noise."""

from dataclasses import dataclass

import numpy as np

from ..backends import reference
from .base import Distribution, FloatArray, Parameter


@dataclass(frozen=True)
class Bernoulli(Distribution):
    """1 with probability sigmoid(logits), else 0.

    The log-probability is x log y + (1 - x) log(1 - y) with y = ``probs`` (Appendix C.1), also for 0 < x < 1, as for
    grey values; outside of [0, 1] it is -inf. It keeps all digits where the probability is nearly 1.

    Examples
    --------
    >>> from npvae.distributions import Bernoulli
    >>> p = Bernoulli(logits=[-2.0, 0.0])
    >>> p.probs.round(3), p.log_prob([1, 0]).round(3)
    (array([0.119, 0.5  ]), array([-2.127, -0.693]))
    """

    logits: Parameter = Parameter()

    @property
    def probs(self) -> FloatArray:
        """Probability of a 1."""
        return reference.sigmoid(np.asarray(self.logits))

    @np.errstate(all="ignore")
    def entropy(self) -> FloatArray:
        """Return -y log y - (1 - y) log(1 - y) in nats, with y = ``probs``."""
        size = np.abs(self.logits)
        return reference.sigmoid(-size) * size + np.log1p(np.exp(-size))

    def _log_prob(self, x: FloatArray) -> FloatArray:
        # x a - softplus(a), written so that a is never subtracted from itself.
        inside, size = (x >= 0) & (x <= 1), np.abs(self.logits)
        miss = np.where(np.asarray(self.logits) > 0, 1 - x, x)
        return np.where(inside, -miss * size - np.log1p(np.exp(-size)), -np.inf)
