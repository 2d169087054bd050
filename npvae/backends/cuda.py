"""The backend for NVIDIA GPUs, compiled by numba.cuda: the functions of `reference`, equal within rounding.

Arrays live on the device; a call launches kernels (``cuda_kernels``) and does not wait for them. Where a training step
is captured as a CUDA graph (``cuda_graph``), the same calls are what is captured.
"""

import contextlib
import threading

import numpy as np
from numba import cuda

from ..parameters import Parameters
from . import cuda_kernels as kernels

from .cuda_graph import Runner, captured  # noqa: F401  (training and benchmarks look for them here)
from .reference import ADAGRAD_EPSILON
from .scalar import CODES

# A training step has kernels of one block: that they do not fill a GPU is known, and no reason to warn.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

#: So many blocks keep the processors of a large GPU busy: with fewer, smaller tiles do better.
BUSY = 128


class _Launching(threading.local):
    """Where kernels are launched, for each Python thread: the default stream, or what captures a graph."""

    stream = 0


_launching = _Launching()


@contextlib.contextmanager
def launching_on(stream):
    """Launch on this stream, or into this graph builder."""
    before, _launching.stream = _launching.stream, stream
    try:
        yield
    finally:
        _launching.stream = before


def launch(kernel, grid, block, *arguments):
    """Launch a kernel there."""
    kernel[grid, block, _launching.stream](*arguments)


def _blocks(size, by=kernels.THREADS):
    return max(1, -(-size // by))


# Arrays ---------------------------------------------------------------------------------------------------------------


def empty(shape, dtype):
    """See `reference.empty`; MemoryError if the device has no room for it."""
    with explained(f"an array of shape {shape}"):
        return cuda.device_array(shape, dtype)


@contextlib.contextmanager
def explained(what):
    """Turn the driver's word for too little memory into a MemoryError that says of what."""
    try:
        yield
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
        raise MemoryError(
            f"the GPU has no room for {what}; a smaller batch_size or model may fit, or backend='cpu'"
        ) from None


def asarray(array, dtype):
    """See `reference.asarray`: copies to the device, but leaves alone what is there in this type."""
    if is_on_device(array):
        if array.dtype == dtype:
            return array
        array = array.copy_to_host()
    with explained(f"an array of shape {np.shape(array)}"):
        return cuda.to_device(np.ascontiguousarray(array, dtype))


def to_numpy(array):
    """See `reference.to_numpy`: waits for the kernels before, and copies to the host."""
    return array.copy_to_host() if is_on_device(array) else array


def is_on_device(array):
    """Tell whether an array is one of this backend."""
    return hasattr(array, "copy_to_host")


class Gradient(Parameters):
    """The gradient of all parameters; ``bad`` (1,) is set where it, or the value that it belongs to, is not finite."""

    def __init__(self, layout, vector):
        super().__init__(layout, vector)
        self.bad = asarray(np.zeros(1), np.int32)


def gradient(layout, dtype):
    """See `reference.gradient`."""
    return Gradient(layout, asarray(np.zeros(layout.size), dtype))


def gather(X, rows, scaling, out):
    """See `reference.gather`, for data on the host: only the rows asked for are copied."""
    part = asarray(X[rows], readable(X.dtype))
    places = asarray(np.arange(len(rows))[None], np.int64), asarray(np.zeros(1), np.int32)
    scales = (asarray(scale, np.float64) for scale in (scaling.shift, scaling.scale))
    gather_rows(part, *places, *scales, out)
    return out


def gather_rows(X, rows, position, shift, scale, out):
    """The same for data on the device: the rows are ``rows[position]`` of (steps, M), the scaling is there too."""
    grid = out.shape[0], _blocks(out.shape[1])
    launch(kernels.gather, grid, kernels.THREADS, X, rows, position, shift, scale, out)


def readable(dtype):
    """Return the type in which data of this one is copied to the device."""
    return dtype if dtype in (np.uint8, np.float32, np.float64) else np.dtype(np.float64)


def take_noise(noise, position, out):
    """``out = noise[position]``, (L * M, J) of (steps, L * M, J)."""
    launch(kernels.take, (out.shape[0], _blocks(out.shape[1])), kernels.THREADS, noise, position, out)


# Layers ---------------------------------------------------------------------------------------------------------------


def product(a, a_along, b, b_along, out, bias=None, code=0, accumulate=False):
    """``out = f(a b + bias)``, or added to out, with larger tiles where they suffice to keep the device busy.

    ``a_along`` says that a is (M, K), else it is (K, M); ``b_along`` that b is (N, K), else (K, N).
    """
    small, large = kernels.PRODUCTS[out.dtype]
    M, N = out.shape
    for kernel, threads, rows, columns in (large, small):
        grid = _blocks(N, columns), _blocks(M, rows)
        if grid[0] * grid[1] >= BUSY:
            break
    bias = _nothing(out.dtype) if bias is None else bias
    launch(kernel, grid, threads, a, a_along, b, b_along, out, bias, code, accumulate)


_no_bias = {}


def _nothing(dtype):
    """Return an array without elements, made once: in a captured graph nothing may be allocated."""
    if dtype not in _no_bias:
        _no_bias[dtype] = cuda.device_array(1, dtype)[:0]
    return _no_bias[dtype]


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    out = empty((x.shape[0], W.shape[1]), x.dtype) if out is None else out
    product(x, True, W, False, out, b, CODES[activation])
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    grid, block = _blocks(dy.shape[1], kernels.LANES), (kernels.LANES, kernels.DEEP)
    launch(kernels.DELTA[dy.dtype], grid, block, dy, y, CODES[activation], db)
    product(x, False, dy, False, dW)
    if dx is not None:
        product(dy, True, W, True, dx, accumulate=accumulate)


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    z, kl = _made(out, eps.shape, mu.shape[:1], dtype=mu.dtype)
    launch(kernels.LATENT[mu.dtype], mu.shape[0], kernels.THREADS, mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = _made(out, mu.shape, mu.shape, dtype=mu.dtype)
    grid, arguments = (mu.shape[0], _blocks(mu.shape[1])), (mu, log_var, eps, dz, analytic_kl, mu.dtype.type(scale))
    launch(kernels.LATENT_BACKWARD[mu.dtype], grid, kernels.THREADS, *arguments, dmu, dlog_var)
    return dmu, dlog_var


def bernoulli_log_prob(x, logits, scale, out=(None, None)):
    """See `reference.bernoulli_log_prob`."""
    results = _made(out, logits.shape[:1], logits.shape, dtype=logits.dtype)
    kernel, scale = kernels.BERNOULLI[logits.dtype], logits.dtype.type(scale)
    launch(kernel, logits.shape[0], kernels.THREADS, x, logits, scale, *results)
    return results


def gaussian_log_prob(x, mu, log_var, scale, out=(None, None, None)):
    """See `reference.gaussian_log_prob`."""
    results = _made(out, mu.shape[:1], mu.shape, mu.shape, dtype=mu.dtype)
    kernel, scale = kernels.GAUSSIAN[mu.dtype], mu.dtype.type(scale)
    launch(kernel, mu.shape[0], kernels.THREADS, x, mu, log_var, scale, *results)
    return results


def _made(out, *shapes, dtype):
    return tuple(empty(shape, dtype) if buffer is None else buffer for buffer, shape in zip(out, shapes))


# Updates --------------------------------------------------------------------------------------------------------------


def record_value(log_likelihood, kl, values, position, gradient):
    """``values[position] = mean(log_likelihood) - mean(kl)``, then ``position += 1``: the value of a step."""
    launch(kernels.record_value, 1, kernels.THREADS, log_likelihood, kl, values, position, gradient.bad)


def adagrad_step(parameters, gradient, state, rule):
    """See `reference.adagrad_step`."""
    number = _count(gradient, state)
    settings = number(rule.step_size), number(rule.weight_decay), number(ADAGRAD_EPSILON)
    arrays = parameters.vector, gradient.vector, state.squares, state.counter
    grid = _blocks(parameters.vector.shape[0])
    launch(kernels.adagrad, grid, kernels.THREADS, *arrays, *settings, rule.accumulate_only, rule.n_weights)


def sgd_step(parameters, gradient, state, rule):
    """See `reference.sgd_step`."""
    number = _count(gradient, state)
    arrays, grid = (parameters.vector, gradient.vector, state.counter), _blocks(parameters.vector.shape[0])
    settings = number(rule.step_size), number(rule.weight_decay), rule.n_weights
    launch(kernels.sgd, grid, kernels.THREADS, *arrays, *settings)


def _count(gradient, state):
    """See whether the gradient is finite, and count the step; return the type of its numbers."""
    dtype = gradient.vector.dtype
    limit = dtype.type(np.sqrt(np.finfo(dtype).max))
    grid = _blocks(gradient.vector.shape[0])
    launch(kernels.look, grid, kernels.THREADS, gradient.vector, limit, gradient.bad)
    launch(kernels.count_step, 1, 1, state.counter, gradient.bad)
    return dtype.type
