"""Pictures of a trained model: learning curve, reconstructions, samples, manifold, latent space.

Each function draws into matplotlib axes that it is given as ``ax``, or makes new ones, and returns them; `summary`
makes a page of them. Data is a list, an array or a data frame. The functions call only the public methods of a model,
so they also serve for anything that has these methods.

Images are drawn on the whole range of their values, and the title says which value is black and which is white.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from .conventions import check_number, kind_of

#: Colours of classes. Any two differ by at least 33 in CIE Lab, also as people with protanopia, deuteranopia or
#: tritanopia see them (a test computes it; for matplotlib's "tab10" this distance is 5).
COLORS = (
    "#1e69ff", "#ffc32d", "#d22d00", "#78e1d2", "#2d0087", "#c35a69", "#b4d278", "#9669b4", "#690000", "#4b0f4b"
)  # fmt: skip

#: Colours of the bounds in a learning curve.
CURVES = {"training": COLORS[0], "validation": COLORS[2], "test": COLORS[4]}

#: Markers of classes, beside the colours.
MARKERS = ("o", "^", "s", "D", "v", "P")

#: Colours of rows without a label, and of labels beyond the classes that can be told apart.
MISSING, OTHERS = "#9c9c9c", "#000000"

#: Colour of the lines between images, of places without an image, and of missing pixels.
GAP = "lightsteelblue"

#: Numeric labels of more values than this are drawn on a colour scale.
MOST_CLASSES = 30

#: Magnitude beyond which matplotlib cannot place a number. Such values are not drawn, and the picture says so.
LARGEST = 1e300

#: Panels side by side in the picture of `epochs`.
SETUPS_A_LINE = 3


class Epoch(Protocol):
    """What `learning_curve` reads of an epoch: bounds in nats a datapoint."""

    @property
    def samples_seen(self) -> int: ...
    @property
    def elbo(self) -> float: ...
    @property
    def elbo_valid(self) -> float: ...


class FittedModel(Protocol):
    """What the plots call of a fitted model."""

    @property
    def history_(self) -> Sequence[Any]: ...
    def transform(self, X: Any, /) -> Any: ...
    def inverse_transform(self, Z: Any, /) -> Any: ...
    def reconstruct(self, X: Any, /) -> Any: ...
    def sample(self, n_samples: int, /, *, mean: bool = False) -> Any: ...


#: A table as the benchmarks write it: a header, then rows of text and numbers.
Table = Sequence[Sequence[Any]]

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def _canvas_first(draw: Drawing) -> Drawing:
    """Let callers give axes or a figure as the first argument too, as version 0.1 required it."""

    @functools.wraps(draw)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if arguments and isinstance(arguments[0], Axes | FigureBase):
            name = "ax" if isinstance(arguments[0], Axes) else "figure"
            return draw(*arguments[1:], **{name: arguments[0]}, **keywords)
        return draw(*arguments, **keywords)

    return cast(Drawing, call)


def _axes(ax: Axes | None) -> Axes:
    """Return the axes, or new ones, which a notebook shows."""
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is {kind_of(ax)}; expected matplotlib axes")
    return ax


def _figure(figure: FigureBase | None) -> FigureBase:
    """Return the figure, or a new one, which a notebook shows."""
    if figure is None:
        from matplotlib import pyplot

        return pyplot.figure(layout="constrained")
    if not isinstance(figure, FigureBase):
        raise TypeError(f"figure is {kind_of(figure)}; expected a matplotlib figure")
    return figure


def _drawable(values: Any) -> NDArray[np.float64]:
    """Return values as float64, with NaN for those that have no place in a picture."""
    values = np.asarray(values, dtype=float)
    return np.where(np.abs(values) < LARGEST, values, np.nan)


# Images ---------------------------------------------------------------------------------------------------------------


def as_images(images: ArrayLike, image_shape: Sequence[int] | None = None, name: str = "images") -> NDArray[Any]:
    """Return images as an array (n, height, width) or, in colour, (n, height, width, 3).

    Parameters
    ----------
    images : array-like (n, pixels), (n, height, width) or (n, height, width, channels)
        One or three channels.
    image_shape : tuple, optional
        (height, width) or (height, width, channels) of the images. Without it, rows are taken as square images.
    name : str
        What errors call the images.

    Raises
    ------
    TypeError
        If the images are not numbers.
    ValueError
        If there are none, or they do not have the shape.

    Examples
    --------
    >>> as_images([[0, 1, 2, 3]]).shape
    (1, 2, 2)
    >>> as_images([[0, 1, 2, 3, 4, 5]])
    Traceback (most recent call last):
    ...
    ValueError: image_shape is None, and rows of 6 pixels are no squares; expected (height, width), such as (2, 3)
    """
    try:
        array = np.asarray(images)
    except ValueError:
        raise TypeError(f"{name} is {kind_of(images)}, with rows of different lengths; expected (n, pixels)") from None
    if images is None:
        raise TypeError(f"{name} is None; expected an array (n, pixels)")
    if array.dtype == object:  # a data frame of columns of several types, or objects that are numbers
        try:
            array = array.astype(float)
        except (TypeError, ValueError):
            raise TypeError(f"{name} is {kind_of(images)} and does not hold numbers alone") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is of type {array.dtype}; expected numbers")
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise ValueError(f"{name} has the shape {array.shape}; expected images as rows (n, pixels), and at least one")
    pixels = math.prod(array.shape[1:])
    shape = _image_shape(array.shape[1:], pixels) if image_shape is None else _checked_shape(image_shape)
    if math.prod(shape) != pixels:
        raise ValueError(
            f"image_shape is {shape}, for {math.prod(shape)} pixels, and {name} has rows of {pixels}; "
            f"expected (height, width), such as {_rectangle(pixels)}"
        )
    if len(shape) == 3 and shape[2] not in (1, 3):
        raise ValueError(f"{name} has {shape[2]} channels (image_shape {shape}); expected 1, or 3 for colours")
    return array.reshape(-1, *(shape[:2] if shape[2:] == (1,) else shape))


def _image_shape(shape: tuple[int, ...], pixels: int) -> tuple[int, ...]:
    """Return the shape that images have, or that of a square for rows."""
    if len(shape) > 1:
        return shape
    height, width = _rectangle(pixels)
    if height != width:
        raise ValueError(
            f"image_shape is None, and rows of {pixels} pixels are no squares; expected (height, width), "
            f"such as {(height, width)}"
        )
    return height, width


def _checked_shape(image_shape: Any) -> tuple[int, ...]:
    try:
        shape = tuple(image_shape)
    except TypeError:
        shape = ()
    if len(shape) not in (2, 3) or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise ValueError(f"image_shape is {image_shape!r}; expected (height, width) or (height, width, channels)")
    return tuple(map(int, shape))


def _rectangle(pixels: int) -> tuple[int, int]:
    """Return the height and width of the rectangle of so many pixels that is nearest to a square."""
    height = next(n for n in range(math.isqrt(pixels), 0, -1) if pixels % n == 0)
    return height, pixels // height


def image_grid(
    images: ArrayLike, image_shape: Sequence[int] | None = None, columns: int = 10, fill: float = 1.0
) -> NDArray[np.float64]:
    """Arrange images in a grid, with a line between them.

    Parameters
    ----------
    images, image_shape : see `as_images`
    columns : int
    fill : float
        Value of the lines, and of places without an image; by default that of white in [0, 1].

    Returns
    -------
    array (rows * (height + 1) - 1, columns * (width + 1) - 1), and for colours (..., 3)

    Examples
    --------
    >>> import numpy as np
    >>> image_grid(np.zeros((2, 3)), image_shape=(1, 3), columns=2)
    array([[0., 0., 0., 1., 0., 0., 0.]])
    """
    check_number("columns", columns, np.integer, 1)
    images = as_images(images, image_shape)
    n, height, width, *channels = images.shape
    rows = math.ceil(n / columns)
    grid = np.full((rows * columns, height + 1, width + 1, *channels), fill, dtype=float)
    grid[:n, :-1, :-1] = images
    grid = np.swapaxes(grid.reshape(rows, columns, height + 1, width + 1, *channels), 1, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1), *channels)[:-1, :-1]


@_canvas_first
def show_images(
    images: ArrayLike,
    image_shape: Sequence[int] | None = None,
    columns: int = 10,
    title: str = "",
    *,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a grid of images, and say in its title which value is black and which is white.

    Parameters
    ----------
    images, image_shape : see `as_images`
    columns : int
        Images side by side.
    title : str
    limits : (black, white), optional
        By default the least and the largest value, rounded outward to a hundredth of the range. The title says how
        many values lie outside of limits that are given.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = show_images(np.arange(24).reshape(6, 4), columns=3, title="Samples", ax=Figure().add_subplot())
    >>> print(ax.get_title())
    Samples
    black 0, white 23
    """
    images = as_images(images, image_shape)
    check_number("columns", columns, np.integer, 1)
    return _draw_images(_axes(ax), images, min(columns, len(images)), title, limits)


def _draw_images(
    ax: Axes,
    images: NDArray[Any],
    columns: int,
    title: str,
    limits: tuple[float, float] | None = None,
    empty: NDArray[np.bool_] | None = None,
) -> Axes:
    """Draw images (n, height, width) or (n, height, width, 3); places that are `empty` (n,) have no image."""
    values = _drawable(images)
    shown = values if empty is None else values[~empty]
    black, white = _range(shown, images.dtype) if limits is None else _checked_limits(limits)
    grid = image_grid(values, values.shape[1:], columns, fill=np.nan)
    if grid.ndim == 3:
        gaps = np.isnan(grid).any(axis=2, keepdims=True)
        grid = np.where(gaps, to_rgb(GAP), np.clip((grid - black) / (white - black), 0, 1))
        ax.imshow(grid, interpolation="nearest")
    else:
        colors = ListedColormap(np.repeat(np.linspace(0, 1, 256)[:, None], 3, axis=1), "grey", bad=GAP)
        ax.imshow(np.ma.masked_invalid(grid), cmap=colors, vmin=black, vmax=white, interpolation="nearest")
    notes = [f"black {black:.4g}, white {white:.4g}"]
    if outside := np.mean((shown < black) | (shown > white)):
        notes.append(f"{outside:.2%} of the values lie outside")
    if missing := np.count_nonzero(np.isnan(shown)):
        notes.append(f"without a number: {missing}")
    ax.set_title("\n".join(filter(None, [title, "; ".join(notes)])), fontsize="medium")
    ax.set_axis_off()
    return ax


def _checked_limits(limits: Any) -> tuple[float, float]:
    try:
        black, white = map(float, limits)
    except (TypeError, ValueError):
        black = white = math.nan
    if not -LARGEST < black < white < LARGEST:
        raise ValueError(f"limits is {limits!r}; expected two numbers (black, white), the first below the second")
    return black, white


def _range(values: NDArray[Any], dtype: np.dtype) -> tuple[float, float]:
    """Return the range of the values, rounded outward to a hundredth of it; a single value lies on one with 0 or 1."""
    known = values[~np.isnan(values)]
    if dtype.kind == "b" or not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if low == high:
        return (0.0, 1.0) if 0 <= low <= 1 else (min(low, 0.0), max(high, 0.0))
    step = 10.0 ** (math.floor(math.log10(high / 2 - low / 2)) - 2)  # halves: the difference may exceed float64
    if step < 1e-290 or max(abs(low), abs(high)) > 1e12 * step:  # rounding would lose the range
        return low, high
    return math.floor(low / step) * step, math.ceil(high / step) * step


def as_unit_interval(X: ArrayLike) -> NDArray[Any]:
    """Scale uint8 pixels to grey values in [0, 1]; return binary images and other types unchanged.

    Pixels are values 0 to 255. Where the largest is below 128, a warning says that they were divided by 255.

    Examples
    --------
    >>> import numpy as np
    >>> as_unit_interval(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ])
    """
    X = np.asarray(X)
    largest = X.max(initial=0)
    if X.dtype != np.uint8 or largest <= 1:
        return X
    if largest < 128:
        warnings.warn(
            f"the largest uint8 value is {largest}: divided by 255 as pixels are; for another scale give floats",
            stacklevel=2,
        )
    return X / 255


# Pictures of a model --------------------------------------------------------------------------------------------------


@_canvas_first
def learning_curve(
    history: Sequence[Epoch] | FittedModel, test: Iterable[tuple[int, float]] = (), *, ax: Axes | None = None
) -> Axes:
    """Draw the bounds against the number of training samples seen.

    The last values are always in the picture. Early ones that would squeeze the rest are cut off; a note says how many.
    Bounds that are not finite are left out, and the legend says how many.

    Parameters
    ----------
    history : list of epochs, as ``VAE.history_``, or a fitted model
        It may be empty, as after an interruption in the first epoch.
    test : list of (samples seen, bound on the test data), optional
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> history = [SimpleNamespace(samples_seen=100 * n, elbo=-9.0 / n, elbo_valid=float("nan")) for n in (1, 2, 3)]
    >>> ax = learning_curve(history, ax=Figure().add_subplot())
    >>> ax.get_legend_handles_labels()[1]
    ['training, last -3.0']
    """
    ax, curves = _axes(ax), _curves(getattr(history, "history_", history), test)
    for name, (x, y) in curves.items():
        held = np.isfinite(y)
        last, lost = y[held][-1:], np.count_nonzero(~held)
        which = "last" if held[-1] else "last finite"
        label = name + (f", {which} {_show(last[0])}" if last.size else "") + (f" ({lost} not finite)" if lost else "")
        every = None if len(y) < 30 or lost else [-1]  # a bound between two that are left out has no line
        ax.plot(x, y, marker=".", markevery=every, label=label, color=CURVES[name])
    note = _limit(ax, [y[np.isfinite(y)] for _, y in curves.values()])
    if curves and min(x.min() for x, _ in curves.values()) > 0:
        ax.set_xscale("log")
    ax.set(xlabel=f"training samples seen{note}", ylabel="lower bound on log p(x) [nats]")
    ax.set_title("Learning curve", pad=28)
    ax.grid(alpha=0.3)
    if curves:  # above the axes, where it hides no value
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small")
    if not any(np.any(np.isfinite(y)) for _, y in curves.values()):
        ax.text(0.5, 0.5, "no epoch with a finite bound", ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
    return ax


def _show(bound: float) -> str:
    return f"{bound:.1f}" if abs(bound) < 1e6 else f"{bound:.3g}"


def _curves(
    history: Any, test: Iterable[tuple[int, float]]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return (samples seen, bounds) of each curve by name; bounds that cannot be drawn are NaN."""
    try:
        points = [(epoch.samples_seen, epoch.elbo, epoch.elbo_valid) for epoch in history]
    except (TypeError, AttributeError):
        raise TypeError(
            f"history is {kind_of(history)}; expected a list of epochs, as history_ of a fitted model"
        ) from None
    samples, training, validation = np.array(points, float).reshape(-1, 3).T
    try:
        seen, bounds = np.array([(x, y) for x, y in test], float).reshape(-1, 2).T
    except (TypeError, ValueError):
        raise TypeError(f"test is {test!r:.60}; expected pairs (samples seen, bound)") from None
    curves = {"training": (samples, training)}
    if np.any(np.isfinite(validation)):
        curves["validation"] = samples, validation
    curves["test"] = seen, bounds
    return {name: (x, _drawable(y)) for name, (x, y) in curves.items() if len(y)}


def _limit(ax: Axes, curves: list[NDArray[np.float64]]) -> str:
    """Show the upper half of all values, five times as much below it, and the last value of each curve.

    Returns a note about the values that lie below, for the label of the axis.
    """
    values = np.concatenate([np.empty(0), *curves])
    if not len(values):
        return ""
    high, last = values.max(), min(y[-1] for y in curves if len(y))
    low = max(values.min(), min(last, high - 6 * (high - np.median(values))))
    if low == high:
        return ""
    margin = 0.05 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    below = np.count_nonzero(values < low - margin)
    return f"\n{below} of {len(values)} values lie below, from {_show(values.min())}" if below else ""


def _check_model(model: Any) -> None:
    if not hasattr(model, "transform") and not hasattr(model, "reconstruct"):
        raise TypeError(f"model is {kind_of(model)}; expected a fitted VAE")


def _rows(X: Any) -> Any:
    """Return X as rows (n, D), as a model takes it: data frames, which have names of columns, stay as they are.

    A sparse matrix becomes one of which rows can be taken.
    """
    X = X.tocsr() if hasattr(X, "tocsr") else X
    if (hasattr(X, "columns") and hasattr(X, "iloc")) or hasattr(X, "indptr"):
        return X
    X = np.asanyarray(X)
    if X.ndim < 2 or 0 in X.shape:
        raise ValueError(f"X has the shape {X.shape}; expected rows (n, D), and at least one")
    return X.reshape(len(X), -1) if X.ndim > 2 else X


def _dense(rows: Any) -> Any:
    """Return some rows of `_rows` as an array or a data frame."""
    return rows.toarray() if hasattr(rows, "toarray") else rows


def _shape_of(X: Any, image_shape: Sequence[int] | None) -> Sequence[int] | None:
    """Return the shape of images given as such, unless another is given."""
    return np.shape(X)[1:] if image_shape is None and np.ndim(X) > 2 else image_shape


@_canvas_first
def reconstructions(
    model: FittedModel,
    X: Any,
    image_shape: Sequence[int] | None = None,
    columns: int = 10,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the first rows of X, each above its reconstruction; at most five lines of images.

    Parameters
    ----------
    model : VAE, fitted
    X : array-like (n, pixels), or images
        uint8 pixels are drawn as the model reads them, divided by 255 for example.
    image_shape : tuple, optional
        See `as_images`.
    columns : int
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> model = SimpleNamespace(reconstruct=lambda X: X)  # a perfect model
    >>> ax = reconstructions(model, np.zeros((3, 4)), ax=Figure().add_subplot())
    >>> ax.get_images()[0].get_array().shape  # two lines of three images
    (5, 8)
    """
    _check_model(model)
    check_number("columns", columns, np.integer, 1)
    shape, rows = _shape_of(X, image_shape), _rows(X)
    columns = min(columns, rows.shape[0])
    rows = _dense(rows[: 5 * columns])
    lines = math.ceil(len(rows) / columns)
    given = as_images(_as_read(model, rows), shape, "X")
    both = (given, as_images(model.reconstruct(rows), given.shape[1:], "reconstruct(X)"))
    pairs = np.full((lines, 2, columns, *given.shape[1:]), np.nan)
    for line in range(lines):
        for place, images in enumerate(both):
            part = images[line * columns : (line + 1) * columns]
            pairs[line, place, : len(part)] = part
    empty = np.zeros((lines, 2, columns), bool)
    empty[-1, :, len(rows) - (lines - 1) * columns :] = True
    pairs = pairs.reshape(-1, *given.shape[1:])
    return _draw_images(_axes(ax), pairs, columns, "Data, each above its reconstruction", empty=empty.ravel())


def _as_read(model: Any, rows: Any) -> NDArray[Any]:
    """Return rows in the units of the model's reconstructions: times the model's own unit."""
    array, preprocessor = np.asarray(rows), getattr(model, "preprocessor_", None)
    return as_unit_interval(array) if preprocessor is None else array * preprocessor.unit_of(array.dtype)


def _posterior_means(model: FittedModel, X: Any) -> NDArray[Any]:
    """Return the posterior means (N, J) of the rows of X; NaN for those that cannot be drawn."""
    Z = _drawable(model.transform(_rows(X)))
    return np.where(np.any(np.isnan(Z), axis=1, keepdims=True), np.nan, Z)


@np.errstate(over="ignore")
def _widest(Z: NDArray[Any]) -> list[int]:
    """Return the numbers of the two latents (or the only one) whose posterior means vary most, in order."""
    known = Z[~np.isnan(Z).any(axis=1)]
    spread = np.var(known, axis=0) if len(known) else np.zeros(Z.shape[1])
    return sorted(np.argsort(-spread, kind="stable")[:2].tolist())


@_canvas_first
def manifold(
    model: FittedModel,
    X: Any,
    image_shape: Sequence[int] | None = None,
    side: int = 16,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the decoder's means on a grid of latent values (Figure 4 of the paper), with the values on its sides.

    The grid is equidistant on the unit square and is mapped by the inverse normal CDF. With more than two latent
    dimensions, it spans the two whose posterior means vary most over X; the others are zero. A single latent grows from
    left to right and line by line; each line is named by the first value in it.

    Parameters
    ----------
    model : VAE, fitted
    X : array-like (n, pixels), or images
    image_shape : tuple, optional
        See `as_images`.
    side : int
        Images on each side.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> model = SimpleNamespace(transform=lambda X: X[:, :2], inverse_transform=lambda Z: np.tile(Z[:, :1], (1, 4)))
    >>> ax = manifold(model, np.arange(8.0).reshape(2, 4), side=3, ax=Figure().add_subplot())
    >>> print(ax.get_title())
    Means on a grid of latents z1 (across), z2 (up)
    black -0.968, white 0.968
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['-0.97', '0.00', '0.97']
    """
    _check_model(model)
    check_number("side", side, np.integer, 1)
    shape = _shape_of(X, image_shape)
    means = _posterior_means(model, X)
    across, *rest = _widest(means)
    Z = np.zeros((side, side, means.shape[1]))
    if rest:
        values = ndtri((np.arange(side) + 0.5) / side)
        Z[:, :, across], Z[:, :, rest[0]] = values, values[::-1, None]
        bottom, left, axes = values, values[::-1], f"z{across + 1} (across), z{rest[0] + 1} (up)"
    else:
        Z[:, :, 0] = ndtri((np.arange(side * side) + 0.5) / side**2).reshape(side, side)
        bottom, left, axes = np.empty(0), Z[:, 0, 0], "z1 (across, line by line)"
    images = as_images(model.inverse_transform(Z.reshape(side * side, -1)), shape, "inverse_transform(Z)")
    ax = _draw_images(_axes(ax), images, side, f"Means on a grid of latents {axes}")
    height, width = images.shape[1:3]
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.set_xticks(*_ticks(bottom, width))
    ax.set_yticks(*_ticks(left, height))
    ax.set_xlabel(f"z{across + 1}" if rest else "")
    ax.set_ylabel(f"z{rest[0] + 1}" if rest else "z1 of the first image")
    return ax


def _ticks(values: NDArray[np.float64], size: int) -> tuple[list[float], list[str]]:
    """Return the middles of images of this size in a grid, and their latent values; about eight of them."""
    chosen = range(0, len(values), max(1, round(len(values) / 8)))
    return [i * (size + 1) + (size - 1) / 2 for i in chosen], [f"{values[i] + 0.0:.2f}" for i in chosen]


@_canvas_first
def latent_space(model: FittedModel, X: Any, y: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draw the posterior means of X, with a colour for each label in y.

    Of more than two latents, the two are drawn whose posterior means vary most; a single one is drawn as a histogram.

    Parameters
    ----------
    model : VAE, fitted
    X : array-like (n, D)
    y : array-like (n,), optional
        Labels: numbers, strings, or missing ones (None or NaN), which are grey. Ten classes have ten colours, and
        up to 60 differ in colour or marker. Numbers of more than 30 values have a colour scale.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> model = SimpleNamespace(transform=lambda X: np.asarray(X))
    >>> ax = latent_space(model, [[0.0, 1.0], [2.0, 3.0]], y=["cat", None], ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_legend().get_texts()]
    ['cat', 'missing']
    """
    _check_model(model)
    Z = _posterior_means(model, X)
    labels, ax, drawn = _checked_labels(y, len(Z)), _axes(ax), ~np.isnan(Z).any(axis=1)
    lost = f"; {np.count_nonzero(~drawn)} rows are not finite" if not drawn.all() else ""
    Z, labels = Z[drawn], labels if labels is None else labels[drawn]
    across, *rest = _widest(Z)
    size = float(np.clip(10_000 / max(len(Z), 1), 2, 15))  # many points would cover each other
    of_all = f": the two of {Z.shape[1]} latents that vary most" if Z.shape[1] > 2 else ""
    ax.set(
        title=f"Posterior means{of_all}{lost}", xlabel=f"z{across + 1}", ylabel=f"z{rest[0] + 1}" if rest else "rows"
    )
    if rest and labels is not None and (numbers := _scale(labels)) is not None:
        missing = np.isnan(numbers)
        ax.scatter(Z[missing, across], Z[missing, rest[0]], s=size, c=MISSING)
        points = ax.scatter(Z[~missing, across], Z[~missing, rest[0]], s=size, c=numbers[~missing], cmap="viridis")
        ax.figure.colorbar(points, ax=ax, label="label")
    elif rest:
        for name, (color, marker), chosen in _classes(labels, len(Z)):
            x, y = Z[chosen, across], Z[chosen, rest[0]]
            ax.scatter(x, y, s=size, c=color, marker=marker, linewidths=size / 10, label=name)
    elif len(Z):
        parts, margin = list(_classes(labels, len(Z))), 1e-6 * max(1.0, np.abs(Z).max())  # equal values need a width
        span = Z.min() - margin, Z.max() + margin
        names, colors = [name for name, *_ in parts], [style[0] for _, style, _ in parts]
        ax.hist([Z[chosen, 0] for *_, chosen in parts], bins=50, range=span, stacked=True, color=colors, label=names)
    if rest:
        ax.set_aspect("equal", adjustable="datalim")
    if labels is not None and ax.get_legend_handles_labels()[1]:
        columns = math.ceil(len(ax.get_legend_handles_labels()[1]) / 20)
        scale = math.sqrt(20 / size) if rest else 1
        ax.legend(  # beside the axes, where it hides no point
            title="label", fontsize="small", markerscale=scale, ncols=columns, frameon=False,
            loc="upper left", bbox_to_anchor=(1.0, 1.0),
        )  # fmt: skip
    return ax


def _checked_labels(y: Any, n: int) -> NDArray[Any] | None:
    """Return labels (n,) as objects, with None where one is missing; None if there are no labels."""
    if y is None:
        return None
    labels = np.asarray(y, dtype=object)
    labels = labels.ravel() if labels.shape == (n, 1) else labels  # a column of a data frame
    if labels.shape != (n,):
        raise ValueError(f"y has the shape {labels.shape}; expected ({n},), a label for each row of X")
    missing = [label is None or type(label).__name__ in ("NAType", "NaTType") or label != label for label in labels]
    labels = labels.copy()
    labels[missing] = None
    return labels


def _is_number(label: Any) -> bool:
    return isinstance(label, int | float | np.integer | np.floating) and not isinstance(label, bool)


def _scale(labels: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return labels as numbers (NaN where missing) if they are numbers of too many values to be classes."""
    known = {label for label in labels if label is not None}
    if len(known) <= MOST_CLASSES or not all(map(_is_number, known)):
        return None
    return np.array([np.nan if label is None else label for label in labels], float)


def _classes(labels: NDArray[Any] | None, n: int) -> Iterable[tuple[str, tuple[str, str], NDArray[np.bool_]]]:
    """Yield name, (colour, marker) and rows of each class; those that are missing come last, in grey."""
    if labels is None:
        yield "", (COLORS[0], MARKERS[0]), np.ones(n, bool)
        return
    names = np.array([_name(label) for label in labels], dtype=object)
    numbers = {_name(label): float(label) for label in labels if _is_number(label)}
    counts = {name: np.count_nonzero(names == name) for name in set(names) - {None}}
    most = sorted(counts, key=lambda name: -counts[name])[: len(COLORS) * len(MARKERS)]
    for i, name in enumerate(sorted(most, key=lambda name: (numbers.get(name, math.inf), name))):
        turn = i // len(COLORS)  # after ten classes the colours return, each with another marker
        yield name, (COLORS[i % len(COLORS)], MARKERS[(i + turn) % len(MARKERS)]), names == name
    others = np.array([name is not None and name not in most for name in names])
    if np.any(others):
        yield f"{len(counts) - len(most)} other labels", (OTHERS, "x"), others
    if np.any(missing := np.array([name is None for name in names])):
        yield "missing", (MISSING, "$?$"), missing


def _name(label: Any) -> str | None:
    """Return a label as the legend shows it: 4.0 as 4."""
    return None if label is None else f"{label:.6g}" if isinstance(label, float | np.floating) else str(label)


def summary(
    model: FittedModel,
    X: Any,
    image_shape: Sequence[int] | None = None,
    *,
    y: Any = None,
    test_curve: Iterable[tuple[int, float]] = (),
) -> Figure:
    """Summarize a trained model on one page.

    The page has the learning curve and the latent space and, for images, reconstructions, samples and the manifold. Of
    a model without encoder it has the learning curve and the samples.

    Parameters
    ----------
    model : VAE, fitted
    X : array-like (n, D), or images; data that the model was not trained on
    image_shape : tuple, optional
        (height, width) of the images, or (height, width, 3). None if X is a table.
    y : array-like (n,), optional
        Labels, for colours: see `latent_space`.
    test_curve : list of (samples seen, bound on the test data), optional

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> import npvae
    >>> from npvae.datasets import make_digits
    >>> X, y = make_digits(40, random_state=0)
    >>> model = npvae.VAE(2, hidden_layer_sizes=(4,), max_epochs=2, learning_rate=0.05, backend="reference").fit(X)
    >>> [ax.get_title() for ax in summary(model, X, y=y).axes]
    ['Learning curve', 'Posterior means']
    """
    _check_model(model)
    shape, rows = _shape_of(X, image_shape), _rows(X)
    encodes = getattr(getattr(model, "architecture_", None), "has_encoder", True)
    panels: list[Callable[[Axes], object]] = [lambda ax: learning_curve(model.history_, test_curve, ax=ax)]
    if shape is not None:
        as_images(_dense(rows[:1]), shape, "X")  # an error before anything is drawn
        title = "Samples: E[x|z], z from the prior"
        samples = lambda ax: show_images(model.sample(100, mean=True), shape, title=title, ax=ax)
        of_data = [
            lambda ax: reconstructions(model, rows, shape, ax=ax),
            samples,
            lambda ax: manifold(model, rows, shape, ax=ax),
        ]
        panels += of_data if encodes else [samples]
    if encodes:
        panels.append(lambda ax: latent_space(model, rows, y, ax=ax))
    return _page(panels)


def _page(panels: Sequence[Callable[[Axes], object]]) -> Figure:
    """Draw panels on a page without an empty place: the first is as wide as the places that would be left over."""
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7 * columns, 6 * rows), layout="constrained")
    grid, wide = figure.add_gridspec(rows, columns), rows * columns - len(panels) + 1
    panels[0](figure.add_subplot(grid[0, :wide]))
    for place, draw in enumerate(panels[1:], wide):
        draw(figure.add_subplot(grid[place // columns, place % columns]))
    return figure


# Pictures of benchmarks -----------------------------------------------------------------------------------------------


@_canvas_first
def kernels(table: Table, *, figure: FigureBase | None = None) -> FigureBase:
    """Draw the benchmark of the kernels: the rate of each next to NumPy's, a panel for each unit with its ceiling.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> table = [("kernel", "unit", "npvae", "NumPy", "ceiling"), ("dense", "GFLOP/s", "90", "80", "100")]
    >>> figure = kernels(table, figure=Figure())
    >>> figure.axes[0].get_xlabel()
    'GFLOP/s'
    """
    figure, (header, *rows) = _figure(figure), table
    units = list(dict.fromkeys(row[1] for row in rows))
    for ax, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units):
        chosen = [row for row in rows if row[1] == unit][::-1]
        for shift, column in ((0.2, header.index("npvae")), (-0.2, header.index("NumPy"))):
            places = [place + shift for place in range(len(chosen))]
            ax.barh(places, [float(row[column]) for row in chosen], 0.4, label=header[column])
        ax.axvline(float(chosen[0][header.index("ceiling")]), color="black", linestyle=":", label="ceiling")
        ax.set_yticks(range(len(chosen)), [row[0] for row in chosen])
        ax.set_xlabel(unit)
        ax.legend()
    return figure


@_canvas_first
def epochs(table: Table, *, figure: FigureBase | None = None) -> FigureBase:
    """Draw the benchmark of whole epochs: the median seconds of each contestant, a panel for each setup.

    The contestants are named again where they are not those of the panel to the left.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> table = [("setup", "contestant", "median s"), ("MNIST", "npvae", "1.5"), ("MNIST", "PyTorch", "3")]
    >>> figure = epochs(table, figure=Figure())
    >>> figure.axes[0].get_title()
    'MNIST'
    """
    figure, (header, *rows) = _figure(figure), table
    setups = list(dict.fromkeys(row[0] for row in rows))
    lines = [setups[start : start + SETUPS_A_LINE] for start in range(0, len(setups), SETUPS_A_LINE)]
    for part, line in zip(figure.subfigures(len(lines), squeeze=False)[:, 0], lines):
        shown: list[str] = []
        for ax, setup in zip(part.subplots(1, len(line), squeeze=False)[0], line):
            chosen = [row for row in rows if row[0] == setup][::-1]
            colors = ["C0" if row[1].startswith("npvae") else "0.7" for row in chosen]
            names = [row[1] for row in chosen]
            ax.barh(names, [float(row[header.index("median s")]) for row in chosen], color=colors)
            ax.set_title(setup, fontsize="medium")
            ax.set_xlabel("seconds an epoch")
            if names == shown:
                ax.set_yticks([])
            shown = names
    return figure


@_canvas_first
def scoring(table: Table, *, figure: FigureBase | None = None) -> FigureBase:
    """Draw the benchmark of scores, codes and draws: the seconds of each, and those of its products at the ceiling.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> header = ("operation", "rows", "median s", "products at the ceiling s", "of the ceiling")
    >>> figure = scoring([header, ("transform", "10000", "0.06", "0.04", "67%")], figure=Figure())
    >>> figure.axes[0].get_xlabel()
    'seconds'
    """
    figure, (header, *rows) = _figure(figure), table
    ax, names = figure.subplots(), [f"{row[0]} ({row[1]} rows)" for row in rows[::-1]]
    ax.barh(names, [float(row[2]) for row in rows[::-1]], label="npvae")
    for n, row in enumerate(rows[::-1]):
        ceiling = float(row[3])
        ax.plot([ceiling, ceiling], [n - 0.4, n + 0.4], color="black", label="" if n else header[3].removesuffix(" s"))
    ax.set_xlabel("seconds")
    ax.legend()
    return figure


def growth(table: Table, *, figure: FigureBase | None = None) -> FigureBase:
    """Draw how the time of an epoch grows with the number of rows, of hidden units and of threads, a panel for each.

    Three sizes or more are points on logarithmic axes, where times that are proportional to the size are on a straight
    line; fewer are bars.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = growth([("what", "size", "seconds"), ("rows", "1000", "0.5"), ("rows", "2000", "1")], figure=Figure())
    >>> figure.axes[0].get_xlabel()
    'rows'
    """
    figure, (_, *rows) = _figure(figure), table
    panels: dict[str, list[tuple[float, float]]] = {}
    for title, size, seconds, *_ in rows:
        panels.setdefault(title, []).append((float(size), float(seconds)))
    for ax, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        ax.set(xlabel=title, ylabel="seconds an epoch")
        if len(points) > 2:
            ax.loglog(*zip(*points), "o-")
        else:
            ax.bar([f"{size:g}" for size, _ in points], [seconds for _, seconds in points])
    return figure


def tables(table: Table, *, figure: FigureBase | None = None) -> FigureBase:
    """Draw the benchmark of small tables: how far each contestant's median is below the best one, in nats a row.

    The scale is logarithmic above 1 nat. A density that the rows were drawn from counts as a contestant.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> header = "table", "contestant", "seed", "nats", "seconds"
    >>> _ = tables([header, ("iris", "npvae.fit", 0, -2.0, 3.0), ("iris", "FA", 0, -2.5, 0.1)], figure=figure)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['npvae.fit', 'FA']
    """
    figure, (header, *rows) = _figure(figure), table
    place, name, nats = (header.index(column) for column in ("table", "contestant", "nats"))
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row[place], row[name]), []).append(float(row[nats]))
    medians = {key: float(np.median(values)) for key, values in found.items()}
    places, names = (list(dict.fromkeys(key[part] for key in medians)) for part in (0, 1))
    best = {place: max(median for key, median in medians.items() if key[0] == place) for place in places}
    ax = figure.subplots()
    for number, contestant in enumerate(names):
        chosen = [key for key in medians if key[1] == contestant]
        gaps, heights = [best[key[0]] - medians[key] for key in chosen], [places.index(key[0]) for key in chosen]
        ours = contestant.startswith("npvae")
        marker, color = ("D", "k") if ours else ("osv^<>Px*p"[number % 10], f"C{number % 10}")
        ax.plot(gaps, heights, marker, color=color, alpha=0.8, zorder=3 if ours else 2, label=contestant)
    ax.axvline(1, color="0.7", linestyle=":")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(left=-0.1)
    ax.set_yticks(range(len(places)), places)
    ax.invert_yaxis()
    ax.set(xlabel="nats a row below the best", title="Small tables: held-out rows, medians over seeds")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
