"""Commands that use a model file: ``score`` prints a number; ``sample``, ``manifold`` and ``reconstruct`` draw."""

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from numpy.typing import NDArray

from .. import datasets
from ..conventions import not_finite
from ..evaluation import METHODS
from ..vae import VAE
from .data import NamedArray, load_table
from .options import (
    Commands,
    add_command,
    add_dataset,
    add_force,
    add_image_shape,
    add_model,
    chosen,
    load_dataset,
    load_model,
    say,
)
from .outputs import check_image_shape, picture_path, save_picture


def run_score(arguments: argparse.Namespace) -> int:
    """Print the mean bound or the mean log p(x) of one part of a data set, or of all rows of a file."""
    if arguments.samples is not None and arguments.method is None:
        raise ValueError(
            f"--samples is {arguments.samples}, and it belongs to --method; the bound has those of the fit"
        )
    model = load_model(arguments.model)
    if arguments.method is None and not model.architecture_.has_encoder:
        methods = " or ".join(name for name, method in METHODS.items() if not method.lacks(model.architecture_))
        raise ValueError(f"the model has no encoder, and so no bound; expected --method {methods}")
    X = load_rows(arguments, model)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of what is an error here
        if arguments.method is None:
            what, scores, errors = "the bound", model.score_samples(X), None
        else:
            options = {"method": arguments.method, "n_samples": arguments.samples}
            what, (scores, errors) = "log p(x)", model.log_likelihood(X, **options, return_std=True)
    if message := not_finite(what, scores):
        raise ValueError(message)
    n = len(scores)
    error = f" +- {scores.std(ddof=1) / math.sqrt(n):.3f}" if n > 1 else ""  # one row does not tell it
    said = f"{scores.mean():.3f}{error} nats, {n} row{'s' * (n > 1)}"
    if errors is not None:
        said += f"; standard error of the method {math.sqrt((errors**2).sum()) / n:.2g}"
    print(said)
    return 0


def load_rows(arguments: argparse.Namespace, model: VAE, missing: bool = False) -> NDArray:
    """Return one part of a data set, or all rows of a file; with ``missing``, values may be missing in any case."""
    if arguments.dataset not in datasets.NAMES and arguments.split is None:
        choice = chosen(arguments, model)
        table = load_table(arguments.dataset, choice._replace(missing=choice.missing or missing), say)
        return NamedArray.of(table.X, table.names)
    split = arguments.split or "test"
    X = getattr(load_dataset(arguments, model), f"X_{split}")
    if X is None:
        raise ValueError(f"{arguments.dataset} has no {split} rows")
    return X


def run_sample(arguments: argparse.Namespace) -> int:
    """Draw 100 samples; return the exit status."""
    from .. import plots

    path, model = picture_path(arguments.out, arguments.force), load_model(arguments.model)
    shape = image_shape_of(arguments, model)
    save_picture(path, lambda ax: plots.show_images(model.sample(100, mean=True), shape, title="Samples", ax=ax))
    return 0


def run_manifold(arguments: argparse.Namespace) -> int:
    """Draw a grid of latents; the data decides which two dimensions it spans. Return the exit status."""
    from .. import plots

    path = picture_path(arguments.out, arguments.force, arguments.dataset)
    model = load_model(arguments.model)
    dataset = load_dataset(arguments, model)
    shape = image_shape_of(arguments, model)
    save_picture(path, lambda ax: plots.manifold(model, dataset.X_test, shape, ax=ax))
    return 0


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Draw the first 50 test rows beside their reconstructions; return the exit status."""
    from .. import plots

    path = picture_path(arguments.out, arguments.force, arguments.dataset)
    model = load_model(arguments.model)
    dataset = load_dataset(arguments, model)
    shape = image_shape_of(arguments, model)
    save_picture(path, lambda ax: plots.reconstructions(model, dataset.X_test, shape, ax=ax))
    return 0


def image_shape_of(arguments: argparse.Namespace, model: VAE) -> tuple[int, ...]:
    """Return the shape given, that of the training, or the one that the number of columns suggests."""
    n_features = model.n_features_in_
    side = math.isqrt(n_features)
    known = {560: (28, 20), side * side: (side, side)}.get(n_features)
    shape = arguments.image_shape or model.notes_.get("image_shape") or known
    if shape is None:
        raise ValueError(f"rows of {n_features} features are not square images; give --image-shape")
    check_image_shape(shape, n_features)
    return tuple(shape)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the part of the data set that is read."""
    parser.add_argument(
        "--split", choices=("train", "valid", "test"), help="part; default: test, or all rows of a file"
    )


class Picture(NamedTuple):
    """A command that draws."""

    name: str
    run: Callable[[argparse.Namespace], int]
    description: str
    needs_data: bool


PICTURES = (
    Picture("sample", run_sample, "draw samples from the prior to a PNG file", False),
    Picture("manifold", run_manifold, "draw the means of the decoder on a grid of latents to a PNG file", True),
    Picture("reconstruct", run_reconstruct, "draw test data and reconstructions to a PNG file", True),
)


def add_commands(commands: Commands) -> None:
    """Add ``score`` and the commands that draw."""
    score = add_command(
        commands,
        "score",
        run_score,
        "print the lower bound on log p(x) of a data set, or an estimate of log p(x)",
        "score mnist.npz mnist --split test",
    )
    add_model(score)
    add_dataset(score)
    add_split(score)
    score.add_argument("--method", choices=tuple(METHODS), help="estimate log p(x) by this method; default: the bound")
    counts = "; ".join(f"{name}: {method.counts} ({method.n_samples})" for name, method in METHODS.items())
    score.add_argument("--samples", type=int, metavar="K", help=f"with --method. {counts}")

    for name, run, description, needs_data in PICTURES:
        data = "mnist " if needs_data else ""
        picture = add_command(commands, name, run, description, f"{name} mnist.npz {data}--out {name}.png")
        add_model(picture)
        if needs_data:
            add_dataset(picture)
        picture.add_argument("--out", type=Path, default=Path(f"{name}.png"), help=f"PNG file ({name}.png)")
        add_force(picture)
        add_image_shape(picture)
