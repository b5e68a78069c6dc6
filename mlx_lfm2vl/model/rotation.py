"""RoPE whose cosines and sines are computed once for all layers.

A GPU's fused kernel computes them as it goes. A CPU needs some twenty operations for them, and for
few rows these cost more than the rotation itself.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Rotation:
    """What RoPE multiplies some rows with.

    Attributes:
        cosines: (L, 1, D).
        sines: (L, 1, D), negative for the first number of each pair.
        partners: (D,) int32, the other number of each one's pair.
    """

    cosines: mx.array
    sines: mx.array
    partners: mx.array

    @classmethod
    def at(cls, places: mx.array, size: int, theta: float, *, half_split: bool) -> "Rotation":
        """Return the rotation of rows at some positions.

        Args:
            places: (L,) int32.
            size: D of a head, even.
            theta: base of the wavelengths.
            half_split: whether number i of a head is paired with number i + D / 2, else each even
                number with the next one.
        """
        numbers, half = np.arange(size, dtype=np.int32), size // 2
        if half_split:
            pairs, partners, is_first = numbers % half, (numbers + half) % size, numbers < half
        else:
            pairs, partners, is_first = numbers // 2, numbers ^ 1, numbers % 2 == 0
        speeds = theta ** (-pairs / half)
        angles = places[:, None, None] * mx.array(speeds.astype(np.float32))
        signs = mx.array(np.where(is_first, -1, 1).astype(np.float32))
        return cls(mx.cos(angles), mx.sin(angles) * signs, mx.array(partners))

    def rows(self, begin: int) -> "Rotation":
        """Return the rotation of the rows from `begin` on."""
        return Rotation(self.cosines[begin:], self.sines[begin:], self.partners)

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate (B, L, H, D)."""
        turned = mx.take(x, self.partners, axis=-1)
        return (x * self.cosines + turned * self.sines).astype(x.dtype)
