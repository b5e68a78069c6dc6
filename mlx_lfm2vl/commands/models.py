"""The `models` command: the checkpoints on this machine, and those that fit its memory.

Exit codes: 0 listed or removed, 1 failed or not confirmed, 2 wrong use, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from ..checkpoint.aliases import PUBLISHED, full_name
from ..errors import InputError, Lfm2VLError
from .common import run_command
from .parser import Parser, nearest

# A GPU may use about two thirds of a Mac's memory. Images, prompt and cache take 1 GB at most
# for a usual question.
GPU_SHARE, WORK_GB = 2 / 3, 1.0
EPILOG = """\
examples:
  mlx_lfm2vl models
  mlx_lfm2vl models --remove 450m
  mlx_lfm2vl models --remove LiquidAI/LFM2-VL-450M --yes
"""

INCOMPLETE = "not complete: the next use of it downloads the rest"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl models",
        description="List the LFM2-VL checkpoints in the Hub's cache and the published ones,\n"
        "with their sizes and whether they fit this machine's memory.",
        epilog=EPILOG,
    )
    add = parser.add_argument_group("remove").add_argument
    add("--remove", metavar="REPO", help="delete this checkpoint from the cache")
    add("--yes", action="store_true", help="do not ask before deleting; default: ask")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _models, arguments)


def _models(options: argparse.Namespace) -> int:
    if options.remove:
        return _remove(full_name(options.remove), sure=options.yes)
    if options.yes:
        raise InputError("--yes means something with --remove only")
    from ..checkpoint.hub_cache import cached_checkpoints

    memory = memory_gigabytes()
    cached = {found.repo: found for found in cached_checkpoints()}
    print(f"on this machine ({memory:.0f} GB of memory):" if memory else "on this machine:")
    for repo, found in cached.items():
        gigabytes = found.nbytes / 1e9
        state = _fit(gigabytes, memory) if found.is_whole else INCOMPLETE
        print(f"  {repo:32}{gigabytes:5.1f} GB  {state}\n    {found.folder}")
    if not cached:
        print("  none")
    print("to download, at 16 bits:")
    for model in PUBLISHED:
        if model.repo not in cached:
            name = f"{model.repo} ({model.alias})" if model.alias else model.repo
            print(f"  {name:32}{model.gigabytes:5.1f} GB  {_fit(model.gigabytes, memory)}")
    return 0


def memory_gigabytes() -> float:
    """Return the size of this machine's memory in GB, or 0 if it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (OSError, ValueError):
        return 0


def _fit(weights: float, memory: float) -> str:
    """Say whether weights of some GB fit the memory."""
    if not memory:
        return ""
    if weights + WORK_GB <= GPU_SHARE * memory:
        return "fits"
    return "too large: convert it with --bits 4 on a larger machine"


def _remove(repo: str, *, sure: bool) -> int:
    from ..checkpoint.hub_cache import cached_checkpoints, remove_cached

    cached = {found.repo: found for found in cached_checkpoints()}
    if repo not in cached:
        near = nearest(repo, cached)
        hint = f"; did you mean {near}?" if near else "; mlx_lfm2vl models lists what is"
        raise InputError(f"{repo} is not in the cache{hint}")
    found = cached[repo]
    if not sure:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError(f"{repo} is deleted only after a question, or with --yes")
        print(f"Delete {found.folder} ({found.nbytes / 1e9:.1f} GB)? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Lfm2VLError("nothing was deleted")
    remove_cached([found])
    print(f"deleted {repo}: {found.nbytes / 1e9:.1f} GB")
    return 0
