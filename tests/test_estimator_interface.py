"""The interface of estimators: one that npvae does not have is written here and trained by the same loop.

It keeps an array a datapoint from epoch to epoch, as Markov chains would. If the interface can carry it, it can carry
what it stands for.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import npvae
from npvae import fitting
from npvae.checks import compare_with_differences
from npvae.estimators import ESTIMATORS, Result, Spec
from npvae.parameters import Buffers


class Chains(NamedTuple):
    """The state: the last z of each datapoint, and how often each was moved."""

    z: np.ndarray  # (N, J)
    moves: np.ndarray  # (N,) int64


class Held(NamedTuple):
    z: Any  # (M, J)


class Persistent:
    """z of each datapoint moves a little at each visit; decoder and encoder are fitted to where it is."""

    State = Chains
    updates_per_sample = 2
    runs_ahead = False

    def __init__(self, model, n_samples, n_datapoints):
        self.model, self.N = model, n_datapoints
        self._buffers, self._gradient = Buffers(model.backend, model.dtype), model.gradient()

    def draw(self, rng, n_rows):
        shape = n_rows, self.model.architecture.n_components
        return self.model.backend.asarray(rng.standard_normal(shape, dtype=np.float32), self.model.dtype)

    def sample(self, parameters, x, rows, noise, state=None):
        if state is None:
            state = Chains(np.zeros((self.N, noise.shape[1])), np.zeros(self.N, np.int64))
        z, moves = state.z.copy(), state.moves.copy()
        _, gradient = self.model.log_joint(parameters, x, self.model.backend.asarray(z[rows], x.dtype), self._buffers)
        z[rows] += 0.01 * gradient + 0.1 * noise
        moves[rows] += 1
        return Held(self.model.backend.asarray(z[rows], self.model.dtype)), Chains(z, moves)

    def value_and_grad(self, parameters, x, samples):
        model, buffers, M = self.model, self._buffers, len(samples.z)
        encoded, decoded = model.encode(parameters, x, buffers), model.decode(parameters, samples.z, buffers)
        weights = buffers.full(1 / M, M)
        log_likelihood = model.log_likelihood(x, decoded, weights, buffers)
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, buffers)
        out = buffers("log_q", M), *encoded.doutputs
        log_q, *_ = model.backend.gaussian_log_q(samples.z, *encoded.outputs, weights, out)
        model.encoder.backward(parameters, x, encoded, self._gradient, buffers)
        value = float(np.mean(log_likelihood + log_q, dtype=float))
        return Result(value, value, self._gradient)

    def places(self, parameters, x, samples):
        return [("input", x)]


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """A row, and nothing else: settings, command, training and checkpoints read it from here."""
    monkeypatch.setitem(ESTIMATORS, "persistent", Spec(Persistent, backends=("reference", "cpu")))


NET = {"n_features": 4, "n_components": 2, "hidden_layer_sizes": (3,)}
SETTINGS = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "batch_size": 16, "max_epochs": 6, "random_state": 3}


@pytest.fixture
def X(rng):
    return rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_its_gradient_is_that_of_its_value(make_model, rng, backend, likelihood):
    model, parameters = make_model(backend, **NET, likelihood=likelihood)
    estimator = ESTIMATORS["persistent"].make(model, 3, 5)
    x, rows = rng.random((5, 4)), np.arange(5)
    samples, _ = estimator.sample(parameters, x, rows, estimator.draw(rng, 5))
    checks = compare_with_differences(lambda p: estimator.value_and_grad(p, x, samples)[::2], parameters)
    assert all(check.passed for check in checks), "\n".join(map(str, checks))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_resume_has_the_same_bits(X, tmp_path, backend):
    """In the middle of an epoch too: the file is written after any step, and the rest is made from the file alone."""
    settings = SETTINGS | {"estimator": "persistent", "backend": backend, "n_samples": 3}
    whole = npvae.VAE(2, **settings).fit(X)
    half = npvae.VAE(2, **settings, callbacks=(lambda epoch: epoch.epoch == 3,)).fit(X)
    half.save(tmp_path / "half.npz")
    rest = npvae.load(tmp_path / "half.npz").resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)
    assert rest.history_[-1].elbo == whole.history_[-1].elbo and rest.training_.estimator.keys() == {"z", "moves"}
    for field, array in whole.training_.estimator.items():
        np.testing.assert_array_equal(rest.training_.estimator[field], array)


def test_the_state_is_kept_by_name_and_counts_updates(X, tmp_path):
    model = npvae.VAE(2, **SETTINGS, estimator="persistent", backend="reference").fit(X)
    assert model.training_.estimator["z"].shape == (50, 2)
    assert np.all(model.training_.estimator["moves"] == 6)  # once an epoch
    assert model.training_.progress.counter == [6 * 4 * 2, -1]  # two updates for each of four minibatches
    model.save(tmp_path / "m.npz")
    loaded = npvae.load(tmp_path / "m.npz")
    assert loaded.training_.estimator["moves"].dtype == np.int64
    np.testing.assert_array_equal(loaded.training_.estimator["z"], model.training_.estimator["z"])


def test_a_state_of_another_estimator_is_not_taken(X):
    """It begins without one, as in a first fit; one without a state does not keep another's."""
    model = npvae.VAE(2, **SETTINGS, estimator="persistent", backend="reference").fit(X)
    model.set_params(estimator="score-function-running", max_epochs=7).resume(X)
    assert set(model.training_.estimator) == {"mean"}
    model.set_params(estimator="score-function", max_epochs=8).resume(X)
    assert model.training_.estimator == {}


def test_a_state_that_is_changed_in_place_is_not_the_saved_one(X):
    model = npvae.VAE(2, **SETTINGS, estimator="persistent", backend="reference").fit(X)
    saved, settings = model.training_, SimpleNamespace(**model.get_params())
    trainer = fitting.make_trainer(
        settings, model.fitted_.model, model.fitted_.data(X), saved.parameters, 0.05, len(X), 0, saved
    )
    trainer.estimator_state.z[...] = 7
    assert not np.any(saved.estimator["z"] == 7)
