"""Scalar functions for the CPU kernels: exp, tanh and others, the formulas of `formulas`, and activations of arrays.

In float64 the elementary functions are those of the C library, for accuracy. In float32 they are polynomials, which the
compiler vectorizes: 8 or 16 numbers at a time. Their coefficients are computed at import.

After a change here, or to a constant of `reference`, delete the compiled kernels: Numba's cache does not notice that
kernels of other files are out of date.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.polynomial import Chebyshev, Polynomial

from . import formulas
from .runtime import CACHE

#: ``contract`` allows fused multiply-add. Nothing here lets the compiler assume that there is no NaN.
OPTIONS = {"cache": CACHE, "error_model": "numpy", "fastmath": {"contract"}}

#: ``contract`` allows fused multiply-add; ``reassoc`` and the others allow vectorized sums. Left out are ``nnan`` and
#: ``ninf`` (part of ``fastmath=True``): with them the compiler may remove the search for NaN and infinite values.
FAST = OPTIONS | {"fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}}

#: For the function of a row: it becomes part of the loop that calls it. Otherwise the process that compiles a loop and
#: those that load it from Numba's cache run two versions of such a function, whose sums differ in the last bits.
#:
#: A loop that sums writes nothing. A compiled loop that also writes looks whether its arrays overlap, or lie close
#: together, and then sums in another order: the last bits would depend on where in memory small arrays happen to be.
ROW = FAST | {"cache": False, "forceinline": True}


# Elementary functions -------------------------------------------------------------------------------------------------


def _polynomial(function, degree, domain):
    """Return the coefficients of the Chebyshev interpolant, constant term first: nearly the best approximation."""
    coefficients = Chebyshev.interpolate(function, degree, domain).convert(kind=Polynomial).coef
    return tuple(np.float32(coefficient) for coefficient in coefficients)


LN2 = math.log(2)
LOG2_E = np.float32(1 / LN2)
#: ln 2 as a sum of two numbers. The first has so few bits that its product with an exponent n is exact.
LN2_HIGH = np.float32(round(LN2 * 2**12) / 2**12)
LN2_LOW = np.float32(LN2 - float(LN2_HIGH))
#: Above EXP_TO, e^x is infinite; below EXP_FROM, it is the smallest normal number. Float32 has exponents -126 to 127.
EXP_TO, EXP_FROM = np.float32(127.49 * LN2), np.float32(-126 * LN2)

#: (e^r - 1) / r for |r| <= ln(2) / 2, and log(1 + e) / e for e in [0, 1].
EXPM1_OVER_R = _polynomial(lambda r: np.expm1(r) / np.where(r == 0, 1, r) + (r == 0), 6, (-LN2 / 2, LN2 / 2))
LOG1P_OVER_E = _polynomial(lambda e: np.log1p(e) / np.where(e == 0, 1, e) + (e == 0), 10, (0, 1))

#: ``(x + ROUNDER) - ROUNDER`` rounds x to an integer, for |x| < 2^22. The last bits of the sum are that integer.
ROUNDER = np.float32(1.5 * 2**23)


@intrinsic
def _power_of_two(typingctx, shifted):
    """Return 2^n for ``shifted = n + ROUNDER``: moves the last bits of ``shifted``, which are n, to the exponent."""

    def codegen(context, builder, signature, args):
        integer = ir.IntType(32)
        n = builder.shl(builder.bitcast(args[0], integer), integer(23))
        return builder.bitcast(builder.add(n, integer(0x3F800000)), ir.FloatType())  # the bits of 1.0

    return types.float32(types.float32), codegen


def _guess(x, bits):
    """Approximate 1 / sqrt(x): the bits of a float, read as an integer, are nearly linear in the logarithm of x."""
    return (bits - (x.view(np.int32) >> 1)).view(np.float32)


def _bits_of_guess():
    """Return the constant of `_guess` with the smallest maximal error. The error for x and 4 x is the same."""
    x = np.linspace(1, 4, 3001, dtype=np.float32)
    candidates = np.int32(0x5F000000) + np.arange(0x350000, 0x3A0000, 0x1000, dtype=np.int32)
    return min(candidates, key=lambda bits: np.max(np.abs(_guess(x, bits) * np.sqrt(x) - 1)))


BITS_OF_GUESS = int(_bits_of_guess())


@intrinsic
def _inverse_sqrt_guess(typingctx, x):
    """`_guess` for one number."""

    def codegen(context, builder, signature, args):
        integer = ir.IntType(32)
        half = builder.lshr(builder.bitcast(args[0], integer), integer(1))
        return builder.bitcast(builder.sub(integer(BITS_OF_GUESS), half), ir.FloatType())

    return types.float32(types.float32), codegen


@njit(**OPTIONS)
def _evaluate(coefficients, x):
    """Evaluate a polynomial by Horner's rule."""
    total = coefficients[-1]
    for i in range(2, len(coefficients) + 1):
        total = total * x + coefficients[-i]
    return total


@njit(**OPTIONS)
def _exp_parts(x):
    """Return 2^n and e^r - 1, where ``x = n ln 2 + r`` and |r| <= ln(2) / 2, so that e^x = 2^n (1 + (e^r - 1))."""
    x = EXP_FROM if x < EXP_FROM else (EXP_TO if x > EXP_TO else x)  # NaN stays NaN
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return _power_of_two(shifted), r * _evaluate(EXPM1_OVER_R, r)


@njit(**OPTIONS)
def _exp_float32(x):
    power, rest = _exp_parts(x)
    return np.float32(np.inf) if x > EXP_TO else power + power * rest


@njit(**OPTIONS)
def _expm1_float32(x):
    power, rest = _exp_parts(x)
    return np.float32(np.inf) if x > EXP_TO else (power - np.float32(1)) + power * rest


@njit(**OPTIONS)
def _tanh_float32(x):
    m = _expm1_float32(np.float32(-2) * abs(x))
    size = abs(m) / (np.float32(2) + m)
    return -size if x < 0 else size


@njit(**OPTIONS)
def _log1p_float32(e):
    return e * _evaluate(LOG1P_OVER_E, e)


@njit(**OPTIONS)
def _inverse_sqrt_float32(x):
    one, half, three_eighths = np.float32(1), np.float32(0.5), np.float32(0.375)
    y = _inverse_sqrt_guess(x)
    h = one - x * y * y  # the series of (1 - h)^(-1/2): first two terms, then one, as h is small
    y += y * h * (half + three_eighths * h)
    h = one - x * y * y
    return y + y * (half * h)


def exp(x):
    """e^x; in float32 within 1.5 units in the last place from -87 to 88, and 1.2e-38 or infinite beyond."""


def expm1(x):
    """e^x - 1; in float32 within 2.5 units in the last place, also where x is small (up to 88)."""


def tanh(x):
    """Hyperbolic tangent; in float32 within 3 units in the last place."""


def log1p(e):
    """log(1 + e) for e in [0, 1], as softplus needs it; in float32 within 2 units in the last place."""


def inverse_sqrt(x):
    """1 / sqrt(x) for normal x > 0; in float32 within 2 units in the last place."""


def _by_type(float64, float32):
    """Return an overload that uses one function for float32 and the other for all other types."""

    def choose(x):
        return (lambda x: float32(x)) if x is types.float32 else (lambda x: float64(x))

    return choose


overload(exp)(_by_type(math.exp, _exp_float32))
overload(expm1)(_by_type(math.expm1, _expm1_float32))
overload(tanh)(_by_type(math.tanh, _tanh_float32))
overload(log1p)(_by_type(math.log1p, _log1p_float32))
overload(inverse_sqrt)(_by_type(njit(**OPTIONS)(lambda x: 1 / math.sqrt(x)), _inverse_sqrt_float32))


# Formulas -------------------------------------------------------------------------------------------------------------
#
# The source is that of `formulas`. These functions become part of the kernels that call them, and the kernels are
# cached on disk; the functions need no cache of their own. They must not stay functions: several have one name, such as
# the closures below, and of two kernels from the cache each would bring its own, of which the process takes one.

INLINE = OPTIONS | {"cache": False, "forceinline": True}


@njit(**INLINE)
def _constant(number, like):
    return type(like)(number)


@njit(**INLINE)
def _maximum(a, b):
    return max(a, b)


@njit(**INLINE)
def _where(condition, a, b):
    return a if condition else b


@njit(**INLINE)
def _over_sqrt(a, b):
    return a * inverse_sqrt(b)


_functions, _activations, _updates, _ = formulas.lift(
    njit(**INLINE), constant=_constant, cos=math.cos, exp=exp, expm1=expm1, log1p=log1p, maximum=_maximum,
    over_sqrt=_over_sqrt, sqrt=math.sqrt, tanh=tanh, where=_where,
)  # fmt: skip
sigmoid, softplus, _averaged = _functions["sigmoid"], _functions["softplus"], _functions["averaged"]
binarized, mix = _functions["binarized"], _functions["mix"]


def _loop(function):
    """Return a loop over a flat array that applies a function of one number, in place."""

    @njit(**INLINE)
    def loop(numbers):
        for i in range(len(numbers)):
            numbers[i] = function(numbers[i])

    return loop


def _multiplying_loop(function):
    """Return a loop over two flat arrays that multiplies the first by a function of the second, in place."""

    @njit(**INLINE)
    def loop(numbers, y):
        for i in range(len(y)):
            numbers[i] *= function(y[i])

    return loop


def _updating_loop(function, n_arrays, averages):
    """Return a loop over flat arrays that takes a step of an optimizer with so many arrays, with an average or without.

    What it does not use is some other array.
    """

    @njit(**INLINE)
    def loop(parameters, gradient, arrays, average, numbers, weight_decay):
        (first, second), largest = arrays, np.finfo(parameters.dtype).max
        overflowed, one, two = False, parameters.dtype.type(0), parameters.dtype.type(0)
        for i in range(len(parameters)):
            before = parameters[i]
            if n_arrays > 0:
                one = first[i]
            if n_arrays > 1:
                two = second[i]
            after, one, two = function(before, gradient[i] - weight_decay * before, numbers, one, two)
            parameters[i], gradient[i] = after, before
            finite = abs(after) <= largest
            if n_arrays > 0:
                first[i] = one
                finite &= abs(one) <= largest
            if n_arrays > 1:
                second[i] = two
                finite &= two <= largest
            if averages:
                mean = _averaged(average[i], after, numbers)
                average[i] = mean
                finite &= abs(mean) <= largest
            overflowed |= not finite
        return overflowed

    return loop


#: The loops of the activations by name: y = f(a), and the derivative f'(a) as a function of y.
activating_loops = {name: _loop(row.function) for name, row in zip(formulas.ACTIVATIONS, _activations)}
multiplying_loops = {name: _multiplying_loop(row.derivative) for name, row in zip(formulas.ACTIVATIONS, _activations)}

#: The loops of the optimizers by (name, whether the iterates are averaged). See `reference.step`. Each returns whether
#: a number overflowed; the gradient gets the parameters from before, so that a step that overflowed can be taken back.
updating_loops = {
    (name, averages): _updating_loop(row.function, len(row.arrays), averages)
    for name, row in zip(formulas.UPDATES, _updates)
    for averages in (False, True)
}


@njit(**OPTIONS | {"fastmath": {"contract", "reassoc"}})
def squared_norm(numbers):
    """Return the sum of squares of a flat array: NaN or infinite if an element is, or if a square overflows."""
    total = numbers.dtype.type(0)
    for i in range(len(numbers)):
        total += numbers[i] * numbers[i]
    return total
