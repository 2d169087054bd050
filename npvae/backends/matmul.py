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

Packing hides behind the arithmetic: the first tile of a panel packs it on the way, unless it must be transposed, and
while the first block is multiplied by one panel, the numbers of the next are fetched from memory.

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
    add_tile,
    borrow,
    packing,
    transpose_square,
    vector_length,
)

#: Depth of a slice: a panel of it takes 24 KB of the first-level cache, which has 32 KB or more.
SLICE = 3 * 2**13 // (TILE.vectors * TILE.bytes)

#: Panels of a strip: packed, a slice of one takes 312 KB of the second-level cache, which has 512 KB or more.
STRIP = 13

#: Rows of a block: a slice of it takes up to 100 KB of that cache.
BLOCK = 96 // TILE_ROWS * TILE_ROWS

#: Rows of right that are fetched ahead where no tile packs them.
FEW = 16

#: Packing a vector of columns takes as long as so many tiles of it, at most.
PACKING = 1

PLAIN, LEFT_TRANSPOSED, RIGHT_TRANSPOSED = range(3)


@njit(**OPTIONS)
def _width(array):
    """Return the number of columns in a panel."""
    return VECTORS * vector_length(array)


# Packing: a panel has ``1 + inner`` rows. The first row is what the sums begin with. Whole vectors are copied wherever
# they lie inside right, so columns beyond the last may hold any numbers; they are not used. A *part* of right is given
# as (number of the first element, elements from row to row, rows, elements of a row).


@njit(**OPTIONS)
def _part(form, shape, first, depth, column, count):
    """Return the part of right from which a panel is packed: depth rows of the right factor, count columns."""
    if form == RIGHT_TRANSPOSED:
        return column * shape[1] + first, shape[1], count, depth
    return first * shape[2] + column, shape[2], depth, count


#: Packs a part of right, where it is not transposed.
_pack = packing(VECTORS, FEW)


@njit(**OPTIONS)
def _pack_transposed(right, part, packed, start):
    """Pack the transpose of a part of right."""
    source, stride, count, inner = part
    width, lanes = _width(packed), vector_length(packed)
    for j in range(0, count, lanes):
        row, to = source + j * stride, start + width + j
        squares = inner if inner >= lanes and row + (lanes - 1) * stride + inner <= len(right) else 0
        for n in range(0, squares, lanes):
            k = min(n, inner - lanes)  # the last square overlaps the one before it: none reads beyond right
            transpose_square(right, row + k, stride, packed, to + k * width, width)
        for k in range(squares, inner):
            for n in range(min(lanes, count - j)):
                packed[to + k * width + n] = right[row + n * stride + k]


@njit(**OPTIONS)
def _pack_begin(bias, column, count, packed, start):
    """Set the first row of a panel, with which the sums begin: the bias of each column, or zero if bias is empty."""
    for j in range(_width(packed)):
        packed[start + j] = bias[column + j] if bias.size and j < count else 0


# Blocks and threads -----------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _move(source, source_at, target, target_at, shape):
    """Copy a part of a matrix: ``at`` is (number of the first element, elements from row to row)."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            target[target_at[0] + i * target_at[1] + j] = source[source_at[0] + i * source_at[1] + j]


@njit(**OPTIONS)
def _multiply_panel(left, left_at, packed, start, inner, new, out, out_at, shape, edge, right, packs, source, ahead):
    """Add a slice of left times a panel to a block of out, or with ``new`` set the block to it.

    ``left_at`` is (number of the first element, elements from row to row, from column to column), ``shape`` that of the
    block. The sums are made in ``edge`` if its last vector is not full. With ``packs``, the first tile packs the panel
    from source, a part of right. Meanwhile ``ahead`` is fetched, the part for the next panel.
    """
    (rows, columns), lanes = shape, vector_length(out)
    vectors = (columns + lanes - 1) // lanes
    whole = columns == vectors * lanes
    target, at = (out, out_at) if whole else (edge, (0, _width(out)))
    if not whole and not new:
        _move(out, out_at, edge, at, shape)
    line = VECTORS_OF_LINE * lanes
    column, next_column = 0, max(1, inner // max(1, ahead[2])) * line  # a tile fetches so much of each row
    for i in range(0, rows, TILE_ROWS):
        size = min(TILE_ROWS, rows - i), vectors
        fetches = size == (TILE_ROWS, VECTORS) and column < ahead[3] + line - 1  # the rows may begin inside a line
        fetched = (ahead[0] + column, ahead[1], ahead[2] if fetches else 0)
        column += next_column
        tile_at, to = (left_at[0] + i * left_at[1], left_at[1], left_at[2]), (at[0] + i * at[1], at[1])
        add_tile(
            size, left, tile_at, packed, start, inner, new, target, to, right, packs and i == 0, source[:2], fetched
        )
    if not whole:
        _move(edge, at, out, out_at, shape)


@njit(**OPTIONS)
def _multiply_share(form, left, right, shape, begin, out, share, work):
    """Compute the part of out between the rows share[0] and share[1], and the columns share[2] and share[3]."""
    left, right, out, work = borrow(left), borrow(right), borrow(out), borrow(work)
    rows, inner, columns = shape
    bias, accumulate = borrow(begin[0]), begin[1]
    row_stride, stride = (1, rows) if form == LEFT_TRANSPOSED else (inner, 1)
    width, lanes = _width(out), vector_length(out)
    edge, packed = work[: BLOCK * width], work[BLOCK * width :]
    slices = max(1, (inner + SLICE - 1) // SLICE)
    deep = ((inner + slices - 1) // slices + lanes - 1) // lanes * lanes  # whole squares to transpose
    for strip in range(share[2], share[3], STRIP * width):
        end = min(strip + STRIP * width, share[3])
        for n in range(slices):
            first, stop = min(n * deep, inner), min((n + 1) * deep, inner)
            new, depth = n == 0 and not accumulate, stop - first
            for row in range(share[0], share[1], BLOCK):
                block = min(BLOCK, share[1] - row)
                for column in range(strip, end, width):
                    start, count = (column - strip) * (1 + depth), min(width, end - column)
                    source, ahead, packs = _part(form, shape, first, depth, column, count), (0, 0, 0, 0), False
                    if row == share[0]:
                        packs = form != RIGHT_TRANSPOSED and count == width and block >= TILE_ROWS
                        if form == RIGHT_TRANSPOSED:
                            _pack_transposed(right, source, packed, start)
                        elif not packs:
                            _pack(right, source, packed, start)
                        if new:
                            _pack_begin(bias, column, count, packed, start)
                        if column + width < end:
                            ahead = _part(form, shape, first, depth, column + width, min(width, end - column - width))
                        else:
                            ahead = _part(form, shape, stop, min(deep, inner - stop), strip, min(width, end - strip))
                    left_at, at = (
                        (row * row_stride + first * stride, row_stride, stride),
                        (row * columns + column, columns),
                    )
                    part = block, count
                    _multiply_panel(
                        left, left_at, packed, start, depth, new, out, at, part, edge, right, packs, source, ahead
                    )


@njit(**OPTIONS)
def grid(rows, panels, threads, packing):
    """Return into how many parts to cut the rows and the columns of out, one part for each thread.

    The longest part counts. Rows are those of tiles; packing a panel, which every part does for itself, takes as long
    as so many of them. Panels may be single vectors, where a narrow tile takes less time than a wide one.
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
    lanes = vector_length(bias)
    tiles, vectors = (rows + TILE_ROWS - 1) // TILE_ROWS, (columns + lanes - 1) // lanes
    m, n = grid(tiles, vectors, threads, PACKING)
    if thread < m * n:
        i, j = thread // n, thread % n
        top, bottom = tiles * i // m * TILE_ROWS, min(tiles * (i + 1) // m * TILE_ROWS, rows)
        west, east = vectors * j // n * lanes, min(vectors * (j + 1) // n * lanes, columns)
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
