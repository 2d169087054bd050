"""The command ``bench``: measures the kernels, and training epochs beside other libraries."""

import argparse
from pathlib import Path

import numpy as np

from ..conventions import check_choice, check_number
from .options import Commands, add_command, add_force
from .outputs import check_overwriting, save_figure

#: What is measured, and the backends on which it can be. `npvae.plots` has a function of the same name that draws it.
PARTS = {"kernels": ("cpu", "cuda"), "epochs": ("cpu", "cuda"), "growth": ("cpu",)}

#: Backends that are measured, the default first.
MEASURED = ("cpu", "cuda")


def add_commands(commands: Commands) -> None:
    """Add ``bench``."""
    bench = add_command(
        commands,
        "bench",
        run_bench,
        "measure the kernels, and training epochs beside other libraries that are installed",
        "bench kernels --out benchmark",
    )
    bench.add_argument("parts", nargs="*", metavar="PART", default=PARTS, help=f"{', '.join(PARTS)}; default: all")
    bench.add_argument("--epochs", type=int, default=7, help="epochs of each contestant (7)")
    bench.add_argument(
        "--out", type=Path, default=Path("benchmark"), help="folder for the tables and the picture (benchmark)"
    )
    add_force(bench)
    bench.add_argument("--data-dir", type=Path, help="folder of MNIST and Frey Face; default: random pixels")
    bench.add_argument(
        "--backend", choices=MEASURED, default=MEASURED[0], help=f"where all contestants compute ({MEASURED[0]})"
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Measure, print, write tables and draw them; return the exit status."""
    from matplotlib.figure import Figure

    from .. import plots
    from ..bench import report

    for part in arguments.parts:
        check_choice("PART", part, PARTS)
    check_number("--epochs", arguments.epochs, np.integer, 1)
    backend = arguments.backend
    parts = [part for part in arguments.parts if backend in PARTS[part]]
    if not parts:
        asked, expected = dict.fromkeys(arguments.parts), [part for part in PARTS if backend in PARTS[part]]
        raise ValueError(f"{', '.join(asked)} cannot be measured with {backend!r}; expected {' or '.join(expected)}")
    names = [*(f"{part}.csv" for part in parts), "benchmark.png"]
    check_overwriting([arguments.out / name for name in names], arguments.force)
    folder = arguments.data_dir and str(arguments.data_dir)
    tables = report.run(parts, arguments.out, folder, arguments.epochs, backend)
    figure = Figure(figsize=(10, 4 * len(tables)), layout="constrained")
    for figure_part, (part, rows) in zip(figure.subfigures(len(tables), squeeze=False)[:, 0], tables.items()):
        getattr(plots, part)(rows, figure=figure_part)
    save_figure(arguments.out / "benchmark.png", figure)
    print(f"tables and picture: {arguments.out}")
    return 0
