"""Data for the commands: a named data set, or a table in a file. What is done with it is left to the commands."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import datasets
from ..preprocessing import survey


def _read_npy(path: str | Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: str | Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[arrays.files[0]]


def _read_csv(path: str | Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", ndmin=2, skiprows=_header_lines(path))


def _header_lines(path: str | Path) -> int:
    """Return how many lines of a CSV file to skip: 1 if the first has the names of columns, 0 if it has numbers."""
    with open(path, newline="") as file:
        first = next(csv.reader(file), None)
    if first is None:
        raise ValueError("it is empty")
    try:
        list(map(float, first))
    except ValueError:
        return 1
    return 0


#: Functions that read the array of a file, by its suffix.
READERS: dict[str, Callable[[str | Path], np.ndarray]] = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}

#: What a data set may be, for help and messages.
KNOWN = f"{', '.join(datasets.NAMES)}, or a {', '.join(list(READERS)[:-1])} or {list(READERS)[-1]} file"


def load_dataset(name: str, data_dir: str | Path | None = None) -> datasets.Dataset:
    """Load a data set by its name, or from a file.

    The rows of a file are split by their number: of each ten, the first eight are for training, the ninth for
    validation, the tenth for testing. Of fewer than ten rows all are for training and for testing.

    Parameters
    ----------
    name : str
        One of `npvae.datasets.NAMES`, or the path of a .npy, .npz or .csv file.
    data_dir : path, optional
        Folder of the files of a named data set; by default the environment variable NPVAE_DATA, then the cache.

    Returns
    -------
    datasets.Dataset
        Arrays ``X_train``, ``X_valid``, ``X_test`` of shape (rows, features). From a file it has no labels and no image
        shape.

    Raises
    ------
    ValueError, TypeError
        If there is no data set of this name, or the file is not a table of numbers.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/table.npy"
    ...     np.save(path, np.arange(40.0).reshape(20, 2))
    ...     dataset = load_dataset(path)
    ...     dataset.name, dataset.X_train.shape, dataset.X_valid.shape, dataset.X_test.tolist()
    ('table', (16, 2), (2, 2), [[18.0, 19.0], [38.0, 39.0]])
    """
    if name in datasets.NAMES:
        return datasets.load(name, data_dir)
    X = read_table(name)
    place = np.arange(len(X)) % 10
    train, valid, test = (X[place < 8], X[place == 8], X[place == 9]) if len(X) >= 10 else (X, None, X)
    return datasets.Dataset(Path(name).stem, train, valid, test, None, None, None, None)


def read_table(path: str | Path) -> np.ndarray:
    """Read the array of a .npy or .csv file, or the first array of a .npz file.

    A .npy file is mapped and not read into memory. The first line of a .csv file is skipped if it has the names of the
    columns.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    array (rows, columns)
        Numbers of the type that the file has; float64 from a .csv file.

    Raises
    ------
    ValueError
        If the suffix is another one, or the file is not a table of finite numbers.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "table.csv")
    ...     np.savetxt(path, [[1, 2], [3, 4]], delimiter=",", header="length,width", comments="")
    ...     read_table(path)
    array([[1., 2.],
           [3., 4.]])
    """
    read = READERS.get(Path(path).suffix)
    if read is None:
        raise ValueError(f"{path} is not a data set; expected {KNOWN}")
    with open(path, "rb"):  # a file that cannot be opened is an OSError
        pass
    try:
        return survey(read(path), str(path)).X
    except Exception as error:  # a damaged file raises whatever its reader meets
        raise ValueError(f"{path} cannot be read as a table of numbers: {error}") from None
