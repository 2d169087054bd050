"""Many training steps on a GPU without waiting for any: one step is captured as a CUDA graph, and replayed.

The order of the rows and the noise of the steps are drawn on the host, the same numbers as on every backend, and copied
ahead while the device computes. The values stay on the device until a run of steps is over, and so does the news that
one was not finite: the steps after it change nothing.
"""

import functools
import logging

import numpy as np
from numba import cuda

logger = logging.getLogger(__name__)

#: Steps whose order and noise are prepared at a time.
CHUNK = 50

#: Most steps before the host waits, and most bytes of their noise.
MOST, NOISE_BYTES = 1000, 2**27

#: Share of the device's free memory that the data may take; more of it is copied as it is needed.
SHARE = 0.7


class Runner:
    """Runs steps of `estimators.SGVB` with one optimizer on one data set.

    Parameters
    ----------
    estimator : SGVB
    optimizer : Optimizer
    parameters : Parameters, on the device
    data : preprocessing.Data
    """

    def __init__(self, estimator, optimizer, parameters, data):
        from . import cuda as backend

        self.backend = backend
        self.estimator, self.optimizer, self.parameters, self.data = estimator, optimizer, parameters, data
        self.stream = cuda.stream()
        self._steps = {}  # size of a minibatch -> Step
        self._scaling = [backend.asarray(array, np.float64) for array in data.scaling]
        self._resident, dtype = None, np.dtype(backend.readable(data.X.dtype))
        if data.X.size * dtype.itemsize < SHARE * cuda.current_context().get_memory_info().free:
            self._resident = backend.asarray(data.X, dtype)

    def _most(self, n_rows):
        """Return how many steps with minibatches of this size have room for their noise on the device."""
        noise = 4 * n_rows * self.estimator.n_samples * self.estimator.model.architecture.n_components
        return max(1, min(MOST, NOISE_BYTES // noise))

    def run(self, batches, rng):
        """Take a step for each minibatch.

        Parameters
        ----------
        batches : list of row indices (M,), all of one length
        rng : numpy.random.Generator, for the noise

        Returns
        -------
        values : array (n,) float64; those after a step that failed have no meaning
        """
        most = self._most(len(batches[0]))
        return np.concatenate([self._run(batches[i : i + most], rng) for i in range(0, len(batches), most)])

    def _run(self, batches, rng):
        M = len(batches[0])
        if M not in self._steps:
            self._steps[M] = Step(self, M)
        step = self._steps[M]
        step.position.copy_to_device(np.zeros(1, np.int32), stream=self.stream)
        for start in range(0, len(batches), CHUNK):
            part = slice(start, min(start + CHUNK, len(batches)))
            step.prepare(self, part, np.array(batches[part], np.int64), rng)
            for _ in range(part.start, part.stop):
                step.launch(self)
        values = step.values.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return values[: len(batches)]


class Step:
    """A step with minibatches of one size: its buffers, and its graph once it has been captured."""

    def __init__(self, runner, n_rows):
        backend, model, L = runner.backend, runner.estimator.model, runner.estimator.n_samples
        most, J = runner._most(n_rows), model.architecture.n_components
        self.x = backend.empty((n_rows, runner.data.X.shape[1]), model.dtype)
        self.eps = backend.empty((L * n_rows, J), model.dtype)
        self.rows = backend.empty((most, n_rows), np.int64)
        self.noise = backend.empty((most, L * n_rows, J), np.float32)
        self.values = backend.empty(most, np.float64)
        self.position = backend.empty(1, np.int32)
        # Page-locked memory, from which the device copies by itself.
        self._rows, self._noise = (cuda.pinned_array(a.shape, a.dtype) for a in (self.rows, self.noise))
        self.X = runner._resident
        if self.X is None:
            shape = CHUNK * n_rows, runner.data.X.shape[1]
            self.X = backend.empty(shape, backend.readable(runner.data.X.dtype))
        self._launches, self._graph = 0, None

    def prepare(self, runner, part, rows, rng):
        """Draw the noise of some steps and send it ahead, with their rows (n, M)."""
        stream, X = runner.stream, runner.data.X
        if runner._resident is None:  # the device gets these rows, and counts them from zero in every chunk
            self.X[: rows.size].copy_to_device(X[rows.ravel()].astype(self.X.dtype, copy=False), stream=stream)
            rows = np.arange(rows.size).reshape(rows.shape)
        self._rows[part] = rows
        runner.estimator.model.noise(rng, self._noise[part])
        self.rows[part].copy_to_device(self._rows[part], stream=stream)
        self.noise[part].copy_to_device(self._noise[part], stream=stream)

    def launch(self, runner):
        """Take the next step: the first compiles and allocates, the second captures, and from then on it is replayed."""
        backend, stream = runner.backend, runner.stream
        self._launches += 1
        if self._launches == 2:
            self._graph = captured(lambda: self._compute(runner))
        if self._graph is not None:
            self._graph(stream)
        else:
            with backend.launching_on(stream):
                self._compute(runner)

    def _compute(self, runner):
        """Launch the kernels of a step."""
        backend, estimator, parameters = runner.backend, runner.estimator, runner.parameters
        backend.gather_rows(self.X, self.rows, self.position, *runner._scaling, self.x)
        backend.take_noise(self.noise, self.position, self.eps)
        done, gradient = estimator.passes(parameters, self.x, self.eps)
        backend.record_value(done.log_likelihood, done.kl, self.values, self.position, gradient)
        runner.optimizer.launch(parameters, gradient)


def captured(launches):
    """Capture what a function launches, and return a function from a stream that replays it there.

    It must have been called before: in a capture nothing may be compiled or allocated. None where there are no graphs.
    """
    from .cuda import launching_on
    from .cuda_kernels import SIMULATED

    if SIMULATED:
        return None
    try:
        from cuda.core import Device, Stream

        device = Device(cuda.get_current_device().id)
        device.set_current()
        builder = device.create_graph_builder().begin_building()
        with launching_on(builder):
            launches()
        graph = builder.end_building().complete()
    except Exception as error:  # whatever it is: the kernels can be launched one by one
        logger.warning("no CUDA graph (%s: %s): kernels are launched one by one", type(error).__name__, error)
        return None
    core_stream = functools.cache(lambda stream: Stream.from_handle(int(stream)))
    return lambda stream: graph.launch(core_stream(stream))
