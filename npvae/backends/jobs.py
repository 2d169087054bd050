"""Jobs: calls of compiled functions written down as rows of a table, which one compiled call runs on all threads.

A *kernel* is a compiled function that does one thread's share of a piece of work: `kernel` makes one from a Python
function. A *job* is the call of a kernel with its arguments, as numbers in a row of a table: the address of the
compiled code, the addresses and shapes of arrays, sizes. Calling a kernel makes such a row and runs it at once.

A table can also be kept and run many times, for many steps of a training, without a word of Python between two
kernels. `Recording` keeps the rows of all kernels that are called while it is open. So a training step is stated once,
in the functions that call the kernels, and repeated by its table: see `cpu_steps`.

Threads are woken for a *stage*: jobs that do not wait for each other. Between two stages, all threads wait.
"""

import struct
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core.ccallback import CFunc
from numba.core.datamodel.models import OpaqueModel
from numba.core.datamodel.registry import register_default
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import DTypeLike, NDArray

from .runtime import CACHE, is_on_disk, threads
from .scalar import OPTIONS
from .vectors import LINE

#: Words of 64 bits of a row: the address of the kernel, how much work it is, whether the next job waits for this one,
#: and the arguments: an integer or a float64 is one word, an array its address and its shape.
KERNEL, WORK, ENDS_STAGE, ARGUMENTS = range(4)
LENGTH = 32

#: With less work than this in a stage, waking the other threads takes longer than the work: it is counted in
#: multiplications of a matrix product.
SERIAL = 200_000

#: The work of an operation on a number from memory, such as a likelihood: it takes as long as so many multiplications.
PASS = 24

#: Letters of a specification: the type of an array's elements, followed by the number of dimensions. "f" is the
#: precision of the model, float32 or float64.
DTYPES = {"f": None, "d": np.dtype("f8"), "s": np.dtype("f4"), "i": np.dtype("i8"), "j": np.dtype("i4"),
          "k": np.dtype("i2"), "l": np.dtype("i1"), "u": np.dtype("u8"), "v": np.dtype("u4"), "w": np.dtype("u2"),
          "b": np.dtype("u1"), "o": np.dtype("?")}  # fmt: skip
#: The letters of an integer and of a float64.
INTEGER, NUMBER = "n", "x"


class JobType(types.Opaque):
    """The type of the first argument of a kernel: the place of a job's arguments, which `read` makes arrays of."""

    def __init__(self, specification, number):
        self.specification, self.number = specification, number
        super().__init__(f"Job({specification}, {number})")


register_default(JobType)(OpaqueModel)


def _numba_type(letters, number):
    """Return the Numba type of an argument, and the number of its words."""
    letter, dimensions = letters[0], letters[1:]
    if not dimensions:
        return {INTEGER: types.int64, NUMBER: types.float64}[letter], 1
    dtype = number if letter == "f" else numba.from_dtype(DTYPES[letter])
    return types.Array(dtype, int(dimensions), "C"), 1 + int(dimensions)


@intrinsic
def read(typingctx, job):
    """Return the arguments of a job: arrays that are valid while their owners hold them, integers and floats."""
    if not isinstance(job, JobType):
        raise TypingError(f"expected the first argument of a kernel, got {job}")
    kinds = [_numba_type(letters, job.number) for letters in job.specification.split()]

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        words = builder.bitcast(args[0], word.as_pointer())
        place, values = ARGUMENTS, []

        def load(n):
            return builder.load(builder.gep(words, [word(n)]))

        for kind, length in kinds:
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder)
                size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
                shape = [load(place + 1 + n) for n in range(kind.ndim)]
                strides = [word(size)]
                for extent in reversed(shape[1:]):
                    strides.insert(0, builder.mul(strides[0], extent))
                data = builder.inttoptr(load(place), context.get_data_type(kind.dtype).as_pointer())
                populate_array(array, data, shape, strides, word(size), None)
                values.append(array._getvalue())
            else:
                value = load(place)
                values.append(value if kind is types.int64 else builder.bitcast(value, ir.DoubleType()))
            place += length
        return context.make_tuple(builder, signature.return_type, values)

    return types.Tuple([kind for kind, _ in kinds])(job), codegen


def _flat_array(context, builder, kind, address, length):
    """Return a flat array of this Numba type, given by its address and its length."""
    word, size = ir.IntType(64), kind.dtype.bitwidth // 8
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
    populate_array(array, data, [length], [word(size)], word(size), None)
    return array._getvalue()


@intrinsic
def array_at(typingctx, job, address, length):
    """Return a flat array of the model's precision, given by its address and its length."""
    kind = types.Array(job.number, 1, "C")

    def codegen(context, builder, signature, args):
        return _flat_array(context, builder, kind, args[1], args[2])

    return kind(job, types.int64, types.int64), codegen


@intrinsic
def scratch(typingctx, job, address):
    """Return this thread's scratch memory, given by its address, as a flat array of the model's precision."""
    kind = types.Array(job.number, 1, "C")

    def codegen(context, builder, signature, args):
        return _flat_array(context, builder, kind, args[1], ir.IntType(64)(SCRATCH * 8 // job.number.bitwidth))

    return kind(job, address), codegen


@njit(**OPTIONS)
def share(size, thread, threads):
    """Return where a thread's share of so many things begins and ends."""
    return size * thread // threads, size * (thread + 1) // threads


class At(NamedTuple):
    """An array in a job of a plan, whose address is not known yet: it begins so many elements into one of the bases."""

    base: int
    start: int
    shape: tuple[int, ...]


class Kernel:
    """A compiled function of (job, step, work, thread, threads), which does a thread's share of a job.

    ``read(job)`` returns its arguments. ``step`` counts the steps of a training that are run from one table, ``work``
    is the address of the thread's `scratch`. The function is compiled for a precision when it is first needed.
    """

    def __init__(self, function: Callable, specification: str, options: dict) -> None:
        self.function, self.specification, self._options = function, specification, options
        self._kinds = [(letters[0], int(letters[1:] or 0)) for letters in specification.split()]
        self._compiled: dict[np.dtype, CFunc] = {}

    def _new(self, dtype: np.dtype) -> CFunc:
        """Return the function for a precision, not yet compiled: ``numba.cfunc`` would compile it at once."""
        signature = types.void(JobType(self.specification, numba.from_dtype(dtype)), *[types.int64] * 4)
        options = dict(self._options)
        cache = options.pop("cache")
        function = CFunc(self.function, numba.core.sigutils.normalize_signature(signature), {}, options)
        if cache:
            function.enable_caching()
        return function

    def address(self, dtype: np.dtype) -> int:
        """Return the address of the code for a precision."""
        if dtype not in self._compiled:
            function = self._new(dtype)
            function.compile()
            self._compiled[dtype] = function
        address: Any = self._compiled[dtype].address
        return int(address)

    def is_compiled(self, dtype: DTypeLike) -> bool:
        """Return whether the code for a precision is in this process, or in Numba's cache on disk."""
        dtype = np.dtype(dtype)
        return dtype in self._compiled or is_on_disk(self._new(dtype), dtype)

    def job(self, dtype: np.dtype, *arguments: Any, work: int, ends_stage: bool = True) -> list[int]:
        """Return the row of a job.

        Parameters
        ----------
        dtype : the precision
        arguments : arrays, `At`, integers and floats, as specified
        work : int, how much it is: see ``SERIAL``
        ends_stage : bool, whether jobs that follow wait for it

        Raises
        ------
        TypeError
            If an argument is not what the kernel was compiled for: it would read memory that is not its own.
        """
        words = [self.address(dtype), work, int(ends_stage)]
        for (letter, dimensions), argument in zip(self._kinds, arguments, strict=True):
            if letter == INTEGER:
                words.append(int(argument))
            elif letter == NUMBER:
                words.append(struct.unpack("q", struct.pack("d", argument))[0])
            else:
                expected = DTYPES[letter] or dtype
                if isinstance(argument, At):
                    words.append(argument.start * expected.itemsize)
                else:
                    if argument.dtype != expected or argument.ndim != dimensions or not argument.flags.c_contiguous:
                        raise TypeError(
                            f"{self.function.__name__} got an array {argument.shape} of {argument.dtype} with strides "
                            f"{argument.strides}; expected a C-contiguous one of {expected}, {dimensions}-dimensional"
                        )
                    words.append(address(argument))
                words += argument.shape
        return words

    def bases(self, *arguments: Any) -> list[int]:
        """Return for each word of a job which base, from 1, it counts from: that of an `At`. It is 0 for all others."""
        bases = [0] * ARGUMENTS
        for (_, dimensions), argument in zip(self._kinds, arguments, strict=True):
            bases += [argument.base + 1 if isinstance(argument, At) else 0] + [0] * dimensions
        return bases

    def __call__(self, dtype: np.dtype, *arguments: Any, work: int) -> None:
        """Do a job at once, with all its shares; an open `Recording` keeps it too.

        Arrays with gaps are copied, and back. Not so for a recording, whose jobs would go on with the copies.
        """
        used = arguments
        if _local.recording is None:
            used = tuple([np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in used])
        row = self.job(dtype, *used, work=work)
        _local.job[0, : len(row)] = row
        run(_local.job, keeping=used, parallel=work >= SERIAL)
        for array, copy in zip(arguments, used):
            if copy is not array and array.flags.writeable:
                array[...] = copy


def kernel(specification: str, **options: Any) -> Callable[[Callable], Kernel]:
    """Return a decorator that makes a `Kernel` of a function, given what its jobs consist of.

    Each word of the specification is an argument: a letter of ``DTYPES`` and the number of dimensions of an array,
    ``INTEGER`` or ``NUMBER``.
    """
    return lambda function: Kernel(function, specification, OPTIONS | options)


def variant(function: Callable, name: str, **names: Any) -> Callable:
    """Return a function of the same text under another name, in which some names mean something else.

    Numba's cache knows a kernel by its name: that of a closure would be compiled anew in each process.
    """
    other = FunctionType(function.__code__, function.__globals__ | names, name)
    other.__qualname__, other.__doc__ = name, function.__doc__
    return other


@njit(cache=CACHE)
def address(array):
    """Return the address of an array. NumPy takes seven times as long for it."""
    return array.ctypes.data


def table(rows: Sequence[list[int]]) -> NDArray[np.int64]:
    """Return rows of words as a table."""
    result = np.zeros((len(rows), LENGTH), np.int64)
    for n, row in enumerate(rows):
        result[n, : len(row)] = row
    return result


# Running ------------------------------------------------------------------------------------------------------------

#: Bytes of the scratch memory of a thread: what the products of `matmul` and `zeros` need.
SCRATCH = 2**19


class _Local(threading.local):
    """What belongs to a Python thread: the scratch memory of its kernels, and its open recording."""

    def __init__(self):
        memory = np.zeros(numba.config.NUMBA_NUM_THREADS * SCRATCH + LINE, np.uint8)
        start = -memory.ctypes.data % LINE
        self.memory, self.address = memory, memory.ctypes.data + start
        self.job = np.zeros((1, LENGTH), np.int64)  # of a kernel that is called by itself
        self.recording: Recording | None = None


_local = _Local()


class Recording:
    """Keeps the jobs that this Python thread does while it is open, to run them again for other steps.

    Attributes
    ----------
    table : the jobs, once it is closed
    """

    def __init__(self) -> None:
        self._tables: list[NDArray[np.int64]] = [table([])]
        self._kept: list[Any] = []  # the arrays that the jobs read and write: they must live as long

    def __enter__(self) -> "Recording":
        _local.recording = self
        return self

    def __exit__(self, *exception: object) -> None:
        _local.recording = None
        self.table = np.concatenate(self._tables)

    def keep(self, jobs: NDArray[np.int64], arguments: Any) -> None:
        """Add jobs."""
        self._tables.append(jobs.copy())
        self._kept.append(arguments)


def run(jobs: NDArray[np.int64], first: int = 0, last: int = 1, keeping: Any = (), parallel: bool = True) -> None:
    """Do the jobs of a table for each step from ``first`` to before ``last``; the results are there when it returns.

    Parameters
    ----------
    jobs : of `table`
    first, last : int
    keeping : the arrays of the jobs, for an open recording
    parallel : bool, whether there is a stage that several threads share; to find that there are threads takes a while
    """
    if _local.recording is not None:
        _local.recording.keep(jobs, keeping)
    _run(jobs, first, last, _local.address, threads() if parallel else 1)


@intrinsic
def _call(typingctx, job, step, work, thread, threads):
    """Call the kernel of a job, a row given as an array."""

    def codegen(context, builder, signature, args):
        word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        row = context.make_array(signature.args[0])(context, builder, args[0]).data
        function = ir.FunctionType(ir.VoidType(), [byte, word, word, word, word])
        address = builder.inttoptr(builder.load(row), function.as_pointer())
        builder.call(address, [builder.bitcast(row, byte), *args[1:]])
        return context.get_dummy_value()

    i = types.int64
    return types.void(job, i, i, i, i), codegen


@njit(cache=CACHE)
def _do(jobs, first, last, step, work, thread, threads):
    for n in range(first, last):
        _call(jobs[n], step, work, thread, threads)


@njit(cache=CACHE, parallel=True)
def _run(jobs, first, last, work, threads):
    for step in range(first, last):
        start, amount = 0, 0
        for n in range(len(jobs)):
            amount += jobs[n, WORK]
            if jobs[n, ENDS_STAGE] or n == len(jobs) - 1:
                if threads == 1 or amount < SERIAL:
                    _do(jobs, start, n + 1, step, work, np.int64(0), np.int64(1))
                else:
                    for thread in prange(threads):
                        _do(jobs, start, n + 1, step, work + thread * SCRATCH, np.int64(thread), np.int64(threads))
                start, amount = n + 1, 0
