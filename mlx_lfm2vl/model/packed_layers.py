"""Quantized layers, turned into plain ones and back."""

from collections.abc import Mapping, Sequence
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..checkpoint.packing import Scheme

QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding)


def scheme_of(layer: nn.QuantizedLinear | nn.QuantizedEmbedding) -> Scheme:
    """Return how a layer is quantized."""
    return Scheme(layer.bits, layer.group_size, layer.mode)


def unpack(model: nn.Module, dtype: mx.Dtype) -> None:
    """Replace all quantized layers by plain ones with the same weights, in place."""
    plain = [
        (path, unpacked(module, dtype))
        for path, module in _named_modules(model)
        if isinstance(module, QUANTIZED)
    ]
    model.update_modules(tree_unflatten(plain))


def unpacked(layer: nn.QuantizedLinear | nn.QuantizedEmbedding, dtype: mx.Dtype) -> nn.Module:
    """Return a plain layer with the weights of a quantized one."""
    scales: mx.array = layer.scales
    biases = cast("mx.array | None", layer.get("biases"))
    if biases is not None:  # the product does not round weights to the type of the scales
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    weight = mx.dequantize(
        layer.weight,
        scales,
        biases,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        dtype=mx.float32,
    )
    if isinstance(layer, nn.QuantizedEmbedding):
        plain = nn.Embedding(*weight.shape)
    else:
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in layer)
    plain.weight = weight.astype(dtype)
    if "bias" in layer:
        plain["bias"] = layer["bias"]
    return plain


def repack(
    model: nn.Module, packed: Mapping[str, Sequence[mx.array]], schemes: Mapping[str, Scheme]
) -> None:
    """Replace plain linear layers by quantized ones, in place.

    Args:
        model: has the layers.
        packed: path -> weight, scales and, in affine mode, biases.
        schemes: path -> how they are packed; may hold more paths.
    """
    modules, layers = dict(_named_modules(model)), list[tuple[str, nn.Module]]()
    for path, arrays in packed.items():
        plain, scheme = modules[path], schemes[path]
        # Its own arrays, one group of any size wide, are replaced below.
        layer = nn.QuantizedLinear(
            128, 32, "bias" in plain, scheme.group_size, scheme.bits, scheme.mode
        )
        for name, array in zip(("weight", "scales", "biases"), arrays, strict=False):
            layer[name] = array
        if "bias" in plain:
            layer["bias"] = plain["bias"]
        layers.append((path, layer))
    model.update_modules(tree_unflatten(layers))


def _named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return cast("list[tuple[str, nn.Module]]", model.named_modules())
