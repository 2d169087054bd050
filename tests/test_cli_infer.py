"""The commands ``encode``, ``impute`` and ``denoise``: the tables and pictures that they write."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import npvae
from npvae import cli
from npvae.cli.data import load_table
from npvae.cli.outputs import is_own

SETTINGS = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
pytestmark = pytest.mark.filterwarnings("ignore:.*split R-hat:UserWarning")  # of few samples

NAMES = ["length", "wide", "is red", "x"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model m.npz of a table whose columns have names, and the table with holes, holes.csv."""
    folder, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    table = np.column_stack([rng.standard_normal((40, 2)), rng.integers(0, 2, (40, 2))]).round(3)
    write(folder / "table.csv", table)
    options = "--components 2 --hidden 4 --epochs 1 --learning-rate 0.05 --backend reference --quiet"
    assert cli.main(["train", f"{folder}/table.csv", "--out", f"{folder}/m", *options.split()]) == 0
    holes = [[value if keep else "" for value, keep in zip(row, rng.random(4) < 0.7)] for row in table[:6].tolist()]
    write(folder / "holes.csv", [*holes, ["", "", "", ""]])
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, trained):
    """A working folder with these files."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def write(path, rows, names=NAMES):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def read(path):
    with open(path, newline="") as file:
        names, *rows = csv.reader(file)
    return names, rows


def test_codes(capsys):
    assert cli.main(["encode", "m.npz", "table.csv", "--out", "codes.csv"]) == 0
    assert capsys.readouterr().out == "table: codes.csv\n"
    names, rows = read("codes.csv")
    assert names == ["vae0", "vae0_std", "vae1", "vae1_std"] and len(rows) == 40
    with pytest.warns(UserWarning, match="feature names"):
        mean, std = npvae.load("m.npz").encode(load_table("table.csv").X)
    np.testing.assert_allclose(np.array(rows, float)[:, ::2], mean, rtol=1e-6)
    np.testing.assert_allclose(np.array(rows, float)[:, 1::2], std, rtol=1e-6)
    assert cli.main(["encode", "m.npz", "table.csv", "--out", "codes.csv"]) == 1
    assert cli.main(["encode", "m.npz", "table.csv", "--out", "codes.csv", "--force"]) == 0
    assert cli.main(["encode", "m.npz", "table.csv", "--out", "codes.npy"]) == 0
    np.testing.assert_allclose(np.load("codes.npy"), np.array(rows, float), rtol=1e-6)


def test_a_table_is_filled_in(capsys):
    """Columns in another order, and one more: the answer has those of the model; what is there keeps its digits."""
    _, given = read("holes.csv")
    write("other.csv", [[row[3], "text", *row[:3]] for row in given], ["x", "note", *NAMES[:3]])
    for path in "holes.csv", "other.csv":
        assert cli.main(["impute", "m.npz", path, "--out", f"filled-{path}"]) == 0
        assert "values missing" in capsys.readouterr().err
        header, filled = read(f"filled-{path}")
        assert header == NAMES and len(filled) == 7
        for row, before in zip(filled, given):
            for value, known in zip(row, before):
                assert float(value) == float(known) if known else np.isfinite(float(value))
    assert read("filled-holes.csv") == read("filled-other.csv")
    assert not is_own(Path("filled-holes.csv"))
    assert cli.main(["impute", "m.npz", "holes.csv", "--out", "filled-holes.csv", "--force"]) == 1
    assert "is never replaced" in capsys.readouterr().err


def test_draws(capsys):
    assert cli.main(["impute", "m.npz", "holes.csv", "--out", "d.csv", "--draws", "3", "--seed", "5"]) == 0
    assert cli.main(["impute", "m.npz", "holes.csv", "--out", "d.npy", "--draws", "3", "--seed", "5"]) == 0
    names, rows = read("d.csv")
    assert names == ["draw", *NAMES] and [row[0] for row in rows] == ["1"] * 7 + ["2"] * 7 + ["3"] * 7
    np.testing.assert_array_equal(np.array(rows, float)[:, 1:].reshape(3, 7, 4), np.load("d.npy"))
    assert {row[3] for row in rows} == {"0", "1"}


def test_the_baseline_is_another(capsys):
    for method in "chains", "one-pass":
        assert cli.main(["impute", "m.npz", "holes.csv", "--out", f"{method}.csv", "--method", method]) == 0
    assert read("chains.csv") != read("one-pass.csv")


def test_noise_is_removed(capsys):
    run = lambda command: cli.main(["denoise", "m.npz", *command.split()])
    assert run("table.csv --sigma 0.5 --out clean.csv --samples 128") == 0
    names, rows = read("clean.csv")
    assert names == NAMES and len(rows) == 40 and rows != read("table.csv")[1]
    assert run("holes.csv --salt-and-pepper 0.1 --extremes 0 1 --out other.csv") == 0
    capsys.readouterr()
    assert run("table.csv --out none.csv") == 1
    assert "expected one of the two" in capsys.readouterr().err


def test_pictures(rng, capsys):
    X = (rng.random((60, 6)) < 0.5).astype(float)
    npvae.VAE(2, **SETTINGS).fit(X).save("bits.npz")
    X[0, :3] = np.nan
    np.save("bits.npy", X[:12])
    for command in "impute", "denoise --sigma 0.5", "impute --draws 2":
        name, *options = command.split()
        out = f"{name}{len(options)}.png"
        assert cli.main([name, "bits.npz", "bits.npy", "--out", out, "--image-shape", "2x3", *options]) == 0
        assert is_own(Path(out))
    assert cli.main(["impute", "bits.npz", "bits.npy", "--out", "impute0.png", "--image-shape", "2x3", "--force"]) == 0
    capsys.readouterr()
    assert cli.main(["impute", "bits.npz", "bits.npy", "--out", "p.png", "--image-shape", "2x2"]) == 1
    assert "--image-shape 2x2 does not fit rows of 6 features" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, message",
    [
        ("impute m.npz holes.csv --out x.txt", "--out is x.txt; expected a file that ends in .csv, .npy or .png"),
        ("encode m.npz table.csv --out x.png", "--out is x.png; expected a file that ends in .csv or .npy"),
        ("encode m.npz holes.csv --out x.csv", "the value is missing"),
        ("impute m.npz holes.csv --out holes.csv", "would overwrite the data"),
        ("impute m.npz holes.csv --out x.csv --samples 5", "--samples is 5; expected an integer of at least 128"),
        ("denoise m.npz table.csv --sigma -1 --out x.csv", "sigma is -1.0; expected finite numbers of at least 0"),
    ],
)
def test_errors(capsys, command, message):
    assert cli.main(command.split()) == 1
    assert message in capsys.readouterr().err
