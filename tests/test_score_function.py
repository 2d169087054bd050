"""The score-function estimator: unbiased with every baseline, which is what a wrong one is not."""

import numpy as np
import pytest
from test_reparameterization import extrapolated

import npvae
from npvae import backends
from npvae.estimators import SGVB, ScoreFunction
from npvae.estimators.score_function import Baseline, Samples

BASELINES = (None, "running", "leave-one-out")
COPIES, BLOCKS = 5000, 50


def exact_gradient(model, parameters, x):
    """Return the gradient of the bound by 32 x 32 Gauss-Hermite nodes, as a vector: SGVB-B, a weight for each node."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    total = 0
    for i, j in np.ndindex(32, 32):
        noise = np.tile([nodes[i], nodes[j]], (len(x), 1))
        gradient = SGVB(model).value_and_grad(parameters, x, noise).gradient.vector
        total = total + weights[i] * weights[j] / weights.sum() ** 2 * gradient
    return total


def gradients(estimator, parameters, x, state=None, change=lambda samples: samples):
    """Return estimates (BLOCKS, P) of the gradient for the rows of x, each the mean of many."""
    many, results = np.repeat(x, COPIES, axis=0), []
    for seed in range(BLOCKS):
        noise = estimator.draw(np.random.default_rng(seed), len(many))
        samples, _ = estimator.sample(parameters, many, None, noise, state)
        results.append(estimator.value_and_grad(parameters, many, change(samples)).gradient.vector.copy())
    return np.array(results)


def excess(estimates, exact):
    """Return the distance of their mean from the exact gradient, in multiples of what chance makes it."""
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    assert np.linalg.norm(error) < 0.01 * np.linalg.norm(exact)  # Monte Carlo error below 1 %
    return np.linalg.norm(estimates.mean(axis=0) - exact) / np.linalg.norm(error)


@pytest.fixture
def small(rng, make_model):
    model, parameters = make_model(backends.get("reference"), n_features=3, n_components=2, hidden_layer_sizes=(3,))
    x = rng.random((2, 3))
    return model, parameters, x, exact_gradient(model, parameters, x)


def test_gradient_of_a_density_is_the_density_times_its_score(rng, backend):
    """grad q = q grad log q: the density's own derivatives, by differences, beside the backend's score function.

    The integral of grad q is zero, as that of q is one: so E_q[grad log q] = 0, on which every baseline relies.
    """
    mu, log_var = rng.standard_normal((1, 1)), np.log(rng.uniform(0.5, 2, (1, 1)))
    t, weights = np.polynomial.legendre.leggauss(100)
    z, weights = mu + 12 * np.exp(log_var / 2) * t[:, None], 12 * np.exp(log_var / 2).item() * weights

    def density(mu, log_var):
        return np.exp(backend.gaussian_log_q(z, mu, log_var, np.ones(len(z)))[0])

    q = density(mu, log_var)
    slopes = (
        extrapolated(lambda x: density(x, log_var), mu, 0.02),
        extrapolated(lambda x: density(mu, x), log_var, 0.02),
    )
    scores = [backend.gaussian_log_q(row, mu, log_var, np.ones(1))[1:] for row in z[:, None]]
    for slope, score in zip(slopes, np.reshape(scores, (-1, 2)).T):
        np.testing.assert_allclose(slope, q * score, atol=1e-11)
        assert abs(weights @ (q * score)) < 1e-13 < weights @ (q * abs(score))
    assert weights @ q == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("baseline", BASELINES)
def test_unbiased(small, baseline):
    model, parameters, x, exact = small
    estimates = gradients(ScoreFunction(model, 2, baseline), parameters, x, state=Baseline(np.array([-1.5])))
    assert excess(estimates, exact) < 2


def own_sample_included(samples):
    """Subtract the mean over all samples of a datapoint, its own among them, instead of over the others."""
    both = samples.weights.reshape(2, -1)
    return samples._replace(weights=(both / 2).reshape(-1))  # f_1 - (f_1 + f_2) / 2 is half of f_1 - f_2


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_wrong_sign_is_caught(small, baseline):
    model, parameters, x, exact = small
    wrong = lambda samples: samples._replace(weights=-samples.weights)
    assert (
        excess(gradients(ScoreFunction(model, 2, baseline), parameters, x, Baseline(np.array([-1.5])), wrong), exact)
        > 10
    )


def test_a_baseline_that_includes_its_own_sample_is_caught(small):
    model, parameters, x, exact = small
    estimator = ScoreFunction(model, 2, "leave-one-out")
    assert excess(gradients(estimator, parameters, x, None, own_sample_included), exact) > 10


def test_baselines_lower_the_variance_and_reparameterization_more(small):
    model, parameters, x, _ = small
    settled = Baseline(
        np.array([ScoreFunction(model, 2).sample(parameters, x, None, np.zeros((4, 2)))[0].elbo])
    )  # f at the means of q
    plain, running, others = (
        gradients(ScoreFunction(model, 2, baseline), parameters, x, settled if baseline else None).var(axis=0).sum()
        for baseline in BASELINES
    )
    path = gradients(SGVB(model, 2), parameters, x).var(axis=0).sum()
    assert plain > running > path and plain > others > path


def test_its_mean_is_the_bound_and_the_running_baseline_follows_it(small):
    model, parameters, x, _ = small
    estimator, many = ScoreFunction(model, 2, "running"), np.repeat(x, 50_000, axis=0)
    samples, state = estimator.sample(parameters, many, None, estimator.draw(np.random.default_rng(1), len(many)))
    noise = SGVB(model, 2).draw(np.random.default_rng(2), len(many))
    bound = SGVB(model, 2).value_and_grad(parameters, many, noise).value
    assert samples.elbo == state.mean[0] == pytest.approx(bound, abs=0.02)
    assert estimator.value_and_grad(parameters, many, samples).elbo == samples.elbo
    again, later = estimator.sample(parameters, many, None, -estimator.draw(np.random.default_rng(1), len(many)), state)
    assert later.mean == pytest.approx(0.9 * state.mean + 0.1 * again.elbo, rel=1e-12)
    assert isinstance(samples, Samples) and samples.weights.shape == (200_000,)


@pytest.mark.parametrize("estimator", ["score-function", "score-function-running", "score-function-leave-one-out"])
def test_it_learns_and_resumes(estimator, tmp_path):
    """Worse than SGVB in as many steps, but well above independent columns; its state is part of a checkpoint."""
    rng = np.random.default_rng(4)
    X = rng.random((200, 1)) < 0.5
    X = np.where(rng.random((200, 8)) < 0.1, ~X, X)
    settings = {"n_samples": 2, "hidden_layer_sizes": (8,), "learning_rate": 0.05, "batch_size": 20, "backend": "cpu"}
    whole = npvae.VAE(1, estimator=estimator, max_epochs=100, **settings).fit(X)
    assert whole.health_.elbo > whole.health_.baseline + 0.5
    assert whole.history_[-1].elbo == pytest.approx(whole.score(X), abs=0.5)
    half = npvae.VAE(1, estimator=estimator, max_epochs=100, callbacks=(lambda e: e.epoch == 50,), **settings).fit(X)
    half.save(tmp_path / "half.npz")
    rest = npvae.load(tmp_path / "half.npz").resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)


def test_one_sample_has_no_other():
    with pytest.raises(ValueError, match="n_samples is 1; expected at least 2"):
        npvae.VAE(estimator="score-function-leave-one-out").fit(np.eye(4))
