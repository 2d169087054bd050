"""The backend for all cores of a CPU, compiled by Numba: the functions of `reference`, equal up to rounding.

`matmul` has the matrix products, `scalar` the scalar functions. Here each function makes one pass over its data, in one
fused loop. Parallel loops run over rows or blocks of fixed size, and each sum is computed by one thread in a fixed
order, so the bits do not depend on the number of threads. Some inner loops are functions of their own because the
compiler vectorizes them only then.
"""

import math

import numpy as np
from numba import njit, prange

from . import formulas, reference
from .cpu_network import N_ARRAYS, OPTIONS, Gradient, Network, scratch, writeable
from .matmul import dense_job, input_gradient_job, multiply, weight_gradient_job
from .reference import LOG_2PI
from .runtime import threads
from .scalar import binarized, exp, expm1, multiply_by_derivative, sigmoid, softplus, squared_norm, update

__all__ = ["Network"]

#: Training steps are taken one at a time.
Runner = None

#: For the function of a row: it becomes part of the loop that calls it. Otherwise the process that compiles a loop and
#: those that load it from Numba's cache run two versions of such a function, whose sums differ in the last bits.
ROW = OPTIONS | {"cache": False, "forceinline": True}

#: With fewer numbers than this, waking the other threads takes longer than the work.
SMALL = 2**13


def _threads(size: int) -> int:
    """Return the number of threads for a pass over so many numbers."""
    return threads() if size > SMALL else 1


# The arrays of this backend are NumPy arrays, and each function is done when it returns.
empty, asarray, to_numpy = reference.empty, reference.asarray, reference.to_numpy
beside, wait = reference.beside, reference.wait


def gradient(layout, dtype):
    """See `reference.gradient`."""
    return Gradient(layout, np.zeros(layout.size, dtype))


def gather(X, rows, scaling, out):
    """See `reference.gather`."""
    if X.dtype in (np.uint8, np.float32, np.float64) and X.flags.c_contiguous:
        _gather(X, rows, scaling.shift, scaling.scale, out, _threads(out.size))
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


@njit(**ROW)
def _scale(x, shift, scale, out):
    for d in range(len(x)):
        out[d] = (x[d] - shift[d]) * scale[d]


def binarize(x, keys, out):
    """See `reference.binarize`."""
    _binarize(x, keys, out, _threads(out.size))
    return out


@njit(parallel=True, **OPTIONS)
def _binarize(x, keys, out, threads):
    if threads == 1:
        for i in range(len(x)):
            _binarize_row(x[i], keys[i], out[i])
    else:
        for i in prange(len(x)):
            _binarize_row(x[i], keys[i], out[i])


@njit(**ROW)
def _binarize_row(x, key, out):
    for d in range(len(x)):
        out[d] = binarized(x[d], key, np.uint64(d))


def fill_missing(x, out):
    """See `reference.fill_missing`."""
    _fill_missing(x.reshape(-1), out.reshape(-1))
    return out


@njit(**OPTIONS)
def _fill_missing(x, out):
    for i in range(len(x)):
        out[i] = x[i] if x[i] == x[i] else x.dtype.type(0)


# Single layers; `Network` computes all layers of a network in fewer calls ---------------------------------------------


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    shape = len(x), *W.shape
    out = np.empty((shape[0], shape[2]), x.dtype) if out is None else out
    _do(dense_job(shape, (0, 0), (1, 0), (2, 0), formulas.code(activation), (3, 0)), x, W, b, out)
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    shape = len(x), *W.shape
    multiply_by_derivative(dy.reshape(-1), y.reshape(-1), formulas.code(activation))
    if dW is not None:
        _do(weight_gradient_job(shape, (0, 0), (1, 0), (2, 0)), x, dy, dW)
        np.sum(dy, axis=0, out=db)
    if dx is not None:
        _do(input_gradient_job(shape, (0, 0), (1, 0), accumulate, (2, 0)), dy, W, dx)


def _do(job, *arrays):
    """Do one job. The tuple of arrays has the length of a `Network`'s, or Numba would compile a second version."""
    flat = [writeable(array).reshape(-1) for array in arrays]
    flat += [flat[0]] * (N_ARRAYS - len(flat))
    multiply(np.array([job], np.int64), tuple(flat), scratch(flat[0].dtype), threads())


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    shapes = eps.shape, len(mu if analytic_kl else eps)
    z, kl = (np.empty(shape, mu.dtype) if o is None else o for o, shape in zip(out, shapes))
    _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl)
    return z, kl


@njit(**OPTIONS)
def _gaussian_latent(mu, log_var, eps, analytic_kl, z, kl):
    if analytic_kl:
        for i in range(len(mu)):
            kl[i] = _divergence(mu[i], log_var[i])
    for row in range(len(eps)):
        i = row % len(mu)
        log_ratio = _shift_and_scale(mu[i], log_var[i], eps[row], z[row])
        if not analytic_kl:
            kl[row] = log_ratio


@njit(**ROW)
def _divergence(mu, log_var):
    total = mu.dtype.type(0)
    for j in range(len(mu)):
        total += mu[j] * mu[j] + (expm1(log_var[j]) - log_var[j])
    return mu.dtype.type(0.5) * total


@njit(**ROW)
def _shift_and_scale(mu, log_var, eps, z):
    """Set z to mu + sigma * eps and return log q(z|x) - log p(z)."""
    half, total = mu.dtype.type(0.5), mu.dtype.type(0)
    for j in range(len(mu)):
        z[j] = mu[j] + exp(half * log_var[j]) * eps[j]
        total += z[j] * z[j] - eps[j] * eps[j] - log_var[j]
    return half * total


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = (np.empty_like(mu) if o is None else o for o in out)
    _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, dmu, dlog_var)
    return dmu, dlog_var


@njit(**OPTIONS)
def _gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, dmu, dlog_var):
    M, half, zero = len(mu), mu.dtype.type(0.5), mu.dtype.type(0)
    if analytic_kl:
        for i in range(M):
            _closed_form_gradients(mu[i], log_var[i], weights[i], dmu[i], dlog_var[i])
    else:
        dmu[:] = 0
        dlog_var[:] = 0
        for row in range(len(eps)):
            dlog_var[row % M] += half * weights[row]
    for row in range(len(eps)):
        i = row % M
        weight = zero if analytic_kl else weights[row]
        _add_gradients(mu[i], log_var[i], eps[row], dz[row], weight, dmu[i], dlog_var[i])


@njit(**ROW)
def _closed_form_gradients(mu, log_var, weight, dmu, dlog_var):
    """Set the gradients at mu and log_var to those of -weight times the KL divergence in closed form."""
    half = mu.dtype.type(0.5)
    for j in range(len(mu)):
        dmu[j] = -weight * mu[j]
        dlog_var[j] = -weight * half * expm1(log_var[j])


@njit(**ROW)
def _add_gradients(mu, log_var, eps, dz, weight, dmu, dlog_var):
    """Add the gradients of one sample z: from dz, and from z in -weight times its log-ratio."""
    half = mu.dtype.type(0.5)
    for j in range(len(mu)):
        sigma_eps = exp(half * log_var[j]) * eps[j]
        here = dz[j] - weight * (mu[j] + sigma_eps)
        dmu[j] += here
        dlog_var[j] += half * here * sigma_eps


def gaussian_log_q(z, mu, log_var, weights, out=(None, None, None)):
    """See `reference.gaussian_log_q`."""
    log_q, dmu, dlog_var = out
    log_q = np.empty(len(z), mu.dtype) if log_q is None else log_q
    dmu, dlog_var = (np.empty_like(mu) if o is None else o for o in (dmu, dlog_var))
    _gaussian_log_q(z, mu, log_var, weights, log_q, dmu, dlog_var)
    return log_q, dmu, dlog_var


@njit(**OPTIONS)
def _gaussian_log_q(z, mu, log_var, weights, log_q, dmu, dlog_var):
    dmu[:] = 0
    dlog_var[:] = 0
    for row in range(len(z)):
        i = row % len(mu)
        log_q[row] = _add_score(z[row], mu[i], log_var[i], weights[row], dmu[i], dlog_var[i])


@njit(**ROW)
def _add_score(z, mu, log_var, weight, dmu, dlog_var):
    """Return log N(z; mu, sigma^2) and add weight times its gradients."""
    half, one, log_2pi = mu.dtype.type(0.5), mu.dtype.type(1), mu.dtype.type(LOG_2PI)
    total = mu.dtype.type(0)
    for j in range(len(z)):
        precision, error = exp(-log_var[j]), z[j] - mu[j]
        squared = error * error * precision
        total += log_2pi + log_var[j] + squared
        dmu[j] += weight * error * precision
        dlog_var[j] += weight * half * (squared - one)
    return -half * total


def add_log_prior(z, log_prob, dz):
    """See `reference.add_log_prior`."""
    _add_log_prior(z, log_prob, np.empty_like(z) if dz is None else dz)


@njit(**OPTIONS)
def _add_log_prior(z, log_prob, dz):
    for row in range(len(z)):
        log_prob[row] += _prior_of_row(z[row], dz[row])


@njit(**ROW)
def _prior_of_row(z, dz):
    total = z.dtype.type(0)
    for j in range(len(z)):
        total += z.dtype.type(LOG_2PI) + z[j] * z[j]
        dz[j] -= z[j]
    return z.dtype.type(-0.5) * total


@njit(**ROW)
def _always(x):
    return True


@njit(**ROW)
def _if_a_number(x):
    return x == x


def _make_bernoulli_row(is_observed):
    """Return the function of a row, of those of its cells that are observed.

    Each choice stands behind what it is about: the compiler makes branches of choices that follow on each other, and
    does not vectorize the loop.
    """

    @njit(**ROW)
    def row(x, logits, weight, dlogits):
        total, zero = logits.dtype.type(0), logits.dtype.type(0)
        for d in range(len(x)):
            observed = is_observed(x[d])
            term = x[d] * logits[d] - softplus(logits[d])
            total += term if observed else zero
            slope = weight * (x[d] - sigmoid(logits[d]))
            dlogits[d] = slope if observed else zero
        return total

    return row


def _make_gaussian_row(is_observed):
    """Return the function of a row: see `_make_bernoulli_row`."""

    @njit(**ROW)
    def row(x, mu, log_var, weight, dmu, dlog_var):
        half, one, log_2pi = mu.dtype.type(0.5), mu.dtype.type(1), mu.dtype.type(LOG_2PI)
        total, zero = mu.dtype.type(0), mu.dtype.type(0)
        for d in range(len(x)):
            observed = is_observed(x[d])
            precision, error = exp(-log_var[d]), x[d] - mu[d]
            squared = error * error * precision
            term = log_2pi + log_var[d] + squared
            total += term if observed else zero
            slope = weight * error * precision
            dmu[d] = slope if observed else zero
            slope = weight * half * (squared - one)
            dlog_var[d] = slope if observed else zero
        return -half * total

    return row


_bernoulli_row, _bernoulli_observed = _make_bernoulli_row(_always), _make_bernoulli_row(_if_a_number)
_gaussian_row, _gaussian_observed = _make_gaussian_row(_always), _make_gaussian_row(_if_a_number)


def bernoulli_log_prob(x, logits, weights, out=(None, None), missing=False):
    """See `reference.bernoulli_log_prob`."""
    log_prob, dlogits = _outputs(logits, out)
    _bernoulli_log_prob(x, logits, weights, log_prob, dlogits, _threads(logits.size))
    if missing:
        none = np.empty((len(logits), 0), logits.dtype)
        _correct_for_missing(x, (logits, none, none), weights, log_prob, (dlogits, none, none), _threads(logits.size))
    return log_prob, dlogits


@njit(parallel=True, **OPTIONS)
def _bernoulli_log_prob(x, logits, weights, log_prob, dlogits, threads):
    if threads == 1:
        for row in range(len(logits)):
            log_prob[row] = _bernoulli_row(x[row % len(x)], logits[row], weights[row], dlogits[row])
    else:
        for row in prange(len(logits)):
            log_prob[row] = _bernoulli_row(x[row % len(x)], logits[row], weights[row], dlogits[row])


def gaussian_log_prob(x, mu, log_var, weights, out=(None, None, None), missing=False):
    """See `reference.gaussian_log_prob`."""
    log_prob, dmu, dlog_var = _outputs(mu, out)
    _gaussian_log_prob(x, mu, log_var, weights, log_prob, dmu, dlog_var, _threads(mu.size))
    if missing:
        none = np.empty((len(mu), 0), mu.dtype)
        _correct_for_missing(x, (none, mu, log_var), weights, log_prob, (none, dmu, dlog_var), _threads(mu.size))
    return log_prob, dmu, dlog_var


@njit(parallel=True, **OPTIONS)
def _gaussian_log_prob(x, mu, log_var, weights, log_prob, dmu, dlog_var, threads):
    if threads == 1:
        for row in range(len(mu)):
            log_prob[row] = _gaussian_row(x[row % len(x)], mu[row], log_var[row], weights[row], dmu[row], dlog_var[row])
    else:
        for row in prange(len(mu)):
            log_prob[row] = _gaussian_row(x[row % len(x)], mu[row], log_var[row], weights[row], dmu[row], dlog_var[row])


def mixed_log_prob(x, logits, mu, log_var, weights, out=(None, None, None, None), missing=False):
    """See `reference.mixed_log_prob`."""
    log_prob, dlogits = _outputs(logits, out[:2])
    _, *gradients = _outputs(mu, (log_prob, *out[2:]))
    arguments = x, (logits, mu, log_var), weights, log_prob, (dlogits, *gradients), _threads(logits.size + mu.size)
    _mixed_log_prob(*arguments)
    if missing:
        _correct_for_missing(*arguments)
    return log_prob, dlogits, *gradients


@njit(parallel=True, **OPTIONS)
def _mixed_log_prob(x, parameters, weights, log_prob, gradients, threads):
    if threads == 1:
        for row in range(len(log_prob)):
            log_prob[row] = _mixed_row(x[row % len(x)], row, parameters, weights[row], gradients)
    else:
        for row in prange(len(log_prob)):
            log_prob[row] = _mixed_row(x[row % len(x)], row, parameters, weights[row], gradients)


@njit(**ROW)
def _mixed_row(x, row, parameters, weight, gradients):
    logits, mu, log_var = parameters
    dlogits, dmu, dlog_var = gradients
    B = logits.shape[1]
    binary = _bernoulli_row(x[:B], logits[row], weight, dlogits[row])
    return binary + _gaussian_row(x[B:], mu[row], log_var[row], weight, dmu[row], dlog_var[row])


@njit(parallel=True, **OPTIONS)
def _correct_for_missing(x, parameters, weights, log_prob, gradients, threads):
    """Compute the rows of x that have NaN again, from their observed cells; the others keep their bits.

    A likelihood without binary or without real columns has empty arrays in their places.
    """
    if threads == 1:
        for row in range(len(log_prob)):
            _correct_row(x[row % len(x)], row, parameters, weights, log_prob, gradients)
    else:
        for row in prange(len(log_prob)):
            _correct_row(x[row % len(x)], row, parameters, weights, log_prob, gradients)


@njit(**ROW)
def _correct_row(x, row, parameters, weights, log_prob, gradients):
    logits, mu, log_var = parameters
    dlogits, dmu, dlog_var = gradients
    B, complete = logits.shape[1], True
    for d in range(len(x)):
        complete &= x[d] == x[d]
    if not complete:
        binary = _bernoulli_observed(x[:B], logits[row], weights[row], dlogits[row])
        real = _gaussian_observed(x[B:], mu[row], log_var[row], weights[row], dmu[row], dlog_var[row])
        log_prob[row] = binary + real


def _outputs(parameter, out):
    """Return the arrays for a log-density and its gradients; makes new ones in place of None.

    They are one value per row, and arrays of the shape of the parameters.
    """
    log_prob, *gradients = out
    return (
        np.empty(len(parameter), parameter.dtype) if log_prob is None else log_prob,
        *(np.empty_like(parameter) if gradient is None else gradient for gradient in gradients),
    )


# Updates --------------------------------------------------------------------------------------------------------------


def step(optimizer, parameters, gradient, state, rule):
    """See `reference.step`."""
    flags = gradient.finite.values()
    finite = min([flag[0] for flag in flags]) if flags else math.isfinite(squared_norm(gradient.vector))
    if reference.count_step(state.counter, finite):
        vector, number = parameters.vector, gradient.vector.dtype.type
        used = [state.arrays[name] for name in formulas.UPDATES[optimizer].arrays]
        first, second = (*used, vector, vector)[:2]
        average = state.arrays["average"] if rule.averaging else vector
        numbers = tuple(map(number, rule.numbers(int(state.counter[0]))))
        settings = 2 * formulas.UPDATE_CODES[optimizer] + rule.averaging, number(rule.weight_decay), rule.n_weights
        arrays = vector, gradient.vector, first, second, average, gradient.starts
        if _step(arrays, settings, numbers, _threads(vector.size)):
            _take_back(vector, gradient.vector, (*used, average), state.counter)


def clip_norm(gradient, limit):
    """See `reference.clip_norm`."""
    norm = math.sqrt(squared_norm(gradient.vector))
    if limit < norm < math.inf:
        gradient.vector *= gradient.vector.dtype.type(limit / norm)


def _take_back(parameters, before, arrays, counter):
    """Undo a step that overflowed, given the parameters from before, which become the marked gradient."""
    bad = ~np.all([np.isfinite(array) for array in (parameters, *arrays)], axis=0)
    parameters[:] = before
    before[bad] = np.nan
    counter[1] = counter[0]


@njit(parallel=True, **OPTIONS)
def _step(arrays, settings, numbers, threads):
    """Update every array, and return in how many shares a number overflowed."""
    overflowed = 0
    if threads == 1:
        overflowed += _step_of_share(arrays, settings, numbers, np.int64(0), threads)
    else:
        for thread in prange(threads):
            overflowed += _step_of_share(arrays, settings, numbers, np.int64(thread), threads)
    return overflowed


@njit(**OPTIONS)
def _step_of_share(arrays, settings, numbers, thread, threads):
    """Update one thread's share of every array, and return whether a number overflowed.

    Shares are cut by rows, as in `matmul`: much of a thread's share of the gradient is still in its core's cache.
    """
    parameters, gradient, first, second, average, starts = arrays
    code, weight_decay, n_weights = settings
    overflowed = False
    for i in range(len(starts) - 1):
        start, size = starts[i], starts[i + 1] - starts[i]
        part = slice(start + size * thread // threads, start + size * (thread + 1) // threads)
        decay = weight_decay if start < n_weights else parameters.dtype.type(0)
        state = (first[part], second[part]), average[part]
        overflowed |= update(parameters[part], code, gradient[part], *state, numbers, decay)
    return overflowed
