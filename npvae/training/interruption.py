"""Ctrl-C as a request: training stops after the running minibatch, and what was learnt is kept."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def interruptible():
    """Turn the first Ctrl-C into a request: yields a function that tells whether one came. A second one raises.

    It never comes in threads other than the main one, where Python delivers no signals, nor where the caller ignores
    Ctrl-C or has left it to something other than Python.
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
