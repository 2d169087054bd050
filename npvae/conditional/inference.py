"""Sample p(z | seen) of each row, and answer with the mean, the variance or draws of x."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..conventions import short_repr
from ..fitted import Fitted
from ..inference import LogJoint
from ..noise import RowNoise, key_of, key_of_content, occurrence
from ..parameters import Buffers
from ..samplers import effective_sample_size, split_rhat, tempering
from .columns import Columns, Outputs
from .observation import Observation

#: Chains for each row.
CHAINS = 16

#: Cells of x, of all chains, that are computed together, and the most rows.
TOGETHER, MOST_ROWS = 2**22, 500


class Inferred(NamedTuple):
    """What is known of each cell x. The columns are those of `Columns`.

    Examples
    --------
    >>> inferred = Inferred(np.array([[0.5]]), np.array([[0.25]]), np.zeros((0, 1, 1)), np.ones(1), np.array([300]))
    >>> inferred.rhat
    array([1.])
    """

    mean: NDArray[np.float64]  # (N, D) E[x | seen]
    variance: NDArray[np.float64]  # (N, D) Var[x | seen]
    draws: NDArray[np.float64]  # (n, N, D) of p(x | seen)
    rhat: NDArray[np.float64]  # (N,) the largest split R-hat of the latent dimensions and of log p(seen|z)
    size: NDArray[np.float64]  # (N,) the smallest of their effective sample sizes

    def __repr__(self) -> str:
        return short_repr(self)


def infer(
    fitted: Fitted,
    columns: Columns,
    observation: Observation,
    n_samples: int,
    *,
    n_draws: int = 0,
    seed: int = 0,
    told: Callable[[int, int], object] = lambda done, n_rows: None,
) -> Inferred:
    """Infer x from what was seen of it.

    z ~ p(z | seen) is sampled by `CHAINS` chains a row: see `samplers.tempering`. Mean and variance come from those of
    p(x | z, seen), which are known in closed form. Random weights are fixed at their means.

    Parameters
    ----------
    fitted : Fitted
    columns : Columns
    observation : Observation, of N rows
    n_samples : int
        Samples of z for each row, from all chains together.
    n_draws : int
        Draws of x for each row. They come from different samples of z, with as many more of these as it takes.
    seed : int
        The noise of a row is keyed by it and by what was seen; of rows that are alike, by their number, if there are
        draws.
    told : function
        Is called with the number of rows that are done, and of all.

    Returns
    -------
    Inferred

    Examples
    --------
    >>> import npvae
    >>> from npvae.conditional import Cells
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> columns = Columns.of(fitted.preprocessor, X.dtype)
    >>> x = columns.inward(X[:2])
    >>> x[:, 0] = np.nan
    >>> infer(fitted, columns, Cells.with_holes(columns, x), 100).variance.round(1)
    array([[1.1, 0. , 0. ],
           [1.1, 0. , 0. ]])
    """
    N, D = len(observation.content), len(columns.order)
    content = observation.content
    if n_draws:
        content = np.column_stack([content, occurrence(key_of_content(content, 0))])
    each, parts = -(-max(n_samples, n_draws) // CHAINS), []
    together = max(1, min(MOST_ROWS, TOGETHER // (CHAINS * D)))
    for first in range(0, N, together):
        rows = np.arange(first, min(first + together, N))
        parts.append(_Batch(fitted, columns, observation.take(rows), content[rows], seed).infer(each, n_draws))
        told(int(rows[-1]) + 1, N)
    mean, variance, draws, rhat, size = zip(*parts)
    of_rows = (np.concatenate(part) for part in (rhat, size))
    return Inferred(np.concatenate(mean), np.concatenate(variance), np.concatenate(draws, axis=1), *of_rows)


class _Batch:
    """Rows that are computed together."""

    def __init__(self, fitted, columns, observation, content, seed):
        self.fitted, self.columns, self.observation = fitted.with_missing(), columns, observation
        self.buffers, self.n_rows = Buffers(fitted.model.backend, fitted.model.dtype), len(content)
        self.noise = [RowNoise(content, int(key_of(seed, purpose))) for purpose in range(3)]

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # of rows without a density, which their size tells
    def infer(self, n_samples, n_draws):
        """Return what `Inferred` has, from so many samples of each chain."""
        J, (tempering_noise, chains, of_x) = self.fitted.model.architecture.n_components, self.noise
        shape = CHAINS, self.n_rows, J
        drawn = tempering.sample_posterior(
            self.log_likelihood(), shape, n_samples, tempering_noise.uniform, chains.uniform
        )
        quantities = np.concatenate([drawn.z, np.nan_to_num(drawn.log_likelihood)[..., None]], axis=3)
        sizes = np.stack([effective_sample_size(quantities[..., j]) for j in range(J + 1)])  # one by one, for memory
        rhat, size = np.fmax.reduce(split_rhat(quantities), axis=1), np.fmin.reduce(sizes, axis=0)
        size[~np.isfinite(drawn.log_likelihood).all(axis=(0, 1))] = 0  # the model gives the row no density
        return *self.moments(drawn.z), self.draws(drawn.z, n_draws, of_x.uniform), rhat, size

    def log_likelihood(self) -> LogJoint:
        """Return the function z -> log p(seen|z), up to a constant, and its gradient by z."""
        model, parameters, buffers = self.fitted.model, self.fitted.parameters, self.buffers
        known = model.backend.asarray(self.observation.known[:, : self.columns.n_in_model], model.dtype)

        def function(z):
            z = model.backend.asarray(z, model.dtype)
            decoded, dz = model.decode(parameters, z, buffers), buffers("dz", *z.shape)
            value = model.log_likelihood(known, decoded, buffers.full(1.0, len(z)), buffers)
            value = np.array(model.backend.to_numpy(value), float)
            if (more := self.observation.log_prob(self.outputs(decoded))) is not None:
                value += more[0].ravel()
                for head, gradient in zip(model.likelihood.heads, decoded.doutputs):
                    change = getattr(more[1], head.name)[:, :, : gradient.shape[1]].reshape(gradient.shape)
                    gradient[...] = (model.backend.to_numpy(gradient) + change).astype(model.dtype)
            model.decoder.backward(parameters, z, decoded, None, buffers, dz)
            return value, np.array(model.backend.to_numpy(dz), float)

        return function

    def outputs(self, decoded) -> Outputs:
        """Return the decoder's outputs on the host."""
        model = self.fitted.model
        arrays = [model.backend.to_numpy(output) for output in decoded.outputs]
        return self.columns.outputs(model.likelihood, arrays, self.n_rows)

    def decode(self, z) -> Outputs:
        """Decode z (L, M, J)."""
        model = self.fitted.model
        z = model.backend.asarray(z.reshape(-1, z.shape[2]), model.dtype)
        return self.outputs(model.decode(self.fitted.parameters, z, self.buffers))

    def moments(self, z):
        """Return mean and variance (M, D) from samples z (n, L, M, J): those of p(x | z, seen), averaged.

        By the law of total variance, that of the means is added.
        """
        centre = self.observation.moments(self.decode(z[0]))[0][0].astype(float)
        first, within, second = (np.zeros_like(centre) for _ in range(3))
        for of_chains in z:
            mean, variance = self.observation.moments(self.decode(of_chains))
            off = mean - centre
            first += off.sum(axis=0)
            second += (off**2).sum(axis=0)
            within += variance.sum(axis=0, dtype=float)
        n = z.shape[0] * z.shape[1]
        return centre + first / n, within / n + np.maximum(second / n - (first / n) ** 2, 0)

    def draws(self, z, n_draws, uniform):
        """Return draws of x (n_draws, M, D), each from another sample of z, spread over chains and samples."""
        (n, L), drawn = z.shape[:2], np.empty((n_draws, self.n_rows, len(self.columns.order)))
        places = np.linspace(n - 1, 0, -(-n_draws // L)).round().astype(int)
        for first, place in zip(range(0, n_draws, L), places):
            some = z[place, : min(L, n_draws - first)]
            numbers = lambda shape: uniform(shape).reshape(shape[0], self.n_rows, shape[1])
            drawn[first : first + L] = self.observation.draw(self.decode(some), numbers)
        return drawn
