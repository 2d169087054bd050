"""Stochastic gradient ascent on the flat parameter vector: Adagrad, as in the paper, and plain SGD.

The arithmetic of a step is the backend's; here stand its settings and its state.
"""

from typing import NamedTuple

import numpy as np

#: The function of a backend that makes a step, by name of the optimizer.
STEPS = {"adagrad": "adagrad_step", "sgd": "sgd_step"}


class UpdateRule(NamedTuple):
    """How a step is made.

    ``weight_decay`` is the precision of the prior N(0, I / weight_prior) on the weights over the number of datapoints:
    the objective is the bound *a datapoint*, plus log p(w) / N (maximum a posteriori).
    """

    step_size: float
    weight_decay: float
    accumulate_only: int
    n_weights: int


class State(NamedTuple):
    """What a step changes besides the parameters: the sum of squared gradients, and [steps, first bad step or -1]."""

    squares: object  # (P,)
    counter: object  # (2,) int64


class Optimizer:
    """One of ``STEPS`` with its rule and its state, for a parameter vector of a given size."""

    def __init__(self, name, backend, rule, size, dtype):
        self.rule = rule
        self.state = State(backend.asarray(np.zeros(size), dtype), backend.asarray([0, -1], np.int64))
        self._step = getattr(backend, STEPS[name])

    def launch(self, parameters, gradient):
        """Update in place and return at once, without checking success. Overwrites the gradient."""
        self._step(parameters, gradient, self.state, self.rule)

    def step(self, parameters, gradient):
        """Update in place, and check success.

        Returns
        -------
        bool : False if the gradient was not finite; the parameters are then unchanged
        """
        self.launch(parameters, gradient)
        return bool(self.state.counter[1] < 0)
