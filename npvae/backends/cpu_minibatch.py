"""Minibatches on the CPU: rows of the data as scaled floats, binarized, and without the cells that are missing."""

import numpy as np
from numba import njit

from . import reference
from .jobs import PASS, kernel, read, share
from .scalar import FAST, ROW, binarized


def gather(X, rows, scaling, out):
    """See `reference.gather`."""
    if gathering(X) is None:
        return reference.gather(X, rows, scaling, out)
    gather_rows(X, np.ascontiguousarray(rows, np.int64).reshape(1, -1), scaling, out)
    return out


def gather_rows(X, rows, scaling, out):
    """Do `gather` with rows (steps, M), those of each step of a training."""
    gathering(X)(out.dtype, X, rows, scaling.shift, scaling.scale, out, work=PASS * out.size)


def gathering(X):
    """Return the kernel that gathers rows of these data, or None if there is none."""
    return _GATHER.get(X.dtype) if isinstance(X, np.ndarray) and X.flags.c_contiguous else None


@njit(**ROW)
def _gather_share(X, rows, shift, scale, out, part):
    for i in range(part[0], part[1]):
        _scale(X[rows[i]], shift, scale, out[i])


@njit(**ROW)
def _scale(x, shift, scale, out):
    for d in range(len(x)):
        out[d] = (x[d] - shift[d]) * scale[d]


@kernel("b2 i2 d1 d1 f2", **FAST)
def _gather_uint8(job, step, work, thread, threads):
    X, rows, shift, scale, out = read(job)
    _gather_share(X, rows[step], shift, scale, out, share(len(out), thread, threads))


@kernel("s2 i2 d1 d1 f2", **FAST)
def _gather_float32(job, step, work, thread, threads):
    X, rows, shift, scale, out = read(job)
    _gather_share(X, rows[step], shift, scale, out, share(len(out), thread, threads))


@kernel("d2 i2 d1 d1 f2", **FAST)
def _gather_float64(job, step, work, thread, threads):
    X, rows, shift, scale, out = read(job)
    _gather_share(X, rows[step], shift, scale, out, share(len(out), thread, threads))


_GATHER = {np.dtype("u1"): _gather_uint8, np.dtype("f4"): _gather_float32, np.dtype("f8"): _gather_float64}


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
