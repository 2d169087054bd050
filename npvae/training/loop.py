"""The one training loop: shuffled minibatches, epochs, early stopping.

It knows an estimator and an optimizer by their interfaces, and nothing of networks or of what the user calls.
"""

import dataclasses
import itertools
import math
import time
from typing import Any, NamedTuple

import numpy as np

from ..estimators import first_nonfinite
from ..optimizers import Optimizer, UpdateRule
from ..parameters import Buffers
from .interruption import interruptible

#: What `train` returns begins with this where Ctrl-C has stopped it.
INTERRUPTED = "interrupted"

#: Most steps that are taken before anything is recorded, interrupted or saved, on a backend that does not wait for each.
RUN = 1000


class Epoch(NamedTuple):
    """What is recorded of an epoch, and what callbacks get. The bounds are a datapoint's, in nats."""

    epoch: int
    samples_seen: int
    elbo: float  # mean of the minibatches' values during the epoch
    elbo_valid: float  # of the validation data after the epoch; NaN without
    seconds: float  # since training began


class Settings(NamedTuple):
    """The settings of a run that are not the model's."""

    optimizer: str = "adagrad"
    learning_rate: float = 0.02
    weight_prior: float = 1.0
    batch_size: int = 100
    max_epochs: int = 100
    patience: int = 10


@dataclasses.dataclass
class Progress:
    """Where a run stands, besides its arrays: numbers and dicts that JSON saves without rounding."""

    accumulate_only: int  # steps, fixed at the beginning
    counter: list = dataclasses.field(default_factory=lambda: [0, -1])  # of the optimizer: steps, first bad one or -1
    epoch: int = 1  # the running one
    seen: int = 0  # rows of it that have had their step
    total: float = 0.0  # sum of their values
    order: dict = None  # state of the generator before it drew the order of the epoch's rows
    rng: dict = None  # its state now
    samples_seen: int = 0
    seconds: float = 0.0
    best_bound: float = -math.inf  # on validation data
    since_best: int = 0  # epochs


class State(NamedTuple):
    """All that a run has changed so far: from here, the same data and settings lead to the same bits."""

    parameters: np.ndarray  # (P,)
    squares: np.ndarray  # (P,), of the optimizer
    best: np.ndarray  # (P,), the parameters with the best validation bound; (0,) if there are none
    progress: Progress
    estimator: dict[str, np.ndarray] = {}  # the arrays of the estimator's State by name, where it has one


class NonFiniteError(FloatingPointError):
    """Training met a NaN or an infinite value; that step was not taken.

    The parameters are those before it, which may well be on their way to infinity, or with validation data the best.

    Attributes
    ----------
    step : int, counted from 1
    place : str, the layer, or the array whose gradient it was
    """

    def __init__(self, step, place, learning_rate):
        self.step, self.place = step, place
        self.learning_rate = learning_rate
        super().__init__(
            f"training stopped at step {step}: {place} is not finite. The parameters before that step are kept, or the "
            f"best ones on validation data. A smaller learning_rate than {learning_rate:g} is the usual remedy"
        )

    def __reduce__(self):
        return type(self), (self.step, self.place, self.learning_rate)  # so that a process can hand it to another


def _as_state(kind: Any, arrays: dict) -> Any:
    """Return saved arrays as an estimator's State; None where they are not its own: another estimator saved them."""
    return kind(**arrays) if kind is not None and set(arrays) == set(kind._fields) else None


class Trainer:
    """Parameters during training, and what moves them: an estimator, an optimizer, the order of the rows.

    Parameters
    ----------
    estimator : see ``estimators``
    parameters : Parameters, changed in place
    data : preprocessing.Data
    rng : numpy.random.Generator, for the order of the rows and the noise
    settings : Settings
    state : State, optional
        Resume from this state; overwrites ``parameters``.
    """

    def __init__(self, estimator, parameters, data, rng, settings, state=None):
        self.estimator, self.parameters, self.data, self.rng = estimator, parameters, data, rng
        self.settings = settings
        self.batch_size = min(settings.batch_size, len(data.X))
        self._buffers = Buffers(estimator.model.backend, estimator.model.dtype)
        # As many steps only accumulate as in the authors' code, but no more than a tenth of a short run.
        updates = int(settings.max_epochs) * self.steps_per_epoch * estimator.updates_per_sample
        accumulate_only = min(100, updates // 10)
        self.progress = Progress(accumulate_only) if state is None else dataclasses.replace(state.progress)
        self.best = None if state is None or not len(state.best) else state.best.copy()
        layout, model = parameters.layout, estimator.model
        # Random weights have a prior already; the encoder's are then parameters of q alone, and have none.
        decay = 0.0 if model.architecture.random_weights else settings.weight_prior / len(data.X)
        rule = UpdateRule(settings.learning_rate, decay, self.progress.accumulate_only, layout.n_weights)
        self.optimizer = Optimizer(settings.optimizer, model.backend, rule, layout.size, model.dtype)
        self.estimator_state = None
        if state is not None:
            asarray = model.backend.asarray
            parameters.vector[:] = asarray(state.parameters, model.dtype)
            self.optimizer.state.squares[:] = asarray(state.squares, model.dtype)
            self.optimizer.state.counter[:] = asarray(state.progress.counter, np.int64)
            rng.bit_generator.state = state.progress.rng
            self.estimator_state = _as_state(estimator.State, state.estimator)
        self._runner = None  # made for the first run of steps

    def snapshot(self):
        """Return a copy of where the run stands, a `State`."""
        to_numpy, optimizer = self.estimator.model.backend.to_numpy, self.optimizer.state
        self.progress.counter = to_numpy(optimizer.counter).tolist()
        self.progress.rng = self.rng.bit_generator.state
        arrays = self.parameters.vector, optimizer.squares, [] if self.best is None else self.best
        estimator = {} if self.estimator_state is None else self.estimator_state._asdict()
        return State(
            *(np.array(to_numpy(array)) for array in arrays),
            dataclasses.replace(self.progress),
            {name: np.array(to_numpy(array)) for name, array in estimator.items()},
        )

    @property
    def steps_per_epoch(self):
        """Minibatches an epoch; the last one may be smaller."""
        return int(-(-len(self.data.X) // self.batch_size))

    def minibatches(self):
        """Yield the row indices of the minibatches that are left of the epoch: all rows once, shuffled."""
        progress, generator = self.progress, self.rng.bit_generator
        if progress.seen == 0:
            progress.order = generator.state
            order = self.rng.permutation(len(self.data.X))
        else:  # drawn before: draw it again
            now, generator.state = generator.state, progress.order
            order = self.rng.permutation(len(self.data.X))
            generator.state = now
        for start in range(progress.seen, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def step(self, rows):
        """Take one step on a minibatch and return its bound, in nats a datapoint.

        That is one update of the parameters, or as many as one sample of the estimator serves: then it is their mean.

        Raises
        ------
        NonFiniteError
            If the value or its gradient is not finite.
        """
        estimator, x = self.estimator, self._gather(rows)
        noise, bounds = estimator.draw(self.rng, len(rows)), []
        samples, self.estimator_state = estimator.sample(self.parameters, x, rows, noise, self.estimator_state)
        for _ in range(estimator.updates_per_sample):
            value, elbo, gradient = estimator.value_and_grad(self.parameters, x, samples)
            if not math.isfinite(value) or not self.optimizer.step(self.parameters, gradient):
                self._fail(int(self.optimizer.state.counter[0]) + (not math.isfinite(value)), x, samples)
            bounds.append(elbo)
        return sum(bounds) / len(bounds) + self.data.log_jacobian

    def _gather(self, rows):
        return self.estimator.model.gather(self.data, rows, self._buffers)

    def _fail(self, step, x, samples):
        place = first_nonfinite(self.estimator, self.parameters, x, samples) or "the bound"
        raise NonFiniteError(step, place, self.settings.learning_rate)

    def steps(self, batches):
        """Take a step on each minibatch, and return their bounds: see `step`.

        Where the backend has a ``Runner`` and the estimator allows it, no step is waited for.
        """
        if not self._runs_ahead:
            return [self.step(rows) for rows in batches]
        if self._runner is None:
            backend = self.estimator.model.backend
            self._runner = backend.Runner(self.estimator, self.optimizer, self.parameters, self.data)
        to_numpy, counter = self.estimator.model.backend.to_numpy, self.optimizer.state.counter
        before = int(to_numpy(counter)[0])
        values = self._runner.run(batches, self.rng)
        failed = int(to_numpy(counter)[1])
        if failed >= 0:  # the parameters are those before it: look at its rows again, with other noise
            rows = batches[failed - before - 1]
            self._fail(failed, self._gather(rows), self.estimator.draw(self.rng, len(rows)))
        return values + self.data.log_jacobian

    @property
    def _runs_ahead(self):
        """Whether many steps are taken without waiting for each."""
        return self.estimator.runs_ahead and self.estimator.model.backend.Runner is not None

    def _runs(self):
        """Yield lists of minibatches of one size, what is left of the epoch: as many as are taken at once."""
        for size, batches in itertools.groupby(self.minibatches(), len):
            most = RUN if self._runs_ahead else 1
            while run := list(itertools.islice(batches, most)):
                yield run

    def epoch(self, stop):
        """Go through what is left of the epoch, calling ``stop()`` after each step or few, until it returns true.

        Returns
        -------
        elbo : float, mean of the epoch's values by row; whole : bool, whether the epoch is at its end
        """
        progress = self.progress
        for run in self._runs():
            for rows, value in zip(run, self.steps(run)):
                progress.total += float(len(rows) * value)
                progress.seen += len(rows)
                progress.samples_seen += len(rows)
            if stop():
                break
        elbo, whole = progress.total / progress.seen, progress.seen == len(self.data.X)
        if whole:
            progress.epoch, progress.seen, progress.total = progress.epoch + 1, 0, 0.0
        return elbo, whole

    def score(self, score_valid):
        """Return the bound of the validation data, and remember the parameters if it is the best one so far."""
        if self.optimizer.state.counter[0] > self.progress.accumulate_only:  # before, the parameters did not move
            self.progress.since_best += 1
        if score_valid is None:
            return math.nan
        bound = float(score_valid(self.parameters))
        if bound > self.progress.best_bound:
            self.best = np.array(self.estimator.model.backend.to_numpy(self.parameters.vector))
            self.progress.best_bound, self.progress.since_best = bound, 0
        return bound


def train(trainer, score_valid=None, callbacks=(), keep=lambda trainer, epoch: None):
    """Train until ``max_epochs`` are done, or the validation bound has not risen for ``patience`` epochs.

    With validation data the best parameters are kept. Ctrl-C stops after the running minibatch (or the running `RUN` of
    them), and what has been learnt is kept. A callback that returns True stops the training after its epoch.

    Parameters
    ----------
    trainer : Trainer
    score_valid : callable, from Parameters to the bound of the validation data in nats; or None
    callbacks : sequence of callables, each called with an `Epoch`; True stops
    keep : callable
        Called with the trainer and None after each step or run of steps, and with the `Epoch` after each epoch, before
        the callbacks: the time to take a `Trainer.snapshot`.

    Returns
    -------
    str : why training ended before ``max_epochs``; None if it did not

    Raises
    ------
    NonFiniteError
        If training diverges.
    """
    progress, started = trainer.progress, time.perf_counter() - trainer.progress.seconds

    def out_of_patience():
        return score_valid is not None and progress.since_best >= trainer.settings.patience

    def after_step():
        progress.seconds = time.perf_counter() - started
        keep(trainer, None)
        return interrupted()

    try:
        with interruptible() as interrupted:
            while progress.epoch <= trainer.settings.max_epochs and not out_of_patience():
                number = progress.epoch
                elbo, whole = trainer.epoch(after_step)
                bound = trainer.score(score_valid) if whole else math.nan
                progress.seconds = time.perf_counter() - started
                record = Epoch(number, progress.samples_seen, elbo, bound, progress.seconds)
                keep(trainer, record)
                answers = [callback(record) for callback in callbacks]
                if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
                    return f"a callback stopped training after epoch {record.epoch}"
                if interrupted() and progress.epoch <= trainer.settings.max_epochs:
                    return f"{INTERRUPTED} in epoch {record.epoch}: what was learnt until then is kept"
        if out_of_patience():
            return (
                f"stopped after epoch {progress.epoch - 1}: no better validation bound for {progress.since_best} epochs"
            )
    finally:
        if trainer.best is not None:
            model = trainer.estimator.model
            trainer.parameters.vector[:] = model.backend.asarray(trainer.best, model.dtype)
    return None
