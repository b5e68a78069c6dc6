"""The safetensors files of a checkpoint: which there are, their headers and their layout."""

import itertools
import json
import logging
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .json_file import MAX_INTEGER, read_json, shown
from .names import some
from .plain_file import plain_file

logger = logging.getLogger(__name__)

# The largest checkpoint of the family has 0.1 MB and 1,000 entries.
MAX_HEADER_BYTES, MAX_ENTRIES = 16 * 2**20, 50_000
MAX_DIMENSIONS = 8
MAX_NAME = 255  # bytes of a file's name
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16}
BITS |= {"F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MLX_PREFIXES = ("language_model.model.", "vision_tower.", "model.layers.")  # not on the Hub's
WRITER_KEY = "mlx_lfm2vl"  # metadata of files written by this package


@dataclass(frozen=True)
class Layout:
    """How a checkpoint was written."""

    is_mlx: bool  # names and convolution weights as in mlx-vlm, not as in transformers
    is_ours: bool  # written by this package


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # of its data in the file, in bytes


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up a checkpoint, sorted by name.

    Raises:
        CheckpointError: there are none, or the index is broken or names a missing file.
    """
    if (folder / INDEX).exists():
        names = set(_weight_map(folder).values())
        if SINGLE not in names and (folder / SINGLE).exists():
            # Also what transformers reads. The index is left over from the model's source.
            logger.warning("%s is read, not the files that %s names", SINGLE, INDEX)
            return [folder / SINGLE]
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise CheckpointError(
                f"{folder} lacks {some(missing)}, named in {INDEX}; download it again"
            )
        return [folder / name for name in sorted(names)]
    files = [path for path in _safetensors(folder) if "adapter" not in path.name]
    if not files:
        others = [p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".gguf")]
        hint = f"; {others[0]} is not read, only safetensors files" if others else ""
        raise CheckpointError(f"{folder} has no weights (*.safetensors){hint}")
    return files


def _safetensors(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, without the `._` files of macOS on foreign disks."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX} has no weight_map")
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
            or len(name.encode()) > MAX_NAME
            or not name.isprintable()
        ):
            raise CheckpointError(
                f"{folder / INDEX} names {shown(name)}, expected a file in the folder"
            )
    return weight_map


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read the header of a safetensors file.

    Returns:
        The entry of each tensor by name, and the file's metadata.

    Raises:
        CheckpointError: the file cannot be read, is not safetensors, or is shorter than its header
            says.
    """
    try:
        real = plain_file(path)
        size = real.stat().st_size
        with real.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size):
                raise ValueError
            header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", None) or {}
        if len(header) > MAX_ENTRIES or not isinstance(metadata, dict):
            raise ValueError
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError
        entries = {name: _checked_entry(entry) for name, entry in header.items()}
        spans = sorted(span for _, _, span in entries.values())
        if any(first < last for (_, last), (first, _) in itertools.pairwise(spans)):
            raise ValueError  # two tensors share bytes, which the format does not allow
        end = spans[-1][1] if spans else 0
        tensors = {
            name: TensorInfo(dtype, shape, 8 + length + first)
            for name, (dtype, shape, (first, _)) in entries.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is not a safetensors file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if 8 + length + end > size:
        raise CheckpointError(
            f"{path} is cut off: it has {size} of {8 + length + end} bytes; download it again"
        )
    return tensors, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # readers disagree about which one counts
        raise ValueError
    return values


def _checked_entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Return an entry's dtype, shape and span of bytes; raise ValueError if they do not agree."""
    dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, first, last)
    if type(dtype) is not str or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError
    if len(shape) > MAX_DIMENSIONS or max(shape, default=0) > MAX_INTEGER:
        raise ValueError
    # What another dtype takes is MLX's to know, which refuses those it does not know.
    if dtype in BITS and (last - first) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError
    return dtype, shape, (first, last)


def detect_layout(folder: Path) -> Layout:
    """Tell MLX checkpoints from those of transformers by their tensor names.

    Names are taken from the index, which MLX conversions always have, so this also works on a
    folder without weights (`--plan`). Without an index, the first file's header counts. Without
    either, the layout is that of transformers.

    Raises:
        CheckpointError: the index or the header cannot be read.
    """
    metadata: object = None
    weight_map = _weight_map(folder) if (folder / INDEX).exists() else {}
    names = set(weight_map)
    if weight_map and (SINGLE in weight_map.values() or not (folder / SINGLE).exists()):
        metadata = read_json(folder / INDEX).get("metadata")
    else:
        single = [folder / SINGLE] if (folder / SINGLE).exists() else _safetensors(folder)
        for path in single[:1]:
            entries, metadata = read_header(path)
            names = set(entries)
    is_mlx = any(name.startswith(MLX_PREFIXES) for name in names)
    is_ours = isinstance(metadata, dict) and WRITER_KEY in metadata
    return Layout(is_mlx=is_mlx, is_ours=is_ours)
