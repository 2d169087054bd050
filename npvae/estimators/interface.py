"""The interface of estimators: `Estimator` and its `Result`; a `Spec` row says what one needs and where it runs."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backends import BACKENDS
from ..backends.interface import Array
from ..model import Model
from ..parameters import Parameters


class Result(NamedTuple):
    """What `Estimator.value_and_grad` returns.

    ``gradient`` is the gradient of ``value``. For some estimators ``value`` is the bound; for others (the score
    function, for example) it is a different function with the right gradient. ``elbo`` estimates the bound for all.

    Examples
    --------
    >>> value, elbo, gradient = Result(value=12.5, elbo=-101.7, gradient=None)
    >>> elbo
    -101.7
    """

    value: float
    elbo: float  # estimate of the bound per datapoint, in nats; NaN where there is no encoder, and so no bound
    gradient: Any  # Parameters, or what `Model.gradient` returns; the next call overwrites it


class Estimator(Protocol):
    """An estimator of the bound and of its gradient on minibatches.

    With the samples fixed, the value is an ordinary function of the parameters, and the gradient is exactly the
    gradient of this function. So one finite-difference check and one training loop serve all estimators.

    An instance keeps scratch arrays. Use it in one thread only.

    Attributes
    ----------
    model : Model
    State : class or None
        A NamedTuple of NumPy arrays (float32, float64 or int64), passed from one call of `sample` to the next, also
        from one piece of the data to the next in ``partial_fit``, and saved in checkpoints. None if the estimator has
        no state.
    updates_per_sample : int
        Number of parameter updates made with the result of one call of `sample`.
    runs_ahead : bool
        Whether a backend's ``Runner`` may take many steps without waiting for each: see `RunsAhead`.

    Examples
    --------
    One step, up to the gradient:

    >>> from npvae import backends
    >>> from npvae.estimators import SGVB
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator = SGVB(model)
    >>> noise = estimator.draw(rng, len(x))
    >>> samples, state = estimator.sample(parameters, x, np.arange(5), noise)
    >>> result = estimator.value_and_grad(parameters, x, samples)
    >>> result.gradient["encoder.mu.W"].shape
    (4, 2)
    """

    model: Model
    State: Any
    updates_per_sample: int

    @property
    def runs_ahead(self) -> bool:
        """Whether its steps can be run ahead."""

    def draw(self, rng: np.random.Generator, n_rows: int) -> Any:
        """Draw the noise of a minibatch. It does not depend on the parameters."""

    def sample(self, parameters: Parameters, x: Array, rows: Any, noise: Any, state: Any = None) -> tuple[Any, Any]:
        """Compute what the gradient holds constant.

        Parameters
        ----------
        parameters : Parameters
        x : array (M, D)
        rows : array (M,) of int
            Row numbers of the minibatch in the training data.
        noise : result of `draw`
        state : State or None
            None before the first call. May be overwritten.

        Returns
        -------
        samples : array, or NamedTuple of arrays and numbers
            Valid until the next call.
        state : State or None
            For the next call.
        """

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Any) -> Result:
        """Return the value and its gradient for x (M, D). The same arguments give the same result."""

    def places(self, parameters: Parameters, x: Array, samples: Any) -> list:
        """List (name, array) of what `value_and_grad` computes, in its order: see `first_nonfinite`."""


class RunsAhead(Estimator, Protocol):
    """An estimator whose samples are its noise, and whose value is mean(log_likelihood) - mean(kl) of `passes`.

    Its steps need no number from the host but the noise, so a backend can launch many of them at once.
    """

    def noise_shape(self, n_rows: int) -> tuple:
        """Return the shape of the noise of a minibatch."""

    def draw_into(self, rng: np.random.Generator, out: Any) -> Any:
        """Draw the noise of a minibatch into a NumPy array of float32, and return it."""

    def passes(self, parameters: Parameters, x: Array, samples: Array) -> Any:
        """Launch the forward and the backward pass; the result has log_likelihood, kl and gradient, see `SGVB`."""


class Stateful(Estimator, Protocol):
    """An estimator with a state, for minibatches that are sampled in parts: see `sharded`.

    Examples
    --------
    >>> from npvae.estimators import ScoreFunction
    >>> hasattr(ScoreFunction, "merged")
    True
    """

    def part_of(self, state: Any, rows: Any) -> Any:
        """Return the part of a state that belongs to some rows."""

    def merged(self, before: Any, parts: list[tuple[Any, Any]]) -> Any:
        """Return the state after a minibatch whose parts were sampled one by one, each from the state ``before``.

        Parameters
        ----------
        before : State or None; may be overwritten
        parts : list of (rows, part of the state after it), in order
        """


def first_nonfinite(estimator: Estimator, parameters: Parameters, x: Array, samples: Any) -> str | None:
    """Name the first array of a step that holds a NaN or an infinite value.

    Parameters
    ----------
    estimator : Estimator
    parameters : Parameters
    x : array (M, D)
    samples : result of `Estimator.sample`

    Returns
    -------
    str or None
        "input", the name of a layer, or "gradient of" and the name of a parameter array. None if all values are finite.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.estimators import SGVB
    >>> from npvae.model import Architecture
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters = model.parameters(np.zeros(model.layout.size))
    >>> parameters["encoder.hidden1.b"][0] = np.nan
    >>> first_nonfinite(SGVB(model), parameters, np.ones((5, 3)), np.zeros((5, 2)))
    'encoder.hidden1'
    """
    gradient, to_numpy = estimator.value_and_grad(parameters, x, samples).gradient, estimator.model.backend.to_numpy
    places = estimator.places(parameters, x, samples)
    with np.errstate(over="ignore"):  # squares, because optimizers square the gradient: that must not overflow
        places += [(f"gradient of {name}", to_numpy(array) ** 2) for name, array in gradient.items()]
    return next((name for name, array in places if not np.all(np.isfinite(to_numpy(array)))), None)


class Spec(NamedTuple):
    """What an estimator needs and where it runs: one row of `ESTIMATORS`.

    Examples
    --------
    >>> from npvae.estimators import ESTIMATORS
    >>> ESTIMATORS["score-function-leave-one-out"].fewest_samples
    2
    """

    make: Callable[[Any, int, int], Estimator]  # from (model, L, N): samples for each datapoint, number of datapoints
    posteriors: tuple = ("gaussian",)  # supported families of q(z|x)
    backends: tuple = BACKENDS
    random_weights: str | None = None  # the `Architecture.random_weights` that it trains
    fewest_samples: int = 1  # smallest L
    has_encoder: bool = True  # whether it trains q(z|x); without, there is no bound
    in_pieces: bool = True  # whether its state can go on to another piece of the data
    importance_weighted: bool = False  # whether it maximises that bound of L samples, not that of equation 2
