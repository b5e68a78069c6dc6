"""Quantize one matrix to small floats (mxfp4, mxfp8, nvfp4) so that its outputs change least.

It does for float modes what `rounding` does for the affine mode. A weight is one of the format's
values times its group's scale. The scale is itself a small float, so it is searched among a few
neighbors and not fitted.

Arrays here are transposed, (K, rows), as in `rounding`.
"""

import mlx.core as mx
import numpy as np

from ..checkpoint.packing import Scheme

NEIGHBORS = (0, -1, 1, -2, 2)  # codes of a group's scale that are tried, relative to MLX's choice
SWEEPS = 4  # passes of coordinate descent over all codes
ONES = {"mxfp4": 127, "mxfp8": 127, "nvfp4": 0x38}  # the code of the scale 1
LARGEST_SCALES = {"mxfp4": 254, "mxfp8": 254, "nvfp4": 0x7E}  # codes; the next one is NaN


class Grid:
    """The values of a float mode in ascending order, and rounding to them.

    Attributes:
        codes: (V,) uint8, the code of each value.
        values: (V,) float32.
    """

    def __init__(self, scheme: Scheme) -> None:
        codes = np.arange(2**scheme.bits, dtype=np.uint8)
        values = _decoded(codes, ONES[scheme.mode], scheme)
        codes, values = codes[np.isfinite(values)], values[np.isfinite(values)]
        values, first = np.unique(values, return_index=True)  # 0 and -0 are one value
        self.codes, self.values = codes[first], values
        self._borders = (values[1:] + values[:-1]) / 2

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """Return the index of the value nearest to each number."""
        return np.searchsorted(self._borders, x)


def learn_floats(
    target: np.ndarray, damped: np.ndarray, nearest_scales: np.ndarray, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Choose scales and codes for a small error eᵀAe, e being the difference from the target.

    Args:
        target: (K, rows).
        damped: A, (K, K).
        nearest_scales: codes of the scales that rounding to nearest chooses, (G, rows) uint8.
        scheme: of a float mode.

    Returns:
        Codes of the weights, (K, rows) uint8, and of the scales, (G, rows) uint8.
    """
    grid, size = Grid(scheme), scheme.group_size
    scale_codes = _search(target, np.diag(damped), nearest_scales, grid, scheme)
    scales = _scale_values(scheme)[scale_codes].repeat(size, axis=0)
    indices = _nearest_plane(target, damped, scales, grid)
    for _ in range(SWEEPS):
        indices = _sweep(target, damped, indices, scales, grid, size)
    return grid.codes[indices], scale_codes


def _decoded(codes: np.ndarray, scale: int, scheme: Scheme) -> np.ndarray:
    """The values that MLX reads in codes, (V,)."""
    row = np.resize(codes, 256)  # whole groups of every mode
    packed = row if scheme.bits == 8 else row[0::2] | row[1::2] << 4
    scales = mx.full((1, len(row) // scheme.group_size), scale, dtype=mx.uint8)
    values = mx.dequantize(
        mx.array(packed.view(np.uint32))[None],
        scales,
        group_size=scheme.group_size,
        bits=scheme.bits,
        mode=scheme.mode,
        dtype=mx.float32,
    )
    return np.array(values)[0, : len(codes)]


def _scale_values(scheme: Scheme) -> np.ndarray:
    """The value of each code of a scale: powers of 2, or in nvfp4 floats of 8 bits."""
    if scheme.mode == "nvfp4":
        eight = Scheme(8, 32, "mxfp8")
        return _decoded(np.arange(256, dtype=np.uint8), ONES["mxfp8"], eight)
    return np.exp2(np.minimum(np.arange(256, dtype=np.float32) - 127, 127))  # the last is NaN


def _search(
    target: np.ndarray,
    importance: np.ndarray,
    nearest_scales: np.ndarray,
    grid: Grid,
    scheme: Scheme,
) -> np.ndarray:
    """Find the scales with the smallest squared error, weighted by each input's importance."""
    values = _scale_values(scheme)
    x = target.reshape(-1, scheme.group_size, target.shape[1])
    share = importance.reshape(-1, scheme.group_size, 1)
    best, lowest = nearest_scales, np.full(nearest_scales.shape, np.inf, np.float32)
    for step in NEIGHBORS:
        codes = np.clip(nearest_scales.astype(int) + step, 1, LARGEST_SCALES[scheme.mode])
        scale = values[codes][:, None]
        gap = x - grid.values[grid.nearest(x / scale)] * scale
        error = (share * np.square(gap)).sum(axis=1)
        best = np.where(error < lowest, codes, best)
        lowest = np.minimum(error, lowest)
    return best.astype(np.uint8)


def _nearest_plane(
    target: np.ndarray, damped: np.ndarray, scales: np.ndarray, grid: Grid
) -> np.ndarray:
    """Choose all codes one after the other, as `rounding._nearest_plane` does.

    Args:
        scales: (K, rows).

    Returns:
        Indices of values of the grid, (K, rows).
    """
    order = np.argsort(np.diag(damped), kind="stable")
    factor = np.linalg.cholesky(damped[np.ix_(order, order)])
    factor /= np.diag(factor).copy()
    wanted, indices = target[order], np.empty(target.shape, np.intp)
    for i in reversed(range(len(order))):
        column = order[i]
        indices[column] = grid.nearest(wanted[i] / scales[column])
        error = target[column] - grid.values[indices[column]] * scales[column]
        wanted[:i] += np.outer(factor[i, :i], error)
    return indices


def _sweep(
    target: np.ndarray,
    damped: np.ndarray,
    indices: np.ndarray,
    scales: np.ndarray,
    grid: Grid,
    size: int,
) -> np.ndarray:
    """Choose each code again with all others fixed."""
    values = grid.values[indices] * scales
    errors, new = target - values, np.empty_like(indices)
    for start in range(0, len(target), size):
        span = slice(start, start + size)
        local, pull = damped[span, span], damped[span] @ errors
        for i in range(size):
            row = start + i
            new[row] = grid.nearest((values[row] + pull[i] / local[i, i]) / scales[row])
            step = grid.values[new[row]] * scales[row] - values[row]
            errors[row] -= step
            pull[i + 1 :] -= np.outer(local[i, i + 1 :], step)
    return new
