"""The backend for NVIDIA GPUs, compiled by numba.cuda: the functions of `reference`, equal within rounding.

Arrays live on the device (``cuda_launch``); a call launches kernels (``cuda_kernels``, ``cuda_product``) and does not
wait for them. `Runner` captures the same calls as a CUDA graph and replays it (``cuda_graph``).
"""

import numpy as np

from ..parameters import Parameters
from . import cuda_kernels as kernels
from .cuda_graph import Runner
from .cuda_launch import asarray, empty, gather_rows, get_or_empty, launch, n_blocks, readable, to_numpy
from .cuda_product import product
from .reference import ADAGRAD_EPSILON
from .scalar import CODES

__all__ = [
    "Runner", "adagrad_step", "asarray", "bernoulli_log_prob", "dense", "dense_backward", "empty", "gather",
    "gaussian_latent", "gaussian_latent_backward", "gaussian_log_prob", "gradient", "sgd_step", "to_numpy",
]  # fmt: skip

# Arrays ---------------------------------------------------------------------------------------------------------------


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


# Layers ---------------------------------------------------------------------------------------------------------------


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    out = empty((x.shape[0], W.shape[1]), x.dtype) if out is None else out
    product(x, False, W, False, out, b, CODES[activation])
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    grid, block = n_blocks(dy.shape[1], kernels.LANES), (kernels.LANES, kernels.DEEP)
    launch(kernels.DELTA[dy.dtype], grid, block, dy, y, CODES[activation], db)
    product(x, True, dy, False, dW)
    if dx is not None:
        product(dy, False, W, True, dx, accumulate=accumulate)


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    z, kl = get_or_empty(out, eps.shape, mu.shape[:1], dtype=mu.dtype)
    launch(kernels.LATENT[mu.dtype], mu.shape[0], kernels.THREADS, mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = get_or_empty(out, mu.shape, mu.shape, dtype=mu.dtype)
    grid, arguments = (mu.shape[0], n_blocks(mu.shape[1])), (mu, log_var, eps, dz, analytic_kl, mu.dtype.type(scale))
    launch(kernels.LATENT_BACKWARD[mu.dtype], grid, kernels.THREADS, *arguments, dmu, dlog_var)
    return dmu, dlog_var


def bernoulli_log_prob(x, logits, scale, out=(None, None)):
    """See `reference.bernoulli_log_prob`."""
    results = get_or_empty(out, logits.shape[:1], logits.shape, dtype=logits.dtype)
    kernel, scale = kernels.BERNOULLI[logits.dtype], logits.dtype.type(scale)
    launch(kernel, logits.shape[0], kernels.THREADS, x, logits, scale, *results)
    return results


def gaussian_log_prob(x, mu, log_var, scale, out=(None, None, None)):
    """See `reference.gaussian_log_prob`."""
    results = get_or_empty(out, mu.shape[:1], mu.shape, mu.shape, dtype=mu.dtype)
    kernel, scale = kernels.GAUSSIAN[mu.dtype], mu.dtype.type(scale)
    launch(kernel, mu.shape[0], kernels.THREADS, x, mu, log_var, scale, *results)
    return results


# Updates --------------------------------------------------------------------------------------------------------------


def adagrad_step(parameters, gradient, state, rule):
    """See `reference.adagrad_step`."""
    number = _count(gradient, state)
    settings = number(rule.step_size), number(rule.weight_decay), number(ADAGRAD_EPSILON)
    arrays = parameters.vector, gradient.vector, state.squares, state.counter
    grid = n_blocks(parameters.vector.shape[0])
    launch(kernels.adagrad, grid, kernels.THREADS, *arrays, *settings, rule.accumulate_only, rule.n_weights)


def sgd_step(parameters, gradient, state, rule):
    """See `reference.sgd_step`."""
    number = _count(gradient, state)
    arrays, grid = (parameters.vector, gradient.vector, state.counter), n_blocks(parameters.vector.shape[0])
    settings = number(rule.step_size), number(rule.weight_decay), rule.n_weights
    launch(kernels.sgd, grid, kernels.THREADS, *arrays, *settings)


def _count(gradient, state):
    """See whether the gradient is finite, and count the step; return the type of its numbers."""
    dtype = gradient.vector.dtype
    limit = dtype.type(np.sqrt(np.finfo(dtype).max))
    grid = n_blocks(gradient.vector.shape[0])
    launch(kernels.look, grid, kernels.THREADS, gradient.vector, limit, gradient.bad)
    launch(kernels.count_step, 1, 1, state.counter, gradient.bad)
    return dtype.type
