"""Find data files: in a folder that the user names, in the cache, or at their public addresses.

The decoded array is always verified by its SHA-256; the files themselves exist in several encodings.
"""

import gzip
import hashlib
import http.client
import logging
import os
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: A path as users give it.
PathLike = str | os.PathLike[str]

ENVIRONMENT_VARIABLE = "NPVAE_DATA"
_SILENCE_SECONDS = 20  # longest wait for a server that sends nothing
_DOWNLOAD_SECONDS = 900  # longest time for a whole file, even from a slow server
_BLOCK_BYTES = 1 << 16
_GZIP_BYTES = 1 << 10  # what gzip may add to a file that it cannot compress


class Source(NamedTuple):
    """One array in one public file.

    Examples
    --------
    >>> from npvae.datasets.formats import parse_idx
    >>> source = Source("mnist", "labels", ("https://example.org/labels.gz",), parse_idx, (3,), 11, sha256="0" * 64)
    >>> source.filename, source.shape
    ('labels', (3,))
    """

    folder: str  # subfolder of the cache; allowed below a data folder too
    filename: str  # without .gz: both compressed and plain files are read
    urls: tuple[str, ...]  # public addresses, tried in this order
    parse: Callable[[bytes, tuple[int, ...]], NDArray[np.uint8]]  # from content and shape to the array
    shape: tuple[int, ...]
    max_bytes: int  # size limit of the decompressed file
    sha256: str  # of the decoded array's bytes


class DownloadError(OSError):
    """A file was not found locally and could not be downloaded.

    Examples
    --------
    >>> issubclass(DownloadError, OSError)
    True
    """


def read(source: Source, data_dir: PathLike | None = None) -> NDArray[np.uint8]:
    """Return the verified array of a source: from the file that `find` finds, or else downloaded into the cache.

    Parameters
    ----------
    source : Source
    data_dir : path, optional
        Folder that must contain the file; nothing is downloaded then.

    Returns
    -------
    ndarray of `source.shape`, uint8

    Raises
    ------
    FileNotFoundError
        If `data_dir` does not contain the file, or there is no folder for a cache.
    DownloadError
        If the file cannot be downloaded from any address.
    ValueError
        If the file found is damaged or a different one.

    Examples
    --------
    >>> import hashlib, pathlib, tempfile
    >>> from npvae.datasets.formats import parse_idx
    >>> source = Source("tiny", "labels", (), parse_idx, (3,), 11, hashlib.sha256(bytes([5, 0, 4])).hexdigest())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read(source, data_dir=folder)
    array([5, 0, 4], dtype=uint8)
    """
    path = find(source, data_dir)
    if path is None:
        if data_dir is None:
            return _download(source, cache_dir() / source.folder)
        raise FileNotFoundError(
            f"data_dir {str(data_dir)!r} does not contain {source.filename} (gzipped or not): "
            f"put it there, or into {Path(data_dir) / source.folder}"
        )
    try:
        return _decode(path, source)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def find(source: Source, data_dir: PathLike | None = None) -> Path | None:
    """Return the path of a source's file, or None if there is none.

    The file is looked for in `data_dir` if that is given, else in $NPVAE_DATA and then in the cache.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from npvae.datasets.formats import parse_idx
    >>> source = Source("tiny", "labels", (), parse_idx, (3,), 11, sha256="0" * 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     before = find(source, folder)
    ...     pathlib.Path(folder, "labels.gz").touch()
    ...     before, find(source, folder).name
    (None, 'labels.gz')
    """
    for folder in _folders(data_dir):
        for below in (folder, folder / source.folder):
            for path in (below / source.filename, below / f"{source.filename}.gz"):
                if path.is_file():
                    return path
    return None


def cache_dir() -> Path:
    """Return the folder for downloads: $XDG_CACHE_HOME/npvae, else ~/.cache/npvae.

    Raises
    ------
    FileNotFoundError
        If there is no home folder.

    Examples
    --------
    >>> cache_dir().name
    'npvae'
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification ignores relative paths
        return Path(base) / "npvae"
    try:
        return Path.home() / ".cache" / "npvae"
    except RuntimeError:
        raise FileNotFoundError(
            "there is no home folder to keep data in: set "
            f"{ENVIRONMENT_VARIABLE}, HOME or XDG_CACHE_HOME, or pass data_dir"
        ) from None


def _folders(data_dir: PathLike | None) -> Iterator[Path]:
    # a generator, so that a missing home folder is an error only where the cache is needed
    if data_dir is not None:
        yield Path(data_dir)
        return
    if os.environ.get(ENVIRONMENT_VARIABLE):
        yield Path(os.environ[ENVIRONMENT_VARIABLE])
    yield cache_dir()


def _decode(path: PathLike, source: Source) -> NDArray[np.uint8]:
    """Return the verified array of a file. The message of a ValueError does not contain the file's name."""
    array = source.parse(_read_bounded(path, source.max_bytes), source.shape)
    found = hashlib.sha256(array.data).hexdigest()
    if found != source.sha256:
        raise ValueError(f"differs from the public data: the SHA-256 is {found}, expected {source.sha256}")
    return array


def _read_bounded(path: PathLike, max_bytes: int) -> bytes:
    """Return the content of a file, decompressed if gzipped; at most one byte more than `max_bytes`."""
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    with (gzip.open if gzipped else open)(path, "rb") as file:
        try:
            return file.read(max_bytes + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"is truncated or damaged ({error})") from error


def _download(source: Source, folder: Path) -> NDArray[np.uint8]:
    """Return the array from the first address that delivers it, and keep its file in the folder."""
    failures = []
    for url in source.urls:
        try:
            return _download_from(url, source, folder)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"\n  {url}: {error or type(error).__name__}")
    raise DownloadError(
        f"{source.filename} is not on this machine and could not be downloaded. Put it into "
        f"{folder}, or name its folder by data_dir or {ENVIRONMENT_VARIABLE}. Tried:" + "".join(failures)
    )


def _download_from(url: str, source: Source, folder: Path) -> NDArray[np.uint8]:
    """Download and verify a file. Only a complete, verified file gets its final name."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / url.rpartition("/")[2]
    handle, part = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=folder)
    try:
        with open(handle, "wb") as file:
            _fetch(url, file, source.max_bytes)
            file.flush()
            os.fsync(file.fileno())
        array = _decode(part, source)
        os.replace(part, target)
        return array
    finally:
        Path(part).unlink(missing_ok=True)


def _fetch(url: str, file: IO[bytes], max_bytes: int) -> None:
    """Copy what a server sends to a file, within limits of time and size."""
    logger.info("downloading %s", url)
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    received = 0
    with urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as response:
        # read1 returns what has arrived, so that the deadline is checked even if the server is slow
        while block := response.read1(_BLOCK_BYTES):
            received += len(block)
            if received > max_bytes + _GZIP_BYTES:
                raise ValueError(f"sends more than the {max_bytes} bytes expected")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {_DOWNLOAD_SECONDS} seconds")
            file.write(block)
