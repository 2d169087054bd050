"""The pictures of the figures, and how far our curves are from the paper's."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..vae import load
from . import paper, runner
from .figures import DATASETS, FIGURES, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Numbers of training samples at which our curves are compared with the paper's.
COMPARED = (1e6, 1e7, 1e8)

#: The parts of the data, with the line of each.
PARTS: dict[str, Any] = {"train": ":", "test": "-"}

#: The colour of each algorithm.
COLOURS = {"aevb": "tab:red", "wake-sleep": "tab:green", "monte-carlo-em": "tab:blue"}

Lines = Mapping[tuple[str, str], paper.Line]


def lines(curves: Mapping[str, Curve], folder: Path) -> Lines:
    """Return our curves as far as a folder has them: (name of the model, "train" or "test") -> line."""
    found = {}
    for name in curves:
        points = runner.read(folder / f"{name}.csv")
        samples = np.array([point.samples for point in points], float)
        for part in PARTS if points else ():
            found[name, part] = paper.Line(samples, np.array([getattr(point, part) for point in points]))
    return found


def gaps(ours: Lines, theirs: Lines) -> list[tuple[str, str, float, float, float]]:
    """Compare two sets of curves at 1e6, 1e7 and 1e8 training samples, as far as both go.

    Returns
    -------
    list of (name, "train" or "test", samples, ours, the paper's), the last two in nats

    Examples
    --------
    >>> line = paper.Line(np.array([1e5, 1e7]), np.array([-130.0, -110.0]))
    >>> gaps({("mnist-20-aevb", "test"): line}, paper.curves("fig2"))
    [('mnist-20-aevb', 'test', 1000000.0, -120.0, -124.19), ('mnist-20-aevb', 'test', 10000000.0, -110.0, -104.74)]
    """
    found = []
    for key in [key for key in ours if key in theirs]:
        values = [(at, ours[key].at(at), theirs[key].at(at)) for at in COMPARED]
        found += [(*key, *row) for row in values if not math.isnan(row[1] + row[2])]
    return found


def table_of_gaps(ours: Lines, theirs: Lines) -> str:
    """Return the gaps as lines for the terminal: nats a datapoint, and ours less the paper's; "" without any."""
    rows = [
        (f"{name}, {part}", f"{samples:.0e}".replace("+0", ""), f"{us:.1f}", f"{they:.1f}", f"{us - they:+.1f}")
        for name, part, samples, us, they in gaps(ours, theirs)
    ]
    rows = [("nats a datapoint", "samples", "npvae", "paper", "gap"), *rows] if rows else []
    return "".join(f"{row[0]:32}" + "".join(f"{cell:>10}" for cell in row[1:]) + "\n" for row in rows)


# Pictures -------------------------------------------------------------------------------------------------------------


def draw(name: str, folder: Path, figure: "Figure") -> str:
    """Draw a figure of the paper from the models and tables in a folder; return what is to be printed with it.

    Parameters
    ----------
    name : str, in ``figures.FIGURES``
    folder : Path
    figure : matplotlib Figure, empty
    """
    return PICTURES[FIGURES[name].picture](name, folder, figure)


def _draw_curves(name: str, folder: Path, figure: "Figure") -> str:
    """Draw our curves over the paper's, pale and broad, one panel for each task."""
    curves, theirs = FIGURES[name].curves, paper.curves(name)
    ours = lines(curves, folder)
    panels: dict[str, list[str]] = {}
    for model in sorted(curves, key=lambda model: place(curves[model])):
        panels.setdefault(curves[model].panel, []).append(model)
    rows = len({curve.dataset for curve in curves.values()})
    columns = math.ceil(len(panels) / rows)
    figure.set_size_inches(1 + 3.5 * columns, 1 + 3.5 * rows)
    for number, (title, models) in enumerate(panels.items(), 1):
        ax = figure.add_subplot(rows, columns, number)
        for model in models:
            for part, style in PARTS.items():
                line: dict[str, Any] = {"color": COLOURS[curves[model].algorithm], "linestyle": style}
                if (model, part) in theirs:
                    ax.plot(theirs[model, part].samples, theirs[model, part].nats, **line, linewidth=5, alpha=0.25)
                if (model, part) in ours:
                    ax.plot(ours[model, part].samples, ours[model, part].nats, **line)
        ax.set(title=title, xscale="log")
        ax.grid(alpha=0.3)
    _explain(figure, {curve.algorithm for curve in curves.values()})
    return table_of_gaps(ours, theirs)


def place(curve: Curve) -> tuple[int, int, int]:
    """Return where a curve is in its figure: row, then column."""
    return list(DATASETS).index(curve.dataset), curve.n_rows or 0, curve.settings["n_components"]


def _explain(figure: "Figure", algorithms: set[str]) -> None:
    """Name the axes of all panels, and the lines."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOURS[name], label=name) for name in COLOURS if name in algorithms]
    handles += [Line2D([], [], color="black", linestyle=style, label=part) for part, style in PARTS.items()]
    handles.append(Line2D([], [], color="black", linewidth=5, alpha=0.25, label="the paper"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel("training samples")
    figure.supylabel("nats a datapoint")


def _draw_manifolds(name: str, folder: Path, figure: "Figure") -> str:
    from .. import plots

    def manifold(model: Any, shape: tuple[int, int], ax: Any) -> None:
        grid = np.zeros((2, model.n_features_in_))  # two latents: any data has the grid of both
        plots.manifold(model, grid, shape, ax=ax)

    return _draw_models(name, folder, figure, manifold)


def _draw_samples(name: str, folder: Path, figure: "Figure") -> str:
    from .. import plots

    def samples(model: Any, shape: tuple[int, int], ax: Any) -> None:
        plots.show_images(model.sample(100, mean=True), shape, ax=ax)

    return _draw_models(name, folder, figure, samples)


def _draw_models(name: str, folder: Path, figure: "Figure", draw: Callable[[Any, tuple[int, int], Any], None]) -> str:
    """Draw each model of a figure that a folder has, side by side."""
    found = {model: curve for model, curve in FIGURES[name].curves.items() if (folder / f"{model}.npz").exists()}
    figure.set_size_inches(6 * len(found), 6.5)
    for number, (model, curve) in enumerate(found.items(), 1):
        ax = figure.add_subplot(1, len(found), number)
        draw(load(folder / f"{model}.npz"), DATASETS[curve.dataset].shape, ax)
        ax.set_title(f"{curve.panel}\n{ax.get_title()}", fontsize="medium")
    return ""


#: How a figure is drawn: a function of its name, of the folder and of a matplotlib Figure.
PICTURES: dict[str, Callable[[str, Path, Any], str]] = {
    "curves": _draw_curves,
    "manifolds": _draw_manifolds,
    "samples": _draw_samples,
}
