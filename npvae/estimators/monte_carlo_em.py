"""Monte Carlo expectation-maximization (Wei and Tanner, 1990), with which the paper compares: it has no encoder.

Each datapoint has a Markov chain that follows its posterior p(z|x) from one visit to the next, while the decoder learns
(Appendix E of the paper). The E-step moves the chains of the minibatch by Hamiltonian Monte Carlo. The M-step takes a
few updates of the decoder on log p(x, z) of the new z.
"""

from typing import Any, NamedTuple

import numpy as np

from ..backends.interface import Array
from ..model import Model
from ..parameters import Buffers, Parameters
from ..samplers import hmc
from .interface import Result

#: Leapfrog steps of the E-step, the acceptance that its step size is adapted to, updates of the M-step (Appendix E).
LEAPFROG, ACCEPTANCE, UPDATES = 10, 0.9, 5

#: The first step size, in units of the prior, and the gain of its adaptation: the change of its logarithm for an
#: acceptance that is off by one. It stays constant, because the posterior changes as long as the decoder learns.
FIRST_STEP, GAIN = 0.1, 0.5


class Chains(NamedTuple):
    """The state: where the chains are.

    Examples
    --------
    >>> chains = Chains(z=np.zeros((1, 1000, 20)), step_size=np.array([0.1]))  # L = 1, N = 1000, J = 20
    >>> chains.z.shape
    (1, 1000, 20)
    """

    z: np.ndarray  # (L, N, J) float64: L chains for each row of the training data
    step_size: np.ndarray  # (1,) float64, of all chains


class Samples(NamedTuple):
    """What the gradient holds constant.

    Examples
    --------
    >>> Samples(z=np.zeros((100, 20))).z.shape
    (100, 20)
    """

    z: Array  # (L * M, J), one step of the chains nearer to p(z|x)


class MonteCarloEM:
    """Monte Carlo expectation-maximization as an estimator.

    The methods are those of `interface.Estimator`. The value is the mean of log p(x, z). It is no bound, and there is
    none without q(z|x): a result's ``elbo`` is NaN.

    Parameters
    ----------
    model : Model
        Without an encoder.
    n_samples : int
        Chains for each datapoint, the L of the paper.
    n_datapoints : int
        The N of the paper.

    Examples
    --------
    The chains of the minibatch move, and no others:

    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,), has_encoder=False), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator, rows = MonteCarloEM(model, n_samples=1, n_datapoints=50), np.arange(10, 15)
    >>> samples, chains = estimator.sample(parameters, x, rows, estimator.draw(rng, len(x)))
    >>> np.unique(np.nonzero(chains.z)[1])
    array([10, 11, 12, 13, 14])
    """

    State: Any = Chains
    updates_per_sample = UPDATES
    runs_ahead = False

    def __init__(self, model: Model, n_samples: int, n_datapoints: int) -> None:
        self.model, self.n_samples, self.n_datapoints = model, n_samples, n_datapoints
        self._buffers, self._gradient = Buffers(model.backend, model.dtype), model.gradient()

    def draw(self, rng: np.random.Generator, n_rows: int) -> hmc.Noise:
        """Draw the noise of a transition of L * n_rows chains."""
        return hmc.Noise.draw(rng, self.n_samples * n_rows, self.model.architecture.n_components)

    def sample(
        self, parameters: Parameters, x: Array, rows: Any, noise: hmc.Noise, state: Chains | None = None
    ) -> tuple[Samples, Chains]:
        """Move the chains of these rows, and adapt the step size. Overwrites the z of the state.

        Chains begin at z = 0, the mean of the prior. So they do if the state has another number of them.
        """
        model, state = self.model, self._started(state)
        log_density = model.log_density(parameters, x, self._buffers)
        z = state.z[:, rows].reshape(len(rows) * self.n_samples, -1)
        steps = np.full(len(z), state.step_size[0])
        moved, info = hmc.transition(log_density, hmc.State(z, *log_density(z)), noise, steps, LEAPFROG)
        state.z[:, rows] = moved.z.reshape(self.n_samples, len(rows), -1)
        step_size = state.step_size * np.exp(GAIN * (info.acceptance.mean() - ACCEPTANCE))
        return Samples(model.backend.asarray(moved.z, model.dtype)), Chains(state.z, step_size)

    def _started(self, state):
        """Return a state, or if there is none for as many chains, that of chains which begin."""
        shape = self.n_samples, self.n_datapoints, self.model.architecture.n_components
        return (
            state if state is not None and state.z.shape == shape else Chains(np.zeros(shape), np.array([FIRST_STEP]))
        )

    def part_of(self, state: Chains, rows: Any) -> Chains:
        """Return the chains of some rows: see `interface.Stateful`."""
        return Chains(state.z[:, rows], state.step_size)

    def merged(self, before: Chains | None, parts: list[tuple[Any, Chains]]) -> Chains:
        """Return the state after a minibatch, from those after its parts: the step size by the mean acceptance."""
        state = self._started(before)
        for rows, part in parts:
            state.z[:, rows] = part.z
        sizes, weights = [part.step_size for _, part in parts], [len(rows) for rows, _ in parts]
        return Chains(state.z, np.exp(np.average(np.log(sizes), axis=0, weights=weights)))

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Samples) -> Result:
        """Return mean(log p(x, z)) and its gradient, with z held constant."""
        model, buffers, R = self.model, self._buffers, len(samples.z)
        decoded = model.decode(parameters, samples.z, buffers)
        log_joint = model.log_likelihood(x, decoded, buffers.full(1 / R, R), buffers)
        model.backend.add_log_prior(samples.z, log_joint, None)
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, buffers)
        return Result(float(np.mean(log_joint, dtype=float)), np.nan, self._gradient)

    def places(self, parameters: Parameters, x: Array, samples: Samples) -> list:
        """List (name, array) of what is computed: see `interface.Estimator`."""
        layers = self.model.layers(None, self.model.decode(parameters, samples.z, self._buffers))
        return [("input", self.model.seen(x, self._buffers)), ("z of the chains", samples.z), *layers]
