"""What all commands share: checkpoint options, progress, notes on stderr, errors, exit codes."""

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from ..errors import InputError, Lfm2VLError, printable
from .default_model import chosen_model
from .start import INTERRUPTED, quit_at_once

SCHEMA = 1  # of the objects that --json prints; docs/json.md describes them
SILENT_SECONDS = 5.0  # of work after which a log gets a line
MOMENT = 0.5  # seconds of work after which a terminal shows it

MODEL_HELP = (
    "450m, 1.6b, 3b, a Hub repo id, a folder, or demo (the tiny model in this package); default: "
    "LFM2VL_MODEL, then model = ... in ~/.config/mlx_lfm2vl/config.toml"
)
REVISION_HELP = "branch, tag or commit of the Hub repo; default: its main branch"
UPDATE_HELP = "download a newer commit of the Hub repo, if any; default: use the one that is there"
LAYOUT_HELP = (
    "names and shapes of the weights: mlx, as mlx-vlm reads them, or hub, as transformers and "
    "llama.cpp's converter do (16 bits or float32); default: mlx"
)


def add_model_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that choose and load a checkpoint; return their group."""
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("-m", "--model", metavar="MODEL", help=MODEL_HELP)
    add("--revision", help=REVISION_HELP)
    add("--update", action="store_true", help=UPDATE_HELP)
    add_dtype_option(group)
    return group


def add_dtype_option(group: argparse._ActionsContainer) -> None:
    """Add the option that chooses the number type."""
    group.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="number type to compute in; default: the checkpoint's, but float16 instead of "
        "bfloat16 on M1 and M2, and float32 on a CPU",
    )


def add_special_tokens(group: argparse._ArgumentGroup) -> None:
    """Add the option that allows a fine-tune's own special tokens in text."""
    group.add_argument(
        "--special-tokens",
        nargs="+",
        action="extend",
        default=[],
        metavar="TOKEN",
        help="special tokens of a fine-tune that texts may hold, such as '<|leaf|>'; by default "
        "texts hold only their letters",
    )


def add_adapter_option(group: argparse._ActionsContainer, *, required: bool = False) -> None:
    """Add the option that chooses adapters."""
    group.add_argument(
        "--adapter",
        action="append",
        required=required,
        metavar="ADAPTER",
        help="folder or Hub repo of an adapter of train, mlx-lm, mlx-vlm or PEFT; ADAPTER:0.5 "
        "halves its changes; can be repeated, and the changes add up",
    )


def progress_line(label: str) -> Callable[[int, int], None]:
    """Make a progress line: rewritten in place on a terminal, now and then a new one in a log.

    A stage shorter than `SILENT_SECONDS` leaves no line in a log.

    Returns:
        A function to call with the amount done and the total.
    """
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        share = done / max(total, 1)
        if sys.stderr is None:
            return
        if sys.stderr.isatty():
            end = "\r\033[K" if done >= total else ""
            print(f"\r\033[K{label} {share:.0%}{end}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - last >= SILENT_SECONDS:
            last = time.monotonic()
            print(f"{label} {share:.0%}", file=sys.stderr, flush=True)

    return show


def is_watched() -> bool:
    """Return whether stderr is a terminal, on which a line can be rewritten."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def stage(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show what happens meanwhile, if it takes longer than a moment.

    A terminal shows the label until the stage ends. A log gets one line.

    Yields:
        A function that changes the line of a terminal: it takes a label, the tokens done and all.
    """
    line = f"{label} ..."
    terminal = is_watched()
    start, end = ("\r\033[K", "") if terminal else ("", "\n")

    def show() -> None:
        if sys.stderr is not None:
            print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
        shown.set()

    def tell(label: str, done: int, total: int) -> None:
        nonlocal line
        line = f"{label}: {done:,} of {total:,} tokens"
        if terminal and shown.is_set():
            show()

    shown = threading.Event()
    timer = threading.Timer(MOMENT if terminal else SILENT_SECONDS, show)
    timer.daemon = True
    timer.start()
    try:
        yield tell
    finally:
        timer.cancel()
        if terminal and shown.is_set():
            print(start, end="", file=sys.stderr, flush=True)


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the arguments and run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
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
        options = parser.parse_args(given)
        _check_folder()
        if "model" in options:
            options.model = chosen_model(options.model)
        return command(options)
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    except Lfm2VLError as error:
        return _fail(str(error), error.exit_code, as_json="--json" in given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader is gone, so there is nobody to tell. Keep Python from flushing into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, RuntimeError, MemoryError) as error:
        # A full disk, or a device out of memory: a traceback would not help the user.
        return _fail(printable(_reason(error)), 1, as_json="--json" in given)
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


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError:  # every program that is started would complain
        raise InputError("the current folder no longer exists: change to another one") from None


def _reason(error: BaseException) -> str:
    """Say what an error of the system or of MLX is."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _fail(text: str, code: int, *, as_json: bool) -> int:
    """Print the current error as one line, and its traceback if MLX_LFM2VL_DEBUG=1.

    Args:
        text: of the error.
        code: exit code of the command.
        as_json: also print the error as an object on stdout, where a script expects one.

    Returns:
        The code.
    """
    if os.environ.get("MLX_LFM2VL_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
    if as_json and sys.stdout is not None:
        with contextlib.suppress(OSError):  # stdout may be what failed
            print(json.dumps({"schema": SCHEMA, "error": text, "exit_code": code}), flush=True)
    return code
