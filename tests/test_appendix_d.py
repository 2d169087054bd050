"""log p(x, z) and its gradient, and log p(x) from samples of the posterior, against the linear-Gaussian model."""

import numpy as np
import pytest

import npvae
from npvae.backends.formulas import soft_floor
from npvae.distributions import MultivariateNormal, Normal
from npvae.evaluation import LinearGaussian, marginal_likelihood, quadrature
from npvae.inference import fit_posterior


def fitted(X, n_components, likelihood, hidden):
    settings = {"learning_rate": 0.05, "max_epochs": 100, "dtype": "float64", "init_std": 0.3}
    return npvae.VAE(n_components, hidden_layer_sizes=hidden, likelihood=likelihood, **settings).fit(X)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradient_by_z(rng, likelihood):
    X = rng.random((30, 6))
    function, z = fitted(X, 2, likelihood, (5,)).fitted_.log_joint(X[3]), rng.standard_normal((4, 2))
    _, gradient = function(z)
    for j in range(2):
        step = 1e-4 * np.eye(2)[j]
        near, far = (function(z + h * step)[0] - function(z - h * step)[0] for h in (1, 2))
        np.testing.assert_allclose(gradient[:, j], (8 * near - far) / 12e-4, rtol=1e-6, atol=1e-8)


def test_many_datapoints_at_once(rng):
    """Row l * M + i of z belongs to datapoint i; another number of rows or columns is refused."""
    X = rng.random((30, 6))
    fitted_ = fitted(X, 2, "gaussian", (5,)).fitted_
    together, z = fitted_.log_joint(X[:3]), rng.standard_normal((6, 2))
    values, gradients = together(z)
    for i in range(3):
        value, gradient = fitted_.log_joint(X[i])(z[i::3])
        np.testing.assert_allclose(values[i::3], value, rtol=1e-12)
        np.testing.assert_allclose(gradients[i::3], gradient, rtol=1e-12)
    with pytest.raises(ValueError, match="z has 4 rows; expected a multiple of 3, as many for each datapoint"):
        together(z[:4])
    for wrong in (np.zeros((3, 1)), np.zeros((3, 5)), np.zeros(2)):
        with pytest.raises(ValueError, match=r"z has the shape .*; expected \(R, 2\), since the model has 2 latent"):
            together(wrong)
    together(z)[0][...] = 0
    np.testing.assert_array_equal(together(z)[0], values)  # the results are new arrays


@pytest.fixture
def linear(rng):
    """A VAE that is linear-Gaussian: (VAE, a datapoint, the model and the datapoint in its units, log-Jacobian)."""
    X = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5))
    vae = fitted(X, 2, "gaussian", ())
    vae.parameters_["decoder.log_var.W"][...] = 0
    W, b, head = (vae.parameters_[f"decoder.{name}"] for name in ("mu.W", "mu.b", "log_var.b"))
    variance = np.exp(soft_floor(head))
    data = vae.fitted_.data(X[:1])
    row = (data.X - data.scaling.shift) * data.scaling.scale
    return vae, X[0], LinearGaussian(W, b, variance), row, data.log_jacobian


def test_data_frames_keep_the_names_of_their_columns(rng):
    """No warning of columns without names, and an error where they are others."""
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(rng.normal(size=(30, 3)), columns=["a", "b", "c"])
    vae, z = fitted(X, 2, "gaussian", (4,)), rng.normal(size=(4, 2))
    plain = fitted(X.to_numpy(), 2, "gaussian", (4,)).fitted_.log_joint(X.to_numpy()[:2])(z)[0]
    np.testing.assert_array_equal(vae.fitted_.log_joint(X[:2])(z)[0], plain)
    with pytest.raises(ValueError, match="in the same order"):
        vae.fitted_.log_joint(X[["b", "a", "c"]][:2])


def test_samples_of_the_posterior_give_the_evidence(rng, linear):
    """Exactly where q is the posterior; within its error where q was fitted to other samples, or is another density."""
    vae, x, exact, row, log_jacobian = linear
    log_p_x = exact.log_prob(row)[0] + log_jacobian
    mean, covariance = exact.posterior(row)
    posterior, function = MultivariateNormal(mean[0], np.linalg.cholesky(covariance)), vae.fitted_.log_joint(x)
    z, others = (posterior.rsample(posterior.draw(rng, n)) for n in (4000, 500))
    assert marginal_likelihood(posterior.log_prob(z), function(z)[0]) == pytest.approx(log_p_x, abs=1e-9)
    narrow = MultivariateNormal(mean[0] + 0.1, 0.8 * posterior.scale_tril)
    for q in (MultivariateNormal(others.mean(axis=0), np.linalg.cholesky(np.cov(others.T))), narrow):
        ratios = np.exp(q.log_prob(z) - function(z)[0] + log_p_x)  # their mean is 1
        error = ratios.std() / np.sqrt(len(z))
        assert 0 < error < 0.05
        assert abs(marginal_likelihood(q.log_prob(z), function(z)[0]) - log_p_x) < 5 * error
    wrong = function(z)[0] - np.sum(z**2, axis=1)  # the prior counted three times, say
    assert abs(marginal_likelihood(posterior.log_prob(z), wrong) - log_p_x) > 0.3


def test_a_posterior_fitted_to_one_datapoint_is_closer_than_the_encoders(rng):
    """Between the encoder's bound and log p(x)."""
    X = (rng.random((60, 8)) < rng.random((60, 1))).astype(float)
    vae = fitted(X, 2, "bernoulli", (5,))
    exact = quadrature(vae, X[:2])
    assert exact.divergence.max() > 0.05
    for x, log_p_x, divergence in zip(X, exact.log_prob, exact.divergence):
        found = fit_posterior(vae.fitted_.log_joint(x), Normal(np.zeros(2), np.ones(2)), steps=2000)
        assert log_p_x - divergence - 5 * found.elbo_error < found.elbo < log_p_x + 5 * found.elbo_error
        assert log_p_x - found.elbo < max(0.5 * divergence, 0.02) + 5 * found.elbo_error


@pytest.mark.parametrize(
    "log_q, log_p, error, message",
    [
        (np.zeros(4), np.zeros((4, 1)), ValueError, r"log_p has the shape \(4, 1\); expected \(4,\), as log_q has"),
        (np.zeros((4, 1)), np.zeros(4), ValueError, r"log_q has the shape \(4, 1\); expected \(L,\), a value for each"),
        (np.zeros((4, 1)), np.zeros((4, 1)), ValueError, r"log_q has the shape \(4, 1\); expected \(L,\)"),
        (np.zeros(4), np.zeros((1, 4)), ValueError, r"log_p has the shape \(1, 4\); expected \(4,\)"),
        (np.zeros(4), np.zeros(3), ValueError, r"log_p has the shape \(3,\); expected \(4,\), as log_q has"),
        (np.zeros(4), np.zeros(1), ValueError, r"log_p has the shape \(1,\); expected \(4,\), as log_q has"),
        (np.zeros(1), np.zeros(4), ValueError, r"log_p has the shape \(4,\); expected \(1,\), as log_q has"),
        (np.zeros(4), -5.0, ValueError, r"log_p has the shape \(\); expected \(4,\), as log_q has"),
        (-1.5, -4.5, ValueError, r"log_q has the shape \(\); expected \(L,\)"),
        ([], [], ValueError, r"log_q has the shape \(0,\); expected \(L,\)"),
        ([0.0, np.nan], [0.0, 0.0], ValueError, r"log_q is nan at \[1\]; expected numbers less than infinity"),
        ([np.inf, 0.0], [0.0, 0.0], ValueError, r"log_q is inf at \[0\]; expected numbers less than infinity"),
        ([0.0, 0.0], [0.0, np.nan], ValueError, r"log_p is nan at \[1\]; expected finite numbers"),
        ([0.0, 0.0], [-np.inf, 0.0], ValueError, r"log_p is -inf at \[0\]; expected finite numbers"),
        ([-np.inf, -np.inf], [0.0, 0.0], ValueError, "log_q is -inf for every sample; expected a q that has a density"),
        (None, [0.0], TypeError, "log_q is None; expected an array of real numbers"),
        ([0.0], ["high"], TypeError, "log_p is of type <U4; expected an array of real numbers"),
        ([0.0, [1.0]], [0.0, 0.0], TypeError, "log_q is of type list, with parts of different shapes"),
        ([1j], [0.0], TypeError, "log_q is of type complex128; expected"),
    ],
)
def test_other_shapes_and_values_are_refused(log_q, log_p, error, message):
    """None is broadcast: (L,) beside (L, 1) would be L^2 ratios."""
    with pytest.raises(error, match=message):
        marginal_likelihood(log_q, log_p)


def test_q_may_be_zero_at_some_samples():
    assert marginal_likelihood([-1.0, -np.inf], [-3.0, -3.0]) == pytest.approx(-2 + np.log(2))
