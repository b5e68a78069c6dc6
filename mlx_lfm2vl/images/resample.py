"""Antialiased resizing of uint8 images, bit-identical to torch's integer kernel."""

import numpy as np

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, as in the checkpoints
BLOCK = 16  # output pixels per matrix product; larger blocks multiply by more zeros
ROWS = 256  # input rows converted to float at a time, to save memory


def resize(image: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize horizontally, then vertically, and round to uint8 after each pass.

    Follows upsample_bilinear2d_aa and upsample_bicubic2d_aa of torch 2.13 for uint8, whose weights
    are integers. Matrix products of integers are exact in any order of summation as long as every
    partial sum is representable. float32 is enough for most sizes; float64 serves the others, where
    an image shrinks a lot (see `_bands`).

    Args:
        image: (H, W, 3) uint8.
        height: new height in pixels.
        width: new width in pixels.
        resample: 2 for bilinear, 3 for bicubic.

    Returns:
        (height, width, 3) uint8.
    """
    if image.shape[1] != width:
        image = _resize_width(image, width, resample)
    if image.shape[0] != height:
        image = _resize_height(image, height, resample)
    return image


def _resize_width(image: np.ndarray, width: int, resample: int) -> np.ndarray:
    rows = image.shape[0]
    bands, precision = _bands(image.shape[1], width, resample)
    dtype = bands[0][1].dtype
    # The Kronecker product repeats each weight for the three interleaved channels.
    bands = [(begin, np.kron(band, np.eye(3, dtype=band.dtype)).T) for begin, band in bands]
    out = np.empty((rows, width * 3), np.uint8)
    for top in range(0, rows, ROWS):
        part = image[top : top + ROWS].reshape(-1, image.shape[1] * 3).astype(dtype)
        for index, (begin, band) in enumerate(bands):
            left = index * BLOCK * 3
            source = part[:, begin * 3 : begin * 3 + band.shape[0]]
            out[top : top + ROWS, left : left + band.shape[1]] = _rounded(source @ band, precision)
    return out.reshape(rows, width, 3)


def _resize_height(image: np.ndarray, height: int, resample: int) -> np.ndarray:
    bands, precision = _bands(image.shape[0], height, resample)
    flat = image.reshape(image.shape[0], -1)
    out = np.empty((height, flat.shape[1]), np.uint8)
    for index, (begin, band) in enumerate(bands):
        source = flat[begin : begin + band.shape[1]].astype(band.dtype)
        out[index * BLOCK : index * BLOCK + len(band)] = _rounded(band @ source, precision)
    return out.reshape(height, image.shape[1], 3)


def _rounded(sums: np.ndarray, precision: int) -> np.ndarray:
    sums += 2.0 ** (precision - 1)
    sums *= 2.0**-precision
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums).astype(np.uint8)


def _bands(n_in: int, n_out: int, resample: int) -> tuple[list[tuple[int, np.ndarray]], int]:
    """Return the integer weights of one pass as dense blocks of the banded (n_out, n_in) matrix.

    Returns:
        For every `BLOCK` outputs the index of the first input they need and their (outputs, inputs)
        weights; and the number of fraction bits of the weights. The weights' dtype, float32 or
        float64, is one in which the sums are exact.
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = (1.0 if resample == BILINEAR else 2.0) * stretch
    center = scale * (np.arange(n_out) + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), n_in)
    taps = first[:, None] + np.arange(int((last - first).max()))
    distance = (taps - center[:, None] + 0.5) * (1.0 / stretch)
    weights = _triangle(distance) if resample == BILINEAR else _keys(distance)
    weights = np.where(taps < last[:, None], weights, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    precision = 0
    while precision < 22 and int(0.5 + weights.max() * 2 ** (precision + 1)) < 2**15:
        precision += 1
    # Round halves away from zero, like torch, which adds or subtracts 0.5 and casts to int.
    weights = np.trunc(weights * 2.0**precision + np.copysign(0.5, weights))
    exact = np.abs(weights).sum(axis=1).max() * 255 + 2.0**precision < 2**24
    bands = []
    for start in range(0, n_out, BLOCK):
        rows = slice(start, min(start + BLOCK, n_out))
        begin, end = int(first[rows].min()), int(last[rows].max())
        band = np.zeros((rows.stop - start, end - begin), np.float32 if exact else np.float64)
        row, tap = np.nonzero(taps[rows] < last[rows, None])
        band[row, taps[rows][row, tap] - begin] = weights[rows][row, tap]
        bands.append((begin, band))
    return bands, precision


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _keys(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -0.5. Follows Keys (1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
