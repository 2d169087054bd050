"""Location-scale families (section 2.4): z = loc + scale * eps, where eps has the family's standard distribution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ..backends import reference
from .base import FloatArray, Parameter, Shape, Univariate, check_order, elementwise, if_probability
from .special import standardized


class LocationScale(Univariate):
    """Base of the families with parameters ``loc`` and ``scale``.

    A family states ``draw`` and ``log_prob_noise`` of the standard distribution (loc 0, scale 1) and, where it is
    known, ``_icdf_noise``, its inverse distribution function.
    """

    loc: Parameter
    scale: Parameter

    @np.errstate(all="ignore")
    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p, for p in (0, 1); the ends of the support at 0 and 1, NaN beyond.

        Examples
        --------
        >>> from npvae.distributions import Normal
        >>> Normal(loc=1.0, scale=2.0).icdf([0.025, 0.5, 0.975]).round(2)
        array([-2.92,  1.  ,  4.92])
        """
        p = np.asarray(p, float)
        return if_probability(p, self._rsample(self._icdf_noise(p)))

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        raise NotImplementedError

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return self.log_prob_noise(standardized(x, self.loc, self.scale)) - np.log(self.scale)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * eps

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": self.scale * np.ones_like(eps), "loc": np.ones_like(eps), "scale": eps}


@dataclass(frozen=True)
class Normal(LocationScale):
    """The Gaussian N(loc, scale^2); ``scale`` is the standard deviation.

    The density is that of `npvae.backends.reference`, element by element; where its factors overflow or underflow, it
    is that of the standardized x.

    Examples
    --------
    >>> from npvae.distributions import Normal
    >>> q = Normal(loc=[0.0, 1.0], scale=2.0)
    >>> q.log_prob(1.0).round(3), round(q.entropy(), 3)
    (array([-1.737, -1.612]), np.float64(2.112))
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0, above=0.0)

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
        value = elementwise(
            lambda x, mu, s: reference.gaussian_log_prob(x, mu, s, np.ones(len(x)))[0], x, self.loc, self.log_var
        )
        extreme = (np.abs(self.log_var) > 400) | ~(np.abs(x - self.loc) < 1e150)
        if np.any(extreme):
            y = standardized(x, self.loc, self.scale)
            value = np.where(extreme, -0.5 * (reference.LOG_2PI + self.log_var) - 0.5 * y * y, value)
        return value


@dataclass(frozen=True)
class Laplace(LocationScale):
    """Density ``exp(-|y|) / (2 scale)`` with y = (x - loc) / scale.

    Examples
    --------
    >>> from npvae.distributions import Laplace
    >>> Laplace(loc=1.0, scale=2.0).log_prob([0.0, 1.0, 2.0]).round(3)
    array([-1.886, -1.386, -1.886])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0, above=0.0)

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
    """Density ``(1 - |y|) / scale`` with y = (x - loc) / scale for ``|y| < 1``; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Triangular
    >>> Triangular(loc=1.0, scale=2.0).log_prob([0.0, 1.0, 4.0]).round(3)
    array([-1.386, -0.693,   -inf])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0, above=0.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.triangular(-1, 0, 1, shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        outside = np.abs(eps) >= 1
        return np.where(outside, -np.inf, np.log1p(-np.where(outside, 0, np.abs(eps))))

    def entropy(self) -> FloatArray:
        """Return 1/2 + log scale in nats."""
        return 0.5 + np.log(self.scale)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        value, difference = super()._log_prob(x), x - self.loc
        edge = np.abs(np.abs(difference) / self.scale - 1) < 1e-6
        if np.any(edge):  # here 1 - |y| has lost digits: scale - |x - loc|, with what rounding took from the difference
            back = difference - x
            rest = (x - (difference - back)) - (self.loc + back)
            gap = (self.scale - np.abs(difference)) - np.sign(difference) * np.where(np.isfinite(rest), rest, 0)
            at_edge = np.where(gap > 0, np.log(np.where(gap > 0, gap, 1)) - 2 * np.log(self.scale), -np.inf)
            value = np.where(edge, at_edge, value)
        return value

    def _icdf_noise(self, p: FloatArray) -> FloatArray:
        distance = np.minimum(p, 1 - p)
        value = np.sign(p - 0.5) * (1 - np.sqrt(2 * distance))
        centre = np.abs(p - 0.5) < 2.0**-24
        if np.any(centre):  # 1 - sqrt(1 - 2 d) without cancellation
            value = np.where(centre, 2 * (p - 0.5) / (1 + np.sqrt(2 * distance)), value)
        return value


@dataclass(frozen=True)
class Uniform(Univariate):
    """Constant density between low and high > low: a location-scale family with loc = low and scale = high - low.

    Examples
    --------
    >>> from npvae.distributions import Uniform
    >>> Uniform(low=-1.0, high=3.0).log_prob([0.0, 4.0]).round(3)
    array([-1.386,   -inf])
    """

    low: Parameter = Parameter(0.0)
    high: Parameter = Parameter(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.low, self.high)

    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p: `rsample`, since the noise is uniform."""
        return self.rsample(p)

    @np.errstate(all="ignore")
    def entropy(self) -> FloatArray:
        """Return log(high - low) in nats."""
        width = self.high - self.low
        return np.where(np.isinf(width), np.log(self.high / 2 - self.low / 2) + np.log(2), np.log(width))[()]

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -self.entropy(), -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        width = self.high - self.low
        z = np.where(np.isinf(width), self.low * (1 - eps) + self.high * eps, self.low + width * eps)
        return if_probability(eps, np.clip(z, self.low, self.high))[()]  # rounding may lead out of the support

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": (self.high - self.low) * np.ones_like(eps), "low": 1 - eps, "high": eps}
