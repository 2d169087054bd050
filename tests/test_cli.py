"""The command line: each command on a small data set, its files, its numbers and its exit status."""

import csv
import logging
import re
import signal
import warnings

import numpy as np
import pytest

import npvae
from npvae import cli, modelfile
from npvae.cli.check import models_to_check
from npvae.cli.data import Split
from npvae.estimators import ESTIMATORS

SMALL = ["--components", "2", "--hidden", "8", "--epochs", "3", "--learning-rate", "0.05"]


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """An empty working folder with a data file of 6 x 6 images."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", rng.integers(0, 256, (60, 36), dtype=np.uint8))
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez("images.npz", np.load("images.npy"))
    (tmp_path / "folder.npz").mkdir()
    return tmp_path


@pytest.fixture
def trained(folder, capsys):
    assert cli.main(["train", "images.npy", *SMALL, "--image-shape", "6x6"]) == 0
    capsys.readouterr()
    return folder


def png_size(path):
    """Return (width, height), after a look at the signature."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("shape", [(4, 9), (4, 3, 3)])
def test_pictures_have_the_shape_of_the_training(folder, shape, monkeypatch):
    given = "x".join(map(str, shape))
    assert cli.main(["train", "images.npy", *SMALL, "--image-shape", given, "--out", "small.npz"]) == 0
    shown = []
    monkeypatch.setattr(npvae.plots, "show_images", lambda images, shape, **keywords: shown.append(shape))
    monkeypatch.setattr(npvae.plots, "manifold", lambda model, X, shape, **keywords: shown.append(shape))
    for command in (["sample", "small.npz"], ["manifold", "small.npz", "images.npy"]):
        assert cli.main(command) == 0
    assert shown == [shape, shape]


def test_train_writes_model_picture_and_curve(folder, capsys):
    assert cli.main(["train", "images.npy", *SMALL, "--image-shape", "6x6", "--out", "small.npz"]) == 0
    said = capsys.readouterr()
    for name in ("small.npz", "small.png", "small.curve.csv"):
        assert name in said.out and (folder / name).exists()
    assert "epoch" in said.err and "likelihood: bernoulli" in said.err
    model = npvae.load("small.npz")
    test = np.load("images.npy")[Split().rows(60)[2]]
    assert f"test bound: {model.score(test):.2f} nats (6 rows)" in said.out
    width, height = png_size(folder / "small.png")
    assert width > 1000 and height > 1000
    with open("small.curve.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["samples"] for row in rows] == ["48", "96", "144"]
    assert float(rows[2]["elbo_test"]) == pytest.approx(model.score(test), abs=1) and rows[0]["elbo_valid"] != "nan"


def test_train_on_the_digits_by_default(folder, capsys):
    assert cli.main(["train", *SMALL[:4], "--epochs", "1", "--learning-rate", "0.02"]) == 0
    assert "test bound: -" in capsys.readouterr().out
    assert npvae.load("model.npz").n_features_in_ == 784


def test_score(trained, capsys):
    assert cli.main(["score", "model.npz", "images.npy", "--split", "train"]) == 0
    X = np.load("images.npy")
    expected = npvae.load("model.npz").score(X[Split().rows(60)[0]])
    assert capsys.readouterr().out.startswith(f"{expected:.3f} +- ")
    assert cli.main(["score", "model.npz", "images.npy"]) == 0
    assert ", 60 rows" in capsys.readouterr().out


def test_score_of_two_rows_and_of_one(trained, capsys):
    """The standard error has n - 1 degrees of freedom: for two rows it is half their difference. One row has none."""
    X = np.load("images.npy")
    scores = npvae.load("model.npz").score_samples(X[:2])
    for n, error in ((2, f" +- {abs(scores[0] - scores[1]) / 2:.3f}"), (1, "")):
        np.save("few.npy", X[:n])
        assert cli.main(["score", "model.npz", "few.npy"]) == 0
        said = f"{scores[:n].mean():.3f}{error} nats, {n} row{'s' * (n > 1)}"
        assert capsys.readouterr().out.splitlines()[-1] == said


@pytest.mark.filterwarnings("ignore:importance")
@pytest.mark.parametrize("options", [["--method", "importance"], ["--method", "importance", "--samples", "100"]])
def test_score_by_a_method(trained, capsys, options):
    """log p(x), with the standard error of the method beside the one over rows."""
    assert cli.main(["score", "model.npz", "images.npy", *options]) == 0
    n_samples = int(options[3]) if len(options) > 2 else None
    values, errors = npvae.load("model.npz").log_likelihood(np.load("images.npy"), n_samples=n_samples, return_std=True)
    n = len(values)
    assert capsys.readouterr().out == (
        f"{values.mean():.3f} +- {values.std(ddof=1) / np.sqrt(n):.3f} nats, {n} rows; "
        f"standard error of the method {np.sqrt(np.sum(errors**2)) / n:.2g}\n"
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("debug", [False, True])
def test_warnings_are_printed_as_errors_are(trained, capsys, debug):
    """In one line, without a place in the code of the command. That is for --debug."""
    options = ["--method", "marginal", "--samples", "5", *["--debug"] * debug]
    with warnings.catch_warnings(record=debug) as recorded:
        assert cli.main(["score", "model.npz", "images.npy", *options]) == 0
    if debug:
        assert str(recorded[0].message).startswith("marginal: the spread of the sets is above 1")
    else:
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("npvae: warning: marginal: the spread of the sets is above 1")
        assert line.endswith("take more samples, or another method")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--samples", "7"], "--samples is 7, and it belongs to --method"),
        (["--method", "importance", "--samples", "0"], "--samples is 0; expected an integer of at least 2"),
        (["--method", "quadrature", "--samples", "8"], "--samples is 8; expected one more than a multiple of 4"),
    ],
)
def test_scores_that_are_refused(trained, capsys, options, message):
    assert cli.main(["score", "model.npz", "images.npy", *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sample"], ["manifold", "images.npy"], ["reconstruct", "images.npy"]])
def test_pictures(trained, capsys, command):
    assert cli.main([command[0], "model.npz", *command[1:], "--out", "picture.png"]) == 0
    assert capsys.readouterr().out == "picture: picture.png\n"
    assert png_size(trained / "picture.png") == (800, 800)


GRADCHECK = ["--dataset", "images.npy", "--likelihood", "gaussian", "--components", "2", "--hidden", "2"]


@pytest.mark.slow(reason="every parameter of a net for each estimator, a quarter of a minute")
def test_gradcheck_of_every_estimator(trained, capsys):
    assert cli.main(["gradcheck", *GRADCHECK, "--backend", "reference"]) == 0
    assert f"{2 * len(ESTIMATORS)} of {2 * len(ESTIMATORS)} models passed" in capsys.readouterr().out


def test_gradcheck_looks_at_every_estimator_that_suits(trained):
    for posterior in "gaussian", "laplace":
        count = sum(posterior in spec.posteriors for spec in ESTIMATORS.values())
        arguments = cli.build_parser().parse_args(["gradcheck", *GRADCHECK, "--posterior", posterior])
        assert len(list(models_to_check(arguments, np.load("images.npy")))) == 2 * count


def test_gradcheck_passes_and_fails(trained, capsys, monkeypatch):
    options = [*GRADCHECK, "--backend", "reference", "--estimator", "sgvb-b"]
    assert cli.main(["gradcheck", *options]) == 0
    assert "2 of 2 models passed" in capsys.readouterr().out
    assert cli.main(["gradcheck", "model.npz", "--dataset", "images.npy"]) == 0
    assert "1 of 1 models passed" in capsys.readouterr().out

    from npvae.backends import reference

    right = reference.gaussian_log_prob

    def wrong(*arguments):
        log_prob, dmu, dlog_var = right(*arguments)
        dmu *= 1.001
        return log_prob, dmu, dlog_var

    monkeypatch.setattr(reference, "gaussian_log_prob", wrong)
    assert cli.main(["gradcheck", *options]) == 1
    said = capsys.readouterr().out
    assert "0 of 2 models passed" in said and "decoder.mu.W" in said and "FAILED" in said


def test_gradcheck_of_a_model_with_saturated_units(trained, capsys, monkeypatch):
    """They pass, and the line says what was not checked; a fault beyond 64 rows does not pass."""
    model = npvae.load("model.npz")
    model.parameters_["encoder.hidden1.b"][...] = 12
    model.save("saturated.npz")
    options = ["gradcheck", "saturated.npz", "--dataset", "images.npy"]
    assert cli.main(options) == 0
    assert " not checked, below rounding errors\n1 of 1 models passed" in capsys.readouterr().out

    from npvae.backends import cpu

    right = cpu.gaussian_latent_backward

    def wrong(*arguments):
        dmu, dlog_var = right(*arguments)
        dmu[64:] *= 1.01
        return dmu, dlog_var

    monkeypatch.setattr(cpu, "gaussian_latent_backward", wrong)
    assert cli.main(options) == 1
    assert "131 rows, L = " in capsys.readouterr().out


def test_datasets(capsys):
    assert cli.main(["datasets"]) == 0
    said = capsys.readouterr().out
    for name in ("digits", "mnist", "frey", "binarized-mnist", "generated"):
        assert name in said


def test_a_table_that_is_not_images(folder, rng):
    X = rng.standard_normal((50, 3)) * 4 + 2
    np.savetxt("table.csv", X, delimiter=",", header="length,width,height", comments="")
    assert cli.main(["train", "table.csv", *SMALL]) == 0
    model = npvae.load("model.npz")
    assert model.likelihood_ == "gaussian" and model.n_features_in_ == 3
    assert png_size(folder / "model.png")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["score", "missing.npz", "images.npy"], "missing.npz"),
        (["score", "images.npy", "images.npy"], "images.npy is not an npvae model"),
        (["train", "numbers"], "numbers"),
        (["train", "missing.npy"], "missing.npy"),
        (["train", "images.npy", "--components", "0"], "--components is 0"),
        (["train", "mnist", "--data-dir", "."], "train-images-idx3-ubyte"),
        (["train", "images.npz", "--out", "images"], "would overwrite"),
        (["train", "images.npz", "--out", "../{folder}/images.npz"], "would overwrite"),
        (["train", "images.npy", "--out", "."], "is a folder"),
        (["train", "images.npy", "--out", "folder"], "is a folder"),
        (["train", "images.npy", "--out", "nowhere/model.npz"], "there is no folder nowhere"),
        (["train", "images.npy", "--image-shape", "5x5"], "--image-shape 5x5 does not fit rows of 36 features"),
        (["train", "empty.npy"], "empty.npy cannot be read"),
        (["train", "images.txt"], "images.txt is not a data set; expected digits, mnist"),
        (["train", "images.npy", "--drop", "99"], "there is no column '99'; there are columns 1 to 36, without names"),
        (["gradcheck", "model.npz", "--components", "7"], "model.npz has its own settings"),
        (["gradcheck", "model.npz", "--hidden", "7"], "model.npz has its own settings"),
    ],
)
def test_errors_are_one_line_and_a_status(folder, capsys, arguments, message):
    assert cli.main([argument.format(folder=folder.name) for argument in arguments]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("npvae: error: ") and message in said and "Traceback" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--epochs", "many"],
        ["train", "--likelihood", "poisson"],
        ["train", "--image-shape", "28"],
        ["train", "--image-shape", "28x28x4"],
        ["train", "--image-shape", "28x28x3x3"],
    ],
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2 and "usage: npvae" in capsys.readouterr().err


def test_version_and_help(capsys):
    for arguments, expected in (
        (["--version"], f"npvae {npvae.__version__}"),
        (["train", "--help"], "--learning-rate"),
    ):
        with pytest.raises(SystemExit) as raised:
            cli.main(arguments)
        assert raised.value.code == 0 and expected in capsys.readouterr().out


@pytest.mark.parametrize("out", ["run-0.02", "run-0.02.npz"])
def test_names_of_outputs(folder, out):
    assert cli.main(["train", "images.npy", *SMALL, "--out", out]) == 0
    assert {path.name for path in folder.glob("run*")} == {"run-0.02.npz", "run-0.02.png", "run-0.02.curve.csv"}


def test_a_diverging_run_leaves_its_model(folder, capsys):
    options = ["--optimizer", "sgd", "--learning-rate", "1e30", "--likelihood", "gaussian"]
    assert cli.main(["train", "images.npy", *SMALL[:4], *options]) == 1
    said = capsys.readouterr()
    assert "training stopped at step" in said.err and "model: model.npz" in said.out
    assert "A smaller --learning-rate than 1e+30 is the usual remedy" in said.err
    assert np.isfinite(npvae.load("model.npz").parameters_.vector).all()


def test_resume_after_ctrl_c(folder, capsys, monkeypatch):
    """Stopped in the second epoch, from another folder, to the same numbers as without; then on to more epochs."""
    assert cli.main(["train", "images.npy", *SMALL, "--out", "whole"]) == 0
    draw, drawn = npvae.estimators.SGVB.draw_into, []

    def press(estimator, rng, out):
        drawn.append(out)
        if len(drawn) == 4:
            signal.raise_signal(signal.SIGINT)
        return draw(estimator, rng, out)

    with monkeypatch.context() as patch:
        patch.setattr(npvae.estimators.SGVB, "draw_into", press)
        assert cli.main(["train", "images.npy", *SMALL, "--out", "part", "--batch-size", "20"]) == 130
    said = capsys.readouterr()
    assert "interrupted in epoch 2" in said.err and "to resume: npvae resume part.npz" in said.out
    assert cli.main(["train", "images.npy", *SMALL, "--out", "whole", "--batch-size", "20", "--force"]) == 0
    monkeypatch.chdir("/")
    assert cli.main(["resume", str(folder / "part.npz")]) == 0
    part, whole = npvae.load(folder / "part.npz"), npvae.load(folder / "whole.npz")
    np.testing.assert_array_equal(part.parameters_.vector, whole.parameters_.vector)
    assert [epoch[:4] for epoch in part.history_] == [epoch[:4] for epoch in whole.history_]
    assert part.notes_["test_curve"][-1] == whole.notes_["test_curve"][-1] and part.notes_["dataset"].startswith("/")

    assert cli.main(["resume", str(folder / "part.npz"), "--epochs", "5", "--quiet"]) == 0
    assert len(npvae.load(folder / "part.npz").history_) == 5 and png_size(folder / "part.png")


def test_resume_needs_a_model_of_this_command(folder, capsys):
    npvae.VAE(2, max_epochs=1).fit(np.load("images.npy")).save("mine.npz")
    assert cli.main(["resume", "mine.npz"]) == 1
    assert "mine.npz was not trained by `npvae train`; resume it with npvae.load('mine.npz')" in capsys.readouterr().err
    assert cli.main(["train", "images.npy", *SMALL]) == 0
    np.save("images.npy", np.load("images.npy")[::-1])
    assert cli.main(["resume", "model.npz", "--epochs", "9"]) == 1
    assert "X is [48, 36, '|u1'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["resume model.npz", "score model.npz images.npy", "sample model.npz"])
@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("test_curve", {"a": 1}, "notes.test_curve is {'a': 1}; expected a list"),
        ("test_curve", [[48, "a"]], "notes.test_curve[0][1] is 'a'; expected a number"),
        ("split", None, "notes.split is None; expected a record"),
        ("split", {"seed": -1}, "notes.split.seed is -1; expected an integer of at least 0"),
        ("image_shape", [6], "notes.image_shape is [6]; expected a list of 2"),
        ("image_shape", [2, 3, 4], "notes.image_shape[2] is 4; expected 3 colours"),
        ("choice", [], "notes.choice is []; expected a list of 4"),
        ("dataset", 3, "notes.dataset is 3; expected a string"),
        ("patient", "yes", "notes.patient is 'yes'; expected true or false"),
    ],
)
def test_notes_that_the_command_has_not_written(trained, capsys, command, name, value, expected):
    header, arrays = modelfile.load("model.npz")
    modelfile.save("model.npz", header | {"notes": header["notes"] | {name: value}}, arrays)
    assert cli.main(command.split()) == 1
    assert f"npvae: error: model.npz is damaged: {expected}" in capsys.readouterr().err


def test_how_much_is_said(folder, capsys, caplog):
    assert cli.main(["train", "images.npy", *SMALL, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert not quiet.err and quiet.out.startswith("test bound: ")
    assert cli.main(["train", "images.npy", *SMALL, "--force"]) == 0
    assert "latent dimensions active" in (plain := capsys.readouterr().err) and "checkpoint: epoch" not in plain
    assert cli.main(["train", "images.npy", *SMALL, "--verbose", "--force"]) == 0
    assert "checkpoint: epoch 4, after 144 samples" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        cli.main(["train", "missing.npy", "--debug", "--force"])


def test_every_command_has_an_example_that_is_understood(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    (\w+)\b", said := capsys.readouterr().out, re.MULTILINE)
    assert len(commands) == 13 and "exit status: 0 done" in said
    for command in commands:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        example = capsys.readouterr().out.split("example: npvae ")[1]
        assert cli.build_parser().parse_args(example.split()).run


def test_the_log_is_left_as_it_was(capsys):
    log = logging.getLogger("npvae")
    before = log.level, log.handlers[:]
    assert cli.main(["datasets", "--verbose"]) == 0
    assert (log.level, log.handlers) == before
