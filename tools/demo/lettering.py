"""Load fonts and lay out printed lines.

"Aileron" is Pillow's default font, and the others come with an installed matplotlib. None is copied
into this repository.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

PLAIN_FONTS = (
    "Aileron",
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSansMono",
    "STIXGeneralBol",
)
TRAIN_FONTS = (
    *PLAIN_FONTS,
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Italic",
    "STIXGeneralBolIta",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmtt10",
)
# Never used in training, and neither are their slanted variants.
SHIFT_FONTS = ("DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneral")

LINE_PITCH = 1.5  # distance between lines, in letter heights


@dataclass(frozen=True)
class Layout:
    """Where the lines of a text go, in pixels from the upper left corner of its ink.

    Attributes:
        size: (width, height) of the ink of all lines.
        origins: (x, y) of every line, as ImageDraw.text takes it with anchor "la".
    """

    size: tuple[int, int]
    origins: tuple[tuple[int, int], ...]


@lru_cache(maxsize=2048)
def load_font(name: str, letter_height: int) -> ImageFont.FreeTypeFont:
    """Load a font at the size that makes a capital H `letter_height` pixels high."""
    return _font(name, round(letter_height / _letter_share(name)))


def lay_out(lines: tuple[str, ...], font: str, letter_height: int, centred: bool) -> Layout:
    """Lay out lines one below the other, flush left or centered.

    Args:
        lines: at least one.
        font: a name that `load_font` knows.
        letter_height: height of a capital H in pixels.
        centred: whether to center the lines.
    """
    face = load_font(font, letter_height)
    inks = [face.getbbox(line, anchor="la") for line in lines]
    width = max(right - left for left, _, right, _ in inks)
    top = inks[0][1]
    origins = []
    bottom = 0.0
    for row, (left, _, right, ink_bottom) in enumerate(inks):
        x = (width - (right - left)) / 2 if centred else 0
        y = row * LINE_PITCH * letter_height - top
        origins.append((round(x - left), round(y)))
        bottom = max(bottom, y + ink_bottom)
    return Layout((round(width), round(bottom)), tuple(origins))


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == "Aileron":
        font = ImageFont.load_default(size=size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    return ImageFont.truetype(_matplotlib_fonts() / f"{name}.ttf", size)


@lru_cache
def _letter_share(name: str) -> float:
    """Height of a capital H as a share of the font size."""
    _, top, _, bottom = _font(name, 200).getbbox("H")
    return (bottom - top) / 200


@lru_cache
def _matplotlib_fonts() -> Path:
    try:
        import matplotlib
    except ImportError:
        message = "the fonts of the demo data come with matplotlib: pip install matplotlib"
        raise SystemExit(message) from None
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
