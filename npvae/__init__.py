"""Auto-Encoding Variational Bayes, written by hand in NumPy and compiled where the time goes.

``npvae.fit(X)`` trains a variational autoencoder; ``npvae.VAE`` is the same with all settings. To read the mathematics,
begin with ``backends/reference.py``, then ``model.py``, ``estimators/bound.py`` and ``estimators/sgvb.py``.
"""

from typing import TYPE_CHECKING

from .checks import check_gradient, gradcheck
from .selection import fit
from .vae import VAE, load
from .version import __version__

__all__ = [
    "VAE",
    "__version__",
    "check_gradient",
    "datasets",
    "distributions",
    "exercises",
    "fit",
    "gradcheck",
    "load",
    "plots",
]

if TYPE_CHECKING:
    from . import datasets, distributions, exercises, plots
else:

    def __getattr__(name):
        """Import the modules beside the model on first use: ``npvae.plots`` loads matplotlib."""
        if name not in ("datasets", "distributions", "exercises", "plots"):
            from .conventions import did_you_mean

            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{did_you_mean(name, __all__)}")
        from importlib import import_module

        return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    """List what users call; other modules, which an import leaves here, are not for them."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
