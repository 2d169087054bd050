"""Random numbers of a row of data: a function of its content and of a seed, whatever the other rows and their order.

Scores, and estimates of log p(x), are deterministic because all of their noise is made here. Training draws from a
``numpy.random.Generator``.
"""

import numpy as np
from numpy.typing import NDArray


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
        with np.errstate(over="ignore"):  # what is beyond float32 is hashed as infinite
            bits = (x + 0.0).astype(np.float32).view(np.uint32).astype(np.uint64)  # + 0.0 turns -0.0 into 0.0
        keys = _mix(np.arange(x.shape[1], dtype=np.uint64) + _mix(np.uint64(seed % 2**64))) | np.uint64(1)
        with np.errstate(over="ignore"):
            self._keys = _mix(bits @ keys)  # multilinear hashing, modulo 2^64
        self._used = 0

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
        L, J = shape
        numbers = np.arange(self._used, self._used + L * J, dtype=np.uint64).reshape(L, 1, J)
        self._used += L * J
        with np.errstate(over="ignore"):
            counters = self._keys[None, :, None] + numbers
        return ((_mix(counters) >> np.uint64(12)) + 0.5).reshape(-1, J) * 2.0**-52  # excludes 0 and 1

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


def _mix(key):
    """Scramble 64-bit integers: the finalizer of the SplitMix64 generator (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        key = key + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return key ^ (key >> np.uint64(31))
