"""Whole networks on the CPU: the jobs of a forward or a backward pass of all layers, run by one call of compiled code.

A *plan* has the jobs of a pass. It is made once for each size of minibatch, with places in flat arrays, in which the
layers follow one another; a pass adds the addresses of the arrays.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..parameters import Parameters
from .jobs import PASS, At, Kernel, address, kernel, read, run, share, table, variant
from .matmul import Product, dense_job, input_gradient_job, product, weight_gradient_job
from .scalar import activating_loops, multiplying_loops, squared_norm

#: The arrays that the jobs of a plan refer to, by number. SIZES: squared norms, FLAGS: whether a gradient is finite.
X, PARAMETERS, LAYERS, DELTAS, GRADIENT, DX, SIZES, FLAGS = range(8)

#: The activation that is none.
IDENTITY = "identity"

#: Flags of a `Gradient`: of up to so many networks but one, and of the value.
N_FLAGS = 4


class Plan(NamedTuple):
    """The jobs of a pass, and for each of their words what is added to it: an entry of (0, address, address, ...)."""

    jobs: NDArray[np.int64]
    bases: NDArray[np.int64]

    def run(self, dtype: np.dtype, arrays: list) -> None:
        """Do the jobs on these arrays, in the order of the numbers above."""
        run(self.jobs + np.array([0, *map(address, arrays)])[self.bases], dtype, keeping=arrays)


class _Writer:
    """Writes the jobs of a plan, stage by stage: see `jobs`."""

    def __init__(self, dtype):
        self.dtype, self.rows, self.stage = dtype, [], []

    def add(self, job: Kernel, *arguments: Any, work: int) -> None:
        self.stage.append((job, arguments, work))

    def multiply(self, job: Product) -> None:
        self.add(product, *job.arguments, work=job.work)

    def end_stage(self) -> None:
        for n, (job, arguments, work) in enumerate(self.stage, 1):
            self.rows.append(job.job(self.dtype, *arguments, work=work, ends_stage=n == len(self.stage)))
        self.stage = []

    def plan(self) -> Plan:
        return Plan(*(table(list(words)) for words in zip(*self.rows)))


class Pass(NamedTuple):
    """An `nn.Pass` whose arrays are views of two flat arrays, in which the layers follow one another."""

    hidden: tuple
    outputs: tuple
    doutputs: tuple
    layers: NDArray  # outputs y = f(a) of all layers
    deltas: NDArray  # gradients at y; after the backward pass, at a
    sizes: NDArray  # (layers, 2, M): squared norms of the rows of a layer's inputs, and of its gradients at a
    plans: dict  # "forward" or (gradients of parameters?, gradient at the inputs?) -> Plan


class Network:
    """The same results as `nn.Network`, with one call of compiled code per pass."""

    def __init__(self, mlp, layout, backend=None):
        self.mlp, self._layout = mlp, layout

    def forward(self, parameters, x, buffers):
        """See `nn.Network.forward`."""
        x, dtype = np.ascontiguousarray(x), x.dtype
        done = buffers.get_or_make((self, len(x)), lambda: self._new_pass(len(x), dtype))
        if "forward" not in done.plans:
            done.plans["forward"] = self._forward_plan(len(x), dtype)
        done.plans["forward"].run(dtype, [x, parameters.vector, done.layers])
        return done

    def backward(self, parameters, x, done, gradient, buffers, dx=None):
        """See `nn.Network.backward`."""
        x, key = np.ascontiguousarray(x), (gradient is not None, dx is not None)
        if key not in done.plans:
            done.plans[key] = self._backward_plan(len(x), x.dtype, *key)
        # No job refers to an array that is not wanted; another array is in its place.
        flags = gradient.flag(self) if key[0] else x
        places = gradient.vector if key[0] else x, dx if key[1] else x
        arrays = [x, parameters.vector, done.layers, done.deltas, *places, done.sizes, flags]
        done.plans[key].run(x.dtype, arrays)

    def _new_pass(self, M, dtype):
        layers = self.mlp.hidden + self.mlp.heads
        ends = np.cumsum([M * layer.n_outputs for layer in layers])
        flats = [np.empty(ends[-1], dtype) for _ in range(2)]
        outputs, doutputs = (
            [part.reshape(M, layer.n_outputs) for part, layer in zip(np.split(flat, ends[:-1]), layers)]
            for flat in flats
        )
        n, sizes = len(self.mlp.hidden), np.zeros((len(layers), 2, M), dtype)
        return Pass(tuple(outputs[:n]), tuple(outputs[n:]), tuple(doutputs[n:]), *flats, sizes, {})

    def _places(self, M):
        """List for each layer: its number, the `Layer`, where its outputs start, its inputs (an `At`)."""
        layers, start, places = self.mlp.hidden + self.mlp.heads, 0, []
        for i, layer in enumerate(layers):
            last, shape = min(i, len(self.mlp.hidden)) - 1, (M, layer.n_inputs)  # the hidden layer that this one reads
            places.append((i, layer, start, At(LAYERS, places[last][2], shape) if last >= 0 else At(X, 0, shape)))
            start += M * layer.n_outputs
        return places

    def _arrays(self, base, layer):
        """Return the places of a layer's weights and biases."""
        at = [self._layout.slices[layer.name + end].start for end in (".W", ".b")]
        return At(base, at[0], layer[1:3]), At(base, at[1], layer[2:3])

    def _groups(self, M):
        """List the layers as `_places` does, in lists of layers that do not wait for each other."""
        n, places = len(self.mlp.hidden), self._places(M)
        return [*([place] for place in places[:n]), places[n:]]

    def _forward_plan(self, M, dtype):
        jobs = _Writer(dtype)
        for group in self._groups(M):
            outs = [At(LAYERS, start, (M, layer.n_outputs)) for _, layer, start, _ in group]
            for out, (_, layer, _, inputs) in zip(outs, group):
                jobs.multiply(dense_job(inputs, *self._arrays(PARAMETERS, layer), out))
            jobs.end_stage()
            for out, (_, layer, _, _) in zip(outs, group):
                if layer.activation != IDENTITY:
                    size = math.prod(out.shape)
                    jobs.add(activate[layer.activation], out._replace(shape=(size,)), work=PASS * size)
            jobs.end_stage()
        return jobs.plan()

    def _backward_plan(self, M, dtype, with_gradient, with_dx):
        jobs, groups = _Writer(dtype), self._groups(M)
        for group in reversed(groups):
            for i, layer, start, inputs in group:
                y, delta = (At(base, start, (M, layer.n_outputs)) for base in (LAYERS, DELTAS))
                sizes = At(SIZES, 2 * M * i, (2, M if with_gradient else 0))
                jobs.add(to_activation[layer.activation], delta, y, inputs, sizes, work=PASS * M * layer.n_outputs)
            jobs.end_stage()
            adds = False
            for _, layer, start, inputs in group:
                delta, (W, _), (dW, db) = (
                    At(DELTAS, start, (M, layer.n_outputs)),
                    self._arrays(PARAMETERS, layer),
                    self._arrays(GRADIENT, layer),
                )
                if with_gradient:
                    jobs.multiply(weight_gradient_job(inputs, delta, dW))
                    jobs.add(_sum_over_rows, delta, db, work=M * layer.n_outputs)
                if layer.n_inputs and (inputs.base != X or with_dx):
                    target = inputs._replace(base=DX if inputs.base == X else DELTAS)
                    jobs.multiply(input_gradient_job(delta, W, adds, target))
                    adds = True
            jobs.end_stage()
        if with_gradient:
            n_layers = sum(map(len, groups))
            jobs.add(_check, At(SIZES, 0, (n_layers, 2, M)), At(FLAGS, 0, (1,)), work=0)
            jobs.end_stage()
        return jobs.plan()


class Gradient(Parameters):
    """The gradient of all parameters, with flags that say whether it is finite.

    ``finite`` has an array (1,) for each network that computed a part of the gradient. It is 1 if that part and its
    square are certain to be finite. This is found from the layers, which are smaller than the gradient. ``control``
    has these flags one after the other, and what a step must know besides: see ``cpu.TAKEN``. The last flag is that of
    the value, for steps that are run from a table.
    """

    def __init__(self, layout, vector, size):
        super().__init__(layout, vector)
        self.finite, self.control = {}, np.zeros(size, np.int64)
        self.control[:N_FLAGS] = 1
        self.starts = np.array([part.start for part in layout.slices.values()] + [layout.size])

    def flag(self, network):
        """Return the flag (1,) of a network."""
        if network not in self.finite:
            self.finite[network] = self.control[len(self.finite) : len(self.finite) + 1]
        return self.finite[network]


def _activate(job, step, work, thread, threads):
    """Apply an activation to the outputs of a layer, in place."""
    (numbers,) = read(job)
    start, stop = share(len(numbers), thread, threads)
    loop(numbers[start:stop])


def _to_activation(job, step, work, thread, threads):
    """Multiply the gradient at a layer's outputs y by f'(a), which makes it that at a; and measure it and the inputs.

    The shares are rows.
    """
    delta, y, inputs, sizes = read(job)
    start, stop = share(len(delta), thread, threads)
    first, last = start * delta.shape[1], stop * delta.shape[1]
    loop(delta.reshape(delta.size)[first:last], y.reshape(y.size)[first:last])
    if sizes.shape[1]:
        for i in range(start, stop):
            sizes[0, i], sizes[1, i] = squared_norm(inputs[i]), squared_norm(delta[i])


#: The kernels of each activation by its name.
activate = {name: kernel("f1")(variant(_activate, f"_activate_{name}", loop=f)) for name, f in activating_loops.items()}
to_activation = {
    name: kernel("f2 f2 f2 f2")(variant(_to_activation, f"_to_{name}", loop=derivative))
    for name, derivative in multiplying_loops.items()
}


@kernel("f2 f1")
def _sum_over_rows(job, step, work, thread, threads):
    """Set db to the sum of delta over rows. The shares are columns."""
    delta, db = read(job)
    start, stop = share(len(db), thread, threads)
    for j in range(start, stop):
        db[j] = 0
    for i in range(len(delta)):
        for j in range(start, stop):
            db[j] += delta[i, j]


@kernel("f3 i1")
def _check(job, step, work, thread, threads):
    """Set a flag to whether the gradients x^T delta of all weights are certain to be finite.

    By the Cauchy-Schwarz inequality, the square of each of their elements is at most the product of the squared norms
    of x and delta.
    """
    sizes, flag = read(job)
    if thread == 0:
        flag[0] = 1
        for layer in range(len(sizes)):
            inputs, delta = sizes.dtype.type(0), sizes.dtype.type(0)
            for i in range(sizes.shape[2]):
                inputs += sizes[layer, 0, i]
                delta += sizes[layer, 1, i]
            if not math.isfinite(inputs * delta):
                flag[0] = 0
