"""Files that the commands write: their names are checked before the work is done."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import datasets

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def with_suffix(path: Path, suffix: str) -> Path:
    """Append a suffix if the path does not end in it.

    Raises
    ------
    IsADirectoryError
        If the path is a folder.

    Examples
    --------
    >>> with_suffix(Path("run-0.02"), ".npz").name, with_suffix(Path("run.npz"), ".npz").name
    ('run-0.02.npz', 'run.npz')
    """
    if path.is_dir():
        raise IsADirectoryError(f"--out {path} is a folder; expected the name of a file")
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def check_outputs(paths: Sequence[Path], dataset: str = "") -> None:
    """Check that files can be written, and that none of them is the file of the data set.

    Parameters
    ----------
    paths : files in one folder; the first is the one that messages name
    dataset : str
        Name or file of the data set.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to, or a path is a folder.
    ValueError
        If a file would overwrite the data.
    """
    folder = paths[0].parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{paths[0]}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{paths[0]}: no permission to write to the folder {folder}")
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{paths[0]}: {path} is a folder")
        if dataset not in datasets.NAMES and path.resolve() == Path(dataset).resolve():
            raise ValueError(f"{paths[0]} would overwrite the data in {dataset}")


def check_image_shape(shape: Sequence[int], n_features: int) -> None:
    """Raise ValueError if rows of so many features are not images of this shape (height, width)."""
    if math.prod(shape) != n_features:
        raise ValueError(f"--image-shape {shape[0]}x{shape[1]} does not fit rows of {n_features} features")


def save_picture(path: Path, draw: "Callable[[Axes], object]") -> None:
    """Write a PNG file of 800 x 800 pixels with what `draw` draws into its axes, and print its name."""
    from matplotlib.figure import Figure

    path = with_suffix(path, ".png")
    check_outputs((path,))
    figure = Figure(figsize=(8, 8), layout="constrained")
    draw(figure.add_subplot())
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")
