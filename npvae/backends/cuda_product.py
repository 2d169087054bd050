"""The matrix product of a dense layer on a GPU, in three steps from the plain loop to the kernel in use.

All three compute ``out = f(a b + bias)``, or add ``a b`` to out, where a, b or both may be read transposed:

1. `make_naive`: a thread computes one element and reads a row of a and a column of b from memory, term by term. Each
   multiplication needs two reads, and the threads of a block read the same numbers over and over.
2. `make_tiled`: the threads of a block copy a tile of a and a tile of b to shared memory, which is near the
   arithmetic units, and use each number there ``tile`` times. Reading shared memory is now the limit: two reads a
   multiplication, as before, but fast ones.
3. `make_registers`: a thread computes a small tile of elements, whose sums it keeps in registers. A number read from
   shared memory then serves a whole row or column of them: 4 x 4 sums take 8 reads for 16 multiplications. While one
   tile is multiplied, the next is on its way from memory. Where the result is too small to keep a large GPU busy, teams
   of threads share the terms of each sum.

`PRODUCTS` holds them by name and `IN_USE` names the one that `product` launches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, uint32

from .cuda_kernels import SIMULATED, activate, by_precision
from .cuda_launch import launch, n_blocks, nothing
from .interface import Array

#: The entry of `PRODUCTS` that `product` launches.
IN_USE = "registers"

#: So many blocks keep the processors of a large GPU busy: with fewer, smaller tiles are faster.
BUSY = 128


class Kernel(NamedTuple):
    """A compiled product: its function, the threads of a block in x and y, and the rows and columns of its tile."""

    function: Any
    block: tuple
    tile: tuple


# The three forms of a product differ in the order in which the factors lie in memory. In the kernels, ``along`` says
# that the terms of a sum lie next to each other: a is (M, K), b is (N, K). Otherwise a is (K, M), b is (K, N).


@cuda.jit(device=True)
def _element(factor, along, i, k):
    """Return term k of a row of a, or of a column of b: number i."""
    return factor[i, k] if along else factor[k, i]


@cuda.jit(device=True)
def _finish(out, m, n, total, bias, code, accumulate):
    """Write an element of the result: with bias and activation unless bias is empty, or added to what out holds."""
    if n < bias.shape[0]:
        total = activate(total + bias[n], code)
    out[m, n] = out[m, n] + total if accumulate else total


# Step 1: a thread for each element ------------------------------------------------------------------------------------


def make_naive(threads, dtype):
    """Return the product as a plain loop over the terms, with ``threads x threads`` elements a block."""

    @cuda.jit
    def naive(a, a_along, b, b_along, out, bias, code, accumulate):
        """Arguments as in `product`, but for ``along``; bias (N,) or (0,)."""
        n, m = cuda.grid(2)
        K = a.shape[1] if a_along else a.shape[0]
        if m < out.shape[0] and n < out.shape[1]:
            total = dtype(0)
            for k in range(K):
                total += _element(a, a_along, m, k) * _element(b, b_along, n, k)
            _finish(out, m, n, total, bias, code, accumulate)

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
    def load(factor, along, first, k, size, terms, target):
        """Set ``target[i, j]`` to term k + j of row first + i of a factor, zero beyond; each thread one element.

        Threads that are neighbours in x read neighbours in memory, which arrive together.
        """
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        i, j = (y, x) if along else (x, y)
        inside = first + i < size and k + j < terms
        target[i, j] = _element(factor, along, first + i, k + j) if inside else dtype(0)

    @cuda.jit
    def tiled(a, a_along, b, b_along, out, bias, code, accumulate):
        """See `make_naive`."""
        rows = cuda.shared.array(shape, dtype)
        columns = cuda.shared.array(shape, dtype)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        row, column = cuda.blockIdx.y * tile, cuda.blockIdx.x * tile
        M, N = out.shape
        K = a.shape[1] if a_along else a.shape[0]
        total = dtype(0)
        for k in range(0, K, tile):
            load(a, a_along, row, k, M, K, rows)
            load(b, b_along, column, k, N, K, columns)
            cuda.syncthreads()
            for j in range(tile):
                total += rows[y, j] * columns[x, j]
            cuda.syncthreads()
        if row + y < M and column + x < N:
            _finish(out, row + y, column + x, total, bias, code, accumulate)

    return Kernel(tiled, (tile, tile), (tile, tile))


# Step 3: tiles in registers, the next one prefetched, teams -----------------------------------------------------------


def make_registers(rows, columns, depth, thread_rows, thread_columns, teams, dtype):
    """Return the product in use: ``rows x columns`` elements a block, ``thread_rows x thread_columns`` a thread.

    New here, in this order:

    - The tiles in shared memory are ``depth`` terms deep, and a thread multiplies a part of a column of one with a
      part of a row of the other: all pairs, whose sums stay in registers.
    - Before a tile is multiplied, each thread starts to read its share of the next into registers: memory and
      arithmetic work at the same time.
    - ``teams`` of threads make the same elements from different terms, each with tiles of its own. More threads hide
      more of the time that memory takes. Their sums are added in order at the end, so the bits stay the same.

    Indices are unsigned and fragments have constant sizes: the compiler then needs no test for wrap-around, and keeps
    the fragments in registers.
    """
    across = columns // thread_columns
    threads = rows // thread_rows * across
    # A row more than needed: neighbours in a column of a tile are then in different banks of the memory.
    step_a, step_b = rows + 1, columns + 1
    size_a, size_b = depth * step_a, depth * step_b
    size = max(teams * (size_a + size_b), (teams - 1) * rows * columns)
    shape_sums = thread_rows, thread_columns
    share_a, share_b = -(-rows * depth // threads), -(-columns * depth // threads)

    @cuda.jit(device=True)
    def fetch(factor, along, first, k, size, terms, extent, share):
        """Read a thread's share of a tile: term k + j of row first + i of a factor, zero beyond.

        The tile is read in the order in which it lies in memory.
        """
        thread = uint32(cuda.threadIdx.x)
        for n in range(len(share)):
            element = thread + uint32(n * threads)
            i = element // uint32(depth) if along else element % uint32(extent)
            j = element % uint32(depth) if along else element // uint32(extent)
            i, j = first + i, k + j
            inside = element < uint32(extent * depth) and i < size and j < terms
            if inside:
                share[n] = factor[i, j] if along else factor[j, i]
            else:
                share[n] = dtype(0)

    @cuda.jit(device=True)
    def put(share, along, extent, shared, start):
        """Write a thread's share to its team's tile, from ``start`` on: a row for each of ``depth`` terms."""
        thread = uint32(cuda.threadIdx.x)
        for n in range(len(share)):
            element = thread + uint32(n * threads)
            if element < uint32(extent * depth):
                i = element // uint32(depth) if along else element % uint32(extent)
                j = element % uint32(depth) if along else element // uint32(extent)
                shared[start + j * uint32(extent + 1) + i] = share[n]

    @cuda.jit(device=True)
    def multiply(shared, at_a, at_b, of_a, of_b, sums):
        """Add the products of a tile, from the thread's places in the tiles on, to the thread's sums."""
        for _ in range(depth):
            for i in range(thread_rows):
                of_a[i] = shared[at_a + uint32(i)]
            for j in range(thread_columns):
                of_b[j] = shared[at_b + uint32(j * across)]
            at_a += uint32(step_a)
            at_b += uint32(step_b)
            for i in range(thread_rows):
                for j in range(thread_columns):
                    sums[i, j] += of_a[i] * of_b[j]

    @cuda.jit(device=True)
    def add_teams(shared, thread, team, sums):
        """Add the sums of the other teams, in their order, to those of the first, through shared memory."""
        here = thread * uint32(thread_rows * thread_columns)
        if team > 0:
            place = (team - uint32(1)) * uint32(rows * columns) + here
            for i in range(thread_rows):
                for j in range(thread_columns):
                    shared[place + uint32(i * thread_columns + j)] = sums[i, j]
        cuda.syncthreads()
        if team == 0:
            for other in range(teams - 1):
                for i in range(thread_rows):
                    for j in range(thread_columns):
                        sums[i, j] += shared[here + uint32(other * rows * columns + i * thread_columns + j)]

    @cuda.jit
    def registers(a, a_along, b, b_along, out, bias, code, accumulate):
        """See `make_naive`."""
        shared = cuda.shared.array(size, dtype)  # the teams' tiles of a, those of b; in the end their sums
        next_a = cuda.local.array(share_a, dtype)
        next_b = cuda.local.array(share_b, dtype)
        of_a = cuda.local.array(thread_rows, dtype)
        of_b = cuda.local.array(thread_columns, dtype)
        sums = cuda.local.array(shape_sums, dtype)
        M, N = uint32(out.shape[0]), uint32(out.shape[1])
        K = uint32(a.shape[1]) if a_along else uint32(a.shape[0])
        row, column = uint32(cuda.blockIdx.y * rows), uint32(cuda.blockIdx.x * columns)
        thread, team = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        start_a, start_b = team * uint32(size_a), uint32(teams * size_a) + team * uint32(size_b)
        y, x = thread // uint32(across), thread % uint32(across)
        for i in range(thread_rows):
            for j in range(thread_columns):
                sums[i, j] = dtype(0)

        k, own = uint32(0), team * uint32(depth)  # all teams take as many turns, whatever is left for the last
        fetch(a, a_along, row, own, M, K, rows, next_a)
        fetch(b, b_along, column, own, N, K, columns, next_b)
        while k < K:
            put(next_a, a_along, rows, shared, start_a)
            put(next_b, b_along, columns, shared, start_b)
            cuda.syncthreads()
            k += uint32(teams * depth)
            fetch(a, a_along, row, k + own, M, K, rows, next_a)
            fetch(b, b_along, column, k + own, N, K, columns, next_b)
            multiply(shared, start_a + y * uint32(thread_rows), start_b + x, of_a, of_b, sums)
            cuda.syncthreads()

        if teams > 1:
            add_teams(shared, thread, team, sums)
            if team > 0:
                return
        for i in range(thread_rows):
            for j in range(thread_columns):
                m, n = row + y * uint32(thread_rows) + uint32(i), column + x + uint32(j * across)
                if m < M and n < N:
                    _finish(out, m, n, sums[i, j], bias, code, accumulate)

    return Kernel(registers, (threads, teams), (rows, columns))


# Which one is launched ------------------------------------------------------------------------------------------------

#: Arguments of the kernels by step, those with small tiles first. The simulator runs a few dozen threads at most.
TILES: dict[str, list[tuple]] = {
    "naive": [(16,)],
    "tiled": [(16,)],
    "registers": [(32, 32, 16, 2, 4, 4), (64, 64, 16, 4, 4, 1)],
}
if SIMULATED:
    TILES = {"naive": [(3,)], "tiled": [(3,)], "registers": [(4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 1)]}

_MAKE: dict[str, Callable[..., Kernel]] = {"naive": make_naive, "tiled": make_tiled, "registers": make_registers}

#: The kernels by step and dtype: PRODUCTS["naive"][dtype] is a list of `Kernel`, those with small tiles first.
PRODUCTS = {
    step: by_precision(lambda dtype, step=step: [_MAKE[step](*tile, dtype) for tile in TILES[step]]) for step in TILES
}


def product(
    a: Array, a_transposed: bool, b: Array, b_transposed: bool, out: Array,
    bias: Array | None = None, code: int = 0, accumulate: bool = False, step: str | None = None,
) -> None:  # fmt: skip
    """Compute ``out = f(a b + bias)``, or ``out += a b``, with the largest tiles that keep the device busy.

    Parameters
    ----------
    a (M, K), or (K, M) if it is transposed; b (K, N), or (N, K) if it is transposed; out (M, N)
    bias (N,) or None: then no activation is applied; code : int, of the activation
    accumulate : bool, whether the product is added to out
    step : a name in `PRODUCTS`; `IN_USE` if None
    """
    for kernel in reversed(PRODUCTS[step or IN_USE][out.dtype]):
        grid = n_blocks(out.shape[1], kernel.tile[1]), n_blocks(out.shape[0], kernel.tile[0])
        if grid[0] * grid[1] >= BUSY:
            break
    bias = nothing(out.dtype) if bias is None else bias
    launch(kernel.function, grid, kernel.block, a, not a_transposed, b, b_transposed, out, bias, code, accumulate)
