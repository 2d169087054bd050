"""The command ``npvae``: trains models and uses them from the shell. Prints numbers, and writes pictures to PNG files.

This file has the entry point `main` and puts the parser together. Each module beside it has some of the commands; those
that draw import matplotlib themselves, so that the others start faster.
"""

import argparse
import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from .. import __version__
from ..parallel import launched
from . import bench, check, infer, listing, reproduce, train, use
from .options import Parser, say, with_option_names

EXIT_CODES = "exit status: 0 done, 1 an error or a failed check, 2 wrong usage, 130 stopped by Ctrl-C"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments of the command; by default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 an error or a failed check, 130 stopped by Ctrl-C.

    Raises
    ------
    SystemExit
        With status 2 if the arguments are wrong, and with 0 after ``--help`` and ``--version``.

    Examples
    --------
    >>> main(["score", "missing.npz", "digits"])
    1
    """
    with _printable(), _said_once():
        return _run(build_parser().parse_args(arguments))


def _run(parsed: argparse.Namespace) -> int:
    """Run a command that has been parsed; return the exit status."""
    log, handler = logging.getLogger("npvae"), logging.StreamHandler()
    level = log.level
    if parsed.verbose:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        if launched()[1] > 1 and not parsed.on_ranks:
            raise RuntimeError(f"{launched()[1]} processes were launched; expected one: train and resume can have many")
        with contextlib.nullcontext() if parsed.debug else _plain_warnings():
            return parsed.run(parsed)
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError, MemoryError) as error:
        if parsed.debug:
            raise
        _tell("error", error)
        return 1
    except KeyboardInterrupt:
        print("npvae: interrupted", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _tell(kind: str, message: Exception | str) -> None:
    """Print an error or a warning in one line on standard error, with the names of options."""
    say(f"npvae: {kind}: {with_option_names(' '.join(str(message).split()))}")


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as errors are printed: the file and the line where Python has them are those of this command."""

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        _tell("warning", message)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Have the first of several processes print, and no other."""
    if launched()[0] == 0:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def _printable() -> Iterator[None]:
    """Let standard output and error print any text: characters that their encoding lacks appear as escapes.

    Without it a name that the terminal cannot show would end a training with an error, after its work is done.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Each command sets ``run``: a function from the parsed arguments to an exit status.
    """
    parser = Parser(prog="npvae", description="Variational autoencoders, trained by hand.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"npvae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, use, infer, check, reproduce, bench, listing):
        module.add_commands(commands)
    return parser


__all__ = ["build_parser", "main"]
