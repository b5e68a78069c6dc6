"""Deterministic test pictures, the same on every machine, so that no image file is stored."""

import numpy as np
from PIL import Image


def make_picture(height: int, width: int, seed: int) -> Image.Image:
    """Draw smooth gradients, a disc, stripes and per-pixel noise in integer arithmetic.

    Every part matters to a test: the gradients tell where a crop came from, the edges and the
    noise show which filter resized it, the seed tells one picture from another.

    Args:
        height: rows of pixels.
        width: columns of pixels.
        seed: non-negative; moves and recolors every part.

    Returns:
        An RGB picture.
    """
    y = np.arange(height, dtype=np.int64)[:, None, None]
    x = np.arange(width, dtype=np.int64)[None, :, None]
    channel = np.arange(3, dtype=np.int64)

    slope = 1 + (seed + channel) % 3
    gradient = 64 + (slope * y * 128 // height + (4 - slope) * x * 128 // width) // 4

    # Positions in 64ths of the picture's sides.
    center_y, center_x = 16 + 7 * seed % 32, 16 + 11 * seed % 32
    distance = (64 * y // height - center_y) ** 2 + (64 * x // width - center_x) ** 2
    disc = np.where(distance < 144, 110 * ((channel + seed) % 3 - 1), 0)
    stripes = np.where((x + 2 * y + 3 * seed) // 5 % 3 == channel, 24, -12)

    noise = _hash(y, x, channel, seed) % 65 - 32
    pixels = np.clip(gradient + disc + stripes + noise, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _hash(y: np.ndarray, x: np.ndarray, channel: np.ndarray, seed: int) -> np.ndarray:
    """Mix coordinates and seed into integers below 2**32 that look random."""
    mask = 0xFFFFFFFF
    mixed = (y * 73856093 ^ x * 19349663 ^ channel * 83492791 ^ seed * 2654435761) & mask
    for factor in (0x45D9F3B, 0x2C1B3C6D):
        mixed = ((mixed ^ (mixed >> 16)) * factor) & mask
    return mixed ^ (mixed >> 15)


def has_color(image: Image.Image, *colors: str) -> np.ndarray:
    """Which pixels have one of the colors, given as "#rrggbb"; (H, W) bool."""
    red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
    pixels = red * np.uint32(1 << 16) + green * np.uint32(1 << 8) + blue
    return np.isin(pixels, [int(color[1:], 16) for color in colors])
