"""The ceilings of this machine: the rate of multiplications and additions in registers, and of copying memory."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from ..backends.runtime import CACHE, threads
from ..backends.vectors import TILE, TILE_NAME, _multiply_add


@intrinsic
def _multiply_and_add(typingctx, sums, rounds):
    """Multiply and add `rounds` times, in as many registers as a tile of sums has, without access to memory."""

    def codegen(context, builder, signature, args):
        vector, integer = ir.VectorType(ir.FloatType(), TILE.bytes // 4), ir.IntType(64)
        memory = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(memory, vector.as_pointer())
        start = builder.load(place, align=4)
        entry, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(integer)
        totals = [builder.phi(vector) for _ in range(TILE.rows * TILE.vectors)]
        results = [_multiply_add(builder, total, start, start) for total in totals]
        for phi, first, later in [
            (k, integer(0), builder.add(k, integer(1))),
            *((t, start, r) for t, r in zip(totals, results)),
        ]:
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", k, args[1]), loop, after)
        builder.position_at_end(after)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(sums, types.intp), codegen


@njit(parallel=True, cache=CACHE)
def _work(sums, rounds):
    for thread in prange(len(sums)):
        _multiply_and_add(sums[thread], rounds)


@njit(parallel=True, cache=CACHE, fastmath=True)
def _copy(source, target, threads):
    for thread in prange(threads):
        part = slice(len(source) * thread // threads, len(source) * (thread + 1) // threads)
        target[part] = source[part]


def work_at_peak(flop: float, threads: int) -> None:
    """Do `flop` float32 operations at the highest rate of the machine, on all threads."""
    lanes = TILE.rows * TILE.vectors * TILE.bytes // 4
    _work(np.full((threads, 64), 0.5, np.float32), int(flop / (2 * lanes * threads)))


def copy_bandwidth(megabytes: int = 64, repeats: int = 20) -> float:
    """Return the median rate of copying an array too large for the caches, in GB/s: bytes read and bytes written."""
    source, target = np.ones(megabytes * 2**18, np.float32), np.ones(megabytes * 2**18, np.float32)
    seconds = [seconds_of(lambda: _copy(source, target, threads())) for _ in range(repeats)]
    return 2 * source.nbytes / statistics.median(seconds) / 1e9


def seconds_of(function: Callable[[], object]) -> float:
    """Call a function and return the seconds it took."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def describe() -> str:
    """Return the name of the processor, the number of threads, and the versions of libraries, on one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}"
    return f"{cpu} ({TILE_NAME} tile), {threads()} threads; {versions}"
