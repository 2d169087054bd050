"""The backend for NVIDIA GPUs, compiled by numba.cuda: the functions of `reference`, equal within rounding.

Arrays live on the device (``cuda_launch``); a call launches kernels (``cuda_kernels``, ``cuda_product``) and does not
wait for them. `Runner` captures the same calls as a CUDA graph and replays it (``cuda_graph``).
"""

import numpy as np

from ..parameters import Parameters
from . import cuda_kernels as kernels
from . import formulas
from .cuda_graph import Runner
from .cuda_launch import (
    asarray,
    beside,
    binarize_rows,
    empty,
    flat,
    gather_rows,
    get_or_empty,
    launch,
    n_blocks,
    nothing,
    readable,
    to_numpy,
    wait,
)
from .cuda_product import product

__all__ = [
    "Network", "Runner", "add_log_prior", "asarray", "bernoulli_log_prob", "beside", "binarize", "clip_norm", "dense",
    "dense_backward", "empty", "fill_missing", "gather", "gaussian_latent", "gaussian_latent_backward",
    "gaussian_log_prob", "gaussian_log_q", "gradient", "mixed_log_prob", "step", "to_numpy", "wait",
]  # fmt: skip

#: Networks are computed layer by layer: captured as a graph, their kernels cost no calls.
Network = None

# Arrays ---------------------------------------------------------------------------------------------------------------


class Gradient(Parameters):
    """The gradient of all parameters; ``bad`` (1,) is set where it, or the value that it belongs to, is not finite.

    ``numbers`` (4,) are those of the step that is taken with it: see `formulas.step_numbers`. ``norm`` (1,) is its
    norm, where it is clipped.
    """

    def __init__(self, layout, vector):
        super().__init__(layout, vector)
        self.bad, self.numbers = asarray(np.zeros(1), np.int32), asarray(np.zeros(4), np.float64)
        self.norm = asarray(np.zeros(1), vector.dtype)


def gradient(layout, dtype):
    """See `reference.gradient`."""
    return Gradient(layout, asarray(np.zeros(layout.size), dtype))


def gather(X, rows, scaling, out):
    """See `reference.gather`, for data on the host: only the rows asked for are copied."""
    part, places = asarray(X[rows], readable(X.dtype)), asarray(np.arange(len(rows)), np.int64)
    gather_rows(part, places, *(asarray(scale, np.float64) for scale in (scaling.shift, scaling.scale)), out)
    return out


def binarize(x, keys, out):
    """See `reference.binarize`."""
    binarize_rows(x, asarray(keys, np.uint64), out)
    return out


def fill_missing(x, out):
    """See `reference.fill_missing`."""
    launch(kernels.fill_missing, (out.shape[0], n_blocks(out.shape[1])), kernels.THREADS, x, out)
    return out


# Layers ---------------------------------------------------------------------------------------------------------------


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    out = empty((x.shape[0], W.shape[1]), x.dtype) if out is None else out
    product(x, False, W, False, out, b, formulas.code(activation))
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    if activation != "identity":  # whose derivative is 1
        grid, block = n_blocks(dy.size), kernels.THREADS
        launch(kernels.delta, grid, block, flat(dy), flat(y), formulas.code(activation))
    if dx is not None:
        product(dy, False, W, True, dx, accumulate=accumulate)
    if dW is not None:
        with beside():  # after dx, for which the next layer waits
            product(x, True, dy, False, dW, column_sums=db)


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    z, kl = get_or_empty(out, eps.shape, (mu if analytic_kl else eps).shape[:1], dtype=mu.dtype)
    launch(kernels.LATENT[mu.dtype], eps.shape[0], kernels.THREADS, mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = get_or_empty(out, mu.shape, mu.shape, dtype=mu.dtype)
    grid, arguments = (mu.shape[0], n_blocks(mu.shape[1])), (mu, log_var, eps, dz, analytic_kl, weights)
    launch(kernels.LATENT_BACKWARD[mu.dtype], grid, kernels.THREADS, *arguments, dmu, dlog_var)
    return dmu, dlog_var


def gaussian_log_q(z, mu, log_var, weights, out=(None, None, None)):
    """See `reference.gaussian_log_q`."""
    results = get_or_empty(out, z.shape[:1], mu.shape, mu.shape, dtype=mu.dtype)
    launch(kernels.LOG_Q[mu.dtype], mu.shape[0], kernels.THREADS, z, mu, log_var, weights, *results)
    return results


def add_log_prior(z, log_prob, dz):
    """See `reference.add_log_prior`."""
    dz = z[:0] if dz is None else dz
    launch(kernels.LOG_PRIOR[z.dtype], z.shape[0], kernels.THREADS, z, log_prob, dz)


def bernoulli_log_prob(x, logits, weights, out=(None, None), missing=False):
    """See `reference.bernoulli_log_prob`."""
    results = get_or_empty(out, logits.shape[:1], logits.shape, dtype=logits.dtype)
    launch(kernels.BERNOULLI[logits.dtype], logits.shape[0], kernels.THREADS, x, logits, weights, *results, missing)
    return results


def gaussian_log_prob(x, mu, log_var, weights, out=(None, None, None), missing=False):
    """See `reference.gaussian_log_prob`."""
    results = get_or_empty(out, mu.shape[:1], mu.shape, mu.shape, dtype=mu.dtype)
    launch(kernels.GAUSSIAN[mu.dtype], mu.shape[0], kernels.THREADS, x, mu, log_var, weights, *results, missing)
    return results


def mixed_log_prob(x, logits, mu, log_var, weights, out=(None, None, None, None), missing=False):
    """See `reference.mixed_log_prob`."""
    results = get_or_empty(out, mu.shape[:1], logits.shape, mu.shape, mu.shape, dtype=mu.dtype)
    arguments = x, logits, mu, log_var, weights
    launch(kernels.MIXED[mu.dtype], mu.shape[0], kernels.THREADS, *arguments, *results, missing)
    return results


# Updates --------------------------------------------------------------------------------------------------------------


def clip_norm(gradient, limit):
    """See `reference.clip_norm`."""
    wait()
    vector, number = gradient.vector, gradient.vector.dtype.type
    launch(kernels.NORM[vector.dtype], 1, kernels.THREADS, vector, gradient.norm)
    launch(kernels.shrink, n_blocks(vector.shape[0]), kernels.THREADS, vector, gradient.norm, number(limit))


def step(optimizer, parameters, gradient, state, rule):
    """See `reference.step`: see whether the step overflows, count it, and take it if not."""
    number = gradient.vector.dtype.type
    first, second, *_ = [state.arrays[name] for name in formulas.UPDATES[optimizer].arrays] + [nothing(number)] * 2
    average = state.arrays["average"] if rule.averaging else nothing(number)
    settings = number(rule.weight_decay), number(np.sqrt(np.finfo(number).max)), rule.n_weights
    arrays = parameters.vector, gradient.vector, first, second, average, state.counter, gradient.bad, gradient.numbers
    update = kernels.UPDATES[optimizer], n_blocks(parameters.vector.shape[0]), kernels.THREADS, *arrays, *settings
    plan = np.float64(rule.step_size), formulas.SCHEDULE_CODES[rule.schedule], rule.n_steps, rule.begun
    launch(kernels.plan_step, 1, 1, state.counter, gradient.numbers, *plan, rule.accumulate_only)
    wait()  # for the gradients of the weights
    launch(*update, False)
    launch(kernels.count_step, 1, 1, state.counter, gradient.bad)
    launch(*update, True)
