"""RoPE whose cosines and sines are computed once for all layers.

A GPU's fused kernel computes them as it goes. A CPU needs some twenty operations for them, and for
few rows these cost more than the rotation itself.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

TABLE = 512  # positions; rows at any of them have the cosines and sines of a table of two


@dataclass(frozen=True)
class Rotation:
    """What RoPE multiplies some rows with.

    Attributes:
        cosines: (L, D).
        sines: (L, D), negative for the first number of each pair.
        partners: (D,) int32, the other number of each one's pair.
    """

    cosines: mx.array
    sines: mx.array
    partners: mx.array

    def rows(self, numbers: mx.array | slice) -> "Rotation":
        """Return the rotation of some of the rows.

        Args:
            numbers: int32 indices of the rows, or a range of them.
        """
        return Rotation(self.cosines[numbers], self.sines[numbers], self.partners)

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate (B, H, L, D)."""
        turned = mx.take(x, self.partners, axis=-1)
        return (x * self.cosines + turned * self.sines).astype(x.dtype)


@lru_cache(maxsize=4)
def rotation_from(
    first: int, length: int, size: int, theta: float, *, half_split: bool
) -> Rotation:
    """Return the rotation of rows at consecutive positions, as `mx.fast.rope` computes it.

    Args:
        first: position of the first row.
        length: L, at most `TABLE`.
        size: D of a head, even.
        theta: base of the wavelengths.
        half_split: whether number i of a head is paired with number i + D / 2, else each even
            number with the next one.
    """
    table, begin = divmod(first, TABLE)
    cosines, sines, partners = _table(table, size, theta, half_split)
    rows = slice(begin, begin + length)
    return Rotation(mx.array(cosines[rows]), mx.array(sines[rows]), partners)


@lru_cache(maxsize=4)
def _table(
    number: int, size: int, theta: float, half_split: bool
) -> tuple[np.ndarray, np.ndarray, mx.array]:
    """Return cosines and sines of `2 * TABLE` positions from `number * TABLE` on, and partners."""
    numbers, half = np.arange(size, dtype=np.int32), size // 2
    if half_split:
        pairs, partners, is_first = numbers % half, (numbers + half) % size, numbers < half
    else:
        pairs, partners, is_first = numbers // 2, numbers ^ 1, numbers % 2 == 0
    places = np.arange(number * TABLE, (number + 2) * TABLE, dtype=np.float32)
    angles = places[:, None] * _speeds(half, theta)
    cosines, sines = np.cos(angles)[:, pairs], np.sin(angles)[:, pairs]
    return cosines, np.where(is_first, -sines, sines), mx.array(partners)


@lru_cache(maxsize=4)
def _speeds(half: int, theta: float) -> np.ndarray:
    """Return (half,) angles of position 1.

    They are MLX's own numbers, because the angles of high positions would show the last bit of
    others.
    """
    numbers = mx.arange(0, -half, -1, dtype=mx.float32)
    return np.array(mx.exp(numbers * (math.log(theta) / half)).tolist(), np.float32)
