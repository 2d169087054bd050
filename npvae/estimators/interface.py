"""What every estimator has: `Estimator`, its `Result`, and one `Spec` row that says what it needs and where it runs."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

#: The backends, for rows of estimators that run on all of them.
ALL_BACKENDS = ("reference", "cpu", "cuda")


class Result(NamedTuple):
    """What `Estimator.value_and_grad` returns.

    ``value`` is what is differentiated. It is the bound only for some estimators; ``elbo`` is it for all.
    """

    value: float
    elbo: float  # the bound, or its estimate, in nats a datapoint
    gradient: Any  # Parameters; the next call overwrites it


class Estimator(Protocol):
    """An estimator of the bound's gradient on minibatches. An instance keeps scratch arrays: it belongs to one thread.

    With the samples fixed, the value is an ordinary function of the parameters, and the gradient is its own, exactly:
    one finite-difference check and one training loop serve all estimators.

    Attributes
    ----------
    model : Model
    State : NamedTuple of arrays that is carried from one `sample` to the next and saved in checkpoints; or None
    updates_per_sample : int, updates of the parameters that one `sample` serves
    runs_ahead : bool
        Whether its steps can be taken without waiting for each, by a backend that has a ``Runner``. It then has
        ``noise_shape(n_rows)``, ``draw_into(rng, out)`` and ``passes(parameters, x, noise)``, see `sgvb.SGVB`.
    """

    model: Any
    State: ClassVar[Any]
    updates_per_sample: ClassVar[int]
    runs_ahead: ClassVar[bool]

    def draw(self, rng: np.random.Generator, n_rows: int) -> Any:
        """Draw the noise of a minibatch. It depends on no parameters."""

    def sample(self, parameters: Any, x: Any, rows: Any, noise: Any, state: Any = None) -> tuple[Any, Any]:
        """Fix what the gradient holds constant.

        Parameters
        ----------
        parameters : Parameters; x (M, D); rows (M,), their numbers in the data; noise : of `draw`
        state : State, or None before the first call

        Returns
        -------
        samples : an array, or a NamedTuple of arrays and numbers; valid until the next call
        state : the next State
        """

    def value_and_grad(self, parameters: Any, x: Any, samples: Any) -> Result:
        """Return the value and its gradient for x (M, D) with these samples; deterministic."""

    def places(self, parameters: Any, x: Any, samples: Any) -> list:
        """List (name, array) of what `value_and_grad` computes, in its order, to find where numbers become infinite."""


def first_nonfinite(estimator: Estimator, parameters: Any, x: Any, samples: Any) -> str | None:
    """Name the first array of a computation that holds a NaN or an infinite value; None if none does.

    Returns
    -------
    str : "input", the name of a layer, or "gradient of" the name of an array
    """
    gradient, to_numpy = estimator.value_and_grad(parameters, x, samples).gradient, estimator.model.backend.to_numpy
    places = estimator.places(parameters, x, samples)
    with np.errstate(over="ignore"):  # optimizers need the square of a gradient
        places += [(f"gradient of {name}", to_numpy(array) ** 2) for name, array in gradient.items()]
    return next((name for name, array in places if not np.all(np.isfinite(to_numpy(array)))), None)


class Spec(NamedTuple):
    """What an estimator needs and where it runs: one row of `ESTIMATORS`."""

    make: Callable[[Any, int, int], Estimator]  # from (model, samples z for each datapoint, datapoints N)
    posteriors: tuple = ("gaussian",)  # families of q(z|x) that it knows
    backends: tuple = ALL_BACKENDS
    random_weights: str | None = None  # prefix of the arrays that are random, `Architecture.random_weights`
    fewest_samples: int = 1  # samples z for each datapoint
    has_encoder: bool = True  # whether it trains q(z|x), which bounds and codes need
