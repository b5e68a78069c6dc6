"""How a program of this package begins and ends: Ctrl-C, missing descriptors, the exit code.

It imports next to nothing, because it must run before anything that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # as in the package's `__init__`
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED = 130


def run_program(module: str) -> NoReturn:
    """Run the `main` of a module as this process and exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else started to ignore it
        signal.signal(signal.SIGINT, quit_at_once)
    open_missing()
    forget_missing_folder()
    try:
        code = import_module(module).main()
    except KeyboardInterrupt:  # at the very end of a command
        code = INTERRUPTED
    leave(code)


def quit_at_once(_number: int, _frame: object) -> NoReturn:
    """Handle Ctrl-C while there is nothing to finish or to tidy up."""
    os._exit(INTERRUPTED)


def open_missing() -> None:
    """Open /dev/null as standard input, output and error where the process has none.

    Otherwise the first file that is opened would become standard input or error, and MLX cannot
    load weights from descriptor 0. `sys.stdin` and `sys.stdout` stay None, which commands explain.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # `print` would write notes and errors to standard output
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  for the life of the process


def forget_missing_folder() -> None:
    """Use the system's folder of temporary files if TMPDIR names none, as Python itself does.

    MLX would fail instead.
    """
    for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        folder = os.environ.get(name)
        if folder and not os.path.isdir(folder):
            del os.environ[name]
            print(f"note: {name} is {folder}, where there is no folder: not used", file=sys.stderr)


def leave(code: int) -> NoReturn:
    """Exit without interpreter shutdown, which can take longer than a short answer."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # the reader is gone, or the disk is full
        code = code or 1
    os._exit(code)
