"""Stochastic gradient ascent on the flat parameter vector: Adagrad, as in the paper, Adam, and plain SGD.

`formulas` has the equations of all optimizers, and the backend the arithmetic of a step (``reference.step``). This
module holds its settings and its state.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .backends.formulas import SCHEDULES, UPDATES, share_of_run, step_numbers
from .backends.interface import Array, Backend
from .conventions import short_repr

#: Name of the average of the iterates among the arrays of a `State`.
AVERAGE = "average"

#: How the iterates are averaged: not at all, or as in `formulas.step_numbers`.
AVERAGING = ("none", "polynomial")


class UpdateRule(NamedTuple):
    """The settings of a step.

    The objective is the bound per datapoint plus log p(w) / N: maximum a posteriori for the weights w, whose prior is
    N(0, I / weight_prior). The gradient of log p(w) / N is ``-weight_decay * w`` with
    ``weight_decay = weight_prior / N``.

    Examples
    --------
    >>> from npvae.optimizers import UpdateRule
    >>> rule = UpdateRule(step_size=0.02, weight_decay=1 / 1000, accumulate_only=0, n_weights=50)
    >>> rule = rule._replace(schedule="linear", n_steps=101)
    >>> [rule.numbers(count)[0] for count in (1, 51, 101)]  # the sizes of these steps
    [0.02, 0.01, 0.0]
    """

    step_size: float
    weight_decay: float
    accumulate_only: int  # first steps, which do not move the parameters
    n_weights: int  # how many elements of the vector are weights: the first ones
    schedule: str = "constant"  # a name in `formulas.SCHEDULES`
    n_steps: int = 1  # of the whole run: where the schedule ends
    begun: int = 0  # steps that had been taken when the state of the optimizer was new
    averaging: bool = False  # whether the iterates are averaged
    clip_norm: float | None = None  # largest norm of the gradient of the bound

    def numbers(self, count: int) -> tuple[float, ...]:
        """Return the numbers of a step, counted from 1: see `formulas.step_numbers`."""
        size = self.step_size * SCHEDULES[self.schedule](share_of_run(count, self.n_steps))
        return step_numbers(count, self.begun, self.accumulate_only, float(size))

    def names(self, optimizer: str) -> tuple[str, ...]:
        """Return the names of the arrays that an optimizer needs."""
        return (*UPDATES[optimizer].arrays, *([AVERAGE] if self.averaging else []))


class State(NamedTuple):
    """What a step changes besides the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.optimizers import State
    >>> State({"squares": np.zeros(8)}, counter=np.array([0, -1])).counter
    array([ 0, -1])
    """

    arrays: dict[str, Array]  # (P,) each, by name: see `UpdateRule.names`
    counter: Array  # (2,) int64: steps so far, and the first step that was not taken, or -1

    def __repr__(self) -> str:
        return short_repr(self)


class Optimizer:
    """An optimizer with its rule and its state.

    Parameters
    ----------
    name : a name in `formulas.UPDATES`
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
        self.name, self.rule, self._step, self._clip_norm = name, rule, backend.step, backend.clip_norm
        arrays = {array: backend.asarray(np.zeros(size), dtype) for array in rule.names(name)}
        self.state = State(arrays, backend.asarray([0, -1], np.int64))

    def launch(self, parameters: Any, gradient: Any) -> None:
        """Update in place and return at once, without checking success. Overwrites the gradient."""
        if self.rule.clip_norm is not None:
            self._clip_norm(gradient, self.rule.clip_norm)
        self._step(self.name, parameters, gradient, self.state, self.rule)

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
