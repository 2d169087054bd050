"""Training epochs of all contestants in turn. Each contestant has its own process, which sleeps while others work.

Run as a program, this file is such a process. It reads the contestant and the setup from the first line of its input
and trains for one epoch; each further line says for how many epochs to train. Its answers are the seconds an epoch, the
bound, and the largest memory used so far.
"""

import contextlib
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import sources
from .contestants import CONTESTANTS, Setup

#: The training runs that are compared, by title.
SETUPS: dict[str, Setup] = {
    "MNIST, batch 100": Setup(),
    "MNIST, batch 1000": Setup(batch_size=1000),
    "2 x 200 units, 50 latents": Setup(hidden_layer_sizes=(200, 200), n_components=50),
    "Frey Face": Setup(560, (200,), 10, "sigmoid-gaussian", rows=1600, data="frey"),
}

#: The same for data of 0 and 1 that is mostly 0.
SETUPS_OF_BITS: dict[str, Setup] = {
    "Binarized MNIST, batch 100": Setup(data="binarized-mnist"),
    "Words, 20000 columns": Setup(20_000, (200,), rows=10_000, data="words"),
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

#: Several short epochs are timed together, up to so many rows and operations, because waking a process also takes time.
ROWS_AT_A_TIME, FLOP_AT_A_TIME = 25_000, 1e11


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
        self.name = name
        self.together = max(1, min(ROWS_AT_A_TIME // setup.rows, int(FLOP_AT_A_TIME / setup.flop())))
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

    def result(self) -> Result:
        """Return the measurements of all turns but the first."""
        seconds, bounds, megabytes = zip(*self.answers)
        return Result(self.name, list(seconds), bounds[-1], megabytes[-1])

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
    return [name for name, row in CONTESTANTS.items() if importlib.util.find_spec(row.module)]


@contextlib.contextmanager
def stored(setup: Setup) -> Iterator[Setup]:
    """Write the data of a setup to a file as long as the context is open, and return the setup with its path."""
    with tempfile.TemporaryDirectory() as folder:
        yield setup._replace(path=sources.store(setup.load(), folder))


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
        Names in ``CONTESTANTS``; those that are not for such data are left out.
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
    from .machine import seconds_of, work_at_peak  # not above: the processes of other libraries need no Numba

    form = "sparse" if sources.SOURCES[setup.data].sparse else "dense"
    with contextlib.ExitStack() as stack:
        setup = stack.enter_context(stored(setup))
        processes: dict[str, Process] = {}
        for name in names:
            if name in CONTESTANTS and form not in CONTESTANTS[name].on:
                continue
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
    ceilings = Result("ceiling", ceiling, float("nan"), float("nan"))
    return [ceilings, *(process.result() for process in processes.values())]


def alone(setup: Setup, counts: Sequence[int], epochs: int) -> list[Result]:
    """Time epochs of npvae with each number of threads, in turn."""
    with contextlib.ExitStack() as stack:
        setup = stack.enter_context(stored(setup))
        processes = [stack.enter_context(Process("npvae", setup, count)) for count in counts]
        for _ in range(epochs):
            for process in processes:
                process.turn()
    return [process.result() for process in processes]


def largest_memory() -> float:
    """Return the largest memory that this process has used, in MB of 2^20 bytes.

    `getrusage` is only asked where there is nothing else: on Linux its number is at least the memory of the process
    that has started this one.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Run the process of a contestant."""
    name, fields = json.loads(sys.stdin.readline())
    fields[1] = tuple(fields[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print, but not between the answers
    contestant, count = CONTESTANTS[name].program(Setup(*fields)), "1"
    while count:
        started = time.perf_counter()
        bounds = [contestant.epoch() for _ in range(int(count))]
        seconds = time.perf_counter() - started
        print(json.dumps([seconds / len(bounds), bounds[-1], largest_memory()]), file=answers, flush=True)
        count = sys.stdin.readline()


if __name__ == "__main__":
    main()
