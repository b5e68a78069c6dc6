"""Pictures in memory on their way to a resident process: what arrives looks the same."""

import numpy as np
import pytest
from PIL import Image

from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image
from mlx_lfm2vl.serving.resident.images import image_bytes

LIMITS = ImageLimits()
NOISE = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
COLORS = Image.fromarray(NOISE[..., :3])
CLEAR = Image.fromarray(NOISE)


def on_its_side() -> Image.Image:
    picture, exif = COLORS.copy(), Image.Exif()
    exif[0x0112] = 6
    picture.info["exif"] = exif.tobytes()
    return picture


def with_a_clear_color() -> Image.Image:
    picture = COLORS.quantize(8)
    picture.info["transparency"] = 3
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        COLORS,
        COLORS.convert("CMYK"),
        COLORS.convert("P").convert("PA"),
        CLEAR,
        CLEAR.convert("RGBa"),
        CLEAR.convert("LA"),
        CLEAR.convert("LA").convert("La"),
        Image.fromarray(NOISE[..., 0].astype(np.int32) * 200),
        Image.fromarray(NOISE[..., 0].astype(np.float32) * 200),
        on_its_side(),
        with_a_clear_color(),
        NOISE,
    ],
    ids=[
        "RGB",
        "CMYK",
        "PA",
        "RGBA",
        "RGBa",
        "LA",
        "La",
        "I",
        "F",
        "side",
        "transparency",
        "array",
    ],
)
@pytest.mark.parametrize("background", [None, "#102030"])
def test_a_picture_in_memory_arrives_as_it_is_seen_here(picture, background):
    sent = open_image(image_bytes(picture, LIMITS), LIMITS).decode(background=background)
    here = open_image(picture, LIMITS).decode(background=background)
    assert np.array_equal(np.asarray(sent), np.asarray(here))
