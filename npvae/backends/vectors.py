"""Vector registers for the compiled products: how many a processor has, and the few operations on them.

Numba turns simple loops into vector instructions by itself, but it does not keep a tile of sums in registers. So the
functions below emit LLVM instructions directly; kernels call them like other functions. LLVM translates vectors of any
length for any processor: a tile that does not fit the registers of one is slow there, but never wrong.

All arrays are flat, float32 or float64.
"""

import copy
from collections.abc import Collection
from typing import NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .scalar import INLINE


class Tile(NamedTuple):
    """A tile of sums: ``rows`` by ``vectors`` registers of ``bytes`` each; and a wider one of a single row."""

    bytes: int
    vectors: int
    rows: int
    row_vectors: int  # registers of the single row, whose terms are listed (`add_listed`)
    fused: bool  # whether the processor multiplies and adds in one instruction


#: The sums, a row of packed columns and one broadcast number fill the registers: 32 with AVX-512 and NEON, 16 with
#: AVX2. The single row reads each number of its columns once, so it waits for loads and not for registers: it has as
#: many sums as hide the time that an addition takes. "plain" is for unknown processors; its sums are made by loops in
#: Numba (`_add_rows_plain`, `_add_listed_plain`).
TILES = {
    "avx512": Tile(64, 2, 10, 8, True),
    "avx2": Tile(32, 3, 4, 8, True),
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
TILE_ROWS, VECTORS, ROW_VECTORS = TILE.rows, TILE.vectors, TILE.row_vectors

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

    def moved(self, builder, data):
        """Return the same memory in the code of another function, whose argument is its address."""
        other = copy.copy(self)
        other.builder, other.data = builder, data
        return other

    def at(self, index):
        return self.builder.bitcast(self.builder.gep(self.data, [index]), self.vector.as_pointer())

    def load(self, index):
        return self.builder.load(self.at(index), align=self.size)

    def store(self, vector, index):
        self.builder.store(vector, self.at(index), align=self.size)

    def mask(self, count):
        """Return which elements of a vector are among the first ``count``; it may be negative."""
        counts = self._fill(count, ir.VectorType(count.type, self.vector.count))
        return self.builder.icmp_signed(">", counts, ir.Constant(counts.type, list(range(self.vector.count))))

    def load_part(self, index, mask):
        """Load the elements of a vector that the mask holds, and nothing else of memory; the others are zero."""
        zeros = ir.Constant(self.vector, [0] * self.vector.count)
        return self._masked("load", self.vector, self.at(index), ir.IntType(32)(self.size), mask, zeros)

    def store_part(self, vector, index, mask):
        """Store the elements of a vector that the mask holds."""
        self._masked("store", ir.VoidType(), vector, self.at(index), ir.IntType(32)(self.size), mask)

    def _masked(self, name, result, *args):
        kind = f"v{self.vector.count}f{8 * self.size}"
        name = f"llvm.masked.{name}.{kind}.p0{kind}"
        function = self.builder.module.globals.get(name)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(result, [arg.type for arg in args]), name)
        return self.builder.call(function, args)

    def _fill(self, number, kind):
        """Return a vector of this kind, all of whose elements are the number."""
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, first, _mask([0] * kind.count))

    def broadcast(self, index):
        return self._fill(self.builder.load(self.builder.gep(self.data, [index])), self.vector)

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
    """Return the function that copies a row of so many vectors."""

    @intrinsic
    def copy_row(typingctx, source, source_start, target, target_start):
        """Copy a row of a tile's width from one array to another, given the numbers of the first elements."""
        lanes = _lanes(source, target)

        def codegen(context, builder, signature, args):
            source, target = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 2))
            for v in range(vectors):
                shift = ir.IntType(64)(v * lanes)
                target.store(source.load(builder.add(args[1], shift)), builder.add(args[3], shift))
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp), codegen

    return copy_row


def packing(vectors, ahead):
    """Return the function that packs a part of a matrix, as a panel that is so many vectors wide.

    A panel has ``1 + inner`` rows, of which the first is not written. Whole vectors are copied wherever they lie inside
    the matrix, so columns beyond the last may hold any of its numbers. So many rows ahead are fetched from memory.
    """
    copy_row = _copy(vectors)

    @njit(**INLINE)
    def pack(matrix, part, packed, start):
        """Pack a part: (number of the first element, elements from row to row, rows, elements of a row)."""
        source, stride, inner, count = part
        width, line = vectors * vector_length(packed), VECTORS_OF_LINE * vector_length(packed)
        to = start
        for _ in range(inner):
            to += width
            for j in range(0, width, line):
                prefetch(matrix, source + ahead * stride + j)
            if source + width <= len(matrix):
                copy_row(matrix, source, packed, to)
            else:
                for j in range(width):
                    packed[to + j] = matrix[source + j] if j < count else 0
            source += stride

    return pack


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


@njit(error_model="numpy", fastmath={"contract"})
def _add_tile_plain(size, left, left_at, packed, start, inner, new, out, out_at, right, packs, source, ahead):
    """Add a product to a tile of sums, or with ``new`` to the first row of packed instead.

    Element (i, k) of the left factor is number ``left_at[0] + i * left_at[1] + k * left_at[2]`` of left. From
    number ``start`` on, packed holds one row of a panel's width to begin with, and then the right factor
    (inner, width). Element (i, j) of the tile is number ``out_at[0] + i * out_at[1] + j`` of out. The tile has
    size[0] rows, and is size[1] vectors wide, at most `TILE_ROWS` and `VECTORS`.

    With ``packs``, the right factor is packed on the way: its row k begins at number ``source[0] + k * source[1]`` of
    right. Meanwhile a part of right that comes later is fetched, if ahead[2] is not zero: it has ahead[2] rows, which
    begin at number ahead[0] and lie ahead[1] elements apart. With each k one line of the caches is asked for: the first
    of each row, then the second of each, and so on. With either, the tile must be of the largest size.
    """
    width = VECTORS * vector_length(packed)
    if packs:
        for k in range(inner):
            for j in range(width):
                packed[start + (k + 1) * width + j] = right[source[0] + k * source[1] + j]
    for i in range(size[0]):
        for j in range(size[1] * vector_length(packed)):
            place = out_at[0] + i * out_at[1] + j
            total = packed[start + j] if new else out[place]
            for k in range(inner):
                total += left[left_at[0] + i * left_at[1] + k * left_at[2]] * packed[start + (k + 1) * width + j]
            out[place] = total


@intrinsic
def _add_tile_in_registers(
    typingctx, size, left, left_at, packed, start, inner, new, out, out_at, right, packs, source, ahead
):
    """Do the same with all sums in registers: there is a function for each size."""
    lanes = _lanes(left, packed, out, right)

    def emit(memories, numbers, rows, vectors, packing=False, fetching=False):
        """Emit the code for tiles of one size."""
        left, packed, out, right = memories
        left_at, (start, inner, new), out_at, source, ahead = numbers
        builder = left.builder
        integer, add = ir.IntType(64), builder.add
        # Before the loop: where the rows of left and of out start, and the sums so far.
        left_rows, out_rows = [left_at[0]], [out_at[0]]
        for _ in range(rows - 1):
            left_rows.append(add(left_rows[-1], left_at[1]))
            out_rows.append(add(out_rows[-1], out_at[1]))
        shifts = [integer(v * lanes) for v in range(vectors)]
        cells = [(i, v) for i in range(rows) for v in range(vectors)]
        places = {(i, v): add(out_rows[i], shifts[v]) for i, v in cells}
        width = integer(VECTORS * lanes)
        second_row = add(start, width)
        fresh, more, head, body, after = (builder.append_basic_block() for _ in range(5))
        builder.cbranch(new, fresh, more)
        builder.position_at_end(fresh)
        top = [packed.load(add(start, shift)) for shift in shifts]
        for i in range(rows):  # while the sums are made, the memory that they go to is fetched
            for shift in (*range(0, vectors * lanes, LINE // out.size), vectors * lanes - 1):
                out.prefetch(add(out_rows[i], integer(shift)), write=True)
        builder.branch(head)
        builder.position_at_end(more)
        before = {cell: out.load(places[cell]) for cell in cells}
        builder.branch(head)

        # The loop: a phi is a variable, by the block from which its head is reached.
        builder.position_at_end(head)
        k, along, here, there, row, fetched = (builder.phi(integer) for _ in range(6))
        totals = {cell: builder.phi(packed.vector) for cell in cells}
        builder.cbranch(builder.icmp_signed("<", k, inner), body, after)
        builder.position_at_end(body)
        if packing:
            columns = [right.load(add(there, shift)) for shift in shifts]
            for column, shift in zip(columns, shifts):
                packed.store(column, add(here, shift))
        else:
            columns = [packed.load(add(here, shift)) for shift in shifts]
        next_row, next_fetched = row, fetched
        if fetching:
            right.prefetch(fetched, write=False)
            next_row = add(row, integer(1))
            last = builder.icmp_signed("==", next_row, ahead[2])
            next_row = builder.select(last, integer(0), next_row)
            next_fetched = add(fetched, builder.select(last, ahead[3], ahead[1]))
        results = {}
        for i in range(rows):
            number = left.broadcast(add(left_rows[i], along))
            for v in range(vectors):
                results[i, v] = _multiply_add(builder, number, columns[v], totals[i, v])
        variables = [
            (k, integer(0), integer(0), add(k, integer(1))),
            (along, integer(0), integer(0), add(along, left_at[2])),
            (here, second_row, second_row, add(here, width)),
            (there, source[0], source[0], add(there, source[1])),
            (row, integer(0), integer(0), next_row),
            (fetched, ahead[0], ahead[0], next_fetched),
        ]
        variables += [(totals[i, v], top[v], before[i, v], results[i, v]) for i, v in cells]
        for phi, *values in variables:
            for value, block in zip(values, (fresh, more, body)):
                phi.add_incoming(value, block)
        builder.branch(head)

        builder.position_at_end(after)
        for cell in cells:
            out.store(totals[cell], places[cell])

    def codegen(context, builder, signature, args):
        size, _, left_at, _, start, inner, new, _, out_at, _, packs, source, ahead = args
        memories = [_Memory(context, builder, signature.args[n], args[n]) for n in (1, 3, 7, 9)]
        size, left_at, out_at, source, ahead = (
            cgutils.unpack_tuple(builder, value) for value in (size, left_at, out_at, source, ahead)
        )
        integer, add = ir.IntType(64), builder.add
        back = builder.mul(builder.sub(ahead[2], integer(1)), ahead[1])
        to_next_column = builder.sub(integer(LINE // memories[3].size), back)
        numbers = left_at, [start, inner, new], out_at, source, [*ahead, to_next_column]

        def tile(*kind):
            """Call the function of a tile.

            As a part of one large function, it would move sums out of the registers of AVX2 and back in each turn of
            its loop, which would take half as long again.
            """
            flat = [memory.data for memory in memories] + [number for group in numbers for number in group]
            shape = ir.FunctionType(ir.VoidType(), [value.type for value in flat])
            name = builder.module.get_unique_name("tile_" + "_".join(str(int(value)) for value in kind))
            function = ir.Function(builder.module, shape, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside, given = ir.IRBuilder(function.append_basic_block()), iter(function.args)
            moved = [memory.moved(inside, next(given)) for memory in memories]
            emit(moved, [[next(given) for _ in group] for group in numbers], *kind)
            inside.ret_void()
            builder.call(function, flat)

        end, first, others, fetching, any_size = (builder.append_basic_block() for _ in range(5))
        builder.cbranch(packs, first, others)
        builder.position_at_end(first)
        tile(TILE_ROWS, VECTORS, True, True)
        builder.branch(end)
        builder.position_at_end(others)
        builder.cbranch(builder.icmp_signed(">", ahead[2], integer(0)), fetching, any_size)
        builder.position_at_end(fetching)
        tile(TILE_ROWS, VECTORS, False, True)
        builder.branch(end)
        builder.position_at_end(any_size)
        switch = builder.switch(add(builder.mul(size[0], integer(VECTORS + 1)), size[1]), end)
        for rows in range(1, TILE_ROWS + 1):
            for vectors in range(1, VECTORS + 1):
                block = builder.append_basic_block()
                switch.add_case(integer(rows * (VECTORS + 1) + vectors), block)
                builder.position_at_end(block)
                tile(rows, vectors)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i, flag = types.intp, types.boolean
    pair, triple = types.UniTuple(i, 2), types.UniTuple(i, 3)
    return types.void(pair, left, triple, packed, i, i, flag, out, pair, right, flag, pair, triple), codegen


add_tile = _add_tile_plain if TILE_NAME == "plain" else _add_tile_in_registers


# A row of sums of listed terms ------------------------------------------------------------------------------


@njit(error_model="numpy", fastmath={"contract"})
def _add_listed_plain(values, index, span, packed, new, out, at):
    """Add listed terms to a row of sums, or with ``new`` to the first row of packed instead.

    Term n, from span[0] to span[1], is ``values[n]`` times row ``index[n]`` of the right factor. packed holds a row of
    `ROW_VECTORS` registers to begin with, and then the right factor. The sums are at[1] elements of out from number
    at[0] on, at most as many as packed has columns; at[2] elements later lie sums that are soon to be made.
    """
    width = ROW_VECTORS * vector_length(packed)
    for j in range(min(width, at[1])):
        total = packed[j] if new else out[at[0] + j]
        for n in range(span[0], span[1]):
            total += values[n] * packed[(index[n] + 1) * width + j]
        out[at[0] + j] = total


@intrinsic
def _add_listed_in_registers(typingctx, values, index, span, packed, new, out, at):
    """Do the same with all sums in registers."""
    lanes = _lanes(values, packed, out)

    def codegen(context, builder, signature, args):
        values, packed, out = (_Memory(context, builder, signature.args[n], args[n]) for n in (0, 3, 5))
        listed, new = context.make_array(signature.args[1])(context, builder, args[1]).data, args[4]
        first, stop = (builder.extract_value(args[2], n) for n in range(2))
        place, count, ahead = (builder.extract_value(args[6], n) for n in range(3))
        integer, add = ir.IntType(64), builder.add
        shifts = [integer(v * lanes) for v in range(ROW_VECTORS)]
        places = [add(place, shift) for shift in shifts]
        width = integer(ROW_VECTORS * lanes)
        fresh, more, whole, part, head, body, after, store, store_part, end = (
            builder.append_basic_block() for _ in range(10)
        )

        # Before the loop: the sums so far. The memory that later ones go to is fetched meanwhile.
        for shift in (*range(0, ROW_VECTORS * lanes, LINE // out.size), ROW_VECTORS * lanes - 1):
            out.prefetch(add(add(place, ahead), integer(shift)), write=True)
        is_whole = builder.icmp_signed(">=", count, width)
        masks = [out.mask(builder.sub(count, shift)) for shift in shifts]
        builder.cbranch(new, fresh, more)
        builder.position_at_end(fresh)
        top = [packed.load(shift) for shift in shifts]
        builder.branch(head)
        builder.position_at_end(more)
        builder.cbranch(is_whole, whole, part)
        builder.position_at_end(whole)
        before = [out.load(place) for place in places]
        builder.branch(head)
        builder.position_at_end(part)
        before_part = [out.load_part(place, mask) for place, mask in zip(places, masks)]
        builder.branch(head)

        # The loop: a phi is a variable, by the block from which its head is reached.
        builder.position_at_end(head)
        n = builder.phi(integer)
        totals = [builder.phi(packed.vector) for _ in shifts]
        builder.cbranch(builder.icmp_signed("<", n, stop), body, after)
        builder.position_at_end(body)
        k = builder.sext(builder.load(builder.gep(listed, [n])), integer)
        row, number = builder.mul(add(k, integer(1)), width), values.broadcast(n)
        columns = [packed.load(add(row, shift)) for shift in shifts]
        results = [_multiply_add(builder, number, column, total) for column, total in zip(columns, totals)]
        variables = [(n, first, first, first, add(n, integer(1))), *zip(totals, top, before, before_part, results)]
        for phi, *values_of_phi in variables:
            for value, block in zip(values_of_phi, (fresh, whole, part, body)):
                phi.add_incoming(value, block)
        builder.branch(head)

        builder.position_at_end(after)
        builder.cbranch(is_whole, store, store_part)
        builder.position_at_end(store)
        for total, place in zip(totals, places):
            out.store(total, place)
        builder.branch(end)
        builder.position_at_end(store_part)
        for total, place, mask in zip(totals, places, masks):
            out.store_part(total, place, mask)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i = types.intp
    pair, triple = types.UniTuple(i, 2), types.UniTuple(i, 3)
    return types.void(values, index, pair, packed, types.boolean, out, triple), codegen


add_listed = _add_listed_plain if TILE_NAME == "plain" else _add_listed_in_registers
