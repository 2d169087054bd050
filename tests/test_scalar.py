"""The elementary functions of the compiled backends in float32: errors against float64, ends of their ranges."""

import numpy as np
import pytest
import scipy.special
from numba import njit

from npvae.backends import scalar


def vectorized(function):
    """Compile a loop over a function, as the kernels have it."""

    @njit(error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp", "afn"})
    def loop(x, out):
        for i in range(len(x)):
            out[i] = function(x[i])
        return out

    return lambda x: loop(x, np.empty_like(x))


def arguments(low, high):
    """A million float32 numbers in an interval: evenly, and by orders of magnitude around zero."""
    small = 10.0 ** np.linspace(-30, 0, 100_000)
    x = np.concatenate([np.linspace(low, high, 1_000_000), small, -small]).astype(np.float32)
    return x[(x >= low) & (x <= high)]


#: (name, exact function, interval, units in the last place): what the docstrings promise.
RELATIVE = [
    ("exp", np.exp, (-87, 88), 1.5),
    ("expm1", np.expm1, (-87, 88), 2.5),
    ("tanh", np.tanh, (-100, 100), 3.0),
    ("log1p", np.log1p, (0, 1), 2.0),
    ("inverse_sqrt", lambda x: 1 / np.sqrt(x), (1e-30, 1e30), 2.0),
]


@pytest.mark.parametrize("name, exact, interval, units", RELATIVE)
def test_relative_errors(name, exact, interval, units):
    x = arguments(*interval)
    expected = exact(x.astype(float))
    error = np.abs(vectorized(getattr(scalar, name))(x) - expected)
    normal = np.abs(expected) > np.finfo(np.float32).tiny
    assert np.max(error[normal] / np.spacing(np.abs(expected[normal]).astype(np.float32))) < units
    assert error[~normal].max(initial=0) < np.finfo(np.float32).tiny


def test_absolute_errors():
    x = arguments(-100, 100)
    assert np.abs(vectorized(scalar.sigmoid)(x) - scipy.special.expit(x.astype(float))).max() < 1.2e-7
    expected = np.logaddexp(0, x.astype(float))
    assert np.max(np.abs(vectorized(scalar.softplus)(x) - expected) / np.maximum(1, expected)) < 1.2e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_of_the_ranges(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 500, -500], dtype)
    with np.errstate(over="ignore"):
        for name, expected in (
            ("exp", [np.nan, np.inf, 0, 1, np.exp(x[4]), 0]),
            ("expm1", [np.nan, np.inf, -1, 0, np.exp(x[4]), -1]),
            ("tanh", [np.nan, 1, -1, 0, 1, -1]),
            ("sigmoid", [np.nan, 1, 0, 0.5, 1, 0]),
            ("softplus", [np.nan, np.inf, 0, np.log(dtype(2)), 500, 0]),
        ):
            np.testing.assert_allclose(
                vectorized(getattr(scalar, name))(x), expected, rtol=1e-6, atol=1.2e-38, err_msg=name
            )


def test_float64_is_the_c_library():
    x = np.linspace(-5, 5, 1000)
    np.testing.assert_allclose(vectorized(scalar.inverse_sqrt)(x**2), 1 / np.abs(x), rtol=1e-15)
    np.testing.assert_allclose(vectorized(scalar.tanh)(x), np.tanh(x), rtol=1e-15)
    np.testing.assert_allclose(vectorized(scalar.exp)(x), np.exp(x), rtol=1e-15)
