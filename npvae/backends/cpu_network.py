"""Whole networks on the CPU: the jobs of a forward or a backward pass of all layers, run by one call of compiled code.

A *plan* has the jobs of a pass. It is made once for each size of minibatch; a pass adds the addresses of the arrays
that are not always the same: its inputs, the parameters and the gradients.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..parameters import Parameters
from . import zeros
from .jobs import PASS, SERIAL, At, Kernel, address, kernel, read, run, share, table, variant
from .matmul import Product, dense_job, input_gradient_job, product, weight_gradient_job
from .scalar import activating_loops, multiplying_loops, squared_norm

#: The arrays of a plan whose addresses are not known before a pass, by number. FLAG: whether the gradient is finite.
X, PARAMETERS, GRADIENT, DX, FLAG = range(5)

#: The activation that is none.
IDENTITY = "identity"

#: Flags of a `Gradient`: of up to so many networks but one, and of the value.
N_FLAGS = 4


class Plan(NamedTuple):
    """The jobs of a pass, and for each of their words what is added to it: an entry of (0, address, address, ...)."""

    jobs: NDArray[np.int64]
    bases: NDArray[np.int64]
    kept: list  # the arrays whose addresses are in the jobs
    parallel: bool  # whether threads are worth waking for a stage

    def run(self, arrays: list) -> None:
        """Do the jobs on these arrays, in the order of the numbers above."""
        jobs = self.jobs + np.array([0, *map(address, arrays)])[self.bases]
        run(jobs, keeping=(arrays, self.kept), parallel=self.parallel)


class _Writer:
    """Writes the jobs of a plan, stage by stage: see `jobs`."""

    def __init__(self, dtype):
        self.dtype, self.rows, self.bases, self.stage, self.kept, self.parallel = dtype, [], [], [], [], False

    def add(self, job: Kernel, *arguments: Any, work: int) -> None:
        self.stage.append((job, arguments, work))
        self.kept.append(arguments)

    def multiply(self, job: Product) -> None:
        self.add(product, *job.arguments, work=job.work)

    def end_stage(self) -> None:
        for n, (job, arguments, work) in enumerate(self.stage, 1):
            self.rows.append(job.job(self.dtype, *arguments, work=work, ends_stage=n == len(self.stage)))
            self.bases.append(job.bases(*arguments))
        self.parallel |= sum(work for *_, work in self.stage) >= SERIAL
        self.stage = []

    def plan(self) -> Plan:
        return Plan(table(self.rows), table(self.bases), self.kept, self.parallel)


class Pass(NamedTuple):
    """An `nn.Pass`, with what the backward pass needs besides."""

    hidden: tuple
    outputs: tuple
    doutputs: tuple  # gradients at the outputs y = f(a); after the backward pass, at a
    dhidden: tuple  # the same of the hidden layers
    sizes: NDArray  # (layers, 2, M): squared norms of the rows of a layer's inputs, and of its gradients at a
    lists: tuple  # two, of the rows and the columns of x, where that is mostly zeros: see `zeros`; otherwise none
    plans: dict  # "forward" or (gradients of parameters?, gradient at the inputs?) -> Plan


class Network:
    """The same results as `nn.Network`, with one call of compiled code per pass."""

    def __init__(self, mlp, layout, backend=None):
        self.mlp, self._layout = mlp, layout

    def forward(self, parameters, x, buffers):
        """See `nn.Network.forward`."""
        x = np.ascontiguousarray(x)
        self._check(x, parameters.vector)
        done = buffers.get_or_make((self, len(x)), lambda: self._new_pass(x))
        if "forward" not in done.plans:
            done.plans["forward"] = self._forward_plan(done, x)
        done.plans["forward"].run([x, parameters.vector])
        return done

    def backward(self, parameters, x, done, gradient, buffers, dx=None):
        """See `nn.Network.backward`."""
        x, key = np.ascontiguousarray(x), (gradient is not None, dx is not None)
        if key not in done.plans:
            done.plans[key] = self._backward_plan(done, x, *key)
        # No job refers to an array that is not wanted; another array is in its place.
        places = (gradient.vector, gradient.flag(self)) if gradient is not None else (x, x)
        arrays = [x, parameters.vector, places[0], x if dx is None else dx, places[1]]
        self._check(*arrays[:4])
        done.plans[key].run(arrays)

    def _check(self, x, *arrays):
        """Raise TypeError if arrays cannot be those of a pass: jobs would read memory that is not theirs."""
        n_inputs = (self.mlp.hidden + self.mlp.heads)[0].n_inputs
        if x.ndim != 2 or (n_inputs and x.shape[1] != n_inputs):
            raise TypeError(f"x has the shape {x.shape}; expected (M, {n_inputs})")
        for array in arrays:
            if array.dtype != x.dtype or not array.flags.c_contiguous:
                raise TypeError(
                    f"x has the type {x.dtype}, and another array {array.dtype} with strides {array.strides}; expected "
                    "one type, and C-contiguous arrays"
                )

    def _new_pass(self, x):
        def empty(layers):
            return tuple(np.empty((len(x), layer.n_outputs), x.dtype) for layer in layers)

        hidden, heads = self.mlp.hidden, self.mlp.heads
        sizes = np.zeros((len(hidden + heads), 2, len(x)), x.dtype)
        # The first minibatch decides for all that are as long: the results are the same in either way.
        lists = ()
        if np.count_nonzero(x) <= zeros.WORTH * x.size:
            lists = zeros.empty_lists(*x.shape, x.dtype), zeros.empty_lists(*x.shape[::-1], x.dtype)
        return Pass(empty(hidden), empty(heads), empty(heads), empty(hidden), sizes, lists, {})

    def _groups(self, done, x):
        """List the layers in groups that do not wait for each other.

        Of each: number, `Layer`, inputs, gradient at the inputs, y, gradient at y. The inputs of the network and the
        gradient there are an `At`, those of other layers arrays.
        """
        layers = self.mlp.hidden + self.mlp.heads
        n, ys, deltas = len(self.mlp.hidden), done.hidden + done.outputs, done.dhidden + done.doutputs
        reads = [(At(X, 0, x.shape), At(DX, 0, x.shape)), *zip(done.hidden, done.dhidden)]
        steps = [(i, layer, *reads[min(i, n)], ys[i], deltas[i]) for i, layer in enumerate(layers)]
        return [*([one] for one in steps[:n]), steps[n:]]

    def _arrays(self, base, layer):
        """Return the places of a layer's weights and biases."""
        at = [self._layout.slices[layer.name + end].start for end in (".W", ".b")]
        return At(base, at[0], layer[1:3]), At(base, at[1], layer[2:3])

    def _forward_plan(self, done, x):
        jobs = _Writer(x.dtype)
        if done.lists:
            jobs.add(zeros.row_lists, At(X, 0, x.shape), *done.lists[0], work=PASS * x.size)
            jobs.end_stage()
        for group in self._groups(done, x):
            for _, layer, inputs, _, y, _ in group:
                W, b = self._arrays(PARAMETERS, layer)
                if _is_listed(layer, inputs, done):
                    work = math.prod(W.shape) * len(x)
                    jobs.add(zeros.listed_product, x.shape[1], *done.lists[0], W, b, y, work=work)
                else:
                    jobs.multiply(dense_job(_inputs(layer, inputs), W, b, y))
            jobs.end_stage()
            for _, layer, _, _, y, _ in group:
                if layer.activation != IDENTITY:
                    jobs.add(activate[layer.activation], y.reshape(-1), work=PASS * y.size)
            jobs.end_stage()
        return jobs.plan()

    def _backward_plan(self, done, x, with_gradient, with_dx):
        jobs, M = _Writer(x.dtype), len(x)
        if done.lists and with_gradient:
            jobs.add(zeros.column_lists, *x.shape, *done.lists[0], *done.lists[1], work=PASS * x.size)
        for group in reversed(self._groups(done, x)):
            for i, layer, inputs, _, y, delta in group:
                sizes = done.sizes[i, :, : M if with_gradient else 0]
                arrays = delta, y, _inputs(layer, inputs), sizes
                jobs.add(to_activation[layer.activation], *arrays, work=PASS * y.size)
            jobs.end_stage()
            adds = False
            for _, layer, inputs, dinputs, _, delta in group:
                (W, _), (dW, db) = self._arrays(PARAMETERS, layer), self._arrays(GRADIENT, layer)
                if with_gradient:
                    if _is_listed(layer, inputs, done):
                        none, work = delta.reshape(-1)[:0], math.prod(W.shape) * M
                        jobs.add(zeros.listed_product, M, *done.lists[1], delta, none, dW, work=work)
                    else:
                        jobs.multiply(weight_gradient_job(_inputs(layer, inputs), delta, dW))
                    jobs.add(_sum_over_rows, delta, db, work=delta.size)
                if layer.n_inputs and (with_dx or not isinstance(inputs, At)):
                    jobs.multiply(input_gradient_job(delta, W, adds, dinputs))
                    adds = True
            jobs.end_stage()
        if with_gradient:
            jobs.add(_check, done.sizes, At(FLAG, 0, (1,)), work=0)
            jobs.end_stage()
        return jobs.plan()


def _inputs(layer, inputs):
    """Return the inputs of a layer: no column of them for a head that is only a bias."""
    if layer.n_inputs:
        return inputs
    M = inputs.shape[0]
    return inputs._replace(shape=(M, 0)) if isinstance(inputs, At) else np.empty((M, 0), inputs.dtype)


def _is_listed(layer, inputs, done):
    """Return whether the products of a layer with its inputs skip their zeros."""
    return bool(done.lists) and layer.n_inputs > 0 and isinstance(inputs, At)


class Gradient(Parameters):
    """The gradient of all parameters, with flags that say whether it is finite.

    ``finite`` has an array (1,) for each network that computed a part of the gradient. It is 1 if that part and its
    square are certain to be finite. This is found from the layers, which are smaller than the gradient. ``control``
    has these flags one after the other, and what a step must know besides: see `cpu_updates.TAKEN`. The last flag is
    that of the value, for steps that are run from a table.
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


loop: Any = None  # each kernel below has its own


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
