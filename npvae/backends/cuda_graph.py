"""Many training steps on a GPU without waiting for any: one step is captured as a CUDA graph, and replayed.

Rows and noise of the steps are drawn on the host, and copied ahead while the device computes. The values stay on the
device until a run of steps is over, and so does the flag that says that one was not finite: the steps after it change
nothing.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from .cuda_kernels import SIMULATED
from .cuda_launch import (
    asarray,
    beside,
    binarize_rows,
    empty,
    gather_rows,
    launching_on,
    readable,
    record_value,
    wait,
)

logger = logging.getLogger(__name__)

#: Steps whose order and noise are prepared at a time, and which are one graph: the device pauses between two graphs.
CHUNK = 10

#: Most steps before the host waits: only then can training be interrupted or saved. And most bytes of their noise.
MOST, NOISE_BYTES = 1000, 2**27

#: Share of the device's free memory that the data may take. Larger data are copied in chunks, as they are needed. So
#: are masked arrays, since the host puts their values and masks together.
SHARE = 0.7


class Runner:
    """See `interface.Runner`. The passes of the estimator launch kernels, and their results are on the device."""

    def __init__(self, estimator, optimizer, parameters, data):
        self.estimator, self.optimizer, self.parameters, self.data = estimator, optimizer, parameters, data
        self.stream = cuda.stream()
        self.scaling = [asarray(array, np.float64) for array in data.scaling]
        self.resident, dtype = None, readable(data.values(slice(0)).dtype)
        fits = data.X.size * dtype.itemsize < SHARE * cuda.current_context().get_memory_info().free
        if isinstance(data.X, np.ndarray) and data.mask is None and fits:
            self.resident = asarray(data.X, dtype)
        self._steps = {}  # size of a minibatch -> Step

    def run(self, batches: Sequence[NDArray], rng: np.random.Generator, keys: NDArray | None = None) -> NDArray:
        """See `interface.Runner.run`."""
        self._last = self._step(len(batches[0]))
        return self._last.run(batches, rng, keys)

    def _step(self, n_rows):
        if n_rows not in self._steps:
            self._steps[n_rows] = Step(self, n_rows)
        return self._steps[n_rows]

    def most(self, n_rows):
        """See `interface.Runner.most`."""
        return self._step(n_rows).most

    def noise(self, n):
        """See `interface.Runner.noise`."""
        return asarray(self._last.drawn[n], self.parameters.vector.dtype)


class Step:
    """A step with minibatches of one size: its buffers, and its graphs once they have been captured.

    The rows and the noise of up to CHUNK steps are on the device at a time, and a graph has a step for each of them.
    """

    def __init__(self, runner, n_rows):
        shape, (_, n_features) = runner.estimator.noise_shape(n_rows), runner.data.X.shape
        self.runner, dtype = runner, runner.parameters.vector.dtype
        self.most = max(1, min(MOST, NOISE_BYTES // (4 * math.prod(shape))))
        self.x = [empty((n_rows, n_features), dtype) for _ in range(2)]  # of a step, and of the next one
        self.rows, self.noise = empty((CHUNK, n_rows), np.int64), empty((CHUNK, *shape), dtype)
        self.values, self.position = empty(self.most, np.float64), empty(1, np.int32)
        # Page-locked memory for a whole run, from which the device copies while the host goes on.
        self._rows = cuda.pinned_array((self.most, n_rows), np.int64)
        self.drawn = cuda.pinned_array((self.most, *shape), dtype)
        self.keys = empty((CHUNK, n_rows), np.uint64) if runner.data.binarization is not None else None
        self.X = runner.resident
        if self.X is None:
            self.X = empty((CHUNK * n_rows, n_features), readable(runner.data.values(slice(0)).dtype))
        self._graphs = None  # by number of steps, once one has been computed

    def run(self, batches, rng, keys):
        """See `interface.Runner.run`: take the steps, at most ``most``, and wait for their values."""
        stream, start = self.runner.stream, 0
        self.position.copy_to_device(np.zeros(1, np.int32), stream=stream)
        while start < len(batches):
            is_whole = self._graphs is not None and start + CHUNK <= len(batches)
            part = slice(start, start + CHUNK if is_whole else start + 1)
            self.prepare(part, np.array(batches[part], np.int64), rng, keys)
            self.launch(part.stop - part.start)
            start = part.stop
        values = self.values.copy_to_host(stream=stream)
        stream.synchronize()
        return values[: len(batches)]

    def prepare(self, part, rows, rng, keys):
        """Draw the noise of some steps and send it ahead, with their rows (n, M)."""
        runner, stream, count = self.runner, self.runner.stream, len(rows)
        if runner.resident is None:  # the device gets these rows only, and their numbers start at zero in every chunk
            X = runner.data.values(rows.ravel()).astype(self.X.dtype, copy=False)
            self.X[: rows.size].copy_to_device(X, stream=stream)
            rows = np.arange(rows.size).reshape(rows.shape)
        self._rows[part] = rows
        self.drawn[part] = runner.estimator.draw_into(rng, np.empty(self.drawn[part].shape, np.float32))
        self.rows[:count].copy_to_device(self._rows[part], stream=stream)
        self.noise[:count].copy_to_device(self.drawn[part], stream=stream)
        if self.keys is not None:
            self.keys[:count].copy_to_device(keys[part], stream=stream)

    def launch(self, count):
        """Take the steps that are prepared: the first of all compiles and allocates, later ones are replayed."""
        stream, graph = self.runner.stream, None
        if self._graphs is None:
            self._graphs = {}
        else:
            if count not in self._graphs:
                self._graphs[count] = captured(lambda: self._compute(count))
            graph = self._graphs[count]
        if graph is not None:
            graph(stream)
        else:
            with launching_on(stream):
                self._compute(count)

    def _compute(self, count):
        """Launch the kernels of some steps."""
        runner = self.runner
        self._gather(0)
        for i in range(count):
            if i + 1 < count:
                with beside():
                    self._gather(i + 1)
            done = runner.estimator.passes(runner.parameters, self.x[i % 2], self.noise[i])
            record_value(done.log_likelihood, done.kl, self.values, self.position, done.gradient)
            runner.optimizer.launch(runner.parameters, done.gradient)

    def _gather(self, i):
        """Launch the copy of the minibatch of step i."""
        x = self.x[i % 2]
        gather_rows(self.X, self.rows[i], *self.runner.scaling, x)
        if self.keys is not None:
            binarize_rows(x, self.keys[i], x)


def captured(launches: Callable[[], object]) -> Callable | None:
    """Capture what a function launches as a graph, and return a function from a stream that replays it there.

    The function must have been called before: in a capture nothing may be compiled or allocated. Returns None where
    there are no graphs; the log says why.
    """
    if SIMULATED:
        return None
    try:
        from cuda.core import Device, Stream

        device = Device(cuda.get_current_device().id)
        device.set_current()
        builder = device.create_graph_builder().begin_building()
        with launching_on(builder):
            launches()
            wait()
        graph = builder.end_building().complete()
    except Exception as error:  # whatever it is: the kernels can be launched one by one
        logger.warning("no CUDA graph (%s: %s): kernels are launched one by one", type(error).__name__, error)
        return None
    core_stream = functools.cache(lambda stream: Stream.from_handle(int(stream)))
    return lambda stream: graph.launch(core_stream(stream))
