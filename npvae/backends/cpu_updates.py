"""Updates on the CPU: the steps of the optimizers, and the flags that say whether a step is taken.

A step is not taken if a gradient is not finite, and it is taken back if a number overflows in it. Flags in the
gradient say so, which the kernels set and read: nothing waits for the host.
"""

import math
from typing import Any

import numpy as np
from numba import config

from . import formulas
from .cpu_network import N_FLAGS, Gradient
from .jobs import PASS, kernel, read, share, variant
from .scalar import FAST, squared_norm, updating_loops

#: The numbers of `Gradient.control`, after the flags of the networks: whether the step is taken, and for each thread
#: whether a number overflowed in its share.
TAKEN, OVERFLOWED = N_FLAGS, N_FLAGS + 1


def gradient(layout, dtype):
    """See `reference.gradient`."""
    return Gradient(layout, np.zeros(layout.size, dtype), OVERFLOWED + config.NUMBA_NUM_THREADS)


def step(optimizer, parameters, gradient, state, rule):
    """See `reference.step`."""
    count = int(state.counter[0]) + 1
    take_step(optimizer, parameters, gradient, state, rule, np.array([rule.numbers(count)]))


def take_step(optimizer, parameters, gradient, state, rule, numbers):
    """Do `step` with the numbers of each step of a training: (steps, 4) float64, of `formulas.step_numbers`."""
    vector, dtype, control = parameters.vector, parameters.vector.dtype, gradient.control
    if not gradient.finite:  # no network has said whether it is
        _check_squares(dtype, gradient.vector, control, work=0)
    _count(dtype, state.counter, control, work=0)
    used = [state.arrays[name] for name in formulas.UPDATES[optimizer].arrays]
    first, second = (*used, vector, vector)[:2]  # what there is not is the parameters, which are finite
    arrays = vector, gradient.vector, first, second, state.arrays["average"] if rule.averaging else vector
    update = _UPDATES[optimizer, rule.averaging]
    arguments = gradient.starts, rule.n_weights, rule.weight_decay, numbers, control
    update(dtype, *arrays, *arguments, work=PASS * vector.size)
    _take_back(dtype, *arrays, state.counter, control, work=0)


def clip_norm(gradient, limit):
    """See `reference.clip_norm`."""
    _clip_norm(gradient.vector.dtype, gradient.vector, limit, work=0)


@kernel("f1 x", **FAST)
def _clip_norm(job, step, work, thread, threads):
    gradient, limit = read(job)
    if thread == 0:
        norm = math.sqrt(squared_norm(gradient))
        if limit < norm and norm < math.inf:
            factor = gradient.dtype.type(limit / norm)
            for i in range(len(gradient)):
                gradient[i] *= factor


@kernel("f1 i1", **FAST)
def _check_squares(job, step, work, thread, threads):
    gradient, control = read(job)
    if thread == 0:
        control[0] = math.isfinite(squared_norm(gradient))


@kernel("i1 i1", **FAST)
def _count(job, step, work, thread, threads):
    """Count a step, as `reference.count_step`: it is taken if all flags say that the gradient is finite."""
    counter, control = read(job)
    if thread == 0:
        finite = True
        for flag in control[:N_FLAGS]:
            finite &= flag != 0
        control[TAKEN] = counter[1] < 0 and finite
        for n in range(OVERFLOWED, len(control)):  # an earlier step may have had more threads
            control[n] = 0
        if counter[1] < 0:
            counter[0] += 1
            if not finite:
                counter[1] = counter[0]


loop: Any = None  # each kernel below has its own


def _update(job, step, work, thread, threads):
    """Update a thread's share of every array.

    Shares are cut by rows, as in `matmul`: much of a thread's share of the gradient is still in its core's cache.
    """
    vector, gradient, first, second, average, starts, n_weights, weight_decay, numbers, control = read(job)
    number = vector.dtype.type
    now = number(numbers[step, 0]), number(numbers[step, 1]), number(numbers[step, 2]), number(numbers[step, 3])
    overflowed = False
    for i in range(len(starts) - 1 if control[TAKEN] else 0):
        start, stop = share(starts[i + 1] - starts[i], thread, threads)
        part = slice(starts[i] + start, starts[i] + stop)
        decay = number(weight_decay) if starts[i] < n_weights else number(0)
        overflowed |= loop(vector[part], gradient[part], (first[part], second[part]), average[part], now, decay)
    control[OVERFLOWED + thread] = overflowed


#: The kernels by (name of the optimizer, whether the iterates are averaged).
_UPDATES = {
    key: kernel("f1 f1 f1 f1 f1 i1 n x d2 i1")(variant(_update, f"_{key[0]}_{key[1]}", loop=loop))
    for key, loop in updating_loops.items()
}


@kernel("f1 f1 f1 f1 f1 i1 i1", **FAST)
def _take_back(job, step, work, thread, threads):
    """Undo a step that overflowed: the gradient has the parameters from before. Then mark the gradient."""
    vector, before, first, second, average, counter, control = read(job)
    if thread == 0:
        overflowed = False
        for flag in control[OVERFLOWED:]:
            overflowed |= flag != 0
        if control[TAKEN] and overflowed:
            for i in range(len(vector)):
                finite = math.isfinite(vector[i]) and math.isfinite(first[i]) and math.isfinite(second[i])
                finite &= math.isfinite(average[i])
                vector[i] = before[i]
                if not finite:
                    before[i] = math.nan
            counter[1] = counter[0]
