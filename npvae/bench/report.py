"""The benchmarks as tables: measured, printed as Markdown, and written to CSV files."""

import csv
import math
import statistics
from collections.abc import Collection
from pathlib import Path

from .. import backends
from ..backends import runtime
from . import epochs, kernels, machine, scoring
from .contestants import Setup

#: Numbers of rows and of hidden units with which an epoch is measured. Its time should be proportional to the rows, and
#: its memory should be that of the data and a constant.
ROWS = (1_000, 5_000, 20_000, 60_000, 100_000, 500_000)
UNITS = (100, 200, 500, 1000, 2000)


def run(
    parts: Collection[str], folder: Path, data_dir: str | None = None, n_epochs: int = 7, backend: str = "cpu"
) -> dict[str, list[tuple]]:
    """Measure some parts, print their tables, and write them to CSV files in a folder.

    Parameters
    ----------
    parts : collection of {"kernels", "epochs", "growth", "scoring"}
    folder : Path
    data_dir : str, optional
        Folder of MNIST, binarized MNIST and Frey Face; without it, generated digits and random pixels.
    n_epochs : int
        Epochs of each contestant.
    backend : {"cpu", "cuda"}
        Where all contestants compute. "growth" and "scoring" are always measured on "cpu".

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
        "growth": lambda: _growth(threads, data_dir, n_epochs),
        "scoring": lambda: scoring.lines(scoring.table(Setup(data_dir=data_dir), threads)),
    }
    tables: dict[str, list[tuple]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        tables[part] = []
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            for row in measure[part]():
                rule = "" if tables[part] else "\n|" + "---|" * len(row)
                print("| " + " | ".join(map(str, row)) + " |" + rule, flush=True)
                csv.writer(file).writerow(row)
                file.flush()  # what is measured is not lost where a later row fails
                tables[part].append(row)
        print()
    return tables


def _kernels(table):
    yield "kernel", "unit", "npvae", "ceiling", "NumPy", "npvae / ceiling"
    for row in table:
        yield (*row[:2], *(f"{rate:.3g}" for rate in row[2:]), f"{row.rate / row.ceiling:.0%}")


def _epochs(threads, data_dir, n_epochs, gpu_peak=None):
    yield "setup", "contestant", "median s", "shortest s", "longest s", "npvae / this", "of the ceiling", "MB", "bound"
    names = [name for name in epochs.available() if gpu_peak is None or name != "NumPy"]
    setups = epochs.SETUPS | epochs.SETUPS_OF_BITS if gpu_peak is None else epochs.GPU_SETUPS
    peak = None if gpu_peak is None else 1e9 * gpu_peak
    for title, setup in setups.items():
        results = epochs.compare(setup._replace(data_dir=data_dir), names, threads, n_epochs, peak)
        medians = {result.contestant: statistics.median(result.seconds) for result in results}
        for result in results:
            median, known = medians[result.contestant], not math.isnan(result.bound)
            yield (
                title, result.contestant, f"{median:.3f}", f"{min(result.seconds):.3f}", f"{max(result.seconds):.3f}",
                f"{medians['npvae'] / median:.2f}", f"{medians['ceiling'] / median:.0%}",
                f"{result.megabytes:.0f}" if known else "", f"{result.bound:.1f}" if known else "",
            )  # fmt: skip


def _growth(threads, data_dir, n_epochs):
    yield "what grows", "size", "median s an epoch", "MB", "MB beyond the data"

    def row(what, size, setup, result):
        megabytes, data = result.megabytes, setup.rows * setup.n_features / 2**20
        return what, size, f"{statistics.median(result.seconds):.4f}", f"{megabytes:.0f}", f"{megabytes - data:.0f}"

    setup = Setup(data_dir=data_dir)
    for rows in ROWS:
        larger = setup._replace(rows=rows)
        yield row("rows", rows, larger, *epochs.alone(larger, [threads], n_epochs))
    setup = setup._replace(rows=10_000)
    for units in UNITS:
        wider = setup._replace(hidden_layer_sizes=(units,))
        yield row("hidden units, 10000 rows", units, wider, *epochs.alone(wider, [threads], n_epochs))
    counts = sorted({1, threads})
    for count, result in zip(counts, epochs.alone(setup, counts, 3 * n_epochs)):
        yield row("threads, 10000 rows", count, setup, result)
