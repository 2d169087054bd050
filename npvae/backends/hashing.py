"""Random numbers of keys, compiled by Numba: the functions of `noise` of the same names, bit for bit.

A sum of integers modulo 2^64 has the same bits in any order. One pass over the data takes the place of several that
NumPy makes, over temporary arrays with 64 bits for each number.
"""

import numpy as np
from numba import njit

from .scalar import OPTIONS, mix

#: The bits of the one NaN that all of them are hashed as.
NAN = np.uint32(0x7FC00000)


@njit(**OPTIONS)
def hashed(x, multipliers):
    """See `noise.hashed`."""
    content, zero = np.zeros(len(x), np.uint64), x.dtype.type(0)
    for i in range(len(x)):
        for d in range(x.shape[1]):
            value = np.float32(x[i, d] + zero)  # turns -0.0 into 0.0
            bits = value.view(np.uint32) if value == value else NAN
            content[i] += np.uint64(bits) * multipliers[d]
    return content


@njit(**OPTIONS)
def uniform(keys, first, shape):
    """See `noise.uniform`."""
    L, J = shape
    numbers = np.empty((L * len(keys), J))
    for row in range(len(numbers)):
        key, start = keys[row % len(keys)], first + row // len(keys) * J
        for j in range(J):
            numbers[row, j] = (np.float64(mix(key + np.uint64(start + j)) >> np.uint64(12)) + 0.5) * 2.0**-52
    return numbers
