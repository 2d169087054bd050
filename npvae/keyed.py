"""Random numbers that are computed from keys: the same key gives the same numbers, whatever was drawn before.

A key is a 64-bit integer, made of a seed and what the numbers belong to: a row's content, or an epoch and the number of
a row. So they depend neither on the batching nor on the order, and a run that is resumed finds them again.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.formulas import mix


def key_of(seed: int, *numbers: Any) -> NDArray[np.uint64]:
    """Compute keys from a seed and integers.

    Parameters
    ----------
    seed : int
    *numbers : int or array of int
        Their order matters. They are broadcast.

    Returns
    -------
    array of uint64

    Examples
    --------
    >>> epoch, rows = 3, np.arange(4)
    >>> len(set(key_of(0, epoch, rows).tolist()) | set(key_of(0, epoch + 1, rows).tolist()))
    8
    """
    key = np.asarray(seed % 2**64, np.uint64)
    with np.errstate(over="ignore"):
        key = mix(key)
        for number in numbers:
            key = mix(key + np.asarray(number).astype(np.uint64))
    return key


def key_of_content(x: NDArray, seed: int) -> NDArray[np.uint64]:
    """Compute the key of each row from its content and a seed: (M,) of x (M, D) floats, hashed as float32.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    >>> first, second, third = key_of_content(x, 0)
    >>> bool(first == third), bool(first == second)
    (True, False)
    """
    bits = (x + 0.0).astype(np.float32).view(np.uint32).astype(np.uint64)  # + 0.0 turns -0.0 into 0.0
    with np.errstate(over="ignore"):
        return mix(bits @ (key_of(seed, np.arange(x.shape[1])) | np.uint64(1)))  # multilinear hashing, modulo 2^64


def keyed_uniform(x: NDArray, seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Compute numbers uniform on (0, 1) from a hash of each row's content and the seed.

    Parameters
    ----------
    x : array (M, D) of floats
        Hashed as float32.
    seed : int
    shape : (L, J)
        Samples for each row, and numbers for each sample.

    Returns
    -------
    array (L * M, J) of float64
        Row ``l * M + i`` belongs to row i of x.

    Examples
    --------
    A row's numbers do not depend on the other rows:

    >>> x = np.array([[0.0, 1.0], [0.0, 2.0]])
    >>> together, alone = keyed_uniform(x, 0, (1, 3)), keyed_uniform(x[1:], 0, (1, 3))
    >>> np.array_equal(together[1:], alone)
    True
    """
    L, J = shape
    with np.errstate(over="ignore"):
        counters = key_of_content(x, seed)[None, :, None] + np.arange(L * J, dtype=np.uint64).reshape(L, 1, J)
        return ((mix(counters) >> np.uint64(12)) + 0.5).reshape(-1, J) * 2.0**-52  # excludes 0 and 1
