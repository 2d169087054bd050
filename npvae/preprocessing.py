"""From the user's data to the input of the model: checks, the choice of a likelihood, and scaling.

A dataset is not copied to scale it: the scaling is kept beside the data and applied to each minibatch.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conventions import short_repr, warn
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


#: From this largest value on, uint8 data is taken for pixels. Below, it is taken for small integers.
PIXELS_REACH = 128

#: Values of a Bernoulli model may be outside [0, 1] by this much, as after a scaling: they are then clipped.
ROUNDING = 1e-6

#: Grey values "lie mostly at the ends" of [0, 1] if more than half of them are within 0.05 of an end, and at least one
#: in 50 is within 0.05 of 1: a column of amounts that was scaled by an outlier has nearly all values close to 0.
NEAR, MOST, SOME = 0.05, 0.5, 0.02

#: In a table of integers most of whose columns begin at 0, as those of counts and levels do, a column of 0 and 1 may be
#: a rare count or a pixel that is hardly ever set. It is binary if the rarer value has this share of the rows, and no
#: column ends at 2 or 3.
RARE = 0.05


class Survey(NamedTuple):
    """A table that has been checked, with its range and what its values look like. `survey` returns it.

    Examples
    --------
    >>> from npvae.preprocessing import survey
    >>> survey([[0, 1], [1, 1]]).is_binary
    True
    >>> survey([[0, 255], [128, 255], [255, 0]]).has_levels
    True
    """

    X: NDArray  # (N, D), with the type of the user's data
    low: NDArray  # (D,) least value of each column
    high: NDArray  # (D,) largest value of each column
    binary: NDArray[np.bool_]  # (D,) whether all values of a column are 0 or 1
    ones: NDArray[np.int64]  # (D,) how many of a binary column are 1
    integers: bool  # whether all values are integers, of any type
    grey: str  # why floats in [0, 1] look like grey values; "" if they do not

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return bool(self.binary.all())

    @property
    def both(self) -> NDArray[np.bool_]:
        """Which columns have values 0 and 1, both of them, and no others: (D,)."""
        return self.binary & (self.low < self.high)

    @property
    def has_levels(self) -> bool:
        """Whether the values look like the levels 0 to 255 of pixels, of any type.

        Of type uint8, values above 127 are enough. Otherwise they are integers up to 250 to 255, and most columns that
        vary do so over more than half of that range: this tells them from counts and from tables.
        """
        low, high = self.low.min(), self.high.max()
        if self.X.dtype == np.uint8:
            return bool(high >= PIXELS_REACH)
        if not self.integers or low < 0 or not 250 <= high <= 255:
            return False
        span = (self.high - self.low)[self.high > self.low]
        return bool(np.mean(span > 127) > 0.5)

    def __repr__(self) -> str:
        return short_repr(self)


class _Grey:
    """Finds out, chunk by chunk, whether floats in [0, 1] look like grey values: see `Survey.grey`."""

    def __init__(self, dtype: np.dtype, n_features: int) -> None:
        self.possible = dtype.kind == "f"
        # Twice the rounding error of k / 255, also where float32 pixels were converted to float64.
        self.precision = max(float(np.finfo(dtype).eps), 2.0**-22) if self.possible else 0.0
        self.multiples, self.divisor = True, 255
        self.near, self.upper = np.zeros(n_features), np.zeros(n_features)

    def look(self, chunk: NDArray, low: float, high: float) -> None:
        self.possible = self.possible and bool(low >= 0 and high <= 1 + ROUNDING)
        if not self.possible:
            return
        levels = chunk.astype(np.promote_types(chunk.dtype, np.float32)) * 255
        nearest = np.rint(levels)
        self.multiples = self.multiples and bool(
            np.all(abs(levels - nearest) <= np.maximum(self.precision * levels, 255 * ROUNDING))
        )
        if self.multiples and self.divisor > 1:
            present = np.flatnonzero(np.bincount(nearest.ravel().astype(np.int64)))
            self.divisor = int(np.gcd.reduce(present, initial=self.divisor))
        top = (chunk >= 1 - NEAR).sum(axis=0)
        self.near, self.upper = self.near + top + (chunk <= NEAR).sum(axis=0), self.upper + top

    def verdict(self, binary: NDArray[np.bool_], n_rows: int) -> str:
        """Return why the values of the columns that are not binary look grey, or ""."""
        if not self.possible or binary.all():
            return ""
        if self.multiples:  # so are thirds, fifths and seventeenths, which are the steps of a scale
            return "multiples of 1/255" if self.divisor == 1 else ""
        near, upper = (np.mean(count[~binary]) / n_rows for count in (self.near, self.upper))
        return "mostly near 0 or 1" if near > MOST and upper >= SOME else ""


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
    lows, highs, grey = [], [], _Grey(X.dtype, X.shape[1])
    binary, integers, ones = np.ones(X.shape[1], bool), True, np.zeros(X.shape[1], np.int64)
    for chunk in chunks(X):
        low, high = chunk.min(axis=0), chunk.max(axis=0)
        binary &= (low >= 0) & (high <= 1)  # the range is a quick test that most data fails
        if X.dtype.kind == "f":
            if binary.any():
                part = chunk[:, binary]
                binary[binary] = ((part == 0) | (part == 1)).all(axis=0)
            integers = integers and bool((chunk == np.rint(chunk)).all())
            grey.look(chunk, low.min(), high.max())
        if binary.any():
            ones[binary] += np.count_nonzero(chunk[:, binary], axis=0)
        lows.append(low)
        highs.append(high)
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    if X.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(_where_not_finite(X, name))
    return Survey(X, low, high, binary, ones, integers, grey.verdict(binary, len(X)))


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

    1. Data is multiplied by a unit, 1 or 1/255, which depends on its type alone: ``uint8_unit`` or ``unit``. This is
       how the levels 0 to 255 of pixels become values in [0, 1].
    2. For a likelihood of data in [0, 1], this is x. For the others, the columns are standardized.
    3. Where the likelihood has columns of several kinds, the binary ones are not scaled, and are put before the others.

    Where p(x|z) is a density, ``Data.log_jacobian`` has the factors of both steps.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import fit_preprocessor, survey
    >>> pixels = survey(np.array([[0, 255], [255, 255], [7, 0]], np.uint8))
    >>> preprocessor, notices = fit_preprocessor(pixels, "bernoulli")
    >>> bool(preprocessor.data(pixels).scaling.scale[0] == 1 / 255)
    True
    """

    likelihood: str
    scaling: Scaling  # of the columns of x
    uint8_unit: float
    unit: float = 1.0  # of all other types
    binary_columns: tuple[int, ...] = ()  # of X, where the likelihood has columns of several kinds

    @property
    def order(self) -> NDArray[np.int64]:
        """The column of X that each column of x is: (D,). The binary ones are the first."""
        others = np.delete(np.arange(len(self.scaling.scale)), self.binary_columns)
        return np.concatenate([np.array(self.binary_columns, np.int64), others])

    def unit_of(self, dtype: np.dtype) -> float:
        """Return what data of a type is multiplied by."""
        return self.uint8_unit if dtype == np.uint8 else self.unit

    def data(self, table: Survey, name: str = "X") -> Data:
        """Check that a table (N, D) is like the training data, and attach its scaling.

        A density takes any number. For a probability, what is outside [0, 1] by rounding is clipped, with a warning.

        Raises
        ------
        ValueError
            If the number of columns differs, or if values are outside [0, 1] and the likelihood is a probability.
        """
        X, (shift, scale), likelihood = table.X, self.scaling, LIKELIHOODS[self.likelihood]
        if X.shape[1] != len(scale):
            raise ValueError(
                f"{name} has {X.shape[1]} features, but VAE is expecting {len(scale)} features as input, as fitted"
            )
        unit = self.unit_of(X.dtype)
        binary = self.order[: len(self.binary_columns) if likelihood.density else None]
        excess = _check_unit_interval(table, unit, self.likelihood, name, binary)
        if self.binary_columns:
            X = X[:, self.order]
        if excess > 0:
            warn(f"{name} has values up to {excess:.1g} outside [0, 1]: they are clipped, as rounding errors")
            X = np.concatenate([np.clip(X[:, : len(binary)], 0, 1 / unit), X[:, len(binary) :]], axis=1)
        log_jacobian = float(np.sum(np.log(scale * unit))) if likelihood.density else 0.0
        return Data(X, Scaling(shift / unit, scale * unit), log_jacobian)

    def restore(self, x: NDArray) -> NDArray:
        """Convert means x (R, D) of the model to the units of the data. Pixels remain floats in [0, 1]."""
        if LIKELIHOODS[self.likelihood].unit_interval:
            return x
        X = x / self.scaling.scale + self.scaling.shift
        return X[:, np.argsort(self.order)] if self.binary_columns else X

    def far_from(self, table: Survey) -> str:
        """Say which column of a later piece lies far outside the scale of the first piece of the training data, or "".

        The table is a survey of `Data.X`. Far is a root mean square above `FAR` of the values standardized as the first
        piece was.
        """
        if LIKELIHOODS[self.likelihood].unit_interval:
            return ""
        unit, (shift, scale) = self.unit_of(table.X.dtype), self.scaling
        order = self.order
        remedy = "The first piece fixes the scaling of the columns: shuffle the rows before they are cut into pieces"
        mean, deviation = _column_moments(table)
        varies = deviation > _rounding(table)
        varies[: len(self.binary_columns)] = False
        constant = np.flatnonzero((scale == 1) & varies)  # no other column has exactly the scale 1
        if len(constant):
            return f"column {order[constant[0]]} was constant in the first piece, and is not in this one. {remedy}"
        factor = np.hypot((mean * unit - shift) * scale, deviation * unit * scale)
        column = int(np.argmax(factor))
        if factor[column] <= FAR:
            return ""
        return (
            f"the values of column {order[column]} are {factor[column]:.3g} times as far from the mean of the first "
            f"piece as those of the first piece were, and those of {np.sum(factor > FAR)} of {len(factor)} columns "
            f"more than {FAR} times. {remedy}"
        )


#: See `Preprocessor.far_from`.
FAR = 5


def _check_unit_interval(table: Survey, unit: float, likelihood: str, name: str, columns: NDArray) -> float:
    """Return by how much values of these columns are outside [0, 1], at most `ROUNDING`; ValueError if it is more."""
    if len(columns) == 0:
        return 0.0
    ends = table.low[columns] * unit, table.high[columns] * unit
    outside = np.maximum(ends[1] - 1.0, -ends[0])
    excess, column = float(outside.max()), int(columns[outside.argmax()])
    if excess <= ROUNDING:
        return max(excess, 0.0)
    low, high, read = ends[0].min(), ends[1].max(), " after dividing by 255" if unit < 1 else ""
    raise ValueError(
        f"{name} has values from {low:g} to {high:g}{read}, by {excess:.3g} outside [0, 1] in column {column}; the "
        f"{likelihood} likelihood expects values in [0, 1]. Scale or clip them, or fit with likelihood='gaussian', "
        "which takes any number"
    )


def choose_likelihood(table: Survey) -> tuple[str, str]:
    """Choose a likelihood for data.

    Returns
    -------
    likelihood : str, "bernoulli", "mixed" or "gaussian"
    reason : str, for the user

    Examples
    --------
    >>> from npvae.preprocessing import choose_likelihood, survey
    >>> choose_likelihood(survey([[0, 1], [1, 1]]))
    ('bernoulli', 'X holds nothing but 0 and 1')
    """
    low, high = table.low.min(), table.high.max()
    probabilities = "taken as Bernoulli probabilities; the bound is then not a probability of the data"
    if table.is_binary:
        return "bernoulli", "X holds nothing but 0 and 1"
    if table.has_levels:
        return (
            "bernoulli",
            f"X holds pixels of 8 bits, {low:g} to {high:g}: they are divided by 255 and {probabilities}",
        )
    if table.grey:
        return "bernoulli", f"X holds grey values in [0, 1], {table.grey}: they are {probabilities}"
    if (binary := _binary_columns(table)).any():
        return (
            "mixed",
            f"{binary.sum()} of {len(binary)} columns of X hold nothing but 0 and 1: each has its own family",
        )
    if table.integers:
        return "gaussian", (
            f"X holds integers from {low:g} to {high:g}: they are taken as counts or measurements, not as pixels, and "
            f"the columns are standardized; grey values are to be divided by their largest possible value"
        )
    if low >= 0 and high <= 1 + ROUNDING:
        return "gaussian", (
            "X lies in [0, 1], but its values are not those of pixels: the columns are standardized; for probabilities "
            "or grey values set likelihood='bernoulli'"
        )
    return "gaussian", f"X has values from {low:g} to {high:g}: its columns are standardized"


def _binary_columns(table: Survey) -> NDArray[np.bool_]:
    """Return which columns are binary in data of several kinds, (D,): see `RARE`."""
    if not table.integers or table.low.min() < 0 or np.mean(table.low[~table.both] == 0) <= 0.5:
        return table.both
    rarer = np.minimum(table.ones, len(table.X) - table.ones)
    return table.both & (rarer >= RARE * len(table.X)) & ~np.isin(table.high, (2, 3)).any()


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
    n_features, row = table.X.shape[1], LIKELIHOODS[likelihood]
    is_uint8 = table.X.dtype == np.uint8
    if not row.unit_interval:
        scaling, notices = _standardizing(table)
        if likelihood == "mixed":
            return _mixed(table, scaling), notices
        # Of floats in [0, 1], uint8 rows are the pixels; otherwise a number of any type is just this number.
        fractions = not table.integers and table.low.min() >= 0 and table.high.max() <= 1
        return Preprocessor(likelihood, scaling, uint8_unit=1 / 255 if fractions else 1.0), notices
    unit = 1 / 255 if table.has_levels and not is_uint8 else 1.0
    uint8_unit = 1.0 if table.is_binary else 1 / 255
    _check_unit_interval(table, uint8_unit if is_uint8 else unit, likelihood, "X", np.arange(n_features))
    notices, high = [], table.high.max()
    if is_uint8 and 1 < high < PIXELS_REACH:
        notices.append(
            f"X is uint8 and is divided by 255, but its largest value is {high}: if {high} is white, fit X / {high}"
        )
    if unit < 1:
        notices.append(f"X holds integers up to {high:g} that look like pixels: they are divided by 255")
    return Preprocessor(likelihood, Scaling(np.zeros(n_features), np.ones(n_features)), uint8_unit, unit), notices


def _mixed(table: Survey, scaling: Scaling) -> Preprocessor:
    """Return the `Preprocessor` of columns of several kinds, from the scaling that standardizes all of them."""
    binary = table.both
    if not binary.any() or binary.all():
        raise ValueError(
            f"likelihood is 'mixed', but {binary.sum()} of {len(binary)} columns of X have the values 0 and 1; "
            "expected some, but not all. For columns of one kind there are 'bernoulli' and 'gaussian'"
        )
    scaling = Scaling(np.where(binary, 0, scaling.shift), np.where(binary, 1, scaling.scale))
    mixed = Preprocessor("mixed", scaling, uint8_unit=1.0, binary_columns=tuple(map(int, np.flatnonzero(binary))))
    return mixed._replace(scaling=Scaling(*(part[mixed.order] for part in scaling)))


def _standardizing(table: Survey) -> tuple[Scaling, list[str]]:
    """Return the scaling that standardizes the columns, and notices."""
    mean, deviation = _column_moments(table)
    deviation[deviation <= _rounding(table)] = 0  # below the rounding error of its size, it is no information
    constant, notices = deviation == 0, []
    with np.errstate(over="ignore"):
        scale = 1 / np.where(constant, 1, deviation)
    if not np.all(np.isfinite(scale)):
        column = int(np.argmin(np.isfinite(scale)))
        raise ValueError(f"X varies by less than a float can resolve in column {column}; expected more than 1e-308")
    if constant.any():
        columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + (", ..." if constant.sum() > 10 else "")
        notices.append(
            f"{constant.sum()} of {len(mean)} columns are constant ({columns}): they carry no information, "
            "and only the lower limit of the variance keeps their density finite"
        )
    return Scaling(mean, scale), notices


def _rounding(table: Survey) -> NDArray[np.float64]:
    """Return the rounding error (D,) of the largest value of each column; 0 for integers."""
    if table.X.dtype.kind != "f":
        return np.zeros(table.X.shape[1])
    precision = max(np.finfo(table.X.dtype).eps, np.finfo(float).eps)
    return np.asarray(precision * np.maximum(abs(table.low), abs(table.high)), float)


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
