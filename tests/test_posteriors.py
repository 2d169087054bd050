"""The families of q(z|x): their standard members by integration, and the bound that they make."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

import npvae
import npvae.datasets
from npvae.distributions import Normal
from npvae.estimators import SGVB
from npvae.model import POSTERIORS
from npvae.parameters import Buffers

OTHERS = [name for name in POSTERIORS if name != "gaussian"]


def expectation(posterior, function):
    """Integrate a function of one number over the density of the noise, in pieces between its quantiles."""
    ends = posterior.icdf(np.array([1e-300, 1e-9, 0.01, 0.5, 0.99, 1 - 1e-9, 1 - 1e-16]))
    pieces = itertools.pairwise(ends)
    return sum(quad(lambda x: np.exp(posterior.log_prob(x)) * function(x), *piece, epsabs=1e-13)[0] for piece in pieces)


@pytest.mark.parametrize("name", POSTERIORS)
def test_noise_is_standard(name):
    """A density with mean 0 and variance 1; its entropy, and its distribution function from the inverse."""
    posterior = POSTERIORS[name].noise
    assert expectation(posterior, lambda x: 1) == pytest.approx(1, abs=1e-10)
    assert expectation(posterior, lambda x: x) == pytest.approx(0, abs=1e-9)
    assert expectation(posterior, lambda x: x * x) == pytest.approx(1, abs=1e-9)
    assert expectation(posterior, posterior.log_prob) == pytest.approx(-posterior.entropy(), abs=1e-9)
    for p, q in ((0.01, 0.2), (0.2, 0.5), (0.5, 0.99)):  # at 0.5 some densities have a corner
        piece = posterior.icdf(np.array([p, q]))
        assert quad(lambda x: np.exp(posterior.log_prob(x)), *piece)[0] == pytest.approx(q - p, abs=1e-10)


@pytest.mark.parametrize("name", POSTERIORS)
def test_divergence_in_closed_form(make_model, rng, backend, name):
    """D_KL(q(z|x) || N(0, 1)) by integration."""
    model, parameters = make_model(backend, n_components=1, n_features=3, posterior=name)
    posterior, x, buffers = POSTERIORS[name].noise, rng.random((4, 3)), Buffers(backend, "float64")
    encoded = model.encode(parameters, x, buffers)
    _, kl = model.latent(encoded, np.zeros((4, 1)), True, buffers)
    for mu, log_var, found in zip(*(output[:, 0] for output in encoded.outputs), kl):
        sigma = np.exp(log_var / 2)
        exact = expectation(
            posterior,
            lambda e: posterior.log_prob(e) - log_var / 2 - Normal().log_prob(mu + sigma * e),  # noqa: B023
        )
        assert found == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("name", POSTERIORS)
def test_divergence_sampled(make_model, rng, backend, name):
    """log q(z_l|x) - log p(z_l) of each sample, with the density of z by a change of variables."""
    model, parameters = make_model(backend, posterior=name)
    buffers, x = Buffers(backend, "float64"), rng.random((4, 7))
    eps = model.noise(rng, np.empty((12, 3), np.float32)).astype(float)
    encoded = model.encode(parameters, x, buffers)
    z, kl = model.latent(encoded, eps, False, buffers)
    mu, log_var = encoded.outputs
    standard = (z.reshape(3, 4, 3) - mu) / np.exp(log_var / 2)
    log_q = POSTERIORS[name].noise.log_prob(standard * (1 - 1e-12)) - log_var / 2
    exact = log_q.sum(axis=2) - Normal().log_prob(z.reshape(3, 4, 3)).sum(axis=2)
    np.testing.assert_allclose(kl, exact.ravel(), atol=1e-8)


def z_values(make_model, rng, wrong_family=None, **fields):
    """Return the means of A - B in standard errors: of the value, and of the gradient along a random direction."""
    model, parameters = make_model(**fields)
    other = make_model(**fields)[0] if wrong_family is None else make_model(**fields | {"posterior": wrong_family})[0]
    x, L, direction = rng.random((4, 7)), 50, rng.standard_normal(model.layout.size)
    a, b = SGVB(other, L, False), SGVB(model, L, True)
    differences = []
    for _ in range(400):
        noise = b.draw(rng, 4)
        pairs = [estimator.value_and_grad(parameters, x, noise) for estimator in (a, b)]
        (one, done), (two, dtwo) = [(pair.value, pair.gradient.vector @ direction) for pair in pairs]
        differences.append((one - two, done - dtwo))
    return np.mean(differences, axis=0) / (np.std(differences, axis=0, ddof=1) / np.sqrt(400))


@pytest.mark.parametrize("name", OTHERS)
def test_both_estimators_agree_in_expectation(make_model, rng, backend, name):
    assert np.abs(z_values(make_model, rng, backend=backend, posterior=name)).max() < 4


def test_the_density_of_another_family_shows(make_model, rng):
    for wrong in ("gaussian", "logistic", "gumbel"):
        assert abs(z_values(make_model, rng, wrong, posterior="laplace")[0]) > 8


@pytest.mark.parametrize("name", POSTERIORS)
def test_noise_in_float32_stays_inside_of_the_support(make_model, name):
    """Also at the ends of what the generator draws."""

    class Ends:
        def integers(self, low, high, shape):
            return np.array([[low, high - 1]])

        standard_normal = staticmethod(np.random.default_rng(0).standard_normal)

    model, _ = make_model(posterior=name)
    assert np.all(
        np.isfinite(model.posterior.log_prob(model.noise(Ends(), np.empty((1, 2), np.float32)).astype(float)))
    )


@pytest.fixture(scope="module")
def digits():
    return npvae.datasets.make_digits(400, random_state=0)[0]


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_fit(digits, name, tmp_path):
    """It learns, its scores average to what fresh noise gives, and it comes back from its file."""
    X = digits
    model = npvae.VAE(2, hidden_layer_sizes=(30,), learning_rate=0.05, batch_size=20, max_epochs=30, posterior=name)
    model.fit(X)
    assert model.health_.elbo > model.health_.baseline + 5
    inner = model.fitted_.model
    encoded = inner.encode(model.parameters_, X / np.float32(255), Buffers(inner.backend, "float32"))
    kl = inner.latent(encoded, np.zeros((len(X), 2), np.float32), True, Buffers(inner.backend, "float32"))[1]
    assert sum(model.health_.kl) == pytest.approx(kl.mean(), rel=1e-4)
    scaling = model.fitted_.data(X).scaling
    x = inner.backend.gather(X, np.arange(len(X)), scaling, np.empty(X.shape, np.float32))
    for analytic_kl in (True, False):
        estimator, rng = SGVB(inner, 20, analytic_kl), np.random.default_rng(0)
        values = [estimator.value_and_grad(model.parameters_, x, estimator.draw(rng, len(x))).value for _ in range(10)]
        assert abs(np.mean(values) - model.score(X)) < 0.5
    model.save(tmp_path / "m.npz")
    np.testing.assert_array_equal(npvae.load(tmp_path / "m.npz").score_samples(X), model.score_samples(X))


def test_the_score_function_knows_the_gaussian_alone(rng):
    with pytest.raises(ValueError, match="posterior is 'laplace'; expected 'gaussian' for score-function"):
        npvae.VAE(posterior="laplace", estimator="score-function").fit(rng.random((20, 4)))
    with pytest.raises(ValueError, match="posterior is 'cauchy'; expected one of 'gaussian', 'laplace'"):
        npvae.VAE(posterior="cauchy").fit(rng.random((20, 4)))
