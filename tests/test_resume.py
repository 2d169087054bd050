"""Training that stops and goes on: to the same bits, wherever it stopped, and with nothing lost on the way."""

import contextlib
import pickle
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import THOROUGH

import npvae
from npvae.backends import cpu_steps

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "batch_size": 10, "max_epochs": 5, "random_state": 3}


@pytest.fixture
def X(rng):
    return (rng.random((55, 6)) < 0.3).astype(np.uint8)


class Killed(BaseException):
    """Stands for the end of the process: nothing that fit does afterwards may matter."""


def fit_until(step, X, path, monkeypatch, **settings):
    """Train with a checkpoint after every step, and be killed after one; return whether it came to that."""
    from npvae.training import Trainer

    steps, take_steps = [], Trainer.steps

    def step_or_die(trainer, batches):
        if len(steps) == step:
            raise Killed
        (rows,) = batches
        steps.append(rows)
        return take_steps(trainer, batches)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Trainer, "steps", step_or_die)
        patch.setattr(cpu_steps, "MOST", 1)
        npvae.VAE(**settings).fit(
            X, X_valid=X[:9] if "patience" in settings else None, checkpoint=path, checkpoint_every=0
        )
    return len(steps) == step


def same(one, other):
    """Tell whether two models are the same, to the bit, but for the time they took."""
    histories = [[epoch[:4] for epoch in model.history_] for model in (one, other)]
    np.testing.assert_equal(*histories)
    arrays = [(m.parameters_.vector, m.training_.parameters, *m.training_.optimizer.values()) for m in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*arrays))


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "reference"},
        {"backend": "cpu", "dtype": "float64", "estimator": "sgvb-a", "n_samples": 2},
        {"backend": "reference", "patience": 2, "max_epochs": 60},
        {"backend": "reference", "optimizer": "sgd", "learning_rate": 0.1},
    ],
)
def test_killed_after_any_step(X, settings, tmp_path, monkeypatch):
    settings, path = SMALL | {"learning_rate": 0.05} | settings, tmp_path / "model.npz"
    X_valid = X[:9] if "patience" in settings else None
    whole = npvae.VAE(**settings).fit(X, X_valid=X_valid)
    total = whole.training_.progress.counter[0]
    assert total >= 12
    for step in (0, 1, 5, 6, 7, total - 1):
        assert fit_until(step, X, path, monkeypatch, **settings)
        resumed = npvae.load(path)
        assert resumed.training_.progress.counter[0] == step
        assert same(resumed.resume(X, X_valid=X_valid, checkpoint=path), whole)
        assert same(npvae.load(path), whole) and len(list(tmp_path.iterdir())) == 1


def test_stopped_again_and_again(X, tmp_path, monkeypatch):
    """A checkpoint of a resumed run is as good as one of the first run."""
    settings = SMALL | {"learning_rate": "auto", "backend": "cpu"}
    whole, path = npvae.VAE(**settings).fit(X), tmp_path / "model.npz"
    model = npvae.VAE(**settings, callbacks=(lambda epoch: True,)).fit(X)
    while model.training_.progress.epoch <= 5:
        model.save(path)
        model = npvae.load(path).set_params(callbacks=(lambda epoch: True,)).resume(X)
    assert same(model, whole)


def test_ctrl_c_in_the_middle_of_an_epoch(X):
    """What was learnt until then can be used at once, and the training goes on as if nothing had been."""
    settings, pressed = SMALL | {"learning_rate": 0.05, "backend": "reference"}, []
    whole = npvae.VAE(**settings).fit(X, X_valid=X[:9])
    draw = npvae.estimators.SGVB.draw

    def press(estimator, rng, n_rows):
        pressed.append(n_rows)
        if len(pressed) == 15:
            signal.raise_signal(signal.SIGINT)
        return draw(estimator, rng, n_rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npvae.estimators.SGVB, "draw", press)
        model = npvae.VAE(**settings).fit(X, X_valid=X[:9])
    assert model.stopped_.startswith("interrupted in epoch 3") and len(model.history_) == 3
    assert np.isnan(model.history_[-1].elbo_valid) and model.training_.progress.seen == 30
    assert same(model.resume(X, X_valid=X[:9]), whole) and model.stopped_ is None


def test_more_epochs(X, capsys):
    """A run that is at its end goes on when it is allowed more; the step size chosen and the warm-up stay."""
    model = npvae.VAE(**SMALL | {"max_epochs": 2}).fit(X)
    rate = model.learning_rate_
    report = list(model.report_)
    model.set_params(verbose=True).resume(X)
    assert len(model.history_) == 2 and model.report_ == report
    assert "nothing to resume: 2 epochs are done" in capsys.readouterr().err
    model.set_params(max_epochs=4, verbose=False).resume(X)
    assert [epoch.epoch for epoch in model.history_] == [1, 2, 3, 4] and model.learning_rate_ == rate
    assert model.training_.progress.counter[0] == 4 * 6


def test_other_data_is_refused(X, tmp_path):
    model = npvae.VAE(**SMALL).fit(X, X_valid=X[:9])
    for data, valid, name in ((X[:-1], X[:9], "X is"), (1 - X, X[:9], "X is"), (X, None, "X_valid is None")):
        with pytest.raises(ValueError, match=name):
            model.resume(data, X_valid=valid)
    with pytest.raises(ValueError, match="not fitted"):
        npvae.VAE().resume(X)
    with pytest.raises(ValueError, match="data in pieces; continue with partial_fit"):
        npvae.VAE(**SMALL).partial_fit(X).resume(X)


def test_a_learning_rate_that_was_set_is_taken(X):
    """The remedy that a diverged run names works; a step size that was chosen stays where "auto" does."""
    model = npvae.VAE(**SMALL | {"learning_rate": 1e30, "backend": "reference"}, optimizer="sgd")
    with np.errstate(all="ignore"), pytest.raises(npvae.training.NonFiniteError):
        model.fit(X)
    assert "not finite" in model.stopped_
    model.set_params(learning_rate=0.01).resume(X)
    assert model.learning_rate_ == 0.01 and len(model.history_) == 5 and model.stopped_ is None
    model.set_params(learning_rate="auto", max_epochs=6).resume(X)
    assert model.learning_rate_ == 0.01


@pytest.mark.parametrize("name", ["max_epochs", "batch_size", "n_samples", "random_state", "weight_prior", "patience"])
def test_numpy_numbers_as_settings(X, tmp_path, name):
    plain = npvae.VAE(**SMALL)
    numbers = {name: np.array([plain.get_params()[name]])[0]}
    model = npvae.VAE(**SMALL | numbers).fit(X, checkpoint=tmp_path / "model.npz")
    assert same(npvae.load(tmp_path / "model.npz"), model) and same(model, plain.fit(X))


def test_errors_reach_other_processes():
    for error in (npvae.training.NonFiniteError(3, "a layer", 0.1), npvae.conventions.not_fitted("VAE")):
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error) and type(copy).__mro__[1:] == type(error).__mro__[1:]


@contextlib.contextmanager
def limited_file_size(size):
    """Let no file grow beyond so many bytes, as a quota or a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_file_whole(X, tmp_path, caplog):
    """The first checkpoint must succeed; later ones may fail, and training continues; the last one must succeed."""
    path, settings = tmp_path / "model.npz", SMALL | {"learning_rate": 0.05, "backend": "reference"}
    whole = npvae.VAE(**settings).fit(X)
    with limited_file_size(1000), pytest.raises(OSError, match="model.npz cannot be written: File too large"):
        npvae.VAE(**settings).fit(X, checkpoint=path)
    assert not list(tmp_path.iterdir())

    limits, limit = contextlib.ExitStack(), {2: 1000, 4: None}

    def disk(epoch):
        if epoch.epoch in limit:
            limits.close()
            if limit[epoch.epoch]:
                limits.enter_context(limited_file_size(limit[epoch.epoch]))

    with limits:
        model = npvae.VAE(**settings, callbacks=(disk,)).fit(X, checkpoint=path, checkpoint_every=0)
    assert "cannot be written" in caplog.text and "training continues" in caplog.text
    assert same(model, whole) and same(npvae.load(path), whole)

    before = path.read_bytes()
    with limited_file_size(1000), pytest.raises(OSError, match="File too large"):
        model.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written_to(X, tmp_path):
    for place in (tmp_path / "no folder" / "model.npz", tmp_path):
        with pytest.raises(OSError, match="cannot be written|is a folder"):
            npvae.VAE(**SMALL).fit(X, checkpoint=place)
    with pytest.raises(ValueError, match="checkpoint_every is -1"):
        npvae.VAE(**SMALL).fit(X, checkpoint=tmp_path / "model.npz", checkpoint_every=-1)


TRAIN = """
import sys, npvae
from npvae import datasets
X, _ = datasets.make_digits(400, random_state=5)
path, often = sys.argv[1], dict(checkpoint=sys.argv[1], checkpoint_every=0.01)
try:
    npvae.load(path).resume(X, X_valid=X[:50], **often)
except FileNotFoundError:
    settings = dict(hidden_layer_sizes=(60,), max_epochs=150, patience=150, batch_size=20, learning_rate=0.05)
    npvae.VAE(3, **settings).fit(X, X_valid=X[:50], **often)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What `TRAIN` ends with when nobody kills it, and the seconds it takes."""
    path = tmp_path_factory.mktemp("whole") / "model.npz"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", TRAIN, path], check=True)
    return npvae.load(path), time.perf_counter() - started


@pytest.mark.process
@pytest.mark.slow(reason="trains for tens of seconds in other processes, and is killed on the way")
@pytest.mark.parametrize("run", range(50 if THOROUGH else 3))
def test_sigkill(tmp_path, whole, run):
    """Processes killed at random moments, one after the other, until one comes to the end."""
    (expected, seconds), path, rng, kills = whole, tmp_path / "model.npz", np.random.default_rng(run), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", TRAIN, path])
        try:
            process.wait(seconds * rng.uniform(0.3, 0.9 + 0.2 * kills))  # longer and longer: there is an end
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        if kills:
            break
        path.unlink()  # this one was faster than `whole`, and nothing was tried: once more
        seconds /= 2
    assert same(npvae.load(path), expected)


def test_what_is_refused_changes_nothing(X, tmp_path):
    """Neither the step size, nor the count of rows, nor what was learnt."""
    model = npvae.VAE(**SMALL).fit(X)
    before = {name: getattr(model, name) for name in vars(model) if name.endswith("_")}
    model.set_params(learning_rate=0.5, max_epochs=20)
    with pytest.raises(ValueError, match="but the training to resume had"):
        model.resume(X[:-1])
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :-1])
    with pytest.raises(OSError, match="cannot be written"):
        model.resume(X, checkpoint=tmp_path / "nowhere" / "model.npz")
    after = {name: getattr(model, name) for name in vars(model) if name.endswith("_")}
    assert after.keys() == before.keys() and model.learning_rate_ == before["learning_rate_"]
    assert all(after[name] is before[name] for name in ("parameters_", "training_", "health_", "n_samples_seen_"))
