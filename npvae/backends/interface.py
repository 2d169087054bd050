"""The interface of a backend, as a Protocol that modules implement. `reference` documents each function.

``Network`` and ``Runner`` are optional. Where a backend has None in their place, networks are computed layer by layer,
and training steps are taken one at a time.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: An array of the backend: a NumPy array, or an array on a device. The docstrings of `reference` give the shapes.
Array = Any


class Network(Protocol):
    """The same results as `nn.Network`, in fewer calls. The constructor takes (mlp, layout, backend)."""

    mlp: Any

    def forward(self, parameters: Any, x: Array, buffers: Any) -> Any:
        """See `nn.Network.forward`."""

    def backward(
        self, parameters: Any, x: Array, done: Any, gradient: Any, buffers: Any, dx: Array | None = None
    ) -> None:
        """See `nn.Network.backward`."""


class Runner(Protocol):
    """Takes many training steps of an estimator, with one optimizer on one data set, without waiting for each.

    The order of the rows and the noise of the steps are drawn ahead, the same numbers as for steps that are taken one
    at a time. What a step computes is the estimator's: no runner knows which one it is.

    Parameters
    ----------
    estimator : estimators.interface.RunsAhead
        What it must offer: ``noise_shape(n_rows)``, the shape of the noise of a minibatch; ``draw_into(rng, out)``,
        which fills a float32 array on the host with noise; and ``passes(parameters, x, noise)``, the forward and the
        backward pass, which returns an object with ``log_likelihood`` (L * M,), ``kl`` (a value a datapoint, or an
        estimate a sample) and ``gradient``.
    optimizer : Optimizer
    parameters : Parameters of the backend, changed in place
    data : preprocessing.Data
    """

    def most(self, n_rows: int) -> int:
        """Return how many minibatches of so many rows the next call of `run` may have."""

    def run(self, batches: Sequence[NDArray], rng: np.random.Generator, keys: NDArray | None = None) -> NDArray:
        """Take a step for each minibatch.

        Parameters
        ----------
        batches : list of row indices (M,), all of one length
        rng : numpy.random.Generator, for the noise
        keys : array (n, M) uint64, for data that is binarized: see `reference.binarize`

        Returns
        -------
        values : array (n,) float64, in nats a datapoint; those after a step that failed have no meaning
        """

    def noise(self, n: int) -> Array:
        """Return the noise of the n-th minibatch of the last run, an array of the backend."""


class Backend(Protocol):
    """A module with these functions."""

    __name__: str
    Network: Any  # a class with the interface of `Network`, or None
    Runner: Any  # a class with the interface of `Runner`, or None

    def empty(self, shape: tuple, dtype: Any) -> Array:
        """See `reference.empty`."""

    def asarray(self, array: Any, dtype: Any) -> Array:
        """See `reference.asarray`."""

    def to_numpy(self, array: Array) -> Any:
        """See `reference.to_numpy`."""

    def beside(self) -> AbstractContextManager:
        """See `reference.beside`."""

    def wait(self) -> None:
        """See `reference.wait`."""

    def gradient(self, layout: Any, dtype: Any) -> Any:
        """See `reference.gradient`."""

    def gather(self, X: Any, rows: Any, scaling: Any, out: Array) -> Array:
        """See `reference.gather`."""

    def binarize(self, x: Array, keys: Any, out: Array) -> Array:
        """See `reference.binarize`."""

    def fill_missing(self, x: Array, out: Array) -> Array:
        """See `reference.fill_missing`."""

    def dense(self, x: Array, W: Array, b: Array, activation: str, out: Array | None = None) -> Array:
        """See `reference.dense`."""

    def dense_backward(self, x: Array, W: Array, y: Array, dy: Array, activation: str, gradients: tuple) -> None:
        """See `reference.dense_backward`."""

    def gaussian_latent(
        self, mu: Array, log_var: Array, eps: Array, analytic_kl: bool, out: tuple = ...
    ) -> tuple[Array, Array]:
        """See `reference.gaussian_latent`."""

    def gaussian_latent_backward(
        self, mu: Array, log_var: Array, eps: Array, dz: Array, analytic_kl: bool, weights: Array, out: tuple = ...
    ) -> tuple[Array, Array]:
        """See `reference.gaussian_latent_backward`."""

    def gaussian_log_q(
        self, z: Array, mu: Array, log_var: Array, weights: Array, out: tuple = ...
    ) -> tuple[Array, Array, Array]:
        """See `reference.gaussian_log_q`."""

    def add_log_prior(self, z: Array, log_prob: Array, dz: Array | None) -> None:
        """See `reference.add_log_prior`."""

    def bernoulli_log_prob(
        self, x: Array, logits: Array, weights: Array, out: tuple = ..., missing: bool = ...
    ) -> tuple[Array, Array]:
        """See `reference.bernoulli_log_prob`."""

    def gaussian_log_prob(
        self, x: Array, mu: Array, log_var: Array, weights: Array, out: tuple = ..., missing: bool = ...
    ) -> tuple[Array, Array, Array]:
        """See `reference.gaussian_log_prob`."""

    def mixed_log_prob(
        self,
        x: Array,
        logits: Array,
        mu: Array,
        log_var: Array,
        weights: Array,
        out: tuple = ...,
        missing: bool = ...,
    ) -> tuple[Array, Array, Array, Array]:
        """See `reference.mixed_log_prob`."""

    def clip_norm(self, gradient: Any, limit: float) -> None:
        """See `reference.clip_norm`."""

    def step(self, optimizer: str, parameters: Any, gradient: Any, state: Any, rule: Any) -> None:
        """See `reference.step`."""


#: The names of the functions of `Backend`. A test compares the arguments of each in all backends.
FUNCTIONS = tuple(name for name, member in vars(Backend).items() if callable(member) and not name.startswith("_"))
