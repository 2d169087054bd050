"""Vector registers for the compiled products: how many a processor has, and the few operations on them.

Numba turns simple loops into vector instructions by itself, but it does not keep a tile of sums in registers. So the
functions below emit LLVM instructions directly; kernels call them like other functions. LLVM translates vectors of any
length for any processor: a tile that does not fit the registers of one is slow there, but never wrong.

All arrays are flat, float32 or float64.
"""

from collections.abc import Collection
from typing import NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic


class Tile(NamedTuple):
    """A tile of sums: ``rows`` by ``vectors`` registers of ``bytes`` each; and one of a single, wider row."""

    bytes: int
    vectors: int
    rows: int
    row_vectors: int  # of the single row, whose factors are listed (`add_listed`)
    fused: bool  # whether the processor multiplies and adds in one instruction


#: The sums, a row of packed columns and one broadcast number fill the registers: 32 with AVX-512 and NEON, 16 with
#: AVX2. "plain" is for unknown processors; its tile is summed by a loop in Numba (`_add_rows_plain`).
TILES = {
    "avx512": Tile(64, 2, 10, 8, True),
    "avx2": Tile(32, 3, 4, 12, True),
    "neon": Tile(16, 4, 6, 16, True),
    "plain": Tile(16, 2, 4, 8, False),
}


def choose_tile(features: Collection[str]) -> str:
    """Return the name of the tile for a processor.

    Parameters
    ----------
    features : collection of str, as LLVM names them
    """
    needs = {"avx512": {"avx512f"}, "avx2": {"avx2", "fma"}, "neon": {"neon"}}
    return next((name for name, needed in needs.items() if needed <= set(features)), "plain")


def compiled_for() -> list[str]:
    """Return the features that Numba compiles for: the host's, or those that NUMBA_CPU_FEATURES lists ("+avx2,+fma").

    Numba's cache keeps kernels for different features apart, so each tile can be tried on one machine.
    """
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return [name for name, present in llvmlite.binding.get_host_cpu_features().items() if present]
    return [name[1:] for name in (config.CPU_FEATURES or "").split(",") if name.startswith("+")]


TILE_NAME = choose_tile(compiled_for())
TILE = TILES[TILE_NAME]
TILE_ROWS, VECTORS = TILE.rows, TILE.vectors
import os
ROW_VECTORS = int(os.environ.get("RV", TILE.row_vectors))

#: Bytes in a line of the caches, and vectors.
LINE = 64
VECTORS_OF_LINE = LINE // TILE.bytes


def _lanes(*arrays):
    """Return how many elements of these arrays (Numba types) a vector register holds."""
    dtype = arrays[0].dtype
    alike = all(array.layout == "C" and array.ndim == 1 and array.dtype == dtype for array in arrays)
    if not alike or dtype not in (types.float32, types.float64):
        raise TypingError(f"expected flat contiguous arrays, all float32 or all float64, got {arrays}")
    return TILE.bytes * 8 // dtype.bitwidth


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

    def mask(self, count):
        """Return which elements of a vector are among the first ``count``."""
        integers = ir.VectorType(count.type, self.vector.count)
        first = self.builder.insert_element(ir.Constant(integers, ir.Undefined), count, ir.IntType(32)(0))
        counts = self.builder.shuffle_vector(first, first, _mask([0] * self.vector.count))
        return self.builder.icmp_signed(">", counts, ir.Constant(integers, list(range(self.vector.count))))

    def _masked(self, name, result, *kinds):
        bits = 8 * self.size
        name = f"llvm.masked.{name}.v{self.vector.count}f{bits}.p0v{self.vector.count}f{bits}"
        function = self.builder.module.globals.get(name)
        return function or ir.Function(self.builder.module, ir.FunctionType(result, kinds), name)

    def load_part(self, index, mask):
        """Load those elements of a vector that the mask holds; the others are zero."""
        kinds = self.vector.as_pointer(), ir.IntType(32), mask.type, self.vector
        function = self._masked("load", self.vector, *kinds)
        zeros = ir.Constant(self.vector, [0] * self.vector.count)
        return self.builder.call(function, [self.at(index), ir.IntType(32)(self.size), mask, zeros])

    def store_part(self, vector, index, mask):
        kinds = self.vector, self.vector.as_pointer(), ir.IntType(32), mask.type
        function = self._masked("store", ir.VoidType(), *kinds)
        self.builder.call(function, [vector, self.at(index), ir.IntType(32)(self.size), mask])

    def broadcast(self, index):
        number = self.builder.load(self.builder.gep(self.data, [index]))
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, first, _mask([0] * self.vector.count))

    def prefetch(self, index, write):
        """Ask for the line of the caches where an element is, or would be, soon to be read or written."""
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        name = "llvm.prefetch.p0i8"
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = ir.Function(self.builder.module, kind, name)
        address = self.builder.bitcast(self.builder.gep(self.data, [index]), pointer)
        self.builder.call(function, [address, number(int(write)), number(3), number(1)])  # 3: to keep; 1: data


def _mask(lanes):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def _multiply_add(builder, x, y, total):
    """Emit ``x * y + total``, rounded once where the processor can."""
    if not TILE.fused:
        return builder.fadd(builder.fmul(x, y), total)
    name = f"llvm.fma.v{x.type.count}f{32 if x.type.element == ir.FloatType() else 64}"
    fma = builder.module.globals.get(name)
    if fma is None:
        fma = ir.Function(builder.module, ir.FunctionType(x.type, [x.type] * 3), name)
    return builder.call(fma, [x, y, total])


@intrinsic
def borrow(typingctx, array):
    """Return the same array without reference counting; valid while the caller holds it.

    A slice of an array is an array. Making one counts a reference, and threads that do so wait for each other.
    """

    def codegen(context, builder, signature, args):
        value = context.make_array(array)(context, builder, args[0])
        value.meminfo = cgutils.get_null_value(value.meminfo.type)
        return value._getvalue()

    return array(array), codegen


@intrinsic
def vector_length(typingctx, array):
    """Return the number of elements in a vector register, as a constant of the compiled code."""
    lanes = _lanes(array)

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, lanes)

    return types.intp(array), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the line of the caches where an element is, soon to be read; the index may lie anywhere."""

    def codegen(context, builder, signature, args):
        _Memory(context, builder, signature.args[0], args[0]).prefetch(args[1], write=False)
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


def _copy(vectors):
    """Return the function that copies so many vectors."""

    @intrinsic
    def copy(typingctx, source, source_start, target, target_start):
        """Copy a row of a tile's width from one array to another, given the numbers of the first elements."""
        lanes = _lanes(source, target)

        def codegen(context, builder, signature, args):
            source, target = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 2))
            for v in range(vectors):
                shift = ir.IntType(64)(v * lanes)
                target.store(source.load(builder.add(args[1], shift)), builder.add(args[3], shift))
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp), codegen

    return copy


copy_row, copy_wide_row = _copy(VECTORS), _copy(ROW_VECTORS)


@intrinsic
def transpose_square(typingctx, source, source_start, source_stride, target, target_start, target_stride):
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


def _add_rows_plain(rows):
    """Return `add_tile` for this number of rows, as a plain loop: one number after the other."""

    @njit(error_model="numpy", fastmath={"contract"})
    def add_rows(left, left_at, packed, start, inner, new, out, out_at):
        """Add a product to a tile of sums, or with ``new`` to the first row of packed instead.

        Element (i, k) of the left factor is number ``left_at[0] + i * left_at[1] + k * left_at[2]`` of left. From
        number ``start`` on, packed holds one row of a tile's width to begin with, and then the right factor
        (inner, width). Element (i, j) of the tile is number ``out_at[0] + i * out_at[1] + j`` of out.
        """
        width = VECTORS * vector_length(packed)
        for i in range(rows):
            for j in range(width):
                place = out_at[0] + i * out_at[1] + j
                total = packed[start + j] if new else out[place]
                for k in range(inner):
                    total += left[left_at[0] + i * left_at[1] + k * left_at[2]] * packed[start + (k + 1) * width + j]
                out[place] = total

    return add_rows


def _add_rows_in_registers(rows):
    """Return the same function with all sums in registers."""

    @intrinsic
    def add_rows(typingctx, left, left_at, packed, start, inner, new, out, out_at):
        lanes = _lanes(left, packed, out)

        def codegen(context, builder, signature, args):
            _, left_at, _, start, inner, new, _, out_at = args
            left, packed, out = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 2, 6))
            row, row_stride, stride = (builder.extract_value(left_at, n) for n in range(3))
            place, out_stride = (builder.extract_value(out_at, n) for n in range(2))
            integer, add, vectors = ir.IntType(64), builder.add, range(VECTORS)

            # Before the loop: where the rows of left and of out start, and the sums so far.
            left_rows, out_rows = [row], [place]
            for _ in range(rows - 1):
                left_rows.append(add(left_rows[-1], row_stride))
                out_rows.append(add(out_rows[-1], out_stride))
            cells = [(i, v) for i in range(rows) for v in vectors]
            places = {(i, v): add(out_rows[i], integer(v * lanes)) for i, v in cells}
            width = integer(VECTORS * lanes)
            second_row = add(start, width)
            fresh, more, head, body, after = (builder.append_basic_block() for _ in range(5))
            builder.cbranch(new, fresh, more)
            builder.position_at_end(fresh)
            top = [packed.load(add(start, integer(v * lanes))) for v in vectors]
            for i in range(rows):  # while the sums are made, the memory that they go to is fetched
                for shift in (*range(0, VECTORS * lanes, LINE // out.size), VECTORS * lanes - 1):
                    out.prefetch(add(out_rows[i], integer(shift)), write=True)
            builder.branch(head)
            builder.position_at_end(more)
            before = {cell: out.load(places[cell]) for cell in cells}
            builder.branch(head)

            # The loop: a phi is a variable, by the block from which its head is reached.
            builder.position_at_end(head)
            k, along, here = builder.phi(integer), builder.phi(integer), builder.phi(integer)
            totals = {cell: builder.phi(packed.vector) for cell in cells}
            builder.cbranch(builder.icmp_signed("<", k, inner), body, after)
            builder.position_at_end(body)
            columns = [packed.load(add(here, integer(v * lanes))) for v in vectors]
            results = {}
            for i in range(rows):
                number = left.broadcast(add(left_rows[i], along))
                for v in vectors:
                    results[i, v] = _multiply_add(builder, number, columns[v], totals[i, v])
            variables = [
                (k, integer(0), integer(0), add(k, integer(1))),
                (along, integer(0), integer(0), add(along, stride)),
                (here, second_row, second_row, add(here, width)),
            ]
            variables += [(totals[i, v], top[v], before[i, v], results[i, v]) for i, v in cells]
            for phi, *values in variables:
                for value, block in zip(values, (fresh, more, body)):
                    phi.add_incoming(value, block)
            builder.branch(head)

            builder.position_at_end(after)
            for cell in cells:
                out.store(totals[cell], places[cell])
            return context.get_dummy_value()

        i = types.intp
        signature = left, types.UniTuple(i, 3), packed, i, i, types.boolean, out, types.UniTuple(i, 2)
        return types.void(*signature), codegen

    return add_rows


_add_rows = _add_rows_plain if TILE_NAME == "plain" else _add_rows_in_registers
add_tile, add_row = _add_rows(TILE_ROWS), _add_rows(1)


# A row of sums over listed factors --------------------------------------------------------------------------


@njit(error_model="numpy", fastmath={"contract"})
def _add_listed_plain(values, index, first, stop, packed, start, new, out, place):
    """Add a sum of few terms to a row of sums, or with ``new`` to the first row of packed instead.

    The terms are those that are listed: number n, from ``first`` to ``stop``, is ``values[n]`` times row ``index[n]``
    of the right factor. From number ``start`` on, packed holds one row, ``ROW_VECTORS`` registers wide, to begin with,
    and then the right factor. Element j of the row of sums is number ``place + j`` of out.
    """
    width = ROW_VECTORS * vector_length(packed)
    for j in range(width):
        total = packed[start + j] if new else out[place + j]
        for n in range(first, stop):
            total += values[n] * packed[start + (index[n] + 1) * width + j]
        out[place + j] = total


@intrinsic
def _add_listed_in_registers(typingctx, values, index, first, stop, packed, start, new, out, place, count, ahead):
    """Do the same with all sums in registers."""
    lanes = _lanes(values, packed, out)

    def codegen(context, builder, signature, args):
        _, _, first, stop, _, start, new, _, place, count, ahead = args
        values, packed, out = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 4, 7))
        listed = context.make_array(signature.args[1])(context, builder, args[1]).data
        integer, add = ir.IntType(64), builder.add
        shifts = [integer(v * lanes) for v in range(ROW_VECTORS)]
        if os.environ.get("PF"):
            for shift in (*range(0, ROW_VECTORS * lanes, LINE // out.size), ROW_VECTORS * lanes - 1):
                out.prefetch(add(add(place, ahead), integer(shift)), write=True)
        width = integer(ROW_VECTORS * lanes)
        second_row = add(start, width)
        fresh, more, part, head, body, after, store, store_part, end = (builder.append_basic_block() for _ in range(9))
        whole = builder.icmp_signed(">=", count, width)
        builder.cbranch(new, fresh, more)
        builder.position_at_end(fresh)
        top = [packed.load(add(start, shift)) for shift in shifts]
        builder.branch(head)
        builder.position_at_end(more)
        load = builder.append_basic_block()
        builder.cbranch(whole, load, part)
        builder.position_at_end(load)
        before = [out.load(add(place, shift)) for shift in shifts]
        builder.branch(head)
        builder.position_at_end(part)
        masks = [out.mask(builder.sub(count, shift)) for shift in shifts]
        before_part = [out.load_part(add(place, shift), mask) for shift, mask in zip(shifts, masks)]
        builder.branch(head)

        builder.position_at_end(head)
        n = builder.phi(integer)
        totals = [builder.phi(packed.vector) for _ in shifts]
        builder.cbranch(builder.icmp_signed("<", n, stop), body, after)
        builder.position_at_end(body)
        k = builder.sext(builder.load(builder.gep(listed, [n])), integer)
        row, number = add(second_row, builder.mul(k, width)), values.broadcast(n)
        results = [
            _multiply_add(builder, number, packed.load(add(row, shift)), total) for shift, total in zip(shifts, totals)
        ]
        for phi, *three in [(n, first, first, first, add(n, integer(1))), *zip(totals, top, before, before_part, results)]:
            for value, block in zip(three, (fresh, load, part, body)):
                phi.add_incoming(value, block)
        last = builder.branch(head)
        if os.environ.get("NU"):
            m = builder.module
            d = m.add_metadata([ir.MetaDataString(m, "llvm.loop.unroll.disable")])
            loop = m.add_metadata([ir.MetaDataString(m, "loop"), d])
            loop.operands = (loop, d)
            last.set_metadata("llvm.loop", loop)

        builder.position_at_end(after)
        builder.cbranch(whole, store, store_part)
        builder.position_at_end(store)
        for shift, total in zip(shifts, totals):
            out.store(total, add(place, shift))
        builder.branch(end)
        builder.position_at_end(store_part)
        for shift, total in zip(shifts, totals):
            out.store_part(total, add(place, shift), out.mask(builder.sub(count, shift)))
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i = types.intp
    return types.void(values, index, i, i, packed, i, types.boolean, out, i, i, i), codegen


add_listed = _add_listed_plain if TILE_NAME == "plain" else _add_listed_in_registers
