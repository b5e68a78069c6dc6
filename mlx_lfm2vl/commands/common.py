"""What all commands share: checkpoint options, progress, notes on stderr, errors, exit codes."""

import argparse
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from ..errors import Lfm2VLError
from .start import INTERRUPTED, quit_at_once


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose and load a checkpoint."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="DIR_OR_REPO",
        help="checkpoint folder, Hub repo id, or demo (the tiny model in this package)",
    )
    add("--revision", help="branch, tag or commit of the Hub repo; default: its main branch")
    choices = ["float32", "float16", "bfloat16"]
    add(
        "--dtype",
        choices=choices,
        help="number type to compute in; default: the checkpoint's, but float16 instead of "
        "bfloat16 on M1 and M2, and float32 on a CPU",
    )


def progress_line(label: str) -> Callable[[int, int], None]:
    """Make a progress line that is rewritten in place, and shown only on a terminal.

    Returns:
        A function to call with the amount done and the total.
    """

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\r\033[K" if done >= total else ""
            share = done / max(total, 1)
            print(f"\r\033[K{label} {share:.0%}{end}", end="", file=sys.stderr, flush=True)

    return show


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the arguments and run a command; returns the exit code."""
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    handler.addFilter(_Once())
    package_logger = logging.getLogger("mlx_lfm2vl")
    package_logger.addHandler(handler)
    package_logger.propagate = False
    is_program = signal.getsignal(signal.SIGINT) is quit_at_once
    try:
        if is_program:  # from now on there may be something to tidy up
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if sys.stdout is None:
            raise Lfm2VLError("standard output is closed: nowhere to write the answer")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
        return command(options)
    except Lfm2VLError as error:
        _explain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader is gone, so there is nobody to tell. Keep Python from flushing into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, RuntimeError, MemoryError) as error:
        # A full disk, or a device out of memory: a traceback would not help the user.
        _explain(f"{type(error).__name__}: {error}")
        return 1
    finally:
        if is_program:
            signal.signal(signal.SIGINT, quit_at_once)
        package_logger.removeHandler(handler)
        package_logger.propagate = True


class _Once(logging.Filter):
    """Lets each message pass once: an image may be decoded again, and a note then repeats."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._passed
        self._passed.add(text)
        return is_new


def _explain(text: str) -> None:
    """Print the current error as one line, and its traceback if MLX_LFM2VL_DEBUG=1."""
    if os.environ.get("MLX_LFM2VL_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
