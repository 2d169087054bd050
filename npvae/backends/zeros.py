"""Matrix products for the CPU that skip the zeros of their left factor: those of a dense layer with its input x.

Both products of a layer with x, ``f(x W + b)`` and ``x^T dy``, are sums over k of ``left[i, k] * right[k]``, rows of
right. Where left[i, k] is zero, the term is left out: `list_rows` lists the others of each row of x, and `list_columns`
those of each row of x^T, from the lists of x. One product serves both, `multiply_share`. It differs from that of
`matmul` in its tile: a single row of sums, since another row has its zeros elsewhere. Each number of right that is
loaded serves one sum only, so the part of right that is in use must stay near the processor. The loops are, outermost
first:

1. over *panels* of columns of out, as wide as the row of sums, so many vector registers;
2. over *slices* of the inner dimension. That part of right is packed, into a block that the caches keep;
3. over rows of out. Their sums are loaded, the listed terms of the slice are added, and they are stored.

**The bits are those of the dense product.** Every element is summed in the order of k by the same operations. A term
that is left out is ``0 * w``, which is plus or minus zero for a finite w, and adding that changes no sum. Only the sign
of a sum that is zero itself may differ: minus zero stays, where adding plus zero makes it plus zero. Such a sum begins
with a bias of minus zero, or with products too small for the dtype. If w is infinite or NaN, ``0 * w`` is NaN and must
not be left out: each slice is examined while it is packed, and where a number is not finite, no term of it is.

Lists of a matrix (rows, inner) are three flat arrays, for which `empty_lists` makes room:

index (rows, inner) int32
    Where the numbers other than zero are, counted from the beginning of their slice. NaN is not zero.
values (rows, inner)
    These numbers.
starts (rows, slices + 1) int32
    Where each slice begins in the row's lists, and where the last one ends.

All other arrays are flat, C-contiguous and of one dtype, float32 or float64. Shapes are not checked.
"""

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from .jobs import kernel, read, scratch, share
from .matmul import grid
from .scalar import OPTIONS, squared_norm
from .vectors import (
    ROW_VECTORS,
    TILE,
    add_listed,
    borrow,
    packing,
    vector_length,
)

#: Depth of the deepest slice: packed, it takes 64 KB. That is more than the first-level cache has, but where most
#: numbers are zero, few rows of it are in use at a time, and the sums are loaded and stored less often.
DEPTH = 2**16 // (ROW_VECTORS * TILE.bytes)

#: The share of numbers other than zero up to which lists are worth it. Lists and products take 0.4 of the time of the
#: dense products at a share of 0.19 (MNIST), 0.75 at 0.4, as long at 0.55, and twice as long without any zeros.
WORTH = 0.4

#: Packing a panel, which every part of out does for itself, takes as long as the sums of so many rows of MNIST.
PACKING = 6

#: Rows of right that are fetched ahead of the packing.
FEW = 8

#: Rows of out that are fetched ahead of their sums.
AHEAD = 2

#: Scratch for `multiply_share`, in bytes: a packed slice with the row that the sums begin with, and a row of a slice.
WORK = (1 + DEPTH) * ROW_VECTORS * TILE.bytes + DEPTH * 8

#: The list of all numbers of a slice.
_ALL = np.arange(DEPTH, dtype=np.int32)


@njit(**OPTIONS)
def width_of(array):
    """Return the number of columns in a panel."""
    return ROW_VECTORS * vector_length(array)


@njit(**OPTIONS)
def slices_of(inner):
    """Return into how many slices the inner dimension is cut, and their depth, which the last one may not have."""
    slices = max(1, (inner + DEPTH - 1) // DEPTH)
    return slices, max(1, (inner + slices - 1) // slices)


# Lists ------------------------------------------------------------------------------------------------------
#
# Numba checks every index that is signed for being negative, which takes longer than the rest of these loops.


def empty_lists(rows: int, inner: int, dtype: DTypeLike) -> tuple[NDArray, NDArray, NDArray]:
    """Return room for the lists of a matrix (rows, inner): index, values and starts."""
    slices, _ = slices_of(inner)
    return np.zeros(rows * inner, np.int32), np.zeros(rows * inner, dtype), np.zeros(rows * (slices + 1), np.int32)


@njit(**OPTIONS)
def list_rows(x, shape, lists, first, stop):
    """List the numbers other than zero in the rows ``first`` to ``stop`` of x (rows, inner)."""
    inner, x = shape[1], borrow(x)
    index, values, starts = borrow(lists[0]), borrow(lists[1]), borrow(lists[2])
    slices, depth = slices_of(inner)
    for i in range(first, stop):
        n = np.uint64(i * inner)
        for s in range(slices):
            starts[i * (slices + 1) + s] = n - np.uint64(i * inner)
            source = np.uint64(i * inner + s * depth)
            for k in range(min(depth, inner - s * depth)):  # without a branch: what is zero is written over
                value = x[source + np.uint64(k)]
                index[n] = k
                values[n] = value
                n += np.uint64(value != 0)
        starts[i * (slices + 1) + slices] = n - np.uint64(i * inner)


@njit(**OPTIONS)
def list_columns(lists, shape, columns_lists, first, stop):
    """List the columns of x (rows, inner) in the slices ``first`` to ``stop`` of its inner dimension.

    They are the rows of x^T (inner, rows). ``lists`` are those of x; all of its rows must be listed before.
    """
    rows, inner = shape
    index, values, starts = borrow(lists[0]), borrow(lists[1]), borrow(lists[2])
    to_index, to_values, ends = borrow(columns_lists[0]), borrow(columns_lists[1]), borrow(columns_lists[2])
    (slices, depth), (to_slices, to_depth) = slices_of(inner), slices_of(rows)
    columns = range(first * depth, min(stop * depth, inner))
    for k in columns:
        ends[k * (to_slices + 1)] = 0
    for t in range(to_slices):
        for k in columns:  # a slice begins, and so far ends, where the one before it ends
            ends[k * (to_slices + 1) + t + 1] = ends[k * (to_slices + 1) + t]
        for i in range(t * to_depth, min((t + 1) * to_depth, rows)):
            for s in range(first, stop):
                here, slice_ends = i * inner, i * (slices + 1) + s
                for n in range(here + starts[slice_ends], here + starts[slice_ends + 1]):
                    k = s * depth + index[np.uint64(n)]
                    end = np.uint64(k * (to_slices + 1) + t + 1)
                    to = np.uint64(k * rows + ends[end])
                    to_index[to] = i - t * to_depth
                    to_values[to] = values[np.uint64(n)]
                    ends[end] += 1


# Product ----------------------------------------------------------------------------------------------------


#: Packs a part of right.
_pack = packing(ROW_VECTORS, FEW)


@njit(**OPTIONS)
def _add_all(values, index, span, row, packed, new, out, at):
    """Do as `add_listed`, but with the zeros: scatter the listed values into a row, and take all of it."""
    row[:] = 0
    for n in range(span[0], span[1]):
        row[index[n]] = values[n]
    add_listed(row, _ALL, (0, len(row)), packed, new, out, at)


@njit(**OPTIONS)
def multiply_share(lists, right, shape, bias, out, share, work):
    """Compute a part of ``out = left right + b``: rows share[0] to share[1], columns share[2] to share[3].

    left (rows, inner) is given by its lists. Shares of one out begin at any row, and at a multiple of `width_of`
    columns, so that they have panels in common with no other.

    Parameters
    ----------
    lists : tuple of arrays, of `list_rows` or `list_columns`
    right (inner, columns)
    shape : tuple (rows, inner, columns)
    bias (columns,) or empty
    out (rows, columns) : overwritten
    share : tuple of four int
    work : scratch, of `WORK` bytes or more
    """
    _, inner, columns = shape
    index, values, starts = borrow(lists[0]), borrow(lists[1]), borrow(lists[2])
    right, out, work, bias = borrow(right), borrow(out), borrow(work), borrow(bias)
    width, (slices, depth) = width_of(out), slices_of(inner)
    packed, row = work[: (1 + depth) * width], work[(1 + depth) * width :]
    for column in range(share[2], share[3], width):
        count = min(width, share[3] - column)
        for j in range(width):
            packed[j] = bias[column + j] if bias.size and j < count else 0
        for s in range(slices):
            new, deep = s == 0, min(depth, inner - s * depth)
            _pack(right, (s * depth * columns + column, columns, deep, count), packed, 0)
            # The squares of finite numbers may overflow too: that costs time only.
            finite = np.isfinite(squared_norm(packed[width : (1 + deep) * width]))
            for i in range(share[0], share[1]):
                begin = i * (slices + 1) + s
                span = i * inner + starts[begin], i * inner + starts[begin + 1]
                at = i * columns + column, count, AHEAD * columns
                if not finite:
                    _add_all(values, index, span, row[:deep], packed, new, out, at)
                elif new or span[0] < span[1]:
                    add_listed(values, index, span, packed, new, out, at)


# The kernels ------------------------------------------------------------------------------------------------


@kernel("f2 j1 f1 j1")
def row_lists(job, step, work, thread, threads):
    """List the rows of x. The threads share the rows."""
    x, index, values, starts = read(job)
    list_rows(x.reshape(x.size), x.shape, (index, values, starts), *share(len(x), thread, threads))


@kernel("n n j1 f1 j1 j1 f1 j1")
def column_lists(job, step, work, thread, threads):
    """List the columns of x (rows, inner), given the lists of its rows. The threads share the slices."""
    rows, inner, index, values, starts, to_index, to_values, ends = read(job)
    slices, _ = slices_of(inner)
    part = share(slices, thread, threads)
    list_columns((index, values, starts), (rows, inner), (to_index, to_values, ends), *part)


@kernel("n j1 f1 j1 f2 f1 f2")
def listed_product(job, step, work, thread, threads):
    """Multiply a matrix (rows, inner) that is given by its lists: inner, lists, right, bias or empty, out."""
    inner, index, values, starts, right, bias, out = read(job)
    (rows, columns), width = out.shape, width_of(bias)
    panels = (columns + width - 1) // width
    m, n = grid(rows, panels, threads, PACKING)
    if thread < m * n:
        i, j = thread // n, thread % n
        part = rows * i // m, rows * (i + 1) // m, panels * j // n * width, min(panels * (j + 1) // n * width, columns)
        arguments = right.reshape(right.size), (rows, inner, columns), bias, out.reshape(out.size)
        multiply_share((index, values, starts), *arguments, part, scratch(job, work))
