"""`Fitted`: a trained model with everything needed to use it, computed in batches.

``VAE.fitted_`` returns one, and ``evaluation`` computes with it. It does not depend on settings, training or
scikit-learn; ``vae`` has the methods that users call.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .conventions import column_names, compare_names, short_repr
from .estimators import WEIGHT_DRAWS, Scorer
from .inference import LogJoint
from .model import Model
from .noise import RowNoise, key_of_content, occurrence
from .parallel import SERIAL, Serial
from .parameters import Buffers, Parameters
from .preprocessing import Data, Preprocessor
from .sparse import TableLike, as_vector
from .table import survey

#: Number of rows that are computed together.
BATCH = Scorer.batch_size


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a new random generator for a purpose; generators of different purposes are independent.

    Examples
    --------
    The same arguments give the same numbers:

    >>> bool(generator(0, "weights").integers(1000) == generator(0, "weights").integers(1000))
    True
    """
    return np.random.default_rng([seed, *purpose.encode()])


@dataclass(frozen=True)
class Fitted:
    """A trained model with everything needed to use it.

    Parameters
    ----------
    model : Model
    parameters : Parameters
        On the model's backend.
    preprocessor : Preprocessor
        Scales data as the training data was scaled.
    seed : int
        Seed of scores and draws.
    n_samples : int
        Samples z for each datapoint in scores.
    feature_names : array of str (D,), optional
        Names of the columns of the training data.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> fitted = npvae.VAE(2, **settings).fit(X).fitted_
    >>> mu, log_var = fitted.encode(fitted.data(X))
    >>> mu.shape
    (50, 2)
    """

    model: Model
    parameters: Parameters
    preprocessor: Preprocessor
    seed: int
    n_samples: int = 1
    feature_names: Any = None
    __repr__ = short_repr

    def data(self, X: TableLike, name: str = "X", parallel: Serial = SERIAL) -> Data:
        """Check that X (N, D) is like the training data, and attach the scaling. Processes may share the passes over X.

        Raises
        ------
        ValueError, TypeError
            If X differs in its columns or is not valid: see `table.survey`. The message calls it ``name``. Cells may be
            missing if ``model.missing``.
        """
        compare_names(column_names(X), self.feature_names, "VAE")
        return self.preprocessor.data(survey(X, name, self.model.missing, parallel), name)

    def with_missing(self) -> "Fitted":
        """Return the same for data whose cells may be missing, whatever the model was trained on.

        Examples
        --------
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
        >>> fitted = npvae.VAE(2, **settings).fit(X).fitted_.with_missing()
        >>> bound = fitted.score(fitted.data([[np.nan] * 3]))  # of no observed cell, whose log p is 0
        >>> bool(-0.1 < bound[0] <= 0)
        True
        """
        model = self.model
        return replace(self, model=Model(model.architecture, model.backend, model.dtype, missing=True))

    def generator(self, purpose: str) -> np.random.Generator:
        """Return a new random generator for a purpose: see `generator`."""
        return generator(self.seed, purpose)

    def batches(self, data: Data) -> Iterator[tuple]:
        """Yield (row numbers, x (M, D), buffers) for each batch of the data. The next batch overwrites x."""
        buffers = Buffers(self.model.backend, self.model.dtype)
        for part in _batches(len(data.X)):
            rows = np.arange(part.start, part.stop)
            yield rows, self.model.gather(data, rows, buffers), buffers

    def encode(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean mu and the log-variance log_var of q(z|x), (N, J) each."""
        outputs = []
        for _, x, buffers in self.batches(data):
            done = self.model.encode(self.parameters, x, buffers)
            outputs.append([np.array(self.model.backend.to_numpy(output)) for output in done.outputs])
        mu, log_var = (np.concatenate(parts) for parts in zip(*outputs))
        return mu, log_var

    def sample_posterior(self, data: Data, n_draws: int, seed: int) -> np.ndarray:
        """Draw z ~ q(z|x), (n_draws, N, J). The noise of a row is keyed by its content and the seed."""
        model, to_numpy = self.model, self.model.backend.to_numpy
        keys = [key_of_content(to_numpy(x), 0) for _, x, _ in self.batches(data)]
        alike, J = occurrence(np.concatenate(keys)), model.architecture.n_components
        z = np.empty((n_draws, len(data.X), J))
        for rows, x, buffers in self.batches(data):
            mu, log_var = map(to_numpy, model.encode(self.parameters, x, buffers).outputs)
            content = np.column_stack([to_numpy(x), alike[rows].astype(model.dtype)])
            uniform = RowNoise(content, seed).uniform((n_draws, J)).reshape(n_draws, *mu.shape)
            z[:, rows[0] : rows[-1] + 1] = mu + np.exp(log_var / 2) * model.posterior.icdf(uniform)
        return z

    def sample(self, Z: ArrayLike, rng: np.random.Generator) -> np.ndarray:
        """Draw x ~ p(x|z) in the units of the data, (R, D) for Z (R, J).

        Columns that hardly vary have their usual value. If weights are random, the rows take turns with draws of them.
        """
        model, to_numpy = self.model, self.model.backend.to_numpy
        z, buffers = model.backend.asarray(survey(Z, "Z").X[:], model.dtype), Buffers(model.backend, model.dtype)
        x = np.empty((len(z), model.architecture.n_features), model.dtype)
        n = 1 if model.architecture.random_weights is None else WEIGHT_DRAWS
        for i, drawn in enumerate(model.weight_posterior.draws(self.parameters, self.seed, n)):
            for rows in _batches(len(z)):
                decoded = model.decode(drawn, z[rows], buffers)
                ours = slice(None) if n == 1 else np.arange(rows.start, rows.stop) % n == i
                outputs = [to_numpy(output)[ours] for output in decoded.outputs]
                draws = model.likelihood.draw(rng, outputs)
                draws[~np.all([np.isfinite(output).all(axis=1) for output in outputs], axis=0)] = np.nan
                x[rows][ours] = draws
        return self.preprocessor.restore(x)

    def decode(self, Z: ArrayLike) -> Iterator[np.ndarray]:
        """Yield E[x|z] in the units of the data, (R, D) for Z (R, J): one array for each draw of the weights.

        With fixed weights there is one array.

        Raises
        ------
        ValueError
            If Z does not have one column for each latent dimension.
        """
        model, Z = self.model, survey(Z, "Z").X[:]
        if Z.shape[1] != model.architecture.n_components:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_components = {model.architecture.n_components}")
        z, buffers = model.backend.asarray(Z, model.dtype), Buffers(model.backend, model.dtype)
        for drawn in model.weight_posterior.draws(self.parameters, self.seed, WEIGHT_DRAWS):
            x = np.empty((len(Z), model.architecture.n_features), model.dtype)
            for rows in _batches(len(Z)):
                x[rows] = model.mean(model.decode(drawn, z[rows], buffers).outputs)
            yield self.preprocessor.restore(x)

    def mean(self, Z: ArrayLike) -> np.ndarray:
        """Return E[x|z] in the units of the data, (R, D) for Z (R, J): the mean over draws of the weights.

        Raises
        ------
        ValueError
            See `decode`.
        """
        means = self.decode(Z)
        total, n = next(means), 1
        for mean in means:
            total += mean
            n += 1
        return total if n == 1 else total / n

    def score(self, data: Data) -> np.ndarray:
        """Return the lower bound on log p(x) of each row, (N,), in nats of the data as given."""
        return self.scorer()(self.parameters, data)

    def scorer(self) -> Scorer:
        """Return the `Scorer` of this model. It takes the parameters as an argument."""
        return Scorer(self.model, self.seed, self.n_samples)

    def log_joint(self, x: Any) -> LogJoint:
        """Return the function z -> log p(x, z), as `npvae.inference.fit_posterior` and `npvae.samplers` need it.

        Random weights are fixed at their means. All rows of z are computed together.

        Parameters
        ----------
        x : array (D,) or (M, D)

        Returns
        -------
        callable
            Takes z (n, J) for one datapoint (D,). For M of them z is (L * M, J), and row ``l * M + i`` belongs to
            datapoint i. Returns log p(z) + log p(x|z), a value for each row in nats of the data as given, and its
            gradient by z, of the shape of z.
        """
        data = self.data(
            x if np.ndim(x) == 2 else np.atleast_2d(as_vector(x))
        )  # a data frame keeps the names of its columns
        rows, buffers = np.arange(len(data.X)), Buffers(self.model.backend, self.model.dtype)
        log_density = self.model.log_density(self.parameters, self.model.gather(data, rows, buffers))

        def function(z):
            value, gradient = log_density(z)
            return value + np.tile(data.offset, len(value) // len(data.X)), gradient

        return function


def _batches(n_rows):
    """List the rows of each batch, as slices."""
    return [slice(start, min(start + BATCH, n_rows)) for start in range(0, n_rows, BATCH)]
