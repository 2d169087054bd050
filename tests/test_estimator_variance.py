"""Variances of estimators: against exact ones, and the facts that the measurements are there to show."""

import numpy as np
import pytest

import npvae
from npvae import evaluation
from npvae.backends.formulas import MIN_LOG_VAR, softplus
from npvae.evaluation import estimator_variance
from npvae.model import Model

SETTINGS = {"hidden_layer_sizes": (6,), "backend": "reference", "dtype": "float64", "likelihood": "bernoulli"}


@pytest.fixture
def X(rng):
    return (rng.random((50, 5)) < 0.4).astype(float)


def by(measurements, **what):
    (found,) = [m for m in measurements if all(getattr(m, name) == value for name, value in what.items())]
    return found


def test_against_gradients_kept_and_compared(X):
    """The same variances, from all gradients at once; the halves of the squared distances agree within their error."""
    model = npvae.VAE(2, **SETTINGS, init_std=0.5)
    measured = evaluation.gradient_variance(
        model, X, estimators=["sgvb-a"], n_samples=[2], batch_sizes=[3], repeats=4000
    )
    architecture, data, vector, backend = model.starting_point(X)
    inner = Model(architecture, backend, "float64")
    estimates = estimator_variance._estimates(
        npvae.estimators.ESTIMATORS["sgvb-a"].make(inner, 2, len(data.X)), inner.parameters(vector), data, 3, 9
    )
    kept = [next(estimates)[0] for _ in range(2000)]
    for group in ("encoder", "decoder"):
        m = by(measured, group=group)
        assert m.variance == pytest.approx(
            np.var([g[group] for _, g in kept], axis=0, ddof=1).sum(), abs=5 * m.variance_error
        )
        assert 0 < m.noise_variance < m.variance and m.variance_error < 0.05 * m.variance
    m = by(measured, group="value")
    assert m.variance == pytest.approx(np.var([value for value, _ in kept], ddof=1), abs=5 * m.variance_error)


@pytest.mark.slow(reason="estimates variances from thousands of gradients")
def test_noise_falls_with_samples_and_all_with_the_minibatch(X):
    model = npvae.VAE(2, **SETTINGS, init_std=0.5)
    measured = evaluation.gradient_variance(
        model, X, estimators=["sgvb-b"], n_samples=[1, 4], batch_sizes=[1, 8], repeats=2000
    )
    one, four, eight = (by(measured, group="encoder", n_samples=L, batch_size=M) for L, M in ((1, 1), (4, 1), (1, 8)))
    assert one.noise_variance == pytest.approx(4 * four.noise_variance, rel=0.2)
    assert one.variance == pytest.approx(8 * eight.variance, rel=0.2)


@pytest.mark.slow(reason="estimates variances from thousands of gradients")
def test_the_score_function_varies_most_and_baselines_help(X):
    model = npvae.VAE(2, **SETTINGS, init_std=0.5)
    measured = evaluation.gradient_variance(model, X, n_samples=[1, 2], batch_sizes=[5], repeats=1000)
    variance = {(m.estimator, m.n_samples): m.noise_variance for m in measured if m.group == "encoder"}
    assert variance["sgvb-b", 2] < variance["sgvb-a", 2] < variance["score-function-leave-one-out", 2]
    assert variance["score-function-running", 2] < variance["score-function", 2]
    once = {name for name, L in variance} - {name for name, L in variance if L == 1}
    assert once == {"score-function-leave-one-out"}  # all others with one sample, too


def test_value_of_version_a_has_no_variance_where_q_is_the_posterior(rng):
    """One latent, all linear: log p(x, z) - log q(z|x) is then log p(x) for any z; log p(x|z) alone depends on z."""
    X = rng.standard_normal((30, 3))
    model = npvae.VAE(1, **SETTINGS | {"hidden_layer_sizes": (), "likelihood": "gaussian"}, max_epochs=1).fit(X)
    parameters = model.parameters_
    parameters.vector[...] = 0
    W, log_var = parameters["decoder.mu.W"], softplus(-MIN_LOG_VAR) + MIN_LOG_VAR  # of every column, at a bias of 0
    W[...] = [[0.8, -0.5, 1.1]]
    precision = 1 + np.sum(W**2) / np.exp(log_var)
    parameters["encoder.mu.W"][...] = W.T / np.exp(log_var) / precision
    parameters["encoder.log_var.b"][...] = -np.log(precision)
    measured = evaluation.gradient_variance(model, X, estimators=["sgvb-a", "sgvb-b"], n_samples=[1], batch_sizes=[2])
    assert by(measured, group="value", estimator="sgvb-a").noise_variance < 1e-25
    assert by(measured, group="value", estimator="sgvb-b").noise_variance > 1e-2
    assert by(measured, group="encoder", estimator="sgvb-a").noise_variance > 1e-2  # its gradient does vary


def test_table(X):
    measured = evaluation.gradient_variance(
        npvae.VAE(1, **SETTINGS), X, estimators=["sgvb-b"], n_samples=[1], repeats=4
    )
    lines = evaluation.table(measured).splitlines()
    assert (
        len(lines) == 2 + 3
        and lines[2].startswith("| sgvb-b | 1 | 1 | ")
        and len({line.count("|") for line in lines}) == 1
    )


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"repeats": 0}, ValueError, "repeats is 0; expected an integer of at least 4"),
        ({"repeats": 3}, ValueError, "repeats is 3; expected an integer of at least 4"),
        ({"repeats": 10.0}, ValueError, "repeats is 10.0; expected an integer of at least 4"),
        ({"n_samples": 5}, TypeError, "n_samples is 5; expected a sequence of integers"),
        ({"n_samples": []}, ValueError, "n_samples is empty; expected at least one of the integers"),
        ({"n_samples": [1, 0]}, ValueError, r"n_samples\[1\] is 0; expected an integer of at least 1"),
        ({"n_samples": [[1]]}, TypeError, r"n_samples is \[\[1\]\]; expected a sequence of integers"),
        ({"batch_sizes": [1.5]}, ValueError, r"batch_sizes\[0\] is 1.5; expected an integer of at least 1"),
        ({"batch_sizes": -2}, TypeError, "batch_sizes is -2; expected a sequence of integers"),
        ({"batch_sizes": ()}, ValueError, "batch_sizes is empty; expected"),
        ({"estimators": "sgvb-b"}, TypeError, "estimators is 'sgvb-b'; expected a sequence of names"),
        ({"estimators": []}, ValueError, "estimators is empty; expected at least one of the names"),
        ({"estimators": ["sgvb"]}, ValueError, r"estimators\[0\] is 'sgvb'; expected one of 'sgvb-a', 'sgvb-b'"),
        ({"estimators": ["sgvb-a", "full-vb"]}, ValueError, r"estimators\[1\] is 'full-vb', which cannot train this m"),
        ({"estimators": ["score-function-leave-one-out"], "n_samples": [1]}, ValueError, "n_samples is .*at least 2"),
        ({"random_state": -1}, ValueError, "random_state is -1; expected an integer of at least 0"),
    ],
)
def test_what_it_cannot_do_is_refused(X, options, error, message):
    with pytest.raises(error, match=message):
        evaluation.gradient_variance(npvae.VAE(1, **SETTINGS), X, **options)


def test_an_estimator_of_another_posterior_is_refused(X):
    with pytest.raises(ValueError, match="'score-function', which cannot train this model on the backend 'reference'"):
        evaluation.gradient_variance(npvae.VAE(1, **SETTINGS, posterior="laplace"), X, estimators=["score-function"])
    with pytest.raises(TypeError, match="model is of type ndarray; expected a VAE"):
        evaluation.gradient_variance(X, X)
