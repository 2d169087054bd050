"""log p(x) by annealed importance sampling (Neal, 2001), and the sandwich that says how close it is (Wu et al., 2017).

Samples of a first density f_0 with a known integral are moved towards the posterior through intermediate densities

    f_beta(z) = f_0(z)^(1 - beta) p(x, z)^beta,    beta = 0, ..., 1,

by a transition of Hamiltonian Monte Carlo at each. The factors by which the density at a sample changes, when beta
does, multiply to its weight: w = prod_t f_(beta_t)(z_t) / f_(beta_(t-1))(z_t). The mean weight is an unbiased estimate
of p(x), whether or not the chains keep up, so its logarithm is low on average. Backwards, from an exact sample of the
posterior, the mean of 1 / w is an unbiased estimate of 1 / p(x), and that of log p(x) is high on average. Exact samples
there are for data that was drawn from the model.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from ..backends.reference import LOG_2PI
from ..conventions import array_of_shape, check_choice, check_number, short_repr
from ..fitted import BATCH, Fitted
from ..noise import RowNoise
from ..parameters import Buffers
from ..preprocessing import Data, Scaling
from ..samplers import Noise, State, transition
from .estimates import Estimates, effective_size, log_mean_exp
from .standardized import Standardized

#: Acceptance that step sizes are adapted to, and how fast: the change of a logarithm for an acceptance off by 1.
TARGET, RATE = 0.65, 1.0

#: The adaptation is a run of its own with this part of the densities.
PILOT = 0.1

#: The step size at the first density, N(0, I).
FIRST_STEP = 0.5


def schedule(n_densities: int) -> NDArray[np.float64]:
    """Return beta_0 = 0, ..., beta_T = 1: sigmoids of -4 to 4, rescaled to [0, 1] (Wu et al., 2017).

    Near both ends, where the densities change fastest, they are closest.

    Examples
    --------
    >>> schedule(4).round(3)
    array([0.   , 0.105, 0.5  , 0.895, 1.   ])
    """
    sigmoids = expit(np.linspace(-4, 4, n_densities + 1))
    return (sigmoids - sigmoids[0]) / (sigmoids[-1] - sigmoids[0])


def annealed_importance_sampling(
    fitted: Fitted,
    data: Data,
    n_samples: int,
    *,
    n_densities: int = 500,
    n_leapfrog: int = 2,
    start: str | None = None,
    z: NDArray[np.float64] | None = None,
) -> Estimates:
    """Estimate log p(x) by annealed importance sampling, forward from f_0, or backwards from samples of the posterior.

    Each row has its own step sizes, with which a first run, of a tenth (`PILOT`) of the densities and with noise of its
    own, has the acceptance `TARGET`. In the run that is reported they are fixed, so its mean weight is unbiased.
    (Where step sizes are adapted in the run itself, as Wu et al. do, it is so only nearly.)

    Parameters
    ----------
    fitted : Fitted
    data : Data
    n_samples : int
        Chains for each row.
    n_densities : int
        The T: steps of beta from 0 to 1. Wu et al. take 10000.
    n_leapfrog : int
        Leapfrog steps of each transition. For as many calls of log p(x, z), many densities with two steps each give a
        smaller error than few with ten.
    start : {"encoder", "prior"}, optional
        The f_0: a Gaussian with the mean and the variance of q(z|x), or the prior p(z). By default q(z|x), if the model
        has an encoder: it is so much closer to the posterior that a tenth of the densities will do.
    z : array (N, J), optional
        An exact sample of p(z|x) for each row. Its chains all begin there, part by transitions that leave p(z|x) as it
        is, another tenth of their number, and are annealed backwards.

    Returns
    -------
    Estimates
        Low on average; with ``z`` high on average. ``diagnosis`` has the "effective sample size" (sum w)^2 / sum w^2 of
        the weights.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> found = annealed_importance_sampling(fitted, fitted.data(X[:5]), n_samples=20, n_densities=50)
    >>> bool(np.all(found.error < 0.05))
    True
    """
    for name, number in ("n_samples", n_samples), ("n_densities", n_densities), ("n_leapfrog", n_leapfrog):
        check_number(name, number, np.integer, 1)
    if start is not None:
        check_choice("start", start, ("encoder", "prior"))
    if start == "encoder" and not fitted.model.architecture.has_encoder:
        raise ValueError("start is 'encoder', but the model has none; expected 'prior'")
    model, (N, J) = fitted.model, (len(data.X), fitted.model.architecture.n_components)
    if z is not None:
        z = array_of_shape("z", z, (N, J), ", a sample for each row")
    buffers, together, found = Buffers(model.backend, model.dtype), max(1, BATCH // n_samples), []
    for first in range(0, N, together):
        rows = np.arange(first, min(first + together, N))
        x = model.gather(data, rows, buffers)
        noise = RowNoise(model.backend.to_numpy(x), fitted.seed)
        chains = _Chains(Standardized(fitted, x, start), noise, n_samples, n_leapfrog)
        steps, betas = chains.step_sizes(n_densities), schedule(n_densities)
        if z is None:
            log_weights = chains.anneal(chains.of_first_density(), betas, steps)
        else:  # at first with the posterior itself, in which the chains part
            back = np.append(np.full(_pilot(n_densities), n_densities), np.arange(n_densities, -1, -1))
            log_weights = chains.anneal(chains.at(z[rows]), betas[back], steps[back])
        found.append((*log_mean_exp(log_weights), effective_size(log_weights)))
    log_mean, error, size = (np.concatenate(parts) for parts in zip(*found))
    log_prob = log_mean if z is None else -log_mean
    return Estimates(log_prob + data.offset, error, {"effective sample size": size})


class Sandwich(NamedTuple):
    """What `sandwich` returns.

    Examples
    --------
    >>> low, high = (Estimates(np.array([value]), np.array([0.1]), {}) for value in (-90.3, -90.0))
    >>> Sandwich(np.zeros((1, 3)), np.zeros((1, 2)), low, high).gap.round(1)
    array([0.3])
    """

    x: NDArray[np.float64]  # (N, D) drawn from the model, scaled as it is for the model
    z: NDArray[np.float64]  # (N, J) what it was drawn with: an exact sample of p(z|x)
    lower: Estimates  # of log p(x), low on average
    upper: Estimates  # high on average

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def gap(self) -> NDArray[np.float64]:
        """The difference of the two (N,), in nats: on average, neither is further from log p(x)."""
        return self.upper.log_prob - self.lower.log_prob


def sandwich(fitted: Fitted, n_rows: int, n_samples: int = 16, **settings: Any) -> Sandwich:
    """Draw data from the model, and put log p(x) of it between a forward and a backward estimate.

    The mean of ``gap`` is on average at least the error of the forward estimate on such data. If it is small, the same
    number of densities is likely to do on real data.

    Parameters
    ----------
    fitted : Fitted
        Random weights are fixed at their means.
    n_rows : int
        Number of datapoints. They are the same for the same ``fitted.seed``.
    n_samples : int
        Chains for each datapoint, and as many for each backwards.
    **settings
        ``n_densities``, ``n_leapfrog`` and ``start``: see `annealed_importance_sampling`.

    Returns
    -------
    Sandwich

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> found = sandwich(npvae.VAE(1, **settings).fit(X).fitted_, n_rows=20, n_densities=50)
    >>> bool(abs(found.gap.mean()) < 0.05)
    True
    """
    check_number("n_rows", n_rows, np.integer, 1)
    model, rng = fitted.model, fitted.generator("sandwich")
    z = rng.standard_normal((n_rows, model.architecture.n_components))
    decoded = model.decode(
        fitted.parameters, model.backend.asarray(z, model.dtype), Buffers(model.backend, model.dtype)
    )
    x = model.likelihood.draw(rng, [model.backend.to_numpy(output) for output in decoded.outputs])
    data = Data(x, Scaling(np.zeros(x.shape[1]), np.ones(x.shape[1])), 0.0, np.zeros(n_rows))
    lower = annealed_importance_sampling(fitted, data, n_samples, **settings)
    upper = annealed_importance_sampling(
        replace(fitted, seed=int(rng.integers(2**63))), data, n_samples, **settings, z=z
    )
    return Sandwich(x, z, lower, upper)


# The chains -----------------------------------------------------------------------------------------------------------


def _pilot(n_densities):
    return max(2, round(PILOT * n_densities))


class _Chains:
    """L chains for each of M rows, in the coordinates in which f_0 is N(0, I).

    Arrays of chains have L * M rows; row ``l * M + i`` belongs to datapoint i.
    """

    def __init__(self, log_density, noise, L, n_leapfrog):
        self.log_density, self.noise, self.n_leapfrog = log_density, noise, n_leapfrog
        self.shape = L, *log_density.mu.shape

    def of_first_density(self):
        """Draw u from N(0, I)."""
        return ndtri(self.noise.uniform((self.shape[0], self.shape[2])))

    def at(self, z):
        """Return the u of z (M, J), the same for all chains of a row."""
        return np.tile(self.log_density.at(z), (self.shape[0], 1))

    def step_sizes(self, n_densities):
        """Return step sizes for betas 0 to 1, (n_densities + 1, M), from a run with fewer densities."""
        betas = schedule(_pilot(n_densities))
        steps = np.full((len(betas), self.shape[1]), FIRST_STEP)
        self.anneal(self.of_first_density(), betas, steps, adapt=True)
        return steps[np.linspace(0, len(betas) - 1, n_densities + 1).round().astype(int)]

    @np.errstate(over="ignore", invalid="ignore")  # rows whose density is not finite
    def anneal(self, u, betas, steps, adapt=False):
        """Move u from the first of the betas to the last, with the step sizes (betas, M) at each; return log w (L, M).

        With ``adapt``, the step sizes after the first are overwritten, each as the one before it lets expect.
        """
        (L, M, J), log_weights, bridge = self.shape, np.zeros(len(u)), _Bridge(self.log_density)
        value, slope = self.log_density(u)
        for k, (before, beta) in enumerate(pairwise(betas), start=1):
            log_weights += (beta - before) * (value - _log_normal(u))
            if k == len(betas) - 1:
                return log_weights.reshape(L, M)
            bridge.beta = beta
            state, noise = State(u, *bridge.between(u, value, slope)), Noise.of_uniform(self.noise.uniform((L, J + 2)))
            (u, _, _), info = transition(bridge, state, noise, np.tile(steps[k], L), self.n_leapfrog)
            value = np.where(info.accepted, bridge.value, value)
            slope = np.where(info.accepted[:, None], bridge.slope, slope)
            if adapt:
                acceptance = info.acceptance.reshape(L, M).mean(axis=0)
                steps[k + 1] = steps[k] * np.exp(RATE * (acceptance - TARGET))


class _Bridge:
    """The density N(u; 0, I)^(1 - beta) exp(log_p(u))^beta; remembers the last values of log_p and its gradient."""

    def __init__(self, log_density):
        self.log_density, self.beta = log_density, 0.0

    def __call__(self, u):
        self.value, self.slope = self.log_density(u)
        return self.between(u, self.value, self.slope)

    def between(self, u, value, slope):
        """Return the log density at u and its gradient, from those of log_p."""
        return (1 - self.beta) * _log_normal(u) + self.beta * value, self.beta * slope - (1 - self.beta) * u


def _log_normal(u):
    return -0.5 * (np.einsum("rj,rj->r", u, u) + LOG_2PI * u.shape[1])
