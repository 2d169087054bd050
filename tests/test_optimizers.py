"""Optimizers, schedules and averages: against formulas, PyTorch and each other, and what a training makes of them."""

import numpy as np
import pytest

import npvae
from npvae import modelfile
from npvae.backends import cpu, cpu_steps, formulas, reference
from npvae.optimizers import AVERAGE, Optimizer, UpdateRule
from npvae.parameters import Layout
from npvae.training import Trainer

SMALL = {"n_components": 2, "hidden_layer_sizes": (6,), "batch_size": 10, "max_epochs": 4, "backend": "reference"}


@pytest.fixture
def X(rng):
    return rng.normal(size=(45, 4))


def steps(name, backend, gradients, dtype="float64", **rule):
    """Take a step for each gradient (n, 9); return the optimizer and the parameters after each step (n, 9)."""
    layout = Layout({"a.W": (2, 3), "a.b": (3,)})
    rule = {"step_size": 0.1, "weight_decay": 0.0, "accumulate_only": 0, "n_weights": 6} | rule
    parameters, iterates = layout.view(np.linspace(-1, 1, 9).astype(dtype)), []
    optimizer, gradient = Optimizer(name, backend, UpdateRule(**rule), 9, dtype), backend.gradient(layout, dtype)
    for vector in gradients:
        gradient.vector[:] = vector
        assert optimizer.step(parameters, gradient)
        iterates.append(parameters.vector.copy())
    return optimizer, np.array(iterates)


@pytest.mark.parametrize("backend", [reference, cpu])
def test_adam_is_algorithm_1(rng, backend):
    """Kingma and Ba (2015), with their names, and the prior of the weights in the gradient."""
    gradients = rng.normal(size=(50, 9))
    optimizer, found = steps("adam", backend, gradients, step_size=0.01, weight_decay=0.3)
    theta, m, v, alpha, beta1, beta2, epsilon = np.linspace(-1, 1, 9), 0.0, 0.0, 0.01, 0.9, 0.999, 1e-8
    prior = 0.3 * (np.arange(9) < 6)
    for t, g in enumerate(gradients, 1):
        g = g - prior * theta
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        theta = theta + alpha * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        np.testing.assert_allclose(found[t - 1], theta, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(optimizer.state.arrays["first_moment"], m, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(optimizer.state.arrays["second_moment"], v, rtol=1e-12)


@pytest.mark.parametrize("name, theirs", [("adagrad", "Adagrad"), ("sgd", "SGD"), ("adam", "Adam")])
@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("schedule", formulas.SCHEDULES)
def test_against_pytorch(rng, backend, name, theirs, schedule):
    """Where the epsilon of Adagrad, which PyTorch adds outside of the root, does not matter."""
    torch, n = pytest.importorskip("torch"), 20
    gradients = rng.normal(size=(n, 9)) + 2
    _, found = steps(name, backend, gradients, schedule=schedule, n_steps=n)
    w = torch.nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))
    optimizer = getattr(torch.optim, theirs)([w], lr=0.1, maximize=True)
    decay = {
        "constant": lambda t: 1.0,
        "linear": lambda t: 1 - t / (n - 1),
        "cosine": lambda t: (1 + np.cos(np.pi * t / (n - 1))) / 2,
    }[schedule]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    for gradient, vector in zip(gradients, found):
        w.grad = torch.tensor(gradient)
        optimizer.step()
        schedule.step()
        np.testing.assert_allclose(vector, w.detach().numpy(), rtol=1e-7)


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping(rng, backend, dtype):
    """A long gradient is scaled to the limit, before the prior of the weights; others are as they were."""
    g = rng.normal(size=9).astype(dtype)
    size = float(np.linalg.norm(g))
    settings = {"dtype": dtype, "weight_decay": 0.5}
    plain, start = steps("sgd", backend, [g], **settings)[1][0], np.linspace(-1, 1, 9)
    same = steps("sgd", backend, [g], clip_norm=1.01 * size, **settings)[1][0]
    np.testing.assert_array_equal(same, plain)
    clipped = steps("sgd", backend, [g], clip_norm=size / 4, **settings)[1][0]
    expected = start + 0.1 * (g / 4 - 0.5 * start * (np.arange(9) < 6))
    np.testing.assert_allclose(clipped, expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_clipping_does_not_hide_what_is_not_finite(backend, bad):
    """Also where only the squares overflow."""
    layout = Layout({"a.W": (2, 3), "a.b": (3,)})
    parameters, gradient = layout.view(np.zeros(9, np.float32)), backend.gradient(layout, "float32")
    optimizer = Optimizer("sgd", backend, UpdateRule(0.1, 0.0, 0, 6, clip_norm=1.0), 9, "float32")
    gradient.vector[:] = [bad, *range(8)]
    assert not optimizer.step(parameters, gradient) and not parameters.vector.any()


def test_a_clipped_training_is_the_same_on_every_backend(X):
    models = [npvae.VAE(**SMALL | {"backend": name, "dtype": "float64"}, learning_rate=0.05, clip_norm=0.1).fit(X)
              for name in ("reference", "cpu")]  # fmt: skip
    np.testing.assert_allclose(models[0].parameters_.vector, models[1].parameters_.vector, rtol=1e-9, atol=1e-12)
    free = npvae.VAE(**SMALL | {"dtype": "float64"}, learning_rate=0.05).fit(X)
    assert np.abs(free.parameters_.vector - models[0].parameters_.vector).max() > 1e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("backend", [reference, cpu])
def test_the_last_step_of_a_decay_is_zero(rng, backend, schedule):
    """The first one is whole, and each is shorter than the one before."""
    _, iterates = steps("sgd", backend, np.ones((9, 9)), schedule=schedule, n_steps=9)
    sizes = np.diff(iterates[:, 0], prepend=-1.0)
    assert np.isclose(sizes[0], 0.1, rtol=1e-12) and abs(sizes[-1]) < 1e-16 and np.all(np.diff(sizes) < 0)
    assert UpdateRule(0.1, 0.0, 0, 1, schedule).numbers(1)[0] == 0.1  # a run of one step


@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("accumulate_only", [0, 3])
def test_the_average_weights_iterates_by_the_power_of_their_number(rng, backend, name, accumulate_only):
    """The weight of the k-th of n iterates is C(k + 2, 3) / C(n + 3, 4): a polynomial in k of degree 3."""
    rule = {"averaging": True, "accumulate_only": accumulate_only, "schedule": "linear", "n_steps": 12}
    optimizer, iterates = steps(name, backend, rng.normal(size=(12, 9)), **rule)
    moved = iterates[accumulate_only:]
    k = np.arange(1, len(moved) + 1)
    weights = k * (k + 1) * (k + 2) / (k * (k + 1) * (k + 2)).sum()
    np.testing.assert_allclose(optimizer.state.arrays[AVERAGE], weights @ moved, rtol=1e-12, atol=1e-14)
    _, plain = steps(name, backend, rng.normal(size=(0, 9)), **rule)
    assert len(plain) == 0


@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_average_does_not_change_the_iterates(rng, name, dtype):
    gradients = rng.normal(size=(20, 9))
    for backend in (reference, cpu):
        _, plain = steps(name, backend, gradients, dtype)
        _, averaged = steps(name, backend, gradients, dtype, averaging=True)
        np.testing.assert_array_equal(plain, averaged)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("optimizer", formulas.UPDATES)
@pytest.mark.parametrize(
    "change", [{"schedule": "cosine", "averaging": "polynomial"}, {"estimator": "full-vb"}], ids=str
)
@pytest.mark.parametrize("valid", [False, True])
def test_resumed_to_the_bit(X, tmp_path, monkeypatch, backend, optimizer, change, valid):
    """Stopped within an epoch and after one, saved, loaded and resumed: all arrays are those of a whole run."""
    settings = SMALL | {"backend": backend, "optimizer": optimizer, "learning_rate": 0.01} | change
    valid = {"X_valid": X[:7]} if valid else {}
    whole = npvae.VAE(**settings).fit(X, **valid)
    for stop in (3, 10):
        path, steps, taken = tmp_path / "model.npz", Trainer.steps, []

        def step_or_stop(trainer, batches, stop=stop, taken=taken, steps=steps):
            if len(taken) == stop:
                raise RuntimeError("killed")
            taken.extend(batches)
            return steps(trainer, batches)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(Trainer, "steps", step_or_stop)
            patch.setattr(cpu_steps, "MOST", 1)  # steps are taken one at a time
            npvae.VAE(**settings).fit(X, **valid, checkpoint=path, checkpoint_every=0)
        resumed = npvae.load(path).resume(X, **valid)
        assert resumed.training_.progress.counter == whole.training_.progress.counter
        np.testing.assert_array_equal(resumed.parameters_.vector, whole.parameters_.vector)
        assert resumed.training_.optimizer.keys() == whole.training_.optimizer.keys()
        for name, array in whole.training_.optimizer.items():
            np.testing.assert_array_equal(resumed.training_.optimizer[name], array)
        assert resumed.report_[-1] == whole.report_[-1]


def test_a_file_has_the_arrays_of_its_optimizer_and_no_others(X, tmp_path):
    for settings, expected in (
        ({}, {"squares"}),
        ({"optimizer": "sgd"}, set()),
        ({"optimizer": "adam", "averaging": "polynomial"}, {"first_moment", "second_moment", "average"}),
    ):
        npvae.VAE(**SMALL, learning_rate=0.001, **settings).fit(X).save(tmp_path / "model.npz")
        _, arrays = modelfile.load(tmp_path / "model.npz")
        assert {name.removeprefix("optimizer.") for name in arrays if name.startswith("optimizer.")} == expected


def test_what_is_kept(X):
    """Without validation data the average, where there is one; with it, the best of all that were compared."""
    settings = SMALL | {"learning_rate": 0.05, "averaging": "polynomial"}
    model = npvae.VAE(**settings).fit(X)
    np.testing.assert_array_equal(model.parameters_.vector, model.training_.optimizer["average"])
    assert not np.array_equal(model.parameters_.vector, model.training_.parameters)
    assert model.report_[-1] == "kept: the average of the iterates"
    plain = npvae.VAE(**SMALL | {"learning_rate": 0.05}).fit(X)
    np.testing.assert_array_equal(plain.parameters_.vector, model.training_.parameters)
    assert not any(line.startswith("kept") for line in plain.report_)

    kept = set()
    for rate in (0.01, 0.5):  # too small to arrive, and too large to stay
        settings |= {"learning_rate": rate, "optimizer": "adam", "max_epochs": 12}
        model = npvae.VAE(**settings).fit(X, X_valid=X[:10])
        best = max(epoch.elbo_valid for epoch in model.history_)
        assert model.training_.progress.best_bound == best == pytest.approx(model.score(X[:10]), abs=1e-4)
        kept.add(model.report_[-1].split(" after epoch")[0])
        assert model.report_[-1].endswith(f", with the best validation bound ({best:.2f} nats)")
    assert kept == {"kept: the average of the iterates", "kept: the iterate"}


def test_another_optimizer_from_here_on(X):
    """Its state is new: Adam corrects its moments as at the beginning, and the average is that of its own iterates."""
    model = npvae.VAE(**SMALL, learning_rate=0.05).fit(X)
    before, count = model.training_.parameters.copy(), model.training_.progress.counter[0]
    changes = {"optimizer": "adam", "averaging": "polynomial", "learning_rate": 1e-3, "max_epochs": 5, "batch_size": 45}
    model.set_params(**changes).resume(X)
    assert model.training_.progress.begun == count and model.training_.progress.counter[0] == count + 1
    moved = model.training_.parameters - before
    np.testing.assert_allclose(np.abs(moved), 1e-3, rtol=0.01)  # the first step of Adam has the same size everywhere
    np.testing.assert_array_equal(model.training_.optimizer["average"], model.training_.parameters)


def test_settings_that_do_not_go_together(X):
    with pytest.raises(ValueError, match="schedule is 'linear'; partial_fit has no last step, and expects 'constant'"):
        npvae.VAE(**SMALL, learning_rate=0.01, schedule="linear").partial_fit(X)
    model = npvae.VAE(**SMALL, learning_rate=0.01, optimizer="adam", averaging="polynomial")
    assert np.isfinite(model.partial_fit(X).partial_fit(X).score(X))


def test_auto_step_sizes_are_those_of_the_optimizer(X):
    model = npvae.VAE(**SMALL, optimizer="adam").fit(X)
    assert model.learning_rate_ in formulas.UPDATES["adam"].step_sizes
    assert any("0.003: " in line for line in model.report_)


def test_adam_learns(rng):
    """A plane in ten dimensions, in few steps."""
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(300, 10))
    settings = {"hidden_layer_sizes": (30,), "max_epochs": 60, "batch_size": 50, "backend": "reference"}
    settings |= {"optimizer": "adam", "learning_rate": 0.01, "schedule": "linear"}
    for averaging in ("none", "polynomial"):
        model = npvae.VAE(2, averaging=averaging, **settings).fit(X)
        assert model.health_.elbo > model.health_.baseline + 8
