"""The training loop: what is seen, when it stops, what it keeps, and that it repeats to the bit."""

import ctypes
import signal
import sys
import tracemalloc
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import npvae
from npvae import datasets, fitting, training
from npvae.training import NonFiniteError, step_size
from npvae.training.interruption import interruptible, undropped

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "learning_rate": 0.05, "batch_size": 10, "backend": "reference"}


@pytest.fixture
def X(rng):
    return (rng.random((55, 6)) < 0.3).astype(np.uint8)


def trainer_of(model, X, max_epochs=1):
    """Return the Trainer that a fit of this model to X would use."""
    fitted = model.set_params(max_epochs=1).fit(X).fitted_
    inner = fitted.model
    initial = inner.layout.initial(np.random.default_rng(0), model.init_std)
    model.set_params(max_epochs=max_epochs)
    settings = SimpleNamespace(**model.get_params())
    return fitting.make_trainer(settings, inner, fitted.data(X), initial, model.learning_rate_, len(X), fitted.seed)


def test_an_epoch_sees_every_row_once_in_a_new_order(X):
    trainer = trainer_of(npvae.VAE(**SMALL), X)
    epochs = [list(trainer.minibatches()) for _ in range(2)]
    for batches in epochs:
        assert [len(rows) for rows in batches] == [10] * 5 + [5]
        assert sorted(np.concatenate(batches)) == list(range(55))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))


def test_training_raises_the_bound_above_independent_pixels():
    """On digits: well above the bound of a model that knows the mean of each pixel and nothing else."""
    X, _ = datasets.make_digits(2000, random_state=5)
    model = npvae.VAE(10, hidden_layer_sizes=(100,), learning_rate=0.02, max_epochs=40).fit(X[:1500])
    mean = np.clip(X[:1500].mean(axis=0) / 255, 1e-3, 1 - 1e-3)
    test = X[1500:] / 255
    independent = np.mean(test @ np.log(mean) + (1 - test) @ np.log(1 - mean))
    assert model.score(X[1500:]) > independent + 30
    assert model.history_[-1].elbo > model.history_[0].elbo


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd"}, {"n_samples": 3, "estimator": "sgvb-a"}])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_same_seed_same_bits(X, backend, settings):
    fits = [
        npvae.VAE(**SMALL | {"backend": backend}, **settings, random_state=seed, max_epochs=2).fit(X).parameters_.vector
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_same_bits_for_any_number_of_threads():
    """Sizes at which the products and the other kernels do run in parallel."""
    X, _ = datasets.make_digits(250, random_state=0)
    fits = []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            model = npvae.VAE(backend="cpu", max_epochs=2, learning_rate=0.02).fit(X)
            fits.append((model.parameters_.vector, model.score_samples(X)))
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for one, two in zip(*fits):
        np.testing.assert_array_equal(one, two)


def test_backends_agree_after_training(X):
    """Two epochs in float64: the same noise, and the same parameters but for rounding."""
    fits = [
        npvae.VAE(**SMALL | {"backend": backend}, dtype="float64", max_epochs=2).fit(X).parameters_.vector
        for backend in ("reference", "cpu")
    ]
    np.testing.assert_allclose(*fits, rtol=0, atol=1e-9)


def test_history_and_callbacks(X):
    seen = []
    model = npvae.VAE(**SMALL, max_epochs=3, callbacks=(seen.append,)).fit(X, X_valid=X[:7])
    assert seen == model.history_
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert [epoch.samples_seen for epoch in seen] == [55, 110, 165]
    assert seen[-1].elbo_valid == pytest.approx(model.score(X[:7]), abs=1) and np.isfinite(seen[-1].elbo)
    assert 0 < seen[0].seconds < seen[2].seconds


def test_a_callback_can_stop_and_use_the_model(X):
    scores, model = [], npvae.VAE(**SMALL, max_epochs=9)

    def stop_at_two(epoch):
        scores.append(model.score(X))
        return epoch.epoch == 2

    model.set_params(callbacks=(stop_at_two,)).fit(X)
    assert len(model.history_) == 2 and scores[1] == model.score(X)


def test_early_stopping_keeps_the_best_parameters(X, rng):
    """Trained on one kind of data, validated on another: what is learnt makes it worse, and the start was best."""
    opposite = 1 - X[:20]
    model = npvae.VAE(**SMALL, max_epochs=200, patience=4, init_std=0.5).fit(X, X_valid=opposite)
    bounds = [epoch.elbo_valid for epoch in model.history_]
    best = int(np.argmax(bounds))
    assert len(bounds) == best + 1 + 4 < 200
    assert model.score(opposite) == pytest.approx(bounds[best], rel=1e-6)


def test_patience_begins_when_the_parameters_move(X):
    """Not in the epochs that only accumulate squared gradients, six of them here: nothing can become better then."""
    model = npvae.VAE(**SMALL, max_epochs=60, patience=1).fit(X, X_valid=X[:9])
    assert model.training_.progress.accumulate_only == 36 and len(model.history_) > 6
    bounds = [epoch.elbo_valid for epoch in model.history_]
    assert len(set(bounds[:6])) == 1 and max(bounds[6:]) > bounds[0]


def test_ctrl_c_stops_after_the_running_minibatch(X):
    """And keeps what was learnt; the handler of the caller is back in its place."""
    trainer, before = trainer_of(npvae.VAE(**SMALL), X, 10), signal.getsignal(signal.SIGINT)
    step, steps, history = trainer.step, [], []

    def interrupted_step(rows):
        steps.append(rows)
        if len(steps) == 9:  # the third minibatch of the second epoch
            signal.raise_signal(signal.SIGINT)
        return step(rows)

    trainer.step = interrupted_step
    training.train(trainer, callbacks=(history.append,))
    assert len(steps) == 9 and trainer.optimizer.state.counter[0] == 9
    assert [epoch.samples_seen for epoch in history] == [55, 85]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_is_not_dropped(fails, capsys):
    """An exception in a function that C calls is dropped, with a traceback, and what called C goes on or fails."""

    def run():
        ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()
        if fails:
            raise RuntimeError
        goes_on()

    def goes_on():
        reached.append(True)

    before, hook, reached = signal.getsignal(signal.SIGINT), sys.unraisablehook, []
    with pytest.raises(KeyboardInterrupt):
        undropped(run)
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook, sys.getprofile()) == (before, hook, None)
    assert not reached and capsys.readouterr().err == ""


def test_validation_data_without_a_finite_bound_is_named(rng):
    X = rng.standard_normal((55, 6))
    far = np.where(np.arange(len(X))[:, None] == 3, 1e200, X)
    with pytest.warns(UserWarning, match="X_valid has a finite bound after no epoch"), np.errstate(all="ignore"):
        npvae.VAE(**SMALL, max_epochs=2).fit(X, X_valid=far)


def test_ctrl_c_through_fit(X):
    """The first one, in the second epoch: `fit` returns a fitted model that says what happened."""

    def press(epoch):
        if epoch.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    model = npvae.VAE(**SMALL, max_epochs=50, callbacks=(press,)).fit(X)
    assert len(model.history_) == 2 and np.isfinite(model.score(X))
    assert "interrupted in epoch 2: what was learnt until then is kept" in model.report_


def test_ctrl_c_that_the_caller_ignores_stays_ignored(X):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)


def test_training_in_a_thread(X):
    """Where no signal handler can be set."""
    import threading

    model = npvae.VAE(**SMALL, max_epochs=1)
    thread = threading.Thread(target=model.fit, args=(X,))
    thread.start()
    thread.join()
    assert len(model.history_) == 1


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_divergence_names_step_and_layer_and_keeps_sound_parameters(X, backend):
    model = npvae.VAE(**SMALL | {"backend": backend, "learning_rate": 1e30}, optimizer="sgd", max_epochs=2)
    with pytest.raises(NonFiniteError, match=r"stopped at step \d+: (encoder|decoder)\.\w+ is not finite") as raised:
        model.fit(X)
    assert raised.value.step > 1 and raised.value.place in str(raised.value)
    assert np.isfinite(model.parameters_.vector).all() and np.isfinite(model.score(X))


def test_a_bad_gradient_alone_stops_training(X):
    """The value is finite, one gradient is not: the parameters stay, and the array is named."""
    trainer = trainer_of(npvae.VAE(**SMALL), X)
    right = trainer.estimator.value_and_grad

    def wrong(*arguments):
        result = right(*arguments)
        result.gradient["decoder.logits.W"][0, 0] = np.inf
        return result

    trainer.estimator.value_and_grad = wrong
    before = trainer.parameters.vector.copy()
    with pytest.raises(NonFiniteError, match="step 1: gradient of decoder.logits.W is not finite"):
        trainer.epoch(lambda: False)
    np.testing.assert_array_equal(trainer.parameters.vector, before)


def test_auto_step_size_on_digits():
    """Past the steps that only accumulate, 0.02 is ahead of 0.01 and of 0.1, as it is on MNIST."""
    X, _ = datasets.make_digits(1000, random_state=2)
    model = npvae.VAE(20, hidden_layer_sizes=(200,), max_epochs=30).fit(X)
    assert model.learning_rate_ == 0.02
    assert any(line.startswith("learning rate: 0.02 (training bound") for line in model.report_)


def test_auto_step_size_rejects_what_diverges(X, monkeypatch):
    monkeypatch.setattr(step_size, "STEP_SIZES", (1e-3, 1e-2, 1e30))
    model = npvae.VAE(**SMALL | {"learning_rate": "auto"}, optimizer="sgd", max_epochs=20).fit(X)
    assert model.learning_rate_ == 0.01
    assert any("1e+30: -inf" in line for line in model.report_)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_auto_step_size_where_everything_diverges(X, monkeypatch):
    monkeypatch.setattr(step_size, "STEP_SIZES", (1e30, 1e35))
    model = npvae.VAE(**SMALL | {"learning_rate": "auto"}, optimizer="sgd", max_epochs=5)
    with pytest.raises(FloatingPointError, match="diverges with every step size"):
        model.fit(X)


def test_short_fits_learn(X):
    """The steps that only accumulate are tied to the length of the run: even one epoch moves the parameters."""
    trainer = trainer_of(npvae.VAE(**SMALL), X)
    before = trainer.parameters.vector.copy()
    trainer.epoch(lambda: False)
    assert np.linalg.norm(trainer.parameters.vector - before) > 0.1
    steps = {epochs: trainer_of(npvae.VAE(**SMALL), X, epochs).progress.accumulate_only for epochs in (1, 100, 1000)}
    assert steps == {1: 0, 100: 60, 1000: 100}


def test_a_bound_that_is_not_finite_is_never_the_best(X):
    trainer, bounds = trainer_of(npvae.VAE(**SMALL), X), iter([np.nan, 1.0, 3.0, 2.0])
    trainer.settings = trainer.settings._replace(max_epochs=4)
    vectors = []
    training.train(
        trainer, lambda parameters: next(bounds), (lambda _: vectors.append(trainer.parameters.vector.copy()),)
    )
    np.testing.assert_array_equal(trainer.parameters.vector, vectors[2])


@pytest.mark.parametrize("answer, epochs", [(True, 1), (np.True_, 1), (False, 3), (None, 3), ((1,), 3)])
def test_only_true_stops(X, answer, epochs):
    assert len(npvae.VAE(**SMALL, max_epochs=3, callbacks=(lambda epoch: answer,)).fit(X).history_) == epochs


def test_weight_prior_shrinks_weights_but_not_biases(X):
    """Without data to speak of in its favour, a strong prior pulls the weights towards zero."""
    free, tied = (npvae.VAE(**SMALL, weight_prior=prior, max_epochs=60).fit(X).parameters_ for prior in (0, 300.0))
    n = free.layout.n_weights
    assert np.linalg.norm(tied.vector[:n]) < 0.5 * np.linalg.norm(free.vector[:n])
    assert np.linalg.norm(tied["decoder.logits.b"]) > 0.5 * np.linalg.norm(free["decoder.logits.b"])


def test_a_step_allocates_nothing(rng):
    """No array of the size of a layer: each holds 100 KB or more here."""
    X = rng.integers(0, 256, (200, 300), dtype=np.uint8)
    model = npvae.VAE(8, hidden_layer_sizes=(256,), learning_rate=0.02, batch_size=100, backend="cpu")
    trainer, rows = trainer_of(model, X), np.arange(100)
    trainer.step(rows)
    tracemalloc.start()
    try:
        trainer.step(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000
