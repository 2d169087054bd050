"""Ranks that are threads: a team of several processes in one, so that every test can have one, without MPI."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from npvae.parallel import Team


class Threads:
    """What `npvae.parallel.Team` needs of a communicator of mpi4py, but for sums and what ends a job, for one thread.

    Messages are pickled, as MPI does: it must be possible, and no rank has an object of another.
    """

    def __init__(self, rank, board, barrier):
        self.rank, self.board, self.barrier = rank, board, barrier

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return len(self.board)

    def Dup(self):
        return self

    def allgather(self, value):
        self.board[self.rank] = pickle.dumps(value)
        self.barrier.wait()
        values = [pickle.loads(message) for message in self.board]
        self.barrier.wait()  # before one of them writes again
        return values

    def bcast(self, value):
        return self.allgather(value)[0]


def run(n_ranks, function):
    """Call function(team) on each of n ranks at once; return the results in their order, or raise the first error.

    A rank that waits for another that has failed, or has ended, fails too.
    """
    board, barrier = [None] * n_ranks, threading.Barrier(n_ranks, timeout=60)

    def rank(number):
        try:
            return function(Team(Threads(number, board, barrier)))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(n_ranks) as pool:
        contexts = [copy_context() for _ in range(n_ranks)]
        futures = [pool.submit(context.run, rank, number) for number, context in enumerate(contexts)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [future.result() for future in futures]
