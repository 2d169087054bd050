"""From the user's data to the input of the model: checks, the choice of a likelihood, and scaling.

A dataset is not copied to scale it: the scaling is kept beside the data and applied to each minibatch.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conventions import short_repr
from .likelihoods import LIKELIHOODS

#: Rows per chunk. It limits the memory of a pass over data that may be on disk.
CHUNK = 10_000


class Scaling(NamedTuple):
    """The scaling of each column, ``(x - shift) * scale``.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import Scaling
    >>> scaling = Scaling(shift=np.array([10.0]), scale=np.array([0.5]))
    >>> (np.array([[14.0]]) - scaling.shift) * scaling.scale
    array([[2.]])
    """

    shift: NDArray[np.float64]  # (D,)
    scale: NDArray[np.float64]  # (D,)

    def __repr__(self) -> str:
        return short_repr(self)


class Data(NamedTuple):
    """A dataset in the user's units, with the scaling to the model's units.

    A log-density in the model's units plus ``log_jacobian`` is the log-density of X in the user's units, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import Data, Scaling
    >>> data = Data(np.array([[14.0]]), Scaling(np.array([10.0]), np.array([0.5])), log_jacobian=float(np.log(0.5)))
    >>> data.X
    array([[14.]])
    """

    X: NDArray  # (N, D)
    scaling: Scaling
    log_jacobian: float  # the sum of log(scale) over columns

    def __repr__(self) -> str:
        return short_repr(self)


class Survey(NamedTuple):
    """A table that has been checked, with its range. `survey` returns it.

    Examples
    --------
    >>> from npvae.preprocessing import survey
    >>> survey([[0, 1], [1, 1]]).is_binary
    True
    """

    X: NDArray  # (N, D), with the type of the user's data
    low: NDArray  # (D,) least value of each column
    high: NDArray  # (D,) largest value of each column
    is_binary: bool  # whether all values are 0 or 1

    def __repr__(self) -> str:
        return short_repr(self)


def chunks(X: NDArray) -> Iterator[NDArray]:
    """Yield X (N, D) in chunks of rows. Every pass over a dataset uses this.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import chunks
    >>> [len(chunk) for chunk in chunks(np.zeros((25_000, 1)))]
    [10000, 10000, 5000]
    """
    for start in range(0, len(X), CHUNK):
        yield X[start : start + CHUNK]


def survey(X: ArrayLike, name: str = "X") -> Survey:
    """Check that X is a 2-D table of finite numbers, and find its range, in one pass.

    An array is not copied: it keeps its type and byte order. A memory map is read in chunks.

    Parameters
    ----------
    X : array-like (N, D)
    name : str, what errors call it

    Returns
    -------
    Survey

    Raises
    ------
    TypeError
        If X is sparse or does not hold real numbers.
    ValueError
        If X is not 2-D, is empty, or holds complex, masked, NaN or infinite values.

    Examples
    --------
    >>> from npvae.preprocessing import survey
    >>> survey([[0.0, 1.0], [1.0, 3.0]]).high.tolist()
    [1.0, 3.0]
    """
    X = as_table(X, name)
    lows, highs, is_binary = [], [], True
    for chunk in chunks(X):
        lows.append(chunk.min(axis=0))
        highs.append(chunk.max(axis=0))
        if is_binary:  # the range is a quick test that most data fails
            is_binary = bool(lows[-1].min() >= 0 and highs[-1].max() <= 1 and np.isin(chunk, (0, 1)).all())
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    if X.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(_where_not_finite(X, name))
    return Survey(X, low, high, is_binary)


def as_table(X: ArrayLike, name: str = "X") -> NDArray:
    """Return X as a 2-D NumPy array of real numbers. Does not copy an array, and does not check its values.

    Raises
    ------
    TypeError, ValueError
        See `survey`; NaN and infinite values are not checked.

    Examples
    --------
    >>> from npvae.preprocessing import as_table
    >>> as_table([[1, 2], [3, 4]]).shape
    (2, 2)
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
    if X.ndim > 2:
        raise ValueError(
            f"{name} has shape {X.shape}; expected a 2-D array (rows, features). "
            f"Reshape your data: {name}.reshape(len({name}), -1) makes a row of each of the {len(X)} images"
        )
    if X.ndim < 2:
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


def _asarray(X: ArrayLike, name: str) -> NDArray:
    """Return X as an array of numbers, of floats where it holds objects."""
    if X is None:
        raise TypeError(f"{name} is None; expected an array (rows, features)")
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


def _where_not_finite(X: NDArray, name: str) -> str:
    """Return a message: how many values are NaN or infinite, and the place of the first one."""
    count, first, start = 0, (0, 0), 0
    for chunk in chunks(X):
        bad = np.argwhere(~np.isfinite(chunk))
        if len(bad) and count == 0:
            first = int(bad[0, 0]) + start, int(bad[0, 1])
        count, start = count + len(bad), start + len(chunk)
    return (
        f"{name} holds {count} NaN or infinite value{'s' * (count > 1)}, the first one ({X[first]}) "
        f"in row {first[0]}, column {first[1]}; expected finite numbers"
    )


class Preprocessor(NamedTuple):
    """The transformation from data to the input x of the model. `fit_preprocessor` makes it from the training data.

    1. uint8 data are pixels, and pixels are multiplied by ``uint8_scale``. It is 1/255, or 1 if the training data hold
       only 0 and 1, or if they are of another type and have values above 1.
    2. For a likelihood of data in [0, 1], this is x. For the others, the columns are standardized.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import fit_preprocessor, survey
    >>> pixels = survey(np.array([[0, 255], [255, 255]], np.uint8))
    >>> preprocessor, notices = fit_preprocessor(pixels, "bernoulli")
    >>> bool(preprocessor.data(pixels).scaling.scale[0] == 1 / 255)
    True
    """

    likelihood: str
    scaling: Scaling
    uint8_scale: float

    def data(self, table: Survey, name: str = "X") -> Data:
        """Check that a table (N, D) is like the training data, and attach its scaling.

        Raises
        ------
        ValueError
            If the number of columns differs, or if values are outside [0, 1] and the likelihood requires [0, 1].
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

    def restore(self, x: NDArray) -> NDArray:
        """Convert means x (R, D) of the model to the units of the data. Pixels remain floats in [0, 1]."""
        if LIKELIHOODS[self.likelihood].unit_interval:
            return x
        return x / self.scaling.scale + self.scaling.shift


def choose_likelihood(table: Survey) -> tuple[str, str]:
    """Choose a likelihood for data.

    Returns
    -------
    likelihood : str, "bernoulli" or "gaussian"
    reason : str, for the user

    Examples
    --------
    >>> from npvae.preprocessing import choose_likelihood, survey
    >>> choose_likelihood(survey([[0, 1], [1, 1]]))
    ('bernoulli', 'X holds nothing but 0 and 1')
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


def fingerprints(*datasets: Data | None) -> list[list | None]:
    """Return a JSON-serializable fingerprint of each dataset: shape, type, checksum of up to 1000 rows.

    The fingerprint of None is None.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import Data, Scaling, fingerprints
    >>> data = Data(np.zeros((5, 2), np.uint8), Scaling(np.zeros(2), np.ones(2)), 0.0)
    >>> fingerprints(data, None)
    [[5, 2, '|u1', 3817498742], None]
    """
    return [None if data is None else _fingerprint(data.X) for data in datasets]


def _fingerprint(X: NDArray) -> list:
    some = X[np.unique(np.linspace(0, len(X) - 1, 1000).astype(int))]
    if X.dtype.itemsize > 8:  # a long double has padding bytes, whose values are arbitrary
        some = some.astype(float)
    return [*X.shape, X.dtype.str, zlib.crc32(np.ascontiguousarray(some).tobytes())]


def fit_preprocessor(table: Survey, likelihood: str) -> tuple[Preprocessor, list[str]]:
    """Make the `Preprocessor` of training data for a likelihood. Standardization takes a second pass over the data.

    Parameters
    ----------
    table : Survey, of the training data
    likelihood : a name in `likelihoods.LIKELIHOODS`

    Returns
    -------
    preprocessor : Preprocessor
    notices : list of str, for the user

    Raises
    ------
    ValueError
        If values are outside [0, 1] and the likelihood requires [0, 1], or if a column's range overflows a float.

    Examples
    --------
    >>> from npvae.preprocessing import fit_preprocessor, survey
    >>> preprocessor, notices = fit_preprocessor(survey([[1.0], [5.0]]), "gaussian")
    >>> preprocessor.scaling  # mean 3, standard deviation 2
    Scaling(shift=array([3.]), scale=array([0.5]))
    """
    X, n_features = table.X, table.X.shape[1]
    is_uint8 = X.dtype == np.uint8
    uint8_scale = 1.0 if table.is_binary or (not is_uint8 and table.high.max() > 1) else 1 / 255
    if LIKELIHOODS[likelihood].unit_interval:
        preprocessor = Preprocessor(likelihood, Scaling(np.zeros(n_features), np.ones(n_features)), uint8_scale)
        preprocessor.data(table)  # raises an error for values outside [0, 1]
        return preprocessor, []
    scaling, notices = _standardizing(table, uint8_scale if is_uint8 else 1.0)
    return Preprocessor(likelihood, scaling, uint8_scale), notices


def _standardizing(table: Survey, unit: float) -> tuple[Scaling, list[str]]:
    """Return the scaling that standardizes the columns of ``unit * X``, and notices."""
    mean, deviation = _column_moments(table)
    if table.X.dtype.kind == "f":  # below the rounding error of its size, a deviation is no information
        precision = max(np.finfo(table.X.dtype).eps, np.finfo(float).eps)
        deviation[deviation <= precision * np.maximum(abs(table.low), abs(table.high))] = 0
    constant, notices = deviation == 0, []
    with np.errstate(over="ignore"):
        scale = 1 / np.where(constant, 1, unit * deviation)
    if not np.all(np.isfinite(scale)):
        column = int(np.argmin(np.isfinite(scale)))
        raise ValueError(f"X varies by less than a float can resolve in column {column}; expected more than 1e-308")
    if constant.any():
        columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + (", ..." if constant.sum() > 10 else "")
        notices.append(
            f"{constant.sum()} of {len(mean)} columns are constant ({columns}): they carry no information, "
            "and only the lower limit of the variance keeps their density finite"
        )
    return Scaling(mean * unit, scale), notices


def _column_moments(table: Survey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (D,) of each column, in one pass.

    The first row is subtracted, so that the deviation of a constant column is exactly zero. The differences are divided
    by the largest of them, so that their squares do not overflow. The squares of a chunk are summed about the mean of
    the chunk, for accuracy; the sums are then combined (Chan, Golub and LeVeque, 1983).
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
