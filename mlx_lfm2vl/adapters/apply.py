"""Applying adapters to a model: one, or several with weights, whose changes add up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..arrays import named_arrays
from ..checkpoint.json_file import read_json
from ..checkpoint.names import EMBEDDING, HEAD
from ..errors import CheckpointError, InputError
from ..model.lfm2vl import Lfm2VL
from .base import check_base
from .contents import CONFIG, Adapter, Update
from .layers import HEAD_PATH, dense_copy, dense_weight, linear_layers, sizes
from .mlx_format import read_mlx
from .peft_format import read_peft

Weighted = tuple[Adapter, float]
HEAD_WEIGHT = f"{HEAD}weight"


def apply_adapters(
    model: Lfm2VL, choices: Sequence[tuple[Path, float]], name: str = ""
) -> list[Adapter]:
    """Apply saved adapters to a model, in place. Its parameters are frozen, the factors are not.

    Args:
        model: without adapters.
        choices: folders of adapters, each with the weight of its changes.
        name: of the model, for messages.

    Returns:
        The adapters.

    Raises:
        InputError: a folder does not exist, mlx-lm is missing, or the adapters cannot be added up.
        CheckpointError: an adapter is broken or incomplete, or does not fit the model.
    """
    adapters = [read_adapter(model, folder) for folder, _ in choices]
    for adapter in adapters:
        check_base(adapter, model, name)
    put_adapters(model, list(zip(adapters, (weight for _, weight in choices), strict=True)))
    return adapters


def put_adapters(model: Lfm2VL, weighted: Sequence[Weighted]) -> None:
    """Apply adapters that fit a model to it, in place.

    Raises:
        InputError: mlx-lm is missing, or the adapters cannot be added up.
        CheckpointError: an adapter replaces a parameter that the model does not have.
    """
    model.freeze()
    adapters = [adapter for adapter, _ in weighted]
    _untie(model, adapters)
    for adapter in adapters:
        _check_values(model, adapter)
    _set_values(model, weighted)
    _wrap(model, weighted)
    model.eval()
    mx.eval(model.parameters())  # here, because no other thread can compute this one's arrays


def read_adapter(model: Lfm2VL, folder: Path) -> Adapter:
    """Read an adapter of any kind and check that it is complete and fits a model.

    Raises:
        InputError: the folder does not exist.
        CheckpointError: it holds no adapter, or one that is broken or does not fit.
    """
    if not folder.exists():
        raise InputError(f"the adapter {folder} does not exist")
    if not (folder / CONFIG).exists():
        unfinished = (folder / "checkpoints").is_dir()
        why = "its run has not ended, --resume it" if unfinished else "it is not an adapter"
        raise CheckpointError(f"{folder} has no {CONFIG}: {why}")
    config = read_json(folder / CONFIG)
    layers = linear_layers(model)
    paths = {*layers, HEAD_PATH}
    if "peft_type" in config:
        adapter = read_peft(folder, config, paths, named_arrays(model.parameters()))
    else:
        adapter = read_mlx(folder, config, paths)
    for path, update in adapter.updates.items():
        if path in layers:
            size = sizes(layers[path])
        else:  # an output head that shares the embedding's weights
            size = dense_weight(model.language_model.embed_tokens).shape[::-1]
        have = (update.a.shape[0], update.b.shape[1])
        magnitude = update.magnitude
        if have != size or (magnitude is not None and magnitude.shape != (size[1],)):
            raise CheckpointError(
                f"{folder}: {path} changes {have[0]} inputs and {have[1]} outputs, which does not "
                f"fit the model's {size[0]} and {size[1]}"
            )
    return adapter


def _untie(model: Lfm2VL, adapters: Sequence[Adapter]) -> None:
    """Give a model an output head of its own if an adapter changes only the head or the embedding.

    PEFT trains a copy of the one and leaves the other as it was. Full training changes both.
    """
    for adapter in adapters:
        touched = {*adapter.updates, *adapter.values}
        alone = f"{EMBEDDING}.weight" in touched and not adapter.is_full
        if HEAD_PATH not in model and (alone or touched & {HEAD_PATH, HEAD_WEIGHT}):
            _add_head(model)


def _add_head(model: Lfm2VL) -> None:
    weight = dense_weight(model.language_model.embed_tokens)
    model.lm_head = nn.Linear(*weight.shape[::-1], bias=False)
    model.lm_head.weight = weight
    model.lm_head.freeze()
    text = replace(model.config.text, tie_word_embeddings=False)
    model.config = replace(model.config, text=text)


def _check_values(model: Lfm2VL, adapter: Adapter) -> None:
    modules = dict(model.named_modules())
    have = named_arrays(model.parameters())
    for name, value in adapter.values.items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        shape = have[name].shape if name in have else None
        if module is not None and leaf == "weight" and "scales" in module:
            shape = dense_weight(module).shape
        if shape != value.shape:
            raise CheckpointError(
                f"{adapter.folder}: {name} {list(value.shape)} does not fit the model"
            )


def _set_values(model: Lfm2VL, weighted: Sequence[Weighted]) -> None:
    """Replace parameters, or add the weighted differences of several adapters to them."""
    modules = dict(model.named_modules())
    named: dict[str, list[tuple[mx.array, float]]] = {}
    for adapter, weight in weighted:
        for name, value in adapter.values.items():
            named.setdefault(name, []).append((value, weight))
    dense = []
    for name in named:
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and "scales" in modules[path]:
            dense.append((path, dense_copy(modules[path])))
    model.update_modules(tree_unflatten(dense))
    have = named_arrays(model.parameters())
    # They get the type the model was loaded in, not the type of the training.
    sums = {name: _sum(have[name], terms) for name, terms in named.items()}
    cast = [(name, value.astype(have[name].dtype)) for name, value in sums.items()]
    model.load_weights(cast, strict=False)
    for _, module in dense:
        module.freeze()


def _sum(base: mx.array, terms: Sequence[tuple[mx.array, float]]) -> mx.array:
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    wide = base.astype(mx.float32)
    for value, weight in terms:
        wide = wide + weight * (value.astype(mx.float32) - base.astype(mx.float32))
    return wide


def _wrap(model: Lfm2VL, weighted: Sequence[Weighted]) -> None:
    """Put a low-rank layer around each layer that an adapter updates."""
    layers = linear_layers(model)
    wrapped = []
    for path in sorted({path for adapter, _ in weighted for path in adapter.updates}):
        terms = [(a, weight) for a, weight in weighted if path in a.updates]
        dropout = max(adapter.dropout for adapter, _ in terms)
        wrapped.append((path, low_rank_layer(layers[path], path, _joined(path, terms), dropout)))
    model.update_modules(tree_unflatten(wrapped))


def _joined(path: str, terms: Sequence[Weighted]) -> Update:
    """Return one update that is the weighted sum of several: their factors side by side.

    Raises:
        InputError: one of several is a DoRA, or a DoRA has a weight: its norms do not add up.
    """
    updates = [(adapter.updates[path], weight) for adapter, weight in terms]
    if len(updates) == 1 and updates[0][1] == 1:
        return updates[0][0]
    for adapter, _ in terms:
        if adapter.updates[path].magnitude is not None:
            raise InputError(
                f"{adapter.folder} is a DoRA adapter, which can neither be weighted nor share "
                f"{path} with another: fuse it first, and give the others with the result"
            )
    a = [update.a.astype(mx.float32) for update, _ in updates]
    b = [update.b.astype(mx.float32) * (update.scale * weight) for update, weight in updates]
    return Update(mx.concatenate(a, axis=1), mx.concatenate(b, axis=0), 1.0)


def low_rank_layer(layer: nn.Module, path: str, update: Update, dropout: float) -> nn.Module:
    """Return mlx-lm's low-rank layer around a layer.

    Raises:
        InputError: mlx-lm is missing, or its DoRA does not support the layer's number of bits.
    """
    kinds: Any
    try:
        from mlx_lm.tuner import dora, lora
    except ImportError:
        raise InputError("adapters need mlx-lm: pip install mlx-lm") from None
    kinds = lora.LoRALinear if update.magnitude is None else dora.DoRALinear
    if update.magnitude is not None:
        check_dora_bits(layer, path, "DoRA cannot unpack: use a base of 2, 4, 8 or 16 bits")
    wrapped = kinds.from_base(layer, r=update.rank, dropout=dropout, scale=update.scale)
    wrapped.lora_a, wrapped.lora_b = update.a.astype(mx.float32), update.b.astype(mx.float32)
    if update.magnitude is not None:
        wrapped.m = update.magnitude.astype(mx.float32)
    return wrapped


def check_dora_bits(layer: nn.Module, path: str, problem: str) -> None:
    """Raise `InputError` if mlx-lm's DoRA cannot unpack a layer; the message ends in `problem`."""
    bits = getattr(layer, "bits", 32)
    if 32 % bits:
        raise InputError(f"{path} has {bits} bits, which {problem}")
