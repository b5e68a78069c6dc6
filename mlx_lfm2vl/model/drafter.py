"""DSpark drafter: a small network that proposes the next tokens of a target from its layer outputs.

Follows DSpark (DeepSpec) in the layout of LiquidAI's -DSpark repos. Names of parameters are theirs.

- It reads *taps*, the outputs of some layers of the target at all committed positions. Its keys and
  values of these are its context, and are kept.
- A *block* holds the anchor, which is the last token and not yet in the target's cache, and masks.
  One pass over the block, in which all rows see each other, gives logits for every proposal.
- The Markov head turns these rows into a chain: it adds what is likely after the token before.
- The confidence head says how likely a proposal is accepted if those before it are.
- It has no embedding and no output head of its own; it uses the target's.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.drafter_config import DrafterConfig
from .attention import attend
from .device_ops import fused
from .key_values import KeysValues, KeyValueCache
from .language import swiglu

# The pair bias of all tokens reads the whole Markov table once per proposal. Of larger vocabularies
# it is therefore computed for the best logit of each of this many groups only. The best token of
# all is always among them, and a draft may be any.
GROUPS = 64
SMALL_VOCABULARY = 4096


@dataclass(frozen=True)
class Proposals:
    """A draft.

    Attributes:
        tokens: (G,) uint32, proposals in order.
        confidence: (G,) float32, how likely each is accepted if those before it are; None if the
            drafter has no confidence head.
    """

    tokens: mx.array
    confidence: mx.array | None


class DraftCache:
    """Keys and values of committed positions, for every layer of a drafter.

    Attributes:
        layers: one part per layer.
        first: position of the first column; a drafter may begin to read after the beginning.
        length: number of positions.
    """

    def __init__(self, layers: int, first: int = 0) -> None:
        self.layers = [KeyValueCache() for _ in range(layers)]
        self.first, self.length = first, 0

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.first + self.length

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays, to evaluate them or count their bytes."""
        return [array for layer in self.layers for array in layer.arrays]

    def until(self, end: int) -> "DraftCache | None":
        """Return a second cache that ends earlier; they share memory until one writes.

        Args:
            end: the position after its last one, at most that of this one.

        Returns:
            None if nothing before it was read.
        """
        if end <= self.first:
            return None
        other = DraftCache(0, self.first)
        other.layers, other.length = [layer.fork() for layer in self.layers], end - self.first
        return other


class DraftAttention(nn.Module):
    """Grouped-query attention of a block to the context and to itself."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        size, dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_key_value_heads = (
            config.num_attention_heads,
            config.num_key_value_heads,
        )
        self.rope_theta, self.half_split = config.rope_theta, config.half_split_rope
        self.scale = dim**-0.5
        self.q_proj = nn.Linear(size, self.num_heads * dim, bias=False)
        self.k_proj = nn.Linear(size, self.num_key_value_heads * dim, bias=False)
        self.v_proj = nn.Linear(size, self.num_key_value_heads * dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * dim, size, bias=False)
        self.q_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)

    def keys_values(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, mx.array]:
        """Return the keys, rotated, and values of (B, L, C): (B, K, L, D) each."""
        k, v = self._projected(x)
        return self.rotate(k, offset), v

    def keys_values_of(
        self, features: mx.array, start: int, block: mx.array, offset: int | mx.array
    ) -> tuple[mx.array, mx.array]:
        """Return the same for new positions of the context and a block after them, in one pass.

        Args:
            features: (B, S, C) of the context.
            start: position of its first row.
            block: (B, G, C).
            offset: position of its first row.
        """
        k, v = self._projected(mx.concatenate([features, block], axis=1))
        end = features.shape[1]
        parts = [self.rotate(k[:, :, :end], start), self.rotate(k[:, :, end:], offset)]
        return mx.concatenate(parts, axis=2), v

    def _projected(self, x: mx.array) -> tuple[mx.array, mx.array]:
        shape = (*x.shape[:2], self.num_key_value_heads, -1)
        k = self.k_norm(self.k_proj(x).reshape(shape)).transpose(0, 2, 1, 3)
        return k, self.v_proj(x).reshape(shape).transpose(0, 2, 1, 3)

    def __call__(
        self, x: mx.array, seen: KeysValues, offset: int | mx.array, visible: mx.array | None
    ) -> mx.array:
        """Let the rows of a block attend to keys and values, their own included.

        Args:
            x: (B, G, C) normalized rows of the block.
            seen: keys and values, (B, K, S, D) each.
            offset: as for `rotate`.
            visible: bool, broadcastable to (B, H, G, S); None shows everything.
        """
        q = self.q_norm(self.q_proj(x).reshape(*x.shape[:2], self.num_heads, -1))
        q = self.rotate(q.transpose(0, 2, 1, 3), offset)
        x = attend(q, *seen, self.scale, causal=False, visible=visible)
        return self.o_proj(x.transpose(0, 2, 1, 3).flatten(2))

    def rotate(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Apply RoPE to (B, H, L, D).

        Args:
            x: to rotate.
            offset: position of the first row; if the rows are A equal blocks, (B, A), of each.
        """
        if isinstance(offset, mx.array) and offset.ndim == 2:
            split = x.reshape(*x.shape[:2], offset.shape[1], -1, x.shape[-1]).swapaxes(1, 2)
            split = self.rotate(split.flatten(0, 1), offset.flatten()).reshape(split.shape)
            return split.swapaxes(1, 2).reshape(x.shape)
        return mx.fast.rope(
            x,
            x.shape[-1],
            traditional=not self.half_split,
            base=self.rope_theta,
            scale=1.0,
            offset=offset,
        )


class DraftMLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class DraftLayer(nn.Module):
    """Pre-norm layer: attention, then a feed-forward."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def finish(self, x: mx.array, attended: mx.array) -> mx.array:
        """Add the residuals: the attention's output, then the feed-forward's."""
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class MarkovHead(nn.Module):
    """A low-rank table of how likely each token follows each other."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)


class ConfidenceHead(nn.Module):
    """One number per row, from its state and the token before."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank, 1)


class DraftModel(nn.Module):
    """A DSpark drafter.

    Attributes:
        config: of the drafter.
    """

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.fc = nn.Linear(len(config.target_layer_ids) * size, size, bias=False)
        self.hidden_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.layers = [DraftLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.markov_head = MarkovHead(config)
        if config.has_confidence:
            self.confidence_head = ConfidenceHead(config)

    def make_cache(self, first: int = 0) -> DraftCache:
        """Return an empty context, for positions from `first` on."""
        return DraftCache(self.config.num_hidden_layers, first)

    def features(self, taps: mx.array) -> mx.array:
        """Join the target's layer outputs: (B, S, taps * C) -> (B, S, C)."""
        return self.hidden_norm(self.fc(taps))

    def append(self, taps: mx.array, cache: DraftCache) -> None:
        """Add committed positions to the context.

        Args:
            taps: (1, S, taps * C) outputs of the target's layers there.
            cache: updated in place.
        """
        features = self.features(taps)
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            memory.update(*layer.self_attn.keys_values(features, cache.end), cache.length)
        cache.length += taps.shape[1]

    def states(
        self,
        block: mx.array,
        cache: DraftCache,
        taps: mx.array | None = None,
        valid: mx.array | int = 0,
    ) -> mx.array:
        """Run a block, after adding positions of which only the first few are committed.

        The context's length stays. The caller, who learns later how many positions are committed,
        adds that many to it. What follows is overwritten by the next positions.

        Args:
            block: (1, G, C) embeddings of the anchor and masks.
            cache: updated in place, but for its length.
            taps: (1, S, taps * C) outputs of the target's layers at new positions; None for none.
            valid: int32 scalar, how many of these are committed.

        Returns:
            (1, G, C) states after the final norm.
        """
        start, offset = cache.length, cache.end + valid
        features, visible = None, None
        if taps is not None:
            features, end = self.features(taps), start + taps.shape[1]
            columns = mx.arange(end + block.shape[1])
            visible = (columns < start + valid) | (columns >= end)
        x = block
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            if features is None:
                new = attention.keys_values(normed, offset)
            else:
                new = attention.keys_values_of(features, cache.end, normed, offset)
            x = layer.finish(x, attention(normed, memory.update(*new, start), offset, visible))
        return self.norm(x)

    def block_states(self, blocks: mx.array, taps: mx.array, places: mx.array) -> mx.array:
        """Run many blocks of each of several sequences at once, without a cache, as training does.

        Each block sees what `states` would show it: the positions before its anchor, and itself.

        Args:
            blocks: (B, A, G, C) embeddings of the anchors and masks.
            taps: (B, S, taps * C) outputs of the target's layers.
            places: (B, A) int32, the positions of the anchors.

        Returns:
            (B, A, G, C) states after the final norm.
        """
        features, rows = self.features(taps), blocks.shape[2]
        before = mx.arange(features.shape[1]) < places[..., None]  # (B, A, S)
        own = mx.repeat(mx.eye(places.shape[1], dtype=mx.bool_), rows, axis=1)  # (A, A * G)
        own = mx.broadcast_to(own, (places.shape[0], *own.shape))
        visible = mx.repeat(mx.concatenate([before, own], axis=2), rows, axis=1)[:, None]
        x = blocks.flatten(1, 2)
        for layer in self.layers:
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            parts = zip(
                attention.keys_values(features, 0),
                attention.keys_values(normed, places),
                strict=True,
            )
            k, v = (mx.concatenate(list(part), axis=2) for part in parts)
            x = layer.finish(x, attention(normed, (k, v), places, visible))
        return self.norm(x).reshape(blocks.shape)

    def propose(
        self, states: mx.array, scores: mx.array, anchor: mx.array, scale: mx.array | None = None
    ) -> Proposals:
        """Turn the rows of a block into a chain of tokens.

        Args:
            states: (G, C), from `states`.
            scores: (G, vocab_size), the target's output head applied to them, and changed as a
                sampler changes logits.
            anchor: uint32 scalar.
            scale: factor of the Markov head's part of the scores; None for 1.

        Returns:
            The draft, which takes the best score at each place.
        """
        head, scores = self.markov_head, scores.astype(mx.float32)
        after, codes, ids = head.markov_w2.weight, None, None
        if groups := _groups(scores.shape[1]):
            grouped = scores.reshape(scores.shape[0], -1, groups)  # token g + i * groups is in g
            members = mx.argmax(grouped, axis=1)  # (G, groups)
            scores = mx.take_along_axis(grouped, members[:, None], axis=1)[:, 0]
            ids = members * groups + mx.arange(groups, dtype=mx.uint32)
            after, codes = after[ids], head.markov_w1(ids)  # (G, groups, rank)
        code, places = head.markov_w1(anchor), list[mx.array]()
        for row in range(scores.shape[0]):
            bias = (after if codes is None else after[row]) @ code
            if scale is None:
                biased = _biased(scores[row], bias)
            else:
                biased = _biased_by(scores[row], bias, scale)
            places.append(mx.argmax(biased))
            code = head.markov_w1(places[-1]) if codes is None else codes[row][places[-1]]
        tokens = mx.stack(places)
        if ids is not None:
            tokens = mx.take_along_axis(ids, tokens[:, None], axis=1)[:, 0]
        if not self.config.has_confidence:
            return Proposals(tokens, None)
        before = mx.concatenate([anchor.reshape(1), tokens[:-1]])
        return Proposals(tokens, self._confidence(states, head.markov_w1(before)))

    def _confidence(self, states: mx.array, codes: mx.array) -> mx.array:
        head = self.confidence_head.proj
        joined = mx.concatenate([states.astype(mx.float32), codes.astype(mx.float32)], axis=-1)
        weight, bias = head.weight.astype(mx.float32), head.bias.astype(mx.float32)
        return mx.sigmoid(joined @ weight[0] + bias)


@fused
def _biased(scores: mx.array, bias: mx.array) -> mx.array:
    return scores + bias.astype(mx.float32)


@fused
def _biased_by(scores: mx.array, bias: mx.array, scale: mx.array) -> mx.array:
    return scores + bias.astype(mx.float32) * scale


def _groups(vocabulary: int) -> int:
    """Return the number of groups of a large vocabulary; 0 for a small or an odd one."""
    if vocabulary <= SMALL_VOCABULARY or vocabulary % GROUPS:
        return 0
    return GROUPS
