"""What holds for the plan of every image under every setting."""

import dataclasses
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.geometry import THIN_FACTOR, ImagePlan, plan_image, round_by_factor

SIDES = st.integers(1, 20_000) | st.integers(1, 600)


@st.composite
def configs(draw: st.DrawFn) -> ImageConfig:
    patch, factor = draw(st.sampled_from([4, 14, 16])), draw(st.integers(1, 3))
    min_tiles, min_tokens = draw(st.integers(1, 12)), draw(st.integers(1, 300))
    return ImageConfig(
        encoder_patch_size=patch,
        downsample_factor=factor,
        do_image_splitting=draw(st.booleans()),
        min_tiles=min_tiles,
        max_tiles=min_tiles + draw(st.integers(0, 12)),
        tile_size=patch * factor * draw(st.integers(1, 16)),
        use_thumbnail=draw(st.booleans()),
        min_image_tokens=min_tokens,
        max_image_tokens=min_tokens + draw(st.integers(0, 300)),
        max_pixels_tolerance=draw(st.floats(0.5, 4)),
    )


def planned(height: int, width: int, config: ImageConfig) -> ImagePlan | None:
    """The plan of an image; None if it is refused, as only thin ones may be."""
    if max(height, width) <= THIN_FACTOR * min(height, width):
        return plan_image(height, width, config)
    try:
        return plan_image(height, width, config)
    except InputError:
        return None


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, configs())
def test_every_plan_keeps_its_limits(height, width, config):
    plan = planned(height, width, config)
    if plan is None:
        return
    rows, columns = plan.grid
    block = config.encoder_patch_size * config.downsample_factor
    views = [(h * plan.patch_size, w * plan.patch_size) for h, w in plan.spatial_shapes]
    assert plan.size == (height, width)
    assert all(side and side % block == 0 for view in views for side in view)
    assert len(views) == len(plan.view_tokens) == rows * columns + bool(plan.thumbnail)
    assert plan.image_tokens == sum(h * w // block**2 for h, w in views)
    tile = (config.tile_size // block) ** 2
    assert max(plan.view_tokens) <= THIN_FACTOR * max(config.max_image_tokens, tile)
    if rows * columns > 1:
        assert config.do_image_splitting
        assert config.min_tiles <= rows * columns <= config.max_tiles
        assert plan.canvas == (rows * config.tile_size, columns * config.tile_size)
        assert bool(plan.thumbnail) == config.use_thumbnail
    else:
        assert plan.thumbnail is None


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, configs())
def test_the_whole_image_keeps_its_shape_and_the_token_limits(height, width, config):
    plan = planned(height, width, dataclasses.replace(config, do_image_splitting=False))
    block = config.encoder_patch_size * config.downsample_factor
    if plan is None or min(plan.canvas) == block:  # a side of one block cannot shrink further
        return
    rounded = math.prod(max(1, round_by_factor(side, block) // block) for side in plan.size)
    if rounded > config.max_image_tokens:
        assert plan.image_tokens <= config.max_image_tokens
    elif rounded < config.min_image_tokens:
        assert plan.image_tokens >= config.min_image_tokens
    else:
        assert plan.image_tokens == rounded
    # Sides of n blocks are exact to a block each, which is what the shape can be off by.
    rows, columns = (side // block for side in plan.canvas)
    assert (rows - 1) / (columns + 1) <= height / width <= (rows + 1) / (columns - 1)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, configs())
def test_the_whole_image_is_planned_alike_lying_and_standing(height, width, config):
    whole = dataclasses.replace(config, do_image_splitting=False)
    lying, standing = planned(height, width, whole), planned(width, height, whole)
    assert (lying and lying.canvas[::-1]) == (standing and standing.canvas)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, configs())
def test_the_grid_is_the_nearest_in_shape(height, width, config):
    plan = planned(height, width, config)
    if plan is None or plan.grid == (1, 1):
        return
    rows, columns = plan.grid
    counts = range(1, config.max_tiles + 1)
    grids = [
        (r, c) for r in counts for c in counts if config.min_tiles <= r * c <= config.max_tiles
    ]
    nearest = min(abs(width / height - c / r) for r, c in grids)
    assert abs(width / height - columns / rows) == nearest
