"""The places where the time goes, each written once to be read (`reference`) and once to be fast (`cpu`).

A backend is a module; all have the names, arguments and results of `reference`. `get` imports one by name, so that
nothing is compiled before it is asked for.
"""

from importlib import import_module

#: Names that `get` knows, besides "auto".
BACKENDS = ("reference", "cpu")


def get(name):
    """Return a backend module: "reference" (NumPy), "cpu" (Numba), or "auto", which is the fastest one here.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    """
    if name == "auto":
        name = "cpu"
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; expected one of {', '.join(map(repr, (*BACKENDS, 'auto')))}")
    return import_module(f"{__name__}.{name}")
