"""The `mlx_lfm2vl` program: a table of commands, each of which is imported when it runs."""

import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .commands.start import run_program

COMMANDS = {
    "generate": "answer a prompt about images",
    "convert": "quantize a checkpoint and report what was lost",
    "train": "fine-tune a checkpoint on your own images and answers",
    "fuse": "merge an adapter into its checkpoint",
    "benchmark": "measure where the time goes on this machine",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        arguments: name and options of the command; None takes those of the process.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if name in COMMANDS:
        return import_module(f".commands.{name}", __package__).main(rest)
    if name == "--version":
        print(__version__)
        return 0
    usage = "usage: mlx_lfm2vl COMMAND [options]\n\ncommands:\n"
    usage += "".join(f"  {command:12}{text}\n" for command, text in COMMANDS.items())
    usage += "\nmlx_lfm2vl COMMAND --help shows the options"
    if name in ("-h", "--help"):
        print(usage)
        return 0
    problem = f"unknown command {name!r}" if name else "which command?"
    print(f"mlx_lfm2vl: {problem}\n{usage}", file=sys.stderr)
    return 2


def run() -> None:
    """Run the `mlx_lfm2vl` program and exit."""
    run_program("mlx_lfm2vl.cli")
