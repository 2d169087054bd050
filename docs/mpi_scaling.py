"""Measurements of training on several ranks, for the page about several machines, and the model of how it scales.

``mpiexec -n 2 python docs/mpi_scaling.py steps``: a step and its parts on two ranks with one thread each, beside one
process with one and with two threads, all in turns (four minutes). ``mpiexec -n 2 python docs/mpi_scaling.py memory
FILE``: the memory of each rank in a training on a memory map of two million rows, which it makes (one minute).
``python docs/mpi_scaling.py batches``: training with small and large batches, for the bound at equal samples and at
equal time (half an hour on one core). ``python docs/mpi_scaling.py picture`` draws the measured steps beside the model,
and what it forecasts. All write results/ranks-*.csv, and read MNIST from NPVAE_DATA.
"""

import contextlib
import math
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tables
from scipy.optimize import nnls

import npvae
from npvae import backends, datasets, fitting
from npvae.estimators.sharded import n_shards
from npvae.model import Architecture, Model
from npvae.parallel import SERIAL, Team

#: The net of the paper's figures, with 0.8 million parameters.
SETTINGS = {"n_components": 20, "hidden_layer_sizes": (500,), "likelihood": "bernoulli", "learning_rate": 0.02}
BATCHES = 100, 1000, 10_000
ROUNDS, SECONDS = 7, 1.0

STEPS, MEMORY, LARGE = "results/ranks-steps.csv", "results/ranks-memory.csv", "results/ranks-batches.csv"
PARTS = "gather and noise", "compute", "round and add", "wait", "allreduce"

#: Rows of the memory map, and of its minibatches.
MANY, ROWS = 2_000_000, 10_000


# Steps ----------------------------------------------------------------------------------------------------------------


class Timed(Team):
    """A team that counts the seconds of its messages, and those that it waits for the other ranks before."""

    def __init__(self, comm, exact_sum=True):
        super().__init__(comm, exact_sum)
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def _reduce(self, numbers, operation):
        with self.counted("wait"):
            self._comm.Barrier()
        with self.counted("allreduce"):
            return super()._reduce(numbers, operation)

    @contextlib.contextmanager
    def counted(self, part):
        """Count the seconds of what is done within."""
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began


def trainer_of(batch_size, parallel):
    settings = npvae.VAE(**SETTINGS, batch_size=batch_size, max_epochs=1000, backend="cpu").get_params()
    X = datasets.load_mnist().X_train
    return fitting.begin(SimpleNamespace(**settings), X, say=lambda message: None, parallel=parallel)[1].trainer


def count_parts(trainer):
    """Have the parts of a step counted by the team of a trainer."""
    from npvae.backends import exact_sum

    def counting(function, part):
        def counted(*arguments):
            with trainer.parallel.counted(part):
                return function(*arguments)

        return counted

    estimator = trainer.estimator
    estimator.gather = counting(estimator.gather, PARTS[0])
    for one in estimator._parts.values():
        one.value_and_grad = counting(one.value_and_grad, "compute")
    return {name: counting(getattr(exact_sum, name), "round and add") for name in ("largest", "add_up")}


def measure_steps():
    """Time all contestants in turns, on rank 0; the other rank sleeps while it has no part."""
    import numba
    from mpi4py import MPI

    from npvae.backends import exact_sum

    comm, rows, plain = MPI.COMM_WORLD, [], dict(vars(exact_sum))
    for batch_size in BATCHES:
        alone, teams = Timed(MPI.COMM_SELF), (Timed(comm), Timed(comm, exact_sum=False))
        contestants = [
            ("one process", 2, trainer_of(batch_size, SERIAL)),
            ("one process", 1, trainer_of(batch_size, SERIAL)),
            ("1 rank", 1, trainer_of(batch_size, alone)),
            ("2 ranks", 1, trainer_of(batch_size, teams[0])),
            ("2 ranks, plain sum", 1, trainer_of(batch_size, teams[1])),
        ]
        counters = {id(trainer): count_parts(trainer) for *_, trainer in contestants if trainer.parallel is not SERIAL}
        results = {contestant: [] for contestant in contestants}
        for _ in range(ROUNDS):
            for contestant in contestants:
                name, threads, trainer = contestant
                together = name.startswith("2")
                comm.Barrier()
                if together or comm.rank == 0:
                    numba.set_num_threads(threads)
                    vars(exact_sum).update(counters.get(id(trainer), {}))
                    results[contestant].append(step_seconds(trainer, batch_size, comm if together else None))
                    vars(exact_sum).update({name: plain[name] for name in ("largest", "add_up")})
                wait_asleep(comm)
        for (name, threads, _), found in results.items():
            if comm.rank == 0:
                step, *parts = (f"{1e3 * statistics.median(column):.3f}" for column in zip(*found))
                rows.append([batch_size, name, threads, step, *parts])
                print(*rows[-1], flush=True)
    if comm.rank == 0:
        tables.save(STEPS, [("batch", "contestant", "threads of each", "step (ms)", *PARTS), *rows])


def wait_asleep(comm):
    """Wait for the other ranks without taking their cores."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.01)


def step_seconds(trainer, batch_size, comm):
    """Return the seconds of a step, and of each of its parts, over about `SECONDS`."""
    n_steps = max(2, int(SECONDS * 5e4 / batch_size))
    seconds = getattr(trainer.parallel, "seconds", dict.fromkeys(PARTS, 0.0))
    for part in seconds:
        seconds[part] = 0.0
    began, count = None, 0
    for run in trainer.runs():
        trainer.steps(run)
        if began is None:  # the first run makes the plans of the products
            for part in seconds:
                seconds[part] = 0.0
            began, count = time.perf_counter(), 0
            continue
        count += len(run)
        if count >= n_steps:
            break
    trainer.progress.epoch += 1
    return [number / max(count, 1) for number in (time.perf_counter() - began, *seconds.values())]


# Memory ---------------------------------------------------------------------------------------------------------------


def memory():
    """Return what Linux says of the memory of this process, in megabytes: all of it, its own, and pages of files."""
    found = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return [int(found[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile")]


def measure_memory(path):
    """Train one epoch on a memory map."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank == 0 and not path.exists():
        digits, rng = datasets.load("digits").X_train, np.random.default_rng(0)
        X = np.lib.format.open_memmap(path, "w+", np.uint8, (MANY, digits.shape[1]))
        for start in range(0, MANY, ROWS):
            X[start : start + ROWS] = digits[rng.integers(0, len(digits), ROWS)]
        X.flush()
    comm.Barrier()
    X, before, began = np.load(path, mmap_mode="r"), memory(), time.perf_counter()
    model = npvae.VAE(**SETTINGS, batch_size=ROWS, max_epochs=1, backend="cpu").fit(X, comm=comm)
    found = comm.gather([comm.rank, *memory(), time.perf_counter() - began])
    if comm.rank == 0:
        names = "rank", "memory (MB)", "its own (MB)", "pages of the file (MB)", "seconds"
        rows = [[rank, *(f"{number:.0f}" for number in numbers)] for rank, *numbers in found]
        tables.save(MEMORY, [names, ["before", *(f"{number:.0f}" for number in before), 0], *rows])
        print(*rows, f"{model.history_[-1].elbo:.2f} nats", sep="\n")


# Batches --------------------------------------------------------------------------------------------------------------


def curve_of(batch_size, optimizer, step_size, epochs, data):
    """Train, and return a row for the test bound after 1, 2, 5, 10, 20, ... epochs."""
    rows = []

    def score(epoch):
        if epoch.epoch in (1, 2, 5, 10, 20, 50, 100, 200):
            bound = f"{model.score(data.X_test):.2f}"
            rows.append([batch_size, optimizer, step_size, epochs, epoch.samples_seen, bound])
            print(*rows[-1], flush=True)

    settings = SETTINGS | {"optimizer": optimizer, "learning_rate": step_size, "batch_size": batch_size}
    model = npvae.VAE(**settings, max_epochs=epochs, backend="cpu", callbacks=[score])
    with contextlib.suppress(FloatingPointError):
        model.fit(data.X_train)
    return rows


def measure_batches():
    """Train with each batch size and step size; then longer with the best of each."""
    data, rows = datasets.load_mnist(), []
    for batch_size, longer in zip(BATCHES, (20, 100, 200)):
        curves = [
            curve_of(batch_size, optimizer, step_size, 20, data)
            for optimizer, step_sizes in (("adagrad", (0.02, 0.06, 0.2)), ("adam", (0.001, 0.003, 0.01)))
            for step_size in step_sizes
        ]
        rows += [row for curve in curves for row in curve]
        best = max((curve for curve in curves if curve), key=lambda curve: float(curve[-1][-1]))
        if longer > 20:
            rows += curve_of(*best[0][:3], longer, data)
    tables.save(LARGE, [("batch", "optimizer", "step size", "epochs", "samples", "test bound"), *rows])


# The model ------------------------------------------------------------------------------------------------------------

#: Of the forecast: nodes that compute at 400 GFLOP/s, messages of 30 us, and 85 % of the speed of the network.
FLOPS, LATENCY, SHARE_OF_LINK = 4e11, 3e-5, 0.85
NETWORKS, NODES = (10, 25, 100), (1, 2, 4, 8, 16, 32, 64)  # Gbit/s
LARGE_BATCHES = 1000, 10_000, 100_000


def step_model(batch_size, ranks, seconds_of_row, seconds_of_shard, fixed, link, n_parameters):
    """Return the seconds of a step.

    The rank with most shards computes them; then 8 bytes a parameter are summed over all ranks, by the algorithm of
    Rabenseifner (2004): each rank sends and receives twice (R - 1) / R of them in 2 log2(R) messages. ``link`` is
    (seconds of a message, bytes a second).
    """
    shards = n_shards(batch_size)
    most = math.ceil(shards / ranks)
    compute = fixed + most * (seconds_of_shard + batch_size / shards * seconds_of_row)
    latency, bandwidth = link
    return compute + 2 * math.ceil(math.log2(ranks)) * latency + 2 * (ranks - 1) / ranks * 8 * n_parameters / bandwidth


def n_parameters():
    """Return the number of parameters of the net that is measured."""
    return Model(Architecture(784, 20, (500,), likelihood="bernoulli"), backends.get("reference")).layout.size


def fitted():
    """Return the constants of the model for this machine, from the steps of one rank and the messages of two."""
    rows = {(row["batch"], row["contestant"]): row for row in tables.load(STEPS)}
    alone = [rows[batch, "1 rank"]["step (ms)"] / 1e3 for batch in BATCHES]
    shards = np.array([n_shards(batch) for batch in BATCHES])
    terms = np.column_stack([BATCHES, shards, np.ones(3)]) / np.array(alone)[:, None]
    seconds, _ = nnls(terms, np.ones(3))  # of the relative errors
    message = statistics.median(rows[batch, "2 ranks"]["allreduce"] / 1e3 for batch in BATCHES)
    return *seconds, (0.0, 8 * n_parameters() / message), n_parameters()


def comparison():
    """Return the table of the measured steps of two ranks beside those of the model."""
    rows = {(row["batch"], row["contestant"], row["threads of each"]): row["step (ms)"] for row in tables.load(STEPS)}
    lines = []
    for batch in BATCHES:
        one, two = rows[batch, "1 rank", 1], rows[batch, "2 ranks", 1]
        threads, model = rows[batch, "one process", 2], 1e3 * step_model(batch, 2, *fitted())
        lines.append([batch, *(f"{ms:.3g}" for ms in (one, two, model, threads)), f"{one / two / 2:.0%}"])
    names = "batch", "1 rank (ms)", "2 ranks (ms)", "by the model (ms)", "1 process, 2 threads (ms)", "efficiency of 2"
    return tables.markdown(names, *lines)


def forecast():
    """Return the table of the forecast: the efficiency on many nodes, by batch size and network."""
    size, lines = n_parameters(), []
    for batch in LARGE_BATCHES:
        for gigabits in NETWORKS:
            link = LATENCY, SHARE_OF_LINK * gigabits * 1e9 / 8
            steps = [step_model(batch, nodes, 6 * size / FLOPS, 0, 0, link, size) for nodes in NODES]
            efficiencies = [f"{steps[0] / step / nodes:.0%}" for step, nodes in zip(steps, NODES)]
            lines.append([batch, gigabits, *efficiencies[1:]])
    return tables.markdown(["batch", "Gbit/s", *(f"{nodes} nodes" for nodes in NODES[1:])], *lines)


def curves():
    """Return (batch, optimizer, step size, epochs) -> [(samples, test bound), ...] of the large batches."""
    found = {}
    for row in tables.load(LARGE):
        key = row["batch"], row["optimizer"], row["step size"], row["epochs"]
        found.setdefault(key, []).append((row["samples"], row["test bound"]))
    return found


def best_of(found, batch):
    """Return the key of the curve of this batch that is best after 20 epochs."""
    return max((key for key in found if key[0] == batch and key[3] == 20), key=lambda key: found[key][-1][1])


def equal_samples():
    """Return the table of the test bounds of each batch size after as many samples, each with its best step size."""
    found, lines = curves(), []
    counts = 50_000, 100_000, 250_000, 500_000, 1_000_000
    for batch in BATCHES:
        for optimizer in ("adagrad", "adam"):
            of_kind = {key: curve for key, curve in found.items() if key[:2] == (batch, optimizer) and key[3] == 20}
            key = max(of_kind, key=lambda key: of_kind[key][-1][1])
            bounds = dict(of_kind[key])
            lines.append([f"{batch:,}", optimizer, f"{key[2]:g}", *(f"{bounds[count]:.1f}" for count in counts)])
    return tables.markdown(["batch", "optimizer", "step size", *map(tables.power, counts)], *lines)


def equal_time(gigabits=25):
    """Return the table of the test bounds that the forecast gives at equal time on some nodes.

    The time is that of 1e6 samples in minibatches of 100 on one node. A bound between two points of a curve is
    interpolated by the logarithm of the samples.
    """
    found, size, lines = curves(), n_parameters(), []
    link = LATENCY, SHARE_OF_LINK * gigabits * 1e9 / 8

    def step(batch, nodes):
        return step_model(batch, nodes, 6 * size / FLOPS, 0, 0, link, size)

    seconds = 1e6 / 100 * step(100, 1)
    for batch in BATCHES:
        key = best_of(found, batch)
        longest = max((other for other in found if other[:3] == key[:3]), key=lambda other: other[3])
        samples, bounds = zip(*found[longest])
        for nodes in (1, 4, 16, 64):
            count = seconds / step(batch, nodes) * batch
            known = count <= samples[-1] * 1.001
            bound = f"{np.interp(np.log(count), np.log(samples), bounds):.1f}" if known else f"above {bounds[-1]:.1f}"
            lines.append([f"{batch:,}", nodes, tables.power(count), bound])
    return tables.markdown(["batch", "nodes", "samples in this time", "test bound"], *lines)


def picture():
    """Draw the measured steps beside the model, and the speed that it forecasts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = {(row["batch"], row["contestant"], row["threads of each"]): row["step (ms)"] for row in tables.load(STEPS)}
    grid = np.geomspace(BATCHES[0], BATCHES[-1], 200).astype(int)
    for color, (ranks, name) in zip(("C0", "C1"), ((1, "1 rank"), (2, "2 ranks"))):
        left.plot(BATCHES, [rows[batch, name, 1] for batch in BATCHES], "o", color=color, label=f"{name}, measured")
        left.plot(grid, [1e3 * step_model(b, ranks, *fitted()) for b in grid], color=color, label=f"{name}, model")
    threads = [rows[batch, "one process", 2] for batch in BATCHES]
    left.plot(BATCHES, threads, "x", color="C2", label="1 process with 2 threads, measured")
    left.set(xscale="log", yscale="log", xlabel="rows of a minibatch", ylabel="time of a step (ms)")
    left.set_title("Measured on two cores")
    left.legend(fontsize="small")
    size, link = n_parameters(), (LATENCY, SHARE_OF_LINK * 25e9 / 8)
    for batch in LARGE_BATCHES:
        steps = [step_model(batch, nodes, 6 * size / FLOPS, 0, 0, link, size) for nodes in NODES]
        right.plot(NODES, [steps[0] / step for step in steps], "o-", label=f"minibatches of {batch}")
    right.plot(NODES, NODES, color="0.7", label="ideal")
    right.set(xscale="log", yscale="log", xlabel="nodes", ylabel="times as fast as one")
    right.set_title("Forecast for 25 Gbit/s")
    right.legend(fontsize="small")
    figure.savefig(Path(__file__).with_name("mpi_scaling.png"), dpi=110)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {
        "steps": measure_steps,
        "memory": lambda: measure_memory(Path(arguments[0])),
        "batches": measure_batches,
        "picture": picture,
    }[what]()
