"""Where the three approaches fail: the Gamma distribution, whose inverse distribution function has no explicit form.

The inverse is found numerically. Differentiating F(g(u); a) = u with respect to the shape a gives dg/da = -(dF/da) /
q(z) (the implicit function theorem), so only the derivative of the incomplete gamma function is needed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaincinv, gammaln, ndtri

from .base import FloatArray, Parameter
from .inverse_cdf import InverseCDF
from .special import gamma_log_density, scaled_exp


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

    concentration: Parameter = Parameter(1.0, above=0.0)
    rate: Parameter = Parameter(1.0, above=0.0)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a, y, log_rate = self.concentration, self.rate * x, np.log(self.rate)
        log_y = np.where(y > 1e-300, np.log(y), log_rate + np.log(x))
        return np.where(x >= 0, gamma_log_density(a, y, log_y) + log_rate, -np.inf)

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return quantile(self.concentration, eps) / self.rate

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        a = self.concentration
        standard, (log_share, by_shape) = quantile(a, eps), log_quantile(a, eps)
        log_z = log_share + np.log(a)
        log_density = gamma_log_density(a, standard, log_z)
        return {
            "eps": scaled_exp(-log_density, 1 / np.asarray(self.rate)),
            "concentration": scaled_exp(log_z, (by_shape + 1 / np.asarray(a)) / self.rate),
            "rate": -standard / self.rate / self.rate,
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

    df: Parameter = Parameter(1.0, above=0.0)

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


# The logarithm of a quantile, and its derivative by the shape ---------------------------------------------------------

#: From this shape on, the quantile and its derivative come from an expansion in 1 / sqrt(a): the series and the
#: fraction would need thousands of terms, and SciPy's inverse has only nine digits for a shape of a million.
LARGE_SHAPE = 1e5

#: Where the quantile is smaller, P(a, x) is x^a / Gamma(a + 1) to all digits.
TINY = 1e-30


@np.errstate(all="ignore")
def quantile(a: FloatArray, u: FloatArray) -> FloatArray:
    """Return the x with P(a, x) = u for u in [0, 1].

    Examples
    --------
    >>> quantile(np.array([1.0, 1e6]), np.array(0.5)).round(3)
    array([6.93000000e-01, 9.99999667e+05])
    """
    x, w = gammaincinv(a, u), ndtri(u)
    large = _is_large(a, w)
    return np.where(large, a * (1 + _excess(a, w)[0]), x)[()] if np.any(large) else x


@np.errstate(all="ignore")
def log_quantile(a: FloatArray, u: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log(x / a) and its derivative with respect to a, where P(a, x) = u.

    The logarithm is finite where x itself is too small for float64: for a = 0.001, half of the quantiles are below
    1e-301. Families that are composed of Gamma variables combine them by differences of logarithms. The limit for
    a = inf is 0.

    Parameters
    ----------
    a : shape, above 0
    u : in (0, 1); arrays that broadcast

    Examples
    --------
    >>> log_quantile(np.array([0.001, 1.0, np.inf]), np.array(0.01))[0].round(3)
    array([-4598.839,    -4.6  ,     0.   ])
    """
    a, u = np.broadcast_arrays(np.asarray(a, float), np.asarray(u, float))
    log_share, derivative = np.empty(a.shape), np.empty(a.shape)
    w, log_u = ndtri(u), np.log(u)
    large = _is_large(a, w)
    x = gammaincinv(np.where(large, 1, a), u)
    tiny = ~large & (x < TINY)
    rest = ~(large | tiny)
    for part, function, second in ((large, _by_expansion, w), (tiny, _by_power, log_u), (rest, _by_implicit, x)):
        if np.any(part):
            log_share[part], derivative[part] = function(a[part], second[part])
    return log_share[()], derivative[()]


def _is_large(a: FloatArray, w: FloatArray) -> NDArray[np.bool_]:
    """Return where the expansion is used: not for the lowest tail, beyond what noise can be."""
    return (np.asarray(a) >= LARGE_SHAPE) & ((np.abs(w) < 9) | np.isinf(a))


def _excess(a: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Cornish and Fisher's expansion of x / a - 1 in q = 1 / sqrt(a), and its derivative with respect to q.

    Here w is the normal quantile.
    """
    q, w = 1 / np.sqrt(a), np.where(np.isinf(a), 0, w)
    terms = (
        w,
        (w**2 - 1) / 3,
        (w**3 - 7 * w) / 36,
        -(3 * w**4 + 7 * w**2 - 16) / 810,
        (9 * w**5 + 256 * w**3 - 433 * w) / 38880,
    )
    excess, slope = np.zeros(np.shape(w)), np.zeros(np.shape(w))
    for n, term in enumerate(terms, 1):
        excess, slope = excess + term * q**n, slope + n * term * q ** (n - 1)
    return excess, slope


def _by_expansion(a: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    excess, slope = _excess(a, w)
    return np.log1p(excess), -slope * a**-1.5 / 2 / (1 + excess)


def _by_power(a: FloatArray, log_u: FloatArray) -> tuple[FloatArray, FloatArray]:
    log_x = (log_u + gammaln(a + 1)) / a
    return log_x - np.log(a), (digamma(a + 1) - log_x - 1) / a


def _by_implicit(a: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The implicit function theorem: d log x / da = -(dP/da) / (x q(x)), where x q(x) = x^a exp(-x) / Gamma(a).

    For x < a + 1, dP/da is the derivative of the power series of P, term by term; beyond, that of the continued
    fraction of 1 - P (Abramowitz and Stegun 6.5.29 and 6.5.31). Both have the factor x q(x), which cancels.
    """
    derivative, below = np.empty(x.shape), x < a + 1
    for part, function in ((below, _series), (~below, _fraction)):
        if np.any(part):
            derivative[part] = function(a[part], x[part])
    return np.log(x) - np.log(a), derivative - 1 / a


def _series(a: FloatArray, x: FloatArray) -> FloatArray:
    n, log_x, psi = 0, np.log(x), digamma(a + 1)
    term, total = np.ones(x.shape), np.zeros(x.shape)
    while n < 10 or np.any(term > 1e-18):
        total += term * (log_x - psi)
        n += 1
        term = term * (x / (a + n))
        psi = psi + 1 / (a + n)
    return -total / a


def _fraction(a: FloatArray, x: FloatArray) -> FloatArray:
    # The fraction 1 / (b_0 + a_1 / (b_1 + ...)) with b_n = x + 2n + 1 - a and a_n = -n (n - a), by Lentz's method. The
    # names that begin with d (dc, dd, df) are the derivatives with respect to a.
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
    return f * (np.log(x) - digamma(a)) + df
