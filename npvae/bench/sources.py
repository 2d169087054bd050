"""The data that contestants train on: real, or generated where there is no folder.

It is made once and stored in a file, so that the memory of a contestant is not that of reading and making data.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Mean share of the words that are in a text, number of topics, and texts that are drawn together.
DENSITY, TOPICS, TOGETHER = 0.01, 20, 500


class Source(NamedTuple):
    """Where data comes from."""

    generate: Callable[[int, int], Any]  # takes the numbers of rows and columns; may return fewer rows
    load: Callable[[str], NDArray] | None = None  # reads the real data from a folder
    largest: int = 255  # the number that stands for 1
    sparse: bool = False  # whether the data is a sparse matrix


def make(source: str, rows: int, columns: int, folder: str | None = None) -> Any:
    """Return data: uint8 (rows, columns), an array or a CSR matrix. Rows of an array that are missing are repeated.

    Parameters
    ----------
    source : str, in ``SOURCES``
    rows, columns : int
    folder : str, optional
        Where the real data is; without it the data is generated.

    Raises
    ------
    ValueError
        If the data has another number of columns.

    Examples
    --------
    >>> make("random", 3, 2).shape
    (3, 2)
    """
    row = SOURCES[source]
    X = row.generate(rows, columns) if folder is None or row.load is None else row.load(folder)
    if X.shape[1] != columns:
        raise ValueError(f"{source} has {X.shape[1]} columns; expected {columns}")
    if row.sparse:
        return X
    if X.dtype != np.uint8:
        X = np.round(X * row.largest).astype(np.uint8)
    return X[:rows] if len(X) >= rows else np.resize(X, (rows, columns))


def store(X: Any, folder: str) -> str:
    """Write data to a file in a folder, and return its path."""
    if isinstance(X, np.ndarray):
        path = Path(folder, "data.npy")
        np.save(path, X)
    else:
        from scipy import sparse

        path = Path(folder, "data.npz")
        sparse.save_npz(path, X, compressed=False)
    return str(path)


def read(path: str) -> Any:
    """Return the data of a file that `store` has written."""
    if path.endswith(".npy"):
        return np.load(path)
    from scipy import sparse

    return sparse.load_npz(path)


def free_memory() -> float:
    """Return the bytes of memory that a process can take without swapping; infinity where it is not known."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return float("inf")


def _pixels(rows, columns):
    """Random pixels without structure, hardly any of them zero."""
    return np.random.default_rng(0).integers(0, 256, (min(rows, 20_000), columns), dtype=np.uint8)


def _digits(rows, columns):
    """Generated digits, of whose pixels as many are zero as of MNIST's."""
    from .. import datasets

    return datasets.load_digits().X_train


def _bits_of_digits(rows, columns):
    X = _digits(rows, columns)
    return (np.random.default_rng(0).integers(0, 255, X.shape) < X).astype(np.uint8)


def _words(rows, columns):
    """Draw which words are in which texts. The rate of a word falls as 1 / rank (Zipf), times a factor of the topic."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(TOPICS, columns)) / (50 + np.arange(columns))
    p = -np.expm1(-rates * (DENSITY / rates.mean()))  # a word is there if its Poisson count is not 0
    p = (p * (DENSITY / p.mean())).astype(np.float32)
    topics = rng.integers(TOPICS, size=rows)
    parts = [topics[start : start + TOGETHER] for start in range(0, rows, TOGETHER)]
    return sparse.vstack(
        [sparse.csr_array((rng.random((len(part), columns), np.float32) < p[part]).astype(np.uint8)) for part in parts],
        format="csr",
    )


def _load(name):
    def load(folder):
        from .. import datasets

        return getattr(datasets, f"load_{name}")(folder).X_train

    return load


#: The data by name.
SOURCES: dict[str, Source] = {
    "random": Source(_pixels),
    "mnist": Source(_digits, _load("mnist")),
    "binarized-mnist": Source(_bits_of_digits, _load("binarized_mnist"), largest=1),
    "frey": Source(_pixels, _load("frey_face")),
    "words": Source(_words, largest=1, sparse=True),
}
