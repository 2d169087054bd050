"""Where the three approaches fail: the Gamma distribution, whose inverse distribution function has no explicit form.

The inverse is found numerically. Differentiating F(g(u); a) = u with respect to the shape a gives dg/da = -(dF/da) /
q(z) (the implicit function theorem), so only the derivative of the incomplete gamma function is needed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, gammaincinv, gammaln, xlogy

from .base import FloatArray, Parameter
from .inverse_cdf import InverseCDF


@dataclass(frozen=True)
class Gamma(InverseCDF):
    """Density proportional to x^(concentration - 1) exp(-rate x) for x >= 0, for any shape (concentration) > 0.

    Examples
    --------
    >>> from npvae.distributions import Gamma
    >>> q = Gamma(concentration=2.5, rate=2.0)
    >>> q.rsample([0.25, 0.5]).round(3)
    array([0.669, 1.088])
    >>> q.gradients([0.25, 0.5])["concentration"].round(3)
    array([0.384, 0.498])
    """

    concentration: Parameter = Parameter(1.0)
    rate: Parameter = Parameter(1.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a, y = self.concentration, self.rate * x
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = xlogy(a - 1, y) - y - gammaln(a) + np.log(self.rate)
        return np.where(y >= 0, inside, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return gammaincinv(self.concentration, eps) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        standard = gammaincinv(self.concentration, eps)
        density = np.exp(Gamma(self.concentration).log_prob(standard))
        with np.errstate(divide="ignore", invalid="ignore"):
            by_shape = np.where(standard > 0, -_gammainc_derivative(self.concentration, standard) / density, 0)
            return {
                "eps": 1 / (density * self.rate),
                "concentration": by_shape / self.rate,
                "rate": -standard / np.square(self.rate),
            }


@dataclass(frozen=True)
class Chi2(InverseCDF):
    """The sum of squares of df standard normals, for any df > 0: Gamma(df / 2, 1 / 2).

    Examples
    --------
    >>> from npvae.distributions import Chi2
    >>> Chi2(df=3.0).rsample([0.25, 0.5]).round(3)
    array([1.213, 2.366])
    """

    df: Parameter = Parameter(1.0)

    @property
    def _gamma(self) -> Gamma:
        return Gamma(self.df / 2, 0.5)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        return self._gamma.log_prob(x)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self._gamma.rsample(eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        gradients = self._gamma.gradients(eps)
        return {"eps": gradients["eps"], "df": gradients["concentration"] / 2}


# The derivative of the incomplete gamma function ----------------------------------------------------------------------


def _gammainc_derivative(a: ArrayLike, x: ArrayLike) -> FloatArray:
    """Return the derivative of the regularized lower incomplete gamma function P(a, x) with respect to a.

    For x < a + 1 it is the derivative of the power series of P, term by term; beyond, that of the continued fraction
    of 1 - P (Abramowitz and Stegun 6.5.29 and 6.5.31), computed along with the fraction (Lentz's method).
    """
    a, x = np.broadcast_arrays(np.asarray(a, float), np.asarray(x, float))
    result, below = np.zeros(x.shape), x < a + 1
    for part, derivative in ((below & (x > 0), _derivative_of_series), (~below, _derivative_of_fraction)):
        if part.any():
            result[part] = derivative(a[part], x[part])
    return result


def _derivative_of_series(a: FloatArray, x: FloatArray) -> FloatArray:
    log_x, n = np.log(x), 0
    term, total = np.exp(a * log_x - x - gammaln(a + 1)), np.zeros(x.shape)
    largest = term.copy()
    while n < 10 or np.any(term > 1e-18 * largest):
        total += term * (log_x - digamma(a + n + 1))
        n += 1
        term = term * (x / (a + n))
        largest = np.maximum(largest, term)
    return total


def _derivative_of_fraction(a: FloatArray, x: FloatArray) -> FloatArray:
    factor = np.exp(a * np.log(x) - x - gammaln(a))
    # The fraction 1 / (b_0 + a_1 / (b_1 + ...)) with b_n = x + 2n + 1 - a and a_n = -n (n - a). The names that begin
    # with d (dc, dd, df) are the derivatives with respect to a.
    b = x + 1 - a
    c, dc, d, dd = np.full(x.shape, 1e150), np.zeros(x.shape), 1 / b, 1 / b**2
    f, df, n, change = d.copy(), dd.copy(), 0, np.array([1.0])
    while np.any(change > 4e-16) and n < 10_000:
        n += 1
        numerator, b = -n * (n - a), b + 2
        dd, d = -(n * d + numerator * dd - 1), b + numerator * d
        dc, c = n / c - numerator * dc / c**2 - 1, b + numerator / c
        dd, d = dd / d**2, 1 / d
        step = c * d
        change = dc * d + c * dd
        df, f = df * step + f * change, f * step
        change = np.maximum(np.abs(change), np.abs(step - 1))
    return -factor * (f * (np.log(x) - digamma(a)) + df)
