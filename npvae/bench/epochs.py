"""Training epochs of all contestants in turn, each contestant in a process of its own that sleeps meanwhile.

Run as a program it is such a process: it reads its contestant and setup from the first line, and then runs an epoch
for each line, answering with the seconds, the bound and the most memory it has held.
"""

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
        self.answers = []
        self.epoch(json.dumps([name, setup]))  # compiles
        self.answers.clear()

    def epoch(self, line=""):
        """Have it run an epoch, and wait."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.process.stdout.readline()))

    def stop(self):
        """Let it end."""
        self.process.communicate()


def available():
    """List the contestants that are installed here."""
    return [name for name, (_, module) in CONTESTANTS.items() if importlib.util.find_spec(module)]


def compare(setup, names, threads, epochs=7):
    """Run epochs of all contestants in turn; return a list of `Result`, first that of the ceiling itself.

    The ceiling is the time that the multiplications and additions of the matrix products take in registers alone.
    """
    processes = {name: Process(name, setup, threads) for name in names}
    work_at_peak(1e6, threads)
    ceiling = []
    for _ in range(epochs):
        ceiling.append(seconds_of(lambda: work_at_peak(setup.flop(), threads)))
        for process in processes.values():
            process.epoch()
    results = [Result("ceiling", ceiling, float("nan"), float("nan"))]
    for name, process in processes.items():
        process.stop()
        seconds, bounds, megabytes = zip(*process.answers)
        results.append(Result(name, list(seconds), bounds[-1], megabytes[-1]))
    return results


def median_epoch(setup, threads, epochs):
    """Return the median seconds an epoch of npvae."""
    return statistics.median(compare(setup, ["npvae"], threads, epochs)[1].seconds)


def speed_up(setup, threads, epochs=7):
    """Return the seconds an epoch of npvae with one thread, and with several, alternating: two medians."""
    processes = [Process("npvae", setup, count) for count in (1, threads)]
    for _ in range(epochs):
        for process in processes:
            process.epoch()
    for process in processes:
        process.stop()
    return [statistics.median(seconds for seconds, *_ in process.answers) for process in processes]


def main():
    """Be a contestant's process."""
    name, fields = json.loads(sys.stdin.readline())
    fields[1] = tuple(fields[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not disturb
    contestant, bound = CONTESTANTS[name][0](Setup(*fields)), []
    seconds = seconds_of(lambda: bound.append(contestant.epoch()))
    while True:
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds, bound[-1], megabytes]), file=answers, flush=True)
        if not sys.stdin.readline():
            return
        seconds = seconds_of(lambda: bound.append(contestant.epoch()))


if __name__ == "__main__":
    main()
