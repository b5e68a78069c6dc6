"""Which views an image is cut into and what they cost in tokens, in pure integers.

Follows Lfm2VlImageProcessor in transformers 5.23, except that tokens are counted from the views
that are really encoded (the reference miscounts when a large image lands on the 1 x 1 grid).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError

THIN_FACTOR = 4  # how far over max_image_tokens a view of a very thin image may go


@dataclass(frozen=True)
class ImagePlan:
    """How one image is shown to the model.

    Attributes:
        size: (height, width) of the image in pixels.
        grid: (rows, columns) of tiles; (1, 1) is one view.
        canvas: (height, width) in pixels the image is stretched to before it is cut into the grid.
        thumbnail: (height, width) in pixels of the extra view of the whole image, or None.
        patch_size: side of a patch in pixels.
        downsample_factor: side of the block of patches behind one image token.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    canvas: tuple[int, int]
    thumbnail: tuple[int, int] | None
    patch_size: int
    downsample_factor: int

    @property
    def spatial_shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of patches of every view: tiles row by row, then the thumbnail."""
        rows, columns = self.grid
        tile = (self.canvas[0] // rows, self.canvas[1] // columns)
        sizes = [tile] * (rows * columns) + ([self.thumbnail] if self.thumbnail else [])
        return [(height // self.patch_size, width // self.patch_size) for height, width in sizes]

    @property
    def view_tokens(self) -> list[int]:
        """Image tokens of every view."""
        return [
            rows * columns // self.downsample_factor**2 for rows, columns in self.spatial_shapes
        ]

    @property
    def image_tokens(self) -> int:
        """Image tokens of all views; start, end and label tokens come on top."""
        return sum(self.view_tokens)

    def to_dict(self) -> dict[str, Any]:
        """As plain data; sizes are [height, width] in pixels."""
        side = self.patch_size
        sizes = [[rows * side, columns * side] for rows, columns in self.spatial_shapes]
        return {
            "size": list(self.size),
            "grid": list(self.grid),
            "views": [
                {"size": size, "tokens": tokens}
                for size, tokens in zip(sizes, self.view_tokens, strict=True)
            ],
            "tokens": self.image_tokens,
        }


def plan_image(height: int, width: int, config: ImageConfig) -> ImagePlan:
    """Decide the views of an image of `height` x `width` pixels.

    Raises:
        InputError: the image is so long and thin that a view would far exceed `max_image_tokens`.
    """
    if height < 1 or width < 1:
        raise InputError(f"an image of {width} x {height} pixels has no pixels")
    whole = _smart_size(height, width, config)
    splitting = config.do_image_splitting and not config.min_tiles == config.max_tiles == 1
    if splitting and _is_too_large(height, width, config):
        columns, rows = _closest_grid(height, width, config)
        canvas = (rows * config.tile_size, columns * config.tile_size)
        thumbnail = whole if config.use_thumbnail and rows * columns > 1 else None
    else:
        rows, columns, canvas, thumbnail = 1, 1, whole, None
    plan = ImagePlan(
        size=(height, width),
        grid=(rows, columns),
        canvas=canvas,
        thumbnail=thumbnail,
        patch_size=config.encoder_patch_size,
        downsample_factor=config.downsample_factor,
    )
    # Rounding a very thin side up to one block makes the view larger than it should be.
    if max(plan.view_tokens) > THIN_FACTOR * max(config.max_image_tokens, _tile_tokens(config)):
        raise InputError(
            f"an image of {width} x {height} pixels is too long and thin: one view would take "
            f"{max(plan.view_tokens)} tokens instead of {config.max_image_tokens}; crop it"
        )
    return plan


def _tile_tokens(config: ImageConfig) -> int:
    return (config.tile_size // (config.encoder_patch_size * config.downsample_factor)) ** 2


def round_by_factor(number: float, factor: int) -> int:
    """The multiple of `factor` nearest to `number`; halves go to the even multiple."""
    return round(number / factor) * factor


def _is_too_large(height: int, width: int, config: ImageConfig) -> bool:
    patch, block = config.encoder_patch_size, config.encoder_patch_size * config.downsample_factor
    area = max(patch, round_by_factor(height, block)) * max(patch, round_by_factor(width, block))
    return area > config.max_image_tokens * block**2 * config.max_pixels_tolerance


def _smart_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(height, width) of the whole image as one view, within the token limits where possible."""
    block = config.encoder_patch_size * config.downsample_factor
    smallest, largest = config.min_image_tokens * block**2, config.max_image_tokens * block**2
    new_height = max(block, round_by_factor(height, block))
    new_width = max(block, round_by_factor(width, block))
    if new_height * new_width > largest:
        scale = math.sqrt(height * width / largest)
        new_height = max(block, math.floor(height / scale / block) * block)
        new_width = max(block, math.floor(width / scale / block) * block)
    elif new_height * new_width < smallest:
        scale = math.sqrt(smallest / (height * width))
        new_height = math.ceil(height * scale / block) * block
        new_width = math.ceil(width * scale / block) * block
    return new_height, new_width


@lru_cache
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with min_tiles <= columns * rows <= max_tiles, in the reference's order.

    Ties between equally good grids are decided by this order. The reference sorts a set of
    tuples by area, so within one area the order is that of CPython's set: build it the same way.
    """
    grids = {
        (columns, rows)
        for tiles in range(min_tiles, max_tiles + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if min_tiles <= columns * rows <= max_tiles
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def _closest_grid(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(columns, rows) whose aspect ratio is nearest to the image's."""
    best, best_difference = (1, 1), math.inf
    for columns, rows in candidate_grids(config.min_tiles, config.max_tiles):
        difference = abs(width / height - columns / rows)
        half_full = height * width > 0.5 * config.tile_size**2 * columns * rows
        if difference < best_difference or (difference == best_difference and half_full):
            best, best_difference = (columns, rows), difference
    return best
