"""Handwriting-like digits drawn from strokes: a data set that needs no download and no licence.

A *glyph* is one way of writing a digit: a few pen strokes, each a smooth curve through control points. An image is
drawn in four steps: the control points move at random, the whole curve is deformed, it is scaled to the box that MNIST
uses, and each pixel gets ink by its distance to the curve. Shapes vary more than slant, rotation and thickness, so two
latent dimensions still separate most digits.
"""

import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IMAGE_SHAPE = (28, 28)

# Strokes are separated by "|"; control points are "x,y" in pixels of a box 20 pixels high, y downwards. A point that
# appears twice in a glyph is one point: the strokes stay joined there, with a corner, wherever it moves.
_GLYPHS = {
    0: (
        "9,1 6,0 2,3 0,9 1,15 5,20 10,18 13,12 12,5 9,1 6,1",
        "7,0 4,1 2,5 1,11 3,18 6,20 9,17 10,10 9,4 7,0",
        "6,1 2,4 0,10 2,16 7,19 13,17 15,11 14,5 10,1 5,1",
    ),
    1: (
        "6,0 6,10 6,20",
        "8,0 6,7 5,13 4,20",
        "1,5 4,3 7,0 | 7,0 7,10 7,20",
        "2,4 4,3 6,0 | 6,0 6,10 6,20 | 1,20 6,20 11,20",
    ),
    2: (
        "1,5 4,1 9,0 12,4 10,10 6,15 1,20 | 1,20 7,19 14,20",
        "1,4 6,0 11,3 10,9 6,15 2,19 0,17 3,15 8,18 14,18",
        "0,3 5,0 11,2 12,7 8,13 1,19 | 1,19 6,18 10,20 15,18",
    ),
    3: (
        "1,3 6,0 11,3 10,7 5,9 | 5,9 11,11 13,15 9,20 4,20 0,17",
        "1,2 7,0 12,2 11,6 7,9 9,10 13,14 11,19 5,20 0,18",
        "1,1 6,1 11,0 | 11,0 8,4 5,8 | 5,8 10,9 12,14 8,19 0,19",
    ),
    4: (
        "2,1 1,6 1,11 | 1,11 6,11 13,10 | 11,0 10,10 9,20",
        "9,0 5,7 0,13 | 0,13 6,13 14,12 | 9,0 9,10 9,20",
        "3,0 1,7 2,11 6,12 10,9 | 12,1 10,9 8,20",
    ),
    5: (
        "12,0 7,0 3,1 | 3,1 2,5 2,9 | 2,9 6,7 11,10 11,16 6,20 0,18",
        "14,1 9,0 5,2 3,6 5,9 9,11 10,15 7,19 3,20 0,18",
        "3,1 2,5 1,9 | 1,9 6,8 11,11 10,17 5,20 0,17 | 3,1 8,1 13,0",
    ),
    6: (
        "9,0 4,4 1,11 2,18 6,20 10,17 10,12 6,11 2,15",
        "6,0 3,6 1,13 4,19 9,20 13,16 11,12 6,12 2,16",
        "12,1 7,2 2,8 0,14 3,19 8,19 10,15 8,11 3,12 0,15",
    ),
    7: (
        "0,2 6,1 12,1 | 12,1 9,7 6,14 5,20",
        "0,1 6,1 13,0 | 13,0 9,8 5,20 | 3,10 7,10 12,9",
        "0,5 1,1 | 1,1 6,2 12,0 | 12,0 11,7 9,14 8,20",
    ),
    8: (
        "10,2 6,0 2,3 4,8 9,12 11,16 6,20 1,16 3,11 8,8 11,4 9,1",
        "6,9 2,5 5,0 10,3 7,9 | 6,9 1,14 4,20 10,19 11,14 7,9",
        "12,2 7,0 3,3 5,8 9,12 8,18 4,20 1,17 4,11 9,7 13,1",
    ),
    9: (
        "11,2 6,0 1,4 3,10 8,9 11,2 | 11,2 11,10 10,20",
        "10,3 5,1 2,5 4,9 9,8 11,3 | 11,3 11,11 8,18 2,19",
        "12,4 8,0 3,2 1,7 5,10 10,7 12,4 | 12,4 9,13 7,20",
    ),
}

_BOX = 20.0  # the longer side of a digit in pixels, as in MNIST
_SPACING = 0.7  # distance between the points that represent a curve: gaps below a pixel are invisible
_CHUNK = 128  # images drawn together: their distances fit into the processor's cache
_PIXELS = np.arange(28, dtype=np.float32)


class _Glyph(NamedTuple):
    points: NDArray[np.float64]  # (k, 2) distinct control points
    shift_root: NDArray[np.float64]  # (k, k) Cholesky factor of the covariance of their shifts
    basis: NDArray[np.float64]  # (s, k) curve = basis @ points: a spline is linear in its control points


def make_digits(n: int, random_state: int | np.random.Generator = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw digits that look handwritten.

    Parameters
    ----------
    n : int
        Number of images, at least 0.
    random_state : int or numpy.random.Generator
        The same integer gives the same images. They also depend on `n`: a small set is not the start of a large one.

    Returns
    -------
    X : ndarray (n, 784), uint8
        Images of 28 x 28 pixels, white ink (255) on black (0).
    y : ndarray (n,), uint8
        The digits 0 to 9 in random order; their counts differ by at most one.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is negative.

    Examples
    --------
    >>> from npvae.datasets import make_digits
    >>> X, y = make_digits(20, random_state=0)
    >>> X.shape, X.dtype
    ((20, 784), dtype('uint8'))
    >>> np.bincount(y)
    array([2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    n = _check_count(n)
    rng = np.random.default_rng(random_state)
    y = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    variant = rng.integers(2**16, size=n)
    X = np.empty((n, *IMAGE_SHAPE), dtype=np.uint8)
    for digit, texts in _GLYPHS.items():
        for i, text in enumerate(texts):
            rows = np.flatnonzero((y == digit) & (variant % len(texts) == i))
            glyph = _parse_glyph(text)
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                X[chunk] = _draw(glyph, len(chunk), rng)
    return X.reshape(n, 784), y


def _check_count(n: int) -> int:
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be an integer, got {n!r}") from None
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    return n


def _parse_glyph(text: str) -> _Glyph:
    strokes = [stroke.split() for stroke in text.split("|")]
    names = list(dict.fromkeys(name for stroke in strokes for name in stroke))
    points = np.array([name.split(",") for name in names], dtype=float)
    # one matrix a stroke: row by row, which of the distinct points the stroke goes through
    selections = [np.array([[name == other for other in names] for name in stroke]) for stroke in strokes]
    basis = np.concatenate([_spline_basis(selection @ points) @ selection for selection in selections])
    return _Glyph(points, _shift_root(points), basis)


def _spline_basis(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the basis (s, k) of a Catmull-Rom spline through points (k, 2); its tangents join the neighbours."""
    values = np.eye(len(points))
    tangents = np.gradient(values, axis=0)
    pieces = []
    for i, length in enumerate(np.linalg.norm(np.diff(points, axis=0), axis=1)):
        t = np.linspace(0.0, 1.0, int(np.ceil(length / _SPACING)) + 1)[:, None]
        pieces.append(
            (1 + 2 * t) * (1 - t) ** 2 * values[i]
            + t * (1 - t) ** 2 * tangents[i]
            + (3 - 2 * t) * t**2 * values[i + 1]
            + (t - 1) * t**2 * tangents[i + 1]
        )
    return np.concatenate(pieces)


def _shift_root(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Cholesky factor (k, k) of the shifts' covariance: near points move together, so curves stay smooth.

    A tenth of the variance is independent for each point.
    """
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    return np.linalg.cholesky(0.9 * np.exp(-0.5 * (distance / 5.0) ** 2) + 0.1 * np.eye(len(points)))


def _draw(glyph: _Glyph, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return n images (n, 28, 28) of one glyph."""
    # einsum instead of a matrix library, whose last bits may depend on its number of threads
    shifts = np.einsum("jk,nkc->njc", glyph.shift_root, rng.normal(size=(n, *glyph.points.shape)))
    points = glyph.points + rng.uniform(0.4, 1.8, size=(n, 1, 1)) * shifts
    points = np.einsum("nkc,cdn->nkd", points, _deformations(n, rng))
    curve = np.einsum("sk,nkc->nsc", glyph.basis, points)
    radius = np.clip(rng.normal(1.35, 0.25, size=(n, 1, 1)), 0.7, 2.2)
    curve = _fit_box(curve, radius) * rng.uniform(0.9, 1.0, size=(n, 1, 1))
    curve += 13.5 + rng.normal(0.0, 0.2, size=(n, 1, 2))
    darkness = rng.uniform(225.0, 255.0, size=(n, 1, 1))
    return np.rint(darkness * _coverage(curve.astype(np.float32), radius.astype(np.float32))).astype(np.uint8)


def _deformations(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return matrices (2, 2, n) that widen, then slant, then rotate points (x, y) multiplied from the left."""
    width = np.exp(rng.normal(0.08, 0.12, size=n))
    slant = rng.normal(-0.2, 0.14, size=n)
    angle = rng.normal(0.0, 0.06, size=n)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[width * cos, width * sin], [slant * cos - sin, slant * sin + cos]])


def _fit_box(curve: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre curves (n, s, 2) at the origin and scale them so that the ink fills the longer side of the box."""
    extent = np.ptp(curve, axis=1).max(axis=1)[:, None, None]
    return (curve - curve.mean(axis=1, keepdims=True)) * (_BOX - 2 * radius) / extent


def _coverage(curve: NDArray[np.float32], radius: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share (n, 28, 28) of each pixel under a round pen: it falls from 1 to 0 across the edge of the ink."""
    squared = (_PIXELS - curve[..., None]) ** 2  # (n, s, 2, 28): along x and along y
    nearest = np.full((len(curve), *IMAGE_SHAPE), np.inf, dtype=np.float32)
    for s in range(curve.shape[1]):
        np.minimum(nearest, squared[:, s, 1, :, None] + squared[:, s, 0, None, :], out=nearest)
    return np.clip(radius + 0.5 - np.sqrt(nearest), 0.0, 1.0)
