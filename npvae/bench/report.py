"""The benchmarks as tables: measured, printed as Markdown, and written to CSV files."""

import csv
import math
import statistics
from collections.abc import Collection
from pathlib import Path

from .. import backends
from ..backends import runtime
from . import epochs, kernels, machine
from .contestants import Setup

#: Numbers of rows and of hidden units with which an epoch is measured. Its time should be proportional to the rows.
ROWS = (1_000, 5_000, 20_000, 100_000, 500_000)
UNITS = (100, 200, 500, 1000, 2000)


def run(
    parts: Collection[str], folder: Path, data_dir: str | None = None, n_epochs: int = 7, backend: str = "cpu"
) -> dict[str, list[tuple]]:
    """Measure some parts, print their tables, and write them to CSV files in a folder.

    Parameters
    ----------
    parts : collection of {"kernels", "epochs", "growth"}
    folder : Path
    data_dir : str, optional
        Folder of MNIST and Frey Face; without it, random pixels, which take the same time.
    n_epochs : int
        Epochs of each contestant.
    backend : {"cpu", "cuda"}
        Where all contestants compute. "growth" is always measured on "cpu".

    Returns
    -------
    dict of str to list of tuple
        Rows of the table of each part; the first row has the names of the columns.
    """
    threads = runtime.threads()
    print(machine.describe())
    if backend == "cuda":
        backends.get(backend)
        from . import gpu

        print(gpu.describe())
    missing = [name for name in epochs.CONTESTANTS if name not in epochs.available()]
    print(f"left out, not installed: {', '.join(missing)}" if missing and "epochs" in parts else "", flush=True)
    measure = {
        "kernels": lambda: _kernels(gpu.table(gpu.ceilings()) if backend == "cuda" else kernels.table(threads)),
        "epochs": lambda: _epochs(
            threads, data_dir, n_epochs, gpu.ceilings()["GFLOP/s"] if backend == "cuda" else None
        ),
        "growth": lambda: _growth(threads, n_epochs),
    }
    tables: dict[str, list[tuple]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        tables[part] = rows = list(_printed(measure[part]()))
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return tables


def _printed(rows):
    for number, row in enumerate(rows):
        print("| " + " | ".join(map(str, row)) + " |" + ("\n|" + "---|" * len(row) if number == 0 else ""), flush=True)
        yield row
    print()


def _kernels(table):
    yield "kernel", "unit", "npvae", "ceiling", "NumPy", "npvae / ceiling"
    for row in table:
        yield (*row[:2], *(f"{rate:.3g}" for rate in row[2:]), f"{row.rate / row.ceiling:.0%}")


def _epochs(threads, data_dir, n_epochs, gpu_peak=None):
    yield "setup", "contestant", "median s", "shortest s", "longest s", "npvae / this", "of the ceiling", "MB", "bound"
    names = [name for name in epochs.available() if gpu_peak is None or name != "NumPy"]
    peak = None if gpu_peak is None else 1e9 * gpu_peak
    for title, setup in (epochs.SETUPS if gpu_peak is None else epochs.GPU_SETUPS).items():
        results = epochs.compare(setup._replace(data_dir=data_dir), names, threads, n_epochs, peak)
        medians = {result.contestant: statistics.median(result.seconds) for result in results}
        for result in results:
            median, known = medians[result.contestant], not math.isnan(result.bound)
            yield (
                title, result.contestant, f"{median:.3f}", f"{min(result.seconds):.3f}", f"{max(result.seconds):.3f}",
                f"{medians['npvae'] / median:.2f}", f"{medians['ceiling'] / median:.0%}",
                f"{result.megabytes:.0f}" if known else "", f"{result.bound:.1f}" if known else "",
            )  # fmt: skip


def _growth(threads, n_epochs):
    yield "what grows", "size", "median s an epoch"
    for rows in ROWS:
        yield "rows", rows, f"{epochs.median_epoch(Setup(rows=rows), threads, n_epochs):.4f}"
    for units in UNITS:
        setup = Setup(rows=10_000, hidden_layer_sizes=(units,))
        yield "hidden units, 10000 rows", units, f"{epochs.median_epoch(setup, threads, n_epochs):.4f}"
    for count, seconds in zip((1, threads), epochs.speed_up(Setup(rows=10_000), threads, 3 * n_epochs)):
        yield "threads, 10000 rows", count, f"{seconds:.4f}"
