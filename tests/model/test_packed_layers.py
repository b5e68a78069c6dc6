"""Quantized layers unpacked and packed again."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_lfm2vl.checkpoint.packing import MODES, Scheme
from mlx_lfm2vl.model.packed_layers import QUANTIZED, repack, scheme_of, unpack

SCHEMES = [
    Scheme(bits, group, mode)
    for mode, (all_bits, groups) in MODES.items()
    for bits in all_bits[-1:]
    for group in groups
]


class Pair(nn.Module):
    """An embedding and a linear layer."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 128)
        self.layers = [nn.Linear(128, 32, bias=bias)]

    def __call__(self, ids: mx.array) -> mx.array:
        # MLX gives the rows of a table of small floats in bfloat16, which holds them exactly.
        return self.layers[0](self.table(ids).astype(mx.float32))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_layers_compute_the_same_unpacked_and_packed_again(scheme, bias):
    model, ids = Pair(bias), mx.array([3, 7])
    nn.quantize(model, scheme.group_size, scheme.bits, mode=scheme.mode)
    layer, wanted = model.layers[0], model(ids)
    assert scheme_of(layer) == scheme
    unpack(model, mx.float32)
    assert not any(isinstance(module, QUANTIZED) for module in model.modules())
    np.testing.assert_allclose(model(ids), wanted, atol=1e-5)
    arrays = [layer[name] for name in ("weight", "scales", "biases") if layer.get(name) is not None]
    repack(model, {"layers.0": arrays}, {"layers.0": scheme})
    assert scheme_of(model.layers[0]) == scheme
    assert ("bias" in model.layers[0]) == bias
    np.testing.assert_allclose(model(ids), wanted, atol=1e-5)
