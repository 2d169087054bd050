"""The commands ``train`` and ``resume``: train a model and write its file, its learning curve and a picture.

Several processes that ``mpiexec`` has launched train one model together; the first one writes and prints.
"""

import argparse
import csv
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import datasets
from ..estimators import ESTIMATORS
from ..parallel import Serial, team, world
from ..progress import show_stages
from ..training import INTERRUPTED, Epoch, NonFiniteError
from ..vae import VAE
from .data import PERMUTED, load_dataset
from .options import (
    Commands,
    add_checkpoints,
    add_command,
    add_dataset,
    add_force,
    add_image_shape,
    add_settings,
    as_trained,
    chosen,
    chosen_settings,
    is_of_train,
    load_model,
    noted_choice,
    noted_split,
    say,
)
from .outputs import CURVE_COLUMNS, check_image_shape, check_outputs, check_overwriting, save_figure, with_suffix


def add_commands(commands: Commands) -> None:
    """Add ``train`` and ``resume``."""
    train = add_command(
        commands,
        "train",
        run_train,
        "train a model and draw what it has learnt",
        "train mnist --data-dir ~/data --epochs 20 --out mnist.npz",
    )
    add_dataset(train, default="digits")
    add_settings(train)
    train.add_argument(
        "--out",
        type=Path,
        default=Path("model.npz"),
        help="model file; the picture and the learning curve are written beside it (model.npz)",
    )
    add_force(train)
    add_image_shape(train)
    add_checkpoints(train)
    train.set_defaults(on_ranks=True)

    resume = add_command(
        commands,
        "resume",
        run_resume,
        "resume a training that was stopped or killed, or train for more epochs",
        "resume mnist.npz --epochs 40",
    )
    resume.add_argument("model", type=Path, help="model file written by `npvae train`")
    resume.add_argument("--epochs", type=int, help="passes through the training data, including those already done")
    resume.add_argument(
        "--learning-rate", type=float, help="another step size, such as a smaller one after training diverged"
    )
    resume.add_argument("--data-dir", type=Path, help="folder of the data files, if they were moved")
    add_checkpoints(resume)
    resume.set_defaults(on_ranks=True)


def run_train(arguments: argparse.Namespace) -> int:
    """Train a model, write its files and print their names; return the exit status."""
    comm = world()
    with team(comm) as ranks:
        return _run_train(arguments, comm, ranks)


def _run_train(arguments: argparse.Namespace, comm: Any, ranks: Serial) -> int:
    path = with_suffix(arguments.out, ".npz")
    check_outputs(_outputs(path), arguments.dataset)
    ranks.first(lambda: check_overwriting(_outputs(path), arguments.force))
    choice = chosen(arguments)
    with show_stages(not arguments.quiet) as doing:
        doing(f"reading {arguments.dataset}")
        dataset = load_dataset(arguments.dataset, arguments.data_dir, choice=choice, say=_say_unless(arguments.quiet))
    shape = arguments.image_shape or dataset.image_shape
    if shape:
        check_image_shape(shape, dataset.X_train.shape[1])
    settings = chosen_settings(arguments)
    model = VAE(**{"verbose": not arguments.quiet} | settings)
    model.set_params(patience=settings.get("patience", model.max_epochs))
    notes = {
        "patient": "patience" not in settings,  # no early stopping
        "dataset": arguments.dataset if arguments.dataset in datasets.NAMES else os.path.abspath(arguments.dataset),
        "data_dir": arguments.data_dir and os.path.abspath(arguments.data_dir),
        "image_shape": shape,
        "test_curve": [],
        "choice": choice[:4],
        "split": PERMUTED._asdict(),
        "ranks": comm is not None,
    }
    return _train(model, model.fit, dataset, path, notes, arguments.checkpoint_every, comm, ranks)


def run_resume(arguments: argparse.Namespace) -> int:
    """Resume a training of `run_train` and write the same files; return the exit status.

    One of ranks goes on with ranks, with one too if a launcher started it: their number does not change the bits.
    """
    comm = world()
    with team(comm) as ranks:
        model = ranks.first(lambda: load_model(arguments.model))  # the file may be on a disk of its machine
        if comm is None and model.notes_.get("ranks"):
            comm = world(fewest=1)
        return _run_resume(arguments, model, comm, ranks)


def _run_resume(arguments: argparse.Namespace, model: VAE, comm: Any, ranks: Serial) -> int:
    path, notes = arguments.model, model.notes_
    if not is_of_train(model):
        raise ValueError(f"{path} was not trained by `npvae train`; resume it with npvae.load({str(path)!r}).resume(X)")
    check_outputs(_outputs(path))
    ranks.first(lambda: check_overwriting(_marked(path, notes), force=True))
    notes["ranks"] = comm is not None
    for name, value in (("max_epochs", arguments.epochs), ("learning_rate", arguments.learning_rate)):
        if value is not None:
            model.set_params(**{name: value})
    model.set_params(verbose=not arguments.quiet, patience=model.max_epochs if notes["patient"] else model.patience)
    done = model.training_.progress.epoch - 1
    if done >= model.max_epochs:
        say(f"nothing to resume: {done} epochs are done; for more, give a larger --epochs")
        model.set_params(verbose=False)  # the library would say the same of its own settings
    complete = {epoch.samples_seen for epoch in model.history_ if epoch.epoch < model.training_.progress.epoch}
    notes["test_curve"] = [point for point in notes["test_curve"] if point[0] in complete]
    choice = as_trained(noted_choice(notes), model)
    with show_stages(not arguments.quiet) as doing:
        doing(f"reading {notes['dataset']}")
        dataset = load_dataset(
            notes["dataset"],
            arguments.data_dir or notes["data_dir"],
            choice=choice,
            split=noted_split(notes),
            say=_say_unless(arguments.quiet),
        )
    return _train(model, model.resume, dataset, path, notes, arguments.checkpoint_every, comm, ranks)


def _say_unless(quiet: bool) -> Callable[[str], object]:
    """Return what prints how the data was read; of a quiet command, only what was left out."""
    return (lambda message: say(message) if message.startswith("left out") else None) if quiet else say


def _outputs(path: Path) -> tuple[Path, Path, Path]:
    """Return the files of a training: model, picture and learning curve."""
    stem = path.name.removesuffix(".npz")
    return path, path.with_name(stem + ".png"), path.with_name(stem + ".curve.csv")


def _marked(path: Path, notes: dict[str, Any]) -> tuple[Path, ...]:
    """Return those of them that can be told from files of others: version 0.1 did not mark its pictures."""
    model, picture, curve = _outputs(path)
    return (model, picture, curve) if "split" in notes else (model, curve)


def _train(
    model: VAE,
    run: Callable[..., VAE],
    dataset: datasets.Dataset,
    path: Path,
    notes: dict[str, Any],
    checkpoint_every: float,
    comm: Any,
    ranks: Serial,
) -> int:
    """Train by `run`, which is ``fit`` or ``resume`` of the model, and write all files; return the exit status."""
    started, has_bound = time.perf_counter(), ESTIMATORS[model.estimator].has_encoder

    def score_test(epoch: Epoch) -> None:
        if has_bound and (_is_round(epoch.epoch) or epoch.epoch == model.max_epochs):
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # training will say it, or the end
                notes["test_curve"].append((epoch.samples_seen, model.score(dataset.X_test)))

    written = []

    def save(model: VAE) -> None:
        model.save(path, notes)
        written.append(path)

    model.set_params(callbacks=(score_test,))
    try:
        X_valid = dataset.X_valid if has_bound else None
        run(dataset.X_train, X_valid=X_valid, checkpoint=save, checkpoint_every=checkpoint_every, comm=comm)
    except KeyboardInterrupt:  # before the first step, or a second time
        say(f"what is in {path} can be resumed: npvae resume {path}" if written else "no file was written")
        raise
    except NonFiniteError:
        ranks.first(lambda: save(model))
        print(f"model: {path}, with the last parameters whose bound was finite, or the best ones on validation data")
        raise
    return ranks.first(lambda: _write(model, dataset, path, notes, started))


def _write(model: VAE, dataset: datasets.Dataset, path: Path, notes: dict[str, Any], started: float) -> int:
    """Write the files of a training that has ended but for the model's own, and print; return the exit status."""
    has_bound, (_, picture, curve) = ESTIMATORS[model.estimator].has_encoder, _outputs(path)
    check_overwriting(_marked(path, notes), force=True)  # the training took long: another file may be there by now
    test_curve, shape = dict(notes["test_curve"]), notes["image_shape"] and tuple(notes["image_shape"])
    _write_curve(curve, model.history_, test_curve)
    with show_stages(model.verbose) as doing:
        doing("drawing the picture")
        from .. import plots

        summary = plots.summary(model, dataset.X_test, shape, y=dataset.y_test, test_curve=test_curve.items())
        save_figure(picture, summary)
    if has_bound:
        of_what = " of single samples" if ESTIMATORS[model.estimator].importance_weighted else ""
        print(f"test bound{of_what}: {model.score(dataset.X_test):.2f} nats ({len(dataset.X_test)} rows)")
    print(f"model: {path}\npicture: {picture}\ncurve: {curve}\n{time.perf_counter() - started:.0f} s in all")
    if model.stopped_ and model.stopped_.startswith(INTERRUPTED):
        print(f"to resume: npvae resume {path}")
        return 130
    return 0


def _is_round(number: int) -> bool:
    """Return whether a number is 1, 2 or 5 times a power of ten."""
    return number / 10 ** math.floor(math.log10(number)) in (1, 2, 5)


def _write_curve(path: Path, history: Iterable[Epoch], test_curve: Mapping[int, float]) -> None:
    """Write the bounds of all epochs, in nats, as a CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CURVE_COLUMNS)
        for epoch in history:
            test = test_curve.get(epoch.samples_seen, math.nan)
            bounds = [f"{bound:.3f}" for bound in (epoch.elbo, epoch.elbo_valid, test)]
            writer.writerow([epoch.epoch, epoch.samples_seen, *bounds, f"{epoch.seconds:.2f}"])
