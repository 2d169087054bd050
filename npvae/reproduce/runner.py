"""Train the models of a figure, several at once, each from where it was left. The table of them is in `figures`.

Each model has two files: the model with the state of its training, written once a minute, and the table of its curve.
What is complete is not trained again; everything else continues from its model file. The models of a curve that is
scored afterwards are in a folder of their own, by the number of training samples.
"""

import contextlib
import csv
import itertools
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .. import datasets
from ..cluster import Cluster, check_stopped, say
from ..progress import describe, duration
from ..training import INTERRUPTED, Epoch
from ..vae import VAE, load
from .figures import Curve

#: The logarithm of the number of training samples where curves begin.
FIRST = 5

#: Seconds between two model files, and between two lines about a training.
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


#: The columns of the table of a curve.
COLUMNS = ("samples", "nats_train", "nats_test")


class Task(NamedTuple):
    """A model that is to be trained on so many samples, with all that a process needs for it.

    Examples
    --------
    >>> from npvae.reproduce.figures import FIGURES
    >>> task = Task("mnist-20-aevb", FIGURES["fig2"].curves["mnist-20-aevb"], Path("figures"), 1e6, 50000)
    >>> task.table.name, task.epochs(), task.marks()
    ('mnist-20-aevb.csv', 20, [2, 3, 4, 5, 6, 8, 10, 13, 16, 20])
    """

    name: str
    curve: Curve
    folder: Path
    n_samples: float
    n_rows: int  # of the training data
    data_dir: str | None = None
    backend: str | None = None  # in place of that of the curve

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `VAE`."""
        return self.curve.settings | ({} if self.backend is None else {"backend": self.backend})

    @property
    def path(self) -> Path:
        """The model file."""
        return self.folder / f"{self.name}.npz"

    @property
    def table(self) -> Path:
        """The table of the curve."""
        return self.folder / f"{self.name}.csv"

    def snapshot(self, epoch: int) -> Path:
        """Return the file of the model after an epoch, if its curve is scored afterwards."""
        return self.folder / self.name / f"{epoch * self.n_rows}.npz"

    def files(self) -> list[Path]:
        """Return all files that the task may write."""
        snapshots = [self.snapshot(epoch) for epoch in self.marks()] if self.curve.score else []
        return [self.path, self.table, *snapshots]

    def absolute(self) -> "Task":
        """Return the same task with paths that do not depend on the working folder."""
        data_dir = self.data_dir and os.path.abspath(self.data_dir)
        return self._replace(folder=self.folder.absolute(), data_dir=data_dir)

    def epochs(self, samples: float | None = None) -> int:
        """Return the number of epochs that is nearest to a number of samples, by default all of them; at least 1."""
        return max(1, round((samples or self.n_samples) / self.n_rows))

    def marks(self) -> list[int]:
        """Return the epochs after which the curve has its points: equally spaced logarithms of the samples."""
        powers = (10 ** (power / self.curve.per_decade) for power in itertools.count(FIRST * self.curve.per_decade))
        inside = itertools.takewhile(lambda samples: self.epochs(samples) < self.epochs(), powers)
        return sorted({*map(self.epochs, inside), self.epochs()})

    def is_complete(self) -> bool:
        """Return whether the curve has all of its points."""
        return {epoch * self.n_rows for epoch in self.marks()} <= {point.samples for point in read(self.table)}

    def model(self) -> VAE:
        """Return the model from its file.

        Raises
        ------
        ValueError
            If the file has another model.
        """
        model, settings = load(self.path), self.settings
        model.set_params(backend=settings["backend"])  # where a model is computed may change
        found = model.get_params()
        other = [repr(name) for name, value in settings.items() if found[name] != value]
        if model.notes_.get("curve") != self.name or other:
            what = f"with another {', '.join(other)}" if other else "of something else"
            raise ValueError(f"{self.path} is a model {what}; move it, or choose another --out")
        return model


# Tables of curves -----------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Point]:
    """Read the table of a curve; without the file it has no points.

    Raises
    ------
    ValueError
        If the file is not such a table.

    Examples
    --------
    >>> read(Path("missing.csv"))
    []
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    try:
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {','.join(header)}; expected {','.join(COLUMNS)}")
        return [Point(int(samples), float(train), float(test)) for samples, train, test in rows]
    except ValueError as error:
        raise ValueError(f"{path} is not the table of a curve: {error}") from None


def write(path: Path, points: Iterable[Point]) -> None:
    """Write the table of a curve. An existing file is replaced only once the new one is complete.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "curve.csv"), [Point(1000, -120.0, -121.0)])
    ...     read(Path(folder, "curve.csv"))
    [Point(samples=1000, train=-120.0, test=-121.0)]
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((point.samples, f"{point.train:.4f}", f"{point.test:.4f}") for point in points)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# One model ------------------------------------------------------------------------------------------------------------


def train(task: Task) -> tuple[str, str]:
    """Train a model, from its file if it has one, and write its files; return its name, and why it failed or "".

    Raises
    ------
    ValueError
        If the model file is that of something else.
    KeyboardInterrupt
        After Ctrl-C, once the files are written.
    """
    dataset = datasets.load(task.curve.dataset, task.data_dir)
    X, X_test = dataset.X_train[: task.n_rows], dataset.X_test
    try:
        _train(task, X, X_test)
        if task.curve.score:
            _score(task, task.curve.score, X, X_test)
    except FloatingPointError as error:
        return task.name, str(error)
    return task.name, ""


def _train(task: Task, X: NDArray, X_test: NDArray) -> None:
    """Train a model on X. Without a score of its own, the curve is recorded: the lower bounds on X and X_test."""
    fresh = not task.path.exists()
    model = VAE(**task.settings) if fresh else task.model()
    done = 0 if fresh else model.training_.progress.epoch - 1
    noted = [] if fresh else map(Point._make, model.notes_["points"])
    points = [point for point in noted if point.samples <= done * len(X)]
    due, show = set(task.marks()), Progress(task, done)

    def after_epoch(epoch: Epoch) -> None:
        check_stopped()
        mark = epoch.epoch in due and epoch.samples_seen == epoch.epoch * len(X)  # not of a part of an epoch
        if mark and task.curve.score:
            model.save(task.snapshot(epoch.epoch), {"curve": task.name, "points": []})
        elif mark:
            points.append(Point(epoch.samples_seen, epoch.elbo, model.score(X_test)))
        show(epoch, points if mark else [])

    def save(model: VAE) -> None:
        model.save(task.path, {"curve": task.name, "points": points})
        if not task.curve.score:
            write(task.table, points)

    if task.curve.score:
        task.snapshot(1).parent.mkdir(exist_ok=True)
    model.set_params(max_epochs=task.epochs(), callbacks=(after_epoch,))
    try:
        (model.fit if fresh else model.resume)(X, checkpoint=save, checkpoint_every=EVERY)
    except FloatingPointError:
        save(model)
        raise
    if model.stopped_ and model.stopped_.startswith(INTERRUPTED):
        raise KeyboardInterrupt


def _score(task: Task, score: Callable[[VAE, NDArray], float], X: NDArray, X_test: NDArray) -> None:
    """Score the models of a curve that have none yet, and write the table after each."""
    points = {point.samples: point for point in read(task.table)}
    for epoch in task.marks():
        check_stopped()
        samples = epoch * task.n_rows
        if samples not in points:
            model = load(task.snapshot(epoch))
            points[samples] = point = Point(samples, score(model, X), score(model, X_test))
            say(f"{task.name}: {samples:.3g} samples, log p(x) {point.train:.1f} nats, test {point.test:.1f}")
            write(task.table, sorted(points.values()))


class Progress:
    """Says on standard error how far a training is: at each point of its curve, and once a minute."""

    def __init__(self, task: Task, done: int) -> None:
        self.task, self.done, self.started = task, done, time.monotonic()
        self.said = self.started

    def __call__(self, epoch: Epoch, points: Sequence[Point]) -> None:
        """Tell of an epoch that has ended, and has added the last of these points, if there are any."""
        if points or time.monotonic() >= self.said + EVERY:
            self.said, last = time.monotonic(), self.task.epochs()
            left = (last - epoch.epoch) * (self.said - self.started) / (epoch.epoch - self.done)
            total = f"{epoch.samples_seen:.3g} of {last * self.task.n_rows:.3g} samples"
            test = f", test {points[-1].test:.1f}" if points else ""
            say(f"{self.task.name}: {total}, {describe(epoch)}{test}, {duration(left)} left")


# Several at once ------------------------------------------------------------------------------------------------------


def run(tasks: Iterable[Task], jobs: int | None = None, cluster: Cluster | None = None) -> dict[str, str]:
    """Train what is not complete, several models at once.

    Parameters
    ----------
    tasks : Tasks
    jobs : int, optional
        Processes at the same time; by default one for each core. They share the cores, or each has NUMBA_NUM_THREADS
        threads if that is set.
    cluster : Cluster, optional
        Its workers train instead of processes of this machine. They share the folder with it.

    Returns
    -------
    dict of str to str
        Why a training diverged, by the name of the model. The others were trained to the end.

    Raises
    ------
    ValueError
        Before anything is trained, if a file is that of another model.
    RuntimeError
        Before anything is trained, if a worker of the cluster does not find the folder or the data.
    """
    tasks = [task for task in tasks if not task.is_complete()]
    for task in tasks:
        if task.path.exists():
            task.model()
    outcomes = _here(tasks, jobs) if cluster is None else _on(cluster, tasks)
    return {name: error for name, error in outcomes if error}


def _here(tasks: Sequence[Task], jobs: int | None) -> Iterator[tuple[str, str]]:
    """Yield what `train` returns for each task, in processes of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, len(tasks))
    threads = int(os.environ.get(THREADS[0], 0)) or max(1, cores // max(1, jobs))
    return in_processes(train, tasks, jobs, threads)


def in_processes(function: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, threads: int) -> Iterator[Any]:
    """Yield the result of a function for each task as soon as it is there.

    A single job runs in this process. No process is given a task before it can begin with it, so that Ctrl-C begins
    none.

    Parameters
    ----------
    function : function of a module
    tasks : iterable, of its arguments
    jobs : int, processes at the same time
    threads : int, threads of each process

    Examples
    --------
    >>> list(in_processes(abs, [-1, -2], jobs=1, threads=1))
    [1, 2]
    """
    if jobs <= 1:
        yield from map(function, tasks)
        return
    try:
        import joblib
    except ImportError:
        yield from _in_a_pool(function, iter(tasks), jobs, threads)
    else:
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            parallel = joblib.Parallel(jobs, pre_dispatch=jobs, batch_size=1, return_as="generator_unordered")
            yield from parallel(joblib.delayed(function)(task) for task in tasks)


def _in_a_pool(function: Callable[[Any], Any], tasks: Iterator[Any], jobs: int, threads: int) -> Iterator[Any]:
    """Do what `in_processes` does, without joblib."""
    with _threads_of_processes(threads), ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running = {pool.submit(function, task) for task in itertools.islice(tasks, jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(function, task) for task in itertools.islice(tasks, len(done))}
            for future in done:
                yield future.result()


@contextlib.contextmanager
def _threads_of_processes(threads: int) -> Iterator[None]:
    """Have the processes that are started within use so many threads each: Numba reads it when it is imported."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# On other machines ----------------------------------------------------------------------------------------------------


def _on(cluster: Cluster, tasks: Sequence[Task]) -> Iterator[tuple[str, str]]:
    """Yield what `train` returns for each task, on the workers of a cluster.

    They write the files of the tasks, so that another worker can go on with the task of one that died, and read the
    data: all of them are asked first whether they can.
    """
    tasks = [task.absolute() for task in tasks]
    data = {(task.curve.dataset, task.data_dir) for task in tasks}
    with contextlib.ExitStack() as stack:
        marks = [stack.enter_context(_mark(folder)) for folder in {task.folder for task in tasks}]
        cluster.on_each(_look, marks, data)
        yield from cluster.map(partial(_train_there, marks), tasks)


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """Have a file in a folder, by which other machines know it: none has the same name by chance."""
    mark = folder / f".{secrets.token_hex(8)}.part"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _look(marks: Iterable[Path], data: Iterable[tuple[str, str | None]] = ()) -> None:
    """Raise an error where a folder is not the one with the mark, or cannot be written to, or data is missing."""
    for mark in marks:
        if not mark.exists():
            raise FileNotFoundError(
                f"{mark.parent} is not there, or not the folder of this name where the command runs; expected a folder "
                "that all machines share: workers write models and tables to it"
            )
        with tempfile.TemporaryFile(dir=mark.parent):
            pass
    for name, data_dir in data:
        datasets.load(name, data_dir)


def _train_there(marks: Iterable[Path], task: Task) -> tuple[str, str]:
    """Train on a worker, which may have joined after all others were asked."""
    _look(marks)
    return train(task)
