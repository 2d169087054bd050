"""What happens to data before the model sees it: checks, the choice of a likelihood, and scaling.

Nothing here copies a dataset to scale it: the scaling travels with the data and is applied to each minibatch.
"""

import zlib
from typing import NamedTuple

import numpy as np

from .likelihoods import LIKELIHOODS

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


class Survey(NamedTuple):
    """A table of numbers, checked, and what one pass over it has found."""

    X: np.ndarray  # (N, D), as it came
    low: np.ndarray  # (D,) least value of each column
    high: np.ndarray  # (D,) largest value
    is_binary: bool  # whether it holds nothing but 0 and 1


def chunks(X):
    """Yield X (N, D) some rows at a time: every pass over a dataset goes through here."""
    for start in range(0, len(X), CHUNK):
        yield X[start : start + CHUNK]


def survey(X, name="X") -> Survey:
    """Check that X is a 2-D table of finite numbers and survey it, in one pass that copies nothing.

    Memory maps are not read as a whole, and numbers keep their type and the order of their bytes.

    Raises
    ------
    TypeError
        If X is sparse or does not hold real numbers.
    ValueError
        If X is not 2-D, is empty, or holds masked, NaN or infinite values.

    Examples
    --------
    >>> survey([[0.0, 1.0], [1.0, 3.0]]).high.tolist()
    [1.0, 3.0]
    """
    X = as_table(X, name)
    lows, highs, is_binary = [], [], True
    for chunk in chunks(X):
        lows.append(chunk.min(axis=0))
        highs.append(chunk.max(axis=0))
        is_binary = is_binary and bool(lows[-1].min() >= 0 and highs[-1].max() <= 1) and bool(np.isin(chunk, (0, 1)).all())
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    if X.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(_where_not_finite(X, name))
    return Survey(X, low, high, is_binary)


def as_table(X, name="X"):
    """Return X as a 2-D NumPy array of numbers, without looking at the numbers or copying an array.

    Raises
    ------
    TypeError, ValueError
        See `survey`.
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
    return X


def _asarray(X, name):
    try:
        X = np.asarray(X)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is not an array: {error}") from None
    if X.dtype != object:
        return X
    try:
        return X.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} holds objects that are not numbers ({error}); expected numbers") from None


def _where_not_finite(X, name):
    """Say how many values are NaN or infinite, and where the first one is."""
    count, first, start = 0, None, 0
    for chunk in chunks(X):
        bad = np.argwhere(~np.isfinite(chunk))
        if len(bad) and first is None:
            first = int(bad[0, 0]) + start, int(bad[0, 1])
        count, start = count + len(bad), start + len(chunk)
    return (
        f"{name} holds {count} NaN or infinite value{'s' * (count > 1)}, the first one ({X[first]}) "
        f"in row {first[0]}, column {first[1]}; expected finite numbers"
    )


class Preprocessor(NamedTuple):
    """How data becomes the x of the model: decided from the training data, applied to all.

    uint8 data is read as pixels, which are multiplied by ``uint8_scale``. That is 1/255, or 1 when the training data
    held nothing but 0 and 1, or numbers beyond 1 of another type than uint8. Likelihoods of data in [0, 1] then take it
    as it is; for the others the columns are standardized.
    """

    likelihood: str
    scaling: Scaling
    uint8_scale: float

    def data(self, table: Survey, name="X") -> Data:
        """Check a table (N, D) against the training data and attach its scaling.

        Raises
        ------
        ValueError
            If the number of columns differs, or values lie outside [0, 1] where the likelihood wants them inside.
        """
        X, (shift, scale) = table.X, self.scaling
        if X.shape[1] != len(scale):
            raise ValueError(
                f"{name} has {X.shape[1]} features, but VAE is expecting {len(scale)} features as input, as fitted"
            )
        unit = self.uint8_scale if X.dtype == np.uint8 else 1.0
        if LIKELIHOODS[self.likelihood].unit_interval:
            low, high = table.low.min() * unit, table.high.max() * unit
            if low < 0 or high > 1:
                read = " after dividing uint8 pixels by 255" if unit < 1 else ""
                raise ValueError(
                    f"{name} has values from {low:g} to {high:g}{read}; the {self.likelihood} likelihood expects "
                    "values in [0, 1]"
                )
        return Data(X, Scaling(shift / unit, scale * unit), float(np.sum(np.log(scale))))

    def restore(self, x):
        """Turn means of the model, x (R, D), into the units of the data: floats in [0, 1] for pixels."""
        if LIKELIHOODS[self.likelihood].unit_interval:
            return x
        return x / self.scaling.scale + self.scaling.shift


def choose_likelihood(table: Survey) -> tuple[str, str]:
    """Choose a likelihood for data and say why.

    Returns
    -------
    likelihood : str; reason : str
    """
    low, high = table.low.min(), table.high.max()
    if table.X.dtype == np.uint8 and high > 1:
        return "bernoulli", (
            "X holds 8-bit pixels: they are divided by 255 and taken as Bernoulli probabilities; "
            "the bound is then not a probability of the data"
        )
    if table.is_binary:
        return "bernoulli", "X holds nothing but 0 and 1"
    if low >= 0 and high <= 1 and table.X.dtype.kind == "f":
        return "bernoulli", (
            "X lies in [0, 1]: its values are taken as Bernoulli probabilities; "
            "the bound is then not a probability of the data"
        )
    return "gaussian", f"X has values from {low:g} to {high:g}: its columns are standardized"


def fingerprints(*datasets):
    """Return for each `Data`, or None, a JSON-serializable fingerprint: shape, type, checksum of up to 1000 rows."""
    return [None if data is None else _fingerprint(data.X) for data in datasets]


def _fingerprint(X):
    some = X[np.unique(np.linspace(0, len(X) - 1, 1000).astype(int))]
    if X.dtype.itemsize > 8:  # a long double has bytes that mean nothing
        some = some.astype(float)
    return [*X.shape, X.dtype.str, zlib.crc32(np.ascontiguousarray(some).tobytes())]


def fit_preprocessor(table: Survey, likelihood: str) -> tuple[Preprocessor, list[str]]:
    """Decide how data like this becomes the x of a model with this likelihood.

    Standardizing takes a second pass over the data.

    Returns
    -------
    preprocessor : Preprocessor; notices : list of str, what a user should know

    Raises
    ------
    ValueError
        If values lie outside [0, 1] where the likelihood wants them inside.
    """
    X, n_features = table.X, table.X.shape[1]
    is_uint8 = X.dtype == np.uint8
    uint8_scale = 1.0 if table.is_binary or (not is_uint8 and table.high.max() > 1) else 1 / 255
    if LIKELIHOODS[likelihood].unit_interval:
        preprocessor = Preprocessor(likelihood, Scaling(np.zeros(n_features), np.ones(n_features)), uint8_scale)
        preprocessor.data(table)  # refuses what lies outside [0, 1]
        return preprocessor, []
    scaling, notices = _standardizing(table, uint8_scale if is_uint8 else 1.0)
    return Preprocessor(likelihood, scaling, uint8_scale), notices


def _standardizing(table, unit):
    mean, deviation = _column_moments(table)
    constant = deviation == 0
    notices = []
    if constant.any():
        columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + (", ..." if constant.sum() > 10 else "")
        notices.append(
            f"{constant.sum()} of {len(mean)} columns are constant ({columns}): they carry no information, "
            "and their density is bounded by the floor of the variance alone"
        )
    return Scaling(mean * unit, 1 / np.where(constant, 1, unit * deviation)), notices


def _column_moments(table):
    """Return mean and standard deviation (D,) of each column, in one pass.

    They are taken about the first row, so that a constant column has a deviation of zero, exactly, and in units of the
    largest distance from it, which can be squared whatever the column's are. A chunk's squares are taken about its own
    mean, for the sake of accuracy, and then moved to the mean of all (Chan, Golub and LeVeque, 1983).
    """
    first = table.X[0].astype(float)
    with np.errstate(over="ignore"):
        furthest = np.maximum(table.high - first, first - table.low)
    if not np.all(np.isfinite(furthest)):
        column = int(np.argmax(~np.isfinite(furthest)))
        raise ValueError(f"X spans more than a float can hold in column {column}; expected numbers below 1e308 in size")
    unit = np.where(furthest == 0, 1, furthest)
    sizes, sums, squares = [], [], []
    for chunk in chunks(table.X):
        x = (chunk - first) / unit
        sizes.append(len(x))
        sums.append(np.sum(x, axis=0))
        squares.append(np.sum((x - sums[-1] / len(x)) ** 2, axis=0))
    shift, n = np.sum(sums, axis=0) / len(table.X), np.array(sizes)[:, None]
    variance = np.sum(squares + n * (sums / n - shift) ** 2, axis=0) / len(table.X)
    return first + unit * shift, unit * np.sqrt(variance)
