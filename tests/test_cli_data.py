"""Data for the commands: tables in files of many kinds, how rows are split, and the table in the docs."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from test_cli_csv import KINDS as CSV

from npvae.cli.choice import EVERYTHING, Choice
from npvae.cli.data import NamedArray, Split, load_dataset, load_table, read_table

DOCS = Path(__file__).parents[1] / "docs" / "data.md"

X = np.random.default_rng(1).standard_normal((50, 3)).round(3) * 4 + 2
PIXELS = np.random.default_rng(2).integers(0, 256, (4, 6, 5), dtype=np.uint8)
ONE_HOT = np.eye(3)[np.arange(50) % 3]


def npy(path, array):
    np.save(path, array)


def npz(path, **arrays):
    np.savez(path, **arrays)


def save_sparse(path, array):
    scipy.sparse.save_npz(path, scipy.sparse.csc_matrix(array))


def half_sparse(path):
    np.savez(path, format="csr", shape=X.shape, data=X[0])


def misnamed(write, path, suffix, **arrays):
    write(path.with_name("b" + suffix), **arrays)
    path.with_name("b" + suffix).rename(path)


def mat(path, **arrays):
    scipy.io.savemat(path, arrays)


def images(path, *arrays, mode=None, suffix="png"):
    path.mkdir()
    for number, array in enumerate(arrays):
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(path / f"{number}.{suffix}")


def coloured(array):
    return np.stack([array, array, 255 - array], axis=-1)


def classes(path):
    path.mkdir()
    images(path / "zero", *PIXELS[:2])
    images(path / "one", *PIXELS[2:])


def with_notes(path):
    images(path, *PIXELS)
    (path / "notes.txt").write_text("made in 2026")


#: (kind, name, function that writes it, choice, what is read, or a part of the error's message)
KINDS = [
    ("`.npy`, two-dimensional", "a.npy", lambda path: npy(path, X), {}, X),
    ("`.npy`, `--drop 2`", "a.npy", lambda path: npy(path, X), {"drop": ("2",)}, X[:, [0, 2]]),
    ("`.npy`, one-dimensional", "a.npy", lambda path: npy(path, X[:, 0]), {}, "expected a 2-D array"),
    ("`.npy`, images (N, H, W)", "a.npy", lambda path: npy(path, PIXELS), {}, "expected a 2-D array"),
    ("`.npy` of objects", "a.npy", lambda path: npy(path, X.astype(object)), {}, "Python objects"),
    ("`.npy` with `--array`", "a.npy", lambda path: npy(path, X), {"array": "X"}, "it holds one array, without a name"),
    ("`.npy`, empty file", "a.npy", lambda path: path.write_bytes(b""), {}, "cannot be read as a table of numbers"),
    ("`.npy`, another file", "a.npy", lambda path: path.write_bytes(b"version 1\n"), {}, "magic string is not correct"),
    ("`.npy` that is a `.npz`", "a.npy", lambda path: misnamed(npz, path, ".npz", X=X), {}, "it is a .npz file"),
    (
        "`.npz` that is a `.npy`",
        "a.npz",
        lambda path: misnamed(npy, path, ".npy", array=X),
        {},
        "it is not a .npz file",
    ),
    ("`.npz` of one array", "a.npz", lambda path: npz(path, anything=X), {}, X),
    ("`.npz` of a table and vectors", "a.npz", lambda path: npz(path, y=X[:, 0], X=X, ids=np.arange(50)), {}, X),
    (
        "`.npz` of labels (one-hot) and data",
        "a.npz",
        lambda path: npz(path, y=ONE_HOT, X=X),
        {},
        "'y' (50, 3), 'X' (50, 3); choose one with --array",
    ),
    ("same, with `--array X`", "a.npz", lambda path: npz(path, y=ONE_HOT, X=X), {"array": "X"}, X),
    (
        "`.npz` of labels (one-hot) and images",
        "a.npz",
        lambda path: npz(path, y=ONE_HOT, X=PIXELS),
        {},
        "choose one with --array",
    ),
    (
        "`.npz` of labels (one-hot) and vectors",
        "a.npz",
        lambda path: npz(path, y=ONE_HOT, ids=np.arange(50)),
        {},
        "choose one with --array",
    ),
    (
        "`.npz` of labels named `trainLabels` and vectors",
        "a.npz",
        lambda path: npz(path, trainLabels=ONE_HOT, ids=np.arange(50)),
        {},
        "choose one with --array",
    ),
    (
        "`.npz` of labels named `y_train` and vectors",
        "a.npz",
        lambda path: npz(path, y_train=ONE_HOT, ids=np.arange(50)),
        {},
        "choose one with --array",
    ),
    ("`.npz` of a table named `style` and vectors", "a.npz", lambda path: npz(path, style=X, ids=X[0]), {}, X),
    (
        "`.npz` of training and test data",
        "a.npz",
        lambda path: npz(path, x_train=X, x_test=X[:9]),
        {},
        "choose one with --array",
    ),
    ("`.npz` of vectors", "a.npz", lambda path: npz(path, a=X[0], b=X[1]), {}, "choose one with --array"),
    (
        "`.npz`, an array that is not there",
        "a.npz",
        lambda path: npz(path, a=X),
        {"array": "b"},
        "no array 'b'; it holds 'a' (50, 3)",
    ),
    ("`.npz` of `scipy.sparse.save_npz`", "a.npz", lambda path: save_sparse(path, X), {}, X),
    ("same, with `--drop 2`", "a.npz", lambda path: save_sparse(path, X), {"drop": ("2",)}, X[:, [0, 2]]),
    ("same, with `--array`", "a.npz", lambda path: save_sparse(path, X), {"array": "data"}, "it has no named arrays"),
    ("`.npz` of a part of a sparse matrix", "a.npz", lambda path: half_sparse(path), {}, "cannot be read as a table"),
    ("`.npz`, empty", "a.npz", lambda path: npz(path), {}, "it holds no arrays"),
    ("`.npz`, damaged", "a.npz", lambda path: path.write_bytes(b"PK"), {}, "cannot be read as a table of numbers"),
    ("`.mat` of one matrix", "a.mat", lambda path: mat(path, ff=X, n=3, title="faces"), {}, X),
    ("`.mat` of a sparse matrix", "a.mat", lambda path: mat(path, X=scipy.sparse.csc_matrix(X)), {}, X),
    (
        "`.mat` of data and labels",
        "a.mat",
        lambda path: mat(path, X=X, y=X[:, :1]),
        {},
        "'X' (50, 3), 'y' (50, 1); choose one with --array",
    ),
    ("same, with `--array X`", "a.mat", lambda path: mat(path, X=X, y=X[:, :1]), {"array": "X"}, X),
    (
        "`.mat` of version 7.3",
        "a.mat",
        lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"),
        {},
        "version 7.3 (HDF5)",
    ),
    ("`.mat`, damaged", "a.mat", lambda path: path.write_bytes(b"MATLAB"), {}, "cannot be read as a table of numbers"),
    ("folder of grey `.png`", "faces", lambda path: images(path, *PIXELS), {}, PIXELS.reshape(4, 30)),
    ("folder of black and white `.png`", "faces", lambda path: images(path, *PIXELS, mode="1"), {}, None),
    (
        "folder of grey images saved as colours",
        "faces",
        lambda path: images(path, *PIXELS, mode="RGB"),
        {},
        PIXELS.reshape(4, 30),
    ),
    ("folder of `.bmp`", "faces", lambda path: images(path, *PIXELS, suffix="bmp"), {}, PIXELS.reshape(4, 30)),
    ("folder of folders of images", "faces", classes, {}, PIXELS[[2, 3, 0, 1]].reshape(4, 30)),
    ("folder of images and other files", "faces", with_notes, {}, PIXELS.reshape(4, 30)),
    (
        "folder of coloured images",
        "faces",
        lambda path: images(path, *map(coloured, PIXELS)),
        {},
        "0.png has colours; expected grey images",
    ),
    (
        "folder of images of two sizes",
        "faces",
        lambda path: images(path, PIXELS[0], PIXELS[1, 1:]),
        {},
        "1.png has 5 x 5 pixels, and 0.png 6 x 5",
    ),
    (
        "folder of images of 16 bits",
        "faces",
        lambda path: images(path, PIXELS[0].astype("u2")),
        {},
        "cannot be read as an image of 8 bits",
    ),
    (
        "folder of a damaged image",
        "faces",
        lambda path: (path.mkdir(), (path / "0.png").write_bytes(b"PNG")),
        {},
        "0.png cannot be read as an image",
    ),
    ("folder without images", "faces", lambda path: path.mkdir(), {}, "the folder has no images"),
    (
        "another suffix",
        "a.xlsx",
        lambda path: path.write_bytes(b""),
        {},
        "a.xlsx is not a data set; expected digits, mnist",
    ),
    ("`.CSV`, `.tsv`: as `.csv`", "A.TSV", lambda path: path.write_text("a\tb\n1\t2\n"), {}, [[1, 2]]),
    (
        "`.csv` with `--array`",
        "a.csv",
        lambda path: path.write_text("a,b\n1,2\n"),
        {"array": "a"},
        "it has no named arrays",
    ),
]


@pytest.mark.parametrize("kind, name, write, choice, expected", KINDS, ids=[kind for kind, *_ in KINDS])
def test_kinds(kind, name, write, choice, expected, tmp_path):
    write(tmp_path / name)
    if isinstance(expected, str):
        with pytest.raises(ValueError) as raised:
            read_table(tmp_path / name, Choice(**choice))
        assert expected in str(raised.value) and name in str(raised.value)
        return
    read = read_table(tmp_path / name, Choice(**choice))
    if expected is None:
        assert read.dtype == np.uint8 and set(np.unique(read)) == {0, 255}
    else:
        np.testing.assert_array_equal(read[:], expected)
        assert read.dtype == np.asarray(expected).dtype or name == "A.TSV"


def said_of(path, choice=EVERYTHING):
    """Return what is said of a file when it is read."""
    said = []
    load_table(path, choice, said.append)
    return said


def test_what_is_left_out_is_said(tmp_path):
    npz(tmp_path / "a.npz", y=X[:, 0], X=X)
    assert said_of(tmp_path / "a.npz") == ["read: 50 rows, 3 columns; array 'X'", "left out: array 'y' (50,)"]
    with_notes(tmp_path / "faces")
    assert said_of(tmp_path / "faces") == [
        "read: 4 rows, 30 columns; images of 6 x 5 pixels",
        "left out: 1 file, such as notes.txt",
    ]


def test_a_model_is_not_data(tmp_path):
    np.savez(tmp_path / "model.npz", header=X, digest=X, parameters=X)
    with pytest.raises(ValueError, match="it is a model of npvae, not data"):
        read_table(tmp_path / "model.npz")


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "table.npy", X.astype(np.float32))
    read = read_table(tmp_path / "table.npy")
    assert read.dtype == np.float32 and isinstance(read.base, np.memmap)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "missing.npy")


def test_images_have_their_shape(tmp_path):
    images(tmp_path / "faces", *PIXELS)
    dataset = load_dataset(str(tmp_path / "faces"))
    assert dataset.image_shape == (6, 5) and dataset.name == "faces"


# Parquet, without pyarrow ---------------------------------------------------------------------------------------------


def read_frame(tmp_path, monkeypatch, frame, **choice):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(pandas, "read_parquet", lambda path: pandas.DataFrame(frame))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    return load_table(tmp_path / "a.parquet", Choice(**choice))


def test_parquet(tmp_path, monkeypatch):
    frame = {"b": [1.5, 2.5], "word": ["x", "y"], "a": [3, 4]}
    table = read_frame(tmp_path, monkeypatch, frame, drop=("word",))
    assert table.X.tolist() == [[1.5, 3], [2.5, 4]] and table.names == ("b", "a")
    assert read_frame(tmp_path, monkeypatch, {"a": [3, 4]}).X.dtype == np.int64
    with pytest.raises(ValueError, match=r"column 'word' \('x'\) holds text"):
        read_frame(tmp_path, monkeypatch, frame)
    with pytest.raises(ValueError, match="row 2, column 'a': the value is missing or infinite"):
        read_frame(tmp_path, monkeypatch, {"a": [1.0, None]})


def test_parquet_is_refused_by_name_where_pandas_cannot_read_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"to read \.parquet, pandas and pyarrow must be installed"):
        read_table(tmp_path / "a.parquet")


# Split ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [10, 15, 60, 1000])
def test_rows_are_split_at_random(tmp_path, n_rows):
    rows = np.arange(2 * n_rows).reshape(n_rows, 2)
    np.save(tmp_path / "table.npy", rows)
    dataset = load_dataset(str(tmp_path / "table.npy"))
    assert dataset.name == "table" and dataset.image_shape is None and dataset.y_test is None
    assert len(dataset.X_valid) == len(dataset.X_test) == n_rows // 10
    parts = np.concatenate([dataset.X_train, dataset.X_valid, dataset.X_test])
    np.testing.assert_array_equal(np.sort(parts, axis=0), rows)
    again = load_dataset(str(tmp_path / "table.npy"))
    np.testing.assert_array_equal(again.X_test, dataset.X_test)
    assert not np.array_equal(load_dataset(str(tmp_path / "table.npy"), split=Split(1)).X_train, dataset.X_train)


def test_no_pattern_in_the_row_number_decides():
    """Rows that repeat with any period are in each part about as often."""
    _, _, test = Split().rows(10_000)
    for period in (2, 5, 7, 10, 24, 100):
        counts = np.bincount(test % period, minlength=period)
        assert counts.max() < 1000 / period + 5 * np.sqrt(1000 / period)


def test_the_rows_of_a_seed_stay_the_same():
    """Models have the seed, and no list of rows."""
    train, valid, test = Split().rows(30)
    assert valid.tolist() == [2, 13, 21] and test.tolist() == [3, 11, 20] and len(train) == 24


def test_models_of_earlier_versions_keep_their_split():
    train, valid, test = Split(None).rows(23)
    assert valid.tolist() == [8, 18] and test.tolist() == [9, 19] and len(train) == 19


def test_few_rows_are_for_everything(tmp_path):
    np.save(tmp_path / "table.npy", np.ones((9, 2)))
    dataset = load_dataset(str(tmp_path / "table.npy"))
    assert len(dataset.X_train) == len(dataset.X_test) == 9 and dataset.X_valid is None


def test_a_named_data_set():
    dataset = load_dataset("digits")
    assert dataset.X_train.shape == (10000, 784) and dataset.image_shape == (28, 28)


# Names of columns -----------------------------------------------------------------------------------------------------


def test_names_go_with_the_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{i},{i * i}.5\n" for i in range(20)))
    dataset = load_dataset(str(tmp_path / "a.csv"))
    for part in (dataset.X_train, dataset.X_valid, dataset.X_test):
        assert part.columns == ("a", "b") and part[:1].columns == ("a", "b") and part[:, :1].columns is None
    assert NamedArray.of(X, None) is X


def test_names_are_those_of_the_model(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1.5,2\n")
    (tmp_path / "b.csv").write_text("1.5,2\n")
    assert load_table(tmp_path / "a.csv", Choice(names=("b", "a"))).X.tolist() == [[2, 1.5]]
    assert load_table(tmp_path / "a.csv", Choice(names=())).names is None
    assert load_table(tmp_path / "b.csv", Choice(names=("a", "b"))).names == ("a", "b")
    assert "in the order of the training" in said_of(tmp_path / "b.csv", Choice(names=("a", "b")))[0]
    assert load_table(tmp_path / "b.csv", Choice(names=("a", "b", "c"))).names is None  # the model will refuse it


# Table in the docs ----------------------------------------------------------------------------------------------------


def docs_table():
    """Return the table of the docs."""
    rows = [
        *(("`.csv`: " + kind, *_outcome(expected, names=True)) for kind, _, _, expected in CSV),
        *((kind, *_outcome(expected)) for kind, _, _, _, expected in KINDS),
    ]
    return "\n".join(["| file | what is read |", "|---|---|", *(f"| {kind} | {said} |" for kind, said in rows)])


def _outcome(expected, names=False):
    if isinstance(expected, str):
        return (f"refused: “{expected}”".replace("|", "\\|"),)
    if names:
        values, columns = expected
        return (f"{len(values)} x {len(values[0])}" + (f", columns {', '.join(columns)}" if columns else ", no names"),)
    return ("the pixels" if expected is None else f"{len(expected)} x {len(expected[0])}",)


def test_the_docs_have_the_table():
    assert len(CSV) + len(KINDS) >= 100 and docs_table() in DOCS.read_text()


if __name__ == "__main__":
    text = DOCS.read_text()
    start = text.index("| file | what is read |")
    rest = text[start:].partition("\n\n")[2]
    DOCS.write_text(text[:start] + docs_table() + "\n" + (f"\n{rest}" if rest else ""))
