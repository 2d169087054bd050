"""Minibatches on the CPU: rows of the data as scaled floats, binarized, and without the cells that are missing."""

from itertools import product

import numpy as np
from numba import njit

from ..sparse import SparseRows
from . import reference
from .jobs import DTYPES, PASS, kernel, read, share
from .scalar import FAST, ROW, binarized


def gather(X, rows, scaling, out):
    """See `reference.gather`."""
    if gathering(X) is None:
        return reference.gather(X, rows, scaling, out)
    gather_rows(X, np.ascontiguousarray(rows, np.int64).reshape(1, -1), scaling, out)
    return out


def gather_rows(X, rows, scaling, out):
    """Do `gather` with rows (steps, M), those of each step of a training."""
    gathering(X)(out.dtype, *_arrays(X), rows, scaling.shift, scaling.scale, out, work=PASS * out.size)


def gathering(X):
    """Return the kernel that gathers rows of a table, an array or `SparseRows`, or None if there is none."""
    arrays = _arrays(X)
    is_flat = all(array.flags.c_contiguous for array in arrays)
    return _GATHER.get(tuple(array.dtype for array in arrays)) if is_flat else None


def _arrays(X):
    """Return the arrays that a table consists of."""
    return (X.data, X.indices, X.indptr) if isinstance(X, SparseRows) else (X,)


def _gather_dense(job, step, work, thread, threads):
    X, rows, shift, scale, out = read(job)
    start, stop = share(len(out), thread, threads)
    for i in range(start, stop):
        _scale(X[rows[step, i]], shift, scale, out[i])


@njit(**ROW)
def _scale(x, shift, scale, out):
    for d in range(len(x)):
        out[d] = (x[d] - shift[d]) * scale[d]


def _gather_sparse(job, step, work, thread, threads):
    """Write each row as if no value were stored, and the values over it: there are no dense rows on the way."""
    data, indices, indptr, rows, shift, scale, out = read(job)
    start, stop = share(len(out), thread, threads)
    last = stop - 1
    for d in range(out.shape[1] if start < stop else 0):
        out[last, d] = (0.0 - shift[d]) * scale[d]
    for i in range(start, stop):
        x, row = out[i], rows[step, i]
        if i < last:
            for d in range(len(x)):  # to copy takes half as long as to compute
                x[d] = out[last, d]
        for n in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            column = np.uint64(indices[n])
            x[column] = (data[n] + 0.0 - shift[column]) * scale[column]  # -0.0 becomes 0.0


#: The kernels by the types of a table's arrays; each is compiled when it is first called. The options of those of
#: sparse tables are exact: ``+ 0.0`` must not be left out.
_GATHER = {(DTYPES[x],): kernel(f"{x}2 i2 d1 d1 f2", **FAST)(_gather_dense) for x in DTYPES if x != "f"} | {
    (DTYPES[x], DTYPES[i], DTYPES[p]): kernel(f"{x}1 {i}1 {p}1 i2 d1 d1 f2")(_gather_sparse)
    for x, i, p in product(DTYPES, "ij", "ij")
    if x != "f"
}


def binarize(x, keys, out):
    """See `reference.binarize`."""
    binarize_rows(x, keys[None], out)
    return out


def binarize_rows(x, keys, out):
    """Do `binarize` with keys (steps, M), those of each step of a training."""
    _binarize(x.dtype, x, keys, out, work=PASS * out.size)


@kernel("f2 u2 f2", **FAST)
def _binarize(job, step, work, thread, threads):
    x, keys, out = read(job)
    start, stop = share(len(x), thread, threads)
    for i in range(start, stop):
        _binarize_row(x[i], keys[step, i], out[i])


@njit(**ROW)
def _binarize_row(x, key, out):
    for d in range(len(x)):
        out[d] = binarized(x[d], key, np.uint64(d))


def fill_missing(x, out):
    """See `reference.fill_missing`."""
    _fill_missing(x.dtype, x.reshape(-1), out.reshape(-1), work=PASS * x.size)
    return out


@kernel("f1 f1", **FAST)
def _fill_missing(job, step, work, thread, threads):
    x, out = read(job)
    start, stop = share(len(x), thread, threads)
    for i in range(start, stop):
        out[i] = x[i] if x[i] == x[i] else x.dtype.type(0)
