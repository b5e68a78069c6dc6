"""SigLIP2 NaFlex vision encoder for views of any size; without padding, it needs no mask."""

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.config import VisionConfig
from .attention import attend
from .device_ops import GPU, exp, traced
from .recompute import recomputed

MAX_GRIDS = 64  # resized position tables to keep


def gelu_sigmoid(x: mx.array) -> mx.array:
    """Compute the tanh approximation of GELU as x * sigmoid(2u) in float32.

    Here u is the argument of the tanh. This form fuses into one kernel. In bfloat16 its error is
    two thirds of that of the tanh form, which is rounded after every operation.
    """
    wide = x.astype(mx.float32)
    power = wide * (1.5957691216057308 + 0.07135481282746213 * (wide * wide))
    return (wide * mx.sigmoid(power)).astype(x.dtype)


def gelu_exp(x: mx.array) -> mx.array:
    """Compute the same as x / (1 + exp(-2u)), which is faster on a CPU."""
    wide = x.astype(mx.float32)
    power = wide * (-1.5957691216057308 - 0.07135481282746213 * (wide * wide))
    # The limit of 80 keeps exp finite, because the gradient of an infinite exp is NaN.
    return (wide / (1 + exp(mx.minimum(power, 80)))).astype(x.dtype)


# Not `fused`, which would need two kernels here because shapes are unknown. There are at most a few
# hundred grids to trace.
gelu_tanh = traced(gelu_sigmoid) if GPU else gelu_exp


@lru_cache(maxsize=256)
def _resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Return the (new_size, size) float32 weights of an antialiased bilinear resize of one axis.

    Follows upsample_bilinear2d_aa of torch: a triangle filter that is widened when the axis
    shrinks, and never narrower than in plain interpolation.
    """
    scale = size / new_size
    stretch = max(scale, 1.0)
    center = scale * (np.arange(new_size)[:, None] + 0.5)
    distance = (np.arange(size)[None] - center + 0.5) / stretch
    weights = np.maximum(1.0 - np.abs(distance), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class VisionEmbeddings(nn.Module):
    """Linear patch embedding plus the learned position table, resized to the view's grid.

    Follows Siglip2VisionEmbeddings in transformers 5.23.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        patch_dim = config.num_channels * config.patch_size**2
        self.patch_embedding = nn.Linear(patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.num_patches, config.hidden_size)
        self.side = round(config.num_patches**0.5)
        self._resized: dict[tuple[int, int], mx.array] = {}
        self._resized_from: mx.array | None = None

    def positions(self, grid: tuple[int, int]) -> mx.array:
        """Return (rows * columns, C) position embeddings for a grid of (rows, columns) patches."""
        table = self.position_embedding(mx.arange(self.side**2))
        rows, columns = (mx.array(_resize_matrix(self.side, size)) for size in grid)
        # In float32, like the reference. In half precision the weights would be off by 1e-3.
        resized = rows @ table.astype(mx.float32).reshape(self.side, -1)
        resized = columns @ resized.reshape(grid[0], self.side, -1)
        return resized.flatten(0, 1).astype(table.dtype)

    def __call__(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        if self.training:  # gradients pass through the resizing
            return self.patch_embedding(pixel_values) + self.positions(grid)
        table = self.position_embedding.weight
        if self._resized_from is not table or len(self._resized) >= MAX_GRIDS:
            self._resized.clear()
            self._resized_from = table
        if grid not in self._resized:
            table = self.positions(grid)
            try:
                mx.async_eval(table)  # another thread may need it, and could not compute it
            except ValueError:  # the weights are being differentiated, so there is nothing to keep
                return self.patch_embedding(pixel_values) + table
            self._resized[grid] = table
        return self.patch_embedding(pixel_values) + self._resized[grid]


class VisionAttention(nn.Module):
    """Bidirectional multi-head attention within each view."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        batch, patches, channels = x.shape
        q, k, v = (
            projection(x).reshape(batch, patches, self.num_heads, -1).transpose(0, 2, 1, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = attend(q, k, v, self.scale, causal=False)
        return self.out_proj(x.transpose(0, 2, 1, 3).reshape(batch, patches, channels))


class VisionMLP(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu_tanh(self.fc1(x)))


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    """The encoder's stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = [VisionLayer(config) for _ in range(config.num_hidden_layers)]
        self._recompute = False

    def recompute_gradients(self) -> None:
        """Save memory in training: keep only each layer's input and recompute the rest."""
        self._recompute = True

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = (recomputed(layer) if self._recompute else layer)(x)
        return x


class VisionTower(nn.Module):
    """The vision encoder without pooling. Follows Siglip2VisionModel in transformers 5.23."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixel_values: mx.array, grid: tuple[int, int]) -> mx.array:
        """Encode views of one size.

        Args:
            pixel_values: (B, N, patch_size * patch_size * 3) normalized patches.
            grid: (rows, columns) of patches in each view; rows * columns = N.

        Returns:
            (B, N, C) patch features.
        """
        return self.post_layernorm(self.encoder(self.embeddings(pixel_values, grid)))
