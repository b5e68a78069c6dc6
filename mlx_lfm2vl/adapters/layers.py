"""What a model offers to adapters: its linear layers, and dense copies of quantized ones."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.names import CONNECTOR, DECODER_LAYERS, HEAD, TOWER, TOWER_LAYERS
from ..model.lfm2vl import Lfm2VL

# What training adapts. Adapters of other programs may also change the tower's patch embedding, and
# the output head.
TRAINED = {"language": DECODER_LAYERS, "connector": CONNECTOR, "vision": TOWER_LAYERS}
PARTS = (DECODER_LAYERS, CONNECTOR, TOWER)
HEAD_PATH = HEAD.removesuffix(".")

Linear = nn.Linear | nn.QuantizedLinear


def linear_layers(model: Lfm2VL) -> dict[str, Linear]:
    """Return the linear layers that an adapter may change, by path."""
    prefixes = (*PARTS, HEAD)
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, Linear) and f"{path}.".startswith(prefixes)
    }


def sizes(layer: Linear) -> tuple[int, int]:
    """Return the numbers of a layer's inputs and outputs."""
    outputs, inputs = layer.weight.shape
    return (inputs * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else inputs), outputs


def dense_weight(module: Any) -> mx.array:
    """Return the weight of a layer, unpacked if the layer is quantized."""
    if "scales" not in module:
        return module.weight
    return mx.dequantize(
        module.weight,
        module.scales,
        module.get("biases"),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    )


def dense_copy(module: Any) -> nn.Module:
    """Return an unquantized layer with the weights of a quantized one."""
    weight = dense_weight(module)
    if isinstance(module, nn.QuantizedEmbedding):
        embedding = nn.Embedding(*weight.shape)
        embedding.weight = weight
        return embedding
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=False)
    linear.weight = weight
    if "bias" in module:
        linear["bias"] = module.bias
    return linear
