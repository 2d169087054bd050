"""Composition: samples made of variables that have a reparameterization of their own (section 2.4).

An Erlang variable is a sum of exponentials; Beta, F and Student's t variables are made of Gamma variables, whose shape
has a derivative by the implicit function theorem (`implicit`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from .base import FloatArray, Parameter, Shape, Univariate, uniform
from .implicit import Chi2, Gamma
from .location_scale import Normal


@dataclass(frozen=True)
class LogNormal(Univariate):
    """The exponential of N(loc, scale^2).

    Examples
    --------
    >>> from npvae.distributions import LogNormal
    >>> LogNormal(loc=0.0, scale=0.5).rsample([-1.0, 0.0, 1.0]).round(3)
    array([0.607, 1.   , 1.649])
    """

    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return Normal().draw(rng, shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        return Normal().log_prob_noise(eps)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            log_x = np.log(x)
        eps = (np.where(x > 0, log_x, 0) - self.loc) / self.scale
        return np.where(x > 0, self.log_prob_noise(eps) - np.log(self.scale) - log_x, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return np.exp(self.loc + self.scale * eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        return {"eps": z * self.scale, "loc": z, "scale": z * eps}


class Composed(Univariate):
    """Base of the families that need several numbers of noise for one sample, along the last axis of eps."""

    @property
    def n_noise(self) -> int:
        """How many numbers of noise make one sample."""
        return 2

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return uniform(rng, (*np.atleast_1d(shape), self.n_noise))


@dataclass(frozen=True)
class Erlang(Composed):
    """A sum of ``concentration`` exponentials: a Gamma distribution whose shape is a whole number.

    A whole number has no derivative, so the path has one with respect to the rate only.

    Examples
    --------
    >>> from npvae.distributions import Erlang
    >>> Erlang(concentration=2, rate=2.0).rsample([0.25, 0.5]).round(3)
    np.float64(0.49)
    """

    concentration: int = 1
    rate: Parameter = Parameter(1.0)

    @property
    def n_noise(self) -> int:
        return self.concentration

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return Gamma(self.concentration, self.rate).log_prob(x)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return -np.log1p(-eps).sum(axis=-1) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        return {"rate": -self._rsample(eps) / self.rate}


@dataclass(frozen=True)
class Beta(Composed):
    """x / (x + y) for Gamma variables x and y with shapes ``concentration1`` and ``concentration0``.

    Examples
    --------
    >>> from npvae.distributions import Beta
    >>> Beta(concentration1=2.0, concentration0=2.0).rsample([[0.5, 0.5], [0.5, 0.1]]).round(3)
    array([0.5  , 0.759])
    """

    concentration1: Parameter = Parameter(1.0)
    concentration0: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a, b = self.concentration1, self.concentration0
        inside = (x >= 0) & (x <= 1)
        y = np.where(inside, x, 0.5)
        with np.errstate(divide="ignore"):
            value = xlogy(a - 1, y) + xlogy(b - 1, 1 - y) + gammaln(a + b) - gammaln(a) - gammaln(b)
        return np.where(inside, value, -np.inf)

    def _parts(self) -> tuple[Gamma, Gamma]:
        return Gamma(self.concentration1), Gamma(self.concentration0)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        x, y = _samples(self._parts(), eps)
        return x / (x + y)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        x, y = _samples(self._parts(), eps)
        dx, dy = _derivatives(self._parts(), "concentration", eps)
        return {"concentration1": y * dx / (x + y) ** 2, "concentration0": -x * dy / (x + y) ** 2}


@dataclass(frozen=True)
class FisherSnedecor(Composed):
    """F: the ratio of two chi-squared variables, each divided by its degrees of freedom.

    Examples
    --------
    >>> from npvae.distributions import FisherSnedecor
    >>> FisherSnedecor(df1=4.0, df2=4.0).rsample([[0.5, 0.5], [0.5, 0.1]]).round(3)
    array([1.   , 3.156])
    """

    df1: Parameter = Parameter(1.0)
    df2: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        ratio, a, b = self.df1 / self.df2, self.df1 / 2, self.df2 / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = xlogy(a, ratio) + xlogy(a - 1, x) - (a + b) * np.log1p(ratio * x)
        return np.where(x >= 0, inside + gammaln(a + b) - gammaln(a) - gammaln(b), -np.inf)

    def _parts(self) -> tuple[Chi2, Chi2]:
        return Chi2(self.df1), Chi2(self.df2)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        x, y = _samples(self._parts(), eps)
        return (x / self.df1) / (y / self.df2)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        x, y = _samples(self._parts(), eps)
        dx, dy = _derivatives(self._parts(), "df", eps)
        z = self._rsample(eps)
        return {"df1": z * (dx / x - 1 / self.df1), "df2": z * (1 / self.df2 - dy / y)}


def _samples(parts: tuple[Univariate, Univariate], eps: FloatArray) -> list[FloatArray]:
    """Return the samples of two distributions from noise eps (..., 2)."""
    return [part.rsample(eps[..., i]) for i, part in enumerate(parts)]


def _derivatives(parts: tuple[Univariate, Univariate], parameter: str, eps: FloatArray) -> list[FloatArray]:
    """Return the derivatives of these samples, each with respect to its distribution's parameter of this name."""
    return [part.gradients(eps[..., i])[parameter] for i, part in enumerate(parts)]


@dataclass(frozen=True)
class StudentT(Composed):
    """loc + scale * t with t = eps_0 sqrt(df / c): eps_0 is standard normal, c a chi-squared variable made of eps_1.

    Examples
    --------
    >>> from npvae.distributions import StudentT
    >>> StudentT(df=4.0, loc=1.0, scale=2.0).rsample([[-1.0, 0.5], [1.0, 0.1]]).round(3)
    array([-1.183,  4.879])
    """

    df: Parameter = Parameter(1.0)
    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return np.stack([Normal().draw(rng, shape), uniform(rng, shape)], axis=-1)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        nu, y = self.df, (x - self.loc) / self.scale
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - np.log(np.pi * nu) / 2
        return constant - (nu + 1) / 2 * np.log1p(y**2 / nu) - np.log(self.scale)

    def _standard(self, eps: FloatArray) -> FloatArray:
        return eps[..., 0] * np.sqrt(self.df / Chi2(self.df).rsample(eps[..., 1]))

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + self.scale * self._standard(eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        t, c = self._standard(eps), Chi2(self.df)
        by_df = t / 2 * (1 / self.df - c.gradients(eps[..., 1])["df"] / c.rsample(eps[..., 1]))
        return {"loc": np.ones_like(t), "scale": t, "df": self.scale * by_df}
