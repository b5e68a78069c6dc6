"""Writing a model as a checkpoint folder in MLX layout: whole, or not at all."""

import json
import shutil
from pathlib import Path

import mlx.core as mx

from . import __version__
from .arrays import dtype_name, named_arrays
from .checkpoint.image_config import ImageConfig, read_image_config
from .checkpoint.json_file import read_json, read_optional_json
from .checkpoint.names import mlx_name
from .checkpoint.tensors import INDEX, WRITER_KEY
from .model.lfm2vl import Lfm2VL
from .whole_folder import new_folder

REPORT = "quantization_report.json"  # describes one set of weights, not those made from it
COPIED = ("*.json", "*.jinja", "LICENSE*")


def save_checkpoint(model: Lfm2VL, source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write the model's weights with the small files of the checkpoint it came from.

    Args:
        model: without adapter layers; quantized or not.
        source: checkpoint folder whose configuration, processor and tokenizer files are copied.
        target: new folder.
        overwrite: replace an existing folder.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    with new_folder(target, overwrite=overwrite) as folder:
        copy_small_files(source, folder)
        write_weights(model, folder)
        _settle_config(model, folder / "config.json")
        settle_tiling(model.image_config, folder)


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy the configuration, processor and tokenizer files and the licence of a checkpoint.

    The index and the quantization report stay behind: they describe the old weights.
    """
    for pattern in COPIED:
        for path in source.glob(pattern):
            if path.name not in (INDEX, REPORT):
                shutil.copyfile(path, folder / path.name)


def write_weights(model: Lfm2VL, folder: Path) -> None:
    """Write `model.safetensors` and its index, under the names mlx-vlm uses."""
    weights = {mlx_name(k): v for k, v in named_arrays(model.parameters()).items()}
    mx.save_safetensors(
        str(folder / "model.safetensors"), weights, {"format": "mlx", WRITER_KEY: __version__}
    )
    index = {
        "metadata": {
            "total_size": sum(value.nbytes for value in weights.values()),
            WRITER_KEY: __version__,
        },
        "weight_map": dict.fromkeys(sorted(weights), "model.safetensors"),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def settle_tiling(config: ImageConfig, folder: Path) -> None:
    """Write the tiling in use to the processor's settings, if the copied files have another."""
    flags = {
        "do_image_splitting": config.do_image_splitting,
        "use_thumbnail": config.use_thumbnail,
    }
    written = read_image_config(folder)
    if all(getattr(written, name) == value for name, value in flags.items()):
        return
    path = folder / "processor_config.json"
    values = read_optional_json(path)
    values.get("image_processor", values).update(flags)
    path.write_text(json.dumps(values, indent=2) + "\n")


def _settle_config(model: Lfm2VL, path: Path) -> None:
    """Set the type of the weights, and drop the quantization settings if no layer is quantized."""
    parameters, config = named_arrays(model.parameters()), read_json(path)
    dtype = parameters["language_model.embedding_norm.weight"].dtype
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype_name(dtype)
    if not any(name.endswith(".scales") for name in parameters):
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
