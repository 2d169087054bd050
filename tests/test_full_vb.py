"""Full variational Bayes against exact answers: a random bias in closed form, a random weight by quadrature."""

from types import SimpleNamespace

import numpy as np
import planted
import pytest
import scipy.stats
from scipy.special import expit, logsumexp

import npvae
from npvae import backends, fitting
from npvae.estimators import first_nonfinite
from npvae.estimators.full_vb import FullVB, Noise

N, D, J = 5, 4, 2


def normal(x, mu, log_var):
    return scipy.stats.norm(mu, np.exp(log_var / 2)).logpdf(x)


# A linear-Gaussian model whose only random weights are the biases of the means --------------------------------------


def linear_gaussian(make_model, rng, backend=None):
    """Return (model, parameters, x): with all x in one minibatch, nothing is random but the noise."""
    model, parameters = make_model(
        backend, n_features=D, n_components=J, hidden_layer_sizes=(), likelihood="gaussian", constant_log_var=True,
        random_weights="decoder.mu.b",
    )  # fmt: skip
    return model, parameters, rng.standard_normal((N, D))


def joint_posterior(parameters, x):
    """Return mean and precision of p(b, z_1, ..., z_N | X), and log p(X)."""
    W, variance = parameters["decoder.mu.W"], np.exp(_log_var(parameters))
    precision = np.eye(D + N * J)
    precision[:D, :D] += N * np.diag(1 / variance)
    right = np.empty(D + N * J)
    right[:D] = x.sum(axis=0) / variance
    for i in range(N):
        z = slice(D + i * J, D + (i + 1) * J)
        precision[z, z] += (W / variance) @ W.T
        precision[z, :D] = W / variance
        precision[:D, z] = precision[z, :D].T
        right[z] = (W / variance) @ x[i]
    covariance = np.kron(np.ones((N, N)), np.eye(D)) + np.kron(np.eye(N), W.T @ W + np.diag(variance))
    evidence = scipy.stats.multivariate_normal(np.zeros(N * D), covariance).logpdf(x.ravel())
    return np.linalg.solve(precision, right), precision, evidence


def _log_var(parameters):
    return backends.get("reference").dense(
        np.empty((1, 0)), np.empty((0, D)), parameters["decoder.log_var.b"], "soft_floor"
    )[0]


def divergence_from_posterior(parameters, x):
    """Return D_KL(q(b) prod_i q(z_i|x_i) || p(b, z|X)) in closed form."""
    mean, precision, _ = joint_posterior(parameters, x)
    mu = np.concatenate([
        parameters["decoder.mu.b"], (x @ parameters["encoder.mu.W"] + parameters["encoder.mu.b"]).ravel(),
    ])  # fmt: skip
    log_var = np.concatenate([parameters["decoder.mu.b.log_var"], np.tile(parameters["encoder.log_var.b"], N)])
    error, spread = mu - mean, np.exp(log_var) @ np.diag(precision)
    return 0.5 * (spread + error @ precision @ error - len(mu) - np.linalg.slogdet(precision)[1] - log_var.sum())


def bound(model, parameters, x, analytic_kl=True, n_datapoints=N):
    """Return the expectation of the estimate and of its gradient.

    Both are quadratic in the noise: the 2 K nodes +-sqrt(K) e_k integrate them exactly.
    """
    K, estimator = J + D, FullVB(model, 1, n_datapoints, analytic_kl)
    values, gradients = [], []
    for node in np.sqrt(K) * np.concatenate([np.eye(K), -np.eye(K)]):
        noise = Noise(np.tile(node[:J], (N, 1)), node[J:].copy())
        value, _, gradient = estimator.value_and_grad(parameters, x, noise)
        values.append(value)
        gradients.append(gradient.vector.copy())
    return np.mean(values), parameters.layout.view(np.mean(gradients, axis=0))


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_bound_and_joint_divergence_make_the_evidence(make_model, rng, backend, analytic_kl):
    """log p(X) = bound + D_KL(q || p(theta, z|X)): the notes' two nested decompositions, anywhere."""
    model, parameters, x = linear_gaussian(make_model, rng, backend)
    evidence = joint_posterior(parameters, x)[2]
    value, _ = bound(model, parameters, x, analytic_kl)
    assert N * value + divergence_from_posterior(parameters, x) == pytest.approx(evidence, abs=1e-8)
    wrong, _ = bound(model, parameters, x, analytic_kl, n_datapoints=1)  # the divergence of the weights N times
    assert abs(N * wrong + divergence_from_posterior(parameters, x) - evidence) > 1e-2


def test_planted_errors_leave_a_gap(make_model, rng):
    for error in (planted.standard_deviation_for_variance, planted.kl_without_one):
        model, parameters, x = linear_gaussian(make_model, rng, error())
        found = N * bound(model, parameters, x)[0] + divergence_from_posterior(parameters, x)
        assert abs(found - joint_posterior(parameters, x)[2]) > 1e-2


def test_the_gradient_vanishes_at_the_mean_field_optimum(make_model, rng, backend):
    """There the means are those of the exact posterior, and the variances one over the diagonal of its precision."""
    model, parameters, x = linear_gaussian(make_model, rng, backend)
    mean, precision, evidence = joint_posterior(parameters, x)
    W, variance = parameters["decoder.mu.W"], np.exp(_log_var(parameters))
    parameters["decoder.mu.b"][...] = mean[:D]
    parameters["decoder.mu.b.log_var"][...] = -np.log(np.diag(precision)[:D])
    parameters["encoder.mu.W"][...] = np.linalg.solve(np.eye(J) + (W / variance) @ W.T, W / variance).T
    parameters["encoder.mu.b"][...] = -mean[:D] @ parameters["encoder.mu.W"]
    parameters["encoder.log_var.b"][...] = -np.log(np.diag(precision)[D : D + J])
    best, gradient = bound(model, parameters, x)
    for name in ("decoder.mu.b", "decoder.mu.b.log_var", "encoder.mu.W", "encoder.mu.b", "encoder.log_var.b"):
        np.testing.assert_allclose(gradient[name], 0, atol=1e-8, err_msg=name)
    assert N * best < evidence

    for name in ("decoder.mu.b", "decoder.mu.b.log_var"):  # and it is a maximum: every step away lowers the bound
        for i in range(D):
            for step in (-0.1, 0.1):
                parameters[name][i] += step
                assert bound(model, parameters, x)[0] < best
                parameters[name][i] -= step


# One random weight, a Bernoulli decoder -----------------------------------------------------------------------------


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_one_weight_by_quadrature(make_model, rng, backend, analytic_kl):
    """log p(X) by a grid over the weight and z; its distance to the bound is the KL divergence from the posterior."""
    model, parameters = make_model(
        backend, n_features=1, n_components=1, hidden_layer_sizes=(), random_weights="decoder.logits.W"
    )
    x = np.array([[1.0], [0.0], [1.0]])
    parameters["decoder.logits.W.log_var"][...] = -0.7
    b = parameters["decoder.logits.b"][0]
    mu, log_var = (x @ parameters[f"encoder.{h}.W"] + parameters[f"encoder.{h}.b"] for h in ("mu", "log_var"))
    mean, spread = (parameters["decoder.logits.W" + end][0, 0] for end in ("", ".log_var"))

    # The bound by Gauss-Hermite nodes put through the estimator, a pair of noises at a time.
    points, weights = np.polynomial.hermite_e.hermegauss(48)
    weights, estimator = weights / weights.sum(), FullVB(model, 1, len(x), analytic_kl)
    value = 0.0
    for zeta, v in zip(points, weights):
        for eps, w in zip(points, weights):
            noise = Noise(np.full((3, 1), eps), np.array([zeta]))
            value += v * w * estimator.value_and_grad(parameters, x, noise).value

    # The evidence and the posteriors on a grid: theta along the first axis, z along the second.
    axis = np.linspace(-12, 12, 1201)
    step, theta, z = axis[1] - axis[0], axis[:, None], axis[None, :]
    log_prior, log_q = normal(axis, 0, 0), normal(axis, mean, spread)
    log_joint = log_prior.copy()
    divergence_of_z = 0.0
    for i in range(len(x)):
        log_p = np.log(expit(np.where(x[i] == 1, 1, -1) * (theta * z + b))) + normal(z, 0, 0)
        log_p_x = logsumexp(log_p, axis=1) + np.log(step)  # log p(x_i|theta)
        log_joint += log_p_x
        log_q_z = normal(z, mu[i], log_var[i])
        kl = (np.exp(log_q_z) * (log_q_z - log_p + log_p_x[:, None])).sum(axis=1) * step
        divergence_of_z += (np.exp(log_q) * kl).sum() * step
    evidence = logsumexp(log_joint) + np.log(step)
    divergence_of_theta = (np.exp(log_q) * (log_q - log_joint + evidence)).sum() * step
    assert divergence_of_theta > 0.01 and divergence_of_z > 0.01
    assert 3 * value + divergence_of_theta + divergence_of_z == pytest.approx(evidence, abs=1e-6)


# In the VAE -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def X(rng):
    return (rng.random((40, 6)) < 0.3).astype(np.uint8)


SMALL = {"n_components": 2, "hidden_layer_sizes": (5,), "learning_rate": 0.05, "batch_size": 10, "max_epochs": 4}


@pytest.mark.parametrize("estimator", ["full-vb", "full-vb-sampled"])
def test_a_fit(X, estimator, tmp_path):
    model = npvae.VAE(**SMALL, estimator=estimator).fit(X)
    assert model.weight_divergence() > 0
    np.testing.assert_array_equal(model.score_samples(X), model.score_samples(X))
    mean, std = model.inverse_transform(np.zeros((3, 2))), model.predictive_std(np.zeros((3, 2)))
    assert mean.shape == std.shape == (3, 6) and np.all(std > 0)
    model.save(tmp_path / "m.npz")
    again = npvae.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert again.weight_divergence() == model.weight_divergence()


def test_predictions_are_averages_over_draws_of_the_weights(X, rng):
    """Against many draws by hand; and sigma to zero is fixed weights."""
    model = npvae.VAE(**SMALL, estimator="full-vb", dtype="float64").fit(X)
    parameters, z = model.parameters_, rng.standard_normal((2, 2))
    for name, _ in parameters.items():
        if name.endswith(".log_var"):
            parameters[name][...] = np.log(0.3**2)

    def draw(name):
        return parameters[name] + 0.3 * rng.standard_normal(parameters[name].shape)

    def decode():
        h = np.tanh(z @ draw("decoder.hidden1.W") + draw("decoder.hidden1.b"))
        return expit(h @ draw("decoder.logits.W") + draw("decoder.logits.b"))

    draws = np.array([decode() for _ in range(4000)])
    error = draws.std(axis=0) / np.sqrt(npvae.estimators.WEIGHT_DRAWS)
    assert np.abs((model.inverse_transform(z) - draws.mean(axis=0)) / error).max() < 4.5
    ratio = (model.predictive_std(z) / draws.std(axis=0)) ** 2  # a mean square of ten: its own deviation is 0.45
    assert abs(ratio.mean() - 0.9) < 0.6
    for name, _ in parameters.items():
        if name.endswith(".log_var"):
            parameters[name][...] = -80
    assert model.predictive_std(z).max() < 1e-12


def test_fixed_weights_have_no_divergence_and_no_spread(X):
    model = npvae.VAE(**SMALL).fit(X)
    assert model.weight_divergence() == 0
    np.testing.assert_array_equal(model.predictive_std(np.zeros((3, 2))), 0)


def test_history_is_the_datapoints_bound(X):
    """Without the divergence of the weights, so that it can be compared with scores and with fixed weights."""
    model = npvae.VAE(**SMALL | {"max_epochs": 200}, estimator="full-vb").fit(X)
    assert model.weight_divergence() / len(X) > 2
    assert abs(model.history_[-1].elbo - model.score(X)) < 1


def test_no_second_prior_on_the_weights(X):
    """The optimizer adds none, to no array; for fixed weights it does."""
    for estimator, decay in (("full-vb", 0), ("sgvb-b", 1 / len(X))):
        vae = npvae.VAE(**SMALL, estimator=estimator).fit(X)
        settings = SimpleNamespace(**vae.get_params())
        _, run = fitting.begin(settings, X, say=lambda message: None)
        trainer = run.trainer
        assert trainer.optimizer.rule.weight_decay == decay
    with pytest.raises(ValueError, match="weight_prior is 0.5; expected 1 for full-vb"):
        npvae.VAE(**SMALL, estimator="full-vb", weight_prior=0.5).fit(X)


def test_other_estimators_do_not_go_on_with_it(X):
    model = npvae.VAE(**SMALL, estimator="full-vb").fit(X)
    with pytest.raises(ValueError, match="'sgvb-b', but the model was fitted with another one, for random weights"):
        model.set_params(estimator="sgvb-b", max_epochs=8).resume(X)
    model = npvae.VAE(**SMALL).fit(X)
    with pytest.raises(ValueError, match="'full-vb', but the model was fitted with another one, for fixed weights"):
        model.set_params(estimator="full-vb", max_epochs=8).resume(X)
    model = npvae.VAE(**SMALL, posterior="laplace").fit(X)
    with pytest.raises(
        ValueError, match="'score-function', but the model .* posterior 'laplace'; call fit to start again"
    ):
        model.set_params(estimator="score-function", posterior="gaussian", max_epochs=8).resume(X)


def test_a_value_that_is_not_finite_is_named(X):
    """The array that it is in, not what the inner estimator has no gradient of."""
    vae = npvae.VAE(**SMALL, estimator="full-vb", backend="reference").fit(X)
    model = vae.fitted_.model
    estimator, x = FullVB(model, 1, len(X)), X.astype(np.float32)
    noise = estimator.draw(np.random.default_rng(0), len(x))
    assert first_nonfinite(estimator, vae.parameters_, x, noise) is None
    vae.parameters_["decoder.logits.b.log_var"][2] = np.nan
    assert first_nonfinite(estimator, vae.parameters_, x, noise) == "decoder.logits"
