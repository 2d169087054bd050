"""Columns and rows from one command to the next: names, what was chosen of a file, and its split."""

import numpy as np
import pytest

import npvae
from npvae import cli, modelfile
from npvae.cli.data import Split

SMALL = ["--components", "1", "--hidden", "4", "--epochs", "2", "--learning-rate", "0.1", "--backend", "reference"]


@pytest.fixture
def X(rng):
    return (rng.standard_normal((60, 1)) * [1, 10, 100] + [5, 50, 900] + rng.standard_normal((60, 3))).round(3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, X):
    """A working folder with tables: as they were, in another order, with more columns, with fewer, without names."""
    monkeypatch.chdir(tmp_path)
    words = np.where(X[:, 0] > 5, "high", "low")
    write("a.csv", "a,b,c", X.T)
    write("other_order.csv", "c,a,b", X.T[[2, 0, 1]])
    write("more.csv", "word,c,b,a", [words, *X.T[::-1]])
    write("fewer.csv", "a,c", X.T[[0, 2]])
    write("renamed.csv", "a,b,d", X.T)
    write("no_names.csv", None, X.T)
    np.save("a.npy", X)
    return tmp_path


def write(name, header, columns):
    lines = [header] if header else []
    with open(name, "w") as file:
        file.write("\n".join(lines + [",".join(map(str, row)) for row in zip(*columns)]))


def run(capsys, *arguments):
    """Run the command; return its status and what it prints."""
    capsys.readouterr()
    status = cli.main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def trained(capsys):
    assert cli.main(["train", "a.csv", *SMALL, "--out", "m"]) == 0


def test_the_model_has_the_names(trained):
    assert list(npvae.load("m.npz").feature_names_in_) == ["a", "b", "c"]


@pytest.mark.parametrize("split", [[], ["--split", "test"]])
@pytest.mark.parametrize("name", ["other_order.csv", "more.csv"])
def test_columns_in_another_order_have_the_same_score(trained, capsys, name, split):
    status, expected, _ = run(capsys, "score", "m.npz", "a.csv", *split)
    assert status == 0 and run(capsys, "score", "m.npz", name, *split)[:2] == (0, expected)


def test_columns_that_were_not_read_are_named(trained, capsys):
    assert "left out: column 'word'" in run(capsys, "score", "m.npz", "more.csv")[2]


@pytest.mark.parametrize("name, missing", [("fewer.csv", "'b'"), ("renamed.csv", "'c'")])
@pytest.mark.parametrize("command", ["score", "reconstruct", "manifold", "gradcheck"])
def test_columns_that_are_missing_are_named(trained, capsys, command, name, missing):
    data = ["--dataset", name] if command == "gradcheck" else [name]
    shape = ["--image-shape", "1x3"] if command in ("reconstruct", "manifold") else []
    status, _, said = run(capsys, command, "m.npz", *data, *shape)
    assert status == 1 and f"it lacks {missing}, which the model was trained with" in said


@pytest.mark.parametrize("command", ["score", "reconstruct", "manifold", "gradcheck"])
@pytest.mark.parametrize("name", ["a.csv", "more.csv"])
def test_every_command_takes_columns_by_name(trained, capsys, command, name, folder):
    data = ["--dataset", name] if command == "gradcheck" else [name]
    shape = ["--image-shape", "1x3"] if command in ("reconstruct", "manifold") else []
    status, said, _ = run(capsys, command, "m.npz", *data, *shape)
    assert status == 0, said


@pytest.mark.parametrize("name", ["no_names.csv", "a.npy"])
def test_columns_without_names_are_taken_in_order(trained, capsys, name):
    status, said, notes = run(capsys, "score", "m.npz", name)
    assert (status, said) == run(capsys, "score", "m.npz", "a.csv")[:2]
    assert "the columns have no names: they are taken in the order of the training" in notes


def test_a_model_without_names_takes_columns_in_order(capsys):
    assert cli.main(["train", "a.npy", *SMALL, "--out", "m"]) == 0
    assert not hasattr(npvae.load("m.npz"), "feature_names_in_")
    status, said, _ = run(capsys, "score", "m.npz", "a.csv")
    assert status == 0 and said == run(capsys, "score", "m.npz", "a.npy")[1]
    assert run(capsys, "score", "m.npz", "fewer.csv")[0] == 1


def test_a_file_that_has_changed_is_mentioned(trained, capsys, X):
    assert "has changed" not in run(capsys, "score", "m.npz", "a.csv", "--split", "test")[2]
    write("a.csv", "a,b,c", X[:50].T)
    said = run(capsys, "score", "m.npz", "a.csv", "--split", "test")[2]
    assert "the file has changed: 40 rows are for training, and the model was trained on 48" in said


def test_nothing_to_resume_is_said_with_the_option(trained, capsys):
    status, _, said = run(capsys, "resume", "m.npz")
    assert status == 0 and "nothing to resume: 2 epochs are done; for more, give a larger --epochs" in said
    assert "max_epochs" not in said


def test_named_data_sets_have_no_choice(capsys):
    status, _, said = run(capsys, "train", "digits", "--drop", "1")
    assert status == 1 and "digits is read whole" in said


def test_resume_takes_columns_by_name(trained, capsys, folder):
    assert cli.main(["train", "a.csv", *SMALL, "--out", "whole", "--epochs", "4"]) == 0
    (folder / "more.csv").replace("a.csv")
    assert run(capsys, "resume", "m.npz", "--epochs", "4")[0] == 0
    expected = npvae.load("whole.npz").parameters_.vector
    np.testing.assert_array_equal(npvae.load("m.npz").parameters_.vector, expected)
    (folder / "fewer.csv").replace("a.csv")
    status, _, said = run(capsys, "resume", "m.npz", "--epochs", "5")
    assert status == 1 and "it lacks 'b'" in said


def test_what_was_chosen_of_a_file_is_remembered(capsys, X):
    np.savez("a.npz", y=np.eye(3)[[0] * 60], X=X)
    assert cli.main(["train", "a.npz", *SMALL, "--array", "X", "--drop", "2", "--out", "m"]) == 0
    status, said, _ = run(capsys, "score", "m.npz", "a.npz")
    model = npvae.load("m.npz")
    assert status == 0 and said.startswith(f"{model.score(X[:, [0, 2]]):.3f} +- ")
    assert run(capsys, "resume", "m.npz", "--epochs", "3")[0] == 0
    np.savez("b.npz", y=np.eye(3)[[0] * 60], X=X)
    assert "choose one with --array" in run(capsys, "score", "m.npz", "b.npz")[2]
    assert run(capsys, "score", "m.npz", "b.npz", "--array", "X", "--columns", "1,3")[:2] == (0, said)


def test_what_was_read_is_printed_and_quietly_only_what_was_left_out(capsys):
    arguments = ["train", "more.csv", "--drop", "word", *SMALL]
    said = run(capsys, *arguments, "--out", "m")[2]
    assert said.startswith("read: 60 rows, 3 columns, named c, b, a\nleft out: column 'word'\n")
    assert run(capsys, *arguments, "--out", "n", "--quiet")[2] == "left out: column 'word'\n"


# Split ----------------------------------------------------------------------------------------------------------------


def test_the_split_is_in_the_model(trained, X, capsys):
    model = npvae.load("m.npz")
    assert model.notes_["split"] == {"seed": 0} and model.n_samples_seen_ == 48
    for part, rows in zip(("train", "valid", "test"), Split().rows(60)):
        expected = model.score(npvae.cli.data.NamedArray.of(X[rows], ("a", "b", "c")))
        status, said, _ = run(capsys, "score", "m.npz", "a.csv", "--split", part)
        assert status == 0 and said.startswith(f"{expected:.3f} +- ") and said.endswith(f"{len(rows)} rows\n")


def with_notes(change):
    """Change the notes of the model m.npz, as another version of the command would have written them."""
    header, arrays = modelfile.load("m.npz")
    change(header["notes"])
    modelfile.save("m.npz", {k: v for k, v in header.items() if k not in ("format", "version")}, arrays)


def test_the_split_of_the_model_is_used(trained, capsys):
    first = run(capsys, "score", "m.npz", "a.csv", "--split", "test")
    with_notes(lambda notes: notes.update(split={"seed": 1}))
    assert run(capsys, "score", "m.npz", "a.csv", "--split", "test") != first


def test_a_model_of_an_earlier_version_keeps_its_split_and_resumes(capsys, X):
    rows = Split(None).rows(60)
    options = {"n_components": 1, "hidden_layer_sizes": (4,), "learning_rate": 0.1, "backend": "reference"}
    model = npvae.VAE(max_epochs=2, patience=2, **options).fit(X[rows[0]], X_valid=X[rows[1]])
    notes = {"patient": True, "dataset": f"{npvae.cli.data.Path('a.npy').resolve()}", "data_dir": None}
    model.save("m.npz", notes | {"image_shape": None, "test_curve": []})
    status, said, _ = run(capsys, "score", "m.npz", "a.npy", "--split", "test")
    assert status == 0 and said.startswith(f"{model.score(X[rows[2]]):.3f} +- ")
    assert run(capsys, "resume", "m.npz", "--epochs", "3")[0] == 0
