"""The `resident` command: the processes that `--resident` has started.

Exit codes: 0 listed or stopped, 1 one does not reply or no process holds that model, 2 wrong use,
130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..errors import Lfm2VLError, printable
from ..serving.resident.place import absolute_name
from .answer_output import print_objects, say
from .common import run_command
from .default_model import chosen_model
from .parser import Parser

REPLY_SECONDS = 3.0  # that a process has to tell how it is
EPILOG = """\
examples:
  mlx_lfm2vl resident status
  mlx_lfm2vl resident stop
  mlx_lfm2vl resident stop 450m

A process ends by itself after ten minutes without a question, unless
--keep-alive says otherwise.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl resident",
        usage="mlx_lfm2vl resident {status,stop} [MODEL]",
        description="List the processes that --resident has started, or end them: answers under\n"
        "way are finished, and a process that does not reply is killed.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("action", choices=("status", "stop"), help="what to do")
    add("named_model", nargs="?", metavar="MODEL", help="only those of this model; default: all")
    add("--json", action="store_true", help="print a list of objects instead of a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _resident, arguments)


def _resident(options: argparse.Namespace) -> int:
    found = _found()
    if options.named_model:
        model = absolute_name(chosen_model(options.named_model))
        found = [each for each in found if each["model"] == model]
        if not found:
            raise Lfm2VLError(f"no resident process holds {options.named_model}")
    return _stop(found, options) if options.action == "stop" else _status(found, options)


def _found() -> list[dict[str, Any]]:
    """Return the processes; of one that does not reply, only the pid is known."""
    from ..serving.resident.http import Call, Lost
    from ..serving.resident.place import sockets

    found: list[dict[str, Any]] = []
    for path in sockets():
        try:
            call = Call(path, REPLY_SECONDS)
        except Lost:  # nobody listens: the next start removes the socket
            continue
        silent = {"status": "silent", "model": None, "pid": call.peer.pid}
        try:
            found.append({**call.object("GET", "/health"), "socket": path})
        except (Lost, Lfm2VLError):
            found.append({**silent, "socket": path})
    return found


def _status(found: Sequence[dict[str, Any]], options: argparse.Namespace) -> int:
    silent = [each for each in found if each["model"] is None]
    if options.json:
        print_objects(found)
    elif not found:
        print("no process is resident", flush=True)
    else:
        rows = [("MODEL", "PID", "MEMORY", "IDLE", "SOCKET"), *map(_row, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print(printable("  ".join(cells).rstrip()), flush=True)
    for each in silent:
        say(f"error: process {each['pid']} does not reply; end it with mlx_lfm2vl resident stop")
    return 1 if silent else 0


def _row(values: dict[str, Any]) -> tuple[str, ...]:
    if values["model"] is None:
        return ("?", str(values["pid"]), "?", "does not reply", values["socket"])
    idle = "busy" if values["calls"] else f"{values['idle_seconds']:.0f} s"
    memory = f"{values['memory_bytes'] / 1e9:.2f} GB"
    return (values["model"], str(values["pid"]), memory, idle, values["socket"])


def _stop(found: Sequence[dict[str, Any]], options: argparse.Namespace) -> int:
    from ..serving.resident.start import stop

    stopped = [{**each, "pid": stop(each["socket"]) or each["pid"]} for each in found]
    if options.json:
        print_objects([{"model": each["model"], "pid": each["pid"]} for each in stopped])
        return 0
    for each in stopped:
        print(printable(f"stopped {each['model'] or 'a process'}, pid {each['pid']}"), flush=True)
    if not stopped:
        print("no process is resident", flush=True)
    return 0
