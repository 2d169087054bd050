"""The one training loop: shuffled minibatches, epochs, early stopping, the choice of a step size, interruption.

It knows an estimator and an optimizer by their interfaces, and nothing of networks or of what the user calls.
"""

import contextlib
import itertools
import math
import signal
import threading
import time
from typing import NamedTuple

import numpy as np

from .optimizers import Optimizer, Rule
from .parameters import Buffers

#: The step sizes that the paper compares.
STEP_SIZES = (0.01, 0.02, 0.1)

#: Steps that each of them gets, after those that only accumulate.
TRIAL_STEPS = 200


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
        super().__init__(
            f"training stopped at step {step}: {place} is not finite. The parameters before that step are kept, or the "
            f"best ones on validation data. A smaller learning_rate than {learning_rate:g} is the usual remedy"
        )


class Trainer:
    """Parameters on their way, and all that moves them.

    Parameters
    ----------
    estimator : see ``estimators``
    parameters : Parameters, changed in place
    data : preprocessing.Data
    rng : numpy.random.Generator, for the order of the rows and the noise
    settings : Settings
    """

    def __init__(self, estimator, parameters, data, rng, settings):
        self.estimator, self.parameters, self.data, self.rng = estimator, parameters, data, rng
        self.settings = settings
        self.batch_size = min(settings.batch_size, len(data.X))
        self.state = None  # of the estimator, where it has one
        self._buffers = Buffers(estimator.model.backend, estimator.model.dtype)
        layout, model = parameters.layout, estimator.model
        rule = Rule(settings.learning_rate, settings.weight_prior / len(data.X), self.accumulate_only, layout.n_weights)
        self.optimizer = Optimizer(settings.optimizer, model.backend, rule, layout.size, model.dtype)

    @property
    def steps_per_epoch(self):
        """Minibatches an epoch; the last one may be smaller."""
        return -(-len(self.data.X) // self.batch_size)

    @property
    def accumulate_only(self):
        """Steps that only accumulate squared gradients: 100, as in the authors' code, but a tenth of a short run."""
        return min(100, self.settings.max_epochs * self.steps_per_epoch // 10)

    def minibatches(self):
        """Yield the row indices of the minibatches of an epoch: all rows once, shuffled."""
        order = self.rng.permutation(len(self.data.X))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def step(self, rows):
        """Take one step on a minibatch and return its value in nats a datapoint.

        Raises
        ------
        NonFiniteError
            If the value or its gradient is not finite.
        """
        estimator, buffer = self.estimator, self._buffers("x", len(rows), self.data.X.shape[1])
        x = estimator.model.backend.gather(self.data.X, rows, self.data.scaling, buffer)
        noise = estimator.draw(self.rng, len(rows))
        samples, self.state = estimator.sample(self.parameters, x, rows, noise, self.state)
        value, gradient = estimator.value_and_grad(self.parameters, x, samples)
        if not math.isfinite(value) or not self.optimizer.step(self.parameters, gradient):
            step = int(self.optimizer.state.counter[0]) + (not math.isfinite(value))
            place = estimator.first_nonfinite(self.parameters, x, samples) or "the bound"
            raise NonFiniteError(step, place, self.settings.learning_rate)
        return value + self.data.log_jacobian

    def epoch(self, interrupted):
        """Run through the data once; stop after the running minibatch when ``interrupted()``.

        Returns
        -------
        elbo : float, mean of the minibatches' values by row; rows : int, how many were seen
        """
        total = seen = 0
        for rows in self.minibatches():
            total += len(rows) * self.step(rows)
            seen += len(rows)
            if interrupted():
                break
        return float(total / seen), seen


def train(trainer, score_valid=None, callbacks=()):
    """Train for ``max_epochs``, or until the validation bound has not risen for ``patience`` epochs.

    With validation data the best parameters are kept. Ctrl-C stops after the running minibatch, and what has been
    learnt is kept. A callback that returns True stops the training after its epoch.

    Parameters
    ----------
    trainer : Trainer
    score_valid : callable, from Parameters to the bound of the validation data in nats; or None
    callbacks : sequence of callables, each called with an `Epoch`; True stops

    Returns
    -------
    str : why training ended before ``max_epochs``; None if it did not

    Raises
    ------
    NonFiniteError
        If training diverges.
    """
    parameters, best, best_bound, since_best, samples_seen = trainer.parameters, None, -np.inf, 0, 0
    started = time.perf_counter()
    try:
        with interruptible() as interrupted:
            for number in range(1, trainer.settings.max_epochs + 1):
                elbo, seen = trainer.epoch(interrupted)
                samples_seen += seen
                elbo_valid = float(score_valid(parameters)) if score_valid else np.nan
                since_best += 1
                if elbo_valid > best_bound:
                    best, best_bound, since_best = parameters.vector.copy(), elbo_valid, 0

                record = Epoch(number, samples_seen, elbo, elbo_valid, time.perf_counter() - started)
                answers = [callback(record) for callback in callbacks]
                if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
                    return f"a callback stopped training after epoch {number}"
                if interrupted():
                    return f"interrupted in epoch {number}: what was learnt until then is kept"
                if score_valid and since_best >= trainer.settings.patience:
                    return f"stopped after epoch {number}: no better validation bound for {since_best} epochs"
    finally:
        if best is not None:
            parameters.vector[...] = best
    return None


@contextlib.contextmanager
def interruptible():
    """Turn the first Ctrl-C into a request: yields a function that tells whether one came. A second one raises.

    It never comes in threads other than the main one, where Python delivers no signals, nor where the caller ignores
    Ctrl-C or has left it to something other than Python.
    """
    requests, previous = [], signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (None, signal.SIG_IGN):
        yield lambda: False
        return

    def request(signum, frame):
        requests.append(signum)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, request)
    try:
        yield lambda: bool(requests)
    finally:
        signal.signal(signal.SIGINT, previous)


def choose_step_size(make_trainer, score):
    """Compare the step sizes of the paper on the training bound after the first iterations.

    Each gets `TRIAL_STEPS` steps past those that only accumulate (fewer where the whole run is shorter), from the same
    parameters with the same noise. One that diverges is out of the running.

    Parameters
    ----------
    make_trainer : callable, from a step size to a fresh Trainer
    score : callable, from Parameters to the bound of (part of) the training data in nats

    Returns
    -------
    step_size : float; bounds : dict of step size -> bound in nats, -inf where it diverged

    Raises
    ------
    FloatingPointError
        If all of them diverge.
    """
    bounds = {step_size: _trial(make_trainer(step_size), score) for step_size in STEP_SIZES}
    best = max(bounds, key=bounds.get)
    if bounds[best] == -np.inf:
        raise FloatingPointError(f"training diverges with every step size of {STEP_SIZES}; set learning_rate lower")
    return best, bounds


def _trial(trainer, score):
    remaining = min(trainer.accumulate_only + TRIAL_STEPS, trainer.settings.max_epochs * trainer.steps_per_epoch)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            while remaining > 0:
                for rows in itertools.islice(trainer.minibatches(), remaining):
                    trainer.step(rows)
                    remaining -= 1
            bound = score(trainer.parameters)
    except NonFiniteError:
        return -np.inf
    return bound if np.isfinite(bound) else -np.inf
