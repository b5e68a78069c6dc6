"""Photos are told from drawings by their colors."""

from pathlib import Path

import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.images.photo import looks_like_photo

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "images").glob("*.png"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_demo_models_pictures_are_drawings(path):
    assert not looks_like_photo(Image.open(path).convert("RGB"))


def test_a_picture_of_many_colors_is_a_photo():
    assert looks_like_photo(make_picture(300, 400, 1))


def test_a_published_photo_is_a_photo(assets):
    (path,) = (assets / "images").glob("*.jpg")
    assert looks_like_photo(Image.open(path).convert("RGB"))


def half_plain(share: float) -> Image.Image:
    """A picture of many colors of which the upper part is white."""
    picture = make_picture(64, 64, 1)
    picture.paste("white", (0, 0, 64, round(64 * share)))
    return picture


def test_half_of_a_photo_may_be_plain():
    assert looks_like_photo(half_plain(0.2))
    assert not looks_like_photo(half_plain(0.6))
