"""Options that several commands share, and the settings of a `VAE` that they give. The commands are left to others."""

import argparse
import contextlib
import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import schema
from ..cluster import Cluster, connect
from ..conventions import did_you_mean
from ..datasets import Dataset
from ..settings import SETTINGS, option_help
from ..vae import VAE, load
from . import data
from .choice import Choice
from .data import KNOWN, Split

#: Settings that suit the named data sets, used where the command line gives none. They are those of Figure 2 of the
#: paper. The generated digits are fewer: two latent dimensions that can be drawn, and small batches, for a short run.
DATASET_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "max_epochs": 40,
        "n_components": 2,
        "hidden_layer_sizes": (200,),
        "batch_size": 20,
        "learning_rate": 0.05,
    },
    "mnist": {"max_epochs": 20},
    "binarized-mnist": {"max_epochs": 20},
    "frey": {
        "max_epochs": 625,
        "n_components": 10,
        "hidden_layer_sizes": (200,),
        "likelihood": "sigmoid-gaussian",
        "learning_rate": 0.02,
    },
}

#: Settings with an option of the command line: name -> option.
OPTIONS: dict[str, str] = {name: setting.option for name, setting in SETTINGS.items() if setting.option}

#: What messages of the library call the settings whose option has another name, and `checkpoint_every`.
_OTHER_NAMES = {name: option for name, option in OPTIONS.items() if option != f"--{name}"} | {
    "checkpoint_every": "--checkpoint-every"
}

#: What stands before a value in messages, as in method='annealed'.
_GIVEN = OPTIONS | {"method": "--method"}


def _check_shape(name: str, value: Any) -> None:
    """Check for the shape of an image, grey or with three colours: see `image_shape`."""
    colours = [schema.exactly(3, " colours")] if isinstance(value, list) and len(value) == 3 else []
    schema.row(schema.integer(1), schema.integer(1), *colours)(name, value)


#: What ``train`` writes to the notes of a model file; the last ones not before version 0.2.
NOTES: dict[str, schema.Check] = {
    "patient": schema.flag,
    "dataset": schema.text,
    "data_dir": schema.optional(schema.text),
    "image_shape": schema.optional(_check_shape),
    "test_curve": schema.many(schema.row(schema.integer(), schema.real(-math.inf, math.inf, nan=True))),
    "choice": schema.row(
        schema.optional(schema.text), schema.many(schema.text), schema.many(schema.text), schema.optional(schema.flag)
    ),
    "split": schema.record({"seed": schema.optional(schema.integer())}),
    "ranks": schema.flag,
}
LATER = ("choice", "split", "ranks")

#: What `argparse.ArgumentParser.add_subparsers` returns.
Commands = Any


def with_option_names(message: str) -> str:
    """Return a message of the library with the options of the command in place of its parameters.

    A setting is replaced where a message begins with it or says what it is, and elsewhere unless the word is English or
    a part of something else, such as the name of a file.

    Examples
    --------
    >>> with_option_names("random_state is -1; expected an integer of at least 0")
    '--seed is -1; expected an integer of at least 0'
    >>> with_option_names("n_samples.csv cannot be read")
    'n_samples.csv cannot be read'
    >>> with_option_names("take more samples, or method='annealed'")
    'take more samples, or --method annealed'
    """
    message = re.sub(
        r"(^|(?<= and ))(\w+)(?= is )",
        lambda found: OPTIONS.get(found[2], _OTHER_NAMES.get(found[2], found[2])),
        message,
    )
    message = re.sub(rf"\b({'|'.join(_GIVEN)})='([\w-]+)'", lambda found: f"{_GIVEN[found[1]]} {found[2]}", message)
    names = "|".join(name for name in _OTHER_NAMES if "_" in name)
    # Not in quotes, paths, or names of files
    return re.sub(rf"(?<![\w./\\'\"-])({names})(?![\w/\\'\"-]|\.\w)", lambda found: _OTHER_NAMES[found[1]], message)


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest option, command or choice.

    Examples
    --------
    >>> Parser(prog="npvae", exit_on_error=False).add_argument("--side", choices=("left", "right")).dest
    'side'
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102 - as argparse says
        parsed, unknown = super().parse_known_args(args, namespace)
        options = [word for word in unknown if word.startswith("-")]
        if options:
            near = did_you_mean(options[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(value, action.choices or ())
            raise


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], description: str, example: str
) -> argparse.ArgumentParser:
    """Add a command, and return its parser.

    Parameters
    ----------
    commands : what `argparse.ArgumentParser.add_subparsers` returns
    name : str
    run : function
        From the parsed arguments to an exit status.
    description : str
    example : str
        Arguments that are shown as an example.
    """
    parser = commands.add_parser(name, help=description, description=description, epilog=f"example: npvae {example}")
    parser.set_defaults(run=run, on_ranks=False)
    parser.add_argument("--verbose", action="store_true", help="print the library's log, such as each checkpoint")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error, and where a warning is")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL."""
    parser.add_argument("model", type=Path, help="model file written by `npvae train` or `VAE.save`")


def add_dataset(parser: argparse.ArgumentParser, default: str | None = None, option: bool = False) -> None:
    """Add the data set, as an argument or as an option, and the folder of its files."""
    text = f"{KNOWN} ({default})" if default else KNOWN
    if option:
        parser.add_argument("--dataset", default=default, help=text)
    else:
        parser.add_argument("dataset", nargs="?" if default else None, default=default, help=text)
    add_data_dir(parser)
    group = parser.add_argument_group("what to read of a file")
    group.add_argument("--array", metavar="NAME", help="array of a .npz or .mat file that holds several")
    group.add_argument(
        "--columns",
        type=names_of_columns,
        metavar="NAME,...",
        help="columns to read, by name or by number from 1; default: all, and those of the model where there is one",
    )
    group.add_argument("--drop", type=names_of_columns, metavar="NAME,...", help="columns to leave out")
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line of a .csv file has names of columns; default: as it looks",
    )


def names_of_columns(text: str) -> tuple[str, ...]:
    """Read names of columns that are separated by commas; a name with a comma is in quotes.

    Examples
    --------
    >>> names_of_columns('a,"b, in cm",3')
    ('a', 'b, in cm', '3')
    """
    (names,) = csv.reader([text], skipinitialspace=True)
    return tuple(name.strip() for name in names)


def load_model(path: Path) -> VAE:
    """Read a model file. Its notes must be such as ``train`` writes, if it has written the file."""
    model = load(path)
    if is_of_train(model):
        try:
            schema.record(NOTES, absent=LATER, others=True)("notes", model.notes_)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    return model


def is_of_train(model: VAE) -> bool:
    """Return whether the command ``train`` has written a model file."""
    return model.notes_.keys() >= NOTES.keys() - LATER


def chosen(arguments: argparse.Namespace, model: VAE | None = None) -> Choice:
    """Return what to read of the file: what the command line says.

    For a model these are its columns, if they have names. Where the command line says nothing, the file that it was
    trained on is read as it was then.
    """
    choice = Choice(arguments.array, arguments.columns or (), arguments.drop or (), arguments.header)
    if model is None:
        return choice._replace(missing=getattr(arguments, "missing", None) == "model")
    notes = model.notes_
    if choice == Choice() and notes.get("dataset") == os.path.abspath(arguments.dataset):
        choice = noted_choice(notes)
    return as_trained(choice, model)


def as_trained(choice: Choice, model: VAE) -> Choice:
    """Return the choice with the columns of a model, and with missing values if it takes them."""
    return choice._replace(names=names_of_model(model), missing=model.missing == "model")


def names_of_model(model: VAE) -> tuple[str, ...]:
    """Return the names of the columns that a model was trained on, if they had names."""
    return tuple(getattr(model, "feature_names_in_", ()))


def noted_choice(notes: dict[str, Any]) -> Choice:
    """Return what the command that trained a model has read of the file."""
    array, columns, drop, header = notes.get("choice", (None, (), (), None))
    return Choice(array, tuple(columns), tuple(drop), header)


def noted_split(notes: dict[str, Any]) -> Split:
    """Return how the command that trained a model has split the rows; by their number, before version 0.2."""
    return Split(notes["split"]["seed"]) if "split" in notes else Split(None if "dataset" in notes else 0)


def load_dataset(arguments: argparse.Namespace, model: VAE | None = None) -> Dataset:
    """Load the data set of a command, split as that of the model, and say on standard error what was read."""
    split = data.PERMUTED if model is None else noted_split(model.notes_)
    dataset = data.load_dataset(
        arguments.dataset, arguments.data_dir, choice=chosen(arguments, model), split=split, say=say
    )
    trained_on = getattr(model, "notes_", {}).get("dataset") == os.path.abspath(arguments.dataset)
    if model is not None and trained_on and len(dataset.X_train) != model.n_samples_seen_:
        say(
            f"the file has changed: {len(dataset.X_train)} rows are for training, and the model was trained on "
            f"{model.n_samples_seen_}; its test rows are others than then"
        )
    return dataset


def say(message: str) -> None:
    """Print a message on standard error."""
    print(message, file=sys.stderr)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the files of the named data sets."""
    parser.add_argument("--data-dir", type=Path, help="folder of the data files; default: NPVAE_DATA, then the cache")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting that has one."""
    group = parser.add_argument_group(
        "settings of the model and of its training",
        f"Defaults are in brackets. Some data sets have others. {'; '.join(map(_describe, DATASET_SETTINGS))}.",
    )
    for name, option in OPTIONS.items():
        setting = SETTINGS[name]
        argument = setting.kind.argument()
        if "choices" not in argument:
            argument = {"metavar": option.removeprefix("--").upper()} | argument
        group.add_argument(option, dest=name, help=option_help(setting).replace("%", "%%"), **argument)


def _describe(dataset: str) -> str:
    return f"{dataset}: " + ", ".join(f"{OPTIONS[name]} {value}" for name, value in DATASET_SETTINGS[dataset].items())


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line gives, by name."""
    values = {name: getattr(arguments, name) for name in OPTIONS}
    return {
        name: tuple(value) if isinstance(value, list) else value  # argparse collects several values in a list
        for name, value in values.items()
        if value is not None
    }


def chosen_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line gives, and for the others those that suit the data set."""
    return DATASET_SETTINGS.get(arguments.dataset, {}) | given_settings(arguments)


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training: how often its file is written, and how much is printed."""
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often the model file is written during training, for `npvae resume` (60)",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the results, and no progress")


def add_scheduler(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the address of a Dask cluster."""
    parser.add_argument("--scheduler", metavar="ADDRESS", help=f"address of a Dask scheduler, tcp://HOST:PORT: {help}")


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[Cluster | None]:
    """Connect to the cluster that ``--scheduler`` asks for, if it does."""
    if scheduler is None:
        yield None
    else:
        with connect(scheduler) as cluster:
            yield cluster


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the permission to replace files."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files of the same names that npvae has written; other files are never replaced",
    )


def add_image_shape(parser: argparse.ArgumentParser) -> None:
    """Add the shape of rows that are images."""
    parser.add_argument(
        "--image-shape",
        type=image_shape,
        metavar="HxW",
        help="shape of the image in each row, such as 28x28, or 32x32x3 with colours",
    )


def image_shape(text: str) -> tuple[int, ...]:
    """Read the shape of an image, grey or with three colours.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not two positive integers with an x between them, with or without a third that is 3.

    Examples
    --------
    >>> image_shape("28x20"), image_shape("32x32x3")
    ((28, 20), (32, 32, 3))
    """
    sides = text.split("x")
    if (
        len(sides) not in (2, 3)
        or not all(side.isdecimal() and int(side) > 0 for side in sides)
        or (len(sides) == 3 and int(sides[2]) != 3)
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape; expected HEIGHTxWIDTH, such as 28x28, or 32x32x3 with colours"
        )
    return tuple(map(int, sides))
