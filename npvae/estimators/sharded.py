"""An estimator on many processes: a minibatch is cut into *shards*, each rank computes some, and all have the sum.

The bits do not depend on the number of ranks: a minibatch has the same shards for any of them, each shard has its own
noise, and the sum of the shards' gradients rounds nothing (`backends.exact_sum`). Every rank has the sum, takes the
same step, and has the same parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.interface import Array
from ..parallel import ALONE, Alone
from ..parameters import Buffers, Parameters
from ..preprocessing import Data
from .interface import Estimator, Result

#: Rows of a shard, and the fewest and the most shards of a minibatch. More shards let more ranks work; each costs a
#: pass over the gradient, and keeps one in memory.
ROWS, FEWEST, MOST = 250, 4, 64


def n_shards(batch_size: int, parallel: Alone = ALONE) -> int:
    """Return into how many shards minibatches of so many rows are cut: at most so many ranks can work on them.

    For an exact sum, it does not depend on the ranks. Otherwise each rank has one.

    Examples
    --------
    >>> [n_shards(size) for size in (100, 1000, 10_000, 100_000)]
    [4, 4, 40, 64]
    """
    return min(MOST, max(FEWEST, batch_size // ROWS)) if parallel.exact_sum else parallel.size


class Shard(NamedTuple):
    """A part of a minibatch that this rank computes.

    Examples
    --------
    >>> shard = Shard(number=1, share=0.25, rows=np.arange(25), x=np.zeros((25, 784)))
    >>> len(shard.x)
    25
    """

    number: int  # among those of the minibatch
    share: float  # of the rows of the minibatch
    rows: NDArray[np.int64]  # (m,) of the training data
    x: Array  # (m, D)


class Sharded:
    """An estimator whose value and gradient are those of a minibatch that many ranks compute.

    The methods are those of `interface.Estimator`, and all ranks call each of them. The x of a minibatch are the
    `Shard` of this rank, from `gather`; samples are a list for these. Noise is a key, from which each shard draws its
    own: no rank draws that of others.

    Parameters
    ----------
    make : callable () -> Estimator
        Makes the estimator of a shard, with buffers and a gradient of its own.
    parallel : Alone or Team
    batch_size : int

    Attributes
    ----------
    n_shards : int

    Examples
    --------
    A team of one rank, and a minibatch of 20 rows in four shards:

    >>> from npvae import backends
    >>> from npvae.estimators import SGVB
    >>> from npvae.model import Architecture, Model
    >>> from npvae.preprocessing import Scaling
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"))
    >>> estimator, rng = Sharded(lambda: SGVB(model), ALONE, batch_size=20), np.random.default_rng(0)
    >>> data = Data(rng.random((100, 3)), Scaling(np.zeros(3), np.ones(3)), 0.0, np.zeros(100))
    >>> parameters, rows = model.parameters(np.zeros(model.layout.size)), rng.permutation(100)[:20]
    >>> x = estimator.gather(data, rows)
    >>> [shard.share for shard in x]
    [0.25, 0.25, 0.25, 0.25]
    >>> samples, _ = estimator.sample(parameters, x, rows, estimator.draw(rng, len(rows)))
    >>> bool(np.isclose(estimator.value_and_grad(parameters, x, samples).elbo, 3 * np.log(0.5)))
    True
    """

    runs_ahead = False

    def __init__(self, make: Callable[[], Estimator], parallel: Any, batch_size: int) -> None:
        self._parallel = parallel
        self.n_shards = n_shards(batch_size, parallel)
        first, last = (self.n_shards * n // parallel.size for n in (parallel.rank, parallel.rank + 1))
        self._parts = {number: make() for number in range(first, last)}  # the estimators of this rank, by shard
        one: Any = next(iter(self._parts.values()), None) or make()
        self.model, self.State, self.updates_per_sample = one.model, one.State, one.updates_per_sample
        self._one, self._gradient = one, self.model.gradient()
        self._buffers = {number: Buffers(self.model.backend, self.model.dtype) for number in self._parts}
        layout = self.model.layout
        self._starts = np.array([part.start for part in layout.slices.values()] + [layout.size])
        self._terms = np.zeros((2, self.n_shards))
        self._total = np.zeros(layout.size + self._terms.size if parallel.exact_sum else 0)

    def gather(self, data: Data, rows: NDArray[np.int64], keys: NDArray[np.uint64] | None = None) -> list[Shard]:
        """Return this rank's shards of a minibatch, given its rows (M,) and their keys: see `Model.gather`.

        The rows are sorted first. So each rank reads about the same part of the data in each minibatch, which for data
        on disk are the only pages that it needs.
        """
        order, M, shards = np.argsort(rows, kind="stable"), len(rows), []
        for number, buffers in self._buffers.items():
            part = order[M * number // self.n_shards : M * (number + 1) // self.n_shards]
            if len(part):
                x = self.model.gather(data, rows[part], buffers, None if keys is None else keys[part])
                shards.append(Shard(number, len(part) / M, rows[part], x))
        return shards

    def draw(self, rng: np.random.Generator, n_rows: int) -> int:
        """Draw the key of a minibatch's noise."""
        return int(rng.integers(2**63))

    def sample(
        self, parameters: Parameters, x: list[Shard], rows: Any, noise: int, state: Any = None
    ) -> tuple[list, Any]:
        """Sample each shard, and merge the states of the estimator after them."""
        samples, after = [], []
        for shard in x:
            estimator = self._parts[shard.number]
            eps = estimator.draw(np.random.default_rng([noise, shard.number]), len(shard.rows))
            drawn, new = estimator.sample(parameters, shard.x, shard.rows, eps, state)
            samples.append(drawn)
            if self.State is not None:
                after.append((shard.rows, self._one.part_of(new, shard.rows)))
        if self.State is None:
            return samples, None
        parts = [part for of_rank in self._parallel.gather(after) for part in of_rank]
        return samples, self._one.merged(state, parts)

    def value_and_grad(self, parameters: Parameters, x: list[Shard], samples: list) -> Result:
        """Return the value, the bound and the gradient of the minibatch: of the shards, weighted by their rows."""
        results = [self._parts[s.number].value_and_grad(parameters, s.x, drawn) for s, drawn in zip(x, samples)]
        gradients, shares = [result.gradient.vector for result in results], np.array([shard.share for shard in x])
        # Each shard has a place of its own for its value and its bound: all ranks add them in the order of the shards.
        self._terms[:] = 0
        for shard, result in zip(x, results):
            self._terms[:, shard.number] = shard.share * result.value, shard.share * result.elbo
        if self._parallel.exact_sum:
            self._add_exactly(gradients, shares)
        else:
            self._add(gradients, shares)
        value, elbo = (sum(numbers.tolist()) for numbers in self._terms)
        return Result(value, elbo, self._gradient)

    def _add_exactly(self, gradients, shares):
        """Set the gradient to the sum over all shards, and the terms to those of all shards."""
        from ..backends import exact_sum  # compiled: `import npvae` loads no compiler

        largest = np.zeros(len(self._starts) - 1)
        if gradients:
            largest = exact_sum.largest(gradients, self._starts)
        rounders = exact_sum.rounders(self._parallel.max(largest), self.n_shards)
        of_gradient, of_terms = np.split(self._total, [len(self._gradient.vector)])
        if gradients:
            exact_sum.add_up(gradients, shares, self._starts, rounders, of_gradient)
        else:
            of_gradient[:] = 0
        of_terms[:] = self._terms.reshape(-1)
        self._parallel.sum(self._total)
        self._gradient.vector[:], self._terms[:] = of_gradient, of_terms.reshape(self._terms.shape)

    def _add(self, gradients, shares):
        """Do so where a rank has one shard at most, whose sum MPI rounds in an order of its own."""
        self._gradient.vector[:] = 0
        for gradient, share in zip(gradients, shares):
            np.multiply(gradient, gradient.dtype.type(share), out=self._gradient.vector)
        self._parallel.sum(self._gradient.vector)
        self._parallel.sum(self._terms)

    def places(self, parameters: Parameters, x: list[Shard], samples: list) -> list:
        """List (name, array) of what is computed, on any rank: the array is one number, NaN if one of it is."""
        of_shards = []
        for shard, drawn in zip(x, samples):
            places = self._parts[shard.number].places(parameters, shard.x, drawn)
            of_shards.append([(name, 0.0 if np.all(np.isfinite(array)) else np.nan) for name, array in places])
        # Each place of all shards, before the next one: an earlier layer of any shard comes before a later one.
        same_places = zip(*(places for of_rank in self._parallel.gather(of_shards) for places in of_rank), strict=True)
        return [(name, np.array([number])) for places in same_places for name, number in places]
