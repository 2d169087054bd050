"""Passes over a table that several ranks share: each reads its rows, and all have the bits that one process has."""

import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
import scipy.sparse as sp

import npvae
from npvae import fitting, preprocessing, sparse, table
from npvae.parallel import SERIAL
from npvae.preprocessing import choose_likelihood, fit_preprocessor
from npvae.sparse import SparseRows
from npvae.table import survey

pytestmark = pytest.mark.filterwarnings("ignore:X has values up to .* outside .0, 1.. they are clipped")

N, D = 203, 7

#: Rows per chunk and cells of sparse chunks: many chunks, three, one.
CHUNKS = {"many": (20, 100), "three": (70, 500), "one": (10_000, sparse.CELLS)}

#: The usual value of a column is the median of so many rows, and one more.
USUAL = 10


def draws(rng):
    return rng.standard_normal((N, D)) * 10.0 ** np.arange(-3, 4) + 5


def late(X, other):
    """X, but for the last rows, which are of another kind."""
    return np.concatenate([X[:-50], other[-50:]])


def bits(rng):
    return (rng.random((N, D)) < 0.3).astype(float)


def pixels(rng):
    return rng.integers(0, 256, (N, D)).astype(np.uint8)


def near_ends(rng):
    return np.where(rng.random((N, D)) < 0.8, 0.04 * rng.random((N, D)), 1 - 0.04 * rng.random((N, D)))


def mixed(rng):
    return np.c_[draws(rng)[:, :4], bits(rng)[:, :3]]


def constant(rng):
    return np.where([False, True] * 3 + [False], 0.1, draws(rng))


def hardly(rng):
    """Columns with one and with two unusual values, some in late rows."""
    X = draws(rng)
    X[:, [1, 4]] = -5, 3
    X[150, 1], X[[3, 190], 4] = 7, 8
    return X


def sparse_of(values):
    """Return a kind in which nine cells of ten are zeros that are not stored."""
    return lambda rng: sp.csr_array(np.where(rng.random((N, D)) < 0.1, values(rng), 0))


def with_holes(values):
    """Some rows have no value at all."""
    return lambda rng: np.where((rng.random((N, D)) < 0.4) | (np.arange(N) % 60 == 59)[:, None], np.nan, values(rng))


def sparse_hardly(rng):
    X = sparse_of(draws)(rng).toarray()
    X[:, [1, 4]] = 0
    X[150, 1], X[[3, 190], 4] = 7, 8
    return sp.csr_array(X)


def sparse_with_holes(rng):
    X = sparse_of(draws)(rng)
    X.data[::3] = np.nan
    return X


def late_holes(rng):
    """The only cell that is not observed is in a late row; elsewhere a rank finds none."""
    X = draws(rng)
    X[-9, 2] = np.nan
    return X


def early_holes(rng):
    """Columns without a value in the rows of the first ranks, or but for the first row."""
    X = draws(rng)
    X[:150, 3], X[1:180, 4] = np.nan, np.nan
    return X


def masked(values):
    """What is below a mask is no value."""

    def kind(rng):
        X, hidden = values(rng), rng.random((N, D)) < 0.4
        X[hidden] = 77
        return np.ma.MaskedArray(X, hidden)

    return kind


KINDS = {
    "pixels": pixels,
    "small uint8": lambda rng: pixels(rng) % 9,
    "float64": draws,
    "float32": lambda rng: draws(rng).astype(np.float32),
    "float16": lambda rng: draws(rng).astype(np.float16),
    "long double": lambda rng: draws(rng).astype(np.longdouble),
    "other byte order": lambda rng: draws(rng).astype(">f8"),
    "counts": lambda rng: rng.poisson(2, (N, D)),
    "levels": lambda rng: pixels(rng).astype(int),
    "binary": lambda rng: bits(rng).astype(np.uint8),
    "binary floats": bits,
    "bool": lambda rng: bits(rng) > 0,
    "at first binary": lambda rng: late(bits(rng), draws(rng)),
    "at first binary, then counts": lambda rng: late(bits(rng), rng.poisson(2, (N, D))).astype(int),
    "at last binary": lambda rng: late(draws(rng), bits(rng)),
    "at first integers": lambda rng: late(np.rint(draws(rng)), draws(rng)),
    "grey": lambda rng: pixels(rng) / 255,
    "grey float32": lambda rng: pixels(rng) / np.float32(255),
    "fifths": lambda rng: pixels(rng) % 6 / 5,
    "at first fifths": lambda rng: late(pixels(rng) % 6 / 5, pixels(rng) / 255),
    "near 0 or 1": near_ends,
    "at last near 1": lambda rng: late(0.04 * rng.random((N, D)), 1 - 0.04 * rng.random((N, D))),
    "at first grey": lambda rng: late(pixels(rng) / 255, rng.random((N, D))),
    "at first near 0 or 1": lambda rng: late(near_ends(rng), draws(rng)),
    "clipped": lambda rng: pixels(rng) / 255 * (1 + 1e-8),
    "mixed": mixed,
    "constant": constant,
    "all constant": lambda rng: np.full((N, D), 0.1),
    "hardly": hardly,
    "holes": with_holes(draws),
    "grey holes": with_holes(near_ends),
    "mixed holes": with_holes(mixed),
    "constant holes": with_holes(constant),
    "hardly holes": with_holes(hardly),
    "late holes": late_holes,
    "early holes": early_holes,
    "masked": masked(draws),
    "masked pixels": masked(pixels),
    "masked bits": masked(lambda rng: bits(rng).astype(int)),
    "masked NaN": lambda rng: np.ma.MaskedArray(with_holes(hardly)(rng), rng.random((N, D)) < 0.2),
    "sparse": sparse_of(draws),
    "sparse pixels": sparse_of(pixels),
    "sparse bits": sparse_of(bits),
    "sparse mixed": sparse_of(lambda rng: np.c_[draws(rng)[:, :4], np.ones((N, 3))]),
    "sparse hardly": sparse_hardly,
    "sparse holes": sparse_with_holes,
    "one column": lambda rng: draws(rng)[:, :1],
    "one row": lambda rng: draws(rng)[:1],
}

#: A sparse table is in memory as a whole, and each block of its columns is cut into rows in its own way.
DENSE = [kind for kind in KINDS if "sparse" not in kind and kind != "one row"]


@pytest.fixture(params=CHUNKS)
def chunk(request, monkeypatch):
    rows, cells = CHUNKS[request.param]
    monkeypatch.setattr(table, "CHUNK", rows)
    for module in (table, sparse):
        monkeypatch.setattr(module, "CELLS", cells)
    monkeypatch.setattr(preprocessing, "MEDIAN_OF", USUAL)
    return rows


def comparable(thing):
    """Return what has the same value if all fields and all bits of two things are the same."""
    if isinstance(thing, SparseRows):
        return comparable((thing.data, thing.indices, thing.indptr))
    if isinstance(thing, np.ndarray | np.generic):
        thing = thing.astype(float) if thing.dtype == np.longdouble else thing  # which has bytes without meaning
        return thing.dtype.str, thing.shape, thing.tobytes()
    if hasattr(thing, "_fields"):
        fields = {name: value for name, value in thing._asdict().items() if name != "parallel"}
        return {name: comparable(value) for name, value in fields.items()}
    return [comparable(part) for part in thing] if isinstance(thing, tuple | list) else thing


def likelihoods_of(found):
    return sorted({choose_likelihood(found)[0], "gaussian"})


def all_of(parallel, X):
    """Return what is found out about X before a training, for each likelihood that suits it."""
    found = survey(X, missing=True, parallel=parallel)
    results = [found, choose_likelihood(found), preprocessing._column_moments(found)]
    for likelihood in likelihoods_of(found):
        preprocessor, notices = fit_preprocessor(found, likelihood)
        results += [preprocessor, notices, preprocessor.data(found)]
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_has_the_bits_of_one_process(kind, chunk, rng):
    X = KINDS[kind](rng)
    expected = comparable(all_of(SERIAL, X))
    for n in (1, 2, 3, 5):
        for found in ranks.run(n, lambda parallel: all_of(parallel, X)):
            assert comparable(found) == expected


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_shares_are_whole_chunks_of_all_rows(n, monkeypatch):
    monkeypatch.setattr(table, "CHUNK", 10)
    for n_rows in (1, 9, 10, 11, 20, 49, 50, 51, 79, 80, 999):
        shares = table._shares(np.zeros((n_rows, 1)), n)
        assert np.concatenate([np.arange(n_rows)[rows] for rows in shares]).tolist() == list(range(n_rows))
        assert all(rows.start % 10 == 0 for rows in shares)
        n_chunks = [-(-(rows.stop - rows.start) // 10) for rows in shares]
        assert len(shares) == min(n, -(-n_rows // 10)) and max(n_chunks) - min(n_chunks) <= 1


def of_rank(X, parallel):
    """Return a copy of X in which all rows are wrong but those of a rank, and the first, which all may read."""
    X, wrong = X.copy(), np.arange(len(X)) > USUAL
    for rank, rows in parallel.map(lambda rows: (parallel.rank, rows), table._shares(X, parallel.size)):
        if rank == parallel.rank:
            wrong[rows] = False
    X[wrong] = 99 if X.dtype.kind != "b" else ~X[wrong]
    return X


def without_rows(results):
    """Leave out what every rank has of all rows."""
    return [part._replace(X=None, mask=None) if hasattr(part, "mask") else part for part in results]


@pytest.mark.parametrize("kind", DENSE)
def test_a_rank_reads_its_rows(kind, chunk, rng):
    """The rows of the others may hold anything."""
    X = KINDS[kind](rng)
    expected = comparable(without_rows(all_of(SERIAL, X)))
    for n in (2, 3, 5):
        for found in ranks.run(n, lambda parallel: all_of(parallel, of_rank(X, parallel))):
            assert comparable(without_rows(found)) == expected


@pytest.mark.parametrize("kind", DENSE)
def test_wrong_rows_would_be_seen(kind, rng, monkeypatch):
    """What the last test compares differs if a rank reads all rows."""
    monkeypatch.setattr(table, "CHUNK", 20)
    X = KINDS[kind](rng)
    expected = comparable(without_rows(all_of(SERIAL, X)))
    for found in ranks.run(3, lambda parallel: all_of(SERIAL, of_rank(X, parallel))):
        assert comparable(without_rows(found)) != expected


# Errors and uses -----------------------------------------------------------------------------------------------------


def message(function):
    with pytest.raises(ValueError) as error:
        function()
    return str(error.value)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse", "masked"])
@pytest.mark.parametrize("places", [[(202, 6)], [(0, 0)], [(61, 5), (61, 3), (140, 0)], [(139, 1), (140, 2), (202, 0)]])
def test_values_that_are_not_finite_are_told_alike(places, form, missing, chunk, rng):
    X, bad = draws(rng), np.inf if missing else np.nan
    X[tuple(np.transpose(places))] = bad
    if form == "sparse":
        X = sp.csr_array(X)
    if form == "masked" and missing:
        X[5, 5] = bad
        X = np.ma.MaskedArray(X, np.arange(N * D).reshape(N, D) == 5 * D + 5)
    expected = message(lambda: survey(X, missing=missing))
    (row, column), count = min(places), len(places)
    assert f"X holds {count} " in expected and f"the first one ({bad}) in row {row}, column {column};" in expected

    def told(parallel):
        part = X if form == "sparse" else of_rank(X, parallel)
        return message(lambda: survey(part, missing=missing, parallel=parallel))

    for n in (1, 2, 3, 5):
        assert ranks.run(n, told) == [expected] * n


@pytest.mark.parametrize("other, told", [
    (lambda X: X[:-1], r"X.shape is \(202, 7\) on rank 2 and \(203, 7\) on rank 0"),
    (lambda X: X[:, :-1], r"X.shape is \(203, 6\) on rank 2 and \(203, 7\) on rank 0"),
    (lambda X: X.astype(np.float32), "X.dtype is '<f4' on rank 2 and '<f8' on rank 0"),
], ids=["rows", "columns", "type"])  # fmt: skip
def test_tables_that_cannot_be_the_same(other, told, chunk, rng):
    """Before the ranks look at them: what a look at both would find is about neither."""
    X = draws(rng)
    with pytest.raises(RuntimeError, match=told):
        ranks.run(3, lambda parallel: survey(other(X) if parallel.rank == 2 else X, parallel=parallel))


@pytest.mark.parametrize("likelihood, column", [
    ("gaussian", np.nan), ("gaussian", np.resize([-1e308, 1e308], N)), ("bernoulli", np.arange(N)),
], ids=["empty", "too wide", "outside"])  # fmt: skip
def test_data_that_does_not_suit_is_told_alike(likelihood, column, chunk, rng):
    X = bits(rng)
    X[:, 3] = column
    expected = message(lambda: fit_preprocessor(survey(X, missing=True), likelihood))

    def told(parallel):
        found = survey(of_rank(X, parallel), missing=True, parallel=parallel)
        return message(lambda: fit_preprocessor(found, likelihood))

    assert ranks.run(3, told) == [expected] * 3


@pytest.mark.parametrize("kind", ["hardly", "hardly holes", "sparse hardly"])
@pytest.mark.parametrize("change, far", [
    (lambda X: X, ""),
    (lambda X: np.where(np.arange(N)[:, None] < 100, X, X + 3), "column . hardly varied in the first piece"),
    (lambda X: np.where(np.arange(D) == 2, X * 1e3, X), "column 2 are .* times as far"),
], ids=["same", "later rows", "one column"])  # fmt: skip
def test_a_later_piece_is_judged_alike(kind, change, far, chunk, rng):
    X = KINDS[kind](rng)
    preprocessor, _ = fit_preprocessor(survey(X, missing=True), "gaussian")
    later = sp.csr_array(change(X.toarray())) if sp.issparse(X) else change(X)
    expected = preprocessor.far_from(survey(later, missing=True))
    assert re.search(far, expected) if far else not expected

    def judged(parallel):
        part = later if sp.issparse(X) else of_rank(later, parallel)
        return preprocessor.far_from(survey(part, missing=True, parallel=parallel))

    for n in (2, 3, 5):
        assert ranks.run(n, judged) == [expected] * n


SETTINGS = {"n_components": 2, "hidden_layer_sizes": (3,), "learning_rate": 0.05, "max_epochs": 1, "missing": "model",
            "backend": "reference"}  # fmt: skip


def datasets(run):
    return without_rows([run.trainer.data, run.valid])


def begun(model, parts, parallel):
    settings, messages = SimpleNamespace(**model.get_params()), []
    decisions, run = fitting.begin(settings, *parts, say=messages.append, parallel=parallel)
    return [decisions, messages, *datasets(run)]


def resumed(model, parts, parallel):
    settings, fitted = SimpleNamespace(**model.get_params()), model.fitted_
    given = {"learning_rate": 0.05, "n_datapoints": N, "parallel": parallel}
    return datasets(fitting.resume(settings, fitted, model.training_, model.fingerprints_, *parts, **given))


@pytest.mark.parametrize("use", [begun, resumed])
@pytest.mark.parametrize("kind", ["mixed holes", "hardly holes", "grey"])
def test_a_training_begins_and_resumes_alike(kind, use, chunk, rng, monkeypatch):
    """Its data, choices and messages are those of one process, though a rank reads its rows alone."""
    monkeypatch.setattr(fitting, "fingerprints", lambda *data, **options: ["of a few rows", "that all ranks read"])
    parts = X, X_valid = [KINDS[kind](rng) for _ in range(2)]
    model = npvae.VAE(**SETTINGS).fit(X, X_valid=X_valid)
    expected = comparable(use(model, parts, SERIAL))
    for n in (2, 3):
        for found in ranks.run(n, lambda parallel: use(model, [of_rank(part, parallel) for part in parts], parallel)):
            assert comparable(found) == expected


@pytest.mark.parametrize("values", [lambda rng: rng.random((20_000, 100)),
                                    lambda rng: np.where(rng.random((20_000, 100)) < 0.1, np.nan, 1.0)])  # fmt: skip
def test_a_pass_does_not_hold_the_rows(values, rng, monkeypatch):
    """Nor what is made of them: the table may be larger than the memory."""
    monkeypatch.setattr(table, "CHUNK", 500)
    X = values(rng)
    tracemalloc.start()
    try:
        found = survey(X, missing=True)
        preprocessing._column_moments(found)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 4
    finally:
        tracemalloc.stop()
