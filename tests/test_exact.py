"""The bound against exact answers, which a gradient check cannot replace.

A linear-Gaussian model (no hidden layers, log-variances without inputs) has log p(x) and the posterior in closed form.
Its bound is an expectation of a quadratic in the noise, which the 2J nodes +-sqrt(J) e_j integrate exactly: fed to the
estimator as its noise they leave nothing but rounding.
"""

import numpy as np
import planted
import pytest
import scipy.stats

from npvae import backends
from npvae.estimators import SGVB
from npvae.estimators.bound import forward
from npvae.parameters import Buffers


def linear_gaussian(make_model, backend):
    return make_model(
        backend, n_features=4, n_components=3, hidden_layer_sizes=(), likelihood="gaussian", constant_log_var=True
    )


def nodes(J, M):
    """Return the quadrature nodes as the noise of M datapoints: (2 J M, J)."""
    return np.repeat(np.sqrt(J) * np.concatenate([np.eye(J), -np.eye(J)]), M, axis=0)


def exact_log_p(parameters, x):
    """Return log p(x) (M,), and mean (M, J) and covariance (J, J) of the posterior, of the linear-Gaussian model."""
    W, b = parameters["decoder.mu.W"], parameters["decoder.mu.b"]
    noise = np.exp(decoder_log_var(parameters))
    log_p = scipy.stats.multivariate_normal(b, W.T @ W + np.diag(noise)).logpdf(x)
    covariance = np.linalg.inv(np.eye(len(W)) + (W / noise) @ W.T)
    return log_p, ((x - b) / noise) @ W.T @ covariance, covariance


def decoder_log_var(parameters):
    return backends.get("reference").dense(
        np.empty((1, 0)), np.empty((0, 4)), parameters["decoder.log_var.b"], "soft_floor"
    )[0]


def divergence(mu, log_var, mean, covariance):
    """D_KL between N(mu, diag exp(log_var)) and N(mean, covariance), a value a row."""
    precision = np.linalg.inv(covariance)
    error = mu - mean
    return 0.5 * (
        np.exp(log_var) @ np.diag(precision)
        + np.einsum("ij,jk,ik->i", error, precision, error)
        - mu.shape[1]
        + np.linalg.slogdet(covariance)[1]
        - log_var.sum(axis=1)
    )


def gap_to_log_p(model, parameters, x):
    """Return bound + D_KL(q || posterior) - log p(x), a value a row: zero for a right bound."""
    J = model.architecture.n_components
    done = forward(model, parameters, x, nodes(J, len(x)), True, Buffers(model.backend, model.dtype))
    bound = done.log_likelihood.reshape(2 * J, -1).mean(axis=0) - done.kl
    log_p, mean, covariance = exact_log_p(parameters, x)
    return bound + divergence(*done.encoded.outputs, mean, covariance) - log_p


def difference_of_estimators(model, parameters, x):
    """Return SGVB-A minus SGVB-B at the quadrature nodes, and the largest difference of their gradients."""
    noise = nodes(model.architecture.n_components, len(x))
    (a, _, da), (b, _, db) = (
        SGVB(model, 6, analytic_kl=kl).value_and_grad(parameters, x, noise) for kl in (False, True)
    )
    return a - b, np.abs(da.vector - db.vector).max()


def test_bound_and_divergence_make_log_p(rng, make_model, backend):
    model, parameters = linear_gaussian(make_model, backend)
    gap = gap_to_log_p(model, parameters, rng.standard_normal((5, 4)))
    assert np.abs(gap).max() < 1e-8


def where_q_is_the_posterior(rng, make_model, backend):
    """Return (model, parameters, x, log p(x)) with an encoder that was set to the posterior.

    With orthogonal columns of W and equal noise the posterior is diagonal, so that q can be it.
    """
    model, parameters = linear_gaussian(make_model, backend)
    parameters["decoder.mu.W"][...] = np.linalg.qr(rng.standard_normal((4, 3)))[0].T * np.array([[2.0], [1.0], [0.5]])
    parameters["decoder.log_var.b"][...] = -0.3
    x = rng.standard_normal((5, 4))
    log_p, _, covariance = exact_log_p(parameters, x)
    W, b = parameters["decoder.mu.W"], parameters["decoder.mu.b"]
    parameters["encoder.mu.W"][...] = W.T / np.exp(decoder_log_var(parameters))[:, None] @ covariance
    parameters["encoder.mu.b"][...] = -b @ parameters["encoder.mu.W"]
    parameters["encoder.log_var.b"][...] = np.log(np.diag(covariance))
    return model, parameters, x, log_p


def error_where_q_is_the_posterior(rng, make_model, backend):
    """Return the bound, less log p(x)."""
    model, parameters, x, log_p = where_q_is_the_posterior(rng, make_model, backend)
    value = SGVB(model, 6).value_and_grad(parameters, x, nodes(3, 5)).value
    return value - log_p.mean()


def test_bound_is_log_p_where_q_is_the_posterior(rng, make_model, backend):
    assert abs(error_where_q_is_the_posterior(rng, make_model, backend)) < 1e-8
    for error in (planted.standard_deviation_for_variance, planted.kl_without_one, planted.gaussian_without_two_pi):
        assert abs(error_where_q_is_the_posterior(rng, make_model, error())) > 1e-2


def test_both_estimators_agree_at_the_nodes(rng, make_model, backend):
    model, parameters = linear_gaussian(make_model, backend)
    value, gradient = difference_of_estimators(model, parameters, rng.standard_normal((5, 4)))
    assert abs(value) < 1e-8 and gradient < 1e-8


@pytest.mark.parametrize(
    "error", [planted.standard_deviation_for_variance, planted.kl_without_one, planted.gaussian_without_two_pi]
)
def test_planted_errors_leave_a_gap(rng, make_model, error):
    model, parameters = linear_gaussian(make_model, error())
    assert np.abs(gap_to_log_p(model, parameters, rng.standard_normal((5, 4)))).min() > 1e-2


@pytest.mark.parametrize("error", [planted.standard_deviation_for_variance, planted.kl_without_one])
def test_planted_errors_separate_the_estimators(rng, make_model, error):
    model, parameters = linear_gaussian(make_model, error())
    assert abs(difference_of_estimators(model, parameters, rng.standard_normal((5, 4)))[0]) > 1e-2


def z_values(make_model, rng, backend, likelihood="bernoulli"):
    """Return the means of A - B in standard errors, on a nonlinear model: of the value, and of the gradient.

    These are the notes' two forms of the bound: joint and entropy, reconstruction and regularization. Both see the same
    noise. The gradient is looked at along a random direction.
    """
    model, parameters = make_model(backend, likelihood=likelihood)
    x, L, direction = rng.random((4, 7)), 50, rng.standard_normal(model.layout.size)
    estimators = [SGVB(model, L, analytic_kl=kl) for kl in (False, True)]
    differences = []
    for _ in range(400):
        noise = estimators[0].draw(rng, len(x))
        pairs = [estimator.value_and_grad(parameters, x, noise) for estimator in estimators]
        (a, da), (b, db) = [(pair.value, pair.gradient.vector @ direction) for pair in pairs]
        differences.append((a - b, da - db))
    return np.mean(differences, axis=0) / (np.std(differences, axis=0, ddof=1) / np.sqrt(400))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "sigmoid-gaussian"])
def test_both_estimators_agree_in_expectation(rng, make_model, backend, likelihood):
    assert np.abs(z_values(make_model, rng, backend, likelihood)).max() < 4


def test_planted_errors_show_at_the_same_sample_size(rng, make_model):
    assert abs(z_values(make_model, rng, planted.standard_deviation_for_variance())[0]) > 8
    assert abs(z_values(make_model, rng, planted.kl_without_one())[0]) > 8


def likelihood_z_values(make_model, rng, backend):
    """Return how far, in standard errors, the estimator's samples of E_q[log p(x|z)] are from an integral.

    With one latent dimension it is one over z: Gauss-Hermite nodes, put through the decoder, and SciPy's density.
    """
    model, parameters = make_model(backend, n_components=1, n_features=3)
    x = (rng.random((4, 3)) < 0.5).astype(float)
    buffers = Buffers(model.backend, model.dtype)
    mu, log_var = (output.copy() for output in model.encode(parameters, x, buffers).outputs)
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    exact = 0
    for point, weight in zip(points, weights / weights.sum(), strict=True):
        logits = model.decode(parameters, mu + np.exp(log_var / 2) * point, buffers).outputs[0]
        exact += weight * scipy.stats.bernoulli(scipy.special.expit(logits)).logpmf(x).sum(axis=1)

    L = 100_000
    done = forward(model, parameters, x, rng.standard_normal((4 * L, 1)), True, Buffers(model.backend, model.dtype))
    sampled = done.log_likelihood.reshape(L, 4)
    return (sampled.mean(axis=0) - exact) / (sampled.std(axis=0) / np.sqrt(L))


def test_likelihood_term_against_quadrature(rng, make_model, backend):
    assert np.abs(likelihood_z_values(make_model, rng, backend)).max() < 4


def test_planted_errors_show_against_quadrature(rng, make_model):
    for error in (planted.standard_deviation_for_variance, planted.bernoulli_with_ones_and_zeros_swapped):
        assert np.abs(likelihood_z_values(make_model, rng, error())).max() > 8


def test_several_samples_are_the_mean_of_single_ones(rng, make_model, backend):
    """L samples in one call: value and gradient are the averages of L calls with one each."""
    for kl in (True, False):
        model, parameters = make_model(backend, likelihood="gaussian")
        x, L = rng.standard_normal((5, 7)), 3
        eps = SGVB(model, L).draw(rng, 5)
        value, _, gradient = SGVB(model, L, kl).value_and_grad(parameters, x, eps)
        single = [SGVB(model, 1, kl).value_and_grad(parameters, x, part) for part in np.split(eps, L)]
        assert value == pytest.approx(np.mean([one.value for one in single]), rel=1e-12)
        np.testing.assert_allclose(
            gradient.vector, np.mean([one.gradient.vector for one in single], axis=0), atol=1e-12
        )
