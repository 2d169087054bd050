"""The backend for all cores of a CPU, compiled by Numba: the functions of `reference`, equal within rounding.

Matrix products stand in `matmul`, formulas for one number in `scalar`; here they are put together, each pass over the
data fused into one loop. Loops are parallel over rows, or over blocks of fixed size, and each sum is made by one
thread in a fixed order: the bits do not depend on the number of threads. A loop over the elements of a row or a block
has a function to itself where the compiler vectorizes it only then.
"""

import math

import numpy as np
from numba import njit, prange

from . import reference
from .matmul import dense as _dense
from .matmul import matmul_left_transposed, matmul_right_transposed
from .reference import ADAGRAD_EPSILON, LOG_2PI
from .scalar import CODES, IDENTITY, derivative, sigmoid, softplus

#: ``contract`` allows fused multiply-add, ``reassoc`` and the others vectorized sums. ``nnan`` and ``ninf`` (and so
#: ``fastmath=True``) would let the compiler assume that there is no NaN to be found.
OPTIONS = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}}

#: Elements that a thread takes at a time from a flat vector.
BLOCK = 4096

# Arrays lie in the same memory.
empty, asarray, to_numpy = reference.empty, reference.asarray, reference.to_numpy


def gather(X, rows, scaling, out):
    """See `reference.gather`."""
    if X.dtype in (np.uint8, np.float32, np.float64) and X.flags.c_contiguous:
        _gather(X, rows, scaling.shift, scaling.scale, out)
        return out
    return reference.gather(X, rows, scaling, out)


@njit(parallel=True, **OPTIONS)
def _gather(X, rows, shift, scale, out):
    for i in prange(len(rows)):
        for d in range(X.shape[1]):
            out[i, d] = (X[rows[i], d] - shift[d]) * scale[d]


def all_finite(array):
    """See `reference.all_finite`."""
    return _all_finite(array.reshape(-1))


@njit(parallel=True, **OPTIONS)
def _all_finite(vector):
    blocks = -(-len(vector) // BLOCK)
    # NaN and infinity times zero are NaN, so a block's sum tells: it vectorizes, unlike a test of each element.
    sums = np.empty(blocks, vector.dtype)
    for block in prange(blocks):
        total = type(vector[0])(0)
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(vector))):
            total += vector[i] * type(vector[0])(0)
        sums[block] = total
    for block in range(blocks):
        if math.isnan(sums[block]):
            return False
    return True


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    out = np.empty((len(x), W.shape[1]), W.dtype) if out is None else out
    _dense(x, W, b, CODES[activation], out)
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    code = CODES[activation]
    if code != IDENTITY:
        _activation_backward(y, dy, code)
    _sum_columns(dy, db)
    matmul_left_transposed(x, dy, dW)
    if dx is not None:
        matmul_right_transposed(dy, W, accumulate, dx)


@njit(parallel=True, **OPTIONS)
def _activation_backward(y, dy, code):
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            dy[i, j] *= derivative(y[i, j], code)


@njit(**OPTIONS)
def _sum_columns(dy, db):
    db[:] = 0
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            db[j] += dy[i, j]


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    z, kl = (np.empty(shape, mu.dtype) if o is None else o for o, shape in zip(out, (eps.shape, len(mu))))
    _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


@njit(**OPTIONS)
def _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl):
    M, J = mu.shape
    L = len(eps) // M
    half, samples = mu.dtype.type(0.5), mu.dtype.type(L)
    kl[:] = 0
    for i in range(M):
        for j in range(J):
            sigma = math.exp(half * log_var[i, j])
            sampled = mu.dtype.type(0)
            for row in range(i, len(eps), M):
                z[row, j] = mu[i, j] + sigma * eps[row, j]
                sampled += half * (z[row, j] * z[row, j] - eps[row, j] * eps[row, j] - log_var[i, j])
            if analytic_kl:
                kl[i] += half * (mu[i, j] * mu[i, j] + math.expm1(log_var[i, j]) - log_var[i, j])
            else:
                kl[i] += sampled / samples


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = (np.empty_like(mu) if o is None else o for o in out)
    _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, mu.dtype.type(scale), dmu, dlog_var)
    return dmu, dlog_var


@njit(**OPTIONS)
def _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, scale, dmu, dlog_var):
    M, J = mu.shape
    half = mu.dtype.type(0.5)
    scale_of_sample = scale / mu.dtype.type(len(eps) // M)
    for i in range(M):
        for j in range(J):
            sigma = math.exp(half * log_var[i, j])
            sum_dz = sum_dz_eps = mu.dtype.type(0)
            for row in range(i, len(eps), M):
                here = dz[row, j]
                if not analytic_kl:
                    here -= scale_of_sample * (mu[i, j] + sigma * eps[row, j])
                sum_dz += here
                sum_dz_eps += here * eps[row, j]
            dmu[i, j] = sum_dz
            dlog_var[i, j] = half * sigma * sum_dz_eps
            if analytic_kl:
                dmu[i, j] -= scale * mu[i, j]
                dlog_var[i, j] -= scale * half * math.expm1(log_var[i, j])
            else:
                dlog_var[i, j] += scale * half


def bernoulli_log_prob(x, logits, scale, out=(None, None)):
    """See `reference.bernoulli_log_prob`."""
    log_prob, dlogits = _outputs(logits, out)
    _bernoulli_log_prob(x, logits, logits.dtype.type(scale), log_prob, dlogits)
    return log_prob, dlogits


@njit(parallel=True, **OPTIONS)
def _bernoulli_log_prob(x, logits, scale, log_prob, dlogits):
    for row in prange(logits.shape[0]):
        i, total = row % x.shape[0], 0.0
        for d in range(x.shape[1]):
            logit = logits[row, d]
            total += x[i, d] * logit - softplus(logit)
            dlogits[row, d] = scale * (x[i, d] - sigmoid(logit))
        log_prob[row] = total


def gaussian_log_prob(x, mu, log_var, scale, out=(None, None, None)):
    """See `reference.gaussian_log_prob`."""
    log_prob, dmu, dlog_var = _outputs(mu, out)
    _gaussian_log_prob(x, mu, log_var, mu.dtype.type(scale), log_prob, dmu, dlog_var)
    return log_prob, dmu, dlog_var


@njit(parallel=True, **OPTIONS)
def _gaussian_log_prob(x, mu, log_var, scale, log_prob, dmu, dlog_var):
    half, one = mu.dtype.type(0.5), mu.dtype.type(1)
    for row in prange(mu.shape[0]):
        i, total = row % x.shape[0], 0.0
        for d in range(x.shape[1]):
            precision = math.exp(-log_var[row, d])
            error = x[i, d] - mu[row, d]
            squared = error * error * precision
            total -= 0.5 * (LOG_2PI + log_var[row, d] + squared)
            dmu[row, d] = scale * error * precision
            dlog_var[row, d] = scale * half * (squared - one)
        log_prob[row] = total


def _outputs(parameter, out):
    """Return the buffers of a density: a value a row, and gradients like its parameter; new ones where None."""
    log_prob, *gradients = out
    return (
        np.empty(len(parameter), parameter.dtype) if log_prob is None else log_prob,
        *(np.empty_like(parameter) if gradient is None else gradient for gradient in gradients),
    )


def adagrad_step(parameters, gradient, state, rule):
    """See `reference.adagrad_step`."""
    if reference.count_step(gradient, state.counter, all_finite):
        step_size = rule.step_size if state.counter[0] > rule.accumulate_only else 0
        numbers = map(parameters.dtype.type, (step_size, rule.weight_decay))
        _adagrad_step(parameters, gradient, state.squares, *numbers, rule.n_weights)


@njit(parallel=True, **OPTIONS)
def _adagrad_step(parameters, gradient, squares, step_size, weight_decay, n_weights):
    for block in prange(-(-len(parameters) // BLOCK)):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, len(parameters))
        middle = min(max(n_weights, start), stop)  # weights before it, biases after
        for part, decay in ((slice(start, middle), weight_decay), (slice(middle, stop), parameters.dtype.type(0))):
            _update(parameters[part], gradient[part], squares[part], step_size, decay)


@njit(**OPTIONS)
def _update(parameters, gradient, squares, step_size, weight_decay):
    epsilon = parameters.dtype.type(ADAGRAD_EPSILON)
    for i in range(len(parameters)):
        g = gradient[i] - weight_decay * parameters[i]
        squares[i] += g * g
        parameters[i] += step_size * g / math.sqrt(squares[i] + epsilon)


def sgd_step(parameters, gradient, state, rule):
    """See `reference.sgd_step`."""
    reference.sgd_step(parameters, gradient, state, rule)
