"""Training epochs of all contestants in turn. Each contestant has its own process, which sleeps while others work.

Run as a program, this file is such a process. It reads the contestant and the setup from the first line of its input
and trains for one epoch; each further line says for how many epochs to train. Its answers are the seconds an epoch, the
bound, and the largest memory used so far.
"""

import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .contestants import CONTESTANTS, Setup
from .machine import seconds_of, work_at_peak

#: The training runs that are compared, by title.
SETUPS: dict[str, Setup] = {
    "MNIST, batch 100": Setup(),
    "MNIST, batch 1000": Setup(batch_size=1000),
    "2 x 200 units, 50 latents": Setup(hidden_layer_sizes=(200, 200), n_components=50),
    "Frey Face": Setup(560, (200,), 10, "sigmoid-gaussian", rows=1600),
}

#: The training runs on a GPU, each without and with TF32 for the other libraries.
GPU_SETUPS: dict[str, Setup] = {
    f"{title}{', tf32' if tf32 else ''}": setup._replace(device="cuda", tf32=tf32)
    for title, setup in {
        "MNIST, batch 100": Setup(),
        "MNIST, batch 1000": Setup(batch_size=1000),
        "MNIST, batch 10000": Setup(batch_size=10_000),
        "2 x 2000 units, batch 1000": Setup(hidden_layer_sizes=(2000, 2000), batch_size=1000),
    }.items()
    for tf32 in (False, True)
}

#: Of what a contestant wrote before it ended without an answer, so many characters are shown.
ERROR_LENGTH = 1500

#: Several epochs on small data are timed together, up to so many rows, because waking a process also takes time.
ROWS_AT_A_TIME = 25_000


class Result(NamedTuple):
    """The measurements of one contestant in one run."""

    contestant: str
    seconds: list[float]  # of each epoch
    bound: float  # after the last epoch, in nats
    megabytes: float  # the largest memory used


class Process:
    """The process of a contestant; a context manager that ends it."""

    def __init__(self, name: str, setup: Setup, threads: int):
        count = str(threads)
        variables = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, count)
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name]
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - `end` closes it
        self.process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.name, self.together = name, max(1, ROWS_AT_A_TIME // setup.rows)
        self.answers: list[list[float]] = []  # [seconds an epoch, bound, megabytes]
        self.turn(json.dumps([name, setup]))  # one epoch, which compiles
        self.answers.clear()

    def turn(self, line: str | None = None) -> None:
        """Let the process train for some epochs, and wait for its answer.

        Raises
        ------
        ChildProcessError
            If the process ends without an answer; with the end of what it wrote to its standard error.
        """
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None and answers is not None  # both are pipes
        with contextlib.suppress(BrokenPipeError):  # it has ended: then there is no answer
            questions.write((line or str(self.together)) + "\n")
            questions.flush()
        answer = answers.readline()
        if not answer:
            raise ChildProcessError(
                f"the process of {self.name} ended with status {self.process.wait()} and without an answer; it said: "
                f"{self.end() or '-'}"
            )
        self.answers.append(json.loads(answer))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end()

    def end(self) -> str:
        """Let the process end, and return the end of what it wrote to its standard error."""
        if self.errors.closed:
            return ""
        self.process.communicate()
        with self.errors:
            self.errors.seek(0)
            return self.errors.read().strip()[-ERROR_LENGTH:]


def available() -> list[str]:
    """List the contestants whose libraries are installed."""
    return [name for name, (_, module) in CONTESTANTS.items() if importlib.util.find_spec(module)]


@contextlib.contextmanager
def left_out(name: str, processes: dict[str, Process]) -> Iterator[None]:
    """Print why the process of another library has ended, and remove it; npvae must not end."""
    try:
        yield
    except ChildProcessError as error:
        if name == "npvae":
            raise
        processes.pop(name, None)
        print(f"left out: {error}", flush=True)


def compare(
    setup: Setup, names: Sequence[str], threads: int, epochs: int = 7, peak: float | None = None
) -> list[Result]:
    """Time epochs of all contestants in turn.

    If the process of another library ends without an answer, that is printed, and the comparison goes on without it.

    Parameters
    ----------
    setup : Setup
    names : sequence of str
        Names in ``CONTESTANTS``.
    threads : int
        Threads of each contestant.
    epochs : int
    peak : float, optional
        Operations a second of the device. By default they are measured here, in turn with the contestants.

    Returns
    -------
    list of Result
        The first is the ceiling: the time of the multiplications and additions of the matrix products in registers.
    """
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name in names:
            with left_out(name, processes):
                processes[name] = stack.enter_context(Process(name, setup, threads))
        if not peak:
            work_at_peak(1e6, threads)
        ceiling = []
        for _ in range(epochs):
            measured = setup.flop() / peak if peak else seconds_of(lambda: work_at_peak(setup.flop(), threads))
            ceiling.append(measured)
            for name, process in list(processes.items()):
                with left_out(name, processes):
                    process.turn()
    results = [Result("ceiling", ceiling, float("nan"), float("nan"))]
    for name, process in processes.items():
        seconds, bounds, megabytes = zip(*process.answers)
        results.append(Result(name, list(seconds), bounds[-1], megabytes[-1]))
    return results


def median_epoch(setup: Setup, threads: int, epochs: int) -> float:
    """Return the median seconds of an epoch of npvae."""
    return statistics.median(compare(setup, ["npvae"], threads, epochs)[1].seconds)


def speed_up(setup: Setup, threads: int, epochs: int = 7) -> list[float]:
    """Return the median seconds of an epoch of npvae with one thread and with several, measured in turn."""
    with Process("npvae", setup, 1) as one, Process("npvae", setup, threads) as several:
        for _ in range(epochs):
            one.turn()
            several.turn()
    return [statistics.median(seconds for seconds, *_ in process.answers) for process in (one, several)]


def main() -> None:
    """Run the process of a contestant."""
    name, fields = json.loads(sys.stdin.readline())
    fields[1] = tuple(fields[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print, but not between the answers
    contestant, count = CONTESTANTS[name][0](Setup(*fields)), "1"
    while count:
        started = time.perf_counter()
        bounds = [contestant.epoch() for _ in range(int(count))]
        seconds = time.perf_counter() - started
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds / len(bounds), bounds[-1], megabytes]), file=answers, flush=True)
        count = sys.stdin.readline()


if __name__ == "__main__":
    main()
