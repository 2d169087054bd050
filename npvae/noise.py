"""Random numbers that are computed from keys: a key gives the same numbers, whatever was drawn before.

A key is a 64-bit integer, made of a seed and of what the numbers belong to. With the content of a row, they depend
neither on the other rows nor on their order: scores, and estimates of log p(x), are deterministic because all of their
noise is made here. With the epoch and the number of a row, a training that is resumed finds the pixels again that were
drawn of grey values; for the rest, training draws from a ``numpy.random.Generator``.
"""

import functools
import sys
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

    All NaN are the same.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    >>> first, second, third = key_of_content(x, 0)
    >>> bool(first == third), bool(first == second)
    (True, False)
    """
    content = _compiled(hashed, x)(x, _multipliers(seed, x.shape[1]))
    content[content == 0] = key_of(seed)  # that of zeros alone would be 0 for every seed
    with np.errstate(over="ignore"):
        return mix(content)


@functools.lru_cache(maxsize=4)
def _multipliers(seed: int, D: int) -> NDArray[np.uint64]:
    """Return the multiplier of each column (D,): an odd number."""
    return key_of(seed, np.arange(D)) | np.uint64(1)


def hashed(x: NDArray, multipliers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each row of x (M, D) to the sum over its columns of multiplier times bits as float32, modulo 2^64.

    This is multilinear hashing. -0.0 counts as 0.0, and all NaN as one.

    Examples
    --------
    >>> smallest = 2.0**-149  # the last bit of its float32 is 1, all others are 0
    >>> hashed(np.array([[0.0, smallest], [-0.0, 0.0]]), np.array([5, 7], np.uint64))
    array([7, 0], dtype=uint64)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 is hashed as infinite
        x = (x + 0.0).astype(np.float32, copy=False)  # + 0.0 turns -0.0 into 0.0
        x[np.isnan(x)] = np.nan  # which has many bit patterns
        return x.view(np.uint32).astype(np.uint64) @ multipliers


def uniform(keys: NDArray[np.uint64], first: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return numbers ``first`` to ``first + L J`` of the generator of each key (M,), uniform on (0, 1): (L * M, J).

    ``shape`` is (L, J). Row ``l * M + i`` belongs to key i.

    Examples
    --------
    >>> keys = key_of(0, np.arange(3))
    >>> bool(np.all(uniform(keys, 0, (2, 5))[3:] == uniform(keys, 5, (1, 5))))
    True
    """
    L, J = shape
    numbers = np.arange(first, first + L * J, dtype=np.uint64).reshape(L, 1, J)
    with np.errstate(over="ignore"):
        bits = mix(keys[None, :, None] + numbers) >> np.uint64(12)
    return (bits + 0.5).reshape(-1, J) * 2.0**-52  # excludes 0 and 1


def _compiled(function: Any, array: NDArray) -> Any:
    """Return a function of this file as `backends.hashing` has it, with the same bits, or else itself.

    A compiler is there once a backend that needs one is in use; ``import npvae`` loads none.
    """
    if "numba" not in sys.modules or not array.flags.carray or array.dtype not in (np.float32, np.float64, np.uint64):
        return function
    from .backends import hashing

    return getattr(hashing, function.__name__)


def occurrence(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count for each key (N,) how many equal ones stand before it. It tells rows from each other that are alike.

    Examples
    --------
    >>> occurrence(np.array([7, 5, 7, 7], np.uint64))
    array([0, 0, 1, 2])
    """
    order, places = np.argsort(keys, kind="stable"), np.arange(len(keys))
    is_first = np.append(True, keys[order][1:] != keys[order][:-1])
    counts = np.empty(len(keys), np.int64)
    counts[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return counts


class RowNoise:
    """A random generator for each row of data, keyed by the row's content and a seed.

    Parameters
    ----------
    x : array (M, D) of floats
        Hashed as float32.
    seed : int

    Examples
    --------
    A row's numbers do not depend on the other rows:

    >>> x = np.array([[0.0, 1.0], [0.0, 2.0]])
    >>> together, alone = RowNoise(x, seed=0), RowNoise(x[1:], seed=0)
    >>> np.array_equal(together.uniform((1, 3))[1:], alone.uniform((1, 3)))
    True
    >>> np.array_equal(together.uniform((1, 3))[1:], alone.uniform((1, 3)))  # the next ones
    True
    """

    def __init__(self, x: NDArray, seed: int) -> None:
        self._keys, self._used = key_of_content(x, seed), 0

    def uniform(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return the next numbers of each row, uniform on (0, 1).

        Parameters
        ----------
        shape : (L, J)
            Samples for each row, and numbers for each sample.

        Returns
        -------
        array (L * M, J) of float64
            Row ``l * M + i`` belongs to row i of x.
        """
        first, self._used = self._used, self._used + shape[0] * shape[1]
        return _compiled(uniform, self._keys)(self._keys, first, shape)

    def generators(self) -> list[np.random.Generator]:
        """Return a generator of NumPy for each row. It is faster than `uniform` where a row needs thousands of numbers.

        Examples
        --------
        >>> x = np.array([[0.0, 1.0], [0.0, 2.0]])
        >>> (_, second), (alone,) = RowNoise(x, seed=0).generators(), RowNoise(x[1:], seed=0).generators()
        >>> bool(second.random() == alone.random())
        True
        """
        return [np.random.default_rng(int(key)) for key in self._keys]


def keyed_uniform(x: NDArray, seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the first numbers of `RowNoise`, (L * M, J) for x (M, D) and ``shape`` (L, J).

    Examples
    --------
    >>> keyed_uniform(np.array([[0.0, 1.0]]), 0, (2, 3)).shape
    (2, 3)
    """
    return RowNoise(x, seed).uniform(shape)
