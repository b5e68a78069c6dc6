"""Add, save, load and fuse low-rank adapters, with mlx-lm's layers and in mlx-vlm's format."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..arrays import named_arrays, save_arrays
from ..checkpoint.json_file import Section, read_json
from ..checkpoint.names import (
    CONNECTOR,
    DECODER_LAYERS,
    TOWER_LAYERS,
    mlx_name,
    mlx_path,
    our_name,
    our_path,
)
from ..errors import CheckpointError, InputError
from ..loading import file_identity, open_tensors
from ..model.lfm2vl import Lfm2VL
from ..whole_folder import new_file
from .settings import TrainSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
FULLY_TRAINED = MappingProxyType({"fine_tune_type": "full", "num_layers": 0})
MAX_RANK = 2**14
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
        return dict(FULLY_TRAINED)
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
    """Write `adapters.safetensors` (the trainable parameters) and `adapter_config.json`.

    Both have the names of mlx-vlm, which would skip tensors under other names without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainable = named_arrays(model.trainable_parameters())
    written = {mlx_name(name): value for name, value in trainable.items()}
    if "lora_parameters" in settings:
        parameters = settings["lora_parameters"]
        keys = [mlx_path(path) for path in parameters["keys"]]
        settings = {**settings, "lora_parameters": {**parameters, "keys": keys}}
    with new_file(folder / WEIGHTS) as path:
        save_arrays(path, written, {"format": "mlx"})
    with new_file(folder / CONFIG) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def load_adapter(model: Lfm2VL, folder: Path) -> None:
    """Apply a saved adapter (LoRA, DoRA or fully trained parameters) to a model, in place.

    Names may be ours, those of mlx-vlm, or those of mlx-lm.

    Raises:
        InputError: the folder does not exist.
        CheckpointError: the folder holds no adapter, or one that is incomplete or does not fit the
            model.
    """
    if not folder.exists():
        raise InputError(f"the adapter {folder} does not exist")
    if not (folder / CONFIG).exists():
        unfinished = (folder / "checkpoints").is_dir()
        why = "its run has not ended, --resume it" if unfinished else "it is not an adapter"
        raise CheckpointError(f"{folder} has no {CONFIG}: {why}")
    found = [folder / name for name in (CONFIG, WEIGHTS) if (folder / name).is_file()]
    files = "".join(map(file_identity, found))
    config = read_json(folder / CONFIG)
    if "peft_type" in config:
        raise CheckpointError(
            f"{folder} is a PEFT adapter, which is not read: merge it into its model with PEFT "
            "(merge_and_unload, then save_pretrained) and use the merged model"
        )
    method = config.get("fine_tune_type", "lora")
    if method not in ("lora", "dora", "full"):
        raise CheckpointError(f"{folder / CONFIG}: fine_tune_type is not lora, dora or full")
    weights = _adapter_weights(folder)
    if method != "full":
        _add_layers(model, folder, config, weights)
    _adopt(model, folder, weights)
    model.files += files
    model.eval()
    mx.eval(model.parameters())  # here, because no other thread can compute this one's arrays


def load_trained(model: Lfm2VL, folder: Path) -> None:
    """Restore what a run has trained, in place, on a model that is trainable in the same way.

    Raises:
        CheckpointError: a file is missing or broken, or does not fit the model.
    """
    weights = _adapter_weights(folder)
    missing = sorted(set(named_arrays(model.trainable_parameters())) - set(weights))
    if missing:
        raise CheckpointError(f"{folder} is incomplete: it has no {', '.join(missing[:3])}")
    _adopt(model, folder, weights)


def _adopt(model: Lfm2VL, folder: Path, weights: dict[str, mx.array]) -> None:
    have = named_arrays(model.parameters())
    for name, value in weights.items():
        if name not in have or have[name].shape != value.shape:
            raise CheckpointError(f"{folder}: {name} {list(value.shape)} does not fit the model")
        if not mx.issubdtype(value.dtype, mx.floating):
            raise CheckpointError(f"{folder}: {name} holds {value.dtype}, expected floats")
    # Fully trained parameters get the type the model was loaded in, not the type of the training.
    adopted = [(name, value.astype(have[name].dtype)) for name, value in weights.items()]
    model.load_weights(adopted, strict=False)


def _adapter_weights(folder: Path) -> dict[str, mx.array]:
    """Return the tensors of an adapter under our names."""
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} has no {WEIGHTS}")
    weights: dict[str, mx.array] = {}
    for name, value in open_tensors(folder / WEIGHTS).items():
        if our_name(name) in weights:
            raise CheckpointError(f"{folder} holds {our_name(name)} twice, expected once")
        weights[our_name(name)] = value
    if not weights:
        raise CheckpointError(f"{folder / WEIGHTS} holds no tensors")
    return weights


def _add_layers(
    model: Lfm2VL, folder: Path, config: dict[str, Any], weights: dict[str, mx.array]
) -> None:
    """Wrap the layers that an adapter has tensors for, with the settings in its config.

    The tensors say which layers these are: the keys of mlx-lm's config may be relative to a block,
    or absent.
    """
    section = Section(config.get("lora_parameters"), f"{CONFIG}: lora_parameters")
    keys = section.values.get("keys") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{CONFIG}: lora_parameters: keys is not a list of strings")
    dropout = section.values.get("dropout")
    dropout = 0.0 if not dropout else section.number("dropout", most=0.999)
    named = {path for path in map(our_path, keys) if path.startswith(tuple(PREFIXES.values()))}
    paths = named | {name.rpartition(".")[0] for name in weights if name.endswith(".lora_a")}
    unknown = sorted(paths - set(adapted_paths(model, tuple(PREFIXES))))
    if unknown:
        raise CheckpointError(f"{folder} adapts {unknown[0]}, which this model does not have")
    add_adapter(
        model,
        sorted(paths),
        dora=config.get("fine_tune_type") == "dora",
        rank=section.integer("rank", most=MAX_RANK),
        scale=section.number("scale"),
        dropout=dropout,
    )
    # A factor that is missing would keep the random values of a fresh adapter.
    missing = sorted(set(named_arrays(model.trainable_parameters())) - set(weights))
    if missing or not paths:
        raise CheckpointError(f"{folder} is incomplete: it has no {', '.join(missing[:3])}")


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
