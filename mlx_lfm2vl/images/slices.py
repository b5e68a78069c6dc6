"""Where a long picture is cut, so that writing on it keeps its scale. In integers, without pixels.

A screenshot of a whole web page is squeezed by the tiling: 1280 x 9000 pixels become 512 x 3584.
Cut into three, it is shown at 80 % of its size.
"""

from __future__ import annotations

import math

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError
from .drawn import Part
from .geometry import candidate_grids, plan_image

READABLE = 0.75  # of its size, at which a screenshot's writing is still read
LONG = 2.0  # times as long as wide; below, a picture is large, and cutting it is not meant
MAX_SLICES = 8  # of one picture: some 14,000 tokens with the family's settings
OVERLAP = 16  # the short side, divided by this, is what neighbors share: two or three lines
GAIN = 1.25  # times as large as uncut, or cutting is not worth it


def plan_slices(height: int, width: int, config: ImageConfig) -> list[Part]:
    """Decide where to cut a long picture.

    Slices have the same size and the shape of a grid of tiles. They overlap by at least 1/16 of
    the short side, so that a line of text is whole in one of them. The fewest tokens win among the
    cuts that show the picture at `READABLE` of its size, or as large as `MAX_SLICES` slices can.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        config: image settings in use.

    Returns:
        The slices from the top, or from the left. One part, the whole picture, if it is not long
        or if slices would not show it larger.
    """
    whole = Part(0, 0, height, width, (height, width))
    short, long = sorted((height, width))
    scale = _scale(height, width, config)
    if short < 1 or long < LONG * short or scale >= READABLE:
        return [whole]
    is_tall = height > width
    best, best_rank = [(0, long)], (scale * GAIN, 0)
    for along, across in [(1, 1), *candidate_grids(config.min_tiles, config.max_tiles)]:
        length = math.ceil(short * along / across)
        if length >= long:
            continue
        cuts = _cuts(long, length, math.ceil(short / OVERLAP))
        if len(cuts) > MAX_SLICES:
            continue
        size = (length, short) if is_tall else (short, length)
        tokens = len(cuts) * plan_image(*size, config).image_tokens
        rank = (min(_scale(*size, config), READABLE), -tokens)
        if rank > best_rank:
            best, best_rank = cuts, rank
    if is_tall:
        return [Part(top, 0, length, width, (height, width)) for top, length in best]
    return [Part(0, left, height, length, (height, width)) for left, length in best]


def _scale(height: int, width: int, config: ImageConfig) -> float:
    """The size at which a picture is shown, of its own; 0 if it is too thin to be shown."""
    try:
        canvas = plan_image(height, width, config).canvas
    except InputError:
        return 0.0
    return min(canvas[0] / height, canvas[1] / width)


def _cuts(long: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """(begin, length) of slices along the long side, evenly spread."""
    if length <= overlap:
        return [(at, length) for at in range(MAX_SLICES + 1)]  # would never arrive
    count = 1 + math.ceil((long - length) / (length - overlap))
    return [(number * (long - length) // (count - 1), length) for number in range(count)]
