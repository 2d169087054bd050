"""Small tables to compare density models on: some of scikit-learn, some drawn from a known density.

Half of them are for design: rules of the default fit may be chosen on them. The other half only reports.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

Floats = NDArray[np.float64]

#: Log-density of each row: (N, D) -> (N,), in nats.
LogProb = Callable[[Floats], Floats]

#: The share of the rows that contestants are trained on.
TRAINING_SHARE = 0.8

#: A column is left out if no more than this share of its training rows differ from the most frequent value. A model
#: can make its density as large as it likes, and one held-out row would then decide about the mean of all.
RARE = 0.01

#: Seed of the rows that are generated, and of the split into training and held-out rows.
DATA_SEED, SPLIT_SEED = 0, 1


class Drawn(NamedTuple):
    """Rows of a table and, where it is known, the density that they were drawn from."""

    X: Floats
    log_prob: LogProb | None = None


class Table(NamedTuple):
    """A row of `TABLES`."""

    kind: str  # "real", "binary" or "mixed"
    half: str  # "design" or "report"
    made: str  # how, for the reader
    make: Callable[[np.random.Generator], Drawn]


class Split(NamedTuple):
    """The training and the held-out rows of a table, without the columns that hardly vary in training."""

    train: Floats
    test: Floats
    binary: NDArray[np.bool_]  # (D,): columns whose values have probabilities; the others have densities
    log_prob: LogProb | None


def load(name: str) -> Split:
    """Make the table of this name in `TABLES`, and split it. The same rows at every call."""
    table = TABLES[name]
    X, log_prob = table.make(np.random.default_rng(DATA_SEED))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(X))
    train, test = np.split(X[order], [int(TRAINING_SHARE * len(X))])
    varies = np.array([len(x) - np.unique(x, return_counts=True)[1].max() > RARE * len(x) for x in train.T])
    binary = np.all((X == 0) | (X == 1), axis=0) & (table.kind != "real")
    return Split(train[:, varies], test[:, varies], binary[varies], log_prob)


# Tables of scikit-learn -----------------------------------------------------------------------------------------------


def _bundled(name):
    """Return a maker of one of scikit-learn's tables."""

    def make(rng):
        return Drawn(_sklearn(name).data)

    return make


def _sklearn(name):
    try:
        from sklearn import datasets
    except ImportError:
        raise ImportError("the benchmark of small tables needs scikit-learn: pip install scikit-learn") from None
    return getattr(datasets, f"load_{name}")()


def _dark_and_light_digits(rng):
    return Drawn((_sklearn("digits").data > 7).astype(float))


def _wine_with_class(rng):
    wine = _sklearn("wine")
    return Drawn(np.hstack([wine.data, np.eye(3)[wine.target]]))


# Tables with a known density ------------------------------------------------------------------------------------------


def _normal(x, mu, std):
    """Return the log-density of N(mu, std^2), summed over columns: (N, R) for x (N, D) and mu (R, D)."""
    squares = np.sum(x**2, 1)[:, None] - 2 * x @ mu.T + np.sum(mu**2, 1)
    return -0.5 * squares / std**2 - x.shape[1] * np.log(std * np.sqrt(2 * np.pi))


def _gaussian(x, covariance):
    factor = np.linalg.cholesky(covariance)
    z = np.linalg.solve(factor, x.T).T
    return -0.5 * np.sum(z**2, 1) - np.log(np.diag(factor)).sum() - 0.5 * x.shape[1] * np.log(2 * np.pi)


def _linear(rows, columns, factors):
    """Return a maker of ``z W + noise`` with standard normal factors z and noise of another size in each column."""

    def make(rng):
        W, std = rng.standard_normal((factors, columns)), rng.uniform(0.3, 0.9, columns)
        X = rng.standard_normal((rows, factors)) @ W + std * rng.standard_normal((rows, columns))
        return Drawn(X, lambda x: _gaussian(x, W.T @ W + np.diag(std**2)))

    return make


def _noise(rng):
    return Drawn(rng.standard_normal((500, 8)), lambda x: _gaussian(x, np.eye(8)))


def _heavy_tails(rng, df=4):
    """Draw from a multivariate Student's t with a dense scale matrix."""
    A = rng.standard_normal((8, 8)) / np.sqrt(8) + np.eye(8)
    D, shape = len(A), A.T @ A
    X = rng.standard_normal((1000, D)) @ A / np.sqrt(rng.chisquare(df, (1000, 1)) / df)

    def log_prob(x):
        squares = np.sum(x * np.linalg.solve(shape, x.T).T, 1)
        constant = gammaln((df + D) / 2) - gammaln(df / 2) - 0.5 * (D * np.log(df * np.pi))
        return constant - 0.5 * np.linalg.slogdet(shape)[1] - (df + D) / 2 * np.log1p(squares / df)

    return Drawn(X, log_prob)


def _clusters(rng):
    """Draw from eight Gaussians in six columns, of unequal weights and sizes."""
    centres, stds = 3 * rng.standard_normal((8, 6)), rng.uniform(0.3, 1.0, 8)
    weights = rng.dirichlet(np.full(8, 5.0))
    member = rng.choice(8, 1500, p=weights)
    X = centres[member] + stds[member, None] * rng.standard_normal((1500, 6))

    def log_prob(x):
        each = [np.log(w) + _normal(x, c[None], s) for w, c, s in zip(weights, centres, stds)]
        return logsumexp(np.hstack(each), axis=1)

    return Drawn(X, log_prob)


def _surface(rows, columns, std, sizes, place):
    """Return a maker of points on a curve or surface, rotated into more columns, with Gaussian noise in all of them.

    Parameters
    ----------
    rows, columns : int
    std : float, of the noise
    sizes : tuple of int
        Points of the grid of each of the uniform variables over which the density is integrated.
    place : callable
        From uniform variables (N, len(sizes)) to points with any number of columns.
    """

    def make(rng):
        U = rng.uniform(size=(rows, len(sizes)))
        points = place(U)
        rotation = np.linalg.qr(rng.standard_normal((columns, columns)))[0][: points.shape[1]]
        X = points @ rotation + std * rng.standard_normal((rows, columns))
        grid = np.array(list(itertools.product(*((np.arange(size) + 0.5) / size for size in sizes))))
        nodes = place(grid) @ rotation
        return Drawn(X, lambda x: logsumexp(_normal(x, nodes, std), axis=1) - np.log(len(nodes)))

    return make


def _ring(U):
    t = 2 * np.pi * U[:, 0]
    return 0.55 * np.stack([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], 1)


def _moons(U):
    upper, t = U[:, 0] < 0.5, np.pi * (2 * U[:, 0] % 1)
    sign = np.where(upper, 1, -1)
    return np.stack([sign * np.cos(t) + np.where(upper, 0, 1), sign * np.sin(t) + np.where(upper, 0, 0.5)], 1)


def _spiral(U):
    t = 1.0 + 9.0 * np.sqrt(U[:, 0])
    return np.stack([t * np.cos(t), t * np.sin(t)], 1) / 4


def _roll(U):
    t = 1.5 * np.pi * (1 + 2 * U[:, 0])
    return np.stack([t * np.cos(t), 21 * U[:, 1], t * np.sin(t)], 1) / 7


def _latent_nodes(dimensions, points):
    """Return nodes (R, dimensions) and log-weights (R,) of a quadrature for a standard normal z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    Z = np.array(list(itertools.product(nodes, repeat=dimensions)))
    log_weights = np.log(weights / weights.sum())
    return Z, np.sum(list(itertools.product(log_weights, repeat=dimensions)), 1)


def _bernoulli(x, logits):
    """Return log p(x) for zeros and ones, summed over columns: (N, R) for x (N, D) and logits (R, D)."""
    return x @ logits.T - np.sum(np.logaddexp(0, logits), 1)


def _factors_of_bits(rng):
    """Draw from a logistic model with four normal factors."""
    W, b = 1.5 * rng.standard_normal((4, 30)), rng.standard_normal(30)
    logits = rng.standard_normal((1000, 4)) @ W + b
    X = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    Z, log_weights = _latent_nodes(4, 14)
    return Drawn(X, lambda x: logsumexp(_bernoulli(x, Z @ W + b) + log_weights, axis=1))


def _mixed_columns(rng):
    """Draw six bits and six real columns from the same two factors, the real ones through a bend."""
    W, b, V = 2 * rng.standard_normal((2, 6)), rng.standard_normal(6), rng.standard_normal((4, 6))
    std = 0.3

    def heads(Z):
        return Z @ W + b, np.hstack([Z, np.sin(2 * Z)]) @ V

    logits, means = heads(rng.standard_normal((1000, 2)))
    bits = rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    X = np.hstack([bits, means + std * rng.standard_normal(means.shape)])
    Z, log_weights = _latent_nodes(2, 100)
    logits, means = heads(Z)
    return Drawn(
        X, lambda x: logsumexp(_bernoulli(x[:, :6], logits) + _normal(x[:, 6:], means, std) + log_weights, axis=1)
    )


def _counts(rng):
    """Draw Poisson counts with log-linear rates. With uniform noise, their density is the probability of the count."""
    W, b = 0.7 * rng.standard_normal((2, 10)), rng.uniform(0, 2, 10)
    counts = rng.poisson(np.exp(rng.standard_normal((1500, 2)) @ W + b))
    Z, log_weights = _latent_nodes(2, 60)
    log_rates = Z @ W + b

    def log_prob(x):
        n = np.floor(x)
        log_p = n @ log_rates.T - np.exp(log_rates).sum(1) - gammaln(n + 1).sum(1)[:, None]
        return logsumexp(log_p + log_weights, axis=1)

    return Drawn(counts + rng.uniform(size=counts.shape), log_prob)


#: The tables by name.
TABLES: dict[str, Table] = {
    "iris": Table("real", "design", "scikit-learn", _bundled("iris")),
    "breast_cancer": Table("real", "design", "scikit-learn", _bundled("breast_cancer")),
    "low_rank": Table("real", "design", "3 linear factors, Gaussian noise", _linear(1000, 12, 3)),
    "rings": Table("real", "design", "closed curve, noise 0.055", _surface(2000, 4, 0.055, (2000,), _ring)),
    "moons": Table("real", "design", "two moons, noise 0.1", _surface(1000, 6, 0.1, (2000,), _moons)),
    "clusters": Table("real", "design", "8 Gaussians of unequal size", _clusters),
    "counts": Table("real", "design", "Poisson with 2 factors, plus uniform noise", _counts),
    "noise": Table("real", "design", "independent columns", _noise),
    "binary": Table("binary", "design", "4 logistic factors", _factors_of_bits),
    "mixed": Table("mixed", "design", "6 bits and 6 real columns, 2 factors", _mixed_columns),
    "wine": Table("real", "report", "scikit-learn", _bundled("wine")),
    "diabetes": Table("real", "report", "scikit-learn", _bundled("diabetes")),
    "digits": Table("real", "report", "scikit-learn, 8 x 8 pixels", _bundled("digits")),
    "wide": Table("real", "report", "5 linear factors, Gaussian noise", _linear(200, 100, 5)),
    "few_rows": Table("real", "report", "2 linear factors, Gaussian noise", _linear(80, 10, 2)),
    "swiss_roll": Table("real", "report", "rolled surface, noise 0.1", _surface(2000, 8, 0.1, (400, 100), _roll)),
    "spiral": Table("real", "report", "spiral, noise 0.1", _surface(1500, 5, 0.1, (2000,), _spiral)),
    "heavy_tails": Table("real", "report", "multivariate t, 4 degrees of freedom", _heavy_tails),
    "binary_digits": Table("binary", "report", "pixels of digits above 7", _dark_and_light_digits),
    "wine_class": Table("mixed", "report", "wine with its class as 3 bits", _wine_with_class),
}
