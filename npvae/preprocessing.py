"""What happens to data before the model sees it: checks, the choice of a likelihood, and scaling.

Nothing here copies a dataset to scale it: the scaling travels with the data and is applied to each minibatch.
"""

from typing import NamedTuple

import numpy as np

#: Rows looked at together: bounds the memory of a pass over data that may lie on disk.
CHUNK = 10_000


class Scaling(NamedTuple):
    """``(x - shift) * scale``, by column: (D,) float64 each."""

    shift: np.ndarray
    scale: np.ndarray


class Data(NamedTuple):
    """A dataset as it came, X (N, D), with the scaling that takes it to the units of the model."""

    X: np.ndarray
    scaling: Scaling


class Preprocessor(NamedTuple):
    """How data becomes the x of the model: decided from the training data, applied to all.

    For Bernoulli and sigmoid-Gaussian likelihoods x lies in [0, 1], and ``uint8_scale`` is what uint8 data is
    multiplied by: 1/255, or 1 when the training data held nothing but 0 and 1. For the Gaussian likelihood the
    columns are standardized, and ``log_jacobian`` turns a density of x into one of the data as given.
    """

    likelihood: str
    scaling: Scaling
    uint8_scale: float

    @property
    def log_jacobian(self):
        """Sum of the logarithms of the scales, in nats; zero unless columns are standardized."""
        return float(np.sum(np.log(self.scaling.scale)))

    def data(self, X, name="X"):
        """Check X (N, D) against the training data and attach its scaling.

        Raises
        ------
        ValueError
            If the number of columns differs, or values lie outside [0, 1] where the likelihood wants them inside.
        """
        n_features = len(self.scaling.scale)
        if X.shape[1] != n_features:
            raise ValueError(f"{name} has {X.shape[1]} features, but the model was fitted to {n_features}")
        if self.likelihood == "gaussian":
            return Data(X, self.scaling)
        scale = self.uint8_scale if X.dtype == np.uint8 else 1.0
        _check_unit_interval(X, scale, name, self.likelihood)
        return Data(X, Scaling(self.scaling.shift, np.full(n_features, scale)))

    def restore(self, x):
        """Turn means of the model, x (R, D), into the units of the data: floats in [0, 1] for pixels."""
        return x / self.scaling.scale.astype(x.dtype) + self.scaling.shift.astype(x.dtype)


def check_array(X, name="X"):
    """Return X as a 2-D NumPy array of numbers, without copying it if it is one already.

    Raises
    ------
    TypeError
        If X is sparse or does not hold real numbers.
    ValueError
        If X is not 2-D, is empty, or holds NaN or infinite values.
    """
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix; expected a dense array, such as {name}.toarray()")
    X = np.asarray(X)
    if X.dtype == object:
        try:
            X = X.astype(float)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} holds objects that are not numbers ({error}); expected numbers") from None
    if X.dtype.kind not in "buif":
        raise TypeError(f"{name} has type {X.dtype}; expected real numbers")
    if X.ndim != 2:
        raise ValueError(f"{name} has shape {X.shape}; expected a 2-D array (rows, features)")
    if 0 in X.shape:
        raise ValueError(f"{name} has shape {X.shape}; expected at least one row and one feature")
    _check_finite(X, name)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


def _check_finite(X, name):
    if X.dtype.kind != "f":
        return
    count, first = 0, None
    for start in range(0, len(X), CHUNK):
        bad = np.argwhere(~np.isfinite(X[start : start + CHUNK]))
        if len(bad) and first is None:
            first = int(bad[0, 0]) + start, int(bad[0, 1])
        count += len(bad)
    if count:
        raise ValueError(
            f"{name} holds {count} NaN or infinite value{'s' * (count > 1)}, the first one ({X[first]}) "
            f"in row {first[0]}, column {first[1]}; expected finite numbers"
        )


def _check_unit_interval(X, scale, name, likelihood):
    low, high = X.min() * scale, X.max() * scale
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; the {likelihood} likelihood expects values in [0, 1] "
            f"(uint8 pixels are divided by 255)"
        )


def choose_likelihood(X):
    """Choose a likelihood for data X (N, D) and say why.

    Returns
    -------
    likelihood : str; reason : str
    """
    if X.dtype == np.uint8 and X.max() > 1:
        return "bernoulli", (
            "X holds 8-bit pixels: they are divided by 255 and taken as Bernoulli probabilities; "
            "the bound is then not a probability of the data"
        )
    low, high = X.min(), X.max()
    if low >= 0 and high <= 1:
        if _is_binary(X):
            return "bernoulli", "X holds nothing but 0 and 1"
        if X.dtype.kind == "f":
            return "bernoulli", (
                "X lies in [0, 1]: its values are taken as Bernoulli probabilities; "
                "the bound is then not a probability of the data"
            )
    return "gaussian", f"X has values from {low:g} to {high:g}: its columns are standardized"


def _is_binary(X):
    if X.max() > 1:
        return False
    return all(np.isin(X[start : start + CHUNK], (0, 1)).all() for start in range(0, len(X), CHUNK))


def fit_preprocessor(X, likelihood):
    """Decide how data like X (N, D) becomes the x of a model with this likelihood.

    Returns
    -------
    preprocessor : Preprocessor; notices : list of str, what a user should know

    Raises
    ------
    ValueError
        If values lie outside [0, 1] where the likelihood wants them inside.
    """
    n_features = X.shape[1]
    if likelihood == "gaussian":
        return _standardizing(X)
    identity = Scaling(np.zeros(n_features), np.ones(n_features))
    preprocessor = Preprocessor(likelihood, identity, 1.0 if _is_binary(X) else 1 / 255)
    preprocessor.data(X)
    return preprocessor, []


def _standardizing(X):
    mean, variance = _column_moments(X)
    constant = variance <= (np.finfo(float).eps * np.abs(mean)) ** 2
    scale = 1 / np.sqrt(np.where(constant, 1, variance))
    notices = []
    if constant.any():
        columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + (", ..." if constant.sum() > 10 else "")
        notices.append(
            f"{constant.sum()} of {X.shape[1]} columns are constant ({columns}): they carry no information, "
            "and their density is bounded by the floor of the variance alone"
        )
    return Preprocessor("gaussian", Scaling(mean, scale), 1.0), notices


def _column_moments(X):
    """Return mean and variance (D,) of each column, by chunks, in two passes for the sake of accuracy."""
    chunks = [slice(start, start + CHUNK) for start in range(0, len(X), CHUNK)]
    mean = sum(X[rows].sum(axis=0, dtype=float) for rows in chunks) / len(X)
    variance = sum(((X[rows] - mean) ** 2).sum(axis=0) for rows in chunks) / len(X)
    return mean, variance
