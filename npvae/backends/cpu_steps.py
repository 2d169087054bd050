"""Many training steps on the CPU in one call of compiled code: the jobs of one step are recorded, and run again.

The first step is taken by the same functions as on every backend; `jobs.Recording` keeps what they do, and a table of
it takes the other steps. The results are the same to the last bit as those of steps that are taken one by one.
"""

import math
import time

import numpy as np

from .cpu_minibatch import binarize_rows, gather_rows, gathering
from .cpu_network import N_FLAGS
from .cpu_updates import clip_norm, take_step
from .jobs import PASS, Recording, kernel, read, run, share

#: Seconds of a run: so long Ctrl-C and a checkpoint that is due must wait.
SECONDS = 0.1

#: Most steps of a run, and most bytes of what they read: their noise, and a copy of their rows where one is needed.
MOST, BYTES = 250, 2**26


class Runner:
    """See `interface.Runner`. All that the estimator computes must be jobs: see `jobs`."""

    def __init__(self, estimator, optimizer, parameters, data):
        self.estimator, self.optimizer, self.parameters, self.data = estimator, optimizer, parameters, data
        self._steps = {}  # size of a minibatch -> Step

    def _step(self, n_rows):
        if n_rows not in self._steps:
            self._steps[n_rows] = Step(self, n_rows)
        return self._steps[n_rows]

    def most(self, n_rows):
        """See `interface.Runner.most`."""
        return self._step(n_rows).most

    def run(self, batches, rng, keys=None):
        """See `interface.Runner.run`."""
        started = time.perf_counter()
        self._last = self._step(len(batches[0]))
        values = self._last.run(batches, rng, keys)
        self._last.plan_ahead((time.perf_counter() - started) / len(batches), len(batches))
        return values

    def noise(self, n):
        """See `interface.Runner.noise`."""
        return self._last.noise[n]


class Step:
    """A step with minibatches of one size: what its jobs read for each of many steps, and their table."""

    def __init__(self, runner, n_rows):
        shape, dtype, data = runner.estimator.noise_shape(n_rows), runner.parameters.vector.dtype, runner.data
        numbers = max(math.prod(shape), n_rows * data.X.shape[1])
        size = max(1, min(MOST, BYTES // (8 * max(1, numbers))))
        self.runner, self.most = runner, 1
        self.rows, self._drawn = np.zeros((size, n_rows), np.int64), np.empty((size, *shape), np.float32)
        self.noise = self._drawn if dtype == np.float32 else np.empty(self._drawn.shape, dtype)
        self.keys = np.zeros((size, n_rows), np.uint64)
        self.numbers, self.values = np.zeros((size, 4)), np.zeros(size)
        # The minibatches themselves, of data that no job can gather.
        by_jobs = data.mask is None and gathering(data.X) is not None
        self.x = None if by_jobs else np.empty((size, n_rows, data.X.shape[1]), dtype)
        self._recording = None  # once a step has been taken

    def plan_ahead(self, seconds, count):
        """Set the length of the next run, given the seconds of a step in the last one, and its length."""
        self.most = max(1, min(len(self.values), 2 * count, int(SECONDS / seconds)))

    def run(self, batches, rng, keys):
        """See `interface.Runner.run`."""
        runner, count, first = self.runner, len(batches), 0
        self.rows[:count] = batches
        if self.x is not None:
            for rows, x in zip(batches, self.x):
                runner.estimator.model.take(runner.data, rows, x)
        for n in range(count):
            runner.estimator.draw_into(rng, self._drawn[n])
        self.noise[:count] = self._drawn[:count]
        if keys is not None:
            self.keys[:count] = keys
        state, rule = runner.optimizer.state, runner.optimizer.rule
        before = int(state.counter[0])
        self.numbers[:count] = [rule.numbers(before + 1 + n) for n in range(count)]
        if self._recording is None:
            with Recording() as recording:
                self._control = self._compute()
            self._recording, first = recording, 1
        run(self._recording.table, first, count)
        self._control[N_FLAGS - 1] = 1  # for steps that are taken in another way
        return self.values[:count].copy()

    def _compute(self):
        """Take the first of the steps; return the control numbers of its gradient."""
        runner = self.runner
        estimator, optimizer, parameters, data = runner.estimator, runner.optimizer, runner.parameters, runner.data
        dtype, shape = parameters.vector.dtype, (self.rows.shape[1], data.X.shape[1])
        x, eps = np.empty(shape, dtype), np.empty(self.noise.shape[1:], dtype)
        if self.x is None:
            gather_rows(data.X, self.rows, data.scaling, x)
        else:
            _take(dtype, self.x, x, work=PASS * x.size)
        if data.binarization is not None:
            binarize_rows(x, self.keys, x)
        _take(dtype, self.noise, eps, work=PASS * eps.size)
        done = estimator.passes(parameters, x, eps)
        _record(dtype, done.log_likelihood, done.kl, self.values, done.gradient.control, work=0)
        if optimizer.rule.clip_norm is not None:
            clip_norm(done.gradient, optimizer.rule.clip_norm)
        take_step(optimizer.name, parameters, done.gradient, optimizer.state, optimizer.rule, self.numbers)
        return done.gradient.control


@kernel("f3 f2")
def _take(job, step, work, thread, threads):
    """Copy what a step reads to where the other jobs find it."""
    source, out = read(job)
    start, stop = share(len(out), thread, threads)
    for i in range(start, stop):
        for j in range(out.shape[1]):
            out[i, j] = source[step, i, j]


@kernel("f1 f1 d1 i1")
def _record(job, step, work, thread, threads):
    """Record the value of a step, mean(log_likelihood) - mean(kl), summed in order, and whether it is finite."""
    log_likelihood, kl, values, control = read(job)
    if thread == 0:
        first, second = 0.0, 0.0
        for number in log_likelihood:
            first += np.float64(number)
        for number in kl:
            second += np.float64(number)
        values[step] = first / len(log_likelihood) - second / len(kl)
        control[N_FLAGS - 1] = math.isfinite(values[step])
