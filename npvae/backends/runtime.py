"""The environment of compiled kernels: whether compiled code can be cached on disk, and the number of threads.

A process that was forked after its parent started Numba's threads does not have them. With OpenMP, the first parallel
loop of such a process ends it. So kernels take the number of threads as an argument, and with one thread they enter no
parallel loop.

Numba's threading layer ``workqueue``, which it takes where there is neither OpenMP nor TBB, ends a process in which two
Python threads are in parallel loops at the same time. There, one Python thread has all of Numba's threads, and each of
the others computes by itself. The bits of the results do not depend on the number of threads.

A thread of GNU OpenMP that waits for others spins for milliseconds before it sleeps. Where other processes need the
cores, the one it waits for does not run meanwhile, and a training takes ten times as long and longer. So the threads
are started with a short spin, unless the environment has a choice of its own.
"""

import contextlib
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.registry import cpu_target

logger = logging.getLogger(__name__)

#: Bytes that must be free on the disk of the cache: several times the size of all compiled kernels.
ROOM = 2**26

#: Turns of the loop in which a waiting thread of GNU OpenMP spins: a tenth of a millisecond or two, longer than most
#: gaps between the kernels of a step, and far shorter than the turn that another process is given of a core.
SPINS = 2500


def _can_cache() -> bool:
    """Return whether Numba finds a folder with room for compiled code. Compiles nothing."""
    if numba.config.DISABLE_JIT:
        return False
    try:
        folder = numba.njit(cache=True)(_can_cache).stats.cache_path
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        if shutil.disk_usage(folder).free > ROOM:
            return True
        reason = f"{folder} has no room for compiled code"
    except RuntimeError:
        reason = "no folder for compiled code can be written to"
    logger.warning("%s: each process compiles it again. Set NUMBA_CACHE_DIR to a folder of your own to keep it", reason)
    return False


#: The ``cache`` option of all kernels: without a folder for compiled code, Numba raises an error for ``cache=True``.
CACHE = _can_cache()

_has_lost_its_threads = False

#: Whether Numba's threads are there.
_has_threads = False

#: The Python thread that may enter parallel loops where only one may; guarded by `_choosing`.
_owner: threading.Thread | None = None
_choosing = threading.Lock()


def _after_fork():
    global _has_lost_its_threads, _owner, _choosing
    _owner, _choosing = None, threading.Lock()  # another thread of the parent may have held it
    try:
        numba.threading_layer()
    except ValueError:  # the parent had started no threads
        return
    _has_lost_its_threads = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _many_may_enter() -> bool:
    """Return whether several Python threads may be in parallel loops; not before it is known, at the first loop."""
    try:
        return numba.threading_layer() != "workqueue"
    except ValueError:
        return False


def _owns_the_threads() -> bool:
    """Return whether this is the one Python thread that may enter parallel loops: the first one, while it lives."""
    global _owner
    with _choosing:
        if _owner is None or not _owner.is_alive():
            _owner = threading.current_thread()
        return _owner is threading.current_thread()


def threads() -> int:
    """Return the number of threads for kernels: Numba's, or 1 where this process or Python thread has none of them."""
    if _has_lost_its_threads or not (_many_may_enter() or _owns_the_threads()):
        return 1
    if not _has_threads:
        _start_threads()
    return numba.get_num_threads()


def _start_threads() -> None:
    """Start Numba's threads, with a short spin: GNU OpenMP reads its environment once, when it is loaded."""
    global _has_threads
    with _choosing:
        ours = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
        if ours:
            os.environ["GOMP_SPINCOUNT"] = str(SPINS)
        try:
            numba.get_num_threads()
        finally:
            if ours:
                del os.environ["GOMP_SPINCOUNT"]
    _has_threads = True


class Place(NamedTuple):
    """The cores that a process may use; processes of the same place share them.

    Examples
    --------
    >>> Place("node7", (0, 1, 2, 3)).share(slots=2)
    2
    """

    host: str
    cores: tuple[int, ...]

    @classmethod
    def here(cls) -> "Place":
        """Return the place of this process. A launcher may have bound it to some cores of its machine."""
        count = os.cpu_count() or 1
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(count)
        return cls(socket.gethostname(), tuple(sorted(cores)))

    def share(self, slots: int) -> int:
        """Return the number of threads for each of so many tasks at the same time."""
        return max(1, len(self.cores) // slots)


@contextlib.contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Have this Python thread use so many threads at most; NUMBA_NUM_THREADS takes precedence."""
    threads()  # starts them
    before = numba.get_num_threads()
    numba.set_num_threads(before if "NUMBA_NUM_THREADS" in os.environ else min(number, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def is_on_disk(compiled: Any, dtype: Any) -> bool:
    """Return whether code for arrays of this type is in Numba's cache on disk.

    The cache is looked up as Numba does: compiled by another version, for another processor or from another source,
    a kernel does not count.

    Parameters
    ----------
    compiled : what ``numba.njit`` or ``numba.cfunc`` returns
    dtype : of the arrays
    """
    try:
        processor = cpu_target.target_context.codegen().magic_tuple()
        index = compiled._cache._cache_file._load_index()
        versions = [str(signature) for signature, made_for, *_ in index if made_for == processor]
    except Exception:  # no cache, or one that another version of Numba holds in another way
        logger.debug("the cache of compiled code cannot be looked up", exc_info=True)
        return False
    return any(np.dtype(dtype).name in version for version in versions)
