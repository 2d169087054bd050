"""How the CUDA backend reaches the device: streams, kernel launches, and arrays in the device's memory.

A launch returns at once; nothing here waits for a kernel except `to_numpy`. The kernels stand in ``cuda_kernels`` and
``cuda_product``; the functions that every backend has are put together in ``cuda``.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import DTypeLike, NDArray

from . import cuda_kernels as kernels
from .interface import Array

# A training step has kernels of one block. They cannot fill a GPU, and a warning at each of them would not help.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


# Launches -------------------------------------------------------------------------------------------------------------


class _Launching(threading.local):
    """Where each Python thread launches its kernels: on the default stream, another one, or into a graph."""

    stream: Any = 0
    branches: tuple = ()  # of the graph: what has been launched beside, and nobody has waited for


_launching = _Launching()


@contextlib.contextmanager
def launching_on(stream: Any) -> Iterator[None]:
    """Launch on this stream, or into this graph builder, while the context is open."""
    before, _launching.stream = _launching.stream, stream
    try:
        yield
    finally:
        _launching.stream = before


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """Launch beside the kernels that follow this context, in a graph; on a stream kernels run in order as always.

    `wait` must come before anything reads the results.
    """
    if not hasattr(_launching.stream, "split"):
        yield
        return
    _, branch = _launching.stream.split(2)
    _launching.branches += (branch,)
    with launching_on(branch):
        yield


def wait() -> None:
    """Let the kernels that follow wait for all that was launched `beside`."""
    if _launching.branches:
        branches, _launching.branches = _launching.branches, ()
        _launching.stream.join(_launching.stream, *branches)


def launch(kernel: Any, grid: int | tuple, block: int | tuple, *arguments: Any) -> None:
    """Launch a kernel on the stream of `launching_on`: ``grid`` blocks of ``block`` threads (int or tuple)."""
    kernel[grid, block, _launching.stream](*arguments)


def n_blocks(size: int, per_block: int = kernels.THREADS) -> int:
    """Return how many blocks cover ``size`` elements; at least one, because an empty grid is an error."""
    return max(1, -(-size // per_block))


# Arrays ---------------------------------------------------------------------------------------------------------------


def empty(shape: int | tuple, dtype: DTypeLike) -> Array:
    """See `reference.empty`; MemoryError if the device has no room for the array."""
    with explained(f"an array of shape {shape}"):
        return cuda.device_array(shape, dtype)


def get_or_empty(out: tuple, *shapes: tuple, dtype: DTypeLike) -> tuple:
    """Return the buffers in ``out``, with a new array of its shape in place of each None."""
    return tuple(empty(shape, dtype) if buffer is None else buffer for buffer, shape in zip(out, shapes))


_nothing: dict[np.dtype, Array] = {}


def nothing(dtype: DTypeLike) -> Array:
    """Return an array (0,), which a kernel is given for None; made once, as a captured graph must allocate nothing."""
    dtype = np.dtype(dtype)
    if dtype not in _nothing:
        _nothing[dtype] = empty(1, dtype)[:0]
    return _nothing[dtype]


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the driver's out-of-memory error into a MemoryError that says which allocation failed."""
    try:
        yield
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
        raise MemoryError(
            f"the GPU has no room for {what}; a smaller batch_size or model may fit, or backend='cpu'"
        ) from None


def flat(factor: Array) -> Array:
    """Return the numbers of an array, row after row, without a copy."""
    return factor.reshape(factor.size) if factor.size else nothing(factor.dtype)


def asarray(array: Array, dtype: DTypeLike) -> Array:
    """See `reference.asarray`: copy to the device; an array that is there in this dtype is returned as it is."""
    if is_on_device(array):
        if array.dtype == dtype:
            return array
        array = array.copy_to_host()
    with explained(f"an array of shape {np.shape(array)}"):
        return cuda.to_device(np.ascontiguousarray(array, dtype))


def to_numpy(array: Array) -> NDArray:
    """See `reference.to_numpy`: wait for the kernels launched before, and copy to the host."""
    return array.copy_to_host() if is_on_device(array) else array


def is_on_device(array: Any) -> bool:
    """Tell whether an array is in the device's memory."""
    return hasattr(array, "copy_to_host")


# Minibatches ----------------------------------------------------------------------------------------------------------


def readable(dtype: DTypeLike) -> np.dtype:
    """Return the dtype in which data of this dtype is copied to the device: uint8, float32 and float64 stay."""
    return np.dtype(dtype if dtype in (np.uint8, np.float32, np.float64) else np.float64)


def gather_rows(X: Array, rows: Array, shift: Array, scale: Array, out: Array) -> None:
    """Copy a minibatch of data on the device as floats: ``out = (X[rows] - shift) * scale``.

    Parameters
    ----------
    X (N, D) in a `readable` dtype; rows (M,) int64; shift, scale (D,) float64; out (M, D). All on the device.
    """
    launch(kernels.gather, (out.shape[0], n_blocks(out.shape[1])), kernels.THREADS, X, rows, shift, scale, out)


def binarize_rows(x: Array, keys: Array, out: Array) -> None:
    """Draw 0 or 1 for each number of a minibatch: see `reference.binarize`.

    Parameters
    ----------
    x, out (M, D); keys (M,) uint64. All on the device.
    """
    launch(kernels.binarize, (out.shape[0], n_blocks(out.shape[1])), kernels.THREADS, x, keys, out)


def record_value(log_likelihood: Array, kl: Array, values: Array, position: Array, gradient: Any) -> None:
    """Record the value of a step: ``values[position] = mean(log_likelihood) - mean(kl)``, then ``position += 1``.

    Parameters
    ----------
    log_likelihood (L * M,) in nats; kl in nats: (M,), or its estimates (L * M,) from the samples;
    values (steps,) float64; position (1,) int32; gradient : `cuda.Gradient`, flagged if the value is not finite
    """
    launch(kernels.record_value, 1, kernels.THREADS, log_likelihood, kl, values, position, gradient.bad)
