"""The options that choose pages of PDFs, frames of videos, and slices of long pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import InputError
from .image_options import chosen_image_options

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..checkpoint.image_config import ImageConfig
    from ..images.inputs import Input
    from ..images.limits import ImageLimits
    from ..images.page_options import PageOptions


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
    from ..images.page_options import PageOptions

    return PageOptions(
        pages=options.pages, frames=options.frames, at=tuple(options.at), slices=options.slices
    )


def chosen_image_config(options: argparse.Namespace) -> ImageConfig:
    """The image settings of the model that was chosen, with those given on top; no weights."""
    from ..checkpoint.config import read_model_config
    from ..checkpoint.find import find_checkpoint
    from ..checkpoint.image_config import load_image_config

    folder = find_checkpoint(
        options.model, options.revision, with_weights=False, update=options.update
    )
    read_model_config(folder)  # rejects other models
    return load_image_config(folder).with_options(chosen_image_options(options))


def pictures_of_prompt(
    options: argparse.Namespace, inputs: Iterable[Input], limits: ImageLimits
) -> list[Input]:
    """Return the pictures of one prompt, each read or drawn once, before a model is loaded.

    Raises:
        InputError: an input cannot be read, there are too many pictures, or an option chooses
            nothing in any of them.
    """
    from ..images.first_bytes import is_animation, is_video
    from ..images.other_kinds import is_pdf
    from ..images.page_options import PageOptions
    from ..images.read import peek, read_once

    chosen, given = chosen_pages(options), list(inputs)
    limits.check_count(len(given))
    given = [replace(item, source=read_once(item.source, limits)) for item in given]
    peeked = [peek(item.source, limits) for item in given]
    given = [replace(item, source=source) for item, (source, _) in zip(given, peeked, strict=True)]
    heads = [head for _, head in peeked]
    if chosen.pages and not any(map(is_pdf, heads)):
        raise InputError("--pages chooses pages of a PDF, and none is given")
    if chosen.has_frames and not any(is_video(head) or is_animation(head) for head in heads):
        raise InputError("--frames and --at choose frames of animations and videos; none is given")
    if chosen == PageOptions() and not any(map(is_pdf, heads)):
        return given
    from ..images.pages import expand_inputs

    pictures = expand_inputs(given, chosen, chosen_image_config(options), limits)
    found = list(islice(pictures, limits.max_images + 1))
    if len(found) > limits.max_images:
        each = ", or ask about each with --each" if "each" in options else ""
        raise InputError(
            f"there are more than {limits.max_images} pictures for one prompt; choose some with "
            f"--pages or --frames{each}"
        )
    return [_drawn(picture, limits) for picture in found]


def _drawn(picture: Input, limits: ImageLimits) -> Input:
    from ..images.drawn import Drawn, Kept

    if not isinstance(picture.source, Drawn):
        return picture
    return replace(picture, source=Kept(picture.name, picture.source.draw(limits)))
