"""What the decoder remembers of the sequences it has read."""

from collections.abc import Iterable

import mlx.core as mx

BLOCK = 256  # cache rows added at a time: growing by one would copy the cache at every token


class KeyValueCache:
    """Keys and values of one attention layer, in buffers that are written in place."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update(self, keys: mx.array, values: mx.array, offset: int) -> tuple[mx.array, mx.array]:
        """Store new rows at `offset` and return all rows up to their end.

        Args:
            keys: (B, H, L, D), already rotated.
            values: (B, H, L, D).
            offset: number of rows that stay valid before these.

        Returns:
            Keys and values, (B, H, offset + L, D) each.
        """
        batch, heads, length, dim = keys.shape
        end = offset + length
        capacity = 0 if self.keys is None else self.keys.shape[2]
        if end > capacity:
            missing = -(-(end - capacity) // BLOCK) * BLOCK
            empty = mx.zeros((batch, heads, missing, dim), keys.dtype)
            if self.keys is None or self.values is None:
                self.keys, self.values = empty, mx.zeros_like(empty)
            else:
                self.keys = mx.concatenate([self.keys, empty], axis=2)
                self.values = mx.concatenate([self.values, empty], axis=2)
        assert self.keys is not None and self.values is not None
        self.keys[..., offset:end, :] = keys
        self.values[..., offset:end, :] = values
        return self.keys[..., :end, :], self.values[..., :end, :]

    @property
    def arrays(self) -> list[mx.array]:
        return [array for array in (self.keys, self.values) if array is not None]


class ConvCache:
    """The last rows that went into one short convolution, one fewer than it has taps."""

    def __init__(self) -> None:
        self.window: mx.array | None = None  # (B, taps - 1, C)

    @property
    def arrays(self) -> list[mx.array]:
        return [] if self.window is None else [self.window]


class Cache:
    """One sequence's (or one batch's) memory: a part for every layer, and the common offset."""

    def __init__(self, layer_types: Iterable[str]) -> None:
        self.layers = [
            KeyValueCache() if kind == "full_attention" else ConvCache() for kind in layer_types
        ]
        self.offset = 0  # tokens read so far

    @property
    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation and for counting bytes."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)
