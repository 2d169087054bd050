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
    data = Data(x, Scaling(np.zeros(5), np.ones(5)), 0.0, np.zeros(len(x)))
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


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"W": np.ones(5)}, r"W has the shape \(5,\); expected \(J, D\)"),
        ({"W": np.ones((2, 4))}, r"b has the shape \(5,\); expected \(4,\), since W is \(J, D\)"),
        ({"b": 0.0}, r"b has the shape \(\); expected \(5,\)"),
        ({"b": np.zeros((1, 5))}, r"b has the shape \(1, 5\); expected \(5,\)"),
        ({"variance": np.ones((5, 1))}, r"variance has the shape \(5, 1\); expected \(5,\)"),
        ({"variance": 1.0}, r"variance has the shape \(\); expected \(5,\)"),
        ({"variance": [1, 1, -2, 1, 1]}, r"variance is -2 at \[2\]; expected numbers above 0"),
        ({"variance": np.zeros(5)}, r"variance is 0.0 at \[0\]; expected numbers above 0"),
        ({"variance": [1, 1, np.nan, 1, 1]}, r"variance is nan at \[2\]; expected finite numbers"),
        ({"W": np.full((2, 5), np.inf)}, r"W is inf at \[0, 0\]; expected finite numbers"),
        ({"b": None}, "b is None; expected an array of real numbers"),
    ],
)
def test_other_parameters_are_refused(model, changed, message):
    wrong, x, mu = model._replace(**changed), np.zeros((3, 5)), np.zeros((3, 2))
    for call in (
        lambda: wrong.log_prob(x),
        lambda: wrong.posterior(x),
        lambda: wrong.elbo(x, mu, mu),
        lambda: wrong.divergence(x, mu, mu),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize(
    "x, mu, log_var, message",
    [
        ((5,), (3, 2), (3, 2), r"x has the shape \(5,\); expected \(N, 5\)"),
        ((3, 1), (3, 2), (3, 2), r"x has the shape \(3, 1\); expected \(N, 5\)"),
        ((0, 5), (0, 2), (0, 2), r"x has the shape \(0, 5\); expected \(N, 5\)"),
        ((3, 5), (2,), (3, 2), r"mu has the shape \(2,\); expected \(3, 2\), a row for each of x"),
        ((3, 5), (1, 2), (3, 2), r"mu has the shape \(1, 2\); expected \(3, 2\)"),
        ((3, 5), (3, 1), (3, 1), r"mu has the shape \(3, 1\); expected \(3, 2\)"),
        ((3, 5), (3, 2), (1, 2), r"log_var has the shape \(1, 2\); expected \(3, 2\), as mu has"),
        ((1, 5), (3, 2), (3, 2), r"mu has the shape \(3, 2\); expected \(1, 2\)"),
    ],
)
def test_shapes_that_would_be_broadcast_are_refused(model, x, mu, log_var, message):
    x, mu, log_var = map(np.zeros, (x, mu, log_var))
    for function in model.elbo, model.divergence:
        with pytest.raises(ValueError, match=message):
            function(x, mu, log_var)


@pytest.mark.parametrize(
    "x, options, message",
    [
        (np.zeros(5), {}, r"x has the shape \(5,\); expected \(N, D\)"),
        (np.zeros((0, 5)), {}, r"x has the shape \(0, 5\); expected \(N, D\)"),
        (np.eye(3) * np.nan, {}, r"x is nan at \[0, 0\]; expected finite numbers"),
        (np.c_[np.eye(3), np.ones(3)], {}, "x is constant in 1 columns, the first is 3; expected columns that vary"),
        (np.eye(3), {"n_components": 0}, "n_components is 0; expected an integer of at least 1"),
        (np.eye(3), {"steps": 0}, "steps is 0; expected an integer of at least 1"),
        (np.eye(3), {"tolerance": -1.0}, "tolerance is -1.0; expected a number of at least 0"),
        (np.eye(3), {"random_state": -1}, "random_state is -1; expected an integer of at least 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        expectation_maximization(x, **{"n_components": 1} | options)
