"""The options of images: the checkpoint's settings that they change, and how large one may be."""

import argparse
from dataclasses import fields

from ..errors import InputError
from ..options import ImageOptions


def add_image_options(group: argparse._ArgumentGroup) -> None:
    """Add the fields of `ImageOptions` to a group of options."""
    add = group.add_argument
    add("--min-image-tokens", type=int, metavar="N", help="enlarge images with fewer tokens")
    add(
        "--max-image-tokens",
        type=int,
        metavar="N",
        help="most tokens per view; a larger image is shrunk or split into tiles",
    )
    add(
        "--image-splitting",
        action=argparse.BooleanOptionalAction,
        dest="do_image_splitting",
        help="split large images into tiles",
    )
    add("--min-tiles", type=int, metavar="N", help="fewest tiles of an image that is split")
    add("--max-tiles", type=int, metavar="N", help="most tiles of an image; fewer are faster")
    add(
        "--thumbnail",
        action=argparse.BooleanOptionalAction,
        dest="use_thumbnail",
        help="also show the model a small copy of an image that is split",
    )
    add(
        "--jpeg-draft",
        action=argparse.BooleanOptionalAction,
        help="decode a JPEG photo at 1/2 or 1/4 of its size if the model needs no more: about 3 "
        "times faster for large ones, and pixel values differ by 0.2 to 0.5 of 255 on average; "
        "text and line art are decoded in full; default: yes",
    )
    add(
        "--background",
        type=_color,
        metavar="COLOR",
        help="color below transparent pixels, such as black or '#202020'; default: white, or black "
        "if all that is drawn is light",
    )


def _color(text: str) -> str:
    """A color that is known."""
    from ..checkpoint.image_config import check_color

    check_color(text)
    return text


def chosen_image_options(options: argparse.Namespace) -> ImageOptions:
    """The image settings that were given."""
    return ImageOptions(**{f.name: getattr(options, f.name) for f in fields(ImageOptions)})


def add_size_limit(group: argparse._ArgumentGroup) -> None:
    """Add the limit on an image's pixels."""
    group.add_argument(
        "--max-megapixels",
        type=float,
        default=200,
        metavar="N",
        help="reject images with more megapixels; default: 200",
    )


def chosen_max_pixels(options: argparse.Namespace) -> int:
    """Return how many pixels an image may have.

    Raises:
        InputError: nobody can mean the limit.
    """
    if not 0 < options.max_megapixels < 1e6:
        raise InputError(
            f"--max-megapixels is {options.max_megapixels}, expected more than 0 and less than 1e6"
        )
    return int(options.max_megapixels * 1e6)
