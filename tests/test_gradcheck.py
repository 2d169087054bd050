"""Gradients of every decoder, estimator and backend by finite differences, and the checker against wrong gradients."""

import numpy as np
import pytest

import npvae
from npvae.estimators import ESTIMATORS
from npvae.gradcheck import TOLERANCE, check_gradient, compare_gradients, gradient_problem, relative_error
from npvae.model import LIKELIHOODS, POSTERIORS

SMALL = {"n_components": 3, "hidden_layer_sizes": (4, 5)}


@pytest.fixture
def X(rng):
    return rng.random((12, 6))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_parameter(X, backend, likelihood, estimator):
    name = backend.__name__.rpartition(".")[2]
    settings = {"likelihood": likelihood, "estimator": estimator, "backend": name, "n_samples": 2}
    report = npvae.gradcheck(npvae.VAE(**SMALL, **settings), X)
    assert report.passed, str(report)
    decoder = 8 if "gaussian" in likelihood else 6
    arrays = 8 + decoder * (2 if estimator.startswith("full-vb") else 1)
    assert len(report.differences) == len(report.precision) == arrays


@pytest.mark.parametrize("estimator", ["sgvb-a", "sgvb-b"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior(X, backend, posterior, estimator):
    name = backend.__name__.rpartition(".")[2]
    settings = {"posterior": posterior, "estimator": estimator, "backend": name, "n_samples": 2, "dtype": "float64"}
    report = npvae.gradcheck(npvae.VAE(2, hidden_layer_sizes=(4,), **settings), X)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": (4,), "activation": "sigmoid"},
        {"hidden_layer_sizes": (4, 3, 2), "n_samples": 3},
    ],
)
def test_other_architectures(X, backend, settings):
    name = backend.__name__.rpartition(".")[2]
    report = npvae.gradcheck(npvae.VAE(2, likelihood="gaussian", backend=name, **settings), X)
    assert report.passed, str(report)


def test_large_net_along_directions(rng, backend):
    """The sizes of the paper's MNIST model; each array moves along one random direction."""
    model = npvae.VAE(20, hidden_layer_sizes=(500,), backend=backend.__name__.rpartition(".")[2])
    report = npvae.gradcheck(model, rng.random((20, 784)))
    assert report.passed, str(report)


def test_constant_log_var(make_model, rng, backend):
    model, parameters = make_model(backend, likelihood="gaussian", constant_log_var=True)
    estimator = ESTIMATORS["sgvb-b"](model, 2, 6)
    x = rng.random((6, 7))
    noise = estimator.draw(rng, 6)
    checks = check_gradient(lambda p: estimator.value_and_grad(p, x, noise), parameters)
    assert all(check.passed for check in checks), checks


def test_fitted_model(X):
    model = npvae.VAE(**SMALL, learning_rate=0.05, max_epochs=20, likelihood="gaussian").fit(X)
    assert npvae.gradcheck(model, X).passed


def scaled(function, name, factor):
    """Return a gradient function that is wrong by a factor in one array."""

    def wrong(parameters):
        value, gradient = function(parameters)
        gradient = gradient.layout.view(gradient.vector.copy())
        gradient[name][...] *= factor
        return value, gradient

    return wrong


@pytest.mark.parametrize("estimator", ["sgvb-a", "sgvb-b", "score-function-leave-one-out"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("full", [True, False], ids=["full", "directions"])
def test_a_gradient_wrong_by_a_thousandth_is_caught(X, full, likelihood, estimator):
    """In any single array, and in that array only; in float64 and in float32."""
    settings = {"likelihood": likelihood, "estimator": estimator, "n_samples": 2}
    model = npvae.VAE(2, hidden_layer_sizes=(3,), init_std=0.5, **settings)
    problem = gradient_problem(model, X[:, :3], 5, 0)
    reference = problem.reference(problem.parameters)[1]
    for name in problem.parameters.layout.shapes:
        checks = check_gradient(scaled(problem.exact, name, 1.001), problem.parameters, full=full)
        assert [check.name for check in checks if not check.passed] == [name]
        trained = scaled(problem.trained, name, 1.001)(problem.parameters)[1]
        checks = compare_gradients(trained, reference, problem.n_terms, problem.of_rows())
        assert [check.name for check in checks if not check.passed] == [name]


def test_nan_zero_and_swapped_gradients_are_caught(X):
    problem = gradient_problem(npvae.VAE(2, hidden_layer_sizes=(3,), backend="reference"), X, 5, 0)
    for factor in (np.nan, 0.0, -1.0):
        checks = check_gradient(scaled(problem.exact, "encoder.mu.W", factor), problem.parameters)
        assert [check.name for check in checks if not check.passed] == ["encoder.mu.W"]


def test_report_names_the_worst_and_the_failed(X, monkeypatch):
    from npvae.backends import reference

    def wrong(*arguments):
        dmu, dlog_var = right(*arguments)
        dlog_var *= 1.001
        return dmu, dlog_var

    right = reference.gaussian_latent_backward
    monkeypatch.setattr(reference, "gaussian_latent_backward", wrong)
    report = npvae.gradcheck(npvae.VAE(3, hidden_layer_sizes=(), backend="reference"), X)
    assert not report.passed
    assert report.failed == ["encoder.log_var.W", "encoder.log_var.b"]
    assert report.worst.name in report.failed
    assert "FAILED in encoder.log_var.W, encoder.log_var.b; worst: encoder.log_var" in str(report)


def test_check_of_ones_own_function():
    """A function of one's own, with a layout of one's own."""
    from npvae.parameters import Layout

    layout = Layout({"a.W": (2, 3), "a.b": (3,)})

    def value_and_grad(parameters):
        value = np.sum(np.sin(parameters["a.W"])) + np.sum(parameters["a.b"] ** 3)
        gradient = layout.view(np.empty(layout.size))
        gradient["a.W"][...] = np.cos(parameters["a.W"])
        gradient["a.b"][...] = 3 * parameters["a.b"] ** 2
        return value, gradient

    parameters = layout.view(np.linspace(0.1, 1, layout.size))
    before = parameters.vector.copy()
    assert max(check.error for check in check_gradient(value_and_grad, parameters)) < TOLERANCE / 1000
    np.testing.assert_array_equal(parameters.vector, before)


def test_relative_error():
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == 1
    assert np.isnan(relative_error(np.array([np.nan]), np.ones(1)))
