"""Variational inference for any model, beside exact posteriors, coordinate ascent and a fine grid."""

from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.stats as st
from scipy.special import digamma, gammaln, log_expit

from npvae import distributions as ds
from npvae.inference import elbo_and_gradient, fit_posterior


def linear_regression(rng):
    """Return log p(y, w) with its gradient, and the exact posterior and evidence: w ~ N(0, I), y ~ N(A w, 0.5^2)."""
    A = rng.standard_normal((40, 3)) @ np.array([[1, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
    y = A @ [0.5, -1.0, 2.0] + 0.5 * rng.standard_normal(40)

    def log_joint(w):
        error = y - w @ A.T
        log_p = st.norm.logpdf(error, 0, 0.5).sum(axis=1) + st.norm.logpdf(w).sum(axis=1)
        return log_p, error @ A / 0.25 - w

    covariance = np.linalg.inv(np.eye(3) + A.T @ A / 0.25)
    evidence = st.multivariate_normal(np.zeros(40), A @ A.T + 0.25 * np.eye(40)).logpdf(y)
    return log_joint, covariance @ A.T @ y / 0.25, covariance, evidence


def test_linear_regression_is_exact(rng):
    """With a full covariance q can be the posterior: its moments are met, and the bound is the evidence."""
    log_joint, mean, covariance, evidence = linear_regression(rng)
    found = fit_posterior(log_joint, ds.MultivariateNormal(np.zeros(3), np.eye(3)))
    np.testing.assert_allclose(found.q.loc, mean, atol=0.02 * np.sqrt(np.diag(covariance)).max())
    np.testing.assert_allclose(found.q.scale_tril @ found.q.scale_tril.T, covariance, atol=0.02 * covariance.max())
    assert found.elbo == pytest.approx(evidence, abs=5 * found.elbo_error + 0.002)


def test_mean_field_linear_regression(rng):
    """A factorized q has the posterior's mean and the inverse of the precision's diagonal, and misses the rest."""
    log_joint, mean, covariance, evidence = linear_regression(rng)
    found = fit_posterior(log_joint, ds.Normal(np.zeros(3), np.ones(3)))
    precision = np.linalg.inv(covariance)
    np.testing.assert_allclose(found.q.loc, mean, atol=0.02 * np.sqrt(np.diag(covariance)).max())
    np.testing.assert_allclose(found.q.scale, np.diag(precision) ** -0.5, rtol=0.02)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert gap > 0.02 and found.elbo == pytest.approx(evidence - gap, abs=5 * found.elbo_error + 0.002)


def test_gaussian_with_unknown_mean_and_variance(rng):
    """Beside mean-field coordinate ascent, whose expectations are analytic here, and the exact posterior.

    tau ~ Gamma(a, b), mu | tau ~ N(0, 1 / tau), x ~ N(mu, 1 / tau). The estimator fits N to (mu, log tau); coordinate
    ascent fits N(mu) Gamma(tau); both means must be near the exact ones.
    """
    x, a, b = rng.normal(1.5, 0.7, 60), 2.0, 1.0
    n, mean = len(x), x.mean()

    def log_joint(z):
        mu, s = z.T
        tau = np.exp(s)
        error = ((x - mu[:, None]) ** 2).sum(axis=1) + mu**2
        log_p = 0.5 * (n + 1) * (s - np.log(2 * np.pi)) - 0.5 * tau * error
        log_p += a * np.log(b) - gammaln(a) + a * s - b * tau  # with the Jacobian of s = log tau
        return log_p, np.stack(
            [tau * (n * mean - (n + 1) * mu), 0.5 * (n + 1) - 0.5 * tau * error + a - b * tau], axis=1
        )

    found = fit_posterior(log_joint, ds.MultivariateNormal(np.zeros(2), np.eye(2)))
    a_n, m = a + n / 2, n * mean / (n + 1)
    b_n = b + 0.5 * (((x - mean) ** 2).sum() + n * mean**2 / (n + 1))
    log_tau, spread = digamma(a_n) - np.log(b_n), np.sqrt(1 / a_n)
    assert found.q.loc[0] == pytest.approx(m, abs=0.02 * np.sqrt(b_n / a_n / n))
    assert found.q.loc[1] == pytest.approx(log_tau, abs=0.05 * spread)
    assert found.q.scale_tril[0, 0] == pytest.approx(np.sqrt(b_n / (a_n - 1) / (n + 1)), rel=0.05)
    evidence = (
        a * np.log(b) - a_n * np.log(b_n) + gammaln(a_n) - gammaln(a) - 0.5 * (n * np.log(2 * np.pi) + np.log(n + 1))
    )
    assert evidence - 0.05 < found.elbo < evidence + 5 * found.elbo_error

    tau = 1.0  # coordinate ascent: E[tau], and the moments of mu given it
    for _ in range(100):
        variance = 1 / ((n + 1) * tau)
        tau = (a + (n + 1) / 2) / (b + 0.5 * (((x - m) ** 2).sum() + m**2 + (n + 1) * variance))
    assert np.exp(found.q.loc[1]) == pytest.approx(tau, rel=0.05) and variance**0.5 == pytest.approx(
        found.q.scale_tril[0, 0], rel=0.1
    )


@pytest.mark.parametrize("family", [ds.Normal, ds.Logistic, ds.Laplace])
def test_logistic_regression_against_a_grid(rng, family):
    """One weight and an offset, on a grid: the bound stays below the evidence, the Normal's close to it."""
    A = np.c_[rng.standard_normal(50), np.ones(50)]
    y = np.where(rng.random(50) < 1 / (1 + np.exp(-A @ [1.5, -0.5])), 1.0, -1.0)

    def log_joint(w):
        margin = y * (w @ A.T)
        slope = np.exp(log_expit(-margin)) * y
        return log_expit(margin).sum(axis=1) + st.norm.logpdf(w, 0, 2).sum(axis=1), slope @ A - w / 4

    axis = np.linspace(-6, 6, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = log_joint(grid)[0]
    weights = np.exp(log_p - log_p.max())
    evidence = log_p.max() + np.log(weights.sum() * (axis[1] - axis[0]) ** 2)
    mean = weights @ grid / weights.sum()
    found = fit_posterior(log_joint, family(np.zeros(2), np.ones(2)))
    np.testing.assert_allclose(found.q.loc, mean, atol=0.06)
    assert found.elbo < evidence + 5 * found.elbo_error
    assert found.elbo > evidence - {ds.Normal: 0.08, ds.Logistic: 0.12, ds.Laplace: 0.3}[family]


@pytest.mark.parametrize("q", [
    ds.Normal(np.array([0.3, -1.0]), np.array([0.5, 2.0])), ds.Laplace(np.array([0.3, -1.0]), np.array([0.5, 2.0])),
    ds.Logistic(np.array([0.3, -1.0]), np.array([0.5, 2.0])),
    ds.MultivariateNormal(np.array([0.3, -1.0]), np.array([[0.5, 0.0], [0.7, 2.0]])),
], ids=lambda q: type(q).__name__)  # fmt: skip
def test_gradient_by_differences(rng, q):
    log_joint = lambda z: (
        np.cos(z).sum(axis=1) + z[:, 0] * z[:, 1],
        np.stack([-np.sin(z[:, 0]) + z[:, 1], -np.sin(z[:, 1]) + z[:, 0]], 1),
    )
    eps = q.draw(rng, (7, 2) if not isinstance(q, ds.MultivariateNormal) else 7)
    _, gradient = elbo_and_gradient(log_joint, q, eps)
    for field in fields(q):
        array = getattr(q, field.name)
        for place in zip(*np.nonzero(array)):

            def value(h, place=place, name=field.name, array=array):
                moved = array.copy()
                moved[place] += h
                return elbo_and_gradient(log_joint, replace(q, **{name: moved}), eps)[0]

            expected = (8 * (value(1e-4) - value(-1e-4)) - value(2e-4) + value(-2e-4)) / 12e-4
            assert gradient[field.name][place] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("q", [ds.Normal([0.0], [1.0]), ds.MultivariateNormal([0.0], [[1.0]])])
@pytest.mark.parametrize("learning_rate", [1e2, 1e3])
def test_a_scale_that_overflows_is_divergence(q, learning_rate):
    with pytest.raises(FloatingPointError, match="scale.*; a smaller learning_rate may help"):
        fit_posterior(lambda z: (-(z[:, 0] ** 2) / 2, -z), q, steps=30, learning_rate=learning_rate)


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        fit_posterior(lambda z: (np.full(len(z), np.nan), z), ds.Normal(np.zeros(2), np.ones(2)))


# What is refused ------------------------------------------------------------------------------------------------------


def standard(z):
    return -0.5 * (z**2).sum(axis=1), -z


def returns(function):
    """Return a log_joint that returns what a function of (log p, gradient) makes of what is right."""
    return lambda z: function(*standard(z))


TWO = ds.Normal([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("n_samples", [1, 2, 10])  # 2 is the number of columns, too
@pytest.mark.parametrize(
    "log_joint, error, message",
    [
        (3, TypeError, "log_joint is of type int; expected a function that returns"),
        (None, TypeError, "log_joint is None; expected a function"),
        (returns(lambda p, g: p), TypeError, "log_joint returned an object of type ndarray; expected a pair"),
        (
            returns(lambda p, g: (p, g, 0)),
            TypeError,
            r"log_joint returned 3 things; expected a pair \(log_p, gradient\)",
        ),
        (returns(lambda p, g: (p.sum(), g)), ValueError, r"log_p that log_joint returned has the shape \(\)"),
        (
            returns(lambda p, g: (p[:, None], g)),
            ValueError,
            r"has the shape \(3, 1\); expected \(3,\), a value for each",
        ),
        (returns(lambda p, g: (p[None], g)), ValueError, r"has the shape \(1, 3\); expected \(3,\)"),
        (returns(lambda p, g: ((g**2).sum(axis=0), g)), ValueError, r"has the shape \(2,\); expected \(3,\), a value"),
        (returns(lambda p, g: (g, g)), ValueError, r"has the shape \(3, 2\); expected \(3,\)"),
        (returns(lambda p, g: (p[:1], g)), ValueError, r"has the shape \(1,\); expected \(3,\)"),
        (
            returns(lambda p, g: (p, g.sum(axis=0))),
            ValueError,
            r"gradient that log_joint returned has the shape \(2,\)",
        ),
        (returns(lambda p, g: (p, g[:1])), ValueError, r"the shape \(1, 2\); expected \(3, 2\), as z has"),
        (returns(lambda p, g: (p, g.T)), ValueError, r"the shape \(2, 3\); expected \(3, 2\), as z has"),
        (returns(lambda p, g: (p, g[:, :1])), ValueError, r"the shape \(3, 1\); expected \(3, 2\)"),
        (returns(lambda p, g: (p, 0.0)), ValueError, r"the gradient that log_joint returned has the shape \(\)"),
        (returns(lambda p, g: (p, None)), TypeError, "the gradient that log_joint returned is None; expected an array"),
        (returns(lambda p, g: (None, g)), TypeError, r"the log_p that log_joint returned is None; expected"),
        (returns(lambda p, g: (p * 1j, g)), TypeError, "log_joint returned is of type complex128; expected"),
        (returns(lambda p, g: (p, [*list(g[0]), g[1]])), TypeError, "is of type list, with parts of different shapes"),
    ],
)
def test_what_log_joint_returns_is_checked(log_joint, error, message, n_samples):
    with pytest.raises(error, match=message):
        fit_posterior(log_joint, TWO, n_samples=n_samples)


def test_what_log_joint_returns_is_checked_at_every_call():
    calls = []

    def log_joint(z):
        calls.append(len(z))
        log_p, gradient = standard(z)
        return (log_p, gradient) if len(calls) < 5 else (log_p.sum(), gradient)

    with pytest.raises(ValueError, match=r"has the shape \(\); expected \(10,\)"):
        fit_posterior(log_joint, TWO)
    assert calls == [3, 10, 10, 10, 10]


@pytest.mark.parametrize(
    "q, message",
    [
        (lambda: ds.Gamma(2.0), "q is of type Gamma; expected one of the families Normal, Laplace, Logistic, Multiv"),
        (lambda: ds.Uniform([0.0], [1.0]), "q is of type Uniform; expected one of the families"),
        (lambda: ds.Normal, "q is of type type; expected"),
        (lambda: "normal", "q is of type str; expected"),
        (lambda: None, "q is None; expected"),
        (lambda: ds.Normal(0.0, 1.0), r"loc of q has the shape \(\); expected \(K,\)"),
        (lambda: ds.Normal([], []), r"loc of q has the shape \(0,\); expected \(K,\)"),
        (lambda: ds.Normal([[0.0]], [[1.0]]), r"loc of q has the shape \(1, 1\); expected \(K,\)"),
        (lambda: ds.Normal([0.0, 0.0]), r"scale of q has the shape \(\); expected \(2,\), as loc has"),
        (lambda: ds.Laplace([0.0, 0.0], [1.0]), r"scale of q has the shape \(1,\); expected \(2,\), as loc has"),
        (lambda: ds.Logistic([0.0], [1.0, 1.0]), r"scale of q has the shape \(2,\); expected \(1,\)"),
        (lambda: ds.Normal([0.0, 0.0], [[1.0], [1.0]]), r"scale of q has the shape \(2, 1\); expected \(2,\)"),
        (lambda: ds.Normal([0.0, np.nan], [1.0, 1.0]), r"loc.* nan"),
        (lambda: ds.Normal([0.0, 0.0], [1.0, -1.0]), r"scale.* -1.0"),
        (lambda: ds.Normal([0.0, 0.0], [0.0, 1.0]), r"scale.* 0.0"),
        (lambda: ds.Laplace([0.0, 0.0], [np.inf, 1.0]), r"scale.* inf"),
        (lambda: ds.MultivariateNormal([0.0, 0.0], [1.0, 1.0]), r"scale_tril.*\(2,\)"),
        (lambda: ds.MultivariateNormal([0.0, 0.0], np.eye(3)), r"scale_tril.*\(3, 3\)"),
        (lambda: ds.MultivariateNormal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]]), r"scale_tril"),
        (lambda: ds.MultivariateNormal([0.0, 0.0], [[1.0, 0.0], [0.5, -1.0]]), r"scale_tril"),
        (lambda: ds.MultivariateNormal([0.0, 0.0], [[1.0, 0.0], [np.nan, 1.0]]), r"scale_tril"),
    ],
)
def test_other_families_and_parameters_are_refused(q, message):
    """A family may refuse a scale itself."""
    for function in (fit_posterior, lambda log_joint, q: elbo_and_gradient(log_joint, q, np.zeros((3, 2)))):
        with pytest.raises((TypeError, ValueError), match=message):
            function(standard, q())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps is 0; expected an integer of at least 1"),
        ({"steps": -3}, "steps is -3; expected an integer of at least 1"),
        ({"steps": 10.0}, "steps is 10.0; expected an integer of at least 1"),
        ({"n_samples": 0}, "n_samples is 0; expected an integer of at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number above 0"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1; expected a number above 0"),
        ({"learning_rate": np.nan}, "learning_rate is nan; expected a number above 0"),
        ({"learning_rate": np.inf}, "learning_rate is inf; expected a number above 0"),
        ({"learning_rate": "auto"}, "learning_rate is 'auto'; expected a number above 0"),
        ({"random_state": -1}, "random_state is -1; expected an integer of at least 0"),
        ({"random_state": 0.5}, "random_state is 0.5; expected an integer of at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_posterior(standard, TWO, **options)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 1), (1, 3, 2)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"eps has the shape \(.*\); expected \(n, 2\), as noise of q has"):
        elbo_and_gradient(standard, TWO, np.zeros(shape))


def test_a_bound_that_is_not_finite_in_the_end_is_an_error():
    def log_joint(z):
        log_p, gradient = standard(z)
        return np.where(np.arange(len(z)) < 100, log_p, np.nan), gradient

    with pytest.raises(FloatingPointError, match="not finite for 9900 of 10000 samples z of the fitted q"):
        fit_posterior(log_joint, TWO, steps=3)


def test_one_step_and_other_types_of_numbers_are_enough():
    found = fit_posterior(lambda z: [part.astype(np.float32) for part in standard(z)], TWO, steps=np.int64(1))
    assert found.history.shape == (1,) and np.isfinite(found.elbo)
