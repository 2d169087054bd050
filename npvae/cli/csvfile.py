"""Read a CSV file as a table of numbers, without guessing in silence: what is not plain is refused, with its place.

Byte order marks, headers, separators, decimal commas, blank lines and comments are recognized on the first lines. What
was recognized is part of the result, so that it can be shown.
"""

import codecs
import csv
import itertools
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from .choice import EVERYTHING, MISSING_REMEDY, Choice, Table, name_column

#: Lines on which separator, header and types of columns are recognized.
SAMPLE = 100

#: Separators, in the order of preference where several split all lines alike.
SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "vertical bars"}

#: Byte order marks, the longer ones first, and the encodings that they stand for.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip

#: Cells that stand for a value that is not there, in lower case.
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "nil", "missing", "?", "-", ".", "nat"}

BOOLEANS = {"true": 1.0, "false": 0.0}

_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_INTEGER = re.compile(r"[+-]?\d+")


class Line(NamedTuple):
    """A line of the table: its number in the file, and its cells."""

    number: int
    cells: list[str]


class Layout(NamedTuple):
    """How a file is written, as its first lines show."""

    encoding: str
    separator: str  # " " for any number of spaces
    skipped: int  # comments, and a line such as "sep=;", at the beginning
    header: Line | None
    n_columns: int
    ends_with_separator: bool
    row_names: bool  # each row has one cell more than the header: its name
    decimal_comma: bool
    rows: list[Line]  # the first ones


def read(path: str | Path, choice: Choice = EVERYTHING) -> Table:
    r"""Read a CSV file.

    Parameters
    ----------
    path : str or path
    choice : Choice
        Which columns, and whether the first line has their names.

    Returns
    -------
    Table, of float64

    Raises
    ------
    ValueError
        If the file is not a table of finite numbers, or can be read in two ways. The message has line and column.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "table.csv")
    ...     _ = path.write_text("length;width\n1,5;2\n\n3;4\n")
    ...     table = read(path)
    >>> table.X.tolist(), table.names
    ([[1.5, 2.0], [3.0, 4.0]], ('length', 'width'))
    >>> table.notes
    ('separated by semicolons', 'decimal commas', '1 blank line skipped')
    """
    encoding = _encoding(path)
    try:
        with open(path, encoding=encoding, newline="") as file:
            layout = _layout(file, encoding, choice)
        with open(path, encoding=encoding, newline="") as file:
            return _table(file, layout, choice)
    except UnicodeError as error:
        raise ValueError(
            f"its text is not {encoding.removesuffix('-sig').upper()} ({error}); save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise ValueError(f"it is not CSV: {error}") from None


def _encoding(path: str | Path) -> str:
    """Return the encoding that a byte order mark names, UTF-8 without one."""
    with open(path, "rb") as file:
        head = file.read(1000)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise ValueError("it holds bytes of zero: it is not text, or UTF-16 without a byte order mark")
    return "utf-8"


# Layout ---------------------------------------------------------------------------------------------------------------


def _layout(file: TextIO, encoding: str, choice: Choice) -> Layout:
    """Recognize how a file is written on its first lines."""
    lines: list[str] = []
    skipped, separator, comment = 0, None, None
    for line in file:
        if not lines and line.startswith("#"):
            skipped, comment = skipped + 1, (skipped + 1, line)
        elif not lines and (found := re.fullmatch(r'"?sep=(.)"?\s*', line)):
            skipped, separator = skipped + 1, found[1]
        elif not lines and not line.strip():
            skipped += 1
        else:
            lines.append(line)
        if len(lines) >= SAMPLE:
            break
    if not lines:
        raise ValueError("it is empty")
    separator = separator or _separator(lines)
    rows = [Line(number + skipped, cells) for number, cells in _split(lines, separator) if not _is_blank(cells)]
    rows = rows[:-1] if len(lines) >= SAMPLE else rows  # a line break in quotes may have cut the last one
    header = None
    if comment and choice.header is not False:
        (_, names), *_ = _split([comment[1].lstrip("# ")], separator)
        if len(names) == len(rows[0].cells) and _kinds(rows[0].cells) == {"number"} != _kinds(names):
            header = Line(comment[0], names)
    quoted = [_is_quoted(line, row.cells, separator) for line, row in zip(filter(str.strip, lines), rows)]
    if header is None and _has_header(rows, quoted, choice.header):
        header, rows = rows[0], rows[1:]
    if not rows:
        raise ValueError("it has names of columns and no rows")
    return _columns(Layout(encoding, separator, skipped, header, 0, False, False, False, rows), quoted)


def _columns(layout: Layout, quoted: Sequence[bool]) -> Layout:
    """Add the number of columns and whether commas are decimal."""
    rows, header = layout.rows, layout.header
    first = len(rows[0].cells)
    ends = first > 1 and header is not None and all(not row.cells[-1].strip() for row in rows)
    if header is not None:  # and not a column with a name whose values are missing
        ends = ends and (len(header.cells) == first - 1 or not header.cells[-1].strip())
    row_names = False
    if header is not None and not ends and len(header.cells) == first - 1:
        names = [row.cells[0] for row in rows]
        row_names = all(_kind(name) == "text" for name in names) or (
            layout.separator != "," and names == [str(n) for n in range(1, len(names) + 1)]
        )
    return layout._replace(
        n_columns=first - ends, ends_with_separator=ends, row_names=row_names, decimal_comma=_decimal_comma(rows)
    )


def _split(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line, cells)."""
    if separator == " ":
        yield from ((number, line.split()) for number, line in enumerate(lines, 1))
        return
    lines = (line if line.strip(" \r\n") else "\n" for line in lines)  # spaces alone would be an empty cell
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for cells in reader:
        yield reader.line_num, cells


def _is_blank(cells: Sequence[str]) -> bool:
    """Return whether a line has no cells. One that is empty but in quotes is a cell, and csv gives it as such."""
    return not cells


def _separator(lines: Sequence[str]) -> str:
    """Return what separates the cells: what splits all lines into as many parts, more than one."""
    counts = {
        separator: [len(cells) for _, cells in _split(lines, separator) if not _is_blank(cells)]
        for separator in SEPARATORS
    }
    for separator, found in counts.items():
        if min(found) > 1 and max(found) - min(found) <= 1:
            return separator
    spaces = [line.split() for line in lines if line.strip()]
    numbers = all(_kind(cell) == "number" for cells in spaces[1:] or spaces for cell in cells)
    if numbers and min(map(len, spaces)) > 1 and len(set(map(len, spaces))) == 1:
        return " "
    return max(",", *counts, key=lambda separator: sum(counts[separator]))  # the first of the largest


def _is_quoted(line: str, cells: Sequence[str], separator: str) -> bool:
    """Return whether all cells of a line are in quotes."""
    return line.strip().replace(" ", "") == separator.join(f'"{cell}"' for cell in cells).replace(" ", "")


def _kind(cell: str) -> str:
    """Return what a cell holds: "number", "missing" (or infinite) or "text"."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return "missing"
    if cell.lower() in BOOLEANS or _COMMA_NUMBER.fullmatch(cell) or _GROUPED.fullmatch(cell):
        return "number"
    try:
        return "text" if "_" in cell else "number" if math.isfinite(float(cell)) else "missing"
    except ValueError:
        return "text"


def _kinds(cells: Iterable[str]) -> set[str]:
    return {_kind(cell) for cell in cells}


def _has_header(rows: Sequence[Line], quoted: Sequence[bool], given: bool | None) -> bool:
    """Return whether the first row has the names of the columns. What may be either is refused."""
    if given is not None:
        return given
    number, cells = rows[0]
    kinds = _kinds(cells)
    if kinds <= {"text", "missing"}:
        missing = [cell for cell in cells if cell.strip() not in ("", "Na") and _kind(cell) == "missing"]
        if missing and "text" in kinds:  # Na is sodium
            raise ValueError(
                f"line {number} has {missing[0]!r} beside text: give --header if these are names of columns, or "
                "--no-header if a value is missing"
            )
        return "text" in kinds
    if cells[0] == "" and len(cells) > 1 and _counts(cells[1:]) and _counts([row.cells[0] for row in rows[1:]]):
        return True  # pandas, with its index and without names
    if "text" in kinds:
        examples = {kind: next(cell for cell in cells if _kind(cell) == kind) for kind in ("number", "text")}
        raise ValueError(
            f"line {number} has numbers ({examples['number']!r}) beside text ({examples['text']!r}): give --header if "
            "these are names of columns, or --no-header if it is data"
        )
    if "missing" in kinds:
        return False  # a row of data, to be refused for what it lacks
    if len(rows) > 1 and quoted[0] and not quoted[1]:
        return True  # numbers in quotes
    return _is_header_of_numbers(rows)


def _is_header_of_numbers(rows: Sequence[Line]) -> bool:
    """Return whether a first row of numbers has names of columns: 0, 1, 2, ... above numbers of another kind."""
    number, cells = rows[0]
    if len(rows) < 2 or not _consecutive(cells):
        return False
    columns = zip(*(row.cells for row in rows[1:]))
    fractions = all(any(not _INTEGER.fullmatch(cell.strip()) for cell in column) for column in columns)
    if len(cells) == 1:
        return cells[0].strip() == "0" and all(not _INTEGER.fullmatch(row.cells[0].strip()) for row in rows[1:])
    first, many = int(cells[0]), len(cells) >= 10
    if first == 0 and (fractions or (many and not _consecutive(rows[1].cells))):
        return True
    if first == 0 or fractions or many:
        raise ValueError(
            f"line {number} ({', '.join(cells[:4])}{', ...' if len(cells) > 4 else ''}) may have the names of the "
            "columns or data: give --header or --no-header"
        )
    return False


def _consecutive(cells: Sequence[str]) -> bool:
    """Return whether cells are integers that follow on each other."""
    if not all(_INTEGER.fullmatch(cell.strip()) for cell in cells):
        return False
    numbers = list(map(int, cells))
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _counts(cells: Sequence[str]) -> bool:
    """Return whether cells count from 0 or 1."""
    return len(cells) > 0 and _consecutive(cells) and int(cells[0]) in (0, 1)


def _decimal_comma(rows: Sequence[Line]) -> bool:
    """Return whether commas in the cells are decimal; where they may be something else, refuse them."""
    cells = [(row.number, cell.strip()) for row in rows for cell in row.cells]
    commas = [(n, cell) for n, cell in cells if _COMMA_NUMBER.fullmatch(cell) or _GROUPED.fullmatch(cell)]
    if not commas:
        return False
    number, example = commas[0]
    points = [cell for _, cell in cells if "." in cell and _kind(cell) == "number"]
    if points:
        raise ValueError(f"line {number} has a comma in {example!r}, and other numbers have points, as {points[0]!r}")
    if all(_GROUPED.fullmatch(cell) for _, cell in commas):
        raise ValueError(f"line {number}: the comma in {example!r} may be decimal or separate thousands")
    return True


# Contents -------------------------------------------------------------------------------------------------------------


def _table(file: TextIO, layout: Layout, choice: Choice) -> Table:
    """Read the columns chosen."""
    names, dropped = _names(layout)
    kinds = _kinds_of_columns(layout)
    kept = choice.select(
        names, layout.n_columns, dropped, text={i: cell for i, (kind, cell) in kinds.items() if kind == "text"}
    )
    boolean = [kinds[i][0] == "boolean" for i in kept.columns]
    columns = Columns(kept.columns, boolean, names, layout, choice.missing)
    X, blank = columns.read(file)
    notes = [f"separated by {SEPARATORS.get(layout.separator, 'spaces')}"] if layout.separator != "," else []
    notes += ["decimal commas"] if layout.decimal_comma else []
    skipped = layout.skipped - (layout.header is not None and layout.header.number <= layout.skipped)
    notes += [f"{skipped} line{'s' * (skipped > 1)} at the beginning skipped"] if skipped else []
    notes += [f"{blank} blank line{'s' * (blank > 1)} skipped"] if blank else []
    notes += ["an empty column after the last separator left out"] if layout.ends_with_separator else []
    if any(columns.boolean):
        notes.append("true and false read as 1 and 0")
    chosen = None if names is None else tuple(names[i] for i in kept.columns)
    if len(X) >= 10 and X.shape[1] > 1 and np.array_equal(X[:, 0] - X[0, 0], np.arange(len(X))) and X[0, 0] in (0, 1):
        notes.append(
            f"{name_column(names, kept.columns[0])} counts the rows: --drop {kept.columns[0] + 1} leaves it out"
        )
    return Table(X, chosen, tuple(notes), kept.left_out, layout.header is not None)


def _names(layout: Layout) -> tuple[tuple[str, ...] | None, dict[int, str]]:
    """Return the names of all columns, if there are any, and the columns that number or name the rows."""
    if layout.header is None:
        return None, {}
    cells = [cell.strip() for cell in layout.header.cells]
    if layout.row_names:
        cells = ["", *cells]
    if len(cells) - layout.n_columns not in (0, 1) or (len(cells) > layout.n_columns and cells[-1]):
        raise ValueError(
            f"line {layout.header.number} has {len(cells)} names, and line {layout.rows[0].number} has "
            f"{layout.n_columns} cells"
        )
    cells = cells[: layout.n_columns]
    index: dict[int, str] = {}
    for i, name in enumerate(cells):
        if name and not re.fullmatch(r"Unnamed: \d+", name):
            continue
        values = [row.cells[i].strip() for row in layout.rows if i < len(row.cells)]
        if i != len(index) or len(cells) == 1 or not all(_INTEGER.fullmatch(v) or _kind(v) == "text" for v in values):
            raise ValueError(
                f"line {layout.header.number}: column {i + 1} has no name, and does not number the rows; name it, or "
                "give --no-header"
            )
        index[i] = f"column {i + 1}, without a name: an index of the rows ({values[0]}, ...)"
    return tuple(name or f"column {i + 1}" for i, name in enumerate(cells)), index


def _kinds_of_columns(layout: Layout) -> dict[int, tuple[str, str]]:
    """Return the kind of each column, with an example: "number", "boolean" or "text", if nothing in it is a number."""
    kinds = {}
    for i in range(layout.n_columns):
        cells = [row.cells[i].strip() for row in layout.rows if i < len(row.cells)]
        there = [cell for cell in cells if _kind(cell) != "missing"]
        if there and all(_kind(cell) == "text" for cell in there):
            kinds[i] = "text", there[0]
        elif there and all(cell.lower() in BOOLEANS for cell in there):
            kinds[i] = "boolean", there[0]
        else:
            kinds[i] = "number", ""
    return kinds


class Columns(NamedTuple):
    """The columns that are read of each row, by number, and how."""

    numbers: list[int]
    boolean: list[bool]
    names: Sequence[str] | None
    layout: Layout
    missing: bool  # whether values may be missing

    def read(self, file: TextIO) -> tuple[NDArray[np.float64], int]:
        """Return the numbers (rows, columns) of a file, and how many blank lines it has."""
        layout, values, lines, blank = self.layout, array("d"), array("q"), 0
        width = layout.n_columns + layout.ends_with_separator
        plain = self.numbers == list(range(width)) and not any(self.boolean) and not layout.decimal_comma
        marked = _Marked(itertools.islice(file, layout.skipped, None))
        for number, cells in _split(marked, layout.separator):
            number += layout.skipped
            if _is_blank(cells):
                blank += 1
                continue
            if layout.header is not None and number <= layout.header.number:
                continue
            if len(cells) != width or (layout.ends_with_separator and cells[-1].strip()):
                raise ValueError(
                    f"line {number} has {len(cells)} cells; expected {width}, as in line {layout.rows[0].number}"
                )
            before = len(values)
            if plain and not marked.underscore:
                try:
                    values.extend(map(float, cells))
                except ValueError:
                    del values[before:]
            if len(values) == before:
                values.extend(self._number(number, column, cells) for column in range(len(self.numbers)))
            marked.underscore = False
            lines.append(number)
        X = np.frombuffer(values).reshape(len(lines), len(self.numbers))
        self._check_finite(X, lines)
        return X, blank

    def _number(self, line: int, column: int, cells: Sequence[str]) -> float:
        """Return the number in a cell: NaN if it is missing, ValueError if it is text."""
        cell = cells[self.numbers[column]].strip()
        if cell.lower() in MISSING:
            return math.nan
        if self.boolean[column] and cell.lower() in BOOLEANS:
            return BOOLEANS[cell.lower()]
        text = cell.replace(",", ".") if self.layout.decimal_comma and "." not in cell else cell
        try:
            if "_" not in text and not (self.layout.decimal_comma and "." in cell):
                return float(text)
        except ValueError:
            pass
        expected = "true or false" if self.boolean[column] else "a number"
        raise ValueError(f"line {line}, {self._name(column)}: {cell!r} is not {expected}")

    def _check_finite(self, X: NDArray[np.float64], lines: Sequence[int]) -> None:
        """Refuse infinite numbers, and missing ones unless there may be some, with count and place of the first."""
        bad = np.argwhere(np.isinf(X) if self.missing else ~np.isfinite(X))
        if len(bad) == 0:
            return
        row, column = map(int, bad[0])
        kind = "missing" if np.isnan(X[row, column]) else "infinite"
        raise ValueError(
            f"line {lines[row]}, {self._name(column)}: the value is {kind}; expected finite numbers. "
            f"{len(bad)} value{'s are' if len(bad) > 1 else ' is'} missing or infinite, in {len(set(bad[:, 0]))} of "
            f"{len(X)} rows. {MISSING_REMEDY}"
        )

    def _name(self, column: int) -> str:
        return name_column(self.names, self.numbers[column])


class _Marked:
    """Lines of a file that say of the last ones whether they have an underscore, which `float` would read over."""

    def __init__(self, lines: Iterable[str]):
        self.lines, self.underscore = iter(lines), False

    def __iter__(self) -> "_Marked":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.underscore = self.underscore or "_" in line
        return line
