"""The CUDA kernels of ``cuda``: what one thread, or one block of threads, does. How they are launched is said there.

Formulas for one number are those of `scalar`: the same source, compiled for the device with its elementary functions.
Sums over a block are made in a fixed order and no result depends on which block comes first, so that equal runs give
equal bits. Integers of the hot loop are unsigned: signed ones cost a test for wrap-around at each index.
"""

import math
from types import FunctionType

import numpy as np
from numba import cuda, float32, float64

from . import scalar
from .reference import LOG_2PI, MIN_LOG_VAR
from .scalar import FLOORED, SIGMOID, TANH

#: The simulator takes a tenth of a millisecond for each thread, and 10 ms for each time that a block waits for its own.
SIMULATED = bool(cuda.config.ENABLE_CUDASIM) if hasattr(cuda, "config") else False

#: Threads of a block that works on a row, or on a stretch of a vector; a power of two.
THREADS = 4 if SIMULATED else 128

#: Columns and rows of the block of threads that sums over rows.
LANES, DEEP = (4, 2) if SIMULATED else (32, 8)
LANES_DEEP = DEEP, LANES


def by_precision(make):
    """Return the kernels that ``make`` makes for float32 and for float64, by dtype."""
    return {np.dtype(name): make(dtype) for name, dtype in (("float32", float32), ("float64", float64))}


# Formulas of one number -----------------------------------------------------------------------------------------------


def _on_device(function, **names):
    """Compile a formula of `scalar` for the device, with these functions in place of those that it calls."""
    source = function.py_func
    return cuda.jit(device=True)(FunctionType(source.__code__, source.__globals__ | names, source.__name__))


sigmoid = _on_device(scalar.sigmoid, exp=math.exp)
softplus = _on_device(scalar.softplus, exp=math.exp, log1p=math.log1p)
floored = _on_device(scalar.floored, softplus=softplus)


@cuda.jit(device=True)
def activate(a, code):
    """The activation of that code, one of `scalar.CODES`."""
    if code == TANH:
        return math.tanh(a)
    if code == SIGMOID:
        return sigmoid(a)
    if code == FLOORED:
        return floored(a)
    return a


@cuda.jit(device=True)
def derivative(y, code):
    """Its derivative, from its output."""
    one = type(y)(1)
    if code == TANH:
        return one - y * y
    if code == SIGMOID:
        return y * (one - y)
    if code == FLOORED:
        return -math.expm1(type(y)(MIN_LOG_VAR) - y)
    return one


@cuda.jit(device=True)
def sum_of_block(parts):
    """Return to every thread the sum of what each has put into the shared array ``parts`` (THREADS,)."""
    thread = cuda.threadIdx.x
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            parts[thread] += parts[thread + half]
        cuda.syncthreads()
        half //= 2
    return parts[0]


@cuda.jit(device=True)
def row_and_column():
    """Return a thread's place in a matrix whose rows are along the grid's x, which alone may be long."""
    return cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x


# Minibatches ----------------------------------------------------------------------------------------------------------


@cuda.jit
def gather(X, rows, position, shift, scale, out):
    """``out = (X[rows[position]] - shift) * scale``: a thread for each number."""
    i, d = row_and_column()
    if d < out.shape[1]:
        out[i, d] = (X[rows[position[0], i], d] - shift[d]) * scale[d]


@cuda.jit
def take(noise, position, out):
    """``out = noise[position]``: a thread for each number."""
    i, j = row_and_column()
    if j < out.shape[1]:
        out[i, j] = noise[position[0], i, j]


# The backward pass of a layer, whose products stand in ``cuda_product`` -----------------------------------------------


def make_delta(dtype):
    """Return the kernel that starts the backward pass of a layer."""

    @cuda.jit
    def delta(dy, y, code, db):
        """``dy *= f'(y)``, and db its sums over the rows; a block for each LANES columns."""
        parts = cuda.shared.array(LANES_DEEP, dtype)
        lane, deep = cuda.threadIdx.x, cuda.threadIdx.y
        column, total = cuda.blockIdx.x * LANES + lane, dtype(0)
        if column < dy.shape[1]:
            for i in range(deep, dy.shape[0], DEEP):
                value = dy[i, column] * derivative(y[i, column], code)
                dy[i, column] = value
                total += value
        parts[deep, lane] = total
        cuda.syncthreads()
        if deep == 0 and column < dy.shape[1]:
            for i in range(1, DEEP):
                total += parts[i, lane]
            db[column] = total

    return delta


# The latent layer and the likelihoods: a block for each row -----------------------------------------------------------


def make_latent(dtype):
    """Return the forward kernel of the latent layer."""

    @cuda.jit
    def latent(mu, log_var, eps, analytic_kl, z, kl):
        """See `reference.gaussian_latent`."""
        parts = cuda.shared.array(THREADS, dtype)
        i, thread, half = cuda.blockIdx.x, cuda.threadIdx.x, dtype(0.5)
        M, L = mu.shape[0], eps.shape[0] // mu.shape[0]
        total = dtype(0)
        for j in range(thread, mu.shape[1], THREADS):
            m, s = mu[i, j], log_var[i, j]
            sigma = math.exp(half * s)
            if analytic_kl:
                total += m * m + (math.expm1(s) - s)
            sampled = dtype(0)
            for n in range(L):
                e = eps[n * M + i, j]
                here = m + sigma * e
                z[n * M + i, j] = here
                sampled += here * here - e * e - s
            if not analytic_kl:
                total += sampled / dtype(L)
        parts[thread] = total
        total = sum_of_block(parts)
        if thread == 0:
            kl[i] = half * total

    return latent


def make_latent_backward(dtype):
    """Return the backward kernel of the latent layer."""

    @cuda.jit
    def latent_backward(mu, log_var, eps, dz, analytic_kl, scale, dmu, dlog_var):
        """See `reference.gaussian_latent_backward`: a thread for each latent of each datapoint."""
        (i, j), half = row_and_column(), dtype(0.5)
        if j < mu.shape[1]:
            M, L = mu.shape[0], eps.shape[0] // mu.shape[0]
            m, s = mu[i, j], log_var[i, j]
            sigma = math.exp(half * s)
            by_mu = -scale * m if analytic_kl else dtype(0)
            by_log_var = -scale * half * math.expm1(s) if analytic_kl else scale * half
            of_sample = dtype(0) if analytic_kl else scale / dtype(L)
            for n in range(L):
                sigma_eps = sigma * eps[n * M + i, j]
                here = dz[n * M + i, j] - of_sample * (m + sigma_eps)
                by_mu += here
                by_log_var += half * here * sigma_eps
            dmu[i, j] = by_mu
            dlog_var[i, j] = by_log_var

    return latent_backward


def make_bernoulli(dtype):
    """Return the kernel of the Bernoulli likelihood."""

    @cuda.jit
    def bernoulli(x, logits, scale, log_prob, dlogits):
        """See `reference.bernoulli_log_prob`."""
        parts = cuda.shared.array(THREADS, dtype)
        row, thread = cuda.blockIdx.x, cuda.threadIdx.x
        i, total = row % x.shape[0], dtype(0)
        for d in range(thread, x.shape[1], THREADS):
            a, pixel = logits[row, d], x[i, d]
            total += pixel * a - softplus(a)
            dlogits[row, d] = scale * (pixel - sigmoid(a))
        parts[thread] = total
        total = sum_of_block(parts)
        if thread == 0:
            log_prob[row] = total

    return bernoulli


def make_gaussian(dtype):
    """Return the kernel of the Gaussian likelihood."""

    @cuda.jit
    def gaussian(x, mu, log_var, scale, log_prob, dmu, dlog_var):
        """See `reference.gaussian_log_prob`."""
        parts = cuda.shared.array(THREADS, dtype)
        row, thread, half = cuda.blockIdx.x, cuda.threadIdx.x, dtype(0.5)
        i, total = row % x.shape[0], dtype(0)
        for d in range(thread, x.shape[1], THREADS):
            s, error = log_var[row, d], x[i, d] - mu[row, d]
            precision = math.exp(-s)
            squared = error * error * precision
            total += dtype(LOG_2PI) + s + squared
            dmu[row, d] = scale * error * precision
            dlog_var[row, d] = scale * half * (squared - dtype(1))
        parts[thread] = total
        total = sum_of_block(parts)
        if thread == 0:
            log_prob[row] = -half * total

    return gaussian


DELTA, LATENT, LATENT_BACKWARD = map(by_precision, (make_delta, make_latent, make_latent_backward))
BERNOULLI, GAUSSIAN = map(by_precision, (make_bernoulli, make_gaussian))


# The value of a step, and updates -------------------------------------------------------------------------------------


@cuda.jit
def record_value(log_likelihood, kl, values, position, bad):
    """``values[position] = mean(log_likelihood) - mean(kl)``, and on to the next position: one block."""
    parts = cuda.shared.array(THREADS, float64)
    thread, total = cuda.threadIdx.x, float64(0)
    for i in range(thread, log_likelihood.shape[0], THREADS):
        total += float64(log_likelihood[i]) / float64(log_likelihood.shape[0])
    for i in range(thread, kl.shape[0], THREADS):
        total -= float64(kl[i]) / float64(kl.shape[0])
    parts[thread] = total
    total = sum_of_block(parts)
    if thread == 0:
        values[position[0]] = total
        position[0] += 1
        if not math.isfinite(total):
            bad[0] = 1


@cuda.jit
def look(gradient, limit, bad):
    """Set the flag if a number is NaN, or if its square overflows: beyond the limit."""
    i = cuda.grid(1)
    if i < gradient.shape[0] and not abs(gradient[i]) <= limit:
        bad[0] = 1


@cuda.jit
def count_step(counter, bad):
    """See `reference.count_step`: one thread. The flag is taken back for the next step."""
    if counter[1] < 0:
        counter[0] += 1
        if bad[0] != 0:
            counter[1] = counter[0]
    bad[0] = 0


@cuda.jit
def adagrad(parameters, gradient, squares, counter, step_size, weight_decay, epsilon, accumulate_only, n_weights):
    """See `reference.adagrad_step`: a thread for each parameter."""
    i = cuda.grid(1)
    if i < parameters.shape[0] and counter[1] < 0:
        w, g = parameters[i], gradient[i]
        if i < n_weights:
            g -= weight_decay * w
        total = squares[i] + g * g
        squares[i] = total
        if counter[0] > accumulate_only:
            parameters[i] = w + step_size * g / math.sqrt(total + epsilon)


@cuda.jit
def sgd(parameters, gradient, counter, step_size, weight_decay, n_weights):
    """See `reference.sgd_step`: a thread for each parameter."""
    i = cuda.grid(1)
    if i < parameters.shape[0] and counter[1] < 0:
        w, g = parameters[i], gradient[i]
        if i < n_weights:
            g -= weight_decay * w
        parameters[i] = w + step_size * g
