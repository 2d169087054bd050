"""The CUDA kernels of ``cuda``: what one thread, or one block of threads, does. How they are launched is said there.

Formulas for one number are those of `scalar`: the same source, compiled for the device with its elementary functions.
Sums over a block are made in a fixed order and no result depends on which block comes first, so that equal runs give
equal bits. Integers of the hot loop are unsigned: signed ones cost a test for wrap-around at each index.
"""

import math
from types import FunctionType

import numpy as np
from numba import cuda, float32, float64, uint32

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


# Matrix products ------------------------------------------------------------------------------------------------------


def make_product(rows, columns, depth, thread_rows, thread_columns, slices, dtype):
    """Return a kernel for ``out = f(a b + bias)``, and its threads a block.

    A block makes ``rows x columns`` elements of the product, a thread ``thread_rows x thread_columns`` of them. The
    factors pass through shared memory, ``depth`` terms of the sums at a time; while these are multiplied, each thread
    has its share of the next already on the way. Where blocks are few, ``slices`` teams of threads share the terms of
    the same elements: more threads hide more of the time that memory takes. Their sums are added in order at the end.
    """
    across = columns // thread_columns
    threads = rows // thread_rows * across
    # A row more than needed: neighbours in a column of a tile are then in different banks of the memory.
    step_a, step_b = rows + 1, columns + 1
    size_a, size_b = depth * step_a, depth * step_b
    size = max(slices * (size_a + size_b), (slices - 1) * rows * columns)
    shape_sums = thread_rows, thread_columns
    share_a, share_b = -(-rows * depth // threads), -(-columns * depth // threads)

    @cuda.jit(device=True)
    def fetch(source, along, first, k, size, terms, extent, share):
        """Read a thread's share of a tile: elements (first + i, k + j) of a factor (size, terms), zero beyond.

        ``along`` tells which index is contiguous in memory: the tile is read in that order.
        """
        thread = uint32(cuda.threadIdx.x)
        for n in range(len(share)):
            element = thread + uint32(n * threads)
            i = element // uint32(depth) if along else element % uint32(extent)
            j = element % uint32(depth) if along else element // uint32(extent)
            i, j = first + i, k + j
            inside = element < uint32(extent * depth) and i < size and j < terms
            if inside:
                share[n] = source[i, j] if along else source[j, i]
            else:
                share[n] = dtype(0)

    @cuda.jit(device=True)
    def put(share, along, extent, shared, start):
        """Write a thread's share to its team's tile, from ``start`` on: a row for each of ``depth`` terms."""
        thread = uint32(cuda.threadIdx.x)
        for n in range(len(share)):
            element = thread + uint32(n * threads)
            if element < uint32(extent * depth):
                i = element // uint32(depth) if along else element % uint32(extent)
                j = element % uint32(depth) if along else element // uint32(extent)
                shared[start + j * uint32(extent + 1) + i] = share[n]

    @cuda.jit
    def product(a, a_along, b, b_along, out, bias, code, accumulate):
        """``a_along``: a is (M, K), not (K, M); ``b_along``: b is (N, K), not (K, N). out (M, N), bias (N,) or (0,)."""
        shared = cuda.shared.array(size, dtype)  # the teams' tiles of a, those of b; in the end their sums
        next_a = cuda.local.array(share_a, dtype)
        next_b = cuda.local.array(share_b, dtype)
        of_a = cuda.local.array(thread_rows, dtype)
        of_b = cuda.local.array(thread_columns, dtype)
        sums = cuda.local.array(shape_sums, dtype)
        M, N = uint32(out.shape[0]), uint32(out.shape[1])
        K = uint32(a.shape[1]) if a_along else uint32(a.shape[0])
        row, column = uint32(cuda.blockIdx.y * rows), uint32(cuda.blockIdx.x * columns)
        thread, team = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        start_a, start_b = team * uint32(size_a), uint32(slices * size_a) + team * uint32(size_b)
        y, x = thread // uint32(across), thread % uint32(across)
        for i in range(thread_rows):
            for j in range(thread_columns):
                sums[i, j] = dtype(0)

        k, own = uint32(0), team * uint32(depth)  # all teams turn as often, whatever is left for the last
        fetch(a, a_along, row, own, M, K, rows, next_a)
        fetch(b, b_along, column, own, N, K, columns, next_b)
        while k < K:
            put(next_a, a_along, rows, shared, start_a)
            put(next_b, b_along, columns, shared, start_b)
            cuda.syncthreads()
            k += uint32(slices * depth)
            fetch(a, a_along, row, k + own, M, K, rows, next_a)
            fetch(b, b_along, column, k + own, N, K, columns, next_b)
            at_a, at_b = start_a + y * uint32(thread_rows), start_b + x
            for _ in range(depth):
                for i in range(thread_rows):
                    of_a[i] = shared[at_a + uint32(i)]
                for j in range(thread_columns):
                    of_b[j] = shared[at_b + uint32(j * across)]
                at_a += uint32(step_a)
                at_b += uint32(step_b)
                for i in range(thread_rows):
                    for j in range(thread_columns):
                        sums[i, j] += of_a[i] * of_b[j]
            cuda.syncthreads()

        if slices > 1:
            here = thread * uint32(thread_rows * thread_columns)
            if team > 0:
                place = (team - uint32(1)) * uint32(rows * columns) + here
                for i in range(thread_rows):
                    for j in range(thread_columns):
                        shared[place + uint32(i * thread_columns + j)] = sums[i, j]
            cuda.syncthreads()
            if team > 0:
                return
            for other in range(slices - 1):
                for i in range(thread_rows):
                    for j in range(thread_columns):
                        sums[i, j] += shared[here + uint32(other * rows * columns + i * thread_columns + j)]
        for i in range(thread_rows):
            for j in range(thread_columns):
                m, n = row + y * uint32(thread_rows) + uint32(i), column + x + uint32(j * across)
                if m < M and n < N:
                    total = sums[i, j]
                    if n < bias.shape[0]:
                        total = activate(total + bias[n], code)
                    out[m, n] = out[m, n] + total if accumulate else total

    return product, (threads, slices)


def make_products(dtype):
    """Return the products in this precision: (kernel, threads, rows, columns), the one with small tiles first."""
    small, large = (32, 32, 16, 2, 4, 4), (64, 64, 16, 4, 4, 1)
    if SIMULATED:
        small, large = (4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 1)
    return [(*make_product(*tile, dtype), *tile[:2]) for tile in (small, large)]


PRODUCTS = {np.dtype(name): make_products(dtype) for name, dtype in (("float32", float32), ("float64", float64))}


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


def by_precision(make):
    """Return the kernels that ``make`` makes for float32 and for float64, by dtype."""
    return {np.dtype(name): make(dtype) for name, dtype in (("float32", float32), ("float64", float64))}


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
