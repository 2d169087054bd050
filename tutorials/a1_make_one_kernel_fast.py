# %% [markdown]
# # Make one kernel fast
#
# **Question:** What does one fused loop save over NumPy, and what must not change on the way?
#
# **You will do:** take one function, the log-likelihood of binary pixels with its gradient, from a textbook formula to
# NumPy, to a compiled loop, to all cores, and to the threads of a GPU (simulated, so you need none).
#
# **You will learn:** why a compiled loop beats NumPy where NumPy is already compiled; how each version is held to the
# one before; and how sums are arranged so that the result does not depend on the number of threads.
#
# **You need:** tutorial 07 (the Bernoulli decoder). This is a how-to: it stands beside the course, and needs `numba`,
# which comes with npvae.

# %%
import importlib.util
import math
import os
import time

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # before Numba is imported: CUDA kernels run in its simulator

import matplotlib.pyplot as plt
import numba
import numpy as np
from scipy.special import expit, log_expit

from npvae import backends
from npvae.exercises import Exercise

# %% [markdown]
# ## First make it right
#
# A picture has $D$ pixels $x_d$ in $[0, 1]$. The decoder gives a number $a_d$ (a logit) for each, and the pixel is 1
# with probability $y_d = \sigma(a_d) = 1 / (1 + e^{-a_d})$:
#
# $$\log p(x|z) = \sum_{d=1}^D x_d \log y_d + (1 - x_d) \log (1 - y_d),
# \qquad \frac{\partial \log p(x|z)}{\partial a_d} = x_d - y_d$$
#
# Written down as it stands, the formula takes the logarithm of a number that may round to zero.
#
# **Before you run it:** at which logit does $\log(1 - y)$ break in float64?


# %%
def textbook(x, logits):
    """log p of each pixel as the formula stands."""
    y = 1 / (1 + np.exp(-logits))
    with np.errstate(divide="ignore"):
        return x * np.log(y) + (1 - x) * np.log(1 - y)


def stable(x, logits):
    """The same as x a - log(1 + e^a), with log(1 + e^a) = max(a, 0) + log(1 + e^-|a|), where nothing can overflow."""
    return x * logits - (np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))))


axis = np.linspace(0, 60, 601)
wrong = np.abs(textbook(0.0, axis) - log_expit(-axis)) / np.abs(log_expit(-axis))  # SciPy's log sigmoid: the oracle
right = np.abs(stable(0.0, axis) - log_expit(-axis)) / np.abs(log_expit(-axis))
breaks = axis[np.isinf(wrong)][0]

fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.semilogy(axis, np.maximum(wrong, 1e-17), "tab:orange", label="textbook formula")
ax.semilogy(axis, np.maximum(right, 1e-17), "tab:blue", label="stable form")
ax.axvline(breaks, color="k", ls=":", label="from here on the textbook formula is infinite")
ax.set(xlabel="logit a of a pixel that is 0", ylabel="relative error of log p", title="Wrong long before it breaks")
ax.legend(fontsize=8)
print(f"the textbook formula is infinite from a logit of {breaks:.0f} on")
assert right.max() < 1e-15 and 36 < breaks < 38

# %% [markdown]
# *See:* the textbook formula loses digits steadily to the right, and near 37 it has none left. The stable form has all
# of them everywhere. (An error of zero is drawn at $10^{-17}$.) A fast version of the textbook formula would be fast
# and wrong.
#
# ### Exercise: a stable sigmoid
#
# The gradient needs $y = 1 / (1 + e^{-a})$. From $a = -710$ down, $e^{-a}$ overflows, and the result is exactly zero,
# which it should not be yet. Write it with the $e^{-|a|}$ that we have already, which cannot overflow.
#
# <details><summary>Hint</summary>
#
# For $a \ge 0$, $y = 1 / (1 + e^{-a})$. For $a < 0$, multiply above and below by $e^{a}$.
#
# </details>


# %%
def sigmoid_of(logits):
    """1 / (1 + exp(-a)) for any logits (n,), through e = exp(-|a|): an array (n,)."""
    ...  # your code, about two lines


# %% tags=["hide-cell"]
def sigmoid_of_solution(logits):
    e = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, e) / (1 + e)


_logits = [np.array([-80.0, -2.5, 0.0, 1.5, 80.0]), np.array([-700.0, -40.0]), np.array([-710.0, -715.0])]
check_sigmoid_of = Exercise(
    solution=sigmoid_of_solution,
    mistakes={
        "it is right for positive logits only: for negative ones, e belongs above the line": (
            lambda logits: 1 / (1 + np.exp(-np.abs(logits)))
        ),
        "it is the sigmoid of -a": lambda logits: expit(-logits),
        "it overflows: exp(710) is infinite, and 1 / infinity is zero": lambda logits: 1 / (1 + np.exp(-logits)),
        "it is clipped: the gradient of a far logit is small, but not zero": (
            lambda logits: expit(np.clip(logits, -30, 30))
        ),
    },
    inputs=[(logits,) for logits in _logits],
    expected=[np.exp(log_expit(logits)) for logits in _logits],  # `expit` itself is zero at -710
)

# %%
print(check_sigmoid_of(sigmoid_of))

# %% [markdown]
# ## The reference
#
# One function gives both results, because the backward pass needs what the forward pass computed. The arguments are
# those of npvae's backends: $x$ has $M$ rows, the logits $L \cdot M$ rows (row $l M + i$ belongs to datapoint $i$),
# and each row has a weight, so that the gradient is that of $\sum_r w_r \log p_r$.


# %%
def with_numpy(x, logits, weights):
    """log p(x|z) of each row, (L * M,), in nats, and the gradient of sum(weights * log p), (L * M, D)."""
    pixels = np.tile(x, (len(logits) // len(x), 1))
    e = np.exp(-np.abs(logits))
    log_prob = pixels * logits - (np.maximum(logits, 0) + np.log1p(e))
    y = np.where(logits >= 0, 1.0, e) / (1 + e)
    return log_prob.sum(axis=1), weights[:, None] * (pixels - y)


def same(found, right):
    """Assert that log-densities and gradients are equal up to rounding: sums of D terms, so within D units of 2e-16."""
    for a, b in zip(found, right):
        assert np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-12, atol=1e-12)


rng, M, L, D = np.random.default_rng(1), 100, 2, 784
x = rng.random((M, D))
logits = rng.normal(0, 3, (L * M, D))
logits[0, :4] = -800, -40, 40, 800  # where the textbook formula breaks
weights = rng.uniform(0.5, 2, L * M)
right = with_numpy(x, logits, weights)
each = np.tile(x, (L, 1)) * log_expit(logits) + (1 - np.tile(x, (L, 1))) * log_expit(-logits)
same(right, (each.sum(axis=1), weights[:, None] * (np.tile(x, (L, 1)) - expit(logits))))
same(right, backends.get("reference").bernoulli_log_prob(x, logits, weights))
ones_and_zeros = np.array([[1.0], [0.0]])
masses = np.exp(with_numpy(ones_and_zeros, np.full((2, 1), 1.7), np.ones(2))[0])
assert abs(masses.sum() - 1) < 1e-12  # the probabilities of 1 and of 0

# %% [markdown]
# This is the pattern of all that follows: each new version is compared with the one before it, and the first one with
# SciPy, on inputs that include the hard cases.
#
# ## Why NumPy is not the end
#
# Each operation of NumPy is compiled and fast. But each goes through whole arrays: it reads them from memory and
# writes a new array, which the next operation reads again.
#
# **Before you run it:** how many times does `with_numpy` go through an array of the size of the logits?


# %%
class Counted(np.ndarray):
    """An array that counts NumPy's operations on it, and on what comes of it."""

    passes = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """Do as NumPy does, and count."""
        plain = [np.asarray(i) if isinstance(i, Counted) else i for i in inputs]
        Counted.passes += 1
        result = getattr(ufunc, method)(*plain, **kwargs)
        return result.view(Counted) if isinstance(result, np.ndarray) else result


with_numpy(x.view(Counted), logits.view(Counted), weights.view(Counted))
passes = Counted.passes
print(f"with_numpy goes through the arrays {passes} times")
assert passes > 5

# %% [markdown]
# (`np.where` and `np.tile` are not counted, and come on top.) It would be better to do all operations on a pixel while
# it is in a register, the processor's own small memory. This is called *fusing* the operations.
#
# ## A loop, compiled
#
# The plainest program: for every row, for every pixel. In Python it is very slow. With `numba.njit`, the same lines
# become machine code.


# %%
def loop(x, logits, weights):
    """The mathematics pixel by pixel: first the log-likelihood, then the gradient."""
    R, D = logits.shape
    log_prob, dlogits = np.zeros(R), np.empty((R, D))
    for r in range(R):
        for d in range(D):
            a = logits[r, d]
            log_prob[r] += x[r % len(x), d] * a - (max(a, 0.0) + math.log1p(math.exp(-abs(a))))
    for r in range(R):
        for d in range(D):
            a = logits[r, d]
            e = math.exp(-abs(a))
            dlogits[r, d] = weights[r] * (x[r % len(x), d] - (1.0 if a >= 0 else e) / (1 + e))
    return log_prob, dlogits


compiled = numba.njit(loop)
few = x[:2], logits[:4], weights[:4]  # two datapoints, two samples each, for the slow ones
same(loop(*few), with_numpy(*few))
same(compiled(x, logits, weights), right)

# %% [markdown]
# ## Fuse
#
# The two loops compute the same exponential, and read the same pixels twice. One loop makes both results of a pixel.
# We give the sum of a row a variable of its own: a number in a register, not a place in memory.


# %%
@numba.njit
def fused_row(x, logits, weight, dlogits):
    """One row: fill its gradient, return its log-likelihood."""
    total = 0.0
    for d in range(len(x)):
        a = logits[d]
        e = math.exp(-abs(a))
        total += x[d] * a - (max(a, 0.0) + math.log1p(e))
        dlogits[d] = weight * (x[d] - (1.0 if a >= 0 else e) / (1 + e))
    return total


@numba.njit
def fused(x, logits, weights):
    """All rows, one after the other."""
    log_prob, dlogits = np.empty(len(logits)), np.empty_like(logits)
    for r in range(len(logits)):
        log_prob[r] = fused_row(x[r % len(x)], logits[r], weights[r], dlogits[r])
    return log_prob, dlogits


same(fused(x, logits, weights), right)

# %% [markdown]
# ## All cores
#
# Rows do not need each other, so they may be done in any order, by any core: `prange` instead of `range`. Each row is
# still summed by one thread, from left to right. So the *bits* of the result are those of `fused`, whatever the number
# of threads. (Had we split the sum of a row among threads, each number of threads would round differently.)


# %%
@numba.njit(parallel=True)
def parallel(x, logits, weights):
    """All rows, on all cores."""
    log_prob, dlogits = np.empty(len(logits)), np.empty_like(logits)
    for r in numba.prange(len(logits)):
        log_prob[r] = fused_row(x[r % len(x)], logits[r], weights[r], dlogits[r])
    return log_prob, dlogits


same(parallel(x, logits, weights), right)
for threads in (1, numba.config.NUMBA_NUM_THREADS):
    numba.set_num_threads(threads)
    for a, b in zip(parallel(x, logits, weights), fused(x, logits, weights)):
        assert np.array_equal(a, b)  # bit for bit

# %% [markdown]
# ## How long do they take?
#
# Times depend on the machine, on what else it does, and on how many cores it has. So we assert only one coarse claim,
# and the times have no error bars: each is the best of ten runs.
#
# **Before you run it:** guess the factor between Python and its compiled form, and between NumPy and the fused loop.


# %%
def nanoseconds(function, *arguments):
    """The best of ten runs, per pixel."""
    function(*arguments)  # compiles, and warms the caches
    times = []
    for _ in range(10):
        started = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - started)
    return min(times) / arguments[1].size * 1e9


data = x, logits, weights
npvae_cpu = backends.get("cpu").bernoulli_log_prob
same(npvae_cpu(*data), right)
single = tuple(array.astype(np.float32) for array in data)
for a, b in zip(npvae_cpu(*single), right):
    assert np.allclose(a, b, rtol=D * 2.0**-24, atol=1e-6)  # float32 rounds by 2^-24, and D terms are added
taken = {
    "Python loop": nanoseconds(loop, *few),
    "NumPy": nanoseconds(with_numpy, *data),
    "compiled loop": nanoseconds(compiled, *data),
    "fused loop": nanoseconds(fused, *data),
    f"all cores ({numba.get_num_threads()})": nanoseconds(parallel, *data),
    "npvae, float64": nanoseconds(npvae_cpu, *data),
    "npvae, float32": nanoseconds(npvae_cpu, *single),
}
for name, each in taken.items():
    print(f"{name:16} {each:8.1f} ns a pixel")
assert taken["Python loop"] > 5 * taken["compiled loop"]

fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
fig.set_label("thumbnail")
colours = ["0.5", "tab:orange", *["tab:blue"] * 3, *["tab:green"] * 2]
for (name, each), colour in zip(taken.items(), colours):
    ax.plot(each, name, "o", color=colour)
    ax.annotate(f"{each:.1f}", (each, name), xytext=(8, -4), textcoords="offset points")
ax.set(xscale="log", xlabel="nanoseconds a pixel (this machine, now)", title="The same two results")
ax.set_xlim(right=3 * max(taken.values()))
ax.grid(axis="y", alpha=0.4)
ax.invert_yaxis()

# %% [markdown]
# *See:* the largest steps are the first, out of Python's loop, and the last, from float64 to npvae's float32. How far
# the compiled loops lie below NumPy depends on the machine; with a single core, "all cores" gains nothing.
#
# Why is one pass not as many times faster as it saves passes? Because a pass is cheap next to `exp` and `log1p`, which
# take most of the time in each version. Fusing saves the second exponential too, but one exponential and one logarithm
# for each pixel remain. In float64 each of them is a call of a function for one number. In float32, npvae replaces
# them by polynomials, which need fewer terms there, and which the compiler turns into instructions for several numbers
# at once. No order of the loops would gain that.
#
# ## A thousand threads
#
# A GPU runs the same function in very many threads. Each thread asks for its number, and takes its part. One *block*
# of threads takes a row; thread $t$ of $T$ takes the pixels $t, t + T, t + 2T, \dots$ Neighbouring threads then read
# neighbouring numbers, which the memory of a GPU delivers together.
#
# ### Exercise: who adds what
#
# Given the terms of a row, return the sum that each thread makes.
#
# <details><summary>Hint</summary>
#
# A slice with a step: `terms[t::n_threads]`. The number of terms need not be a multiple of the number of threads.
#
# </details>


# %%
def parts_of_threads(terms, n_threads):
    """The sum of the terms (D,) that each thread takes: an array (n_threads,)."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def parts_of_threads_solution(terms, n_threads):
    return np.array([terms[t::n_threads].sum() for t in range(n_threads)])


_calls = [(np.array([1.0, 2.5, -1.0, 4.0, 0.5, 7.0, -2.0]), 3), (np.array([3.0, 1.0, 4.0, 1.5, 9.0]), 4)]
check_parts_of_threads = Exercise(
    solution=parts_of_threads_solution,
    mistakes={
        "each thread takes a stretch: neighbouring threads then read addresses that lie far apart": (
            lambda terms, n: np.array([part.sum() for part in np.array_split(terms, n)])
        ),
        "the last terms are left out where their number is not a multiple of the threads": (
            lambda terms, n: terms[: len(terms) // n * n].reshape(-1, n).sum(axis=0)
        ),
    },
    inputs=_calls,
    expected=[np.bincount(np.arange(len(terms)) % n, terms, minlength=n) for terms, n in _calls],
)

# %%
print(check_parts_of_threads(parts_of_threads))

# %% [markdown]
# ## The kernel
#
# The parts of a row go to memory that the block shares. Then half of the threads add the other half's parts to their
# own, then a quarter of them, and so on. All must wait for each other between the steps (`syncthreads`). The order of
# the additions is fixed, so two equal runs give equal bits. With four threads and their parts $p_0 \dots p_3$ it is
# $(p_0 + p_2) + (p_1 + p_3)$.

# %%
THREADS = 4  # a power of two; 256 on a GPU, but the simulator runs each thread as a thread of Python

if importlib.util.find_spec("numba_cuda") is None:
    print("the kernel for the GPU is left out: it needs `pip install numba-cuda`")
else:
    from numba import cuda, float64

    @cuda.jit
    def kernel(x, logits, weights, log_prob, dlogits):
        """What one thread does; the block of row r has the number r."""
        parts = cuda.shared.array(THREADS, float64)
        t, r, total = cuda.threadIdx.x, cuda.blockIdx.x, 0.0
        for d in range(t, logits.shape[1], THREADS):
            a, pixel = logits[r, d], x[r % x.shape[0], d]
            e = math.exp(-abs(a))
            total += pixel * a - (max(a, 0.0) + math.log1p(e))
            dlogits[r, d] = weights[r] * (pixel - (1.0 if a >= 0 else e) / (1 + e))
        parts[t] = total
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if t < half:
                parts[t] += parts[t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            log_prob[r] = parts[0]

    def with_cuda(x, logits, weights):
        """Launch a block of threads for each row."""
        log_prob, dlogits = (cuda.to_device(np.zeros(shape)) for shape in (len(logits), logits.shape))
        arrays = (cuda.to_device(np.ascontiguousarray(array)) for array in (x, logits, weights))
        kernel[len(logits), THREADS](*arrays, log_prob, dlogits)
        return log_prob.copy_to_host(), dlogits.copy_to_host()

    small = x[:3, :11], logits[:6, :11], weights[:6]  # eleven pixels: no multiple of the threads
    same(with_cuda(*small), with_numpy(*small))
    print(f"the CUDA kernel, {THREADS} threads a row in the simulator: equal to NumPy")

# %% [markdown]
# The mathematics of `kernel` is that of `fused_row`, word for word. In npvae it stands in one place,
# `npvae.backends.formulas`, and is compiled for both.

# %%
print(f"Answer: one pass over memory in place of {passes} or more; in each version the numbers of NumPy, to 12 digits")

# %% [markdown]
# ## What to take with you
#
# Write the plain version first, in a form that cannot overflow, and compare every faster one with it on inputs that
# include the hard cases. A fused loop wins because a number is read once, and everything about it is computed while it
# is in a register. Give each sum to one thread, or a fixed order, and the result does not depend on how many threads
# there are.
#
# `npvae.backends.reference`, `cpu` and `cuda` are built in this way; `npvae.backends.interface` lists their functions,
# and the other kernels are there to be read.

# %%
plt.show()
