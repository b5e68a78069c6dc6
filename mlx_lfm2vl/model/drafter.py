"""DSpark drafter: a small network that proposes the next tokens of a target from its layer outputs.

Follows DSpark (DeepSpec) in the layout of LiquidAI's -DSpark repos. Names of parameters are theirs.

- It reads *taps*, the outputs of some layers of the target at all committed positions. Its keys and
  values of these are its context, and are kept.
- A *block* holds the anchor, which is the last token and not yet in the target's cache, and masks.
  One pass over the block, in which all rows see each other, gives logits for every proposal.
- Its heads turn these rows into a chain of tokens; see `draft_heads`.
- It has no embedding and no output head of its own; it uses the target's.
"""

from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.drafter_config import DrafterConfig
from .attention import Visible, attend
from .device_ops import GPU, fused
from .draft_heads import ConfidenceHead, Decisions, MarkovHead
from .key_values import KeysValues, KeyValueCache
from .language import swiglu
from .rotation import Rotation, rotation_from

Places = int | mx.array | Rotation  # where rows stand, as `DraftAttention._rotated` takes it


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

    def keys_values(self, x: mx.array, places: Places, batch: int = 1) -> tuple[mx.array, mx.array]:
        """Return the keys, rotated, and values of rows: (B, K, L, D) each.

        Args:
            x: (B * L, C) rows of the context or normalized rows of a block.
            places: as for `_rotated`.
            batch: B.
        """
        shape = (batch, x.shape[0] // batch, self.num_key_value_heads, -1)
        k, v = self.k_proj(x).reshape(shape), self.v_proj(x).reshape(shape)
        return self._rotated(self.k_norm(k), places), v.transpose(0, 2, 1, 3)

    def __call__(
        self,
        x: mx.array,
        seen: KeysValues,
        places: Places,
        visible: Visible | None,
        batch: int = 1,
    ) -> mx.array:
        """Let the rows of a block attend to keys and values, their own included.

        Args:
            x: (B * G, C) normalized rows of the block.
            seen: keys and values, (B, K, S, D) each.
            places: as for `_rotated`.
            visible: what of these each row sees; None shows everything.
            batch: B.

        Returns:
            (B * G, H * D), the input of `o_proj`.
        """
        keys, values = seen
        q = self.q_proj(x).reshape(batch, x.shape[0] // batch, self.num_heads, -1)
        q = self._rotated(self.q_norm(q), places)
        y = attend(q, keys, values, self.scale, causal=False, visible=visible)
        return y.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)

    def _rotated(self, x: mx.array, places: Places) -> mx.array:
        """Apply RoPE and swap axes: (B, L, H, D) -> (B, H, L, D).

        Args:
            x: to rotate.
            places: position of the first row, or (B * L,) of each row; or the rotation itself.
        """
        if isinstance(places, Rotation):
            return places(x.transpose(0, 2, 1, 3))
        shape = x.shape
        if isinstance(places, mx.array):
            x = x.reshape(-1, 1, *shape[2:])  # each row is a sequence of its own
        x = mx.fast.rope(
            x.transpose(0, 2, 1, 3),
            x.shape[-1],
            traditional=not self.half_split,
            base=self.rope_theta,
            scale=1.0,
            offset=places,
        )
        if isinstance(places, int):
            return x
        return x.reshape(shape).transpose(0, 2, 1, 3)


class DraftMLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, C) -> (N, inner), the input of `down_proj`."""
        return swiglu(self.gate_proj(x), self.up_proj(x))


class DraftLayer(nn.Module):
    """Pre-norm layer: attention, then a feed-forward."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def finish(self, x: mx.array, attended: mx.array) -> mx.array:
        """Add the residuals: the attention's output, then the feed-forward's; (N, C) rows."""
        x = _added(x, self.self_attn.o_proj, attended)
        return _added(x, self.mlp.down_proj, self.mlp(self.post_attention_layernorm(x)))


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
        """Join the target's layer outputs: (..., taps * C) -> (..., C)."""
        return self.hidden_norm(self.fc(taps))

    def append(self, taps: mx.array, cache: DraftCache) -> None:
        """Add committed positions to the context.

        Args:
            taps: (1, S, taps * C) outputs of the target's layers there.
            cache: updated in place.
        """
        features = self.features(taps[0])
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
            valid: integer scalar, how many of these are committed.

        Returns:
            (1, G, C) states after the final norm.
        """
        new, old, rows = 0 if taps is None else taps.shape[1], cache.length, block.shape[1]
        valid = valid if isinstance(valid, mx.array) else mx.array(valid)
        turn, block_turn = self._rotations(cache.end, new, rows, valid)
        features: mx.array | None = None
        visible: Visible | None = None
        if taps is not None:
            features = self.features(taps[0])
            # Of each column its number among the new ones; the others always count as valid.
            numbers = np.full(old + new + rows, -1, np.int32)
            numbers[old : old + new] = _stand(new, rows)[0][:new]
            visible = Visible(_is_below(mx.array(numbers), valid))
        x = block[0]
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            both = normed if features is None else mx.concatenate([features, normed])
            seen = memory.update(*attention.keys_values(both, turn), old)
            x = layer.finish(x, attention(normed, seen, block_turn, visible))
        return self.norm(x)[None]

    def _rotations(self, end: int, new: int, rows: int, valid: mx.array) -> tuple[Places, Places]:
        """Return where new positions and, behind those that are valid, a block's rows stand.

        Args:
            end: the first new position.
            new: number of new positions.
            rows: of the block.
            valid: integer scalar, how many new positions are committed.

        Returns:
            The places of all these rows, and of the block's.
        """
        numbers, in_block = (mx.array(each) for each in _stand(new, rows))
        if GPU:
            places = _moved(numbers, in_block, valid, mx.array(end))
            return places, places[new:]
        places, config = numbers + in_block * valid.astype(mx.int32), self.config
        size, theta, half_split = config.head_dim, config.rope_theta, config.half_split_rope
        around = rotation_from(end, new + rows, size, theta, half_split=half_split)
        turn = around.rows(places)
        return turn, turn.rows(slice(new, None))

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
        features, (batch, anchors, rows, _) = self.features(taps), blocks.shape
        before = mx.arange(features.shape[1]) < places[..., None]  # (B, A, S)
        own = mx.repeat(mx.eye(anchors, dtype=mx.bool_), rows, axis=1)  # (A, A * G)
        own = mx.broadcast_to(own, (batch, *own.shape))
        visible = Visible(mx.repeat(mx.concatenate([before, own], axis=2), rows, axis=1)[:, None])
        stands = (places[..., None] + mx.arange(rows)).flatten()
        x, features = blocks.flatten(0, 2), features.flatten(0, 1)
        for layer in self.layers:
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            parts = zip(
                attention.keys_values(features, 0, batch),
                attention.keys_values(normed, stands, batch),
                strict=True,
            )
            k, v = (mx.concatenate(list(part), axis=2) for part in parts)
            x = layer.finish(x, attention(normed, (k, v), stands, visible, batch))
        return self.norm(x).reshape(blocks.shape)

    def propose(
        self, states: mx.array, scores: mx.array, anchor: mx.array, scale: mx.array | None = None
    ) -> Decisions:
        """Turn the rows of a block into a draft, which `chain_of` follows.

        Args:
            states: (G, C), from `states`.
            scores: (G, vocab_size), the target's output head applied to them, and changed as a
                sampler changes logits.
            anchor: uint32 scalar.
            scale: factor of the Markov head's part of the scores; None for 1.
        """
        ids, best, codes = self.markov_head(scores, anchor, scale)
        has_confidence = self.config.has_confidence
        sure = self.confidence_head(states, codes) if has_confidence else None
        return Decisions(ids, best, sure)


def _added(x: mx.array, layer: Callable[[mx.array], mx.array], y: mx.array) -> mx.array:
    """Return x + layer(y), in one operation unless the layer is quantized."""
    if isinstance(layer, nn.Linear):
        return mx.addmm(x, y, layer.weight.T)
    return x + layer(y)


@lru_cache(maxsize=64)
def _stand(new: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Number new positions, then a block's rows; and say which are the block's: (new + rows,)."""
    numbers = np.concatenate([np.arange(new), np.arange(rows)])
    return numbers.astype(np.int32), np.repeat(np.array([0, 1], np.int32), [new, rows])


@fused
def _moved(numbers: mx.array, in_block: mx.array, valid: mx.array, first: mx.array) -> mx.array:
    """Return positions, those of a block behind as many others as are valid."""
    return first + numbers + in_block * valid.astype(mx.int32)


@fused
def _is_below(numbers: mx.array, valid: mx.array) -> mx.array:
    return numbers < valid.astype(mx.int32)
