"""Scalar formulas, each written once: activations with their derivatives, and the updates of the optimizers.

They are written with NumPy's functions, so `reference` applies them to arrays. `lift` compiles the same source for
another backend, with that backend's elementary functions. To add an activation, add a row to ``ACTIVATIONS``.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy import cos, exp, expm1, log1p, maximum, sqrt, tanh, where

from ..conventions import check_choice

#: Lower limit of a Gaussian decoder's log-variance. Without it the bound has no maximum on discrete or repeated values.
#: The limit is the rounding error of an 8-bit pixel scaled to [0, 1]: a standard deviation of 1 / (255 sqrt(12)).
MIN_LOG_VAR = -2 * np.log(255 * np.sqrt(12))


def constant(number: float, like: Any) -> Any:
    """Return the number.

    Compiled backends convert it to the type of ``like``: there, a float32 plus a float64 constant would be a float64.
    """
    return number


def sigmoid(a: Any) -> Any:
    """1 / (1 + exp(-a)), without overflow for large or small a."""
    one, e = constant(1, a), exp(-abs(a))
    return where(a >= 0, one, e) / (one + e)


def softplus(a: Any) -> Any:
    """log(1 + exp(a)), without overflow for large or small a; NaN for NaN."""
    return maximum(a, constant(0, a)) + log1p(exp(-abs(a)))


def soft_floor(a: Any) -> Any:
    """MIN_LOG_VAR + softplus(a - MIN_LOG_VAR): a smooth lower limit of a log-variance, nearly a where a is above it."""
    floor = constant(MIN_LOG_VAR, a)
    return floor + softplus(a - floor)


class Activation(NamedTuple):
    """An activation ``y = function(a)`` with its derivative, dy/da ``= derivative(y)``.

    The derivative is a function of y because the forward pass keeps y and not a.
    """

    function: Callable
    derivative: Callable
    hidden: bool = True  # whether users may choose it for hidden layers


#: All activations by name.
ACTIVATIONS = {
    "identity": Activation(lambda a: a, lambda y: constant(1, y), hidden=False),
    "tanh": Activation(lambda a: tanh(a), lambda y: constant(1, y) - y * y),
    "sigmoid": Activation(sigmoid, lambda y: y * (constant(1, y) - y)),
    "soft_floor": Activation(soft_floor, lambda y: -expm1(constant(MIN_LOG_VAR, y) - y), hidden=False),
}

#: The number of each activation, for compiled kernels: its position in ``ACTIVATIONS``.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}

#: Activations that users choose from, for hidden layers.
HIDDEN = tuple(name for name, row in ACTIVATIONS.items() if row.hidden)


def activation(name: str) -> Activation:
    """Return the row of an activation.

    Raises
    ------
    ValueError
        If there is no activation of that name.

    Examples
    --------
    >>> activation("tanh").derivative(0.5)
    0.75
    """
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def code(name: str) -> int:
    """Return the number of an activation; ValueError as in `activation`."""
    activation(name)
    return CODES[name]


# Random bits, computed from keys -----------------------------------------------------------------------------------

#: The constants of SplitMix64; typed, because a compiler takes an integer that is not for a signed one.
GAMMA, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
BY_30, BY_27, BY_31, BY_40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(40)


def mix(key: Any) -> Any:
    """Scramble 64-bit integers: a step of the SplitMix64 generator (Steele, Lea and Flood, 2014)."""
    key = key + GAMMA
    key = (key ^ (key >> BY_30)) * FIRST
    key = (key ^ (key >> BY_27)) * SECOND
    return key ^ (key >> BY_31)


def binarized(x: Any, key: Any, column: Any) -> Any:
    """1 with the probability x, from [0, 1], and otherwise 0; the key and the column, of 64 bits, decide which.

    x is compared with a uniform multiple of 2^-24 in [0, 1), exactly: 0 and 1 stay, and a probability is larger than x
    by less than 2^-24. NaN stays NaN.
    """
    uniform = constant(2.0**-24, x) * (mix(key + column) >> BY_40)
    return where(uniform < x, constant(1, x), constant(0, x) * x)


# Optimizers: gradient ascent, one parameter at a time ----------------------------------------------------------------

#: Keeps Adagrad's step finite where all gradients so far were zero. The value is that of the authors' code.
ADAGRAD_EPSILON = 1e-8

#: Adam's decay rates of the moments, and what keeps its step finite (Kingma and Ba, 2015).
ADAM_DECAY, ADAM_DECAY_OF_SQUARES, ADAM_EPSILON = 0.9, 0.999, 1e-8

#: The average of the iterates weights the k-th one by about k^3: 94 % of it is the last half of the steps.
AVERAGING_POWER = 3


def over_sqrt(a: Any, b: Any) -> Any:
    """a / sqrt(b)."""
    return a / sqrt(b)


def adagrad(w: Any, g: Any, numbers: Any, squares: Any, unused: Any) -> Any:
    """``G += g^2``, then ``w += size * g / sqrt(G + 1e-8)``."""
    squares = squares + g * g
    return w + over_sqrt(numbers[0] * g, squares + constant(ADAGRAD_EPSILON, g)), squares, unused


def adam(w: Any, g: Any, numbers: Any, mean: Any, squares: Any) -> Any:
    """``m += (1 - b1) (g - m)``, ``v += (1 - b2) (g^2 - v)``, then ``w += size * m^ / (sqrt(v^) + 1e-8)``.

    m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t) are corrected for their start at zero (Kingma and Ba, algorithm 1).
    """
    size, correction, correction_of_squares, _ = numbers
    mean = mean + constant(1 - ADAM_DECAY, g) * (g - mean)
    squares = squares + constant(1 - ADAM_DECAY_OF_SQUARES, g) * (g * g - squares)
    root = sqrt(correction_of_squares * squares) + constant(ADAM_EPSILON, g)
    return w + size * (correction * mean / root), mean, squares


def sgd(w: Any, g: Any, numbers: Any, unused: Any, also_unused: Any) -> Any:
    """``w += size * g``."""
    return w + numbers[0] * g, unused, also_unused


def averaged(average: Any, w: Any, numbers: Any) -> Any:
    """Return the average of the iterates so far and w: ``a += weight * (w - a)``."""
    return average + numbers[3] * (w - average)


def share_of_run(count: Any, n_steps: Any) -> Any:
    """The share of a run that is over at a step: 0 at the first step, 1 at the last one."""
    return min(1.0, (count - 1) / max(n_steps - 1, 1))


def step_numbers(count: Any, begun: Any, accumulate_only: Any, size: Any) -> Any:
    """Return the numbers of a step: its size, Adam's two corrections, and the weight of the new iterate in the average.

    ``count`` is the number of the step; the state of the optimizer is new at ``begun``, and its first
    ``accumulate_only`` steps after that have the size 0. The k-th iterate enters the average with the weight
    4 / (k + 3) (polynomial-decay averaging: Shamir and Zhang, 2013). The first one is the average.
    """
    t, power = count - begun, AVERAGING_POWER
    k = max(t - accumulate_only, 1)
    return (
        size if t > accumulate_only else 0.0 * size,
        1 / (1 - ADAM_DECAY ** (1.0 * t)),
        1 / (1 - ADAM_DECAY_OF_SQUARES ** (1.0 * t)),
        (power + 1.0) / (k + power),
    )


class Update(NamedTuple):
    """An optimizer.

    ``function`` takes a parameter w, its gradient, the numbers of the step (see `step_numbers`) and two numbers of its
    state, and returns w and its state after the step. What it does not use it returns as it was.
    """

    function: Callable
    arrays: tuple[str, ...]  # names of the arrays of its state, at most two, each of the length of the parameters
    accumulates: bool = True  # whether its first steps only sum up, as Adagrad's
    step_sizes: tuple[float, ...] | None = None  # compared for the learning rate "auto"; None: those of the paper


#: All optimizers by name.
UPDATES = {
    "adagrad": Update(adagrad, ("squares",)),
    "sgd": Update(sgd, ()),
    "adam": Update(adam, ("first_moment", "second_moment"), accumulates=False, step_sizes=(0.001, 0.003, 0.01)),
}

#: The factor of the step size by name of the schedule, as a function of the share of the run that is over.
SCHEDULES = {
    "constant": lambda share: 1.0 + 0.0 * share,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 + 0.5 * cos(np.pi * share),
}

#: The numbers of optimizers and schedules, for compiled kernels: their positions in these tables.
UPDATE_CODES, SCHEDULE_CODES = ({name: code for code, name in enumerate(table)} for table in (UPDATES, SCHEDULES))


class Lifted(NamedTuple):
    """All formulas compiled by `lift`."""

    functions: dict[str, Callable]  # by name: sigmoid, softplus, soft_floor, averaged, mix, binarized, and of a step
    activations: list[Activation]  # in the order of ``CODES``
    updates: list[Update]  # in the order of ``UPDATE_CODES``
    schedules: list[Callable]  # in the order of ``SCHEDULE_CODES``


def lift(compile: Callable, **elementary: Any) -> Lifted:
    """Compile all formulas, with other elementary functions than NumPy's.

    Parameters
    ----------
    compile : callable, from a Python function to a compiled function
    elementary : constant, cos, exp, expm1, log1p, maximum, over_sqrt, sqrt, tanh, where
        The functions that take the place of NumPy's functions of these names (and of `constant` and `over_sqrt`) in the
        formulas.

    Returns
    -------
    Lifted

    Examples
    --------
    Without a compiler, and with the functions of ``math``:

    >>> import math
    >>> lifted = lift(
    ...     lambda function: function, constant=constant, cos=math.cos, exp=math.exp, expm1=math.expm1,
    ...     log1p=math.log1p, maximum=max, over_sqrt=over_sqrt, sqrt=math.sqrt, tanh=math.tanh,
    ...     where=lambda condition, a, b: a if condition else b,
    ... )
    >>> lifted.functions["sigmoid"](0.0)
    0.5
    """
    names = dict(elementary)

    def compiled(function):
        return compile(FunctionType(function.__code__, globals() | names, function.__name__))

    for function in (sigmoid, softplus, soft_floor, averaged, share_of_run, step_numbers, mix, binarized):
        names[function.__name__] = compiled(function)
    return Lifted(
        {name: names[name] for name in names if name not in elementary},
        [Activation(compiled(row.function), compiled(row.derivative)) for row in ACTIVATIONS.values()],
        [row._replace(function=compiled(row.function)) for row in UPDATES.values()],
        [compiled(function) for function in SCHEDULES.values()],
    )
