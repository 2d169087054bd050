"""Inverse CDF: the noise is uniform on (0, 1), and z = F^-1(eps) for an explicit distribution function F (section 2.4).

The derivative with respect to the noise is 1 / q(z). It is written from the inverse rather than from the density, so
that each checks the other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit

from .base import FloatArray, Parameter, Univariate, check_order, if_probability
from .special import log_abs_standardized, log_ratio, scaled_exp, standardized, times


class InverseCDF(Univariate):
    """Base of the families whose ``rsample`` is the inverse of the distribution function."""

    @np.errstate(all="ignore")
    def rsample(self, eps: ArrayLike) -> FloatArray:
        eps = np.asarray(eps, float)
        return if_probability(eps, self._rsample(eps))

    def icdf(self, p: ArrayLike) -> FloatArray:
        """Return the x with P(z <= x) = p, for p in (0, 1): `rsample`, since the noise is uniform.

        At 0 and 1 these are the ends of the support, beyond NaN.

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

    rate: Parameter = Parameter(1.0, above=0.0)

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
    scale: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = standardized(x, self.loc, self.scale)
        far = 2 * log_abs_standardized(x, self.loc, self.scale)  # where y^2 may exceed what float64 holds
        return -np.log(np.pi) - np.log(self.scale) - np.where(np.abs(y) < 1e8, np.log1p(y * y), far)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * _tangent(eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        tangent = _tangent(eps)
        slope = np.where(np.abs(tangent) > 1e8, self.scale * tangent * tangent, self.scale * (1 + tangent**2))
        return {"eps": np.pi * slope, "loc": np.ones_like(eps), "scale": tangent}


def _tangent(p: FloatArray) -> FloatArray:
    """Return tan(pi (p - 1/2)); near the poles by the distance from them, which p - 1/2 would round."""
    middle, distance = np.abs(p - 0.5) < 0.25, np.minimum(p, 1 - p)
    pole = np.sign(p - 0.5) / np.tan(np.pi * np.abs(distance))
    return np.where(middle, np.tan(np.pi * (p - 0.5)), pole)


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
    scale: Parameter = Parameter(1.0, above=0.0)

    def entropy(self) -> FloatArray:
        """Return 2 + log scale in nats."""
        return 2 + np.log(self.scale)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = np.abs(standardized(x, self.loc, self.scale))  # the density is even, and exp(-|y|) cannot overflow
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

    scale: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = x / self.scale
        value = log_ratio(x, self.scale) - np.log(self.scale) - y * y / 2
        return np.where((x >= 0) & (y < np.inf), value, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.scale * np.sqrt(-2 * np.log1p(-eps))

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        return {"eps": self.scale / (z / self.scale * (1 - eps)), "scale": z / self.scale}


@dataclass(frozen=True)
class Pareto(InverseCDF):
    """Density alpha scale^alpha / x^(alpha + 1) for x >= scale.

    Examples
    --------
    >>> from npvae.distributions import Pareto
    >>> Pareto(scale=2.0, alpha=1.0).rsample([0.25, 0.5]).round(3)
    array([2.667, 4.   ])
    """

    scale: Parameter = Parameter(1.0, above=0.0)
    alpha: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = np.log(self.alpha) - np.log(x) - self.alpha * log_ratio(x, self.scale)
        return np.where(x >= self.scale, inside, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return scaled_exp(-np.log1p(-eps) / self.alpha, self.scale)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        log_z = -np.log1p(-eps) / self.alpha
        return {
            "eps": scaled_exp(log_z, self.scale / (self.alpha * (1 - eps))),
            "scale": np.exp(log_z),
            "alpha": scaled_exp(log_z, -self.scale * log_z / self.alpha),
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

    scale: Parameter = Parameter(1.0, above=0.0)
    concentration: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        k, log_y = self.concentration, log_ratio(x, self.scale)
        power = np.exp(k * log_y)
        value = np.log(k) - np.log(self.scale) + times(k - 1, log_y) - power
        return np.where((x >= 0) & (power < np.inf), value, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return scaled_exp(np.log(-np.log1p(-eps)) / self.concentration, self.scale)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        k, e = self.concentration, -np.log1p(-eps)
        log_y = np.log(e) / k
        return {
            "eps": scaled_exp(log_y, self.scale / (k * e * (1 - eps))),
            "scale": np.exp(log_y),
            "concentration": scaled_exp(log_y, -self.scale * log_y / k),
        }


@dataclass(frozen=True)
class Reciprocal(InverseCDF):
    """Density proportional to 1 / x for 0 < low <= x <= high: log x is uniform; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Reciprocal
    >>> Reciprocal(low=1.0, high=16.0).rsample([0.25, 0.5])
    array([2., 4.])
    """

    low: Parameter = Parameter(1.0, above=0.0)
    high: Parameter = Parameter(np.e, above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.low, self.high)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -np.log(np.where(inside, x, 1)) - np.log(log_ratio(self.high, self.low)), -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        z = scaled_exp(eps * log_ratio(self.high, self.low), self.low)
        return np.clip(z, self.low, self.high)  # rounding may lead out of the support

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z, width = self._rsample(eps), log_ratio(self.high, self.low)
        by_low = scaled_exp(eps * width, 1 - eps)
        return {"eps": z * width, "low": by_low, "high": scaled_exp((eps - 1) * width, eps)}


@dataclass(frozen=True)
class Gompertz(InverseCDF):
    """Hazard rate concentration * rate * exp(rate x) for x >= 0; PyTorch does not have it.

    Examples
    --------
    >>> from npvae.distributions import Gompertz
    >>> Gompertz(concentration=0.5, rate=2.0).rsample([0.25, 0.5]).round(3)
    array([0.227, 0.435])
    """

    concentration: Parameter = Parameter(1.0, above=0.0)
    rate: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        log_c, y = np.log(self.concentration), self.rate * x
        cumulative = np.where(
            y < 30, self.concentration * np.expm1(np.minimum(y, 30)), np.exp(y + log_c) - self.concentration
        )
        return np.where((x >= 0) & (cumulative < np.inf), log_c + np.log(self.rate) + y - cumulative, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        e = -np.log1p(-eps)
        ratio = e / self.concentration
        return np.where(np.isinf(ratio), np.log(e) - np.log(self.concentration), np.log1p(ratio)) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z, e = self._rsample(eps), -np.log1p(-eps)
        hazard = self.rate * (self.concentration + e)
        return {
            "eps": 1 / (hazard * (1 - eps)),
            "concentration": -(e / self.concentration) / hazard,
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
    scale: Parameter = Parameter(1.0, above=0.0)

    def entropy(self) -> FloatArray:
        """Return 1 + Euler's constant + log scale in nats."""
        return 1 + np.euler_gamma + np.log(self.scale)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        y = standardized(x, self.loc, self.scale)
        return np.where(np.isneginf(y), -np.inf, -y - np.exp(-y) - np.log(self.scale))[()]

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc - self.scale * np.log(-np.log(eps))

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {
            "eps": -self.scale / (eps * np.log(eps)),
            "loc": np.ones_like(eps),
            "scale": -np.log(-np.log(eps)),
        }
