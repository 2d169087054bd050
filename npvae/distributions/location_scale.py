"""Location-scale families (section 2.4): z = loc + scale * eps, where eps has the family's standard distribution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ..backends import reference
from .base import FloatArray, Parameter, Shape, Univariate, elementwise


class LocationScale(Univariate):
    """Base of the families with parameters ``loc`` and ``scale``.

    A family states ``draw`` and ``log_prob_noise`` of the standard distribution (loc 0, scale 1) and, where it is
    known, ``_icdf_noise``, its inverse distribution function.
    """

    loc: Parameter
    scale: Parameter

    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p, for p in (0, 1).

        Examples
        --------
        >>> from npvae.distributions import Normal
        >>> Normal(loc=1.0, scale=2.0).icdf([0.025, 0.5, 0.975]).round(2)
        array([-2.92,  1.  ,  4.92])
        """
        return self.rsample(self._icdf_noise(np.asarray(p, float)))

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        raise NotImplementedError

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return self.log_prob_noise((x - self.loc) / self.scale) - np.log(self.scale)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * eps

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": self.scale * np.ones_like(eps), "loc": np.ones_like(eps), "scale": eps}


@dataclass(frozen=True)
class Normal(LocationScale):
    """The Gaussian N(loc, scale^2); ``scale`` is the standard deviation.

    The density is that of `npvae.backends.reference`, element by element.

    Examples
    --------
    >>> from npvae.distributions import Normal
    >>> q = Normal(loc=[0.0, 1.0], scale=2.0)
    >>> q.log_prob(1.0).round(3), round(q.entropy(), 3)
    (array([-1.737, -1.612]), np.float64(2.112))
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    @property
    def log_var(self) -> FloatArray:
        """Logarithm of the variance."""
        return 2 * np.log(self.scale)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.standard_normal(shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        return Normal().log_prob(eps)

    def entropy(self) -> FloatArray:
        """Return 1/2 (1 + log 2 pi + log scale^2) in nats (Appendix B)."""
        return 0.5 * (1 + reference.LOG_2PI + self.log_var)

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        return ndtri(p)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return elementwise(
            lambda x, mu, s: reference.gaussian_log_prob(x, mu, s, np.ones(len(x)))[0], x, self.loc, self.log_var
        )


@dataclass(frozen=True)
class Laplace(LocationScale):
    """Density exp(-|y|) / (2 scale) with y = (x - loc) / scale.

    Examples
    --------
    >>> from npvae.distributions import Laplace
    >>> Laplace(loc=1.0, scale=2.0).log_prob([0.0, 1.0, 2.0]).round(3)
    array([-1.886, -1.386, -1.886])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.laplace(size=shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        return -np.abs(eps) - np.log(2)

    def entropy(self) -> FloatArray:
        """Return 1 + log(2 scale) in nats."""
        return 1 + np.log(2) + np.log(self.scale)

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        return -np.sign(p - 0.5) * np.log(2 * np.minimum(p, 1 - p))


@dataclass(frozen=True)
class Triangular(LocationScale):
    """Density (1 - |y|) / scale with y = (x - loc) / scale for |y| < 1; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Triangular
    >>> Triangular(loc=1.0, scale=2.0).log_prob([0.0, 1.0, 4.0]).round(3)
    array([-1.386, -0.693,   -inf])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.triangular(-1, 0, 1, shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        inside = np.abs(eps) < 1
        return np.where(inside, np.log1p(-np.where(inside, np.abs(eps), 0)), -np.inf)

    def entropy(self) -> FloatArray:
        """Return 1/2 + log scale in nats."""
        return 0.5 + np.log(self.scale)

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        return np.sign(p - 0.5) * (1 - np.sqrt(2 * np.minimum(p, 1 - p)))


@dataclass(frozen=True)
class Uniform(Univariate):
    """Constant density between low and high: a location-scale family with loc = low and scale = high - low.

    Examples
    --------
    >>> from npvae.distributions import Uniform
    >>> Uniform(low=-1.0, high=3.0).log_prob([0.0, 4.0]).round(3)
    array([-1.386,   -inf])
    """

    low: Parameter = Parameter(0.0)
    high: Parameter = Parameter(1.0)

    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p: `rsample`, since the noise is uniform."""
        return self.rsample(p)

    def entropy(self) -> FloatArray:
        """Return log(high - low) in nats."""
        return np.log(self.high - self.low)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -np.log(self.high - self.low), -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.low + (self.high - self.low) * eps

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": (self.high - self.low) * np.ones_like(eps), "low": 1 - eps, "high": eps}
