"""Cells that were seen one by one: as they are, not at all, or with noise.

The noise is integrated out. Of a binary cell x with the logit l, all that a noisy value v says is its evidence
e = log p(v | x = 1) - log p(v | x = 0). Of a Gaussian cell x ~ N(mu, s^2), a value with noise of variance t^2 is one of
N(mu, s^2 + t^2). In both cases p(x | z, v) is of the family of p(x|z):

    log p(v|z) = softplus(l + e) - softplus(l),     p(x = 1 | z, v) = sigmoid(l + e)
    log p(v|z) = log N(v; mu, s^2 + t^2),           p(x | z, v) = N(mu + g (v - mu), g t^2),    g = s^2 / (s^2 + t^2)

A cell that was not seen has e = 0, or t^2 = inf.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ..backends.reference import LOG_2PI, sigmoid, softplus
from ..conventions import short_repr
from .columns import Columns, Outputs
from .observation import Uniform


class Cells(NamedTuple):
    """The observation of M rows cell by cell: see `Observation`.

    Examples
    --------
    A pixel that is 1 with probability 1/2, and was seen as 0.8 with Gaussian noise of standard deviation 0.5:

    >>> columns = Columns(np.arange(1), np.zeros(1), np.ones(1), 1, np.zeros(0), np.zeros(0))
    >>> cells = Cells.with_gaussian_noise(columns, np.array([[0.8]]), np.array([0.5]))
    >>> outputs = Outputs(np.zeros((1, 1, 1)), np.zeros((1, 1, 0)), np.zeros((1, 1, 0)))
    >>> mean, variance = cells.moments(outputs)
    >>> float(mean[0, 0, 0].round(4))  # 1 / (1 + exp(-(0.8 - 0.5) / 0.5^2))
    0.7685
    """

    value: NDArray[np.float64]  # (M, D) what was seen; NaN: nothing
    is_known: NDArray[np.bool_]  # (M, D) whether x is the value
    evidence: NDArray[np.float64]  # (M, B) that a binary cell is 1, in nats; 0 where it is known or was not seen
    noise: NDArray[np.float64]  # (M, C) variance of the noise of the others; 0: known, inf: not seen

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    def with_holes(cls, columns: Columns, x: NDArray) -> Self:
        """Observe x (M, D) as it is, where it is not NaN."""
        return cls._of(columns, x, ~np.isnan(x), np.zeros((len(x), columns.n_binary)), np.zeros(x.shape))

    @classmethod
    def with_gaussian_noise(cls, columns: Columns, x: NDArray, sigma: NDArray) -> Self:
        """Observe x (M, D), where it is not NaN, with noise of the standard deviations sigma (D,)."""
        variance = np.broadcast_to(sigma**2, x.shape)
        is_known, binary = ~np.isnan(x) & (variance == 0), slice(columns.n_binary)
        with np.errstate(divide="ignore", invalid="ignore"):
            evidence = (x[:, binary] - 0.5) / variance[:, binary]
        return cls._of(columns, x, is_known, evidence, variance)

    @classmethod
    def with_salt_and_pepper(cls, columns: Columns, x: NDArray, share: float, low: NDArray, high: NDArray) -> Self:
        """Observe x (M, D), where a share of the cells was replaced by the values low and high (D,), with equal chance.

        A density gives these two values no mass of their own: where a cell of real numbers has one, it was replaced.
        """
        replaced, B = (x == low) | (x == high), columns.n_binary
        odds = np.log(1 - share / 2) - np.log(share / 2)
        evidence = np.where(x[:, :B] == high[:B], odds, -odds)
        is_known = ~np.isnan(x) & ~replaced
        value = np.where(replaced & (np.arange(x.shape[1]) >= B), np.nan, x)
        return cls._of(columns, value, is_known, evidence, np.zeros(x.shape))

    @classmethod
    def _of(cls, columns, value, is_known, evidence, variance):
        """Set what there is no noise in to its neutral value."""
        B, seen = columns.n_binary, ~np.isnan(value)
        evidence = np.where(seen[:, :B] & ~is_known[:, :B], evidence, 0.0)
        return cls(value, is_known, evidence, np.where(seen, variance, np.inf)[:, B:])

    @property
    def content(self) -> NDArray:
        """See `Observation.content`."""
        return self.value

    @property
    def known(self) -> NDArray:
        """See `Observation.known`."""
        return np.where(self.is_known, self.value, np.nan)

    def take(self, rows: NDArray) -> Self:
        """See `Observation.take`."""
        return type(self)(*(array[rows] for array in self))

    def log_prob(self, outputs: Outputs) -> tuple[NDArray, Outputs] | None:
        """See `Observation.log_prob`."""
        real = (self.noise > 0) & (self.noise < np.inf)
        if not (self.evidence.any() or real.any()):
            return None
        (logits, mu, log_var), B = outputs, self.evidence.shape[1]
        given = logits + self.evidence
        # less the evidence where it is above 0: beside a large number, the small one that depends on z would be lost
        binary = np.where(self.evidence > 0, softplus(-given) + logits, softplus(given)) - softplus(logits)
        dlogits = sigmoid(given) - sigmoid(logits)
        variance = np.exp(log_var)
        total = np.where(real, variance + np.where(real, self.noise, 0), 1.0)
        error = np.where(real, self.value[:, B:] - mu, 0.0)
        squared = error**2 / total
        density = np.where(real, -0.5 * (LOG_2PI + np.log(total) + squared), 0.0)
        dlog_var = np.where(real, 0.5 * (squared - 1) * variance / total, 0.0)
        return binary.sum(axis=2) + density.sum(axis=2), Outputs(dlogits, error / total, dlog_var)

    def moments(self, outputs: Outputs) -> tuple[NDArray, NDArray]:
        """See `Observation.moments`."""
        (logits, mu, log_var), B = outputs, self.evidence.shape[1]
        y, variance = sigmoid(logits + self.evidence), np.exp(log_var)
        seen = self.noise < np.inf
        noise = np.where(seen, self.noise, 1.0)
        gain = np.where(seen, variance / (variance + noise), 0.0)
        real = mu + gain * np.where(seen, self.value[:, B:] - mu, 0.0), np.where(seen, gain * noise, variance)
        mean, variance = (np.concatenate(parts, axis=2) for parts in zip((y, y * (1 - y)), real))
        return np.where(self.is_known, self.value, mean), np.where(self.is_known, 0.0, variance)

    def draw(self, outputs: Outputs, uniform: Uniform) -> NDArray:
        """See `Observation.draw`."""
        (mean, variance), B = self.moments(outputs), self.evidence.shape[1]
        u = uniform((len(mean), mean.shape[2]))
        x = np.where(np.arange(mean.shape[2]) < B, u < mean, mean + np.sqrt(variance) * ndtri(u))
        return np.where(self.is_known, self.value, x)
