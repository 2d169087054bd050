"""The pictures of the figures, and the table of the gaps to the paper."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import paper, runner
from .figures import FIGURES, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Numbers of training samples at which our curves are compared with the paper's.
COMPARED = (1e6, 1e7, 1e8)

#: The colour of each algorithm.
COLOURS = {"aevb": "tab:red", "wake-sleep": "tab:green", "monte-carlo-em": "tab:blue"}

PARTS = ("train", "test")


def lines(folder: Path, figure: str) -> dict[tuple[str, str], paper.Line]:
    """Return our curves of a figure, as far as a folder has them: see `paper.curves`."""
    found = {}
    for name in FIGURES[figure]:
        points = runner.read(runner.files(folder, name)[1])
        samples = np.array([point.samples for point in points], float)
        for part in PARTS:
            found[name, part] = paper.Line(samples, np.array([getattr(point, part) for point in points]))
    return {key: line for key, line in found.items() if len(line.samples)}


def gaps(ours: Mapping[tuple[str, str], paper.Line], theirs: Mapping[tuple[str, str], paper.Line]) -> list[tuple]:
    """Return (name, part, samples, ours, the paper's, gap in nats) where both curves have a value; 0 < gap: ours is better.

    Examples
    --------
    >>> a, b = paper.Line(np.array([1e5, 1e7]), np.array([-130.0, -110.0])), paper.curves("fig2")
    >>> [(at, round(gap, 2)) for _, _, at, _, _, gap in gaps({("mnist-20-aevb", "test"): a}, b)]
    [(1000000.0, 4.18), (10000000.0, -5.3)]
    """
    found = []
    for key in [key for key in ours if key in theirs]:
        for at in COMPARED:
            us, they = ours[key].at(at), theirs[key].at(at)
            if not math.isnan(us - they):
                found.append((*key, at, us, they, us - they))
    return found


def draw(figure_name: str, folder: Path, figure: "Figure") -> str:
    """Draw our curves over the paper's, and return the gaps as a text."""
    ours, theirs = lines(folder, figure_name), paper.curves(figure_name)
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in sorted(FIGURES[figure_name].items(), key=lambda item: _order(item[1])):
        panels.setdefault(curve.panel, {})[name] = curve
    columns = math.ceil(len(panels) / 2)
    figure.set_size_inches(4 * columns, 8)
    for place, (title, curves) in enumerate(panels.items()):
        ax = figure.add_subplot(2, columns, place + 1)
        for name, curve in curves.items():
            for part in PARTS:
                style = {"color": COLOURS[curve.algorithm], "linestyle": "-" if part == "test" else ":"}
                if (name, part) in theirs:
                    ax.plot(*theirs[name, part], **style, linewidth=4, alpha=0.25)
                if (name, part) in ours:
                    ax.plot(*ours[name, part], **style, label=f"{curve.algorithm}, {part}")
        ax.set(title=title, xscale="log", xlabel="training samples")
        ax.grid(alpha=0.3)
    figure.supylabel("nats a datapoint; pale: the paper")
    return "\n".join(
        f"{name}, {part}, {at:.0e} samples: {us:.1f} nats, paper {they:.1f}, {gap:+.1f}"
        for name, part, at, us, they, gap in gaps(ours, theirs)
    )


def _order(curve: Curve) -> tuple:
    return -"fm".index(curve.dataset[0]), curve.settings["n_components"]
