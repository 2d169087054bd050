"""Monte Carlo expectation-maximization: its chains, its updates, and what a model without encoder can do."""

import copy
import csv
import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import npvae
from npvae import backends, cli, evaluation, persistence, plots, training
from npvae.estimators import ESTIMATORS, MonteCarloEM, supports
from npvae.estimators.monte_carlo_em import ACCEPTANCE, UPDATES
from npvae.evaluation import METHODS, LinearGaussian, expectation_maximization
from npvae.likelihoods import LIKELIHOODS
from npvae.model import NO_ENCODER, Architecture, Model
from npvae.parameters import Buffers
from npvae.preprocessing import Data, Scaling
from npvae.samplers import effective_sample_size, hmc

LINEAR = {"hidden_layer_sizes": (), "likelihood": "gaussian", "constant_log_var": True, "has_encoder": False}
SMALL = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "batch_size": 16, "max_epochs": 4, "random_state": 3}
SMALL |= {"estimator": "monte-carlo-em", "backend": "reference"}


def as_linear_gaussian(model, parameters):
    J = model.architecture.n_components
    mu, log_var = model.decode(parameters, np.zeros((1, J)), Buffers(model.backend, model.dtype)).outputs
    return LinearGaussian(np.array(parameters["decoder.mu.W"]), mu[0].copy(), np.exp(log_var[0]))


@pytest.fixture
def X(rng):
    return rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4))


# The E-step -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def linear(make_model, backend):
    """A linear-Gaussian model, whose posterior is known."""
    return make_model(backend, n_features=4, n_components=2, **LINEAR)


def test_chains_converge_to_the_posterior_and_the_step_size_to_the_acceptance(linear, rng):
    model, parameters = linear
    R = 4000
    x = np.tile(rng.standard_normal((1, 4)), (R, 1))
    mean, covariance = as_linear_gaussian(model, parameters).posterior(x)
    estimator, state = MonteCarloEM(model, 1, R), None
    for _ in range(60):
        samples, state = estimator.sample(parameters, x, np.arange(R), estimator.draw(rng, R), state)
    variance = np.diag(covariance)
    assert np.all(np.abs(samples.z.mean(axis=0) - mean[0]) < 5 * np.sqrt(variance / R))
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / R)  # of a sample covariance of Gaussians
    assert np.all(np.abs(np.cov(samples.z.T) - covariance) < 5 * error)
    log_density = model.log_density(parameters, x)
    now = hmc.State(state.z[0], *log_density(state.z[0]))
    steps = np.full(R, state.step_size[0])
    _, info = hmc.transition(log_density, now, estimator.draw(rng, R), steps, 10)
    assert info.acceptance.mean() == pytest.approx(ACCEPTANCE, abs=0.02)


def test_each_row_has_its_own_chains(linear, rng):
    """Visited in minibatches, in any order: the mean of a row's draws is that of its posterior, and of no other's."""
    model, parameters = linear
    N, L, kept = 15, 2, 300
    X = 2 * rng.standard_normal((N, 4))
    exact, covariance = as_linear_gaussian(model, parameters).posterior(X)
    estimator, state, draws = MonteCarloEM(model, L, N), None, []
    for epoch in range(kept + 20):
        for rows in np.array_split(rng.permutation(N), 3):
            samples, state = estimator.sample(parameters, X[rows], rows, estimator.draw(rng, len(rows)), state)
            np.testing.assert_array_equal(samples.z.reshape(L, len(rows), 2), state.z[:, rows])
        if epoch >= 20:
            draws.append(state.z.copy())
    error = np.sqrt(np.diag(covariance) / effective_sample_size(np.array(draws)))  # (N, J)
    means = np.mean(draws, axis=(0, 1))
    assert np.all(np.abs(means - exact) < 5 * error)
    assert np.ptp(exact, axis=0).min() > 10 * error.max()  # another row's chain would be seen


def test_a_state_of_another_number_of_chains_is_not_taken(make_model, rng):
    model, parameters = make_model(has_encoder=False)
    x = rng.random((5, 7))
    one, two = MonteCarloEM(model, 1, 5), MonteCarloEM(model, 2, 5)
    _, state = one.sample(parameters, x, np.arange(5), one.draw(rng, 5))
    noise = two.draw(rng, 5)
    afresh, _ = two.sample(parameters, x, np.arange(5), noise)
    samples, state = two.sample(parameters, x, np.arange(5), noise, state)
    np.testing.assert_array_equal(samples.z, afresh.z)
    assert state.z.shape == (2, 5, 3)


# The M-step -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_value_is_the_mean_log_joint(make_model, rng, backend, likelihood):
    """Its gradient is checked by differences with those of all estimators."""
    model, parameters = make_model(backend, likelihood=likelihood, has_encoder=False)
    estimator, x = MonteCarloEM(model, 3, 5), rng.random((5, 7))
    samples, _ = estimator.sample(parameters, x, np.arange(5), estimator.draw(rng, 5))
    result = estimator.value_and_grad(parameters, x, samples)
    log_joint, _ = model.log_joint(parameters, x, samples.z)
    assert result.value == pytest.approx(log_joint.mean(), rel=1e-12) and math.isnan(result.elbo)
    assert all(name.startswith("decoder.") for name in model.layout.shapes)


@pytest.mark.slow(reason="trains for some seconds")
def test_it_reaches_exact_expectation_maximization(rng):
    """Its likelihood comes near the maximum, from below: nearer than the model that the data was drawn from."""
    truth = LinearGaussian(rng.standard_normal((2, 5)), np.zeros(5), np.exp(rng.standard_normal(5)))
    x = rng.standard_normal((1000, 2)) @ truth.W + np.sqrt(truth.variance) * rng.standard_normal((1000, 5))
    _, history = expectation_maximization(x, 2)
    model = Model(Architecture(5, 2, **LINEAR), backends.get("cpu"), "float64")
    settings = training.Settings("adam", 0.05, 0.0, 200, max_epochs=60, schedule="linear", averaging="polynomial")
    data = Data(x, Scaling(np.zeros(5), np.ones(5)), 0.0, np.zeros(len(x)))
    start = model.parameters(model.initial(np.random.default_rng(1), 0.1))
    trainer = training.Trainer(MonteCarloEM(model, 1, len(x)), start, data, np.random.default_rng(2), settings)
    training.train(trainer)
    likelihood = as_linear_gaussian(model, trainer.parameters).log_prob(x).mean()
    assert history[0] + 0.5 < truth.log_prob(x).mean() < likelihood <= history[-1] + 1e-9


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_resume_has_the_same_bits(X, tmp_path, backend):
    """From a file that was written in the middle of an epoch: it has the chains."""
    settings, written = SMALL | {"backend": backend, "n_samples": 2}, []

    def checkpoint(model):
        written.append(tmp_path / f"{len(written)}.npz")
        model.save(written[-1])

    whole = npvae.VAE(2, **settings).fit(X, checkpoint=checkpoint, checkpoint_every=0.0)
    half = next(model for model in map(npvae.load, written) if 0 < model.training_.progress.seen < 50)
    rest = half.resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)
    assert set(rest.training_.estimator) == {"z", "step_size"}
    for name, array in whole.training_.estimator.items():
        np.testing.assert_array_equal(rest.training_.estimator[name], array)
    assert [epoch.value for epoch in rest.history_] == [epoch.value for epoch in whole.history_]
    assert whole.training_.estimator["z"].shape == (2, 50, 2)
    assert whole.training_.progress.counter == [4 * 4 * UPDATES, -1]


def test_it_learns(rng):
    """log p(x), by quadrature over the prior, rises far above independent columns. The value shows it, not a bound."""
    X = rng.random((200, 1)) < 0.5
    X = np.where(rng.random((200, 8)) < 0.1, ~X, X)
    model = npvae.VAE(1, **SMALL | {"max_epochs": 20}).fit(X)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    y = model.inverse_transform(nodes[:, None]).astype(float)
    p = np.prod(np.where(X[:, None], y, 1 - y), axis=2) @ weights / weights.sum()
    independent = LIKELIHOODS["bernoulli"].baseline(X.mean(axis=0), X.var(axis=0), 8).sum()
    assert np.log(p).mean() > independent + 1
    assert all(math.isnan(epoch.elbo) for epoch in model.history_)
    assert model.history_[-1].value > model.history_[0].value + 1
    assert "encoder: none" in repr(model) and "no bound, value -" in repr(model) and not hasattr(model, "health_")


def test_the_value_of_other_estimators_is_their_bound(X):
    model = npvae.VAE(2, **SMALL | {"estimator": "sgvb-b"}).fit(X)
    assert all(epoch.value == epoch.elbo for epoch in model.history_)


def test_a_history_without_values_is_read(X, tmp_path, monkeypatch):
    """As earlier versions wrote it."""
    model = npvae.VAE(2, **SMALL | {"estimator": "sgvb-b"}).fit(X)
    header, arrays = persistence.to_file(model, {})
    header["version"] = 4
    header["history"] = [epoch[:5] for epoch in header["history"]]
    del header["progress"]["total_value"], header["architecture"]["has_encoder"]
    again = persistence.from_file(npvae.VAE, header, arrays)
    assert again.history_[0].elbo == model.history_[0].elbo and math.isnan(again.history_[0].value)
    assert again.architecture_.has_encoder


@pytest.mark.parametrize("step_size", [np.zeros(1), -np.ones(1), np.ones(2)])
def test_a_damaged_step_size_is_refused(fitted, step_size):
    header, arrays = persistence.to_file(fitted[0], {})
    with pytest.raises(ValueError, match=r"estimator.step_size is "):
        persistence.from_file(npvae.VAE, header | {"version": 5}, arrays | {"estimator.step_size": step_size})


def test_training_that_diverges_is_stopped(X):
    with pytest.raises(training.NonFiniteError, match="of decoder"), np.errstate(all="ignore"):
        npvae.VAE(2, **SMALL | {"learning_rate": 1e30}).fit(X)


# A model without encoder ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(4)
    X = (rng.random((40, 9)) < rng.random((40, 1))).astype(float)
    return npvae.VAE(2, **SMALL).fit(X), X


NEED = {
    "transform": lambda model, X: model.transform(X),
    "reconstruct": lambda model, X: model.reconstruct(X),
    "score": lambda model, X: model.score(X),
    "score_samples": lambda model, X: model.score_samples(X),
    "encode": lambda model, X: model.fitted_.encode(model.fitted_.data(X)),
    "examine": lambda model, X: evaluation.examine(model.fitted_, model.fitted_.data(X), model.history_),
    "quadrature": lambda model, X: evaluation.quadrature(model, X),
    "gradient_variance": lambda model, X: evaluation.gradient_variance(model, X),
    "manifold": lambda model, X: plots.manifold(model, X),
    "latent_space": lambda model, X: plots.latent_space(model, X),
    "reconstructions": lambda model, X: plots.reconstructions(model, X),
    "another estimator in its place": lambda model, X: copy.copy(model).set_params(estimator="sgvb-b").transform(X),
}


@pytest.mark.parametrize("name", NEED)
def test_what_needs_an_encoder_says_so(fitted, name):
    with pytest.raises(ValueError, match=r"the model has no encoder, and so no q\(z\|x\)"):
        NEED[name](*fitted)


@pytest.mark.parametrize("method", ["importance", "quadrature"])
def test_methods_that_need_an_encoder_say_so(fitted, method):
    model, X = fitted
    assert NO_ENCODER.endswith(" or ".join(repr(name) for name, row in METHODS.items() if not row.needs_encoder))
    with pytest.raises(ValueError, match=f"method is '{method}', which needs an encoder, and the model has none"):
        model.log_likelihood(X, method=method)


REFUSED = {
    "step size": (lambda X: vae(learning_rate="auto").fit(X), "learning_rate is 'auto'; expected a number for monte-"),
    "validation": (
        lambda X: vae().fit(X, X_valid=X),
        "X_valid is given; expected None for monte-carlo-em, which has no",
    ),
    "validation of fit": (
        lambda X: npvae.fit(X, X_valid=X, estimator="monte-carlo-em", verbose=False),
        "X_valid is given; expected None for monte-carlo-em",
    ),
    "pieces": (lambda X: vae().partial_fit(X), "estimator is 'monte-carlo-em', which keeps Markov chains of all rows"),
    "another piece": (lambda X: vae().fit(X).partial_fit(X), "keeps Markov chains of all rows"),
    "posterior": (lambda X: vae(posterior="laplace").fit(X), "posterior is 'laplace'; expected 'gaussian' for monte-"),
    "resumed with an encoder": (
        lambda X: vae().fit(X).set_params(estimator="sgvb-b", max_epochs=5).resume(X),
        "estimator is 'sgvb-b', but the model was fitted with another one, for fixed weights, no encoder",
    ),
    "resumed without": (
        lambda X: vae(estimator="sgvb-b").fit(X).set_params(estimator="monte-carlo-em", max_epochs=5).resume(X),
        "estimator is 'monte-carlo-em', but the model was fitted with another one, for fixed weights, an encoder",
    ),
}


def vae(**changes):
    return npvae.VAE(2, **SMALL | {"max_epochs": 1} | changes)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_bound_or_all_rows_is_refused(X, name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call(X)


def test_it_does_not_run_on_cuda():
    assert not supports("monte-carlo-em", "gaussian", "cuda")  # its chains are on the host


def test_what_needs_no_encoder_works(fitted, tmp_path):
    model, X = fitted
    model.save(tmp_path / "m.npz")
    for other in npvae.load(tmp_path / "m.npz"), copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        np.testing.assert_array_equal(other.sample(5), model.sample(5))
        np.testing.assert_array_equal(
            other.inverse_transform(np.ones((1, 2))), model.inverse_transform(np.ones((1, 2)))
        )
        log_joint, gradient = other.fitted_.log_joint(X)(np.zeros((len(X), 2)))
        assert log_joint.shape == (40,) and gradient.shape == (40, 2)
    assert list(model.get_feature_names_out()) == ["vae0", "vae1"] and model.weight_divergence() == 0
    assert npvae.gradcheck(model, X).passed
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the samples are few
        found = [model.log_likelihood(X[:4], method=method, n_samples=8) for method in ("marginal", "annealed")]
    assert np.all(np.isfinite(found))
    titles = [ax.get_title().partition("\n")[0] for ax in plots.summary(model, X, (3, 3)).axes]
    assert titles == ["Learning curve", "Samples: E[x|z], z from the prior"]


def test_fit_makes_no_trials(X):
    """There is no bound to choose a weight prior by."""
    model = npvae.fit(X, estimator="monte-carlo-em", backend="reference", max_epochs=2, verbose=False)
    assert model.weight_prior == 1 and not any(line.startswith("held-out rows") for line in model.report_)


def test_the_command_trains_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("images.npy", (rng.random((60, 9)) < rng.random((60, 1))).astype(np.uint8) * 255)
    options = ["--estimator", "monte-carlo-em", "--epochs", "2", "--backend", "reference", "--out", "m.npz"]
    assert cli.main(["train", "images.npy", *options, "--learning-rate", "0.05"]) == 0
    found = capsys.readouterr()
    assert "no bound, value -" in found.err and "test bound" not in found.out
    (header, *rows) = csv.reader((tmp_path / "m.curve.csv").read_text().splitlines())
    assert [row[header.index("elbo_train")] for row in rows] == ["nan", "nan"]
    assert cli.main(["resume", "m.npz", "--epochs", "3"]) == 0
    assert cli.main(["sample", "m.npz"]) == 0
    assert cli.main(["score", "m.npz", "images.npy"]) == 1
    assert "no encoder, and so no bound; expected --method marginal or annealed" in capsys.readouterr().err
    assert cli.main(["train", "images.npy", *options, "--force"]) == 1
    assert "--learning-rate is 'auto'; expected a number for monte-carlo-em" in capsys.readouterr().err


def test_the_row_of_the_table_says_it():
    assert [name for name, spec in ESTIMATORS.items() if not spec.has_encoder] == ["monte-carlo-em"]


def test_the_page_is_run(capsys):
    page = (Path(__file__).parents[1] / "docs" / "baselines.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # three epochs are not a good model
        exec(code, {"__name__": "page"})
    assert len(capsys.readouterr().out.split()) == 3
