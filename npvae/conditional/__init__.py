"""What a trained model says of x where only a part of it, or a worse copy, was seen: p(x | seen).

An `Observation` says what was seen, and `infer` samples p(z | seen). ``VAE.impute``, ``VAE.denoise`` and
``VAE.super_resolve`` are what users call.
"""

from .blocks import BinaryBlocks, RealBlocks
from .cells import Cells
from .columns import Columns, Outputs
from .inference import Inferred, infer
from .observation import Observation

__all__ = ["BinaryBlocks", "Cells", "Columns", "Inferred", "Observation", "Outputs", "RealBlocks", "infer"]
