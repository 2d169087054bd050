"""The command ``bench``: measures kernels, epochs beside other libraries, and held-out bounds on small tables."""

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..conventions import check_choice, check_number
from .options import Commands, add_command, add_force, add_scheduler, connected
from .outputs import check_overwriting, save_figure

if TYPE_CHECKING:  # matplotlib is imported only where something is drawn
    from matplotlib.figure import Figure

#: What is measured, and the backends on which it can be. `npvae.plots` has a function of the same name that draws it.
PARTS = {
    "kernels": ("cpu", "cuda"),
    "epochs": ("cpu", "cuda"),
    "growth": ("cpu",),
    "scoring": ("cpu",),
    "tables": ("cpu",),
}

#: What is measured by default: "tables" takes hours.
DEFAULT_PARTS = ("kernels", "epochs", "growth", "scoring")

#: Backends that are measured, the default first.
MEASURED = ("cpu", "cuda")


def add_commands(commands: Commands) -> None:
    """Add ``bench``."""
    bench = add_command(
        commands,
        "bench",
        run_bench,
        "measure the kernels, and training beside other libraries that are installed",
        "bench kernels --out benchmark",
    )
    bench.add_argument(
        "parts", nargs="*", metavar="PART", default=DEFAULT_PARTS, help=f"{', '.join(PARTS)}; default: all but tables"
    )
    bench.add_argument("--epochs", type=int, default=7, help="epochs of each contestant (7)")
    bench.add_argument(
        "--out", type=Path, default=Path("benchmark"), help="folder for the tables and the picture (benchmark)"
    )
    bench.add_argument("--tables", nargs="+", metavar="NAME", help="small tables to train on; default: all")
    bench.add_argument("--contestants", nargs="+", metavar="NAME", help="who trains on them; default: all installed")
    bench.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="their seeds (0 1 2 3 4)")
    add_scheduler(bench, "its workers train on small tables")
    add_force(bench)
    bench.add_argument(
        "--data-dir", type=Path, help="folder of MNIST, binarized MNIST and Frey Face; default: generated data"
    )
    bench.add_argument(
        "--backend", choices=MEASURED, default=MEASURED[0], help=f"where all contestants compute ({MEASURED[0]})"
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Measure, print, write tables and draw them; return the exit status."""
    from ..bench import report

    for part in arguments.parts:
        check_choice("PART", part, PARTS)
    check_number("--epochs", arguments.epochs, np.integer, 1)
    backend = arguments.backend
    parts = [part for part in arguments.parts if backend in PARTS[part]]
    if not parts:
        asked, expected = dict.fromkeys(arguments.parts), [part for part in PARTS if backend in PARTS[part]]
        raise ValueError(f"{', '.join(asked)} cannot be measured with {backend!r}; expected {' or '.join(expected)}")
    if "tables" in parts:
        if len(parts) > 1:
            raise ValueError(f"bench measures tables alone; got {', '.join(parts)}")
        return run_tables(arguments)
    if arguments.scheduler is not None:
        raise ValueError(f"--scheduler is for tables alone; got {', '.join(parts)}")
    names = [*(f"{part}.csv" for part in parts), "benchmark.png"]
    check_overwriting([arguments.out / name for name in names], arguments.force)
    folder = arguments.data_dir and str(arguments.data_dir)
    tables = report.run(parts, arguments.out, folder, arguments.epochs, backend)
    save_figure(arguments.out / "benchmark.png", picture(tables))
    print(f"tables and picture: {arguments.out}")
    return 0


def picture(tables: Mapping[str, Sequence[tuple]]) -> "Figure":
    """Draw the tables of the parts below one another. Epochs have a line of panels for three setups."""
    from matplotlib.figure import Figure

    from .. import plots

    lines = dict.fromkeys(tables, 1)
    if "epochs" in tables:
        lines["epochs"] = math.ceil(len({row[0] for row in tables["epochs"][1:]}) / plots.SETUPS_A_LINE)
    figure = Figure(figsize=(10, 3.5 * sum(lines.values())), layout="constrained")
    parts = figure.subfigures(len(tables), squeeze=False, height_ratios=list(lines.values()))[:, 0]
    for place, (part, rows) in zip(parts, tables.items()):
        getattr(plots, part)(rows, figure=place)
    return figure


def run_tables(arguments: argparse.Namespace) -> int:
    """Train on small tables what the file does not have yet, print all of it and draw it; return the exit status."""
    from matplotlib.figure import Figure

    from .. import plots
    from ..bench import densities, small_tables, tables

    chosen = _known("--tables", arguments.tables, small_tables.TABLES, small_tables.TABLES)
    contestants = _known("--contestants", arguments.contestants, densities.CONTESTANTS, densities.available())
    if min(arguments.seeds) < 0:
        raise ValueError(f"--seeds is {min(arguments.seeds)}; expected integers of at least 0")
    path = arguments.out if arguments.out.suffix == ".csv" else arguments.out / "tables.csv"
    picture = path.with_suffix(".png")
    check_overwriting([path, picture], force=True)  # rows are appended, and the picture is drawn again
    missing = [name for name in densities.CONTESTANTS if name not in densities.available()]
    print(f"not installed: {', '.join(missing)}" if missing else "", flush=True)
    with connected(arguments.scheduler) as cluster:
        if cluster is not None:
            cluster.on_each(densities.check_available, contestants)
        if arguments.force:
            path.unlink(missing_ok=True)
        scores = tables.run(chosen, contestants, arguments.seeds, path, map if cluster is None else cluster.map)
    print(tables.table_of_contestants(scores), tables.table_of_scores(scores), sep="\n\n")
    figure = Figure(figsize=(10, 8), layout="constrained")
    plots.tables([tables.Score._fields, *scores], figure=figure)
    save_figure(picture, figure)
    print(f"scores and picture: {path}, {picture}")
    return 0


def _known(option: str, names: Sequence[str] | None, known: Collection[str], usable: Collection[str]) -> list[str]:
    """Return the names given with an option, or by default all that can be used."""
    chosen = list(usable if names is None else names)
    unknown = [name for name in chosen if name not in usable]
    if unknown:
        why = "is not installed" if unknown[0] in known else "is unknown"
        raise ValueError(f"{option}: {unknown[0]!r} {why}; expected {', '.join(usable)}")
    return chosen
