"""Add, save, load and fuse low-rank adapters, with mlx-lm's layers and in mlx-vlm's format."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..adapters.apply import apply_adapters, check_dora_bits, put_adapters, read_adapter
from ..adapters.base import check_base, describe_base
from ..adapters.contents import CONFIG, Update
from ..adapters.layers import TRAINED
from ..adapters.mlx_format import WEIGHTS
from ..arrays import named_arrays, save_arrays
from ..checkpoint.lazy_tensors import open_tensors
from ..checkpoint.names import DECODER, HEAD, mlx_name, mlx_path, our_name
from ..checkpoint.packing import Scheme
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from ..model.packed_layers import scheme_of, unpacked
from ..whole_folder import new_file
from .settings import TrainSettings

FULLY_TRAINED = MappingProxyType({"fine_tune_type": "full", "num_layers": 0})


def _mlx_lm_tuner() -> Any:
    try:
        from mlx_lm.tuner import utils
    except ImportError:
        raise InputError("adapters need mlx-lm: pip install mlx-lm") from None
    return utils


def make_trainable(
    model: Lfm2VL, settings: TrainSettings, *, start: Path | None = None, name: str = ""
) -> dict[str, Any]:
    """Freeze a model except for what a run trains, in place.

    Args:
        model: without an adapter.
        settings: of the run.
        start: an adapter to go on from. Its layers, rank and scale are kept.
        name: of the model, for the adapter's config.

    Returns:
        The content of `adapter_config.json`.

    Raises:
        InputError: mlx-lm is missing, the parts cannot be trained by this method, or the adapter
            to start from was trained by another one.
        CheckpointError: that adapter is broken or does not fit the model.
    """
    base = {"base": describe_base(model, name)}
    if start is not None:
        return {**_continued(model, settings, start, name), **base}
    if settings.method == "full":
        train_fully(model, settings.parts)
        return {**FULLY_TRAINED, **base}
    paths = adapted_paths(model, settings.parts)
    rank, scale, dropout = settings.rank, settings.scale, settings.dropout
    add_adapter(
        model, paths, dora=settings.method == "dora", rank=rank, scale=scale, dropout=dropout
    )
    keys = {"rank": rank, "scale": scale, "dropout": dropout, "keys": paths}
    return {"fine_tune_type": settings.method, "num_layers": 0, "lora_parameters": keys, **base}


def _continued(model: Lfm2VL, settings: TrainSettings, start: Path, name: str) -> dict[str, Any]:
    """Apply an adapter so that it can be trained further, and written in one rank and scale."""
    adapter = read_adapter(model, start)
    check_base(adapter, model, name)
    method = "full" if adapter.is_full else "dora" if adapter.is_dora else "lora"
    if method != settings.method:
        raise InputError(f"{start} was trained with {method}: use --method {method}")
    updates = with_one_rank(adapter.updates)
    put_adapters(model, [(replace(adapter, updates=updates, dropout=settings.dropout), 1.0)])
    if method == "full":
        train_fully(model, settings.parts)
        return dict(FULLY_TRAINED)
    modules = dict(model.named_modules())
    for value in adapter.values:
        path, _, leaf = value.rpartition(".")
        modules[path].unfreeze(keys=leaf, recurse=False)
    if not updates:
        raise InputError(f"{start} has no low-rank layers to train")
    first = next(iter(updates.values()))
    keys = {"rank": first.rank, "scale": first.scale, "dropout": settings.dropout}
    keys["keys"] = list(updates)
    return {"fine_tune_type": method, "num_layers": 0, "lora_parameters": keys}


def with_one_rank(updates: dict[str, Update]) -> dict[str, Update]:
    """Return the same changes with one rank and scale for all layers, as mlx-lm's format has it.

    Added columns start as those of a new adapter, so that they can be trained.
    """
    if not updates:
        return {}
    rank = max(update.rank for update in updates.values())
    scales = [update.scale for update in updates.values()]
    scale = max(scales, key=scales.count)
    same = {}
    for path, update in updates.items():
        inputs, outputs = update.a.shape[0], update.b.shape[1]
        more, edge = rank - update.rank, inputs**-0.5
        a = [update.a.astype(mx.float32), mx.random.uniform(-edge, edge, (inputs, more))]
        b = [update.b.astype(mx.float32) * (update.scale / scale), mx.zeros((more, outputs))]
        joined = mx.concatenate(a, axis=1), mx.concatenate(b)
        same[path] = Update(*joined, scale, update.magnitude)
    return same


def adapted_paths(model: Lfm2VL, parts: Sequence[str]) -> list[str]:
    """Paths of the linear layers in some parts of the model: "language", "connector", "vision"."""
    prefixes = tuple(TRAINED[part] for part in parts)
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
        check_dora_bits(layers[path], path, "DoRA cannot train: use --method lora")
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


def check_text_only(model: Lfm2VL) -> None:
    """Raise `InputError` if more than the language model is trained."""
    trained = named_arrays(model.trainable_parameters())
    other = [name for name in trained if not name.startswith((DECODER, HEAD))]
    if other:
        raise InputError(f"--text-only needs --parts language: {other[0]} would be lost")


def save_adapter(
    model: Lfm2VL, folder: Path, settings: dict[str, Any], *, text_only: bool = False
) -> None:
    """Write `adapters.safetensors` (the trainable parameters) and `adapter_config.json`.

    Both have the names of mlx-vlm, which would skip tensors under other names without a word.

    Args:
        model: whose trainable parameters are written.
        folder: to write into.
        settings: from `make_trainable`.
        text_only: use the names of mlx-lm, for a checkpoint of the decoder alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainable = named_arrays(model.trainable_parameters())
    written = {mlx_name(name, text_only=text_only): value for name, value in trainable.items()}
    if "lora_parameters" in settings:
        parameters = settings["lora_parameters"]
        keys = [mlx_path(path, text_only=text_only) for path in parameters["keys"]]
        settings = {**settings, "lora_parameters": {**parameters, "keys": keys}}
    with new_file(folder / WEIGHTS) as path:
        save_arrays(path, written, {"format": "mlx"})
    with new_file(folder / CONFIG) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def load_adapter(model: Lfm2VL, folder: Path) -> None:
    """Apply one saved adapter to a model, in place; see `adapters.apply`.

    Raises:
        InputError: the folder does not exist.
        CheckpointError: the folder holds no adapter, or one that is incomplete or does not fit the
            model.
    """
    apply_adapters(model, [(folder, 1.0)])


def load_trained(model: Lfm2VL, folder: Path) -> None:
    """Restore what a run has trained, in place, on a model that is trainable in the same way.

    Args:
        model: whose trainable parameters are replaced.
        folder: written by `save_adapter`.

    Raises:
        CheckpointError: a file is missing or broken, or does not fit the model.
    """
    found = {our_name(name): value for name, value in open_tensors(folder / WEIGHTS).items()}
    trained = named_arrays(model.trainable_parameters())
    for name, value in trained.items():
        if name not in found or found[name].shape != value.shape:
            raise CheckpointError(
                f"{folder} is not of this run: {name} is missing, or another size"
            )
    restored = [(name, found[name].astype(value.dtype)) for name, value in trained.items()]
    model.load_weights(restored, strict=False)


def quantized_bases(model: Lfm2VL) -> dict[str, Scheme]:
    """Return the path and scheme of every quantized layer that an adapter was added to."""
    bases = {path: layer.linear for path, layer in _low_rank_layers(model).items()}
    quantized = {p: base for p, base in bases.items() if isinstance(base, nn.QuantizedLinear)}
    return {path: scheme_of(base) for path, base in quantized.items()}


@contextlib.contextmanager
def without_adapter(model: Lfm2VL) -> Iterator[None]:
    """Take low-rank layers out of a model during a block."""
    layers = _low_rank_layers(model)
    model.update_modules(tree_unflatten([(path, layer.linear) for path, layer in layers.items()]))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(list(layers.items())))


def fuse_adapter(model: Lfm2VL, *, dequantize: bool = False) -> None:
    """Merge every low-rank update into its layer, in place.

    Args:
        model: one with an adapter; others stay unchanged.
        dequantize: whether to leave fused layers unquantized where the base is quantized. A layer
            that stays quantized is rounded to nearest, with scales of its own.
    """
    dtype = model.language_model.embedding_norm.weight.dtype
    fused = []
    for path, module in _low_rank_layers(model).items():
        base = module.linear
        is_quantized = isinstance(base, nn.QuantizedLinear)
        stored = base.scales.dtype if is_quantized else base.weight.dtype
        module.linear = unpacked(base, mx.float32) if is_quantized else base
        layer = module.fuse()
        if is_quantized and not dequantize:
            layer = nn.QuantizedLinear.from_linear(
                layer, base.group_size, base.bits, mode=base.mode
            )
        # DoRA's float32 norms would have changed it. In float modes the scales are no floats.
        layer.set_dtype(stored if mx.issubdtype(stored, mx.floating) else dtype)
        fused.append((path, layer))
    model.update_modules(tree_unflatten(fused))


def _low_rank_layers(model: Lfm2VL) -> dict[str, Any]:
    """Path -> layer of mlx-lm, whose classes are known only where it is installed."""
    return {path: module for path, module in model.named_modules() if "lora_a" in module}
