"""Progress of a training on standard error: a bar where tqdm is installed, a line an epoch otherwise."""

import contextlib
import math
import sys

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


@contextlib.contextmanager
def show_progress(max_epochs, verbose, done=0):
    """Yield a callback that shows each epoch after those done, or does nothing unless ``verbose``."""
    if not verbose:
        yield lambda epoch: None
    elif tqdm is None:
        yield lambda epoch: print(f"epoch {epoch.epoch:4} of {max_epochs}: {describe(epoch)}", file=sys.stderr)
    else:
        with tqdm(total=max_epochs, initial=done, unit="epoch") as bar:
            yield lambda epoch: (bar.set_postfix_str(describe(epoch), refresh=False), bar.update())


def describe(epoch):
    """Say in a few words how an epoch went."""
    valid = "" if math.isnan(epoch.elbo_valid) else f", validation {epoch.elbo_valid:.2f}"
    return f"bound {epoch.elbo:.2f} nats{valid}, {epoch.seconds:.1f} s"
