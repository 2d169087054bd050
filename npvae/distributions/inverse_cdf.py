"""Inverse CDF: the noise is uniform on (0, 1), and z = F^-1(eps) for an explicit distribution function F (section 2.4).

The derivative with respect to the noise is 1 / q(z). It is written from the inverse rather than from the density, so
that each checks the other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit, xlogy

from .base import FloatArray, Parameter, Univariate


class InverseCDF(Univariate):
    """Base of the families whose ``rsample`` is the inverse of the distribution function."""

    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p, for p in (0, 1): `rsample`, since the noise is uniform.

        Examples
        --------
        >>> from npvae.distributions import Logistic
        >>> Logistic(loc=1.0).icdf([0.25, 0.5, 0.75]).round(3)
        array([-0.099,  1.   ,  2.099])
        """
        return self.rsample(p)


@dataclass(frozen=True)
class Exponential(InverseCDF):
    """Density rate exp(-rate x) for x >= 0.

    Examples
    --------
    >>> from npvae.distributions import Exponential
    >>> Exponential(rate=2.0).rsample([0.25, 0.5]).round(3)
    array([0.144, 0.347])
    """

    rate: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return np.where(x >= 0, np.log(self.rate) - self.rate * x, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return -np.log1p(-eps) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": 1 / (self.rate * (1 - eps)), "rate": -self._rsample(eps) / self.rate}


@dataclass(frozen=True)
class Cauchy(InverseCDF):
    """Density 1 / (pi scale (1 + y^2)) with y = (x - loc) / scale.

    Examples
    --------
    >>> from npvae.distributions import Cauchy
    >>> Cauchy(loc=1.0, scale=2.0).rsample([0.25, 0.5]).round(3)
    array([-1.,  1.])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return -np.log(np.pi * self.scale) - np.log1p(((x - self.loc) / self.scale) ** 2)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * np.tan(np.pi * (eps - 0.5))

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        tangent = np.tan(np.pi * (eps - 0.5))
        return {"eps": self.scale * np.pi * (1 + tangent**2), "loc": np.ones_like(eps), "scale": tangent}


@dataclass(frozen=True)
class Logistic(InverseCDF):
    """Density s(y) s(-y) / scale with y = (x - loc) / scale and s the sigmoid; also a location-scale family.

    Examples
    --------
    >>> from npvae.distributions import Logistic
    >>> Logistic(loc=1.0, scale=2.0).rsample([0.25, 0.5]).round(3)
    array([-1.197,  1.   ])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def entropy(self) -> FloatArray:
        """Return 2 + log scale in nats."""
        return 2 + np.log(self.scale)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = np.abs((x - self.loc) / self.scale)  # the density is even, and exp(-|y|) cannot overflow
        return -y - 2 * np.log1p(np.exp(-y)) - np.log(self.scale)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * logit(eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"eps": self.scale / (eps * (1 - eps)), "loc": np.ones_like(eps), "scale": logit(eps)}


@dataclass(frozen=True)
class Rayleigh(InverseCDF):
    """The length of a vector of two independent N(0, scale^2) variables; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Rayleigh
    >>> Rayleigh(scale=2.0).rsample([0.25, 0.5]).round(3)
    array([1.517, 2.355])
    """

    scale: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = x / self.scale
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x >= 0, np.log(y / self.scale) - y**2 / 2, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.scale * np.sqrt(-2 * np.log1p(-eps))

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        return {"eps": self.scale**2 / (z * (1 - eps)), "scale": z / self.scale}


@dataclass(frozen=True)
class Pareto(InverseCDF):
    """Density alpha scale^alpha / x^(alpha + 1) for x >= scale.

    Examples
    --------
    >>> from npvae.distributions import Pareto
    >>> Pareto(scale=2.0, alpha=1.0).rsample([0.25, 0.5]).round(3)
    array([2.667, 4.   ])
    """

    scale: Parameter = Parameter(1.0)
    alpha: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            log_x = np.log(x)
        inside = np.log(self.alpha) + self.alpha * np.log(self.scale) - (self.alpha + 1) * log_x
        return np.where(x >= self.scale, inside, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.scale * np.exp(-np.log1p(-eps) / self.alpha)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        return {
            "eps": z / (self.alpha * (1 - eps)),
            "scale": z / self.scale,
            "alpha": z * np.log1p(-eps) / self.alpha**2,
        }


@dataclass(frozen=True)
class Weibull(InverseCDF):
    """(x / scale)^concentration has the standard exponential distribution.

    Examples
    --------
    >>> from npvae.distributions import Weibull
    >>> Weibull(scale=2.0, concentration=2.0).rsample([0.25, 0.5]).round(3)
    array([1.073, 1.665])
    """

    scale: Parameter = Parameter(1.0)
    concentration: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        k = self.concentration
        with np.errstate(divide="ignore", invalid="ignore"):
            y = x / self.scale
            return np.where(x >= 0, np.log(k / self.scale) + xlogy(k - 1, y) - y**k, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.scale * (-np.log1p(-eps)) ** (1 / self.concentration)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z, e = self._rsample(eps), -np.log1p(-eps)
        return {
            "eps": z / (self.concentration * e * (1 - eps)),
            "scale": z / self.scale,
            "concentration": -z * np.log(e) / self.concentration**2,
        }


@dataclass(frozen=True)
class Reciprocal(InverseCDF):
    """Density proportional to 1 / x for low <= x <= high: log x is uniform; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Reciprocal
    >>> Reciprocal(low=1.0, high=16.0).rsample([0.25, 0.5])
    array([2., 4.])
    """

    low: Parameter = Parameter(1.0)
    high: Parameter = Parameter(np.e)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -np.log(np.where(inside, x, 1)) - np.log(np.log(self.high / self.low)), -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.low * (self.high / self.low) ** eps

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        return {"eps": z * np.log(self.high / self.low), "low": z * (1 - eps) / self.low, "high": z * eps / self.high}


@dataclass(frozen=True)
class Gompertz(InverseCDF):
    """Hazard rate concentration * rate * exp(rate x) for x >= 0; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Gompertz
    >>> Gompertz(concentration=0.5, rate=2.0).rsample([0.25, 0.5]).round(3)
    array([0.227, 0.435])
    """

    concentration: Parameter = Parameter(1.0)
    rate: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = np.log(self.concentration * self.rate) + self.rate * x - self.concentration * np.expm1(self.rate * x)
        return np.where(x >= 0, inside, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return np.log1p(-np.log1p(-eps) / self.concentration) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z, e = self._rsample(eps), -np.log1p(-eps)
        hazard = self.rate * (self.concentration + e)
        return {
            "eps": 1 / (hazard * (1 - eps)),
            "concentration": -e / (self.concentration * hazard),
            "rate": -z / self.rate,
        }


@dataclass(frozen=True)
class Gumbel(InverseCDF):
    """Distribution function exp(-exp(-y)) with y = (x - loc) / scale.

    Examples
    --------
    >>> from npvae.distributions import Gumbel
    >>> Gumbel(loc=1.0, scale=2.0).rsample([0.25, 0.5]).round(3)
    array([0.347, 1.733])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def entropy(self) -> FloatArray:
        """Return 1 + Euler's constant + log scale in nats."""
        return 1 + np.euler_gamma + np.log(self.scale)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = (x - self.loc) / self.scale
        return -y - np.exp(-y) - np.log(self.scale)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc - self.scale * np.log(-np.log(eps))

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {
            "eps": -self.scale / (eps * np.log(eps)),
            "loc": np.ones_like(eps),
            "scale": -np.log(-np.log(eps)),
        }
