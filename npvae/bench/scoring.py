"""Scores, codes, reconstructions, draws and log p(x): their time beside that of their matrix products at the ceiling.

The model is the paper's for MNIST, trained for one epoch.
"""

import statistics
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import machine
from .contestants import Setup

#: Images that are used, and those for log p(x) by importance sampling, with so many samples each.
ROWS, FEW, SAMPLES = 10_000, 10, 5000


class Row(NamedTuple):
    """An operation on some rows: its median seconds, and those of its products at the rate of the ceiling."""

    operation: str
    rows: int
    seconds: float
    ceiling: float


def operations(model: Any, X: Any, few: int = FEW, samples: int = SAMPLES) -> Iterator[tuple]:
    """Yield (name, number of rows, floating-point operations of the products, function) for a fitted `VAE`.

    log p(x) is that of the first ``few`` rows of X (N, D).
    """
    networks = model.fitted_.model.encoder, model.fitted_.model.decoder
    of_row = (2 * sum(I * O for _, I, O, _ in network.mlp.hidden + network.mlp.heads) for network in networks)
    (encode, decode), N = of_row, len(X)
    yield "score_samples", N, N * (encode + decode), lambda: model.score_samples(X)
    yield "transform", N, N * encode, lambda: model.transform(X)
    yield "reconstruct", N, N * (encode + decode), lambda: model.reconstruct(X)
    yield "sample_posterior", N, N * encode, lambda: model.sample_posterior(X)
    yield "sample", N, N * decode, lambda: model.sample(N)
    flop = few * (encode + samples * decode)
    yield f"log_likelihood, {samples} samples", few, flop, lambda: model.log_likelihood(X[:few], n_samples=samples)


def table(setup: Setup, threads: int, repeats: int = 7, rows: int = ROWS, **numbers: int) -> list[Row]:
    """Train on the pixels of a setup, and measure all operations on some of them and the ceiling in turn.

    ``numbers`` are those of `operations`.
    """
    from ..vae import VAE

    X = setup.load()
    model = VAE(
        setup.n_components, hidden_layer_sizes=setup.hidden_layer_sizes, likelihood=setup.likelihood,
        learning_rate=0.02, max_epochs=1, backend="cpu",
    ).fit(X)  # fmt: skip
    everything, peaks = list(operations(model, X[:rows], **numbers)), []
    seconds: dict[str, list[float]] = {name: [] for name, *_ in everything}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is not enough for q(z|x) to cover the posterior
        for repeat in range(repeats + 1):
            for name, _, _, function in everything:
                taken = machine.seconds_of(function)
                if repeat:  # the first call compiles
                    seconds[name].append(taken)
            peaks += [machine.seconds_of(lambda: machine.work_at_peak(1e9, threads)) / 1e9 for _ in range(repeats)]
    of_operation = statistics.median(peaks)
    return [Row(name, n, statistics.median(seconds[name]), flop * of_operation) for name, n, flop, _ in everything]


def lines(rows: list[Row]) -> Iterator[tuple]:
    """Yield the rows as `report` writes them, first the names of the columns."""
    yield "operation", "rows", "median s", "products at the ceiling s", "of the ceiling"
    for row in rows:
        yield *row[:2], f"{row.seconds:.4f}", f"{row.ceiling:.4f}", f"{row.ceiling / row.seconds:.0%}"
