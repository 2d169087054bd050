"""Pictures of a trained model: learning curve, reconstructions, samples, manifold, latent space.

Most functions draw into given matplotlib axes or figures; `summary` makes a page of them. They call only the public
methods of a model, so they also serve for anything that has these methods.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri


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
    def sample(self, n_samples: int, /) -> Any: ...


#: A table as the benchmarks write it: a header, then rows of text and numbers.
Table = Sequence[Sequence[Any]]


def image_grid(images: ArrayLike, image_shape: tuple[int, int], columns: int) -> NDArray[np.float64]:
    """Arrange images in a grid, with a white line between them.

    Parameters
    ----------
    images : array (n, pixels), values in [0, 1]
    image_shape : (height, width)
    columns : int

    Returns
    -------
    array (rows * (height + 1) - 1, columns * (width + 1) - 1); places without an image are white

    Examples
    --------
    >>> import numpy as np
    >>> image_grid(np.zeros((2, 3)), image_shape=(1, 3), columns=2)
    array([[0., 0., 0., 1., 0., 0., 0.]])
    """
    images = np.asarray(images)
    height, width = image_shape
    rows = math.ceil(len(images) / columns)
    grid = np.ones((rows, columns, height + 1, width + 1))
    grid.reshape(-1, height + 1, width + 1)[: len(images), :-1, :-1] = np.reshape(images, (-1, height, width))
    return grid.transpose(0, 2, 1, 3).reshape(rows * (height + 1), -1)[:-1, :-1]


def show_images(ax: Axes, images: ArrayLike, image_shape: tuple[int, int], columns: int, title: str) -> None:
    """Draw a grid of images (n, pixels) with grey values in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> show_images(ax, np.zeros((6, 4)), image_shape=(2, 2), columns=3, title="Samples")
    >>> ax.get_title()
    'Samples'
    """
    ax.imshow(image_grid(images, image_shape, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()


def learning_curve(ax: Axes, history: Sequence[Epoch], test: Iterable[tuple[int, float]] = ()) -> None:
    """Draw the bounds against the number of training samples seen.

    Parameters
    ----------
    ax : matplotlib Axes
    history : list of epochs, as ``VAE.history_``
    test : list of (samples seen, bound on the test data), optional

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> history = [SimpleNamespace(samples_seen=100 * n, elbo=-9.0 / n, elbo_valid=float("nan")) for n in (1, 2, 3)]
    >>> ax = Figure().add_subplot()
    >>> learning_curve(ax, history)
    >>> ax.get_legend_handles_labels()[1]
    ['training, last -3.0']
    """
    samples, test = [epoch.samples_seen for epoch in history], list(test)
    curves = {"training": (samples, [epoch.elbo for epoch in history])}
    if not math.isnan(history[-1].elbo_valid):
        curves["validation"] = samples, [epoch.elbo_valid for epoch in history]
    if test:
        curves["test"] = [seen for seen, _ in test], [bound for _, bound in test]
    for name, (x, y) in curves.items():
        ax.plot(x, y, marker="." if len(x) < 30 else None, label=f"{name}, last {y[-1]:.1f}")
    values = np.concatenate([y for _, y in curves.values()])
    ax.set_ylim(
        np.quantile(values, 0.05) - 0.1 * np.ptp(values), None
    )  # the first epochs would compress the rest of the curve
    ax.set_xscale("log")
    ax.set(title="Learning curve", xlabel="training samples seen", ylabel="lower bound on log p(x) [nats]")
    ax.legend(loc="lower right")
    ax.grid(alpha=0.3)


def reconstructions(
    ax: Axes, model: FittedModel, X: NDArray[Any], image_shape: tuple[int, int], columns: int = 10
) -> None:
    """Draw the first rows of X (N, pixels), each above its reconstruction; at most five lines of images.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> ax, model = Figure().add_subplot(), SimpleNamespace(reconstruct=lambda X: X)  # a perfect model
    >>> reconstructions(ax, model, np.zeros((3, 4)), image_shape=(2, 2))
    >>> ax.get_images()[0].get_array().shape  # two lines of three images
    (5, 8)
    """
    columns = min(columns, len(X))
    X = X[: min(len(X) // columns, 5) * columns]
    lines = [images.reshape(-1, 1, columns, X.shape[1]) for images in (as_unit_interval(X), model.reconstruct(X))]
    pairs = np.concatenate(lines, axis=1).reshape(-1, X.shape[1])
    show_images(ax, pairs, image_shape, columns, "Test images, each above its reconstruction")


def as_unit_interval(X: NDArray[Any]) -> NDArray[Any]:
    """Scale uint8 pixels to grey values in [0, 1]; return binary images and floats unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> as_unit_interval(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ])
    """
    return X / 255 if X.dtype == np.uint8 and X.max() > 1 else X


def manifold(ax: Axes, model: FittedModel, X: NDArray[Any], image_shape: tuple[int, int], side: int = 16) -> None:
    """Draw the decoder's means on a grid of latent values (Figure 4 of the paper).

    The grid is equidistant on the unit square and is mapped by the inverse normal CDF. With more than two latent
    dimensions, it spans the two whose posterior means vary most over X; the others are zero.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> model = SimpleNamespace(transform=lambda X: X[:, :2], inverse_transform=lambda Z: np.tile(Z[:, :1], (1, 4)))
    >>> ax, X = Figure().add_subplot(), np.arange(8.0).reshape(2, 4)
    >>> manifold(ax, model, X, image_shape=(2, 2), side=3)
    >>> ax.get_title()
    'Means on a grid of latents z1 (across), z2 (up)'
    """
    spread = np.var(model.transform(X), axis=0)
    across, down = np.sort(np.argsort(-spread, kind="stable")[:2]) if len(spread) > 1 else (0, 0)
    quantiles = ndtri((np.arange(side) + 0.5) / side)
    Z = np.zeros((side, side, len(spread)))
    Z[:, :, across] = quantiles
    Z[:, :, down] = quantiles[::-1, None] if down != across else quantiles
    up = f", z{down + 1} (up)" if down != across else ""
    title = f"Means on a grid of latents z{across + 1} (across){up}"
    show_images(ax, model.inverse_transform(Z.reshape(side * side, -1)), image_shape, side, title)


def latent_space(ax: Axes, model: FittedModel, X: NDArray[Any], y: ArrayLike | None) -> None:
    """Draw the posterior means of X in a 2-D latent space, with a colour for each label in y (None: one colour).

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> ax, model = Figure().add_subplot(), SimpleNamespace(transform=lambda X: X)
    >>> latent_space(ax, model, np.array([[0.0, 1.0], [2.0, 3.0]]), y=[4, 9])
    >>> len(ax.get_legend().get_texts())  # two labels
    2
    """
    Z = model.transform(X)
    points = ax.scatter(Z[:, 0], Z[:, 1], c=y, s=6, cmap="tab10" if y is not None else None)
    if y is not None:
        ax.legend(*points.legend_elements(), title="label", loc="upper right")
    ax.set(title="Posterior means", xlabel="z1", ylabel="z2", aspect="equal")


def summary(
    model: FittedModel,
    X: NDArray[Any],
    image_shape: tuple[int, int] | None = None,
    *,
    y: ArrayLike | None = None,
    test_curve: Iterable[tuple[int, float]] = (),
) -> Figure:
    """Summarize a trained model on one page.

    The page has the learning curve and, for images, reconstructions, samples and the manifold; with two latent
    dimensions also the latent space.

    Parameters
    ----------
    model : VAE, fitted
    X : array (N, D), data that the model was not trained on
    image_shape : (height, width), or None if the rows are not images
    y : array (N,), labels that colour a 2-D latent space, optional
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
    two_dimensional = model.transform(X[:1]).shape[1] == 2
    panels = [lambda ax: learning_curve(ax, model.history_, test_curve)]
    if image_shape is not None:
        panels += [
            lambda ax: reconstructions(ax, model, X, image_shape),
            lambda ax: show_images(ax, model.sample(100), image_shape, 10, "Samples: E[x|z], z from the prior"),
            lambda ax: manifold(ax, model, X, image_shape),
        ]
    if two_dimensional:
        panels.append(lambda ax: latent_space(ax, model, X, y))
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7 * columns, 6 * rows), layout="constrained")
    for i, draw in enumerate(panels):
        draw(figure.add_subplot(rows, columns, i + 1))
    return figure


def kernels(figure: FigureBase, table: Table) -> None:
    """Draw the benchmark of the kernels: the rate of each next to NumPy's, a panel for each unit with its ceiling.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> kernels(figure, [("kernel", "unit", "npvae", "NumPy", "ceiling"), ("dense", "GFLOP/s", "90", "80", "100")])
    >>> figure.axes[0].get_xlabel()
    'GFLOP/s'
    """
    header, *rows = table
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


def epochs(figure: FigureBase, table: Table) -> None:
    """Draw the benchmark of whole epochs: the median seconds of each contestant, a panel for each setup.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> epochs(figure, [("setup", "contestant", "median s"), ("MNIST", "npvae", "1.5"), ("MNIST", "PyTorch", "3")])
    >>> figure.axes[0].get_title()
    'MNIST'
    """
    header, *rows = table
    setups = list(dict.fromkeys(row[0] for row in rows))
    for ax, setup in zip(figure.subplots(1, len(setups), squeeze=False)[0], setups):
        chosen = [row for row in rows if row[0] == setup][::-1]
        colors = ["C0" if row[1] == "npvae" else "0.7" for row in chosen]
        ax.barh([row[1] for row in chosen], [float(row[header.index("median s")]) for row in chosen], color=colors)
        ax.set_title(setup, fontsize="medium")
        ax.set_xlabel("seconds an epoch")
        if setup != setups[0]:
            ax.set_yticks([])


def growth(figure: FigureBase, table: Table) -> None:
    """Draw how the time of an epoch grows with the number of rows, of hidden units and of threads, a panel for each.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> growth(figure, [("what", "size", "seconds"), ("rows", "1000", "0.5"), ("rows", "2000", "1")])
    >>> figure.axes[0].get_xlabel()
    'rows'
    """
    _, *rows = table
    titles = list(dict.fromkeys(row[0] for row in rows))
    for ax, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles):
        sizes, seconds = zip(*((float(size), float(second)) for name, size, second in rows if name == title))
        ax.plot(sizes, seconds, "o-")
        ax.set(xlabel=title, ylabel="seconds an epoch", xscale="log", yscale="log")


def tables(figure: FigureBase, table: Table) -> None:
    """Draw the benchmark of small tables: how far each contestant's median is below the best one, in nats a row.

    The scale is logarithmic above 1 nat. A density that the rows were drawn from counts as a contestant.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> header = "table", "contestant", "seed", "nats", "seconds"
    >>> tables(figure, [header, ("iris", "npvae.fit", 0, -2.0, 3.0), ("iris", "FA", 0, -2.5, 0.1)])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['npvae.fit', 'FA']
    """
    header, *rows = table
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
