"""Training epochs of all contestants in turn, each contestant in a process of its own that sleeps meanwhile.

Run as a program it is such a process: it reads its contestant and setup from the first line and runs an epoch, and then
as many as each further line says, answering with the seconds an epoch, the bound and the most memory it has held.
"""

import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
from typing import NamedTuple

from .contestants import CONTESTANTS, Setup
from .machine import seconds_of, work_at_peak

#: The training runs that are compared.
SETUPS = {
    "MNIST, batch 100": Setup(),
    "MNIST, batch 1000": Setup(batch_size=1000),
    "2 x 200 units, 50 latents": Setup(hidden_layer_sizes=(200, 200), n_components=50),
    "Frey Face": Setup(560, (200,), 10, "sigmoid-gaussian", rows=1600),
}


#: Those on a GPU, each without and with tf32 for the others.
GPU_SETUPS = {
    f"{title}{', tf32' if tf32 else ''}": setup._replace(device="cuda", tf32=tf32)
    for title, setup in {
        "MNIST, batch 100": Setup(),
        "MNIST, batch 1000": Setup(batch_size=1000),
        "MNIST, batch 10000": Setup(batch_size=10_000),
        "2 x 2000 units, batch 1000": Setup(hidden_layer_sizes=(2000, 2000), batch_size=1000),
    }.items()
    for tf32 in (False, True)
}

#: Of small data several epochs are run at a time, until so many rows were seen: waking up takes time, too.
ROWS_AT_A_TIME = 25_000


class Result(NamedTuple):
    """What one contestant did in one run."""

    contestant: str
    seconds: list  # of each epoch
    bound: float  # after the last, in nats
    megabytes: float  # the most memory held


class Process:
    """A contestant at work."""

    def __init__(self, name, setup, threads):
        count = str(threads)
        variables = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, count)
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.name, self.answers, self.together = name, [], max(1, ROWS_AT_A_TIME // setup.rows)
        self.turn(json.dumps([name, setup]))  # one epoch, which compiles
        self.answers.clear()

    def turn(self, line=None):
        """Have it run some epochs, and wait."""
        self.process.stdin.write((line or str(self.together)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"the process of {self.name} ended without an answer")
        self.answers.append(json.loads(answer))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.communicate()


def available():
    """List the contestants that are installed here."""
    return [name for name, (_, module) in CONTESTANTS.items() if importlib.util.find_spec(module)]


def compare(setup, names, threads, epochs=7, peak=None):
    """Run epochs of all contestants in turn; return a list of `Result`, first that of the ceiling itself.

    The ceiling is the time that the multiplications and additions of the matrix products take in registers alone: it is
    measured in turn, or follows from the operations a second of another device, ``peak``.
    """
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process(name, setup, threads)) for name in names}
        if not peak:
            work_at_peak(1e6, threads)
        ceiling = []
        for _ in range(epochs):
            measured = setup.flop() / peak if peak else seconds_of(lambda: work_at_peak(setup.flop(), threads))
            ceiling.append(measured)
            for process in processes.values():
                process.turn()
    results = [Result("ceiling", ceiling, float("nan"), float("nan"))]
    for name, process in processes.items():
        seconds, bounds, megabytes = zip(*process.answers)
        results.append(Result(name, list(seconds), bounds[-1], megabytes[-1]))
    return results


def median_epoch(setup, threads, epochs):
    """Return the median seconds an epoch of npvae."""
    return statistics.median(compare(setup, ["npvae"], threads, epochs)[1].seconds)


def speed_up(setup, threads, epochs=7):
    """Return the seconds an epoch of npvae with one thread, and with several, alternating: two medians."""
    with Process("npvae", setup, 1) as one, Process("npvae", setup, threads) as several:
        for _ in range(epochs):
            one.turn()
            several.turn()
    return [statistics.median(seconds for seconds, *_ in process.answers) for process in (one, several)]


def main():
    """Be a contestant's process."""
    name, fields = json.loads(sys.stdin.readline())
    fields[1] = tuple(fields[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not disturb
    contestant, count = CONTESTANTS[name][0](Setup(*fields)), "1"
    while count:
        bounds = []
        seconds = seconds_of(lambda n=int(count), into=bounds: into.extend(contestant.epoch() for _ in range(n)))
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds / len(bounds), bounds[-1], megabytes]), file=answers, flush=True)
        count = sys.stdin.readline()


if __name__ == "__main__":
    main()
