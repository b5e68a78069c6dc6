"""What the decoder remembers of the sequences it has read: one part for every layer.

- An attention layer keeps the keys and values of all positions, in buffers written in place.
- A short convolution keeps a window: the last rows that went into it, one fewer than its taps.
- The rows of a batch end in the same column; shorter sequences start later.
- A cache does not know its tokens, and no layer looks at columns past `offset`.
- `trim` takes back the last positions, `fork` goes on twice, `state` and `from_state` leave the
  process and come back: the verbs of mlx-lm's prompt caches.
- Windows hold no history: what was trimmed must have come in the last step.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..options import MAX_LOOKUP

BLOCK = 256  # columns added at a time: growing by one would copy the cache at every token
TRIMMABLE = MAX_LOOKUP + 1  # positions that one step may read and still give back

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


@dataclass(frozen=True)
class Rows:
    """Rows of a batch that are to go on in another one.

    Attributes:
        cache: they are in.
        numbers: which of its rows.
    """

    cache: "Cache"
    numbers: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Positions of each row's sequence."""
        starts = self.cache.starts
        return [self.cache.offset - (starts[n] if starts else 0) for n in self.numbers]


class KeyValueCache:
    """Keys and values of one attention layer.

    Attributes:
        arrays: none, or keys and values, (B, H, columns, D) each; more columns than are in use.
    """

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []

    def update(self, keys: mx.array, values: mx.array, column: int) -> tuple[mx.array, mx.array]:
        """Store new rows at `column` and return all rows up to their end.

        Args:
            keys: (B, H, L, D), already rotated.
            values: (B, H, L, D).
            column: number of rows that stay valid before these.

        Returns:
            Keys and values, (B, H, column + L, D) each.
        """
        end = column + keys.shape[2]
        capacity = self.arrays[0].shape[2] if self.arrays else 0
        if end > capacity:
            self._grow(-(-(end - capacity) // BLOCK) * BLOCK, keys)
        all_keys, all_values = self.arrays
        all_keys[:, :, column:end] = keys
        all_values[:, :, column:end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def _grow(self, columns: int, like: mx.array) -> None:
        batch, heads, _, dim = like.shape
        old = [[array] for array in self.arrays] or [[], []]
        self.arrays = [
            # Each its own: shared ones could not be written in place.
            mx.concatenate([*parts, mx.zeros((batch, heads, columns, dim), like.dtype)], axis=2)
            for parts in old
        ]

    def taken(self, rows: mx.array, used: int, columns: int) -> list[mx.array]:
        """Keys and values of chosen rows, ending in the last of `columns`.

        Args:
            rows: int32 numbers.
            used: columns in use.
            columns: of the result; zeros stand before what is shorter.
        """
        begin = max(0, used - columns)
        cut = [array[:, :, begin:used][rows] for array in self.arrays]
        return [mx.pad(x, [(0, 0), (0, 0), (columns - x.shape[2], 0), (0, 0)]) for x in cut]


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
        self._recent = rows if rows.shape[1] <= self._kept + TRIMMABLE else None
        self._look_back_from(rows, rows.shape[1])
        return rows

    def step(self, window: Window) -> None:
        """Take the window behind one more row."""
        self.window, self._recent = window, None

    def can_trim(self, count: int) -> bool:
        """Whether the last `count` rows can be forgotten: all of them came in the last update."""
        return self._recent is not None and count <= self._recent.shape[1] - self._kept

    def trim(self, count: int) -> None:
        """Forget the last `count` rows; see `can_trim`."""
        assert self._recent is not None
        self._recent = self._recent[:, : self._recent.shape[1] - count]
        self._look_back_from(self._recent, self._recent.shape[1])

    def _look_back_from(self, rows: mx.array, end: int) -> None:
        # Copies: views would keep the whole prompt's rows alive.
        self.window = tuple(mx.contiguous(rows[:, i]) for i in range(end - self._kept, end))

    @property
    def arrays(self) -> list[mx.array]:
        return list(self.window)


class Cache:
    """What one sequence, or a batch of them, leaves behind.

    Attributes:
        layers: the part of every decoder layer.
        offset: columns in use.
        starts: first column of every row; empty when all start in column 0.
    """

    def __init__(self, layer_types: Sequence[str], taps: int) -> None:
        self._layer_types, self._taps = tuple(layer_types), taps
        self.layers: list[KeyValueCache | ConvCache] = [
            KeyValueCache() if kind == "full_attention" else ConvCache(taps) for kind in layer_types
        ]
        self.offset = 0
        self.starts: list[int] = []

    def place(self, length: int) -> Place:
        """Make room for the next `length` positions; returns where they stand."""
        column = self.offset
        self.offset += length
        if not self.starts:
            return Place(column, column)
        starts = mx.array(self.starts)
        visible = mx.arange(self.offset) >= starts[:, None]
        return Place(column, column - starts, visible[:, None, None])

    def can_trim(self, count: int) -> bool:
        """Whether the last `count` positions can be taken back."""
        layers = [layer for layer in self.layers if isinstance(layer, ConvCache)]
        return count == 0 or (
            0 < count <= self.offset and all(layer.can_trim(count) for layer in layers)
        )

    def trim(self, count: int) -> None:
        """Take back the last `count` positions, of at most `TRIMMABLE` that came in one step.

        Keys and values stay where they are: nothing looks at them, and the next ones replace them.

        Raises:
            ValueError: the convolutions no longer know what was before.
        """
        if not self.can_trim(count):
            raise ValueError(f"the last {count} of {self.offset} positions cannot be taken back")
        self.offset -= count
        for layer in self.layers:
            if count and isinstance(layer, ConvCache):
                layer.trim(count)

    def fork(self) -> "Cache":
        """A second cache that goes on from here by itself.

        The two share their memory until one of them writes: that one then copies.
        """
        forked = Cache(self._layer_types, self._taps)
        forked.offset, forked.starts = self.offset, list(self.starts)
        for own, other in zip(self.layers, forked.layers, strict=True):
            if isinstance(own, ConvCache):
                assert isinstance(other, ConvCache)
                other.window = own.window  # never written in place
            else:
                assert isinstance(other, KeyValueCache)
                other.arrays = [array[...] for array in own.arrays]
        return forked

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> "Cache":
        """A batch of chosen rows of other caches, in this order, which go on by themselves."""
        first = parts[0].cache
        lengths = [length for part in parts for length in part.lengths]
        joined = cls(first._layer_types, first._taps)
        joined.offset = max(lengths)
        if min(lengths) < joined.offset:
            joined.starts = [joined.offset - length for length in lengths]
        chosen = [(part.cache, mx.array(list(part.numbers))) for part in parts]
        for i, layer in enumerate(joined.layers):
            taken: list[list[mx.array]] = []
            for cache, rows in chosen:
                own = cache.layers[i]
                if isinstance(own, ConvCache):
                    taken.append([row[rows] for row in own.window])
                else:
                    taken.append(own.taken(rows, cache.offset, joined.offset))
            arrays = [mx.concatenate(list(same)) for same in zip(*taken, strict=True)]
            if isinstance(layer, ConvCache):
                layer.window = tuple(arrays)
            else:
                layer.arrays = arrays
        return joined

    @property
    def state(self) -> dict[str, mx.array]:
        """Everything that is remembered, as `mx.save_safetensors` takes it.

        Returns:
            "0.keys" and "0.values", (B, H, offset, D), of an attention layer 0; "1.window.0" and
            so on, (B, C), of a convolution. Empty for a cache that has read nothing.
        """
        state: dict[str, mx.array] = {}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, ConvCache):
                state |= {f"{i}.window.{k}": row for k, row in enumerate(layer.window)}
            elif layer.arrays:
                keys, values = (array[:, :, : self.offset] for array in layer.arrays)
                state |= {f"{i}.keys": keys, f"{i}.values": values}
        return state

    @property
    def meta_state(self) -> dict[str, str]:
        """What `from_state` needs beside the arrays, as metadata of a safetensors file."""
        return {
            "layer_types": json.dumps(self._layer_types),
            "taps": str(self._taps),
            "offset": str(self.offset),
            "starts": json.dumps(self.starts),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, mx.array], meta_state: Mapping[str, str]) -> "Cache":
        """The cache that another process has written down.

        Raises:
            ValueError: the two do not belong together.
        """
        try:
            cache = cls(json.loads(meta_state["layer_types"]), int(meta_state["taps"]))
            cache.offset = int(meta_state["offset"])
            cache.starts = [int(start) for start in json.loads(meta_state["starts"])]
            for i, layer in enumerate(cache.layers if cache.offset else ()):
                if isinstance(layer, ConvCache):
                    layer.window = tuple(state[f"{i}.window.{k}"] for k in range(cache._taps - 1))
                else:
                    layer.arrays = [state[f"{i}.keys"][...], state[f"{i}.values"][...]]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no cache: {error}") from None
        if len(state) != len(cache.arrays) or any(
            array.shape[2] != cache.offset
            for layer in cache.layers
            if isinstance(layer, KeyValueCache)
            for array in layer.arrays
        ):
            raise ValueError("the arrays of the cache are not those its description names")
        return cache

    @property
    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation and for counting bytes."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)
