"""A program for ``mpiexec``: does one of its functions on all ranks, and prints what `test_ranks` compares."""

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
from mpi4py import MPI

import npvae
from npvae.cli import main
from npvae.estimators import ESTIMATORS, sharded
from npvae.estimators.sharded import Sharded
from npvae.training import Trainer

comm = MPI.COMM_WORLD

#: Estimators that need more than one sample have as many as this.
SAMPLES = {"iwae": 3, "iwae-dreg": 3, "score-function-leave-one-out": 2, "sgvb-a": 2}


def say(**found):
    """Print what a rank found, as a line of JSON."""
    sys.stdout.write(json.dumps({"rank": comm.rank} | found) + "\n")
    sys.stdout.flush()


def digest(model):
    return zlib.crc32(model.parameters_.vector.tobytes())


def data(kind="real", n_rows=530):
    """Return data whose last minibatch has 30 rows, fewer than others, and is cut into shards of 7 and 8."""
    X = np.random.default_rng(0).random((n_rows, 12)).astype(np.float32)
    if kind == "binary":
        return (X < 0.3).astype(np.uint8)
    if kind == "missing":
        return np.where(X < 0.1, np.nan, X)
    if kind == "mixed":
        return np.column_stack([X[:, :8], X[:, 8:] < 0.4])
    return X


def vae(**settings):
    common = {"hidden_layer_sizes": (10,), "max_epochs": 3, "learning_rate": 0.02, "batch_size": 100}
    return npvae.VAE(3, **common | {"likelihood": "gaussian", "backend": "cpu"} | settings)


def same_bits():
    """Fit with each estimator, on both backends; and with other likelihoods, optimizers, precisions and settings."""
    cases = {}
    for name, spec in ESTIMATORS.items():
        for backend in ("reference", "cpu"):
            valid = data()[:100] if spec.has_encoder else None
            settings = {"estimator": name, "n_samples": SAMPLES.get(name, 1), "backend": backend}
            cases[f"{name} on {backend}"] = settings, data(), valid
    binary, real = data("binary"), data()
    grey = (255 * data()).astype(np.uint8)
    more = {
        "bernoulli": ({"likelihood": "bernoulli"}, binary),
        "dynamic": ({"likelihood": "bernoulli", "binarize": "dynamic"}, grey),
        "fixed": ({"likelihood": "bernoulli", "binarize": "fixed"}, grey),
        "sigmoid-gaussian": ({"likelihood": "sigmoid-gaussian"}, grey),
        "mixed": ({"likelihood": "mixed"}, data("mixed")),
        "missing": ({"missing": "model"}, data("missing")),
        "adam": ({"optimizer": "adam", "averaging": "polynomial"}, real),
        "sgd": ({"optimizer": "sgd", "clip_norm": 1.0, "schedule": "cosine"}, real),
        "auto": ({"learning_rate": "auto", "max_epochs": 2}, real),
        "float64": ({"dtype": "float64"}, real),
        "one batch": ({"batch_size": 10_000}, real),
        "small batches": ({"batch_size": 3}, real[:20]),
        "two hidden layers": ({"hidden_layer_sizes": (20, 10), "posterior": "laplace"}, real),
    }
    cases |= {name: (*case, None) for name, case in more.items()}
    wide = np.random.default_rng(1).random((300, 64))
    cases["products that NumPy rounds by the number of rows"] = (
        {"backend": "reference", "hidden_layer_sizes": (100,), "max_epochs": 1}, wide, wide
    )  # fmt: skip
    for name, (settings, X, X_valid) in cases.items():
        model = vae(**settings).fit(X, X_valid=X_valid, comm=comm)
        history = [(epoch.elbo, epoch.elbo_valid, epoch.value) for epoch in model.history_]
        say(case=name, digest=digest(model), history=repr(history))


def plain_sum():
    """Fit with both sums."""
    exact, plain = (vae().fit(data(), comm=comm, exact_sum=exact).parameters_.vector for exact in (True, False))
    say(digest=zlib.crc32(plain.tobytes()), vector=plain.tolist(), exact=exact.tolist())


def stopping_after(last):
    return [lambda epoch: epoch.epoch == int(last)]


def fit_and_save(path, last):
    """Train up to an epoch, of a training of 6."""
    model = vae(max_epochs=6, estimator="score-function-running", callbacks=stopping_after(last))
    say(digest=digest(model.fit(data(), comm=comm, checkpoint=path)))


def resume(path, last):
    """Go on with it."""
    model = npvae.load(path).set_params(callbacks=stopping_after(last))
    say(digest=digest(model.resume(data(), comm=comm, checkpoint=path)))


def resume_command(path):
    """Go on by the command with a file that rank 0 alone has."""
    sys.exit(main(["resume", path if comm.rank == 0 else "on_another_machine.npz", "--epochs", "3"]))


# Faults ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_step(number, fault, rank=1):
    """Have a fault on one rank, in a step."""
    whole, count = Sharded.gather, 0

    def gather(self, *arguments):
        nonlocal count
        count += 1
        shards = whole(self, *arguments)
        if count == number and comm.rank == rank:
            fault(shards)
        return shards

    Sharded.gather = gather
    yield
    Sharded.gather = whole


def failing(run):
    """Say what a fit raised."""
    try:
        run()
    except BaseException as error:
        say(error=type(error).__name__, message=str(error))
        return error


def not_finite():
    """A row of the last shard becomes NaN: on three ranks, it is the second one of its rank, and others have one."""
    model = vae()
    with at_step(7, lambda shards: shards[-1].x.fill(np.nan), rank=comm.size - 1):
        error = failing(lambda: model.fit(data(), comm=comm))
    say(step=error.step, finite=bool(np.isfinite(model.parameters_.vector).all()), digest=digest(model))


def raising():
    """One rank raises an error in a step: the others wait for its gradient. Then there is Ctrl-C on it."""

    def fault(shards):
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        raise MemoryError("no memory on this rank")

    with at_step(7, fault):
        vae().fit(data(), comm=comm)


def killed():
    with at_step(7, lambda shards: os.kill(os.getpid(), signal.SIGKILL)):
        vae().fit(data(), comm=comm)


def drifting():
    """The parameters of one rank change."""
    trainers = []
    init = Trainer.__init__

    def remember(self, *arguments, **named):
        init(self, *arguments, **named)
        trainers.append(self)

    Trainer.__init__ = remember

    def fault(shards):
        trainers[-1].parameters.vector[0] += 1e-3

    with at_step(7, fault):
        failing(lambda: vae().fit(data(), comm=comm))


def full_disk(when):
    """Rank 0 cannot write its checkpoint."""
    saved = []

    def save(model):
        saved.append(comm.rank)
        if when == "begin" or len(saved) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    model = vae()
    failing(lambda: model.fit(data(), comm=comm, checkpoint=save))
    say(saved=saved, fitted=hasattr(model, "parameters_"))


def full_disk_meanwhile():
    """It cannot do so within the training: as with one process, the training goes on."""
    saved = []

    def save(model):
        saved.append(comm.rank)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    model = vae().fit(data(), comm=comm, checkpoint=save, checkpoint_every=0.0)
    say(digest=digest(model), saved=len(saved) > 3 if comm.rank == 0 else saved == [])


def callbacks():
    """Rank 0 alone calls back, and its answer stops all."""
    calls = []

    def callback(epoch):
        calls.append(epoch.epoch)
        return epoch.epoch == 2

    model = vae(callbacks=[callback]).fit(data(), comm=comm)
    say(calls=calls, epochs=len(model.history_), stopped=model.stopped_, seconds=model.history_[-1].seconds)


def raised_on_all():
    """What rank 0 raises, and what all do where warnings are errors."""

    class Local(Exception):  # which cannot be pickled
        pass

    for error in (LookupError("no such thing"), KeyboardInterrupt("enough"), SystemExit(3), Local("its message")):

        def callback(epoch, error=error):
            raise error

        raised = failing(lambda: vae(callbacks=[callback]).fit(data(), comm=comm))
        if comm.rank == 0:
            assert raised is error or raised.__cause__ is error  # with its traceback
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failing(lambda: vae(likelihood="bernoulli").fit(data() / data().max() + 2e-7, comm=comm))


def unlike():
    """The ranks disagree, on another thing each time."""
    X, odd = data(), comm.rank == 1
    failing(lambda: vae(n_samples=1 + odd).fit(X, comm=comm))
    failing(lambda: vae().fit(X + odd, comm=comm))
    failing(lambda: vae().fit(X, comm=comm, exact_sum=odd))
    failing(lambda: vae().fit(X, comm=comm, X_valid=X if odd else None))
    failing(lambda: vae(max_epochs=1 + odd).fit(X).set_params(max_epochs=4).resume(X, comm=comm))
    if odd:
        del os.environ["NUMBA_NUM_THREADS"]
    say(digest=digest(vae().fit(X, comm=comm)))


def bad_data():
    """All ranks are given data that is refused, and then data that is not; with a seed that each draws for itself."""
    X = data()
    X[400, 3] = np.inf
    failing(lambda: vae().fit(X, comm=comm))
    say(digest=digest(vae(random_state=None, max_epochs=1).fit(data(), comm=comm)))


def few_shards():
    """More ranks than shards, or than rows: some have no work, which rank 0 warns of."""
    sharded.FEWEST = 2
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model = vae(estimator="monte-carlo-em").fit(data(), comm=comm)
        vae(batch_size=2).fit(data(n_rows=5), comm=comm, exact_sum=False)
        vae(batch_size=3).fit(data(n_rows=5), comm=comm, exact_sum=False)
    say(warnings=[str(warning.message) for warning in found], digest=digest(model))


def interrupted(path):
    """Train until Ctrl-C; a file says that the training is on its way."""

    def callback(epoch):
        Path(path + ".begun").touch()
        time.sleep(0.02)

    model = vae(max_epochs=10_000, callbacks=[callback]).fit(data(), comm=comm, checkpoint=path)
    say(digest=digest(model), stopped=model.stopped_, steps=model.training_.progress.samples_seen)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
