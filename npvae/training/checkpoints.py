"""Checkpoints: when the state of the training is recorded in memory, and when it is written to a file."""

import logging
import time
from collections.abc import Callable

import numpy as np

from ..conventions import check_number
from .loop import Epoch, Trainer

logger = logging.getLogger(__name__)


class Checkpointer:
    """Records the state after each epoch, and writes a file from time to time: the ``keep`` of `loop.train`.

    Parameters
    ----------
    record : callable (state, epoch)
        Stores a `loop.State`, with the `loop.Epoch` that has just ended, or None within an epoch.
    write : callable () or None
        Writes what was stored to a file. None: no file is written.
    every : float, seconds between two files

    Raises
    ------
    ValueError
        If ``every`` is not a number of at least 0.
    """

    def __init__(self, record: Callable, write: Callable[[], object] | None, every: float) -> None:
        check_number("checkpoint_every", every, np.floating, 0)
        self._record, self.write, self.every, self.due = record, write, every, np.inf

    def begin(self, trainer: Trainer) -> None:
        """Record the state before the first step, and write the file. Of several ranks, the first one writes it."""
        self.record(trainer, None)
        trainer.parallel.first(self.save)

    def record(self, trainer: Trainer, epoch: Epoch | None) -> None:
        """Record the current state."""
        state = trainer.snapshot()
        self._progress = state.progress
        self._record(state, epoch)

    def __call__(self, trainer: Trainer, epoch: Epoch | None) -> None:
        """Record the state after an epoch; write the file when it is due.

        An error while writing does not stop the training: the next attempt follows after ``every`` seconds.
        """
        if epoch is not None:
            self.record(trainer, epoch)
        elif time.monotonic() >= self.due:  # only after a step: after an epoch, its callbacks are yet to run
            self.record(trainer, None)
            try:
                self.save()
            except OSError as error:  # the training is worth more than this file
                self.due = time.monotonic() + self.every
                logger.warning("%s; training continues, the next attempt is in %g s", error, self.every)

    def save(self) -> None:
        """Write the file, if there is one."""
        if self.write is not None:
            self.write()
            logger.info("checkpoint: epoch %d, after %d samples", self._progress.epoch, self._progress.samples_seen)
            self.due = time.monotonic() + self.every
