"""From a table of data to the input of the model: the choice of a likelihood, and scaling.

A dataset is not copied to scale it: the scaling is kept beside the data and applied to each minibatch.
"""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .conventions import short_repr, warn
from .likelihoods import LIKELIHOODS
from .table import PIXELS_REACH, ROUNDING, Survey, chunks

#: What is done with the grey values of a Bernoulli, by name, and what `fit` says of it.
BINARIZE = {
    "none": "",
    "dynamic": "each value is the probability with which a pixel is 1, drawn anew in each epoch",
    "fixed": "each value is the probability with which a pixel is 1, drawn once for each row",
}

#: In a table of integers most of whose columns begin at 0, as those of counts and levels do, a column of 0 and 1 may be
#: a rare count or a pixel that is hardly ever set. It is binary if the rarer value has this share of the rows, and no
#: column ends at 2 or 3.
RARE = 0.05

#: A column hardly varies if all but this share of its values are the same.
HARDLY = 0.01

#: The most frequent value of a column that hardly varies is the median of so many rows.
MEDIAN_OF = 100

#: See `Preprocessor.far_from`.
FAR = 5

#: A deviation of so many rounding errors may be what is left of a calculation, such as (a + 0.7) - a for large a.
FEW = 256


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


class Binarization(NamedTuple):
    """How the grey values of a Bernoulli become 0 and 1, each with its value as the probability of 1.

    Scores draw a row once: the draw is a function of its content and the seed. So does a training with the kind
    "fixed". With "dynamic" it draws each row anew in each epoch.

    Examples
    --------
    >>> from npvae.preprocessing import Binarization
    >>> Binarization("dynamic", seed=0).anew
    True
    """

    kind: str  # a name in `BINARIZE` but "none"
    seed: int

    @property
    def anew(self) -> bool:
        """Whether training draws a row anew in each epoch."""
        return self.kind == "dynamic"


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
    fixed: tuple[tuple[int, float], ...] = ()  # columns of x that hardly vary, and the log-variance of their density
    binarization: Binarization | None = None  # of grey values; None: they are x

    def __repr__(self) -> str:
        return short_repr(self)


class Preprocessor(NamedTuple):
    """The transformation from data to the input x of the model. `fit_preprocessor` makes it from the training data.

    1. Data is multiplied by a unit, 1 or 1/255, which depends on its type alone: ``uint8_unit`` or ``unit``. This is
       how the levels 0 to 255 of pixels become values in [0, 1].
    2. For a likelihood of data in [0, 1], this is x. For the others, the columns are standardized.
    3. Where the likelihood has columns of several kinds, the binary ones are not scaled, and are put before the others.

    Where p(x|z) is a density, ``Data.log_jacobian`` has the factors of the first two steps.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
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
    fixed: tuple[
        tuple[int, float], ...
    ] = ()  # columns of X that hardly vary; the log-variances of x there, below 0 where constant
    binarization: Binarization | None = None  # of grey values; None: they are x

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
        bounded = self.order[: len(self.binary_columns) if likelihood.density else None]
        if unit < 1 and not table.integers and table.low.min() >= 0 and table.high.max() <= 1:
            warn(f"{name} lies in [0, 1], and is divided by 255 as the training data was: is it divided already?")
        excess = _check_unit_interval(table, unit, self.likelihood, name, bounded)
        if self.binary_columns:
            X = X[:, self.order]
        if excess > 0:
            warn(f"{name} has values up to {excess:.1g} outside [0, 1]: they are clipped, as rounding errors")
            X = np.concatenate([np.clip(X[:, : len(bounded)], 0, 1 / unit), X[:, len(bounded) :]], axis=1)
        log_jacobian = float(np.sum(np.log(scale * unit))) if likelihood.density else 0.0
        fixed = self._fixed_in(table) if self.fixed else ()
        return Data(X, Scaling(shift / unit, scale * unit), log_jacobian, fixed, self.binarization)

    def _fixed_in(self, table: Survey) -> tuple[tuple[int, float], ...]:
        """Return the columns of x with a fixed density; not those that were constant and are not in this table."""
        with np.errstate(over="ignore"):
            varies = table.high.astype(float) - table.low.astype(float) > FEW * _rounding(table)
        places = np.argsort(self.order)
        return tuple((int(places[d]), log_var) for d, log_var in self.fixed if log_var == 0 or not varies[d])

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
        unit, (shift, scale), order = self.unit_of(table.X.dtype), self.scaling, self.order
        remedy = "The first piece fixes the scaling of the columns: shuffle the rows before they are cut into pieces"
        mean, deviation, _ = _column_moments(table)
        varies = deviation > _rounding(table)
        varies[: len(self.binary_columns)] = False
        constant = np.flatnonzero(np.isin(order, [d for d, log_var in self.fixed if log_var < 0]) & varies)
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
    remedy = "Divide these pixels by 255" if table.has_levels and unit == 1 else "Scale or clip them"
    raise ValueError(
        f"{name} has values from {low:g} to {high:g}{read}, by {excess:.3g} outside [0, 1] in column {column}; the "
        f"{likelihood} likelihood expects values in [0, 1]. {remedy}, or fit with likelihood='gaussian', "
        "which takes any number"
    )


def choose_likelihood(table: Survey, binarize: str = "none") -> tuple[str, str]:
    """Choose a likelihood for data.

    Parameters
    ----------
    table : Survey, of the training data
    binarize : a name in `BINARIZE`

    Returns
    -------
    likelihood : str, "bernoulli", "mixed" or "gaussian"
    reason : str, for the user

    Examples
    --------
    >>> from npvae.preprocessing import choose_likelihood
    >>> from npvae.table import survey
    >>> choose_likelihood(survey([[0, 1], [1, 1]]))
    ('bernoulli', 'X holds nothing but 0 and 1')
    """
    low, high = table.low.min(), table.high.max()
    probabilities = "taken as Bernoulli probabilities"
    if binarize == "none":
        probabilities += "; the bound is then not a probability of the data; with binarize='dynamic' it is one"
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
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> preprocessor, notices = fit_preprocessor(survey([[1.0], [5.0]]), "gaussian")
    >>> preprocessor.scaling  # mean 3, standard deviation 2
    Scaling(shift=array([3.]), scale=array([0.5]))
    """
    n_features, row = table.X.shape[1], LIKELIHOODS[likelihood]
    is_uint8 = table.X.dtype == np.uint8
    if not row.unit_interval:
        scaling, fixed, notices = _standardizing(table, table.both if row.has_kinds else np.zeros(n_features, bool))
        if row.has_kinds:
            return _mixed(table, likelihood, scaling)._replace(fixed=fixed), notices
        # Of floats in [0, 1], uint8 rows are the pixels; otherwise a number of any type is just this number.
        fractions = not table.integers and table.low.min() >= 0 and table.high.max() <= 1
        uint8_unit = 1 / 255 if fractions else 1.0
        return Preprocessor(likelihood, scaling, uint8_unit, fixed=fixed), notices
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


def _mixed(table: Survey, likelihood: str, scaling: Scaling) -> Preprocessor:
    """Return the `Preprocessor` of columns of several kinds, from the scaling that standardizes all of them."""
    binary = table.both
    if not binary.any() or binary.all():
        raise ValueError(
            f"likelihood is {likelihood!r}, but {binary.sum()} of {len(binary)} columns of X have the values 0 and 1; "
            "expected some, but not all. For columns of one kind there are 'bernoulli' and 'gaussian'"
        )
    scaling = Scaling(np.where(binary, 0, scaling.shift), np.where(binary, 1, scaling.scale))
    mixed = Preprocessor(likelihood, scaling, uint8_unit=1.0, binary_columns=tuple(map(int, np.flatnonzero(binary))))
    return mixed._replace(scaling=Scaling(*(part[mixed.order] for part in scaling)))


def _standardizing(
    table: Survey, binary: NDArray[np.bool_]
) -> tuple[Scaling, tuple[tuple[int, float], ...], list[str]]:
    """Return the scaling that standardizes the columns, those that are not binary and hardly vary, and notices.

    Of a column that hardly varies a decoder would make the density as narrow as it can be, and a single new value would
    then decide about the score of a data set. Such columns are taken as independent, with a fixed density. N equal
    values tell that others have a probability of about 1/N: a constant column has the variance 1/(N + 1), also where N
    is 1. One with a few other values has its own variance.
    """
    (mean, deviation, repeats), rounding = _column_moments(table), _rounding(table)
    deviation[deviation <= rounding] = 0  # below the rounding error of its size, it is no information
    constant, notices, n_rows = deviation == 0, [], len(table.X)
    still = ~constant & ~binary & (repeats >= (1 - HARDLY) * n_rows)
    with np.errstate(over="ignore"):
        scale = 1 / np.where(constant, 1, deviation)
    if not np.all(np.isfinite(scale)):
        column = int(np.argmin(np.isfinite(scale)))
        raise ValueError(f"X varies by less than a float can resolve in column {column}; expected more than 1e-308")
    if constant.any():
        notices.append(
            f"{constant.sum()} of {len(mean)} columns are constant ({_listed(constant)}): they carry no information, "
            f"and have the density N(constant, 1/{n_rows + 1})"
        )
    if still.any():
        notices.append(
            f"{still.sum()} of {len(mean)} columns have the same value in all but {HARDLY:.0%} of the rows "
            f"({_listed(still)}): they are taken as independent of the others"
        )
    little = ~constant & (deviation <= FEW * rounding)
    if little.any():
        notices.append(
            f"{little.sum()} of {len(mean)} columns vary by few rounding errors of their size ({_listed(little)}): "
            "every such error counts in a score. If they are what is left of a calculation, leave them out"
        )
    log_vars = np.where(constant, -np.log(n_rows + 1), 0.0)
    fixed = tuple((int(d), float(log_vars[d])) for d in np.flatnonzero(constant | still))
    return Scaling(mean, scale), fixed, notices


def _listed(columns: NDArray[np.bool_]) -> str:
    """Return the numbers of these columns (D,), at most ten."""
    return ", ".join(map(str, np.flatnonzero(columns)[:10])) + (", ..." if columns.sum() > 10 else "")


def _rounding(table: Survey) -> NDArray[np.float64]:
    """Return the rounding error (D,) of the largest value of each column; 0 for integers."""
    if table.X.dtype.kind != "f":
        return np.zeros(table.X.shape[1])
    precision = max(np.finfo(table.X.dtype).eps, np.finfo(float).eps)
    return np.asarray(precision * np.maximum(abs(table.low), abs(table.high)), float)


def _column_moments(table: Survey) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean and standard deviation of each column, and how often its most frequent value occurs, in one pass.

    Of a value that is not nearly everywhere, the number may be too small: it is that of the median of the first rows.

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
    frequent = np.sort(table.X[: 2 * (min(len(table.X), MEDIAN_OF) // 2) + 1], axis=0)
    frequent, repeats = frequent[len(frequent) // 2], np.zeros(table.X.shape[1], np.int64)
    for chunk in chunks(table.X):
        repeats += np.count_nonzero(chunk == frequent, axis=0)
        x = (chunk - first) / unit
        sizes.append(len(x))
        sums.append(np.sum(x, axis=0))
        squares.append(np.sum((x - sums[-1] / len(x)) ** 2, axis=0))
    shift, n = np.sum(sums, axis=0) / len(table.X), np.array(sizes)[:, None]
    variance = np.sum(squares + n * (sums / n - shift) ** 2, axis=0) / len(table.X)
    return first + unit * shift, unit * np.sqrt(variance), repeats
