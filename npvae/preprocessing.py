"""What happens to data before the model sees it: checks, the choice of a likelihood, and scaling.

Nothing here copies a dataset to scale it: the scaling travels with the data and is applied to each minibatch.
"""

import zlib
from typing import NamedTuple

import numpy as np

#: Rows looked at together: bounds the memory of a pass over data that may lie on disk.
CHUNK = 10_000


class Scaling(NamedTuple):
    """``(x - shift) * scale``, by column: (D,) float64 each."""

    shift: np.ndarray
    scale: np.ndarray


class Data(NamedTuple):
    """A dataset as it came, X (N, D), with the scaling that takes it to the units of the model.

    Adding ``log_jacobian`` to a log-density in those units makes it one of the data as given, in nats.
    """

    X: np.ndarray
    scaling: Scaling
    log_jacobian: float


class Preprocessor(NamedTuple):
    """How data becomes the x of the model: decided from the training data, applied to all.

    uint8 data is read as pixels: it stands for itself times ``uint8_scale``. That is 1/255, or 1 when the training data
    held nothing but 0 and 1, or numbers beyond 1 of another type than uint8. That said, Bernoulli and sigmoid-Gaussian
    likelihoods want data in [0, 1] and take it as it is; for the Gaussian likelihood the columns are standardized.
    """

    likelihood: str
    scaling: Scaling
    uint8_scale: float

    def data(self, X, name="X"):
        """Check X (N, D) against the training data and attach its scaling.

        Raises
        ------
        ValueError
            If the number of columns differs, or values lie outside [0, 1] where the likelihood wants them inside.
        """
        shift, scale = self.scaling
        if X.shape[1] != len(scale):
            raise ValueError(
                f"{name} has {X.shape[1]} features, but VAE is expecting {len(scale)} features as input, as fitted"
            )
        unit = self.uint8_scale if X.dtype == np.uint8 else 1.0
        if self.likelihood != "gaussian":
            _check_unit_interval(X, unit, name, self.likelihood)
        return Data(X, Scaling(shift / unit, scale * unit), float(np.sum(np.log(scale))))

    def restore(self, x):
        """Turn means of the model, x (R, D), into the units of the data: floats in [0, 1] for pixels."""
        return x / self.scaling.scale + self.scaling.shift if self.likelihood == "gaussian" else x


def check_array(X, name="X"):
    """Return X as a 2-D NumPy array of numbers, without copying it if it is one already.

    Memory maps are not read as a whole, and numbers keep their type and the order of their bytes.

    Raises
    ------
    TypeError
        If X is sparse or does not hold real numbers.
    ValueError
        If X is not 2-D, is empty, or holds masked, NaN or infinite values.
    """
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix; expected a dense array, such as {name}.toarray()")
    if np.ma.is_masked(X):
        raise ValueError(f"{name} has {np.ma.count_masked(X)} masked values; expected none, such as {name}.filled(0)")
    X = _asarray(X, name)
    if X.dtype.kind == "c":
        raise ValueError(f"{name} has type {X.dtype}; expected real numbers. Complex data not supported")
    if X.dtype.kind not in "buif":
        raise TypeError(f"{name} has type {X.dtype}; expected real numbers")
    if X.ndim != 2:
        raise ValueError(
            f"{name} has shape {X.shape}; expected a 2-D array (rows, features). "
            f"Reshape your data: {name}.reshape(-1, 1) is one feature, {name}.reshape(1, -1) one row"
        )
    rows, features = X.shape
    if rows == 0:
        raise ValueError(f"{name} has shape {X.shape}; expected at least one row")
    if features == 0:
        raise ValueError(f"{name} has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    _check_finite(X, name)
    return X


def _asarray(X, name):
    try:
        X = np.asarray(X)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is no array: {error}") from None
    if X.dtype != object:
        return X
    try:
        return X.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} holds objects that are not numbers ({error}); expected numbers") from None


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
        read = " after dividing uint8 pixels by 255" if scale < 1 else ""
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}{read}; the {likelihood} likelihood expects values in [0, 1]"
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


def fingerprints(*datasets):
    """Return for each `Data`, or None, what tells it from others, of what JSON can hold.

    It is the shape, the type, and a checksum of up to a thousand rows.
    """
    return [None if data is None else _fingerprint(data.X) for data in datasets]


def _fingerprint(X):
    some = X[np.unique(np.linspace(0, len(X) - 1, 1000).astype(int))]
    if X.dtype.itemsize > 8:  # a long double has bytes that mean nothing
        some = some.astype(float)
    return [*X.shape, X.dtype.str, zlib.crc32(np.ascontiguousarray(some).tobytes())]


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
    uint8_scale = 1.0 if _is_binary(X) or (X.dtype != np.uint8 and X.max() > 1) else 1 / 255
    if likelihood == "gaussian":
        scaling, notices = _standardizing(X, uint8_scale if X.dtype == np.uint8 else 1.0)
        return Preprocessor(likelihood, scaling, uint8_scale), notices
    preprocessor = Preprocessor(likelihood, Scaling(np.zeros(X.shape[1]), np.ones(X.shape[1])), uint8_scale)
    preprocessor.data(X)  # refuses what lies outside [0, 1]
    return preprocessor, []


def _standardizing(X, unit):
    mean, deviation = _column_moments(X)
    constant = deviation == 0
    notices = []
    if constant.any():
        columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + (", ..." if constant.sum() > 10 else "")
        notices.append(
            f"{constant.sum()} of {X.shape[1]} columns are constant ({columns}): they carry no information, "
            "and their density is bounded by the floor of the variance alone"
        )
    return Scaling(mean * unit, 1 / np.where(constant, 1, unit * deviation)), notices


def _column_moments(X):
    """Return mean and standard deviation (D,) of each column, by chunks.

    They are taken about the first row, so that a constant column has a deviation of zero, exactly, then about the mean,
    for the sake of accuracy, and in units of the largest distance, which can be squared whatever the column's are.
    """
    first = X[0].astype(float)

    def total(function, kind=np.sum):
        parts = [function(X[start : start + CHUNK] - first) for start in range(0, len(X), CHUNK)]
        return kind([kind(part, axis=0) for part in parts], axis=0)

    with np.errstate(over="ignore"):
        furthest = total(np.abs, np.max)
    if not np.all(np.isfinite(furthest)):
        column = int(np.argmax(~np.isfinite(furthest)))
        raise ValueError(f"X spans more than a float can hold in column {column}; expected numbers below 1e308 in size")
    unit = np.where(furthest == 0, 1, furthest)
    shift = total(lambda x: x / unit) / len(X)
    variance = total(lambda x: (x / unit - shift) ** 2) / len(X)
    return first + unit * shift, unit * np.sqrt(variance)
