"""Boxes that were found in slices of a picture, as boxes of the whole picture.

Slices are parts of a very long picture that are asked about one by one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..images.drawn import Part
from .boxes import Box, Pixels, at_least_one_pixel, within

SAME = 0.5  # overlap (intersection over union) from which boxes of two slices are one object


def in_whole(box: Box, part: Part, image: int = 0) -> Box:
    """Return a box of a slice as a box of the whole picture.

    Args:
        box: read with the slice's (height, width).
        part: where the slice is.
        image: number of the whole picture.
    """
    height, width = part.whole
    left, top, right, bottom = box.pixels
    x1, y1, x2, y2 = box.relative
    relative = (
        within((part.left + x1 * part.width) / width),
        within((part.top + y1 * part.height) / height),
        within((part.left + x2 * part.width) / width),
        within((part.top + y2 * part.height) / height),
    )
    sides = (
        *at_least_one_pixel(left + part.left, right + part.left, width),
        *at_least_one_pixel(top + part.top, bottom + part.top, height),
    )
    return Box(image, box.label, (sides[0], sides[2], sides[1], sides[3]), relative)


def merge_slices(slices: Sequence[tuple[Part, Sequence[Box]]], image: int = 0) -> list[Box]:
    """Return the boxes of all slices as boxes of the whole picture, each object once.

    Two slices see the same object if they name it alike and agree about it where they overlap, or
    along the line where they meet. The object's box then is the smallest around both. Boxes of one
    slice are never joined.

    Args:
        slices: where each slice is, with the boxes that were read with its size.
        image: number of the whole picture.
    """
    groups: list[list[tuple[Part, Box]]] = []
    for part, boxes in slices:
        known = list(groups)
        for box in (in_whole(box, part, image) for box in boxes):
            group = next((g for g in known if any(_is_same(part, box, *m) for m in g)), None)
            if group is None:
                groups.append([(part, box)])
            else:
                group.append((part, box))
                known = [g for g in known if g is not group]
    return [_around([box for _, box in group]) for group in groups]


def _is_same(part: Part, box: Box, other_part: Part, other: Box) -> bool:
    """Whether boxes of two slices, in pixels of the whole, are of one object."""
    if box.label.casefold() != other.label.casefold():
        return False
    overlaps = [
        _agreement(*sides)
        for sides in zip(
            _spans(_frame(part)),
            _spans(_frame(other_part)),
            _spans(box.pixels),
            _spans(other.pixels),
            strict=True,
        )
    ]
    return math.prod(overlaps) >= SAME


def _frame(part: Part) -> Pixels:
    return part.left, part.top, part.left + part.width, part.top + part.height


def _spans(sides: Pixels) -> Iterator[tuple[int, int]]:
    left, top, right, bottom = sides
    yield left, right
    yield top, bottom


def _agreement(
    frame: tuple[int, int],
    other_frame: tuple[int, int],
    span: tuple[int, int],
    other: tuple[int, int],
) -> float:
    """Return the overlap of two spans within what both slices show, along one axis, 0 to 1."""
    begin, end = max(frame[0], other_frame[0]), min(frame[1], other_frame[1])
    if begin > end:
        return 0.0
    if begin == end:  # the slices meet in a line, and both boxes must reach it
        return float(all(low <= begin <= high for low, high in (span, other)))
    low = [min(max(one[0], begin), end) for one in (span, other)]
    high = [min(max(one[1], begin), end) for one in (span, other)]
    union = max(high) - min(low)
    return max(0, min(high) - max(low)) / union if union else 0.0


def _around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around some of one object."""

    def sides(corners: Sequence[Any]) -> Any:
        left, top, right, bottom = zip(*corners, strict=True)
        return min(left), min(top), max(right), max(bottom)

    first = boxes[0]
    return Box(
        first.image,
        first.label,
        sides([box.pixels for box in boxes]),
        sides([box.relative for box in boxes]),
    )
