"""The command ``reproduce``: trains the models of a figure of the paper, and draws it with the paper's curves."""

import argparse
from pathlib import Path

import numpy as np

from .. import datasets
from ..backends import BACKENDS, missing
from ..conventions import check_number
from ..reproduce.figures import FIGURES, choose
from ..reproduce.runner import Task, run
from .options import Commands, add_command, add_data_dir, add_scheduler, connected
from .outputs import check_overwriting, save_figure

#: Numbers of training samples that can be asked for, as they are written.
SAMPLES = ("1e6", "1e7", "1e8")


def add_commands(commands: Commands) -> None:
    """Add ``reproduce``."""
    parser = add_command(
        commands,
        "reproduce",
        run_reproduce,
        "reproduce a figure of the paper; the same command goes on with what was stopped or is to have more samples",
        "reproduce fig2 --samples 1e6 --only mnist-20-aevb frey-10-aevb",
    )
    about = "; ".join(f"{name}: {figure.about}" for name, figure in FIGURES.items())
    parser.add_argument("figure", choices=FIGURES, help=about)
    parser.add_argument("--samples", choices=SAMPLES, default="1e6", help="training samples of each model (1e6)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models alone, such as mnist-20-aevb")
    parser.add_argument("--jobs", type=int, help="models trained at the same time; default: one for each core")
    parser.add_argument("--backend", choices=BACKENDS, help="where they are computed (cpu)")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of models, tables and pictures; figures may share one (reproduce-FIGURE)",
    )
    add_scheduler(parser, "its workers train, in place of processes of this machine; they share the folder --out")
    add_data_dir(parser)


def run_reproduce(arguments: argparse.Namespace) -> int:
    """Train what is not complete, draw the figure and print how far it is from the paper's; return the exit status."""
    if arguments.jobs is not None:
        check_number("--jobs", arguments.jobs, np.integer, 1)
        if arguments.scheduler is not None:
            raise ValueError("--jobs is for processes of this machine; with --scheduler expected no --jobs")
    if arguments.backend and (lacking := missing(arguments.backend)):
        raise RuntimeError(f"--backend is {arguments.backend}, but {lacking}")
    folder = arguments.out or Path(f"reproduce-{arguments.figure}")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {folder} is a file; expected a folder")
    tasks, picture = tasks_of(arguments, folder), folder / f"{arguments.figure}.png"
    check_overwriting([*(path for task in tasks for path in task.files()), picture], force=True)
    with connected(arguments.scheduler) as cluster:
        folder.mkdir(parents=True, exist_ok=True)
        failed = run(tasks, arguments.jobs, cluster)
    check_overwriting([picture], force=True)  # the training took long: another file may be there by now
    from matplotlib.figure import Figure

    from ..reproduce.drawing import draw

    figure = Figure(layout="constrained")
    print(draw(arguments.figure, folder, figure), end="")
    save_figure(picture, figure)
    print(f"models, tables and picture: {folder}")
    for name, error in failed.items():
        print(f"{name}: {error}")
    return 1 if failed else 0


def tasks_of(arguments: argparse.Namespace, folder: Path) -> list[Task]:
    """Return what is to be trained. The data sets are loaded, so that a missing one is named before the work begins."""
    data_dir = arguments.data_dir and str(arguments.data_dir)
    chosen = choose(arguments.figure, arguments.only)
    names = dict.fromkeys(curve.dataset for curve in chosen.values())
    rows = {name: len(datasets.load(name, data_dir).X_train) for name in names}
    return [
        Task(
            name,
            curve,
            folder,
            float(arguments.samples),
            curve.n_rows or rows[curve.dataset],
            data_dir,
            arguments.backend,
        )
        for name, curve in chosen.items()
    ]
