"""The `cache` command: what `generate --cache` has kept on disk.

Exit codes: 0 listed or removed, 1 failed, 2 wrong use, 130 interrupted.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ..disk_space import size_text, write_failure
from ..errors import Lfm2VLError, printable
from .cache_options import VARIABLE, chosen_folder, default_folder
from .common import run_command
from .parser import Parser

EPILOG = """\
examples:
  mlx_lfm2vl cache list
  mlx_lfm2vl cache clear
  mlx_lfm2vl cache list --cache kept
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl cache",
        usage="mlx_lfm2vl cache {list,clear} [options]",
        description="List or delete what `generate --cache` has kept: image features, and keys\n"
        "and values of prompts. They hold what was in the images.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("action", choices=("list", "clear"), help="clear deletes at once, and only its own files")
    add(
        "--cache",
        metavar="DIR",
        help=f"folder of the cache; default: {VARIABLE}, then ~/.cache/mlx_lfm2vl",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _cache, arguments)


def _cache(options: argparse.Namespace) -> int:
    folder = chosen_folder(options.cache) or default_folder()
    return _clear(folder) if options.action == "clear" else _list(folder)


def _list(folder: Path) -> int:
    from ..generation.disk_store import DiskStore

    store = DiskStore(folder)
    entries = store.entries()
    for entry in reversed(entries):
        about = store.about(entry) if entry.is_finished else {}
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used / 1e9))
        kind = entry.path.name.partition("-")[0] if entry.is_finished else "unfinished"
        tokens = f"{about.get('tokens', '?')} tokens"
        line = f"{used}  {kind:10}  {size_text(entry.nbytes):>8}  {tokens:>12}"
        print(printable(f"{line}  {about.get('model', '')}").rstrip())
    print(f"{folder}: {_count(len(entries))}, {size_text(sum(e.nbytes for e in entries))}")
    return 0


def _clear(folder: Path) -> int:
    from ..generation.disk_store import DiskStore

    try:
        files, nbytes = DiskStore(folder).clear()
    except OSError as error:
        raise Lfm2VLError(f"{folder} cannot be cleared: {write_failure(error, folder)}") from None
    print(f"removed {_count(files)}, {size_text(nbytes)}, from {folder}")
    return 0


def _count(files: int) -> str:
    return f"{files} file" if files == 1 else f"{files} files"
