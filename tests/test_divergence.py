"""Training that diverges ends with the named error and sound parameters; a model that cannot answer says so."""

import numpy as np
import pytest

import npvae
from npvae import cli
from npvae.backends import cpu, reference
from npvae.backends.formulas import UPDATES
from npvae.model import POSTERIORS
from npvae.optimizers import Optimizer, UpdateRule
from npvae.parameters import Layout
from npvae.training import NonFiniteError

SMALL = {"n_components": 2, "hidden_layer_sizes": (5,), "batch_size": 20, "max_epochs": 2}

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # NumPy's, where numbers overflow


@pytest.fixture
def X(rng):
    return rng.normal(size=(60, 4))


def assert_sound(model, X):
    """Whatever the training was like, the model is one that answers."""
    answers = model.score_samples(X), model.transform(X), model.reconstruct(X), model.sample(5)
    assert all(np.isfinite(answer).all() for answer in (model.parameters_.vector, *answers))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("optimizer", UPDATES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_ends_with_an_error_or_with_finite_scores(X, backend, optimizer, dtype):
    outlier, ended = X.copy(), set()
    outlier[7, 2] = 1e30
    changes = [{"estimator": name} for name in ("sgvb-a", "score-function", "full-vb")]
    changes += [{"posterior": name} for name in POSTERIORS] + [{"hidden_layer_sizes": ()}, {"batch_size": 100}]
    for table, rate, change in [(table, rate, c) for table in (X, outlier) for rate in (1, 1e3, 1e38) for c in changes]:
        settings = {"learning_rate": rate, "optimizer": optimizer, "backend": backend, "dtype": dtype}
        model = npvae.VAE(**SMALL | settings | change)
        try:
            model.fit(table)
            ended.add("a model")
        except NonFiniteError as error:
            assert error.step >= 1 and f"step {error.step}: {error.place} is not finite" in model.stopped_
            ended.add("the error")
        assert_sound(model, table)
    assert ended == {"a model", "the error"}


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UPDATES)
def test_a_step_that_overflows_in_one_place_is_taken_nowhere(backend, dtype, name):
    layout, largest = Layout({"a.W": (100, 100), "b.W": (10,)}), np.finfo(dtype).max
    parameters, gradient = layout.view(np.ones(layout.size, dtype)), backend.gradient(layout, dtype)
    optimizer = Optimizer(name, backend, UpdateRule(largest / 4, 0.0, 0, layout.n_weights), layout.size, dtype)
    gradient.vector[:] = 1e-20
    assert optimizer.step(parameters, gradient)
    parameters["b.W"][3] = largest
    before = parameters.vector.copy()
    for step in range(2):  # the second one would be fine, but comes after a failure
        gradient.vector[:] = 4 - 4 * step
        assert not optimizer.step(parameters, gradient)
        np.testing.assert_array_equal(parameters.vector, before)
        if step == 0:
            assert np.flatnonzero(np.isnan(gradient.vector)).tolist() == [10_003]
    assert optimizer.state.counter.tolist() == [2, 2]


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_of_squares_that_overflows_is_an_error(backend, dtype):
    """It would stop Adagrad without a word: the steps would be zero from then on."""
    layout, large = Layout({"a.W": (9,)}), np.sqrt(np.finfo(dtype).max) * 0.9
    parameters, gradient = layout.view(np.ones(9, dtype)), backend.gradient(layout, dtype)
    optimizer = Optimizer("adagrad", backend, UpdateRule(0.1, 0.0, 0, 9), 9, dtype)
    taken = []
    for _ in range(2):
        gradient.vector[:] = 1
        gradient.vector[4] = large
        before = parameters.vector.copy()
        taken.append(optimizer.step(parameters, gradient))
    assert taken == [True, False] and np.flatnonzero(np.isnan(gradient.vector)).tolist() == [4]
    np.testing.assert_array_equal(parameters.vector, before)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_array_whose_update_overflows_is_named(X, backend):
    model = npvae.VAE(**SMALL, learning_rate=3e38, optimizer="adagrad", weight_prior=1e18, backend=backend)
    with pytest.raises(NonFiniteError, match=r"step 1: the update of encoder\.hidden1\.W is not finite"):
        model.fit(X)
    assert_sound(model, X)


def test_settings_that_the_precision_cannot_hold(X):
    for name, value, found in (
        ("learning_rate", 1e300, "which is inf in float32; expected a number of at most 3.4e\\+38"),
        ("learning_rate", 1e-50, "which is 0.0 in float32; expected a number of at least 1.4e-45"),
        ("weight_prior", 1e39, "which is inf in float32"),
        ("init_std", 1e39, "which is inf in float32"),
    ):
        settings = {"learning_rate": 0.1, "backend": "reference"} | {name: value}
        with pytest.raises(ValueError, match=f"{name} is {value!r}, {found}".replace("e+", r"e\+")):
            npvae.VAE(**SMALL | settings).fit(X)
    with pytest.raises(ValueError, match=r"init_std is 3e\+38; expected initial weights that float32 can hold"):
        npvae.VAE(**SMALL, init_std=3e38).fit(X)
    settings = {"learning_rate": 1e-50, "weight_prior": 0, "dtype": np.float64, "backend": "reference"}
    assert_sound(npvae.VAE(**SMALL | settings).fit(X), X)


@pytest.mark.parametrize("batch_size", [20, 60])
@pytest.mark.parametrize("valid", [False, True])
def test_divergence_after_the_last_step_is_noticed_and_can_be_resumed(X, batch_size, valid):
    """No further step would notice it. The state to resume from is one that has been seen to work."""
    settings = {"learning_rate": 0.05, "max_epochs": 4, "backend": "reference", "batch_size": batch_size}
    valid = {"X_valid": X[:5]} if valid else {}
    model = npvae.VAE(**SMALL | settings)

    def jump(epoch):
        if epoch.epoch == 4:
            model.parameters_.vector[:] = 1e30

    model.set_params(callbacks=(jump,))
    if valid:  # the best ones are kept anyway
        assert_sound(model.fit(X, **valid), X)
        return
    with pytest.raises(NonFiniteError, match=rf"step {4 * 60 // batch_size}: decoder\.hidden1 is not finite"):
        model.fit(X)
    assert_sound(model, X)
    assert model.training_.progress.epoch == 4
    model.set_params(callbacks=()).resume(X)
    assert len(model.history_) == 4
    np.testing.assert_array_equal(model.parameters_.vector, model.set_params(callbacks=()).fit(X).parameters_.vector)


def test_a_piece_of_the_data_that_diverges(X):
    model = npvae.VAE(**SMALL | {"batch_size": 60}, learning_rate=0.05, backend="reference").partial_fit(X)
    before = model.parameters_.vector.copy()
    with pytest.raises(NonFiniteError):
        model.set_params(learning_rate=1e30, optimizer="sgd").partial_fit(X)
    np.testing.assert_array_equal(model.parameters_.vector, before)
    assert_sound(model.set_params(learning_rate=0.01).partial_fit(X), X)


def test_answers_that_are_not_finite_come_with_a_warning(X):
    model = npvae.VAE(**SMALL, learning_rate=0.05, backend="reference", dtype="float64").fit(X)
    assert_sound(model, X)
    far = X.copy()
    far[3] = 1e200
    with pytest.warns(RuntimeWarning, match="score_samples is NaN or infinite in 1 of 60 rows, .* row 3") as warnings:
        scores = model.score_samples(far)
    assert np.isneginf(scores[3]) and np.isfinite(np.delete(scores, 3)).all() and warnings[-1].filename == __file__
    model.parameters_.vector[:] = np.nan
    for ask in (model.transform, model.score, lambda X: model.sample(3), lambda X: model.inverse_transform(X[:, :2])):
        with pytest.warns(RuntimeWarning, match=r"is NaN or infinite in \d+ of \d+ rows, the first is row 0"):
            ask(X)
    with pytest.raises(ValueError, match="the posterior mean is NaN or infinite in 60 of 60 rows"):
        model.reconstruct(X)


@pytest.mark.parametrize("options", ["--optimizer sgd --learning-rate 1e30", "--learning-rate 1e3", "--init-std 1e30"])
def test_the_command_ends_with_the_error(X, tmp_path, capsys, options):
    np.save(tmp_path / "X.npy", X)
    out = ["--out", str(tmp_path / "model.npz"), "--quiet", "--backend", "reference", "--epochs", "2"]
    assert cli.main(["train", str(tmp_path / "X.npy"), *options.split(), *out]) == 1
    assert "npvae: error: training " in capsys.readouterr().err
    if "init-std" not in options:  # there the step sizes are tried first, and nothing is written
        assert cli.main(["score", str(tmp_path / "model.npz"), str(tmp_path / "X.npy")]) == 0


def test_the_command_does_not_print_a_bound_that_is_not_finite(X, tmp_path, capsys):
    model = npvae.VAE(**SMALL, learning_rate=0.05, backend="reference").fit(X)
    model.save(tmp_path / "model.npz")
    X[3] = 1e30
    np.save(tmp_path / "X.npy", X)
    assert cli.main(["score", str(tmp_path / "model.npz"), str(tmp_path / "X.npy")]) == 1
    assert "the bound is NaN or infinite in 1 of 60 rows, the first is row 3" in capsys.readouterr().err


def test_a_learning_curve_with_bounds_that_are_not_finite():
    from matplotlib.figure import Figure

    history = [npvae.training.Epoch(n, 100 * n, -9.0 / n, -np.inf, 1.0) for n in (1, 2, 3)]
    for epochs, test in ((history, [(100, -np.inf)]), ([epoch._replace(elbo=-np.inf) for epoch in history], [])):
        figure = Figure()
        npvae.plots.learning_curve(figure.add_subplot(), epochs, test)
        figure.canvas.draw()
