"""The interface of estimators: two that npvae does not have are written here and trained by the same loop.

One keeps an array a datapoint from epoch to epoch, as Markov chains would; one weighs its samples unequally, as the
importance-weighted bound does. If the interface can carry both, it can carry what they stand for.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import logsumexp

import npvae
from npvae import backends, fitting
from npvae.checks import compare_with_differences
from npvae.estimators import ESTIMATORS, SGVB, Result, Spec, bound
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


class Noise(NamedTuple):
    eps: Any  # (L * M, J)


class Weighted(SGVB):
    """The importance-weighted bound: its value is log mean_l w_l, so each row has a weight known after its value."""

    runs_ahead = False

    def draw(self, rng, n_rows):
        return Noise(np.array(super().draw(rng, n_rows)))

    def value_and_grad(self, parameters, x, samples):
        model, buffers, eps, M = self.model, self._buffers, samples.eps, len(x)
        done = bound.forward(model, parameters, x, eps, False, buffers)
        log_w = (done.log_likelihood - done.kl).reshape(-1, M)
        weights = (np.exp(log_w - logsumexp(log_w, axis=0)) / M).astype(model.dtype).reshape(-1)
        model.log_likelihood(x, done.decoded, weights, buffers)  # the same values; now the gradients have the weights
        dz = buffers("dz", *eps.shape)
        model.decoder.backward(parameters, done.z, done.decoded, self._gradient, buffers, dz)
        outputs, doutputs = done.encoded.outputs, done.encoded.doutputs
        model.backend.gaussian_latent_backward(*outputs, eps, dz, False, weights, doutputs)
        model.encoder.backward(parameters, x, done.encoded, self._gradient, buffers)
        value = float(np.mean(logsumexp(log_w, axis=0) - np.log(len(log_w)), dtype=float))
        return Result(value, value, self._gradient)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """A row each, and nothing else: settings, command, training and checkpoints read them from here."""
    monkeypatch.setitem(ESTIMATORS, "persistent", Spec(Persistent, backends=("reference", "cpu")))
    monkeypatch.setitem(
        ESTIMATORS, "weighted", Spec(lambda model, L, N: Weighted(model, L), backends=("reference", "cpu"))
    )


NET = {"n_features": 4, "n_components": 2, "hidden_layer_sizes": (3,)}
SETTINGS = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "batch_size": 16, "max_epochs": 6, "random_state": 3}


@pytest.fixture
def X(rng):
    return rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4))


@pytest.mark.parametrize("name", ["persistent", "weighted"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_their_gradients_are_those_of_their_values(make_model, rng, backend, name, likelihood):
    model, parameters = make_model(backend, **NET, likelihood=likelihood)
    estimator = ESTIMATORS[name].make(model, 3, 5)
    x, rows = rng.random((5, 4)), np.arange(5)
    samples, _ = estimator.sample(parameters, x, rows, estimator.draw(rng, 5))
    checks = compare_with_differences(lambda p: estimator.value_and_grad(p, x, samples)[::2], parameters)
    assert all(check.passed for check in checks), "\n".join(map(str, checks))


def test_unequal_weights_are_seen(make_model, rng):
    """With the weights left equal the gradient is that of another value, and the check fails."""
    model, parameters = make_model(backends.get("reference"), **NET)
    estimator, x = Weighted(model, 3), rng.random((5, 4))
    samples, _ = estimator.sample(parameters, x, None, estimator.draw(rng, 5))

    def with_equal_weights(p):
        return estimator.value_and_grad(p, x, samples).value, SGVB(model, 3, False).value_and_grad(
            p, x, samples.eps
        ).gradient

    checks = compare_with_differences(with_equal_weights, parameters)
    assert not all(check.passed for check in checks)


def test_one_weighted_sample_is_version_a(make_model, rng, backend):
    model, parameters = make_model(backend)
    x, noise = rng.random((9, 7)), rng.standard_normal((9, 3))
    weighted = Weighted(model, 1).value_and_grad(parameters, x, Noise(noise))
    plain = SGVB(model, 1, analytic_kl=False).value_and_grad(parameters, x, noise)
    assert weighted.value == pytest.approx(plain.value, rel=1e-14)
    np.testing.assert_allclose(weighted.gradient.vector, plain.gradient.vector, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["persistent", "weighted"])
def test_resume_has_the_same_bits(X, tmp_path, name, backend):
    """In the middle of an epoch too: the file is written after any step, and the rest is made from the file alone."""
    settings = SETTINGS | {"estimator": name, "backend": backend, "n_samples": 3}
    whole = npvae.VAE(2, **settings).fit(X)
    half = npvae.VAE(2, **settings, callbacks=(lambda epoch: epoch.epoch == 3,)).fit(X)
    half.save(tmp_path / "half.npz")
    rest = npvae.load(tmp_path / "half.npz").resume(X)
    np.testing.assert_array_equal(rest.parameters_.vector, whole.parameters_.vector)
    assert rest.history_[-1].elbo == whole.history_[-1].elbo and rest.training_.estimator.keys() == (
        {"z", "moves"} if name == "persistent" else set()
    )
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
