"""Stochastic gradient ascent on the flat parameter vector: Adagrad, as in the paper, and plain SGD.

The arithmetic of a step is the backend's (``reference.adagrad_step``). This module holds its settings and its state.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .backends.interface import Array, Backend
from .conventions import short_repr

#: The function of a backend that takes a step, by name of the optimizer.
STEPS = {"adagrad": "adagrad_step", "sgd": "sgd_step"}


class UpdateRule(NamedTuple):
    """The settings of a step.

    The objective is the bound per datapoint plus log p(w) / N: maximum a posteriori for the weights w, whose prior is
    N(0, I / weight_prior). The gradient of log p(w) / N is ``-weight_decay * w`` with
    ``weight_decay = weight_prior / N``.

    Examples
    --------
    >>> from npvae.optimizers import UpdateRule
    >>> rule = UpdateRule(step_size=0.02, weight_decay=1 / 1000, accumulate_only=100, n_weights=50)
    >>> rule._replace(step_size=0.1).step_size
    0.1
    """

    step_size: float
    weight_decay: float
    accumulate_only: int  # first steps of Adagrad, which only sum the squares and do not move the parameters
    n_weights: int  # how many elements of the vector are weights: the first ones


class State(NamedTuple):
    """What a step changes besides the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.optimizers import State
    >>> State(squares=np.zeros(8), counter=np.array([0, -1])).counter
    array([ 0, -1])
    """

    squares: Array  # (P,), the sum of squared gradients; SGD does not use it
    counter: Array  # (2,) int64: steps so far, and the first step that was not taken, or -1

    def __repr__(self) -> str:
        return short_repr(self)


class Optimizer:
    """An optimizer with its rule and its state.

    Parameters
    ----------
    name : "adagrad" or "sgd"
    backend : Backend
    rule : UpdateRule
    size : int, the length P of the parameter vector
    dtype : of the parameter vector

    Examples
    --------
    One step of gradient ascent on -w^2 / 2, whose gradient is -w:

    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.optimizers import Optimizer, UpdateRule
    >>> from npvae.parameters import Layout
    >>> layout = Layout({"w.W": (1, 1)})
    >>> parameters, gradient = layout.view(np.array([2.0])), layout.view(np.array([-2.0]))
    >>> optimizer = Optimizer("sgd", reference, UpdateRule(0.5, 0.0, 0, 1), 1, "float64")
    >>> optimizer.step(parameters, gradient)
    True
    >>> parameters.vector
    array([1.])
    """

    def __init__(self, name: str, backend: Backend, rule: UpdateRule, size: int, dtype: DTypeLike) -> None:
        self.rule = rule
        self.state = State(backend.asarray(np.zeros(size), dtype), backend.asarray([0, -1], np.int64))
        self._step = getattr(backend, STEPS[name])

    def launch(self, parameters: Any, gradient: Any) -> None:
        """Update in place and return at once, without checking success. Overwrites the gradient."""
        self._step(parameters, gradient, self.state, self.rule)

    def step(self, parameters: Any, gradient: Any) -> bool:
        """Update in place, and check success. Overwrites the gradient, which is then NaN where a step overflows.

        Parameters
        ----------
        parameters, gradient : Parameters; the gradient may be the backend's own kind

        Returns
        -------
        bool : False if the gradient or a result is not finite; the parameters are then unchanged
        """
        self.launch(parameters, gradient)
        return bool(self.state.counter[1] < 0)
