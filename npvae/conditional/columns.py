"""The columns of a table as p(x|z) has them: the binary ones, those of real numbers, and those that hardly vary."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..backends.reference import sigmoid
from ..conventions import short_repr
from ..likelihoods import LIKELIHOODS, Likelihood
from ..preprocessing import Preprocessor


class Outputs(NamedTuple):
    """The parameters of p(x|z) for L samples z of each of M rows, by the kind of column.

    Examples
    --------
    >>> Outputs(np.zeros((1, 1, 2)), np.ones((1, 1, 1)), np.zeros((1, 1, 1))).mean
    array([[[0.5, 0.5, 1. ]]])
    """

    logits: NDArray  # (L, M, B)
    mu: NDArray  # (L, M, C)
    log_var: NDArray  # (L, M, C)

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def mean(self) -> NDArray:
        """E[x|z], (L, M, B + C)."""
        return np.concatenate([sigmoid(self.logits), self.mu], axis=2)

    @property
    def variance(self) -> NDArray:
        """Var[x|z], (L, M, B + C)."""
        y = sigmoid(self.logits)
        return np.concatenate([y * (1 - y), np.exp(self.log_var)], axis=2)


class Columns(NamedTuple):
    """All columns of a table, in the order: binary columns, those of real numbers, those that are not in the model.

    Columns that hardly vary are not in the model, which takes them as independent of the others. Here they are columns
    of real numbers whose mean and variance do not depend on z. Values are in the units of the model.

    Examples
    --------
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> X = np.array([[1.0, 0.0, 5.0], [3.0, 1.0, 5.0]])
    >>> columns = Columns.of(fit_preprocessor(survey(X), "mixed")[0], X.dtype)
    >>> columns.order, columns.n_binary, columns.inward(X).tolist()
    (array([1, 0, 2]), 1, [[0.0, -1.0, 5.0], [1.0, 1.0, 5.0]])
    >>> columns.outward(columns.inward(X)).tolist()
    [[1.0, 0.0, 5.0], [3.0, 1.0, 5.0]]
    """

    order: NDArray[np.int64]  # (D,) the column of the table that each one is
    shift: NDArray[np.float64]  # (D,) values are (X - shift) * scale
    scale: NDArray[np.float64]  # (D,)
    n_binary: int
    mean: NDArray[np.float64]  # (F,) of those that are not in the model
    log_var: NDArray[np.float64]  # (F,)

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    def of(cls, preprocessor: Preprocessor, dtype: np.dtype) -> Self:
        """Return the columns of tables of a type."""
        (shift, scale), unit = preprocessor.scaling, preprocessor.unit_of(dtype)
        fixed, family = preprocessor.fixed, LIKELIHOODS[preprocessor.likelihood]
        n_binary = len(preprocessor.binary_columns) if family.density else len(scale)
        variance = [(1 - one.weight) * one.spike**2 + one.weight * one.slab**2 for one in fixed]
        return cls(
            np.concatenate([preprocessor.order, np.array([one.column for one in fixed], np.int64)]),
            np.concatenate([shift / unit, np.zeros(len(fixed))]),
            np.concatenate([scale * unit, np.full(len(fixed), unit)]),
            n_binary,
            np.array([one.value for one in fixed], float),
            np.log(np.array(variance, float)),
        )

    @property
    def n_in_model(self) -> int:
        """Number of the columns that are in the model: the first ones."""
        return len(self.order) - len(self.mean)

    def inward(self, X: NDArray) -> NDArray[np.float64]:
        """Convert a table (N, D) to these columns, in the units of the model."""
        return (np.take(X, self.order, axis=1).astype(float) - self.shift) * self.scale

    def outward(self, x: NDArray) -> NDArray[np.float64]:
        """Convert values (..., D) of these columns to those of a table, in its units."""
        return self._arranged(x / self.scale + self.shift)

    def outward_std(self, std: NDArray) -> NDArray[np.float64]:
        """Convert standard deviations (..., D) likewise."""
        return self._arranged(std / self.scale)

    def _arranged(self, x):
        X = np.empty(x.shape)
        X[..., self.order] = x
        return X

    def outputs(self, likelihood: Likelihood, arrays: Sequence[NDArray], n_rows: int) -> Outputs:
        """Return the decoder's outputs (L * M, .) for M rows as `Outputs` of all columns."""
        by_head = {head.name: array for head, array in zip(likelihood.heads, arrays)}
        L, empty = len(arrays[0]) // n_rows, np.empty((len(arrays[0]), 0), arrays[0].dtype)
        logits, mu, log_var = (by_head.get(name, empty).reshape(L, n_rows, -1) for name in Outputs._fields)
        return Outputs(logits, _with(mu, self.mean), _with(log_var, self.log_var))


def _with(array, constants):
    """Append columns of constants (F,) to an array (L, M, C)."""
    if not len(constants):
        return array
    more = np.broadcast_to(constants.astype(array.dtype), (*array.shape[:2], len(constants)))
    return np.concatenate([array, more], axis=2)
