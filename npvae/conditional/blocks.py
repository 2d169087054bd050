"""Averages of blocks of cells, such as those of a picture at a lower resolution, and no cell itself.

The average of Gaussian cells is Gaussian, and so is p(x | z, average). Of binary cells, the average says how many of a
block's n cells are 1. This number has a Poisson binomial distribution, which is computed exactly. A number between two
integers counts as both, in the shares whose mean it is. For n = 1, this is how the Bernoulli likelihood takes grey
values.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ..backends.reference import LOG_2PI, sigmoid, softplus
from ..conventions import short_repr
from .columns import Outputs
from .observation import Uniform

#: Numbers of binary cells that are computed together: so few that what is kept of them stays in the processor's cache.
TOGETHER = 2**19

#: Most binary cells in a block: the probabilities of more may be too small for a float.
MOST_CELLS = 1000


@dataclass(frozen=True, repr=False)
class Blocks:
    """What the observations of blocks share: a number of each block was seen, and no cell.

    Examples
    --------
    >>> Blocks(np.array([[3.0], [1.0]]), np.array([[0, 1]])).take(np.array([1]))
    Blocks(seen=array([[1.]]), cells=array([[0, 1]]))
    """

    seen: NDArray[np.float64]  # (M, K); NaN: not seen
    cells: NDArray[np.int64]  # (K, n) the cells of each block; every cell is in one

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def content(self) -> NDArray:
        """See `Observation.content`."""
        return self.seen

    @property
    def known(self) -> NDArray:
        """See `Observation.known`."""
        return np.full((len(self.seen), self.cells.size), np.nan)

    def take(self, rows: NDArray) -> Self:
        """See `Observation.take`."""
        return replace(self, seen=self.seen[rows])


@dataclass(frozen=True, repr=False)
class RealBlocks(Blocks):
    """Weighted sums of Gaussian cells: see `Observation`.

    Examples
    --------
    Two cells N(0, 1) whose average is 3:

    >>> blocks = RealBlocks(np.array([[3.0]]), np.array([[0, 1]]), np.array([0.5, 0.5]))
    >>> outputs = Outputs(np.zeros((1, 1, 0)), np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    >>> [array.tolist() for array in blocks.moments(outputs)]
    [[[[3.0, 3.0]]], [[[0.5, 0.5]]]]
    """

    weight: NDArray[np.float64]  # (D,)

    def log_prob(self, outputs: Outputs) -> tuple[NDArray, Outputs]:
        """See `Observation.log_prob`."""
        variance = self.weight**2 * np.exp(outputs.log_var)
        total, error = self._sums(variance), self._errors(self.weight * outputs.mu)
        is_seen = ~np.isnan(self.seen)
        squared = error**2 / total
        value = np.where(is_seen, -0.5 * (LOG_2PI + np.log(total) + squared), 0.0)
        dlog_var = 0.5 * variance * self._to_cells(np.where(is_seen, (squared - 1) / total, 0.0))
        return value.sum(axis=2), Outputs(outputs.logits, self.weight * self._to_cells(error / total), dlog_var)

    def moments(self, outputs: Outputs) -> tuple[NDArray, NDArray]:
        """See `Observation.moments`."""
        gain, variance = self._gain(outputs), np.exp(outputs.log_var)
        error = self._to_cells(self._errors(self.weight * outputs.mu))
        return outputs.mu + gain * error, variance * np.maximum(1 - gain * self.weight, 0)

    def draw(self, outputs: Outputs, uniform: Uniform) -> NDArray:
        """See `Observation.draw`. A draw of p(x|z) is moved to the average that was seen."""
        noise = ndtri(uniform((len(outputs.mu), outputs.mu.shape[2])))
        x = outputs.mu + np.exp(outputs.log_var / 2) * noise
        return x + self._gain(outputs) * self._to_cells(self._errors(self.weight * x))

    def _gain(self, outputs):
        """Return by how much each cell moves when its sum does (L, M, D); 0 where the sum was not seen."""
        variance = np.exp(outputs.log_var)
        gain = self.weight * variance / self._to_cells(self._sums(self.weight**2 * variance))
        return np.where(self._to_cells(~np.isnan(self.seen)[None]), gain, 0.0)

    def _sums(self, x):
        return x[:, :, self.cells].sum(axis=3)

    def _errors(self, x):
        """Return the sums seen less those of x (L, M, D); 0 where none was seen."""
        return np.nan_to_num(self.seen - self._sums(x))

    def _to_cells(self, of_blocks):
        """Return for each cell the number of its block: (L, M, D) of (L, M, K)."""
        return _to_cells(np.broadcast_to(of_blocks[..., None], (*of_blocks.shape, self.cells.shape[1])), self.cells)


@dataclass(frozen=True, repr=False)
class BinaryBlocks(Blocks):
    """Numbers of binary cells that are 1, from 0 to n: see `Observation`.

    Examples
    --------
    Of two cells, which are 1 with probabilities 1/2 and 3/4, one is 1:

    >>> blocks = BinaryBlocks(np.array([[1.0]]), np.array([[0, 1]]))
    >>> outputs = Outputs(np.array([[[0.0, np.log(3)]]]), np.zeros((1, 1, 0)), np.zeros((1, 1, 0)))
    >>> float(np.exp(blocks.log_prob(outputs)[0][0, 0]).round(12))  # 1/2 1/4 + 1/2 3/4
    0.5
    >>> blocks.moments(outputs)[0].round(12)
    array([[[0.25, 0.75]]])
    """

    def log_prob(self, outputs: Outputs) -> tuple[NDArray, Outputs]:
        """See `Observation.log_prob`. The gradient is that of an exponential family: E[x | z, seen] - E[x|z]."""
        logits = outputs.logits[:, :, self.cells].astype(float)
        log_prob, mean = self._inferred(logits)
        dlogits = _to_cells(mean - sigmoid(logits), self.cells)
        return log_prob.sum(axis=2), Outputs(dlogits, outputs.mu, outputs.log_var)

    def moments(self, outputs: Outputs) -> tuple[NDArray, NDArray]:
        """See `Observation.moments`."""
        mean = _to_cells(self._inferred(outputs.logits[:, :, self.cells].astype(float))[1], self.cells)
        return mean, mean * (1 - mean)

    def draw(self, outputs: Outputs, uniform: Uniform) -> NDArray:
        """See `Observation.draw`. Cell by cell, with the number that is left for those before it."""
        logits = outputs.logits[:, :, self.cells].astype(float)
        (L, M, K, n), D = logits.shape, self.cells.size
        u = uniform((L, D + K)).reshape(L, M, D + K)
        count = np.floor(np.nan_to_num(self.seen) + u[:, :, D:]).astype(np.int64)
        by_cell = _draw_given_count(logits.reshape(-1, n), count.ravel(), u[:, :, :D].reshape(-1, n)).reshape(
            logits.shape
        )
        free = u[:, :, :D].reshape(logits.shape) < sigmoid(logits)
        return _to_cells(np.where(np.isnan(self.seen)[..., None], free, by_cell).astype(float), self.cells)

    def _inferred(self, logits):
        """Return log p(seen|z) (L, M, K) and E[x | z, seen] (L, M, K, n) of cells with logits (L, M, K, n)."""
        is_seen, n = ~np.isnan(self.seen), self.cells.shape[1]
        lower = np.minimum(np.floor(np.nan_to_num(self.seen)), n - 1).astype(np.int64)
        log_prob, mean = poisson_binomial(logits, lower, np.nan_to_num(self.seen) - lower)
        return np.where(is_seen, log_prob, 0.0), np.where(is_seen[..., None], mean, sigmoid(logits))


def poisson_binomial(logits: NDArray, lower: NDArray, share: NDArray) -> tuple[NDArray, NDArray]:
    """Return the log-probability of how many of n independent binary cells are 1, and the means of the cells then.

    Parameters
    ----------
    logits : array (L, ..., n)
    lower : array of int (...)
        A number from 0 to n - 1.
    share : array (...)
        From 0 to 1, the share with which lower + 1 counts, and lower with the rest of it.

    Returns
    -------
    log_prob : array (L, ...)
        (1 - share) log P(lower) + share log P(lower + 1)
    mean : array (L, ..., n)
        (1 - share) E[x | lower are 1] + share E[x | lower + 1 are 1]

    Examples
    --------
    >>> log_prob, mean = poisson_binomial(np.zeros((1, 2)), np.array(0), np.array(0.5))
    >>> float(np.exp(2 * log_prob[0]).round(12)), mean.round(12).tolist()  # P(0) P(1) = 1/4 1/2
    (0.125, [[0.25, 0.25]])
    """
    n, log_prob, mean = logits.shape[-1], np.empty(logits.shape[:-1]), np.empty(logits.shape)
    flat = logits.reshape(-1, n), *(np.broadcast_to(part, log_prob.shape).ravel() for part in (lower, share))
    values, means = log_prob.reshape(-1), mean.reshape(-1, n)
    step = max(TOGETHER // n**2, 16)
    for first in range(0, len(values), step):
        part = slice(first, first + step)
        values[part], means[part] = _of_blocks(*(array[part] for array in flat))
    return log_prob, mean


def _of_blocks(logits, lower, share):
    """Do what `poisson_binomial` does for logits (R, n), lower (R,) and share (R,)."""
    tilt, (R, n) = _tilt(logits, lower + 1), logits.shape
    y, prefixes = _prefixes(logits, tilt)
    rows, last = np.arange(R), prefixes[n]
    # P(k) without the tilt t is P_t(k) exp(-t k) prod (1 + exp(l + t)) / (1 + exp(l))
    change = (softplus(logits + tilt[:, None]) - softplus(logits)).sum(axis=1)
    log_prob, slope = change - tilt * (lower + share), np.zeros_like(last)
    for count, weight in (lower, 1 - share), (lower + 1, share):
        log_prob += weight * np.log(last[count, rows])
        slope[count, rows] = weight / last[count, rows]  # of log_prob by the last prefix; below, by those before it
    mean = np.empty((n, R))
    for i in range(n - 1, -1, -1):
        mean[i] = y[i] * np.einsum("jr,jr->r", slope[1 : i + 2], prefixes[i])
        slope[: i + 1] += y[i] * (slope[1 : i + 2] - slope[: i + 1])
    return log_prob, np.clip(mean.T, 0, 1)  # beyond by rounding


def _draw_given_count(logits, count, u):
    """Draw binary cells (R, n) of which so many are 1, (R,): from the last one to the first."""
    (R, n), count = logits.shape, count.copy()
    y, prefixes = _prefixes(logits, _tilt(logits, count))
    rows, x = np.arange(R), np.empty(logits.shape, bool)
    for i in range(n - 1, -1, -1):
        others = np.where(count > 0, prefixes[i][np.clip(count - 1, 0, i), rows], 0)
        x[:, i] = u[:, i] * prefixes[i + 1][np.minimum(count, i + 1), rows] < y[i] * others
        count -= x[:, i]
    return x


def _tilt(logits, count):
    """Return what is added to all logits (R, n), so that those of the ``count`` largest are above 0, and no others.

    Given the number of cells that are 1, it does not change their distribution. With it, no probability that is needed
    is below 2^-n, and nothing underflows.
    """
    R, n = logits.shape
    return -np.sort(logits, axis=1)[np.arange(R), np.clip(n - count, 0, n - 1)]


def _prefixes(logits, tilt):
    """Return y = sigmoid(logits + tilt) (n, R), and for each i the probabilities (i + 1, R) of how many of i are 1."""
    y = np.ascontiguousarray(sigmoid(logits + tilt[:, None]).T)
    prefixes = [np.ones((1, len(logits)))]
    for i, y_i in enumerate(y):
        longer = np.zeros((i + 2, len(logits)))
        np.multiply(prefixes[i], y_i, out=longer[1:])
        longer[:-1] += (1 - y_i) * prefixes[i]
        prefixes.append(longer)
    return y, prefixes


def _to_cells(of_blocks, cells):
    """Return numbers of blocks (L, M, K, n) in the order of the cells, (L, M, D)."""
    x = np.empty((*of_blocks.shape[:2], cells.size), of_blocks.dtype)
    x[:, :, cells] = of_blocks
    return x
