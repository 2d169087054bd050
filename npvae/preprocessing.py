"""From a table of data to the input of the model: the choice of a likelihood, and scaling.

A dataset is not copied to scale it: the scaling is kept beside the data and applied to each minibatch.
"""

import itertools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends.reference import LOG_2PI
from .conventions import short_repr, warn
from .likelihoods import LIKELIHOODS
from .sparse import SparseRows
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

#: The usual value of a column that hardly varies is the median of so many rows.
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

    A log-density of x, in the model's units, plus ``offset`` is the log-density of X in the user's units, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import Data, Scaling
    >>> X, scaling = np.array([[14.0]]), Scaling(np.array([10.0]), np.array([0.5]))
    >>> data = Data(X, scaling, log_jacobian=float(np.log(0.5)), fixed=np.zeros(1))
    >>> data.X
    array([[14.]])
    """

    X: NDArray | SparseRows  # (N, D): the columns that are in x
    scaling: Scaling
    log_jacobian: float  # the sum of log(scale) over columns
    fixed: NDArray[np.float64]  # (N,): log-density of the other columns, less log(scale) of cells that are missing
    binarization: Binarization | None = None  # of grey values; None: they are x
    missing: bool = False  # whether there are cells that are not observed
    mask: NDArray[np.bool_] | None = None  # (N, D) which ones, besides those that are NaN; None: no others

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def offset(self) -> NDArray[np.float64]:
        """The log-density of X less that of x, (N,)."""
        return self.log_jacobian + self.fixed

    def values(self, rows: NDArray | slice) -> NDArray:
        """Return some rows of X, dense if X is sparse; of a masked X as floats, with NaN for hidden cells."""
        if self.mask is None:
            return self.X[rows]
        values = self.X[rows].astype(np.result_type(self.X.dtype, np.float32))
        values[self.mask[rows]] = np.nan
        return values

    def take(self, rows: NDArray) -> "Data":
        """Return the data of some rows."""
        mask = None if self.mask is None else self.mask[rows]
        return self._replace(X=self.X.take(rows, axis=0), fixed=self.fixed[rows], mask=mask)


class SpikeAndSlab(NamedTuple):
    """The density of a column that hardly varies, (1 - weight) N(value, spike^2) + weight N(value, slab^2).

    A decoder would make the density of such a column as narrow as it can be, and a single new value would then decide
    about the score of a data set. So the column is not part of x, and is independent of the others. `of_column` has
    the rule by which N values, r of them unusual, determine the density; it is the same for constant columns, where r
    is 0.

    Examples
    --------
    >>> density = SpikeAndSlab.of_column(3, value=5.0, size=2.0, n_unusual=1, n_rows=98)
    >>> [round(number, 4) for number in (density.spike, density.slab, density.weight)]
    [0.0286, 2.0, 0.02]
    >>> density.log_prob(np.array([5.0, 7.0])).round(2)  # the usual value, and one as the other was
    array([ 2.62, -6.02])
    """

    column: int  # of X
    value: float  # the usual one
    spike: float  # standard deviations
    slab: float
    weight: float  # of the slab

    @classmethod
    def of_column(
        cls, column: int, value: float, size: float, n_unusual: int, n_rows: int, rounding: float = 0.0
    ) -> "SpikeAndSlab":
        """Return the density that the values of a column determine.

        The weight is the probability that the next value is unusual, by Laplace's rule of succession. The spike is as
        wide as the standard error of the mean of the column would be with one unusual value more.

        Parameters
        ----------
        column : int
        value : float, the usual one
        size : float
            Root mean square of the differences between the unusual values and the usual one; 1 if there are none.
        n_unusual, n_rows : int
        rounding : float
            Rounding error of the values, the least width of the spike.
        """
        spike = max(size * np.sqrt(n_unusual + 1) / (n_rows + 1), rounding)
        return cls(column, float(value), float(spike), float(size), (n_unusual + 1) / (n_rows + 2))

    def log_prob(self, x: NDArray) -> NDArray[np.float64]:
        """Return the log-density of values x (N,), in nats; 0 where a value is NaN, and not observed."""
        parts = (1 - self.weight, self.spike), (self.weight, self.slab)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.asarray(x, float) - self.value
            logs = [np.log(w) - np.log(std) - 0.5 * (LOG_2PI + (distance / std) ** 2) for w, std in parts]
            return np.where(np.isnan(distance), 0, np.logaddexp(*logs))


class Preprocessor(NamedTuple):
    """The transformation from data to the input x of the model. `fit_preprocessor` makes it from the training data.

    1. Data is multiplied by a unit, 1 or 1/255, which depends on its type alone: ``uint8_unit`` or ``unit``. This is
       how the levels 0 to 255 of pixels become values in [0, 1].
    2. For a likelihood of data in [0, 1], this is x. For the others, the columns are standardized.
    3. Where the likelihood has columns of several kinds, the binary ones are not scaled, and are put before the others.
    4. Columns that hardly vary are left out of x.

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
    fixed: tuple[SpikeAndSlab, ...] = ()  # the densities of the columns that are not in x
    binarization: Binarization | None = None  # of grey values; None: they are x

    @property
    def n_columns(self) -> int:
        """The number of columns of X."""
        return len(self.scaling.scale) + len(self.fixed)

    @property
    def order(self) -> NDArray[np.int64]:
        """The column of X that each column of x is: (D,). The binary ones are the first."""
        return _order(self.n_columns, self.binary_columns, self.fixed)

    @property
    def _rearranges(self) -> bool:
        """Whether x has other columns than X, or in another order."""
        return bool(self.binary_columns or self.fixed)

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
        if X.shape[1] != self.n_columns:
            raise ValueError(
                f"{name} has {X.shape[1]} features, but VAE is expecting {self.n_columns} features as input, as fitted"
            )
        unit = self.unit_of(X.dtype)
        bounded = self.order[: len(self.binary_columns) if likelihood.density else None]
        if unit < 1 and not table.integers and table.low.min() >= 0 and table.high.max() <= 1:
            warn(f"{name} lies in [0, 1], and is divided by 255 as the training data was: is it divided already?")
        excess = _check_unit_interval(table, unit, self.likelihood, name, bounded)
        log_scale, mask = np.log(scale * unit) if likelihood.density else np.zeros(len(scale)), table.mask
        of_rows = np.broadcast_to(0.0, len(X))
        if self.fixed or (table.missing and likelihood.density):
            of_rows = np.concatenate(list(table.map(lambda share: self._log_prob_of_rows(share, unit, log_scale))))
        if self._rearranges:
            X = X.take(self.order, axis=1)  # whose rows are contiguous; of several ranks, each copies all of them
            mask = None if mask is None else np.take(mask, self.order, axis=1)
        if excess > 0:
            warn(f"{name} has values up to {excess:.1g} outside [0, 1]: they are clipped, as rounding errors")
            X = _clipped(X, len(bounded), 1 / unit)
        scaling = Scaling(shift / unit, scale * unit)
        return Data(X, scaling, float(np.sum(log_scale)), of_rows, self.binarization, table.missing, mask)

    def _log_prob_of_rows(self, table: Survey, unit: float, log_scale: NDArray) -> NDArray[np.float64]:
        """Return the log-density of the columns that are not in x, less log_scale of cells that are missing, (N,)."""
        total = np.zeros(len(table.X))
        functions = (
            lambda X, density=density: np.where(np.isnan(X), 0, np.log(unit) + density.log_prob(X * unit))
            for density in self.fixed
        )
        for log_prob in table.of_columns([density.column for density in self.fixed], functions):
            total += log_prob
        if table.missing and log_scale.any():
            hidden = (np.ascontiguousarray(~np.asarray(observed)[:, self.order]) for _, observed in table.parts())
            total -= np.concatenate([np.where(part, log_scale, 0).sum(axis=1) for part in hidden])
        return total

    def restore(self, x: NDArray) -> NDArray:
        """Convert means x (R, D) of the model to the units of the data. Pixels remain floats in [0, 1]."""
        if LIKELIHOODS[self.likelihood].unit_interval:
            return x
        x = x / self.scaling.scale + self.scaling.shift
        if not self._rearranges:
            return x
        X = np.empty((len(x), self.n_columns), x.dtype)
        X[:, self.order] = x
        for density in self.fixed:
            X[:, density.column] = density.value
        return X

    def far_from(self, table: Survey) -> str:
        """Say which column of a later piece lies far outside the scale of the first piece of the training data, or "".

        Far is a root mean square above `FAR` of the values standardized as the first piece was.
        """
        if LIKELIHOODS[self.likelihood].unit_interval:
            return ""
        unit, (shift, scale), order = self.unit_of(table.X.dtype), self.scaling, self.order
        remedy = "The first piece fixes the scaling of the columns: shuffle the rows before they are cut into pieces"

        def count_unusual(share: Survey) -> list[int]:
            functions = (lambda X, fixed=fixed: abs(X * unit - fixed.value) > fixed.spike for fixed in self.fixed)
            return [int(np.sum(far)) for far in share.of_columns([fixed.column for fixed in self.fixed], functions)]

        for density, *counts in zip(self.fixed, *table.map(count_unusual)):
            if sum(counts) > 1 + FAR * density.weight * table.n_observed[density.column]:
                return f"column {density.column} hardly varied in the first piece, and does in this one. {remedy}"
        mean, deviation, *_ = _column_moments(table)
        factor = np.hypot((mean[order] * unit - shift) * scale, deviation[order] * unit * scale)
        factor[table.n_observed[order] == 0] = 0
        column = int(np.argmax(factor))
        if factor[column] <= FAR:
            return ""
        return (
            f"the values of column {order[column]} are {factor[column]:.3g} times as far from the mean of the first "
            f"piece as those of the first piece were, and those of {np.sum(factor > FAR)} of {len(factor)} columns "
            f"more than {FAR} times. {remedy}"
        )


def _clipped(X: NDArray | SparseRows, n_columns: int, high: float) -> NDArray | SparseRows:
    """Return a copy of X whose first columns are clipped to [0, high]."""
    if isinstance(X, SparseRows):
        return X.clip(n_columns, 0, high)
    return np.concatenate([np.clip(X[:, :n_columns], 0, high), X[:, n_columns:]], axis=1)


def _order(n_columns: int, binary_columns: Sequence[int], fixed: Sequence[SpikeAndSlab]) -> NDArray[np.int64]:
    """Return `Preprocessor.order`."""
    others = np.delete(np.arange(n_columns), [*binary_columns, *(density.column for density in fixed)])
    return np.concatenate([np.array(binary_columns, np.int64), others])


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
    rarer = np.minimum(table.ones, table.n_observed - table.ones)
    return table.both & (rarer >= RARE * table.n_observed) & ~np.isin(table.high, (2, 3)).any()


def fingerprints(*datasets: Data | None, n_rows: int = 1000) -> list[list | None]:
    """Return a JSON-serializable fingerprint of each dataset: shape, type, checksum of up to so many rows.

    The fingerprint of None is None.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.preprocessing import Data, Scaling, fingerprints
    >>> data = Data(np.zeros((5, 2), np.uint8), Scaling(np.zeros(2), np.ones(2)), 0.0, np.zeros(5))
    >>> fingerprints(data, None)
    [[5, 2, '|u1', 3817498742], None]
    """
    return [None if data is None else _fingerprint(data.X, data.mask, n_rows) for data in datasets]


def _fingerprint(X: NDArray | SparseRows, mask: NDArray | None, n_rows: int) -> list:
    rows, crc = np.unique(np.linspace(0, len(X) - 1, n_rows).astype(int)), 0
    if mask is not None:
        crc = zlib.crc32(mask[rows].tobytes())
    for some in chunks(X.take(rows, axis=0)):
        if X.dtype.itemsize > 8:  # a long double has padding bytes, whose values are arbitrary
            some = some.astype(float)
        if mask is not None:  # below it, values are arbitrary
            some = np.where(mask[rows], some.dtype.type(0), some)
        crc = zlib.crc32(np.ascontiguousarray(some).tobytes(), crc)
    return [*X.shape, X.dtype.str, crc]


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
        If values are outside [0, 1] and the likelihood requires [0, 1], if a column's range overflows a float, or if a
        column has no observed value.

    Examples
    --------
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> preprocessor, notices = fit_preprocessor(survey([[1.0], [5.0]]), "gaussian")
    >>> preprocessor.scaling  # mean 3, standard deviation 2
    Scaling(shift=array([3.]), scale=array([0.5]))
    """
    n_features, row = table.X.shape[1], LIKELIHOODS[likelihood]
    if (empty := table.n_observed == 0).any():
        raise ValueError(
            f"X has no observed value in {empty.sum()} of {n_features} columns ({_listed(empty)}); expected at least "
            "one in each: leave such columns out"
        )
    is_uint8 = table.X.dtype == np.uint8
    if not row.unit_interval:
        binary = table.both if row.has_kinds else np.zeros(n_features, bool)
        if row.has_kinds and (not binary.any() or binary.all()):
            raise ValueError(
                f"likelihood is {likelihood!r}, but {binary.sum()} of {n_features} columns of X have the values 0 and "
                "1; expected some, but not all. For columns of one kind there are 'bernoulli' and 'gaussian'"
            )
        scaling, fixed, notices = _standardizing(table, binary)
        # Of floats in [0, 1], uint8 rows are the pixels; otherwise a number of any type is just this number.
        fractions = not table.integers and table.low.min() >= 0 and table.high.max() <= 1
        uint8_unit = 1 / 255 if fractions and not row.has_kinds else 1.0
        binary_columns = tuple(map(int, np.flatnonzero(binary)))
        order = _order(n_features, binary_columns, fixed)
        scaling = Scaling(*(part[order] for part in scaling))
        return Preprocessor(likelihood, scaling, uint8_unit, 1.0, binary_columns, fixed), notices
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


def _standardizing(table: Survey, binary: NDArray[np.bool_]) -> tuple[Scaling, tuple[SpikeAndSlab, ...], list[str]]:
    """Return the scaling (D,) that standardizes the columns, the densities of those that hardly vary, and notices.

    Binary columns are not scaled. One row does not tell which columns vary; and one of the columns of real numbers is
    left to the decoder, the one that varies in most rows.
    """
    (mean, deviation, usual, repeats), rounding = _column_moments(table), _rounding(table)
    deviation[deviation <= rounding] = 0  # below the rounding error of its size, it is no information
    constant, notices, n_rows, n = (deviation == 0) & ~binary, [], len(table.X), table.n_observed
    unusual = np.where(constant, 0, n - repeats)
    hardly = ~binary & (unusual <= HARDLY * n) & (n_rows > 1)
    if np.all(hardly | binary):
        hardly[np.argmax(np.where(binary, -1, unusual))] = False
    with np.errstate(over="ignore"):
        scale = 1 / np.where((deviation == 0) | binary, 1, deviation)
    if not np.all(np.isfinite(scale)):
        column = int(np.argmin(np.isfinite(scale)))
        raise ValueError(f"X varies by less than a float can resolve in column {column}; expected more than 1e-308")
    if n_rows == 1:
        notices.append("X has one row, which does not tell how columns vary: they are shifted, and not scaled")
    if (same := hardly & constant).any():
        notices.append(
            f"{same.sum()} of {len(mean)} columns are constant ({_listed(same)}): they carry no information, and have "
            "a fixed density"
        )
    if (still := hardly & ~constant).any():
        notices.append(
            f"{still.sum()} of {len(mean)} columns have the same value in all but {HARDLY:.0%} of the rows "
            f"({_listed(still)}): they are taken as independent of the others, and have a fixed density"
        )
    little = ~constant & ~binary & (deviation <= FEW * rounding)
    if little.any():
        notices.append(
            f"{little.sum()} of {len(mean)} columns vary by few rounding errors of their size ({_listed(little)}): "
            "every such error counts in a score. If they are what is left of a calculation, leave them out"
        )
    size = np.hypot(deviation, mean - usual) * np.sqrt(n / np.maximum(unusual, 1))
    size[unusual == 0] = 1
    fixed = tuple(
        SpikeAndSlab.of_column(int(d), usual[d], size[d], int(unusual[d]), int(n[d]), rounding[d])
        for d in np.flatnonzero(hardly)
    )
    return Scaling(np.where(binary, 0, mean), scale), fixed, notices


def _listed(columns: NDArray[np.bool_]) -> str:
    """Return the numbers of these columns (D,), at most ten."""
    return ", ".join(map(str, np.flatnonzero(columns)[:10])) + (", ..." if columns.sum() > 10 else "")


def _rounding(table: Survey) -> NDArray[np.float64]:
    """Return the rounding error (D,) of the largest value of each column; 0 for integers."""
    if table.X.dtype.kind != "f":
        return np.zeros(table.X.shape[1])
    precision = max(np.finfo(table.X.dtype).eps, np.finfo(float).eps)
    return np.asarray(precision * np.maximum(abs(table.low), abs(table.high)), float)


def _column_moments(
    table: Survey,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean and standard deviation of each column, its usual value and how often it occurs, in one pass.

    They are those of the observed cells. An observed value is subtracted (the first one, where none is missing), so
    that the deviation of a constant column is exactly zero. The differences are divided by the largest of them, so that
    their squares do not overflow. The squares of a chunk are summed about the mean of the chunk, for accuracy; the sums
    are then combined (Chan, Golub and LeVeque, 1983).
    """
    furthest = _first_and_furthest(table)[1]
    if not np.all(np.isfinite(furthest)):
        column = int(np.argmax(~np.isfinite(furthest)))
        raise ValueError(f"X spans more than a float can hold in column {column}; expected numbers below 1e308 in size")
    mean, deviation, usual, repeats = map(np.concatenate, zip(*(_moments_of_block(block) for block in table.blocks())))
    return mean, deviation, usual, repeats


def _first_and_furthest(table: Survey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the value of each column that is subtracted, and the largest difference from it, (D,) each."""
    low, high = (np.where(table.n_observed > 0, end, 0) for end in (table.low, table.high))
    first = np.asarray(low if table.missing else table.X[0], float)
    with np.errstate(over="ignore"):
        return first, np.maximum(high - first, first - low)


def _moments_of_block(
    table: Survey,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the moments of a block of columns."""
    first, furthest = _first_and_furthest(table)
    unit, usual = np.where(furthest == 0, 1, furthest), _usual(table)

    def of_chunk(chunk: NDArray, observed: NDArray[np.bool_] | bool) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        repeats = np.count_nonzero((chunk == usual) & observed, axis=0)
        if table.missing:
            chunk = np.where(observed, chunk, first)
        x = (chunk - first) / unit
        size, total = np.broadcast_to(observed, x.shape).sum(axis=0), np.sum(x, axis=0)
        return repeats, size, total, np.sum((x - total / np.maximum(size, 1)) ** 2, axis=0, where=observed)

    of_chunks = itertools.chain(*table.map(lambda share: [of_chunk(*part) for part in share.parts()]))
    repeats, sizes, sums, squares = map(np.array, zip(*of_chunks))
    total, n = np.maximum(table.n_observed, 1), np.maximum(sizes, 1)
    shift = np.sum(sums, axis=0) / total
    variance = np.sum(squares + sizes * (sums / n - shift) ** 2, axis=0) / total
    return first + unit * shift, unit * np.sqrt(variance), usual.astype(float), repeats.sum(axis=0)


def _usual(table: Survey) -> NDArray:
    """Return the median of the first observed values of each column, (D,), in the type of the data.

    It is the most frequent value, if that is nearly everywhere; 0 for a column without values.
    """
    if not table.missing:
        ordered = np.sort(table.X[: 2 * (min(len(table.X), MEDIAN_OF) // 2) + 1], axis=0)
        return ordered[len(ordered) // 2]
    usual, numbers = np.zeros(table.X.shape[1], table.X.dtype), np.flatnonzero(table.n_observed).tolist()
    at_most = 2 * (np.minimum(table.n_observed, MEDIAN_OF) // 2) + 1

    def first_values(share: Survey) -> list[NDArray]:
        columns = share.of_columns(numbers, itertools.repeat(lambda column: column))
        return [column[np.flatnonzero(~np.isnan(column))[: at_most[d]]] for d, column in zip(numbers, columns)]

    for d, *parts in zip(numbers, *table.map(first_values)):
        ordered = np.sort(np.concatenate(parts)[: at_most[d]])
        usual[d] = ordered[len(ordered) // 2]
    return usual
