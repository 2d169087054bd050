"""Each kernel of the CUDA backend beside the measured ceilings of the device: float32 arithmetic and copying memory.

Launched one by one from Python, a small kernel would measure the launches. So many launches of one are captured as a
graph, whose replay is timed; where graphs are not available the launches are timed, and the table says so.
"""

import statistics
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
from numba import cuda, float32, uint32

from .. import backends
from ..backends.cuda_graph import captured
from ..backends.cuda_launch import gather_rows, launch, launching_on
from ..backends.cuda_product import PRODUCTS, product
from ..optimizers import Optimizer, UpdateRule
from ..parameters import Layout
from .kernels import Row
from .machine import seconds_of

#: Launches of a graph, and replays of which the median counts.
LAUNCHES, REPEATS = 50, 20

#: Independent sums of a thread that measures arithmetic, multiplications and additions of each, and threads a block.
CHAINS, ROUNDS, THREADS = 8, 4096, 256

#: So many of the ROUNDS are made without counting.
UNROLLED = 16


@cuda.jit
def _multiply_and_add(out, rounds):
    """Multiply and add in registers, so many times in each of CHAINS sums."""
    sums = cuda.local.array(CHAINS, float32)
    place = cuda.grid(1)
    factor = out[place]
    for i in range(CHAINS):
        sums[i] = factor + float32(i)
    while rounds > 0:
        turn = uint32(0)
        while turn < uint32(UNROLLED):  # a loop with while is unrolled: counting would take as long as the arithmetic
            for i in range(CHAINS):
                sums[i] = sums[i] * factor + factor
            turn += uint32(1)
        rounds -= UNROLLED
    total = float32(0)
    for i in range(CHAINS):
        total += sums[i]
    out[place] = total


@cuda.jit
def _copy(source, target):
    place = cuda.grid(1)
    if place < target.shape[0]:
        target[place] = source[place]


def seconds(launches: Callable[[], object]) -> float:
    """Return the seconds that one call of a function takes on the device: the median of `REPEATS` replays."""
    stream = cuda.stream()
    with launching_on(stream):
        launches()  # compiles
    replay = captured(lambda: [launches() for _ in range(LAUNCHES)])

    def once():
        if replay is None:
            with launching_on(stream):
                for _ in range(LAUNCHES):
                    launches()
        else:
            replay(stream)
        stream.synchronize()

    once()
    return statistics.median(seconds_of(once) for _ in range(REPEATS)) / LAUNCHES


def ceilings(blocks: int = 4096, size: int = 2**26) -> dict[str, float]:
    """Measure the device: GFLOP/s of float32 arithmetic, and GB/s of copying memory, bytes read and bytes written."""
    backend = backends.get("cuda")
    ones = backend.asarray(np.full(blocks * THREADS, 0.5), np.float32)
    arithmetic = seconds(lambda: launch(_multiply_and_add, blocks, THREADS, ones, ROUNDS))
    source, target = (backend.asarray(np.ones(size), np.float32) for _ in range(2))
    copying = seconds(lambda: launch(_copy, -(-size // THREADS), THREADS, source, target))
    flop = 2 * blocks * THREADS * CHAINS * ROUNDS
    return {"GFLOP/s": flop / arithmetic / 1e9, "GB/s": 8 * size / copying / 1e9}


def kernels(M: int = 100, D: int = 784, H: int = 500, J: int = 20, rows: int = 50_000) -> Iterator[tuple]:
    """Yield (name, amount of work, unit, function) for one step of a model, and for the three steps of the product.

    The model is that of `bench.kernels.kernels`.
    """
    backend, rng = backends.get("cuda"), np.random.default_rng(0)

    def normal(*shape):
        return backend.asarray(rng.standard_normal(shape), np.float32)

    for name, (I, O) in {"D x H": (D, H), "H x D": (H, D), "H x J": (H, J), "J x H": (J, H)}.items():
        x, W, b, y, dW, dx = (normal(*shape) for shape in ((M, I), (I, O), (O,), (M, O), (I, O), (M, I)))
        flop = 2 * M * I * O
        yield f"f(x W + b), {name}", flop, "GFLOP/s", lambda x=x, W=W, b=b, y=y: backend.dense(x, W, b, "tanh", y)
        yield f"x^T dy, {name}", flop, "GFLOP/s", lambda x=x, y=y, dW=dW: product(x, True, y, False, dW)
        yield f"dy W^T, {name}", flop, "GFLOP/s", lambda W=W, y=y, dx=dx: product(y, False, W, True, dx)
    for step in PRODUCTS:
        a, b, out = (normal(*shape) for shape in ((M, D), (D, H), (M, H)))
        multiply = lambda a=a, b=b, out=out, step=step: product(a, False, b, False, out, step=step)
        yield f"x W, D x H, {step}", 2 * M * D * H, "GFLOP/s", multiply

    X, places = backend.asarray(rng.integers(0, 256, (rows, D)), np.uint8), rng.integers(0, rows, M)
    shift, scale = (backend.asarray(array, np.float64) for array in (np.zeros(D), np.full(D, 1 / 255)))
    places, out = backend.asarray(places, np.int64), normal(M, D)
    gather = lambda: gather_rows(X, places, shift, scale, out)
    yield "gather uint8 rows", 5 * M * D, "GB/s", gather

    x, logits, weights, results = normal(M, D), normal(M, D), normal(M), (normal(M), normal(M, D))
    bernoulli = lambda: backend.bernoulli_log_prob(x, logits, weights, results)
    yield "Bernoulli log-likelihood", 12 * M * D, "GB/s", bernoulli
    mu, log_var, eps, z, kl = (normal(*shape) for shape in ((M, J), (M, J), (M, J), (M, J), (M,)))
    yield "latent layer", 16 * M * J, "GB/s", lambda: backend.gaussian_latent(mu, log_var, eps, True, (z, kl))

    layout = Layout({"W": (2 * D * H,)})
    parameters, gradient = layout.view(normal(layout.size)), backend.gradient(layout, np.float32)
    optimizer = Optimizer("adagrad", backend, UpdateRule(0.01, 1e-5, 0, layout.size), layout.size, np.float32)
    yield "Adagrad", 32 * layout.size, "GB/s", lambda: optimizer.launch(parameters, gradient)


def table(top: dict[str, float], **sizes: int) -> list[Row]:
    """Measure all kernels beside the ceilings ``top``, of `ceilings`; the rate of NumPy is NaN."""
    return [
        Row(name, unit, amount / seconds(launches) / 1e9, top[unit], float("nan"))
        for name, amount, unit, launches in kernels(**sizes)
    ]


def describe() -> str:
    """Return the name of the device and the versions of numba-cuda and NumPy, on one line."""
    import numba_cuda

    device = cuda.get_current_device() if cuda.is_available() else SimpleNamespace(name="no GPU")
    name = getattr(device, "name", "simulator")
    name = name.decode() if isinstance(name, bytes) else name
    return f"{name}; numba-cuda {numba_cuda.__version__}, NumPy {np.__version__}"
