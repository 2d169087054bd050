"""Seconds an epoch of the paper's MNIST model, for each backend, alternating within one run.

NPVAE_DATA=... python tests/benchmarks/epoch.py [epochs]
"""

import platform
import statistics
import sys
import time

import numba
import numpy as np

import npvae
from npvae import backends, datasets


def make_trainer(X, backend):
    """Return a Trainer as `VAE.fit` makes it, after a fit that compiles."""
    model = npvae.VAE(backend=backend, learning_rate=0.02, max_epochs=1)
    model.set_params(callbacks=(lambda epoch: True,)).fit(X[:100])
    inner = model._fitted_model()
    initial = inner.layout.initial(np.random.default_rng(0), model.init_std)
    return model._trainer(inner, model.preprocessor_.data(X), initial, 0.02)


def main(epochs=5):
    """Print the median, shortest and longest epoch of each backend."""
    X = datasets.load_mnist().X_train
    trainers = {name: make_trainer(X, name) for name in backends.BACKENDS}
    seconds = {name: [] for name in trainers}
    for _ in range(epochs):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            trainer.epoch(lambda: False)
            seconds[name].append(time.perf_counter() - started)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}"
    print(f"784-500-20-500-784, batch 100, float32, {len(X)} rows; {numba.get_num_threads()} threads; {versions}")
    for name, times in seconds.items():
        print(f"{name:10} {statistics.median(times):6.2f} s an epoch (from {min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
