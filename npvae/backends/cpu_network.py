"""Whole networks on the CPU: all layers of a forward or a backward pass in one call of compiled code.

`matmul` computes matrix products, described by *jobs*. A *plan* holds the jobs of a pass and the operations between
them. Plans are made once for each size of minibatch.
"""

import itertools
import math
import threading
from typing import NamedTuple

import numpy as np
from numba import njit

from ..parameters import Parameters
from . import formulas
from .matmul import JOB_LENGTH, dense_job, input_gradient_job, multiply, weight_gradient_job, workspace
from .runtime import CACHE, is_compiled, threads
from .scalar import multiply_by_derivative, squared_norm

#: ``contract`` allows fused multiply-add; ``reassoc`` and the others allow vectorized sums. Left out are ``nnan`` and
#: ``ninf`` (part of ``fastmath=True``): with them the compiler may remove the search for NaN and infinite values.
OPTIONS = {"cache": CACHE, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}}


class _Scratch(threading.local):
    """Scratch memory of the matrix products, for each Python thread its own."""

    def __init__(self):
        self.by_dtype = {np.dtype(dtype): workspace(dtype) for dtype in (np.float32, np.float64)}


_scratch = _Scratch()


def scratch(dtype):
    """Return this thread's scratch memory for products in one precision."""
    return _scratch.by_dtype[np.dtype(dtype)]


#: The flat arrays that jobs refer to, by number.
X, PARAMETERS, LAYERS, DELTAS, GRADIENT, DX = range(6)
N_ARRAYS = 6

#: Columns of the table of layers, for the operations of the backward pass that are not products:
#: AT, SIZE: start and number of the layer's elements in LAYERS and DELTAS;
#: READS, READS_AT, READS_SIZE: the array of its inputs (X or LAYERS), their start and their number;
#: CODE: of its activation; B_AT, N_OUTPUTS: start and number of its biases;
#: JOBS_END: end of the jobs to do after this layer, or -1 to do them together with those of the next layer.
AT, SIZE, READS, READS_AT, READS_SIZE, CODE, B_AT, N_OUTPUTS, JOBS_END = range(9)


class Pass(NamedTuple):
    """An `nn.Pass` whose arrays are views of two flat arrays, in which the layers follow one another."""

    hidden: tuple
    outputs: tuple
    doutputs: tuple
    layers: np.ndarray  # outputs y = f(a) of all layers
    deltas: np.ndarray  # gradients at y; after the backward pass, at a
    forward: tuple  # the plan: jobs, and the end of each group of jobs that can be done together
    backward: dict  # the plans: (gradients of parameters?, gradient at the inputs?) -> jobs, table of layers


class Network:
    """The same results as `nn.Network`, with one call of compiled code per pass."""

    def __init__(self, mlp, layout, backend=None):
        self.mlp, self._layout = mlp, layout

    def forward(self, parameters, x, buffers):
        """See `nn.Network.forward`."""
        done = buffers.get_or_make((self, len(x)), lambda: self._new_pass(len(x), x.dtype))
        x, vector = writeable(x), writeable(parameters.vector)
        arrays = x.reshape(-1), vector, done.layers, done.deltas, vector, vector  # no job uses the last two
        _forward(*done.forward, arrays, scratch(x.dtype), threads())
        return done

    def backward(self, parameters, x, done, gradient, buffers, dx=None):
        """See `nn.Network.backward`."""
        x, vector, wanted = writeable(x), writeable(parameters.vector), gradient is not None
        finite = np.ones(1, np.int64)
        if wanted:
            finite = gradient.finite.setdefault(self, finite)
        flat_x = x.reshape(-1)
        # No job refers to an array that is not wanted; the tuple has another array in its place.
        flat_gradient, flat_dx = gradient.vector if wanted else vector, flat_x if dx is None else dx.reshape(-1)
        arrays = flat_x, vector, done.layers, done.deltas, flat_gradient, flat_dx
        plan = done.backward[wanted, dx is not None]
        _backward(*plan, wanted, arrays, finite, scratch(x.dtype), threads())

    def _new_pass(self, M, dtype):
        layers = self.mlp.hidden + self.mlp.heads
        ends = np.cumsum([M * layer.n_outputs for layer in layers])
        flats = [np.empty(ends[-1], dtype) for _ in range(2)]
        outputs, doutputs = (
            [part.reshape(M, layer.n_outputs) for part, layer in zip(np.split(flat, ends[:-1]), layers)]
            for flat in flats
        )
        n = len(self.mlp.hidden)
        backward = {w: self._backward_plan(M, *w) for w in itertools.product((False, True), repeat=2)}
        return Pass(
            tuple(outputs[:n]), tuple(outputs[n:]), tuple(doutputs[n:]), *flats, self._forward_plan(M), backward
        )

    def _places(self, M):
        """List for each layer: its number, the `Layer`, the start of its outputs, (array, start) of its inputs."""
        layers, start, places = self.mlp.hidden + self.mlp.heads, 0, []
        for i, layer in enumerate(layers):
            last = min(i, len(self.mlp.hidden)) - 1  # the hidden layer that this one reads
            places.append((i, layer, start, (LAYERS, places[last][2]) if last >= 0 else (X, 0)))
            start += M * layer.n_outputs
        return places

    def _at(self, layer, end):
        return self._layout.slices[layer.name + end].start

    def _forward_plan(self, M):
        jobs, ends = [], []
        for i, layer, start, reads in self._places(M):
            shape, W, b = (M, *layer[1:3]), (PARAMETERS, self._at(layer, ".W")), (PARAMETERS, self._at(layer, ".b"))
            jobs.append(dense_job(shape, reads, W, b, formulas.code(layer.activation), (LAYERS, start)))
            if i < len(self.mlp.hidden):
                ends.append(len(jobs))
        return np.array(jobs, np.int64), np.array([*ends, len(jobs)], np.int64)

    def _backward_plan(self, M, with_gradient, with_dx):
        n, places, jobs, table = len(self.mlp.hidden), self._places(M), [], []
        adds = False
        for i, layer, start, reads in [*places[n:], *reversed(places[:n])]:  # all heads at a time, then layer by layer
            shape, delta, W = (M, *layer[1:3]), (DELTAS, start), self._at(layer, ".W")
            if with_gradient:
                jobs.append(weight_gradient_job(shape, reads, delta, (GRADIENT, W)))
            if layer.n_inputs and (reads[0] != X or with_dx):
                target = (DX, 0) if reads[0] == X else (DELTAS, reads[1])
                jobs.append(input_gradient_job(shape, delta, (PARAMETERS, W), adds and i >= n, target))
                adds = True
            sizes = M * layer.n_outputs, *reads, M * layer.n_inputs
            end = len(jobs) if i < n or i == len(places) - 1 else -1
            b = self._at(layer, ".b")
            table.append((start, *sizes, formulas.code(layer.activation), b, layer.n_outputs, end))
        return np.array(jobs, np.int64).reshape(-1, JOB_LENGTH), np.array(table, np.int64)


def writeable(array):
    """Return the array, or a copy of one that is read-only: Numba would compile a second version for it."""
    return array if array.flags.writeable else array.copy()


class Gradient(Parameters):
    """The gradient of all parameters, with flags that say whether it is finite.

    ``finite`` has an array (1,) for each network that computed a part of the gradient. It is 1 if that part and its
    square are certain to be finite. This is found from the layers, which are smaller than the gradient.
    """

    def __init__(self, layout, vector):
        super().__init__(layout, vector)
        self.finite = {}
        self.starts = np.array([part.start for part in layout.slices.values()] + [layout.size])


@njit(**OPTIONS)
def _forward(jobs, ends, arrays, work, threads):
    start = 0
    for end in ends:
        multiply(jobs[start:end], arrays, work, threads)
        start = end


@njit(**OPTIONS)
def _backward(jobs, table, with_gradient, arrays, finite, work, threads):
    """Backpropagate from the heads to the first layer."""
    start = 0
    finite[0] = 1
    for n in range(len(table)):
        layer = table[n]
        here, reads_at = slice(layer[AT], layer[AT] + layer[SIZE]), layer[READS_AT]
        y, delta = arrays[LAYERS][here], arrays[DELTAS][here]
        multiply_by_derivative(delta, y, layer[CODE])
        if with_gradient:
            read = arrays[layer[READS]][reads_at : reads_at + layer[READS_SIZE]]
            db = arrays[GRADIENT][layer[B_AT] : layer[B_AT] + layer[N_OUTPUTS]]
            _sum_over_rows(read, delta, db, finite)
        if layer[JOBS_END] >= 0:
            multiply(jobs[start : layer[JOBS_END]], arrays, work, threads)
            start = layer[JOBS_END]


@njit(**OPTIONS)
def _sum_over_rows(read, delta, db, finite):
    """Sum delta over rows to db, and set ``finite`` to 0 if the weight gradient read^T delta may not be finite.

    By the Cauchy-Schwarz inequality, the square of each of its elements is at most the product of the squared norms of
    ``read`` and ``delta``.
    """
    db[:] = 0
    for row in range(0, len(delta), len(db)):
        _add(delta[row : row + len(db)], db)
    if not math.isfinite(squared_norm(read) * squared_norm(delta)):
        finite[0] = 0


@njit(**OPTIONS)
def _add(row, total):
    for j in range(len(row)):
        total[j] += row[j]


def is_ready(dtype):
    """Return whether the kernels of a training with this dtype are compiled, as far as the longest one tells."""
    return is_compiled(_backward, dtype)
