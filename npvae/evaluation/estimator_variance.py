"""The variance of estimators: how much their estimates of the bound and of its gradient vary, and what they cost.

Two estimates from the same minibatch with noise of their own differ by what sampling z contributes; two from different
minibatches differ by that and by the choice of datapoints. Half the squared distance of two independent estimates is an
unbiased estimate of the sum of their variances: of the gradients only the last one has to be kept.
"""

import statistics
import time
from typing import NamedTuple

import numpy as np

from ..estimators import ESTIMATORS, runs, suits
from ..model import Model
from ..parameters import Buffers

#: Minibatches before the first that counts: a running baseline has settled then.
WARM_UP = 10


class Measurement(NamedTuple):
    """Variances of an estimator, each with its standard error.

    They are those of the bound in nats^2 (``group`` "value"), or of the gradient, summed over the parameters of a group.
    Where weights are random, the bound is the datapoints' alone.
    """

    estimator: str
    n_samples: int  # L
    batch_size: int  # M
    group: str  # "value", "encoder" or "decoder"
    variance: float  # over minibatches and noise
    variance_error: float
    noise_variance: float  # over noise alone, the minibatch held fixed
    noise_variance_error: float
    seconds: float  # of one estimate, its gradient included: the median


def gradient_variance(
    model, X, *, estimators=None, n_samples=(1, 2, 5, 10), batch_sizes=(1, 10, 100), repeats=100,
    random_state=0,
):  # fmt: skip
    """Measure how much estimates of the bound and of its gradient vary, at the parameters of a model.

    Minibatches are drawn with replacement, and are the same for all estimators. An estimator is left out where L is
    less than it needs (`Spec.fewest_samples`).

    Parameters
    ----------
    model : VAE, fitted or not (then at the initial parameters that a fit to X would start from)
    X : array (N, D)
    estimators : sequence of names, of those that a VAE has; by default all that work on this model
    n_samples, batch_sizes : sequences of int, the L and M of the paper
    repeats : int, minibatches for each
    random_state : int

    Returns
    -------
    list of Measurement
    """
    architecture, data, vector, backend = model.starting_point(X)
    inner = Model(architecture, backend, model.dtype)
    parameters, measurements = inner.parameters(vector), []
    if estimators is None:
        here = backend.__name__.rpartition(".")[2]
        estimators = [
            name for name in ESTIMATORS if suits(name, architecture) and runs(name, architecture.posterior, here)
        ]
    for name in estimators:
        for L in n_samples:
            if L < ESTIMATORS[name].fewest_samples:
                continue
            for M in batch_sizes:
                estimates = _estimates(ESTIMATORS[name].make(inner, L, len(data.X)), parameters, data, M, random_state)
                measurements += _measure(estimates, repeats, (name, L, M))
    return measurements


def _estimates(estimator, parameters, data, M, random_state):
    """Yield without end ((value, gradients by group) twice, seconds), each time for another minibatch."""
    model, state = estimator.model, None
    order, noises = np.random.default_rng([random_state, 0]), np.random.default_rng([random_state, 1])
    buffers = Buffers(model.backend, model.dtype)
    while True:
        rows = order.integers(len(data.X), size=M)
        x = model.gather(data, rows, buffers)
        pair, started = [], time.perf_counter()
        for _ in range(2):
            noise = estimator.draw(noises, M)
            samples, later = estimator.sample(parameters, x, rows, noise, state)
            result = estimator.value_and_grad(parameters, x, samples)
            pair.append((result.elbo, _groups(model, result.gradient)))
        yield *pair, (time.perf_counter() - started) / 2
        state = later


def _groups(model, gradient):
    """Copy a gradient as float64 vectors by group."""
    to_numpy = model.backend.to_numpy
    return {
        group: np.concatenate([to_numpy(g).ravel() for name, g in gradient.items() if name.startswith(group + ".")])
        for group in ("encoder", "decoder")
    }


def _measure(estimates, repeats, what):
    for _ in range(WARM_UP):
        before, *_ = next(estimates)
    distances = {group: ([], []) for group in ("value", "encoder", "decoder")}
    seconds = []
    for i in range(repeats):
        first, second, taken = next(estimates)
        seconds.append(taken)
        for group, (total, noise) in distances.items():
            noise.append(_half_squared_distance(first, second, group))
            if i % 2:  # disjoint pairs: their distances are independent, and so is their standard error right
                total.append(_half_squared_distance(first, before, group))
        before = first
    for group, (total, noise) in distances.items():
        yield Measurement(*what, group, *_mean_and_error(total), *_mean_and_error(noise), statistics.median(seconds))


def _half_squared_distance(one, other, group):
    if group == "value":
        return 0.5 * (one[0] - other[0]) ** 2
    difference = (one[1][group] - other[1][group]).astype(float)
    return 0.5 * float(difference @ difference)


def _mean_and_error(values):
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def table(measurements):
    """Return measurements as a table in Markdown: a row for each estimator, L and M."""
    groups = ("encoder", "decoder", "value")
    lines = [
        "| estimator | L | M | " + " | ".join(f"{g}: variance | of it noise" for g in groups) + " | ms |",
        "|---|---|---|" + "---|---|" * len(groups) + "---|",
    ]
    rows = {}
    for m in measurements:
        rows.setdefault((m.estimator, m.n_samples, m.batch_size), {})[m.group] = m
    for (name, L, M), row in rows.items():
        cells = []
        for group in groups:
            m = row[group]
            cells += [_with_error(m.variance, m.variance_error), _with_error(m.noise_variance, m.noise_variance_error)]
        lines.append(f"| {name} | {L} | {M} | {' | '.join(cells)} | {row['value'].seconds * 1e3:.2g} |")
    return "\n".join(lines)


def _with_error(value, error):
    return f"{value:.3g} ± {error:.1g}"
