"""Each reparameterized distribution: the change of variables, its samples against SciPy, its gradients along the path.

The table of the results in the docs is made by ``python tests/test_reparameterization.py``.
"""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats as st

from npvae import distributions as ds

DOCS = Path(__file__).parents[1] / "docs" / "reparameterization.md"

#: (distribution, the same of SciPy, approach): parameters unlike the defaults.
ONE_NUMBER = [
    (ds.Exponential(2.5), st.expon(scale=1 / 2.5), "inverse CDF"),
    (ds.Cauchy(-1.0, 0.7), st.cauchy(-1, 0.7), "inverse CDF"),
    (ds.Logistic(0.3, 1.7), st.logistic(0.3, 1.7), "inverse CDF"),
    (ds.Rayleigh(1.8), st.rayleigh(scale=1.8), "inverse CDF"),
    (ds.Pareto(1.3, 3.5), st.pareto(3.5, scale=1.3), "inverse CDF"),
    (ds.Weibull(2.2, 1.6), st.weibull_min(1.6, scale=2.2), "inverse CDF"),
    (ds.Reciprocal(0.5, 4.0), st.reciprocal(0.5, 4.0), "inverse CDF"),
    (ds.Gompertz(0.8, 1.9), st.gompertz(0.8, scale=1 / 1.9), "inverse CDF"),
    (ds.Gumbel(-0.4, 1.2), st.gumbel_r(-0.4, 1.2), "inverse CDF"),
    (ds.Normal(1.5, 0.6), st.norm(1.5, 0.6), "location-scale"),
    (ds.Laplace(0.2, 1.4), st.laplace(0.2, 1.4), "location-scale"),
    (ds.Triangular(1.0, 2.5), st.triang(0.5, -1.5, 5.0), "location-scale"),
    (ds.Uniform(-1.0, 2.5), st.uniform(-1, 3.5), "location-scale"),
    (ds.LogNormal(0.4, 0.5), st.lognorm(0.5, scale=np.exp(0.4)), "composition"),
    (ds.Gamma(0.35, 1.9), st.gamma(0.35, scale=1 / 1.9), "implicit"),
    (ds.Gamma(7.4, 0.3), st.gamma(7.4, scale=1 / 0.3), "implicit"),
    (ds.Chi2(5.3), st.chi2(5.3), "implicit"),
]

#: Those of several numbers of noise, and what completes the map: a function of noise and samples, and its density.
#: Together with it the noise maps one to one, and its density is independent of the samples'.
COMPOSED = [
    (ds.Erlang(3, 1.7), st.erlang(3, scale=1 / 1.7), "composition",
     lambda eps, z: np.log1p(-eps[..., :2]) / np.log1p(-eps).sum(axis=-1, keepdims=True),
     lambda shares: np.log(2.0)),
    (ds.Beta(2.3, 0.8), st.beta(2.3, 0.8), "composition of Gammas",
     lambda eps, z: (ds.Gamma(2.3).rsample(eps[..., 0]) + ds.Gamma(0.8).rsample(eps[..., 1]))[..., None],
     lambda total: ds.Gamma(3.1).log_prob(total[..., 0])),
    (ds.FisherSnedecor(5.0, 7.5), st.f(5, 7.5), "composition of Gammas",
     lambda eps, z: (ds.Chi2(5.0).rsample(eps[..., 0]) + ds.Chi2(7.5).rsample(eps[..., 1]))[..., None],
     lambda total: ds.Chi2(12.5).log_prob(total[..., 0])),
    (ds.StudentT(4.2, 0.5, 1.3), st.t(4.2, 0.5, 1.3), "location-scale of a composition",
     lambda eps, z: (eps[..., 0] ** 2 + ds.Chi2(4.2).rsample(eps[..., 1]))[..., None],
     lambda total: ds.Chi2(5.2).log_prob(total[..., 0])),
]  # fmt: skip

TRIL = np.array([[1.2, 0, 0], [-0.5, 0.8, 0], [0.3, 0.9, 0.4]])
LOC, SHARES = np.array([1.0, -2.0, 0.5]), np.array([0.7, 2.5, 4.0])
W = np.array([0.8, -1.1, 0.6])
SPREAD = np.linalg.norm(W @ TRIL)

#: Vectors, with a projection of them and its distribution.
VECTORS = [
    (ds.MultivariateNormal(LOC, TRIL), lambda z: z @ W, st.norm(LOC @ W, SPREAD), "location-scale, elliptical"),
    (ds.MultivariateStudentT(LOC, TRIL, 6.0), lambda z: z @ W, st.t(6, LOC @ W, SPREAD), "location-scale, elliptical"),
    (ds.Dirichlet(SHARES), lambda z: z[:, 1], st.beta(2.5, 4.7), "composition of Gammas"),
]

SCALARS = [(*row[:3], None) if len(row) == 3 else (*row[:3], row[3:]) for row in ONE_NUMBER + COMPOSED]
TESTS = len(SCALARS) + len(VECTORS)


def name_of(distribution):
    """Write a distribution as Python would, vectors left out."""
    values = ((f.name, getattr(distribution, f.name)) for f in dataclasses.fields(distribution))
    values = ", ".join(f"{value:g}" for _, value in values if np.ndim(value) == 0)
    return f"{type(distribution).__name__}({values})"


def name_of_row(value):
    """Name a test by the distribution among its arguments."""
    return name_of(value) if dataclasses.is_dataclass(value) else ""


IDS = [name_of(row[0]) for row in SCALARS]


def extrapolated(function, x, step):
    """Return the central difference of a function of a number at x, its first two errors removed (Richardson)."""
    first = [(function(x + h) - function(x - h)) / (2 * h) for h in (step, step / 2, step / 4)]
    second = [(4 * b - a) / 3 for a, b in itertools.pairwise(first)]
    return (16 * second[1] - second[0]) / 15


def log_jacobian(function, eps):
    """Return log |det| of the derivative of a map of vectors (n, k), by differences."""
    columns = []
    for i in range(eps.shape[-1]):

        def moved(x, i=i):
            shifted = eps.copy()
            shifted[:, i] = x
            return function(shifted)

        step = 1e-3 * np.minimum(eps[:, i], 1 - eps[:, i]).clip(1e-4) if np.all((eps > 0) & (eps < 1)) else 1e-3
        columns.append(_difference(moved, eps[:, i], np.broadcast_to(step, len(eps))))
    return np.linalg.slogdet(np.stack(columns, axis=-1))[1]


def _difference(function, x, step):
    first = [(function(x + h) - function(x - h)) / (2 * h[:, None]) for h in (step, step / 2, step / 4)]
    second = [(4 * b - a) / 3 for a, b in itertools.pairwise(first)]
    return (16 * second[1] - second[0]) / 15


def change_of_variables(distribution, completion, rng):
    """Return the largest error of log q(g(eps)) + log |g'(eps)| = log p(eps)."""
    eps = distribution.draw(rng, 400)
    if completion is None:
        z = distribution.rsample(eps)
        total = distribution.log_prob(z) + np.log(distribution.gradients(eps)["eps"])
        return np.abs(total - distribution.log_prob_noise(eps)).max()
    if isinstance(distribution, ds.StudentT):  # its first noise is normal: by its CDF, all noise is uniform
        uniform = np.stack([st.norm.cdf(eps[:, 0]), eps[:, 1]], axis=1)
        noise = lambda u: np.stack([st.norm.ppf(u[:, 0]), u[:, 1]], axis=1)
    else:
        uniform, noise = eps, lambda u: u
    uniform = uniform[np.all((uniform > 0.01) & (uniform < 0.99), axis=1)]
    complete, log_prob_rest = completion

    def whole(u):
        z = distribution.rsample(noise(u))
        return np.concatenate([z[:, None], complete(noise(u), z)], axis=1)

    z, rest = whole(uniform)[:, 0], whole(uniform)[:, 1:]
    return np.abs(distribution.log_prob(z) + log_prob_rest(rest) + log_jacobian(whole, uniform)).max()


def path_gradients(distribution, rng):
    """Return the largest disagreement of ``pullback`` with differences of the path, over all parameters."""
    eps = distribution.draw(rng, 200)
    z = distribution.rsample(eps)
    weights = rng.standard_normal(z.shape)
    errors = []
    for name, gradient in distribution.pullback(eps, weights).items():
        value = np.asarray(getattr(distribution, name), float)
        places = [p for p in np.ndindex(value.shape) if name != "scale_tril" or p[0] >= p[1]]
        for place in places:

            def path(x, place=place, name=name, value=value):
                moved = value.copy()
                moved[place] = x
                return dataclasses.replace(distribution, **{name: moved if moved.ndim else float(moved)}).rsample(eps)

            expected = extrapolated(path, value[place], 0.02 * max(1e-3, abs(value[place])) if value[place] else 0.02)
            expected = (weights * expected).reshape(len(eps), -1).sum(axis=1)
            found = gradient[(slice(None), *place)]
            scale = np.abs(expected) + np.abs(found) + 1e-3 * np.abs(expected).max()
            errors.append((np.abs(found - expected) / np.where(scale == 0, 1, scale)).max())
    return max(errors)


def kolmogorov_smirnov(samples, exact):
    return st.kstest(samples, exact.cdf).pvalue


def _mean_of_beta(concentration1, concentration0):
    return concentration1 / (concentration1 + concentration0)


@pytest.mark.parametrize("distribution, exact, approach, completion", SCALARS, ids=IDS)
def test_change_of_variables(rng, distribution, exact, approach, completion):
    """The proof of the notes, q(z) dz = p(eps) d eps; by differences where several numbers of noise make one."""
    error = change_of_variables(distribution, completion, rng)
    assert error < (1e-10 if completion is None else 1e-6)


@pytest.mark.parametrize("distribution, exact, approach, completion", SCALARS, ids=IDS)
def test_density_and_samples_against_scipy(rng, distribution, exact, approach, completion):
    samples = distribution.rsample(distribution.draw(rng, 20_000))
    np.testing.assert_allclose(distribution.log_prob(samples), exact.logpdf(samples), rtol=1e-9, atol=1e-9)
    assert kolmogorov_smirnov(samples, exact) > 0.01 / TESTS  # corrected for the number of tests (Bonferroni)
    low, high = exact.support()
    outside = np.array([x for x in (low - 1, high + 1) if np.isfinite(x)])
    assert not len(outside) or np.all(distribution.log_prob(outside) == -np.inf)


@pytest.mark.parametrize(
    "distribution, exact", [row[:2] for row in SCALARS if hasattr(row[0], "icdf")], ids=name_of_row
)
def test_inverse_cdf_against_scipy(distribution, exact):
    p = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(distribution.icdf(p), exact.ppf(p), rtol=1e-9)


@pytest.mark.parametrize("distribution", [row[0] for row in SCALARS + VECTORS], ids=lambda d: name_of(d))
def test_lists_and_arrays_give_the_same(rng, distribution):
    """Parameters, samples and noise may be lists; results are float64."""
    eps = distribution.draw(rng, 4)
    as_lists = dataclasses.replace(
        distribution, **{name: np.asarray(value).tolist() for name, value in dataclasses.asdict(distribution).items()}
    )
    z, dz = distribution.rsample(eps), np.ones_like(distribution.rsample(eps))
    found, exact = as_lists.pullback(eps.tolist(), dz.tolist()), distribution.pullback(eps, dz)
    for one, other in [
        (as_lists.rsample(eps.tolist()), z),
        (as_lists.log_prob(z.tolist()), distribution.log_prob(z)),
        *((found[name], exact[name]) for name in exact),
    ]:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float64


@pytest.mark.parametrize("distribution, exact, approach, completion", SCALARS, ids=IDS)
def test_a_wrong_parameter_is_caught(rng, distribution, exact, approach, completion):
    """Each parameter in turn, at the same number of samples."""
    samples = distribution.rsample(distribution.draw(rng, 20_000))
    for name in distribution.pullback(distribution.draw(rng, 1), np.ones(1)):
        wrong = dataclasses.replace(distribution, **{name: getattr(distribution, name) * 2 + 0.3})
        eps = wrong.draw(rng, 20_000)
        assert kolmogorov_smirnov(wrong.rsample(eps), exact) < 0.01 / TESTS
        assert path_gradients_of_wrong(distribution, wrong, rng) > 1e-4
    assert kolmogorov_smirnov(samples, exact) > 0.01 / TESTS


def path_gradients_of_wrong(distribution, wrong, rng):
    """Return by how much the gradients of another member of the family differ: the check must see it."""
    eps = distribution.draw(rng, 50)
    found, other = (d.pullback(eps, np.ones(50)) for d in (distribution, wrong))
    return max(
        np.abs(distribution.rsample(eps) - wrong.rsample(eps)).max(),
        *(np.abs(found[n] - other[n]).max() for n in found),
    )


@pytest.mark.parametrize("distribution", [row[0] for row in SCALARS + VECTORS], ids=lambda d: name_of(d))
def test_gradients_along_the_path(rng, distribution):
    assert path_gradients(distribution, rng) < 1e-6


@pytest.mark.parametrize("distribution, project, exact, approach", VECTORS, ids=name_of_row)
def test_vectors_by_projections(rng, distribution, project, exact, approach):
    eps = distribution.draw(rng, 20_000)
    assert kolmogorov_smirnov(project(distribution.rsample(eps)), exact) > 0.01 / TESTS
    wrong = dataclasses.replace(
        distribution, **{f.name: getattr(distribution, f.name) * 1.25 for f in dataclasses.fields(distribution)[:1]}
    )
    assert kolmogorov_smirnov(project(wrong.rsample(eps)), exact) < 0.01 / TESTS or isinstance(
        distribution, ds.Dirichlet
    )


def test_densities_of_vectors(rng):
    normal, student, dirichlet = (row[0] for row in VECTORS)
    x = rng.standard_normal((50, 3)) * 2
    covariance = TRIL @ TRIL.T
    np.testing.assert_allclose(normal.log_prob(x), st.multivariate_normal(LOC, covariance).logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(student.log_prob(x), st.multivariate_t(LOC, covariance, 6).logpdf(x), rtol=1e-10)
    z = dirichlet.rsample(dirichlet.draw(rng, 50))
    np.testing.assert_allclose(dirichlet.log_prob(z), [st.dirichlet(SHARES).logpdf(row) for row in z], rtol=1e-9)
    for elliptical in (normal, student):  # z = loc + L eps: log q(z) + log det L = log p(eps)
        eps = elliptical.draw(rng, 50)
        total = elliptical.log_prob(elliptical.rsample(eps)) + np.log(np.diag(TRIL)).sum()
        np.testing.assert_allclose(total, elliptical.log_prob_noise(eps), rtol=1e-9)


def test_change_of_variables_of_shares(rng):
    """Completed by the total of the Gammas, of which the shares are independent."""
    dirichlet = ds.Dirichlet(SHARES)
    eps = dirichlet.draw(rng, 300)
    eps = eps[np.all((eps > 0.02) & (eps < 0.98), axis=1)]

    def whole(eps):
        return np.concatenate(
            [dirichlet.rsample(eps)[:, :2], ds.Gamma(SHARES).rsample(eps).sum(axis=1, keepdims=True)], 1
        )

    total = dirichlet.log_prob(dirichlet.rsample(eps)) + ds.Gamma(SHARES.sum()).log_prob(whole(eps)[:, 2])
    assert np.abs(total + log_jacobian(whole, eps)).max() < 1e-6


#: (distribution, SciPy's mean as a function of the parameters)
MEANS = [
    (ds.Exponential(2.5), lambda rate: 1 / rate),
    (ds.Logistic(0.3, 1.7), lambda loc, scale: loc),
    (ds.Rayleigh(1.8), lambda scale: scale * np.sqrt(np.pi / 2)),
    (ds.Pareto(1.3, 3.5), lambda scale, alpha: alpha * scale / (alpha - 1)),
    (ds.Weibull(2.2, 1.6), lambda scale, concentration: scale * st.weibull_min(concentration).mean()),
    (ds.Reciprocal(0.5, 4.0), lambda low, high: (high - low) / np.log(high / low)),
    (ds.Gumbel(-0.4, 1.2), lambda loc, scale: loc + scale * np.euler_gamma),
    (ds.Uniform(-1.0, 2.5), lambda low, high: (low + high) / 2),
    (ds.Gamma(0.35, 1.9), lambda concentration, rate: concentration / rate),
    (ds.Gamma(7.4, 0.3), lambda concentration, rate: concentration / rate),
    (ds.Chi2(5.3), lambda df: df),
]


@pytest.mark.parametrize("distribution, mean", MEANS, ids=[name_of(d) for d, _ in MEANS])
def test_gradients_of_expectations_by_quadrature(distribution, mean):
    """The derivative of E[z] is the expectation of the path's; both are integrals over u."""
    values = dataclasses.asdict(distribution)
    for name, value in values.items():
        expected = extrapolated(lambda x, name=name: mean(**values | {name: x}), value, 1e-3)
        # u = s(t) = 1 / (1 + exp(-t)): smooth, and fine where the path is steep.
        path = lambda t, name=name: (
            distribution.gradients(np.array([_sigmoid(t)]))[name][0] * _sigmoid(t) * _sigmoid(-t)
        )
        found = scipy.integrate.quad(path, -35, 35, epsabs=1e-11, limit=500)[0]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def _sigmoid(t):
    return 1 / (1 + np.exp(-t))


#: (distribution, a moment of z, its exact value as a function of the parameters)
MOMENTS = [
    (ds.Beta(2.3, 0.8), lambda z: (z, np.ones_like(z)), _mean_of_beta),
    (ds.FisherSnedecor(5.0, 9.5), lambda z: (z, np.ones_like(z)), lambda df1, df2: df2 / (df2 - 2) + 0 * df1),
    (ds.StudentT(9.0, 0.5, 1.3), lambda z: (z**2, 2 * z), lambda df, loc, scale: loc**2 + scale**2 * df / (df - 2)),
    (ds.LogNormal(0.4, 0.5), lambda z: (z, np.ones_like(z)), lambda loc, scale: np.exp(loc + scale**2 / 2)),
]  # fmt: skip


@pytest.mark.parametrize("distribution, moment, exact", MOMENTS, ids=[name_of(row[0]) for row in MOMENTS])
def test_gradients_of_expectations_by_sampling(rng, distribution, moment, exact):
    """Within five standard errors of the exact derivative; and 5 % more of it would not pass, where it is not zero."""
    eps = distribution.draw(rng, 100_000)
    _, slope = moment(distribution.rsample(eps))
    values = {name: float(value) for name, value in dataclasses.asdict(distribution).items()}
    for name, terms in distribution.pullback(eps, slope).items():
        expected = extrapolated(lambda x, name=name: exact(**values | {name: x}), values[name], 1e-2)
        error = terms.std() / np.sqrt(len(terms))
        assert abs(terms.mean() - expected) < 5 * error
        assert abs(expected) < 1e-9 or abs(expected) > 5 * error


def test_gamma_of_any_shape(rng):
    """The implicit derivative by the shape, against differences of SciPy's inverse: tiny, large, in the tails."""
    a, u = (
        np.array([0.1, 0.3, 1.0, 2.5, 30.0, 1e3, 1e5])[:, None],
        np.array([1e-4, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-7]),
    )
    found = ds.Gamma(a).gradients(u)["concentration"]
    expected = a * extrapolated(lambda t: ds.Gamma(a * np.exp(t)).rsample(u), 0.0, 4e-3) / a**2
    np.testing.assert_allclose(found, expected * a / a, rtol=2e-7)


def test_parameters_broadcast(rng):
    loc, scale = rng.standard_normal((4, 1)), np.exp(rng.standard_normal(3))
    eps = ds.Normal().draw(rng, (4, 3))
    np.testing.assert_allclose(ds.Normal(loc, scale).rsample(eps), loc + scale * eps)


def seeded(distribution):
    """Return a generator that depends on the distribution alone: a new row of the table leaves the others unchanged."""
    return np.random.default_rng([1312_6114, *name_of(distribution).encode()])


def table():
    """Return the table of the docs."""
    rows = [
        "| distribution | approach | change of variables | Kolmogorov-Smirnov p | gradient of the path |",
        "|---|---|---|---|---|",
    ]
    for distribution, exact, approach, completion in SCALARS:
        rng = seeded(distribution)
        error = change_of_variables(distribution, completion, rng)
        p = kolmogorov_smirnov(distribution.rsample(distribution.draw(rng, 20_000)), exact)
        rows.append(
            f"| {name_of(distribution)} | {approach} | {error:.0e} | {p:.2f} "
            f"| {path_gradients(distribution, rng):.0e} |"
        )
    for distribution, project, exact, approach in VECTORS:
        rng = seeded(distribution)
        p = kolmogorov_smirnov(project(distribution.rsample(distribution.draw(rng, 20_000))), exact)
        rows.append(
            f"| {name_of(distribution)} | {approach} | see below | {p:.2f} | {path_gradients(distribution, rng):.0e} |"
        )
    return "\n".join(rows)


def compare_with_docs(test, table):
    """Compare a table with the one in the docs: the same cells, and errors of the same order.

    Rounding differs between processors and versions of NumPy and SciPy, by no more than a factor of ten.
    """
    _, found, after = DOCS.read_text().partition(f"<!-- table: ../tests/{Path(test).name} -->\n")
    assert found
    for line, shown in zip(table.splitlines(), after.partition("\n\n")[0].splitlines(), strict=True):
        for cell, other in zip(line.split("|"), shown.split("|"), strict=True):
            if re.fullmatch(r" \de[-+]\d\d ", cell):
                assert 0.1 <= (float(cell) + 1e-16) / (float(other) + 1e-16) <= 10, f"{line}\n{shown}"
            else:
                assert cell == other, f"{line}\n{shown}"


def test_the_docs_have_the_table():
    compare_with_docs(__file__, table())


def test_every_exported_family_is_tested_here():
    tested = {type(distribution).__name__ for distribution, *_ in SCALARS + VECTORS}
    assert tested == set(ds.__all__) - {"Bernoulli", "kl_divergence"}


if __name__ == "__main__":
    before, mark, after = DOCS.read_text().partition("<!-- table: ../tests/test_reparameterization.py -->\n")
    DOCS.write_text(before + mark + table() + after[after.index("\n\n") :])
