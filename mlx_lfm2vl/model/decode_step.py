"""A prompt through the decoder, then one more token at a time."""

import operator
from itertools import pairwise
from typing import cast

import mlx.core as mx

from ..arrays import named_arrays
from .cache import Cache, ConvCache, KeyValueCache, Window
from .device_ops import GPU, traced
from .lfm2vl import Lfm2VL

# Prompt positions read at a time: any usual prompt in one pass on a GPU. On a CPU attention is not
# fused and its memory grows with the square of this.
PREFILL_CHUNK = 4096 if GPU else 512

State = tuple[mx.array, ...]


def prefill(model: Lfm2VL, inputs_embeds: mx.array, cache: Cache) -> mx.array:
    """Read prompts in one pass, very long ones in few, with the output head on the end only.

    Args:
        model: the network.
        inputs_embeds: (B, L, C) embedded prompts.
        cache: holds what came before them; takes them.

    Returns:
        (B, vocab_size) logits of the first tokens.
    """
    length = inputs_embeds.shape[1]
    chunk = max(1, PREFILL_CHUNK // inputs_embeds.shape[0])
    last = (length - 1) // chunk * chunk
    for start in range(0, last, chunk):
        model.language_model(inputs_embeds[:, start : start + chunk], cache)
        mx.async_eval(*cache.arrays)
    hidden = model.language_model(inputs_embeds[:, last:], cache)
    return model.head(hidden[:, -1])


class DecodeStep:
    """From the last tokens of a batch to the logits of the next ones.

    An attention sees more keys with every token, so its graph is built anew each time. What lies
    between two of them has the same shapes for ever and is traced once: seven segments for six
    attentions, instead of some six hundred operations built by Python at every token.

    It keeps the weights that the model had when it was made; see `decode_step`.
    """

    def __init__(self, model: Lfm2VL) -> None:
        layers = model.layers
        self._weights = _decoder_weights(model)
        attentions = [i for i, layer in enumerate(layers) if layer.is_attention]
        self._attentions = [layers[i].self_attn for i in attentions]
        # Each segment goes from one attention to the next.
        self._spans = list(pairwise([-1, *attentions, len(layers)]))
        segments = [_Segment(model, *span) for span in self._spans]
        mx.async_eval([segment.taps for segment in segments])  # or every step would slice them
        self._segments = [traced(segment) for segment in segments]

    def is_of(self, model: Lfm2VL) -> bool:
        """Whether the model has the weights that it had when this was made."""
        weights = _decoder_weights(model)
        same = map(operator.is_, self._weights, weights)
        return len(weights) == len(self._weights) and all(same)

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Read one token per row.

        Args:
            tokens: (B,) ids.
            cache: of the B sequences, each of one token at least; updated in place.

        Returns:
            (B, vocab_size) logits.
        """
        place = cache.place(1)
        state = cast(State, (tokens,))
        for number, (begin, end) in enumerate(self._spans):
            if number:
                x, q, k, v = state
                memory = cast(KeyValueCache, cache.layers[begin])
                seen = self._attentions[number - 1].attend(q, k, v, memory, place)
                state = x, seen
            memories = cast(list[ConvCache], cache.layers[begin + 1 : end])
            state, windows = self._segments[number](state, [m.window for m in memories])
            for memory, window in zip(memories, windows, strict=True):
                memory.step(window)
        return state[0]


def decode_step(model: Lfm2VL) -> DecodeStep:
    """The model's decode step; made anew when its weights are others than before."""
    step = model.kept_step
    if not isinstance(step, DecodeStep) or not step.is_of(model):
        model.kept_step = step = DecodeStep(model)
    return step


def _decoder_weights(model: Lfm2VL) -> list[mx.array]:
    parts = [model.language_model, *([model.lm_head] if "lm_head" in model else [])]
    return [array for part in parts for array in named_arrays(part.parameters()).values()]


class _Segment:
    """From the end of one attention, or the tokens, to the next one, or the logits."""

    def __init__(self, model: Lfm2VL, begin: int, end: int) -> None:
        layers = model.layers
        # Not the model, which keeps the step: it would not be freed when it is let go.
        self._language_model = model.language_model
        self._lm_head = model.lm_head if "lm_head" in model else None
        self._before = layers[begin] if begin >= 0 else None
        self._convolutions = layers[begin + 1 : end]
        self.taps = [layer.conv.taps for layer in self._convolutions]
        self._after = layers[end] if end < len(layers) else None

    def __call__(self, state: State, windows: list[Window]) -> tuple[State, list[Window]]:
        """
        Args:
            state: hidden states, (B, C), and what the attention has seen, (B, H, 1, D); or
                tokens, (B,).
            windows: of the convolutions in between.

        Returns:
            Hidden states, and queries, keys and values, (B, heads, 1, D); or logits,
            (B, vocab_size). Then the windows after this position.
        """
        if self._before is None:
            x = self._language_model.embed_tokens(state[0])
        else:
            x, seen = state
            x = self._before.finish(x, self._before.self_attn.out_proj(seen.flatten(1)))
        taken = []
        for layer, window, taps in zip(self._convolutions, windows, self.taps, strict=True):
            mixed, window = layer.conv.step(layer.operator_norm(x), window, taps)
            x = layer.finish(x, mixed)
            taken.append(window)
        if self._after is None:
            x = self._language_model.embedding_norm(x)
            if self._lm_head is not None:
                return (self._lm_head(x),), taken
            return (self._language_model.embed_tokens.as_linear(x),), taken
        return (x, *self._after.self_attn.project(self._after.operator_norm(x))), taken
