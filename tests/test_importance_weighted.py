"""The importance-weighted bound: exact where log p(x) is known, and its two gradients by differences and on average."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, logsumexp
from test_exact import where_q_is_the_posterior
from test_reparameterization import extrapolated

import npvae
from npvae import cli, selection
from npvae.checks import compare_with_differences
from npvae.estimators import ESTIMATORS, SGVB, DoublyReparameterized, ImportanceWeighted, Scorer, first_nonfinite
from npvae.estimators import importance_weighted as module
from npvae.evaluation import quadrature
from npvae.model import POSTERIORS
from npvae.parameters import Buffers
from npvae.preprocessing import Data, Scaling

BOTH = {"iwae": ImportanceWeighted, "iwae-dreg": DoublyReparameterized}
SMOOTH = ESTIMATORS["iwae-dreg"].posteriors
SMALL = {"n_features": 4, "n_components": 2, "hidden_layer_sizes": (3,)}


def step(estimator, parameters, x, seed=0, change=lambda samples: samples):
    """Return (samples, result) of a step."""
    noise = estimator.draw(np.random.default_rng(seed), len(x))
    samples, _ = estimator.sample(parameters, x, None, noise)
    samples = change(samples)
    return samples, estimator.value_and_grad(parameters, x, samples)


# The bound ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "mixed"])
@pytest.mark.parametrize("posterior", ["gaussian", "gumbel"])
def test_one_sample_is_version_a_to_the_bit(make_model, rng, backend, dtype, likelihood, posterior):
    model, parameters = make_model(backend, dtype, likelihood=likelihood, posterior=posterior)
    x = rng.random((9, 7)).astype(dtype)
    _, found = step(ImportanceWeighted(model, 1), parameters, x)
    _, expected = step(SGVB(model, 1, analytic_kl=False), parameters, x)
    assert found.value == expected.value and found.elbo == expected.elbo
    np.testing.assert_array_equal(found.gradient.vector, expected.gradient.vector)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_training_with_one_sample_is_that_of_version_a_to_the_bit(rng, backend):
    """Minibatches of two sizes, one of them above `ROWS`, and validation data."""
    X = rng.standard_normal((1300, 4)) @ rng.standard_normal((4, 4))
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.05, "batch_size": 700, "max_epochs": 3}
    a, b = (
        npvae.VAE(2, **settings, random_state=3, backend=backend, estimator=name).fit(X, X_valid=X[:50])
        for name in ("sgvb-a", "iwae")
    )
    np.testing.assert_array_equal(a.parameters_.vector, b.parameters_.vector)
    assert [epoch[:4] for epoch in a.history_] == [epoch[:4] for epoch in b.history_]


def log_weights(model, parameters, x, z):
    """Return log w (k, M) of z (k * M, J) by SciPy's densities, for a Bernoulli decoder."""
    buffers, k = Buffers(model.backend, model.dtype), len(z) // len(x)
    mu, log_var = model.encode(parameters, x, buffers).outputs
    y = expit(model.decode(parameters, z, buffers).outputs[0].reshape(k, *x.shape))
    z, sigma = z.reshape(k, *mu.shape), np.exp(log_var / 2)
    log_q = model.posterior.log_prob((z - mu) / sigma) - log_var / 2
    log_p = x * np.log(y) + (1 - x) * np.log1p(-y)
    return log_p.sum(axis=2) + (scipy.stats.norm.logpdf(z) - log_q).sum(axis=2)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_value_is_the_log_of_the_mean_weight(make_model, rng, backend, posterior):
    model, parameters = make_model(backend, **SMALL, posterior=posterior)
    x, k = rng.random((5, 4)), 6
    estimator = ImportanceWeighted(model, k)
    eps, result = step(estimator, parameters, x)
    mu, log_var = model.encode(parameters, x, Buffers(backend, "float64")).outputs
    z = (mu + np.exp(log_var / 2) * (1 - 1e-13) * eps.reshape(k, 5, 2)).reshape(-1, 2)  # inside of the support
    exact = (logsumexp(log_weights(model, parameters, x, z), axis=0) - np.log(k)).mean()
    assert result.value == result.elbo == pytest.approx(exact, rel=1e-10)
    if posterior in SMOOTH:  # the other estimator has the same bound, to the bit
        assert step(DoublyReparameterized(model, k), parameters, x)[1].elbo == result.elbo


@pytest.mark.parametrize("k", [1, 2, 50])
@pytest.mark.parametrize("name", BOTH)
def test_the_bound_is_log_p_where_q_is_the_posterior(make_model, rng, backend, name, k):
    model, parameters, x, log_p = where_q_is_the_posterior(rng, make_model, backend)
    _, result = step(BOTH[name](model, k), parameters, x)
    assert result.elbo == pytest.approx(log_p.mean(), abs=1e-8)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_mean_weight_is_p(make_model, rng, posterior):
    """E_q[w] = p(x), both as integrals over one latent; where q has ends, over what is between them only."""
    model, parameters = make_model(**SMALL | {"n_components": 1}, posterior=posterior)
    x, noise = (rng.random((1, 4)) < 0.5).astype(float), POSTERIORS[posterior].noise
    mu, log_var = (output.item() for output in model.encode(parameters, x, Buffers(model.backend, "f8")).outputs)
    sigma, estimator = np.exp(log_var / 2), ImportanceWeighted(model, 1)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    low, high = np.clip(noise.icdf(np.array([0.0, 1.0])), (-10 - mu) / sigma, (10 - mu) / sigma)
    eps = (low + high) / 2 + (high - low) / 2 * nodes
    log_w = [estimator.value_and_grad(parameters, x, np.array([[e]])).value for e in eps]
    mean_w = np.exp(noise.log_prob(eps) + log_w) @ weights * (high - low) / 2
    z, z_weights = np.polynomial.hermite_e.hermegauss(150)
    log_p, _ = model.log_joint(parameters, x, z[:, None])
    p = np.exp(log_p - scipy.stats.norm.logpdf(z)) @ z_weights / z_weights.sum()
    if np.isfinite(noise.icdf(1.0)):
        assert mean_w < 0.999 * p
    else:
        assert mean_w == pytest.approx(p, rel=1e-9)


def means_and_errors(values):
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def test_bounds_rise_with_k_and_stay_below_log_p(make_model, rng):
    model, parameters = make_model(**SMALL, std=1.5)
    x = (rng.random((1, 4)) < 0.5).astype(float)
    t, weights = np.polynomial.hermite_e.hermegauss(100)
    z = np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2)
    buffers = Buffers(model.backend, model.dtype)
    log_p_given_z = model.log_likelihood(x, model.decode(parameters, z, buffers), buffers.full(1.0, len(z)), buffers)
    log_p = logsumexp(log_p_given_z, b=np.outer(weights, weights).reshape(-1) / weights.sum() ** 2)
    many, bounds = np.repeat(x, 200, axis=0), {}
    for k in (1, 2, 5, 20, 100):
        values = [step(ImportanceWeighted(model, k), parameters, many, seed)[1].value for seed in range(30)]
        bounds[k] = means_and_errors(values)
    for lower, higher in zip(list(bounds), list(bounds)[1:]):
        (a, a_error), (b, b_error) = bounds[lower], bounds[higher]
        assert b - a > 3 * np.hypot(a_error, b_error)
    assert bounds[100][0] < log_p + 3 * bounds[100][1] and log_p - bounds[100][0] < 0.1 * (log_p - bounds[1][0])


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, posterior", [("iwae", name) for name in POSTERIORS] + [("iwae-dreg", name) for name in SMOOTH]
)
def test_the_gradient_is_that_of_the_value(make_model, rng, backend, monkeypatch, name, posterior):
    """Of a minibatch in one piece, and in three of which the last is smaller."""
    monkeypatch.setattr(module, "ROWS", 12)
    model, parameters = make_model(backend, **SMALL, posterior=posterior)
    for M, k in ((4, 3), (5, 6)):
        estimator, x = BOTH[name](model, k), rng.random((M, 4))
        samples, _ = estimator.sample(parameters, x, None, estimator.draw(rng, M))
        assert len(list(module.pieces(x, estimator.draw(rng, M)))) == (1 if M == 4 else 3)
        checks = compare_with_differences(
            lambda p: estimator.value_and_grad(p, x, samples)[::2],  # noqa: B023
            parameters,
            full=posterior == "gaussian",
        )
        assert all(check.passed and check.error < 1e-6 for check in checks), "\n".join(map(str, checks))


@pytest.mark.parametrize("name", BOTH)
def test_pieces_add_up(make_model, rng, backend, monkeypatch, name):
    """A minibatch in pieces of any size has the value and the gradient of the whole, up to rounding."""
    model, parameters = make_model(backend, **SMALL)
    x, results = rng.random((7, 4)), []
    for rows in (1, 20, 50, 10**6):
        monkeypatch.setattr(module, "ROWS", rows)
        samples, result = step(BOTH[name](model, 10), parameters, x)
        results.append((result.value, result.elbo, result.gradient.vector.copy()))
        if name == "iwae-dreg":
            np.testing.assert_allclose(samples.omega.reshape(10, 7).sum(axis=0), 1, rtol=1e-12)
    for value, elbo, gradient in results[:-1]:
        assert value == pytest.approx(results[-1][0], rel=1e-12) and elbo == pytest.approx(results[-1][1], rel=1e-12)
        np.testing.assert_allclose(gradient, results[-1][2], rtol=1e-10, atol=1e-13)


def peak(estimator, parameters, x):
    """Return the bytes that a step allocates."""
    tracemalloc.start()
    step(estimator, parameters, x)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", BOTH)
def test_fifty_samples_need_the_memory_of_five(make_model, rng, name):
    """Only what has the size of the latents grows with k: noise, z and slopes."""
    model, parameters = make_model(n_features=784, n_components=5, hidden_layer_sizes=(200, 200), dtype="float32")
    x = rng.random((100, 784), dtype=np.float32)
    five, fifty = (peak(BOTH[name](model, k), parameters, x) for k in (5, 50))
    assert fifty < 1.5 * five
    assert peak(SGVB(model, 50, False), parameters, x) > 5 * fifty


@pytest.mark.parametrize("posterior", SMOOTH)
def test_the_samples_are_what_they_are_called(make_model, rng, backend, posterior):
    """The normalized weights, and the slopes: the derivatives of log w by z, by differences, with q held constant."""
    model, parameters = make_model(backend, **SMALL, posterior=posterior)
    x, k = rng.random((5, 4)), 3
    samples, _ = step(DoublyReparameterized(model, k), parameters, x)
    log_w = log_weights(model, parameters, x, samples.z)
    np.testing.assert_allclose(samples.omega.reshape(k, 5), np.exp(log_w - logsumexp(log_w, axis=0)), rtol=1e-9)
    for j in range(2):
        along = np.eye(2)[j]
        numeric = extrapolated(
            lambda t: log_weights(model, parameters, x, samples.z + t * along).reshape(-1, 1),  # noqa: B023
            np.zeros((len(samples.z), 1)),
            1e-3,
        )
        np.testing.assert_allclose(samples.slope[:, j], numeric[:, 0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", POSTERIORS)
def test_slopes_of_the_noise(name):
    """Those of its log-density, by differences; a family has none where its support has ends."""
    posterior = POSTERIORS[name]
    assert (posterior.slope is None) == bool(np.all(np.isfinite(posterior.noise.icdf(np.array([0.0, 1.0])))))
    if posterior.slope is not None:
        eps = posterior.noise.icdf(np.linspace(0.001, 0.999, 50))
        np.testing.assert_allclose(posterior.slope(eps), extrapolated(posterior.noise.log_prob, eps, 1e-3), rtol=1e-8)
        assert posterior.slope(eps.astype(np.float32)).dtype == np.float32


def excess(model, parameters, x, k, change=lambda samples: samples):
    """Return by how much the means of both gradients differ, in multiples of what chance makes it."""
    many, pair = np.repeat(x, 2000, axis=0), (ImportanceWeighted(model, k), DoublyReparameterized(model, k))
    differences, size = [], 0
    for seed in range(40):
        one = step(pair[0], parameters, many, seed)[1].gradient.vector
        other = step(pair[1], parameters, many, seed, change)[1].gradient.vector
        differences.append(other - one)
        size += np.linalg.norm(other) / 40
    error = np.std(differences, axis=0, ddof=1) / np.sqrt(len(differences))
    assert np.linalg.norm(error) < 0.02 * size
    return np.linalg.norm(np.mean(differences, axis=0)) / np.linalg.norm(error)


def not_squared(samples):
    """The weights of the path, without the square."""
    return samples._replace(slope=samples.slope / samples.omega[:, None])


def not_normalized(samples):
    return samples._replace(omega=samples.omega * 3)


@pytest.mark.parametrize("posterior", SMOOTH)
@pytest.mark.parametrize("k", [1, 3])
def test_both_gradients_agree_on_average(make_model, rng, posterior, k):
    model, parameters = make_model(**SMALL, posterior=posterior, std=0.8)
    assert excess(model, parameters, rng.random((2, 4)), k) < 2


@pytest.mark.parametrize("wrong", [not_squared, not_normalized])
def test_wrong_weights_show_on_average(make_model, rng, wrong):
    model, parameters = make_model(**SMALL, std=0.8)
    assert excess(model, parameters, rng.random((2, 4)), 3, wrong) > 10


def test_a_density_with_ends_has_no_doubly_reparameterized_gradient(make_model, rng, monkeypatch):
    """Its ends move with the parameters, which no derivative of the density inside knows of."""
    monkeypatch.setitem(POSTERIORS, "uniform", POSTERIORS["uniform"]._replace(slope=np.zeros_like))
    model, parameters = make_model(**SMALL, posterior="uniform", std=0.8)
    assert excess(model, parameters, rng.random((2, 4)), 3) > 10


def test_one_sample_sticks_the_landing(make_model, rng, backend):
    """Where q is the posterior, the gradient of the encoder vanishes for any noise; that of version A does not.

    The decoder's is the same.
    """
    model, parameters, x, _ = where_q_is_the_posterior(rng, make_model, backend)
    for k in (1, 4):
        plain = step(ImportanceWeighted(model, k), parameters, x)[1].gradient
        found = step(DoublyReparameterized(model, k), parameters, x)[1].gradient
        for name, array in found.items():
            if name.startswith("encoder."):
                assert np.all(np.abs(array) < 1e-12)
            else:
                np.testing.assert_allclose(array, plain[name], rtol=1e-10, atol=1e-12)
        assert np.abs(plain["encoder.mu.W"]).min() > 1e-3


def test_the_encoders_signal_falls_with_k_unless_doubly_reparameterized(make_model, rng):
    """Its ratio to the noise, as 1 / sqrt(k) and as sqrt(k), for a q that resembles the posterior."""
    model, parameters = make_model(**SMALL, std=0.2)
    x, ratio, inside = rng.random((1, 4)), {}, model.layout.slices["encoder.mu.W"]
    for name, make in BOTH.items():
        for k in (1, 100):
            many = [step(make(model, k), parameters, x, seed)[1].gradient.vector[inside].copy() for seed in range(300)]
            ratio[name, k] = np.linalg.norm(np.mean(many, axis=0)) / np.linalg.norm(np.std(many, axis=0))
    assert ratio["iwae", 100] < 0.5 * ratio["iwae", 1]  # the mean of 300 has noise as well
    assert 5 < ratio["iwae-dreg", 100] / ratio["iwae-dreg", 1] < 20


# Trainings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", BOTH)
def test_resume_has_the_same_bits(rng, tmp_path, name, backend):
    X = rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4))
    settings = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "batch_size": 16, "max_epochs": 6, "random_state": 3}
    settings |= {"estimator": name, "backend": backend, "n_samples": 3}
    whole = npvae.VAE(2, **settings).fit(X)
    npvae.VAE(2, **settings, callbacks=(lambda epoch: epoch.epoch == 3,)).fit(X).save(tmp_path / "half.npz")
    rest = npvae.load(tmp_path / "half.npz").resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)
    assert rest.history_[-1].elbo == whole.history_[-1].elbo


@pytest.fixture(scope="module")
def ring():
    """Rows along a circle in five dimensions, where the posterior is no Gaussian."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 400)
    plane = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ rng.standard_normal((2, 5))
    return plane + 0.3 * rng.standard_normal((400, 5))


RING = {"hidden_layer_sizes": (20,), "learning_rate": 0.01, "optimizer": "adam", "batch_size": 50, "max_epochs": 40}


@pytest.mark.slow(reason="trains four models on a small table")
def test_more_samples_raise_log_p(ring):
    """log p(x) by quadrature: after trainings of single samples, and of five and fifty with both gradients."""
    X, trained = ring[:300], {}
    for name, k in (("sgvb-a", 1), ("iwae", 5), ("iwae-dreg", 5), ("iwae", 50)):
        model = npvae.VAE(2, **RING, random_state=0, estimator=name, n_samples=k).fit(X)
        trained[name, k] = quadrature(model, X[:100]).log_prob
        assert not any("unlucky" in warning for warning in model.health_.warnings)
    for key in list(trained)[1:]:
        mean, error = means_and_errors(trained[key] - trained["sgvb-a", 1])
        assert mean > 3 * error
    assert trained["iwae", 50].mean() > trained["iwae", 5].mean()


@pytest.mark.slow(reason="trains a model on a small table")
def test_validation_data_is_judged_by_the_bound_that_is_maximised(ring):
    """By that of single samples the best epoch is one of the first: q comes to serve many samples together."""
    model = npvae.VAE(2, **RING, random_state=0, estimator="iwae", n_samples=50).fit(ring[:300], X_valid=ring[300:])
    valid, best = ring[300:], max(model.history_, key=lambda epoch: epoch.elbo_valid)
    assert best.epoch > 20 and best.elbo_valid > model.history_[0].elbo_valid + 1
    log_p = quadrature(model, valid).log_prob.mean()
    assert abs(log_p - best.elbo_valid) < 0.5 and model.score(valid) < log_p - 2
    assert model.health_.elbo == pytest.approx(max(epoch.elbo for epoch in model.history_), abs=0.5)
    assert selection._bound(model, valid) == pytest.approx(best.elbo_valid, rel=1e-6)  # by which `fit` compares models


def test_a_scorer_of_this_bound(make_model, rng, backend):
    """Its mean over seeds is that of the estimator; of one sample it is the plain score, to the bit."""
    model, parameters = make_model(backend, **SMALL, std=1.5)
    data = Data(rng.random((200, 4)).repeat(5, axis=0), Scaling(np.zeros(4), np.ones(4)), 0.0, np.zeros(1000))
    found = [Scorer(model, seed, 8, importance_weighted=True)(parameters, data).mean() for seed in range(20)]
    values = [step(ImportanceWeighted(model, 8), parameters, data.X, seed)[1].value for seed in range(20)]
    (a, a_error), (b, b_error) = means_and_errors(found), means_and_errors(values)
    assert abs(a - b) < 3 * np.hypot(a_error, b_error)
    plain = Scorer(model, 0, 8)(parameters, data).mean()
    assert a - plain > 10 * a_error
    one, same = (Scorer(model, 0, 1, importance_weighted=weighted)(parameters, data) for weighted in (True, False))
    np.testing.assert_array_equal(one, same)


def test_a_score_of_many_samples_needs_little_memory(make_model, rng):
    model, parameters = make_model(n_features=784, n_components=5, hidden_layer_sizes=(200, 200), dtype="float32")
    data = Data(rng.random((500, 784), dtype=np.float32), Scaling(np.zeros(784), np.ones(784)), 0.0, np.zeros(500))
    found = []
    for k in (1, 50):
        tracemalloc.start()
        Scorer(model, 0, k, importance_weighted=True)(parameters, data)
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[1] < 1.5 * found[0]


def test_the_place_that_is_not_finite_is_named(make_model, rng, backend):
    for name, make in BOTH.items():
        model, parameters = make_model(backend, **SMALL)
        estimator, x = make(model, 3), rng.random((5, 4))
        samples, _ = estimator.sample(parameters, x, None, estimator.draw(rng, 5))
        assert first_nonfinite(estimator, parameters, x, samples) is None
        parameters["decoder.hidden1.b"][1] = np.nan
        assert first_nonfinite(estimator, parameters, x, samples) == "decoder.hidden1", name


def test_what_it_does_not_go_with_is_refused_by_name(rng):
    X = rng.random((20, 4))
    with pytest.raises(ValueError, match="posterior is 'uniform'; expected one of 'gaussian', .* for iwae-dreg"):
        npvae.VAE(2, estimator="iwae-dreg", posterior="uniform").fit(X)


@pytest.mark.parametrize("estimator, said", [("iwae", "test bound of single samples: "), ("sgvb-a", "test bound: ")])
def test_the_command_says_which_bound_it_has_of_test_rows(tmp_path, monkeypatch, capsys, estimator, said):
    """That of `score`, while the lines of training have the importance-weighted bound."""
    monkeypatch.chdir(tmp_path)
    np.save("bits.npy", np.random.default_rng(0).integers(0, 2, (60, 9)))
    options = ["--components", "1", "--hidden", "3", "--epochs", "1", "--learning-rate", "0.05", "--samples", "3"]
    assert cli.main(["train", "bits.npy", *options, "--estimator", estimator, "--backend", "reference"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(said)
