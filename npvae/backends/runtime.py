"""Where compiled kernels run: whether they can be kept on disk, and on how many threads.

A process that was forked after its parent had started threads has none of them. OpenMP ends such a process at its first
parallel loop; so kernels take the number of threads as an argument, and with one thread never enter such a loop.
"""

import logging
import os

import numba

logger = logging.getLogger(__name__)


def _can_cache():
    """Tell whether Numba finds a folder for compiled code; asking compiles nothing."""
    try:
        numba.njit(cache=True)(_can_cache)
    except RuntimeError:
        logger.warning(
            "no folder for compiled code can be written to: it will be compiled again by each process. "
            "Set NUMBA_CACHE_DIR to a folder of your own to keep it"
        )
        return False
    return True


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
