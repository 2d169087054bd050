"""The curves of the paper's figures, digitised, and how far ours are from them."""

from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Line(NamedTuple):
    """A curve: nats by training samples.

    Examples
    --------
    >>> Line(np.array([1e5, 1e6]), np.array([-150.0, -120.0])).at(10**5.5)
    -135.0
    """

    samples: NDArray[np.float64]
    nats: NDArray[np.float64]

    def at(self, samples: float) -> float:
        """Return the value after so many samples, linear in their logarithm; NaN beyond the ends of the curve."""
        if not len(self.samples):
            return np.nan
        x = np.log10(self.samples)
        return float(np.interp(round(np.log10(samples), 9), x.round(9), self.nats, left=np.nan, right=np.nan))


def curves(figure: str) -> dict[tuple[str, str], Line]:
    """Return the curves of a figure of the paper: (name of the model, "train" or "test") -> line.

    Figures without curves have none.

    Examples
    --------
    >>> round(curves("fig2")["mnist-20-aevb", "test"].at(1e6), 2)
    -124.19
    """
    file = resources.files(__package__) / "paper" / f"{figure}.csv"
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8").splitlines()
    (_, _, *head), *rows = (line.split(",") for line in text if not line.startswith("#"))
    samples = np.array([_power(cell) for cell in head])
    found = {}
    for name, part, *cells in rows:
        there = [i for i, cell in enumerate(cells) if cell]
        found[name, part] = Line(samples[there], np.array([float(cells[i]) for i in there]))
    return found


def _power(text: str) -> float:
    """Read 1e5.2, which is 10 to the 5.2, and 0.5e6."""
    factor, exponent = text.split("e")
    return float(factor) * 10 ** float(exponent)
