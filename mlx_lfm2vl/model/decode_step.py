"""A prompt through the decoder, then one more token at a time.

- `prefill` reads prompts; `decode_step` gives a model its `DecodeStep`, which reads one token of
  every row of a batch.
- Both know hidden states and caches, and nothing of text, sampling or when an answer ends.
- A decode step gives the logits of `Lfm2VL` on the same tokens. It never waits for the device.
- It is kept as long as its model, and made anew when the model's weights are others.
"""

import operator
import weakref
from collections.abc import Callable
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

Arrays = tuple[mx.array, ...]


def prefill(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    report: Callable[[int, int], object] | None = None,
) -> mx.array:
    """Read prompts in one pass, very long ones in few, with the output head on the end only.

    Args:
        model: the network.
        inputs_embeds: (B, L, C) embedded prompts.
        cache: holds what came before them; takes them.
        report: called after every pass with the positions read and L; it makes the host wait for
            each pass.

    Returns:
        (B, vocab_size) logits of the first tokens.
    """
    length = inputs_embeds.shape[1]
    chunk = max(1, PREFILL_CHUNK // inputs_embeds.shape[0])
    last = (length - 1) // chunk * chunk
    for start in range(0, last, chunk):
        model.language_model(inputs_embeds[:, start : start + chunk], cache)
        mx.async_eval(*cache.arrays)
        if report:
            mx.eval(cache.arrays)
            report(start + chunk, length)
    hidden = model.language_model(inputs_embeds[:, last:], cache)
    logits = model.head(hidden[:, -1])
    if report:
        mx.eval(logits, cache.arrays)
        report(length, length)
    return logits


class DecodeStep:
    """From the last tokens of a batch to the logits of the next ones.

    An attention sees more keys with every token, so its graph is built anew each time. What lies
    between two of them has the same shapes for ever and is traced once: seven segments for six
    attentions, instead of some six hundred operations built by Python at every token.

    It keeps the weights that the model had when it was made, but not the model, which would not be
    freed when it is let go; see `decode_step`.
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
        arrays = cast(Arrays, (tokens,))
        for number, (begin, end) in enumerate(self._spans):
            if number:
                x, q, k, v = arrays
                memory = cast(KeyValueCache, cache.layers[begin])
                seen = self._attentions[number - 1].attend(q, k, v, memory, place)
                arrays = x, seen
            memories = cast(list[ConvCache], cache.layers[begin + 1 : end])
            arrays, windows = self._segments[number](arrays, [m.window for m in memories])
            for memory, window in zip(memories, windows, strict=True):
                memory.step(window)
        return arrays[0]


_kept: dict[int, DecodeStep] = {}  # by the id of its model, as long as that lives


def decode_step(model: Lfm2VL) -> DecodeStep:
    """The model's decode step; made anew when its weights are others than before."""
    step = _kept.get(id(model))
    if step is None:
        weakref.finalize(model, _kept.pop, id(model), None)
    if step is None or not step.is_of(model):
        _kept[id(model)] = step = DecodeStep(model)
    return step


def _decoder_weights(model: Lfm2VL) -> list[mx.array]:
    parts = [model.language_model, *([model.lm_head] if "lm_head" in model else [])]
    return [array for part in parts for array in named_arrays(part.parameters()).values()]


class _Segment:
    """From the end of one attention, or the tokens, to the next one, or the logits."""

    def __init__(self, model: Lfm2VL, begin: int, end: int) -> None:
        layers = model.layers
        self._language_model = model.language_model
        self._lm_head = model.lm_head if "lm_head" in model else None
        self._before = layers[begin] if begin >= 0 else None
        self._convolutions = layers[begin + 1 : end]
        self.taps = [layer.conv.taps for layer in self._convolutions]
        self._after = layers[end] if end < len(layers) else None

    def __call__(self, arrays: Arrays, windows: list[Window]) -> tuple[Arrays, list[Window]]:
        """One position of every row.

        Args:
            arrays: tokens, (B,), in the first segment; in others hidden states, (B, C), and what
                the attention has seen, (B, H, 1, D).
            windows: of the convolutions in between.

        Returns:
            Logits, (B, vocab_size), of the last segment; of others hidden states, (B, C), and
            queries, keys and values, (B, heads, 1, D). Then the windows after this position.
        """
        x, windows = self._convolve(self._enter(*arrays), windows)
        return self._leave(x), windows

    def _enter(self, x: mx.array, seen: mx.array | None = None) -> mx.array:
        """Hidden states, (B, C), of tokens, or behind the attention before this segment."""
        if self._before is None or seen is None:
            return self._language_model.embed_tokens(x)
        return self._before.finish(x, self._before.self_attn.out_proj(seen.flatten(1)))

    def _convolve(self, x: mx.array, windows: list[Window]) -> tuple[mx.array, list[Window]]:
        """Hidden states behind the convolution layers of this segment, and their new windows."""
        taken = []
        for layer, window, taps in zip(self._convolutions, windows, self.taps, strict=True):
            mixed, window = layer.conv.step(layer.operator_norm(x), window, taps)
            x = layer.finish(x, mixed)
            taken.append(window)
        return x, taken

    def _leave(self, x: mx.array) -> Arrays:
        """What the attention behind this segment takes, or logits."""
        if self._after is not None:
            return x, *self._after.self_attn.project(self._after.operator_norm(x))
        x = self._language_model.embedding_norm(x)
        if self._lm_head is not None:
            return (self._lm_head(x),)
        return (self._language_model.embed_tokens.as_linear(x),)
