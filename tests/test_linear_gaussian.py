"""The model with known answers: its formulas against SciPy, and the algorithm beside exact expectation-maximization."""

import numpy as np
import pytest
import scipy.stats

from npvae import backends, training
from npvae.estimators import SGVB
from npvae.evaluation import LinearGaussian, expectation_maximization
from npvae.model import Architecture, Model
from npvae.preprocessing import Data, Scaling


@pytest.fixture
def model(rng):
    return LinearGaussian(rng.standard_normal((2, 5)), rng.standard_normal(5), np.exp(rng.standard_normal(5)))


def sample(model, rng, n):
    z = rng.standard_normal((n, len(model.W)))
    return z @ model.W + model.b + np.sqrt(model.variance) * rng.standard_normal((n, len(model.b)))


def test_evidence_is_bound_and_divergence(rng, model):
    """log p(x) = D_KL(q || p(z|x)) + bound, for any q; the divergence is zero for the posterior alone."""
    x = sample(model, rng, 20)
    covariance = model.W.T @ model.W + np.diag(model.variance)
    exact = scipy.stats.multivariate_normal(model.b, covariance).logpdf(x)
    np.testing.assert_allclose(model.log_prob(x), exact, rtol=1e-12)
    mu, log_var = rng.standard_normal((2, 20, 2))
    elbo, divergence = model.elbo(x, mu, log_var), model.divergence(x, mu, log_var)
    np.testing.assert_allclose(elbo + divergence, exact, rtol=1e-10)
    assert np.all(divergence > 0.01)
    alone = LinearGaussian(model.W[:1], model.b, model.variance)  # one latent: the posterior is no wider than q can be
    mean, covariance = alone.posterior(x)
    assert np.abs(alone.divergence(x, mean, np.full((20, 1), np.log(covariance[0, 0])))).max() < 1e-12


def test_bound_against_sampling(rng, model):
    """Both forms of the bound (equations 2 and 3) from a million samples, within five standard errors."""
    x, mu, log_var = sample(model, rng, 1), rng.standard_normal((1, 2)), rng.standard_normal((1, 2))
    normal = scipy.stats.norm
    z = mu + np.exp(log_var / 2) * rng.standard_normal((1_000_000, 2))
    log_likelihood = normal.logpdf(x, z @ model.W + model.b, np.sqrt(model.variance)).sum(axis=1)
    log_q, log_prior = normal.logpdf(z, mu, np.exp(log_var / 2)).sum(axis=1), normal.logpdf(z).sum(axis=1)
    joint = log_likelihood + log_prior - log_q
    regularized = log_likelihood - 0.5 * np.sum(mu**2 + np.exp(log_var) - log_var - 1)
    for terms in (joint, regularized):
        assert terms.mean() == pytest.approx(model.elbo(x, mu, log_var)[0], abs=5 * terms.std() / 1000)


def test_expectation_maximization(rng, model):
    """The likelihood never falls, ends above the truth's on its data, and near the truth on other data."""
    x = sample(model, rng, 3000)
    found, history = expectation_maximization(x, 2)
    assert np.all(np.diff(history) > -1e-12) and history[-1] >= model.log_prob(x).mean()
    other = sample(model, rng, 100_000)
    assert found.log_prob(other).mean() == pytest.approx(model.log_prob(other).mean(), abs=0.01)
    for step in (1e-4, -1e-4):  # a maximum in every direction
        for i in range(len(found)):
            moved = LinearGaussian(*(a + step * rng.standard_normal(a.shape) * (i == j) for j, a in enumerate(found)))
            assert moved.log_prob(x).mean() < found.log_prob(x).mean()


def train(x, weight_prior):
    """Train a VAE that is linear-Gaussian on x, and return it as a `LinearGaussian` with its bound on x."""
    model = Model(Architecture(5, 2, (), "tanh", "gaussian", constant_log_var=True), backends.get("cpu"), "float64")
    start = model.layout.initial(np.random.default_rng(1), 0.1)
    settings = training.Settings(learning_rate=0.1, weight_prior=weight_prior, max_epochs=200)
    data = Data(x, Scaling(np.zeros(5), np.ones(5)), 0.0)
    trainer = training.Trainer(SGVB(model), model.parameters(start), data, np.random.default_rng(2), settings)
    training.train(trainer)
    parameters, last = trainer.parameters, trainer.epoch(lambda: False)[0]
    log_var = model.decode(parameters, np.zeros((1, 2)), trainer._buffers).outputs[1][0]
    return LinearGaussian(parameters["decoder.mu.W"], parameters["decoder.mu.b"], np.exp(log_var)), last


def test_the_algorithm_beside_expectation_maximization(rng, model):
    """Its likelihood comes near the maximum, from below, and its bound below that; the prior holds the weights back."""
    x = sample(LinearGaussian(model.W, np.zeros(5), model.variance), rng, 2000)
    _, history = expectation_maximization(x, 2)
    found, bound = train(x, weight_prior=0.0)
    likelihood = found.log_prob(x).mean()
    assert history[-1] - 0.05 < likelihood <= history[-1] + 1e-9
    assert likelihood - 0.5 < bound < likelihood + 0.1  # the bound of the last epoch is an estimate
    held_back, _ = train(x, weight_prior=2000.0)
    assert held_back.log_prob(x).mean() < likelihood and np.linalg.norm(held_back.W) < 0.9 * np.linalg.norm(found.W)
