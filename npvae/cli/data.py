"""Data for the commands: a named data set, or a table in a file. What is done with it is left to the commands."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import datasets
from ..conventions import did_you_mean
from ..table import survey
from . import files
from .choice import EVERYTHING, Choice, Table

logger = logging.getLogger(__name__)

#: What a data set may be, for help and messages.
KNOWN = (
    f"{', '.join(datasets.NAMES)}, or a {', '.join(list(files.READERS)[:-1])} or {list(files.READERS)[-1]} file, "
    "or a folder of images"
)


class Split(NamedTuple):
    """How the rows of a file are divided: in a random order, a tenth for validation and a tenth for testing.

    Examples
    --------
    >>> [rows.tolist() for rows in Split(seed=0).rows(12)]
    [[0, 1, 2, 4, 5, 6, 7, 8, 9, 10], [3], [11]]
    """

    seed: int | None = 0  # None: of each ten rows eight, one and one, as before version 0.2

    def rows(self, n_rows: int) -> tuple[NDArray, NDArray | None, NDArray]:
        """Return the numbers of the rows for training, validation (None: no rows) and testing, each in order.

        The same seed gives the same rows, with every version of NumPy: it guarantees these random bits. Of fewer than
        ten rows, all are for training and for testing.
        """
        everything = np.arange(n_rows)
        if n_rows < 10:
            return everything, None, everything
        if self.seed is None:
            place = everything % 10
            return everything[place < 8], everything[place == 8], everything[place == 9]
        order = np.argsort(np.random.PCG64(self.seed).random_raw(n_rows), kind="stable")
        tenth = n_rows // 10
        test, valid, train = np.split(order, [tenth, 2 * tenth])
        return np.sort(train), np.sort(valid), np.sort(test)


#: How files are divided unless something else is asked for.
PERMUTED = Split()


class NamedArray(np.ndarray):
    """An array (rows, D) that has names of its columns, which `VAE` finds as those of a data frame.

    Examples
    --------
    >>> X = NamedArray.of(np.zeros((3, 2)), ("a", "b"))
    >>> X[:2].columns, X[:, :1].columns
    (('a', 'b'), None)
    """

    columns: tuple[str, ...] | None

    @classmethod
    def of(cls, X: Any, names: tuple[str, ...] | None) -> Any:
        """Return X with names of its columns, or X itself if there are none."""
        if names is None:
            return X
        named = X.view(cls)
        named.columns = names
        return named

    def __array_finalize__(self, other: Any) -> None:
        names = getattr(other, "columns", None)
        self.columns = names if names is not None and self.shape[1:] == (len(names),) else None


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    choice: Choice = EVERYTHING,
    split: Split = PERMUTED,
    say: Callable[[str], object] = logger.info,
) -> datasets.Dataset:
    """Load a data set by its name, or from a file.

    Parameters
    ----------
    name : str
        One of `npvae.datasets.NAMES`, the path of a file, or a folder of images.
    data_dir : path, optional
        Folder of the files of a named data set; by default the environment variable NPVAE_DATA, then the cache.
    choice : Choice
        What to read of the file.
    split : Split
        Which rows of a file are for training, validation and testing.
    say : function
        Is called with what was read, in words.

    Returns
    -------
    datasets.Dataset
        Arrays ``X_train``, ``X_valid``, ``X_test`` of shape (rows, features); `NamedArray` if the file has names of
        columns, `npvae.sparse.SparseRows` if it is sparse. From a file it has no labels, and an image shape only from a
        folder of images.

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
    ...     dataset.name, dataset.X_train.shape, dataset.X_valid.shape, dataset.X_test.shape
    ('table', (16, 2), (2, 2), (2, 2))
    """
    if name in datasets.NAMES:
        if choice[:4] != EVERYTHING[:4]:
            raise ValueError(f"{name} is read whole; --array, --columns, --drop and --header are for files")
        return datasets.load(name, data_dir)
    table = load_table(name, choice, say)
    X, (train, valid, test) = NamedArray.of(table.X, table.names), split.rows(len(table.X))
    if valid is None:
        say("fewer than 10 rows: all are for training, and all for testing")
    X_train, X_test = (X.take(rows, axis=0) for rows in (train, test))
    X_valid = None if valid is None else X.take(valid, axis=0)
    return datasets.Dataset(Path(name).stem, X_train, X_valid, X_test, None, None, None, table.image_shape)


def load_table(name: str | Path, choice: Choice = EVERYTHING, say: Callable[[str], object] = logger.info) -> Table:
    """Read a table from a file, check it, and say what was read. See `read_table` for the errors."""
    path = Path(name)
    if not path.is_dir():
        if path.suffix.lower() not in files.READERS:
            raise ValueError(f"{path} is not a data set; expected {KNOWN}{did_you_mean(str(name), datasets.NAMES)}")
        with open(path, "rb"):  # a file that cannot be opened is an OSError
            pass
    try:
        table = files.read(path, choice)
        found = survey(table.X, str(path), choice.missing)
        table = table._replace(X=found.X)
    except Exception as error:  # a damaged file raises whatever its reader meets
        raise ValueError(f"{path} cannot be read as a table of numbers: {error}") from None
    if found.missing:
        count = table.X.size - found.n_observed.sum()
        table = table._replace(notes=(*table.notes, f"{count} of {table.X.size} values missing"))
    table = _like_the_training(table, choice, say)
    say(f"read: {table.describe()}")
    if table.left_out:
        more = f" and {len(table.left_out) - 10} more" if len(table.left_out) > 10 else ""
        say(f"left out: {', '.join(table.left_out[:10])}{more}")
    return table


def _like_the_training(table: Table, choice: Choice, say: Callable[[str], object]) -> Table:
    """Give a table without names those of the trained model, and none to a table for a model without."""
    names = choice.names
    if names is None or table.X.shape[1] != len(names or table.X[0]) or (names == ()) == (table.names is None):
        return table
    if table.names is None:
        say("the columns have no names: they are taken in the order of the training")
    return table._replace(names=names or None)


def read_table(path: str | Path, choice: Choice = EVERYTHING) -> Any:
    """Read the array of a file, or the images of a folder.

    A .npy file is mapped and not read into memory.

    Parameters
    ----------
    path : str or path
    choice : Choice
        What to read of the file.

    Returns
    -------
    array (rows, columns)
        Numbers of the type that the file has; float64 from a .csv file, uint8 from images. `npvae.sparse.SparseRows`
        from a file of ``scipy.sparse.save_npz``.

    Raises
    ------
    ValueError
        If the suffix is another one, the file is not a table of finite numbers, or a choice is required.
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
    return load_table(path, choice).X
