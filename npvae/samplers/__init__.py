"""Samplers of a distribution whose log density and gradient are known."""

from .hmc import (
    Info,
    Noise,
    Samples,
    State,
    StepSize,
    effective_sample_size,
    initial,
    leapfrog,
    sample,
    split_rhat,
    transition,
)

__all__ = [
    "Info", "Noise", "Samples", "State", "StepSize", "effective_sample_size", "initial", "leapfrog", "sample",
    "split_rhat", "transition",
]  # fmt: skip
