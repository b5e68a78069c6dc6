"""The options of a resident process, and the engine that asks it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import InputError
from .draft_options import check_draft_model, drafts
from .durations import seconds_of

if TYPE_CHECKING:
    from ..images.limits import ImageLimits
    from ..serving.resident.client import RemoteEngine
    from ..serving.resident.place import Wanted

# Options of the process that answers, which another command may have started.
ELSEWHERE = {
    "cache_limit": "--cache-limit sets the memory of this process, and --resident asks another",
    "wired_limit": "--wired-limit sets the memory of this process, and --resident asks another",
    "cache": "--cache keeps on disk what --resident keeps in memory",
}


def add_resident_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument_group("resident process (default: none)").add_argument
    add(
        "--resident",
        action="store_true",
        help="ask a process that keeps the model in memory; start it if there is none",
    )
    add(
        "--keep-alive",
        type=seconds_of,
        default=argparse.SUPPRESS,
        metavar="TIME",
        help="end it after so long without a question: 30s, 10m, 2h, forever; default: 10m",
    )


def check_resident_options(options: argparse.Namespace) -> None:
    """Refuse what contradicts --resident, before anything is started.

    Raises:
        InputError: an option is of no use with --resident, or without it.
    """
    if not options.resident:
        if "keep_alive" in options:
            raise InputError("--keep-alive is for --resident: add it, or remove --keep-alive")
        return
    for name, why in ELSEWHERE.items():
        if getattr(options, name, None) is not None:
            raise InputError(f"{why}: remove one of the two")


def open_resident(options: argparse.Namespace, limits: ImageLimits) -> RemoteEngine:
    """Return an engine that asks the process of the model that was chosen."""
    from ..serving.resident.client import KEEP_ALIVE, RemoteEngine

    if options.update:
        _find_files(options)
        options.update = False
    return RemoteEngine(
        _wanted(options),
        limits,
        keep_alive=getattr(options, "keep_alive", KEEP_ALIVE),
        prepare=lambda: _find_files(options),
    )


def _find_files(options: argparse.Namespace) -> None:
    """Find the files as a run of its own would: downloads are shown, and errors are the same."""
    from ..adapters.choice import find_adapters
    from ..checkpoint.find import find_checkpoint

    check_draft_model(options)
    find_checkpoint(options.model, options.revision, update=options.update)
    find_adapters(options.adapter)


def _wanted(options: argparse.Namespace) -> Wanted:
    from ..serving.resident.place import Wanted, absolute_name

    return Wanted(
        absolute_name(options.model),
        options.revision,
        options.dtype,
        tuple(_absolute_adapter(text) for text in options.adapter or ()),
        absolute_name(options.draft_model) if drafts(options) else None,
    )


def _absolute_adapter(text: str) -> str:
    from ..adapters.choice import split_weight
    from ..serving.resident.place import absolute_name

    name, _ = split_weight(text)
    return absolute_name(name) + text[len(name) :]
