"""What the decoder remembers of the sequences it has read."""

from collections.abc import Iterable

import mlx.core as mx

BLOCK = 256  # cache rows added at a time: growing by one would copy the cache at every token


class KeyValueCache:
    """Keys and values of one attention layer, in buffers that are written in place."""

    def __init__(self) -> None:
        self._rows: tuple[mx.array, mx.array] | None = None

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
        capacity = 0 if self._rows is None else self._rows[0].shape[2]
        if end > capacity:
            missing = -(-(end - capacity) // BLOCK) * BLOCK
            empty = mx.zeros((batch, heads, missing, dim), keys.dtype)
            old = [[part] for part in self._rows] if self._rows else [[], []]
            all_keys, all_values = (mx.concatenate([*parts, empty], axis=2) for parts in old)
            self._rows = all_keys, all_values
        assert self._rows is not None
        all_keys, all_values = self._rows
        all_keys[..., offset:end, :] = keys
        all_values[..., offset:end, :] = values
        self._rows = all_keys, all_values
        return all_keys[..., :end, :], all_values[..., :end, :]

    @property
    def arrays(self) -> list[mx.array]:
        return list(self._rows or ())


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
