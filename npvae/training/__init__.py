"""Training: the `loop`, the choice of a step size, checkpoints, and Ctrl-C."""

from .checkpoints import Checkpointer
from .loop import INTERRUPTED, Epoch, NonFiniteError, Progress, Settings, State, Trainer, train
from .step_size import choose_step_size

__all__ = [
    "INTERRUPTED",
    "Checkpointer",
    "Epoch",
    "NonFiniteError",
    "Progress",
    "Settings",
    "State",
    "Trainer",
    "choose_step_size",
    "train",
]
