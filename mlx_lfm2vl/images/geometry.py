"""The views that an image is cut into and their number of tokens, in integers without any pixels.

Follows Lfm2VlImageProcessor in transformers 5.23, with one difference: tokens are counted from the
views that are encoded. The reference miscounts them for a large image with a 1 x 1 grid.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError

MAX_DISTORTION = (
    1.5  # times as much one way as the other; the grids for sides of up to 14:1 keep it
)
MIN_SCALE = 0.1  # below, no writing on a page can be read
THIN_FACTOR = 4  # a view of a very thin image may have up to this many times the allowed tokens


@dataclass(frozen=True)
class ImagePlan:
    """The views of one image.

    Attributes:
        size: (height, width) of the image in pixels.
        grid: (rows, columns) of tiles; (1, 1) is a single view.
        canvas: (height, width) in pixels to which the image is resized before it is cut into tiles.
        thumbnail: (height, width) in pixels of the extra view of the whole image, or None.
        patch_size: side of a patch in pixels.
        downsample_factor: side, in patches, of the block that becomes one image token.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    canvas: tuple[int, int]
    thumbnail: tuple[int, int] | None
    patch_size: int
    downsample_factor: int

    @property
    def spatial_shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of patches of each view: tiles row by row, then the thumbnail."""
        rows, columns = self.grid
        tile = (self.canvas[0] // rows, self.canvas[1] // columns)
        sizes = [tile] * (rows * columns) + ([self.thumbnail] if self.thumbnail else [])
        return [(height // self.patch_size, width // self.patch_size) for height, width in sizes]

    @property
    def view_tokens(self) -> list[int]:
        """Number of image tokens of each view."""
        return [
            rows * columns // self.downsample_factor**2 for rows, columns in self.spatial_shapes
        ]

    @property
    def image_tokens(self) -> int:
        """Number of image tokens of all views, without start, end and label tokens."""
        return sum(self.view_tokens)

    @property
    def scaling(self) -> str:
        """How the image is scaled if that is unusual: "scaled to 36 % x 13 %"; else empty.

        Width comes first. A tiled image counts by its tiles, which show more than the thumbnail.
        """
        height, width = (new / old for new, old in zip(self.canvas, self.size, strict=True))
        small, large = sorted((height, width))
        if large <= MAX_DISTORTION * small and small >= MIN_SCALE:
            return ""
        return f"scaled to {_percent(width)} x {_percent(height)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data; sizes are [height, width] in pixels."""
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
    """Decide which views to make of an image.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        config: image settings of the checkpoint.

    Raises:
        InputError: the image has no pixels, or is so long and thin that a view would have more
            than `THIN_FACTOR` times the allowed tokens.
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
            f"{max(plan.view_tokens)} tokens, expected about {config.max_image_tokens}; crop it"
        )
    return plan


def _percent(scale: float) -> str:
    return f"{100 * scale:.{0 if scale >= 0.1 else 1}f} %"


def _tile_tokens(config: ImageConfig) -> int:
    return (config.tile_size // (config.encoder_patch_size * config.downsample_factor)) ** 2


def round_by_factor(number: float, factor: int) -> int:
    """Return the multiple of `factor` nearest to `number`; halves round to the even multiple."""
    return round(number / factor) * factor


def _is_too_large(height: int, width: int, config: ImageConfig) -> bool:
    patch, block = config.encoder_patch_size, config.encoder_patch_size * config.downsample_factor
    area = max(patch, round_by_factor(height, block)) * max(patch, round_by_factor(width, block))
    return area > config.max_image_tokens * block**2 * config.max_pixels_tolerance


def _smart_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """Return (height, width) of the whole image as one view, within the token limits if possible.

    A side is never shorter than one block of patches, so very thin images may exceed the maximum.
    """
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
    """Return all (columns, rows) with min_tiles <= columns * rows <= max_tiles.

    Their order decides between equally good grids. The reference sorts a set of tuples by area, so
    grids of equal area are in the order of CPython's set. Building the set as the reference does
    gives the same order.
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
    """Return the (columns, rows) whose aspect ratio is nearest to the image's."""
    best, best_difference = (1, 1), math.inf
    for columns, rows in candidate_grids(config.min_tiles, config.max_tiles):
        difference = abs(width / height - columns / rows)
        half_full = height * width > 0.5 * config.tile_size**2 * columns * rows
        if difference < best_difference or (difference == best_difference and half_full):
            best, best_difference = (columns, rows), difference
    return best
