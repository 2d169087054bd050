"""Sparse tables: the rows of a CSR matrix, a few of which are made dense when they are used.

scipy.sparse is not imported: an object that is sparse comes with the methods that are needed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The most cells that a pass over a sparse table holds as a dense array.
CELLS = 2**21


class Sparse(Protocol):
    """A sparse matrix or array, of scipy.sparse or of another library that converts to it.

    Examples
    --------
    >>> import scipy.sparse
    >>> from npvae.sparse import Sparse
    >>> matrix: Sparse = scipy.sparse.coo_array([[0, 5], [0, 0]])
    >>> matrix.tocsr().indices.tolist()
    [1]
    """

    @property
    def shape(self) -> Any:
        """The shape (N, D)."""

    def tocsr(self) -> Any:
        """Convert to a CSR matrix, with the attributes ``data``, ``indices`` and ``indptr``."""


def is_sparse(X: Any) -> bool:
    """Return whether X is `Sparse`.

    Examples
    --------
    >>> import scipy.sparse
    >>> is_sparse(scipy.sparse.coo_array([[0, 5], [0, 0]])), is_sparse([[0, 5], [0, 0]])
    (True, False)
    """
    return hasattr(X, "tocsr")


def as_vector(x: Any) -> Any:
    """Return a sparse datapoint, such as a row of a sparse array, as an array, and anything else as it is.

    Examples
    --------
    >>> import scipy.sparse
    >>> as_vector(scipy.sparse.csr_array([[0, 5], [0, 0]])[0])
    array([0, 5])
    """
    return x.toarray() if is_sparse(x) else x


@dataclass(frozen=True, eq=False, repr=False)
class SparseRows:
    """A sparse table (N, D). It is read as an array: ``rows[numbers]`` are dense rows, 0 where no value is stored.

    It shares the memory of the matrix that it is made of.

    Parameters
    ----------
    data : array (S,), the values that are stored, row after row
    indices : array (S,) of int, their columns; none occurs twice in a row
    indptr : array (N + 1,) of int, where the values of each row begin
    n_columns : int, the D

    Examples
    --------
    >>> rows = SparseRows(np.array([5.0, 7.0, 9.0]), np.array([1, 0, 2]), np.array([0, 1, 1, 3]), n_columns=3)
    >>> rows[:]
    array([[0., 5., 0.],
           [0., 0., 0.],
           [7., 0., 9.]])
    >>> rows[[2, 0]]
    array([[7., 0., 9.],
           [0., 5., 0.]])
    """

    data: NDArray
    indices: NDArray[np.integer]
    indptr: NDArray[np.integer]
    n_columns: int

    ndim = 2

    @classmethod
    def of(cls, X: Any, name: str = "X") -> "SparseRows":
        """Return the rows of a sparse matrix (N, D) of any format. A CSR without duplicates is not copied.

        Raises
        ------
        ValueError
            If it cannot be a CSR matrix, or its parts do not fit together.
        """
        if len(X.shape) != 2:
            raise ValueError(f"{name} is sparse and has shape {X.shape}; expected a 2-D array (rows, features)")
        try:
            csr = X.tocsr()
            data, indices, indptr = (np.asarray(part) for part in (csr.data, csr.indices, csr.indptr))
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(f"{name} is sparse and cannot be converted to a CSR matrix: {error}") from None
        rows = cls(data, indices, indptr, int(csr.shape[1]))
        rows._check(int(csr.shape[0]), name)
        return rows._without_duplicates()

    def _check(self, n_rows: int, name: str) -> None:
        """Check what SciPy does not after an array of the matrix was changed: no read may lead out of the arrays."""
        indices, indptr, n_stored = self.indices, self.indptr, min(len(self.data), len(self.indices))
        sound = len(indptr) == n_rows + 1 and indptr[0] == 0 and indptr[-1] <= n_stored
        if sound and np.all(indptr[1:] >= indptr[:-1]) and indptr[-1]:
            indices = indices[: indptr[-1]]
            sound = indices.min() >= 0 and indices.max() < self.n_columns
        elif sound:
            sound = indptr[-1] == 0
        if not sound:
            raise ValueError(
                f"{name} is a damaged sparse matrix: its indices do not fit its shape {n_rows, self.n_columns}; "
                f"expected one for which {name}.check_format() passes"
            )

    def _without_duplicates(self) -> "SparseRows":
        """Return a table in which the values that are stored for the same cell are added, as SciPy does."""
        indices = self.indices[: self.indptr[-1]]
        falls = np.flatnonzero(indices[1:] <= indices[:-1]) + 1
        if np.isin(falls, self.indptr).all():  # sorted within each row, as nearly always
            return self
        row = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        order = np.lexsort((indices, row))  # stable: the sum is in the order of the values
        row, indices = row[order], indices[order]
        is_first = np.append(True, (row[1:] != row[:-1]) | (indices[1:] != indices[:-1]))
        if is_first.all():
            return self
        data = np.zeros(is_first.sum(), self.dtype)
        np.add.at(data, np.cumsum(is_first) - 1, self.data[order])
        ends = np.cumsum(np.bincount(row[is_first], minlength=len(self)))
        return SparseRows(data, indices[is_first], np.append(0, ends), self.n_columns)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (N, D)."""
        return len(self), self.n_columns

    @property
    def size(self) -> int:
        """The number of cells, N D."""
        return len(self) * self.n_columns

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.data.dtype

    @property
    def at_a_time(self) -> int:
        """How many rows have at most `CELLS` cells; at least one."""
        return max(1, CELLS // self.n_columns)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __repr__(self) -> str:
        return f"<SparseRows {self.shape} {self.dtype}, {self.indptr[-1]} stored values>"

    def __array__(self, *_: Any, **__: Any) -> NDArray:
        raise TypeError("a sparse table is not made dense by accident; rows[:] is the dense array")

    def __getitem__(self, rows: Any) -> NDArray:
        """Return the rows of a slice or an array of numbers as a dense array (M, D), or a single row (D,)."""
        if np.ndim(rows) == 0 and not isinstance(rows, slice):
            return self[[rows]][0]
        at, counts = self._stored(rows)
        dense = np.zeros((len(counts), self.n_columns), self.dtype)
        # + 0 turns -0.0 into 0.0, as SciPy does.
        dense[np.repeat(np.arange(len(counts)), counts), self.indices[at]] = self.data[at] + 0
        return dense

    def _stored(self, rows: Any) -> tuple[NDArray[np.int64] | slice, NDArray[np.integer]]:
        """Return where the stored values of some rows are, and how many each of the rows has, (M,)."""
        first, counts = self.indptr[:-1][rows], self.indptr[1:][rows] - self.indptr[:-1][rows]
        if isinstance(rows, slice) and rows.step in (None, 1) and len(counts):
            return slice(first[0], first[-1] + counts[-1]), counts
        ends = np.cumsum(counts, dtype=np.int64)
        return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts), counts

    def take(self, numbers: ArrayLike | slice, axis: int) -> "SparseRows":
        """Return some rows (axis 0) or columns (axis 1, each at most once), in this order, as a sparse table.

        The rows of a slice share the memory of this table.
        """
        if axis == 0:
            at, counts = self._stored(numbers if isinstance(numbers, slice) else np.asarray(numbers))
            return SparseRows(self.data[at], self.indices[at], np.append(0, np.cumsum(counts)), self.n_columns)
        numbers = np.asarray(numbers)
        place = np.full(self.n_columns, -1, self.indices.dtype)
        place[numbers] = np.arange(len(numbers))
        indices = place[self.indices[: self.indptr[-1]]]
        if len(numbers) == self.n_columns:  # another order
            return SparseRows(self.data, indices, self.indptr, self.n_columns)
        kept = indices >= 0
        before = np.append(np.zeros(1, self.indptr.dtype), np.cumsum(kept, dtype=self.indptr.dtype))
        return SparseRows(self.data[: len(kept)][kept], indices[kept], before[self.indptr], len(numbers))

    def clip(self, n_columns: int, low: float, high: float) -> "SparseRows":
        """Return the table with the values of the first columns clipped to a range around 0."""
        clipped = np.where(self.indices < n_columns, np.clip(self.data, low, high), self.data)
        return SparseRows(clipped, self.indices, self.indptr, self.n_columns)

    def packed(self) -> Iterator[tuple[NDArray, int]]:
        """Yield chunks of rows without most of their zeros: values (K, D), and how many zeros each column lacks.

        The stored values of each column are moved up, so that the order of the values in a column is lost, and what
        they are is not: where a column has zeros in the chunk, at least one of them is there.
        """
        # Stable sorting takes linear time for numbers of 16 bits.
        kind = np.min_scalar_type(self.n_columns - 1)
        for start in range(0, len(self), self.at_a_time):
            at, counts = self._stored(slice(start, start + self.at_a_time))
            columns = self.indices[at].astype(kind)
            order, in_column = np.argsort(columns, kind="stable"), np.bincount(columns, minlength=self.n_columns)
            rank = np.arange(len(columns)) - np.repeat(np.cumsum(in_column) - in_column, in_column)
            values = np.zeros((min(in_column.max() + 1, len(counts)), self.n_columns), self.dtype)
            values[rank, columns[order]] = self.data[at][order] + 0
            yield values, len(counts) - len(values)

    def of_columns(
        self, numbers: ArrayLike, functions: Iterable[Callable[[NDArray[np.float64]], NDArray]]
    ) -> Iterator[NDArray]:
        """Yield an elementwise function of each of some columns, (N,). Of all zeros of a column it is computed once."""
        some = self.take(np.asarray(numbers, np.int64), axis=1)  # there may be none
        order = np.argsort(some.indices, kind="stable")
        row = np.repeat(np.arange(len(self)), np.diff(some.indptr))[order]
        ends = np.cumsum(np.bincount(some.indices, minlength=some.n_columns))
        for function, start, end in zip(functions, np.append(0, ends), ends):
            part = order[start:end]
            values = function(np.append(some.data[part].astype(float) + 0, 0.0))
            column = np.full(len(self), values[-1])
            column[row[start:end]] = values[:-1]
            yield column


#: What may be given as a table.
TableLike: TypeAlias = ArrayLike | Sparse | SparseRows
