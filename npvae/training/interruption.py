"""Ctrl-C as a request to stop: training ends after the current minibatch, with a usable model."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C. A second one raises KeyboardInterrupt, as usual.

    Ctrl-C is not caught in threads other than the main thread, because Python delivers signals to that one only. It is
    not caught either if the caller ignores it, or if its handler was not installed from Python.

    Yields
    ------
    callable () -> bool, whether Ctrl-C has been pressed

    Examples
    --------
    >>> from npvae.training.interruption import interruptible
    >>> with interruptible() as interrupted:
    ...     interrupted()
    False
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
