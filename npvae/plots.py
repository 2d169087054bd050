"""Pictures of a trained model: learning curve, reconstructions, samples, manifold, latent space.

Functions draw into matplotlib axes that they are given; `summary` puts them together on one page. They use a model
through its public methods alone.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri


def image_grid(images, image_shape, columns):
    """Arrange images side by side in one, with a line of white between them.

    Parameters
    ----------
    images (n, pixels) in [0, 1]; image_shape (height, width); columns: int

    Returns
    -------
    (rows * (height + 1) - 1, columns * (width + 1) - 1) array
    """
    height, width = image_shape
    rows = math.ceil(len(images) / columns)
    grid = np.ones((rows, columns, height + 1, width + 1))
    grid.reshape(-1, height + 1, width + 1)[: len(images), :-1, :-1] = np.reshape(images, (-1, height, width))
    return grid.transpose(0, 2, 1, 3).reshape(rows * (height + 1), -1)[:-1, :-1]


def show_images(ax, images, image_shape, columns, title):
    """Draw a grid of images (n, pixels)."""
    ax.imshow(image_grid(images, image_shape, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()


def learning_curve(ax, history, test=()):
    """Draw the bounds against the training samples seen.

    Parameters
    ----------
    history : list of training.Epoch
    test : list of (samples seen, bound of the test data)
    """
    samples = [epoch.samples_seen for epoch in history]
    curves = {"training": (samples, [epoch.elbo for epoch in history])}
    if not math.isnan(history[-1].elbo_valid):
        curves["validation"] = samples, [epoch.elbo_valid for epoch in history]
    if test:
        curves["test"] = tuple(zip(*test))
    for name, (x, y) in curves.items():
        ax.plot(x, y, marker="." if len(x) < 30 else None, label=f"{name}, last {y[-1]:.1f}")
    values = np.concatenate([y for _, y in curves.values()])
    ax.set_ylim(np.quantile(values, 0.05) - 0.1 * np.ptp(values), None)  # the first epoch would squeeze the rest
    ax.set_xscale("log")
    ax.set(title="Learning curve", xlabel="training samples seen", ylabel="lower bound on log p(x) [nats]")
    ax.legend(loc="lower right")
    ax.grid(alpha=0.3)


def reconstructions(ax, model, X, image_shape, columns=10):
    """Draw the first rows of X (N, pixels), at most five lines of images, each above its reconstruction."""
    columns = min(columns, len(X))
    X = X[: min(len(X) // columns, 5) * columns]
    pairs = [images.reshape(-1, 1, columns, X.shape[1]) for images in (as_unit_interval(X), model.reconstruct(X))]
    pairs = np.concatenate(pairs, axis=1).reshape(-1, X.shape[1])
    show_images(ax, pairs, image_shape, columns, "Test images, each above its reconstruction")


def as_unit_interval(X):
    """Turn pixels (uint8, unless they are 0 and 1 alone) into grey values in [0, 1]."""
    return X / 255 if X.dtype == np.uint8 and X.max() > 1 else X


def manifold(ax, model, X, image_shape, side=16):
    """Draw the decoder's means on a grid of latent values (Figure 4 of the paper).

    The grid is linear on the unit square and goes through the inverse normal CDF. With more than two latent dimensions
    it spans the two whose posterior means vary most over X; the others are zero.
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


def latent_space(ax, model, X, y):
    """Draw the posterior means of X in a 2-D latent space, one colour for each label in y (None: one colour)."""
    Z = model.transform(X)
    points = ax.scatter(Z[:, 0], Z[:, 1], c=y, s=6, cmap="tab10" if y is not None else None)
    if y is not None:
        ax.legend(*points.legend_elements(), title="label", loc="upper right")
    ax.set(title="Posterior means", xlabel="z1", ylabel="z2", aspect="equal")


def summary(model, X, image_shape=None, *, y=None, test_curve=()):
    """Put a trained model on one page.

    Parameters
    ----------
    model : VAE, fitted
    X (N, D) : data it was not trained on
    image_shape : (height, width), or None if the rows are no images: then the learning curve stands alone, beside the
        latent space where that has two dimensions
    y (N,) : labels for the colours of a 2-D latent space, optional
    test_curve : list of (samples seen, bound of the test data)

    Returns
    -------
    matplotlib Figure
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


def kernels(figure, rows):
    """Draw a table of kernels: the rate of each beside that of NumPy, one panel for each unit with its ceiling."""
    header, *rows = rows
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


def epochs(figure, rows):
    """Draw the median seconds an epoch of each contestant, a panel for each setup."""
    header, *rows = rows
    setups = list(dict.fromkeys(row[0] for row in rows))
    for ax, setup in zip(figure.subplots(1, len(setups), squeeze=False)[0], setups):
        chosen = [row for row in rows if row[0] == setup][::-1]
        colors = ["C0" if row[1] == "npvae" else "0.7" for row in chosen]
        ax.barh([row[1] for row in chosen], [float(row[header.index("median s")]) for row in chosen], color=colors)
        ax.set_title(setup, fontsize="medium")
        ax.set_xlabel("seconds an epoch")
        if setup != setups[0]:
            ax.set_yticks([])


def growth(figure, rows):
    """Draw how an epoch grows with rows and with hidden units, and one thread beside several."""
    _, *rows = rows
    titles = list(dict.fromkeys(row[0] for row in rows))
    for ax, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles):
        sizes, seconds = zip(*((float(size), float(second)) for name, size, second in rows if name == title))
        ax.plot(sizes, seconds, "o-")
        ax.set(xlabel=title, ylabel="seconds an epoch", xscale="log", yscale="log")
