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
from .scalar import CODES, exp, expm1, multiply_by_derivative, sigmoid, softplus

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
        _scale(X[rows[i]], shift, scale, out[i])


@njit(**OPTIONS)
def _scale(x, shift, scale, out):
    for d in range(len(x)):
        out[d] = (x[d] - shift[d]) * scale[d]


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
    multiply_by_derivative(dy.reshape(-1), y.reshape(-1), CODES[activation])
    _sum_columns(dy, db)
    matmul_left_transposed(x, dy, dW)
    if dx is not None:
        matmul_right_transposed(dy, W, accumulate, dx)


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
    _bernoulli_log_prob(x, logits, logits.dtype.type(scale), log_prob, dlogits)
    return log_prob, dlogits


@njit(parallel=True, **OPTIONS)
def _bernoulli_log_prob(x, logits, scale, log_prob, dlogits):
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
    _gaussian_log_prob(x, mu, log_var, mu.dtype.type(scale), log_prob, dmu, dlog_var)
    return log_prob, dmu, dlog_var


@njit(parallel=True, **OPTIONS)
def _gaussian_log_prob(x, mu, log_var, scale, log_prob, dmu, dlog_var):
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
