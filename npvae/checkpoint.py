"""Model files: one ``.npz`` with a JSON header and plain arrays, no pickle, written atomically."""

import json
import os
import secrets
from pathlib import Path

import numpy as np

FORMAT = "npvae model"
VERSION = 1


def save(path, header, arrays):
    """Write a model file, whole or not at all, under exactly the name given.

    Parameters
    ----------
    path : str or path
    header : dict, of what JSON can hold
    arrays : dict of name -> array
    """
    path = Path(path)
    text = json.dumps({"format": FORMAT, "version": VERSION, **header})
    # A name of its own for each writer, in the same folder, so that the rename is atomic.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, header=np.array(text), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path):
    """Read a model file.

    Returns
    -------
    header : dict; arrays : dict of name -> array

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind, or of a later version.
    """
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays.pop("header")))
        except Exception as error:  # what damage does to the layers below has no end of names
            raise ValueError(f"{path} is not an npvae model, or is damaged ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not an npvae model: its header says {header!r:.80}")
    if header.get("version") != VERSION:
        raise ValueError(f"{path} has format version {header.get('version')}; this npvae reads version {VERSION}")
    return header, arrays
