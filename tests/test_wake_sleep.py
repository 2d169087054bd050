"""Wake-sleep: the expectation of each phase's gradient is that of its objective, which is known on small models."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from test_reparameterization import extrapolated
from test_score_function import excess

import npvae
from npvae import backends
from npvae.estimators import SGVB, WakeSleep
from npvae.estimators.wake_sleep import Noise
from npvae.evaluation import LinearGaussian
from npvae.likelihoods import LIKELIHOODS
from npvae.parameters import Buffers

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def part(model, vector, network):
    """Return the entries of a vector (..., P) that are those of a network."""
    names = [name for name in model.layout.shapes if name.startswith(network)]
    return np.concatenate([vector[..., model.layout.slices[name]] for name in names], axis=-1)


def slopes(model, parameters, function):
    """Return the gradient (P,) of a function of the parameters, by differences."""

    def slope(direction):
        return extrapolated(lambda h: function(model.parameters(parameters.vector + h * direction)), 0.0, 0.02)

    return np.array(list(map(slope, np.eye(model.layout.size))))


# The wake phase: the decoder follows the bound ------------------------------------------------------------------------


@pytest.fixture
def linear(make_model, rng):
    """A linear-Gaussian model with one latent, whose q(z|x) is the posterior."""
    model, parameters = make_model(
        n_features=4, n_components=1, hidden_layer_sizes=(), likelihood="gaussian", constant_log_var=True
    )
    exact = as_linear_gaussian(model, parameters)
    at_zero, covariance = exact.posterior(np.zeros((1, 4)))
    parameters["encoder.mu.W"][...] = exact.posterior(np.eye(4))[0] - at_zero
    parameters["encoder.mu.b"][...] = at_zero[0]
    parameters["encoder.log_var.b"][...] = np.log(covariance[0])
    return model, parameters, rng.standard_normal((5, 4))


def as_linear_gaussian(model, parameters):
    outputs = model.decode(parameters, np.zeros((1, 1)), Buffers(model.backend, model.dtype)).outputs
    return LinearGaussian(parameters["decoder.mu.W"].copy(), outputs[0][0].copy(), np.exp(outputs[1][0]))


def expected_gradient(estimator, parameters, x, noise_at):
    """Return the expectation of the gradient over the noise of q(z|x): exact, it is a polynomial of the noise."""
    total = 0
    for node, weight in zip(NODES, WEIGHTS):
        samples, _ = estimator.sample(parameters, x, None, noise_at(np.full((len(x), 1), node)))
        total = total + weight * estimator.value_and_grad(parameters, x, samples).gradient.vector
    return total


def test_where_q_is_the_posterior_the_decoder_follows_the_likelihood(linear, rng):
    """Its gradient is then that of log p(x), as it is with SGVB, whose encoder has arrived and does not move."""
    model, parameters, x = linear
    dream = rng.standard_normal((5, 1)), rng.standard_normal((5, 4))
    wake = expected_gradient(WakeSleep(model), parameters, x, lambda eps: Noise(eps, *dream))
    sgvb = expected_gradient(SGVB(model), parameters, x, lambda eps: eps)

    log_p = lambda moved: as_linear_gaussian(model, moved).log_prob(x).mean()
    exact = slopes(model, parameters, log_p)
    for found in wake, sgvb:
        np.testing.assert_allclose(part(model, found, "decoder"), part(model, exact, "decoder"), atol=1e-9)
    np.testing.assert_allclose(part(model, sgvb, "encoder"), 0, atol=1e-9)
    assert np.abs(part(model, exact, "decoder")).max() > 0.1


def test_the_data_does_not_teach_the_encoder(linear, rng):
    """z is constant in the wake phase: the encoder's gradient does not depend on the data, nor on their z."""
    model, parameters, x = linear
    estimator, noise = WakeSleep(model, 2), WakeSleep(model, 2).draw(rng, 5)
    (a, _), (b, _) = (
        estimator.sample(parameters, data, None, noise._replace(eps=eps))
        for data, eps in ((x, noise.eps), (-x, noise.eps + 1))
    )
    first, second = (
        estimator.value_and_grad(parameters, data, samples).gradient.vector.copy()
        for data, samples in ((x, a), (-x, b))
    )
    np.testing.assert_array_equal(part(model, first, "encoder"), part(model, second, "encoder"))
    assert not np.any(part(model, first, "decoder") == part(model, second, "decoder"))


def test_the_dream_does_not_teach_the_decoder(linear, rng):
    model, parameters, x = linear
    estimator, noise = WakeSleep(model, 2), WakeSleep(model, 2).draw(rng, 5)
    first, second = (
        estimator.value_and_grad(
            parameters, x, estimator.sample(parameters, x, None, changed)[0]
        ).gradient.vector.copy()
        for changed in (noise, noise._replace(z=noise.z + 1, x=-noise.x))
    )
    np.testing.assert_array_equal(part(model, first, "decoder"), part(model, second, "decoder"))
    assert not np.any(part(model, first, "encoder") == part(model, second, "encoder"))


# The sleep phase: the encoder lowers the other KL divergence ----------------------------------------------------------


def mean_divergence(model, parameters):
    """Return the mean over x ~ p(x) of D_KL(p(z|x) || q(z|x)) for binary x: all x, and quadrature over z."""
    every_x = np.array(list(product((0.0, 1.0), repeat=model.architecture.n_features)))
    z, buffers, total = NODES[:, None], Buffers(model.backend, model.dtype), 0.0
    for x in every_x:
        log_joint, _ = model.log_joint(parameters, x[None].repeat(len(z), axis=0), z)
        log_likelihood = log_joint + 0.5 * (NODES**2 + np.log(2 * np.pi))
        mu, log_var = model.encode(parameters, x[None], buffers).outputs
        log_q = -0.5 * (np.log(2 * np.pi) + log_var[0, 0] + (NODES - mu[0, 0]) ** 2 * np.exp(-log_var[0, 0]))
        joint = WEIGHTS * np.exp(log_likelihood)  # of this x and each node
        total += joint @ (log_joint - np.log(joint.sum()) - log_q)
    return total


@pytest.fixture
def binary(make_model):
    return make_model(n_features=3, n_components=1, hidden_layer_sizes=(3,), std=0.7)


def sleep_gradients(model, parameters, draw):
    """Return estimates (50, P) of the gradient, each the mean over many dreams."""
    estimator, x, found = WakeSleep(model), np.zeros((20_000, 3)), []
    for seed in range(50):
        noise = draw(estimator, np.random.default_rng(seed), x)
        samples, _ = estimator.sample(parameters, x, None, noise)
        found.append(estimator.value_and_grad(parameters, x, samples).gradient.vector.copy())
    return part(model, np.array(found), "encoder")


def test_the_encoder_lowers_the_divergence_from_q_to_the_posterior_of_dreams(binary):
    model, parameters = binary
    exact = -part(model, slopes(model, parameters, lambda moved: mean_divergence(model, moved)), "encoder")
    right = sleep_gradients(model, parameters, lambda estimator, rng, x: estimator.draw(rng, len(x)))
    assert excess(right, exact) < 2
    # A dream whose x is that of another z is caught.
    wrong = sleep_gradients(model, parameters, lambda estimator, rng, x: unrelated(estimator.draw(rng, len(x)), rng))
    assert excess(wrong, exact) > 10


def unrelated(noise, rng):
    """Return noise with which every pixel is 1 or 0 whatever the dreamed z is."""
    return noise._replace(x=np.where(rng.random(noise.x.shape) < 0.5, 0.0, 1.0))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_dreams_are_draws_of_the_model(make_model, likelihood, backend):
    """Mean and variance of dreamed x at a fixed z are those of p(x|z)."""
    model, parameters = make_model(backend, likelihood=likelihood)
    R, B = 40_000, {"bernoulli": 7, "mixed": 2}.get(likelihood, 0)
    estimator, x = WakeSleep(model), np.zeros((R, 7))
    noise = estimator.draw(np.random.default_rng(0), R)
    noise = noise._replace(z=np.tile(noise.z[:1], (R, 1)))
    samples, _ = estimator.sample(parameters, x, None, noise)
    outputs = model.decode(parameters, noise.z[:1], Buffers(backend, "float64")).outputs
    mean = model.likelihood.mean(outputs)[0]
    variance = mean * (1 - mean)
    if model.likelihood.floor is not None:
        variance[B:] = np.exp(outputs[model.likelihood.floor][0])
    assert set(np.unique(samples.dreamed_x[:, :B])) <= {0, 1}
    assert np.all(np.abs(samples.dreamed_x.mean(axis=0) - mean) < 5 * np.sqrt(variance / R))
    np.testing.assert_allclose(samples.dreamed_x.var(axis=0), variance, rtol=0.05)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_its_value_has_both_phases(make_model, rng, backend, likelihood):
    """mean(log p(x, z)) + mean(log q(dreamed z|dreamed x)); that the gradient is its gradient is checked for all."""
    model, parameters = make_model(backend, likelihood=likelihood)
    estimator, x = WakeSleep(model, 3), rng.random((5, 7))
    samples, _ = estimator.sample(parameters, x, np.arange(5), estimator.draw(rng, 5))
    value = estimator.value_and_grad(parameters, x, samples).value
    log_joint, _ = model.log_joint(parameters, x, samples.z)
    mu, log_var = model.encode(parameters, samples.dreamed_x, Buffers(backend, "float64")).outputs
    log_q = scipy.stats.norm(mu, np.exp(log_var / 2)).logpdf(samples.dreamed_z).sum(axis=1)
    assert value == pytest.approx(log_joint.mean() + log_q.mean(), rel=1e-12)


# As an estimator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_its_bound_is_that_of_version_b(make_model, rng, backend, likelihood):
    model, parameters = make_model(backend, likelihood=likelihood)
    estimator, x = WakeSleep(model, 3), rng.random((5, 7))
    noise = estimator.draw(rng, 5)
    samples, _ = estimator.sample(parameters, x, np.arange(5), noise)
    sgvb = SGVB(model, 3).value_and_grad(parameters, x, noise.eps)
    assert estimator.value_and_grad(parameters, x, samples).elbo == pytest.approx(sgvb.elbo, rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_it_learns_and_resumes(tmp_path, backend):
    """Better than independent columns; the same bits after a stop and a file."""
    rng = np.random.default_rng(4)
    X = rng.random((200, 1)) < 0.5
    X = np.where(rng.random((200, 8)) < 0.1, ~X, X)
    settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.2, "batch_size": 20, "max_epochs": 60}
    settings |= {"estimator": "wake-sleep", "backend": backend}
    whole = npvae.VAE(1, **settings).fit(X)
    assert whole.health_.elbo > whole.health_.baseline + 1
    assert whole.history_[-1].elbo == pytest.approx(whole.score(X), abs=0.5)
    half = npvae.VAE(1, **settings, callbacks=(lambda epoch: epoch.epoch == 30,)).fit(X)
    half.save(tmp_path / "half.npz")
    rest = npvae.load(tmp_path / "half.npz").resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)


def test_the_prior_of_the_weights_holds_them_back():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((100, 2)) @ rng.standard_normal((2, 6))
    settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.05, "max_epochs": 20, "backend": "reference"}
    free, held = (
        npvae.VAE(2, **settings, estimator="wake-sleep", weight_prior=prior).fit(X).parameters_
        for prior in (0.0, 100.0)
    )
    n_weights = free.layout.n_weights
    assert np.linalg.norm(held.vector[:n_weights]) < 0.9 * np.linalg.norm(free.vector[:n_weights])


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="posterior is 'laplace'; expected 'gaussian' for wake-sleep"):
        npvae.VAE(estimator="wake-sleep", posterior="laplace").fit(np.eye(4))


def test_a_dream_of_certain_pixels_is_certain():
    """Logits whose exponential overflows are no exception."""
    logits = np.array([[-1000.0, -100.0, 100.0, 1000.0]], np.float32).repeat(1000, axis=0)
    with np.errstate(over="raise", invalid="raise"):
        x = LIKELIHOODS["bernoulli"].draw(np.random.default_rng(0), [logits])
    np.testing.assert_array_equal(x, logits > 0)


def test_the_reference_and_the_compiled_backend_dream_the_same(make_model, rng):
    found = []
    for name in ("reference", "cpu"):
        model, parameters = make_model(backends.get(name))
        parameters.vector[:] = np.linspace(-1, 1, len(parameters.vector))
        estimator = WakeSleep(model, 2)
        noise = estimator.draw(np.random.default_rng(3), 6)
        found.append(estimator.sample(parameters, np.full((6, 7), 0.5), None, noise)[0])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
