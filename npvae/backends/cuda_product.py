"""The matrix product of a dense layer on a GPU, in three steps from the plain loop to the kernel in use.

All three compute ``out = f(a b + bias)``, or add ``a b`` to out, where a, b or both may be read transposed:

1. `make_naive`: a thread computes one element and reads a row of a and a column of b from memory, term by term. Each
   multiplication needs two reads, and the threads of a block read the same numbers over and over.
2. `make_tiled`: the threads of a block copy a tile of a and a tile of b to shared memory, which is near the
   arithmetic units, and use each number there ``tile`` times. Reading shared memory is now the limit: two reads a
   multiplication, as before, but fast ones.
3. `make_registers`: a thread computes a small tile of elements, whose sums it keeps in registers. A number read from
   shared memory then serves a whole row or column of them: 8 x 4 sums take 12 reads for 32 multiplications, and four
   numbers are read at once. While one tile is multiplied, the next is on its way from memory. Teams of threads share
   the terms of each sum, so that there are threads enough to hide the time that memory takes.

`PRODUCTS` holds them by name and `IN_USE` names the one that `product` launches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, float64, uint32

from .cuda_kernels import SIMULATED, activate, by_precision
from .cuda_launch import flat, launch, n_blocks, nothing
from .interface import Array

#: The entry of `PRODUCTS` that `product` launches.
IN_USE = "registers"

#: Shared memory starts at a multiple of so many bytes, so that four numbers can be read at once.
ALIGNMENT = None if SIMULATED else 16

#: Bytes of shared memory that a block can have without asking for more. In the simulator few, to test what follows.
SHARED_BYTES = 512 if SIMULATED else 48 * 1024


class Kernel(NamedTuple):
    """A compiled product: its function, the threads of a block, and the rows and columns of its tile."""

    function: Any
    block: int | tuple
    tile: tuple


class Share(NamedTuple):
    """What a thread reads of a factor: numbers of one row of a, or of one column of b."""

    to: Any  # place of the first in the tile
    place: Any  # place of the first in memory
    end: Any  # of the places in memory where there are numbers
    step: Any  # from one number to the next in memory
    turn: Any  # from one tile to the next in memory
    outside: Any  # the number where there are none


# The three forms of a product differ in the order in which the factors lie in memory. In the kernels, ``along`` says
# that the terms of a sum lie next to each other: a is (M, K), b is (N, K). Otherwise a is (K, M), b is (K, N). Factors
# are passed flat, row after row: one number is then enough to say where an element is.
#
# The gradient of a bias is that of a weight whose input is always 1. So a may have one more row, of ones, and the
# product one more, the sums of the columns of b: ``column_sums``, which is empty where it is not wanted.


@cuda.jit(device=True)
def _element(factor, along, i, k, size, terms):
    """Return term k of a row of a, or of a column of b: number i of ``size``."""
    return factor[i * terms + k] if along else factor[k * size + i]


@cuda.jit(device=True)
def _finish(out, m, n, total, bias, code, accumulate, column_sums):
    """Write an element of the result: with bias and activation unless bias is empty, or added to what out holds."""
    if uint32(n) < uint32(bias.shape[0]):
        total = activate(total + bias[n], code)
    if uint32(m) == uint32(out.shape[0]):
        column_sums[n] = total
    else:
        out[m, n] = out[m, n] + total if accumulate else total


@cuda.jit(device=True)
def _height(out, column_sums):
    """Return the rows of the result, with that of the sums."""
    return uint32(out.shape[0] + (1 if column_sums.shape[0] > 0 else 0))


# Step 1: a thread for each element ------------------------------------------------------------------------------------


def make_naive(threads, dtype):
    """Return the product as a plain loop over the terms, with ``threads x threads`` elements a block."""

    @cuda.jit
    def naive(a, a_along, b, b_along, K, out, bias, code, accumulate, column_sums):
        """Arguments as in `product`, but for ``along``; a (M * K,), b (K * N,); bias and column_sums (N,) or (0,)."""
        n, m = cuda.grid(2)
        M, N = out.shape
        if m < _height(out, column_sums) and n < N:
            total = dtype(0)
            for k in range(K):
                of_a = _element(a, a_along, m, k, M, K) if m < M else dtype(1)
                total += of_a * _element(b, b_along, n, k, N, K)
            _finish(out, m, n, total, bias, code, accumulate, column_sums)

    return Kernel(naive, (threads, threads), (threads, threads))


# Step 2: tiles in shared memory ---------------------------------------------------------------------------------------


def make_tiled(tile, dtype):
    """Return the product whose blocks read each number once for ``tile`` elements.

    New here: shared memory, and the two barriers that it needs. All threads must have written before any reads, and
    all must have read before any writes the next tile.
    """
    # A column more than needed: neighbours in a column are then in different banks of shared memory, which can be read
    # at the same time.
    shape = tile, tile + 1

    @cuda.jit(device=True)
    def load(factor, along, first, k, size, terms, target, after):
        """Set ``target[i, j]`` to term k + j of row first + i of a factor; each thread one element.

        The numbers of the row after the last are ``after``, other numbers outside of the factor are zero. Threads that
        are neighbours in x read neighbours in memory, which arrive together.
        """
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        i, j = (y, x) if along else (x, y)
        inside = first + i < size and k + j < terms
        outside = after if first + i == size else dtype(0)
        target[i, j] = _element(factor, along, first + i, k + j, size, terms) if inside else outside

    @cuda.jit
    def tiled(a, a_along, b, b_along, K, out, bias, code, accumulate, column_sums):
        """See `make_naive`."""
        rows = cuda.shared.array(shape, dtype)
        columns = cuda.shared.array(shape, dtype)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        row, column = cuda.blockIdx.y * tile, cuda.blockIdx.x * tile
        M, N = out.shape
        total = dtype(0)
        for k in range(0, K, tile):
            load(a, a_along, row, k, M, K, rows, dtype(1))
            load(b, b_along, column, k, N, K, columns, dtype(0))
            cuda.syncthreads()
            for j in range(tile):
                total += rows[y, j] * columns[x, j]
            cuda.syncthreads()
        if row + y < _height(out, column_sums) and column + x < N:
            _finish(out, row + y, column + x, total, bias, code, accumulate, column_sums)

    return Kernel(tiled, (tile, tile), (tile, tile))


# Step 3: tiles in registers, the next one prefetched, teams -----------------------------------------------------------


def make_registers(rows, columns, depth, thread_rows, thread_columns, teams, dtype):
    """Return the product in use: ``rows x columns`` elements a block, ``thread_rows x thread_columns`` a thread.

    New here, in this order:

    - The tiles in shared memory are ``depth`` terms deep, and a thread multiplies a part of a column of one with a
      part of a row of the other: all pairs, whose sums stay in registers.
    - Four numbers that lie next to each other, from a multiple of 16 bytes on, are read in one instruction. So the
      parts are made of fours.
    - Before a tile is multiplied, each thread starts to read its share of the next into registers: memory and
      arithmetic work at the same time.
    - ``teams`` of threads make the same elements from different terms of the tiles. More threads hide more of the time
      that memory takes. In the end all threads share the elements, and add the teams' sums in order: the bits stay the
      same.

    Each thread reads terms of one row of a, and of one column of b: the threads must be a multiple of both. Numba makes
    64 bits of a sum of 32: where time counts, ``uint32`` takes them back. Loops with ``while`` are unrolled, and
    fragments of constant size stay in registers.
    """
    if dtype is float64:  # numbers twice as long: half as many terms, by half as many teams
        depth, teams = depth // 2, teams // 2
    team_size = rows // thread_rows * (columns // thread_columns)
    threads = teams * team_size
    # Four more than needed: neighbours in a column of a tile are then in different banks of the memory.
    width_a, width_b = rows + 4, columns + 4
    stride_a, stride_b = threads // rows, threads // columns  # terms from one number of a thread's share to the next
    share_a, share_b = depth // stride_a, depth // stride_b
    size_a, own = depth * width_a, depth // teams
    area = rows * columns
    # The teams whose sums fit in shared memory; those of the others are added first.
    stored = teams if teams * area * dtype.bitwidth <= 8 * SHARED_BYTES else teams // 2
    room = max(size_a + depth * width_b, stored * area)
    shape_sums = thread_rows, thread_columns

    @cuda.jit(device=True)
    def share_of(along, first, extent, stride, size, terms, after):
        """Return a thread's share of the tiles of a factor; see `make_tiled` for ``after``.

        Neighbours read neighbours in memory, which arrive together.
        """
        thread = uint32(cuda.threadIdx.x)
        if along:
            i, j, step = uint32(thread // uint32(stride)), uint32(thread % uint32(stride)), uint32(1)
            place, end = uint32((first + i) * terms + j), uint32((first + i + uint32(1)) * terms)
        else:
            i, j, step = uint32(thread % uint32(extent)), uint32(thread // uint32(extent)), size
            place, end = uint32(j * size + first + i), uint32(terms * size)
        end = end if first + i < size else uint32(0)
        outside = after if first + i == size else dtype(0)
        to = uint32(j * uint32(extent + 4) + i)
        return Share(to, place, end, uint32(uint32(stride) * step), uint32(uint32(depth) * step), outside)

    @cuda.jit(device=True)
    def fetch(factor, place, share, numbers):
        """Read a thread's share of a tile."""
        for n in range(len(numbers)):
            number = share.outside
            if place < share.end:
                number = factor[place]
            numbers[n] = number
            place = uint32(place + share.step)

    @cuda.jit(device=True)
    def put(numbers, shared, place, step):
        """Write a thread's share to the tile, which has a row for each term."""
        for n in range(len(numbers)):
            shared[place + uint32(n * step)] = numbers[n]

    @cuda.jit(device=True)
    def at(part, i, extent, size):
        """Return the place of number i of the ``size`` that a thread has of a row or column: in fours, far apart."""
        four = min(4, size)
        return uint32(part * uint32(four)) + uint32(i // four * (extent * four // size) + i % four)

    @cuda.jit(device=True)
    def multiply(shared, place_a, place_b, y, x, of_a, of_b, sums):
        """Add the products of a team's terms of a tile to the thread's sums."""
        k = uint32(0)
        while k < uint32(own):
            for i in range(thread_rows):
                of_a[i] = shared[place_a + at(y, i, rows, thread_rows)]
            for j in range(thread_columns):
                of_b[j] = shared[place_b + at(x, j, columns, thread_columns)]
            for i in range(thread_rows):
                for j in range(thread_columns):
                    sums[i, j] += of_a[i] * of_b[j]
            place_a += uint32(width_a)
            place_b += uint32(width_b)
            k += uint32(1)

    @cuda.jit(device=True)
    def put_sums(shared, team, y, x, sums):
        """Write a thread's sums to shared memory, where each team has a tile of the result."""
        for i in range(thread_rows):
            m = uint32(team * uint32(area)) + at(y, i, rows, thread_rows) * uint32(columns)
            for j in range(thread_columns):
                shared[m + at(x, j, columns, thread_columns)] = sums[i, j]

    @cuda.jit(device=True)
    def add_sums(shared, team, y, x, sums):
        """Add what another thread wrote to a thread's sums."""
        for i in range(thread_rows):
            m = uint32(team * uint32(area)) + at(y, i, rows, thread_rows) * uint32(columns)
            for j in range(thread_columns):
                sums[i, j] += shared[m + at(x, j, columns, thread_columns)]

    @cuda.jit
    def registers(a, a_along, b, b_along, K, out, bias, code, accumulate, column_sums):
        """See `make_naive`."""
        shared = cuda.shared.array(room, dtype, alignment=ALIGNMENT)  # the tile of a and that of b; in the end the sums
        next_a = cuda.local.array(share_a, dtype)
        next_b = cuda.local.array(share_b, dtype)
        of_a = cuda.local.array(thread_rows, dtype)
        of_b = cuda.local.array(thread_columns, dtype)
        sums = cuda.local.array(shape_sums, dtype)
        M, N, K = uint32(out.shape[0]), uint32(out.shape[1]), uint32(K)
        row, column = uint32(cuda.blockIdx.y * rows), uint32(cuda.blockIdx.x * columns)
        team, thread = uint32(cuda.threadIdx.x // uint32(team_size)), uint32(cuda.threadIdx.x % uint32(team_size))
        y, x = uint32(thread // uint32(columns // thread_columns)), uint32(thread % uint32(columns // thread_columns))
        for i in range(thread_rows):
            for j in range(thread_columns):
                sums[i, j] = dtype(0)

        of_rows = share_of(a_along, row, rows, stride_a, M, K, dtype(1))
        of_columns = share_of(b_along, column, columns, stride_b, N, K, dtype(0))
        place_a, place_b = of_rows.place, of_columns.place
        fetch(a, place_a, of_rows, next_a)
        fetch(b, place_b, of_columns, next_b)
        first, k = uint32(team * uint32(own)), uint32(0)
        own_a, own_b = first * uint32(width_a), uint32(size_a) + first * uint32(width_b)
        while k < K:
            put(next_a, shared, of_rows.to, stride_a * width_a)
            put(next_b, shared, uint32(size_a) + of_columns.to, stride_b * width_b)
            cuda.syncthreads()
            place_a, place_b = uint32(place_a + of_rows.turn), uint32(place_b + of_columns.turn)
            fetch(a, place_a, of_rows, next_a)
            fetch(b, place_b, of_columns, next_b)
            if k + first < K:
                multiply(shared, own_a, own_b, y, x, of_a, of_b, sums)
            k = uint32(k + uint32(depth))
            cuda.syncthreads()

        if teams > stored:
            if team >= uint32(stored):
                put_sums(shared, team - uint32(stored), y, x, sums)
            cuda.syncthreads()
            if team < uint32(stored):
                add_sums(shared, team, y, x, sums)
            cuda.syncthreads()
        if team < uint32(stored):
            put_sums(shared, team, y, x, sums)
        cuda.syncthreads()
        place, height = uint32(cuda.threadIdx.x), _height(out, column_sums)
        while place < uint32(area):
            m, n = uint32(row + place // uint32(columns)), uint32(column + place % uint32(columns))
            if m < height and n < N:
                total = dtype(0)
                for other in range(stored):
                    total += shared[place + uint32(other * area)]
                _finish(out, m, n, total, bias, code, accumulate, column_sums)
            place = uint32(place + uint32(threads))

    return Kernel(registers, threads, (rows, columns))


# Which one is launched ------------------------------------------------------------------------------------------------

#: Tiles by step: the time of an element, which is less in larger tiles, and the arguments of the function that makes
#: the kernel. The times were measured on an H200; only their ratios matter. The simulator runs few threads at a time.
TILES: dict[str, list[tuple[float, tuple]]] = {
    "naive": [(1, (16,))],
    "tiled": [(1, (16,))],
    "registers": [
        (2.1, (8, 16, 128, 4, 4, 32)),
        (1.35, (16, 32, 64, 8, 4, 16)),
        (1.15, (32, 32, 64, 8, 4, 8)),
        (1, (64, 64, 32, 8, 4, 4)),
    ],
}
if SIMULATED:
    TILES = {
        "naive": [(1, (3,))],
        "tiled": [(1, (3,))],
        "registers": [(1, (4, 4, 4, 2, 2, 2)), (1, (8, 8, 4, 4, 4, 4))],
    }

_MAKE: dict[str, Callable[..., Kernel]] = {"naive": make_naive, "tiled": make_tiled, "registers": make_registers}

#: The kernels by step and dtype: PRODUCTS["naive"][dtype] is a list of (time of an element, `Kernel`).
PRODUCTS = {
    step: by_precision(
        lambda dtype, step=step, tiles=tiles: [(time, _MAKE[step](*tile, dtype)) for time, tile in tiles]
    )
    for step, tiles in TILES.items()
}


def product(
    a: Array, a_transposed: bool, b: Array, b_transposed: bool, out: Array,
    bias: Array | None = None, code: int = 0, accumulate: bool = False, column_sums: Array | None = None,
    step: str | None = None,
) -> None:  # fmt: skip
    """Compute ``out = f(a b + bias)``, or ``out += a b``, with the tiles that should take the least time.

    Parameters
    ----------
    a (M, K), or (K, M) if it is transposed; b (K, N), or (N, K) if it is transposed; out (M, N)
        Each has fewer than 2^31 numbers.
    bias (N,) or None: then no activation is applied; code : int, of the activation
    accumulate : bool, whether the product is added to out
    column_sums (N,) or None: overwritten with the sums of the columns of b
    step : a name in `PRODUCTS`; `IN_USE` if None
    """
    height, width = out.shape[0] + (column_sums is not None), out.shape[1]
    kernel = _fastest(PRODUCTS[step or IN_USE][out.dtype], height, width, _n_processors())
    grid = n_blocks(width, kernel.tile[1]), n_blocks(height, kernel.tile[0])
    bias, column_sums = (nothing(out.dtype) if array is None else array for array in (bias, column_sums))
    factors = flat(a), not a_transposed, flat(b), b_transposed, a.shape[0 if a_transposed else 1]
    launch(kernel.function, grid, kernel.block, *factors, out, bias, code, accumulate, column_sums)


def _fastest(kernels, M, N, n_processors):
    """Return the kernel whose blocks keep the busiest processor busy for the shortest time."""

    def time(of_element, kernel):
        rows, columns = kernel.tile
        blocks = n_blocks(M, rows) * n_blocks(N, columns)
        return n_blocks(blocks, n_processors) * rows * columns * of_element

    return min(kernels, key=lambda pair: time(*pair))[1]


@functools.cache
def _n_processors():
    return getattr(cuda.get_current_device(), "MULTIPROCESSOR_COUNT", 1)  # the simulator's device has none
