"""The places where the time goes, each written once to be read (`reference`) and to be fast (`cpu`, `cuda`).

A backend is a module; all have the names, arguments and results of `reference`. `get` imports one by name, so that
nothing is compiled, and no GPU touched, before it is asked for.
"""

from importlib import import_module, util

#: Names that `get` knows.
BACKENDS = ("reference", "cpu", "cuda")

#: "auto" takes a GPU where a step and the whole training have so many floating-point operations. A step that takes a
#: processor 0.1 ms (at 1e11 a second) has little to gain from a GPU, which needs as long to launch it; and where the
#: training takes a processor less than a hundred seconds, compiling the kernels takes a good part of that.
LARGE_STEP, LARGE_RUN = 1e7, 1e13


def get(name):
    """Return a backend module: "reference" (NumPy), "cpu" (Numba) or "cuda" (numba.cuda).

    Raises
    ------
    ValueError
        If there is no backend of that name.
    RuntimeError
        If it is "cuda", and there is no GPU that it could use; the message says what is missing.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    if lacking := missing(name):
        raise RuntimeError(f"backend is {name!r}, but {lacking}")
    return import_module(f"{__name__}.{name}")


def missing(name):
    """Say what a backend lacks here; None if it can be used."""
    return missing_for_cuda() if name == "cuda" else None


def missing_for_cuda():
    """Say what is missing for the backend "cuda"; None if nothing is. Looking for a GPU takes a second or two."""
    if util.find_spec("numba_cuda") is None:
        return 'the package numba-cuda is not installed; pip install "npvae[cuda]" installs it'
    from numba import cuda

    if cuda.is_available():
        return None
    try:
        cuda.get_current_device()
    except Exception as error:  # the driver's own words
        return f"no GPU can be used: {' '.join(str(error).split()) or type(error).__name__}"
    return "no GPU can be used"


def choose(flop_of_step, flop_of_run):
    """Return the name of the backend that "auto" stands for, given the work of a step and of the whole training."""
    large = flop_of_step >= LARGE_STEP and flop_of_run >= LARGE_RUN
    return "cuda" if large and missing_for_cuda() is None else "cpu"
