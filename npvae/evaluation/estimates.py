"""What an estimator of log p(x) returns, and the arithmetic that all of them need."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..conventions import short_repr

Vector = NDArray[np.float64]


class Estimates(NamedTuple):
    """Estimates of log p(x), a value a row, with what says how far to believe them.

    Examples
    --------
    >>> found = Estimates(np.array([-90.2]), np.array([0.03]), {"effective sample size": np.array([812.0])})
    >>> found.diagnosis["effective sample size"][0] > 10
    np.True_
    """

    log_prob: Vector  # (N,) log p(x) in nats of the data as given
    error: Vector  # (N,) standard error of it, in nats
    diagnosis: dict[str, Vector]  # by name, (N,) each: see `log_likelihood.METHODS`

    def __repr__(self) -> str:
        return short_repr(self)


def log_mean_exp(log_values: NDArray) -> tuple[Vector, Vector]:
    """Return the logarithm of the mean of independent numbers, and its standard error.

    The error is that of the mean divided by the mean (the delta method), so it is one of the logarithm in nats.

    Parameters
    ----------
    log_values : array (n, ...)
        Logarithms of the numbers.

    Returns
    -------
    log_mean, error : arrays (...)
        The error of a single number is NaN.

    Examples
    --------
    >>> log_mean, error = log_mean_exp(np.log([1.0, 2.0, 3.0]))
    >>> float(np.exp(log_mean).round(12)), float((error * 2).round(12)) == float(np.sqrt(1 / 3).round(12))
    (2.0, True)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values, peak = _scaled(log_values)
        mean, n = values.mean(axis=-1), values.shape[-1]
        squares = ((values - mean[..., None]) ** 2).sum(axis=-1)
        deviation = np.sqrt(squares / (n - 1)) if n > 1 else mean * np.nan
        return np.where(peak > -np.inf, peak + np.log(mean), peak), deviation / (np.sqrt(n) * mean)


def effective_size(log_weights: NDArray) -> Vector:
    """Return the effective sample size (sum w)^2 / sum w^2 of weights, from their logarithms (n, ...): (...).

    Examples
    --------
    >>> effective_size(np.log([[1.0, 1.0], [1.0, 1e-9]])).round(6)
    array([2., 1.])
    """
    with np.errstate(invalid="ignore"):
        weights, _ = _scaled(log_weights)
        return weights.sum(axis=-1) ** 2 / (weights**2).sum(axis=-1)


def _scaled(log_values):
    """Return numbers (..., n) relative to the largest, from their logarithms (n, ...), and its logarithm (...).

    Those of a row of data are next to each other: NumPy then adds them in the same order whatever the other rows are.
    """
    by_row = np.ascontiguousarray(np.moveaxis(np.asarray(log_values, float), 0, -1))
    peak = by_row.max(axis=-1)
    return np.exp(by_row - peak[..., None]), peak
