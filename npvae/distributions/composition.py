"""Composition: samples made of variables that have a reparameterization of their own (section 2.4).

An Erlang variable is a sum of exponentials; Beta, F and Student's t variables are made of Gamma variables, whose shape
has a derivative by the implicit function theorem (`implicit`). They are combined by differences of their logarithms:
Gamma variables of small shapes are too small for float64, their ratios often are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from .base import FloatArray, Parameter, Shape, Univariate, log_uniform, uniform
from .implicit import Gamma, log_quantile
from .location_scale import Normal
from .special import (
    LOG_2PI,
    beta_log_density,
    log1p_minus,
    log_abs_standardized,
    log_ratio,
    scaled_exp,
    standardized,
    stirling_error,
)


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
    scale: Parameter = Parameter(1.0, above=0.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return Normal().draw(rng, shape)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        return Normal().log_prob_noise(eps)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        log_x = np.log(x)
        eps = standardized(np.where(x > 0, log_x, 0), self.loc, self.scale)
        return np.where(x > 0, self.log_prob_noise(eps) - np.log(self.scale) - log_x, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return np.exp(self.loc + self.scale * eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        z = self._rsample(eps)
        log_z = self.loc + self.scale * eps
        return {"eps": scaled_exp(log_z, np.asarray(self.scale)), "loc": z, "scale": scaled_exp(log_z, eps)}


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
    rate: Parameter = Parameter(1.0, above=0.0)

    def __post_init__(self) -> None:
        n = self.concentration
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"concentration is {n!r}; expected an integer of at least 1")
        super().__post_init__()

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

    concentration1: Parameter = Parameter(1.0, above=0.0)
    concentration0: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a, b = self.concentration1, self.concentration0
        inside = (x >= 0) & (x <= 1)
        w = np.where(inside, x, 0.5)
        p, q = a / (a + b), b / (a + b)
        # The smaller of w and 1 - w has more digits. The other distance makes a u + b v zero, as it must be.
        difference = np.where(w < 0.5, w - p, q - (1 - w))
        value = beta_log_density(a, b, difference / p, -difference / q, np.log(w), np.log1p(-w))
        return np.where(inside, value, -np.inf)

    def _log_odds(self, eps: FloatArray) -> tuple[FloatArray, ...]:
        """Return log z - log(1 - z) of the samples z, and its derivatives by the concentrations."""
        a, b = self.concentration1, self.concentration0
        (x, dx), (y, dy) = log_quantile(a, eps[..., 0]), log_quantile(b, eps[..., 1])
        return x - y + log_ratio(a, b), dx + 1 / np.asarray(a), -dy - 1 / np.asarray(b)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return expit(self._log_odds(eps)[0])

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        log_odds, da, db = self._log_odds(eps)
        slope = expit(log_odds) * expit(-log_odds)
        return {"concentration1": slope * da, "concentration0": slope * db}


@dataclass(frozen=True)
class FisherSnedecor(Composed):
    """F: the ratio of two chi-squared variables, each divided by its degrees of freedom.

    Examples
    --------
    >>> from npvae.distributions import FisherSnedecor
    >>> FisherSnedecor(df1=4.0, df2=4.0).rsample([[0.5, 0.5], [0.5, 0.1]]).round(3)
    array([1.   , 3.156])
    """

    df1: Parameter = Parameter(1.0, above=0.0)
    df2: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        r, a, b = self.df1 / self.df2, self.df1 / 2, self.df2 / 2
        log_r, log_x, rx = log_ratio(self.df1, self.df2), np.log(x), self.df1 * x / self.df2
        log_rx = log_r + log_x
        # w = r x / (1 + r x) has the distribution Beta(a, b), and dw / dx = r (1 - w)^2
        log_w, log_rest = -np.logaddexp(0, -log_rx), -np.logaddexp(0, log_rx)
        u = np.where(x > 1, (1 - 1 / x) / (1 / x + r), (x - 1) / (1 + rx))
        value = beta_log_density(a, b, u, -r * u, log_w, log_rest) + log_r + 2 * log_rest
        return np.where((x >= 0) & (x < np.inf), value, -np.inf)

    def _log(self, eps: FloatArray) -> tuple[FloatArray, ...]:
        """Return the logarithm of the samples, and its derivatives by the degrees of freedom."""
        (x, dx), (y, dy) = (log_quantile(df / 2, eps[..., i]) for i, df in enumerate((self.df1, self.df2)))
        return x - y, dx / 2, -dy / 2

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return np.exp(self._log(eps)[0])

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        log_z, by_df1, by_df2 = self._log(eps)
        return {"df1": scaled_exp(log_z, by_df1), "df2": scaled_exp(log_z, by_df2)}


@dataclass(frozen=True)
class StudentT(Composed):
    """loc + scale * t with t = eps_0 sqrt(df / c): eps_0 is standard normal, c a chi-squared variable made of eps_1.

    The limit for df = inf is the normal distribution.

    Examples
    --------
    >>> from npvae.distributions import StudentT
    >>> StudentT(df=4.0, loc=1.0, scale=2.0).rsample([[-1.0, 0.5], [1.0, 0.1]]).round(3)
    array([-1.183,  4.879])
    """

    df: Parameter = Parameter(1.0, above=0.0, infinite=True)
    loc: Parameter = Parameter(0.0)
    scale: Parameter = Parameter(1.0, above=0.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return np.stack([Normal().draw(rng, shape), uniform(rng, shape)], axis=-1)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        """Return the log-density of the noise in nats, element by element: N(0, 1), and uniform on (0, 1)."""
        eps = np.asarray(eps, float)
        return np.stack([Normal().log_prob(eps[..., 0]), log_uniform(eps[..., 1])], axis=-1)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        log_kernel = student_t_log_kernel(self.df, 1, 2 * log_abs_standardized(x, self.loc, self.scale))
        return student_t_log_constant(self.df, 1) + log_kernel - np.log(self.scale)

    def _log_factor(self, eps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log sqrt(df / c), and its derivative by df."""
        log_share, derivative = log_quantile(np.asarray(self.df) / 2, eps[..., 1])
        return -log_share / 2, -derivative / 4

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + scaled_exp(self._log_factor(eps)[0], self.scale * eps[..., 0])

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        log_factor, by_df = self._log_factor(eps)
        t = scaled_exp(log_factor, eps[..., 0])
        return {"loc": np.ones_like(t), "scale": t, "df": scaled_exp(log_factor, self.scale * eps[..., 0] * by_df)}


@np.errstate(all="ignore")
def student_t_log_constant(df: FloatArray, n_dimensions: int) -> FloatArray:
    """Return log Gamma((df + K) / 2) - log Gamma(df / 2) - K / 2 log(pi df) for K dimensions and any df up to inf.

    Examples
    --------
    >>> student_t_log_constant([1.0, np.inf], 1).round(3)  # -log pi, -1/2 log 2 pi
    array([-1.145, -0.919])
    """
    h, k = np.minimum(df, 1e300) / 2, n_dimensions / 2
    u = k / h
    near = u < 0.3
    power = np.where(near, h * log1p_minus(np.where(near, u, 0)), h * (np.log1p(u) - u))
    return power + (k - 0.5) * np.log1p(u) + stirling_error(h + k) - stirling_error(h) - k * LOG_2PI


@np.errstate(all="ignore")
def student_t_log_kernel(df: FloatArray, n_dimensions: int, log_square: FloatArray) -> FloatArray:
    """Return -(df + K) / 2 log(1 + y^2 / df) for K dimensions, given log y^2; -y^2 / 2 for df = inf.

    Examples
    --------
    >>> student_t_log_kernel([1.0, np.inf], 1, np.log([1.0, 1.0])).round(3)
    array([-0.693, -0.5  ])
    """
    df = np.asarray(df, float)
    log_q = log_square - np.log(df)
    log_sum = np.where(log_q < 30, np.log1p(np.exp(log_q)), log_q)
    return np.where(np.isinf(df), -np.exp(log_square) / 2, -(df + n_dimensions) / 2 * log_sum)[()]
