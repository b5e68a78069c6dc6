"""Write safetensors shards tensor by tensor: memory holds two tensors, never a whole shard.

`checkpoint.tensors` reads them.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..checkpoint.tensors import INDEX, read_header
from ..errors import CheckpointError

DTYPE_NAMES = {  # what safetensors calls the types that occur in checkpoints
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "U8",
}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}


@dataclass(frozen=True)
class Entry:
    """One tensor to write."""

    name: str
    dtype: str  # one of safetensors' names
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def plan_shards(groups: Sequence[Sequence[Entry]], max_bytes: int) -> list[list[Entry]]:
    """Distribute tensors over files, in order; the tensors of a group stay in one file.

    Args:
        groups: tensors that belong together, such as a packed weight and its scales.
        max_bytes: most bytes of tensors in a file; a larger group gets its own file.
    """
    shards: list[list[Entry]] = [[]]
    room = max_bytes
    for group in groups:
        size = sum(entry.nbytes for entry in group)
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1] += group
        room -= size
    return shards


def write_shards(
    folder: Path,
    shards: Sequence[Sequence[Entry]],
    arrays: Iterator[mx.array],
    metadata: Mapping[str, str],
) -> dict[str, int]:
    """Write the files and their index.

    Args:
        folder: where to write them.
        shards: the tensors of each file.
        arrays: their values in the same order; each is freed once it is written.
        metadata: written into every file, and into the index except for `format`.

    Returns:
        Name of a tensor -> CRC-32 of its bytes.
    """
    checksums: dict[str, int] = {}
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {entry.name: name for entry in entries}
        with (folder / name).open("wb") as file, ThreadPoolExecutor(1) as writer:
            file.write(_header(entries, metadata))
            written: Future | None = None
            for entry in entries:  # one tensor is written while the next is computed
                data = _bytes(next(arrays), entry)
                if written is not None:
                    written.result()
                written = writer.submit(file.write, data)
                checksums[entry.name] = zlib.crc32(data)
                del data
            if written is not None:
                written.result()
    total = sum(entry.nbytes for entries in shards for entry in entries)
    notes = {key: value for key, value in metadata.items() if key != "format"}
    index = {
        "metadata": {"total_size": total, **notes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return checksums


def verify_shards(
    folder: Path, shards: Sequence[Sequence[Entry]], checksums: Mapping[str, int]
) -> None:
    """Read back everything that was written.

    Args:
        folder: where the files are.
        shards: the planned tensors of each file.
        checksums: what `write_shards` returned.

    Raises:
        CheckpointError: a file does not hold what was planned and written.
    """
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors, _ = read_header(path)
        found |= tensors
        with path.open("rb") as file:
            for name, info in tensors.items():
                file.seek(info.offset)
                data = file.read(prod(info.shape) * ITEM_BYTES[info.dtype])
                if zlib.crc32(data) != checksums.get(name):
                    raise CheckpointError(f"{path.name}: {name} is not what was written")
    planned = {e.name: (e.dtype, e.shape) for entries in shards for e in entries}
    if planned != {name: (info.dtype, info.shape) for name, info in found.items()}:
        raise CheckpointError(f"{folder} does not hold the tensors that were planned")


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """The JSON's length and the JSON, padded so that the data starts at a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        begin, end = end, end + entry.nbytes
        values = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, end]}
        header[entry.name] = values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(value: mx.array, entry: Entry) -> bytes | memoryview:
    """The array's memory, after checking that its type and shape match the header."""
    have = (DTYPE_NAMES.get(value.dtype), value.shape)
    if have != (entry.dtype, entry.shape):
        raise CheckpointError(f"{entry.name} is {have}, expected {(entry.dtype, entry.shape)}")
    flat = mx.contiguous(value).reshape(-1).view(mx.uint8)  # NumPy has no bfloat16
    return np.array(flat, copy=False).data
