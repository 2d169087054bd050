"""Auto-Encoding Variational Bayes, written by hand in NumPy and compiled where the time goes.

``npvae.fit(X)`` trains a variational autoencoder; ``npvae.VAE`` is the same with all settings. The mathematics stands
in ``backends/reference.py``, ``estimators/sgvb.py`` and ``model.py``, in this order for a first reading.
"""

from .gradcheck import gradcheck
from .vae import VAE, fit, load
from .version import __version__

__all__ = ["VAE", "__version__", "fit", "gradcheck", "load"]
