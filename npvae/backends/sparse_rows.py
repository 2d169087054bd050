"""The minibatch of a sparse table, compiled for the backend "cpu": written once, without dense rows on the way."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..sparse import SparseRows
from .runtime import CACHE

#: Exact: the bits are those of `reference.gather`.
OPTIONS = {"cache": CACHE, "error_model": "numpy"}


def is_readable(X: SparseRows) -> bool:
    """Return whether compiled code can read the arrays of a table: they have types of the processor."""
    known = X.dtype.kind in "biu" or X.dtype in (np.float32, np.float64)
    return known and all(array.dtype.isnative for array in (X.data, X.indices, X.indptr))


def gather(X: SparseRows, rows: NDArray, scaling, out: NDArray) -> NDArray:
    """See `reference.gather`.

    Examples
    --------
    >>> from npvae.preprocessing import Scaling
    >>> X = SparseRows(np.array([5.0, 7.0]), np.array([1, 0]), np.array([0, 1, 2]), n_columns=2)
    >>> gather(X, np.array([1, 0]), Scaling(np.ones(2), np.full(2, 10.0)), np.empty((2, 2)))
    array([[ 60., -10.],
           [-10.,  40.]])
    """
    _gather(X.data, X.indices, X.indptr, rows, scaling.shift, scaling.scale, out)
    return out


@njit(**OPTIONS)
def _gather(data, indices, indptr, rows, shift, scale, out):
    for i in range(len(rows)):
        x = out[i]
        for d in range(len(x)):
            x[d] = (0.0 - shift[d]) * scale[d]
        for n in range(indptr[rows[i]], indptr[rows[i] + 1]):
            d = indices[n]
            x[d] = (data[n] + 0.0 - shift[d]) * scale[d]  # -0.0 becomes 0.0
