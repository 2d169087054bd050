"""Many tasks on the workers of a Dask cluster, which may be on other machines. What a task does is left to others.

Results come back through the scheduler, as soon as they are there. The task of a worker that dies is done again by
another one. What a task says (`say`) is said by the worker and by the command that gave the task. Each worker uses its
share of its machine's cores.
"""

import contextlib
import logging
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

from .backends.runtime import Place, using_threads
from .version import __version__

#: Seconds to wait for an answer of the scheduler, and for a first worker.
PATIENCE = 10.0

#: Seconds without a result after which the workers are counted.
EVERY = 60.0

#: The run that this thread of a worker has a task of.
_current: ContextVar[str | None] = ContextVar("_current", default=None)

#: The runs that were stopped, as far as this worker has been told.
_stopped: set[str] = set()


# On a worker ----------------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    """Print a line on standard error, whole and at once; on a worker, also on that of the command.

    Examples
    --------
    >>> say("one of two")
    """
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    if (run := _current.get()) is not None:
        from distributed import get_worker

        get_worker().log_event(run, message)


def check_stopped() -> None:
    """Raise InterruptedError in a task whose command was stopped: Dask cannot end what has begun.

    Examples
    --------
    >>> check_stopped()
    """
    if _current.get() in _stopped:
        raise InterruptedError("the command that this is done for was stopped")


def _stop(run: str) -> None:
    """Note that a run was stopped."""
    _stopped.add(run)


def _work(function: Callable[[Any], Any], task: Any, run: str, slots: dict[Place, int]) -> Any:
    """Do a task of a run, where so many tasks are done at the same time at each place."""
    token, here = _current.set(run), Place.here()
    try:
        check_stopped()
        with using_threads(here.share(slots.get(here, 1))):
            return function(task)
    finally:
        _current.reset(token)


def _version() -> str:
    return __version__


# The command ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def connect(address: str) -> Iterator["Cluster"]:
    """Connect to the scheduler of a Dask cluster.

    Parameters
    ----------
    address : str
        Such as "tcp://node1:8786", as ``dask scheduler`` prints it.

    Yields
    ------
    Cluster

    Raises
    ------
    RuntimeError
        If Dask is not installed, there are no workers, or a worker has another version of npvae, or none.
    ConnectionError
        If no scheduler answers.

    Examples
    --------
    >>> with connect("tcp://127.0.0.1:8786") as cluster:  # doctest: +SKIP
    ...     list(cluster.map(abs, [-1, -2]))
    [1, 2]
    """
    try:
        import distributed
    except ImportError as error:
        what = f"{error.name or 'distributed'} is not installed"
        raise RuntimeError(f'--scheduler needs Dask, and {what}: pip install "npvae[dask]"') from None
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except Exception as error:  # of any kind, if a server that is no scheduler answers
        what = f"--scheduler {address}: no Dask scheduler answers ({str(error) or type(error).__name__})"
        raise ConnectionError(f"{what}; expected an address such as tcp://node1:8786") from error
    with _closing(client), client.as_current():  # `wait` uses the current one
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise RuntimeError(
                f"--scheduler {address} has no workers; start some on each machine: dask worker {address}"
            ) from None
        cluster = Cluster(client)
        cluster.check_versions()
        yield cluster


@contextlib.contextmanager
def _closing(client: Any) -> Iterator[None]:
    """Close a client in the end, whether the scheduler is there or not."""
    try:
        yield
    finally:
        with contextlib.suppress(TimeoutError):
            client.close()


class Cluster:
    """The workers of a Dask cluster; `connect` makes it.

    Parameters
    ----------
    client : distributed.Client

    Examples
    --------
    >>> Cluster.map.__name__
    'map'
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def check_versions(self) -> None:
        """Raise RuntimeError unless the scheduler, which reads the tasks as well, and each worker have this version."""
        try:
            versions = {"the scheduler": self.client.run_on_scheduler(_version)}
        except ImportError as error:
            raise RuntimeError(f"the scheduler: {error}; expected npvae {__version__}, as here") from error
        versions |= {f"worker {worker}": version for worker, version in self.on_each(_version).items()}
        for name, version in versions.items():
            if version != __version__:
                raise RuntimeError(f"{name} has npvae {version}; expected {__version__}, as here")

    def on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call a function once on each worker, beside its tasks; return the results by the address of the worker.

        Raises
        ------
        RuntimeError
            If it raised an error on a worker; the message begins with the address.
        """
        results = self.client.run(function, *arguments, on_error="return")
        for worker, result in results.items():
            if isinstance(result, BaseException):
                raise RuntimeError(f"worker {worker}: {str(result) or type(result).__name__}") from result
        return results

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the result of a function for each task as soon as it is there.

        If this is stopped, by Ctrl-C or by an error of a task, tasks that have not begun do not begin, and the others
        end when they call `check_stopped`.

        Parameters
        ----------
        function : function of a module that the workers have
        tasks : iterable, of its arguments

        Raises
        ------
        RuntimeError
            If several workers died of a task, one after the other.
        ConnectionError
            If the scheduler is gone.
        """
        from distributed import CancelledError, wait

        run, places = secrets.token_hex(8), self.on_each(Place.here)
        slots: Counter[Place] = Counter()
        for worker, n_threads in self.client.nthreads().items():
            if worker in places:  # others have come or gone meanwhile
                slots[places[worker]] += n_threads
        self.client.subscribe_topic(run, lambda event: say(event[1]))
        submit = partial(self.client.submit, _work, pure=False)
        running = {submit(function, task, run, dict(slots)) for task in tasks}
        try:
            while running:
                try:
                    done, running = wait(running, EVERY, "FIRST_COMPLETED")
                except TimeoutError:
                    if not self.client.nthreads():
                        say("no worker is left; waiting for one")
                    continue
                except CancelledError as error:
                    running = set()  # there is nobody to be told
                    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # no traceback of its closing
                    raise ConnectionError("the scheduler is gone, or has dropped the tasks of this command") from error
                for future in done:
                    yield self._result(future)
        except BaseException:
            if running:
                self._stop(running, run)
            raise

    def _result(self, future: Any) -> Any:
        """Return the result of a task that is done, or raise its error."""
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise RuntimeError(
                f"{error.allowed_failures + 1} workers died of a task, the last one was {error.last_worker.address}; "
                "its log may say why, and too little memory is a usual cause"
            ) from error

    def _stop(self, running: set[Any], run: str) -> None:
        """Have the tasks of a run that are not done end soon, and the others not begin."""
        with contextlib.suppress(Exception):  # whatever is wrong with the cluster, the reason to stop is to be told
            self.client.cancel(running, force=True)
            self.client.run(_stop, run)
