"""The `mcp` command: tools that let coding agents look at images, over standard input and output.

Exit codes: 0 the client is gone or has ended it, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from ..errors import InputError, Lfm2VLError
from .answer_output import say
from .common import MODEL_HELP, REVISION_HELP, add_adapter_option, run_command
from .image_options import add_size_limit, chosen_max_pixels
from .parser import Parser

if TYPE_CHECKING:  # heavy imports wait until a tool is called
    from ..serving.core import Core
    from ..serving.served import Served

KEEP_SECONDS = 600.0  # that the model stays in memory without a call
STOP_SECONDS = 2.0  # for which clients usually wait before they kill
EPILOG = """\
examples:
  mlx_lfm2vl mcp -m 450m --allow-folder ~/Pictures
  mlx_lfm2vl mcp -m 450m --allow-folder . --allow-folder /tmp --allow-screenshot
  mlx_lfm2vl mcp -m demo --allow-clipboard --preload

An MCP client starts it; the program speaks JSON-RPC on stdin and stdout.
docs/mcp.md shows what to write into the client's settings.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl mcp",
        description="Give coding agents tools that look at images: describe, read_text, detect,\n"
        "extract and compare. An agent sees only what you allow here.",
        epilog=EPILOG,
    )
    add = parser.add_argument_group("what an agent may look at").add_argument
    add(
        "--allow-folder",
        action="append",
        default=[],
        metavar="FOLDER",
        help="images and PDFs in this folder and below, but no hidden ones; can be repeated",
    )
    add("--allow-clipboard", action="store_true", help="the image on the clipboard (macOS)")
    add("--allow-screenshot", action="store_true", help="what the main screen shows (macOS)")
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("-m", "--model", metavar="MODEL", help=MODEL_HELP)
    add("--revision", help=REVISION_HELP)
    add_adapter_option(group)
    add("--preload", action="store_true", help="load the model now; default: at the first call")
    group = parser.add_argument_group("limits")
    add_size_limit(group)
    add = group.add_argument
    add("--max-tokens", type=int, metavar="N", help="longest answer; default: the tool's own")
    add(
        "--max-seconds",
        type=float,
        default=600,
        metavar="N",
        help="longest time of an answer; default: 600",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _mcp, arguments)


def _mcp(options: argparse.Namespace) -> int:
    if not (options.allow_folder or options.allow_clipboard or options.allow_screenshot):
        raise InputError(
            "nothing may be looked at: add --allow-folder FOLDER, --allow-clipboard or "
            "--allow-screenshot"
        )
    if options.max_tokens is not None and options.max_tokens < 1:
        raise InputError(f"--max-tokens is {options.max_tokens}, expected at least 1")
    if not options.max_seconds > 0:
        raise InputError(f"--max-seconds is {options.max_seconds:g}, expected more than 0")
    max_pixels = chosen_max_pixels(options)
    if sys.stdin is None:
        raise InputError("standard input is closed: an MCP client starts this program")
    from ..images.limits import ImageLimits
    from ..serving.mcp.images import Allowed, AllowedFolder
    from ..serving.mcp.server import Server
    from ..serving.mcp.toolbox import Toolbox
    from ..serving.served import served_model

    folders = [AllowedFolder(folder) for folder in options.allow_folder]
    allowed = Allowed(folders, options.allow_clipboard, options.allow_screenshot)
    limits = ImageLimits(max_pixels=max_pixels)
    served = served_model(
        options.model, revision=options.revision, adapter=options.adapter, limits=limits
    )
    _ = served.info  # a wrong name shows now, not at the first call
    core = cache(partial(_open_core, served, options.max_seconds))
    if options.preload:
        _preload(core())
    if sys.stdin.isatty():
        say("note: an MCP client is expected on standard input; Ctrl-D ends this")
    with _ended_in_time() as end_soon:
        try:
            with _stdout_alone() as out, _terminated(end_soon):
                toolbox = Toolbox(core, allowed, limits, options.max_tokens)
                Server(toolbox, out, _end_main_thread).serve(sys.stdin.buffer)
        finally:
            end_soon()
            if core.cache_info().currsize:
                core().stop(STOP_SECONDS)
    return 0


def _open_core(served: Served, seconds: float) -> Core:
    from ..serving.core import Core
    from ..serving.schedule import Limits

    return Core([served], Limits(rows=1, seconds=seconds, keep_alive=KEEP_SECONDS))


def _preload(core: Core) -> None:
    """Have the model loaded before anybody asks."""

    def note(event: object) -> None:
        if isinstance(event, Lfm2VLError):
            say(f"note: the model was not loaded: {event}")

    core.warm_up(note)


@contextmanager
def _stdout_alone() -> Iterator[BinaryIO]:
    """Give standard output to messages; what any library or program prints goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    out = open(kept, "wb", closefd=False)  # noqa: SIM115  closing it fails if the client is gone
    try:
        with redirect_stdout(sys.stderr):
            yield out
    finally:
        with suppress(OSError):
            out.close()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _terminated(end_soon: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM end the program as the end of its input does."""

    def stop(_number: int, _frame: object) -> NoReturn:
        end_soon()
        raise SystemExit

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _ended_in_time() -> Iterator[Callable[[], None]]:
    """Yield what lets the process end soon, whatever the device or a library is doing then.

    Python handles a signal in the main thread, which may be about to wait for input, and then does
    so only after the next message. So SIGTERM also writes its number to a pipe, which a thread
    reads.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    is_over = threading.Event()

    def watch() -> None:
        while os.read(reading, 1)[0] != signal.SIGTERM:
            pass
        if not is_over.wait(STOP_SECONDS):
            os._exit(0)

    def end_soon() -> None:
        os.write(writing, bytes([signal.SIGTERM]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield end_soon
    finally:
        signal.set_wakeup_fd(before)
        is_over.set()
        end_soon()
        watcher.join()
        os.close(reading)
        os.close(writing)


def _end_main_thread() -> None:
    """End the program although its main thread waits for input."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
