"""Files that the commands write: their names are checked before the work is done.

Nothing is overwritten but what npvae has written itself, and that only where it is asked for. A model is known by its
header, a picture by the text ``Software: npvae`` in the PNG file, a learning curve or another table by its first line.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .. import datasets, modelfile
from ..reproduce.runner import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The columns of a learning curve. A file that begins with their names was written by npvae.
CURVE_COLUMNS = ("epoch", "samples", "elbo_train", "elbo_valid", "elbo_test", "seconds")

#: How the first lines of the tables begin that npvae writes: learning curves, benchmarks and curves of the paper.
FIRST_LINES = (
    ",".join(CURVE_COLUMNS),
    "kernel,unit,npvae,ceiling",
    "setup,contestant,median s",
    "what grows,size,",
    "table,contestant,seed,nats,seconds",
    "vae0,vae0_std",
    ",".join(COLUMNS),
)

#: What a PNG file begins with, and the text by which the pictures of npvae are known.
PNG_SIGNATURE, PNG_SOFTWARE = b"\x89PNG\r\n\x1a\n", b"Software\0npvae"


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
        data = Path(dataset).resolve() if dataset and dataset not in datasets.NAMES else None
        if data and (path.resolve() == data or (data.is_dir() and data in path.resolve().parents)):
            raise ValueError(f"{paths[0]} would overwrite the data in {dataset}, or be read with it")


def check_overwriting(paths: Sequence[Path], force: bool) -> None:
    """Check that no file would be lost: what exists was written by npvae, and may be replaced.

    Parameters
    ----------
    paths : files that are to be written
    force : bool
        Whether files that npvae has written may be replaced. Other files never are.

    Raises
    ------
    FileExistsError
        If a file exists and may not be replaced. The message names it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "curve.csv")
    ...     _ = path.write_text("a,b")
    ...     check_overwriting([path], force=True)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ...
    FileExistsError: curve.csv is there already, and is not one of the files that npvae writes
    """
    for path in paths:
        if not path.exists():
            continue
        if not is_own(path):
            raise FileExistsError(
                f"{path} is there already, and is not one of the files that npvae writes: it is never replaced. Choose "
                "another name, or move it"
            )
        if not force:
            raise FileExistsError(f"{path} is there already; choose another name with --out, or replace it by --force")


def is_own(path: Path) -> bool:
    """Return whether npvae has written a file, by what the file holds.

    Examples
    --------
    >>> is_own(Path("missing.png"))
    False
    """
    if not path.is_file():  # a folder, or a device that must not be opened
        return False
    if path.suffix == ".npz":
        return modelfile.is_model(path)
    with open(path, "rb") as file:
        if path.suffix != ".png":
            return file.readline(1000).decode("latin-1").startswith(FIRST_LINES)
        return file.read(8) == PNG_SIGNATURE and any(text == PNG_SOFTWARE for text in _png_texts(file))


def _png_texts(file: BinaryIO) -> Iterator[bytes]:
    """Yield the texts of a PNG file, from behind its signature to its first pixels."""
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IDAT":
            return
        if kind == b"tEXt":
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)  # the checksum
        else:
            file.seek(length + 4, os.SEEK_CUR)


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a PNG file that `is_own` knows again."""
    figure.savefig(path, dpi=100, format="png", metadata={"Software": "npvae"})


def check_image_shape(shape: Sequence[int], n_features: int) -> None:
    """Raise ValueError if rows of so many features are not images of this shape (height, width[, 3])."""
    if math.prod(shape) != n_features:
        raise ValueError(f"--image-shape {'x'.join(map(str, shape))} does not fit rows of {n_features} features")


def picture_path(path: Path, force: bool, dataset: str = "") -> Path:
    """Return the name of a picture, with its suffix, once it is known that the file can be written."""
    path = with_suffix(path, ".png")
    check_outputs((path,), dataset)
    check_overwriting((path,), force)
    return path


def save_picture(path: Path, draw: "Callable[[Axes], object]") -> None:
    """Write a PNG file of 800 x 800 pixels with what `draw` draws into its axes, and print its name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    draw(figure.add_subplot())
    save_figure(path, figure)
    print(f"picture: {path}")
