"""A JPEG that is decoded at a fraction of its size looks as if all of it had been decoded."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.patches import process_image
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits()
SIDE = 1280
LEVELS = 2  # of 255, on average
ONE_VIEW = ImageConfig(16, 2, do_image_splitting=False, max_image_tokens=64)
TILES = ImageConfig(16, 2, max_image_tokens=64, tile_size=256, max_tiles=4)


def page(size: int) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for number, top in enumerate(range(size, SIDE - size, size * 4 // 3)):
        line = f"{number} Invoice of December, total 45.90 EUR (see page {number % 7}) " * 12
        draw.text((size, top), line[: 2 * SIDE // size], "black", font=font)
    return image


def lines(gap: int, width: int) -> Image.Image:
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for offset in range(width):
        pixels[:, offset::gap] = 0
    return Image.fromarray(pixels)


def photo(width: int = SIDE, height: int = SIDE) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 3, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


PICTURES = {
    "a page of large text": lambda: page(40),
    "a page of small text": lambda: page(14),
    "thin lines": lambda: lines(20, 1),
    "broad lines": lambda: lines(40, 4),
    "dense lines": lambda: lines(9, 3),
    "a photo": photo,
}


def encoded(image: Image.Image, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, "jpeg", quality=90, **options)
    return data.getvalue()


def views(data: bytes, config: ImageConfig, reduced: bool) -> np.ndarray:
    opened = open_image(data, LIMITS)
    plan = plan_image(*opened.size, config)
    image = opened.decode(plan.canvas if reduced else None)
    return np.concatenate(process_image(image, plan, config.resample)).astype(int)


@pytest.mark.parametrize("name", PICTURES)
def test_views_differ_from_those_of_all_pixels_by_two_levels_at_most(name):
    data = encoded(PICTURES[name]())
    for config in (ONE_VIEW, TILES):
        difference = np.abs(views(data, config, True) - views(data, config, False))
        assert difference.mean() <= LEVELS, config


def test_a_photo_is_reduced_and_a_page_is_not():
    needed = (160, 160)
    assert open_image(encoded(photo()), LIMITS).decode(needed).size == (SIDE // 4, SIDE // 4)
    assert open_image(encoded(page(24)), LIMITS).decode(needed).size == (SIDE, SIDE)


def cropped(width: int, height: int, sampling: int) -> bytes:
    """A grey JPEG whose size was lowered in its header; red lies beyond its edges."""
    image = Image.new("RGB", (-(-width // 16) * 16, -(-height // 16) * 16), "red")
    image.paste((200, 200, 200), (0, 0, width, height))
    data = bytearray(encoded(image, subsampling=sampling))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize("sampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("needed", [(60, 60), (150, 150)])
@pytest.mark.parametrize("size", [(636, 640), (640, 636), (639, 639), (632, 632)])
def test_a_losslessly_cropped_jpeg_shows_nothing_from_beyond_its_edges(size, needed, sampling):
    data = cropped(*size, sampling)
    opened = open_image(data, LIMITS)
    whole = np.asarray(open_image(data, LIMITS).decode()).astype(int)
    image = np.asarray(opened.decode(needed)).astype(int)
    for edge, full in ((image[:, -1], whole[:, -1]), (image[-1], whole[-1])):
        np.testing.assert_allclose(edge.mean(axis=0), full.mean(axis=0), atol=3)
