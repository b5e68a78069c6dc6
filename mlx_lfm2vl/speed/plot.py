"""Where the time goes, as a picture: a bar for every stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..palette import BLUE, GREY, INK, ORANGE

WIDTH, MARGIN, LABELS, VALUES = 900, 24, 200, 110  # pixels; the last two left and right of the bars
ROW, BAR, GAP, FONT = 26, 18, 20, 15


@dataclass(frozen=True)
class Bar:
    """One stage of one image; `is_peer` for that of mlx-vlm."""

    label: str
    seconds: float
    is_peer: bool = False


@dataclass(frozen=True)
class Group:
    """The stages of one image."""

    title: str
    bars: Sequence[Bar]


def draw_bars(groups: Sequence[Group], picture: Path) -> None:
    """Write a PNG with ours in blue and mlx-vlm in orange, all bars on one scale."""
    rows = sum(len(group.bars) + 1 for group in groups)
    height = 2 * MARGIN + ROW * rows + GAP * (len(groups) - 1)
    longest = max(bar.seconds for group in groups for bar in group.bars)
    scale = (WIDTH - 2 * MARGIN - LABELS - VALUES) / longest
    image = Image.new("RGB", (WIDTH, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=FONT)
    y, left = MARGIN, MARGIN + LABELS
    for group in groups:
        pen.text((MARGIN, y), group.title, INK, font)
        top, y = y + ROW, y + ROW
        for bar in group.bars:
            end = left + scale * bar.seconds
            pen.text((MARGIN, y), bar.label, INK, font)
            pen.rectangle((left, y, end, y + BAR), ORANGE if bar.is_peer else BLUE)
            pen.text((end + 8, y), f"{1000 * bar.seconds:,.1f} ms", INK, font)
            y += ROW
        pen.line((left, top - 4, left, y - 4), GREY)
        y += GAP
    image.save(picture, "png")
