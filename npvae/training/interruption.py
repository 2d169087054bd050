"""Ctrl-C as a request to stop: training ends after the current minibatch, with a usable model."""

import contextlib
import signal
import sys
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


def undropped(run: Callable[[], object]) -> None:
    """Call a function, and raise what a handler of Ctrl-C has raised within, also if other code has dropped it.

    While LLVM compiles, it calls functions of Python, and an exception in one of these is dropped: compiling would go
    on, or end with an error of its own. It is raised again in the next function that is called, or at the end.

    Examples
    --------
    >>> from npvae.training.interruption import undropped
    >>> undropped(lambda: print("compiled"))
    compiled
    """
    previous, hook, profile, raised = signal.getsignal(signal.SIGINT), sys.unraisablehook, sys.getprofile(), []
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        run()
        return

    def handle(signum, frame):
        try:
            previous(signum, frame)
        except BaseException as error:
            raised.append(error)
            raise

    def dropped(unraisable):
        if unraisable.exc_value in raised:
            sys.setprofile(again)
        else:
            hook(unraisable)

    def again(frame, event, argument):  # Python calls it for each function that is called or returns
        if event == "call":
            raise raised[0]

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = dropped
    try:
        run()
    finally:
        sys.setprofile(profile)  # before anything is called here
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, previous)
        if raised:
            raise raised[0]
