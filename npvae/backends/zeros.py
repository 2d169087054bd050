"""Matrix products that skip zeros."""

import os
import numpy as np
from numba import njit

from .scalar import IDENTITY, OPTIONS, activate, squared_norm
from .vectors import LINE, ROW_VECTORS, TILE, VECTORS_OF_LINE, add_listed, borrow, copy_wide_row, prefetch, vector_length

DEPTH = int(os.environ.get("KD", 24 * 1024 // (ROW_VECTORS * TILE.bytes)))


@njit(**OPTIONS)
def _width(array):
    return ROW_VECTORS * vector_length(array)


@njit(**OPTIONS)
def cut(inner):
    """Return into how many slices the inner dimension is cut, and their depth; the last may be less deep."""
    slices = max(1, (inner + DEPTH - 1) // DEPTH)
    return slices, max(1, (inner + slices - 1) // slices)


@njit(**OPTIONS)
def list_rows(left, shape, lists, first, stop):
    """List rows first..stop of left (rows, inner)."""
    inner = shape[1]
    index, values, starts = lists
    slices, depth = cut(inner)
    for i in range(first, stop):
        n = np.uint64(i * inner)
        for s in range(slices):
            starts[i * (slices + 1) + s] = n
            base = np.uint64(i * inner + s * depth)
            for k in range(min(depth, inner - s * depth)):
                value = left[base + np.uint64(k)]
                index[n] = k
                values[n] = value
                n += np.uint64(value != 0)
        starts[i * (slices + 1) + slices] = n


@njit(**OPTIONS)
def list_columns(rows_lists, shape, lists, first, stop):
    """List the columns of left (rows, inner) in slices first..stop of the inner dimension, from the lists of its rows."""
    rows, inner = shape
    index, values, starts = rows_lists
    index_t, values_t, starts_t = lists
    slices, depth = cut(inner)
    slices_t, depth_t = cut(rows)
    west, east = first * depth, min(stop * depth, inner)
    for k in range(west, east):
        starts_t[k * (slices_t + 1)] = k * rows
    for t in range(slices_t):
        for k in range(west, east):
            starts_t[k * (slices_t + 1) + t + 1] = starts_t[k * (slices_t + 1) + t]
        for i in range(t * depth_t, min((t + 1) * depth_t, rows)):
            for s in range(first, stop):
                for n in range(starts[i * (slices + 1) + s], starts[i * (slices + 1) + s + 1]):
                    place = (s * depth + index[n]) * (slices_t + 1) + t + 1
                    to = starts_t[place]
                    index_t[to] = i - t * depth_t
                    values_t[to] = values[n]
                    starts_t[place] = to + 1


FEW = 4


@njit(**OPTIONS)
def _pack(right, columns, first, inner, packed):
    """Pack; return whether all is finite."""
    start, count, stride = columns
    width = _width(packed)
    for k in range(inner):
        source, to = (first + k) * stride + start, (1 + k) * width
        for j in range(0, width, VECTORS_OF_LINE * vector_length(right)):
            prefetch(right, source + FEW * stride + j)
        if source + width <= len(right):
            copy_wide_row(right, source, packed, to)
        else:
            for j in range(count):
                packed[to + j] = right[source + j]
    return np.isfinite(squared_norm(packed[width : (1 + inner) * width]))


@njit(**OPTIONS)
def multiply_share(lists, right, shape, epilogue, out, share, work):
    rows, inner, columns = shape
    index, values, starts = borrow(lists[0]), borrow(lists[1]), borrow(lists[2])
    right, out, work = borrow(right), borrow(out), borrow(work)
    bias, code = borrow(epilogue[0]), epilogue[1]
    width = _width(out)
    edge, packed = work[:width], work[width:]
    slices, depth = cut(inner)
    for column in range(share[2], share[3], width):
        count = min(width, share[3] - column)
        for j in range(width):
            packed[j] = bias[column + j] if bias.size and j < count else 0
        for s in range(slices):
            new, last = s == 0, s == slices - 1
            finite = _pack(right, (column, count, columns), s * depth, min(depth, inner - s * depth), packed)
            for i in range(share[0], share[1]):
                n, stop = starts[i * (slices + 1) + s], starts[i * (slices + 1) + s + 1]
                place = i * columns + column
                if n < stop or new:
                    add_listed(values, index, n, stop, packed, 0, new, out, place, count, 2 * columns)
                if last and code != IDENTITY:
                    activate(out[place : place + count], code)
