"""Show the progress of training on standard error: a bar if tqdm is installed, otherwise a line an epoch."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


@contextlib.contextmanager
def show_progress(max_epochs: int, verbose: bool, done: int = 0) -> Iterator[Callable[[Any], object]]:
    """Yield a callback that shows an epoch, or that does nothing unless ``verbose``.

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
        yield lambda epoch: None
    elif tqdm is None:
        yield lambda epoch: print(f"epoch {epoch.epoch:4} of {max_epochs}: {describe(epoch)}", file=sys.stderr)
    else:
        with tqdm(total=max_epochs, initial=done, unit="epoch") as bar:
            yield lambda epoch: (bar.set_postfix_str(describe(epoch), refresh=False), bar.update())


def describe(epoch: Any) -> str:
    """Describe an epoch in a few words: bounds in nats a datapoint, and seconds since training began.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> describe(SimpleNamespace(elbo=-104.5, elbo_valid=float("nan"), seconds=3.0))
    'bound -104.50 nats, 3.0 s'
    """
    valid = "" if math.isnan(epoch.elbo_valid) else f", validation {epoch.elbo_valid:.2f}"
    return f"bound {epoch.elbo:.2f} nats{valid}, {epoch.seconds:.1f} s"
