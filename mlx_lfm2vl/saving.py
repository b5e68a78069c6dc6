"""Saving a model as a checkpoint folder, completely or not at all."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import __version__
from .arrays import dtype_name, named_arrays, save_arrays
from .checkpoint.config import TIES
from .checkpoint.hub_files import settle_hub_files
from .checkpoint.image_config import ImageConfig, read_image_config
from .checkpoint.json_file import read_json, read_optional_json
from .checkpoint.names import DEPTHWISE, hub_name, mlx_name
from .checkpoint.plain_file import plain_file
from .checkpoint.tensors import INDEX, WRITER_KEY
from .disk_space import check_space
from .errors import CheckpointError
from .model.lfm2vl import Lfm2VL
from .model.packed_layers import unpack
from .whole_folder import new_folder

logger = logging.getLogger(__name__)

REPORT = "quantization_report.json"  # describes one set of weights, so it is never copied
FORMATS = {"mlx": "mlx", "hub": "pt"}  # layout: what transformers expects in the files' metadata
# They describe other weights; transformers would load the base of an adapter instead.
NOT_COPIED = (REPORT, "adapter_config.json", "quantize_config.json", "trainer_state.json")
COPIED = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "LICENSE*")


def save_checkpoint(
    model: Lfm2VL, source: Path, target: Path, *, overwrite: bool = False, layout: str = "mlx"
) -> None:
    """Write the model's weights and the small files of the checkpoint it came from.

    Args:
        model: quantized or not, without adapter layers. In Hub layout its quantized layers are
            unpacked, in place.
        source: checkpoint folder whose configuration, processor and tokenizer files are copied.
        target: folder to write.
        overwrite: replace an existing checkpoint folder.
        layout: "mlx", as mlx-vlm reads it, or "hub", as transformers reads it.

    Raises:
        InputError: the target exists or cannot be written, or its disk has too little free space.
        CheckpointError: a configuration file of the source cannot be read.
    """
    check_space(target, sum(v.nbytes for v in named_arrays(model.parameters()).values()))
    with new_folder(target, overwrite=overwrite) as folder:
        copy_small_files(source, folder)
        if layout == "hub":
            unpack(model, model.language_model.embedding_norm.weight.dtype)
        write_weights(model, folder, layout)
        if layout == "hub":
            dtype = dtype_name(model.language_model.embedding_norm.weight.dtype)
            settle_hub_files(folder, model.config, model.image_config, dtype)
        else:
            _settle_config(model, folder / "config.json")
            settle_tiling(model.image_config, folder)


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy a checkpoint's configuration, processor and tokenizer files and its license.

    Indexes, and what a quantization, a training or an adapter has left, are not copied.
    """
    for pattern in COPIED:
        for path in source.glob(pattern):
            is_hidden = path.name.startswith(".")  # macOS writes `._` files on foreign disks
            is_left_over = path.name in NOT_COPIED or path.name.endswith(".index.json")
            if is_hidden or is_left_over or path.is_dir():
                continue
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            try:
                shutil.copyfile(plain_file(path), target)
            except (CheckpointError, FileNotFoundError) as error:  # or a private file is published
                logger.warning("not copied: %s", error)


def write_weights(model: Lfm2VL, folder: Path, layout: str = "mlx") -> None:
    """Write `model.safetensors` and its index."""
    weights = named_arrays(model.parameters())
    if layout == "hub":
        weights = {hub_name(name): hub_array(name, value) for name, value in weights.items()}
    else:
        weights = {mlx_name(name): value for name, value in weights.items()}
    metadata = {"format": FORMATS[layout], WRITER_KEY: __version__}
    save_arrays(folder / "model.safetensors", weights, metadata)
    index = {
        "metadata": {
            "total_size": sum(value.nbytes for value in weights.values()),
            WRITER_KEY: __version__,
        },
        "weight_map": dict.fromkeys(sorted(weights), "model.safetensors"),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def hub_array(name: str, value: mx.array) -> mx.array:
    """Return a parameter in the shape it has on the Hub."""
    return value.transpose(0, 2, 1) if name.endswith(DEPTHWISE) else value


def settle_tiling(config: ImageConfig, folder: Path) -> None:
    """Write the tiling in use to `processor_config.json` if the folder's files differ from it.

    Raises:
        CheckpointError: a configuration file in the folder cannot be read.
    """
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
    """Set the dtype in `config.json`; drop its quantization if no layer is quantized."""
    parameters, config = named_arrays(model.parameters()), read_json(path)
    dtype = parameters["language_model.embedding_norm.weight"].dtype
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype_name(dtype)
    if not any(name.endswith(".scales") for name in parameters):
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    settle_head(model, config)
    path.write_text(json.dumps(config, indent=2) + "\n")


def settle_head(model: Lfm2VL, config: dict[str, Any]) -> None:
    """Say in a checkpoint's configuration that the output head is not tied, if that is so.

    Loaders that trust the configuration would otherwise drop the head that is written.
    """
    if model.config.text.tie_word_embeddings:
        return
    for section in (config, config.setdefault("text_config", {})):
        section.update({key: False for key in TIES if key in section})
    config["text_config"]["tie_word_embeddings"] = False
