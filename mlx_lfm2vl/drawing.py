"""Drawing tools for the plots: color themes, round ticks, and a canvas with smooth lines.

Pillow is already installed, so plots need no further package. Pillow draws lines without
antialiasing: shapes are drawn three times as large and then reduced. Text is antialiased, so it is
drawn last, at the final size.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from .whole_folder import new_file

PIXELS = 2  # per point, as on a Retina screen
DPI = 72 * PIXELS  # written into the file, so viewers show the plot at its size in points
FINER = 3  # shapes are drawn at this multiple of the final resolution
SIZE = 13.0  # of text, in points
TYPOGRAPHIC = {"·", "…", "‘", "’", "“", "”"}  # characters of Pillow's font beyond ASCII


@dataclass(frozen=True)
class Theme:
    """Colors of one variant of a plot, as "#rrggbb"."""

    background: str
    ink: str
    muted: str
    grid: str
    blue: str
    pale_blue: str
    orange: str
    pale_orange: str


LIGHT = Theme(
    background="#ffffff",
    ink="#1f2328",
    muted="#59636e",
    grid="#e4e7eb",
    blue="#1f77b4",
    pale_blue="#a5c9e1",
    orange="#d9650b",
    pale_orange="#f1c19d",
)
DARK = Theme(
    background="#0d1117",
    ink="#e6edf3",
    muted="#9198a1",
    grid="#2a313c",
    blue="#58a6ff",
    pale_blue="#2b4a70",
    orange="#ff9e4a",
    pale_orange="#744c29",
)


@dataclass(frozen=True)
class Text:
    """A line of text on a canvas; positions and sizes are in points."""

    content: str
    x: float
    y: float
    anchor: str
    size: float
    color: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in points."""
        left, top, right, bottom = _font(self.size).getbbox(self.content, anchor=self.anchor)
        return (
            self.x + left / PIXELS,
            self.y + top / PIXELS,
            self.x + right / PIXELS,
            self.y + bottom / PIXELS,
        )


class Canvas:
    """A drawing surface; coordinates are in points from the upper left corner."""

    def __init__(self, width: float, height: float, theme: Theme) -> None:
        self.width, self.height, self.theme = width, height, theme
        self.texts: list[Text] = []
        scale = PIXELS * FINER
        size = (round(width * scale), round(height * scale))
        self._shapes = Image.new("RGB", size, theme.background)
        self._pen, self._scale = ImageDraw.Draw(self._shapes), scale

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float) -> None:
        """Draw a line through (x, y) points; a single point draws nothing."""
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        self._pen.line(scaled, color, max(1, round(width * self._scale)), joint="curve")

    def dot(self, x: float, y: float, color: str, radius: float) -> None:
        """Draw a filled circle."""
        self._pen.circle((x * self._scale, y * self._scale), radius * self._scale, color)

    def bar(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Draw a filled rectangle, at least one pixel wide."""
        right = max(right, left + 1 / PIXELS)
        corners = (left, top, right - 1 / self._scale, bottom - 1 / self._scale)
        self._pen.rectangle([value * self._scale for value in corners], color)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        color: str | None = None,
        size: float = SIZE,
        align: Literal["left", "middle", "right"] = "left",
    ) -> None:
        """Write one line of text.

        Args:
            x: of the line's left end, middle or right end; see `align`.
            y: of the line's vertical middle.
            content: the text; accents are dropped, other characters the font lacks become "?".
            color: None uses the theme's ink.
            size: of the font, in points.
            align: which part of the line is at x.
        """
        anchor = {"left": "lm", "middle": "mm", "right": "rm"}[align]
        self.texts.append(Text(plain(content), x, y, anchor, size, color or self.theme.ink))

    def legend(self, right: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Draw a row of color swatches with their names.

        Args:
            right: x of the row's right end.
            y: of the row's vertical middle.
            entries: (name, color) pairs from left to right.
        """
        for name, color in reversed(entries):
            self.text(right, y, name, align="right")
            right -= width_of(name) + SIZE
            self.bar(right - 5, y - 5, right + 5, y + 5, color)
            right -= 2 * SIZE

    def image(self) -> Image.Image:
        """Return the finished picture, two pixels per point."""
        image = self._shapes.reduce(FINER)
        pen = ImageDraw.Draw(image)
        for text in self.texts:
            place, font = (text.x * PIXELS, text.y * PIXELS), _font(text.size)
            pen.text(place, text.content, text.color, font, text.anchor)
        return image


def save_both(draw: Callable[[Theme], Canvas], picture: Path) -> None:
    """Write two PNG files: `picture` for light pages and `dark_name(picture)` for dark ones.

    Raises:
        InputError: a file cannot be written.
    """
    for theme, path in ((LIGHT, picture), (DARK, dark_name(picture))):
        with new_file(path) as partial:
            draw(theme).image().save(partial, "png", dpi=(DPI, DPI))


def dark_name(picture: Path) -> Path:
    """Return the name of a plot's dark variant: loss.png -> loss-dark.png."""
    return picture.with_stem(f"{picture.stem}-dark")


def describe_origin(model: str, chip: str) -> str:
    """Return a subtitle with the model's name, the chip and today's date."""
    return f"{Path(model).absolute().name} · {chip} · {date.today().isoformat()}"


def width_of(text: str, size: float = SIZE) -> float:
    """Return the width of a line of text in points."""
    return _font(size).getlength(plain(text)) / PIXELS


def plain(text: str) -> str:
    """Drop accents from a text, and replace other characters that the font lacks by "?"."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" or c in TYPOGRAPHIC else "?" for c in letters)


def shorten(text: str, width: float, size: float = SIZE) -> str:
    """Shorten a text to `width` points by replacing its middle with an ellipsis."""
    kept = len(text)
    short = text
    while width_of(short, size) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[-(kept // 2) :]}"
    return short


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: start of the axis.
        high: end of the axis, above `low`.
        most: largest number of intervals; with 5 or more there are at least two ticks.
    """
    exponent = math.floor(math.log10((high - low) / most))
    factors = [(factor, exponent + up) for up in (0, 1) for factor in (1, 2, 5)]
    # Integer products and one division give the float nearest to each tick: 0.3, not 0.30...04.
    factor, exponent = next((f, e) for f, e in factors if f * 10.0**e * most >= high - low)
    up, down = (10**exponent, 1) if exponent >= 0 else (1, 10**-exponent)
    first, last = math.ceil(low * down / up / factor), math.floor(high * down / up / factor)
    return [count * factor * up / down for count in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return ticks at powers of ten, and at 2 and 5 times these if they are few enough.

    Args:
        low: start of the axis, above 0.
        high: end of the axis.
        most: largest number of ticks; exceeded only if powers of ten 20 apart are still too many.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, apart in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 5), ((1,), 20)):
        ticks = [float(f"{f}e{e}") for e in exponents if e % apart == 0 for f in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return inside


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Label the ticks of one axis, all with the decimals that they need."""
    largest = max(map(abs, ticks), default=0.0)
    if largest and not 1e-3 <= largest < 1e7:
        return [f"{tick:.4g}" for tick in ticks]
    exact = (n for n in range(9) if all(math.isclose(round(t, n), t, rel_tol=1e-9) for t in ticks))
    decimals = next(exact, 9)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * PIXELS)
