"""Scalar formulas, each written once: activations with their derivatives, the sigmoid and the softplus.

They are written with NumPy's functions, so `reference` applies them to arrays. `lift` compiles the same source for
another backend, with that backend's elementary functions. To add an activation, add a row to ``ACTIVATIONS``.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy import exp, expm1, log1p, maximum, tanh, where

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


def lift(compile: Callable, **elementary: Any) -> tuple[dict[str, Callable], list[Activation]]:
    """Compile all formulas, with other elementary functions than NumPy's.

    Parameters
    ----------
    compile : callable, from a Python function to a compiled function
    elementary : constant, exp, expm1, log1p, maximum, tanh, where
        The functions that take the place of NumPy's functions of these names (and of `constant`) in the formulas.

    Returns
    -------
    functions : dict of the compiled sigmoid, softplus and soft_floor by name
    activations : list of Activation, compiled, in the order of ``CODES``

    Examples
    --------
    Without a compiler, and with the functions of ``math``:

    >>> import math
    >>> functions, activations = lift(
    ...     lambda function: function, constant=constant, exp=math.exp, expm1=math.expm1, log1p=math.log1p,
    ...     maximum=max, tanh=math.tanh, where=lambda condition, a, b: a if condition else b,
    ... )
    >>> functions["sigmoid"](0.0)
    0.5
    """
    names = dict(elementary)

    def compiled(function):
        return compile(FunctionType(function.__code__, globals() | names, function.__name__))

    for function in (sigmoid, softplus, soft_floor):
        names[function.__name__] = compiled(function)
    rows = [Activation(compiled(row.function), compiled(row.derivative)) for row in ACTIVATIONS.values()]
    return {name: names[name] for name in names if name not in elementary}, rows
