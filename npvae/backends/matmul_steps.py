"""The way to the matrix product of `matmul`, in four steps from the plain loop, each faster than the one before.

Each step computes ``out = left right`` for left (M, K), right (K, N) and out (M, N), C-contiguous and of one dtype.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .matmul import dense_job, product
from .scalar import OPTIONS

#: Columns of a panel, and rows of a tile, of step 3. A panel of 500 rows fits into the second-level cache, a tile into
#: the first.
WIDTH, ROWS = 64, 8


@njit(**OPTIONS)
def naive(left: NDArray, right: NDArray, out: NDArray) -> None:
    """Step 1: the definition, an element at a time.

    It is slow for two reasons. The inner loop walks down a column of right, and finds each number in another line of
    the cache. And each addition waits for the one before it, since all go to one sum.
    """
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            total = left.dtype.type(0)
            for k in range(left.shape[1]):
                total += left[i, k] * right[k, j]
            out[i, j] = total


@njit(**OPTIONS)
def by_rows(left: NDArray, right: NDArray, out: NDArray) -> None:
    """Step 2: the same loops in another order, k before j.

    The inner loop now reads a row of right and adds it to a row of out, both in the order of memory. Its additions go
    to different sums, so the compiler makes a vector of them at a time. What limits it: each multiplication reads a
    number of right, and reads and writes one of out.
    """
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            out[i, j] = 0
        for k in range(left.shape[1]):
            for j in range(right.shape[1]):
                out[i, j] += left[i, k] * right[k, j]


@njit(**OPTIONS)
def packed(left: NDArray, right: NDArray, out: NDArray) -> None:
    """Step 3: panels of columns of right, copied to lie in one piece, and tiles of sums that stay in the cache.

    A panel comes from memory once and serves all rows of left. A row of it serves a whole tile, and a sum is read and
    written once for four multiplications. What limits it: the sums still go through the cache.
    """
    K = left.shape[1]
    panel, tile = np.empty((K, WIDTH), left.dtype), np.empty((ROWS, WIDTH), left.dtype)
    for column in range(0, right.shape[1], WIDTH):
        count = min(WIDTH, right.shape[1] - column)
        for k in range(K):
            for j in range(WIDTH):
                panel[k, j] = right[k, column + j] if j < count else 0
        for row in range(0, left.shape[0], ROWS):
            rows = min(ROWS, left.shape[0] - row)
            _multiply_tile(left[row : row + rows], panel, tile)
            for i in range(rows):
                for j in range(count):
                    out[row + i, column + j] = tile[i, j]


@njit(**OPTIONS)
def _multiply_tile(left, panel, tile):
    """Set the first rows of tile to ``left panel``, four terms at a time."""
    tile[:] = 0
    fours = len(panel) // 4 * 4
    for k in range(0, fours, 4):
        for i in range(left.shape[0]):
            a, b, c, d = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            for j in range(panel.shape[1]):
                tile[i, j] += a * panel[k, j] + b * panel[k + 1, j] + c * panel[k + 2, j] + d * panel[k + 3, j]
    for k in range(fours, len(panel)):
        for i in range(left.shape[0]):
            for j in range(panel.shape[1]):
                tile[i, j] += left[i, k] * panel[k, j]


def registers(left: NDArray, right: NDArray, out: NDArray) -> None:
    """Step 4: the product in use, `matmul.product`.

    The sums of a tile stay in vector registers while k runs (`vectors.add_tile`). For each k the processor reads a row
    of the panel and a number of each row of left; all else is arithmetic. Panels are cut along k too, so that they fit
    into the first-level cache whatever the size of the matrices, and threads share the work.
    """
    job = dense_job(left, right, np.empty(0, left.dtype), out)
    product(left.dtype, *job.arguments, work=job.work)


#: The steps by name, in their order.
STEPS = {"naive": naive, "by rows": by_rows, "packed": packed, "registers": registers}
