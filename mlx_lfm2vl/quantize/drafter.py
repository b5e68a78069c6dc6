"""Writing a drafter quantized or cast.

`fc` and the layers are packed, as in the MLX conversions on the Hub. The Markov tables, the
confidence head and the norms keep their type: of the first table a round reads a few rows only.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from .. import __version__
from ..arrays import mlx_dtype, named_arrays, save_arrays
from ..checkpoint.drafter_config import read_drafter_config
from ..checkpoint.json_file import read_json
from ..checkpoint.packing import Scheme
from ..checkpoint.tensors import WRITER_KEY
from ..disk_space import check_space
from ..drafter_loading import open_drafter
from ..errors import CheckpointError, InputError
from ..loading import cast_floats
from ..whole_folder import new_folder
from .conversion import ConvertOptions

GROUP_SIZE = 64  # of the conversions on the Hub


def convert_drafter(source: Path, target: Path, options: ConvertOptions) -> list[str]:
    """Write a drafter in its own layout. Memory holds the whole drafter, which is small.

    Args:
        source: folder of a drafter that is not quantized.
        target: the new folder.
        options: how to quantize the layers, the type of the rest, and whether to overwrite.

    Returns:
        Layers that are not quantized because the group size does not divide their rows.

    Raises:
        InputError: an option does not apply to a drafter, or the target cannot be written.
        CheckpointError: the source is broken or of another kind.
    """
    _check_options(options)
    drafter = open_drafter(source, read_drafter_config(source))
    if any(name.endswith(".scales") for name in named_arrays(drafter.parameters())):
        raise InputError(
            "the drafter is quantized: convert the one that it was made from, in 16 bits"
        )
    values, asked, kept = read_json(source / "config.json"), options.quantize, list[str]()
    if options.dtype:
        dtype = mlx_dtype(options.dtype)
        drafter.update(_cast(drafter.parameters(), dtype))
        values["torch_dtype" if "torch_dtype" in values else "dtype"] = options.dtype
    if asked.bits is not None:
        scheme = Scheme(asked.bits, asked.group_size or GROUP_SIZE, asked.mode)
        kept = _quantize(drafter, scheme)
        values["quantization"] = values["quantization_config"] = asdict(scheme)
    weights = named_arrays(drafter.parameters())
    check_space(target, sum(value.nbytes for value in weights.values()))
    with new_folder(target, overwrite=options.overwrite) as folder:
        metadata = {"format": "mlx", WRITER_KEY: __version__}
        try:
            save_arrays(folder / "model.safetensors", weights, metadata)
        except RuntimeError as error:
            raise CheckpointError(f"{source} cannot be converted: {error}") from None
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        _compare(open_drafter(folder, read_drafter_config(folder)), weights, target)
    return kept


def _check_options(options: ConvertOptions) -> None:
    """Refuse what makes sense for a model only."""
    asked = options.quantize
    given = {
        "--recipe": asked.recipe,
        "--embed-bits": asked.embed_bits,
        "--vision-bits": asked.vision_bits,
        "--connector-bits": asked.connector_bits,
        "--text-only": options.text_only,
        "--layout hub": options.layout != "mlx",
        "--dequantize": options.dequantize,
    }
    for name, value in given.items():
        if value:
            raise InputError(f"{name} does not apply to a drafter: remove it")


def _cast(values: Any, dtype: mx.Dtype) -> Any:
    return tree_map(lambda value: cast_floats(value, dtype), values)


def _quantize(drafter: nn.Module, scheme: Scheme) -> list[str]:
    """Pack `fc` and the layers; return what is kept because no whole groups fit."""
    kept: list[str] = []

    def fits(path: str, module: nn.Module) -> bool:
        if not isinstance(module, nn.Linear) or not path.startswith(("layers.", "fc")):
            return False
        if module.weight.shape[-1] % scheme.group_size:
            kept.append(path)
            return False
        return True

    nn.quantize(drafter, scheme.group_size, scheme.bits, mode=scheme.mode, class_predicate=fits)
    if not any(name.endswith(".scales") for name in named_arrays(drafter.parameters())):
        raise InputError(
            f"no layer of this drafter has rows of whole groups of {scheme.group_size}: "
            "take a smaller --group-size"
        )
    return kept


def _compare(written: nn.Module, weights: dict[str, mx.array], target: Path) -> None:
    """Check that what was written reads back.

    Raises:
        CheckpointError: it does not.
    """
    for name, value in named_arrays(written.parameters()).items():
        if not mx.array_equal(value, weights[name]).item():
            raise CheckpointError(f"{target}: {name} is not what was written")
