"""What the command writes: nothing is lost that it did not write itself, and any name can be printed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import npvae
from npvae import cli
from npvae.cli.outputs import CURVE_COLUMNS, check_outputs, is_own, save_figure
from npvae.estimators import ESTIMATORS

SMALL = ["--components", "1", "--hidden", "3", "--epochs", "1", "--learning-rate", "0.05", "--backend", "reference"]
TRAIN = ["train", "a.npy", *SMALL, "--image-shape", "2x2", "--out", "m"]

#: What `npvae train --out m` writes.
FILES = ("m.npz", "m.png", "m.curve.csv")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, rng):
    """A working folder with a table of numbers."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", rng.standard_normal((30, 4)))
    return tmp_path


def contents(folder):
    """Return the bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def data_npz(path):
    with open(path, "wb") as file:  # the suffix stays as it is
        np.savez(file, X=np.zeros((3, 2)))


def other_picture(path):
    Figure(figsize=(1, 1)).savefig(path, format="png")


def picture_that_names_npvae(path):
    Figure(figsize=(1, 1)).savefig(path, format="png", metadata={"Comment": "npvae", "Software": "npvaex"})


def empty(path):
    path.write_bytes(b"")


def header_of_others(path):
    with open(path, "wb") as file:
        np.savez(file, header=np.frombuffer(b'{"format": "another"}', np.uint8))


def model_cut_short(path):
    model = npvae.VAE(1, hidden_layer_sizes=(3,), max_epochs=1, learning_rate=0.1, backend="reference")
    model.fit(np.load("a.npy")).save(path)
    path.write_bytes(path.read_bytes()[:100])


def table(path):
    path.write_text("epoch,samples\n1,2\n")


#: (file that is there, function that writes it) of what npvae did not write.
OTHERS = [
    *((name, empty) for name in FILES),
    ("m.npz", data_npz),
    ("m.npz", header_of_others),
    ("m.npz", model_cut_short),
    ("m.npz", other_picture),
    ("m.png", other_picture),
    ("m.png", picture_that_names_npvae),
    ("m.png", data_npz),
    ("m.curve.csv", table),
    ("m.curve.csv", other_picture),
]


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["plain", "force"])
@pytest.mark.parametrize("name, write", OTHERS, ids=[f"{name}-{write.__name__}" for name, write in OTHERS])
def test_train_never_replaces_a_file_of_others(folder, capsys, name, write, force):
    write(folder / name)
    before = contents(folder)
    assert cli.main([*TRAIN, *force]) == 1
    said = capsys.readouterr().err
    assert f"{name} is there already, and is not one of the files that npvae writes" in said and "epoch" not in said
    assert contents(folder) == before


def test_a_model_is_replaced_only_by_force(folder, capsys):
    assert cli.main(TRAIN) == 0
    before = contents(folder)
    assert {*FILES} < set(before) and all(is_own(folder / name) for name in FILES)
    capsys.readouterr()
    assert cli.main(TRAIN) == 1
    said = capsys.readouterr().err
    assert "m.npz is there already; choose another name with --out, or replace it by --force" in said
    assert contents(folder) == before
    assert cli.main([*TRAIN, "--seed", "1", "--force"]) == 0
    assert contents(folder)["m.npz"] != before["m.npz"]


@pytest.mark.parametrize("name", FILES[1:])
def test_a_picture_or_a_curve_alone_is_replaced_only_by_force(folder, capsys, name):
    assert cli.main(TRAIN) == 0
    for other in FILES:
        if other != name:
            (folder / other).unlink()
    assert cli.main(TRAIN) == 1
    assert f"{name} is there already; choose another" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--force"]) == 0


def test_resume_updates_its_own_files_and_no_others(folder, capsys):
    assert cli.main(TRAIN) == 0
    assert cli.main(["resume", "m.npz", "--epochs", "2"]) == 0
    (folder / "m.png").unlink()
    other_picture(folder / "m.png")
    before = contents(folder)
    assert cli.main(["resume", "m.npz", "--epochs", "3"]) == 1
    assert "m.png is there already, and is not one of the files" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_picture_of_version_0_1_is_replaced_by_resume(folder):
    """It has no mark. Nor had its model a split in its notes, by which it is known."""
    np.save("a.npy", np.load("a.npy")[:9])  # too few rows to be split
    assert cli.main(TRAIN) == 0
    model = npvae.load("m.npz")
    del model.notes_["split"]
    model.save("m.npz")
    other_picture(folder / "m.png")
    assert cli.main(["resume", "m.npz", "--epochs", "2"]) == 0
    assert is_own(folder / "m.png")


def test_a_file_that_comes_during_the_training_is_kept(folder, capsys, monkeypatch):
    score = npvae.VAE.score

    def write(model, X):
        (folder / "m.curve.csv").write_text("a,b")
        return score(model, X)

    monkeypatch.setattr(npvae.VAE, "score", write)
    assert cli.main(TRAIN) == 1
    assert "m.curve.csv is there already" in capsys.readouterr().err
    assert (folder / "m.curve.csv").read_text() == "a,b" and npvae.load("m.npz").history_


@pytest.mark.parametrize("command", [["sample"], ["manifold", "a.npy"], ["reconstruct", "a.npy"]])
def test_pictures_are_replaced_only_by_force_and_if_they_are_ours(folder, capsys, command):
    assert cli.main(TRAIN) == 0
    command = [command[0], "m.npz", *command[1:], "--image-shape", "2x2", "--out", "p.png"]
    assert cli.main(command) == 0
    assert cli.main(command) == 1
    assert "p.png is there already; choose another name" in capsys.readouterr().err
    assert cli.main([*command, "--force"]) == 0
    other_picture(folder / "p.png")
    before = contents(folder)
    assert cli.main([*command, "--force"]) == 1
    assert contents(folder) == before


def test_bench_replaces_nothing(folder, capsys):
    (folder / "benchmark").mkdir()
    (folder / "benchmark" / "growth.csv").write_text("mine")
    assert cli.main(["bench", "growth", "--force"]) == 1
    assert "growth.csv is there already" in capsys.readouterr().err


def test_what_is_known_as_our_own(folder):
    save_figure(folder / "a.png", Figure(figsize=(1, 1)))
    (folder / "c.csv").write_text(",".join(CURVE_COLUMNS) + "\n")
    assert is_own(folder / "a.png") and is_own(folder / "c.csv")
    assert not is_own(folder) and not is_own(folder / "a.npy")


def test_nothing_is_written_into_the_folder_of_the_data(folder):
    (folder / "faces").mkdir()
    with pytest.raises(ValueError, match="would overwrite the data in faces, or be read with it"):
        check_outputs([folder / "faces" / "m.png"], "faces")


# Names that a terminal cannot show ------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_names_in_any_script_under_an_ascii_locale(folder, environment):
    np.savetxt(folder / "表.csv", np.load("a.npy"), delimiter=",", header="é,ß,c,d", comments="", encoding="utf-8")
    command = [sys.executable, "-m", "npvae", "train", "表.csv", *SMALL, "--out", "é"]
    ran = subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.isascii() and b"\npicture: \\" in ran.stdout and b"read: 30 rows, 4 columns, named" in ran.stderr
    assert list(npvae.load("é.npz").feature_names_in_) == ["é", "ß", "c", "d"]


@pytest.mark.process
def test_errors_with_names_in_any_script_under_an_ascii_locale(folder):
    for arguments, status in ((["score", "é.npz", "a.npy"], 1), (["train", "--é"], 2)):
        command, environment = [sys.executable, "-m", "npvae", *arguments], os.environ | {"PYTHONIOENCODING": "ascii"}
        ran = subprocess.run(command, capture_output=True, check=False, env=environment)
        assert ran.returncode == status and rb"\xe9" in ran.stderr and b"Traceback" not in ran.stderr


def test_the_streams_are_left_as_they_were(capsys):
    before = sys.stdout.errors, sys.stderr.errors
    assert cli.main(["datasets"]) == 0
    assert (sys.stdout.errors, sys.stderr.errors) == before


# Messages name options ------------------------------------------------------------------------------------------------

SEVERAL = next(name for name, spec in ESTIMATORS.items() if spec.fewest_samples > 1)

WRONG = [
    (["--components", "0"], "--components is 0; expected"),
    (["--hidden", "0"], "--hidden is 0; expected"),
    (["--samples", "0"], "--samples is 0; expected"),
    (["--batch-size", "0"], "--batch-size is 0; expected"),
    (["--learning-rate", "-1"], "--learning-rate is -1.0; expected"),
    (["--weight-prior", "-1"], "--weight-prior is -1.0; expected"),
    (["--init-std", "-1"], "--init-std is -1.0; expected"),
    (["--epochs", "0"], "--epochs is 0; expected"),
    (["--patience", "0"], "--patience is 0; expected"),
    (["--seed", "-1"], "--seed is -1; expected"),
    (["--checkpoint-every", "-1"], "--checkpoint-every is -1.0; expected"),
    (["--estimator", "score-function", "--posterior", "laplace"], "--posterior is 'laplace'; expected 'gaussian'"),
    (["--estimator", "full-vb", "--weight-prior", "2"], "--weight-prior is 2.0; expected 1"),
    (["--estimator", SEVERAL], "--samples is 1; expected at least 2"),
]


@pytest.mark.parametrize("arguments, message", WRONG, ids=[message for _, message in WRONG])
def test_messages_name_the_option(capsys, arguments, message):
    assert cli.main(["train", "a.npy", *SMALL, *arguments]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
