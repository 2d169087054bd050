"""What to read of a file, where there is a choice, and the table that is read. Reading is left to other modules."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from numpy.typing import NDArray

from ..conventions import did_you_mean
from ..sparse import SparseRows


class Table(NamedTuple):
    """A table as it was read from a file.

    Examples
    --------
    >>> import numpy as np
    >>> Table(np.zeros((3, 2)), ("a", "b")).describe()
    '3 rows, 2 columns, named a, b'
    """

    X: NDArray | SparseRows  # (rows, columns)
    names: tuple[str, ...] | None = None  # of the columns
    notes: tuple[str, ...] = ()  # how it was read
    left_out: tuple[str, ...] = ()  # columns, arrays or files that were not read
    has_header: bool | None = None  # whether the first line of the file has names; None where there are no lines
    image_shape: tuple[int, int] | None = None  # (height, width), if the rows are images

    def describe(self) -> str:
        """Say what was read, in one line."""
        rows, columns = self.X.shape if self.X.ndim == 2 else (len(self.X), 0)
        said = f"{rows} row{'s' * (rows != 1)}, {columns} column{'s' * (columns != 1)}"
        if self.names:
            said += f", named {', '.join(self.names[:8])}{', ...' if len(self.names) > 8 else ''}"
        elif self.has_header is not None:
            said += ", no header" if not self.has_header else ""
        return "; ".join([said, *self.notes])


class Kept(NamedTuple):
    """The columns of a file that are read, by number from 0, and what is left out, in words."""

    columns: list[int]
    left_out: tuple[str, ...]


class Choice(NamedTuple):
    """What to read of a file. Columns are given by name, or by number from 1.

    Examples
    --------
    >>> Choice(drop=("b",)).select(("a", "b", "c"), 3)
    Kept(columns=[0, 2], left_out=("column 'b'",))
    >>> Choice(names=("c", "a")).select(("a", "b", "c"), 3).columns  # as in the training
    [2, 0]
    """

    array: str | None = None  # name in a file of several arrays
    columns: tuple[str, ...] = ()  # those to read; empty: all
    drop: tuple[str, ...] = ()  # those to leave out
    header: bool | None = None  # whether the first line has names; None: as it looks
    names: tuple[str, ...] | None = None  # the columns of a trained model, in its order; empty: it has no names
    missing: bool = False  # whether values may be missing

    def select(
        self,
        names: Sequence[str] | None,
        n_columns: int,
        index: Mapping[int, str] | None = None,
        text: Mapping[int, str] | None = None,
    ) -> Kept:
        """Choose columns.

        Parameters
        ----------
        names : of all columns of the file, if they have names
        n_columns : int
        index : columns that are not data, with the reason; left out unless they are chosen by number
        text : columns that hold text, with an example

        Raises
        ------
        ValueError
            If there is no such column, two have the same name, or a chosen one holds text.
        """
        index, text = index or {}, text or {}
        dropped = {_find(column, names, n_columns) for column in self.drop}
        kept = [_find(column, names, n_columns) for column in self.columns] or [
            i for i in range(n_columns) if i not in index
        ]
        kept = [i for i in kept if i not in dropped]
        if names is not None:
            _check_different([names[i] for i in kept])
        if self.names and names is not None:
            kept = self._as_trained(names, kept)
        if unreadable := [i for i in kept if i in text]:
            columns = ", ".join(f"{name_column(names, i)} ({text[i]!r})" for i in unreadable[:5])
            raise ValueError(
                f"{columns}{' and more' if len(unreadable) > 5 else ''} hold{'s' * (len(unreadable) == 1)} text: leave "
                "text out with --drop, or choose columns with --columns, by name or by number from 1"
            )
        if not kept:
            raise ValueError("no column is left to read")
        others = [index.get(i) or name_column(names, i) for i in range(n_columns) if i not in kept]
        return Kept(kept, tuple(others))

    def _as_trained(self, names: Sequence[str], kept: Sequence[int]) -> list[int]:
        """Return the columns of the trained model, in its order."""
        places = {names[i]: i for i in kept}
        if missing := [name for name in self.names or () if name not in places]:
            raise ValueError(
                f"it lacks {_listed(missing)}, which the model was trained with; it has {_listed(list(places))}"
            )
        return [places[name] for name in self.names or ()]


#: What an error says of missing values.
MISSING_REMEDY = "With --missing model, training takes missing values as cells that are not observed"

#: All columns, and the lone array.
EVERYTHING = Choice()


def _check_different(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} columns have the name {name!r}; expected different names")


def _find(column: str, names: Sequence[str] | None, n_columns: int) -> int:
    """Return the number, from 0, of a column given by its name or by its number from 1."""
    if names is not None and column in names:
        return list(names).index(column)
    if column.isdecimal() and 1 <= int(column) <= n_columns:
        return int(column) - 1
    known = f"the columns are {_listed(names)}" if names else f"there are columns 1 to {n_columns}, without names"
    raise ValueError(f"there is no column {column!r}; {known}{did_you_mean(column, names or ())}")


def name_column(names: Sequence[str] | None, i: int) -> str:
    """Return what messages call a column."""
    return f"column {i + 1}" if names is None else f"column {names[i]!r}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
