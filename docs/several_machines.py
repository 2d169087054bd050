"""Times of many fits, and of scores of many rows: in one process, in joblib's processes, and on workers of Dask.

``python docs/several_machines.py`` takes some minutes on two cores; it writes ``results/joblib-times.csv`` and the
table of the page. One process has all cores, and each of the others its share. All answers are compared bit by bit.
"""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import dask
import distributed
import joblib
import numpy as np
import tables
from sklearn.model_selection import GridSearchCV

import npvae
from npvae import datasets

COLUMNS = ("task", "how", "first s", "median s", "shortest s")

#: Processes, images to train on, images to score, pieces of these, and how often each is measured after the first time.
WORKERS, IMAGES, SCORED, PIECES, ROUNDS = 2, 2000, 40000, 8, 5

#: Of the models of the grid search; the one that scores has the networks of the paper.
SETTINGS = {"n_components": 2, "hidden_layer_sizes": (100,), "learning_rate": 0.05, "max_epochs": 5}
GRID = {"n_components": [2, 5, 10, 20], "hidden_layer_sizes": [(100,), (200,)]}


def piece(model, path, rows):
    """Return the scores of some rows of a file."""
    return model.score_samples(np.load(path, mmap_mode="r")[rows])


def tasks(folder):
    """Yield the name of a task, a function without arguments that returns an array, and what it needs everywhere."""
    X, _ = datasets.make_digits(IMAGES)
    search = GridSearchCV(npvae.VAE(**SETTINGS), GRID, cv=3, refit=False)
    yield "grid search, 24 fits", lambda: search.fit(X).cv_results_["mean_test_score"], [X]
    model = npvae.VAE(20, learning_rate=0.02, max_epochs=1).fit(X)
    path = Path(folder) / "rows.npy"
    np.save(path, np.resize(X, (SCORED, X.shape[1])))
    slices = [slice(n * SCORED // PIECES, (n + 1) * SCORED // PIECES) for n in range(PIECES)]
    calls = [joblib.delayed(piece)(model, path, rows) for rows in slices]
    yield f"{SCORED} scores in {PIECES} pieces", lambda: np.concatenate(joblib.Parallel()(calls)), [model]


def measure():
    """Yield the rows of the table."""
    environment = {"distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": 1}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(dask.config.set(environment))
        began = time.perf_counter()
        cluster = stack.enter_context(
            distributed.LocalCluster(WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0")
        )
        stack.enter_context(distributed.Client(cluster)).wait_for_workers(WORKERS)
        yield "start of the workers", "Dask", *3 * [f"{time.perf_counter() - began:.2f}"]
        for name, task, everywhere in tasks(folder):
            expected = task()  # its kernels are compiled, and those of the processes, which read them from the cache
            for how, backend in {
                "one process": contextlib.nullcontext,
                "joblib, 2 processes": lambda: joblib.parallel_config("loky", n_jobs=WORKERS),
                "Dask, 2 workers": lambda everywhere=everywhere: joblib.parallel_config("dask", scatter=everywhere),
            }.items():
                seconds = []
                for _ in range(1 + ROUNDS):
                    began = time.perf_counter()
                    with backend():
                        found = task()
                    seconds.append(time.perf_counter() - began)
                    np.testing.assert_array_equal(found, expected)
                first, *others = seconds
                yield name, how, *(f"{value:.2f}" for value in (first, statistics.median(others), min(others)))


def main():
    tables.save("results/joblib-times.csv", [COLUMNS, *measure()])
    tables.write(tables.HERE / "several_machines.md")


if __name__ == "__main__":
    main()
