"""Where long pictures are cut."""

import io
import logging
from dataclasses import replace

import numpy as np
import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.pages import PageOptions, expand_inputs
from mlx_lfm2vl.images.slices import GAIN, MAX_SLICES, OVERLAP, READABLE, plan_slices
from mlx_lfm2vl.images.source import open_image

FAMILY = ImageConfig(16, 2)
SMALL = ImageConfig(16, 2, tile_size=64, min_image_tokens=1, max_image_tokens=4)


def scale(height: int, width: int, config: ImageConfig) -> float:
    canvas = plan_image(height, width, config).canvas
    return min(canvas[0] / height, canvas[1] / width)


@pytest.mark.parametrize(
    ("size", "slices", "grid"),
    [
        ((9000, 1280), [(0, 3200), (2900, 3200), (5800, 3200)], (5, 2)),  # a page, 1280 wide
        ((1280, 9000), [(0, 3200), (2900, 3200), (5800, 3200)], (2, 5)),
        ((18000, 2560), [(n * 15440 // 7, 2560) for n in range(8)], (3, 3)),  # the same at 2x
        ((40000, 1440), [(n * 29920 // 3, 10080) for n in range(4)], (7, 1)),
        ((3000, 1280), [(0, 3000)], (5, 2)),  # shown large enough
        ((6000, 390), [(0, 6000)], (10, 1)),  # narrow as a phone
        ((5000, 5000), [(0, 5000)], (3, 3)),  # large, but not long
        ((800, 100), [(0, 800)], (1, 1)),  # small enough for one view
    ],
)
def test_long_pictures_are_cut_into_slices_that_fall_on_tiles(size, slices, grid):
    parts = plan_slices(*size, FAMILY)
    tall = size[0] > size[1]
    found = [(p.top, p.height) if tall else (p.left, p.width) for p in parts]
    assert found == (slices if len(parts) > 1 or tall else [(0, size[1])])
    assert {plan_image(p.height, p.width, FAMILY).grid for p in parts} == {grid}


@pytest.mark.parametrize(
    "config",
    [FAMILY, replace(FAMILY, do_image_splitting=False), replace(FAMILY, max_tiles=4), SMALL],
)
def test_slices_cover_the_picture_share_lines_and_show_it_larger(config):
    random = np.random.default_rng(0)
    cut = 0
    for short, times in zip(random.integers(1, 4000, 60), random.uniform(1, 40, 60), strict=True):
        size = (round(float(short * times)), int(short))
        parts = plan_slices(*size, config)
        turned = plan_slices(size[1], size[0], config)
        assert [(p.left, p.width) for p in turned] == [(p.top, p.height) for p in parts]
        assert 1 <= len(parts) <= MAX_SLICES
        assert {(p.left, p.width, p.whole) for p in parts} == {(0, size[1], size)}
        assert parts[0].top == 0
        assert parts[-1].top + parts[-1].height == size[0]
        for above, below in zip(parts, parts[1:], strict=False):
            assert above.top < below.top
            assert above.top + above.height - below.top >= size[1] / OVERLAP
        if len(parts) > 1:
            cut += 1
            assert scale(parts[0].height, size[1], config) > GAIN * scale_or_0(size, config)
    assert cut > 5


def scale_or_0(size: tuple[int, int], config: ImageConfig) -> float:
    try:
        return scale(*size, config)
    except InputError:
        return 0.0


def test_fewer_slices_are_not_enough_for_readable_writing():
    for height in range(3000, 12000, 500):
        parts = plan_slices(height, 1280, FAMILY)
        shown = scale(parts[0].height, 1280, FAMILY)
        assert shown >= READABLE


def test_a_slice_shows_its_part_under_its_name_and_one_note_says_it(caplog):
    picture = make_picture(1100, 100, 1)
    with caplog.at_level(logging.WARNING):
        found = list(
            expand_inputs(
                [Input("long.png", picture)], PageOptions(slices="auto"), SMALL, ImageLimits()
            )
        )
    assert len(found) > 1
    pixels = np.asarray(picture)
    for number, item in enumerate(found, 1):
        assert item.name == f"long.png, slice {number} of {len(found)}"
        assert isinstance(item.part, Part)
        top, left, height, width, whole = item.part
        assert (left, width, whole) == (0, 100, (1100, 100))
        shown = np.asarray(open_image(item.source, ImageLimits()).decode())
        assert (shown == pixels[top : top + height]).all()
    (note,) = [record.getMessage() for record in caplog.records]
    height = found[0].part.height
    count = len(found)
    assert note == (
        f"long.png is cut into {count} slices of 100 x {height} pixels, so that it keeps its scale"
    )


def test_the_ground_below_transparent_pixels_is_that_of_the_whole_picture():
    logo = Image.new("RGBA", (100, 1100))
    logo.paste((255, 255, 255, 255), (0, 0, 100, 30))  # light writing, in the first slice only
    for config, ground in ((SMALL, 0), (replace(SMALL, background="#000080"), 128)):
        slices = list(
            expand_inputs([Input("a", logo)], PageOptions(slices="auto"), config, ImageLimits())
        )
        last = open_image(slices[-1].source, ImageLimits()).decode()
        assert last.getpixel((5, 5)) == (0, 0, ground)


def test_a_damaged_picture_is_the_same_error_in_every_slice():
    file = io.BytesIO()
    Image.fromarray(np.full((1100, 100), 1e9, np.float32)).save(file, "TIFF")  # no known range
    slices = list(
        expand_inputs(
            [Input("a", file.getvalue())], PageOptions(slices="auto"), SMALL, ImageLimits()
        )
    )
    assert len(slices) > 1
    for item in slices:
        with pytest.raises(InputError, match=r"its values range from 0 to 1e\+09"):
            open_image(item.source, ImageLimits())


def test_a_picture_that_is_not_cut_passes_as_it_is():
    given = [Input("a", make_picture(30, 40, 1)), Input("gone.png", "gone.png"), Input("b", b"bad")]
    options = PageOptions(slices="auto")
    found = list(expand_inputs(given, options, SMALL, ImageLimits()))
    assert [item.name for item in found] == ["a", "gone.png", "b"]
    assert found[0] == given[0]
