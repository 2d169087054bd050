"""Model files: one ``.npz`` of a JSON header and plain numbers, written whole or not at all, and read with suspicion.

Nothing in a file is ever executed: it holds no pickles, and none would be read. What a member declares is compared with
what is there before it is read, and a digest of all members tells whether they belong together.
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

import numpy as np

FORMAT = "npvae model"
VERSION = 2

#: Types that a member may have, as they stand in the file: the header's bytes, and little-endian floats.
TYPES = ("|u1", "<f4", "<f8")


def save(path, header, arrays):
    """Write a model file under exactly the name given; what was there before stays until the new one is complete.

    Parameters
    ----------
    path : str or path
    header : dict, of what JSON can hold
    arrays : dict of name -> array (n,), float32 or float64

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, the folder read-only. The previous file is then as it was.
    """
    path = Path(path).resolve()  # a link stays one
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder; expected the name of a file")
    text = json.dumps({"format": FORMAT, "version": VERSION, **header})
    members = {"header": np.frombuffer(text.encode(), np.uint8)}
    members |= {name: np.asarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    # A name of its own for each writer, in the same folder, so that the rename is atomic.
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


def _sync_folder(folder):
    """Have the new name of a file reach the disk, too, where folders can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path):
    """Read a model file.

    Returns
    -------
    header : dict; arrays : dict of name -> array (n,)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind, or of another version.
    """
    with open(path, "rb") as file:
        try:
            members = _read_members(file)
            digest = members.pop("digest", None)
            header = json.loads(members["header"].tobytes())
        except Exception as error:  # what damage does to the layers below has no end of names
            raise ValueError(f"{path} is not an npvae model, or is damaged ({_describe(error)})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not an npvae model: its header says {header!r:.80}")
    if header.get("version") != VERSION:
        raise ValueError(f"{path} has format version {header.get('version')}; this npvae reads version {VERSION}")
    if digest is None or not np.array_equal(digest, _digest(members)):
        raise ValueError(f"{path} is damaged: its parts do not belong together")
    del members["header"]
    return header, members


def _describe(error):
    return f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _digest(members):
    """Return a SHA-256 of names, types and contents: uint8 (32,)."""
    total = hashlib.sha256()
    for name in sorted(members):
        array = np.asarray(members[name], members[name].dtype.newbyteorder("<"))
        total.update(f"{name} {array.dtype.str} {array.size} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return np.frombuffer(total.digest(), np.uint8)


def _read_members(file):
    """Read all arrays of an archive that declares no more than it has."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        declared = sum(max(member.file_size, member.compress_size) for member in members)
        if declared > os.fstat(file.fileno()).st_size:
            raise ValueError("it declares more than it holds")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or name == member.filename or name in arrays:
                raise ValueError(f"its member {member.filename!r} is not one that npvae writes")
            arrays[name] = _read_array(archive.read(member))
    return arrays


def _read_array(content):
    """Return the flat array in the bytes of a ``.npy`` file."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has an unknown format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    size = len(content) - stream.tell()
    if dtype.str not in TYPES or len(shape) != 1 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array is declared as {dtype} {shape}, in {size} bytes")
    return np.frombuffer(content, dtype, offset=stream.tell()).astype(dtype.newbyteorder("="))
