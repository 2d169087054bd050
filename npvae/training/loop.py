"""The training loop for all estimators: shuffled minibatches, epochs, early stopping."""

import dataclasses
import functools
import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..backends.formulas import UPDATES
from ..conventions import short_repr
from ..estimators import first_nonfinite
from ..estimators.interface import Estimator
from ..estimators.sharded import Sharded
from ..noise import key_of, key_of_content
from ..optimizers import AVERAGE, Optimizer, UpdateRule
from ..parallel import SERIAL, Serial
from ..parameters import Buffers, Parameters
from ..preprocessing import Data
from .interruption import interruptible

#: What `train` returns begins with this word if Ctrl-C stopped it.
INTERRUPTED = "interrupted"


class Epoch(NamedTuple):
    """The record of one epoch, which callbacks get. Bounds and values are in nats per datapoint.

    The value is what the estimator maximises. Where there is no encoder there is no bound, and the value shows how
    training goes: for "monte-carlo-em" it is log p(x, z) of the chains.

    Examples
    --------
    >>> from npvae.training import Epoch
    >>> Epoch(epoch=1, samples_seen=1000, elbo=-120.5, elbo_valid=-121.0, seconds=0.3).elbo
    -120.5
    """

    epoch: int  # counted from 1
    samples_seen: int  # rows, since training began
    elbo: float  # mean over the epoch, each minibatch with the parameters of its step; NaN without an encoder
    elbo_valid: float  # of the validation data after the epoch (see `Trainer.score`); NaN without validation data
    seconds: float  # since training began
    value: float = math.nan  # mean over the epoch, as of the bound; NaN in files of earlier versions


class Settings(NamedTuple):
    """The settings of the training; those of the model are in `model.Architecture`.

    Examples
    --------
    >>> from npvae.training import Settings
    >>> Settings(max_epochs=20)._replace(learning_rate=0.1).learning_rate
    0.1
    """

    optimizer: str = "adagrad"
    learning_rate: float = 0.02
    weight_prior: float = 1.0  # precision of the prior N(0, I / weight_prior) on the weights
    batch_size: int = 100
    max_epochs: int = 100
    patience: int = 10  # epochs without a better validation bound, before training stops
    schedule: str = "constant"  # of the step size: a name in `formulas.SCHEDULES`
    averaging: str = "none"  # of the iterates: one of `optimizers.AVERAGING`
    clip_norm: float | None = None  # largest norm of the gradient of the bound


@dataclasses.dataclass
class Progress:
    """The part of the training's state that is not arrays: numbers and dicts, which JSON saves exactly.

    Examples
    --------
    >>> from npvae.training import Progress
    >>> Progress(accumulate_only=100).epoch
    1
    """

    accumulate_only: int  # first steps that do not move the parameters; fixed at the beginning
    counter: list = dataclasses.field(default_factory=lambda: [0, -1])  # of the optimizer: see `optimizers.State`
    epoch: int = 1  # the current epoch
    seen: int = 0  # rows of the current epoch that have been used
    total: float = 0.0  # sum of their bounds
    total_value: float = 0.0  # sum of their values
    order: Any = None  # dict: state of the generator before it drew the order of the epoch's rows
    rng: Any = None  # dict: state of the generator now
    samples_seen: int = 0
    seconds: float = 0.0
    best_bound: float = -math.inf  # best bound of the validation data
    since_best: int = 0  # epochs since then
    best: str = ""  # what these parameters are
    begun: int = 0  # steps that had been taken when the state of the optimizer was new


class State(NamedTuple):
    """The complete state of a training. Resumed from it, with the same data and settings, a run gives the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.training import Progress, State
    >>> State(np.zeros(8), {"squares": np.zeros(8)}, np.zeros(0), Progress(100), {}).progress.samples_seen
    0
    """

    parameters: NDArray  # (P,)
    optimizer: dict[str, NDArray]  # the arrays (P,) of the optimizer's State by name
    best: NDArray  # (P,), the parameters with the best validation bound; (0,) without validation data
    progress: Progress
    estimator: dict[str, NDArray]  # the arrays of the estimator's State by name; empty if it has none

    def __repr__(self) -> str:
        return short_repr(self)


class NonFiniteError(FloatingPointError):
    """Training diverged: a step met a NaN or an infinite value, or would have led to one, and was not taken.

    The parameters are the last ones at hand whose bound was finite: those before that step, those at the beginning of
    an epoch, or with validation data the best ones.

    Attributes
    ----------
    step : int, counted from 1
    place : str, the first layer, gradient or update with such a value
    learning_rate : float
    """

    def __init__(self, step: int, place: str, learning_rate: float) -> None:
        self.step, self.place = step, place
        self.learning_rate = learning_rate
        super().__init__(
            f"training stopped at step {step}: {place} is not finite. The last parameters whose bound was finite are "
            f"kept, or the best ones on validation data. A smaller learning_rate than {learning_rate:g} is the usual "
            "remedy; at the first step, it is a smaller init_std"
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.step, self.place, self.learning_rate)  # an exception would pickle its message instead


def _as_state(kind: Any, arrays: dict) -> Any:
    """Return copies of saved arrays as a State of this kind; None if they are those of another kind of estimator."""
    if kind is None or set(arrays) != set(kind._fields):
        return None
    return kind(**{name: array.copy() for name, array in arrays.items()})


class Trainer:
    """A training that can be run step by step: an estimator, an optimizer and the order of the rows. See `train`.

    Parameters
    ----------
    estimator : Estimator
    parameters : Parameters, changed in place
    data : preprocessing.Data
    rng : numpy.random.Generator, for the order of the rows and the noise
    settings : Settings
    state : State, optional
        Resume from this state; overwrites ``parameters``.
    parallel : Serial or Team
        With a team, the estimator is a `Sharded` one, and all ranks do the same.

    Attributes
    ----------
    progress : Progress
    best : array (P,), the parameters with the best validation bound, iterate or average, or None
    optimizer : Optimizer
    estimator_state : the estimator's State, or None
    kept : str
        What the parameters are after training: the best or last iterate, or the average of the iterates.
    sound : State
        From the last beginning of an epoch whose parameters have been found to give a finite bound.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.estimators import ESTIMATORS
    >>> from npvae.model import Architecture, Model
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> from npvae.training import Settings, Trainer
    >>> rng = np.random.default_rng(0)
    >>> table = survey((rng.random((20, 4)) < 0.5).astype(np.uint8))
    >>> data = fit_preprocessor(table, "bernoulli")[0].data(table)
    >>> model = Model(Architecture(4, 1, hidden_layer_sizes=(3,)), reference)
    >>> parameters = model.parameters(model.initial(rng, 0.1))
    >>> estimator = ESTIMATORS["sgvb-b"].make(model, 1, len(data.X))
    >>> trainer = Trainer(estimator, parameters, data, rng, Settings(batch_size=10))
    >>> bounds = [elbo for elbo, _ in map(trainer.step, trainer.minibatches())]
    >>> len(bounds), trainer.steps_per_epoch
    (2, 2)
    """

    def __init__(
        self,
        estimator: Estimator,
        parameters: Parameters,
        data: Data,
        rng: np.random.Generator,
        settings: Settings,
        state: State | None = None,
        parallel: Serial = SERIAL,
    ) -> None:
        self.estimator, self.parameters, self.data, self.rng = estimator, parameters, data, rng
        self.settings, self.parallel = settings, parallel
        self.batch_size = min(settings.batch_size, len(data.X))
        self._buffers = Buffers(estimator.model.backend, estimator.model.dtype)
        # Steps that do not move the parameters: as many as in the authors' code, but at most a tenth of a short run.
        updates = int(settings.max_epochs) * self.steps_per_epoch * estimator.updates_per_sample
        accumulate_only = min(100, updates // 10) if UPDATES[settings.optimizer].accumulates else 0
        self.progress = Progress(accumulate_only) if state is None else dataclasses.replace(state.progress)
        self.best: NDArray | None = None if state is None or not len(state.best) else state.best.copy()
        layout, model = parameters.layout, estimator.model
        # Random weights have their prior in the bound. The encoder's weights, which are not random, then have none.
        decay = 0.0 if model.architecture.random_weights else settings.weight_prior / len(data.X)
        rule = UpdateRule(
            settings.learning_rate, decay, self.progress.accumulate_only, layout.n_weights, settings.schedule, updates,
            self.progress.begun, settings.averaging != "none", settings.clip_norm,
        )  # fmt: skip
        if state is not None and not set(rule.names(settings.optimizer)) <= set(state.optimizer):
            # An optimizer, or an average, that is new in this run: its state is new, too.
            self.progress.begun, self.progress.accumulate_only = state.progress.counter[0], accumulate_only
            state = state._replace(optimizer={})
            rule = rule._replace(begun=self.progress.begun, accumulate_only=accumulate_only)
        self.optimizer = Optimizer(settings.optimizer, model.backend, rule, layout.size, model.dtype)
        self.estimator_state: Any = None
        if state is not None:
            asarray = model.backend.asarray
            parameters.vector[:] = asarray(state.parameters, model.dtype)
            for name in state.optimizer.keys() & self.optimizer.state.arrays.keys():
                self.optimizer.state.arrays[name][:] = asarray(state.optimizer[name], model.dtype)
            self.optimizer.state.counter[:] = asarray(state.progress.counter, np.int64)
            rng.bit_generator.state = state.progress.rng
            self.estimator_state = _as_state(estimator.State, state.estimator)
        self._contents: NDArray[np.uint64] | None = None  # the key of each row's content, hashed when it is needed
        self.sound = self._start = self.snapshot()
        self.kept = ""

    def _copy(self, parameters: Parameters | None = None) -> NDArray:
        """Return a copy of the parameters, or of other ones, on the host."""
        return self._on_host((self.parameters if parameters is None else parameters).vector)

    def _on_host(self, array: Any) -> NDArray:
        """Return a copy of an array of the backend on the host. From a device to the host it is copied anyway."""
        host = self.estimator.model.backend.to_numpy(array)
        return np.array(host) if host is array else host

    def _put(self, vector: NDArray) -> None:
        """Set the parameters."""
        self.parameters.vector[:] = self.estimator.model.backend.asarray(vector, self.estimator.model.dtype)

    def snapshot(self) -> State:
        """Return a copy of the current state."""
        optimizer = self.optimizer.state
        self.progress.counter = self._on_host(optimizer.counter).tolist()
        self.progress.rng = self.rng.bit_generator.state
        estimator = {} if self.estimator_state is None else self.estimator_state._asdict()
        return State(
            parameters=self._copy(),
            optimizer={name: self._on_host(array) for name, array in optimizer.arrays.items()},
            best=np.array([] if self.best is None else self.best),
            progress=dataclasses.replace(self.progress),
            estimator={name: np.array(array) for name, array in estimator.items()},
        )

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches per epoch; the last one may be smaller."""
        return int(-(-len(self.data.X) // self.batch_size))

    def minibatches(self) -> Iterator[NDArray]:
        """Yield the row indices of each remaining minibatch of the epoch. An epoch has every row once, shuffled."""
        progress, generator = self.progress, self.rng.bit_generator
        if progress.seen == 0:
            progress.order = generator.state
            order = self.rng.permutation(len(self.data.X))
        else:  # resumed within the epoch: draw the same order again
            now, generator.state = generator.state, progress.order
            order = self.rng.permutation(len(self.data.X))
            generator.state = now
        for start in range(progress.seen, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def step(self, rows: NDArray) -> tuple[float, float]:
        """Take one step on a minibatch, given by its row indices.

        A step is ``updates_per_sample`` updates of the parameters, usually one.

        Returns
        -------
        elbo, value : float
            The bound and the estimator's value in nats per datapoint, each the mean over the updates.

        Raises
        ------
        NonFiniteError
            If the value or its gradient is not finite.
        """
        estimator, x = self.estimator, self._gather(rows, self._keys(rows))
        noise, bounds, values = estimator.draw(self.rng, len(rows)), [], []
        samples, self.estimator_state = estimator.sample(self.parameters, x, rows, noise, self.estimator_state)
        for _ in range(estimator.updates_per_sample):
            value, elbo, gradient = estimator.value_and_grad(self.parameters, x, samples)
            if not math.isfinite(value):
                self._fail(int(self.optimizer.state.counter[0]) + 1, x, samples)
            if not self.optimizer.step(self.parameters, gradient):
                self._fail(int(self.optimizer.state.counter[0]), x, samples, self._rejected(gradient))
            bounds.append(elbo)
            values.append(value)
        elbo, value = (float(sum(numbers) / len(numbers) + self._offset(rows)) for numbers in (bounds, values))
        return elbo, value

    def _offset(self, rows: NDArray) -> Any:
        """Return what the bound of minibatches (..., M) has besides that of x: see `preprocessing.Data`."""
        return self.data.log_jacobian + np.mean(self.data.fixed[rows], axis=-1)

    def _gather(self, rows: NDArray, keys: NDArray | None = None) -> Any:
        """Return a minibatch as the estimator takes it."""
        if isinstance(self.estimator, Sharded):
            return self.estimator.gather(self.data, rows, keys)
        return self.estimator.model.gather(self.data, rows, self._buffers, keys)

    def _keys(self, rows: NDArray) -> NDArray[np.uint64] | None:
        """Return what decides how rows (M,) are binarized in this epoch; None if they are not."""
        binarization = self.data.binarization
        if binarization is None:
            return None
        if binarization.anew:
            return key_of(binarization.seed, self.progress.epoch, rows)
        if self._contents is None:
            self._contents = self._hash_contents(binarization.seed)
        return self._contents[rows]

    def _hash_contents(self, seed: int) -> NDArray[np.uint64]:
        """Return the key of the content of each row of the data: (N,)."""
        model, grey, n_rows = self.estimator.model, self.data._replace(binarization=None), len(self.data.X)
        parts = np.split(np.arange(n_rows), range(self.batch_size, n_rows, self.batch_size))

        def keys(rows: NDArray) -> NDArray[np.uint64]:
            return key_of_content(model.backend.to_numpy(model.gather(grey, rows, self._buffers)), seed)

        return np.concatenate(list(self.parallel.map(keys, parts)))

    def _rejected(self, gradient: Any) -> str:
        """Say what of a step was rejected by the optimizer, which has marked the gradient: see `Optimizer.step`."""
        to_numpy = self.estimator.model.backend.to_numpy
        bad = (name for name, array in gradient.items() if not np.all(np.isfinite(to_numpy(array))))
        return f"the update of {next(bad, 'the parameters')}"

    def _fail(self, step: int, x: Any, samples: Any, otherwise: str = "the bound") -> NoReturn:
        """Raise `NonFiniteError` for a step, with the first place where its computation is not finite.

        Before, go back to sound parameters, unless the update alone failed, and those before it are sound.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            place = first_nonfinite(self.estimator, self.parameters, x, samples) or otherwise
        if place != otherwise or otherwise == "the bound":
            self._put(self.sound.parameters)
        raise NonFiniteError(step, place, self.settings.learning_rate)

    def check(self, score: Callable[[Parameters, Data, NDArray], NDArray], n_rows: int) -> None:
        """Check that the model scores some rows of the data: after the last step, no further one would notice.

        Raises
        ------
        NonFiniteError
            If the score of a row is not finite.
        """
        rows = np.unique(np.linspace(0, len(self.data.X) - 1, n_rows).astype(int))
        with np.errstate(over="ignore", invalid="ignore"):
            bad = rows[~np.isfinite(score(self.parameters, self.data, rows))]
            if len(bad):
                x = self._gather(bad)
                noise = self.estimator.draw(self.rng, len(bad))
                samples, _ = self.estimator.sample(self.parameters, x, bad, noise)
                self._fail(int(self.estimator.model.backend.to_numpy(self.optimizer.state.counter)[0]), x, samples)

    def steps(self, batches: list[NDArray]) -> Any:
        """Take a step on each minibatch, as `step`, and return (elbo, value) of each.

        If the backend has a ``Runner`` and the estimator supports it, no step is waited for: all are launched first.
        """
        if self.runner is None:
            return [self.step(rows) for rows in batches]
        to_numpy, counter = self.estimator.model.backend.to_numpy, self.optimizer.state.counter
        before = int(to_numpy(counter)[0])
        keys = None if self.data.binarization is None else np.array([self._keys(rows) for rows in batches])
        values = self.runner.run(batches, self.rng, keys)
        failed = int(to_numpy(counter)[1])
        if failed >= 0:  # the parameters are those before it: repeat it to find the place
            if failed > before + 1:  # the steps before it found the parameters sound from which they began
                self.sound = self._start
            rows, noise = batches[failed - before - 1], self.runner.noise(failed - before - 1)
            x = self._gather(rows, self._keys(rows))
            samples, _ = self.estimator.sample(self.parameters, x, rows, noise)
            self._fail(failed, x, samples, self._repeat(failed, x, samples))
        # The value is the bound: see `RunsAhead`.
        bounds = values + self._offset(np.array(batches))
        return zip(bounds, bounds)

    def _repeat(self, step: int, x: Any, samples: Any) -> str:
        """Repeat a step that was not taken, on a copy of the parameters, and say what of it is rejected."""
        model, optimizer = self.estimator.model, self.optimizer
        copy = model.parameters(model.backend.to_numpy(self.parameters.vector))
        optimizer.state.counter[:] = model.backend.asarray([step - 1, -1], np.int64)
        result = self.estimator.value_and_grad(self.parameters, x, samples)
        finite = not math.isfinite(result.value) or optimizer.step(copy, result.gradient)
        return "the bound" if finite else self._rejected(result.gradient)

    @functools.cached_property
    def runner(self) -> Any:
        """The backend's `Runner`, made for the first run of steps; None if steps are taken one at a time."""
        runner = self.estimator.model.backend.Runner
        if not self.estimator.runs_ahead or runner is None:
            return None
        return runner(self.estimator, self.optimizer, self.parameters, self.data)

    def runs(self) -> Iterator[list[NDArray]]:
        """Yield the remaining minibatches of the epoch as lists for `steps`, of equal minibatch size in each list."""
        most = (lambda n_rows: 1) if self.runner is None else self.runner.most
        for n_rows, batches in itertools.groupby(self.minibatches(), len):
            while run := list(itertools.islice(batches, most(n_rows))):
                yield run

    def epoch(self, stop: Callable[[], bool]) -> tuple[float, float, bool]:
        """Train on the remaining minibatches of the epoch.

        Parameters
        ----------
        stop : callable () -> bool, called after each step or run of steps; True ends the training here

        Returns
        -------
        elbo, value : float, mean bound and value of the rows of the epoch so far, in nats per datapoint
        whole : bool, whether the epoch is complete
        """
        progress, self._start = self.progress, self.snapshot()
        for run in self.runs():
            results = self.steps(run)
            self.sound = self._start
            for rows, (elbo, value) in zip(run, results):
                progress.total += float(len(rows) * elbo)
                progress.total_value += float(len(rows) * value)
                progress.seen += len(rows)
                progress.samples_seen += len(rows)
            if self.parallel.any(stop()):
                break
        self.parallel.agree(lambda: {"the checksum of the parameters": zlib.crc32(self._copy().tobytes())})
        elbo, value = progress.total / progress.seen, progress.total_value / progress.seen
        whole = progress.seen == len(self.data.X)
        if whole:
            progress.epoch, progress.seen, progress.total, progress.total_value = progress.epoch + 1, 0, 0.0, 0.0
        return elbo, value, whole

    def score(self, score_valid: Callable[[Parameters], float] | None) -> float:
        """Return the bound of the validation data (NaN without), and store the parameters if it is the best so far.

        With averaging, it is the better bound of the two: of the last iterate and of the average.
        """
        progress, bounds = self.progress, {}
        if self._has_moved:
            progress.since_best += 1
        if score_valid is None:
            return math.nan
        for name, parameters in self._candidates().items():
            bounds[name] = bound = float(score_valid(parameters))
            if bound > progress.best_bound:
                self.best, progress.best = self._copy(parameters), f"the {name} after epoch {progress.epoch - 1}"
                progress.best_bound, progress.since_best = bound, 0
        return max(bounds.values())

    @property
    def _has_moved(self) -> bool:
        """Whether a step has moved the parameters."""
        return bool(self.optimizer.state.counter[0] > self.progress.begun + self.progress.accumulate_only)

    def _candidates(self) -> dict[str, Parameters]:
        """Return what may be kept, by name: the last iterate, and with averaging the average of the iterates."""
        candidates = {"iterate": self.parameters}
        if self.optimizer.rule.averaging and self._has_moved:
            average = self.optimizer.state.arrays[AVERAGE]
            candidates["average of the iterates"] = self.estimator.model.layout.view(average)
        return candidates

    def settle(self) -> None:
        """Set the parameters to those that training leads to: the best ones, or else the average, or the last ones."""
        if self.best is not None:
            self.restore_best()
            self.kept = f"{self.progress.best}, with the best validation bound ({self.progress.best_bound:.2f} nats)"
            return
        *_, (name, parameters) = self._candidates().items()
        self._put(self._copy(parameters))
        self.kept = f"the {name}"

    def restore_best(self) -> None:
        """Set the parameters to those with the best validation bound, if there are any."""
        if self.best is not None:
            self._put(self.best)


def train(
    trainer: Trainer,
    score_valid: Callable[[Parameters], float] | None = None,
    callbacks: Sequence[Callable[[Epoch], Any]] = (),
    keep: Callable[[Trainer, Epoch | None], None] = lambda trainer, epoch: None,
) -> str | None:
    """Train for ``max_epochs``, or until the validation bound has not improved for ``patience`` epochs.

    Training also ends if a callback returns True, after that epoch, and if Ctrl-C is pressed, after the current
    minibatch (or the current run of minibatches, where a backend takes many at once). Afterwards
    ``trainer.parameters`` are the last ones, or with averaging the average, or with validation data the best ones of
    both: ``trainer.kept`` says which.

    Parameters
    ----------
    trainer : Trainer
    score_valid : callable or None
        From Parameters to the bound of the validation data, in nats per datapoint.
    callbacks : sequence of callables
        Each is called with the `Epoch` after each epoch. True stops the training.
    keep : callable (trainer, epoch)
        Called after each step or run of steps with None, and after each epoch with the `Epoch`, before the callbacks.
        It may take a `Trainer.snapshot`.

    Returns
    -------
    str or None : why training ended before ``max_epochs``; None if it did not

    Raises
    ------
    NonFiniteError
        If training diverges.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.estimators import ESTIMATORS
    >>> from npvae.model import Architecture, Model
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> from npvae.training import Settings, Trainer, train
    >>> rng = np.random.default_rng(0)
    >>> table = survey((rng.random((20, 4)) < 0.5).astype(np.uint8))
    >>> data = fit_preprocessor(table, "bernoulli")[0].data(table)
    >>> model = Model(Architecture(4, 1, hidden_layer_sizes=(3,)), reference)
    >>> parameters = model.parameters(model.initial(rng, 0.1))
    >>> estimator = ESTIMATORS["sgvb-b"].make(model, 1, len(data.X))
    >>> trainer = Trainer(estimator, parameters, data, rng, Settings(batch_size=10, max_epochs=5))
    >>> train(trainer, callbacks=[lambda epoch: epoch.epoch == 3])
    'a callback stopped training after epoch 3'
    >>> trainer.progress.samples_seen
    60
    """
    try:
        stopped = _train(trainer, score_valid, callbacks, keep)
    except BaseException:
        trainer.restore_best()
        raise
    trainer.settle()
    return stopped


def _call(callbacks: Sequence[Callable[[Epoch], Any]], record: Epoch) -> bool:
    """Call all callbacks; return whether one of them returned True."""
    answers = [callback(record) for callback in callbacks]
    return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)


def _train(trainer, score_valid, callbacks, keep):
    """Do what `train` does but for the choice of the parameters."""
    progress, started = trainer.progress, time.perf_counter() - trainer.progress.seconds

    def out_of_patience() -> bool:
        return score_valid is not None and progress.since_best >= trainer.settings.patience

    def after_step() -> bool:
        progress.seconds = time.perf_counter() - started
        keep(trainer, None)
        return interrupted()

    with interruptible() as interrupted:
        while progress.epoch <= trainer.settings.max_epochs and not out_of_patience():
            number = progress.epoch
            elbo, value, whole = trainer.epoch(after_step)
            bound = trainer.score(score_valid) if whole else math.nan
            progress.seconds = trainer.parallel.first(lambda: time.perf_counter() - started)
            record = Epoch(number, progress.samples_seen, elbo, bound, progress.seconds, value)
            keep(trainer, record)
            if trainer.parallel.first(lambda record=record: _call(callbacks, record)):
                return f"a callback stopped training after epoch {record.epoch}"
            if trainer.parallel.any(interrupted()) and progress.epoch <= trainer.settings.max_epochs:
                return f"{INTERRUPTED} in epoch {record.epoch}: what was learnt until then is kept"
    if out_of_patience():
        return f"stopped after epoch {progress.epoch - 1}: no better validation bound for {progress.since_best} epochs"
    return None
