"""The rate of each kernel of the backend "cpu" in GFLOP/s or GB/s, beside the ceiling of the machine and NumPy."""

import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import backends
from ..backends import matmul, reference, zeros
from ..backends.jobs import PASS
from ..optimizers import Optimizer, UpdateRule
from ..parameters import Layout
from ..preprocessing import Scaling
from . import machine

#: The share of zeros among the pixels of MNIST.
ZEROS = 0.81


class Row(NamedTuple):
    """The rate of a kernel, of the ceiling and of NumPy, measured in turn."""

    kernel: str
    unit: str  # GFLOP/s or GB/s
    rate: float
    ceiling: float
    numpy: float


def kernels(M: int = 100, D: int = 784, H: int = 500, J: int = 20) -> Iterator[tuple]:
    """Yield (name, amount of work, unit, function of npvae, function of NumPy) for a step of the paper's MNIST model.

    The amount of work is the number of floating-point operations, or of bytes that must be read and written once.

    Parameters
    ----------
    M, D, H, J : int
        Rows of a minibatch, columns of the data, hidden units, latent dimensions.
    """
    cpu, rng = backends.get("cpu"), np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    for name, (I, O) in {"D x H": (D, H), "H x D": (H, D), "H x J": (H, J), "J x H": (J, H)}.items():
        x, W, dy, b, dx, dW = (normal(*shape) for shape in ((M, I), (I, O), (M, O), (O,), (M, I), (I, O)))
        jobs = (
            matmul.dense_job(x, W, b, dy),
            matmul.weight_gradient_job(x, dy, dW),
            matmul.input_gradient_job(dy, W, False, dx),
        )
        theirs = (
            lambda x=x, W=W, b=b, y=dy: reference.dense(x, W, b, "identity", y),
            lambda x=x, dy=dy, dW=dW: np.matmul(x.T, dy, out=dW),
            lambda W=W, dy=dy, dx=dx: np.matmul(dy, W.T, out=dx),
        )
        for product, job, numpy in zip(("x W + b", "x^T dy", "dy W^T"), jobs, theirs):
            ours = lambda job=job: matmul.product(np.dtype("f4"), *job.arguments, work=job.work)
            yield f"{product}, {name}", 2 * job.work, "GFLOP/s", ours, numpy

    yield from _skipping(M, D, H, normal)

    X, scaling, out = (
        rng.integers(0, 256, (50_000, D), dtype=np.uint8),
        Scaling(np.zeros(D), np.full(D, 1 / 255)),
        normal(M, D),
    )
    rows = rng.integers(0, len(X), M)
    yield (
        "gather uint8 rows",
        5 * M * D,
        "GB/s",
        *(lambda b=b: b.gather(X, rows, scaling, out) for b in (cpu, reference)),
    )

    x, logits = rng.random((M, D), dtype=np.float32), normal(M, D)
    outs, weights = (np.empty(M, np.float32), np.empty_like(logits)), np.full(M, 0.01, np.float32)
    yield (
        "Bernoulli log-likelihood",
        12 * M * D,
        "GB/s",
        *(lambda b=b: b.bernoulli_log_prob(x, logits, weights, outs) for b in (cpu, reference)),
    )
    mu, log_var, eps = normal(M, J), normal(M, J), normal(M, J)
    latent = np.empty((M, J), np.float32), np.empty(M, np.float32)
    yield (
        "latent layer",
        16 * M * J,
        "GB/s",
        *(lambda b=b: b.gaussian_latent(mu, log_var, eps, True, latent) for b in (cpu, reference)),
    )

    layout = Layout({"W": (2 * D * H,)})
    steps = []
    for backend in (cpu, reference):
        parameters, gradient = layout.view(normal(layout.size)), backend.gradient(layout, np.float32)
        gradient.vector[...] = 1e-3
        optimizer = Optimizer("adagrad", backend, UpdateRule(0.01, 1e-5, 0, layout.size), layout.size, np.float32)
        steps.append(lambda o=optimizer, p=parameters, g=gradient: o.step(p, g))
    yield "Adagrad", 20 * layout.size, "GB/s", *steps


def _skipping(M, D, H, normal):
    """Yield the products of a dense layer with inputs that are mostly zeros, and the lists that they need."""
    x, W, dy, b, dW = (normal(*shape) for shape in ((M, D), (D, H), (M, H), (H,), (D, H)))
    x[np.random.default_rng(0).random((M, D)) < ZEROS] = 0
    lists, transposed = zeros.empty_lists(M, D, np.float32), zeros.empty_lists(D, M, np.float32)
    number, none, size = np.dtype("f4"), np.empty(0, np.float32), M * D * H

    def forward():
        zeros.row_lists(number, x, *lists, work=PASS * x.size)
        zeros.listed_product(number, D, *lists, W, b, dy, work=size)

    def backward():
        zeros.column_lists(number, M, D, *lists, *transposed, work=PASS * x.size)
        zeros.listed_product(number, M, *transposed, dy, none, dW, work=size)

    share = f"{ZEROS:.0%} zeros"
    yield f"x W + b, D x H, {share}", 2 * size, "GFLOP/s", forward, lambda: reference.dense(x, W, b, "identity", dy)
    yield f"x^T dy, D x H, {share}", 2 * size, "GFLOP/s", backward, lambda: np.matmul(x.T, dy, out=dW)


def table(threads: int, rounds: int = 10, repeats: int = 20) -> list[Row]:
    """Measure all kernels, the ceilings and NumPy in turn; return medians.

    In each round all kernels of npvae run before all of NumPy: Numba and NumPy's BLAS have their own threads, which
    would slow each other down.
    """
    everything = list(kernels())
    ceilings, peaks = {"GB/s": machine.copy_bandwidth()}, []
    seconds: dict[tuple[str, str], list[float]] = {
        (name, who): [] for name, *_ in everything for who in ("ours", "numpy")
    }
    for _ in range(rounds):
        for who, place in (("ours", 3), ("numpy", 4)):
            for repeat in range(repeats + 1):
                for name, *row in everything:
                    taken = machine.seconds_of(row[place - 1])
                    if repeat:  # the first call compiles, or wakes the threads
                        seconds[name, who].append(taken)
            time.sleep(0.1)  # until the threads sleep
        peaks += [0.1 / machine.seconds_of(lambda: machine.work_at_peak(1e8, threads)) for _ in range(repeats)]
    ceilings["GFLOP/s"] = statistics.median(peaks)

    def rate(amount, name, who):
        return amount / statistics.median(seconds[name, who]) / 1e9

    return [
        Row(name, unit, rate(amount, name, "ours"), ceilings[unit], rate(amount, name, "numpy"))
        for name, amount, unit, *_ in everything
    ]
