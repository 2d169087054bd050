"""Kinds of data that people have, good and bad: what `fit` makes of each, and the table of them in the docs."""

import decimal
import fractions
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import THOROUGH

import npvae

DOCS = Path(__file__).parents[1] / "docs" / "data.md"
SMALL = {"n_components": 2, "hidden_layer_sizes": (6,), "learning_rate": 0.05, "max_epochs": 2}

rng = np.random.default_rng(7)
TABLE = rng.standard_normal((40, 5)) * [1, 10, 0.1, 5, 100] + [0, 50, 1, -3, 1000]
UNIT, BINARY, PIXELS = rng.random((40, 5)), rng.random((40, 5)) < 0.4, rng.integers(0, 256, (40, 5), dtype=np.uint8)
COUNTS = rng.poisson(3, (40, 5))
GAUSSIAN, BERNOULLI = "Gaussian, columns standardized", "Bernoulli"
MIXED = "Mixed: the 0/1 columns Bernoulli, the others Gaussian"
CONSTANT = "Gaussian; the constant columns are named"


def changed(X, place, value):
    X = X.copy()
    X[place] = value
    return X


def frame(X=TABLE, **options):
    return pytest.importorskip("pandas").DataFrame(X, columns=list("abcde"), **options)


def with_column(values):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"a": np.arange(40.0), "b": values})


def sparse(X=BINARY):
    import scipy.sparse

    return scipy.sparse.csr_array(X)


class ArrayLike:
    """Has nothing but the protocol."""

    def __array__(self, dtype=None, copy=None):
        return np.array(TABLE, dtype)


#: (kind, function that makes it, what it gets: a likelihood, or a part of the error's message)
KINDS = [
    ("float64 table", lambda: TABLE, GAUSSIAN),
    ("float32 table", lambda: TABLE.astype("f4"), GAUSSIAN),
    ("float16 table", lambda: TABLE.astype("f2"), GAUSSIAN),
    ("long double table", lambda: TABLE.astype(np.longdouble), GAUSSIAN),
    ("big-endian float64", lambda: TABLE.astype(">f8"), GAUSSIAN),
    ("big-endian int32", lambda: COUNTS.astype(">i4"), GAUSSIAN),
    ("big-endian uint16", lambda: COUNTS.astype(">u2"), GAUSSIAN),
    ("Fortran order", lambda: np.asfortranarray(TABLE), GAUSSIAN),
    ("transposed", lambda: TABLE.T.copy().T, GAUSSIAN),
    ("every second row and column", lambda: np.repeat(np.repeat(TABLE, 2, 0), 2, 1)[::2, ::2], GAUSSIAN),
    ("rows in reverse, by a view", lambda: TABLE[::-1], GAUSSIAN),
    ("one row, broadcast to 40", lambda: np.broadcast_to(TABLE[0], (40, 5)), GAUSSIAN),
    ("read-only", lambda: np.frombuffer(TABLE.tobytes()).reshape(40, 5), GAUSSIAN),
    ("list of lists", lambda: TABLE.tolist(), GAUSSIAN),
    ("list of arrays", lambda: list(TABLE), GAUSSIAN),
    ("tuple of tuples", lambda: tuple(map(tuple, TABLE)), GAUSSIAN),
    ("masked array without masked values", lambda: np.ma.masked_array(TABLE), GAUSSIAN),
    ("anything with `__array__`", ArrayLike, GAUSSIAN),
    ("numeric objects", lambda: TABLE.astype(object), GAUSSIAN),
    ("objects: Decimal", lambda: np.vectorize(decimal.Decimal, otypes=[object])(TABLE.round(3)), GAUSSIAN),
    ("objects: Fraction", lambda: np.vectorize(fractions.Fraction, otypes=[object])(TABLE.round(3)), GAUSSIAN),
    ("int8", lambda: (COUNTS - 3).astype("i1"), GAUSSIAN),
    ("int16", lambda: COUNTS.astype("i2"), GAUSSIAN),
    ("int32 counts", lambda: COUNTS.astype("i4"), GAUSSIAN),
    ("int64 counts", lambda: COUNTS, GAUSSIAN),
    ("uint16", lambda: COUNTS.astype("u2"), GAUSSIAN),
    ("uint32", lambda: COUNTS.astype("u4"), GAUSSIAN),
    ("uint64 near 2^63", lambda: COUNTS.astype("u8") * np.uint64(2**12) + np.uint64(2**63), GAUSSIAN),
    ("uint64 whose differences no float can tell", lambda: COUNTS.astype("u8") + np.uint64(2**63), CONSTANT),
    ("uint8 pixels", lambda: PIXELS, "Bernoulli on pixels over 255, with a notice"),
    ("uint8, nothing but 0 and 1", lambda: BINARY.astype("u1"), BERNOULLI),
    ("uint8, all zero", lambda: np.zeros((40, 5), "u1"), BERNOULLI),
    ("bool", lambda: BINARY, BERNOULLI),
    ("int64, nothing but 0 and 1", lambda: BINARY.astype(int), BERNOULLI),
    ("float, nothing but 0 and 1", lambda: BINARY.astype(float), BERNOULLI),
    ("uint8 up to 127", lambda: PIXELS // 2, GAUSSIAN),
    ("int64 pixels", lambda: PIXELS.astype(int), "Bernoulli on pixels over 255, with a notice"),
    ("float64 pixels, 0 to 255", lambda: PIXELS.astype(float), "Bernoulli on pixels over 255, with a notice"),
    ("float multiples of 1/255", lambda: PIXELS / 255, "Bernoulli on grey values, with a notice"),
    ("float16 multiples of 1/255", lambda: (PIXELS / 255).astype("f2"), "Bernoulli on grey values, with a notice"),
    ("float mostly near 0 or 1", lambda: abs(BINARY - 0.03 * UNIT), "Bernoulli on grey values, with a notice"),
    ("float in [0, 1]", lambda: UNIT, GAUSSIAN),
    ("thirds in [0, 1]", lambda: COUNTS.clip(0, 3) / 3, GAUSSIAN),
    ("float in [-1, 1]", lambda: 2 * UNIT - 1, GAUSSIAN),
    ("one column", lambda: TABLE[:, :1], GAUSSIAN),
    ("one row", lambda: TABLE[:1], GAUSSIAN),
    ("more columns than rows", lambda: rng.standard_normal((8, 30)), GAUSSIAN),
    ("scipy.sparse, of counts", lambda: sparse(COUNTS), GAUSSIAN),
    ("scipy.sparse, nothing but 0 and 1", sparse, BERNOULLI),
    ("scipy.sparse, uint8 pixels", lambda: sparse(PIXELS), "Bernoulli on pixels over 255, with a notice"),
    ("a constant column", lambda: changed(TABLE, np.s_[:, 2], 7.0), "Gaussian; the constant column is named"),
    ("all constant", lambda: np.full((40, 5), 7.0), CONSTANT),
    ("two equal columns", lambda: TABLE[:, [0, 0, 1, 2]], GAUSSIAN),
    ("columns of 1e-300 and 1e300", lambda: TABLE[:, :2] * [1e-300, 1e300], GAUSSIAN),
    ("negative zeros", lambda: np.copysign(0.0, TABLE), BERNOULLI),
    ("numbers beyond 1e308 apart", lambda: np.array([[1.7e308], [-1.7e308]]), "X spans more than a float can hold"),
    ("pandas DataFrame", frame, GAUSSIAN),
    ("pandas DataFrame of several types", lambda: with_column(BINARY[:, 0]), MIXED),
    ("real and 0/1 columns", lambda: np.c_[TABLE, BINARY[:, :2]], MIXED),
    ("integers and 0/1 columns", lambda: np.c_[TABLE.astype(int), BINARY[:, :2]], MIXED),
    ("counts, one of them 0 or 1", lambda: np.c_[COUNTS, np.arange(40) < 1], GAUSSIAN),
    ("pandas DataFrame, nullable integers", lambda: frame(COUNTS, dtype="Int64"), GAUSSIAN),
    ("pandas DataFrame with words", lambda: with_column(["x"] * 40), "objects that are not numbers"),
    ("pandas DataFrame with numbers in strings", lambda: with_column(list(map(str, range(40)))), GAUSSIAN),
    ("pandas DataFrame with a missing value", lambda: frame(changed(TABLE, (3, 2), np.nan)), "1 NaN or infinite value"),
    ("pandas, names of mixed types", lambda: frame().rename(columns={"a": 1}), "names are strings and others"),
    ("NaN", lambda: changed(TABLE, (3, 2), np.nan), r"1 NaN or infinite value, the first one \(nan\) in row 3, c"),
    ("infinite", lambda: changed(TABLE, (3, 2), -np.inf), r"the first one \(-inf\) in row 3, column 2"),
    ("None among numbers", lambda: changed(TABLE.astype(object), (3, 2), None), "1 NaN or infinite value"),
    ("masked values", lambda: np.ma.masked_greater(TABLE, 900), "masked values"),
    ("complex", lambda: TABLE * 1j, "expected real numbers. Complex data not supported"),
    ("strings", lambda: TABLE.astype(str), "expected real numbers"),
    ("bytes", lambda: TABLE.astype(bytes), "expected real numbers"),
    ("dates", lambda: np.full((4, 2), np.datetime64("2013-12-20")), "expected real numbers"),
    ("structured", lambda: np.zeros((4, 2), [("a", float), ("b", int)]), "expected real numbers"),
    ("dictionaries", lambda: [[{"a": 1}, {"b": 2}]], "objects that are not numbers"),
    ("rows of different lengths", lambda: [[1.0, 2.0], [3.0]], "X is not an array"),
    ("scipy.sparse with NaN", lambda: sparse(changed(TABLE, (3, 2), np.nan)), r"1 NaN or infinite value"),
    ("scipy.sparse, one-dimensional", lambda: sparse(TABLE)[0], "expected a 2-D array"),
    ("one-dimensional", lambda: TABLE[:, 0], "expected a 2-D array"),
    ("three-dimensional", lambda: TABLE.reshape(4, 10, 5), "expected a 2-D array"),
    ("a number", lambda: 3.0, "expected a 2-D array"),
    ("None", lambda: None, "X is None"),
    ("a string", lambda: "data.csv", "expected real numbers"),
    ("a generator", lambda: (row for row in TABLE), "objects that are not numbers|expected a 2-D array"),
    ("no rows", lambda: TABLE[:0], "expected at least one row"),
    ("no columns", lambda: TABLE[:, :0], r"0 feature\(s\)"),
]  # fmt: skip


def outcome(X):
    """Fit to X and return the likelihood that was chosen and why."""
    model = npvae.VAE(**SMALL).fit(X)
    rows = X.iloc[:3] if hasattr(X, "iloc") else X[:3] if hasattr(X, "tocsr") else np.asarray(X)[:3]
    assert np.isfinite(model.score(X)) and model.transform(rows).shape[1] == 2
    return model.likelihood_, model.report_


@pytest.mark.parametrize("kind, make, expected", KINDS, ids=[kind for kind, *_ in KINDS])
def test_kinds(kind, make, expected):
    X = make()
    if not expected.startswith(("Gaussian", "Bernoulli", "Mixed")):
        with pytest.raises((TypeError, ValueError), match=expected) as raised:
            outcome(X)
        assert str(raised.value).startswith("X ")  # the argument is named
        return
    likelihood, report = outcome(X)
    assert likelihood == re.match(r"\w+", expected)[0].lower()
    assert ("not a probability" in report[0]) == ("notice" in expected)
    assert any("constant" in line for line in report) == ("constant" in expected or "broadcast" in kind)
    assert any("has one row" in line for line in report) == (kind == "one row")


def table():
    """Return the table of the docs."""
    rows = [
        f"| {kind} | {expected if expected[0] in 'GBM' else 'refused: ' + plain(expected)} |"
        for kind, _, expected in KINDS
    ]
    return "\n".join(["| X | what it gets |", "|---|---|", *rows])


def plain(pattern):
    return "“" + pattern.replace("\\", "").replace("|", "” or “") + "”"


def test_the_docs_have_the_table():
    assert len(KINDS) >= 60 and table() in DOCS.read_text()


def test_what_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables = {}
    for page in (DOCS, DOCS.with_name("training.md")):
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(code, page.name, "exec"), variables)
    assert variables["model"].n_samples_seen_ == 500


def test_read_in_any_order_of_bytes_or_memory_it_is_the_same_data():
    same = [
        X() for kind, X, _ in KINDS if kind in ("big-endian float64", "Fortran order", "read-only", "list of lists")
    ]
    expected = npvae.VAE(**SMALL).fit(TABLE).score_samples(TABLE)
    for X in same:
        np.testing.assert_array_equal(npvae.VAE(**SMALL).fit(X).score_samples(X), expected)


MEMORY = """
import resource, sys, numpy as np
rows, limit = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import npvae
X = np.memmap(sys.argv[1], np.uint8, "r", shape=(rows, 784))
model = npvae.VAE(5, hidden_layer_sizes=(20,), batch_size=1000, max_epochs=1, learning_rate=0.05).fit(X)
anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(anonymous // 1024, resident // 1024, model.health_.elbo > model.health_.baseline)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are tested on Linux")
def test_a_memory_map_larger_than_memory(tmp_path):
    """Trained on in place: the limit has no room for the data as floats, of either size."""
    rows = 2_000_000 if THOROUGH else 200_000
    X = np.memmap(tmp_path / "X", np.uint8, "w+", shape=(rows, 784))
    images, _ = npvae.datasets.make_digits(1000, random_state=1)
    for start in range(0, rows, 1000):
        X[start : start + 1000] = images
    X.flush()
    limit = X.nbytes + 2**31 if THOROUGH else X.nbytes + 2**30  # of address space: libraries and threads take some, too
    assert limit < 4 * X.nbytes or not THOROUGH
    command = [sys.executable, "-c", MEMORY, tmp_path / "X", str(rows), str(limit)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    )
    assert ran.returncode == 0, ran.stderr
    anonymous, resident, learnt = ran.stdout.split()
    assert int(anonymous) < 500 and learnt == "True"
    print(f"{rows} rows, {X.nbytes / 2**20:.0f} MB: {anonymous} MB of its own, {resident} MB with pages of the file")


if __name__ == "__main__":
    text = DOCS.read_text()
    start, end = text.index("| X | what it gets |"), text.index("\n\n", text.index("| X | what it gets |"))
    DOCS.write_text(text[:start] + table() + text[end:])
