"""Sums of gradients whose bits do not depend on their order, nor on how they are shared out: compiled for the CPU.

Floating-point sums depend on their order because each addition rounds. Here no addition does (Demmel and Hida, 2004;
Rump, 2009). Each number is first rounded to a multiple of a *grid* 2^k, so coarse that any sum of n of them is a
multiple of it below 2^53 times the grid, which float64 holds exactly. A grid serves one array of parameters: it is
2^-52 of n times its largest number, so what is lost is far below the rounding error of float32.
"""

from collections.abc import Sequence

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

from .jobs import PASS, address, array_at, kernel, read, share
from .scalar import INLINE

#: Numbers of a block.
BLOCK = 2048

#: The least exponent of a grid's largest sum: below, float64 has no such grid.
LEAST = -960


def rounders(largest: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return for each array the number c such that ``(x + c) - c`` rounds a number x of it to the grid.

    It is 1.5 * 2^e, where 2^e is above n times the largest x, for n of at least 2: around c, float64 has the multiples
    of 2^(e - 52) and no other numbers. It is infinite, and so will the sum be NaN, if the largest x is infinite.

    Parameters
    ----------
    largest : array (A,), the largest magnitude in each array
    n : int, how many numbers are added

    Examples
    --------
    >>> c = rounders(np.array([1.0]), 4)
    >>> c, ((0.1 + c) - c) * 2**49  # a whole number
    (array([12.]), array([5.62949953e+13]))
    """
    with np.errstate(over="ignore"):
        mantissa, exponent = np.frexp(largest * max(n, 2))
        exponent = np.maximum(exponent, LEAST)
        return np.where(np.isfinite(mantissa), np.ldexp(1.5, exponent), np.inf)


def largest(gradients: Sequence[NDArray], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest magnitude in each array of some gradients (P,); infinite where a number is not finite.

    ``starts`` (A + 1,) says where the arrays begin, and where the last one ends.

    Examples
    --------
    >>> largest([np.array([1.0, -3.0, 2.0])], np.array([0, 2, 3]))
    array([3., 2.])
    """
    dtype, bits = gradients[0].dtype, np.zeros((config.NUMBA_NUM_THREADS, len(starts) - 1), np.int64)
    _largest(dtype, _addresses(gradients), starts, bits, work=PASS * len(gradients) * int(starts[-1]))
    found = bits.max(axis=0).astype(f"i{dtype.itemsize}").view(dtype).astype(float)
    return np.where(np.isfinite(found), found, np.inf)


def add_up(
    gradients: Sequence[NDArray],
    weights: NDArray[np.float64],
    starts: NDArray[np.int64],
    rounders: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Set ``out`` (P,) to the sum of weights times gradients (P,), each product rounded to the grid of its array.

    Examples
    --------
    >>> out, starts = np.empty(2), np.array([0, 2])
    >>> add_up([np.array([1.0, 2.0]), np.array([5.0, 6.0])], np.array([0.5, 0.5]), starts, np.array([24.0]), out)
    >>> out
    array([3., 4.])
    """
    work = PASS * len(gradients) * len(out)
    _add_up(gradients[0].dtype, _addresses(gradients), weights, starts, rounders, out, work=work)


def _addresses(arrays):
    return np.array([address(array) for array in arrays], np.int64)


# The threads share every array, in blocks that stay near the processor while all gradients are read.


@kernel("i1 i1 i2")
def _largest(job, step, work, thread, threads):
    """Find the largest magnitude in a thread's share, as its bits: they have its order, and those of NaN are last."""
    addresses, starts, bits = read(job)
    for i in range(len(starts) - 1):
        first, last = share(starts[i + 1] - starts[i], thread, threads)
        for n in range(len(addresses)):
            gradient = array_at(job, addresses[n], starts[i] + last)[starts[i] + first :]
            if gradient.itemsize == 4:
                bits[thread, i] = max(bits[thread, i], _greatest(gradient.view(np.int32), np.int32(0x7FFFFFFF)))
            else:
                bits[thread, i] = max(bits[thread, i], _greatest(gradient.view(np.int64), 0x7FFFFFFFFFFFFFFF))


@njit(**INLINE)
def _greatest(bits, without_sign):
    greatest = without_sign & 0
    for i in range(len(bits)):
        greatest = max(greatest, bits[i] & without_sign)
    return greatest


@kernel("i1 d1 i1 d1 d1")
def _add_up(job, step, work, thread, threads):
    addresses, weights, starts, rounders, out = read(job)
    for i in range(len(starts) - 1):
        first, last = share(starts[i + 1] - starts[i], thread, threads)
        for start in range(starts[i] + first, starts[i] + last, BLOCK):
            part = slice(start, min(start + BLOCK, starts[i] + last))
            for n in range(len(addresses)):
                gradient = array_at(job, addresses[n], len(out))
                _add_rounded(gradient[part], weights[n], rounders[i], n > 0, out[part])


@njit(**INLINE)
def _add_rounded(gradient, weight, rounder, adds, out):
    if adds:
        for i in range(len(out)):
            out[i] += (weight * gradient[i] + rounder) - rounder
    else:
        for i in range(len(out)):
            out[i] = (weight * gradient[i] + rounder) - rounder
