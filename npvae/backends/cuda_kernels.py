"""The CUDA kernels of ``cuda``: what one thread, or one block of threads, does. How they are launched is said there.

Formulas of one number are those of `formulas`: the same source, compiled for the device with its elementary functions.
Sums over a block are made in a fixed order and no result depends on which block comes first, so that equal runs give
equal bits. The matrix products stand in ``cuda_product``.
"""

import math

import numpy as np
from numba import cuda, float32, float64, uint64

from . import formulas
from .reference import LOG_2PI

#: The simulator takes a tenth of a millisecond for each thread, and 10 ms for each time that a block waits for its own.
SIMULATED = bool(cuda.config.ENABLE_CUDASIM) if hasattr(cuda, "config") else False

#: Threads of a block that works on a row, or on a stretch of a vector; a power of two.
THREADS = 4 if SIMULATED else 256


def by_precision(make):
    """Return the kernels that ``make`` makes for float32 and for float64, by dtype."""
    return {np.dtype(name): make(dtype) for name, dtype in (("float32", float32), ("float64", float64))}


# Formulas of one number -----------------------------------------------------------------------------------------------


@cuda.jit(device=True)
def _constant(number, like):
    return type(like)(number)


@cuda.jit(device=True)
def _maximum(a, b):
    return max(a, b)


@cuda.jit(device=True)
def _where(condition, a, b):
    return a if condition else b


@cuda.jit(device=True)
def _over_sqrt(a, b):
    return a / math.sqrt(b)


_functions, _activations, _updates, _schedules = formulas.lift(
    cuda.jit(device=True), constant=_constant, cos=math.cos, exp=math.exp, expm1=math.expm1, log1p=math.log1p,
    maximum=_maximum, over_sqrt=_over_sqrt, sqrt=math.sqrt, tanh=math.tanh, where=_where,
)  # fmt: skip
sigmoid, softplus, averaged = _functions["sigmoid"], _functions["softplus"], _functions["averaged"]
share_of_run, step_numbers = _functions["share_of_run"], _functions["step_numbers"]
binarized = _functions["binarized"]
if SIMULATED:
    binarized = np.errstate(over="ignore")(binarized)  # integers modulo 2^64, of which NumPy warns


@cuda.jit(device=True)
def _unknown(number, code):
    """What does not exist must not pass for the identity: kernels cannot raise, so all becomes NaN."""
    return type(number)(math.nan)


def _by_code(functions):
    """Return a function of (number, code) that applies the function at that place of the list."""
    choice = _unknown
    for place, function in reversed(list(enumerate(functions))):
        choice = _one_of_two(place, function, choice)
    return choice


def _one_of_two(place, function, otherwise):
    @cuda.jit(device=True)
    def choose(number, code):
        return function(number) if code == place else otherwise(number, code)

    return choose


#: The activation of a code, and its derivative from its output.
activate = _by_code([row.function for row in _activations])
derivative = _by_code([row.derivative for row in _activations])

#: The factor of the step size of a code, from the share of the run that is over.
schedule = _by_code(_schedules)


# Sums and places ------------------------------------------------------------------------------------------------------


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
def gather(X, rows, shift, scale, out):
    """``out = (X[rows] - shift) * scale``: a thread for each number."""
    i, d = row_and_column()
    if d < out.shape[1]:
        out[i, d] = (X[rows[i], d] - shift[d]) * scale[d]


@cuda.jit
def binarize(x, keys, out):
    """Draw 0 or 1 with the key of each row: a thread for each number."""
    i, d = row_and_column()
    if d < out.shape[1]:
        out[i, d] = binarized(x[i, d], keys[i], uint64(d))


@cuda.jit
def fill_missing(x, out):
    """``out = x``, or 0 where x is NaN: a thread for each number."""
    i, d = row_and_column()
    if d < out.shape[1]:
        out[i, d] = _constant(0, x[i, d]) if math.isnan(x[i, d]) else x[i, d]


# The backward pass of a layer, whose products stand in ``cuda_product`` -----------------------------------------------


@cuda.jit
def delta(dy, y, code):
    """``dy *= f'(y)``: a thread for each number."""
    i = cuda.grid(1)
    if i < dy.shape[0]:
        dy[i] *= derivative(y[i], code)


# The latent layer: row l * M + i belongs to datapoint i ---------------------------------------------------------------


def make_latent(dtype):
    """Return the forward kernel of the latent layer."""

    @cuda.jit
    def latent(mu, log_var, eps, analytic_kl, z, kl):
        """See `reference.gaussian_latent`: a block for each row of z. In closed form only the first M rows have kl."""
        parts = cuda.shared.array(THREADS, dtype)
        row, thread, half = cuda.blockIdx.x, cuda.threadIdx.x, dtype(0.5)
        i, total = row % mu.shape[0], dtype(0)
        for j in range(thread, mu.shape[1], THREADS):
            m, s, e = mu[i, j], log_var[i, j], eps[row, j]
            here = m + math.exp(half * s) * e
            z[row, j] = here
            total += m * m + (math.expm1(s) - s) if analytic_kl else here * here - e * e - s
        parts[thread] = total
        total = sum_of_block(parts)
        if thread == 0 and row < kl.shape[0]:
            kl[row] = half * total

    return latent


def make_latent_backward(dtype):
    """Return the backward kernel of the latent layer."""

    @cuda.jit
    def latent_backward(mu, log_var, eps, dz, analytic_kl, weights, dmu, dlog_var):
        """See `reference.gaussian_latent_backward`: a thread for each latent of each datapoint."""
        (i, j), half = row_and_column(), dtype(0.5)
        if j < mu.shape[1]:
            m, s = mu[i, j], log_var[i, j]
            sigma = math.exp(half * s)
            by_mu = -weights[i] * m if analytic_kl else dtype(0)
            by_log_var = -weights[i] * half * math.expm1(s) if analytic_kl else dtype(0)
            for row in range(i, eps.shape[0], mu.shape[0]):
                weight = dtype(0) if analytic_kl else weights[row]
                sigma_eps = sigma * eps[row, j]
                here = dz[row, j] - weight * (m + sigma_eps)
                by_mu += here
                by_log_var += half * (here * sigma_eps + weight)
            dmu[i, j] = by_mu
            dlog_var[i, j] = by_log_var

    return latent_backward


def make_log_q(dtype):
    """Return the kernel of log q(z|x) of samples held constant."""

    @cuda.jit
    def log_q(z, mu, log_var, weights, log_prob, dmu, dlog_var):
        """See `reference.gaussian_log_q`: a block for each datapoint goes through its samples."""
        parts = cuda.shared.array(THREADS, dtype)
        i, thread, half = cuda.blockIdx.x, cuda.threadIdx.x, dtype(0.5)
        for j in range(thread, mu.shape[1], THREADS):
            dmu[i, j] = dtype(0)
            dlog_var[i, j] = dtype(0)
        for row in range(i, z.shape[0], mu.shape[0]):
            total = dtype(0)
            for j in range(thread, mu.shape[1], THREADS):
                s, error = log_var[i, j], z[row, j] - mu[i, j]
                precision = math.exp(-s)
                squared = error * error * precision
                total += dtype(LOG_2PI) + s + squared
                dmu[i, j] += weights[row] * error * precision
                dlog_var[i, j] += weights[row] * half * (squared - dtype(1))
            parts[thread] = total
            total = sum_of_block(parts)
            if thread == 0:
                log_prob[row] = -half * total
            cuda.syncthreads()  # before the next sample's parts are written, all must have read this sum

    return log_q


def make_log_prior(dtype):
    """Return the kernel that adds log p(z)."""

    @cuda.jit
    def log_prior(z, log_prob, dz):
        """See `reference.add_log_prior`: a block for each row."""
        parts = cuda.shared.array(THREADS, dtype)
        row, thread = cuda.blockIdx.x, cuda.threadIdx.x
        total = dtype(0)
        for j in range(thread, z.shape[1], THREADS):
            total += dtype(LOG_2PI) + z[row, j] * z[row, j]
            if row < dz.shape[0]:
                dz[row, j] -= z[row, j]
        parts[thread] = total
        total = sum_of_block(parts)
        if thread == 0:
            log_prob[row] -= dtype(0.5) * total

    return log_prior


# The likelihoods: a block for each row --------------------------------------------------------------------------------
#
# Where cells may be missing, those that are NaN have the term 0 and the gradients 0.


def make_bernoulli_part(dtype):
    """Return the device function of a thread's part of a row: the Bernoulli likelihood of the first columns of x."""

    @cuda.jit(device=True)
    def bernoulli_part(x, row, logits, weight, dlogits, missing):
        i, total = row % x.shape[0], dtype(0)
        for d in range(cuda.threadIdx.x, logits.shape[1], THREADS):
            a, pixel = logits[row, d], x[i, d]
            if missing and math.isnan(pixel):
                dlogits[row, d] = dtype(0)
            else:
                total += pixel * a - softplus(a)
                dlogits[row, d] = weight * (pixel - sigmoid(a))
        return total

    return bernoulli_part


def make_gaussian_part(dtype):
    """Return the device function of a thread's part of a row: the Gaussian likelihood of the last columns of x."""

    @cuda.jit(device=True)
    def gaussian_part(x, row, mu, log_var, weight, dmu, dlog_var, missing):
        i, half, total = row % x.shape[0], dtype(0.5), dtype(0)
        first = x.shape[1] - mu.shape[1]
        for d in range(cuda.threadIdx.x, mu.shape[1], THREADS):
            s, error = log_var[row, d], x[i, first + d] - mu[row, d]
            if missing and math.isnan(x[i, first + d]):
                dmu[row, d] = dtype(0)
                dlog_var[row, d] = dtype(0)
            else:
                precision = math.exp(-s)
                squared = error * error * precision
                total += dtype(LOG_2PI) + s + squared
                dmu[row, d] = weight * error * precision
                dlog_var[row, d] = weight * half * (squared - dtype(1))
        return -half * total

    return gaussian_part


def make_bernoulli(dtype):
    """Return the kernel of the Bernoulli likelihood."""
    bernoulli_part = make_bernoulli_part(dtype)

    @cuda.jit
    def bernoulli(x, logits, weights, log_prob, dlogits, missing):
        """See `reference.bernoulli_log_prob`."""
        parts, row = cuda.shared.array(THREADS, dtype), cuda.blockIdx.x
        parts[cuda.threadIdx.x] = bernoulli_part(x, row, logits, weights[row], dlogits, missing)
        total = sum_of_block(parts)
        if cuda.threadIdx.x == 0:
            log_prob[row] = total

    return bernoulli


def make_gaussian(dtype):
    """Return the kernel of the Gaussian likelihood."""
    gaussian_part = make_gaussian_part(dtype)

    @cuda.jit
    def gaussian(x, mu, log_var, weights, log_prob, dmu, dlog_var, missing):
        """See `reference.gaussian_log_prob`."""
        parts, row = cuda.shared.array(THREADS, dtype), cuda.blockIdx.x
        parts[cuda.threadIdx.x] = gaussian_part(x, row, mu, log_var, weights[row], dmu, dlog_var, missing)
        total = sum_of_block(parts)
        if cuda.threadIdx.x == 0:
            log_prob[row] = total

    return gaussian


def make_mixed(dtype):
    """Return the kernel of the likelihood with binary and real columns."""
    bernoulli_part, gaussian_part = make_bernoulli_part(dtype), make_gaussian_part(dtype)

    @cuda.jit
    def mixed(x, logits, mu, log_var, weights, log_prob, dlogits, dmu, dlog_var, missing):
        """See `reference.mixed_log_prob`."""
        parts, row = cuda.shared.array(THREADS, dtype), cuda.blockIdx.x
        binary = bernoulli_part(x, row, logits, weights[row], dlogits, missing)
        parts[cuda.threadIdx.x] = binary + gaussian_part(x, row, mu, log_var, weights[row], dmu, dlog_var, missing)
        total = sum_of_block(parts)
        if cuda.threadIdx.x == 0:
            log_prob[row] = total

    return mixed


LATENT, LATENT_BACKWARD = map(by_precision, (make_latent, make_latent_backward))
LOG_Q, LOG_PRIOR = map(by_precision, (make_log_q, make_log_prior))
BERNOULLI, GAUSSIAN, MIXED = map(by_precision, (make_bernoulli, make_gaussian, make_mixed))


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
def count_step(counter, bad):
    """See `reference.count_step`: one thread. The flag is taken back for the next step."""
    if counter[1] < 0:
        counter[0] += 1
        if bad[0] != 0:
            counter[1] = counter[0]
    bad[0] = 0


# An update is launched twice: first only to see whether the gradient, its square and all results are finite, then, once
# the step has been counted, to take it. So a step that overflows in one place is taken nowhere, and nobody waits.


@cuda.jit
def plan_step(counter, numbers, size, code, n_steps, begun, accumulate_only):
    """Set the numbers (4,) of the next step: one thread. See `formulas.step_numbers`."""
    count = counter[0] + 1
    size *= schedule(share_of_run(count, n_steps), code)
    first, second, third, fourth = step_numbers(count, begun, accumulate_only, size)
    numbers[0], numbers[1], numbers[2], numbers[3] = first, second, third, fourth


def make_norm(dtype):
    """Return the kernel of the norm of a vector: one block."""

    @cuda.jit
    def norm(vector, result):
        """``result[0]`` is the norm of the vector."""
        parts, total = cuda.shared.array(THREADS, dtype), dtype(0)
        for i in range(cuda.threadIdx.x, vector.shape[0], THREADS):
            total += vector[i] * vector[i]
        parts[cuda.threadIdx.x] = total
        total = sum_of_block(parts)
        if cuda.threadIdx.x == 0:
            result[0] = math.sqrt(total)

    return norm


NORM = by_precision(make_norm)


@cuda.jit
def shrink(vector, norm, limit):
    """Scale a vector whose norm is above the limit, and finite, to the limit: a thread for each element."""
    i = cuda.grid(1)
    if i < vector.shape[0] and norm[0] > limit and norm[0] < math.inf:
        vector[i] *= limit / norm[0]


def make_update(function, n_arrays):
    """Return the kernel of an optimizer with so many arrays in its state."""

    @cuda.jit
    def update(
        parameters, gradient, first, second, average, counter, bad, numbers, weight_decay, limit, n_weights, take
    ):
        """See `reference.step`: a thread for each parameter. Arrays that are not used have no elements.

        All is read before anything is decided: so a thread waits for memory once.
        """
        i = cuda.grid(1)
        if i < parameters.shape[0]:
            w, g, running = parameters[i], gradient[i], counter[1] < 0
            here = (
                _constant(numbers[0], w), _constant(numbers[1], w), _constant(numbers[2], w), _constant(numbers[3], w)
            )  # fmt: skip
            one = first[i] if n_arrays > 0 else _constant(0, w)
            two = second[i] if n_arrays > 1 else _constant(0, w)
            mean = average[i] if average.shape[0] > 0 else w
            is_fine = abs(g) <= limit  # as numbers are whose square is finite
            g = g if is_fine else _constant(0, w)
            if i < n_weights:
                g -= weight_decay * w
            w, one, two = function(w, g, here, one, two)
            if average.shape[0] > 0:
                mean = averaged(mean, w, here)
            if not running:
                return
            if not is_fine:
                bad[0] = 1
            elif take:
                parameters[i] = w
                if n_arrays > 0:
                    first[i] = one
                if n_arrays > 1:
                    second[i] = two
                if average.shape[0] > 0:
                    average[i] = mean
            elif not (math.isfinite(w) and math.isfinite(one) and math.isfinite(two) and math.isfinite(mean)):
                bad[0] = 1
                gradient[i] = math.nan

    return update


#: By name of the optimizer.
UPDATES = {name: make_update(row.function, len(row.arrays)) for name, row in zip(formulas.UPDATES, _updates)}
