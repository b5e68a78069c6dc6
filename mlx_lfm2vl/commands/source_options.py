"""The options that say where pictures come from, the same for all commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InputError

if TYPE_CHECKING:
    from ..images.inputs import Input
    from ..images.limits import ImageLimits


def add_source_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of `chosen_inputs`, except the names themselves; return their group."""
    group = parser.add_argument_group("sources of images")
    add = group.add_argument
    add("--recursive", action="store_true", help="also enter the folders in a folder")
    add(
        "--files-from",
        metavar="FILE",
        help="read more names of images from a file, one a line or with a NUL after each, as of "
        "find -print0; - reads them from stdin",
    )
    add(
        "--clipboard",
        action="store_true",
        help="the image on the clipboard, or the files that were copied in the Finder (macOS)",
    )
    add("--screenshot", action="store_true", help="what the main screen shows (macOS)")
    add("--region", action="store_true", help="with --screenshot: select a part with the mouse")
    return group


def has_sources(options: argparse.Namespace) -> bool:
    """Whether any image was chosen."""
    named = options.image or options.files_from is not None
    return bool(named or options.clipboard or options.screenshot)


def reads_stdin(options: argparse.Namespace) -> bool:
    """Whether images, or their names, are read from stdin."""
    return "-" in options.image or options.files_from == "-"


def chosen_inputs(options: argparse.Namespace, limits: ImageLimits) -> Iterator[Input]:
    """Return the pictures that were chosen, in this order: names, list, clipboard, screenshot.

    The clipboard and the screen are read at once, since they change. All else waits for its turn,
    so the caller holds no more names than it takes. See `images.gather`.

    Args:
        options: with `image`, a list of names, and the options of `add_source_options`.
        limits: on what is read.

    Raises:
        InputError: stdin is used twice, there is nothing on the clipboard, the screen cannot be
            read, or the only image cannot be.
        Cancelled: the user has selected no region.
    """
    from ..images.drawn import Refused
    from ..images.gather import gather

    if options.region and not options.screenshot:
        raise InputError("--region selects a part of the screen: add --screenshot")
    if [*options.image, options.files_from].count("-") > 1:
        raise InputError("stdin (-) can be used only once")
    now: list[Input] = []
    if options.clipboard:
        from ..images.clipboard import copied

        now += copied(limits, recursive=options.recursive)
    if options.screenshot:
        from ..images.screenshot import take_screenshot

        now.append(take_screenshot(region=options.region))
    named = gather(
        options.image,
        recursive=options.recursive,
        files_from=options.files_from,
        stdin=_stdin(),
        limits=limits,
    )
    inputs = chain(named, now)
    first = list(islice(inputs, 2))
    if len(first) == 1 and isinstance(first[0].source, Refused):
        raise first[0].source.error
    return chain(first, inputs)


def _stdin() -> BinaryIO | None:
    return None if sys.stdin is None else sys.stdin.buffer
