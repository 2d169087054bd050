"""When the state of a training is recorded, and when it is written to a file."""

import logging
import time
from collections.abc import Callable

import numpy as np

from ..conventions import check_number

logger = logging.getLogger(__name__)


class Checkpointer:
    """Records a run after each epoch, and writes it from time to time: the ``keep`` of `loop.train`.

    Parameters
    ----------
    record : callable, from a `loop.State`, and a `loop.Epoch` or None within an epoch: keeps them
    write : callable without arguments that writes what was recorded to a file; None for no file
    every : float, seconds between two files
    """

    def __init__(self, record: Callable, write: Callable | None, every: float):
        check_number("checkpoint_every", every, np.floating, 0)
        self._record, self.write, self.every, self.due = record, write, every, np.inf

    def begin(self, trainer):
        """Record the state before the first step, and write it."""
        self.record(trainer, None)
        self.save()

    def record(self, trainer, epoch):
        """Record where the run stands."""
        state = trainer.snapshot()
        self._progress = state.progress
        self._record(state, epoch)

    def __call__(self, trainer, epoch):
        if epoch is not None:
            self.record(trainer, epoch)
        elif time.monotonic() >= self.due:  # after a step: the file then includes what the last epoch's callbacks did
            self.record(trainer, None)
            try:
                self.save()
            except OSError as error:  # training has cost more than this file: continue, and try again
                self.due = time.monotonic() + self.every
                logger.warning("%s; training continues, with another try in %g s", error, self.every)

    def save(self):
        """Write the file, if one is wanted."""
        if self.write is not None:
            self.write()
            logger.info("checkpoint: epoch %d, after %d samples", self._progress.epoch, self._progress.samples_seen)
            self.due = time.monotonic() + self.every
