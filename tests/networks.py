"""Tiny networks that tests build in place."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lfm2vl.checkpoint.config import TextConfig

TEXT = TextConfig(
    vocab_size=100,
    hidden_size=32,
    feed_forward_size=48,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    norm_eps=1e-5,
    conv_L_cache=3,
    rope_theta=1e6,
    max_position_embeddings=1000,
    tie_word_embeddings=True,
)


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every part of a network matters."""
    mx.random.seed(seed)
    flat = []
    for name, value in tree_flatten(module.parameters()):
        norm = value.ndim == 1 and "bias" not in name
        scale = 0.1 if value.ndim == 1 else value.shape[-1] ** -0.5
        flat.append((name, mx.random.normal(value.shape) * scale + norm))
    module.update(tree_unflatten(flat))
    return module.eval()
