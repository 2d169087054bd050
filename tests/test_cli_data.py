"""Data for the commands: tables in files, and how their rows are split."""

import numpy as np
import pytest

from npvae.cli.data import load_dataset, read_table


@pytest.fixture
def X(rng):
    return rng.standard_normal((50, 3)) * 4 + 2


def test_npy_is_mapped(X, tmp_path):
    np.save(tmp_path / "table.npy", X.astype(np.float32))
    read = read_table(tmp_path / "table.npy")
    assert read.dtype == np.float32 and isinstance(read.base, np.memmap)
    np.testing.assert_array_equal(read, X.astype(np.float32))


def test_npz_has_its_first_array(X, tmp_path):
    np.savez(tmp_path / "table.npz", first=X.astype(np.uint8), second=X)
    np.testing.assert_array_equal(read_table(tmp_path / "table.npz"), X.astype(np.uint8))


@pytest.mark.parametrize("header", ["", "length,width,height"])
def test_csv_with_and_without_names(X, tmp_path, header):
    np.savetxt(tmp_path / "table.csv", X, delimiter=",", header=header, comments="", fmt="%.17g")
    if not header:
        (tmp_path / "table.csv").write_text((tmp_path / "table.csv").read_text().lstrip())
    np.testing.assert_array_equal(read_table(str(tmp_path / "table.csv")), X)


@pytest.mark.parametrize("rows", [60, 10, 15])
def test_rows_are_split_by_their_number(tmp_path, rows):
    X = np.arange(2 * rows).reshape(rows, 2)
    np.save(tmp_path / "table.npy", X)
    dataset = load_dataset(str(tmp_path / "table.npy"))
    assert dataset.name == "table" and dataset.image_shape is None and dataset.y_test is None
    place = np.arange(rows) % 10
    np.testing.assert_array_equal(dataset.X_train, X[place < 8])
    np.testing.assert_array_equal(dataset.X_valid, X[place == 8])
    np.testing.assert_array_equal(dataset.X_test, X[place == 9])


def test_few_rows_are_for_everything(tmp_path):
    np.save(tmp_path / "table.npy", np.ones((9, 2)))
    dataset = load_dataset(str(tmp_path / "table.npy"))
    assert len(dataset.X_train) == len(dataset.X_test) == 9 and dataset.X_valid is None


def test_a_named_data_set():
    dataset = load_dataset("digits")
    assert dataset.X_train.shape == (10000, 784) and dataset.image_shape == (28, 28)


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "table.txt",
            b"1,2\n",
            "table.txt is not a data set; expected digits, mnist, frey, binarized-mnist, or a .npy, .npz",
        ),
        ("empty.npy", b"", "empty.npy cannot be read as a table of numbers"),
        ("damaged.npz", b"", "damaged.npz cannot be read as a table of numbers"),
        ("empty.csv", b"", "empty.csv cannot be read as a table of numbers: it is empty"),
        ("holes.csv", b"1,2,3\n4,,6\n", "holes.csv cannot be read as a table of numbers"),
        ("words.csv", b"a,b\nc,d\n", "words.csv cannot be read as a table of numbers"),
    ],
)
def test_what_is_not_a_table(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(name)


def test_an_array_of_another_shape_and_a_missing_file(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(ValueError, match="expected a 2-D array"):
        read_table(tmp_path / "flat.npy")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "missing.npy")
