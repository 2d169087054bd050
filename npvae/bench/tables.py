"""Density models on small tables: trained with several seeds, scored in nats a held-out row.

The results are rows of a CSV file, written one by one. A file that has some of them already is continued.
"""

import csv
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import densities, small_tables
from .densities import CONTESTANTS
from .small_tables import TABLES, Floats

#: The name under which the score of the density that the rows were drawn from stands beside the contestants.
TRUTH = "true-density"


class Score(NamedTuple):
    """A row of the file."""

    table: str
    contestant: str
    seed: int
    nats: float  # mean over the held-out rows
    seconds: float  # of training


class Task(NamedTuple):
    """A row of the file that is not there yet."""

    table: str
    contestant: str
    seed: int


#: Yields the result of a function for each task, in some order, as `map` does.
Each = Callable[[Callable[[Task], Score], Iterable[Task]], Iterable[Score]]


def run(
    tables: Iterable[str], contestants: Sequence[str], seeds: Iterable[int], path: Path, each: Each = map
) -> list[Score]:
    """Train and score what the file does not have yet, and append it.

    Parameters
    ----------
    tables : names in ``small_tables.TABLES``
    contestants : names in ``densities.CONTESTANTS``; those that have no density for a table are left out there
    seeds : seeds of the contestants; the rows of the tables are always the same
    path : Path, of the CSV file
    each : callable
        Who does the tasks: one after the other here, or `Cluster.map`. The file is always written here.

    Returns
    -------
    list of Score
        All that the file has now.
    """
    scores = read(path) if path.exists() else []
    write(path, scores)  # without a last line that was cut off
    done = {score[:3] for score in scores}
    tasks = [task for task in _tasks(tables, contestants, seeds) if task not in done]
    with open(path, "a", newline="", encoding="utf-8") as file:
        for score in each(train, tasks):
            scores.append(score)
            csv.writer(file).writerow(score)
            file.flush()
            print(f"{', '.join(score[:2])}, seed {score.seed}: {score.nats} nats, {score.seconds} s", flush=True)
    return scores


def _tasks(tables: Iterable[str], contestants: Sequence[str], seeds: Iterable[int]) -> Iterator[Task]:
    """Yield what belongs into the file: the true density of a table once, and each contestant with each seed."""
    for seed, table in itertools.product(seeds, tables):
        if seed == 0 and small_tables.load(table).log_prob is not None:
            yield Task(table, TRUTH, 0)
        for name in contestants:
            if TABLES[table].kind in CONTESTANTS[name].kinds:
                yield Task(table, name, seed)


def train(task: Task) -> Score:
    """Train a contestant on a table, and score the held-out rows."""
    split, kind = small_tables.load(task.table), TABLES[task.table].kind
    if task.contestant == TRUTH and split.log_prob is not None:
        return _score(task, split.log_prob(split.test), 0.0)
    densities.warm_up(kind)
    rows = densities.Rows(split.train, split.binary, kind)
    started = time.perf_counter()
    try:
        log_prob = CONTESTANTS[task.contestant].train(rows, task.seed)
    except FloatingPointError:  # training diverged
        return _score(task, [-math.inf], time.perf_counter() - started)
    return _score(task, log_prob(split.test), time.perf_counter() - started)


def _score(task: Task, log_prob: Floats | list[float], seconds: float) -> Score:
    return Score(*task, round(float(np.mean(log_prob)), 3), round(seconds, 2))


def write(path: Path, scores: Iterable[Score]) -> None:
    """Write a file of scores; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Score._fields, *scores])


def read(path: Path) -> list[Score]:
    """Read the scores of a file. A last line that was cut off is left out.

    Raises
    ------
    ValueError
        If the file has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        text = file.read()
    header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines() or [""])
    if tuple(header) != Score._fields:
        raise ValueError(f"{path} has the columns {','.join(header)}; expected {','.join(Score._fields)}")
    return [Score(table, name, int(seed), float(nats), float(seconds)) for table, name, seed, nats, seconds in rows]


def medians(scores: Sequence[Score]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the median and the worst score over the seeds, by table and contestant, in the order of the tables."""
    found: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        found.setdefault(score.table, {}).setdefault(score.contestant, []).append(score.nats)
    return {
        table: {name: (statistics.median(values), min(values)) for name, values in found[table].items()}
        for table in TABLES
        if table in found
    }


def gaps(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Return how far each median is below the best contestant's, by table and contestant."""
    found = {}
    for table, results in medians(scores).items():
        of_contestants = {name: median for name, (median, _) in results.items() if name != TRUTH}
        best = max(of_contestants.values(), default=np.nan)
        found[table] = {name: best - median for name, median in of_contestants.items()}
    return found


def table_of_contestants(scores: Sequence[Score]) -> str:
    """Return what each contestant is, how far it is below the best one and how long it trains, as Markdown."""
    return _markdown(*_contestants(scores))


def table_of_scores(scores: Sequence[Score]) -> str:
    """Return the median score of each contestant on each table, with the worst if it differs, as Markdown."""
    return _markdown(*_results(scores))


def _markdown(header, *rows):
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _contestants(scores):
    yield "contestant", "", "median gap", "largest gap", "median s", "longest s"
    below = gaps(scores)
    for name, contestant in CONTESTANTS.items():
        seconds = [score.seconds for score in scores if score.contestant == name]
        if not seconds:
            continue
        gap = {table: results[name] for table, results in below.items() if name in results}
        worst = max(gap, key=lambda table: gap[table])
        yield (
            name, contestant.about, f"{statistics.median(gap.values()):.2f}", f"{gap[worst]:.2f} ({worst})",
            f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}",
        )  # fmt: skip


def _results(scores):
    names = [TRUTH, *CONTESTANTS]
    names = [name for name in names if any(score.contestant == name for score in scores)]
    yield "table", "half", "rows", "columns", *names
    below = gaps(scores)
    for table, results in medians(scores).items():
        split, cells = small_tables.load(table), []
        for name in names:
            median, worst = (f"{nats:.2f}" for nats in results[name]) if name in results else ("", "")
            cell = median if worst == median else f"{median} ({worst})"
            cells.append(f"**{cell}**" if below[table].get(name) == 0 else cell)
        rows = str(len(split.train) + len(split.test))
        yield table, TABLES[table].half, rows, str(split.train.shape[1]), *cells
