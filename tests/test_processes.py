"""Fits in threads, in forked and spawned processes, and where nothing can be written: the same bits as alone."""

import copy
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import npvae
from npvae.backends import runtime

#: Wide enough for its products to be shared among threads.
SETTINGS = {"n_components": 3, "hidden_layer_sizes": (120,), "learning_rate": 0.05, "max_epochs": 2, "backend": "cpu"}


def data():
    return (np.random.default_rng(5).random((300, 60)) < 0.3).astype(np.uint8)


def fitted(seed):
    """Return the bytes of what a fit learns; at the top of the module, where other processes find it."""
    return npvae.VAE(**SETTINGS, random_state=seed).fit(data()).parameters_.vector.tobytes()


@pytest.fixture(scope="module")
def alone():
    """What each of four fits learns by itself."""
    return [fitted(seed) for seed in range(4)]


def test_threads(alone):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fitted, range(4))) == alone


def test_one_model_used_by_many_threads():
    model = npvae.VAE(**SETTINGS).fit(data())
    parts = np.array_split(data(), 7)
    expected = [(model.transform(part).tobytes(), model.score_samples(part).tobytes()) for part in parts]
    with ThreadPoolExecutor(7) as pool:
        both = pool.map(lambda part: (model.transform(part).tobytes(), model.score_samples(part).tobytes()), parts * 5)
        assert list(both) == expected * 5


def used_by_many_threads():
    """Fit, score and transform in threads, with each result as it is alone; run by `test_threading_layers`."""
    import numba

    seeds, parts = range(4), np.array_split(data(), 5)
    model = npvae.VAE(**SETTINGS).fit(data())
    fitted_, log_joint = model.fitted_, model.fitted_.log_joint(data()[0])
    log_joint_of = lambda n: log_joint(np.full((n, 3), n))[1].tobytes()
    uses = [
        *((fitted, seed) for seed in seeds),
        *((lambda part: model.transform(part).tobytes(), part) for part in parts),
        *((lambda part: model.score_samples(part).tobytes(), part) for part in parts),
        *((lambda part: fitted_.encode(fitted_.data(part))[1].tobytes(), part) for part in parts),
        *((lambda n: model.inverse_transform(np.ones((n, 3))).tobytes(), 100 * n) for n in seeds if n),
        *((log_joint_of, 500) for _ in range(8)),
    ]
    expected = [use(argument) for use, argument in uses]
    for _ in range(5):
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(*use) for use in uses]
            assert [use(argument) for use, argument in uses[:8]] == expected[:8]  # this thread works as well
            assert [future.result() for future in futures] == expected
    print(numba.threading_layer(), len(uses))


@pytest.mark.process
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_threading_layers(layer):
    """Numba's layer "workqueue" ends a process in which two threads are in parallel loops."""
    environment = os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    code = "import test_processes as tests; tests.used_by_many_threads()"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if "No threading layer could be loaded" in ran.stderr:
        pytest.skip(f"Numba has no {layer} here")
    assert (ran.returncode, ran.stdout) == (0, f"{layer} 30\n"), ran.stderr


def test_a_model_is_trained_by_one_call_at_a_time():
    """In another thread, or in a callback, a second one is refused; copies and other models are not."""
    model, refused = npvae.VAE(2, hidden_layer_sizes=(4,), learning_rate=0.05, max_epochs=2, backend="reference"), []

    def second(epoch):
        other = copy.deepcopy(model).set_params(callbacks=())
        for call in (model.fit, model.resume, model.partial_fit, model.fit_transform):
            for submit in (lambda call: call(data()), lambda call: ThreadPoolExecutor(1).submit(call, data()).result()):
                with pytest.raises(RuntimeError, match="this VAE is being trained already, in another thread or by"):
                    submit(call)
                refused.append(call)
        assert np.isfinite(other.partial_fit(data()).score(data())) and np.isfinite(model.score(data()))

    model.set_params(callbacks=(second,)).fit(data())
    alone = copy.deepcopy(model).set_params(callbacks=()).fit(data())
    np.testing.assert_array_equal(model.parameters_.vector, alone.parameters_.vector)
    assert len(refused) == 16 and model.set_params(callbacks=()).partial_fit(data()).history_[-1].epoch == 3
    with pytest.raises(TypeError, match="X is None"):
        model.fit(None)  # a call that fails does not keep the model
    model.fit(data())


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(alone, method):
    """Forked ones, too, although this process has used its threads: a child has none of them."""
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(fitted, range(4), timeout=300)) == alone


@pytest.mark.process
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(alone, backend):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend):
        assert joblib.Parallel(2)(joblib.delayed(fitted)(seed) for seed in range(4)) == alone


FIT = "import npvae, numpy as np; print(npvae.VAE(2, max_epochs=2).fit(np.eye(6)).transform(np.eye(6)).shape)"


def run(code, folder, **environment):
    """Run Python code in a folder and an environment of its own, and return what it said, on both streams."""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


@pytest.mark.process
@pytest.mark.slow(reason="compiles all kernels, which are not kept")
def test_without_a_folder_for_compiled_code(tmp_path):
    """A package that is read-only, and no home: kernels are compiled for the process alone, and it says so."""
    shutil.copytree(Path(npvae.__file__).parent, tmp_path / "npvae", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [*tmp_path.rglob("*"), tmp_path]:
        if folder.is_dir():
            (folder / "__pycache__").write_text("a file, so that no folder can be made here, even by root")
    nowhere = str(tmp_path / "__pycache__" / "home")
    environment = {"PYTHONPATH": str(tmp_path), "HOME": nowhere, "XDG_CACHE_HOME": nowhere, "MPLCONFIGDIR": nowhere}
    said, warned = run(FIT, tmp_path, **environment)
    assert said == "(6, 2)\n" and "NUMBA_CACHE_DIR" in warned


@pytest.mark.process
@pytest.mark.slow(reason="compiles all kernels again, beside the package")
def test_without_an_environment(tmp_path):
    """No HOME, no PATH, no language."""
    assert run(FIT, tmp_path)[0] == "(6, 2)\n"


STARTED = """
import os
from npvae.backends import runtime
assert runtime.threads() == 2 and runtime.numba.threading_layer() == "omp"
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "chosen, spins",
    [({}, str(runtime.SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "")],
)
def test_waiting_threads_soon_sleep(tmp_path, chosen, spins):
    """Otherwise other processes that need the cores would slow down a training tenfold. The environment stays."""
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp", "OMP_DISPLAY_ENV": "verbose"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        printed, shown = run(STARTED, tmp_path, **environment | chosen)
    except AssertionError as error:
        if "No threading layer could be loaded" not in str(error):
            raise
        pytest.skip("no OpenMP here")
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this OpenMP is not GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}" in shown
    assert printed == f"{chosen.get('GOMP_SPINCOUNT')}\n"


@pytest.mark.process
@pytest.mark.slow(reason="compiles all kernels, for a minute")
def test_the_process_that_compiles_has_the_bits_of_those_that_load(tmp_path):
    """All kernels, from an empty cache, from the one that this has filled, and from one that three have filled.

    Functions of one name that two processes compiled, each for a kernel of its own, must not be taken for each other.
    """

    def run(cache, *chosen):
        command = [sys.executable, str(Path(__file__).parent / "bits_of_kernels.py"), *chosen]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / cache), "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    first, second = run("one"), run("one")
    run("three", "tanh", "adagrad")
    run("three", "sigmoid", "sgd")
    third = run("three")
    assert len(first) > 60
    for other in (second, third):
        assert [line for line, same in zip(first, other, strict=True) if line != same] == []
