"""Where data files come from: a folder the user names, the cache, or their public homes.

Every array is verified by its SHA-256 wherever it comes from, since files travel in several encodings.
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "NPVAE_DATA"
_SILENCE_SECONDS = 20  # after which a server counts as gone
_DOWNLOAD_SECONDS = 900  # for a whole file, however steadily it trickles
_BLOCK_BYTES = 1 << 16
_GZIP_BYTES = 1 << 10  # that gzipping may add to a file it cannot make smaller


class Source(NamedTuple):
    """One array in one public file."""

    folder: str  # where it lies in the cache, and may lie below a data folder
    filename: str  # without .gz: files are read gzipped or not
    urls: tuple  # public addresses, tried in this order
    parse: Callable  # from (bytes, shape) to an array of uint8
    shape: tuple
    max_bytes: int  # of the file once inflated
    sha256: str  # of the decoded array's bytes


class DownloadError(OSError):
    """A file is in none of the folders looked at, and could not be fetched."""


def read(source, data_dir=None):
    """The verified array of a source, from where `find` finds it, else downloaded into the cache.

    Parameters
    ----------
    source : Source
    data_dir : path, optional
        Folder that must have the file; nothing is downloaded then.

    Returns
    -------
    ndarray of `source.shape`, uint8

    Raises
    ------
    FileNotFoundError
        If `data_dir` lacks the file, or there is no folder for a cache.
    DownloadError
        If no address delivers the file.
    ValueError
        If the file found is damaged or another one.
    """
    path = find(source, data_dir)
    if path is None and data_dir is None:
        return _download(source, cache_dir() / source.folder)
    if path is None:
        raise FileNotFoundError(
            f"data_dir {str(data_dir)!r} lacks {source.filename} (gzipped or not): "
            f"put it there, or into {Path(data_dir) / source.folder}"
        )
    try:
        return _decode(path, source)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def find(source, data_dir=None):
    """The path of a source's file, or None: in `data_dir` if given, else in $NPVAE_DATA, else the cache."""
    for folder in _folders(data_dir):
        for below in (folder, folder / source.folder):
            for path in (below / source.filename, below / f"{source.filename}.gz"):
                if path.is_file():
                    return path
    return None


def cache_dir():
    """The folder for downloads: $XDG_CACHE_HOME/npvae, else ~/.cache/npvae.

    Raises
    ------
    FileNotFoundError
        If there is no home folder.
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


def _folders(data_dir):
    # one after the other, so that a missing home folder matters only where the cache is needed
    if data_dir is not None:
        yield Path(data_dir)
        return
    if os.environ.get(ENVIRONMENT_VARIABLE):
        yield Path(os.environ[ENVIRONMENT_VARIABLE])
    yield cache_dir()


def _decode(path, source):
    """The verified array of a file; the ValueErrors say what is wrong with it, but not its name."""
    array = source.parse(_read_bounded(path, source.max_bytes), source.shape)
    found = hashlib.sha256(array).hexdigest()
    if found != source.sha256:
        raise ValueError(f"has other values than the public data: their SHA-256 is {found}, expected {source.sha256}")
    return array


def _read_bounded(path, max_bytes):
    """The content of a file, inflated if gzipped, but at most one byte more than is expected."""
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    with (gzip.open if gzipped else open)(path, "rb") as file:
        try:
            return file.read(max_bytes + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"is cut short or damaged ({error})") from error


def _download(source, folder):
    """The array from the first address that delivers it; its file stays in the folder."""
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


def _download_from(url, source, folder):
    """Fetch and verify a file: it appears under its name whole, or not at all."""
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


def _fetch(url, file, max_bytes):
    """Copy what a server sends, within limits of time and size."""
    logger.info("downloading %s", url)
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    received = 0
    with urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as response:
        # read1 returns what has arrived, so that the deadline is looked at however slow the server is
        while block := response.read1(_BLOCK_BYTES):
            received += len(block)
            if received > max_bytes + _GZIP_BYTES:
                raise ValueError(f"sends more than the {max_bytes} bytes expected")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {_DOWNLOAD_SECONDS} seconds")
            file.write(block)
