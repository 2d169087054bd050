"""Parsers of the three file formats, from bytes to arrays of uint8.

Each takes nothing but a whole file of the given shape. Their errors are the second half of a sentence that
begins with the name of the file, which the caller knows.
"""

import io
import math
import struct
import zlib

import numpy as np

_MAT_HEADER_BYTES = 128
_MAT_COMPRESSED = 15


def parse_idx(content, shape):
    """Read an IDX file, the format of MNIST: a magic number, the dimensions (big-endian), then the bytes.

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
        If the magic number, the dimensions or the number of bytes are others than expected.
    """
    magic = bytes([0, 0, 8, len(shape)])  # 8 stands for unsigned bytes
    if content[:4] != magic:
        raise ValueError(f"starts with 0x{content[:4].hex()}, expected the IDX magic number 0x{magic.hex()}")
    start = 4 + 4 * len(shape)
    if len(content) >= start and (declared := struct.unpack_from(f">{len(shape)}I", content, 4)) != shape:
        raise ValueError(f"declares the dimensions {declared}, expected {shape}")
    _check_size(len(content), start + math.prod(shape))
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def parse_amat(content, shape):
    """Read rows of the digits 0 and 1 as text: one space between two digits, a newline after each row.

    Parameters
    ----------
    content : bytes
    shape : tuple of int
        The number of rows and of digits in a row.

    Returns
    -------
    ndarray of `shape`, uint8

    Raises
    ------
    ValueError
        If the number of bytes is another than expected, or a character is not what stands at its place.
    """
    _check_size(len(content), 2 * math.prod(shape))
    pairs = np.frombuffer(content, np.uint8).reshape(*shape, 2)
    values = pairs[..., 0] - np.uint8(ord("0"))  # characters below "0" wrap around, to more than 1
    if values.max() > 1:
        raise ValueError("has other values than the digits 0 and 1")
    if (pairs[:, :-1, 1] != ord(" ")).any() or (pairs[:, -1, 1] != ord("\n")).any():
        raise ValueError(f"is not {shape[0]} lines of {shape[1]} digits separated by single spaces")
    return values


def parse_frey(content, shape):
    """Read the Frey Face file: MATLAB 5, whose variable `ff` has one frame a column.

    Parameters
    ----------
    content : bytes
    shape : tuple of int
        The number of frames and of pixels in a frame.

    Returns
    -------
    ndarray of `shape`, uint8

    Raises
    ------
    ValueError
        If the file is damaged or has no such variable.
    """
    from scipy.io import loadmat

    _check_inflated_size(content, limit=2 * math.prod(shape))
    try:
        variables = loadmat(io.BytesIO(content), variable_names=["ff"])
    except Exception as error:  # on a damaged file, SciPy raises whatever its parser ran into
        raise ValueError(f"is not a whole MATLAB file ({error})") from error
    if "ff" not in variables:
        raise ValueError("has no variable ff")
    columns = variables["ff"]
    if columns.dtype != np.uint8 or columns.shape != shape[::-1]:
        raise ValueError(f"has ff of {columns.dtype} {columns.shape}, expected uint8 {shape[::-1]}")
    return np.ascontiguousarray(columns.T)


def _check_size(found, expected):
    if found < expected:
        raise ValueError(f"is cut short: {found} bytes, expected {expected}")
    if found > expected:
        raise ValueError(f"goes on past the {expected} bytes expected")


def _check_inflated_size(content, limit):
    """Refuse compressed MATLAB variables of more than `limit` bytes: SciPy would inflate any size."""
    order = "<" if content[126:128] == b"IM" else ">"
    position = _MAT_HEADER_BYTES
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, position)
        packed = content[position + 8 : position + 8 + size]
        if kind == _MAT_COMPRESSED and len(_inflate(packed, limit + 1)) > limit:
            raise ValueError(f"has a variable of more than {limit} bytes")
        position += 8 + size


def _inflate(packed, limit):
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error as error:
        raise ValueError(f"is damaged ({error})") from error
