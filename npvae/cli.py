"""The command ``npvae``: train a model from the shell, and look at it. Numbers go to the terminal, pictures to PNG.

Commands that draw import matplotlib themselves: the others start faster without.
"""

import argparse
import csv
import logging
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from . import __version__, datasets
from .backends import BACKENDS
from .estimators import ESTIMATORS, available
from .checks import TOLERANCE, gradcheck
from .model import LIKELIHOODS, POSTERIORS
from .optimizers import STEPS
from .preprocessing import check_array
from .training import INTERRUPTED, NonFiniteError
from .vae import VAE, load

#: Settings that suit the named data sets where the command line gives none: those of the paper's Figure 2, except
#: that the generated digits are shown in a plane, and learnt in small batches, as befits fewer images and a minute.
DEFAULTS = {
    "digits": {
        "max_epochs": 40, "n_components": 2, "hidden_layer_sizes": (200,), "batch_size": 20, "learning_rate": 0.05,
    },
    "mnist": {"max_epochs": 20},
    "binarized-mnist": {"max_epochs": 20},
    "frey": {
        "max_epochs": 625, "n_components": 10, "hidden_layer_sizes": (200,), "likelihood": "sigmoid-gaussian",
        "learning_rate": 0.02,
    },
}  # fmt: skip


#: What `npvae bench` measures.
PARTS = ("kernels", "epochs", "growth")


def step_size(text):
    """Read a step size: "auto" or a number."""
    return text if text == "auto" else float(text)


#: (option, parameter of VAE, how to read it, help)
SETTINGS = (
    ("--components", "n_components", int, "dimension of the latent space"),
    ("--likelihood", "likelihood", ("auto", *LIKELIHOODS), "p(x|z)"),
    ("--activation", "activation", ("tanh", "sigmoid"), "of the hidden layers"),
    ("--estimator", "estimator", tuple(ESTIMATORS), "of the bound"),
    ("--posterior", "posterior", tuple(POSTERIORS), "family of q(z|x)"),
    ("--samples", "n_samples", int, "samples z for each datapoint"),
    ("--batch-size", "batch_size", int, "datapoints in a minibatch"),
    ("--optimizer", "optimizer", tuple(STEPS), "how a step is made"),
    ("--learning-rate", "learning_rate", step_size, "step size, or auto"),
    ("--weight-prior", "weight_prior", float, "precision of the prior on the weights"),
    ("--init-std", "init_std", float, "standard deviation of the initial weights"),
    ("--epochs", "max_epochs", int, "passes through the training data"),
    ("--patience", "patience", int, "epochs without a better validation bound before stopping; default: never stop"),
    ("--backend", "backend", ("auto", *BACKENDS), "where the arithmetic is done"),
    ("--dtype", "dtype", ("float32", "float64"), "precision"),
    ("--seed", "random_state", int, "of everything random"),
)


EXIT_CODES = "exit status: 0 done, 1 an error or a check that failed, 2 wrong usage, 130 stopped by Ctrl-C"


def main(argv=None):
    """Run the command with these arguments (default: those of the process) and return its exit status."""
    arguments = build_parser().parse_args(argv)
    log, handler = logging.getLogger("npvae"), logging.StreamHandler()
    if arguments.verbose:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError, MemoryError) as error:
        if arguments.debug:
            raise
        print(f"npvae: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("npvae: interrupted", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)


def build_parser():
    """Return the parser of all commands; each sets ``run``, a function from the arguments to an exit status."""
    parser = argparse.ArgumentParser(
        prog="npvae", description="Variational autoencoders, trained by hand.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"npvae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, description, example):
        added = commands.add_parser(
            name, help=description, description=description, epilog=f"example: npvae {example}",
        )  # fmt: skip
        added.set_defaults(run=run)
        added.add_argument("--verbose", action="store_true", help="show the library's log, such as each checkpoint")
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    train = command(
        "train", run_train, "train a model and draw what it has learnt",
        "train mnist --data-dir ~/data --epochs 20 --out mnist.npz",
    )  # fmt: skip
    _add_dataset(train, default="digits")
    _add_settings(train)
    train.add_argument("--out", type=Path, default=Path("model.npz"),
                       help="model file; the picture and the curve go beside it")  # fmt: skip
    _add_image_shape(train)
    _add_checkpoints(train)

    resume = command(
        "resume", run_resume, "go on with a training that was stopped or killed, or is to have more epochs",
        "resume mnist.npz --epochs 40",
    )  # fmt: skip
    resume.add_argument("model", type=Path, help="file of a model that `npvae train` has begun")
    resume.add_argument("--epochs", type=int, help="passes through the training data, those done included")
    resume.add_argument("--learning-rate", type=float, help="another step size, such as a smaller one after divergence")
    resume.add_argument("--data-dir", type=Path, help="folder of the data files, if they have moved")
    _add_checkpoints(resume)

    score = command(
        "score", run_score, "print the lower bound on log p(x) of a data set", "score mnist.npz mnist --split test"
    )
    score.add_argument("model", type=Path)
    _add_dataset(score)
    score.add_argument("--split", choices=("train", "valid", "test"), help="part; default: test, or all rows of a file")

    for name, run, description in (
        ("sample", run_sample, "draw samples from the prior to a PNG"),
        ("manifold", run_manifold, "draw the decoder's means on a grid of latents to a PNG"),
        ("reconstruct", run_reconstruct, "draw test data and reconstructions to a PNG"),
    ):
        data = "" if name == "sample" else "mnist "
        picture = command(name, run, description, f"{name} mnist.npz {data}--out {name}.png")
        picture.add_argument("model", type=Path)
        if name != "sample":
            _add_dataset(picture)
        picture.add_argument("--out", type=Path, default=Path(f"{name}.png"))
        _add_image_shape(picture)

    check = command(
        "gradcheck", run_gradcheck, "check every gradient by finite differences; status 1 if one is wrong",
        "gradcheck mnist.npz --dataset mnist",
    )  # fmt: skip
    check.add_argument("model", type=Path, nargs="?", help="a model file; default: all likelihoods and estimators, "
                       "all parameters of a small net and each array of the settings given")  # fmt: skip
    _add_dataset(check, default="digits", option=True)
    _add_settings(check)

    bench = command(
        "bench", run_bench, "measure the kernels, and training epochs beside other libraries, if installed",
        "bench kernels --out benchmark",
    )  # fmt: skip
    bench.add_argument("parts", nargs="*", metavar="PART", default=PARTS, help=f"{', '.join(PARTS)}; default: all")
    bench.add_argument("--epochs", type=int, default=7, help="epochs of each contestant (7)")
    bench.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for tables and the picture")
    bench.add_argument("--data-dir", type=Path, help="folder of MNIST and Frey Face; default: random pixels")
    bench.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="where all of them compute (cpu)")

    listing = command(
        "datasets", run_datasets, "list the data sets and where they would be read from", "datasets --data-dir ~/data"
    )
    listing.add_argument("--data-dir", type=Path)
    return parser


def _add_dataset(parser, default=None, option=False):
    text = f"{', '.join(datasets.NAMES)}, or a .npy, .npz or .csv file"
    if option:
        parser.add_argument("--dataset", default=default, help=text)
    else:
        parser.add_argument("dataset", nargs="?" if default else None, default=default, help=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the data files; default: NPVAE_DATA, then the cache")


def _add_settings(parser):
    defaults = VAE().get_params()
    own = (f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()) for name, row in DEFAULTS.items())
    group = parser.add_argument_group(
        "settings of the model and of its training",
        f"Defaults are in brackets; the named data sets have some of their own. {'; '.join(own)}.",
    )
    group.add_argument("--hidden", dest="hidden_layer_sizes", type=int, nargs="*", metavar="UNITS",
                       help="units of each hidden layer (500)")  # fmt: skip
    for option, name, kind, text in SETTINGS:
        metavar = option.removeprefix("--").upper()
        choices = {"choices": kind} if isinstance(kind, tuple) else {"type": kind, "metavar": metavar}
        shown = "" if option == "--patience" else f" ({defaults[name]})"
        group.add_argument(option, dest=name, help=text + shown, **choices)


def _add_checkpoints(parser):
    parser.add_argument(
        "--checkpoint-every", type=float, default=60.0, metavar="SECONDS",
        help="how often the model file is written during training, for `npvae resume` (60)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show the results alone, and not how it goes")


def _add_image_shape(parser):
    parser.add_argument("--image-shape", type=_shape, metavar="HxW", help="of rows that are images, such as 28x28")


def _shape(text):
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected HEIGHTxWIDTH, such as 28x28")
    return tuple(map(int, sides))


def _settings(arguments):
    """Return the settings of a VAE: those given, else those that suit the data set."""
    given = {name: getattr(arguments, name) for name in ("hidden_layer_sizes", *(row[1] for row in SETTINGS))}
    given = {name: value for name, value in given.items() if value is not None}
    if "hidden_layer_sizes" in given:
        given["hidden_layer_sizes"] = tuple(given["hidden_layer_sizes"])
    return DEFAULTS.get(arguments.dataset, {}) | given


def load_dataset(name, data_dir):
    """Load a named data set, or a file: then every tenth row is for validation and every tenth for testing."""
    if name in datasets.NAMES:
        return datasets.load(name, data_dir)
    X = _read_table(name)
    place = np.arange(len(X)) % 10
    parts = (X[place < 8], X[place == 8], X[place == 9]) if len(X) >= 10 else (X, None, X)
    return datasets.Dataset(Path(name).stem, *parts, None, None, None, None)


def _read_table(path):
    """Read the array of a .npy or .csv file, or the first one of a .npz file, as rows of numbers."""
    suffix = Path(path).suffix
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(f"{path} is no data set; expected {', '.join(datasets.NAMES)}, or a .npy, .npz or .csv file")
    with open(path, "rb") as file:
        try:
            if suffix == ".csv":
                content = np.loadtxt(file, delimiter=",", ndmin=2, skiprows=_header_lines(path))
            else:
                content = np.load(path, mmap_mode="r" if suffix == ".npy" else None, allow_pickle=False)
            return check_array(content[content.files[0]] if suffix == ".npz" else content, path)
        except Exception as error:  # what damage does to the layers below has no end of names
            raise ValueError(f"{path} cannot be read as a table of numbers: {error}") from None


def _header_lines(path):
    """Tell whether the first line of a CSV file names its columns: 1, or 0 if it holds numbers."""
    with open(path, newline="") as file:
        first = next(csv.reader(file), None)
    if first is None:
        raise ValueError("it is empty")
    try:
        list(map(float, first))
    except ValueError:
        return 1
    return 0


def run_train(arguments):
    """Train, save the model, its curve and its picture, and say where they are."""
    path = _with_suffix(arguments.out, ".npz")
    _check_outputs(_outputs(path), arguments.dataset)
    dataset = load_dataset(arguments.dataset, arguments.data_dir)
    shape = arguments.image_shape or dataset.image_shape
    if shape:
        _check_image_shape(shape, dataset.X_train.shape[1])
    settings = _settings(arguments)
    model = VAE(**{"verbose": not arguments.quiet} | settings)
    model.set_params(patience=settings.get("patience", model.max_epochs))
    notes = {
        "patient": "patience" not in settings,  # no early stopping was asked for
        "dataset": arguments.dataset if arguments.dataset in datasets.NAMES else os.path.abspath(arguments.dataset),
        "data_dir": arguments.data_dir and os.path.abspath(arguments.data_dir),
        "image_shape": shape,
        "test_curve": [],
    }
    return _train(model, model.fit, dataset, path, notes, arguments.checkpoint_every)


def run_resume(arguments):
    """Go on with what `run_train` has begun, to the same files."""
    path = arguments.model
    model = load(path)
    notes = model.notes_
    if not {"patient", "dataset", "data_dir", "image_shape", "test_curve"} <= notes.keys():
        raise ValueError(f"{path} was not trained by this command; go on with npvae.load({str(path)!r}).resume(X)")
    _check_outputs(_outputs(path))
    for name, value in (("max_epochs", arguments.epochs), ("learning_rate", arguments.learning_rate)):
        if value is not None:
            model.set_params(**{name: value})
    model.set_params(verbose=not arguments.quiet, patience=model.max_epochs if notes["patient"] else model.patience)
    whole = {epoch.samples_seen for epoch in model.history_ if epoch.epoch < model.training_.progress.epoch}
    notes["test_curve"] = [point for point in notes["test_curve"] if point[0] in whole]
    dataset = load_dataset(notes["dataset"], arguments.data_dir or notes["data_dir"])
    return _train(model, model.resume, dataset, path, notes, arguments.checkpoint_every)


def _outputs(path):
    """Return the files of a training: model, picture and curve."""
    stem = path.name.removesuffix(".npz")
    return path, path.with_name(stem + ".png"), path.with_name(stem + ".curve.csv")


def _train(model, run, dataset, path, notes, checkpoint_every):
    """Train by ``run``, a method of the model, and write all files."""
    started = time.perf_counter()
    path, picture, curve = _outputs(path)

    def score_test(epoch):
        if _is_round(epoch.epoch) or epoch.epoch == model.max_epochs:
            notes["test_curve"].append((epoch.samples_seen, model.score(dataset.X_test)))

    def save(model):
        model.save(path, notes)

    model.set_params(callbacks=(score_test,))
    try:
        run(dataset.X_train, X_valid=dataset.X_valid, checkpoint=save, checkpoint_every=checkpoint_every)
    except NonFiniteError:
        save(model)
        print(f"model: {path}, as it was before the step that failed, or at its best on validation data")
        raise
    test_curve, shape = dict(notes["test_curve"]), notes["image_shape"] and tuple(notes["image_shape"])
    _write_curve(curve, model.history_, test_curve)
    from . import plots

    summary = plots.summary(model, dataset.X_test, shape, y=dataset.y_test, test_curve=test_curve.items())
    summary.savefig(picture, dpi=100)
    print(f"test bound: {model.score(dataset.X_test):.2f} nats ({len(dataset.X_test)} rows)")
    print(f"model: {path}\npicture: {picture}\ncurve: {curve}\n{time.perf_counter() - started:.0f} s")
    if model.stopped_ and model.stopped_.startswith(INTERRUPTED):
        print(f"to go on: npvae resume {path}")
        return 130
    return 0


def _with_suffix(path, suffix):
    """Append a suffix unless it is there; what looks like another one is part of the name, as in run-0.02."""
    if path.is_dir():
        raise IsADirectoryError(f"--out {path} is a folder; expected the name of a file")
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _check_outputs(paths, dataset=""):
    """Refuse, before the work is done, to write where nothing can be written or where the data lies."""
    folder = paths[0].parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{paths[0]}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{paths[0]}: nothing can be written to the folder {folder}")
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{paths[0]}: {path} is a folder")
        if dataset not in datasets.NAMES and path.resolve() == Path(dataset).resolve():
            raise ValueError(f"{paths[0]} would overwrite the data in {dataset}")


def _is_round(number):
    """Tell whether a number is 1, 2 or 5 times a power of ten."""
    return number / 10 ** math.floor(math.log10(number)) in (1, 2, 5)


def _write_curve(path, history, test_curve):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "samples", "elbo_train", "elbo_valid", "elbo_test", "seconds"])
        for epoch in history:
            test = test_curve.get(epoch.samples_seen, math.nan)
            bounds = [f"{bound:.3f}" for bound in (epoch.elbo, epoch.elbo_valid, test)]
            writer.writerow([epoch.epoch, epoch.samples_seen, *bounds, f"{epoch.seconds:.2f}"])


def run_score(arguments):
    """Print the bound of one part of a data set, or of a whole file."""
    if arguments.dataset not in datasets.NAMES and arguments.split is None:
        X = _read_table(arguments.dataset)
    else:
        split = arguments.split or "test"
        X = getattr(load_dataset(arguments.dataset, arguments.data_dir), f"X_{split}")
        if X is None:
            raise ValueError(f"{arguments.dataset} has no {split} rows")
    scores = load(arguments.model).score_samples(X)
    error = scores.std() / math.sqrt(len(scores))
    print(f"{scores.mean():.3f} +- {error:.3f} nats, {len(scores)} rows")
    return 0


def run_sample(arguments):
    """Draw 100 samples."""
    from . import plots

    model = load(arguments.model)
    shape = _image_shape(arguments, model)
    return _save(arguments.out, lambda ax: plots.show_images(ax, model.sample(100), shape, 10, "Samples"))


def run_manifold(arguments):
    """Draw the grid; the data decides which two latent dimensions it spans."""
    from . import plots

    model, dataset = load(arguments.model), load_dataset(arguments.dataset, arguments.data_dir)
    shape = _image_shape(arguments, model)
    return _save(arguments.out, lambda ax: plots.manifold(ax, model, dataset.X_test, shape))


def run_reconstruct(arguments):
    """Draw the first 50 test rows with their reconstructions."""
    from . import plots

    model, dataset = load(arguments.model), load_dataset(arguments.dataset, arguments.data_dir)
    shape = _image_shape(arguments, model)
    return _save(arguments.out, lambda ax: plots.reconstructions(ax, model, dataset.X_test, shape))


def _image_shape(arguments, model):
    """Return the shape given, else the one that the number of columns suggests."""
    n_features = model.n_features_in_
    side = math.isqrt(n_features)
    shape = arguments.image_shape or {560: (28, 20), side * side: (side, side)}.get(n_features)
    if shape is None:
        raise ValueError(f"rows of {n_features} features are no square images; give --image-shape")
    _check_image_shape(shape, n_features)
    return shape


def _check_image_shape(shape, n_features):
    if math.prod(shape) != n_features:
        raise ValueError(f"--image-shape {shape[0]}x{shape[1]} does not fit rows of {n_features} features")


def _save(path, draw):
    from matplotlib.figure import Figure

    path = _with_suffix(path, ".png")
    _check_outputs((path,))
    figure = Figure(figsize=(8, 8), layout="constrained")
    draw(figure.add_subplot())
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")
    return 0


def run_gradcheck(arguments):
    """Check one model, or all likelihoods and estimators on two sizes of net."""
    if arguments.model and any(getattr(arguments, row[1]) is not None for row in SETTINGS):
        raise ValueError(f"{arguments.model} brings its own settings; give either a model or settings")
    X = load_dataset(arguments.dataset, arguments.data_dir).X_test[:20]
    models = [(arguments.model, load(arguments.model), X)] if arguments.model else _models_to_check(arguments, X)
    reports = {}
    for title, model, rows in models:
        report = reports[title] = gradcheck(model, rows)
        worst = report.worst
        print(f"{title}: passed, worst {worst.name} {worst.error:.1e}" if report.passed else f"{title}:\n{report}")
    passed = sum(report.passed for report in reports.values())
    checks = [check for report in reports.values() for check in report.differences]
    largest = max(check.error for check in checks if check.tolerance < 2 * TOLERANCE)  # not of vanishing gradients
    print(f"{passed} of {len(reports)} models passed; largest error in float64: {largest:.2e}")
    return 0 if passed == len(reports) else 1


def _models_to_check(arguments, X):
    """Yield (title, VAE, data): every likelihood and estimator not fixed by an option, on a small and a full net.

    Likelihoods that want data in [0, 1] are left out where the data lies elsewhere, and estimators that the posterior
    or the backend does not go with.
    """
    settings = _settings(arguments)
    middle = X.shape[1] // 2
    nets = (
        ("all parameters of a small net", {"n_components": 3, "hidden_layer_sizes": (5, 4)}, X[:, middle : middle + 8]),
        ("each array of the full net", {}, X),
    )
    estimators = available(arguments.posterior or "gaussian", arguments.backend)
    likelihoods = LIKELIHOODS if X.dtype == np.uint8 or (X.min() >= 0 and X.max() <= 1) else ("gaussian",)
    for likelihood in (arguments.likelihood,) if arguments.likelihood else likelihoods:
        for estimator in (arguments.estimator,) if arguments.estimator else estimators:
            for size, net, columns in nets:
                # Two samples, so that one can be left out.
                chosen = {"n_samples": 2} | settings | net | {"likelihood": likelihood, "estimator": estimator}
                yield f"{likelihood}, {estimator}, {size}", VAE(**chosen), columns


def run_bench(arguments):
    """Measure, print, write tables and draw."""
    from matplotlib.figure import Figure

    from . import plots
    from .bench import report

    unknown = set(arguments.parts) - set(PARTS)
    if unknown or arguments.epochs < 1:
        raise ValueError(f"bench measures {', '.join(PARTS)}, in 1 or more epochs; got {unknown or arguments.epochs}")
    parts = [part for part in arguments.parts if part != "growth" or arguments.backend == "cpu"]
    if not parts:
        raise ValueError("growth is measured on the backend 'cpu' alone; expected kernels or epochs with 'cuda'")
    folder = arguments.data_dir and str(arguments.data_dir)
    tables = report.run(parts, arguments.out, folder, arguments.epochs, arguments.backend)
    figure = Figure(figsize=(10, 4 * len(tables)), layout="constrained")
    draw = {"kernels": plots.kernels, "epochs": plots.epochs, "growth": plots.growth}
    for figure_part, (part, rows) in zip(np.atleast_1d(figure.subfigures(len(tables))), tables.items()):
        draw[part](figure_part, rows)
    figure.savefig(arguments.out / "benchmark.png", dpi=100)
    print(f"tables and picture: {arguments.out}")
    return 0


def run_datasets(arguments):
    """List the named data sets."""
    for row in datasets.describe(arguments.data_dir):
        print(f"{row.name:16} {row.description}\n{'':16} {row.location}")
    return 0
