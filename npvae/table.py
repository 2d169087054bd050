"""A table of data as users give it: checked, and described by one look at its values.

What is made of it, a likelihood and a scaling, is decided in ``preprocessing``.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conventions import short_repr
from .parallel import SERIAL, Serial
from .sparse import CELLS, SparseRows, TableLike, is_sparse

#: Rows per chunk. It limits the memory of a pass over data that may be on disk.
CHUNK = 10_000

#: From this largest value on, uint8 data is taken for pixels. Below, it is taken for small integers.
PIXELS_REACH = 128

#: Values of a Bernoulli model may be outside [0, 1] by this much, as after a scaling: they are then clipped.
ROUNDING = 1e-6

#: Grey values "lie mostly at the ends" of [0, 1] if more than half of them are within 0.05 of an end, and at least one
#: in 50 is within 0.05 of 1: a column of amounts that was scaled by an outlier has nearly all values close to 0.
NEAR, MOST, SOME = 0.05, 0.5, 0.02

#: What NaN and masked values in the data are, by name.
MISSING = ("error", "model")

#: What an error says of cells that are not observed.
REMEDY = "VAE(missing='model') takes NaN and masked values in X as cells that are not observed"

Result = TypeVar("Result")


class Survey(NamedTuple):
    """A table that has been checked, with its range and what its values look like. `survey` returns it.

    What reads all rows shares them out among the ranks of ``parallel``, and is to be called on each of them.

    Examples
    --------
    >>> from npvae.table import survey
    >>> survey([[0, 1], [1, 1]]).is_binary
    True
    >>> survey([[0, 255], [128, 255], [255, 0]]).has_levels
    True
    """

    X: NDArray | SparseRows  # (N, D), with the type of the user's data
    low: NDArray  # (D,) least value of each column; the largest of its type if the column has none
    high: NDArray  # (D,) largest value of each column; the least of its type if the column has none
    binary: NDArray[np.bool_]  # (D,) whether all values of a column are 0 or 1
    ones: NDArray[np.int64]  # (D,) how many of a binary column are 1; 0 for other columns
    integers: bool  # whether all values are integers, of any type
    grey: str  # why floats in [0, 1] look like grey values; "" if they do not
    n_observed: NDArray[np.int64]  # (D,) how many cells of a column are observed
    missing: bool  # whether there are cells that are not observed
    mask: NDArray[np.bool_] | None  # (N, D) which ones, besides those that are NaN; None: no others
    parallel: Serial = SERIAL  # the processes that share passes over the rows

    def take(self, rows: NDArray) -> "Survey":
        """Return the survey of some rows, which no others share."""
        X = self.X.take(rows, axis=0)
        return survey(X if self.mask is None else np.ma.MaskedArray(X, self.mask[rows]), missing=self.missing)

    def blocks(self) -> Iterator["Survey"]:
        """Yield the table in blocks of columns, of which `CHUNK` rows can be dense; an array as a whole.

        Sums over rows have the same bits as those of the dense array: no block of several has a single column, which
        NumPy would sum in another order.
        """
        if not isinstance(self.X, SparseRows):
            yield self
            return
        at_most = max(3, CELLS // min(len(self.X), CHUNK))
        for columns in np.array_split(np.arange(self.X.n_columns), -(-self.X.n_columns // at_most)):
            yield self._replace(
                X=self.X.take(columns, axis=1),
                low=self.low[columns],
                high=self.high[columns],
                binary=self.binary[columns],
                ones=self.ones[columns],
                n_observed=self.n_observed[columns],
            )

    def map(self, function: Callable[["Survey"], Result]) -> Iterable[Result]:
        """Apply a function to shares of the rows, one for each rank; return all results, in the order of the rows.

        A share has X and the mask of its rows, in whole chunks. What else it says is of the whole table.
        """

        def of_share(rows: slice) -> Result:
            X, mask = _part(self.X, self.mask, rows)
            return function(self._replace(X=X, mask=mask, parallel=SERIAL))

        return self.parallel.map(of_share, _shares(self.X, self.parallel.size))

    def parts(self) -> Iterator[tuple[NDArray, NDArray[np.bool_] | bool]]:
        """Yield X in chunks of rows, each with which of its cells are observed: an array, or True if all are."""
        if not self.missing:
            yield from ((chunk, True) for chunk in chunks(self.X))
            return
        masks = _chunks_of_mask(self.mask)
        yield from ((chunk, ~unobserved(chunk, mask)) for chunk, mask in zip(chunks(self.X), masks))

    def of_columns(
        self, numbers: Iterable[int], functions: Iterable[Callable[[NDArray[np.float64]], NDArray]]
    ) -> Iterator[NDArray]:
        """Yield for each of some columns an elementwise function of it, (N,).

        The function is given floats, with NaN where a cell is not observed.
        """
        if isinstance(self.X, SparseRows):
            yield from self.X.of_columns(list(numbers), functions)
            return
        for number, function in zip(numbers, functions):
            values = self.X[:, number].astype(float)
            if self.mask is not None:
                values[self.mask[:, number]] = np.nan
            yield function(values)

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return bool(self.binary.all())

    @property
    def both(self) -> NDArray[np.bool_]:
        """Which columns have values 0 and 1, both of them, and no others: (D,)."""
        return self.binary & (self.low < self.high)

    @property
    def has_levels(self) -> bool:
        """Whether the values look like the levels 0 to 255 of pixels, of any type.

        Of type uint8, values above 127 are enough. Otherwise they are integers up to 250 to 255, and most columns that
        vary do so over more than half of that range: this tells them from counts and from tables.
        """
        low, high = self.low.min(), self.high.max()
        if self.X.dtype == np.uint8:
            return bool(high >= PIXELS_REACH)
        if not self.integers or low < 0 or not 250 <= high <= 255:
            return False
        span = (self.high - self.low)[self.high > self.low]
        return bool(np.mean(span > 127) > 0.5)

    def __repr__(self) -> str:
        return short_repr(self)


class _Grey:
    """Finds out, chunk by chunk, whether floats in [0, 1] look like grey values: see `Survey.grey`."""

    def __init__(self, dtype: np.dtype, n_features: int) -> None:
        self.possible = dtype.kind == "f"
        # Twice the rounding error of k / 255, also where float32 pixels were converted to float64.
        self.precision = max(float(np.finfo(dtype).eps), 2.0**-22) if self.possible else 0.0
        self.multiples, self.divisor = True, 255
        self.near, self.upper = np.zeros(n_features), np.zeros(n_features)

    def look(self, chunk: NDArray, low: float, high: float, hidden: NDArray | int = 0) -> None:
        """Look at a chunk, with its range, and with how many of the zeros in each column stand for no value.

        The number is negative where zeros have been left out.
        """
        self.possible = self.possible and bool(low >= 0 and high <= 1 + ROUNDING)
        if not self.possible:
            return
        levels = chunk.astype(np.promote_types(chunk.dtype, np.float32)) * 255
        nearest = np.rint(levels)
        self.multiples = self.multiples and bool(
            np.all(abs(levels - nearest) <= np.maximum(self.precision * levels, 255 * ROUNDING))
        )
        if self.multiples and self.divisor > 1:
            present = np.flatnonzero(np.bincount(nearest.ravel().astype(np.int64)))
            self.divisor = int(np.gcd.reduce(present, initial=self.divisor))
        top = (chunk >= 1 - NEAR).sum(axis=0)
        self.near, self.upper = self.near + top + (chunk <= NEAR).sum(axis=0) - hidden, self.upper + top

    def add(self, other: "_Grey") -> None:
        """Add what was seen of other rows."""
        self.possible, self.multiples = self.possible and other.possible, self.multiples and other.multiples
        self.divisor = math.gcd(self.divisor, other.divisor)
        self.near, self.upper = self.near + other.near, self.upper + other.upper

    def verdict(self, binary: NDArray[np.bool_], n_observed: NDArray[np.int64]) -> str:
        """Return why the values of the columns that are not binary look grey, or ""."""
        if not self.possible or binary.all():
            return ""
        if self.multiples:  # so are thirds, fifths and seventeenths, which are the steps of a scale
            return "multiples of 1/255" if self.divisor == 1 else ""
        near, upper = (count[~binary].sum() / n_observed[~binary].sum() for count in (self.near, self.upper))
        return "mostly near 0 or 1" if near > MOST and upper >= SOME else ""


class _Look:
    """What `survey` finds out, chunk by chunk: least values, counts and the like, which do not depend on the order."""

    def __init__(self, dtype: np.dtype, n_features: int) -> None:
        least, most = _ends(dtype)
        self.low, self.high = np.full(n_features, most, dtype), np.full(n_features, least, dtype)
        self.binary, self.integers = np.ones(n_features, bool), True
        self.ones, self.n_hidden = np.zeros(n_features, np.int64), np.zeros(n_features, np.int64)
        self.grey = _Grey(dtype, n_features)

    def at(self, X: NDArray | SparseRows, mask: NDArray[np.bool_] | None, missing: bool) -> "_Look":
        """Look at some rows."""
        least, most = _ends(X.dtype)
        for (chunk, n_zeros), part_of_mask in zip(_values(X), _chunks_of_mask(mask)):
            low, high, n_hidden = chunk.min(axis=0), chunk.max(axis=0), 0
            if part_of_mask is not None or (missing and np.isnan(low).any()):
                hidden = unobserved(chunk, part_of_mask)
                low = chunk.min(axis=0, where=~hidden, initial=most)
                high = chunk.max(axis=0, where=~hidden, initial=least)
                chunk, n_hidden = np.where(hidden, chunk.dtype.type(0), chunk), hidden.sum(axis=0)
                self.n_hidden += n_hidden
            self.binary &= (low >= 0) & (high <= 1)  # the range is a quick test that most data fails
            if X.dtype.kind == "f":
                if self.binary.any():
                    part = chunk[:, self.binary]
                    self.binary[self.binary] = ((part == 0) | (part == 1)).all(axis=0)
                self.integers = self.integers and bool((chunk == np.rint(chunk)).all())
                self.grey.look(chunk, low.min(), high.max(), n_hidden - n_zeros)
            if self.binary.any():
                self.ones[self.binary] += np.count_nonzero(chunk[:, self.binary], axis=0)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        return self

    def add(self, other: "_Look") -> "_Look":
        """Add what was seen of other rows."""
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.binary, self.integers = self.binary & other.binary, self.integers and other.integers
        self.ones, self.n_hidden = self.ones + other.ones, self.n_hidden + other.n_hidden
        self.grey.add(other.grey)
        return self


def chunks(X: NDArray | SparseRows) -> Iterator[NDArray]:
    """Yield X (N, D) in chunks of rows, as dense arrays. Every pass over a dataset uses this.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.table import chunks
    >>> [len(chunk) for chunk in chunks(np.zeros((25_000, 1)))]
    [10000, 10000, 5000]
    """
    n_rows = _chunk_of(X)
    for start in range(0, len(X), n_rows):
        yield X[start : start + n_rows]


def _chunk_of(X: NDArray | SparseRows) -> int:
    """Return how many rows a chunk has."""
    return min(CHUNK, X.at_a_time) if isinstance(X, SparseRows) else CHUNK


def _chunks_of_mask(mask: NDArray[np.bool_] | None) -> Iterator[NDArray[np.bool_] | None]:
    """Yield a mask in the chunks of its table; None again and again if there is none."""
    return itertools.repeat(None) if mask is None else chunks(mask)


def _shares(X: NDArray | SparseRows, n: int) -> list[slice]:
    """Cut the rows of X into at most n ranges of about the same size, each of whole chunks."""
    n_rows = _chunk_of(X)
    n_chunks = -(-len(X) // n_rows)
    starts = sorted({k * n_chunks // n * n_rows for k in range(n)})
    return [slice(*ends) for ends in itertools.pairwise([*starts, len(X)])]


def _part(
    X: NDArray | SparseRows, mask: NDArray[np.bool_] | None, rows: slice
) -> tuple[NDArray | SparseRows, NDArray[np.bool_] | None]:
    """Return a range of the rows of a table and of its mask, neither of which is copied."""
    part = X.take(rows, axis=0) if isinstance(X, SparseRows) else X[rows]
    return part, None if mask is None else mask[rows]


def _values(X: NDArray | SparseRows) -> Iterator[tuple[NDArray, int]]:
    """Yield all values of each column in chunks (K, D), in any order, with how many zeros of each column are left out.

    Of those zeros there are others in the chunk.
    """
    yield from X.packed() if isinstance(X, SparseRows) else zip(chunks(X), itertools.repeat(0))


def unobserved(X: NDArray, mask: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return which cells of a chunk of a table are not observed: those that are NaN or masked.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.table import unobserved
    >>> unobserved(np.array([[1.0, np.nan]]))
    array([[False,  True]])
    """
    nan = np.isnan(X)
    return nan if mask is None else nan | mask


def survey(X: TableLike, name: str = "X", missing: bool = False, parallel: Serial = SERIAL) -> Survey:
    """Check that X is a 2-D table of finite numbers, and find its range, in one pass.

    An array is not copied: it keeps its type and byte order. A memory map is read in chunks. A sparse matrix becomes
    `SparseRows`, and of its zeros few are looked at.

    Parameters
    ----------
    X : array-like or sparse matrix (N, D)
    name : str, what errors call it
    missing : bool
        Whether cells may be missing: NaN in floats, or the masked ones of a masked array of any type. What is found out
        is then about the others.
    parallel : Serial
        The processes that share this pass and those of the `Survey`. Each has the whole X, and reads its share of rows.

    Returns
    -------
    Survey

    Raises
    ------
    TypeError
        If X does not hold real numbers.
    ValueError
        If X is not 2-D, is empty, is a damaged sparse matrix, or holds complex or infinite values. Without ``missing``,
        if it holds NaN or masked values.

    Examples
    --------
    >>> from npvae.table import survey
    >>> survey([[0.0, 1.0], [1.0, 3.0]]).high.tolist()
    [1.0, 3.0]
    >>> survey([[0.0, float("nan")], [1.0, 3.0]], missing=True).n_observed.tolist()
    [2, 1]
    """
    mask, table = _mask(X), as_table(X, name)
    if mask is not None and not missing:
        raise ValueError(f"{name} has {mask.sum()} masked values; expected none. {REMEDY}")
    parallel.agree(lambda: {f"{name}.shape": table.shape, f"{name}.dtype": table.dtype.str})

    def of_share(rows: slice) -> _Look:
        return _Look(table.dtype, table.shape[1]).at(*_part(table, mask, rows), missing)

    look = functools.reduce(_Look.add, parallel.map(of_share, _shares(table, parallel.size)))
    low, high, n_observed = look.low, look.high, len(table) - look.n_hidden
    if table.dtype.kind == "f" and not np.isfinite([low, high])[:, n_observed > 0].all():
        raise ValueError(_where_not_finite(table, name, mask, missing, parallel))
    ones, grey = np.where(look.binary, look.ones, 0), look.grey.verdict(look.binary, n_observed)
    has_holes = bool(look.n_hidden.any())
    return Survey(table, low, high, look.binary, ones, look.integers, grey, n_observed, has_holes, mask, parallel)


def _mask(X: Any) -> NDArray[np.bool_] | None:
    """Return the mask of a masked array, True where a value is missing; None if it masks nothing."""
    return np.ma.getmaskarray(np.ma.asarray(X)) if np.ma.is_masked(X) else None


def _ends(dtype: np.dtype) -> tuple[Any, Any]:
    """Return the least and the largest number of a type."""
    if dtype.kind in "fb":
        return (-np.inf, np.inf) if dtype.kind == "f" else (False, True)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def as_table(X: Any, name: str = "X") -> Any:
    """Return X as a 2-D NumPy array of real numbers, or as `SparseRows` if it is sparse.

    Does not copy an array or a CSR matrix, and does not check its values.

    Raises
    ------
    TypeError, ValueError
        See `survey`; NaN, infinite and masked values are not checked.

    Examples
    --------
    >>> from npvae.table import as_table
    >>> as_table([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    X = _as_sparse(X, name) if isinstance(X, SparseRows) or is_sparse(X) else _asarray(X, name)
    if X.dtype.kind == "c":
        raise ValueError(f"{name} has type {X.dtype}; expected real numbers. Complex data not supported")
    if X.dtype.kind not in "buif":
        raise TypeError(f"{name} has type {X.dtype}; expected real numbers")
    if X.ndim > 2:
        raise ValueError(
            f"{name} has shape {X.shape}; expected a 2-D array (rows, features). "
            f"Reshape your data: {name}.reshape(len({name}), -1) makes a row of each of the {len(X)} images"
        )
    if X.ndim < 2:
        raise ValueError(
            f"{name} has shape {X.shape}; expected a 2-D array (rows, features). "
            f"Reshape your data: {name}.reshape(-1, 1) is one feature, {name}.reshape(1, -1) one row"
        )
    rows, features = X.shape
    if rows == 0:
        raise ValueError(f"{name} has shape {X.shape}; expected at least one row")
    if features == 0:
        raise ValueError(f"{name} has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X


def _as_sparse(X: Any, name: str) -> SparseRows:
    """Return X as sparse rows of numbers, of floats where it holds objects."""
    rows = X if isinstance(X, SparseRows) else SparseRows.of(X, name)
    return rows if rows.dtype != object else dataclasses.replace(rows, data=_asarray(rows.data, name))


def _asarray(X: ArrayLike, name: str) -> NDArray:
    """Return X as an array of numbers, of floats where it holds objects."""
    if X is None:
        raise TypeError(f"{name} is None; expected an array (rows, features)")
    given: Any = X
    try:
        X = np.asarray(X)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is not an array: {error}") from None
    if X.dtype != object:
        return X
    try:
        return given.to_numpy(float, na_value=np.nan) if hasattr(given, "iloc") else X.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} holds objects that are not numbers ({error}); expected numbers") from None


def _where_not_finite(X: NDArray | SparseRows, name: str, mask: NDArray | None, missing: bool, parallel: Serial) -> str:
    """Return a message: how many values are infinite, or NaN unless they may be missing, and where the first one is."""

    def of_share(rows: slice) -> tuple[int, tuple[int, int, Any] | None]:
        count, first, start, (part, part_of_mask) = 0, None, rows.start, _part(X, mask, rows)
        for chunk, mask_of_chunk in zip(chunks(part), _chunks_of_mask(part_of_mask)):
            hidden = unobserved(chunk, mask_of_chunk)
            bad = np.argwhere(np.isinf(chunk) & ~hidden if missing else ~np.isfinite(chunk))
            if len(bad) and first is None:
                first = int(bad[0, 0]) + start, int(bad[0, 1]), chunk[tuple(bad[0])]
            count, start = count + len(bad), start + len(chunk)
        return count, first

    counts, places = zip(*parallel.map(of_share, _shares(X, parallel.size)))
    count, (row, column, value) = sum(counts), next(place for place in places if place is not None)
    kinds, remedy = ("infinite", "") if missing else ("NaN or infinite", f". {REMEDY}")
    return (
        f"{name} holds {count} {kinds} value{'s' * (count > 1)}, the first one ({value}) "
        f"in row {row}, column {column}; expected finite numbers{remedy}"
    )
