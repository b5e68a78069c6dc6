"""The options that choose pages of PDFs, frames of videos, and slices of long pictures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..images.pages import PageOptions


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which pictures of a file are meant."""
    add = parser.add_argument_group("pages, frames, long pictures").add_argument
    add(
        "--pages",
        default="",
        metavar="LIST",
        help="pages of a PDF, such as 1-3,5 or 4-; default: all",
    )
    add(
        "--frames",
        type=int,
        metavar="N",
        help="N frames of an animation or video, spread evenly; default: the first of an animation",
    )
    add(
        "--at",
        type=float,
        action="append",
        default=[],
        metavar="SECONDS",
        help="the frame at this time instead; can be repeated",
    )
    add(
        "--slices",
        choices=("auto", "off"),
        default="off",
        help="auto cuts long pictures, such as screenshots of whole pages, so that their writing "
        "keeps its size; default: off",
    )


def chosen_pages(options: argparse.Namespace) -> PageOptions:
    """The pages, frames and slices that were chosen.

    Raises:
        InputError: a value is out of range, or two contradict each other.
    """
    from ..images.pages import PageOptions

    return PageOptions(
        pages=options.pages, frames=options.frames, at=tuple(options.at), slices=options.slices
    )
