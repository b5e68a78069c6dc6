"""Add, save, load and fuse low-rank adapters, with mlx-lm's layers and in its format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..arrays import named_arrays
from ..checkpoint.json_file import read_json
from ..checkpoint.names import CONNECTOR, DECODER_LAYERS, TOWER_LAYERS
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from ..whole_folder import new_file
from .settings import TrainSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
PREFIXES = {"language": DECODER_LAYERS, "connector": CONNECTOR, "vision": TOWER_LAYERS}


def _mlx_lm_tuner() -> Any:
    try:
        from mlx_lm.tuner import utils
    except ImportError:
        raise InputError("adapters need mlx-lm: pip install mlx-lm") from None
    return utils


def make_trainable(model: Lfm2VL, settings: TrainSettings) -> dict[str, Any]:
    """Freeze a model except for what a run trains, in place.

    Returns:
        The content of `adapter_config.json`.

    Raises:
        InputError: mlx-lm is missing, or the parts cannot be trained by this method.
    """
    if settings.method == "full":
        train_fully(model, settings.parts)
        return {"fine_tune_type": "full", "num_layers": 0}
    paths = adapted_paths(model, settings.parts)
    rank, scale, dropout = settings.rank, settings.scale, settings.dropout
    add_adapter(
        model, paths, dora=settings.method == "dora", rank=rank, scale=scale, dropout=dropout
    )
    keys = {"rank": rank, "scale": scale, "dropout": dropout, "keys": paths}
    return {"fine_tune_type": settings.method, "num_layers": 0, "lora_parameters": keys}


def adapted_paths(model: Lfm2VL, parts: Sequence[str]) -> list[str]:
    """Paths of the linear layers in some parts of the model: "language", "connector", "vision"."""
    prefixes = tuple(PREFIXES[part] for part in parts)
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.QuantizedLinear)) and path.startswith(prefixes)
    ]


def add_adapter(
    model: Lfm2VL, paths: Sequence[str], *, dora: bool, rank: int, scale: float, dropout: float
) -> None:
    """Freeze the model and wrap linear layers in trainable low-rank layers.

    A new adapter does not change the model's output, because one of its two factors is zero.

    Args:
        model: changed in place.
        paths: linear layers, quantized or not.
        dora: whether to train the norms of the weight vectors, too (DoRA).
        rank: rank of the two factors.
        scale: multiplies the product of the two factors.
        dropout: share of inputs dropped during training.

    Raises:
        InputError: mlx-lm is missing, or its DoRA does not support the layers' number of bits.
    """
    tuner = _mlx_lm_tuner()
    layers = dict(model.named_modules())
    for path in paths if dora else ():
        bits = getattr(layers[path], "bits", 32)
        if 32 % bits:
            raise InputError(f"{path} has {bits} bits, which DoRA cannot train: use --method lora")
    model.freeze()
    parameters = {"rank": rank, "scale": scale, "dropout": dropout, "keys": set(paths)}
    tuner.linear_to_lora_layers(model, 0, parameters, use_dora=dora)


def train_fully(model: Lfm2VL, parts: Sequence[str]) -> None:
    """Make every parameter of some parts trainable, and freeze all others.

    Raises:
        InputError: a part is quantized, so that only an adapter can be trained on it.
    """
    modules = {
        "language": [model.language_model, *([model.lm_head] if "lm_head" in model else [])],
        "connector": [model.multi_modal_projector],
        "vision": [model.vision_tower],
    }
    model.freeze()
    for part in parts:
        for module in modules[part]:
            if any(name.endswith(".scales") for name in named_arrays(module.parameters())):
                raise InputError(f"the {part} part is quantized: use --method lora or dora")
            module.unfreeze()


def save_adapter(model: Lfm2VL, folder: Path, settings: dict[str, Any]) -> None:
    """Write `adapters.safetensors` (the trainable parameters) and `adapter_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    trainable = named_arrays(model.trainable_parameters())
    # Pass an open file: MLX would append its own suffix to a path.
    with new_file(folder / WEIGHTS) as path, path.open("wb") as file:
        mx.save_safetensors(file, trainable, {"format": "mlx"})
    with new_file(folder / CONFIG) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def load_adapter(model: Lfm2VL, folder: Path) -> None:
    """Apply a saved adapter (LoRA, DoRA or fully trained parameters) to a model, in place.

    Raises:
        InputError: the folder does not exist.
        CheckpointError: the folder holds no adapter, or one that does not fit the model.
    """
    if not folder.exists():
        raise InputError(f"the adapter {folder} does not exist")
    if not (folder / CONFIG).exists():
        unfinished = (folder / "checkpoints").is_dir()
        why = "its run has not ended, --resume it" if unfinished else "it is not an adapter"
        raise CheckpointError(f"{folder} has no {CONFIG}: {why}")
    config = read_json(folder / CONFIG)
    method = config.get("fine_tune_type", "lora")
    if method != "full":
        parameters = config.get("lora_parameters")
        if not isinstance(parameters, dict) or not {"rank", "scale", "keys"} <= set(parameters):
            raise CheckpointError(f"{folder / CONFIG}: lora_parameters must hold rank, scale, keys")
        paths = set(adapted_paths(model, tuple(PREFIXES)))
        unknown = sorted(set(parameters["keys"]) - paths)
        if unknown:
            raise CheckpointError(f"{folder} adapts {unknown[0]}, which this model does not have")
        add_adapter(
            model,
            parameters["keys"],
            dora=method == "dora",
            rank=parameters["rank"],
            scale=parameters["scale"],
            dropout=parameters.get("dropout", 0.0),
        )
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} has no {WEIGHTS}")
    weights = mx.load(str(folder / WEIGHTS))
    assert isinstance(weights, dict)
    have = named_arrays(model.parameters())
    for name, value in weights.items():
        if name not in have or have[name].shape != value.shape:
            raise CheckpointError(f"{folder}: {name} {list(value.shape)} does not fit the model")
    # Fully trained parameters get the type the model was loaded in, not the type of the training.
    adopted = [(name, value.astype(have[name].dtype)) for name, value in weights.items()]
    model.load_weights(adopted, strict=False)
    model.eval()
    mx.eval(model.parameters())  # here, because no other thread can compute this one's arrays


def fuse_adapter(model: Lfm2VL, *, dequantize: bool = False) -> None:
    """Merge every low-rank update into its layer, in place.

    Args:
        model: one with an adapter; others stay unchanged.
        dequantize: whether to leave fused layers unquantized where the base is quantized.
    """
    fused = []
    for path, module in model.named_modules():
        if "lora_a" in module:
            layer = module.fuse(dequantize=dequantize)
            stored = module.linear.get("scales", module.linear.weight).dtype
            if mx.issubdtype(stored, mx.floating):
                layer.set_dtype(stored)  # DoRA's float32 norms would have changed it
            fused.append((path, layer))
    model.update_modules(tree_unflatten(fused))
