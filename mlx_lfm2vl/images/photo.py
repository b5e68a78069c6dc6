"""Whether an image is a photo or a drawing, told by its colors."""

import logging

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

SIDE = 64  # pixels of the copy that is looked at
SHADES = 16  # of each of red, green and blue
COMMON = 8  # colors
# A drawing on a plain background has few colors. Of 600 pictures as the demo model learned from,
# noise, blur and JPEG included, the eight most common colors cover 50 to 100 %, of nine color
# photos 22 to 55 %.
PHOTO_SHARE = 0.5


def looks_like_photo(image: Image.Image) -> bool:
    """Whether the most common colors of an RGB image cover less than half of it.

    A photo in black and white, or one with a plain background, is taken for a drawing.
    """
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    shades = np.asarray(small).reshape(-1, 3).astype(int) // (256 // SHADES)
    colors = shades @ np.array([SHADES * SHADES, SHADES, 1])
    most_common = np.sort(np.bincount(colors))[-COMMON:]
    return bool(most_common.sum() < PHOTO_SHARE * SIDE * SIDE)


def note_photo(image: Image.Image) -> None:
    """Log what the demo model knows if it is asked about what looks like a photo."""
    if looks_like_photo(image):
        logger.warning(
            "the demo model knows drawn shapes and printed capitals, nothing else; for photos use "
            "--model LiquidAI/LFM2.5-VL-450M"
        )
