"""`Fitted`: a trained model as values, and its use in batches. Evaluation, restoration, checks and plots are given one.

It knows nothing of settings, training or scikit-learn; ``vae`` has the methods that users call.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .conventions import column_names, compare_names
from .estimators import WEIGHT_DRAWS, Scorer
from .model import Model
from .parameters import Buffers, Parameters
from .preprocessing import Data, Preprocessor, survey

#: Rows that are computed together.
BATCH = Scorer.batch_size


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of a purpose: independent of the others, and the same at each call."""
    return np.random.default_rng([seed, *purpose.encode()])


@dataclass(frozen=True)
class Fitted:
    """A trained model with all that its use needs.

    Parameters
    ----------
    model : Model
    parameters : Parameters, where the model's backend computes
    preprocessor : Preprocessor
    seed : int, of scores and draws
    n_samples : int, samples z for each datapoint in scores
    feature_names : array of str (D,), or None
    """

    model: Model
    parameters: Parameters
    preprocessor: Preprocessor
    seed: int
    n_samples: int = 1
    feature_names: Any = None

    def data(self, X, name: str = "X") -> Data:
        """Check data (N, D) like that of the fit, and attach its scaling; ValueError or TypeError if it differs."""
        compare_names(column_names(X), self.feature_names, "VAE")
        return self.preprocessor.data(survey(X, name), name)

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the generator of a purpose: see `generator`."""
        return generator(self.seed, purpose)

    def batches(self, data: Data) -> Iterator[tuple]:
        """Yield the data some rows at a time: (rows, x (M, D), buffers); the next batch overwrites x."""
        buffers = Buffers(self.model.backend, self.model.dtype)
        for rows in _batches(len(data.X)):
            yield rows, self.model.gather(data, rows, buffers), buffers

    def encode(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Return mu and log_var of q(z|x), (N, J) each."""
        outputs = []
        for _, x, buffers in self.batches(data):
            done = self.model.encode(self.parameters, x, buffers)
            outputs.append([np.array(self.model.backend.to_numpy(output)) for output in done.outputs])
        mu, log_var = (np.concatenate(parts) for parts in zip(*outputs))
        return mu, log_var

    def decode(self, Z) -> list[np.ndarray]:
        """Return E[x|z] in the units of the data, (R, D) for Z (R, J): one for each draw of the weights.

        Raises
        ------
        ValueError
            If Z does not have a column for each latent dimension.
        """
        model, Z = self.model, survey(Z, "Z").X
        if Z.shape[1] != model.architecture.n_components:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_components = {model.architecture.n_components}")
        z, buffers, means = model.backend.asarray(Z, model.dtype), Buffers(model.backend, model.dtype), []
        for drawn in model.weight_posterior.draws(self.parameters, self.seed, WEIGHT_DRAWS):
            parts = [
                np.array(model.mean(model.decode(drawn, z[rows[0] : rows[-1] + 1], buffers).outputs))
                for rows in _batches(len(Z))
            ]
            means.append(self.preprocessor.restore(np.concatenate(parts)))
        return means

    def score(self, data: Data) -> np.ndarray:
        """Return the lower bound on log p(x) of each row, (N,), in nats of the data as given."""
        return self.scorer()(self.parameters, data)

    def scorer(self) -> Scorer:
        """Return the `Scorer` of this model, which scores with other parameters too."""
        return Scorer(self.model, self.seed, self.n_samples)

    def log_joint(self, x) -> Callable:
        """Return log p(x, z) of one datapoint as a function of z, in the form of `npvae.inference.fit_posterior`.

        Random weights are taken at their means.

        Parameters
        ----------
        x : array (D,)

        Returns
        -------
        callable, from z (n, J) to log p(z) + log p(x|z) (n,), in nats of the data as given, and its gradient by z (n, J)
        """
        model, data = self.model, self.data(np.asarray(x)[None])
        (_, row, buffers), *_ = self.batches(data)

        def function(z):
            z = model.backend.asarray(z, model.dtype)
            value, gradient = model.log_joint(self.parameters, row, z, buffers)
            value, gradient = (np.array(model.backend.to_numpy(array), float) for array in (value, gradient))
            return value + data.log_jacobian, gradient

        return function


def _batches(n_rows):
    """Return the row numbers of each batch."""
    return np.split(np.arange(n_rows), range(BATCH, n_rows, BATCH))
