"""The options that write answers back: beside photos, into their tags, into their names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .common import run_command
from .parser import Parser

if TYPE_CHECKING:  # opens images, which --help does without
    from ..desktop.write_back import Plan

WAYS = ("xmp", "finder-comment", "finder-tags", "txt")
UNDO_FILE = "renamed.jsonl"
NAMES = ("stem", "file")
UNDO_HELP = "give renamed files their old names, and do nothing else: mlx_lfm2vl run --undo FILE"


def add_write_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that write answers back; return their group."""
    group = parser.add_argument_group("writing back")
    add = group.add_argument
    add(
        "--write",
        action="append",
        type=_ways,
        default=[],
        metavar="WAY",
        help="write each answer to: xmp (a sidecar for Lightroom, Bridge, darktable, digiKam), txt "
        "(a text file beside the photo), finder-tags or finder-comment (macOS); several with "
        "commas. What is there already is kept",
    )
    add("--replace", action="store_true", help="replace captions, comments and texts of --write")
    add(
        "--xmp-name",
        choices=NAMES,
        help="name of new sidecars: stem makes photo.xmp (Lightroom, Bridge), file makes "
        "photo.jpg.xmp (darktable, digiKam); default: stem",
    )
    add(
        "--exiftool-csv",
        type=Path,
        metavar="FILE",
        help="write captions and keywords to a table from which exiftool puts them into the photos",
    )
    add(
        "--rename",
        metavar="TEMPLATE",
        help="rename photos by their answers: '{date}_{slug}{ext}'; also {name} and {time}",
    )
    add("--preview", action="store_true", help="only say the new names, and write nothing back")
    add(
        "--undo-file",
        type=Path,
        metavar="FILE",
        help=f"where the old names are kept; default: {UNDO_FILE} in the current folder",
    )
    add("--undo", type=Path, metavar="FILE", help=UNDO_HELP)
    return group


def write_plan(options: argparse.Namespace) -> Plan | None:
    """Make the plan of what is written; None if nothing is.

    Raises:
        InputError: an option has no effect, or what it asks for is not possible here.
    """
    from ..desktop.write_back import Plan

    if options.undo:
        raise InputError("--undo stands alone, as in mlx_lfm2vl run --undo FILE")
    ways = frozenset(way for each in options.write for way in each)
    if not ways and options.exiftool_csv is None and options.rename is None:
        for name in ("replace", "xmp_name", "preview", "undo_file"):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} means something with --write or --rename only")
        return None
    if options.preview and options.rename is None:
        raise InputError("--preview means something with --rename only")
    if options.undo_file and options.rename is None:
        raise InputError("--undo-file means something with --rename only")
    if options.xmp_name and "xmp" not in ways:
        raise InputError("--xmp-name means something with --write xmp only")
    return Plan(
        ways,
        replace=options.replace,
        whole_name=options.xmp_name == "file",
        csv=options.exiftool_csv,
        rename=options.rename,
        undo_file=options.undo_file or Path(UNDO_FILE),
        preview=options.preview,
    )


def undo_renames(arguments: Sequence[str]) -> int:
    """Do what `--undo FILE` says; return the exit code: 1 if a file keeps its new name."""
    parser = Parser(prog="mlx_lfm2vl run", usage="mlx_lfm2vl run --undo FILE")
    parser.add_argument("--undo", type=Path, metavar="FILE", help=UNDO_HELP)
    return run_command(parser, _undo, arguments)


def _undo(options: argparse.Namespace) -> int:
    from ..desktop.rename import undo

    done = undo(options.undo)
    for problem in done.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{done.restored} files have their old names again")
    return 1 if done.problems else 0


def _ways(text: str) -> list[str]:
    """Split `xmp,txt`."""
    ways = [way.strip() for way in text.split(",")]
    for way in ways:
        if way not in WAYS:
            raise argparse.ArgumentTypeError(f"{way!r} is unknown; known are {', '.join(WAYS)}")
    return ways
