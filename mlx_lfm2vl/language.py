"""LFM2 decoder: short convolutions and grouped-query attention over one cache."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.utils import checkpoint

from .attention import attend
from .cache import Cache, ConvCache, KeyValueCache
from .config import TextConfig


def _gated_sum(gate: mx.array, rows: list[mx.array], weights: list[mx.array]) -> mx.array:
    """gate * (rows[0] * weights[0] + rows[1] * weights[1] + ...)."""
    total = rows[0] * weights[0]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total = total + row * weight
    return gate * total


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    # silu(gate) * x; the gradient of an infinite exp is NaN.
    return gate * x / (1 + mx.exp(mx.minimum(-gate, 80)))


if mx.metal.is_available():  # one kernel each; on a CPU compiling would start g++
    _gated_sum = mx.compile(_gated_sum, shapeless=True)
    _swiglu = mx.compile(_swiglu, shapeless=True)


class ShortConv(nn.Module):
    """Gated short convolution: out_proj(C * conv(B * x)) with B, C, x = in_proj(input)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, taps = config.hidden_size, config.conv_L_cache
        self.in_proj = nn.Linear(size, 3 * size, bias=False)
        self.conv = nn.Conv1d(size, size, taps, groups=size, bias=False)  # holds the weight
        self.out_proj = nn.Linear(size, size, bias=False)

    def __call__(self, x: mx.array, cache: ConvCache | None) -> mx.array:
        b, c, x = mx.split(self.in_proj(x), 3, axis=-1)
        x = b * x
        length, taps = x.shape[1], self.conv.weight.shape[1]
        window = cache.window if cache is not None else None
        if window is None:
            window = mx.zeros((x.shape[0], taps - 1, x.shape[2]), x.dtype)
        rows = mx.concatenate([window, x], axis=1)
        if cache is not None:
            # A copy: a view would keep the whole prompt's rows alive.
            cache.window = mx.contiguous(rows[:, length:])
        # Tap k acts on the row taps - 1 - k steps back.
        shifted = [rows[:, tap : tap + length] for tap in range(taps)]
        weights = [self.conv.weight[:, tap, 0] for tap in range(taps)]
        return self.out_proj(_gated_sum(c, shifted, weights))


class Attention(nn.Module):
    """Causal grouped-query attention with RMSNorm on queries and keys, then RoPE."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, dim = config.hidden_size, config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.rope_theta = config.rope_theta
        self.scale = dim**-0.5
        self.q_proj = nn.Linear(size, self.num_heads * dim, bias=False)
        self.k_proj = nn.Linear(size, self.num_key_value_heads * dim, bias=False)
        self.v_proj = nn.Linear(size, self.num_key_value_heads * dim, bias=False)
        self.out_proj = nn.Linear(self.num_heads * dim, size, bias=False)
        self.q_layernorm = nn.RMSNorm(dim, eps=config.norm_eps)
        self.k_layernorm = nn.RMSNorm(dim, eps=config.norm_eps)

    def __call__(self, x: mx.array, cache: KeyValueCache | None, offset: int) -> mx.array:
        batch, length, _ = x.shape
        q = self.q_layernorm(self.q_proj(x).reshape(batch, length, self.num_heads, -1))
        k = self.k_layernorm(self.k_proj(x).reshape(batch, length, self.num_key_value_heads, -1))
        v = self.v_proj(x).reshape(batch, length, self.num_key_value_heads, -1)
        q, k = self._rotate(q, offset), self._rotate(k, offset)
        v = v.transpose(0, 2, 1, 3)
        if cache is not None:
            k, v = cache.update(k, v, offset)
        x = attend(q, k, v, self.scale, causal=True)
        return self.out_proj(x.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def _rotate(self, x: mx.array, offset: int) -> mx.array:
        """(B, L, H, D) -> (B, H, L, D), rotated by position (half-split RoPE)."""
        return mx.fast.rope(
            x.transpose(0, 2, 1, 3),
            x.shape[-1],
            traditional=False,
            base=self.rope_theta,
            scale=1.0,
            offset=offset,
        )


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.w2 = nn.Linear(config.feed_forward_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.w2(_swiglu(self.w1(x), self.w3(x)))


class DecoderLayer(nn.Module):
    """Pre-norm layer around a short convolution or an attention."""

    def __init__(self, config: TextConfig, kind: str) -> None:
        super().__init__()
        self.is_attention = kind == "full_attention"
        if self.is_attention:
            self.self_attn = Attention(config)
        else:
            self.conv = ShortConv(config)
        self.feed_forward = FeedForward(config)
        self.operator_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def __call__(self, x: mx.array, cache: Any, offset: int) -> mx.array:
        normed = self.operator_norm(x)
        if self.is_attention:
            x = x + self.self_attn(normed, cache, offset)
        else:
            x = x + self.conv(normed, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class LanguageModel(nn.Module):
    """Embeddings to final hidden states. Follows Lfm2Model in transformers 5.23."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layer_types = config.layer_types
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, kind) for kind in config.layer_types]
        self.embedding_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self._recompute = False

    def recompute_gradients(self) -> None:
        """Keep only each layer's input for training and run the layer again going backwards."""
        self._recompute = True

    def make_cache(self) -> Cache:
        """An empty cache for one sequence, or one batch of equally long ones."""
        return Cache(self.layer_types)

    def __call__(self, inputs_embeds: mx.array, cache: Cache | None = None) -> mx.array:
        """Run the decoder over new positions.

        Args:
            inputs_embeds: (B, L, C) embeddings of the L new tokens.
            cache: what came before; updated in place. None starts afresh and keeps nothing.

        Returns:
            (B, L, C) hidden states after the final norm; the output head is the model's.
        """
        offset = cache.offset if cache is not None else 0
        x = inputs_embeds
        for i, layer in enumerate(self.layers):
            run = checkpoint(layer) if self._recompute else layer
            x = run(x, cache.layers[i] if cache is not None else None, offset)
        if cache is not None:
            cache.offset = offset + x.shape[1]
        return self.embedding_norm(x)
