"""The `mlx_lfm2vl` program: a table of commands, each of which is imported when it runs."""

import sys
from collections.abc import Sequence

from . import __version__
from .commands.table import COMMANDS, run_named

USAGE = f"""\
usage: mlx_lfm2vl COMMAND [options]
       mlx_lfm2vl IMAGE ... "PROMPT"     is mlx_lfm2vl generate

commands:
{"".join(f"  {command:12}{text}{chr(10)}" for command, text in COMMANDS.items())}
mlx_lfm2vl COMMAND --help shows the options
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        arguments: name and options of the command; None takes those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = given or [""]
    if name == "help":
        name, *rest = [rest[0], "--help"] if rest else ["--help"]
    if name in COMMANDS:
        if rest == ["--version"]:
            return _print(__version__)
        return run_named(name, rest)
    if name in ("--version", "version"):
        return _print(__version__)
    if name in ("-h", "--help"):
        return _print(USAGE.rstrip())
    from .commands.parser import nearest, with_help
    from .commands.question import names_image

    if name and (name.startswith("-") or names_image(name) or any(map(str.isspace, name))):
        return run_named("generate", given)
    near = nearest(name, COMMANDS)
    hint = f"; did you mean {near}?" if near else f" among {', '.join(COMMANDS)}"
    problem = f"there is no command {name!r:.80}{hint}" if name else "which command?"
    print(f"error: {with_help(problem, 'mlx_lfm2vl')}", file=sys.stderr)
    return 2


def _print(text: str) -> int:
    """Print a text; a full disk or a reader that went away is a failure."""
    try:
        print(text, flush=True)
    except OSError as error:
        print(f"error: {error.strerror}", file=sys.stderr)
        return 1
    return 0
