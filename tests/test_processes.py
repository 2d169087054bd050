"""Fits in threads, in forked and spawned processes, and where nothing can be written: the same bits as alone."""

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


@pytest.mark.process
@pytest.mark.slow(reason="compiles all kernels, for a minute")
def test_the_process_that_compiles_has_the_bits_of_those_that_load(tmp_path):
    """All kernels, from an empty cache and then from the one that this has filled."""
    command = [sys.executable, str(Path(__file__).parent / "bits_of_kernels.py")]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = lambda: subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    first, second = run().splitlines(), run().splitlines()
    assert len(first) > 60
    assert [line for line, other in zip(first, second) if line != other] == []
