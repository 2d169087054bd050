"""Matrix products for the CPU, compiled by Numba: those of a dense layer, forward and backward.

What is computed is the naive loop ::

    for i in range(rows):
        for j in range(columns):
            out[i, j] = 0
            for k in range(inner):
                out[i, j] += left[i, k] * right[k, j]

where left or right may be a matrix read transposed. It is slow, because each multiplication waits for two
numbers from memory and each addition for the one before it. Three steps, outermost first, make it fast:

1. *Panel*. ``out`` is cut into panels of columns, as wide as a few vector registers. What a panel needs of
   ``right`` is packed side by side (`_pack`), with zeros for missing columns, and from then on read in order.
2. *Block*. The inner dimension is cut such that the part of the packed columns in use stays in the
   first-level cache while many rows of ``left`` pass by (`_add_block`).
3. *Tile*. A few rows of a panel are summed in registers alone (`_add_tile`): each number loaded serves a
   whole row or column of the tile, and there are enough independent sums to keep the arithmetic units busy.

The sums of a block stand in scratch. They begin as zero, as the bias or as what is to be added to; the
activation is applied while they are in the cache; then they are copied to ``out``.

Every element is summed in the order of k by the same operations, wherever its tile lies. So its bits depend
neither on the number of threads nor on the other rows of the batch.

All arrays are C-contiguous and of one dtype, float32 or float64. Shapes are not checked.
"""

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _iget_num_threads  # numba.get_num_threads would prevent caching

from .scalar import IDENTITY, OPTIONS, activate


def _choose_tile(features):
    """Return (bytes in a register, registers side by side in a tile, rows of a tile, is multiply-add there).

    The sums of a tile, one row of the packed columns and one broadcast number must fit into the registers:
    there are 32 with AVX-512 and NEON, 16 otherwise.
    """
    if features.get("avx512f"):
        return 64, 2, 10, True
    if features.get("avx2") and features.get("fma"):
        return 32, 2, 6, True
    if features.get("neon"):
        return 16, 4, 6, True
    return 16, 2, 6, False


VECTOR_BYTES, VECTORS, TILE_ROWS, FUSED = _choose_tile(llvmlite.binding.get_host_cpu_features())

#: Rows of a block, and its depth along the inner dimension. With panels of 64 bytes the sums then take 8 KB
#: and the packed columns 16 KB of the first-level cache, which has 32 KB or more.
BLOCK_ROWS = 20 * TILE_ROWS
BLOCK_INNER = 256

#: With fewer multiplications than this, waking the other threads takes longer than the product.
SERIAL = 200_000

PLAIN, LEFT_TRANSPOSED, RIGHT_TRANSPOSED = range(3)


# Vectors: what cannot be said in Python is emitted as LLVM instructions -------------------------------------


def _lanes(*arrays):
    """Return how many elements of these arrays (Numba types) a vector register holds."""
    dtype = arrays[0].dtype
    alike = all(array.layout == "C" and array.dtype == dtype for array in arrays)
    if not alike or dtype not in (types.float32, types.float64):
        raise TypingError(f"expected C-contiguous arrays, all float32 or all float64, got {arrays}")
    return VECTOR_BYTES * 8 // dtype.bitwidth


class _Memory:
    """The vectors in an array, each found by the number of its first element."""

    def __init__(self, context, builder, array, value):
        self.builder = builder
        self.size = array.dtype.bitwidth // 8
        self.scalar = context.get_value_type(array.dtype)
        self.vector = ir.VectorType(self.scalar, _lanes(array))
        self.data = context.make_array(array)(context, builder, value).data

    def at(self, index):
        return self.builder.bitcast(self.builder.gep(self.data, [index]), self.vector.as_pointer())

    def load(self, index):
        return self.builder.load(self.at(index), align=self.size)

    def store(self, vector, index):
        self.builder.store(vector, self.at(index), align=self.size)

    def broadcast(self, index):
        number = self.builder.load(self.builder.gep(self.data, [index]))
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, first, _mask([0] * self.vector.count))


def _mask(lanes):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def _multiply_add(builder, x, y, total):
    """Emit ``x * y + total``, rounded once where the processor can."""
    if not FUSED:
        return builder.fadd(builder.fmul(x, y), total)
    name = f"llvm.fma.v{x.type.count}f{32 if x.type.element == ir.FloatType() else 64}"
    fma = builder.module.globals.get(name)
    if fma is None:
        fma = ir.Function(builder.module, ir.FunctionType(x.type, [x.type] * 3), name)
    return builder.call(fma, [x, y, total])


@intrinsic
def _add_tile(typingctx, left, start, row_stride, stride, rows, packed, packed_start, inner, sums, to):
    """Add ``left @ packed`` to one tile of sums.

    Element ``start + i * row_stride + k * stride`` of left is in row i, column k of the left factor
    (rows, inner). packed (inner, panel width) and sums (TILE_ROWS, panel width) lie row after row from
    packed_start and ``to`` on. inner is at least 1. If rows < TILE_ROWS, the last row is taken for the missing
    ones, so that nothing is read out of bounds; what it adds to the sums below it has no use.
    """
    lanes = _lanes(left, packed, sums)

    def codegen(context, builder, signature, args):
        _, start, row_stride, stride, rows, _, packed_start, inner, _, to = args
        left, packed, sums = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 5, 8))
        integer, add, multiply = ir.IntType(64), builder.add, builder.mul

        # Before the loop: where the rows of left start, and what the sums are so far.
        last = builder.sub(rows, integer(1))
        row_starts = []
        for i in range(TILE_ROWS):
            row = builder.select(builder.icmp_signed("<", integer(i), last), integer(i), last)
            row_starts.append(add(start, multiply(row, row_stride)))
        cells = [(i, v) for i in range(TILE_ROWS) for v in range(VECTORS)]
        places = {(i, v): add(to, integer((i * VECTORS + v) * lanes)) for i, v in cells}
        before = {cell: sums.load(places[cell]) for cell in cells}
        entry, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)

        # The loop: a phi is a variable, from `entry` in the first round and from `loop` in the others.
        builder.position_at_end(loop)
        k, along = builder.phi(integer), builder.phi(integer)
        totals = {cell: builder.phi(packed.vector) for cell in cells}
        here = add(packed_start, multiply(k, integer(VECTORS * lanes)))
        columns = [packed.load(add(here, integer(v * lanes))) for v in range(VECTORS)]
        results = {}
        for i in range(TILE_ROWS):
            number = left.broadcast(add(row_starts[i], along))
            for v in range(VECTORS):
                results[i, v] = _multiply_add(builder, number, columns[v], totals[i, v])
        next_k = add(k, integer(1))
        counters = [(k, integer(0), next_k), (along, integer(0), add(along, stride))]
        for phi, first, later in counters + [(totals[cell], before[cell], results[cell]) for cell in cells]:
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", next_k, inner), loop, after)

        builder.position_at_end(after)
        for cell in cells:
            sums.store(results[cell], places[cell])
        return context.get_dummy_value()

    i = types.intp
    return types.void(left, i, i, i, i, packed, i, i, sums, i), codegen


@intrinsic
def _copy_row(typingctx, source, source_start, target, target_start):
    """Copy a row of a panel's width from one array to another, given the numbers of the first elements."""
    lanes = _lanes(source, target)

    def codegen(context, builder, signature, args):
        source, target = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 2))
        for v in range(VECTORS):
            shift = ir.IntType(64)(v * lanes)
            target.store(source.load(builder.add(args[1], shift)), builder.add(args[3], shift))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


@intrinsic
def _transpose_square(typingctx, source, source_start, source_stride, target, target_start, target_stride):
    """Copy a square, one vector register wide, from one array to another and transpose it on the way."""
    lanes = _lanes(source, target)

    def codegen(context, builder, signature, args):
        source, target = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 3))

        def place(start, stride, i):
            return builder.add(start, builder.mul(stride, ir.IntType(64)(i)))

        rows = [source.load(place(*args[1:3], i)) for i in range(lanes)]
        step = 1
        while step < lanes:  # seen as 2 x 2 blocks of this size, swap the two blocks off the diagonal
            upper = _mask([lanes + n - step if n & step else n for n in range(lanes)])
            lower = _mask([lanes + n if n & step else n + step for n in range(lanes)])
            for i in range(lanes):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i] = builder.shuffle_vector(*pair, upper)
                    rows[i + step] = builder.shuffle_vector(*pair, lower)
            step *= 2
        for i in range(lanes):
            target.store(rows[i], place(*args[4:6], i))
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, i, target, i, i), codegen


@intrinsic
def _vector_length(typingctx, array):
    """Return the number of elements in a vector register, as a constant of the compiled code."""
    lanes = _lanes(array)

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, lanes)

    return types.intp(array), codegen


# Panels -----------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _count(out):
    """Return the number of tiles in a panel of out, the number of panels, and the width of each."""
    width = VECTORS * _vector_length(out)
    return (out.shape[0] + TILE_ROWS - 1) // TILE_ROWS, (out.shape[1] + width - 1) // width, width


@njit(**OPTIONS)
def _copy(source, first, target, to, rows, columns):
    """Copy rows, up to a panel's width long, from one place (row, column) to another."""
    (i, j), (p, q) = first, to
    if columns == VECTORS * _vector_length(source):
        for n in range(rows):
            _copy_row(source, (i + n) * source.shape[1] + j, target, (p + n) * target.shape[1] + q)
    else:
        for n in range(rows):
            for m in range(columns):
                target[p + n, q + m] = source[i + n, j + m]


@njit(**OPTIONS)
def _pack(right, first, packed):
    """Copy columns of right, from ``first`` on, to packed (inner, panel width); beyond the last are zeros."""
    columns = min(packed.shape[1], right.shape[1] - first)
    _copy(right, (0, first), packed, (0, 0), packed.shape[0], columns)
    packed[:, columns:] = 0


@njit(**OPTIONS)
def _pack_transposed(right, first, packed):
    """Do the same with columns of right^T, which are rows of right."""
    inner, width = packed.shape
    columns, lanes = min(width, right.shape[0] - first), _vector_length(packed)
    squares = inner // lanes * lanes if columns == width else 0
    for k in range(0, squares, lanes):
        for j in range(0, width, lanes):
            _transpose_square(right, (first + j) * inner + k, inner, packed, k * width + j, width)
    for k in range(squares, inner):
        for j in range(columns):
            packed[k, j] = right[first + j, k]
    packed[:, columns:] = 0


@njit(**OPTIONS)
def _add_block(left, strides, first, rows, packed, sums):
    """Add rows of left, from ``first`` on, times packed, to ``sums[:rows]``."""
    row_stride, stride = strides
    inner, width = packed.shape
    for k in range(0, inner, BLOCK_INNER):
        depth = min(BLOCK_INNER, inner - k)
        for i in range(0, rows, TILE_ROWS):
            start = (first + i) * row_stride + k * stride
            _add_tile(left, start, row_stride, stride, rows - i, packed, k * width, depth, sums, i * width)


@njit(**OPTIONS)
def _begin(sums, rows, columns, out, place, bias, accumulate):
    """Set the sums of the block at a place (row, column) of out to zero, the bias, or what out holds."""
    sums[:rows] = 0
    if accumulate:
        _copy(out, place, sums, (0, 0), rows, columns)
    elif bias.size:
        for i in range(rows):
            for j in range(columns):
                sums[i, j] = bias[place[1] + j]


@njit(**OPTIONS)
def _multiply_share(form, left, right, epilogue, out, share):
    """Compute the tiles ``share[0]`` to ``share[1]`` of out, counted down one panel after the other."""
    bias, code, accumulate = epilogue
    inner = left.shape[0] if form == LEFT_TRANSPOSED else left.shape[1]
    strides = (1, left.shape[1]) if form == LEFT_TRANSPOSED else (left.shape[1], 1)
    tiles, _, width = _count(out)
    packed = np.empty((inner, width), out.dtype)
    sums = np.empty((BLOCK_ROWS, width), out.dtype)
    tile, end = share
    while tile < end:
        row, column = tile % tiles * TILE_ROWS, tile // tiles * width
        stop = min(row + (end - tile) * TILE_ROWS, out.shape[0])
        tile += (stop - row + TILE_ROWS - 1) // TILE_ROWS
        columns = min(width, out.shape[1] - column)
        if form == RIGHT_TRANSPOSED:
            _pack_transposed(right, column, packed)
        else:
            _pack(right, column, packed)
        for first in range(row, stop, BLOCK_ROWS):
            rows, place = min(BLOCK_ROWS, stop - first), (first, column)
            _begin(sums, rows, columns, out, place, bias, accumulate)
            _add_block(left, strides, first, rows, packed, sums)
            activate(sums[:rows].reshape(-1), code)  # over the whole width, for the sake of vectors
            _copy(sums, (0, 0), out, place, rows, columns)


@njit(parallel=True, **OPTIONS)
def _multiply(form, left, right, epilogue, out):
    """Compute out: in this thread if it is small, otherwise with the tiles shared evenly among all threads.

    The epilogue is (bias, empty for none; code of the activation; whether to add to out).
    """
    tiles, panels, _ = _count(out)
    total = tiles * panels
    if left.size * out.shape[1] < SERIAL:
        _multiply_share(form, left, right, epilogue, out, (np.int64(0), total))
    else:
        threads = _iget_num_threads()
        for thread in prange(threads):
            n = np.int64(thread)
            share = total * n // threads, total * (n + 1) // threads
            _multiply_share(form, left, right, epilogue, out, share)


# The products of a dense layer ------------------------------------------------------------------------------
#
# Numba compiles a version of its own for each literal argument; np.int64(...) and bool(...) are plain values.


@njit(**OPTIONS)
def _epilogue(bias, code, accumulate):
    return bias, np.int64(code), bool(accumulate)


@njit(**OPTIONS)
def dense(x, W, b, code, out):
    """Compute ``out = f(x W + b)``: x (M, I), W (I, O), b (O,) or empty for none, f by its code, out (M, O)."""
    _multiply(np.int64(PLAIN), x, W, _epilogue(b, code, False), out)


@njit(**OPTIONS)
def matmul_left_transposed(x, dy, out):
    """Compute ``out = x^T dy``, the gradient at the weights: x (M, I), dy (M, O), out (I, O)."""
    _multiply(np.int64(LEFT_TRANSPOSED), x, dy, _epilogue(np.empty(0, out.dtype), IDENTITY, False), out)


@njit(**OPTIONS)
def matmul_right_transposed(dy, W, accumulate, out):
    """Compute ``out = dy W^T``, or add it, the gradient at the input: dy (M, O), W (I, O), out (M, I)."""
    _multiply(np.int64(RIGHT_TRANSPOSED), dy, W, _epilogue(np.empty(0, out.dtype), IDENTITY, accumulate), out)
