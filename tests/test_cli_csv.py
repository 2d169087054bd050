"""CSV files that people have: what the command reads of each, or why it refuses it."""

import numpy as np
import pytest

from npvae.cli.choice import Choice
from npvae.cli.csvfile import read

REAL = "1.5,2.25,3\n4,5.5,6.125\n"
NUMBERS = [[1.5, 2.25, 3.0], [4.0, 5.5, 6.125]]
GERMAN = REAL.replace(",", ";").replace(".", ",")
LONG = REAL * 100

#: (kind, text, encoding or the choice made, what is read: (values, names), or a part of the error's message)
KINDS = [
    ("no header", REAL, {}, (NUMBERS, None)),
    ("header of text", "a,b,c\n" + REAL, {}, (NUMBERS, "abc")),
    ("header of text in quotes", '"a","b","c"\n' + REAL, {}, (NUMBERS, "abc")),
    ("header with spaces after commas", "a, b, c\n" + REAL, {}, (NUMBERS, "abc")),
    ("header 0, 1, 2 (pandas, without names)", "0,1,2\n" + REAL.replace("3", "3.0"), {}, (NUMBERS, "012")),
    ("header of numbers in quotes", '"7","8","9"\n' + REAL, {}, (NUMBERS, "789")),
    ("numbers in quotes, no header", '"1.5","2.25","3"\n"4","5.5","6.125"\n', {}, (NUMBERS, None)),
    ("first row 0, 1, 2 above integers", "0,1,2\n7,8,9\n7,7,7\n", {}, "line 1 (0, 1, 2) may have the names"),
    ("years above fractions", "2019,2020,2021\n1.5,2.5,3.5\n", {}, "line 1 (2019, 2020, 2021) may have the names"),
    ("years above fractions, with `--header`", "7,8,9\n" + REAL, {"header": True}, (NUMBERS, "789")),
    ("integers, no header", "1,2\n3,4\n", {}, ([[1, 2], [3, 4]], None)),
    ("byte order mark, UTF-8", "\ufeff" + REAL, {}, (NUMBERS, None)),
    ("byte order mark, UTF-8, header", "\ufeffa,b,c\n" + REAL, {}, (NUMBERS, "abc")),
    ("byte order mark, UTF-16", "a,b,c\n" + REAL, "utf-16", (NUMBERS, "abc")),
    ("byte order mark, UTF-32", REAL, "utf-32", (NUMBERS, None)),
    ("UTF-16 without a mark", REAL, "utf-16-le", "UTF-16 without a byte order mark"),
    ("another encoding than UTF-8", "é,b,c\n" + REAL, "latin-1", "its text is not UTF-8"),
    ("index of pandas", ",a,b,c\n0," + REAL.replace("\n4", "\n1,4"), {}, (NUMBERS, "abc")),
    ("index of pandas, without names", ",0,1,2\n0," + REAL.replace("\n4", "\n1,4"), {}, (NUMBERS, "012")),
    ("index of pandas, saved twice", "Unnamed: 0,a,b,c\n0," + REAL.replace("\n4", "\n1,4"), {}, (NUMBERS, "abc")),
    ("index of words", ",a,b,c\nx," + REAL.replace("\n4", "\ny,4"), {}, (NUMBERS, "abc")),
    ("row names of R, without a name", "a,b,c\nx," + REAL.replace("\n4", "\ny,4"), {}, (NUMBERS, "abc")),
    ("column of fractions without a name", ",b,c\n" + REAL, {}, "line 1: column 1 has no name"),
    ("index of two levels", ",,a\nx,0,1.5\nx,1,4\ny,0,5\n", {}, ([[1.5], [4], [5]], "a")),
    ("two columns of one name", "a,b,a\n" + REAL, {}, "2 columns have the name 'a'"),
    ("same, with `--drop 3`", "a,b,a\n" + REAL, {"drop": ("3",)}, ([row[:2] for row in NUMBERS], "ab")),
    ("empty cell in the first row", "1.5,,3\n" + REAL, {}, "line 1, column 2: the value is missing"),
    ("NA in the first row", "NA,2.25,3\n" + REAL, {}, "line 1, column 1: the value is missing"),
    ("? in the first row", "1.5,2.25,?\n" + REAL, {}, "line 1, column 3: the value is missing"),
    ("nothing but NA in the first row", "NA,NA,NA\n" + REAL, {}, "line 1, column 1: the value is missing"),
    ("? beside text in the first row", "?,x\n1.5,y\n", {"drop": ("2",)}, "line 1 has '?' beside text: give --header"),
    ("sodium in a header", "Na,Mg\n1.5,2\n", {}, ([[1.5, 2]], ["Na", "Mg"])),
    ("empty cell below a header", "a,b,c\n" + REAL + "1,,3\n", {}, "line 4, column 'b': the value is missing"),
    ("several missing cells", "a,b\n1,null\n,2\n3,4\n", {}, "2 values are missing or infinite, in 2 of 3 rows"),
    ("missing cell far below", "a,b,c\n" + LONG + "1,NaN,3\n", {}, "line 202, column 'b': the value is missing"),
    ("infinite number", "a,b\n1,inf\n", {}, "line 2, column 'b': the value is infinite"),
    ("number beyond 1e308", "a,b\n1,1e999\n", {}, "line 2, column 'b': the value is infinite"),
    ("semicolons", "a;b;c\n" + REAL.replace(",", ";"), {}, (NUMBERS, "abc")),
    ("semicolons and decimal commas", "a;b;c\n" + GERMAN, {}, (NUMBERS, "abc")),
    ("semicolons and decimal commas, no header", GERMAN, {}, (NUMBERS, None)),
    ("decimal commas in quotes", 'a,b\n"1,5",2\n', {}, ([[1.5, 2]], "ab")),
    ("decimal commas and points", "a;b\n1,5;2.5\n", {}, "line 2 has a comma in '1,5', and other numbers have points"),
    ("commas that may be thousands", "a;b\n1,500;2\n", {}, "may be decimal or separate thousands"),
    ("decimal commas between commas, header", "x\n1,5\n2,5\n", {}, "line 1 has 1 names, and line 2 has 2 cells"),
    ("tabs", "a\tb\tc\n" + REAL.replace(",", "\t"), {}, (NUMBERS, "abc")),
    ("vertical bars", REAL.replace(",", "|"), {}, (NUMBERS, None)),
    ("spaces (`numpy.savetxt`)", "# a b c\n" + REAL.replace(",", " "), {}, (NUMBERS, "abc")),
    ("line `sep=;` of Excel", "sep=;\na;b;c\n" + GERMAN, {}, (NUMBERS, "abc")),
    ("comments above the header", "# made in 2026\n# again\na,b,c\n" + REAL, {}, (NUMBERS, "abc")),
    ("header behind #", "#a,b,c\n" + REAL, {}, (NUMBERS, "abc")),
    ("blank lines", "\n\na,b,c\n\n" + REAL.replace("\n", "\n\n  \n"), {}, (NUMBERS, "abc")),
    ("line ends of Windows", ("a,b,c\n" + REAL).replace("\n", "\r\n"), {}, (NUMBERS, "abc")),
    ("separators at the ends of lines", "a,b,c\n" + REAL.replace("\n", ",\n"), {}, (NUMBERS, "abc")),
    ("one column", "a\n1.5\n\n2\n", {}, ([[1.5], [2]], "a")),
    ("one column, an empty cell in quotes", 'a\n1.5\n""\n2\n', {}, "line 3, column 'a': the value is missing"),
    ("text column", "a,b,c\n1.5,x,3\n4,y,6\n", {}, "column 'b' ('x') holds text: leave text out with --drop"),
    ("text columns", "a,b\nx,y\n", {}, "column 'a' ('x'), column 'b' ('y') hold text"),
    ("text column, with `--drop`", "a,b,c\n1.5,x_1,3\n4,y_2,6\n", {"drop": ("b",)}, ([[1.5, 3], [4, 6]], "ac")),
    ("text column, with `--columns`", "a,b,c\n1.5,x,3\n4,y,6\n", {"columns": ("c", "a")}, ([[3, 1.5], [6, 4]], "ca")),
    ("missing cell in a dropped column", "a,b\n1,\n2,3\n", {"drop": ("2",)}, ([[1], [2]], "a")),
    ("text in the first row, no header", "1.5,x\n4,y\n", {}, "line 1 has numbers ('1.5') beside text ('x')"),
    ("same, with `--no-header --drop 2`", "1.5,x\n4,y\n", {"header": False, "drop": ("2",)}, ([[1.5], [4]], None)),
    ("a column that is not there", "a,b\n1,2\n", {"drop": ("c",)}, "there is no column 'c'; the columns are 'a', 'b'"),
    ("a word among numbers", "a,b,c\n" + LONG + "1,x,3\n", {}, "line 202, column 'b': 'x' is not a number"),
    ("true and false", "a,b\nTrue,1.5\nFALSE,2\n", {}, ([[1, 1.5], [0, 2]], "ab")),
    ("numbers with underscores", "a,b,c\n" + LONG + "1_0,2,3\n", {}, "line 202, column 'a': '1_0' is not a number"),
    ("a row that is too short", "a,b\n1,2\n3\n", {}, "line 3 has 1 cells; expected 2"),
    ("a row that is too long", "a,b\n1,2\n3,4,5\n", {}, "line 3 has 3 cells; expected 2"),
    ("nothing but a header", "a,b\n", {}, "it has names of columns and no rows"),
    ("empty", "", {}, "it is empty"),
    ("not text", "PK\x03\x04\0\0", {}, "it is not text"),
]  # fmt: skip


def make(folder, text, how):
    path = folder / "table.csv"
    path.write_bytes(text.encode(how if isinstance(how, str) else "utf-8"))
    return path, Choice(**how) if isinstance(how, dict) else Choice()


@pytest.mark.parametrize("kind, text, how, expected", KINDS, ids=[kind for kind, *_ in KINDS])
def test_kinds(kind, text, how, expected, tmp_path):
    path, choice = make(tmp_path, text, how)
    if isinstance(expected, str):
        with pytest.raises(ValueError) as raised:
            read(path, choice)
        assert expected in str(raised.value)
        return
    values, names = expected
    table = read(path, choice)
    np.testing.assert_array_equal(table.X, values)
    assert table.X.dtype == np.float64 and table.names == (names and tuple(names))


@pytest.mark.parametrize(
    "text, how, said",
    [
        (REAL, {}, "2 rows, 3 columns, no header"),
        ("a,b,c\n" + REAL, {}, "2 rows, 3 columns, named a, b, c"),
        ("a;b;c\n\n" + GERMAN, {}, "separated by semicolons; decimal commas; 1 blank line skipped"),
        ("# a remark\na,b\n1,2\n", {}, "1 line at the beginning skipped"),
        ("a,b\n1,2,\n3,4,\n", {}, "an empty column after the last separator left out"),
        ("a,b\ntrue,2\n", {}, "true and false read as 1 and 0"),
        ("n,b\n" + "".join(f"{i},0.5\n" for i in range(20)), {}, "column 'n' counts the rows: --drop 1 leaves it out"),
    ],
)
def test_what_was_read_is_said(text, how, said, tmp_path):
    assert said in read(*make(tmp_path, text, how)).describe()


def test_what_is_left_out_is_said(tmp_path):
    table = read(*make(tmp_path, ",a,b\n0,1.5,x\n1,2.5,y\n", {"drop": ("b",)}))
    assert table.left_out == ("column 1, without a name: an index of the rows (0, ...)", "column 'b'")


def test_columns_of_a_model_are_taken_by_name(tmp_path):
    path, _ = make(tmp_path, "name,c,b,a\nx,3,2,1\n", {})
    assert read(path, Choice(names=("a", "c"))).X.tolist() == [[1, 3]]
    with pytest.raises(ValueError, match="it lacks 'd', which the model was trained with; it has 'name', 'c'"):
        read(path, Choice(names=("a", "d")))
