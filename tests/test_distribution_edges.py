"""The distributions at their edges: extreme arguments and parameters, beside the formulas in 60 digits (mpmath).

The table in the docs is made by ``python tests/test_distribution_edges.py``.
"""

import itertools
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import scipy.stats as st
from test_reparameterization import compare_with_docs, name_of, path_gradients

from npvae import distributions as ds
from npvae.distributions import special
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
    with mp.workdps(700):
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


def density_errors(family, parameters, formula, support):
    """Return how many values were compared, and the largest error of log_prob."""
    distribution = family(*parameters)
    x = arguments_of(distribution, support, parameters)
    with mp.workdps(60):
        exact = [exact_log_density(formula, support, value, parameters) for value in map(float, x)]
    return len(x), error(distribution.log_prob(x), exact)


def test_parts_of_the_densities():
    """They keep their digits where their terms cancel."""
    u = np.array([-0.39, -0.1, -1e-9, 1e-300, 1e-12, 1e-4, 0.25, 0.39])
    a = np.array([1e-3, 0.5, 9.9, 10.1, 30.0, 1e6, 1e300])
    with mp.workdps(700):
        exact = [float(mp.log1p(mp.mpf(v)) - mp.mpf(v)) for v in u]
        errors = [float(mp.loggamma(v) - ((v - 0.5) * mp.log(v) - v + mp.log(2 * mp.pi) / 2)) for v in map(mp.mpf, a)]
    np.testing.assert_allclose(special.log1p_minus(u), exact, rtol=1e-14)
    np.testing.assert_allclose(special.stirling_error(a), errors, rtol=1e-13)
    x = np.array([1e-300, 0.999, 1.0, 1 + 1e-15, 3.0, 1e300])
    with mp.workdps(60):
        exact = [[float(mp.log(mp.mpf(v)) - mp.log(mp.mpf(y))) for y in (1.0, 1e-300, 1e300)] for v in x]
    np.testing.assert_allclose(special.log_ratio(x[:, None], np.array([1.0, 1e-300, 1e300])), exact, rtol=1e-15)


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

WITH_LOCATION = (ds.Normal, ds.Laplace, ds.Triangular, ds.Uniform, ds.Cauchy, ds.Logistic, ds.Gumbel)


def normal_tail(p, q):
    """Return the y with P(z > y) = p, by Newton's method in the tail that is smaller."""
    small, y = min(p, q), mp.mpf(-float(st.norm.ppf(float(min(p, q)))))
    for _ in range(6):
        y += (mp.erfc(y / mp.sqrt(2)) / 2 - small) / mp.npdf(y)
    return y if p < q else -y


def quantile_errors(family, parameters, formula):
    """Return the errors of the icdf: relative to the sample, or to the scale where the location outweighs it."""
    distribution, errors = family(*parameters), []
    with mp.workdps(340):  # 1 - p has them all
        for u in U:
            exact = formula(mp.mpf(u), 1 - mp.mpf(u), *map(mp.mpf, parameters))
            found = float(distribution.icdf(u))
            size = max(map(abs, (exact, *parameters))) if family in WITH_LOCATION else abs(exact)
            if abs(exact) > np.finfo(float).max or abs(exact) < 1e-307:
                errors.append(0.0 if found == float(exact) or abs(exact) < 1e-307 > abs(found) else np.inf)
            else:
                errors.append(float(abs(found - exact) / size) if np.isfinite(found) else np.inf)
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


# Gamma variables and what is composed of them -------------------------------------------------------------------------


def incomplete_gamma(a, x):
    """Return P(a, x) by its power series."""
    term, total, n = 1 / a, mp.mpf(0), 0
    while term > total * mp.eps:
        total, n = total + term, n + 1
        term = term * x / (a + n)
    return total * mp.exp(a * mp.log(x) - x - mp.loggamma(a))


def log_quantile_errors(a, u):
    """Return the errors of log x and of its derivative by a at P(a, x) = u: one step of Newton's, and differences."""
    log_share, derivative = map(float, log_quantile(a, u))
    with mp.workdps(50):
        x = a * mp.exp(mp.mpf(log_share))
        log_density = a * mp.log(x) - x - mp.loggamma(a)  # of log x
        step = (incomplete_gamma(mp.mpf(a), x) - mp.mpf(u)) / mp.exp(log_density)
        h = mp.mpf(a) * mp.mpf(10) ** -18
        slope = (incomplete_gamma(a + h, x) - incomplete_gamma(a - h, x)) / (2 * h)
        exact = -slope / mp.exp(log_density)
        log_x = mp.log(x)
        return float(abs(step) / max(1, abs(log_x))), float(abs(derivative + 1 / mp.mpf(a) - exact) / abs(exact))


GAMMA_SHAPES = [*SHAPES, 0.3, 99.0, 0.999e5, 1.001e5]
GAMMA_U = [2.0**-53, 1e-6, 0.02, 0.5, 0.9, 0.9999, 1 - 1e-12, 1 - 2.0**-53]


@pytest.mark.parametrize("a", GAMMA_SHAPES)
def test_quantiles_of_gamma(a):
    for u in GAMMA_U:
        of_x, of_derivative = log_quantile_errors(a, u)
        assert of_x < (1e-14 if a > 1e5 else TOLERANCE) and of_derivative < TOLERANCE, u
        log_x = float(log_quantile(a, u)[0]) + np.log(a)
        assert ds.Gamma(a).icdf(u) == pytest.approx(np.exp(log_x), rel=TOLERANCE)


def composed(a, b):
    """Return every composed family with these two shapes."""
    tril = [[1.0, 0.0], [2.0, 1.0]]
    return [
        ds.Beta(a, b), ds.FisherSnedecor(2 * a, 2 * b), ds.StudentT(2 * a), ds.Dirichlet([a, b, a]), ds.Gamma(a, b),
        ds.MultivariateStudentT([0.0, 1.0], tril, 2 * a),
    ]  # fmt: skip


@pytest.mark.parametrize("a, b", PAIRS)
def test_composed_samples_are_numbers(rng, a, b):
    """And so are their gradients; shares and Gamma variables are finite, whatever their shapes."""
    for distribution in composed(a, b):
        eps = distribution.draw(rng, 500)
        z = distribution.rsample(eps)
        for values in (z, *distribution.pullback(eps, np.ones_like(z)).values()):
            assert not np.isnan(values).any(), distribution
            assert np.isfinite(values).all() or not isinstance(distribution, ds.Beta | ds.Dirichlet | ds.Gamma)
        if isinstance(distribution, ds.Beta | ds.Dirichlet):
            assert np.all((z >= 0) & (z <= 1))


@pytest.mark.parametrize("a, b", [(1e-3, 1e-3), (1e-3, 1e6), (0.03, 12.0)])
def test_composed_samples_are_infinite_where_the_exact_ones_exceed_float64(rng, a, b):
    eps, largest = rng.random((2000, 2)), np.log(np.finfo(float).max)
    (x, dx), (y, _) = log_quantile(a, eps[:, 0]), log_quantile(b, eps[:, 1])
    f, t = ds.FisherSnedecor(2 * a, 2 * b), ds.StudentT(2 * a)
    np.testing.assert_array_equal(np.isinf(f.rsample(eps)), x - y > largest)
    by_df1 = x - y + np.log(np.abs(dx / 2))
    np.testing.assert_array_equal(np.isinf(f.gradients(eps)["df1"]), by_df1 > largest)
    exact = np.log(eps[:, 1]) - x / 2
    np.testing.assert_array_equal(np.isinf(t.rsample(eps[:, ::-1])), exact > largest)
    small = ds.StudentT(2 * a, 0.0, 1e-300)  # the scale takes its part before the product overflows
    np.testing.assert_array_equal(np.isinf(small.rsample(eps[:, ::-1])), exact + np.log(1e-300) > largest)


@pytest.mark.parametrize("distribution", [
    ds.Beta(0.05, 0.2), ds.Beta(3e5, 20.0), ds.FisherSnedecor(4.0, 3e5), ds.FisherSnedecor(1e6, 2e6), ds.StudentT(0.5),
    ds.StudentT(1e6), ds.Dirichlet([0.05, 10.0, 2e5]), ds.Gamma(2e5), ds.Gamma(0.02),
], ids=name_of)  # fmt: skip
def test_gradients_for_extreme_shapes(rng, distribution):
    assert path_gradients(distribution, rng) < 1e-5


@pytest.mark.parametrize("df", [1e6, 1e10, 1e15, 1e300, np.inf])
def test_student_becomes_normal(rng, df):
    x, plane = np.array([0.0, 1.0, -3.0]), np.array([[0.0, 0.0], [1.0, -2.0]])
    vector = ds.MultivariateStudentT([0.0, 0.0], np.eye(2), df)
    normal = ds.MultivariateNormal([0.0, 0.0], np.eye(2))
    nearly = {"rtol": 1e-13, "atol": 100 / df}
    np.testing.assert_allclose(ds.StudentT(df).log_prob(x), ds.Normal().log_prob(x), **nearly)
    np.testing.assert_allclose(vector.log_prob(plane), normal.log_prob(plane), **nearly)
    np.testing.assert_allclose(vector.entropy(), normal.entropy(), **nearly)
    eps = ds.StudentT(df).draw(rng, 1000)
    np.testing.assert_allclose(ds.StudentT(df).rsample(eps), eps[:, 0], rtol=10 / np.sqrt(df))
    assert np.all(np.abs(ds.StudentT(df).gradients(eps)["df"]) <= 20 * df**-1.5)
    assert np.isfinite(vector.draw(rng, 10)).all()


def noise_at_the_ends(distribution):
    """Return the extremes of the noise, and what lies between."""
    u = np.array([2.0**-53, 1e-12, 0.3, 0.5, 0.7, 1 - 2.0**-53])
    if isinstance(distribution, ds.StudentT):
        return np.array(list(itertools.product([-8.0, 0.0, 1e-9, 8.0], u)))
    if isinstance(distribution, ds.Beta | ds.FisherSnedecor):
        return np.array(list(itertools.product(u, u)))
    if isinstance(distribution, ds.Erlang):
        return np.repeat(u[:, None], distribution.n_noise, axis=1)
    if isinstance(distribution, ds.Normal | ds.LogNormal | ds.Laplace):
        return np.array([-8.0, -1.0, 0.0, 1e-5, 8.0])
    return 2 * u - 1 if isinstance(distribution, ds.Triangular) else u


@pytest.mark.parametrize("family, parameters, support", [(f, p, s) for f, p, _, s in DENSITIES],
                         ids=lambda v: getattr(v, "__name__", ""))  # fmt: skip
def test_samples_and_gradients_at_the_ends_of_the_noise(family, parameters, support):
    """Numbers, within the support, also if NumPy raises errors; log q(z) + log dz / d eps = log p(eps)."""
    for distribution in (family(*values) for values in parameters):
        eps = noise_at_the_ends(distribution)
        with np.errstate(all="raise"):
            z, gradients = distribution.rsample(eps), distribution.gradients(eps)
            log_q, none = distribution.log_prob(z), distribution.pullback(eps, np.zeros(z.shape))
            if hasattr(distribution, "entropy"):
                assert np.isfinite(distribution.entropy())
        low, high = (float(end) for end in support(*map(mp.mpf, vars(distribution).values())))
        assert np.all((z >= low) & (z <= high)), distribution
        assert not any(np.isnan(gradient).any() for gradient in gradients.values()), distribution
        assert all(np.all(gradient == 0) for gradient in none.values()), distribution
        if "eps" in gradients and abs(getattr(distribution, "loc", 0)) <= getattr(distribution, "scale", 1):
            with np.errstate(all="ignore"):
                total = log_q + np.log(gradients["eps"])
            held = np.isfinite(total) & (gradients["eps"] > 1e-300) & (z != 0)
            if family is ds.Triangular:  # at its ends the density is 0, and rounding z changes its logarithm
                held &= np.abs(eps) < 0.9
            expected = distribution.log_prob_noise(eps)
            np.testing.assert_allclose(total[held], expected[held], atol=1e-8, err_msg=repr(distribution))


# Types, NaN, infinity, vectors ----------------------------------------------------------------------------------------

UNIVARIATE = [family(*parameters[0]) for family, parameters, *_ in DENSITIES]


@pytest.mark.parametrize("distribution", [*UNIVARIATE, ds.Bernoulli(0.3)], ids=name_of)
def test_numbers_lists_and_float32(distribution):
    """One value, whatever holds x; NaN at NaN, whatever stands beside it; and no value of the caller's is kept."""
    x = np.array([-1.5, 0.0, 0.25, 1.0, 1.5, 1e30, np.inf, -np.inf, np.nan], np.float32)
    found = distribution.log_prob(x)
    assert np.isnan(found[-1]) and not np.isnan(found[:-1]).any()
    np.testing.assert_array_equal(distribution.log_prob(x.tolist()), found)
    np.testing.assert_array_equal(distribution.log_prob(x.astype(float)), found)
    np.testing.assert_array_equal([float(distribution.log_prob(value)) for value in x.tolist()], found)
    np.testing.assert_array_equal([float(distribution.log_prob(value)) for value in x], found)
    if hasattr(distribution, "icdf"):
        p = np.array([-0.1, 0.0, 0.3, 1.0, 1.1, np.nan])
        z = distribution.icdf(p)
        np.testing.assert_array_equal(np.isnan(z), [True, False, False, False, True, True])
        np.testing.assert_array_equal([float(distribution.icdf(value)) for value in p.tolist()], z)
        assert z[1] <= z[2] < z[3]
    if hasattr(distribution, "log_prob_noise") and distribution.draw(np.random.default_rng(0), 1).ndim == 1:
        eps = np.array([np.nan, 1e200])
        assert np.isnan(distribution.log_prob_noise(eps)[0]) and distribution.log_prob_noise(eps)[1] < -1e100


def test_parameters_are_copied():
    scale = np.array([1.0, 2.0])
    q = ds.Normal(0.0, scale)
    scale[0] = -1
    assert q.scale[0] == 1


def test_bernoulli_of_large_logits():
    logits = np.array([-1e300, -800.0, -40.0, 0.0, 40.0, 800.0, 1e300])
    exact = [[-float(mp.log1p(mp.exp(s * mp.mpf(a)))) if abs(a) < 1e5 else -max(s * a, 0.0) for a in logits]
             for s in (1, -1)]  # fmt: skip
    p = ds.Bernoulli(logits)
    np.testing.assert_allclose([p.log_prob(0), p.log_prob(1)], exact, rtol=1e-15)
    np.testing.assert_array_equal(p.log_prob(-1), -np.inf)
    np.testing.assert_array_equal(p.log_prob(2), -np.inf)
    q = [mp.mpf(1) / (1 + mp.exp(mp.mpf(a))) for a in (40, 800)]
    entropy = [float(-v * mp.log(v) - (1 - v) * mp.log1p(-v)) for v in q]
    np.testing.assert_allclose(ds.Bernoulli([-40.0, 40.0, 800.0]).entropy(), [entropy[0], *entropy], rtol=1e-14)


def log_of_dirichlet(x, concentration):
    with mp.workdps(60):
        a = [mp.mpf(c) for c in concentration]
        constant = mp.loggamma(sum(a)) - sum(map(mp.loggamma, a))
        return float(constant + sum((c - 1) * mp.log(mp.mpf(v)) for c, v in zip(a, x)))


def test_densities_of_vectors_at_extremes():
    L = np.array([[1e-10, 0.0], [1.0, 1e10]])
    normal, student = ds.MultivariateNormal([0.0, 1.0], L), ds.MultivariateStudentT([0.0, 1.0], L, 3.0)
    x = np.array([[0.0, 1.0], [1e300, 1e300], [np.inf, 0.0], [np.nan, 0.0], [np.nan, np.inf]])
    at_loc = -np.log(2 * np.pi)
    np.testing.assert_allclose(normal.log_prob(x), [at_loc, -np.inf, -np.inf, np.nan, np.nan], rtol=1e-14)
    # y = L^-1 (x - loc) = (1e310, -1e300) to all digits
    far = at_loc - 2.5 * (620 * np.log(10) - np.log(3))
    np.testing.assert_allclose(student.log_prob(x), [at_loc, far, -np.inf, np.nan, np.nan], rtol=1e-13)
    eps = np.array([1.7e308, -1.7e308])
    assert not np.isnan(student.rsample(eps)).any()
    dirichlet = ds.Dirichlet([0.5, 1.0, 2e5])
    x = np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.4], [-0.2, 0.7, 0.5], [0.0, 0.5, 0.5], [np.nan, 0.5, 0.5],
                  [np.inf, 0.0, 0.0], [0.5, 0.5, 0.0]])  # fmt: skip
    exact = log_of_dirichlet(x[0], dirichlet.concentration)
    found = dirichlet.log_prob(x)
    np.testing.assert_array_equal(found[1:], [-np.inf, -np.inf, np.inf, np.nan, -np.inf, -np.inf])
    assert found[0] == pytest.approx(exact, rel=1e-12)
    assert np.isfinite(dirichlet.log_prob(x[0].astype(np.float32)))
    shares = np.array([0.3, 0.3 + 1e-9, 0.4 - 1e-9])
    central = ds.Dirichlet(1e6 * np.array([3.0, 3.0, 4.0]))
    assert central.log_prob(shares) == pytest.approx(log_of_dirichlet(shares, central.concentration), rel=1e-10)


@pytest.mark.parametrize("df", [0.01, 3.0, 1.9e3, 2.1e3, 1e8])
def test_entropy_of_multivariate_student(df):
    with mp.workdps(60):
        h, k = mp.mpf(df) / 2, mp.mpf(1)
        exact = (h + k) * (mp.digamma(h + k) - mp.digamma(h)) + mp.loggamma(h) - mp.loggamma(h + k)
        exact = float(exact + k * mp.log(mp.pi * mp.mpf(df)))
    assert ds.MultivariateStudentT([0.0, 0.0], np.eye(2), df).entropy() == pytest.approx(exact, rel=1e-12)


def test_kl_divergence_at_extremes():
    assert ds.kl_divergence(ds.Normal(1e200, 1.0), ds.Normal()) == np.inf
    assert ds.kl_divergence(ds.Normal(0.0, 1e200), ds.Normal(0.0, 1e200)) == 0


# What is refused ------------------------------------------------------------------------------------------------------

ONE = {family: parameters[0] for family, parameters, *_ in DENSITIES}
NOT_POSITIVE = ("scale", "rate", "alpha", "concentration", "concentration1", "concentration0", "df", "df1", "df2")


def refusals():
    """Yield (family, arguments, what the message says) for every parameter of every family."""
    for distribution in UNIVARIATE:
        values = vars(distribution)
        for name in values:
            whole = isinstance(distribution, ds.Erlang) and name == "concentration"
            below = (0.0, -1.0, -np.inf) if name in NOT_POSITIVE else (-np.inf,)
            above = () if isinstance(distribution, ds.StudentT) and name == "df" else (np.inf,)
            for wrong in (*below, *above, np.nan):
                expected = "an integer of at least 1" if whole else ".*number"
                yield type(distribution), values | {name: wrong}, rf"^{name} is {wrong}; expected {expected}"
            if not whole:
                yield type(distribution), values | {name: [1.0, np.nan]}, f"^{name} contains nan; expected .*numbers"
                yield type(distribution), values | {name: None}, f"^{name} is None; expected"
    square = np.eye(2).tolist()
    yield from [
        (ds.Erlang, {"concentration": 2.5}, "^concentration is 2.5; expected an integer"),
        (ds.Erlang, {"concentration": True}, "^concentration is True; expected an integer"),
        (ds.Uniform, {"low": 1.0, "high": 1.0}, "^low is 1.0, high is 1.0; expected low below high"),
        (ds.Uniform, {"low": [0.0, 3.0], "high": 2.0}, "^low is 3.0, high is 2.0; expected low below high"),
        (ds.Reciprocal, {"low": 2.0, "high": 1.0}, "^low is 2.0, high is 1.0; expected low below high"),
        (ds.Reciprocal, {"low": 0.0}, "^low is 0.0; expected a finite number above 0"),
        (ds.Normal, {"loc": [0.0, 1.0], "scale": [1.0, 1.0, 1.0]}, r"^loc has shape \(2,\), scale has shape \(3,\)"),
        (ds.Bernoulli, {"logits": np.inf}, "^logits is inf; expected a finite number"),
        (ds.MultivariateNormal, {"loc": 0.0, "scale_tril": 1.0}, r"^loc has shape \(\); expected a vector"),
        (ds.MultivariateNormal, {"loc": [0.0], "scale_tril": square},
         r"^scale_tril has shape \(2, 2\); expected \(1, 1\)"),
        (ds.MultivariateNormal, {"loc": [0.0, 0.0], "scale_tril": [[1.0, 0.0]]}, r"^scale_tril has shape \(1, 2\)"),
        (ds.MultivariateNormal, {"loc": [0.0, 0.0], "scale_tril": [[1.0, 0.5], [0.0, 1.0]]},
         "^scale_tril contains 0.5 above its diagonal; expected 0"),
        (ds.MultivariateNormal, {"loc": [0.0, 0.0], "scale_tril": [[1.0, 0.0], [0.0, -2.0]]},
         "^scale_tril has -2.0 on its diagonal; expected numbers above 0"),
        (ds.MultivariateNormal, {"loc": [0.0, np.nan], "scale_tril": square}, "^loc contains nan"),
        (ds.MultivariateStudentT, {"loc": [0.0, 0.0], "scale_tril": square, "df": 0.0},
         "^df is 0.0; expected a number above 0"),
        (ds.MultivariateStudentT, {"loc": [0.0, 0.0], "scale_tril": square, "df": [1.0]}, r"^df has shape \(1,\)"),
        (ds.Dirichlet, {"concentration": 1.0}, r"^concentration has shape \(\); expected a vector"),
        (ds.Dirichlet, {"concentration": [1.0, 0.0]}, "^concentration contains 0.0; expected finite numbers above 0"),
    ]  # fmt: skip


@pytest.mark.parametrize("family, arguments, message", list(refusals()), ids=lambda v: getattr(v, "__name__", ""))
def test_parameters_outside_their_range_are_refused(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(**arguments)


# The table ------------------------------------------------------------------------------------------------------------


def table():
    """Return the table of the docs."""
    rows = [
        "| family | parameters | log-densities | worst error | quantiles | worst error |",
        "|---|---|---|---|---|---|",
    ]
    quantiles = {family: (parameters, formula) for family, parameters, formula in QUANTILES}
    for family, parameters, formula, support in DENSITIES:
        densities = [density_errors(family, values, formula, support) for values in parameters]
        cells = [f"{sum(n for n, _ in densities)} | {max(e for _, e in densities):.0e}"]
        if family in quantiles:
            found = [quantile_errors(family, values, quantiles[family][1]) for values in quantiles[family][0]]
            cells.append(f"{sum(n for n, _ in found)} | {max(e for _, e in found):.0e}")
        elif family is ds.Gamma:
            found = [max(log_quantile_errors(a, u)) for a in GAMMA_SHAPES for u in GAMMA_U]
            cells.append(f"{len(found)} | {max(found):.0e}")
        else:
            cells.append("- | -")
        rows.append(f"| {family.__name__} | {len(parameters)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_every_family_has_a_row():
    vectors = {"Bernoulli", "Dirichlet", "MultivariateNormal", "MultivariateStudentT", "kl_divergence"}
    assert {family.__name__ for family, *_ in DENSITIES} == set(ds.__all__) - vectors
    implicit = {ds.Gamma, ds.Chi2}  # no formula: see test_quantiles_of_gamma
    explicit = {family for family, *_ in DENSITIES if hasattr(family, "icdf")} - implicit
    assert {family for family, *_ in QUANTILES} == explicit


def test_the_docs_list_every_family():
    """With as many values as are compared here."""
    text = DOCS.read_text()
    for family, parameters, _, support in DENSITIES:
        n = sum(len(arguments_of(family(*values), support, values)) for values in parameters)
        assert f"| {family.__name__} | {len(parameters)} | {n} |" in text


@pytest.mark.slow(reason="computes each density in 60 digits")
def test_the_docs_have_the_table():
    compare_with_docs(__file__, table())


if __name__ == "__main__":
    before, mark, after = DOCS.read_text().partition("<!-- table: ../tests/test_distribution_edges.py -->\n")
    DOCS.write_text(before + mark + table() + after[after.index("\n\n") :])
