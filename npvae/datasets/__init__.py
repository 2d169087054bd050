"""Data sets to train on, as arrays: generated digits, MNIST, Frey Face and binarized MNIST."""

from .digits import make_digits
from .files import DownloadError
from .loaders import (
    NAMES,
    Dataset,
    Description,
    describe,
    load,
    load_binarized_mnist,
    load_digits,
    load_frey_face,
    load_mnist,
)

__all__ = [
    "NAMES",
    "Dataset",
    "Description",
    "DownloadError",
    "describe",
    "load",
    "load_binarized_mnist",
    "load_digits",
    "load_frey_face",
    "load_mnist",
    "make_digits",
]
