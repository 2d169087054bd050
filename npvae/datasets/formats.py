"""Parsers for the three file formats, from bytes to uint8 arrays.

A parser accepts only a complete file of the given shape. Its error messages are the second half of a sentence: the
caller, who knows the name of the file, puts it in front.
"""

import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_MAT_HEADER_BYTES = 128
_MAT_COMPRESSED = 15


def parse_idx(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Parse an IDX file, the format of MNIST: a magic number, the dimensions (big-endian), then the values.

    Parameters
    ----------
    content : bytes
    shape : tuple of int
        The dimensions that the file must declare.

    Returns
    -------
    ndarray of `shape`, uint8

    Raises
    ------
    ValueError
        If the magic number, the dimensions or the number of bytes differ from what is expected.

    Examples
    --------
    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), shape=(3,))
    array([5, 0, 4], dtype=uint8)
    """
    magic = bytes([0, 0, 8, len(shape)])  # 8 stands for unsigned bytes
    if content[:4] != magic:
        raise ValueError(f"starts with 0x{content[:4].hex()}, expected the IDX magic number 0x{magic.hex()}")
    start = 4 + 4 * len(shape)
    if len(content) >= start and (declared := struct.unpack_from(f">{len(shape)}I", content, 4)) != shape:
        raise ValueError(f"declares the dimensions {declared}, expected {shape}")
    _check_size(len(content), start + math.prod(shape))
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def parse_amat(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    r"""Parse rows of the digits 0 and 1 as text: one space between two digits, a newline after each row.

    Parameters
    ----------
    content : bytes
    shape : tuple of int
        Number of rows, and of digits in a row.

    Returns
    -------
    ndarray of `shape`, uint8

    Raises
    ------
    ValueError
        If the number of bytes differs from what is expected, or a character is not a digit or separator as expected.

    Examples
    --------
    >>> parse_amat(b"0 1\n1 1\n", shape=(2, 2))
    array([[0, 1],
           [1, 1]], dtype=uint8)
    """
    _check_size(len(content), 2 * math.prod(shape))
    pairs = np.frombuffer(content, np.uint8).reshape(*shape, 2)
    values = pairs[..., 0] - np.uint8(ord("0"))  # characters below "0" wrap around to values above 1
    if values.max() > 1:
        raise ValueError("contains values other than the digits 0 and 1")
    if (pairs[:, :-1, 1] != ord(" ")).any() or (pairs[:, -1, 1] != ord("\n")).any():
        raise ValueError(f"is not {shape[0]} lines of {shape[1]} digits separated by single spaces")
    return values


def parse_frey(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Parse the Frey Face file: MATLAB 5, with a variable `ff` that holds one frame a column.

    Parameters
    ----------
    content : bytes
    shape : tuple of int
        Number of frames, and of pixels in a frame.

    Returns
    -------
    ndarray of `shape`, uint8

    Raises
    ------
    ValueError
        If the file is damaged or has no such variable.

    Examples
    --------
    >>> import io
    >>> import scipy.io
    >>> file = io.BytesIO()
    >>> scipy.io.savemat(file, {"ff": np.array([[1, 2], [3, 4], [5, 6]], np.uint8)})
    >>> parse_frey(file.getvalue(), shape=(2, 3))
    array([[1, 3, 5],
           [2, 4, 6]], dtype=uint8)
    """
    from scipy.io import loadmat

    _check_inflated_size(content, limit=2 * math.prod(shape))
    try:
        variables = loadmat(io.BytesIO(content), variable_names=["ff"])
    except Exception as error:  # SciPy's parser raises many types of error on damaged files
        raise ValueError(f"is not a complete MATLAB file ({error})") from error
    if "ff" not in variables:
        raise ValueError("has no variable ff")
    columns = variables["ff"]
    if columns.dtype != np.uint8 or columns.shape != shape[::-1]:
        raise ValueError(f"has ff of {columns.dtype} {columns.shape}, expected uint8 {shape[::-1]}")
    return np.ascontiguousarray(columns.T)


def _check_size(found: int, expected: int) -> None:
    if found < expected:
        raise ValueError(f"is truncated: {found} bytes, expected {expected}")
    if found > expected:
        raise ValueError(f"has more than the {expected} bytes expected")


def _check_inflated_size(content: bytes, limit: int) -> None:
    """Refuse compressed MATLAB variables of more than `limit` bytes: SciPy would decompress any size."""
    order = "<" if content[126:128] == b"IM" else ">"
    position = _MAT_HEADER_BYTES
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, position)
        packed = content[position + 8 : position + 8 + size]
        if kind == _MAT_COMPRESSED and len(_inflate(packed, limit + 1)) > limit:
            raise ValueError(f"has a variable of more than {limit} bytes")
        position += 8 + size


def _inflate(packed: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error as error:
        raise ValueError(f"is damaged ({error})") from error
