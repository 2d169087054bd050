"""Functions of one number that stay accurate where the textbook formula overflows, underflows or cancels.

They are what the densities of the families have in common. SciPy has the rest. They set NumPy's warnings aside, as the
public methods of the distributions do: infinity is a result here.
"""

import numpy as np
from scipy.special import gammaln

from .base import FloatArray

LOG_2PI = np.log(2 * np.pi)


@np.errstate(all="ignore")
def standardized(x: FloatArray, loc: FloatArray, scale: FloatArray) -> FloatArray:
    """Return (x - loc) / scale, also where the difference alone overflows.

    Examples
    --------
    >>> standardized(np.array(1.5e308), -1.5e308, 1e308).round(2)
    np.float64(3.0)
    """
    difference = x - loc
    lost = np.isinf(difference) & np.isfinite(x)
    return np.where(lost, x / scale - loc / scale, difference / scale)[()] if np.any(lost) else difference / scale


@np.errstate(all="ignore")
def log_ratio(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return log(x / y) of x >= 0 and y > 0, also where x / y overflows, underflows or is nearly 1.

    Examples
    --------
    >>> log_ratio(np.array([1e300, 1.0 + 2**-52]), np.array([1e-300, 1.0]))
    array([1.38155106e+03, 2.22044605e-16])
    """
    ratio = np.divide(x, y)
    direct = np.where(np.abs(ratio - 1) < 0.5, np.log1p((x - y) / y), np.log(ratio))
    return np.where((ratio > 1e-300) & (ratio < 1e300), direct, np.log(x) - np.log(y))


@np.errstate(all="ignore")
def log_abs_standardized(x: FloatArray, loc: FloatArray, scale: FloatArray) -> FloatArray:
    """Return ``log |x - loc| - log scale``, also where their ratio overflows or underflows.

    Examples
    --------
    >>> log_abs_standardized(np.array([2.0, 1e300]), 0.0, np.array([1.0, 1e-300])).round(3)
    array([6.930000e-01, 1.381551e+03])
    """
    y = np.abs(standardized(x, loc, scale))
    extreme = np.log(np.abs(x / 2 - loc / 2)) + np.log(2) - np.log(scale)
    return np.where((y > 1e-300) & (y < 1e300), np.log(y), extreme)


@np.errstate(all="ignore")
def times(factor: FloatArray, logarithm: FloatArray) -> FloatArray:
    """Return factor * logarithm, where 0 times an infinite logarithm is 0.

    Examples
    --------
    >>> times(np.array([0.0, 2.0]), np.array([-np.inf, -np.inf]))
    array([  0., -inf])
    """
    return np.where(factor == 0, 0, factor * logarithm)


@np.errstate(all="ignore")
def scaled_exp(logarithm: FloatArray, factor: FloatArray) -> FloatArray:
    """Return factor * exp(logarithm), infinite or 0 only if the product is.

    Examples
    --------
    >>> scaled_exp(np.array(800.0), np.array(-1e-300))
    array(-2.72637457e+47)
    """
    power = np.exp(logarithm)
    in_range = (power > 1e-290) & (power < 1e290)
    product = np.sign(factor) * np.exp(logarithm + np.log(np.abs(factor)))
    return np.where(in_range, factor * power, product)


@np.errstate(all="ignore")
def log1p_minus(u: FloatArray) -> FloatArray:
    """Return log(1 + u) - u for -0.4 < u < 0.4 without cancellation.

    With r = u / (2 + u), log(1 + u) is 2 artanh(r) = 2 (r + r^3 / 3 + ...), and 2 r - u = -r u.

    Examples
    --------
    >>> log1p_minus(np.array([1e-8, 0.3]))
    array([-4.99999997e-17, -3.76357355e-02])
    """
    r = u / (2 + u)
    total = np.zeros(np.shape(u))
    for n in range(27, 1, -2):
        total = 1 / n + r**2 * total
    return r * (2 * r**2 * total - u)


@np.errstate(all="ignore")
def stirling_error(a: FloatArray) -> FloatArray:
    """Return log Gamma(a) - ((a - 1/2) log a - a + 1/2 log 2 pi), which is 1 / (12 a) - ... for large a.

    Examples
    --------
    >>> stirling_error(np.array([1.0, 1e6]))
    array([8.10614668e-02, 8.33333333e-08])
    """
    small = np.minimum(a, 10)
    direct = gammaln(small) - ((small - 0.5) * np.log(small) - small + 0.5 * LOG_2PI)
    r, total = 1 / np.maximum(a, 10), np.zeros(np.shape(a))
    for c in (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        total = c + r**2 * total
    return np.where(a < 10, direct, r * total)


@np.errstate(all="ignore")
def gamma_log_density(a: FloatArray, y: FloatArray, log_y: FloatArray) -> FloatArray:
    """Return (a - 1) log y - y - log Gamma(a) for y >= 0, where the terms may be far larger than their sum.

    Examples
    --------
    >>> gamma_log_density(np.array(1e6), np.array(1e6), np.log(1e6)).round(4)
    np.float64(-7.8267)
    """
    u = (y - a) / a
    near = np.abs(u) < 0.3
    central = a * log1p_minus(np.where(near, u, 0)) - log_y
    value = np.where(near, central, times(a - 1, log_y) - a * np.log(a) - (y - a))
    value = value + 0.5 * (np.log(a) - LOG_2PI) - stirling_error(a)
    return np.where(np.isposinf(y), -np.inf, value)[()]


@np.errstate(all="ignore")
def beta_log_density(
    a: FloatArray, b: FloatArray, u: FloatArray, v: FloatArray, log_w: FloatArray, log_rest: FloatArray
) -> FloatArray:
    """Return (a - 1) log w + (b - 1) log(1 - w) - log B(a, b), where the terms may be far larger than their sum.

    Parameters
    ----------
    a, b : shapes
    u, v : w / p - 1 and (1 - w) / (1 - p) - 1, with p = a / (a + b)
    log_w, log_rest : log w and log(1 - w)

    Examples
    --------
    The density 1.5 of Beta(2, 2) at w = 1/2:

    >>> half = np.log(0.5)
    >>> np.exp(beta_log_density(2.0, 2.0, 0.0, 0.0, half, half)).round(3)
    np.float64(1.5)
    """
    n = a + b
    log_p, log_q = log_ratio(a, n), log_ratio(b, n)
    total = 0.5 * (np.log(a) + log_q - LOG_2PI) - stirling_error(a) - stirling_error(b) + stirling_error(n)
    for shape, distance, log_x, log_mean in ((a, u, log_w, log_p), (b, v, log_rest, log_q)):
        near = np.abs(distance) < 0.3
        central = shape * log1p_minus(np.where(near, distance, 0)) - log_x
        total = total + np.where(near, central, times(shape - 1, log_x) - shape * (log_mean + distance))
    return total
