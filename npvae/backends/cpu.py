"""The backend for all cores of a CPU, compiled by Numba: the functions of `reference`, equal within rounding.

Matrix products stand in `matmul`, formulas for one number in `scalar`; here they are put together, each pass over the
data fused into one loop. Loops are parallel over rows, or over blocks of fixed size, and each sum is made by one
thread in a fixed order: the bits do not depend on the number of threads. A loop over the elements of a row or a block
has a function to itself where the compiler vectorizes it only then.
"""

import math
import threading
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from ..parameters import Parameters
from . import reference
from .matmul import dense_job, input_gradient_job, multiply, weight_gradient_job, workspace
from .reference import LOG_2PI
from .runtime import CACHE, threads
from .scalar import CODES, adagrad, exp, expm1, multiply_by_derivative, sigmoid, softplus, squared_norm

#: ``contract`` allows fused multiply-add, ``reassoc`` and the others vectorized sums. ``nnan`` and ``ninf`` (and so
#: ``fastmath=True``) would let the compiler assume that there is no NaN to be found.
OPTIONS = {"cache": CACHE, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}}

# Arrays lie in the same memory.
empty, asarray, to_numpy = reference.empty, reference.asarray, reference.to_numpy


def gather(X, rows, scaling, out):
    """See `reference.gather`."""
    if X.dtype in (np.uint8, np.float32, np.float64) and X.flags.c_contiguous:
        _gather(X, rows, scaling.shift, scaling.scale, out, threads())
        return out
    return reference.gather(X, rows, scaling, out)


@njit(parallel=True, **OPTIONS)
def _gather(X, rows, shift, scale, out, threads):
    if threads == 1:
        for i in range(len(rows)):
            _scale(X[rows[i]], shift, scale, out[i])
    else:
        for i in prange(len(rows)):
            _scale(X[rows[i]], shift, scale, out[i])


@njit(**OPTIONS)
def _scale(x, shift, scale, out):
    for d in range(len(x)):
        out[d] = (x[d] - shift[d]) * scale[d]


# Networks -------------------------------------------------------------------------------------------------------------


class _Scratch(threading.local):
    """Scratch of the products, made once for each Python thread."""

    def __init__(self):
        self.by_dtype = {np.dtype(dtype): workspace(dtype) for dtype in (np.float32, np.float64)}


_scratch = _Scratch()

#: The arrays that jobs name by number, all flat.
X, PARAMETERS, LAYERS, DELTAS, GRADIENT, DX = range(6)

#: Columns of a table of layers, for what the backward pass does besides products: where the layer's deltas are and how
#: many; where and how many are its inputs, in X or LAYERS; the code of its activation; where its biases are, and how
#: many; the end of its jobs, if it is the last of those whose jobs are done at a time, else -1.
AT, SIZE, READS, READS_AT, READS_SIZE, CODE, B_AT, N_OUTPUTS, JOBS_END = range(9)


class Pass(NamedTuple):
    """What `nn.Pass` has, as parts of flat arrays that hold the outputs of all layers, one layer after the other."""

    hidden: tuple
    outputs: tuple
    doutputs: tuple
    layers: np.ndarray  # outputs of all layers
    deltas: np.ndarray  # gradients at their outputs, and after the backward pass at what the activation is applied to
    forward: tuple  # jobs, and where those that are done at a time end
    backward: dict  # whether the gradient at the inputs is asked for -> jobs and table of layers


class Network:
    """What `nn.Network` computes, all layers in one call of compiled code."""

    def __init__(self, mlp, layout, backend=None):
        self.mlp, self._layout = mlp, layout

    def forward(self, parameters, x, buffers):
        """See `nn.Network.forward`."""
        done = buffers.made((self, len(x)), lambda: self._new_pass(len(x), x.dtype))
        x, vector = _writeable(x), _writeable(parameters.vector)
        arrays = x.reshape(-1), vector, done.layers, done.deltas, vector, vector  # the last two are not used here
        _forward(*done.forward, arrays, _scratch.by_dtype[x.dtype], threads())
        return done

    def backward(self, parameters, x, done, gradient, buffers, dx=None):
        """See `nn.Network.backward`."""
        x = _writeable(x)
        finite = gradient.finite.get(self)
        if finite is None:
            finite = gradient.finite[self] = np.ones(1, np.int64)
        flat_x = x.reshape(-1)
        flat_dx = flat_x if dx is None else dx.reshape(-1)
        arrays = flat_x, parameters.vector, done.layers, done.deltas, gradient.vector, flat_dx
        _backward(*done.backward[dx is not None], arrays, finite, _scratch.by_dtype[x.dtype], threads())

    def _new_pass(self, M, dtype):
        layers = self.mlp.hidden + self.mlp.heads
        ends = np.cumsum([M * layer.n_outputs for layer in layers])
        flats = [np.empty(ends[-1], dtype) for _ in range(2)]
        outputs, doutputs = (
            [part.reshape(M, layer.n_outputs) for part, layer in zip(np.split(flat, ends[:-1]), layers)]
            for flat in flats
        )
        n = len(self.mlp.hidden)
        backward = {with_dx: self._backward_plan(M, with_dx) for with_dx in (False, True)}
        return Pass(
            tuple(outputs[:n]), tuple(outputs[n:]), tuple(doutputs[n:]), *flats, self._forward_plan(M), backward
        )

    def _places(self, M):
        """List for each layer: its number, itself, where its outputs start, and (array, start) of what it reads."""
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
            jobs.append(dense_job(shape, reads, W, b, CODES[layer.activation], (LAYERS, start)))
            if i < len(self.mlp.hidden):
                ends.append(len(jobs))
        return np.array(jobs, np.int64), np.array([*ends, len(jobs)], np.int64)

    def _backward_plan(self, M, with_dx):
        n, places, jobs, table = len(self.mlp.hidden), self._places(M), [], []
        adds = False
        for i, layer, start, reads in [*places[n:], *reversed(places[:n])]:  # all heads at a time, then layer by layer
            shape, delta, W = (M, *layer[1:3]), (DELTAS, start), self._at(layer, ".W")
            jobs.append(weight_gradient_job(shape, reads, delta, (GRADIENT, W)))
            if layer.n_inputs and (reads[0] != X or with_dx):
                target = (DX, 0) if reads[0] == X else (DELTAS, reads[1])
                jobs.append(input_gradient_job(shape, delta, (PARAMETERS, W), adds and i >= n, target))
                adds = True
            sizes = M * layer.n_outputs, *reads, M * layer.n_inputs
            end = len(jobs) if i < n or i == len(places) - 1 else -1
            b = self._at(layer, ".b")
            table.append((start, *sizes, CODES[layer.activation], b, layer.n_outputs, end))
        return np.array(jobs, np.int64), np.array(table, np.int64)


def _writeable(array):
    """Return the array, or a copy of one that is read-only: to Numba that is another type."""
    return array if array.flags.writeable else array.copy()


class Gradient(Parameters):
    """The gradient of all parameters.

    ``finite`` tells for each network that filled it, as an array (1,), whether its part and the square of its part are
    finite for certain: a look at the layers tells, which are smaller than the vector.
    """

    def __init__(self, layout, vector):
        super().__init__(layout, vector)
        self.finite = {}
        self.starts = np.array([part.start for part in layout.slices.values()] + [layout.size])


def gradient(layout, dtype):
    """See `reference.gradient`."""
    return Gradient(layout, np.zeros(layout.size, dtype))


@njit(**OPTIONS)
def _forward(jobs, ends, arrays, work, threads):
    start = 0
    for end in ends:
        multiply(jobs[start:end], arrays, work, threads)
        start = end


@njit(**OPTIONS)
def _backward(jobs, table, arrays, finite, work, threads):
    """From the gradients at the outputs to those of all arrays, from the heads down."""
    start = 0
    finite[0] = 1
    for n in range(len(table)):
        layer = table[n]
        here, reads_at = slice(layer[AT], layer[AT] + layer[SIZE]), layer[READS_AT]
        read = arrays[layer[READS]][reads_at : reads_at + layer[READS_SIZE]]
        db = arrays[GRADIENT][layer[B_AT] : layer[B_AT] + layer[N_OUTPUTS]]
        _delta(read, arrays[LAYERS][here], arrays[DELTAS][here], layer[CODE], db, finite)
        if layer[JOBS_END] >= 0:
            multiply(jobs[start : layer[JOBS_END]], arrays, work, threads)
            start = layer[JOBS_END]


@njit(**OPTIONS)
def _delta(read, y, delta, code, db, finite):
    """Multiply by the derivative of the activation, sum over the rows, and see whether x^T delta can be formed.

    By the Cauchy-Schwarz inequality the square of none of its elements is larger than the product of the squared norms.
    """
    multiply_by_derivative(delta, y, code)
    db[:] = 0
    for row in range(0, len(delta), len(db)):
        _add(delta[row : row + len(db)], db)
    if not math.isfinite(squared_norm(read) * squared_norm(delta)):
        finite[0] = 0


@njit(**OPTIONS)
def _add(row, total):
    for j in range(len(row)):
        total[j] += row[j]


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    z, kl = (np.empty(shape, mu.dtype) if o is None else o for o, shape in zip(out, (eps.shape, len(mu))))
    _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


@njit(**OPTIONS)
def _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl):
    M = len(mu)
    samples = mu.dtype.type(len(eps) // M)
    for i in range(M):
        kl[i] = _divergence(mu[i], log_var[i]) if analytic_kl else 0
    for row in range(len(eps)):
        i = row % M
        sampled = _shift_and_scale(mu[i], log_var[i], eps[row], z[row])
        if not analytic_kl:
            kl[i] += sampled / samples


@njit(**OPTIONS)
def _divergence(mu, log_var):
    total = mu.dtype.type(0)
    for j in range(len(mu)):
        total += mu[j] * mu[j] + (expm1(log_var[j]) - log_var[j])
    return mu.dtype.type(0.5) * total


@njit(**OPTIONS)
def _shift_and_scale(mu, log_var, eps, z):
    """Set z to mu + sigma * eps and return log q(z|x) - log p(z)."""
    half, total = mu.dtype.type(0.5), mu.dtype.type(0)
    for j in range(len(mu)):
        z[j] = mu[j] + exp(half * log_var[j]) * eps[j]
        total += z[j] * z[j] - eps[j] * eps[j] - log_var[j]
    return half * total


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = (np.empty_like(mu) if o is None else o for o in out)
    _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, mu.dtype.type(scale), dmu, dlog_var)
    return dmu, dlog_var


@njit(**OPTIONS)
def _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, dmu, dlog_var):
    M = len(mu)
    scale_of_sample = mu.dtype.type(0) if analytic_kl else scale / mu.dtype.type(len(eps) // M)
    for i in range(M):
        _start_of_gradients(mu[i], log_var[i], analytic_kl, scale, dmu[i], dlog_var[i])
    for row in range(len(eps)):
        i = row % M
        _add_gradients(mu[i], log_var[i], eps[row], dz[row], scale_of_sample, dmu[i], dlog_var[i])


@njit(**OPTIONS)
def _start_of_gradients(mu, log_var, analytic_kl, scale, dmu, dlog_var):
    """Set the gradients at mu and log_var to those of -scale * kl that do not come through z."""
    half = mu.dtype.type(0.5)
    for j in range(len(mu)):
        dmu[j] = -scale * mu[j] if analytic_kl else mu.dtype.type(0)
        dlog_var[j] = -scale * half * expm1(log_var[j]) if analytic_kl else scale * half


@njit(**OPTIONS)
def _add_gradients(mu, log_var, eps, dz, scale_of_sample, dmu, dlog_var):
    """Add what comes through one sample z, including -scale_of_sample * z of the sampled divergence."""
    half = mu.dtype.type(0.5)
    for j in range(len(mu)):
        sigma_eps = exp(half * log_var[j]) * eps[j]
        here = dz[j] - scale_of_sample * (mu[j] + sigma_eps)
        dmu[j] += here
        dlog_var[j] += half * here * sigma_eps


def bernoulli_log_prob(x, logits, scale, out=(None, None)):
    """See `reference.bernoulli_log_prob`."""
    log_prob, dlogits = _outputs(logits, out)
    _bernoulli_log_prob(x, logits, logits.dtype.type(scale), log_prob, dlogits, threads())
    return log_prob, dlogits


@njit(parallel=True, **OPTIONS)
def _bernoulli_log_prob(x, logits, scale, log_prob, dlogits, threads):
    if threads == 1:
        for row in range(len(logits)):
            log_prob[row] = _bernoulli_row(x[row % len(x)], logits[row], scale, dlogits[row])
    else:
        for row in prange(len(logits)):
            log_prob[row] = _bernoulli_row(x[row % len(x)], logits[row], scale, dlogits[row])


@njit(**OPTIONS)
def _bernoulli_row(x, logits, scale, dlogits):
    total = logits.dtype.type(0)
    for d in range(len(x)):
        total += x[d] * logits[d] - softplus(logits[d])
        dlogits[d] = scale * (x[d] - sigmoid(logits[d]))
    return total


def gaussian_log_prob(x, mu, log_var, scale, out=(None, None, None)):
    """See `reference.gaussian_log_prob`."""
    log_prob, dmu, dlog_var = _outputs(mu, out)
    _gaussian_log_prob(x, mu, log_var, mu.dtype.type(scale), log_prob, dmu, dlog_var, threads())
    return log_prob, dmu, dlog_var


@njit(parallel=True, **OPTIONS)
def _gaussian_log_prob(x, mu, log_var, scale, log_prob, dmu, dlog_var, threads):
    if threads == 1:
        for row in range(len(mu)):
            log_prob[row] = _gaussian_row(x[row % len(x)], mu[row], log_var[row], scale, dmu[row], dlog_var[row])
    else:
        for row in prange(len(mu)):
            log_prob[row] = _gaussian_row(x[row % len(x)], mu[row], log_var[row], scale, dmu[row], dlog_var[row])


@njit(**OPTIONS)
def _gaussian_row(x, mu, log_var, scale, dmu, dlog_var):
    half, one, log_2pi = mu.dtype.type(0.5), mu.dtype.type(1), mu.dtype.type(LOG_2PI)
    total = mu.dtype.type(0)
    for d in range(len(x)):
        precision, error = exp(-log_var[d]), x[d] - mu[d]
        squared = error * error * precision
        total += log_2pi + log_var[d] + squared
        dmu[d] = scale * error * precision
        dlog_var[d] = scale * half * (squared - one)
    return -half * total


def _outputs(parameter, out):
    """Return the buffers of a density: a value a row, and gradients like its parameter; new ones where None."""
    log_prob, *gradients = out
    return (
        np.empty(len(parameter), parameter.dtype) if log_prob is None else log_prob,
        *(np.empty_like(parameter) if gradient is None else gradient for gradient in gradients),
    )


# Updates --------------------------------------------------------------------------------------------------------------


def adagrad_step(parameters, gradient, state, rule):
    """See `reference.adagrad_step`."""
    flags = gradient.finite.values()
    finite = min([flag[0] for flag in flags]) if flags else math.isfinite(squared_norm(gradient.vector))
    if reference.count_step(state.counter, finite):
        step_size = rule.step_size if state.counter[0] > rule.accumulate_only else 0.0
        number = gradient.vector.dtype.type
        arrays = parameters.vector, gradient.vector, state.squares, gradient.starts
        settings = number(step_size), number(rule.weight_decay), rule.n_weights
        _adagrad_step(arrays, settings, threads())


@njit(parallel=True, **OPTIONS)
def _adagrad_step(arrays, settings, threads):
    if threads == 1:
        _adagrad_share(arrays, settings, np.int64(0), threads)
    else:
        for thread in prange(threads):
            _adagrad_share(arrays, settings, np.int64(thread), threads)


@njit(**OPTIONS)
def _adagrad_share(arrays, settings, thread, threads):
    """Update a thread's share of every array: much of that it has in its cache, as `matmul` cuts by rows."""
    parameters, gradient, squares, starts = arrays
    step_size, weight_decay, n_weights = settings
    for i in range(len(starts) - 1):
        start, size = starts[i], starts[i + 1] - starts[i]
        share = slice(start + size * thread // threads, start + size * (thread + 1) // threads)
        decay = weight_decay if start < n_weights else parameters.dtype.type(0)
        adagrad(parameters[share], gradient[share], squares[share], step_size, decay)


def sgd_step(parameters, gradient, state, rule):
    """See `reference.sgd_step`."""
    reference.sgd_step(parameters, gradient, state, rule)
