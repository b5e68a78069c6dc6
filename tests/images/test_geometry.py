"""Views and token counts against what the reference's processor gives."""

import dataclasses

import pytest

from mlx_lfm2vl.checkpoint.image_config import OUR_OPTIONS, ImageConfig
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.geometry import candidate_grids, plan_image, round_by_factor
from mlx_lfm2vl.options import ImageOptions

LFM25 = ImageConfig(encoder_patch_size=16, downsample_factor=2)
LFM2_450M = dataclasses.replace(LFM25, use_thumbnail=False)
LFM2_1_6B = dataclasses.replace(LFM25, max_pixels_tolerance=1.5)
LFM25_3B = dataclasses.replace(LFM25, min_tiles=1)
SMALLER = dataclasses.replace(LFM25, max_image_tokens=128)
WHOLE = dataclasses.replace(LFM25, do_image_splitting=False)

# Image width x height, grid as columns x rows, size of the whole image as one view, tokens.
PUBLISHED = """
1x1 1x1 256x256 64; 8x8 1x1 256x256 64; 64x64 1x1 256x256 64; 272x272 1x1 256x256 64
37x21 1x1 352x224 77; 150x200 1x1 224x320 70; 300x168 1x1 352x192 66; 256x384 1x1 256x384 96
300x500 1x1 288x512 144; 277x512 1x1 288x512 144; 300x1000 1x1 256x928 232
512x277 1x1 512x288 144; 384x512 1x1 384x512 192; 512x384 1x1 512x384 192
500x650 1x1 448x576 252; 650x500 1x1 576x448 252; 512x512 1x1 512x512 256
720x720 1x1 512x512 256; 512x1024 1x1 352x704 242; 640x480 1x1 576x416 234
540x960 1x1 384x672 252; 960x540 1x1 672x384 252; 800x432 1x1 672x352 231
144x4000 1x1 96x2688 252; 4000x144 1x1 2688x96 252
1800x90 1x1 1792x96 168; 90x1800 1x1 96x1792 168
724x724 2x2 512x512 1280; 736x736 2x2 512x512 1280; 1024x1024 2x2 512x512 1280
753x696 2x2 512x480 1264; 768x1024 2x3 416x576 1770; 3000x4000 2x3 416x576 1770
6656x8880 2x3 416x576 1770; 1000x3000 1x3 288x864 1011; 3000x1000 3x1 864x288 1011
1024x544 2x1 672x352 743; 1280x720 2x1 672x384 764; 1300x870 3x2 608x416 1783
1366x768 4x2 672x352 2279; 1440x900 3x2 640x384 1776; 1920x1080 4x2 672x384 2300
2560x1440 4x2 672x384 2300; 3840x2160 4x2 672x384 2300; 1080x1920 2x4 384x672 2300
2480x3508 2x3 416x608 1783; 2550x3300 2x3 448x576 1788
3000x500 6x1 1248x192 1770; 500x3000 1x6 192x1248 1770
"""


def pair(text: str) -> tuple[int, int]:
    """'640x480' -> (480, 640): heights come first here."""
    first, second = text.split("x")
    return int(second), int(first)


@pytest.mark.parametrize(
    "row", [row.strip() for row in PUBLISHED.replace(";", "\n").split("\n") if row]
)
def test_published_plans(row):
    size, grid, whole, tokens = row.split()
    plan = plan_image(*pair(size), LFM25)
    assert plan.grid == pair(grid)
    assert plan.image_tokens == int(tokens)
    if plan.grid == (1, 1):
        assert plan.canvas == pair(whole)
        assert plan.thumbnail is None
    else:
        assert plan.thumbnail == pair(whole)
        assert plan.spatial_shapes[:-1] == [(32, 32)] * (plan.grid[0] * plan.grid[1])


@pytest.mark.parametrize(
    ("size", "tokens"),
    {
        "640x480": (234, 234, 234, 1653, 234),
        "640x640": (256, 1280, 256, 1145, 256),
        "768x512": (247, 247, 247, 1653, 247),
        "800x600": (234, 1770, 234, 1653, 234),
        "1024x512": (242, 754, 242, 640, 242),
        "1024x768": (1536, 1770, 1770, 1653, 234),
        "1280x720": (512, 764, 764, 632, 252),
        "1920x1080": (2048, 2300, 2300, 2168, 252),
        "1000x3000": (768, 1011, 1011, 882, 243),
        "2550x3300": (1536, 1788, 1788, 1644, 252),
    }.items(),
)
def test_published_tokens_under_other_settings(size, tokens):
    settings = (LFM2_450M, LFM2_1_6B, LFM25, SMALLER, WHOLE)
    assert tuple(plan_image(*pair(size), c).image_tokens for c in settings) == tokens


@pytest.mark.parametrize(
    ("size", "tokens"), [("64x64", 36), ("150x200", 35), ("300x168", 45), ("256x256", 64)]
)
def test_min_image_tokens_sets_the_smallest_view(size, tokens):
    config = LFM25.with_options(ImageOptions(min_image_tokens=32))
    assert plan_image(*pair(size), config).image_tokens == tokens


@pytest.mark.parametrize(("tiles", "tokens"), [(4, 1258), (8, 2282)])
def test_a_fixed_number_of_tiles(tiles, tokens):
    config = LFM25.with_options(ImageOptions(min_tiles=tiles, max_tiles=tiles))
    assert plan_image(500, 3000, config).image_tokens == tokens


def test_tokens_equal_the_features_of_the_encoded_views_for_every_size():
    # The reference miscounts 278 of these sizes when min_tiles is 1.
    landed_on_one_tile = 0
    for height in range(400, 1200, 7):
        for width in range(400, 1200, 5):
            plan = plan_image(height, width, LFM25_3B)
            rows, columns = plan.grid
            views = [(plan.canvas[0] // rows, plan.canvas[1] // columns)] * (rows * columns)
            views += [plan.thumbnail] if plan.thumbnail else []
            assert plan.image_tokens == sum(h // 32 * (w // 32) for h, w in views)
            landed_on_one_tile += plan.grid == (1, 1) and plan.canvas == (512, 512)
    assert landed_on_one_tile > 3


@pytest.mark.parametrize("size", ["753x696", "724x724", "785x657"])
def test_a_large_image_on_one_tile_is_one_full_view(size):
    plan = plan_image(*pair(size), LFM25_3B)
    assert (plan.grid, plan.canvas, plan.image_tokens) == ((1, 1), (512, 512), 256)


def test_one_tile_at_most_is_one_view_in_its_own_shape():
    one = dataclasses.replace(LFM25, min_tiles=1, max_tiles=1)
    assert plan_image(1080, 1920, one) == plan_image(1080, 1920, WHOLE)


def test_the_tolerance_decides_what_is_too_large():
    strict = dataclasses.replace(LFM25, max_pixels_tolerance=1.0)
    assert plan_image(512, 512, LFM25).grid == (1, 1)
    assert plan_image(565, 565, LFM25).grid == (1, 1)
    assert plan_image(565, 565, strict).grid != (1, 1)


def test_candidate_grids_keep_the_references_order():
    expected = """(1,2) (2,1) (3,1) (1,3) (2,2) (4,1) (1,4) (5,1) (1,5) (1,6) (6,1) (3,2) (2,3)
        (7,1) (1,7) (4,2) (2,4) (1,8) (8,1) (1,9) (3,3) (9,1) (2,5) (5,2) (10,1) (1,10)"""
    grids = tuple(tuple(map(int, text.strip("()").split(","))) for text in expected.split())
    assert candidate_grids(2, 10) == grids
    assert candidate_grids(1, 10) == ((1, 1), *grids)


@pytest.mark.parametrize(
    ("number", "factor", "rounded"),
    [
        (32, 16, 32),
        (30, 16, 32),
        (20, 16, 16),
        (24, 16, 32),
        (100, 32, 96),
        (50, 32, 64),
        (5, 4, 4),
    ],
)
def test_halves_round_to_even(number, factor, rounded):
    assert round_by_factor(number, factor) == rounded


def test_a_very_thin_image_is_shown_and_an_absurd_one_refused():
    assert plan_image(10, 10000, LFM25).image_tokens == 505
    assert plan_image(10000, 10, LFM25).image_tokens == 505
    with pytest.raises(InputError, match="100000 x 1 pixels is too long and thin"):
        plan_image(1, 100000, LFM25)


def test_a_tile_may_take_more_tokens_than_the_whole_image():
    config = LFM25.with_options(ImageOptions(min_image_tokens=1, max_image_tokens=60))
    plan = plan_image(1024, 1024, config)
    assert plan.grid == (2, 2)
    assert plan.view_tokens == [256] * 4 + [49]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImageOptions(min_tiles=5, max_tiles=4), "min_tiles 5 and max_tiles 4"),
        (ImageOptions(min_image_tokens=300), "min_image_tokens 300 and max_image_tokens 256"),
        (ImageOptions(min_image_tokens=0), "min_image_tokens 0"),
    ],
)
def test_contradicting_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LFM25.with_options(options)


PLANNED = {f.name for f in dataclasses.fields(ImageOptions)} - OUR_OPTIONS  # these change pixels


@pytest.mark.parametrize("field", sorted(PLANNED))
def test_every_option_changes_some_plan(field):
    value = {"use_thumbnail": False, "do_image_splitting": False, "min_tiles": 9}.get(field, 70)
    value = 3 if field == "max_tiles" else value
    config = LFM25.with_options(ImageOptions(**{field: value}))
    sizes = [(64, 64), (480, 640), (1080, 1920), (3000, 1000)]
    assert [plan_image(*s, config) for s in sizes] != [plan_image(*s, LFM25) for s in sizes]


def test_a_squeezed_picture_says_by_how_much():
    config = ImageConfig(16, 2)
    assert plan_image(40000, 1440, config).scaling == "scaled to 36 % x 13 %"
    assert plan_image(1440, 40000, config).scaling == "scaled to 13 % x 36 %"
    one_view = ImageConfig(16, 2, do_image_splitting=False)
    assert plan_image(9000, 9000, one_view).scaling == "scaled to 5.7 % x 5.7 %"


@pytest.mark.parametrize("aspect", [1, 1.25, 4 / 3, 1.5, 16 / 9, 2.17, 3.5, 6.5, 10, 14])
@pytest.mark.parametrize("megapixels", [0.3, 2, 12, 48])
def test_ordinary_pictures_say_nothing(aspect, megapixels):
    height = round((megapixels * 1e6 / aspect) ** 0.5)
    assert plan_image(height, round(height * aspect), ImageConfig(16, 2)).scaling == ""
