"""The command ``reproduce``: trains the models of a figure of the paper, and draws it with the paper's curves."""

import argparse
from pathlib import Path

import numpy as np

from .. import datasets
from ..conventions import check_number
from .options import Commands, add_command, add_data_dir
from .outputs import check_overwriting, save_figure

#: Numbers of training samples that can be asked for, as they are written.
SAMPLES = ("1e6", "1e7", "1e8")

#: What each figure shows.
FIGURES = {
    "fig2": "the lower bound while training, for several numbers of latents",
}


def add_commands(commands: Commands) -> None:
    """Add ``reproduce``."""
    parser = add_command(
        commands,
        "reproduce",
        run_reproduce,
        "reproduce a figure of the paper; the same command goes on with what was stopped",
        "reproduce fig2 --samples 1e6 --only mnist-20-aevb",
    )
    figures = "; ".join(f"{name}: {text}" for name, text in FIGURES.items())
    parser.add_argument("figure", choices=FIGURES, help=figures)
    parser.add_argument("--samples", choices=SAMPLES, default="1e6", help="training samples of each model (1e6)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models alone, such as mnist-20-aevb")
    parser.add_argument("--jobs", type=int, help="models trained at the same time; default: one for each core")
    parser.add_argument("--out", type=Path, help="folder for models, tables and picture (reproduce-FIGURE)")
    add_data_dir(parser)


def run_reproduce(arguments: argparse.Namespace) -> int:
    """Train what is not complete, print the gaps to the paper and draw the figure; return the exit status."""
    from matplotlib.figure import Figure

    from .. import reproduce

    if arguments.jobs is not None:
        check_number("--jobs", arguments.jobs, np.integer, 1)
    chosen = reproduce.choose(arguments.figure, arguments.only)
    data_dir = arguments.data_dir and str(arguments.data_dir)
    for name in dict.fromkeys(curve.dataset for curve in chosen.values()):
        datasets.load(name, data_dir)  # what is missing is named before the work begins
    folder = arguments.out or Path(f"reproduce-{arguments.figure}")
    picture = folder / f"{arguments.figure}.png"
    check_overwriting([*(path for name in chosen for path in reproduce.files(folder, name)), picture], force=True)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [reproduce.Task(name, curve, folder, float(arguments.samples), data_dir) for name, curve in chosen.items()]
    failed = reproduce.run(tasks, arguments.jobs)
    figure = Figure(layout="constrained")
    print(reproduce.draw(arguments.figure, folder, figure))
    save_figure(picture, figure)
    print(f"models, tables and picture: {folder}")
    for name, error in failed.items():
        print(f"{name}: {error}")
    return 1 if failed else 0
