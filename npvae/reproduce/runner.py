"""Train the models of a figure, several at once, each from where it was left. What the figures are is left to `figures`.

Each model has two files in the folder: the model with its state of training, written once a minute, and a table of the
curve. What is complete is not trained again; everything else continues from its model file.
"""

import contextlib
import csv
import itertools
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from .. import datasets
from ..progress import duration
from ..training import INTERRUPTED, Epoch
from ..vae import VAE, load
from .figures import Curve

#: The columns of the table of a curve.
COLUMNS = ("samples", "nats_train", "nats_test")

#: Points of a curve for each power of ten, and the logarithm of the number of samples where they begin.
PER_DECADE, FIRST = 10, 5

#: Seconds between two model files, and between two lines about a curve.
EVERY = 60.0

#: The environment variables that say how many threads a process has.
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Point(NamedTuple):
    """A point of a curve: nats a datapoint, after so many training samples.

    Examples
    --------
    >>> Point(1000000, -116.4, -115.2).test
    -115.2
    """

    samples: int
    train: float
    test: float


class Task(NamedTuple):
    """A model that is to be trained, with all that a process needs for it."""

    name: str
    curve: Curve
    folder: Path
    n_samples: float
    data_dir: str | None


def epochs(n_samples: float, n_rows: int) -> int:
    """Return the number of epochs of so many rows that is nearest to a number of samples; at least 1.

    Examples
    --------
    >>> epochs(1e6, 1600)
    625
    """
    return max(1, round(n_samples / n_rows))


def marks(n_samples: float, n_rows: int) -> list[int]:
    """Return the numbers of epochs after which a curve has its points: equally spaced logarithms of the samples.

    Examples
    --------
    >>> marks(1e6, 50000)
    [2, 3, 4, 5, 6, 8, 10, 13, 16, 20]
    """
    last = epochs(n_samples, n_rows)
    powers = range(FIRST * PER_DECADE, round(math.log10(n_samples) * PER_DECADE) + 1)
    return sorted({min(epochs(10 ** (power / PER_DECADE), n_rows), last) for power in powers} | {last})


def files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the model file and the table of a curve.

    Examples
    --------
    >>> [path.name for path in files(Path("figures"), "mnist-20-aevb")]
    ['mnist-20-aevb.npz', 'mnist-20-aevb.csv']
    """
    return folder / f"{name}.npz", folder / f"{name}.csv"


def read(path: Path) -> list[Point]:
    """Read the table of a curve; without the file it has no points.

    Raises
    ------
    ValueError
        If the file is not such a table.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    try:
        if tuple(header) != COLUMNS:
            raise ValueError(f"the columns are {','.join(header)}; expected {','.join(COLUMNS)}")
        return [Point(int(samples), float(train), float(test)) for samples, train, test in rows]
    except ValueError as error:
        raise ValueError(f"{path} is not the table of a curve: {error}") from None


def write(path: Path, points: Iterable[Point]) -> None:
    """Write the table of a curve. An existing file is replaced only once the new one is complete."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((point.samples, f"{point.train:.4f}", f"{point.test:.4f}") for point in points)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def run(tasks: Iterable[Task], jobs: int | None = None) -> dict[str, str]:
    """Train what is not complete, several models at once.

    Parameters
    ----------
    tasks : Tasks
    jobs : int, optional
        Processes at the same time; by default one for each core. They share the cores.

    Returns
    -------
    dict of str to str
        Why a model could not be trained to the end, by its name: its training diverged.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tasks = list(tasks)
    jobs = min(jobs or cores, len(tasks))
    return {name: error for name, error in _in_processes(train, tasks, jobs, max(1, cores // max(1, jobs))) if error}


def _in_processes(function: Callable, tasks: list[Task], jobs: int, threads: int) -> Iterator:
    """Yield the result of a function for each task, in the order in which they end.

    A single job runs in this process. No process is given a task before it can begin with it: Ctrl-C begins none.
    """
    if jobs <= 1:
        yield from map(function, tasks)
        return
    try:
        import joblib
    except ImportError:
        waiting = iter(tasks)
        with _few_threads(threads), ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            running = {pool.submit(function, task) for task in itertools.islice(waiting, jobs)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(function, task) for task in itertools.islice(waiting, 1)}
    else:
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            parallel = joblib.Parallel(jobs, pre_dispatch=jobs, batch_size=1, return_as="generator_unordered")
            yield from parallel(joblib.delayed(function)(task) for task in tasks)


@contextlib.contextmanager
def _few_threads(threads: int) -> Iterator[None]:
    """Have the processes that are started within use so many threads each: Numba reads it when it is imported."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def train(task: Task) -> tuple[str, str]:
    """Train a model, from its file if it has one, and write its files; return its name and "", or why it failed.

    Raises
    ------
    ValueError
        If the model file is that of something else.
    KeyboardInterrupt
        After Ctrl-C, once the files are written.
    """
    path, table = files(task.folder, task.name)
    dataset = datasets.load(task.curve.dataset, task.data_dir)
    X = dataset.X_train[: task.curve.n_rows]
    last, started = epochs(task.n_samples, len(X)), time.monotonic()
    points = read(table)
    if points and points[-1].samples >= last * len(X):
        return task.name, ""
    model, points, done = VAE(**task.curve.settings), [], 0
    if path.exists():
        model = begun(path, task)
        done = model.training_.progress.epoch - 1
        points = [point for point in map(Point._make, model.notes_["points"]) if point.samples <= done * len(X)]
    due, said = set(marks(task.n_samples, len(X))), time.monotonic()

    def after_epoch(epoch: Epoch) -> None:
        nonlocal said
        whole, bounds = epoch.samples_seen == epoch.epoch * len(X), ""
        if whole and epoch.epoch in due:
            points.append(Point(epoch.samples_seen, epoch.elbo, model.score(dataset.X_test)))
            bounds = f", train {epoch.elbo:.1f}, test {points[-1].test:.1f}"
        if bounds or time.monotonic() > said + EVERY:
            said = time.monotonic()
            left = (last - epoch.epoch) * (said - started) / max(1, epoch.epoch - done)
            say(f"{task.name}: {epoch.samples_seen:.3g} of {last * len(X):.3g} samples{bounds}, {duration(left)} left")

    def save(model: VAE) -> None:
        model.save(path, {"curve": task.name, "points": points})
        write(table, points)

    model.set_params(max_epochs=last, callbacks=(after_epoch,))
    training = model.resume if path.exists() else model.fit
    try:
        training(X, checkpoint=save, checkpoint_every=EVERY)
    except FloatingPointError as error:
        save(model)
        return task.name, str(error)
    if model.stopped_ and model.stopped_.startswith(INTERRUPTED):
        raise KeyboardInterrupt
    return task.name, ""


def begun(path: Path, task: Task) -> VAE:
    """Return the model whose training has begun.

    Raises
    ------
    ValueError
        If the model is another one than that of the task.
    """
    model = load(path)
    settings = model.get_params()
    found = [f"{name} {settings[name]!r}" for name, value in task.curve.settings.items() if settings[name] != value]
    if model.notes_.get("curve") != task.name or found:
        what = f"has {', '.join(found)}" if found else "is another model"
        raise ValueError(f"{path} {what}; expected the model {task.name} of this command. Move it, or choose another --out")
    return model


def say(message: str) -> None:
    """Print a line on standard error at once, whole: several processes write there."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
