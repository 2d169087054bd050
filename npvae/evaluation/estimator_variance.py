"""The variance of estimates of the bound and of its gradient, and the time that they take.

Two estimates from the same minibatch with different noise differ because z is sampled. Two estimates from different
minibatches differ because of this and because of the choice of datapoints. Half the squared distance between two
independent estimates is an unbiased estimate of the variance (summed over the components of a gradient). So only the
last gradient has to be kept.
"""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..conventions import check_choice, check_number, check_seed, kind_of
from ..estimators import ESTIMATORS, suits, supports
from ..model import NO_ENCODER, Model
from ..parameters import Buffers
from ..sparse import TableLike

#: Fewest repeats: the total variance needs two pairs of minibatches for its standard error.
FEWEST_REPEATS = 4

#: Minibatches before the first one that is measured: a running baseline has settled by then.
WARM_UP = 10


class Measurement(NamedTuple):
    """Variances of an estimator, and their standard errors.

    For the group "value" they are variances of the bound (`Result.elbo`), in nats^2. For the groups "encoder" and
    "decoder" they are variances of the gradient, summed over the parameters of the group.

    Examples
    --------
    >>> m = Measurement("sgvb-b", 1, 100, "encoder", 1250.0, 50.0, 1150.0, 40.0, 0.013)
    >>> m.variance - m.noise_variance  # due to the choice of datapoints
    100.0
    """

    estimator: str
    n_samples: int  # L
    batch_size: int  # M
    group: str  # "value", "encoder" or "decoder"
    variance: float  # over minibatches and noise
    variance_error: float
    noise_variance: float  # over noise alone, with the minibatch held fixed
    noise_variance_error: float
    seconds: float  # median time of one estimate with its gradient


def gradient_variance(
    model: Any,
    X: TableLike,
    *,
    estimators: Sequence[str] | None = None,
    n_samples: Sequence[int] = (1, 2, 5, 10),
    batch_sizes: Sequence[int] = (1, 10, 100),
    repeats: int = 100,
    random_state: int = 0,
) -> list[Measurement]:
    """Measure the variance of estimates of the bound and of its gradient, at fixed parameters.

    Minibatches are drawn with replacement and are the same for all estimators. Combinations with an L below the
    `Spec.fewest_samples` of the estimator are left out.

    Parameters
    ----------
    model : VAE
        Measured at its parameters; if it is not fitted, at the initial parameters of a fit to X.
    X : array or sparse matrix (N, D)
    estimators : sequence of str, optional
        Names in `estimators.ESTIMATORS`. By default all that can train this model on its backend.
    n_samples, batch_sizes : sequences of int
        Values of L and M of the paper. Every combination is measured.
    repeats : int
        Minibatches for each combination, at least 4.
    random_state : int

    Returns
    -------
    list of Measurement
        Three for each combination: "value", "encoder" and "decoder".

    Raises
    ------
    ValueError, TypeError
        If a setting of the model or the data is not valid: see `VAE.fit`. If there is no estimator of a name, or it
        cannot train this model on its backend; if the model has no encoder; if a number is out of range; if no
        combination is left.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> vae = npvae.VAE(2, hidden_layer_sizes=(4,), backend="reference")
    >>> found = gradient_variance(vae, X, estimators=["sgvb-b"], n_samples=[1], batch_sizes=[10], repeats=20)
    >>> [m.group for m in found]
    ['value', 'encoder', 'decoder']
    """
    check_number("repeats", repeats, np.integer, FEWEST_REPEATS)
    check_seed("random_state", random_state)
    if not hasattr(model, "starting_point"):
        raise TypeError(f"model is {kind_of(model)}; expected a VAE")
    for argument, counts in ("n_samples", n_samples), ("batch_sizes", batch_sizes):
        for i, count in enumerate(_sequence(argument, counts, "integers")):
            check_number(f"{argument}[{i}]", count, np.integer, 1)
    architecture, data, vector, backend = model.starting_point(X)
    if not architecture.has_encoder:
        raise ValueError(NO_ENCODER)
    inner = Model(architecture, backend, model.dtype, data.missing)
    parameters = inner.parameters(vector)
    measurements: list[Measurement] = []
    here = backend.__name__.rpartition(".")[2]
    can = [name for name in ESTIMATORS if suits(name, architecture) and supports(name, architecture.posterior, here)]
    estimators = can if estimators is None else _sequence("estimators", estimators, "names")
    for i, name in enumerate(estimators):
        check_choice(f"estimators[{i}]", name, tuple(ESTIMATORS))
        if name not in can:
            raise ValueError(
                f"estimators[{i}] is {name!r}, which cannot train this model on the backend {here!r}; expected one of "
                f"{', '.join(map(repr, can))}"
            )
    least = min(ESTIMATORS[name].fewest_samples for name in estimators)
    if max(n_samples) < least:
        raise ValueError(f"n_samples is {n_samples!r}; expected at least {least} for these estimators")
    for name in estimators:
        for L in n_samples:
            if ESTIMATORS[name].fewest_samples > L:
                continue
            for M in batch_sizes:
                estimates = _estimates(ESTIMATORS[name].make(inner, L, len(data.X)), parameters, data, M, random_state)
                measurements += _measure(estimates, repeats, (name, L, M))
    return measurements


def _sequence(name: str, given: Any, of: str) -> Any:
    """Return a sequence that is not empty and not a string."""
    if isinstance(given, str) or not isinstance(given, Sequence | range | np.ndarray) or np.ndim(given) != 1:
        raise TypeError(f"{name} is {given!r}; expected a sequence of {of}")
    if not len(given):
        raise ValueError(f"{name} is empty; expected at least one of the {of}")
    return given


def _estimates(estimator, parameters, data, M, random_state):
    """Yield for one minibatch after the other, without end: two pairs (value, gradients by group), and the seconds."""
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
    """Copy a gradient to the host, as one vector for each group."""
    to_numpy = model.backend.to_numpy
    return {
        group: np.concatenate([to_numpy(g).ravel() for name, g in gradient.items() if name.startswith(group + ".")])
        for group in ("encoder", "decoder")
    }


def _measure(estimates, repeats: int, what: tuple[str, int, int]) -> Iterator[Measurement]:
    for _ in range(WARM_UP):
        before, *_ = next(estimates)
    distances: dict[str, tuple[list, list]] = {group: ([], []) for group in ("value", "encoder", "decoder")}
    seconds = []
    for i in range(repeats):
        first, second, taken = next(estimates)
        seconds.append(taken)
        for group, (total, noise) in distances.items():
            noise.append(_half_squared_distance(first, second, group))
            if i % 2:  # disjoint pairs have independent distances, which the standard error assumes
                total.append(_half_squared_distance(first, before, group))
        before = first
    for group, (total, noise) in distances.items():
        yield Measurement(*what, group, *_mean_and_error(total), *_mean_and_error(noise), statistics.median(seconds))


def _half_squared_distance(one, other, group):
    if group == "value":
        return 0.5 * (one[0] - other[0]) ** 2
    difference = (one[1][group] - other[1][group]).astype(float)
    return 0.5 * float(difference @ difference)


def _mean_and_error(values: list) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def table(measurements: Iterable[Measurement]) -> str:
    """Format measurements as a table in Markdown, with a row for each estimator, L and M.

    Parameters
    ----------
    measurements : iterable of Measurement
        As `gradient_variance` returns them.

    Returns
    -------
    str
        Variances with standard errors, the part of each that is due to sampling z, and milliseconds.

    Examples
    --------
    >>> rows = [Measurement("sgvb-b", 1, 100, g, 8.0, 0.5, 2.0, 0.1, 0.01) for g in ("value", "encoder", "decoder")]
    >>> print(table(rows).splitlines()[-1])
    | sgvb-b | 1 | 100 | 8 ± 0.5 | 2 ± 0.1 | 8 ± 0.5 | 2 ± 0.1 | 8 ± 0.5 | 2 ± 0.1 | 10 |
    """
    groups = ("encoder", "decoder", "value")
    lines = [
        "| estimator | L | M | " + " | ".join(f"{g}: variance | due to sampling z" for g in groups) + " | ms |",
        "|---|---|---|" + "---|---|" * len(groups) + "---|",
    ]
    rows: dict[tuple, dict[str, Measurement]] = {}
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
