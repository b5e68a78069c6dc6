"""LFM2 decoder: short convolutions and grouped-query attention over one cache."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.config import TextConfig
from .attention import Visible, attend, has_few_rows
from .cache import Cache, Place
from .conv_window import ConvCache, Window
from .device_ops import exp, fused
from .key_values import KeyValueCache, group_of
from .recompute import recomputed
from .rotation import rotation_from


def _gated_taps(
    b: mx.array, c: mx.array, x: mx.array, before: Sequence[mx.array], weights: Sequence[mx.array]
) -> tuple[mx.array, mx.array]:
    """Return the gated convolution at one position and its new input row, b * x.

    Args:
        b: (B, C) gate of the input.
        c: (B, C) gate of the output.
        x: (B, C).
        before: earlier input rows, (B, C) each, oldest first.
        weights: of the taps, (C,) each, oldest first.
    """
    row = b * x
    return _gated_sum(c, [*before, row], weights), row


@fused
def _gated_sum(c: mx.array, rows: Sequence[mx.array], weights: Sequence[mx.array]) -> mx.array:
    # float32 costs nothing inside a fused kernel.
    first, *others = (
        row.astype(mx.float32) * weight.astype(mx.float32)
        for row, weight in zip(rows, weights, strict=True)
    )
    total = first
    for other in others:
        total = total + other
    return (c.astype(mx.float32) * total).astype(c.dtype)


@fused
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return silu(gate) * x, in the dtype of `gate`."""
    # silu(gate) * x in float32: gate * x may exceed float16's range before the division. The limit
    # of 80 keeps exp finite, because the gradient of an infinite exp is NaN.
    wide = gate.astype(mx.float32)
    return (wide * x.astype(mx.float32) / (1 + exp(mx.minimum(-wide, 80)))).astype(gate.dtype)


class ShortConv(nn.Module):
    """Gated short convolution: out_proj(C * conv(B * x)) with B, C, x = in_proj(input).

    Follows Lfm2ShortConv in transformers 5.23.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, taps = config.hidden_size, config.conv_L_cache
        self.in_proj = nn.Linear(size, 3 * size, bias=False)
        self.conv = nn.Conv1d(size, size, taps, groups=size, bias=False)  # holds the weight
        self.out_proj = nn.Linear(size, size, bias=False)

    def __call__(self, x: mx.array, cache: ConvCache | None, last: int) -> mx.array:
        """(B, L, C) -> (B, last, C), at the last positions; the cache is updated in place."""
        b, c, x = mx.split(self.in_proj(x), 3, axis=-1)
        x = b * x
        first, taps = x.shape[1] - last, self.conv.weight.shape[1]
        cache = cache if cache is not None else ConvCache(taps)
        rows = cache.update(x)
        # Tap k multiplies the row taps - 1 - k positions earlier.
        shifted = [rows[:, first + tap : first + tap + last] for tap in range(taps)]
        return self.out_proj(_gated_sum(c[:, first:], shifted, self.taps))

    def step(
        self, x: mx.array, window: Window, taps: Sequence[mx.array]
    ) -> tuple[mx.array, Window]:
        """Do the same for one position.

        Args:
            x: (B, C).
            window: of the cache.
            taps: `self.taps`, passed in so that it is not sliced at every step.

        Returns:
            (B, C), and the window after this position.
        """
        b, c, x = mx.split(self.in_proj(x), 3, axis=-1)
        y, row = _gated_taps(b, c, x, window, taps)
        return self.out_proj(y), (*window, row)[1:]

    @property
    def taps(self) -> list[mx.array]:
        """Weights of each tap, (C,) each; the first acts on the oldest row."""
        return [self.conv.weight[:, tap, 0] for tap in range(self.conv.weight.shape[1])]


class Attention(nn.Module):
    """Causal grouped-query attention with RMSNorm on queries and keys, then RoPE.

    Follows Lfm2Attention in transformers 5.23.
    """

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

    def __call__(
        self, x: mx.array, cache: KeyValueCache | None, place: Place, last: int
    ) -> mx.array:
        """(B, L, C) -> (B, last, C), at the last positions; the cache is updated in place."""
        q, k, v = (part.transpose(0, 2, 1, 3) for part in self.project(x, x[:, -last:]))
        seen = self.attend(q, k, v, cache, place)
        return self.out_proj(seen.transpose(0, 2, 1, 3).flatten(2))

    def project(
        self, x: mx.array, asking: mx.array | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Compute queries, keys and values, before RoPE.

        Args:
            x: (B, L, C), or (B, C) for one position.
            asking: the last positions of `x`, which need queries; None for all.

        Returns:
            (B, L, heads, D) each, or (B, heads, 1, D) for one position.
        """
        asking = x if asking is None else asking
        one = [1] if x.ndim == 2 else []
        queries, rows = asking.flatten(0, -2), x.flatten(0, -2)
        q = self.q_proj(queries).reshape(*asking.shape[:-1], self.num_heads, *one, -1)
        shape = (*x.shape[:-1], self.num_key_value_heads, *one, -1)
        k, v = self.k_proj(rows).reshape(shape), self.v_proj(rows).reshape(shape)
        return self.q_layernorm(q), self.k_layernorm(k), v

    def attend(
        self, q: mx.array, k: mx.array, v: mx.array, cache: KeyValueCache | None, place: Place
    ) -> mx.array:
        """Let new positions attend to themselves and to those in the cache.

        Args:
            q: (B, H, M, D) queries of the last M positions, before RoPE.
            k: (B, K, L, D) keys before RoPE.
            v: (B, K, L, D) values.
            cache: of earlier positions; updated in place.
            place: where the new positions belong.

        Returns:
            (B, H, M, D).
        """
        first, visible = k.shape[2] - q.shape[2], place.visible
        q = self._rotate(q, place.offset + first if first else place.offset)
        k = self._rotate(k, place.offset)
        if visible is not None and first:
            visible = Visible(visible.mask[:, :, first:])
        seen = (k, v) if cache is None else cache.update(k, v, place.column)
        return attend(q, *seen, self.scale, causal=visible is None, visible=visible)

    def _rotate(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Apply half-split RoPE to (B, H, L, D)."""
        if isinstance(offset, int) and has_few_rows(x):
            size, theta = x.shape[-1], self.rope_theta
            return rotation_from(offset, x.shape[2], size, theta, half_split=True)(x)
        return mx.fast.rope(
            x, x.shape[-1], traditional=False, base=self.rope_theta, scale=1.0, offset=offset
        )


class FeedForward(nn.Module):
    """SwiGLU feed-forward: w2(silu(w1(x)) * w3(x)). Follows Lfm2MLP in transformers 5.23."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.w2 = nn.Linear(config.feed_forward_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        rows = x.flatten(0, -2)  # once for all three, which would do it each
        return self.w2(swiglu(self.w1(rows), self.w3(rows))).reshape(x.shape)


class DecoderLayer(nn.Module):
    """Pre-norm layer: a short convolution or an attention, then a feed-forward.

    Follows Lfm2DecoderLayer in transformers 5.23.
    """

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

    def __call__(self, x: mx.array, cache: Any, place: Place, last: int | None = None) -> mx.array:
        """Process new positions.

        Args:
            x: (B, L, C).
            cache: of this layer; updated in place.
            place: where the positions belong.
            last: number of the last positions whose outputs are needed; None for all.

        Returns:
            (B, last, C).
        """
        last, normed = last or x.shape[1], self.operator_norm(x)
        if self.is_attention:
            mixed = self.self_attn(normed, cache, place, last)
        else:
            mixed = self.conv(normed, cache, last)
        return self.finish(x[:, -last:], mixed)

    def finish(self, x: mx.array, mixed: mx.array) -> mx.array:
        """Add the residuals: the operator's output, then the feed-forward's.

        Args:
            x: (..., C) input of the layer.
            mixed: (..., C) output of its convolution or attention.
        """
        x = x + mixed
        return x + self.feed_forward(self.ffn_norm(x))


class LanguageModel(nn.Module):
    """LFM2 decoder without output head. Follows Lfm2Model in transformers 5.23."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layer_types, self.conv_taps = config.layer_types, config.conv_L_cache
        self.head_dim = config.head_dim
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, kind) for kind in config.layer_types]
        self.embedding_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self._recompute = False

    def recompute_gradients(self) -> None:
        """Save memory in training: keep only each layer's input and recompute the rest."""
        self._recompute = True

    def make_cache(self, kv_bits: int = 0) -> Cache:
        """Return an empty cache for one sequence or for a batch of equally long ones.

        Args:
            kv_bits: 4 or 8 quantizes keys and values; 0 keeps them as they are.

        Raises:
            InputError: keys and values of this size cannot be quantized.
        """
        if kv_bits:
            group_of(self.head_dim)
        return Cache(self.layer_types, self.conv_taps, kv_bits)

    def __call__(
        self, inputs_embeds: mx.array, cache: Cache | None = None, last: int | None = None
    ) -> mx.array:
        """Run the decoder over new positions.

        Args:
            inputs_embeds: (B, L, C) embeddings of the L new positions.
            cache: of earlier positions; updated in place. None reads from the start of a sequence
                and keeps nothing.
            last: number of the last positions whose hidden states are needed; None for all. The
                last layers then leave out positions, and the step cannot be trimmed.

        Returns:
            (B, last, C) hidden states after the final norm; `Lfm2VL.head` turns them into logits.
        """
        return self.tapped(inputs_embeds, cache, (), last)[0]

    def tapped(
        self,
        inputs_embeds: mx.array,
        cache: Cache | None,
        taps: Sequence[int],
        last: int | None = None,
    ) -> tuple[mx.array, list[mx.array]]:
        """Do the same, and return the outputs of some layers too.

        Args:
            inputs_embeds: as for a call.
            cache: as for a call.
            taps: numbers of layers.
            last: as for a call.

        Returns:
            The hidden states, and for each tap the (B, L, C) output of its layer, before any norm.
        """
        length = inputs_embeds.shape[1]
        needed = self._needed(length, last or length, taps)
        place = cache.place(length) if cache is not None else Place()
        x, outputs = inputs_embeds, list[mx.array]()
        for i, layer in enumerate(self.layers):
            run = recomputed(layer) if self._recompute else layer
            # A convolution that leaves out positions is not given them: it may be the first layer.
            given = x if layer.is_attention else x[:, -(needed[i] + self.conv_taps - 1) :]
            x = run(given, cache.layers[i] if cache is not None else None, place, needed[i])
            outputs.append(x)
        if cache is not None and last is not None:
            cache.settle()
        x = x[:, -(last or length) :]
        return self.embedding_norm(x), [outputs[i] for i in taps]

    def _needed(self, length: int, last: int, taps: Sequence[int]) -> list[int]:
        """Return for each layer how many of the last positions need its output.

        An attention reads all positions, and a convolution as many before its first one as it has
        taps to the left. So only the layers from the last attention on can leave out positions.

        Args:
            length: number of positions.
            last: number of the last positions whose hidden states are needed.
            taps: layers whose outputs are needed at all positions.
        """
        needed: list[int] = []
        for number in reversed(range(len(self.layers))):
            needed.append(length if number in taps else last)
            is_attention = self.layers[number].is_attention
            last = length if is_attention else min(length, needed[-1] + self.conv_taps - 1)
        return needed[::-1]
