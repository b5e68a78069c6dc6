"""Boxes drawn on their image, with labels that can be read on any background."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..drawing import plain
from ..errors import InputError
from .boxes import Box, Pixels

COLORS = (  # of the labels, in the order of their first boxes
    *("#1f77b4", "#d9650b", "#2ca02c", "#d62728", "#7e4fb0"),
    *("#17becf", "#e377c2", "#8c564b", "#bcbd22", "#f2c14e"),
)
LINE = 1 / 240  # width of a line, of the shorter side
TEXT = 1 / 30  # size of the text, of the shorter side
THIN = 100  # pixels of the shorter side; lines in smaller images are one pixel wide
SMALLEST_TEXT = 11  # pixels; smaller letters cannot be read
DARK = "#101418"
LIGHT = "#ffffff"


@dataclass(frozen=True)
class _Label:
    """A label with its place; `width` and `height` are those of its background."""

    text: str
    color: str
    width: int
    height: int
    left: int = 0
    top: int = 0

    @property
    def frame(self) -> Pixels:
        return self.left, self.top, self.left + self.width, self.top + self.height


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Return a copy of an image with boxes and their labels drawn on it.

    Boxes of one label have one color. A label stands above its box, or where there is room and no
    other label, and never beyond the edge. Characters that Pillow's font lacks become "?"; a label
    of these alone becomes the number of the box.

    Args:
        image: the upright original, in any mode.
        boxes: of this image.

    Returns:
        An RGB image of the same size.

    Raises:
        InputError: a box ends beyond the image, so it belongs to another one or to its original.
    """
    drawn = image.convert("RGB")
    width, height = drawn.size
    for box in boxes:
        if box.pixels[2] > width or box.pixels[3] > height:
            raise InputError(
                f"a box ends at {box.pixels[2]}, {box.pixels[3]} in an image of {width} x {height} "
                "pixels; draw boxes on the upright original"
            )
    side = min(width, height)
    line = max(2, round(side * LINE)) if side >= THIN else 1
    font = ImageFont.load_default(max(SMALLEST_TEXT, round(side * TEXT)))
    pen = ImageDraw.Draw(drawn)
    colors = _colors(boxes)
    for box in sorted(boxes, key=_area, reverse=True):  # small boxes on top
        _outline(pen, box.pixels, colors[box.label], line)
    placed: list[_Label] = []
    for number, box in enumerate(boxes, 1):
        label = _label(box, number, colors[box.label], font, width)
        if label is not None:
            placed.append(_placed(label, box.pixels, placed, drawn.size, line))
    for label in placed:
        ink = max((DARK, LIGHT), key=lambda ink: contrast(ink, label.color))
        left, top, right, bottom = label.frame
        pen.rectangle((left, top, right - 1, bottom - 1), label.color)
        pen.text(((left + right) / 2, (top + bottom) / 2), label.text, ink, font, "mm")
    return drawn


def contrast(color: str, other: str) -> float:
    """Return the contrast of two colors given as "#rrggbb", 1 to 21; follows WCAG 2.1."""
    dark, light = sorted(map(_luminance, (color, other)))
    return (light + 0.05) / (dark + 0.05)


def _colors(boxes: Sequence[Box]) -> dict[str, str]:
    labels = dict.fromkeys(box.label for box in boxes)
    return {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}


def _area(box: Box) -> int:
    left, top, right, bottom = box.pixels
    return (right - left) * (bottom - top)


def _outline(pen: ImageDraw.ImageDraw, pixels: Pixels, color: str, line: int) -> None:
    """Draw a line inside the box, and a white one around it that shows on the line's own color."""
    left, top, right, bottom = pixels
    halo = max(1, line // 2)
    around = (left - halo, top - halo, right - 1 + halo, bottom - 1 + halo)
    pen.rectangle(around, outline=LIGHT, width=halo)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=color, width=line)


def _label(
    box: Box, number: int, color: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int
) -> _Label | None:
    """Return a label without a place, shortened to the width of the image; None without text."""
    text = plain(box.label)
    if text and not text.strip("? "):
        text = str(number)
    if not text:
        return None
    _, top, _, bottom = font.getbbox("Ag", anchor="ls")
    margin = max(2, round((bottom - top) / 5))

    def width_of(text: str) -> int:
        return round(font.getlength(text)) + 2 * margin

    kept = len(text)
    short = text
    while width_of(short) > most and kept > 1:
        kept -= 1
        short = f"{text[:kept].rstrip()}…"
    return _Label(short, color, min(width_of(short), most), round(bottom - top) + 2 * margin)


def _placed(
    label: _Label, pixels: Pixels, others: Sequence[_Label], size: tuple[int, int], line: int
) -> _Label:
    """Return a label at the first place that covers no other one, or at the one with least."""
    candidates: list[_Label] = []
    for left, top in _places(label, pixels, line):
        left = min(max(left, 0), max(0, size[0] - label.width))
        top = min(max(top, 0), max(0, size[1] - label.height))
        there = _Label(label.text, label.color, label.width, label.height, left, top)
        if not _covered(there, others):
            return there
        candidates.append(there)
    return min(candidates, key=lambda there: _covered(there, others))


def _places(label: _Label, pixels: Pixels, line: int) -> Iterator[tuple[int, int]]:
    """Yield places for a label: outside the box, inside it, then further down."""
    left, top, right, bottom = pixels
    ends = right - label.width
    if top >= label.height:
        yield left, top - label.height
        yield ends, top - label.height
    yield left, top + line
    yield left, bottom
    yield ends, bottom
    yield ends, top + line
    yield left, bottom - line - label.height
    yield right, top
    yield left - label.width, top
    for step in range(1, 12):
        yield left, top + step * label.height
        yield left, top - (step + 1) * label.height


def _covered(label: _Label, others: Sequence[_Label]) -> int:
    """Return how many pixels a label shares with others."""
    left, top, right, bottom = label.frame
    return sum(
        max(0, min(right, other.frame[2]) - max(left, other.frame[0]))
        * max(0, min(bottom, other.frame[3]) - max(top, other.frame[1]))
        for other in others
    )


def _luminance(color: str) -> float:
    """Return the relative luminance of a color, 0 to 1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
