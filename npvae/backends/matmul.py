"""Matrix products for the CPU, compiled by Numba: those of a dense layer, forward and backward.

What is computed is the naive loop ::

    for i in range(rows):
        for j in range(columns):
            out[i, j] = 0
            for k in range(inner):
                out[i, j] += left[i, k] * right[k, j]

where left or right may be a matrix read transposed. It is slow, because each multiplication waits for two numbers from
memory and each addition for the one before it. `matmul_steps` goes from this loop to the product below in four steps.
The same sums are made here in five loops, each of which keeps some of the numbers near the processor, outermost first
(after Goto and van de Geijn, 2008):

1. over *strips* of columns of out, and
2. over *slices* of the inner dimension, such that what they need of ``right`` fits into the second-level cache. There
   it is packed: cut into panels as wide as a few vector registers, each of which is read from front to end;
3. over *blocks* of rows, such that what they need of ``left`` fits there too;
4. over the panels of the strip: a slice of one stays in the first-level cache while all rows of the block use it;
5. over *tiles*, a few rows of a panel: their sums stay in registers while ``k`` runs through the slice
   (`vectors.add_tile`). Each number loaded serves a whole row or column of the tile, and there are enough independent
   sums to keep the arithmetic units busy.

The sums begin as zero, as the bias, or as what out holds.
Every element is summed in the order of k by the same operations, wherever its tile lies, so its bits depend neither on
the number of threads nor on the other rows of the batch.

All arrays are flat, C-contiguous and of one dtype, float32 or float64. Shapes are not checked.
"""

import math
from typing import Any, NamedTuple

from numba import njit

from .jobs import At, kernel, read, scratch
from .scalar import OPTIONS
from .vectors import (
    TILE,
    TILE_ROWS,
    VECTORS,
    VECTORS_OF_LINE,
    add_row,
    add_tile,
    borrow,
    copy_row,
    prefetch,
    transpose_square,
    vector_length,
)

#: Depth of a slice: a panel of it takes 24 KB of the first-level cache, which has 32 KB or more.
SLICE = 3 * 2**13 // (TILE.vectors * TILE.bytes)

#: Panels of a strip: packed, a slice of one takes 288 KB of the second-level cache, which has 512 KB or more.
STRIP = 12

#: Rows of a block: a slice of it takes up to 100 KB of that cache.
BLOCK = 96 // TILE_ROWS * TILE_ROWS

#: Rows of right that are packed at a time, so that it is read and written in order at once.
FEW = 8

#: Packing a panel takes as long as so many tiles of it.
PACKING = 2

PLAIN, LEFT_TRANSPOSED, RIGHT_TRANSPOSED = range(3)


@njit(**OPTIONS)
def _width(array):
    """Return the number of columns in a panel."""
    return VECTORS * vector_length(array)


# Packing: the panels of a strip one after the other, each of ``1 + inner`` rows as wide as a panel. The first row is
# what the sums begin with. Whole vectors are copied wherever they lie inside right, so columns beyond the last may hold
# any numbers; they are not used.


@njit(**OPTIONS)
def _pack(right, columns, first, inner, packed):
    """Pack rows ``first`` to ``first + inner`` of right (n, columns[2]), columns[1] columns from columns[0] on."""
    start, count, stride = columns
    width = _width(packed)
    for some in range(0, inner, FEW):
        for column in range(0, count, width):
            for k in range(some, min(some + FEW, inner)):
                source, to = (first + k) * stride + start + column, (column // width * (inner + 1) + 1 + k) * width
                for j in range(0, width, VECTORS_OF_LINE * vector_length(right)):
                    prefetch(right, source + FEW * stride + j)
                if source + width <= len(right):
                    copy_row(right, source, packed, to)
                else:
                    for j in range(count - column):
                        packed[to + j] = right[source + j]


@njit(**OPTIONS)
def _pack_transposed(right, columns, first, inner, packed):
    """Pack right^T in the same way; its columns are rows of right, columns[2] long."""
    start, count, stride = columns
    width, lanes = _width(packed), vector_length(packed)
    for j in range(0, count, lanes):
        source = (start + j) * stride + first
        to = (j // width * (inner + 1) + 1) * width + j % width
        squares = inner // lanes * lanes if source + (lanes - 1) * stride + inner <= len(right) else 0
        for k in range(0, squares, lanes):
            if k % (VECTORS_OF_LINE * lanes) == 0:
                for n in range(lanes, 2 * lanes):
                    prefetch(right, source + n * stride + k)
            transpose_square(right, source + k, stride, packed, to + k * width, width)
        for k in range(squares, inner):
            for n in range(min(lanes, count - j)):
                packed[to + k * width + n] = right[source + n * stride + k]


@njit(**OPTIONS)
def _pack_begin(bias, start, count, inner, packed):
    """Set the first row of each panel, with which the sums begin: the bias of each column, or zero if bias is empty."""
    width = _width(packed)
    for panel in range((count + width - 1) // width):
        for j in range(width):
            column = panel * width + j
            to = panel * (inner + 1) * width + j
            packed[to] = bias[start + column] if bias.size and column < count else 0


# Blocks and threads -----------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _move(source, source_at, target, target_at, shape):
    """Copy a part of a matrix: ``at`` is (number of the first element, elements from row to row)."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            target[target_at[0] + i * target_at[1] + j] = source[source_at[0] + i * source_at[1] + j]


@njit(**OPTIONS)
def _multiply_block(left, left_at, rows, packed, inner, new, out, out_at, columns, edge):
    """Add a slice of left times the packed panels to a block of out, or with ``new`` set the block to it.

    ``left_at`` is (number of the first element, elements from row to row, from column to column). The last panel
    is summed in ``edge`` if it is wider than what is left of the columns.
    """
    width = _width(out)
    for column in range(0, columns, width):
        start = column // width * (inner + 1) * width
        whole = column + width <= columns
        here = out_at[0] + column, out_at[1]
        part = rows, min(width, columns - column)
        target, at = (out, here) if whole else (edge, (0, width))
        if not whole and not new:
            _move(out, here, edge, at, part)
        tiles = rows // TILE_ROWS * TILE_ROWS
        for i in range(0, tiles, TILE_ROWS):
            tile_at = left_at[0] + i * left_at[1], left_at[1], left_at[2]
            add_tile(left, tile_at, packed, start, inner, new, target, (at[0] + i * at[1], at[1]))
        for i in range(tiles, rows):
            tile_at = left_at[0] + i * left_at[1], left_at[1], left_at[2]
            add_row(left, tile_at, packed, start, inner, new, target, (at[0] + i * at[1], at[1]))
        if not whole:
            _move(edge, at, out, here, part)


@njit(**OPTIONS)
def _multiply_share(form, left, right, shape, begin, out, share, work):
    """Compute the part of out between the rows share[0] and share[1], and the columns share[2] and share[3]."""
    left, right, out, work = borrow(left), borrow(right), borrow(out), borrow(work)
    rows, inner, columns = shape
    bias, accumulate = borrow(begin[0]), begin[1]
    row_stride, stride = (1, rows) if form == LEFT_TRANSPOSED else (inner, 1)
    width = _width(out)
    edge, packed = work[: BLOCK * width], work[BLOCK * width :]
    slices = max(1, (inner + SLICE - 1) // SLICE)
    for column in range(share[2], share[3], STRIP * width):
        count = min(STRIP * width, share[3] - column)
        for n in range(slices):
            first, stop = inner * n // slices, inner * (n + 1) // slices
            new, depth = n == 0 and not accumulate, stop - first
            if form == RIGHT_TRANSPOSED:
                _pack_transposed(right, (column, count, inner), first, depth, packed)
            else:
                _pack(right, (column, count, columns), first, depth, packed)
            if new:
                _pack_begin(bias, column, count, depth, packed)
            for row in range(share[0], share[1], BLOCK):
                block = min(BLOCK, share[1] - row)
                left_at, at = (row * row_stride + first * stride, row_stride, stride), (row * columns + column, columns)
                _multiply_block(left, left_at, block, packed, depth, new, out, at, count, edge)


@njit(**OPTIONS)
def grid(rows, panels, threads, packing):
    """Return into how many parts to cut the rows and the columns of out, one part for each thread.

    The longest part counts. Rows are those of tiles; packing a panel, which every part does for itself, takes as long
    as so many of them.
    """
    best, parts = panels * (rows + packing), (1, 1)
    for n in range(1, threads + 1):
        m = threads // n
        cost = ((panels + n - 1) // n) * ((rows + m - 1) // m + packing)
        if cost < best:
            best, parts = cost, (m, n)
    return parts


# The kernel -------------------------------------------------------------------------------------------------


@kernel("n f2 f2 f1 n f2")
def product(job, step, work, thread, threads):
    """Multiply: the form, the factors as they stand in memory, the bias, adds or not, out."""
    form, left, right, bias, adds, out = read(job)
    rows, columns = out.shape
    inner = left.shape[0] if form == LEFT_TRANSPOSED else left.shape[1]
    tiles, panels = (rows + TILE_ROWS - 1) // TILE_ROWS, (columns + _width(bias) - 1) // _width(bias)
    m, n = grid(tiles, panels, threads, PACKING)
    if thread < m * n:
        i, j = thread // n, thread % n
        top, bottom = tiles * i // m * TILE_ROWS, min(tiles * (i + 1) // m * TILE_ROWS, rows)
        west, east = panels * j // n * _width(bias), min(panels * (j + 1) // n * _width(bias), columns)
        _multiply_share(
            form,
            left.reshape(left.size),
            right.reshape(right.size),
            (rows, inner, columns),
            (bias, adds != 0),
            out.reshape(out.size),
            (top, bottom, west, east),
            scratch(job, work),
        )


class Product(NamedTuple):
    """A product to do: the arguments of the kernel, each factor an array or `jobs.At`, and its multiplications."""

    arguments: tuple
    work: int


def dense_job(x: Any, W: Any, b: Any, out: Any) -> Product:
    """Return the job ``out = x W + b``: x (M, I), W (I, O), b (O,) or (0,), out (M, O)."""
    return Product((PLAIN, x, W, b, False, out), math.prod((*x.shape, out.shape[1])))


def weight_gradient_job(x: Any, dy: Any, dW: Any) -> Product:
    """Return the job ``dW = x^T dy``: x (M, I), dy (M, O), dW (I, O)."""
    return Product((LEFT_TRANSPOSED, x, dy, _no_bias(dy), False, dW), math.prod((*x.shape, dy.shape[1])))


def input_gradient_job(dy: Any, W: Any, adds: bool, dx: Any) -> Product:
    """Return the job ``dx = dy W^T``, or with ``adds`` add it to dx: dy (M, O), W (I, O), dx (M, I)."""
    return Product((RIGHT_TRANSPOSED, dy, W, _no_bias(dy), adds, dx), math.prod((*dx.shape, dy.shape[1])))


def _no_bias(like: Any) -> Any:
    """Return no number, where an array would stand."""
    return like._replace(shape=(0,)) if isinstance(like, At) else like.reshape(-1)[:0]
