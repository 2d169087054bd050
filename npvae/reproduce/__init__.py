"""The figures of the paper, each reproduced by one command: models, runs, and pictures beside the paper's curves."""

from .drawing import draw
from .figures import choose
from .runner import Task, files, run

__all__ = ["Task", "choose", "draw", "files", "run"]
