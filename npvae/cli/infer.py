"""Commands that answer row by row, and write a table or a picture: ``encode``, ``impute`` and ``denoise``."""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conditional.uses import METHODS
from ..conventions import column_names
from ..vae import VAE
from .options import Commands, add_command, add_dataset, add_force, add_image_shape, add_model, load_model
from .outputs import check_outputs, check_overwriting, save_picture
from .use import add_split, image_shape_of, load_rows

#: Rows in a picture, and in a line of it.
IN_PICTURE, IN_LINE = 50, 10

Ask = Callable[[Any], NDArray]


def run_encode(arguments: argparse.Namespace) -> int:
    """Write the mean and the standard deviation of q(z|x) of each row; return the exit status."""
    path = _output(arguments, (".csv", ".npy"))
    model = load_model(arguments.model)
    codes = model.encode(load_rows(arguments, model))
    names = [name for code in model.get_feature_names_out() for name in (code, f"{code}_std")]
    _write(path, np.stack(codes, axis=2).reshape(-1, len(names)), names)
    return 0


def run_impute(arguments: argparse.Namespace) -> int:
    """Write the rows with their missing values filled in; return the exit status."""
    named = {"method": arguments.method, "n_draws": arguments.draws}
    return _run(arguments, lambda model, X, given: model.impute(X, **named, **given))


def run_denoise(arguments: argparse.Namespace) -> int:
    """Write the rows without their noise; return the exit status."""
    named = {name: getattr(arguments, name) for name in ("sigma", "salt_and_pepper", "extremes")}
    return _run(arguments, lambda model, X, given: model.denoise(X, n_draws=arguments.draws, **named, **given))


def _run(arguments: argparse.Namespace, ask: Callable[[VAE, Any, dict[str, Any]], NDArray]) -> int:
    path = _output(arguments, (".csv", ".npy", ".png"))
    model = load_model(arguments.model)
    X = load_rows(arguments, model, missing=True)
    model.verbose = True
    given = {"random_state": arguments.seed}
    if arguments.samples is not None:
        given["n_samples"] = arguments.samples
    if path.suffix == ".png":
        _draw(path, X[:IN_PICTURE], lambda rows: ask(model, rows, given), image_shape_of(arguments, model), arguments)
        return 0
    answer, columns = ask(model, X, given), column_names(X)
    names = None if columns is None else list(columns)
    if arguments.draws is not None and path.suffix == ".csv":
        numbers = np.repeat(np.arange(1, len(answer) + 1), len(X))
        answer, names = np.column_stack([numbers, np.concatenate(answer)]), _with_draw(names, X.shape[1])
    _write(path, answer, names)
    return 0


def _with_draw(names: Sequence[str] | None, n_columns: int) -> list[str]:
    """Return the names of the columns of a table of draws, the first of which numbers them."""
    return ["draw", *(names if names is not None else (f"x{i}" for i in range(n_columns)))]


def _output(arguments: argparse.Namespace, suffixes: Sequence[str]) -> Path:
    """Return the file that is to be written, once it is known that it can be."""
    path = arguments.out
    if path.suffix not in suffixes:
        raise ValueError(f"--out is {path}; expected a file that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    check_outputs((path,), arguments.dataset)
    check_overwriting((path,), arguments.force)
    return path


def _write(path: Path, table: NDArray, names: Sequence[str] | None) -> None:
    """Write a table, with the names of its columns if they have some, and print the name of the file."""
    if path.suffix == ".npy":
        np.save(path, np.asarray(table))
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if names is not None:
                writer.writerow(names)
            writer.writerows([str(value).removesuffix(".0") for value in row] for row in table.tolist())
    print(f"table: {path}")


def _draw(path: Path, X: NDArray, ask: Ask, shape: tuple[int, ...], arguments: argparse.Namespace) -> None:
    """Draw rows, each above the answer, or above all draws of it."""
    from .. import plots

    answer = np.asarray(ask(X))
    lines = [np.asarray(X, float), *answer.reshape(-1, *X.shape)]
    n = min(IN_LINE, len(X))
    parts = [line[first : first + n] for first in range(0, len(X) // n * n, n) for line in lines]
    title = f"Each row above what {arguments.command} makes of it"
    save_picture(path, lambda ax: plots.show_images(np.concatenate(parts), shape, n, title, ax=ax))


def add_commands(commands: Commands) -> None:
    """Add ``encode``, ``impute`` and ``denoise``."""
    encode = add_command(
        commands,
        "encode",
        run_encode,
        "write the codes of the rows of a data set: mean and standard deviation of q(z|x)",
        "encode model.npz table.csv --out codes.csv",
    )
    impute = add_command(
        commands,
        "impute",
        run_impute,
        "fill in missing values by their means under the model, given the others",
        "impute model.npz table.csv --out filled.csv",
    )
    denoise = add_command(
        commands,
        "denoise",
        run_denoise,
        "remove noise of a known kind and strength: means under the model, given what is seen",
        "denoise model.npz table.csv --sigma 0.3 --out clean.csv",
    )
    impute.add_argument("--method", choices=METHODS, default="chains", help="conditional means, or a baseline (chains)")
    denoise.add_argument("--sigma", type=float, metavar="S", help="standard deviation of Gaussian noise")
    denoise.add_argument(
        "--salt-and-pepper", type=float, metavar="P", help="probability with which a value became one of two"
    )
    denoise.add_argument(
        "--extremes", type=float, nargs=2, metavar=("LOW", "HIGH"), help="these two; default: the ends of the range"
    )
    for command, outputs in (encode, ".csv or .npy"), (impute, ".csv, .npy or .png"), (denoise, ".csv, .npy or .png"):
        add_model(command)
        add_dataset(command)
        add_split(command)
        command.add_argument("--out", type=Path, required=True, help=f"{outputs} file; a table is never replaced")
        add_force(command)
        command.set_defaults(command=command.prog.split()[-1])
    for command in impute, denoise:
        command.add_argument("--draws", type=int, metavar="N", help="write so many draws in place of means")
        command.add_argument("--samples", type=int, metavar="K", help="samples of z for each row (256)")
        command.add_argument("--seed", type=int, metavar="S", help="seed of the samples; default: that of the model")
        add_image_shape(command)
