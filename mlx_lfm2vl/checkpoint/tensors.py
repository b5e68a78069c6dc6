"""The safetensors files of a checkpoint: which there are, their headers and their layout."""

import itertools
import json
import logging
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .foreign import LONGEST, other_kind
from .json_file import MAX_INTEGER, read_json, shown
from .names import some
from .plain_file import plain_file
from .redownload import download_again

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
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".safetensors")
TRAINING_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "random_states", "training_args")
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

    As for transformers, `model.safetensors` comes before an index that does not name it.

    Raises:
        CheckpointError: there are none, or the index is broken or names a missing file.
    """
    found = [path.name for path in _safetensors(folder)]
    expected = expected_weights(folder, found)
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        which = "all" if len(missing) == len(expected) else f"{missing[0]}{more} of the"
        raise CheckpointError(
            f"{folder} lacks {which} {len(expected)} files that {INDEX} names; "
            f"{download_again(folder, *missing)}"
        )
    if not expected:
        raise CheckpointError(
            f"{folder} has no weights (*.safetensors); {_hint(folder) or download_again(folder)}"
        )
    unread = [name for name in found if name not in expected]
    if (folder / INDEX).exists() and expected != _named(folder):
        unread.append(f"the files that {INDEX} names")
    if unread:
        logger.warning("%s is read, not %s", some(expected), some(unread))
    return [folder / name for name in expected]


def expected_weights(folder: Path, names: Collection[str]) -> list[str]:
    """Return which files hold a checkpoint's weights, whether they are there yet or not.

    Args:
        folder: holds the index, if the checkpoint has one.
        names: of all files that the checkpoint has.

    Raises:
        CheckpointError: the index is broken.
    """
    # macOS puts `._` files on foreign disks.
    found = sorted(n for n in names if n.endswith(".safetensors") and not n.startswith("."))
    named = _named(folder)
    lacking = [name for name in named if name not in found]
    if named and not lacking and (SINGLE in named or SINGLE not in found):
        return named
    if SINGLE in found:
        return [SINGLE]
    if len(lacking) < len(named):
        return named
    # There is no index, or it was left over from the model's source.
    whole = [name for name in found if name.startswith("model")]
    return whole or [name for name in found if not _is_state(name)] or named


def _named(folder: Path) -> list[str]:
    """Return the files that the index names; none if there is no index."""
    return sorted(set(_weight_map(folder).values())) if (folder / INDEX).exists() else []


def _is_state(name: str) -> bool:
    """Whether a file is an adapter, or what a training run left, by its name."""
    return "adapter" in name or name.startswith(TRAINING_STATE)


def _hint(folder: Path) -> str:
    """Return what a folder without weights has instead, for a message."""
    files = sorted(path.name for path in folder.glob("[!.]*") if path.suffix in OTHER_WEIGHTS)
    adapter = next((name for name in files if "adapter" in name), None)
    if adapter:
        return f"{adapter} is an adapter: give its folder with --adapter, and its model"
    other = next(iter(sorted(files, key=_is_state)), None)
    return f"{other} is not read, only safetensors files" if other else ""


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
        real = plain_file(path, is_weights=True)
        size = real.stat().st_size
        with real.open("rb") as file:
            if kind := other_kind(file.read(LONGEST)):
                raise CheckpointError(f"{path} {kind}")
            file.seek(0)
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
        again = download_again(path.parent, path.name)
        raise CheckpointError(f"{path} is not a safetensors file; {again}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if 8 + length + end > size:
        raise CheckpointError(
            f"{path} is cut off: it has {size} of {8 + length + end} bytes; "
            f"{download_again(path.parent, path.name)}"
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
    found = [path.name for path in _safetensors(folder)]
    expected = expected_weights(folder, found)
    files = [folder / name for name in expected] if set(expected) <= set(found) else []
    if weight_map and (not files or {path.name for path in files} == set(weight_map.values())):
        metadata = read_json(folder / INDEX).get("metadata")
    elif files:
        entries, metadata = read_header(files[0])
        names = set(entries)
    is_mlx = any(name.startswith(MLX_PREFIXES) for name in names)
    is_ours = isinstance(metadata, dict) and WRITER_KEY in metadata
    return Layout(is_mlx=is_mlx, is_ours=is_ours)
