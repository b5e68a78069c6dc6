"""Loading a checkpoint: its configuration, its processor, and its weights into the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .arrays import named_arrays
from .config import ImageConfig, ModelConfig, read_model_config
from .errors import CheckpointError, InputError
from .hub import find_checkpoint
from .image_file import ImageLimits
from .model import Lfm2VL
from .processor import Processor
from .tokenizer import Tokenizer
from .weights import check_names, our_name, read_header, weight_files

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    limits: ImageLimits | None = None,
) -> tuple[Lfm2VL, Processor]:
    """Load a checkpoint, ready to generate.

    Args:
        model: a folder, or a repo id on the Hub.
        revision: branch, tag or commit of a repo.
        dtype: "float32", "float16" or "bfloat16" for everything that is not quantized; None
            keeps the file's on a GPU, and takes float32 on a CPU, where halves are slow.
        limits: caps on the images the processor accepts.

    Raises:
        InputError: `model` or `dtype` makes no sense.
        CheckpointError: the checkpoint is broken, incomplete, or of another kind.
        NetworkError: the checkpoint cannot be downloaded.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    folder = find_checkpoint(str(model), revision)
    processor = Processor.from_folder(folder, limits)
    config = read_model_config(folder, str(model))
    return load_model(folder, config, processor, dtype), processor


def load_model(
    folder: Path, config: ModelConfig, processor: Processor, dtype: str | None = None
) -> Lfm2VL:
    """Build the network and fill it from the folder's safetensors files.

    Raises:
        CheckpointError: ids, sizes or tensors contradict each other.
    """
    config = _with_image_token(config, processor.tokenizer)
    _check_geometry(config, processor.image_config)
    weights = _read_weights(folder)
    model = Lfm2VL(config, processor.image_config)
    _quantize_like(model, weights, config.quantization or {})
    expected = {name: value.shape for name, value in named_arrays(model.parameters()).items()}
    droppable = set()
    if not config.projector.use_layernorm:
        droppable.add("multi_modal_projector.layer_norm.")
    if config.text.tie_word_embeddings:
        droppable.add("lm_head.")
    layers = config.vision.num_hidden_layers
    droppable |= {  # layers behind vision_feature_layer
        ".".join(name.split(".")[:4]) + "."
        for name in weights
        if name.startswith("vision_tower.encoder.layers.") and int(name.split(".")[3]) >= layers
    }
    dropped = check_names(expected, {k: v.shape for k, v in weights.items()}, droppable)
    target = DTYPES[dtype] if dtype else None if mx.metal.is_available() else mx.float32
    kept = [(name, _cast(value, target)) for name, value in weights.items() if name not in dropped]
    del weights
    model.load_weights(kept)
    del kept
    model.eval()
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {error}") from None
    return model


def _with_image_token(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    if config.image_token_id not in (None, tokenizer.image_token_id):
        raise CheckpointError(
            f"config.json says image_token_id {config.image_token_id}, but the tokenizer's "
            f"{tokenizer.image_token} is {tokenizer.image_token_id}"
        )
    if tokenizer.image_token_id >= config.text.vocab_size:
        raise CheckpointError(
            f"image token {tokenizer.image_token_id} is outside the vocabulary of "
            f"{config.text.vocab_size} rows"
        )
    return replace(config, image_token_id=tokenizer.image_token_id)


def _check_geometry(config: ModelConfig, image: ImageConfig) -> None:
    pairs = {
        "patch size": (config.vision.patch_size, image.encoder_patch_size),
        "downsample factor": (config.projector.downsample_factor, image.downsample_factor),
    }
    for name, (model_value, image_value) in pairs.items():
        if model_value != image_value:
            raise CheckpointError(
                f"{name}: the model's is {model_value}, the image processor's {image_value}"
            )


def _read_weights(folder: Path) -> dict[str, mx.array]:
    """Every tensor under our name, not yet read from disk."""
    weights: dict[str, mx.array] = {}
    for path in weight_files(folder):
        read_header(path)  # a clear error for a damaged file, before anything is read
        try:
            tensors = mx.load(str(path))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        assert isinstance(tensors, dict)
        for name, value in tensors.items():
            ours = our_name(name)
            if ours in weights:
                raise CheckpointError(f"{folder} holds {ours} twice")
            # The Hub keeps depthwise weights as (C, 1, taps), MLX as (C, taps, 1).
            if ours.endswith("conv.conv.weight") and value.ndim == 3 and value.shape[1] == 1:
                value = value.transpose(0, 2, 1)
            weights[ours] = value
    return weights


def _quantize_like(
    model: Lfm2VL, weights: dict[str, mx.array], quantization: dict[str, Any]
) -> None:
    """Make quantized layers where the file has scales, with the parameters its config gives."""
    if not any(name.endswith(".scales") for name in weights):
        return
    overrides = {our_name(k): v for k, v in quantization.items() if isinstance(v, (dict, bool))}

    def parameters(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights or not hasattr(module, "to_quantized"):
            return False
        entry = overrides.get(path)
        source = entry if isinstance(entry, dict) else quantization
        mode = source.get("mode", quantization.get("mode", "affine"))
        packed, scales = weights[f"{path}.weight"], weights[f"{path}.scales"]
        group_size = source.get("group_size", quantization.get("group_size", 64))
        bits = source.get("bits", quantization.get("bits"))
        width = scales.shape[-1] * group_size
        if bits is None or packed.shape[-1] * 32 != width * bits:
            raise CheckpointError(
                f"{path}: {bits} bits in groups of {group_size} do not fit a packed weight of "
                f"{list(packed.shape)} and scales of {list(scales.shape)}"
            )
        return {"group_size": group_size, "bits": bits, "mode": mode}

    nn.quantize(model, class_predicate=parameters)


def _cast(value: mx.array, dtype: mx.Dtype | None) -> mx.array:
    is_float = mx.issubdtype(value.dtype, mx.floating)
    return value.astype(dtype) if dtype is not None and is_float else value
