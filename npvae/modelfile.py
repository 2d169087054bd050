"""Model files: one ``.npz`` with a JSON header and plain numbers. What the header means is up to `persistence`.

A file is replaced atomically, so it is always complete. Nothing in it is ever executed: it contains no pickles, and
none would be read. Before a member is read, its declared size is compared with its actual size; a SHA-256 digest of all
members detects damage.
"""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

PathLike = str | os.PathLike[str]

FORMAT = "npvae model"

#: The version that is written, and those that are read. Version 2 has other names for some entries of the header;
#: before version 4 every optimizer had the same array; before version 5 columns that hardly vary were part of x, and no
#: data was binarized.
VERSION, READABLE = 5, (2, 3, 4, 5)

#: The allowed types of a member, as written in the file: the header's bytes, and little-endian numbers.
TYPES = ("|u1", "<f4", "<f8", "<i8")


def save(path: PathLike, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write a model file under exactly this name. An existing file is replaced only once the new one is complete.

    Parameters
    ----------
    path : str or path
    header : dict, JSON-serializable
    arrays : dict of name -> array of float32, float64 or int64

    Raises
    ------
    TypeError
        If an array has another type.
    OSError
        If the file cannot be written, for example because the disk is full or the folder is read-only. An existing file
        is then unchanged.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(pathlib.Path(folder, "model.npz"), {"seed": 1}, {"parameters": np.zeros(3)})
    ...     header, arrays = load(pathlib.Path(folder, "model.npz"))
    >>> header["seed"], arrays["parameters"]
    (1, array([0., 0., 0.]))
    """
    path = Path(path).resolve()  # a symbolic link is followed, not replaced
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder; expected the name of a file")
    text = json.dumps({"format": FORMAT, "version": VERSION, **header})
    members: dict[str, Any] = {"header": np.frombuffer(text.encode(), np.uint8)}
    for name, array in arrays.items():
        members[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        if members[name].dtype.str not in TYPES:
            raise TypeError(f"the array {name} has type {array.dtype}; expected float32, float64 or int64")
    # Each writer has its own temporary file, in the same folder so that the rename is atomic.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with open(temporary, "xb") as file:
                np.savez(file, **members, digest=_digest(members))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Flush a file's new name to the disk, on systems where folders can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: PathLike) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a model file.

    Returns
    -------
    header : dict, with the entries ``format`` and ``version`` as well
    arrays : dict of name -> array

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not a model file, or has a different version.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(pathlib.Path(folder, "model.npz"), {"seed": 1}, {"parameters": np.zeros(3)})
    ...     load(pathlib.Path(folder, "model.npz"))
    ({'format': 'npvae model', 'version': 5, 'seed': 1}, {'parameters': array([0., 0., 0.])})
    """
    with open(path, "rb") as file:
        try:
            members = _read_members(file)
            digest = members.pop("digest", None)
            header = json.loads(members["header"].tobytes())
        except Exception as error:  # damage raises many types of error in zipfile, NumPy and json
            raise ValueError(f"{path} is not an npvae model, or is damaged ({_describe(error)})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not an npvae model: its header says {header!r:.80}")
    if header.get("version") not in READABLE:
        readable = ", ".join(map(str, READABLE))
        raise ValueError(f"{path} has format version {header.get('version')}; this npvae reads {readable}")
    if digest is None or not np.array_equal(digest, _digest(members)):
        raise ValueError(f"{path} is damaged: its members do not match its digest")
    del members["header"]
    return header, members


def is_model(path: PathLike) -> bool:
    """Return whether a file is a model, by its header alone: of any version, with numbers that may be damaged.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     save(path, {"seed": 1}, {"parameters": np.zeros(3)})
    ...     model = is_model(path)
    ...     np.savez(path, X=np.zeros(3))
    ...     model, is_model(path)
    (True, False)
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(_read_array(archive.read("header.npy")).tobytes())
    except Exception:  # damage raises many types of error in zipfile, NumPy and json
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def _describe(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _digest(members: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the SHA-256 of names, types, shapes and contents: uint8 (32,)."""
    total = hashlib.sha256()
    for name in sorted(members):
        array = np.asarray(members[name], members[name].dtype.newbyteorder("<"))
        total.update(f"{name} {array.dtype.str} {'x'.join(map(str, array.shape))} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return np.frombuffer(total.digest(), np.uint8)


def _read_members(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read all arrays of an archive, after checking that it does not declare more bytes than it has."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        declared = sum(max(member.file_size, member.compress_size) for member in members)
        if declared > os.fstat(file.fileno()).st_size:
            raise ValueError("its members declare more bytes than the file has")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or name == member.filename or name in arrays:
                raise ValueError(f"npvae does not write members like {member.filename!r}")
            arrays[name] = _read_array(archive.read(member))
    return arrays


def _read_array(content: bytes) -> NDArray[Any]:
    """Return the array stored in the bytes of a ``.npy`` file."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has an unknown format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    size = len(content) - stream.tell()
    if dtype.str not in TYPES or by_columns or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array is declared as {dtype} {shape} but has {size} bytes")
    return np.frombuffer(content, dtype, offset=stream.tell()).astype(dtype.newbyteorder("=")).reshape(shape)
