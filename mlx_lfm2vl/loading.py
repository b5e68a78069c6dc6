"""Loading a checkpoint: the configuration, the processor, and the model with its weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from .arrays import mlx_dtype, named_arrays
from .checkpoint.config import ModelConfig, read_model_config
from .checkpoint.find import find_checkpoint
from .checkpoint.foreign import packed_by
from .checkpoint.image_config import ImageConfig
from .checkpoint.json_file import shown
from .checkpoint.lazy_tensors import open_tensors, our_layout
from .checkpoint.names import (
    CONNECTOR,
    DERIVED,
    EMBEDDING,
    HEAD,
    TOWER,
    TOWER_LAYERS,
    check_names,
    our_name,
    our_path,
)
from .checkpoint.packing import written_scheme
from .checkpoint.plain_file import file_identity
from .checkpoint.tensors import weight_files
from .device import prepare_device, read_chip
from .device_thread import on_device
from .errors import CheckpointError
from .images.source import ImageLimits
from .model.device_ops import GPU
from .model.lfm2vl import Lfm2VL
from .options import DType
from .prompt.processor import Processor
from .prompt.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .adapters.choice import AdapterSource

logger = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    update: bool = False,
    dtype: DType | None = None,
    limits: ImageLimits | None = None,
    adapter: AdapterSource | Sequence[AdapterSource] | None = None,
) -> tuple[Lfm2VL, Processor]:
    """Load a checkpoint for generation.

    Args:
        model: a folder, a repo id on the Hub, or "demo" for the built-in model.
        revision: branch, tag or commit of a repo.
        update: download a newer commit of the repo, if there is one.
        dtype: "float32", "float16" or "bfloat16", for all arrays that are not packed. None
            keeps the file's dtype on a GPU, except that bfloat16 becomes float16 on an M1 or
            M2. On a CPU, where half precision is slow, None means float32.
        limits: caps on the images the processor accepts.
        adapter: folder or repo id of an adapter to apply, or several of them, whose changes add up;
            `("plants", 0.5)` halves the changes of one.

    Returns:
        The model, in evaluation mode with all weights in memory, and its processor.

    Raises:
        InputError: `model` is neither a folder nor a repo id, a folder is to be updated, `dtype` is
            unknown, or there is no such adapter.
        CheckpointError: the checkpoint is broken, incomplete, or of another architecture.
        NetworkError: the checkpoint cannot be downloaded.
    """
    if dtype is not None:
        mlx_dtype(dtype)  # raises before anything is downloaded
    adapters: list[tuple[Path, float]] = []
    if adapter is not None:
        from .adapters.choice import find_adapters  # most runs have none

        adapters = find_adapters(adapter)
    folder = find_checkpoint(str(model), revision, update=update)
    try:
        processor = Processor.from_folder(folder, limits)
        # A folder given as "." has a name too.
        name = str(folder.resolve()) if Path(model).is_dir() else str(model)
        config = read_model_config(folder, name)
        network = on_device(load_model, folder, config, processor, dtype)
        network.name = str(model)
    except CheckpointError as error:  # users know a repo by its name, not by its place in the cache
        raise CheckpointError(str(error).replace(str(folder), str(model))) from None
    if adapters:
        from .adapters.apply import apply_adapters

        on_device(apply_adapters, network, adapters, str(model))
    return network, processor


def load_model(
    folder: Path, config: ModelConfig, processor: Processor, dtype: DType | None = None
) -> Lfm2VL:
    """Build the network and load its weights from the folder's safetensors files.

    Args:
        folder: the checkpoint.
        config: from its `config.json`.
        processor: from the same folder.
        dtype: see `load`.

    Raises:
        CheckpointError: the weights cannot be read, or the files contradict each other.
    """
    chip = read_chip()
    prepare_device(chip)
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    files = "".join(map(file_identity, found))  # before they are read: they may be replaced
    model, weights = open_checkpoint(folder, config, processor)
    model.files = files

    def target(written: mx.Dtype) -> mx.Dtype | None:
        if dtype:
            return mlx_dtype(dtype)
        if not GPU:
            return mx.float32
        return chip.half if written == mx.bfloat16 else None

    cast = [(name, cast_floats(value, target(value.dtype))) for name, value in weights.items()]
    model.load_weights(cast)
    del cast
    del weights
    model.eval()
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {error}") from None
    return model


def open_checkpoint(
    folder: Path, config: ModelConfig, processor: Processor
) -> tuple[Lfm2VL, dict[str, mx.array]]:
    """Build the network for a checkpoint and open its tensors without reading them from disk.

    Args:
        folder: the checkpoint.
        config: from its `config.json`.
        processor: from the same folder.

    Returns:
        The model, with its parameters not yet set, and exactly one lazy tensor per parameter,
        keyed by the parameter's name. An evaluated tensor stays in memory as long as the
        dictionary holds it, so remove it before evaluating.

    Raises:
        CheckpointError: token ids, sizes or tensors contradict each other.
    """
    config = _with_token_ids(config, processor.tokenizer)
    _check_geometry(config, processor.image_config)
    weights = _read_weights(folder)
    if config.text.tie_word_embeddings and _has_own_head(folder, weights):
        logger.warning("the weights have an lm_head of their own, which is used")
        config = replace(config, text=replace(config.text, tie_word_embeddings=False))
    model = Lfm2VL(config, processor.image_config)
    _refuse_packed(weights, config.quantization or {})
    quantize_like(model, weights, config.quantization or {})
    expected = {name: value.shape for name, value in named_arrays(model.parameters()).items()}
    droppable = set()
    if not config.projector.use_layernorm:
        droppable.add(f"{CONNECTOR}layer_norm.")
    if config.text.tie_word_embeddings:
        droppable.add(HEAD)
    droppable |= {name for name in weights if name.endswith(DERIVED)}
    droppable.add(f"{TOWER}head.")  # pools an image into one vector; the family takes all of them
    kept_layers = {str(i) for i in range(config.vision.num_hidden_layers)}
    droppable |= {  # layers after vision_feature_layer
        f"{TOWER_LAYERS}{i}."
        for i in {name.split(".")[3] for name in weights if name.startswith(TOWER_LAYERS)}
        if i.isdecimal() and i not in kept_layers
    }
    for name in check_names(expected, {k: v.shape for k, v in weights.items()}, droppable):
        del weights[name]
    check_dtypes(model, weights)
    return model, weights


def _with_token_ids(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    if config.image_token_id not in (None, tokenizer.image_token_id):
        raise CheckpointError(
            f"config.json says image_token_id {config.image_token_id}, but the tokenizer's "
            f"{tokenizer.image_token} is {tokenizer.image_token_id}"
        )
    if tokenizer.largest_id >= config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {tokenizer.largest_id}, but the model only "
            f"{config.text.vocab_size} embedding rows"
        )
    named = tokenizer.id_of(tokenizer.eos_token)
    ends = config.eos_token_ids
    if named is not None and named not in ends:
        ends = (*ends, named)
    return replace(config, image_token_id=tokenizer.image_token_id, eos_token_ids=ends)


def _check_geometry(config: ModelConfig, image: ImageConfig) -> None:
    pairs = {
        "patch size": (config.vision.patch_size, image.encoder_patch_size),
        "downsample factor": (config.projector.downsample_factor, image.downsample_factor),
    }
    for name, (model_value, image_value) in pairs.items():
        if model_value != image_value:
            raise CheckpointError(
                f"{name}: the model's is {model_value}, the image processor's {image_value}; "
                "expected the same"
            )


def _read_weights(folder: Path) -> dict[str, mx.array]:
    """Return every tensor under our name for it, not yet read from disk."""
    weights: dict[str, mx.array] = {}
    for path in weight_files(folder):
        for name, value in open_tensors(path).items():
            ours = our_name(name)
            if ours in weights:
                raise CheckpointError(f"{folder} holds {ours} twice, expected once")
            weights[ours] = our_layout(ours, value)
    return weights


def _has_own_head(folder: Path, weights: dict[str, mx.array]) -> bool:
    """Tell whether the file holds an `lm_head` that differs from the embedding.

    Fine-tuning tools may save such a head although the config still says that both are tied, and
    transformers 5.23 then uses it.
    """
    names = [name for name in weights if name.startswith(HEAD)]
    if not names:
        return False
    copies = _read_weights(folder)  # reading the caller's would keep them in memory
    pairs = [(copies[name], copies.get(f"{EMBEDDING}.{name[len(HEAD) :]}")) for name in names]
    return any(other is None or not mx.array_equal(head, other) for head, other in pairs)


def _refuse_packed(weights: dict[str, mx.array], quantization: dict[str, Any]) -> None:
    """Refuse weights that another tool has packed; the tensors tell, not the config.

    Fine-tuning tools leave the settings of a packed base beside merged weights that are not packed.
    """
    tool, method = packed_by(weights), quantization.get("quant_method")
    matrices = [value for name, value in weights.items() if name.endswith(".weight")]
    if tool is None and any(value.dtype in (mx.uint8, mx.int8) for value in matrices):
        tool = "a tool for 8 bits"
    if tool:
        raise CheckpointError(
            f"the weights are packed by {shown(method) if method else tool}, which is not read: "
            "take the 16-bit model they were made from, and quantize it with mlx_lfm2vl convert"
        )
    if method:
        logger.warning("config.json says quantized by %s, but the weights are not", shown(method))


def quantize_like(
    model: nn.Module, weights: dict[str, mx.array], quantization: dict[str, Any]
) -> None:
    """Make the layers quantized that have scales in the file, as its config describes them.

    Args:
        model: whose layers are replaced.
        weights: under the names of the model's parameters.
        quantization: from the configuration.

    Raises:
        CheckpointError: tensors and settings contradict each other.
    """
    scaled = [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]
    if not scaled:
        return
    bare = [path for path in scaled if f"{path}.weight" not in weights]
    if bare:
        raise CheckpointError(f"{bare[0]} has scales but no weight: the file is incomplete")
    ours = {
        our_path(key) if isinstance(value, dict) else key: value
        for key, value in quantization.items()
    }

    def parameters(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights or not hasattr(module, "to_quantized"):
            return False
        scheme = written_scheme(path, ours)
        packed, scales = weights[f"{path}.weight"], weights[f"{path}.scales"]
        if packed.shape[-1] * 32 != scales.shape[-1] * scheme.group_size * scheme.bits:
            raise CheckpointError(
                f"{path}: {scheme.bits} bits in groups of {scheme.group_size} do not fit a packed "
                f"weight of {list(packed.shape)} and scales of {list(scales.shape)}"
            )
        return asdict(scheme)

    try:
        nn.quantize(model, class_predicate=parameters)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the quantization settings make no sense: {error}") from None


def check_dtypes(model: nn.Module, weights: dict[str, mx.array]) -> None:
    """Check that packed weights are integers and all others floats, or they load as garbage.

    Raises:
        CheckpointError: one is not.
    """
    for name, wanted in named_arrays(model.parameters()).items():
        have = weights[name].dtype
        floats = mx.issubdtype(have, mx.floating)
        if have != wanted.dtype and not (floats and mx.issubdtype(wanted.dtype, mx.floating)):
            raise CheckpointError(f"{name} holds {have}, expected {wanted.dtype}")


def cast_floats(value: mx.array, dtype: mx.Dtype | None) -> mx.array:
    """Cast a float array to `dtype`; integers, or any array if it is None, stay as they are."""
    is_float = mx.issubdtype(value.dtype, mx.floating)
    return value.astype(dtype) if dtype is not None and is_float else value
