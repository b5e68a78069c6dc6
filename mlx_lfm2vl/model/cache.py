"""What the decoder remembers of the sequences it has read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import mlx.core as mx

from ..options import MAX_LOOKUP

BLOCK = 256  # cache rows added at a time: growing by one would copy the cache at every token
REWINDABLE = MAX_LOOKUP + 1  # positions that one step may read and still give back

Window = tuple[mx.array, ...]  # the last rows before a convolution, (B, C) each, oldest first


@dataclass(frozen=True)
class Place:
    """Where the positions of one step stand.

    Attributes:
        column: of the first one in the cache; the same for all rows of a batch.
        offset: its number in the sequence, for RoPE: one for all, or (B,) int32.
        visible: (B, 1, 1, S) bool, the columns that belong to the row's sequence; None for all.
    """

    column: int = 0
    offset: int | mx.array = 0
    visible: mx.array | None = None


class KeyValueCache:
    """Keys and values of one attention layer, in buffers that are written in place."""

    def __init__(self) -> None:
        self._rows: tuple[mx.array, mx.array] | None = None

    def update(self, keys: mx.array, values: mx.array, column: int) -> tuple[mx.array, mx.array]:
        """Store new rows at `column` and return all rows up to their end.

        Args:
            keys: (B, H, L, D), already rotated.
            values: (B, H, L, D).
            column: number of rows that stay valid before these.

        Returns:
            Keys and values, (B, H, column + L, D) each.
        """
        batch, heads, length, dim = keys.shape
        end = column + length
        capacity = 0 if self._rows is None else self._rows[0].shape[2]
        if end > capacity:
            missing = -(-(end - capacity) // BLOCK) * BLOCK
            old = [[part] for part in self._rows] if self._rows else [[], []]
            all_keys, all_values = (
                # Each its own: shared ones could not be written in place.
                mx.concatenate([*parts, mx.zeros((batch, heads, missing, dim), keys.dtype)], axis=2)
                for parts in old
            )
            self._rows = all_keys, all_values
        assert self._rows is not None
        all_keys, all_values = self._rows
        all_keys[:, :, column:end] = keys
        all_values[:, :, column:end] = values
        self._rows = all_keys, all_values
        return all_keys[:, :, :end], all_values[:, :, :end]

    @classmethod
    def joined(cls, parts: Sequence[tuple["KeyValueCache", mx.array, int]], length: int) -> Self:
        """Rows of several caches, the last `length` columns of each.

        Args:
            parts: a cache, which of its rows, int32, and how many columns it has in use.
            length: columns of the result; zeros stand before what is shorter.
        """
        joined = cls()
        columns = [
            [_last(rows, used, length)[chosen] for rows in cache.arrays]
            for cache, chosen, used in parts
        ]
        keys, values = (mx.concatenate(list(arrays)) for arrays in zip(*columns, strict=True))
        joined._rows = keys, values
        return joined

    @property
    def arrays(self) -> list[mx.array]:
        return list(self._rows or ())


def _last(rows: mx.array, used: int, length: int) -> mx.array:
    """(B, H, S, D) -> (B, H, length, D): the last of the columns in use, behind zeros."""
    rows = rows[:, :, max(0, used - length) : used]
    return mx.pad(rows, [(0, 0), (0, 0), (length - rows.shape[2], 0), (0, 0)])


class ConvCache:
    """The last rows that went into one short convolution, one fewer than it has taps.

    Attributes:
        window: these rows, as arrays of their own: the next step then drops one and adds one
            without copying any.
    """

    def __init__(self, taps: int) -> None:
        self._kept = taps - 1
        self._recent: mx.array | None = None  # (B, kept + L, C), what the last step has seen
        self.window: Window = ()  # until there is one

    def update(self, rows: mx.array) -> mx.array:
        """Add (B, L, C) rows; returns them behind those of the window, (B, taps - 1 + L, C)."""
        if not self.window:
            self.window = (mx.zeros_like(rows[:, 0]),) * self._kept
        rows = mx.concatenate([*(row[:, None] for row in self.window), rows], axis=1)
        self._recent = rows if rows.shape[1] <= self._kept + REWINDABLE else None
        self._look_back_from(rows, rows.shape[1])
        return rows

    def step(self, window: Window) -> None:
        """Take the window behind one more row."""
        self.window, self._recent = window, None

    def rewind(self, count: int) -> None:
        """Forget the last `count` rows, of those that the last update brought."""
        assert self._recent is not None
        assert count <= self._recent.shape[1] - self._kept
        self._look_back_from(self._recent, self._recent.shape[1] - count)

    @classmethod
    def joined(cls, parts: Sequence[tuple["ConvCache", mx.array]]) -> Self:
        """Chosen rows, int32, of several caches, in this order."""
        joined = cls(parts[0][0]._kept + 1)
        windows = [[row[chosen] for row in cache.arrays] for cache, chosen in parts]
        joined.window = tuple(mx.concatenate(list(rows)) for rows in zip(*windows, strict=True))
        return joined

    def _look_back_from(self, rows: mx.array, end: int) -> None:
        # Copies: views would keep the whole prompt's rows alive.
        self.window = tuple(mx.contiguous(rows[:, i]) for i in range(end - self._kept, end))

    @property
    def arrays(self) -> list[mx.array]:
        return list(self.window)


class Cache:
    """What one sequence, or a batch of them, leaves behind: a part for every layer.

    The rows of a batch end in the same column; shorter ones begin later.

    Attributes:
        offset: columns in use.
    """

    def __init__(self, layer_types: Sequence[str], taps: int) -> None:
        self._layer_types, self._taps = layer_types, taps
        self.layers = [
            KeyValueCache() if kind == "full_attention" else ConvCache(taps) for kind in layer_types
        ]
        self.offset = 0
        self._begins: list[int] = []  # first column of each row; empty: all begin in column 0
        self._begin: mx.array | None = None  # the same, (B,)

    def place(self, length: int) -> Place:
        """Make room for the next `length` positions; returns where they stand."""
        column = self.offset
        self.offset += length
        if self._begin is None:
            return Place(column, column)
        visible = mx.arange(self.offset) >= self._begin[:, None]
        return Place(column, column - self._begin, visible[:, None, None])

    def rewind(self, count: int) -> None:
        """Forget the last `count` positions, of at most `REWINDABLE` that came in one step.

        Keys and values stay where they are: nothing looks at them, and the next ones replace them.
        """
        self.offset -= count
        for layer in self.layers:
            if count and isinstance(layer, ConvCache):
                layer.rewind(count)

    @classmethod
    def joined(cls, parts: Sequence[tuple["Cache", Sequence[int]]]) -> "Cache":
        """A batch of chosen rows of other caches, in this order, which go on by themselves."""
        lengths = [
            cache.offset - (cache._begins[row] if cache._begins else 0)
            for cache, rows in parts
            for row in rows
        ]
        first = parts[0][0]
        joined = cls(first._layer_types, first._taps)
        joined.offset = max(lengths)
        if min(lengths) < joined.offset:
            joined._begins = [joined.offset - length for length in lengths]
            joined._begin = mx.array(joined._begins)
        chosen = [(cache, mx.array(list(rows))) for cache, rows in parts]
        for i, layer in enumerate(joined.layers):
            same = [cast(Any, cache.layers[i]) for cache, _ in chosen]
            rows = [rows for _, rows in chosen]
            if isinstance(layer, ConvCache):
                joined.layers[i] = ConvCache.joined(list(zip(same, rows, strict=True)))
                continue
            used = [cache.offset for cache, _ in chosen]
            joined.layers[i] = KeyValueCache.joined(
                list(zip(same, rows, used, strict=True)), joined.offset
            )
        return joined

    @property
    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation and for counting bytes."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)
