"""The decoder's memory of the sequences it has read, with one part per layer.

- An attention layer keeps the keys and values of all positions; see `key_values`.
- A short convolution keeps a window, its last inputs; see `conv_window`.
- The sequences of a batch first end in the same column: shorter ones start in a later one. If a
  step is trimmed by another number of positions in each row, they end in different columns. The
  next step writes each row behind its own end. Columns that are not of a row's sequence are masked.
- A cache does not know which tokens it has read, nor the weights that read them.
- No layer looks at columns from `offset` on, so `trim` need not clear them.
- A fork and its original never change each other. They share memory until one of them writes.
- A window has no history, so `trim` undoes only positions of the last step. A prefill, a
  `DecodeStep` or a fork leaves nothing to trim. `rewind.rewind` goes back to any position.
- `state` and `meta_state` hold everything that `from_state` needs to continue in another process.
  These names and `trim` are those of mlx-lm's prompt caches.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from ..options import KV_BITS
from .attention import Visible
from .conv_window import TRIMMABLE, ConvCache, Window
from .key_values import KeyValueCache, QuantizedKeyValueCache


@dataclass(frozen=True)
class Place:
    """Where the new positions of one step belong.

    Attributes:
        column: cache column of the first new position: one for all rows of a batch, or one each.
        offset: number of that position in its sequence, for RoPE: one for all rows, or (B,) int32.
        visible: the columns that each new position sees, with its own; None for all up to its own.
    """

    column: int | Sequence[int] = 0
    offset: int | mx.array = 0
    visible: Visible | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of a batch that will continue in another one.

    Attributes:
        cache: that holds the rows.
        numbers: indices of the rows.
    """

    cache: "Cache"
    numbers: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Number of positions in each row's sequence."""
        starts = self.cache.starts
        return [
            end - (starts[n] if starts else 0)
            for n, end in zip(self.numbers, self.ends, strict=True)
        ]

    @property
    def ends(self) -> list[int]:
        """The column after the last one of each row's sequence."""
        ends = self.cache.ends
        return [ends[n] if ends else self.cache.offset for n in self.numbers]


class Cache:
    """The decoder's memory of one sequence or of a batch.

    Attributes:
        layers: the part of each decoder layer.
        offset: columns in use.
        starts: first column of each row's sequence; empty if all start in column 0.
        ends: column after the last one of each row's sequence; empty if all end at `offset`.
        kv_bits: of keys and values; 0 keeps them as they are.
    """

    def __init__(self, layer_types: Sequence[str], taps: int, kv_bits: int = 0) -> None:
        self._layer_types, self._taps, self.kv_bits = tuple(layer_types), taps, kv_bits

        def attention() -> KeyValueCache:
            return QuantizedKeyValueCache(kv_bits) if kv_bits else KeyValueCache()

        self.layers: list[KeyValueCache | ConvCache] = [
            attention() if kind == "full_attention" else ConvCache(taps) for kind in layer_types
        ]
        self.offset = 0
        self.starts: list[int] = []
        self.ends: list[int] = []

    def place(self, length: int) -> Place:
        """Advance by `length` positions and return where they belong."""
        column, columns = self.offset, self.ends
        self.offset += length
        self.ends = [end + length for end in columns]
        if not self.starts and not columns:
            return Place(column, column)
        starts = mx.array(self.starts or [0] * len(columns))
        begins = mx.array(columns or [column] * len(self.starts))
        numbers = mx.arange(self.offset)
        visible = (numbers >= starts[:, None])[:, None]
        if columns or length > 1:
            own = begins[:, None] + mx.arange(length)
            visible = visible & (numbers <= own[..., None])
        return Place(columns or column, begins - starts, Visible(visible[:, None]))

    def can_trim(self, count: int) -> bool:
        """Return whether the last `count` positions can be trimmed."""
        layers = [layer for layer in self.layers if isinstance(layer, ConvCache)]
        return count == 0 or (
            0 < count <= self.offset and all(layer.can_trim(count) for layer in layers)
        )

    def trim(self, count: int) -> None:
        """Remove the last `count` positions.

        They must all come from the last step, which may have read at most `TRIMMABLE` positions.
        Their keys and values stay in the buffers, unused, until new ones replace them.

        Raises:
            ValueError: a convolution no longer has the inputs before these positions.
        """
        if not self.can_trim(count):
            raise ValueError(
                f"the last {count} of {self.offset} positions cannot be trimmed, only positions of "
                f"the last step, if that read at most {TRIMMABLE}"
            )
        self.offset -= count
        for layer in self.layers:
            if count and isinstance(layer, ConvCache):
                layer.trim(count)

    def trim_rows(self, counts: Sequence[int]) -> None:
        """Remove the last positions of the last step, as many as given for each row of the batch.

        The step may have read at most `TRIMMABLE` positions.
        """
        if not any(counts):
            return
        ends = self.ends or [self.offset] * len(counts)
        ends = [end - count for end, count in zip(ends, counts, strict=True)]
        self.offset = max(ends)
        self.ends = ends if min(ends) < self.offset else []
        for layer in self.layers:
            if isinstance(layer, ConvCache):
                layer.trim_rows(counts)

    def settle(self) -> None:
        """Make it impossible to trim the last step."""
        for layer in self.layers:
            if isinstance(layer, ConvCache):
                layer.step(layer.window)

    @property
    def windows(self) -> list[Window]:
        """The window of every convolution. With them, `back` returns to this position."""
        return [layer.window for layer in self.layers if isinstance(layer, ConvCache)]

    def back(self, to: int, windows: Sequence[Window]) -> None:
        """Return to an earlier position, in all rows of a batch by equally many.

        Args:
            to: the position, at most `offset`.
            windows: that the convolutions had there.
        """
        if not 0 <= to <= self.offset:
            raise ValueError(f"cannot go back from position {self.offset} to {to}")
        self.ends = [end - (self.offset - to) for end in self.ends]
        self.offset = to
        layers = [layer for layer in self.layers if isinstance(layer, ConvCache)]
        for layer, window in zip(layers, windows, strict=True):
            layer.step(window)

    def reread(self, begin: int) -> "Cache":
        """Return a cache in which positions from `begin` on can be read again.

        Attention uses this cache's keys and values and writes none. The windows begin empty.
        """
        again = Cache(self._layer_types, self._taps, self.kv_bits)
        again.offset = begin
        for i, layer in enumerate(self.layers):
            if isinstance(layer, KeyValueCache):
                again.layers[i] = layer.rereading()
        return again

    def fork(self) -> "Cache":
        """Return a second cache that continues from here independently.

        The two share their memory until one of them writes; it copies the arrays first.
        """
        forked = Cache(self._layer_types, self._taps, self.kv_bits)
        forked.offset, forked.starts = self.offset, list(self.starts)
        forked.ends = list(self.ends)
        for i, (own, other) in enumerate(zip(self.layers, forked.layers, strict=True)):
            if isinstance(own, ConvCache):
                assert isinstance(other, ConvCache)
                other.window = own.window  # never written in place
            else:
                forked.layers[i] = own.fork()
        return forked

    def row(self, number: int) -> "Cache":
        """Return the cache of one row of the batch, which continues independently.

        The only row shares memory as a `fork` does; one of several is copied.
        """
        if not self.starts and not self.ends and self.arrays[0].shape[0] == 1:
            return self.fork()
        return Cache.joined([Rows(self, [number])])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> "Cache":
        """Return the cache of a batch made of rows of other caches, which stay as they are.

        Args:
            parts: rows of caches that have read something, in the order of the new batch. The
                columns of the batch are as many as its longest sequence has positions.
        """
        first = parts[0].cache
        lengths = [length for part in parts for length in part.lengths]
        joined = cls(first._layer_types, first._taps, first.kv_bits)
        joined.offset = max(lengths)
        if min(lengths) < joined.offset:
            joined.starts = [joined.offset - length for length in lengths]
        chosen = [(part.cache, mx.array(list(part.numbers)), part.ends) for part in parts]
        for i, layer in enumerate(joined.layers):
            taken: list[list[mx.array]] = []
            for cache, rows, ends in chosen:
                own = cache.layers[i]
                if isinstance(own, ConvCache):
                    taken.append([row[rows] for row in own.window])
                else:
                    taken.append(own.taken(rows, ends, joined.offset))
            arrays = [mx.concatenate(list(same)) for same in zip(*taken, strict=True)]
            if isinstance(layer, ConvCache):
                layer.window = tuple(arrays)
            else:
                layer.arrays = arrays
        return joined

    @property
    def state(self) -> dict[str, mx.array]:
        """All arrays of the cache by name, as `mx.save_safetensors` takes them.

        If layer 0 is an attention, it has "0.keys" and "0.values", (B, H, offset, D) each, or if
        they are quantized "0.codes", "0.scales" and "0.biases". If layer 1 is a convolution, it has
        "1.window.0", "1.window.1" and so on, (B, C) each. A cache that has read nothing has no
        arrays. All rows must end in the same column, as they do in a cache from `joined`.
        """
        assert not self.ends
        state: dict[str, mx.array] = {}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, ConvCache):
                state |= {f"{i}.window.{k}": row for k, row in enumerate(layer.window)}
            elif layer.arrays:
                for name, array in zip(layer.names, layer.arrays, strict=True):
                    state[f"{i}.{name}"] = array[:, :, : self.offset]
        return state

    @property
    def window_names(self) -> list[list[str]]:
        """The names in `state` of every convolution's window, one name per array."""
        return [
            [f"{i}.window.{k}" for k in range(self._taps - 1)]
            for i, layer in enumerate(self.layers)
            if isinstance(layer, ConvCache)
        ]

    @property
    def meta_state(self) -> dict[str, str]:
        """What `from_state` needs in addition to the arrays, as metadata of a safetensors file."""
        return {
            "layer_types": json.dumps(self._layer_types),
            "taps": str(self._taps),
            "offset": str(self.offset),
            "starts": json.dumps(self.starts),
            "kv_bits": str(self.kv_bits),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, mx.array], meta_state: Mapping[str, str]) -> "Cache":
        """Restore a cache, for example one that another process has saved.

        Args:
            state: from `state`.
            meta_state: from `meta_state` of the same cache.

        Raises:
            ValueError: the two do not belong together, or are not of a cache.
        """
        try:
            layer_types, starts = (
                json.loads(meta_state[name]) for name in ("layer_types", "starts")
            )
            taps, offset = (int(meta_state[name]) for name in ("taps", "offset"))
            kv_bits = int(meta_state.get("kv_bits", "0"))
            _check_meta(layer_types, taps, offset, starts, kv_bits)
            cache = cls(layer_types, taps, kv_bits)
            cache.offset, cache.starts = offset, starts
            for i, layer in enumerate(cache.layers if offset else ()):
                if isinstance(layer, ConvCache):
                    layer.window = tuple(state[f"{i}.window.{k}"] for k in range(taps - 1))
                else:
                    layer.arrays = [state[f"{i}.{name}"][...] for name in layer.names]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"this is not a saved cache: {error!r}") from None
        if len(state) != len(cache.arrays) or not cache._fits_together():
            raise ValueError("the arrays of the saved cache do not match its metadata")
        return cache

    def _fits_together(self) -> bool:
        """Whether all arrays are of one batch that has read `offset` columns."""
        batch = len(self.starts) or next((array.shape[0] for array in self.arrays), 0)
        for layer in self.layers:
            if isinstance(layer, KeyValueCache):
                fits = layer.fits(batch, self.offset)
            else:  # the rows of a window are as large as each other
                shapes = {array.shape for array in layer.arrays}
                fits = len(shapes) <= 1 and all((len(s), s[0]) == (2, batch) for s in shapes)
            if not fits:
                return False
        return True

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays of all layers, to evaluate them or count their bytes."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes, with columns that are not in use."""
        return sum(array.nbytes for array in self.arrays)


def _check_meta(layer_types: object, taps: int, offset: int, starts: object, kv_bits: int) -> None:
    """Check the metadata of a saved cache.

    Raises:
        ValueError: a value cannot be of a cache.
    """
    kinds = cast(list[object], layer_types) if isinstance(layer_types, list) else [None]
    if not set(kinds) <= {"full_attention", "conv"}:
        raise ValueError(f"layer_types is {layer_types!r:.60}")
    if taps < 1 or offset < 0:
        raise ValueError(f"taps is {taps} and offset is {offset}")
    if kv_bits not in KV_BITS:
        raise ValueError(f"kv_bits is {kv_bits}")
    columns = cast(list[object], starts) if isinstance(starts, list) else [None]
    if not all(type(column) is int and 0 <= column < offset for column in columns):
        raise ValueError(f"starts is {starts!r:.60}")
