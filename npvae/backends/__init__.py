"""Backends: the functions that take the time, in plain NumPy (`reference`) and compiled (`cpu`, `cuda`).

A backend is a module. All have the functions of `reference`, with the same arguments and results. `get` imports a
backend by name: before that, none of its functions is compiled and no GPU is used.
"""

import sys
from importlib import import_module, util
from typing import Any

from ..conventions import check_choice

#: Names that `get` knows.
BACKENDS = ("reference", "cpu", "cuda")

#: "auto" takes a GPU if a step and the whole training have at least so many floating-point operations. A CPU does some
#: 1e11 per second. It needs 0.1 ms for such a step, as long as a GPU needs to launch one. It needs 100 s for such a
#: training; in a shorter one, compiling the kernels for the GPU would take a large part of the time.
LARGE_STEP, LARGE_RUN = 1e7, 1e13

#: Seconds that one core takes to compile the kernels of the backend "cpu" for one dtype.
TO_COMPILE = 15


def get(name: str) -> Any:
    """Return a backend module: "reference" (NumPy), "cpu" (Numba) or "cuda" (numba.cuda).

    Raises
    ------
    ValueError
        If there is no backend of that name.
    RuntimeError
        If the name is "cuda" and no GPU can be used; the message says what is missing.

    Examples
    --------
    >>> from npvae import backends
    >>> backends.get("reference").__name__
    'npvae.backends.reference'
    """
    check_choice("backend", name, BACKENDS)
    if lacking := missing(name):
        raise RuntimeError(f"backend is {name!r}, but {lacking}")
    return import_module(f"{__name__}.{name}")


def compiling(backend: Any, dtype: Any) -> str | None:
    """Say that the first step with a backend will compile its kernels, if they are not compiled for this dtype yet.

    Examples
    --------
    >>> from npvae import backends
    >>> backends.compiling(backends.get("reference"), "float32") is None  # NumPy has nothing to compile
    True
    """
    if backend is not sys.modules.get(f"{__name__}.cpu"):
        return None
    from .matmul import product  # of all kernels, it takes longest

    return None if product.is_compiled(dtype) else f"compiling the kernels, the first time only: about {TO_COMPILE} s"


def missing(name: str) -> str | None:
    """Say what a backend lacks here; None if it can be used."""
    return missing_for_cuda() if name == "cuda" else None


def missing_for_cuda() -> str | None:
    """Say what the backend "cuda" lacks; None if it can be used. The search for a GPU takes a second or two."""
    if util.find_spec("numba_cuda") is None:
        return 'the package numba-cuda is not installed; pip install "npvae[cuda]" installs it'
    from numba import cuda

    if cuda.is_available():
        return None if cuda.config.ENABLE_CUDASIM else unfit_for_cuda()
    try:
        cuda.get_current_device()
    except Exception as error:  # the message is the driver's
        return f"no GPU can be used: {' '.join(str(error).split()) or type(error).__name__}"
    return "no GPU can be used"


def unfit_for_cuda() -> str | None:
    """Say why numba-cuda could not compile anything here; None if it can.

    It adds to the functions of NumPy when it first compiles: one that NumPy has no longer is an error only then.
    """
    try:
        import_module("numba.cuda.np.arrayobj")
    except AttributeError as error:
        import numpy as np

        return f'numba-cuda cannot work with NumPy {np.__version__} ({error}); pip install "numpy<2.5" may help'
    return None


def choose(flop_of_step: float, flop_of_run: float) -> str:
    """Return the backend for "auto", "cuda" or "cpu", from the operations of a step and of the whole training."""
    large = flop_of_step >= LARGE_STEP and flop_of_run >= LARGE_RUN
    return "cuda" if large and missing_for_cuda() is None else "cpu"
