"""Density models on small tables: trained with several seeds, scored in nats a held-out row.

The results are rows of a CSV file, written one by one. A file that has some of them already is continued.
"""

import csv
import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import densities, small_tables
from .densities import CONTESTANTS
from .small_tables import TABLES

#: The name under which the score of the density that the rows were drawn from stands beside the contestants.
TRUTH = "true-density"


class Score(NamedTuple):
    """A row of the file."""

    table: str
    contestant: str
    seed: int
    nats: float  # mean over the held-out rows
    seconds: float  # of training


def run(tables: Iterable[str], contestants: Sequence[str], seeds: Iterable[int], path: Path) -> list[Score]:
    """Train and score what the file does not have yet, and append it.

    Parameters
    ----------
    tables : names in ``small_tables.TABLES``
    contestants : names in ``densities.CONTESTANTS``; those that have no density for a table are left out there
    seeds : seeds of the contestants; the rows of the tables are always the same
    path : Path, of the CSV file

    Returns
    -------
    list of Score
        All that the file has now.
    """
    scores = read(path) if path.exists() else []
    write(path, scores)  # without a last line that was cut off
    done = {score[:3] for score in scores}
    with open(path, "a", newline="", encoding="utf-8") as file:
        for seed, table in itertools.product(seeds, tables):
            for score in _scores(table, contestants, seed, done):
                scores.append(score)
                csv.writer(file).writerow(score)
                file.flush()
                print(f"{table}, {score.contestant}, seed {seed}: {score.nats} nats, {score.seconds} s", flush=True)
    return scores


def _scores(table, contestants, seed, done):
    """Yield the scores on a table that are not done."""
    kind = TABLES[table].kind
    names = [name for name in contestants if kind in CONTESTANTS[name].kinds and (table, name, seed) not in done]
    split = small_tables.load(table)
    if split.log_prob is not None and (table, TRUTH, 0) not in done and seed == 0:
        yield _score(table, TRUTH, 0, split.log_prob(split.test), 0.0)
    if names:
        densities.warm_up(kind)
    rows = densities.Rows(split.train, split.binary, kind)
    for name in names:
        started = time.perf_counter()
        try:
            log_prob = CONTESTANTS[name].train(rows, seed)
        except FloatingPointError:  # training diverged
            yield _score(table, name, seed, [-np.inf], time.perf_counter() - started)
        else:
            yield _score(table, name, seed, log_prob(split.test), time.perf_counter() - started)


def _score(table, name, seed, log_prob, seconds):
    return Score(table, name, seed, round(float(np.mean(log_prob)), 3), round(seconds, 2))


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
    return _markdown(_contestants(scores))


def table_of_scores(scores: Sequence[Score]) -> str:
    """Return the median score of each contestant on each table, with the worst if it differs, as Markdown."""
    return _markdown(_results(scores))


def _markdown(rows):
    """Return a table in Markdown; the first row is the header."""
    header, *others = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others))


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
