"""Keys and values of one attention layer, as they are or quantized.

- Both kinds hold arrays of (B, heads, columns, ...) that are written in place, so that a cache
  forks, joins, trims and saves them alike.
- The quantized kind takes 9 bits per number instead of 16, or 5. Every position is quantized when
  it is written, and read back even by its own step, so that all readings see the same keys.
- Scales and biases are float32. In bfloat16 their rounding would exceed the error of 8-bit codes.
- One position attends to the codes themselves, by two quantized products, which read half the
  bytes. Several positions attend to a dequantized copy with the fused kernel, which writes no
  scores to memory. The copy is of one layer at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..errors import InputError

BLOCK = 256  # columns added at a time; growing by one would copy the cache at every token
GROUPS = (64, 32)  # numbers that share a scale and a bias: as few scales as the head size allows


@dataclass(frozen=True)
class Packed:
    """Quantized keys or values.

    Attributes:
        codes: (B, K, S, D * bits / 32) uint32.
        scales: (B, K, S, D / group) float32.
        biases: (B, K, S, D / group) float32.
        bits: of each number.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    bits: int

    def dequantized(self) -> mx.array:
        """Return (B, K, S, D) float32."""
        return mx.dequantize(
            self.codes, self.scales, self.biases, group_size=self._group, bits=self.bits
        )

    def product(self, x: mx.array, *, transpose: bool) -> mx.array:
        """Return x @ this, or x @ this transposed; x is (B, K, rows, ...) float32."""
        return mx.quantized_matmul(
            x,
            self.codes,
            self.scales,
            self.biases,
            transpose=transpose,
            group_size=self._group,
            bits=self.bits,
        )

    @property
    def _group(self) -> int:
        return self.codes.shape[-1] * 32 // self.bits // self.scales.shape[-1]


KeysValues = tuple[mx.array, mx.array] | tuple[Packed, Packed]


class KeyValueCache:
    """Keys and values of one attention layer.

    Attributes:
        arrays: empty at first, then keys and values, (B, H, columns, D) each. There may be more
            columns than are in use.
    """

    names = ("keys", "values")  # of `arrays`, in a saved cache

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self._writes = True

    def update(self, keys: mx.array, values: mx.array, column: int | Sequence[int]) -> KeysValues:
        """Store keys and values from `column` on and return all up to their end.

        Args:
            keys: (B, H, L, D), after RoPE.
            values: (B, H, L, D).
            column: of the first new position, one for all rows or one each; later columns are
                overwritten.

        Returns:
            Keys and values, (B, H, S, D) each, up to the last new position of any row.
        """
        end = (column if isinstance(column, int) else max(column)) + keys.shape[2]
        if self._writes:
            new = self._encoded(keys, values)
            capacity = self.arrays[0].shape[2] if self.arrays else 0
            if end > capacity:
                self._grow(-(-(end - capacity) // BLOCK) * BLOCK, new)
            if isinstance(column, int):
                for array, part in zip(self.arrays, new, strict=True):
                    array[:, :, column:end] = part
            else:
                self._write_rows(new, column)
        return self._decoded([array[:, :, :end] for array in self.arrays])

    def rereading(self) -> "KeyValueCache":
        """Return the same keys and values for a second reading of positions that they hold.

        Its `update` returns what is stored and drops what it is given.
        """
        again = self.fork()
        again.arrays, again._writes = self.arrays, False
        return again

    def fork(self) -> "KeyValueCache":
        """Return a second one that shares memory until one of them is written."""
        other = self._empty()
        other.arrays = [array[...] for array in self.arrays]
        return other

    def taken(self, rows: mx.array, ends: Sequence[int], columns: int) -> list[mx.array]:
        """Return copies of the keys and values of some rows, aligned at the last column.

        Args:
            rows: int32 indices.
            ends: the column after the last one of each of these sequences.
            columns: of the result, at least as many as the longest of these sequences. If there are
                more, the first ones hold anything finite.

        Returns:
            As `arrays`, with (len(rows), H, columns, ...).
        """
        used = max(ends)
        if min(ends) < used:
            places = mx.array(list(ends))[:, None] + mx.arange(-columns, 0)
            places = mx.maximum(places, 0)[:, None, :, None]
            return [mx.take_along_axis(array[rows], places, axis=2) for array in self.arrays]
        begin = max(0, used - columns)
        cut = [array[:, :, begin:used][rows] for array in self.arrays]
        return [mx.pad(x, [(0, 0), (0, 0), (columns - x.shape[2], 0), (0, 0)]) for x in cut]

    def fits(self, batch: int, columns: int) -> bool:
        """Return whether the arrays are of so many sequences and columns."""
        return all(
            array.ndim == 4 and (array.shape[0], array.shape[2]) == (batch, columns)
            for array in self.arrays
        ) and self._fit_together(self.arrays)

    def _write_rows(self, new: list[mx.array], columns: Sequence[int]) -> None:
        """Write the new positions of each row from a column of its own on."""
        places = mx.array(list(columns))[:, None] + mx.arange(new[0].shape[2])
        self.arrays = [
            mx.put_along_axis(
                array, mx.broadcast_to(places[:, None, :, None], part.shape), part, axis=2
            )
            for array, part in zip(self.arrays, new, strict=True)
        ]

    def _grow(self, columns: int, like: list[mx.array]) -> None:
        old = [[array] for array in self.arrays] or [[] for _ in like]
        self.arrays = [
            # Each has its own zeros: shared ones could not be written in place.
            mx.concatenate(
                [*parts, mx.zeros((*new.shape[:2], columns, new.shape[3]), new.dtype)], 2
            )
            for parts, new in zip(old, like, strict=True)
        ]

    def _empty(self) -> "KeyValueCache":
        return KeyValueCache()

    def _encoded(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        return [keys, values]

    def _decoded(self, arrays: list[mx.array]) -> KeysValues:
        keys, values = arrays
        return keys, values

    def _fit_together(self, arrays: list[mx.array]) -> bool:
        return len({array.shape for array in arrays}) <= 1  # keys are as large as values


class QuantizedKeyValueCache(KeyValueCache):
    """Keys and values in 4 or 8 bits per number, and a scale and a bias per group of them.

    Attributes:
        arrays: empty at first, then codes, scales and biases as in `Packed`. Keys are in the first
            half of the heads, values in the second, so that one call quantizes both.
    """

    names = ("codes", "scales", "biases")

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._bits = bits

    def _empty(self) -> KeyValueCache:
        return QuantizedKeyValueCache(self._bits)

    def _encoded(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        both = mx.concatenate([keys, values], axis=1).astype(mx.float32)
        return list(mx.quantize(both, group_size=group_of(keys.shape[-1]), bits=self._bits))

    def _decoded(self, arrays: list[mx.array]) -> KeysValues:
        heads = arrays[0].shape[1] // 2
        keys, values = (
            Packed(*(array[:, part] for array in arrays), bits=self._bits)
            for part in (slice(heads), slice(heads, None))
        )
        return keys, values

    def _fit_together(self, arrays: list[mx.array]) -> bool:
        if not arrays:
            return True
        codes, scales, biases = arrays
        size = codes.shape[3] * 32 // self._bits  # of a head
        return (
            scales.shape == biases.shape
            and (codes.dtype, scales.dtype, biases.dtype) == (mx.uint32, mx.float32, mx.float32)
            and codes.shape[1] == scales.shape[1]
            and codes.shape[1] % 2 == 0
            and any(size == group * scales.shape[3] for group in GROUPS)
        )


def group_of(head_dim: int) -> int:
    """Return how many numbers of a head of this size share a scale.

    Raises:
        InputError: heads of this size cannot be quantized.
    """
    for group in GROUPS:
        if head_dim % group == 0:
            return group
    raise InputError(
        f"kv_bits needs heads whose size is a multiple of {GROUPS[-1]}; this model's is {head_dim}"
    )
