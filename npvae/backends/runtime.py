"""Where compiled kernels run: whether they can be kept on disk, and on how many threads.

A process that was forked after its parent had started threads has none of them. OpenMP ends such a process at its first
parallel loop; so kernels take the number of threads as an argument, and with one thread never enter such a loop.
"""

import logging
import os
import shutil

import numba

logger = logging.getLogger(__name__)

#: Bytes that must be free where compiled code is kept: several times what all kernels take.
ROOM = 2**26


def _can_cache():
    """Tell whether Numba finds a folder with room for compiled code; asking compiles nothing."""
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


#: Where there is no such folder, asking Numba to use one is an error.
CACHE = _can_cache()

_has_lost_its_threads = False


def _after_fork():
    global _has_lost_its_threads
    try:
        numba.threading_layer()
    except ValueError:  # none was started yet
        return
    _has_lost_its_threads = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads():
    """Return the number of threads that kernels may use: Numba's, or 1 in a process that was forked too late."""
    return 1 if _has_lost_its_threads else numba.get_num_threads()
