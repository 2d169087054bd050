"""The formulas of `reference` for one number each, in the form that the compiled backends share.

After a change here, or to a constant of `reference`, the kernels that use it must be compiled again: Numba's cache does
not notice.
"""

import math

from numba import njit

from .reference import ACTIVATIONS, MIN_LOG_VAR

#: Activations as integers: their place in `reference.ACTIVATIONS`.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
IDENTITY, TANH, SIGMOID, FLOORED = (CODES[name] for name in ("identity", "tanh", "sigmoid", "floored"))

#: ``contract`` allows fused multiply-add. Nothing here lets the compiler assume that there is no NaN.
OPTIONS = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}


# Constants take the type of the argument, ``type(a)(1)``: beside an integer Numba turns float32 into float64.


@njit(**OPTIONS)
def sigmoid(a):
    """1 / (1 + exp(-a)), without overflow."""
    one, e = type(a)(1), math.exp(-abs(a))
    return (one if a >= 0 else e) / (one + e)


@njit(**OPTIONS)
def softplus(a):
    """log(1 + exp(a)), without overflow; NaN for NaN."""
    return max(a, type(a)(0)) + math.log1p(math.exp(-abs(a)))


@njit(**OPTIONS)
def activate(a, code):
    """Apply the activation of that code."""
    if code == TANH:
        return math.tanh(a)
    if code == SIGMOID:
        return sigmoid(a)
    if code == FLOORED:
        floor = type(a)(MIN_LOG_VAR)
        return floor + softplus(a - floor)
    return a


@njit(**OPTIONS)
def derivative(y, code):
    """Derivative of the activation of that code, from its output."""
    one = type(y)(1)
    if code == TANH:
        return one - y * y
    if code == SIGMOID:
        return y * (one - y)
    if code == FLOORED:
        return -math.expm1(type(y)(MIN_LOG_VAR) - y)
    return one
