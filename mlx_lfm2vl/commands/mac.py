"""The `mac` command: Quick Actions for the Finder, and what to paste into Shortcuts and Raycast.

Exit codes: 0 done, 1 a file was kept because it was changed, 2 wrong use.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .common import MODEL_HELP, run_command
from .default_model import chosen_model
from .parser import Parser

EPILOG = """\
examples:
  mlx_lfm2vl mac install -m 450m
  mlx_lfm2vl mac install -m 450m --folder actions
  mlx_lfm2vl mac uninstall

The actions name this Python by its path: install them again after it moved.
"""
IN_FINDER = """\
They are in Finder's menu: right-click images, Quick Actions. If not: System Settings, Keyboard,
Keyboard Shortcuts, Services, Files and Folders."""
ELSEWHERE = "Finder shows them once they are in ~/Library/Services."
PASTE = """\
For Shortcuts, paste this into "Run Shell Script" (Shell: zsh, Input: an image, Pass Input: to
stdin). Its result is the text in the image. Scripts are allowed in Shortcuts' settings, Advanced.

export LANG=en_US.UTF-8
{program} ocr -m {model} -

For Raycast, save this as lfm2vl.sh in a folder of script commands.

#!/bin/zsh
# @raycast.schemaVersion 1
# @raycast.title Describe Image on Clipboard
# @raycast.mode fullOutput
# @raycast.packageName LFM2-VL
export LANG=en_US.UTF-8
{program} caption -m {model} --clipboard
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl mac",
        usage="mlx_lfm2vl mac {install,uninstall} [options]",
        description="Write Quick Actions for the Finder, and print what to paste into Shortcuts\n"
        "and Raycast; or remove what was written.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("action", choices=("install", "uninstall"), help="what to do")
    add("-m", "--model", dest="named_model", metavar="MODEL", help=MODEL_HELP)
    add(
        "--folder",
        type=Path,
        help="where Quick Actions are; default: ~/Library/Services, which is only on macOS",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _mac, arguments)


def _mac(options: argparse.Namespace) -> int:
    from ..desktop.quick_actions import SERVICES, install, uninstall

    if options.folder is None and sys.platform != "darwin":
        raise InputError("Quick Actions are for macOS; --folder FOLDER writes them elsewhere")
    folder = Path(options.folder or SERVICES).expanduser().absolute()
    if options.action == "uninstall":
        if options.named_model:
            raise InputError("--model means something with install only")
        done = uninstall(folder)
        for path in done.kept:
            print(f"note: {path} was changed since, so it stays", file=sys.stderr)
        print(f"removed {len(done.removed)} files from {folder}")
        return 1 if done.kept else 0
    model = chosen_model(options.named_model)
    if os.path.isdir(model):
        model = os.path.abspath(model)  # an action runs in another folder
    for path in install(folder, sys.executable, model):
        print(path)
    program = f"{shlex.quote(sys.executable)} -m mlx_lfm2vl"
    is_seen = folder == Path(SERVICES).expanduser()
    print(f"\n{IN_FINDER if is_seen else ELSEWHERE}\n")
    print(PASTE.format(program=program, model=shlex.quote(model)), end="")
    return 0
