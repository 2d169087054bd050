"""Hamiltonian Monte Carlo (Duane et al., 1987; Neal, 2011) for any log density with its gradient, many chains at once.

A chain is a row of z (R, J), and every function computes all rows together. The chains need not have the same target:
row i may be the latent variable of datapoint i. No number of one chain enters another, the step size neither.

The randomness of a transition is an argument (`Noise`); given it, a transition is a deterministic function.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from ..conventions import (
    array_of_shape,
    check_each,
    check_number,
    check_positive,
    check_seed,
    kind_of,
    real_array,
    short_repr,
)
from ..inference import LogJoint as LogDensity
from ..inference import value_and_gradient

#: The step size of a transition is varied by so much of itself. A trajectory of the length of a period of the motion
#: ends where it began, and a chain of such trajectories would stay there.
JITTER = 0.1

#: A transition is divergent if its energy error is larger, in nats: its steps are too long for the curvature.
MAX_ENERGY_ERROR = 1000.0

#: A trajectory with more kinetic energy is given up: it would lead to numbers that are not finite.
MAX_KINETIC = 1e200


class State(NamedTuple):
    """Where the chains are.

    Examples
    --------
    >>> initial(lambda z: (-(z**2).sum(axis=1) / 2, -z), np.array([[2.0]]))
    State(z=array([[2.]]), log_p=array([-2.]), gradient=array([[-2.]]))
    """

    z: NDArray[np.float64]  # (R, J)
    log_p: NDArray[np.float64]  # (R,) the log density at z, in nats, up to a constant
    gradient: NDArray[np.float64]  # (R, J) of log_p with respect to z

    def __repr__(self) -> str:
        return short_repr(self)


class Noise(NamedTuple):
    """The random numbers of a transition.

    Examples
    --------
    >>> noise = Noise.draw(np.random.default_rng(0), 4, 2)
    >>> noise.momentum.shape, noise.uniform.shape, noise.jitter.shape
    ((4, 2), (4,), (4,))
    """

    momentum: NDArray[np.float64]  # (R, J) standard normal
    uniform: NDArray[np.float64]  # (R,) on (0, 1), for the acceptance
    jitter: NDArray[np.float64]  # (R,) uniform on (-1, 1), for the step size

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    def draw(cls, rng: np.random.Generator, n_chains: int, n_dimensions: int) -> Self:
        """Draw the noise of R chains in J dimensions."""
        momentum = rng.standard_normal((n_chains, n_dimensions))
        return cls(momentum, rng.random(n_chains), 2 * rng.random(n_chains) - 1)

    @classmethod
    def of_uniform(cls, uniform: NDArray[np.float64]) -> Self:
        """Make the noise from numbers (R, J + 2) uniform on (0, 1), such as those of `npvae.noise.RowNoise`.

        Examples
        --------
        >>> Noise.of_uniform(np.array([[0.5, 0.25, 1.0]]))
        Noise(momentum=array([[0.]]), uniform=array([0.25]), jitter=array([1.]))
        """
        return cls(ndtri(uniform[:, :-2]), uniform[:, -2], 2 * uniform[:, -1] - 1)


class Info(NamedTuple):
    """What happened in a transition.

    Examples
    --------
    >>> info = Info(np.array([True]), np.array([0.9]), np.array([0.105]), np.array([False]))
    >>> float(info.acceptance.mean())
    0.9
    """

    accepted: NDArray[np.bool_]  # (R,)
    acceptance: NDArray[np.float64]  # (R,) the probability of it
    energy_error: NDArray[np.float64]  # (R,) energy at the end minus that at the beginning, in nats; inf where unknown
    divergent: NDArray[np.bool_]  # (R,) whether this is above `MAX_ENERGY_ERROR`

    def __repr__(self) -> str:
        return short_repr(self)


def initial(log_density: LogDensity, z: ArrayLike) -> State:
    """Return the state of chains that begin at z (R, J).

    Raises
    ------
    TypeError, ValueError
        If ``log_density`` returns something else than a value for each row and a gradient of the shape of z; if one of
        these is not finite.

    Examples
    --------
    >>> initial(lambda z: (-(z**2).sum(axis=1) / 2, -z), [[2.0]]).log_p
    array([-2.])
    """
    z = np.array(array_of_shape("z", z, ("R", "J"), ", a row for each chain"), float)
    state = State(z, *_evaluate(log_density, z))
    check_each("log_density(z)", state.log_p, np.isfinite(state.log_p), "finite numbers where chains begin")
    check_each("the gradient of log_density", state.gradient, np.isfinite(state.gradient), "finite numbers")
    return state


@np.errstate(over="ignore", invalid="ignore")  # what overflows is rejected, and reported as divergent
def leapfrog(
    log_density: LogDensity,
    state: State,
    momentum: NDArray[np.float64],
    step_size: NDArray[np.float64],
    n_leapfrog: int,
) -> tuple[State, NDArray[np.float64]]:
    """Integrate Hamilton's equations dz/dt = p, dp/dt = grad log_p(z) by the leapfrog method.

    The map from (z, p) to the result has the Jacobian determinant 1, and with -p it leads back.

    Parameters
    ----------
    log_density : callable
    state : State
    momentum : array (R, J)
    step_size : array (R,)
    n_leapfrog : int
        Number of steps, each with one call of ``log_density``.

    Returns
    -------
    state : State
        A trajectory that left the range of finite numbers stops there, and has the log_p -inf.
    momentum : array (R, J)

    Examples
    --------
    The energy, kinetic minus log_p, is nearly constant:

    >>> log_density = lambda z: (-(z**2).sum(axis=1) / 2, -z)
    >>> state, p = leapfrog(log_density, initial(log_density, [[1.0]]), np.array([[0.0]]), np.array([0.1]), 15)
    >>> np.round([state.z[0, 0], p[0, 0], p[0, 0] ** 2 / 2 - state.log_p[0]], 2)  # cos(1.5), -sin(1.5), 1/2
    array([ 0.07, -1.  ,  0.5 ])
    """
    z, log_p, gradient = state
    step = step_size[:, None]
    z, momentum = z.copy(), momentum + 0.5 * step * gradient
    lost = _stop(momentum)
    for i in range(1, n_leapfrog + 1):
        z += step * momentum
        log_p, gradient = value_and_gradient(log_density, z, "log_density")
        momentum += (step if i < n_leapfrog else 0.5 * step) * gradient
        lost |= _stop(momentum)
    return State(z, np.where(lost, -np.inf, log_p), np.array(gradient, float)), momentum


def transition(
    log_density: LogDensity, state: State, noise: Noise, step_size: NDArray[np.float64], n_leapfrog: int
) -> tuple[State, Info]:
    """Propose the end of a trajectory with a new momentum, and accept it with the probability exp(-energy error).

    The transition leaves the density invariant. A chain that rejects stays where it is, and counts once more there.

    Parameters
    ----------
    log_density : callable
    state : State
    noise : Noise
    step_size : array (R,)
        Varied by +-10 % (`JITTER`) with ``noise.jitter``.
    n_leapfrog : int

    Returns
    -------
    State, Info

    Raises
    ------
    ValueError
        If ``noise`` is not that of so many chains in so many dimensions.

    Examples
    --------
    >>> log_density = lambda z: (-(z**2).sum(axis=1) / 2, -z)
    >>> state, rng = initial(log_density, np.zeros((5, 2))), np.random.default_rng(0)
    >>> state, info = transition(log_density, state, Noise.draw(rng, 5, 2), np.full(5, 0.1), 10)
    >>> info.accepted.all(), bool(info.energy_error.max() < 0.01)
    (np.True_, True)
    """
    R, J = state.z.shape
    for name, array, shape in zip(Noise._fields, noise, ((R, J), (R,), (R,))):  # one for all chains would broadcast
        if np.shape(array) != shape:
            raise ValueError(f"noise.{name} has the shape {np.shape(array)}; expected {shape}, for {R} chains")
    step_size = step_size * (1 + JITTER * noise.jitter)
    proposal, momentum = leapfrog(log_density, state, noise.momentum, step_size, n_leapfrog)
    energy_error = (_kinetic(momentum) - proposal.log_p) - (_kinetic(noise.momentum) - state.log_p)
    energy_error[~np.isfinite(proposal.log_p)] = np.inf
    acceptance = np.exp(-np.maximum(energy_error, 0))
    accepted = noise.uniform < acceptance
    kept = (np.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(proposal, state))
    return State(*kept), Info(accepted, acceptance, energy_error, energy_error > MAX_ENERGY_ERROR)


def _evaluate(log_density: LogDensity, z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return copies of log_p and gradient: the function may overwrite its results at the next call."""
    log_p, gradient = value_and_gradient(log_density, z, "log_density")
    return np.array(log_p, float), np.array(gradient, float)


def _kinetic(momentum: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * np.einsum("rj,rj->r", momentum, momentum)


def _stop(momentum: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Set momentum beyond `MAX_KINETIC`, or NaN, to zero; return in which rows (R,)."""
    beyond = ~(_kinetic(momentum) < MAX_KINETIC)
    if beyond.any():
        momentum[beyond] = 0
    return beyond


# Adaptation of the step size ------------------------------------------------------------------------------------------

#: Constants of dual averaging (Hoffman and Gelman, 2014): how fast the step size follows, how little the first
#: transitions count, and how soon the average forgets.
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75


class StepSize(NamedTuple):
    """The step sizes of chains, adapted to a mean acceptance by dual averaging (Hoffman and Gelman, 2014, eq. 6).

    Examples
    --------
    A chain that always accepts takes longer steps, one that never does, shorter ones:

    >>> step = StepSize.start(np.array([0.1, 0.1]))
    >>> info = Info(np.array([True, False]), np.array([1.0, 0.0]), np.array([0.0, np.inf]), np.array([False, True]))
    >>> for _ in range(5):
    ...     step = step.adapt(info, target=0.8)
    >>> step.final() > 0.1
    array([ True, False])
    """

    current: NDArray[np.float64]  # (R,) for the next transition
    log_average: NDArray[np.float64]  # (R,)
    shortfall: NDArray[np.float64]  # (R,) weighted mean of target - acceptance
    log_origin: NDArray[np.float64]  # (R,) the logarithm that step sizes are drawn to
    n_adapted: int

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    def start(cls, step_size: NDArray[np.float64]) -> Self:
        """Begin at these step sizes (R,)."""
        zero = np.zeros(len(step_size))
        return cls(step_size, np.log(step_size), zero, np.log(10 * step_size), 0)

    def adapt(self, info: Info, target: float) -> Self:
        """Return the step sizes after a transition."""
        m = self.n_adapted + 1
        shortfall = self.shortfall + (target - info.acceptance - self.shortfall) / (m + T0)
        log_step = self.log_origin - np.sqrt(m) / GAMMA * shortfall
        log_average = self.log_average + m**-KAPPA * (log_step - self.log_average)
        return type(self)(np.exp(log_step), log_average, shortfall, self.log_origin, m)

    def final(self) -> NDArray[np.float64]:
        """Return the average (R,), for transitions that do not adapt."""
        return np.exp(self.log_average)


class Samples(NamedTuple):
    """What `sample` returns.

    Examples
    --------
    >>> samples = sample(lambda z: (-(z**2).sum(axis=1) / 2, -z), np.zeros((4, 2)), 100)
    >>> samples.z.shape
    (100, 4, 2)
    """

    z: NDArray[np.float64]  # (n, R, J)
    log_p: NDArray[np.float64]  # (n, R)
    acceptance: NDArray[np.float64]  # (R,) its mean probability
    divergent: NDArray[np.int64]  # (R,) number of divergent transitions
    step_size: NDArray[np.float64]  # (R,)

    def __repr__(self) -> str:
        return short_repr(self)


def sample(
    log_density: LogDensity,
    z: ArrayLike,
    n_samples: int,
    *,
    n_warmup: int = 500,
    n_leapfrog: int = 10,
    step_size: float = 0.1,
    target: float = 0.8,
    noise: Callable[[], Noise] | None = None,
    random_state: Any = 0,
) -> Samples:
    """Sample from a density by Hamiltonian Monte Carlo.

    During the warm-up each chain adapts its step size; afterwards the step size is fixed, apart from +-10 % (`JITTER`).

    Parameters
    ----------
    log_density : callable
        From z (R, J) to the log density (R,) in nats, up to a constant, and its gradient with respect to z (R, J).
    z : array (R, J)
        Where the R chains begin. Their log density must be finite.
    n_samples : int
        Samples of each chain.
    n_warmup : int
        Transitions before the first sample.
    n_leapfrog : int
        Leapfrog steps, and calls of ``log_density``, in a transition.
    step_size : float
        The first step size.
    target : float
        Mean acceptance that the step size is adapted to, between 0 and 1.
    noise : callable, optional
        Returns the `Noise` of the next transition. By default it is drawn with ``random_state``.
    random_state : int, Generator or None

    Returns
    -------
    Samples

    Raises
    ------
    TypeError, ValueError
        If ``log_density`` returns something else than a value for each row and a gradient of the shape of z; if the
        density at some z is not finite; if a number is out of range.

    Examples
    --------
    >>> samples = sample(lambda z: (-((z - 3) ** 2).sum(axis=1) / 2, 3 - z), np.zeros((20, 1)), 500)
    >>> samples.z.mean().round(1), samples.z.std().round(1)
    (np.float64(3.0), np.float64(1.0))
    """
    check_number("n_samples", n_samples, np.integer, 1)
    check_number("n_warmup", n_warmup, np.integer, 0)
    check_number("n_leapfrog", n_leapfrog, np.integer, 1)
    check_positive("step_size", step_size)
    check_positive("target", target)
    if target >= 1:
        raise ValueError(f"target is {target!r}; expected a number between 0 and 1")
    check_seed("random_state", random_state)
    if noise is not None and not callable(noise):
        raise TypeError(f"noise is {kind_of(noise)}; expected a function without arguments that returns a Noise")
    state = initial(log_density, z)
    (R, J), rng = state.z.shape, np.random.default_rng(random_state)
    noise = noise or (lambda: Noise.draw(rng, R, J))
    adaptive = StepSize.start(np.full(R, float(step_size)))
    for _ in range(n_warmup):
        state, info = transition(log_density, state, noise(), adaptive.current, n_leapfrog)
        adaptive = adaptive.adapt(info, target)
    fixed, drawn, log_p = adaptive.final(), np.empty((n_samples, R, J)), np.empty((n_samples, R))
    acceptance, divergent = np.zeros(R), np.zeros(R, np.int64)
    for i in range(n_samples):
        state, info = transition(log_density, state, noise(), fixed, n_leapfrog)
        drawn[i], log_p[i] = state.z, state.log_p
        acceptance += info.acceptance / n_samples
        divergent += info.divergent
    return Samples(drawn, log_p, acceptance, divergent, fixed)


# Diagnostics ----------------------------------------------------------------------------------------------------------


def split_rhat(draws: ArrayLike) -> NDArray[np.float64]:
    """Compute the split R-hat of chains with the same target (Gelman et al., Bayesian Data Analysis, section 11.4).

    Each chain is split into halves. R-hat is the root of an estimate of the variance that includes the differences
    between their means, over the mean variance within them. Near 1 (below 1.01) the chains agree.

    Parameters
    ----------
    draws : array (n, chains, ...)
        At least 4 draws of each chain, such as ``Samples.z``.

    Returns
    -------
    array (...)
        R-hat of each quantity; NaN if it is constant.

    Examples
    --------
    >>> draws = np.random.default_rng(0).standard_normal((1000, 4))
    >>> bool(split_rhat(draws) < 1.01), bool(split_rhat(draws + np.arange(4)) > 1.5)
    (True, True)
    """
    halves = _halves(draws)
    within, pooled = _variances(halves)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(pooled / within)


def effective_sample_size(draws: ArrayLike) -> NDArray[np.float64]:
    """Estimate the number of independent draws whose mean has the variance of the mean of these.

    The autocorrelations of the halves of the chains are summed up to the first pair whose sum is negative, where the
    sums of pairs are made to decrease (Geyer, 1992; Vehtari et al., 2021, section 3.2, without ranks).

    Parameters
    ----------
    draws : array (n, chains, ...)
        At least 4 draws of each chain, such as ``Samples.z``. All chains have the same target.

    Returns
    -------
    array (...)
        The size for each quantity; NaN if it is constant.

    Examples
    --------
    >>> draws = np.random.default_rng(0).standard_normal((1000, 4))
    >>> bool(3000 < effective_sample_size(draws) < 5000)
    True
    """
    halves = _halves(draws)
    n, m = halves.shape[:2]
    within, pooled = _variances(halves)
    centred = halves - halves.mean(axis=0)
    spectrum = np.fft.rfft(centred, 2 * n, axis=0)
    covariance = np.fft.irfft(abs(spectrum) ** 2, 2 * n, axis=0)[:n].mean(axis=1) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = 1 - (within - covariance * n / (n - 1)) / pooled
    correlation[0] = 1
    pairs = correlation[: n // 2 * 2].reshape(n // 2, 2, *correlation.shape[1:]).sum(axis=1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    pairs = np.where(positive, np.minimum.accumulate(pairs, axis=0), 0)
    time = np.maximum(2 * pairs.sum(axis=0) - 1, 1 / np.log10(n * m))
    return np.where(within > 0, n * m / time, np.nan)


def _halves(draws):
    """Return the halves of all chains as chains (n // 2, 2 * chains, ...)."""
    draws = real_array("draws", draws)
    if draws.ndim < 2 or len(draws) < 4 or draws.size == 0:
        raise ValueError(f"draws has the shape {draws.shape}; expected (n, chains, ...) with n >= 4")
    check_each("draws", draws, np.isfinite(draws), "finite numbers")
    n = len(draws) // 2
    return np.concatenate([draws[:n], draws[-n:]], axis=1)


def _variances(chains):
    """Return the mean variance within chains (...), and the estimate that includes the variance between them."""
    n = len(chains)
    within = chains.var(axis=0, ddof=1).mean(axis=0)
    return within, (n - 1) / n * within + chains.mean(axis=0).var(axis=0, ddof=1)
