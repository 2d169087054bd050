"""Annealed importance sampling beside models whose log p(x) is known, forward and backwards."""

from itertools import product

import numpy as np
import pytest
from scipy.special import expit

from npvae import backends
from npvae.backends.formulas import soft_floor
from npvae.evaluation import LinearGaussian, annealed_importance_sampling, annealing, sandwich
from npvae.evaluation.annealing import schedule
from npvae.evaluation.standardized import Standardized
from npvae.fitted import Fitted
from npvae.preprocessing import Data, Preprocessor, Scaling
from npvae.samplers import transition


def identity(D):
    """Return the scaling that changes nothing."""
    return Scaling(np.zeros(D), np.ones(D))


def data_of(x):
    return Data(x, identity(x.shape[1]), 0.0, np.zeros(len(x)))


@pytest.fixture
def make(make_model):
    """A function from fields of an architecture to a `Fitted` of random parameters in float64."""

    def make(backend="reference", std=0.5, **fields):
        model, parameters = make_model(backends.get(backend), std=std, **{"hidden_layer_sizes": ()} | fields)
        preprocessor = Preprocessor(model.architecture.likelihood, identity(model.architecture.n_features), 1.0)
        return Fitted(model, parameters, preprocessor, seed=0)

    return make


@pytest.fixture
def linear(make):
    """A function from the number of latents to a linear-Gaussian model: (Fitted, LinearGaussian).

    Its encoder has the mean of the posterior, and the inverse of the diagonal of its precision as variance.
    """

    def linear(J, **fields):
        fitted = make(n_components=J, likelihood="gaussian", constant_log_var=True, **fields)
        W, b, head = (np.array(fitted.parameters[f"decoder.{name}"]) for name in ("mu.W", "mu.b", "log_var.b"))
        exact = LinearGaussian(W, b, np.exp(soft_floor(head)))
        shift, covariance = exact.posterior(np.zeros((1, 7)))
        fitted.parameters["encoder.mu.W"][...] = exact.posterior(np.eye(7))[0] - shift
        fitted.parameters["encoder.mu.b"][...] = shift[0]
        fitted.parameters["encoder.log_var.b"][...] = -np.log(np.diag(np.linalg.inv(covariance)))
        return fitted, exact

    return linear


def test_a_model_without_encoder_starts_at_the_prior(make_model):
    """The same bits as the model with one, from the prior."""
    found = []
    for has_encoder in (True, False):
        model, parameters = make_model(has_encoder=has_encoder)
        for name, array in parameters.items():
            if name.startswith("decoder."):
                array[...] = np.random.default_rng(list(name.encode())).standard_normal(array.shape)
        fitted = Fitted(model, parameters, Preprocessor("bernoulli", identity(7), 1.0), seed=0)
        x, start = np.eye(7)[:4], "prior" if has_encoder else None
        found.append(annealed_importance_sampling(fitted, data_of(x), 4, n_densities=10, start=start))
    np.testing.assert_array_equal(found[0].log_prob, found[1].log_prob)
    with pytest.raises(ValueError, match="start is 'encoder', but the model has none; expected 'prior'"):
        annealed_importance_sampling(fitted, data_of(x), 4, start="encoder")


def test_schedule():
    """The sigmoids of Wu et al.: symmetric, closest at the ends."""
    betas = schedule(100)
    sigma = lambda t: 1 / (1 + np.exp(-t))
    expected = (sigma(4 * (2 * 37 / 100 - 1)) - sigma(-4)) / (sigma(4) - sigma(-4))
    assert betas[37] == pytest.approx(expected, rel=1e-12)
    assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 101
    np.testing.assert_allclose(betas + betas[::-1], 1, rtol=1e-12)
    assert np.all(np.diff(betas) > 0) and np.diff(betas)[0] < 0.1 * np.diff(betas)[50]
    np.testing.assert_array_equal(schedule(1), [0, 1])


@pytest.mark.parametrize("start", ["prior", "encoder"])
@pytest.mark.parametrize("J", [2, 10])
def test_log_p_of_a_linear_gaussian_model(linear, backend, J, start):
    """Within three standard errors, which are as small as they say, and within 0.1 nats on average."""
    fitted, exact = linear(J, backend=backend.__name__.rpartition(".")[2], std=0.3)
    found = sandwich(fitted, 25, 20, n_densities=80, n_leapfrog=6, start=start)
    log_p = exact.log_prob(found.x)
    for estimates in (found.lower, found.upper):
        errors = (estimates.log_prob - log_p) / estimates.error
        assert np.mean(abs(errors) < 3) > 0.9 and 0.6 < np.sqrt(np.mean(errors**2)) < 1.5
        assert abs((estimates.log_prob - log_p).mean()) < 0.1
        assert estimates.error.mean() < 0.25
    assert found.lower.diagnosis["effective sample size"].min() > 5


@pytest.mark.parametrize("posterior", ["gaussian", "laplace"])
@pytest.mark.parametrize("start", ["prior", "encoder"])
@pytest.mark.parametrize("n_densities", [1, 2, 5])
def test_the_mean_weight_is_unbiased(linear, rng, n_densities, start, posterior):
    """However few the densities and however bad the transitions: the mean of w is p(x)."""
    fitted, exact = linear(2, std=0.3, posterior=posterior)
    x = exact.b + rng.standard_normal((3, 7))
    found = annealed_importance_sampling(fitted, data_of(x), 10_000, n_densities=n_densities, n_leapfrog=2, start=start)
    assert found.error.max() < 0.2
    assert np.all(abs(np.expm1(found.log_prob - exact.log_prob(x))) < 4 * found.error)


@pytest.mark.parametrize("start, n_densities, n_leapfrog", [("prior", 6, 2), ("encoder", 6, 2), ("encoder", 1, 1)])
def test_backwards_the_mean_of_the_inverse_weight_is_unbiased(linear, start, n_densities, n_leapfrog):
    """Over draws of (z, x) from the model, p(x) / w has the mean 1."""
    fitted, exact = linear(2, std=0.3 if n_densities > 1 else 1.0)
    found = sandwich(fitted, 4000, 1, n_densities=n_densities, n_leapfrog=n_leapfrog, start=start)
    ratios = np.exp(exact.log_prob(found.x) - found.upper.log_prob)
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(4000)
    assert ratios.std() < 3


def test_backwards_the_chains_of_a_row_part_first(linear):
    """Otherwise they would share the sample that they begin at, and their spread would not tell the error."""
    found = sandwich(linear(2)[0], 10, 20, n_densities=1, start="prior")
    assert found.upper.error.min() > 0.01 and found.upper.diagnosis["effective sample size"].max() < 20


@pytest.mark.parametrize("backwards", [False, True])
def test_step_sizes_are_those_of_the_acceptance(linear, monkeypatch, backwards):
    """For rows of different width at once, forward and backwards, at small and at large beta."""
    fitted, exact = linear(3, std=1.5)
    z, acceptance = np.random.default_rng(0).standard_normal((2, 3)), []
    x = exact.b + z @ exact.W

    def spy(*arguments):
        state, info = transition(*arguments)
        acceptance.append(info.acceptance)
        return state, info

    monkeypatch.setattr(annealing, "transition", spy)
    ends = {"z": z} if backwards else {}
    annealed_importance_sampling(fitted, data_of(x), 50, n_densities=400, start="prior", n_leapfrog=3, **ends)
    of_rows = np.array(acceptance[-399:]).reshape(399, 50, 2).mean(axis=1)
    for part in np.array_split(of_rows, 4):
        assert np.all(abs(part.mean(axis=0) - 0.65) < 0.2), part.mean(axis=0)


def test_between_the_two_estimates(linear):
    """Forward is low and backwards is high by more than chance, and the gap closes with the number of densities."""
    fitted, exact = linear(10)
    gaps = []
    for n_densities in (4, 20, 80):
        found = sandwich(fitted, 100, 4, n_densities=n_densities, n_leapfrog=5, start="prior")
        log_p = exact.log_prob(found.x)
        gaps.append(found.gap.mean())
        error = found.gap.std() / 10
        assert found.lower.log_prob.mean() - error < log_p.mean() < found.upper.log_prob.mean() + error
        if n_densities == 4:
            for difference in (log_p - found.lower.log_prob, found.upper.log_prob - log_p):
                assert difference.mean() > 4 * difference.std() / 10
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] and gaps[2] < 0.5


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_probabilities_sum_to_one(make, start):
    """Over the 64 values of six binary columns."""
    fitted = make(n_features=6, n_components=2, hidden_layer_sizes=(5,), std=1.0)
    for name, array in fitted.parameters.items():
        if name.startswith("encoder."):
            array *= 0.3  # not so far from the posterior
    x = np.array(list(product([0.0, 1.0], repeat=6)))
    found = annealed_importance_sampling(fitted, data_of(x), 50, n_densities=25, n_leapfrog=5, start=start)
    p = np.exp(found.log_prob)
    error = np.sqrt(np.sum((p * found.error) ** 2))
    assert error < 0.02 and abs(p.sum() - 1) < 3 * error
    assert p.max() > 10 * p.min()


def test_bimodal_posteriors_from_the_prior(make, rng):
    """The weights of both modes count: p(x | z) depends on |z| alone, and the encoder is of no use."""
    fitted = make(n_features=3, n_components=1, hidden_layer_sizes=(2,), std=0.0)
    fitted.parameters["decoder.hidden1.W"][...] = [[3.0, -3.0]]
    fitted.parameters["decoder.hidden1.b"][...] = -3.0
    fitted.parameters["decoder.logits.W"][...] = 3.0
    x = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    grid = np.linspace(-10, 10, 20_001)
    logits = 3 * (np.tanh(3 * grid - 3) + np.tanh(-3 * grid - 3))
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    exact = [np.sum(density * expit(logits) ** 3) * 1e-3, np.sum(density * expit(-logits) ** 3) * 1e-3]
    found = annealed_importance_sampling(fitted, data_of(x), 200, n_densities=50, start="prior")
    assert np.all(abs(found.log_prob - np.log(exact)) < 3 * found.error) and found.error.max() < 0.1


def test_a_row_does_not_depend_on_the_others(make, rng, backend):
    """In another order, alone, and in batches of other sizes."""
    fitted = make(backend=backend.__name__.rpartition(".")[2], hidden_layer_sizes=(5,))
    x, order = (rng.random((30, 7)) < 0.5).astype(float), rng.permutation(30)
    run = lambda x, n=40: annealed_importance_sampling(fitted, data_of(x), n, n_densities=20, n_leapfrog=3)
    together = run(x)
    for rows, found in (order, run(x[order])), ([7], run(x[7:8])), (np.arange(20, 30), run(x[20:])):
        np.testing.assert_allclose(found.log_prob, together.log_prob[rows], rtol=1e-9)
        np.testing.assert_allclose(found.error, together.error[rows], rtol=1e-7)
    assert not np.array_equal(run(x, 41).log_prob, together.log_prob)


def test_seeds(make, rng):
    fitted = make(hidden_layer_sizes=(5,))
    a, b = sandwich(fitted, 5, 4, n_densities=5), sandwich(fitted, 5, 4, n_densities=5)
    np.testing.assert_array_equal(a.lower.log_prob, b.lower.log_prob)
    np.testing.assert_array_equal(a.upper.log_prob, b.upper.log_prob)


def test_a_row_without_a_density_is_told_from_the_others(linear):
    fitted, exact = linear(2)
    x = np.array([exact.b, exact.b + 1e200, exact.b + 1])
    found = annealed_importance_sampling(fitted, data_of(x), 10, n_densities=20)
    assert not np.isfinite(found.log_prob[1]) and np.all(np.isfinite(found.log_prob[[0, 2]]))


def test_nats_of_the_data_as_given(linear, rng):
    """With a scale 0.5, densities of the data are lower by D log 2 (of x they are as without)."""
    fitted, exact = linear(2)
    x = exact.b + rng.standard_normal((2, 7))
    scaled = Data(2 * x, Scaling(np.zeros(7), np.full(7, 0.5)), 7 * np.log(0.5), np.zeros(len(x)))
    plain, other = (annealed_importance_sampling(fitted, data, 10, n_densities=20) for data in (data_of(x), scaled))
    np.testing.assert_allclose(other.log_prob, plain.log_prob - 7 * np.log(2), rtol=1e-12)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"n_samples": 0}, "n_samples is 0; expected an integer of at least 1"),
        ({"n_densities": 0}, "n_densities is 0; expected an integer of at least 1"),
        ({"n_leapfrog": 1.5}, "n_leapfrog is 1.5; expected an integer of at least 1"),
        ({"start": "encode"}, "start is 'encode'; expected one of 'encoder', 'prior'; did you mean 'encoder'?"),
        ({"z": np.zeros((3, 2))}, r"z has the shape \(3, 2\); expected \(4, 3\), a sample for each row"),
    ],
)
def test_arguments_are_checked(make, changed, message):
    arguments = {"n_samples": 2} | changed
    with pytest.raises(ValueError, match=message):
        annealed_importance_sampling(make(), data_of(np.zeros((4, 7))), **arguments)


def test_arguments_of_the_sandwich_are_checked(make):
    with pytest.raises(ValueError, match="n_rows is 0; expected an integer of at least 1"):
        sandwich(make(), 0)
    with pytest.raises(ValueError, match="n_densities is -1"):
        sandwich(make(), 2, n_densities=-1)


@pytest.mark.parametrize("origin", ["encoder", "prior"])
def test_standardized_coordinates(make, rng, origin):
    """log p(x, u) is log p(x, z) + log |dz / du|; its gradient is by u; u and z belong to each other."""
    fitted, x = make(hidden_layer_sizes=(5,)), rng.random((4, 7))
    log_density = Standardized(fitted, x, origin)
    u = rng.standard_normal((8, 3))
    z = (log_density.mu + log_density.sigma * u.reshape(2, 4, 3)).reshape(8, 3)
    value, gradient = log_density(u)
    expected, _ = fitted.model.log_density(fitted.parameters, x)(z)
    np.testing.assert_allclose(value, expected + np.tile(np.log(log_density.sigma).sum(axis=1), 2), rtol=1e-12)
    np.testing.assert_allclose(log_density.at(z[4:]), u[4:], rtol=1e-12)
    direction, h = rng.standard_normal((8, 3)), 1e-5
    slope = (log_density(u + h * direction)[0] - log_density(u - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(axis=1), slope, rtol=1e-7, atol=1e-8)
    assert (abs(log_density.sigma - 1).max() > 0.1) == (origin == "encoder")
