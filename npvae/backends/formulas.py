"""Formulas of one number, each written once: activations with their derivatives, the sigmoid and the softplus.

They are plain NumPy, and `reference` applies them to arrays. `lift` gives the same source to a compiler, with the
elementary functions of another backend in place of NumPy's. To add an activation, add a row to ``ACTIVATIONS``.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy import exp, expm1, log1p, maximum, tanh, where

#: Lower limit of a Gaussian decoder's log-variance. On discrete or repeated values the bound has no maximum without
#: one. It is the rounding error of an 8-bit pixel scaled to [0, 1]: a standard deviation of 1 / (255 sqrt(12)).
MIN_LOG_VAR = -2 * np.log(255 * np.sqrt(12))


def constant(number, like):
    """Return the number. A compiler gives it the type of ``like``: a float32 beside a float64 would become one."""
    return number


def sigmoid(a):
    """1 / (1 + exp(-a)), without overflow at either end."""
    one, e = constant(1, a), exp(-abs(a))
    return where(a >= 0, one, e) / (one + e)


def softplus(a):
    """log(1 + exp(a)), without overflow at either end; NaN for NaN."""
    return maximum(a, constant(0, a)) + log1p(exp(-abs(a)))


def soft_floor(a):
    """Bound a log-variance smoothly from below: MIN_LOG_VAR + softplus(a - MIN_LOG_VAR)."""
    floor = constant(MIN_LOG_VAR, a)
    return floor + softplus(a - floor)


class Activation(NamedTuple):
    """``y = function(a)``, and its derivative from y: the backward pass needs only what the forward pass has kept."""

    function: Callable
    derivative: Callable
    hidden: bool = True  # whether users may choose it for hidden layers


ACTIVATIONS = {
    "identity": Activation(lambda a: a, lambda y: constant(1, y), hidden=False),
    "tanh": Activation(lambda a: tanh(a), lambda y: constant(1, y) - y * y),
    "sigmoid": Activation(sigmoid, lambda y: y * (constant(1, y) - y)),
    "soft_floor": Activation(soft_floor, lambda y: -expm1(constant(MIN_LOG_VAR, y) - y), hidden=False),
}

#: Activations by number, for kernels: their place in ``ACTIVATIONS``.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}

#: Activations that users choose from, for hidden layers.
HIDDEN = tuple(name for name, row in ACTIVATIONS.items() if row.hidden)


def activation(name: str) -> Activation:
    """Return the row of an activation.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> activation("tanh").derivative(0.5)
    0.75
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")
    return ACTIVATIONS[name]


def code(name: str) -> int:
    """Return the number of an activation; ValueError if there is none of that name."""
    activation(name)
    return CODES[name]


def lift(compile: Callable, **elementary: Any) -> tuple[dict[str, Callable], list[Activation]]:
    """Compile all formulas of one number.

    Parameters
    ----------
    compile : callable, from a Python function to a compiled one
    elementary : functions of the names that the formulas use: constant, exp, expm1, log1p, maximum, tanh, where

    Returns
    -------
    functions : dict of the named formulas; activations : list of Activation, in the order of ``CODES``
    """
    names = dict(elementary)

    def compiled(function):
        return compile(FunctionType(function.__code__, globals() | names, function.__name__))

    for function in (sigmoid, softplus, soft_floor):
        names[function.__name__] = compiled(function)
    rows = [Activation(compiled(row.function), compiled(row.derivative)) for row in ACTIVATIONS.values()]
    return {name: names[name] for name in names if name not in elementary}, rows
