"""The uses of a model for which its prior over x is needed: filling in, denoising, super-resolution.

Each function checks what the user gave, makes the `Observation`, and returns what is `Wanted` in the units of the data.
``VAE`` has the methods that users call.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..conventions import (
    as_given,
    check_choice,
    check_number,
    column_names,
    compare_names,
    real_array,
    short_repr,
    warn,
    warn_if_not_finite,
)
from ..evaluation.log_likelihood import Limit
from ..fitted import BATCH, Fitted
from ..parameters import Buffers
from ..table import ROUNDING, survey, unobserved
from .blocks import MOST_CELLS, BinaryBlocks, RealBlocks
from .cells import Cells
from .columns import Columns
from .inference import CHAINS, infer
from .observation import Observation

#: How cells are filled in.
METHODS = ("chains", "one-pass")

#: When a row's answer is not to be believed.
LIMITS = {
    "split R-hat": Limit("above", 1.5, "take a larger n_samples, or average over random_state"),
    "effective sample size": Limit("below", 20, "take a larger n_samples"),
}

#: Fewest samples of z for each row: the diagnosis needs some of each chain.
FEWEST = 8 * CHAINS


class Wanted(NamedTuple):
    """What the user wants to know of x, and how carefully.

    Examples
    --------
    >>> Wanted(return_std=True).check()
    """

    n_draws: int | None = None  # draws of x instead of means
    return_std: bool = False  # standard deviations beside means
    n_samples: int = 256  # of z for each row
    seed: int = 0
    told: Callable[[int, int], object] = lambda done, n_rows: None  # is called with the number of rows done, and of all

    def __repr__(self) -> str:
        return short_repr(self)

    def check(self) -> None:
        """Raise ValueError if something is not valid."""
        if self.n_draws is not None:
            check_number("n_draws", self.n_draws, np.integer, 1)
            if self.return_std:
                raise ValueError("return_std is True, and n_draws is given; expected one of the two")
        check_number("n_samples", self.n_samples, np.integer, FEWEST)


class Seen(NamedTuple):
    """A table as the user gave it, checked.

    Examples
    --------
    >>> Seen(np.array([[1, 255]], np.uint8), np.array([[False, True]])).values()
    array([[ 1., nan]])
    """

    X: NDArray  # (N, D)
    holes: NDArray[np.bool_]  # (N, D)

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    def of(cls, X: Any, n_columns: int) -> "Seen":
        """Check a table that may have holes, as NaN or masked, but no infinite numbers."""
        table = survey(X, missing=True)
        if table.X.shape[1] != n_columns:
            raise ValueError(f"X has {table.X.shape[1]} features, but VAE is expecting {n_columns} features as input")
        values = table.X[:]  # a table without holes is dense, whatever it was
        return cls(values, unobserved(values, table.mask))

    def values(self) -> NDArray[np.float64]:
        """Return the table with NaN in its holes."""
        return np.where(self.holes, np.nan, self.X)


def impute(fitted: Fitted, X: Any, method: str, wanted: Wanted) -> Any:
    """Fill in the cells that are NaN: see `VAE.impute`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [1.0, 2.0, 3.0, 4.0]
    >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> impute(fitted, [[1.0, 2.0, np.nan, 4.0]], "chains", Wanted()).round()
    array([[1., 2., 3., 4.]])
    """
    wanted.check()
    check_choice("method", method, METHODS)
    seen, columns, x = _seen_as_is(fitted, X)
    rows = np.flatnonzero(seen.holes.any(axis=1))
    if method == "one-pass":
        if wanted.n_draws is not None or wanted.return_std:
            raise ValueError("method is 'one-pass', which has no draws and no standard deviations; expected 'chains'")
        mean = columns.outward(_one_pass(fitted, columns, x[rows]))
        return as_given(X, _merged(fitted, seen, rows, mean))
    answer = _answer(fitted, seen, columns, rows, Cells.with_holes(columns, x[rows]), wanted, "impute")
    return _as_given(X, answer, wanted)


def denoise(
    fitted: Fitted,
    X: Any,
    sigma: ArrayLike | None,
    salt_and_pepper: float | None,
    extremes: Sequence[float] | None,
    wanted: Wanted,
) -> Any:
    """Remove noise of a known strength: see `VAE.denoise`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [1.0, 2.0, 3.0, 4.0]
    >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> denoise(fitted, [[1.2, 1.8, 3.2, 3.8]], 0.2, None, None, Wanted()).round()
    array([[1., 2., 3., 4.]])
    """
    wanted.check()
    if sigma is not None and salt_and_pepper is None:
        seen, columns, cells = _with_gaussian_noise(fitted, X, sigma)
    elif salt_and_pepper is not None and sigma is None:
        seen, columns, cells = _with_salt_and_pepper(fitted, X, salt_and_pepper, extremes)
    else:
        raise ValueError(f"sigma is {sigma!r}, and salt_and_pepper is {salt_and_pepper!r}; expected one of the two")
    unknown = np.empty(seen.X.shape, bool)
    unknown[:, columns.order] = ~cells.is_known
    rows = np.flatnonzero(unknown.any(axis=1))
    answer = _answer(fitted, Seen(seen.X, unknown), columns, rows, cells.take(rows), wanted, "denoise")
    return _as_given(X, answer, wanted)


def _with_gaussian_noise(fitted, X, sigma):
    compare_names(column_names(X), fitted.feature_names, "VAE")
    seen = Seen.of(X, fitted.preprocessor.n_columns)
    columns, given = Columns.of(fitted.preprocessor, seen.X.dtype), real_array("sigma", sigma).astype(float)
    D = len(columns.order)
    if given.shape not in ((), (D,)):
        raise ValueError(f"sigma has the shape {given.shape}; expected a number, or one for each of {D} columns")
    if not np.all((given >= 0) & (given < np.inf)):
        raise ValueError(f"sigma is {sigma!r}; expected finite numbers of at least 0, in the units of X")
    of_cells = np.broadcast_to(given, D)[columns.order] * columns.scale
    return seen, columns, Cells.with_gaussian_noise(columns, columns.inward(seen.values()), of_cells)


def _with_salt_and_pepper(fitted, X, share, extremes):
    check_number("salt_and_pepper", share, np.floating, 0)
    if share > 1:
        raise ValueError(f"salt_and_pepper is {share!r}; expected a probability, at most 1")
    seen, columns, x = _seen_as_is(fitted, X)
    low, high = _checked_extremes(fitted, columns, extremes, seen.X.dtype)
    if share == 0:
        return seen, columns, Cells.with_holes(columns, x)
    return seen, columns, Cells.with_salt_and_pepper(columns, x, share, low, high)


def super_resolve(fitted: Fitted, X: Any, image_shape: Sequence[int], factor: int, wanted: Wanted) -> Any:
    """Return pictures from the averages of their blocks: see `VAE.super_resolve`.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [1.0, 2.0, 3.0, 4.0]
    >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> super_resolve(fitted, [[2.5]], (2, 2), 2, Wanted()).round()
    array([[1., 2., 3., 4.]])
    """
    wanted.check()
    D = fitted.preprocessor.n_columns
    shape = _checked_shape(image_shape, factor, D)
    seen = Seen.of(X, D // factor**2)
    columns = Columns.of(fitted.preprocessor, seen.X.dtype)
    if 0 < columns.n_binary < D:
        raise ValueError(
            f"the likelihood is {fitted.preprocessor.likelihood!r}; expected pictures, with pixels of one kind"
        )
    average = seen.values()
    cells = _blocks(shape, factor)
    place = np.empty(D, np.int64)  # of each column of the table among `Columns`
    place[columns.order] = np.arange(D)
    cells, n = place[cells], factor**2
    observation: Observation
    if columns.n_binary:
        if n > MOST_CELLS:
            raise ValueError(f"factor is {factor}; expected one of at most {math.isqrt(MOST_CELLS)} for binary pixels")
        count = average * columns.scale[0] * n
        _check_counts(count, n)
        observation = BinaryBlocks(np.clip(count, 0, n), cells)
    else:
        observation = RealBlocks(average - columns.shift[cells].mean(axis=1), cells, 1 / (n * columns.scale))
    whole = Seen(
        np.full((len(average), D), np.nan, _float_type(seen.X.dtype, fitted)), np.ones((len(average), D), bool)
    )
    return _answer(fitted, whole, columns, np.arange(len(average)), observation, wanted, "super_resolve")


# What was given -------------------------------------------------------------------------------------------------------


def _seen_as_is(fitted, X):
    """Check a table whose cells are such as the model was trained on, or holes.

    Returns the `Seen`, the `Columns`, and their cells (N, D) with NaN in the holes.
    """
    fitted = fitted.with_missing()
    data, seen = fitted.data(X), Seen.of(X, fitted.preprocessor.n_columns)
    columns = Columns.of(fitted.preprocessor, seen.X.dtype)
    x, B = columns.inward(seen.values()), columns.n_binary
    for rows, batch, _ in fitted.batches(data) if B else ():  # clipped, and drawn where grey values are made binary
        x[rows, :B] = fitted.model.backend.to_numpy(batch)[:, :B]
    return seen, columns, np.where(np.take(seen.holes, columns.order, axis=1), np.nan, x)


def _checked_extremes(fitted, columns, extremes, dtype):
    """Return the values of pepper and salt (D,), in the units of the model."""
    if extremes is None:
        if fitted.model.likelihood.unit_interval:
            return np.zeros(len(columns.order)), np.ones(len(columns.order))
        raise ValueError("extremes is None; expected (low, high), the values of pepper and salt, for data of any range")
    if real_array("extremes", extremes).shape != (2,) or not -np.inf < extremes[0] < extremes[1] < np.inf:
        raise ValueError(f"extremes is {extremes!r}; expected (low, high) with low < high")
    low, high = np.asarray(extremes).astype(_float_type(dtype, fitted))  # as X has them
    return (columns.inward(np.broadcast_to(end, (1, len(columns.order))))[0] for end in (low, high))


def _checked_shape(image_shape, factor, n_columns):
    """Return (height, width, colours) of a picture that can be divided into blocks."""
    check_number("factor", factor, np.integer, 1)
    shape = tuple(np.ravel(image_shape).tolist())
    sound = np.ndim(image_shape) == 1 and all(isinstance(side, int) and side > 0 for side in shape)
    if not sound or len(shape) not in (2, 3) or math.prod(shape) != n_columns:
        raise ValueError(f"image_shape is {image_shape!r}; expected (height, width[, colours]) of {n_columns} numbers")
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"factor is {factor}; expected one that divides the sides of the image, {shape[0]} and {shape[1]}"
        )
    return (*shape, 1)[:3]


def _blocks(shape, factor):
    """Return the columns (K, factor^2) of each block of a picture, in the order of the smaller picture."""
    height, width, colours = shape
    blocks = np.arange(height * width * colours).reshape(height // factor, factor, width // factor, factor, colours)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(-1, factor**2)


def _check_counts(count, n):
    outside = np.nanmax(np.maximum(count - n, -count), initial=0.0) / n
    if outside > ROUNDING:
        raise ValueError(
            f"X has averages by {outside:.3g} outside of the range of the pixels; expected averages of pixels"
        )


# What is returned -----------------------------------------------------------------------------------------------------


def _as_given(X, answer, wanted):
    """Return means, or means and standard deviations, as data frames where X is one. Draws are an array."""
    if wanted.n_draws is not None:
        return answer
    return tuple(as_given(X, part) for part in answer) if wanted.return_std else as_given(X, answer)


def _float_type(dtype, fitted):
    """Return the type of floats of a table, or for integers that of the model."""
    return dtype.newbyteorder("=") if dtype.kind == "f" else fitted.model.dtype


def _merged(fitted, seen, rows, values):
    """Return the table with these values (..., rows, D) in the holes of these rows."""
    dtype = _float_type(seen.X.dtype, fitted) if len(rows) else seen.X.dtype
    X = np.broadcast_to(seen.X.astype(dtype), (*values.shape[:-2], *seen.X.shape)).copy()
    X[..., rows, :] = np.where(seen.holes[rows], values, X[..., rows, :])
    return X


def _answer(fitted, seen, columns, rows, observation, wanted, name):
    """Infer what was not seen in these rows; return what is wanted of all."""
    if fitted.model.architecture.random_weights is not None:
        raise ValueError(
            f"the model has random weights ({fitted.model.architecture.random_weights!r}), and p(x | seen) is computed "
            "for weights that are fixed; expected a model of another estimator than 'full-vb'"
        )
    n_draws, D = wanted.n_draws or 0, seen.X.shape[1]
    if not len(rows):
        nothing = np.zeros((*[n_draws] * (n_draws > 0), 0, D))
        merged = _merged(fitted, seen, rows, nothing)
        return (merged, np.zeros(merged.shape, _float_type(merged.dtype, fitted))) if wanted.return_std else merged
    found = infer(fitted, columns, observation, wanted.n_samples, n_draws=n_draws, seed=wanted.seed, told=wanted.told)
    for (kind, limit), values in zip(LIMITS.items(), (found.rhat, found.size)):
        if doubt := limit.doubt(name, kind, values, rows):
            warn(doubt)
    X = _merged(fitted, seen, rows, columns.outward(found.draws if n_draws else found.mean))
    warn_if_not_finite(name, np.moveaxis(X, -2, 0))
    if not wanted.return_std:
        return X
    std = np.zeros(X.shape, X.dtype)
    std[rows] = np.where(seen.holes[rows], columns.outward_std(np.sqrt(found.variance)), 0)
    return X, std


def _one_pass(fitted, columns, x):
    """Return E[x|z] (N, D) at the mean of q(z|x) for x with 0 in its holes."""
    model, buffers, means = fitted.model, Buffers(fitted.model.backend, fitted.model.dtype), []
    for first in range(0, len(x), BATCH):
        filled = np.nan_to_num(x[first : first + BATCH, : columns.n_in_model])
        mu = model.encode(fitted.parameters, model.backend.asarray(filled, model.dtype), buffers).outputs[0]
        decoded = model.decode(fitted.parameters, mu, buffers).outputs
        arrays = [model.backend.to_numpy(output) for output in decoded]
        means.append(columns.outputs(model.likelihood, arrays, len(filled)).mean[0])
    return np.concatenate(means) if means else np.zeros((0, len(columns.order)))
