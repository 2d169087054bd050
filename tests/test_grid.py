"""log p(x) by quadrature: against the linear-Gaussian model, and as the sum of the bound and of the divergence."""

import numpy as np
import pytest

import npvae
import npvae.datasets
from npvae.backends.formulas import soft_floor
from npvae.estimators.bound import forward
from npvae.evaluation import LinearGaussian, grid, quadrature
from npvae.model import POSTERIORS
from npvae.parameters import Buffers


def fitted(X, n_components, likelihood, hidden=(6,), **settings):
    settings = {"learning_rate": 0.05, "max_epochs": 100, "dtype": "float64", "init_std": 0.3} | settings
    return npvae.VAE(n_components, hidden_layer_sizes=hidden, likelihood=likelihood, **settings).fit(X)


def linear_gaussian(rng, n_components):
    """A model without hidden layers and with equal log-variances, rows, and their log p(x) in closed form."""
    X = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5))
    model = fitted(X, n_components, "gaussian", hidden=())
    for part in ("encoder", "decoder"):
        model.parameters_[f"{part}.log_var.W"][...] = 0
    W, b, head = (model.parameters_[f"decoder.{name}"] for name in ("mu.W", "mu.b", "log_var.b"))
    variance = np.exp(soft_floor(head))
    data = model.fitted_.data(X[:6])
    standardized = (data.X - data.scaling.shift) * data.scaling.scale
    return model, X[:6], LinearGaussian(W, b, variance).log_prob(standardized) + data.log_jacobian


@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_linear_gaussian_model(rng, n_components):
    """In nats of the data as given."""
    model, X, exact = linear_gaussian(rng, n_components)
    found = quadrature(model, X)
    np.testing.assert_allclose(found.log_prob, exact, atol=1e-9)
    assert found.error.max() < 1e-4 and found.divergence.min() > 0


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize(
    "width, shift", [(0.01, 0), (30, 0), (1, 20), (0.05, 2)], ids=["narrow", "wide", "far", "both"]
)
def test_the_grid_moves_to_the_posterior(rng, monkeypatch, n_components, width, shift):
    """Whatever q(z|x) is. What lies beyond the ends of the grid, and its step, may cost 1e-6 and 1e-3 nats at most."""
    model, X, exact = linear_gaussian(rng, n_components)
    model.parameters_["encoder.log_var.b"][...] += 2 * np.log(width)
    model.parameters_["encoder.mu.b"][...] += shift
    assert np.abs(quadrature(model, X).log_prob - exact).max() < 1e-3
    monkeypatch.setattr(grid, "MOVES", 0)
    assert np.abs(quadrature(model, X).log_prob - exact).max() > 0.1


@pytest.mark.parametrize("likelihood, posterior", [("gaussian", "gaussian"), *(("bernoulli", n) for n in POSTERIORS)])
def test_bound_and_divergence_make_log_p(rng, likelihood, posterior):
    """Equation 1 where neither is known in closed form; the bound is the estimator's, on nodes of its own."""
    X = rng.random((40, 6)) if likelihood == "gaussian" else (rng.random((40, 6)) < 0.4).astype(float)
    model = fitted(X, 2, likelihood, posterior=posterior, max_epochs=30)
    found = quadrature(model, X[:5], n_nodes=81)
    inner, data = model.fitted_.model, model.fitted_.data(X[:5])
    x = inner.gather(data, np.arange(5), Buffers(inner.backend, inner.dtype))
    p, weights = np.polynomial.legendre.leggauss(200)
    points = inner.posterior.icdf((p + 1) / 2)  # E[f(eps)] as an integral over uniform numbers
    eps = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 1, 2)
    done = forward(
        inner, model.parameters_, x, eps.repeat(5, axis=1).reshape(-1, 2), True, Buffers(inner.backend, "f8")
    )
    weights = np.outer(weights, weights).ravel() / 4
    bound = weights @ done.log_likelihood.reshape(-1, 5) - done.kl + data.log_jacobian
    np.testing.assert_allclose(bound + found.divergence, found.log_prob, atol=3e-5)
    assert found.error.max() < 1e-6 and found.divergence.min() > 1e-4


def test_trained_model_in_float32(rng):
    """Halving the nodes changes little, and log p(x) lies above the bound by the divergence."""
    X, _ = npvae.datasets.make_digits(300, random_state=1)
    model = npvae.VAE(2, hidden_layer_sizes=(50,), learning_rate=0.05, max_epochs=30, batch_size=20, n_samples=20).fit(
        X
    )
    found = quadrature(model, X[:3])
    assert found.error.max() < 0.05
    many = model.fitted_.scorer()
    many.n_samples = 500
    bound = many(model.parameters_, model.fitted_.data(X[:3]))
    np.testing.assert_allclose(bound + found.divergence, found.log_prob, atol=1)  # the samples' error is 0.2
    assert np.all(found.divergence > 0)


def test_what_it_cannot_do_is_refused(rng):
    X = rng.random((20, 6))
    with pytest.raises(ValueError, match="has 4 latent dimensions and fixed weights; expected at most 3"):
        quadrature(fitted(X, 4, "bernoulli", max_epochs=1), X)
    with pytest.raises(ValueError, match="random weights; expected at most 3, and fixed"):
        quadrature(fitted(X, 2, "bernoulli", max_epochs=1, estimator="full-vb"), X)
    with pytest.raises(ValueError, match="n_nodes is 40; expected one more than a multiple of 4"):
        quadrature(fitted(X, 2, "bernoulli", max_epochs=1), X, n_nodes=40)
    for n_nodes in (0, 1, -3, 41.0, True):
        with pytest.raises(ValueError, match=f"n_nodes is {n_nodes}; expected an integer of at least 5"):
            quadrature(npvae.VAE(2), X, n_nodes=n_nodes)
    with pytest.raises(TypeError, match="model is of type ndarray; expected a fitted VAE"):
        quadrature(X, X)
    with pytest.raises(ValueError, match="not fitted yet"):
        quadrature(npvae.VAE(2), X)
