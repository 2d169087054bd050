"""Work that several processes share: `Serial` is one process by itself, `Team` the ranks of an MPI communicator.

Each *rank* of a team runs the whole program, and `map` shares out what takes long. Every rank has the results of all,
in the order of the items, so each goes on with the same numbers, and these do not depend on how many ranks there are.
What is to be written, printed or asked for is done by rank 0 alone: `first`.

An error that a function of `map` or `first` raises on one rank is raised on all; so is Ctrl-C within. Any other error
on one rank would let the others wait for it for ever: `team` ends the whole job then.
"""

import contextlib
import os
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .conventions import kind_of

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds in which all ranks must have come to the same error. The job is ended if one has not.
PATIENCE = 5.0

#: What launchers tell each process of a job, in its environment: how many there are, and which one it is.
LAUNCHERS = {
    "MPICH, Intel MPI": ("PMI_SIZE", "PMI_RANK"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "srun of Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
}


class Serial:
    """One process alone. It does nothing besides.

    Attributes
    ----------
    rank, size : int
        The number of this process, counted from 0, and how many there are.
    is_team : bool
        Whether minibatches are cut into shards, for ranks to share them out: see `estimators.sharded`.

    Examples
    --------
    >>> list(SERIAL.map(abs, [-1, 2]))
    [1, 2]
    """

    rank, size, is_team = 0, 1, False

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
        """Apply a function to items, each on one rank; return all results, in the order of the items, on every rank.

        An error on one rank is raised on all.
        """
        return map(function, items)

    def first(self, function: Callable[[], Result]) -> Result:
        """Call a function on rank 0 alone; return its result, or raise its error, on every rank."""
        return function()

    def gather(self, value: Any) -> list:
        """Return the values of all ranks, in their order, on every rank."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        return flag

    def agree(self, values: Callable[[], dict[str, Any]]) -> None:
        """Check that every rank has the same values by name; RuntimeError names the first that differs."""


SERIAL = Serial()


class Alone(Serial):
    """A team of one rank, without MPI.

    Attributes
    ----------
    exact_sum : bool
        Whether `sum` is made of numbers that no sum rounds.

    Examples
    --------
    >>> Alone().sum(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    is_team, exact_sum = True, True

    def max(self, numbers: NDArray) -> NDArray:
        """Set each of the numbers (n,), none of them NaN, to the largest one of all ranks; return them."""
        return numbers

    def sum(self, numbers: NDArray) -> NDArray:
        """Set each of the numbers (n,) to the sum over all ranks; return them."""
        return numbers


ALONE = Alone()


class _Outcome(NamedTuple):
    """What a function returned, or the error that it raised."""

    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, function: Callable[[], Any], rank: int) -> "_Outcome":
        try:
            return cls(function())
        except BaseException as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                general = RuntimeError(f"{type(error).__name__} on rank {rank}: {error}")
                general.__cause__ = error  # which other ranks cannot have
                return cls(error=general)
            return cls(error=error)


class Team(Alone):
    """The ranks of an MPI communicator. Every method is a call that all ranks make.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    exact_sum : bool
        Whether `sum` is made of numbers that no sum rounds: see `estimators.sharded`.

    Examples
    --------
    >>> class Itself:  # what it needs of a communicator
    ...     def Get_rank(self): return 0
    ...     def Get_size(self): return 1
    ...     def Dup(self): return self
    ...     def allgather(self, value): return [value]
    >>> Team(Itself()).map(abs, [-1, 2])
    [1, 2]
    """

    def __init__(self, comm: Any, exact_sum: bool = True) -> None:
        self.exact_sum, self.rank, self.size = exact_sum, comm.Get_rank(), comm.Get_size()
        self._comm, self._exits = comm.Dup(), comm.Dup()  # messages of others, and an error's, are not mixed with ours

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See `Serial.map`. A rank has items that follow on each other."""
        first, last = (len(items) * n // self.size for n in (self.rank, self.rank + 1))
        outcomes = self.gather(_Outcome.of(lambda: [function(item) for item in items[first:last]], self.rank))
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [result for outcome in outcomes for result in outcome.result]

    def first(self, function: Callable[[], Result]) -> Result:
        """See `Serial.first`."""
        mine = _Outcome.of(function, 0) if self.rank == 0 else None
        of_first = self._comm.bcast(mine)
        outcome = of_first if mine is None else mine  # itself: a copy of an error has no traceback
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def gather(self, value: Any) -> list:
        """See `Serial.gather`."""
        values = self._comm.allgather(value)
        values[self.rank] = value  # see `first`
        return values

    def any(self, flag: bool) -> bool:
        """See `Serial.any`."""
        return bool(self.max(np.array([flag], np.float64))[0])

    def agree(self, values: Callable[[], dict[str, Any]]) -> None:
        """See `Serial.agree`."""
        of_first, *others = self.gather(values())
        for rank, other in enumerate(others, 1):
            for name, value in other.items():
                if value != of_first[name]:
                    raise RuntimeError(
                        f"{name} is {value!r} on rank {rank} and {of_first[name]!r} on rank 0; expected the same on "
                        "all ranks"
                    )

    def max(self, numbers: NDArray) -> NDArray:
        """See `Alone.max`."""
        return self._reduce(numbers, "MAX")

    def sum(self, numbers: NDArray) -> NDArray:
        """See `Alone.sum`."""
        return self._reduce(numbers, "SUM")

    def _reduce(self, numbers, operation):
        from mpi4py import MPI

        self._comm.Allreduce(MPI.IN_PLACE, numbers, op=getattr(MPI, operation))
        return numbers

    def close(self) -> None:
        """Give back what the communicator holds."""
        self._comm.Free()
        self._exits.Free()

    def end_unless_common(self) -> None:
        """Return if all ranks come here soon, each with the same error; otherwise end the job, with the error at hand.

        The ranks that did not come wait for this one, and would do so for ever. Ctrl-C ends the job at once.
        """
        arrived, deadline = False, time.monotonic() + PATIENCE
        try:
            barrier = self._exits.Ibarrier()
            while not (arrived := barrier.Test()) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            if not arrived:
                traceback.print_exc(file=sys.__stderr__)
                print(
                    f"npvae: rank {self.rank} of {self.size} failed, and ends the job", file=sys.__stderr__, flush=True
                )
                self._comm.Abort(1)


@contextlib.contextmanager
def team(comm: Any, exact_sum: bool = True) -> Iterator[Any]:
    """Yield the `Team` of a communicator, or `SERIAL` for None.

    An error that is not raised on all ranks ends the job. Rank 0 shows warnings; where they are errors, all ranks have
    them.

    Raises
    ------
    TypeError
        If ``comm`` is not a communicator of mpi4py.

    Examples
    --------
    >>> with team(None) as parallel:
    ...     parallel.size
    1
    """
    if comm is None:
        yield SERIAL
        return
    if not all(hasattr(comm, name) for name in ("Allreduce", "Dup", "Ibarrier")) or comm.Is_inter():
        raise TypeError(f"comm is {kind_of(comm)}; expected a communicator of mpi4py, such as MPI.COMM_WORLD")
    ranks = Team(comm, exact_sum)
    try:
        with warnings.catch_warnings():
            if ranks.rank > 0:
                warnings.showwarning = lambda *warning, **named: None
            yield ranks
    except BaseException:
        ranks.end_unless_common()
        raise
    finally:
        ranks.close()


def launched() -> tuple[int, int]:
    """Return the number of this process among those that a launcher such as ``mpiexec`` started, and how many they are.

    Without a launcher, (0, 0). MPI need not be installed.

    Examples
    --------
    >>> rank, size = launched()
    >>> rank <= size
    True
    """
    for size, rank in LAUNCHERS.values():
        if size in os.environ and rank in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 0


def world(fewest: int = 2) -> Any:
    """Return MPI's communicator of all processes that were launched; None if they are fewer than ``fewest``.

    Raises
    ------
    RuntimeError
        If mpi4py is not installed, or has another MPI than the launcher: each process would do the whole work, and
        write the same files.

    Examples
    --------
    >>> world() is None
    True
    """
    _, size = launched()
    if size < fewest:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"{size} processes were launched, but mpi4py cannot be used ({' '.join(str(error).split())}); "
            'pip install "npvae[mpi]" installs it, and it needs an MPI'
        ) from None
    if MPI.COMM_WORLD.Get_size() != size:
        raise RuntimeError(
            f"{size} processes were launched, but mpi4py finds {MPI.COMM_WORLD.Get_size()}: it uses "
            f"{MPI.Get_library_version().split(',')[0].splitlines()[0]}, and the launcher is another MPI's"
        )
    return MPI.COMM_WORLD
