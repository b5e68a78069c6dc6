"""Which pictures a file holds: pages of a PDF, frames of a video, slices of a long picture.

Plain images pass without a decoder, which takes long to import.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError, NetworkError
from .drawn import Refused, Slice, Whole
from .first_bytes import is_animation, is_video
from .inputs import Input
from .limits import ImageLimits
from .other_kinds import is_pdf
from .page_options import PageOptions
from .read import peek

if TYPE_CHECKING:
    from .source import ImageSource

logger = logging.getLogger(__name__)


def expand_inputs(
    inputs: Iterable[Input],
    options: PageOptions,
    config: ImageConfig,
    limits: ImageLimits,
    *,
    whole: bool = False,
) -> Iterator[Input]:
    """Replace files of several pictures by these, one by one and in order.

    PDFs become pages. With `options.frames` or `options.at`, animations and videos become frames;
    without, an animation shows its first. With `options.slices`, long pictures become slices. All
    other inputs pass unread.

    A picture is drawn when `open_image` opens its source. A file that cannot be expanded raises its
    error there too, so that the others are not held up. At the end a note says if the options chose
    nothing.

    Args:
        inputs: what is asked about; any number.
        options: which pages, frames and parts.
        config: image settings in use. They tell at which size a page loses nothing.
        limits: on files and pixels.
        whole: whether a long picture stays one input, which has its slices.
    """
    kinds = set[str]()
    for item in inputs:
        for picture in _pictures(item, options, config, limits, kinds):
            if options.slices == "auto":
                picture = _sliced(picture, config, limits)
            yield from [picture] if whole else picture.asked
    if options.pages and "pages" not in kinds:
        logger.warning("the pages %s were chosen, and no file is a PDF", options.pages)
    if options.has_frames and "frames" not in kinds:
        logger.warning("frames were chosen, and no file is a video or an animation")


def open_pages(
    source: ImageSource,
    config: ImageConfig,
    *,
    pages: str = "",
    frames: int | None = None,
    at: Sequence[float] = (),
    slices: Literal["auto", "off"] = "off",
    limits: ImageLimits | None = None,
) -> Iterator[Input]:
    """Yield the pages of a PDF, frames of an animation or video, or slices of a long picture.

    The `source` of each is an image for a prompt, and its `name` says which it is. It is drawn when
    it is asked about. What cannot be read raises `InputError` then.

    Args:
        source: of an image or a PDF, as for `open_image`; a video is a path.
        config: image settings, such as `processor.image_config`. They tell at which size a page
            loses nothing.
        pages: of a PDF, such as "1-3,5" or "4-"; empty is all.
        frames: how many, spread evenly; None is the first of an animation.
        at: seconds of the frames instead.
        slices: "auto" cuts a long picture, so that it keeps its scale.
        limits: on files and pixels.

    Raises:
        InputError: a choice is out of range.
    """
    options = PageOptions(str(pages), frames, tuple(at), slices)
    name = str(source) if isinstance(source, str | os.PathLike) else "image data"
    return expand_inputs([Input(name, source)], options, config, limits or ImageLimits())


def _pictures(
    item: Input, options: PageOptions, config: ImageConfig, limits: ImageLimits, kinds: set[str]
) -> Iterator[Input]:
    """The pages or frames of a file, or the file itself; adds which of these to `kinds`."""
    try:
        source, head = peek(item.source, limits)
        item = replace(item, source=source)
        if is_pdf(head):
            from .pdf import pdf_pages

            kinds.add("pages")
            for number, page in pdf_pages(item, options.pages, config, limits):
                yield replace(item, name=page.name, source=page, page=number)
        elif is_video(head) and options.has_frames:
            from .video import video_frames

            kinds.add("frames")
            yield from video_frames(item, options.frames, options.at)
        elif is_animation(head) and options.has_frames:
            from .frames import animation_frames

            kinds.add("frames")
            yield from animation_frames(item, options.frames, options.at, limits)
        else:
            yield item
    except (InputError, NetworkError) as error:
        yield replace(item, source=Refused(item.name, error))


def _sliced(item: Input, config: ImageConfig, limits: ImageLimits) -> Input:
    """Return a long picture with its slices; any other picture as it is."""
    from .slices import plan_slices
    from .source import open_image

    try:
        opened = open_image(item.source, limits)
        parts = plan_slices(*opened.size, config)
    except (InputError, NetworkError):  # it comes up again when its turn comes
        return item
    if len(parts) == 1:
        return item
    height, width = parts[0].height, parts[0].width
    logger.warning(
        "%s is cut into %d slices of %d x %d pixels, so that it keeps its scale",
        item.name,
        len(parts),
        width,
        height,
    )
    whole = Whole(item.name, opened, config.background)
    slices = list[Input]()
    for number, part in enumerate(parts, 1):
        name = f"{item.name}, slice {number} of {len(parts)}"
        slices.append(replace(item, name=name, source=Slice(name, whole, part), part=part))
    return replace(item, source=whole, slices=tuple(slices))
