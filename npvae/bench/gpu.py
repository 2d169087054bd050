"""Each kernel of the CUDA backend beside the measured ceilings of the device: float32 arithmetic and copying memory.

Launched one by one from Python, a small kernel would measure the launches. So many launches of one are captured as a
graph, whose replay is timed; where graphs are not available the launches are timed, and the table says so.
"""

import statistics
from types import SimpleNamespace

import numpy as np
from numba import cuda, float32

from .. import backends
from ..optimizers import Optimizer, Rule
from ..parameters import Layout
from .kernels import Row
from .machine import seconds_of

#: Launches of a graph, and replays of which the median counts.
LAUNCHES, REPEATS = 50, 20

#: Independent sums of a thread that measures arithmetic, multiplications and additions of each, and threads a block.
CHAINS, ROUNDS, THREADS = 8, 1024, 256


@cuda.jit
def _multiply_and_add(out, rounds):
    """Multiply and add in registers, so many times in each of CHAINS sums."""
    sums = cuda.local.array(CHAINS, float32)
    place = cuda.grid(1)
    factor = out[place]
    for i in range(CHAINS):
        sums[i] = factor + float32(i)
    for _ in range(rounds):
        for i in range(CHAINS):
            sums[i] = sums[i] * factor + factor
    total = float32(0)
    for i in range(CHAINS):
        total += sums[i]
    out[place] = total


@cuda.jit
def _copy(source, target):
    place = cuda.grid(1)
    if place < target.shape[0]:
        target[place] = source[place]


def seconds(launch):
    """Return the seconds that one call of a function takes on the device: the median of so many replays."""
    backend, stream = backends.get("cuda"), cuda.stream()
    with backend.launching_on(stream):
        launch()  # compiles
    replay = backend.captured(lambda: [launch() for _ in range(LAUNCHES)])

    def once():
        if replay is None:
            with backend.launching_on(stream):
                for _ in range(LAUNCHES):
                    launch()
        else:
            replay(stream)
        stream.synchronize()

    once()
    return statistics.median(seconds_of(once) for _ in range(REPEATS)) / LAUNCHES


def ceilings(blocks=4096, size=2**26):
    """Measure GFLOP/s of float32 arithmetic, and GB/s of copying, read and written."""
    backend = backends.get("cuda")
    ones = backend.asarray(np.full(blocks * THREADS, 0.5), np.float32)
    arithmetic = seconds(lambda: backend.launch(_multiply_and_add, blocks, THREADS, ones, ROUNDS))
    source, target = (backend.asarray(np.ones(size), np.float32) for _ in range(2))
    copying = seconds(lambda: backend.launch(_copy, -(-size // THREADS), THREADS, source, target))
    flop = 2 * blocks * THREADS * CHAINS * ROUNDS
    return {"GFLOP/s": flop / arithmetic / 1e9, "GB/s": 8 * size / copying / 1e9}


def kernels(M=100, D=784, H=500, J=20, rows=50_000):
    """Yield (name, amount of work, unit, function) for one step of a model: see `bench.kernels.kernels`."""
    backend, rng = backends.get("cuda"), np.random.default_rng(0)

    def normal(*shape):
        return backend.asarray(rng.standard_normal(shape), np.float32)

    for name, (I, O) in {"D x H": (D, H), "H x D": (H, D), "H x J": (H, J), "J x H": (J, H)}.items():
        x, W, b, y, dW, dx = (normal(*shape) for shape in ((M, I), (I, O), (O,), (M, O), (I, O), (M, I)))
        flop = 2 * M * I * O
        yield f"f(x W + b), {name}", flop, "GFLOP/s", lambda x=x, W=W, b=b, y=y: backend.dense(x, W, b, "tanh", y)
        yield f"x^T dy, {name}", flop, "GFLOP/s", lambda x=x, y=y, dW=dW: backend.product(x, False, y, False, dW)
        yield f"dy W^T, {name}", flop, "GFLOP/s", lambda W=W, y=y, dx=dx: backend.product(y, True, W, True, dx)

    X, places = backend.asarray(rng.integers(0, 256, (rows, D)), np.uint8), rng.integers(0, rows, (1, M))
    shift, scale = (backend.asarray(array, np.float64) for array in (np.zeros(D), np.full(D, 1 / 255)))
    places, position, out = backend.asarray(places, np.int64), backend.asarray([0], np.int32), normal(M, D)
    gather = lambda: backend.gather_rows(X, places, position, shift, scale, out)
    yield "gather uint8 rows", 5 * M * D, "GB/s", gather

    x, logits, results = normal(M, D), normal(M, D), (normal(M), normal(M, D))
    yield "Bernoulli log-likelihood", 12 * M * D, "GB/s", lambda: backend.bernoulli_log_prob(x, logits, 0.01, results)
    mu, log_var, eps, z, kl = (normal(*shape) for shape in ((M, J), (M, J), (M, J), (M, J), (M,)))
    yield "latent layer", 16 * M * J, "GB/s", lambda: backend.gaussian_latent(mu, log_var, eps, True, (z, kl))

    layout = Layout({"W": (2 * D * H,)})
    parameters, gradient = layout.view(normal(layout.size)), backend.gradient(layout, np.float32)
    optimizer = Optimizer("adagrad", backend, Rule(0.01, 1e-5, 0, layout.size), layout.size, np.float32)
    yield "Adagrad", 24 * layout.size, "GB/s", lambda: optimizer.launch(parameters, gradient)


def table(top, **sizes):
    """Measure all kernels beside the `ceilings`; return a list of `Row`, without NumPy."""
    return [
        Row(name, unit, amount / seconds(launch) / 1e9, top[unit], float("nan"))
        for name, amount, unit, launch in kernels(**sizes)
    ]


def describe():
    """Name the device and the versions that matter, on one line."""
    import numba_cuda

    device = cuda.get_current_device() if cuda.is_available() else SimpleNamespace(name="no GPU")
    name = getattr(device, "name", "simulator")
    name = name.decode() if isinstance(name, bytes) else name
    return f"{name}; numba-cuda {numba_cuda.__version__}, NumPy {np.__version__}"
