"""log p(x) by importance sampling, beside the same in JAX: ``python -m npvae.bench.likelihood`` prints seconds.

The model is the paper's for MNIST (784-500-20, Bernoulli), with 5000 samples a row. Each contestant has its own
process, which sleeps while the other one works. JAX is left out if it is not installed.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows of a turn, samples of a row, and turns.
ROWS, SAMPLES, TURNS = 5, 5000, 7


def model_and_rows() -> tuple[Any, NDArray]:
    """Return a model of black and white digits, and the rows that are scored."""
    from ..datasets import make_digits
    from ..vae import VAE

    X = (make_digits(1000, random_state=0)[0] > 127).astype(np.float32)
    return VAE(20, learning_rate=0.02, max_epochs=5).fit(X), X[:ROWS]


def npvae() -> Callable[[], NDArray]:
    """Return a function that estimates log p(x) of the rows."""
    from ..evaluation import importance_sampling

    vae, X = model_and_rows()
    fitted = vae.fitted_
    data = fitted.data(X)
    return lambda: importance_sampling(fitted, data, SAMPLES).log_prob


def jax() -> Callable[[], NDArray]:
    """Return the same function as a user of JAX writes it: for one row, under `vmap` and `jit`."""
    from jax import jit, nn, random, vmap
    from jax import numpy as jnp
    from jax.scipy.special import logsumexp

    vae, X = model_and_rows()
    parameters = {name: jnp.asarray(array) for name, array in vae.parameters_.items()}

    def layer(name, x):
        return x @ parameters[f"{name}.W"] + parameters[f"{name}.b"]

    def log_p(x, key):
        h = jnp.tanh(layer("encoder.hidden1", x))
        mu, log_var = layer("encoder.mu", h), layer("encoder.log_var", h)
        eps = random.normal(key, (SAMPLES, len(mu)))
        z = mu + jnp.exp(log_var / 2) * eps
        logits = layer("decoder.logits", jnp.tanh(layer("decoder.hidden1", z)))
        log_likelihood = jnp.sum(x * logits - nn.softplus(logits), axis=1)
        log_weights = log_likelihood - 0.5 * jnp.sum(z**2 - eps**2 - log_var, axis=1)
        return logsumexp(log_weights) - jnp.log(SAMPLES)

    function, x = jit(vmap(log_p)), jnp.asarray(X, jnp.float32)
    return lambda: np.asarray(function(x, random.split(random.key(0), len(x))))


CONTESTANTS = {"npvae": npvae, "jax": jax}


def work(name: str) -> None:
    """Take a turn for each line of the input, and answer with its seconds and the mean of log p(x)."""
    function = CONTESTANTS[name]()
    function()  # compile
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        log_p = function()
        print(time.perf_counter() - began, log_p.mean(), flush=True)


def compare(threads: int, turns: int = TURNS) -> dict[str, list[tuple[float, float]]]:
    """Return (seconds a row, mean log p(x)) of every turn of each contestant that is installed, taken in turn."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    names = [name for name in CONTESTANTS if importlib.util.find_spec(name)]
    processes: dict[str, Any] = {}
    answers: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        command = [sys.executable, "-W", "ignore", "-m", "npvae.bench.likelihood", name]
        pipe = subprocess.PIPE
        processes[name] = subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe)
        processes[name].stdout.readline()
    for _ in range(turns):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            seconds, log_p = map(float, process.stdout.readline().split())
            answers[name].append((seconds / ROWS, log_p))
    for process in processes.values():
        process.communicate()
    return answers


def main() -> None:
    """Print the median seconds for 10000 rows of each contestant, and their ratio."""
    from ..backends import runtime

    threads = runtime.threads()
    answers = compare(threads)
    medians = {name: statistics.median(seconds for seconds, _ in turns) for name, turns in answers.items()}
    for name, seconds in medians.items():
        print(
            f"{name}: {10_000 * seconds:.0f} s for 10000 rows with {SAMPLES} samples on {threads} threads, "
            f"npvae / this {medians['npvae'] / seconds:.2f}; mean log p(x) {answers[name][0][1]:.3f} nats"
        )


if __name__ == "__main__":
    work(sys.argv[1]) if len(sys.argv) > 1 else main()
