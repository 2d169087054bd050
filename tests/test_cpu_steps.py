"""Training steps of the CPU from a recorded table: the bits of steps one by one, and the same in every trouble."""

import signal

import numba
import numpy as np
import pytest
import scipy.sparse

import npvae
from npvae import training
from npvae.backends import cpu, cpu_steps, jobs, reference
from npvae.model import Model
from npvae.optimizers import Optimizer, UpdateRule
from npvae.parameters import Layout
from npvae.sparse import SparseRows
from npvae.training import loop

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "batch_size": 10, "max_epochs": 3, "learning_rate": 0.05,
         "random_state": 3, "backend": "cpu"}  # fmt: skip


@pytest.fixture
def X(rng):
    return (rng.random((57, 6)) < 0.3).astype(np.uint8)


def of(kind, X, rng):
    """Return the data X as another kind."""
    if kind == "holes":
        return np.where(rng.random(X.shape) < 0.2, np.nan, X)
    if kind == "masked":
        return np.ma.masked_array(X, rng.random(X.shape) < 0.2)
    kinds = {
        "bits": X,
        "int16": X.astype(np.int16),
        "float32": X.astype(np.float32),
        "counts": X * rng.poisson(3, X.shape),
        "grey": X * rng.random(X.shape),
        "real": rng.standard_normal(X.shape),
        "by columns": np.asfortranarray(rng.standard_normal(X.shape)),
    }
    return kinds[kind]


CASES = [
    ("bits", {}),
    ("float32", {"dtype": "float64"}),
    ("bits", {"estimator": "sgvb-a", "n_samples": 3}),
    ("bits", {"hidden_layer_sizes": ()}),
    ("bits", {"hidden_layer_sizes": (7, 5), "activation": "sigmoid"}),
    ("bits", {"optimizer": "adam", "averaging": "polynomial", "schedule": "cosine", "clip_norm": 0.1}),
    ("bits", {"optimizer": "sgd", "schedule": "linear", "weight_prior": 0}),
    ("counts", {"likelihood": "gaussian"}),
    ("real", {"likelihood": "gaussian", "estimator": "sgvb-a", "dtype": "float64"}),
    ("grey", {"binarize": "dynamic", "likelihood": "bernoulli"}),
    ("grey", {"binarize": "fixed", "likelihood": "bernoulli"}),
    ("int16", {}),
    ("by columns", {"likelihood": "gaussian"}),
    ("masked", {"missing": "model"}),
    ("holes", {"missing": "model"}),
    ("bits", {"batch_size": 57}),
    ("bits", {"batch_size": 1, "max_epochs": 1}),
]


def one_by_one(monkeypatch):
    """Let the steps of the backend be taken one at a time."""
    monkeypatch.setattr(cpu, "Runner", None)


def result_of(X, settings):
    model = npvae.VAE(**SMALL | settings).fit(X)
    return model, [epoch[:4] for epoch in model.history_]


@pytest.mark.parametrize("kind, settings", CASES, ids=str)
def test_the_bits_are_those_of_steps_one_by_one(X, rng, kind, settings, monkeypatch):
    X, taken, run = of(kind, X, rng), [], cpu_steps.Step.run
    monkeypatch.setattr(cpu_steps.Step, "run", lambda step, *rest: taken.append(len(rest[0])) or run(step, *rest))
    replayed, history = result_of(X, settings)
    steps = replayed.training_.progress.counter[0]  # and one more where kernels had to be compiled first
    assert sum(taken) in (steps, steps + 1), "steps were taken in another way"
    one_by_one(monkeypatch)
    model, expected = result_of(X, settings)
    np.testing.assert_equal(history, expected)
    np.testing.assert_array_equal(replayed.parameters_.vector, model.parameters_.vector)
    for name, array in model.training_.optimizer.items():
        np.testing.assert_array_equal(replayed.training_.optimizer[name], array)


SPARSE = [
    ("bits", {}),
    ("int16", {}),
    ("counts", {"likelihood": "gaussian", "estimator": "sgvb-a", "n_samples": 2}),
    ("float32", {"dtype": "float64", "optimizer": "adam", "averaging": "polynomial"}),
    ("grey", {"binarize": "dynamic", "likelihood": "bernoulli"}),
]


@pytest.mark.parametrize("kind, settings", SPARSE, ids=str)
def test_minibatches_of_a_sparse_table_are_gathered_by_jobs(X, rng, kind, settings, monkeypatch):
    """A training reads no row in Python, and its bits are those of the dense array."""
    X = of(kind, X, rng)
    expected, trainer = trainer_of(X, **settings), trainer_of(scipy.sparse.csr_array(X), **settings)
    training.train(expected)

    def read(*_):
        raise AssertionError("rows are read in Python")

    with monkeypatch.context() as patch:
        patch.setattr(SparseRows, "__getitem__", read)
        patch.setattr(reference, "gather", read)
        patch.setattr(Model, "take", read)
        training.train(trainer)
    steps = trainer.runner._steps.values()
    assert steps and all(step.x is None and len(step._recording.table) for step in steps)
    np.testing.assert_array_equal(trainer.parameters.vector, expected.parameters.vector)
    assert trainer.optimizer.state.counter[0] == expected.optimizer.state.counter[0] == 18


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_the_bits_do_not_depend_on_the_number_of_threads(rng, form):
    X, results = form((rng.random((200, 300)) < 0.3).astype(np.uint8)), []
    settings = {"hidden_layer_sizes": (120,), "batch_size": 60, "n_components": 40}
    for count in (1, 2):
        numba.set_num_threads(count)
        results.append(result_of(X, settings)[0].parameters_.vector)
    np.testing.assert_array_equal(*results)


def test_what_cannot_be_recorded_is_taken_one_by_one(X):
    """Noise whose density is NumPy's, and other estimators."""
    for settings in ({"posterior": "laplace"}, {"estimator": "score-function"}, {"estimator": "full-vb"}):
        assert trainer_of(X, **settings).runner is None
    assert trainer_of(X).runner is not None


def trainer_of(X, **settings):
    from types import SimpleNamespace

    from npvae import fitting

    settings = npvae.VAE(**SMALL | settings).get_params()
    return fitting.begin(SimpleNamespace(**settings), X, say=lambda message: None)[1].trainer


@pytest.mark.parametrize("what", ["gradient", "update", "bound"])
def test_a_step_that_is_not_finite(X, what, monkeypatch):
    """The same step is named, with the same place, and the same parameters are kept."""
    found = []
    for replayed in (True, False):
        if not replayed:
            one_by_one(monkeypatch)
        trainer = trainer_of(X, **{"optimizer": "sgd", "learning_rate": 1e37 if what == "update" else 0.05})
        draw, drawn = type(trainer.estimator).draw_into, []

        def spoilt(estimator, rng, out, draw=draw, drawn=drawn):
            drawn.append(draw(estimator, rng, out))
            if len(drawn) == 8 and what != "update":
                out[0, 0] = {"gradient": 1e25, "bound": np.nan}[what]
            return out

        with monkeypatch.context() as patch, pytest.raises(training.NonFiniteError) as error:
            patch.setattr(type(trainer.estimator), "draw_into", spoilt)
            training.train(trainer)
        found.append((error.value.step, error.value.place, trainer.parameters.vector.copy(), trainer.progress.epoch))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
    assert found[0][0] == (8 if what != "update" else found[0][0])


def test_ctrl_c_ends_a_run_of_steps(X, monkeypatch):
    """After the current run: what was learnt by then is kept, and can go on to the same bits."""
    whole = trainer_of(X)
    training.train(whole)
    trainer, draws = trainer_of(X), []
    draw = type(trainer.estimator).draw_into

    def interrupted(estimator, rng, out):
        draws.append(out)
        if len(draws) == 9:
            signal.raise_signal(signal.SIGINT)
        return draw(estimator, rng, out)

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.estimator), "draw_into", interrupted)
        assert training.train(trainer).startswith(loop.INTERRUPTED)
    assert 9 <= trainer.optimizer.state.counter[0] < 18
    training.train(trainer)
    np.testing.assert_array_equal(trainer.parameters.vector, whole.parameters.vector)


def test_runs_are_short_in_time(X, monkeypatch):
    """The longer a step takes, the fewer are in a run."""
    trainer = trainer_of(X)
    step = trainer.runner._step(10)
    assert step.most == 1
    step.plan_ahead(seconds=1e-6, count=4)
    assert step.most == 8
    step.plan_ahead(seconds=1e-6, count=10**6)
    assert step.most == cpu_steps.MOST
    step.plan_ahead(seconds=cpu_steps.SECONDS / 3.5, count=10**6)
    assert step.most == 3
    step.plan_ahead(seconds=10, count=3)
    assert step.most == 1


def test_a_kernel_refuses_what_it_was_not_compiled_for():
    @jobs.kernel("f2 i1")
    def nothing(job, step, work, thread, threads):
        pass

    a, dtype = np.ones((3, 4), np.float32), np.dtype("f4")
    for arguments in ((a, np.ones(3)), (a.astype(float), np.ones(3, int)), (a[0], np.ones(3, int))):
        with pytest.raises(TypeError, match="nothing got an array"):
            nothing(dtype, *arguments, work=0)
    with pytest.raises(ValueError, match="zip"):
        nothing(dtype, a, work=0)


def test_arrays_with_gaps_are_read_and_written():
    x, out = np.arange(24.0).reshape(4, 6)[:, ::2], np.full((4, 6), -1.0)
    cpu.fill_missing(x, out[:, ::2])
    np.testing.assert_array_equal(out[:, ::2], x)
    assert np.all(out[:, 1::2] == -1)
    with jobs.Recording(), pytest.raises(TypeError, match="expected a C-contiguous one"):
        cpu.gaussian_latent(x, x, x, True)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_an_overflow_is_that_of_its_step_alone():
    """Found in the share of the second of two threads, it is not found again by a step that has one thread."""
    layout, before = Layout({"w.W": (400, 100)}), numba.get_num_threads()
    gradient = cpu.gradient(layout, "float32")
    taken = []
    try:
        for threads, last in ((2, np.float32(3e38)), (1, np.float32(1))):
            numba.set_num_threads(threads)
            parameters = layout.view(np.full(layout.size, 1, np.float32))
            parameters.vector[-1], gradient.vector[...] = last, 1e15
            optimizer = Optimizer("sgd", cpu, UpdateRule(2e23, 0.0, 0, layout.size), layout.size, "float32")
            taken.append(optimizer.step(parameters, gradient))
    finally:
        numba.set_num_threads(before)
    assert taken == [False, True]
