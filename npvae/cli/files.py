"""Read tables from files of several kinds. CSV files have a module of their own.

Where a file holds several arrays, one must be chosen, unless only one of them can be a table: labels are never
taken for data.
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conventions import did_you_mean
from . import csvfile
from .choice import EVERYTHING, MISSING_REMEDY, Choice, Table

#: Words in the names that labels have. A lone array of such a name among vectors is not taken for data unless it is
#: chosen.
LABELS = {"y", "label", "labels", "target", "targets", "class", "classes", "t", "onehot", "hot"}

#: Suffixes of images.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


def _read_npy(path: Path, choice: Choice) -> Table:
    if choice.array is not None:
        raise ValueError(f"it holds one array, without a name; --array is {choice.array!r}")
    if zipfile.is_zipfile(path):
        raise ValueError("it is a .npz file; name it so")
    return _of_array(np.lib.format.open_memmap(path, mode="r"), choice)


def _read_npz(path: Path, choice: Choice) -> Table:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a .npz file, which is a zip archive of arrays")
    with np.load(path, allow_pickle=False) as arrays:
        if {"header", "digest", "parameters"} <= set(arrays.files):
            raise ValueError("it is a model of npvae, not data")
        if {"format", "shape", "data"} <= set(arrays.files):
            return _read_sparse(path, choice)
        shapes = _shapes(path)
        name = choose_array(shapes, choice.array)
        table = _of_array(arrays[name], choice)
    return _with_array(table, name, shapes)


def _read_sparse(path: Path, choice: Choice) -> Table:
    """Read a sparse matrix, as ``scipy.sparse.save_npz`` writes it."""
    import scipy.sparse

    _no_array(choice)
    matrix = scipy.sparse.load_npz(path).tocsr()
    return _of_array(matrix, choice)._replace(notes=(f"sparse: {matrix.nnz} values are stored",))


def _read_mat(path: Path, choice: Choice) -> Table:
    import scipy.io

    try:
        shapes = {name: shape for name, shape, kind in scipy.io.whosmat(path) if kind != "char"}
        name = choose_array({name: shape for name, shape in shapes.items() if shape != (1, 1)}, choice.array)
        array = scipy.io.loadmat(path, variable_names=[name])[name]
    except NotImplementedError:
        raise ValueError("it is a MATLAB file of version 7.3 (HDF5); save it with -v7 from MATLAB") from None
    return _with_array(_of_array(array, choice), name, shapes)


def _read_parquet(path: Path, choice: Choice) -> Table:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError:
        raise ValueError("to read .parquet, pandas and pyarrow must be installed") from None
    _no_array(choice)
    names = list(map(str, frame.columns))
    numeric = [pandas.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    index = {i: f"column {n!r}: an index of the rows" for i, n in enumerate(names) if n == "__index_level_0__"}
    text = {i: str(frame.iloc[0, i]) if len(frame) else "" for i, is_number in enumerate(numeric) if not is_number}
    kept = choice.select(names, len(names), index, text)
    X = frame.iloc[:, kept.columns].to_numpy(dtype=None if _one_type(frame, kept.columns) else float, na_value=np.nan)
    bad = np.argwhere(np.isinf(X) if choice.missing else ~np.isfinite(X))
    if len(bad):
        row, column = map(int, bad[0])
        raise ValueError(
            f"row {row + 1}, column {names[kept.columns[column]]!r}: the value is missing or infinite; "
            f"expected finite numbers. {len(bad)} such value{'s' * (len(bad) > 1)} in {len(X)} rows. {MISSING_REMEDY}"
        )
    return Table(X, tuple(names[i] for i in kept.columns), (), kept.left_out)


def _one_type(frame: Any, columns: list[int]) -> bool:
    """Return whether columns have one NumPy type, so that an array of them keeps it."""
    kinds = set(frame.dtypes.iloc[columns])
    return len(kinds) == 1 and isinstance(next(iter(kinds)), np.dtype)


READERS: dict[str, Callable[[Path, Choice], Table]] = {}


def _read_csv(path: Path, choice: Choice) -> Table:
    _no_array(choice)
    return csvfile.read(path, choice)


READERS |= {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".mat": _read_mat,
    ".parquet": _read_parquet,
}


def read(path: Path, choice: Choice = EVERYTHING) -> Table:
    """Read a file, or a folder of images. The values are not checked.

    Raises
    ------
    ValueError
        If it cannot be read as a table, or a choice is required.
    OSError
        If it cannot be opened.
    """
    if path.is_dir():
        return read_images(path, choice)
    return READERS[path.suffix.lower()](path, choice)


def _no_array(choice: Choice) -> None:
    if choice.array is not None:
        raise ValueError(f"it has no named arrays; --array is {choice.array!r}")


def _of_array(X: Any, choice: Choice) -> Table:
    """Return the chosen columns of an array, or of a sparse one, as a table. Columns of an array have no names."""
    if not (choice.columns or choice.drop) or X.ndim != 2:
        return Table(X)
    kept = choice.select(None, X.shape[1])
    return Table(X[:, kept.columns], left_out=kept.left_out)


def _with_array(table: Table, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Table:
    others = tuple(f"array {other!r} {shape}" for other, shape in shapes.items() if other != name)
    return table._replace(notes=(f"array {name!r}", *table.notes), left_out=(*table.left_out, *others))


def choose_array(shapes: Mapping[str, tuple[int, ...]], chosen: str | None) -> str:
    """Return the name of the array that is the data, among several with these shapes.

    Raises
    ------
    ValueError
        If there is no array of the name chosen, or none is chosen and more than one can be the data.

    Examples
    --------
    >>> choose_array({"y": (60,), "X": (60, 20)}, None)
    'X'
    >>> choose_array({"y": (60, 3), "X": (60, 20)}, None)
    Traceback (most recent call last):
    ...
    ValueError: it holds several arrays: 'y' (60, 3), 'X' (60, 20); choose one with --array NAME
    """
    listed = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
    if chosen is not None:
        if chosen not in shapes:
            near = did_you_mean(chosen, shapes)
            raise ValueError(f"it holds no array {chosen!r}; it holds {listed or 'none'}{near}")
        return chosen
    if not shapes:
        raise ValueError("it holds no arrays")
    if len(shapes) == 1:
        return next(iter(shapes))
    tables = [name for name, shape in shapes.items() if len(shape) != 1 and len(shape) != 0]
    if len(tables) != 1 or not LABELS.isdisjoint(_words(tables[0])):
        raise ValueError(f"it holds several arrays: {listed}; choose one with --array NAME")
    return tables[0]


def _words(name: str) -> list[str]:
    """Return the words of a name: "y_train", "trainLabels" and "LABELS2" have "y", "labels" and "labels"."""
    return [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a .npz file, from their headers."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[member.removesuffix(".npy")] = read(file)[0]
    return shapes


# Images ---------------------------------------------------------------------------------------------------------------


def read_images(folder: Path, choice: Choice = EVERYTHING) -> Table:
    """Read a folder of grey images of one size, also in folders below it, in the order of their names: one a row.

    Returns
    -------
    Table, of uint8 (images, height * width), with the shape of the images

    Raises
    ------
    ValueError
        If there are no images, one cannot be read, is coloured, or has another size than the first.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    images = [path for path in paths if path.suffix.lower() in IMAGES]
    if not images:
        raise ValueError(f"the folder has no images ({', '.join(IMAGES)})")
    _no_array(choice)
    if choice.columns or choice.drop:
        raise ValueError("columns of images cannot be chosen; expected no --columns and no --drop")
    first = _read_image(images[0], folder)
    X = np.empty((len(images), *first.shape), np.uint8)
    for row, path in zip(X, images):
        image = _read_image(path, folder)
        if image.shape != first.shape:
            raise ValueError(
                f"{path.relative_to(folder)} has {image.shape[0]} x {image.shape[1]} pixels, and "
                f"{images[0].relative_to(folder)} {first.shape[0]} x {first.shape[1]}; expected one size"
            )
        row[:] = image
    others = [path.relative_to(folder) for path in paths if path.suffix.lower() not in IMAGES]
    left_out = (f"{len(others)} file{'s' * (len(others) > 1)}, such as {others[0]}",) if others else ()
    height, width = first.shape
    notes = (f"images of {height} x {width} pixels",)
    return Table(X.reshape(len(X), -1), None, notes, left_out, image_shape=(height, width))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _read_image(path: Path, folder: Path) -> NDArray[np.uint8]:
    """Return the grey values of an image, (height, width)."""
    name = path.relative_to(folder)
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("to read images, Pillow must be installed; matplotlib needs it, too") from None
    try:
        with Image.open(path) as image:
            mode, frames = image.mode, getattr(image, "n_frames", 1)
            if mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
                raise ValueError(f"its pixels have the type {mode!r}")
            pixels = np.asarray(image.convert("L" if mode in ("1", "L") else "RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an image of 8 bits: {error}") from None
    if frames > 1:
        raise ValueError(f"{name} has {frames} frames; expected one image a file")
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., 3] != 255).any():
        raise ValueError(f"{name} has transparent pixels; expected grey images")
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise ValueError(f"{name} has colours; expected grey images, such as those of PIL.Image.convert('L')")
    return pixels[..., 0]
