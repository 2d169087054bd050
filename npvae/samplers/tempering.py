"""Sample posteriors p(z|x) for many x at once: tempering from the prior N(0, I), then Hamiltonian Monte Carlo.

A few chains a row begin with samples of the prior, and are led to the posterior through the densities

    f_beta(z) = N(z; 0, I) p(x|z)^beta,    beta = 0, ..., 1,

as the particles of a sequential Monte Carlo sampler (Del Moral, Doucet and Jasra, 2006): the weights that a step of
beta gives decide which particles go on, and how often, and a transition moves each. So the particles find every mode of
the posterior that the prior reaches, in the proportion of its mass; chains that begin near one mode would stay there.
Afterwards the particles are chains of plain Hamiltonian Monte Carlo, whose draws are kept.

Everything is decided for each row by itself, and the noise of a row is an argument: a result does not depend on the
other rows. The sampler knows nothing of what x is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ..conventions import short_repr
from ..inference import LogJoint as LogDensity
from .hmc import Noise, State, transition

#: From (n, k) to numbers (n * M, k) uniform on (0, 1), new ones at each call: see `npvae.noise.RowNoise.uniform`.
Uniform = Callable[[tuple[int, int]], NDArray[np.float64]]

#: Effective share of the particles (conditional effective sample size) that a step of beta leaves. It fixes the step.
SHARE = 0.5

#: Samples of the prior for each particle, from which the first step chooses: one costs little, and they find the modes.
CANDIDATES = 16

#: Steps of beta after which the rest is one step, so that rows whose density is not finite come to an end.
MOST_STEPS = 500

#: Acceptance that step sizes are adapted to, the change of a logarithm for an acceptance off by 1, and the first step.
TARGET, RATE, FIRST_STEP = 0.8, 2.0, 0.5

#: Leapfrog steps of each transition. Their size is drawn between this part of the adapted one and all of it: where all
#: trajectories are as long, some end near where they begin.
LEAPFROG, SHORTEST = 8, 0.3

#: Transitions at beta = 1 before the first that is kept, while step sizes are adapted.
WARMUP = 10


class Draws(NamedTuple):
    """Draws of the posterior of M rows by L chains each.

    Examples
    --------
    >>> Draws(np.zeros((30, 8, 100, 2)), np.zeros((30, 8, 100)), np.full(100, 12), np.full(100, 0.8)).z.shape
    (30, 8, 100, 2)
    """

    z: NDArray[np.float64]  # (n, L, M, J)
    log_likelihood: NDArray[np.float64]  # (n, L, M) log p(x|z), in nats
    n_steps: NDArray[np.int64]  # (M,) steps of beta from 0 to 1
    acceptance: NDArray[np.float64]  # (M,) mean acceptance of the transitions that are kept

    def __repr__(self) -> str:
        return short_repr(self)


def sample_posterior(
    log_likelihood: LogDensity, shape: tuple[int, int, int], n_samples: int, tempering: Uniform, chains: Uniform
) -> Draws:
    """Sample N(z; 0, I) p(x|z) of each row, as a density of z up to a constant.

    Parameters
    ----------
    log_likelihood : callable
        From z (L * M, J), where row ``l * M + i`` belongs to row i of x, to log p(x|z) (L * M,) in nats and its
        gradient (L * M, J).
    shape : (L, M, J)
        Chains for each row, rows, and dimensions of z.
    n_samples : int
        Draws of each chain that are kept.
    tempering, chains : callable
        Uniform numbers for the two parts. Rows take different numbers of steps in the first one.

    Returns
    -------
    Draws

    Examples
    --------
    One measurement x = 2 of z with noise of variance 1 has the posterior N(1, 1/2):

    >>> from npvae.noise import RowNoise
    >>> log_likelihood = lambda z: (-((2 - z) ** 2).sum(axis=1) / 2, 2 - z)
    >>> noise = (RowNoise(np.zeros((1, 1)), seed).uniform for seed in (0, 1))
    >>> z = sample_posterior(log_likelihood, (50, 1, 1), 40, *noise).z
    >>> z.mean().round(1), z.var().round(1)
    (np.float64(1.0), np.float64(0.5))
    """
    particles = _Particles(log_likelihood, shape, tempering)
    n_steps = particles.temper(tempering)
    particles.warm_up(chains)
    z, values, acceptance = np.empty((n_samples, *shape)), np.empty((n_samples, *shape[:2])), np.zeros(shape[1])
    for i in range(n_samples):
        acceptance += particles.move(np.ones(shape[1]), chains) / n_samples
        z[i], values[i] = particles.z.reshape(shape), particles.value.reshape(shape[:2])
    return Draws(z, values, n_steps, acceptance)


class _Particles:
    """L particles for each of M rows: where they are, and how transitions move them.

    A transition computes in coordinates in which each dimension of a row's particles has about the variance 1: then
    one step size suits all.
    """

    def __init__(self, log_likelihood, shape, uniform):
        self.shape = L, M, J = shape
        self.density = _Tempered(log_likelihood)
        self.z = ndtri(uniform((CANDIDATES * L, J)))
        parts = [self.density.likelihood(z) for z in np.split(self.z, CANDIDATES)]
        self.value, self.slope = (np.concatenate(part) for part in zip(*parts))
        self.scale, self.log_step = np.ones((M, J)), np.full(M, np.log(FIRST_STEP))

    def temper(self, uniform):
        """Lead the particles from beta = 0 to 1; return the number of steps (M,)."""
        beta, n_steps, share = np.zeros(self.shape[1]), np.zeros(self.shape[1], np.int64), 1 / CANDIDATES
        for number in range(MOST_STEPS):
            active = beta < 1
            if not active.any():
                break
            value = self._by_row(self.value)
            following = _next_beta(value, beta, share) if number < MOST_STEPS - 1 else np.ones_like(beta)
            self._resample((following - beta)[:, None] * value, uniform)
            self._rescale(0.5, active)
            acceptance = self.move(following, uniform, active)
            self.log_step += RATE * active * (acceptance - TARGET)
            beta, n_steps, share = following, n_steps + active, SHARE
        return n_steps

    def warm_up(self, uniform):
        """Take transitions at beta = 1 that adapt the scales and the step sizes."""
        logs = []
        for k in range(1, WARMUP + 1):
            acceptance = self.move(np.ones(self.shape[1]), uniform)
            self._rescale(1 / (1 + k))
            self.log_step += RATE * (acceptance - TARGET) / np.sqrt(k)
            logs.append(self.log_step.copy())
        self.log_step = np.mean(logs[WARMUP // 2 :], axis=0)

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is rejected
    def move(self, beta, uniform, active=True):
        """Take a transition that leaves f_beta as it is, beta (M,), in the active rows; return the acceptance (M,)."""
        L, M, J = self.shape
        scale, density = np.tile(self.scale, (L, 1)), self.density
        density.beta, density.scale = np.tile(beta, L), scale
        u, numbers = self.z / scale, uniform((L, J + 3))
        noise, step = Noise.of_uniform(numbers[:, :-1]), np.tile(np.exp(self.log_step), L)
        step *= SHORTEST + (1 - SHORTEST) * numbers[:, -1]
        state = State(u, *density.between(u, self.value, self.slope))
        moved, info = transition(density, state, noise, step, LEAPFROG)
        accepted = info.accepted & np.tile(np.broadcast_to(active, M), L)
        self.z = np.where(accepted[:, None], moved.z * scale, self.z)
        self.value = np.where(accepted, density.value, self.value)
        self.slope = np.where(accepted[:, None], density.slope, self.slope)
        return self._by_row(info.acceptance).mean(axis=-1)

    def _by_row(self, values):
        """Return numbers (L * M,) as (M, L), where those of a row are neighbours: sums do not depend on other rows."""
        return np.ascontiguousarray(values.reshape(-1, self.shape[1]).T)

    def _resample(self, log_weights, uniform):
        """Replace particles by L that systematic resampling chooses; equal weights (M, L) change nothing."""
        L, M, _ = self.shape
        peak = log_weights.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            weights = np.exp(log_weights - peak)
        weights[~(np.isfinite(peak[:, 0]))] = 1  # no particle has a density
        ends = np.cumsum(weights, axis=1)
        places = (np.arange(L) + uniform((1, 1))) / L * ends[:, -1:]
        chosen = (ends[:, None, :-1] <= places[:, :, None]).sum(axis=2)  # (M, L): the particle that each place falls to
        index = (chosen * M + np.arange(M)[:, None]).T.ravel()
        self.z, self.value, self.slope = self.z[index], self.value[index], self.slope[index]

    def _rescale(self, weight, active=True):
        """Move the squared scales of the active rows by this weight to the variances of the particles."""
        z = np.ascontiguousarray(self.z.reshape(self.shape).transpose(1, 2, 0))
        change = weight * (z.var(axis=-1) - self.scale**2)
        self.scale = np.sqrt(self.scale**2 + np.broadcast_to(active, len(z))[:, None] * change)


class _Tempered:
    """The density f_beta in scaled coordinates u = z / scale; remembers the last values of log p(x|z) and its slope."""

    def __init__(self, log_likelihood):
        self._log_likelihood = log_likelihood
        self.beta, self.scale = np.zeros(0), np.zeros(0)

    def likelihood(self, z):
        value, slope = self._log_likelihood(z)
        return np.where(np.isnan(value), -np.inf, value), slope

    def __call__(self, u):
        self.value, self.slope = self.likelihood(u * self.scale)
        return self.between(u, self.value, self.slope)

    def between(self, u, value, slope):
        """Return the log density at u and its gradient, from log p(x|z) and its gradient by z."""
        z = u * self.scale
        tempered = np.where(self.beta > 0, self.beta * value, 0.0)  # 0 times -inf
        return tempered - 0.5 * np.einsum("rj,rj->r", z, z), (self.beta[:, None] * slope - z) * self.scale


def _next_beta(value, beta, share):
    """Return the beta (M,) to which a step leaves this effective share of particles with these log p(x|z) (M, L)."""
    with np.errstate(invalid="ignore"):
        below = value - value.max(axis=1, keepdims=True)
    below = np.where(np.isnan(below), 0.0, below)
    low, high = np.zeros_like(beta), 1 - beta
    fits = _share(high, below) >= share
    for _ in range(60):
        middle = (low + high) / 2
        enough = _share(middle, below) >= share
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.where(fits, 1.0, np.minimum(beta + np.maximum(low, 1e-12), 1.0))


def _share(step, below):
    """Return (mean w)^2 / mean w^2, the effective share of particles, for weights w = exp(step * below) (M, L)."""
    with np.errstate(invalid="ignore"):
        weights = np.where(step[:, None] > 0, np.exp(step[:, None] * below), 1.0)
    return weights.mean(axis=1) ** 2 / (weights**2).mean(axis=1)
