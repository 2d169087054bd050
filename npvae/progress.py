"""Say on standard error what is being done, and how far training is.

Epochs are a bar in a terminal if tqdm is installed, and lines otherwise: a log file has no carriage returns.
"""

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

#: Seconds after which a stage that is not done yet is announced, and seconds between two lines about the same stage.
SOON, OFTEN = 0.5, 5.0

#: Seconds between two lines about epochs, which may be short: at first, and in a training that takes long.
LINES, RARELY = 1.0, 10.0

#: Seconds between two updates of the bar.
UPDATES = 0.2

Doing = Callable[[str | None], None]

logger = logging.getLogger(__name__)


def tell(verbose: bool, message: str) -> None:
    """Print a message on standard error, or log it unless ``verbose``.

    Examples
    --------
    >>> tell(False, "likelihood: gaussian")
    """
    if verbose:
        print(message, file=sys.stderr)
    else:
        logger.info(message)


class _Stages:
    """Announces stages by lines of a thread of its own; see `show_stages`."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self._open, self._changed = True, threading.Condition()
        self._thread = threading.Thread(target=self._announce, daemon=True)
        self._thread.start()

    def begin(self, stage: str | None) -> None:
        with self._changed:
            self.stage, self._began, self._said = stage, time.monotonic(), False
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _announce(self) -> None:
        with self._changed:
            while self._open:
                wait = None if self.stage is None else OFTEN if self._said else SOON
                if not self._changed.wait(wait):  # the time is over, and it is the same stage
                    seconds = time.monotonic() - self._began
                    print(f"... {seconds:.0f} s" if self._said else self.stage, file=sys.stderr)
                    self._said = True


@contextlib.contextmanager
def show_stages(verbose: bool) -> Iterator[Doing]:
    """Yield a function that is told what is being done from now on, or None; it does nothing unless ``verbose``.

    A stage is announced if it is not over soon, and again every few seconds. Ctrl-C names it.

    Examples
    --------
    >>> with show_stages(verbose=False) as doing:
    ...     doing("choosing the step size")
    """
    if not verbose:
        yield lambda stage: None
        return
    stages = _Stages()
    try:
        yield stages.begin
    except KeyboardInterrupt:
        if stages.stage is not None:
            print(f"interrupted while {stages.stage}", file=sys.stderr)
        raise
    finally:
        stages.close()


class Quiet:
    """Shows nothing.

    Examples
    --------
    >>> Quiet().within(0.5)
    """

    def __call__(self, epoch: Any) -> None:
        """Show an epoch that has ended."""

    def within(self, share: float) -> None:
        """Show how much of the current epoch is done."""


class Lines(Quiet):
    """Shows epochs by lines on standard error: the first and the last, one a second, and later one in ten seconds.

    Parameters
    ----------
    max_epochs : int
    done : int, epochs of an earlier run

    Examples
    --------
    >>> Lines(20, done=3).remaining(share=0.0)
    ''
    """

    def __init__(self, max_epochs: int, done: int = 0) -> None:
        self.max_epochs, self._first, self._done = max_epochs, done, done
        self._began = time.monotonic()
        self._shown = -math.inf

    def __call__(self, epoch: Any) -> None:
        """Show an epoch that has ended, if it is time."""
        self._done, now = epoch.epoch, time.monotonic()
        if now >= self._shown + self._pause(now, LINES) or epoch.epoch >= self.max_epochs:
            print(f"epoch {epoch.epoch:4} of {self.max_epochs}: {describe(epoch)}{self.remaining(0)}", file=sys.stderr)
            self._shown = now

    def within(self, share: float) -> None:
        """Show how much of the current epoch is done, if no line was shown for long."""
        now = time.monotonic()
        if now >= max(self._shown, self._began) + self._pause(now, OFTEN):
            percent = f"{share:.0%} done{self.remaining(share)}"
            print(f"epoch {self._done + 1:4} of {self.max_epochs}: {percent}", file=sys.stderr)
            self._shown = now

    def _pause(self, now: float, least: float) -> float:
        """Return the seconds between two lines: a fiftieth of what has passed, within limits, for short logs."""
        return min(RARELY, max(least, (now - self._began) / 50))

    def remaining(self, share: float) -> str:
        """Say how long an epoch takes and how long the rest will; nothing before there is anything to go by."""
        here = self._done - self._first + share
        if here <= 0:
            return ""
        each = (time.monotonic() - self._began) / here
        return f", {duration(each)} an epoch, {duration(each * (self.max_epochs - self._done - share))} left"


class Bar(Quiet):
    """Shows epochs by a bar, with tqdm.

    Parameters
    ----------
    bar : tqdm.tqdm

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> bar = SimpleNamespace(n=1, refresh=lambda: None)
    >>> Bar(bar).within(0.25)
    >>> bar.n
    1.25
    """

    def __init__(self, bar: Any) -> None:
        self._bar, self._done, self._shown = bar, bar.n, -math.inf

    def __call__(self, epoch: Any) -> None:
        """Show an epoch that has ended."""
        self._bar.set_postfix_str(describe(epoch), refresh=False)
        self._done += 1
        self._show(self._done)

    def within(self, share: float) -> None:
        """Show how much of the current epoch is done."""
        if time.monotonic() >= self._shown + UPDATES:
            self._show(round(self._done + share, 2))

    def _show(self, epochs: float) -> None:
        self._bar.n, self._shown = epochs, time.monotonic()
        self._bar.refresh()


@contextlib.contextmanager
def show_progress(max_epochs: int, verbose: bool, done: int = 0) -> Iterator[Quiet]:
    """Yield what shows the epochs: call it with an epoch that has ended, and ``within`` an epoch. See `Quiet`.

    Parameters
    ----------
    max_epochs : int
    verbose : bool
    done : int, epochs of an earlier run

    Examples
    --------
    >>> with show_progress(max_epochs=3, verbose=False) as show:
    ...     show("an epoch")
    """
    if not verbose:
        yield Quiet()
    elif tqdm is None or not sys.stderr.isatty():
        yield Lines(max_epochs, done)
    else:
        with tqdm(total=max_epochs, initial=done, unit="epoch") as bar:
            yield Bar(bar)


@contextlib.contextmanager
def show_rows(stage: str, verbose: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how many rows are done, and of how many; it does nothing unless ``verbose``.

    Rows are a bar in a terminal if tqdm is installed. Otherwise a line is printed every few seconds.

    Examples
    --------
    >>> with show_rows("filling in", verbose=False) as told:
    ...     told(50, 100)
    """
    if not verbose:
        yield lambda done, n_rows: None
    elif tqdm is not None and sys.stderr.isatty():
        with tqdm(unit="row", desc=stage, delay=SOON) as bar:

            def update(done: int, n_rows: int) -> None:
                bar.total = n_rows
                bar.update(done - bar.n)

            yield update
    else:
        began = shown = time.monotonic()

        def told(done: int, n_rows: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now >= shown + OFTEN and done < n_rows:
                left = duration((now - began) * (n_rows - done) / done)
                print(f"{stage}: {done} of {n_rows} rows, {left} left", file=sys.stderr)
                shown = now

        yield told


def describe(epoch: Any) -> str:
    """Describe an epoch in a few words: bounds in nats a datapoint; where there is no bound, the estimator's value.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> describe(SimpleNamespace(elbo=-104.5, elbo_valid=float("nan")))
    'bound -104.50 nats'
    >>> describe(SimpleNamespace(elbo=float("nan"), elbo_valid=float("nan"), value=-98.5))
    'no bound, value -98.50 nats'
    """
    if math.isnan(epoch.elbo):
        return f"no bound, value {epoch.value:.2f} nats"
    valid = "" if math.isnan(epoch.elbo_valid) else f", validation {epoch.elbo_valid:.2f}"
    return f"bound {epoch.elbo:.2f} nats{valid}"


def duration(seconds: float) -> str:
    """Return a duration to be read: 0.35 s, 12 s, 3:05 min, 2:10 h."""
    if 0 < seconds < 10:
        return f"{seconds:.2g} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02} h" if hours else f"{minutes}:{s:02} min" if minutes else f"{s} s"
