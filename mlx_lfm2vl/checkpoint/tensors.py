"""The safetensors files of a checkpoint: which there are, their headers and their layout."""

import json
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .json_file import read_json
from .names import some

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 100 * 2**20
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
        ):
            raise CheckpointError(f"{folder / INDEX} names {name!r}, expected a file in the folder")
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
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size):
                raise CheckpointError(f"{path} is not a safetensors file")
            header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {
            name: TensorInfo(
                entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{path} is not a safetensors file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if 8 + length + end > size:
        raise CheckpointError(
            f"{path} is cut off: it has {size} of {8 + length + end} bytes; download it again"
        )
    return tensors, metadata


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
