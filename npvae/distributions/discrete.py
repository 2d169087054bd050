"""Discrete distributions: their samples are not differentiable functions of noise."""

from dataclasses import dataclass

import numpy as np

from ..backends import reference
from .base import Distribution, FloatArray, Parameter, elementwise


@dataclass(frozen=True)
class Bernoulli(Distribution):
    """1 with probability sigmoid(logits), else 0.

    The log-probability is that of `npvae.backends.reference`, element by element: x log y + (1 - x) log(1 - y) with
    y = ``probs`` (Appendix C.1).

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

    def entropy(self) -> FloatArray:
        """Return -y log y - (1 - y) log(1 - y) in nats, with y = ``probs``."""
        return -self.log_prob(self.probs)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return elementwise(
            lambda x, logits: reference.bernoulli_log_prob(x, logits, np.ones(len(x)))[0], x, self.logits
        )
