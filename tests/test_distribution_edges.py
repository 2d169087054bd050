"""The distributions at their edges: extreme arguments and parameters, beside the formulas in 60 digits (mpmath).

The table in the docs is made by ``python tests/test_distribution_edges.py``.
"""

import itertools
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import scipy.stats as st
from test_reparameterization import name_of, path_gradients

from npvae import distributions as ds
from npvae.distributions.implicit import log_quantile

DOCS = Path(__file__).parents[1] / "docs" / "reparameterization.md"

#: Errors are relative to the exact value, or absolute where it is below 1. One bit of an exponent of 700 is 1e-13.
TOLERANCE = 1e-11

ARGUMENTS = [-np.inf, -1.7e308, -1e200, -30.0, -1.0, -1e-10, -1e-300, 0.0, 5e-324, 1e-300, 1e-200, 1e-10, 0.1, 0.5,
             1 - 1e-6, 1 - 2.0**-53, 1.0, 1 + 1e-12, 2.0, 30.0, 710.0, 1e10, 1e200, 1.7e308, np.inf]  # fmt: skip

#: Shapes from where samples are nearly always too small for float64 to where they are nearly constant.
SHAPES = [1e-3, 0.03, 0.7, 1.0, 12.0, 3e3, 1e6]
SCALES = [1.0, 1e-300, 1e-8, 3e5, 1e300]
U = [1e-300, 1e-100, 2.0**-53, 1e-15, 1e-8, 0.01, 0.2499, 0.5 - 2.0**-30, 0.5, 0.6, 0.7501, 0.99, 1 - 1e-8,
     1 - 1e-15, 1 - 2.0**-53]  # fmt: skip


# The formulas, of numbers of mpmath -----------------------------------------------------------------------------------


def log(x):
    return mp.log(x) if x else -mp.inf


def times(factor, logarithm):
    return factor * logarithm if factor else mp.mpf(0)


def log_beta(a, b):
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def log_of_student(x, df, loc, scale):
    y = (x - loc) / scale
    if df == mp.inf:
        return -mp.log(2 * mp.pi) / 2 - mp.log(scale) - y**2 / 2
    with mp.workdps(700 if df > 1e12 else 60):  # the terms are as large as df log df
        constant = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(mp.pi * df) / 2
        return constant - mp.log(scale) - (df + 1) / 2 * mp.log(1 + y**2 / df)


def log_of_gamma(x, a, rate):
    return times(a - 1, log(rate * x)) - rate * x - mp.loggamma(a) + mp.log(rate)


def log_of_f(x, d1, d2):
    r, a, b = d1 / d2, d1 / 2, d2 / 2
    return a * mp.log(r) + times(a - 1, log(x)) - (a + b) * mp.log(1 + r * x) - log_beta(a, b)


def log_of_logistic(x, loc, scale):
    y = abs(x - loc) / scale
    return -y - 2 * mp.log(1 + mp.exp(-y)) - mp.log(scale)


def log_of_normal(x, loc, scale):
    return log_of_student(x, mp.inf, loc, scale)


def log_of_triangular(x, loc, scale):
    return log(1 - abs(x - loc) / scale) - mp.log(scale)


def log_of_gumbel(x, loc, scale):
    y = (x - loc) / scale
    return -y - mp.exp(-y) - mp.log(scale)


def log_of_lognormal(x, loc, scale):
    return log_of_normal(log(x), loc, scale) - log(x) if x else -mp.inf


def log_of_weibull(x, scale, k):
    return mp.log(k / scale) + times(k - 1, log(x / scale)) - ((x / scale) ** k if x else 0)


def everywhere(*parameters):
    return -mp.inf, mp.inf


def positive(*parameters):
    return mp.mpf(0), mp.inf


def between(low, high):
    return low, high


LOC_SCALE = [(0.0, 1.0), (0.3, 1.7), (-1e5, 1e-8), (1e300, 1e300), (0.0, 1e-300), (-1.7e308, 1e308), (0.0, 1e300)]
RATES = [(1.0,), (1e-300,), (0.37,), (1e10,), (1e300,)]
PAIRS = list(itertools.product(SHAPES, SHAPES))
SCALE_SHAPE = list(itertools.product(SCALES, SHAPES))

#: Family, parameters, log-density, and its support.
DENSITIES = [
    (ds.Normal, LOC_SCALE, log_of_normal, everywhere),
    (ds.Laplace, LOC_SCALE, lambda x, m, s: -abs(x - m) / s - mp.log(2 * s), everywhere),
    (ds.Triangular, LOC_SCALE, log_of_triangular, lambda loc, scale: (loc - scale, loc + scale)),
    (ds.Uniform, [(0.0, 1.0), (-1.7e308, 1.7e308), (-1e-300, 1e200), (1.0, 1 + 2.0**-52)],
     lambda x, low, high: -mp.log(high - low), between),
    (ds.Exponential, RATES, lambda x, rate: mp.log(rate) - rate * x, positive),
    (ds.Cauchy, LOC_SCALE, lambda x, m, s: -mp.log(mp.pi * s) - mp.log(1 + ((x - m) / s) ** 2), everywhere),
    (ds.Logistic, LOC_SCALE, log_of_logistic, everywhere),
    (ds.Rayleigh, [(s,) for s in SCALES], lambda x, s: log(x / s) - mp.log(s) - (x / s) ** 2 / 2, positive),
    (ds.Pareto, SCALE_SHAPE, lambda x, m, alpha: mp.log(alpha / x) - alpha * mp.log(x / m), lambda m, a: (m, mp.inf)),
    (ds.Weibull, SCALE_SHAPE, log_of_weibull, positive),
    (ds.Reciprocal, [(1.0, np.e), (1e-300, 1e300), (0.5, 0.5 + 1e-10)],
     lambda x, low, high: -mp.log(x) - mp.log(mp.log(high / low)), between),
    (ds.Gompertz, list(itertools.product([1.0, 1e-300, 1e5], [1.0, 1e-300, 1e5])),
     lambda x, c, rate: mp.log(c * rate) + rate * x - c * mp.expm1(rate * x), positive),
    (ds.Gumbel, LOC_SCALE, log_of_gumbel, everywhere),
    (ds.LogNormal, [(0.0, 1.0), (-600.0, 0.1), (500.0, 1e3), (0.0, 1e-6)], log_of_lognormal, positive),
    (ds.Gamma, list(itertools.product(SHAPES, [1.0, 1e-300, 3.7, 1e6])), log_of_gamma, positive),
    (ds.Chi2, [(2 * a,) for a in SHAPES], lambda x, df: log_of_gamma(x, df / 2, mp.mpf(0.5)), positive),
    (ds.Erlang, [(1, 1.0), (2, 1e-300), (1000, 1e3)], log_of_gamma, positive),
    (ds.Beta, PAIRS,
     lambda x, a, b: times(a - 1, log(x)) + times(b - 1, log(1 - x)) - log_beta(a, b), lambda a, b: (0, 1)),
    (ds.FisherSnedecor, [(2 * a, 2 * b) for a, b in PAIRS], log_of_f, positive),
    (ds.StudentT, list(itertools.product([*SHAPES, 1e10, 1e15, 1e300, np.inf], [0.0, 1e5], [1.0, 1e-300, 1e300])),
     log_of_student, everywhere),
]  # fmt: skip


def exact_log_density(formula, support, x, parameters):
    x, parameters = mp.mpf(x), [mp.mpf(p) for p in parameters]
    low, high = support(*parameters)
    if not low <= x <= high or mp.isinf(x):
        return -np.inf
    return float(formula(x, *parameters))


def arguments_of(distribution, support, parameters):
    """Return the arguments: the common ones, those about the middle and, where there are any, at the ends."""
    middle = np.atleast_1d(distribution.rsample(np.full(getattr(distribution, "n_noise", 1), 0.4)))
    ends = [float(end) for end in support(*parameters) if np.isfinite(float(end))]
    near = [end * (1 + h) for end in ends for h in (-1e-12, 0.0, 1e-12)]
    about = np.concatenate([middle * (1 + h) for h in (-0.3, -1e-3, 0.0, 1e-7, 0.01)])
    return np.array([*ARGUMENTS, *near, *about[np.isfinite(about)]])


def error(found, exact):
    """Return the largest error; infinite where one is infinite or NaN and the other is not."""
    found, exact = np.asarray(found, float), np.asarray(exact, float)
    same = (found == exact) | (np.isnan(found) & np.isnan(exact))
    with np.errstate(all="ignore"):
        relative = np.abs(found - exact) / np.maximum(1, np.abs(exact))
    return float(np.max(np.where(same, 0, np.where(np.isfinite(relative), relative, np.inf)), initial=0))


def same_or_nearly(found, exact):
    assert error(found, exact) < TOLERANCE, (found, exact)


def density_errors(family, parameters, formula, support):
    """Return how many values were compared, and the largest error of log_prob."""
    distribution = family(*parameters)
    x = arguments_of(distribution, support, parameters)
    with mp.workdps(60):
        exact = [exact_log_density(formula, support, value, parameters) for value in map(float, x)]
    return len(x), error(distribution.log_prob(x), exact)


# Quantiles ------------------------------------------------------------------------------------------------------------

#: Family, parameters, the inverse distribution function of p and 1 - p.
QUANTILES = [
    (ds.Normal, LOC_SCALE[:3], lambda p, q, m, s: m - s * normal_tail(p, q)),
    (ds.Laplace, LOC_SCALE, lambda p, q, m, s: m + s * (log(2 * p) if p < q else -log(2 * q))),
    (ds.Triangular, LOC_SCALE,
     lambda p, q, m, s: m - s * (1 - mp.sqrt(2 * p)) if p < q else m + s * (1 - mp.sqrt(2 * q))),
    (ds.Uniform, DENSITIES[3][1], lambda p, q, low, high: low * q + high * p),
    (ds.Exponential, RATES, lambda p, q, rate: -log(q) / rate),
    (ds.Cauchy, LOC_SCALE, lambda p, q, m, s: m - s * mp.cot(mp.pi * p) if p < q else m + s * mp.cot(mp.pi * q)),
    (ds.Logistic, LOC_SCALE, lambda p, q, m, s: m + s * log(p / q)),
    (ds.Rayleigh, [(s,) for s in SCALES], lambda p, q, s: s * mp.sqrt(-2 * log(q))),
    (ds.Pareto, SCALE_SHAPE, lambda p, q, m, alpha: m * mp.exp(-log(q) / alpha)),
    (ds.Weibull, SCALE_SHAPE, lambda p, q, s, k: s * (-log(q)) ** (1 / k)),
    (ds.Reciprocal, DENSITIES[10][1], lambda p, q, low, high: low * mp.exp(p * log(high / low))),
    (ds.Gompertz, DENSITIES[11][1], lambda p, q, c, rate: mp.log(1 - log(q) / c) / rate),
    (ds.Gumbel, LOC_SCALE, lambda p, q, m, s: m - s * log(-log(p))),
]  # fmt: skip


def normal_tail(p, q):
    """Return the y with P(z > y) = p, by Newton's method in the tail that is smaller."""
    small, y = min(p, q), mp.mpf(-float(st.norm.ppf(float(min(p, q)))))
    for _ in range(6):
        y += (mp.erfc(y / mp.sqrt(2)) / 2 - small) / mp.npdf(y)
    return y if p < q else -y


def quantile_errors(family, parameters, formula):
    """Return the errors of the icdf: relative to the sample, or to the scale where the location outweighs it."""
    distribution, errors = family(*parameters), []
    with mp.workdps(60):
        # 1 - p is rounded for small p: the formulas are given the exact p, and the exact 1 - p.
        for u in U:
            exact = formula(mp.mpf(u), 1 - mp.mpf(u), *map(mp.mpf, parameters))
            found = float(distribution.icdf(u))
            terms = abs(exact) if family not in (ds.Normal, ds.Laplace, ds.Triangular, ds.Uniform, ds.Cauchy,
                                                 ds.Logistic, ds.Gumbel) else max(map(abs, (exact, *parameters)))
            if abs(exact) > np.finfo(float).max or abs(exact) < 1e-307:
                errors.append(0.0 if found == float(exact) or abs(exact) < 1e-307 > abs(found) else np.inf)
            else:
                errors.append(float(abs(found - exact) / terms) if np.isfinite(found) else np.inf)
    return len(U), max(errors)


@pytest.mark.parametrize("family, parameters, formula, support", DENSITIES, ids=lambda v: getattr(v, "__name__", ""))
def test_log_densities(family, parameters, formula, support):
    """The value of the formula everywhere, without warnings: they are errors here."""
    for values in parameters:
        assert density_errors(family, values, formula, support)[1] < TOLERANCE, values


@pytest.mark.parametrize("family, parameters, formula", QUANTILES, ids=lambda v: getattr(v, "__name__", ""))
def test_quantiles(family, parameters, formula):
    for values in parameters:
        assert quantile_errors(family, values, formula)[1] < TOLERANCE, values
