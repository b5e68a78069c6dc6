"""Cutting an RGB image into the patches of its views."""

import numpy as np
from PIL import Image

from .geometry import ImagePlan
from .resample import resize

ROWS = 256


def process_image(image: Image.Image, plan: ImagePlan, resample: int) -> list[np.ndarray]:
    """Cut an image into views and the views into patches.

    Args:
        image: an RGB image.
        plan: from `plan_image`.
        resample: 2 for bilinear, 3 for bicubic.

    Returns:
        For each view its patches row by row, (N, patch_size * patch_size * 3) uint8. Values of a
        patch are ordered (row, column, channel). The model normalizes them on the device.
    """
    pixels = to_array(image)
    rows, columns = plan.grid
    canvas = resize(pixels, *plan.canvas, resample)
    height, width = plan.canvas[0] // rows, plan.canvas[1] // columns
    views = [
        canvas[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(rows)
        for column in range(columns)
    ]
    if plan.thumbnail:
        views.append(resize(pixels, *plan.thumbnail, resample))
    return [to_patches(view, plan.patch_size) for view in views]


def to_array(image: Image.Image) -> np.ndarray:
    """Copy an RGB image to (H, W, 3) uint8, rows at a time: Pillow makes a copy in between."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, ROWS):
        bottom = min(top + ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def to_patches(view: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut a view into patches, row by row.

    Args:
        view: (H, W, 3) pixels; `patch_size` must divide H and W.
        patch_size: side of a patch in pixels.

    Returns:
        (H * W / patch_size**2, patch_size * patch_size * 3) patches of the view's dtype.
    """
    height, width, channels = view.shape
    grid = view.reshape(height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, patch_size * patch_size * channels)
