"""The command ``datasets``: lists the named data sets."""

import argparse

from .. import datasets
from .options import Commands, add_command, add_data_dir


def add_commands(commands: Commands) -> None:
    """Add ``datasets``."""
    parser = add_command(
        commands,
        "datasets",
        run_datasets,
        "list the data sets and where they would be read from",
        "datasets --data-dir ~/data",
    )
    add_data_dir(parser)


def run_datasets(arguments: argparse.Namespace) -> int:
    """List the named data sets; return the exit status."""
    for row in datasets.describe(arguments.data_dir):
        print(f"{row.name:16} {row.description}\n{'':16} {row.location}")
    return 0
