"""The minibatch estimator (equation 8): its average over all minibatches is the estimate from all datapoints.

The noise of each datapoint is fixed, so this is an identity, for values and gradients. Estimators are per datapoint:
equation 8 divided by N.
"""

from itertools import combinations, product

import numpy as np
import pytest

from npvae.estimators import ESTIMATORS, ScoreFunction
from npvae.estimators.score_function import Baseline
from npvae.likelihoods import LIKELIHOODS

N, L = 5, 3

#: How minibatches of M rows are chosen: an epoch goes through all rows, the authors' code draws with replacement.
CHOICES = {"without replacement": combinations, "with replacement": lambda rows, M: product(rows, repeat=M)}

#: Thousands of additions of numbers of about this size are exact to a part in 10^12.
ROUNDING = 1e-12


def parts(noise, rows):
    """Return the noise of some rows; noise of the weights belongs to all of them."""
    if hasattr(noise, "_fields"):
        return type(noise)(*(parts(array, rows) if len(array) == L * N else array for array in noise))
    shape = noise.shape[1:]
    return noise.reshape(L, N, *shape)[:, rows].reshape(L * len(rows), *shape)


def estimates(estimator, parameters, x, noise, minibatches):
    """Return value, bound if there is one, and gradient of each minibatch, as rows."""
    found = []
    for rows in minibatches:
        state = Baseline(np.array([-1.5])) if estimator.State is Baseline else None
        of_rows = parts(noise, rows)
        samples, _ = estimator.sample(parameters, x[rows], rows, of_rows, state)
        result = estimator.value_and_grad(parameters, x[rows], samples)
        bounds = [result.elbo] if estimator.model.encoder else []
        found.append([result.value, *bounds, *result.gradient.vector])
    return np.array(found)


def spread_and_error(estimator, parameters, x, rng, M, choose):
    """Return how far minibatches are from all datapoints: the farthest one, and their average, relative to the size."""
    noise = estimator.draw(rng, N)
    noise = type(noise)(*map(np.array, noise)) if hasattr(noise, "_fields") else np.array(noise)
    (exact,) = estimates(estimator, parameters, x, noise, [np.arange(N)])
    found = estimates(estimator, parameters, x, noise, map(np.array, choose(range(N), M)))
    size = np.abs(found).max(axis=0)
    size[size == 0] = 1  # a pixel that no dream has does not teach the encoder
    return np.max(np.abs(found - exact) / size), np.max(np.abs(found.mean(axis=0) - exact) / size)


@pytest.fixture
def make(rng, make_model):
    def make(name, likelihood, backend=None):
        spec = ESTIMATORS[name]
        fields = {"random_weights": spec.random_weights, "has_encoder": spec.has_encoder}
        model, parameters = make_model(backend, likelihood=likelihood, **fields)
        return spec.make(model, L, N), parameters, rng.random((N, model.architecture.n_features))

    return make


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("M", [1, 2, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased_over_minibatches(make, rng, name, likelihood, M, choice):
    estimator, parameters, x = make(name, likelihood)
    spread, error = spread_and_error(estimator, parameters, x, rng, M, CHOICES[choice])
    assert error < ROUNDING < 1e-3 < spread


@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiled(make, rng, backend, name):
    estimator, parameters, x = make(name, "bernoulli", backend)
    spread, error = spread_and_error(estimator, parameters, x, rng, 2, combinations)
    assert error < ROUNDING < 1e-3 < spread


def test_a_baseline_from_the_minibatch_itself_is_caught(make, rng, monkeypatch):
    """The mean of its own values depends on which datapoints are together: biased, by a little."""
    monkeypatch.setattr(ScoreFunction, "_baseline", lambda self, f, state: f.mean())
    estimator, parameters, x = make("score-function", "bernoulli")
    _, error = spread_and_error(estimator, parameters, x, rng, 2, combinations)
    assert error > 1e6 * ROUNDING
