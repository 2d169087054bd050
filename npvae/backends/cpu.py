"""The backend for all cores of a CPU, compiled by Numba: the functions of `reference`, equal up to rounding.

Here are single layers, the latent layer and the likelihoods. `cpu_minibatch` makes the minibatches, `cpu_network` has
whole networks, `cpu_updates` the steps of the optimizers, and `cpu_steps` runs of many steps; `matmul` has the matrix
products, `scalar` the scalar functions.

Each function makes one pass over its data, in one fused loop: a kernel, as `jobs` says, which many threads share by
rows. Each sum is computed by one thread in a fixed order, so the bits do not depend on the number of threads. Some
inner loops are functions of their own because the compiler vectorizes them only then.
"""

import numpy as np
from numba import njit

from . import formulas, reference
from .cpu_minibatch import binarize, fill_missing, gather
from .cpu_network import IDENTITY, Network, activate, to_activation
from .cpu_steps import Runner
from .cpu_updates import clip_norm, gradient, step
from .jobs import PASS, kernel, read, share
from .matmul import dense_job, input_gradient_job, product, weight_gradient_job
from .reference import LOG_2PI
from .scalar import FAST, ROW, exp, expm1, sigmoid, softplus

__all__ = [
    "Network", "Runner", "add_log_prior", "asarray", "bernoulli_log_prob", "beside", "binarize", "clip_norm", "dense",
    "dense_backward", "empty", "fill_missing", "gather", "gaussian_latent", "gaussian_latent_backward",
    "gaussian_log_prob", "gaussian_log_q", "gradient", "mixed_log_prob", "step", "to_numpy", "wait",
]  # fmt: skip

# The arrays of this backend are NumPy arrays, and each function is done when it returns.
empty, asarray, to_numpy = reference.empty, reference.asarray, reference.to_numpy
beside, wait = reference.beside, reference.wait

# Single layers; `Network` computes all layers of a network in fewer calls ---------------------------------------------


def dense(x, W, b, activation, out=None):
    """See `reference.dense`."""
    formulas.activation(activation)  # an error if there is none of this name
    out = np.empty((len(x), W.shape[1]), x.dtype) if out is None else out
    _multiply(dense_job(x, W, b, out), x.dtype)
    if activation != IDENTITY:
        activate[activation](x.dtype, out.reshape(-1), work=PASS * out.size)
    return out


def dense_backward(x, W, y, dy, activation, gradients):
    """See `reference.dense_backward`."""
    dW, db, dx, accumulate = gradients
    to_activation[activation](x.dtype, dy, y, x, np.empty((2, 0), x.dtype), work=PASS * dy.size)
    if dW is not None:
        _multiply(weight_gradient_job(x, dy, dW), x.dtype)
        np.sum(dy, axis=0, out=db)
    if dx is not None:
        _multiply(input_gradient_job(dy, W, accumulate, dx), x.dtype)


def _multiply(job, dtype):
    product(dtype, *job.arguments, work=job.work)


# The latent layer and the likelihoods ---------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """See `reference.gaussian_latent`."""
    shapes = eps.shape, len(mu if analytic_kl else eps)
    z, kl = (np.empty(shape, mu.dtype) if o is None else o for o, shape in zip(out, shapes))
    _gaussian_latent(mu.dtype, mu, log_var, eps, analytic_kl, z, kl, work=PASS * eps.size)
    return z, kl


# Where a datapoint has several samples, the threads share the datapoints: row ``l * M + i`` belongs to datapoint i.


@kernel("f2 f2 f2 n f2 f1", **FAST)
def _gaussian_latent(job, step, work, thread, threads):
    mu, log_var, eps, analytic_kl, z, kl = read(job)
    M = len(mu)
    start, stop = share(M, thread, threads)
    for i in range(start, stop):
        if analytic_kl:
            kl[i] = _divergence(mu[i], log_var[i])
        for row in range(i, len(eps), M):
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
    for j in range(len(mu)):
        total += z[j] * z[j] - eps[j] * eps[j] - log_var[j]
    return half * total


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, out=(None, None)):
    """See `reference.gaussian_latent_backward`."""
    dmu, dlog_var = (np.empty_like(mu) if o is None else o for o in out)
    arguments = mu, log_var, eps, dz, analytic_kl, weights, dmu, dlog_var
    _gaussian_latent_backward(mu.dtype, *arguments, work=PASS * eps.size)
    return dmu, dlog_var


@kernel("f2 f2 f2 f2 n f1 f2 f2", **FAST)
def _gaussian_latent_backward(job, step, work, thread, threads):
    mu, log_var, eps, dz, analytic_kl, weights, dmu, dlog_var = read(job)
    M, half, zero = len(mu), mu.dtype.type(0.5), mu.dtype.type(0)
    start, stop = share(M, thread, threads)
    for i in range(start, stop):
        if analytic_kl:
            _closed_form_gradients(mu[i], log_var[i], weights[i], dmu[i], dlog_var[i])
        else:
            total = zero
            for row in range(i, len(eps), M):
                total += half * weights[row]
            _fill(dmu[i], zero)
            _fill(dlog_var[i], total)
        for row in range(i, len(eps), M):
            weight = zero if analytic_kl else weights[row]
            _add_gradients(mu[i], log_var[i], eps[row], dz[row], weight, dmu[i], dlog_var[i])


@njit(**ROW)
def _fill(numbers, value):
    for j in range(len(numbers)):  # assigning to a slice takes seconds to compile
        numbers[j] = value


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
    _gaussian_log_q(mu.dtype, z, mu, log_var, weights, log_q, dmu, dlog_var, work=PASS * z.size)
    return log_q, dmu, dlog_var


@kernel("f2 f2 f2 f1 f1 f2 f2", **FAST)
def _gaussian_log_q(job, step, work, thread, threads):
    z, mu, log_var, weights, log_q, dmu, dlog_var = read(job)
    M, zero = len(mu), mu.dtype.type(0)
    start, stop = share(M, thread, threads)
    for i in range(start, stop):
        _fill(dmu[i], zero)
        _fill(dlog_var[i], zero)
        for row in range(i, len(z), M):
            log_q[row] = _add_score(z[row], mu[i], log_var[i], weights[row], dmu[i], dlog_var[i])


@njit(**ROW)
def _add_score(z, mu, log_var, weight, dmu, dlog_var):
    """Return log N(z; mu, sigma^2) and add weight times its gradients."""
    half, one, log_2pi = mu.dtype.type(0.5), mu.dtype.type(1), mu.dtype.type(LOG_2PI)
    total = mu.dtype.type(0)
    for j in range(len(z)):
        error = z[j] - mu[j]
        total += log_2pi + log_var[j] + error * error * exp(-log_var[j])
    for j in range(len(z)):
        precision, error = exp(-log_var[j]), z[j] - mu[j]
        squared = error * error * precision
        dmu[j] += weight * error * precision
        dlog_var[j] += weight * half * (squared - one)
    return -half * total


def add_log_prior(z, log_prob, dz):
    """See `reference.add_log_prior`."""
    _add_log_prior(z.dtype, z, log_prob, np.empty_like(z) if dz is None else dz, work=PASS * z.size)


@kernel("f2 f1 f2", **FAST)
def _add_log_prior(job, step, work, thread, threads):
    z, log_prob, dz = read(job)
    start, stop = share(len(z), thread, threads)
    for row in range(start, stop):
        log_prob[row] += _prior_of_row(z[row], dz[row])


@njit(**ROW)
def _prior_of_row(z, dz):
    total = z.dtype.type(0)
    for j in range(len(z)):
        total += z.dtype.type(LOG_2PI) + z[j] * z[j]
    for j in range(len(z)):
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
            term = x[d] * logits[d] - softplus(logits[d])
            total += term if is_observed(x[d]) else zero
        for d in range(len(x)):
            slope = weight * (x[d] - sigmoid(logits[d]))
            dlogits[d] = slope if is_observed(x[d]) else zero
        return total

    return row


def _make_gaussian_row(is_observed):
    """Return the function of a row: see `_make_bernoulli_row`."""

    @njit(**ROW)
    def row(x, mu, log_var, weight, dmu, dlog_var):
        half, one, log_2pi = mu.dtype.type(0.5), mu.dtype.type(1), mu.dtype.type(LOG_2PI)
        total, zero = mu.dtype.type(0), mu.dtype.type(0)
        for d in range(len(x)):
            error = x[d] - mu[d]
            term = log_2pi + log_var[d] + error * error * exp(-log_var[d])
            total += term if is_observed(x[d]) else zero
        for d in range(len(x)):
            observed = is_observed(x[d])
            precision, error = exp(-log_var[d]), x[d] - mu[d]
            squared = error * error * precision
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
    _bernoulli_log_prob(logits.dtype, x, logits, weights, log_prob, dlogits, work=PASS * logits.size)
    if missing:
        none = np.empty((len(logits), 0), logits.dtype)
        _correct(x, (logits, none, none), weights, log_prob, (dlogits, none, none))
    return log_prob, dlogits


@kernel("f2 f2 f1 f1 f2", **FAST)
def _bernoulli_log_prob(job, step, work, thread, threads):
    x, logits, weights, log_prob, dlogits = read(job)
    start, stop = share(len(logits), thread, threads)
    for row in range(start, stop):
        log_prob[row] = _bernoulli_row(x[row % len(x)], logits[row], weights[row], dlogits[row])


def gaussian_log_prob(x, mu, log_var, weights, out=(None, None, None), missing=False):
    """See `reference.gaussian_log_prob`."""
    log_prob, dmu, dlog_var = _outputs(mu, out)
    _gaussian_log_prob(mu.dtype, x, mu, log_var, weights, log_prob, dmu, dlog_var, work=PASS * mu.size)
    if missing:
        none = np.empty((len(mu), 0), mu.dtype)
        _correct(x, (none, mu, log_var), weights, log_prob, (none, dmu, dlog_var))
    return log_prob, dmu, dlog_var


@kernel("f2 f2 f2 f1 f1 f2 f2", **FAST)
def _gaussian_log_prob(job, step, work, thread, threads):
    x, mu, log_var, weights, log_prob, dmu, dlog_var = read(job)
    start, stop = share(len(mu), thread, threads)
    for row in range(start, stop):
        log_prob[row] = _gaussian_row(x[row % len(x)], mu[row], log_var[row], weights[row], dmu[row], dlog_var[row])


def mixed_log_prob(x, logits, mu, log_var, weights, out=(None, None, None, None), missing=False):
    """See `reference.mixed_log_prob`."""
    log_prob, dlogits = _outputs(logits, out[:2])
    _, dmu, dlog_var = _outputs(mu, (log_prob, *out[2:]))
    arguments = x, logits, mu, log_var, weights, log_prob, dlogits, dmu, dlog_var
    _mixed_log_prob(mu.dtype, *arguments, work=PASS * (logits.size + mu.size))
    if missing:
        _correct(x, (logits, mu, log_var), weights, log_prob, (dlogits, dmu, dlog_var))
    return log_prob, dlogits, dmu, dlog_var


@kernel("f2 f2 f2 f2 f1 f1 f2 f2 f2", **FAST)
def _mixed_log_prob(job, step, work, thread, threads):
    x, logits, mu, log_var, weights, log_prob, dlogits, dmu, dlog_var = read(job)
    start, stop = share(len(log_prob), thread, threads)
    for row in range(start, stop):
        parameters, gradients = (logits, mu, log_var), (dlogits, dmu, dlog_var)
        log_prob[row] = _mixed_row(x[row % len(x)], row, parameters, weights[row], gradients)


@njit(**ROW)
def _mixed_row(x, row, parameters, weight, gradients):
    logits, mu, log_var = parameters
    dlogits, dmu, dlog_var = gradients
    B = logits.shape[1]
    binary = _bernoulli_row(x[:B], logits[row], weight, dlogits[row])
    return binary + _gaussian_row(x[B:], mu[row], log_var[row], weight, dmu[row], dlog_var[row])


def _correct(x, parameters, weights, log_prob, gradients):
    """Compute the rows of x that have NaN again, from their observed cells; the others keep their bits.

    A likelihood without binary or without real columns has empty arrays in their places.
    """
    work = PASS * (parameters[0].size + parameters[1].size)
    _correct_for_missing(log_prob.dtype, x, *parameters, weights, log_prob, *gradients, work=work)


@kernel("f2 f2 f2 f2 f1 f1 f2 f2 f2", **FAST)
def _correct_for_missing(job, step, work, thread, threads):
    x, logits, mu, log_var, weights, log_prob, dlogits, dmu, dlog_var = read(job)
    start, stop = share(len(log_prob), thread, threads)
    for row in range(start, stop):
        parameters, gradients = (logits, mu, log_var), (dlogits, dmu, dlog_var)
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
