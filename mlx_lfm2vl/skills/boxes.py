"""Boxes in a model's answer: read from any of its written forms, given in pixels of the image.

The checkpoints write boxes in two ways, both with the left, top, right and bottom side in this
order, and both relative to the whole upright image, whether it is cut into tiles or not:

- 450M, and the demo model: `{"label": "ship", "bbox": [0.37, 0.00, 0.80, 0.99]}`, from 0 to 1;
- 3B: `{"image_id": 0, "bbox_2d": [540, 49, 1000, 774], "label": "cat"}`, from 0 to 1000.

Which of the two scales is meant is told by the values, and by the key only where the values do not
tell:

- A value above `OVERSHOOT` stands for thousandths, which are never between 0 and 1.
- Otherwise a decimal point, as in `1.0`, stands for fractions.
- What is left is boxes of integers 0 and 1. They have the scale of the other boxes of the answer,
  if those agree, or else the scale that belongs to their key.

A box that fits neither scale is refused, such as one in pixels. Other keys are refused as well:
some models write the vertical side first under `box_2d`.
"""

import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import AnswerError

logger = logging.getLogger(__name__)

SCALES = {"bbox": 1, "bbox_2d": 1000}  # the scale that belongs to each key
OVERSHOOT = 1.05  # a side may lie this far out, relative to 1, and is moved to the image's edge
MAX_ITEM = 1000  # characters of one box with its label
MAX_LABEL = 300  # characters
SHOWN = 80  # characters of an answer in a message

_ITEM = re.compile(r'\{\s*+(?=")(?:[^{}"]++|"(?:[^"\\]++|\\.)*+")*+\}', re.DOTALL)
_KEY = re.compile(r'"bbox(?:_2d)?"\s*:')
_NONE = re.compile(r"\[\s*\]")

Corners = tuple[float, float, float, float]  # left, top, right, bottom
Pixels = tuple[int, int, int, int]
Size = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A place in an image.

    Attributes:
        image: number of the image, from 0.
        label: what the model calls it; empty if it gives no name.
        pixels: left, top, right, bottom in pixels of the upright original. The right and bottom
            side are the first pixels outside, so Pillow's `crop` takes them. At least one pixel.
        relative: the same sides from 0 to 1, as the model wrote them.
    """

    image: int
    label: str
    pixels: Pixels
    relative: Corners

    @property
    def center(self) -> tuple[int, int]:
        """(x, y) of the pixel in the middle: where to click."""
        left, top, right, bottom = self.pixels
        return (left + right - 1) // 2, (top + bottom - 1) // 2

    def to_dict(self) -> dict[str, Any]:
        """Return the box as plain data."""
        return {
            "image": self.image,
            "label": self.label,
            "pixels": list(self.pixels),
            "relative": [round(side, 6) for side in self.relative],
        }


@dataclass(frozen=True)
class BoxAnswer:
    """The boxes of an answer, and what could not be read.

    Attributes:
        boxes: in the order of the answer.
        lost: number of boxes that were cut off or refused.
        reason: why the first of them was lost; empty if none was.
    """

    boxes: list[Box]
    lost: int = 0
    reason: str = ""


def parse_boxes(text: str, sizes: Sequence[Size]) -> list[Box]:
    """Read the boxes of an answer, and log a warning if some cannot be read.

    Args:
        text: the answer; see `read_boxes`.
        sizes: (height, width) of each upright image, as of `Result.images`.

    Raises:
        AnswerError: the answer holds no box that can be read, and is no empty list either.
    """
    found = read_boxes(text, sizes)
    if found.lost:
        boxes = "1 box" if found.lost == 1 else f"{found.lost} boxes"
        logger.warning("%s of the answer cannot be read: %s", boxes, found.reason)
    return found.boxes


def read_boxes(text: str, sizes: Sequence[Size]) -> BoxAnswer:
    """Read the boxes of an answer, also those before a place where it is cut off.

    Sides in the wrong order are exchanged. Sides a little outside the image are moved to its edge.

    Args:
        text: a JSON array or a single object, with code fences or other text around it or without.
        sizes: (height, width) of each upright image. An answer about several images must name the
            image of each box.

    Raises:
        AnswerError: the answer holds no box that can be read, and is no empty list either.
    """
    items, rest = _items(text)
    scale = _scale_of_answer(items)
    boxes: list[Box] = []
    reason = ""
    for item in items:
        try:
            boxes.append(box_of(item, sizes, scale))
        except AnswerError as error:
            reason = reason or str(error)
    lost = len(_KEY.findall(text)) - len(boxes)
    if "{" in rest and not _KEY.search(rest):
        lost += 1  # an object that is cut off before its box
    lost = max(lost, int(bool(reason)))
    if lost and not reason:
        reason = f"it is cut off at {_shown(rest)}" if "{" in rest else "it is broken"
    if boxes or (not lost and _NONE.search(text)):
        return BoxAnswer(boxes, lost, reason)
    raise AnswerError(
        reason
        if items
        else f"the answer is {_shown(text)}, expected boxes as "
        '[{"label": ..., "bbox": [left, top, right, bottom]}]'
    )


def box_of(item: dict[str, Any], sizes: Sequence[Size], scale: int | None = None) -> Box:
    """Return the box of one object of an answer.

    Args:
        item: with a key of `SCALES`, and possibly `label` and `image_id`.
        sizes: (height, width) of each upright image.
        scale: of the answer's other boxes, for a box whose values do not tell it.

    Raises:
        AnswerError: it is no box of any of the images.
    """
    key, sides = _sides(item)
    scale = _scale(sides) or scale or SCALES[key]
    x1, y1, x2, y2 = (within(side / scale) for side in sides)
    relative = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    image = _image(item, len(sizes))
    label = item.get("label", "")
    label = label if isinstance(label, str) else json.dumps(label)
    label = " ".join(label.split())[:MAX_LABEL]
    return Box(image, label, _pixels(relative, sizes[image]), relative)


def _items(text: str) -> tuple[list[dict[str, Any]], str]:
    """Return the objects with a box, and the text after the last of them.

    An object is tried at every brace, over a bounded length, so the time is linear.
    """
    items: list[dict[str, Any]] = []
    end, at = 0, text.find("{")
    while at >= 0:
        found = _ITEM.match(text, at, at + MAX_ITEM)
        item = _loaded(found.group()) if found else None
        if found is None or item is None:
            at = text.find("{", at + 1)
            continue
        if SCALES.keys() & item.keys():
            items.append(item)
        end = found.end()
        at = text.find("{", end)
    return items, text[end:]


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None


def _scale_of_answer(items: Sequence[dict[str, Any]]) -> int | None:
    """Return the scale of all boxes whose values tell it; None if they differ or none does."""
    scales: set[int] = set()
    for item in items:
        try:
            scales.add(_scale(_sides(item)[1]) or 0)
        except AnswerError:
            continue
    scales.discard(0)
    return scales.pop() if len(scales) == 1 else None


def _scale(sides: Sequence[float]) -> int | None:
    """Return the scale that values tell; None if they do not tell."""
    if max(sides) > OVERSHOOT:
        return 1000
    return 1 if any(isinstance(side, float) for side in sides) else None


def _sides(item: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the key and the four numbers of a box.

    Raises:
        AnswerError: they are no box in either scale.
    """
    keys = [key for key in SCALES if key in item]
    if len(keys) != 1:
        raise AnswerError(f"a box has both {' and '.join(keys)}")
    value: Any = item[keys[0]]
    what = f"a box is {_shown(json.dumps(value))}"
    if not isinstance(value, list) or len(cast(list[Any], value)) != 4:
        raise AnswerError(f"{what}, expected four numbers")
    sides = cast(list[Any], value)
    for side in sides:
        if type(side) not in (int, float) or not math.isfinite(min(side, 10**9)):
            raise AnswerError(f"{what}, expected four numbers")
    scale = _scale(sides) or 1
    if max(sides) > OVERSHOOT * scale or min(sides) < (1 - OVERSHOOT) * scale:
        raise AnswerError(f"{what}, expected numbers from 0 to 1 or from 0 to 1000")
    if scale == 1000 and any(0 < abs(side) < 1 for side in sides):
        raise AnswerError(f"{what}, with numbers of two scales: from 0 to 1 and from 0 to 1000")
    return keys[0], sides


def _image(item: dict[str, Any], count: int) -> int:
    """Return which image a box is in. With one image there is no question."""
    if count == 1:
        return 0
    number = item.get("image_id")
    if type(number) is not int or not 0 <= number < count:
        came = json.dumps(number) if "image_id" in item else "missing"
        raise AnswerError(
            f"the image_id of a box is {_shown(came)}, expected 0 to {count - 1}: "
            f"there are {count} images"
        )
    return number


def _pixels(relative: Corners, size: Size) -> Pixels:
    height, width = size
    x1, y1, x2, y2 = relative
    left, right = at_least_one_pixel(_nearest(x1 * width), _nearest(x2 * width), width)
    top, bottom = at_least_one_pixel(_nearest(y1 * height), _nearest(y2 * height), height)
    return left, top, right, bottom


def _nearest(number: float) -> int:
    return math.floor(number + 0.5)


def at_least_one_pixel(begin: int, end: int, size: int) -> tuple[int, int]:
    """Return two sides within an image of `size` pixels, at least one pixel apart."""
    begin = min(max(begin, 0), size - 1)
    return begin, min(max(end, begin + 1), size)


def within(side: float) -> float:
    """Move a relative side that is outside the image to its edge."""
    return min(max(float(side), 0.0), 1.0)


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
