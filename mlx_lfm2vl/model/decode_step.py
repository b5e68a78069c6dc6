"""Running the decoder: a whole prompt at once, then one token at a time.

- `prefill` reads embedded prompts in few passes and gives the logits after the last position.
- `decode_step` returns the model's `DecodeStep`, which reads one token per row of a batch.
- Both know hidden states and caches. They know nothing of text, images, sampling or when an answer
  ends.
- A `DecodeStep` gives the logits that `Lfm2VL` gives for the same tokens, up to rounding.
- It never waits for the device. `prefill` waits only if it reports progress.
- It is traced on a GPU, so Python does not build hundreds of operations for each token.
- It holds the model's weights but not the model, and is dropped when the model is.
- It is rebuilt when an array of the decoder or the output head has been replaced.
"""

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

import mlx.core as mx

from ..arrays import named_arrays
from .cache import Cache
from .conv_window import ConvCache, Window
from .device_ops import GPU, traced
from .key_values import KeyValueCache
from .lfm2vl import Lfm2VL

# Prompt positions per pass, over all rows of a batch. On a GPU a usual prompt takes one pass. On a
# CPU attention is not fused, so shorter passes save memory.
PREFILL_CHUNK = 4096 if GPU else 512

Arrays = tuple[mx.array, ...]


class TapReader(Protocol):
    """Something that reads the outputs of some decoder layers, such as a drafter."""

    @property
    def taps(self) -> Sequence[int]:
        """Numbers of the layers, ascending."""
        ...

    def read(self, outputs: Sequence[mx.array], /) -> None:
        """Take the (B, L, C) output of each of these layers at the next L positions."""
        ...


@dataclass(frozen=True)
class Passes:
    """How prompts are read, pass by pass.

    Attributes:
        report: called after every pass with the positions read so far and all of them. With it, the
            host waits for each pass.
        ends: positions at which passes end, ascending, the last one L; none reads without cuts.
        reached: called when the passes up to an end are queued.
    """

    report: Callable[[int, int], object] | None = None
    ends: Sequence[int] = ()
    reached: Callable[[], object] | None = None


UNCUT = Passes()


def prefill(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    passes: Passes = UNCUT,
    reader: TapReader | None = None,
) -> mx.array:
    """Read prompts; the last layers and the output head compute their last position only.

    Args:
        model: the network.
        inputs_embeds: (B, L, C) embedded prompts of equal length.
        cache: of what came before the prompts; updated in place.
        passes: how they are read.
        reader: is given the layers' outputs of every pass.

    Returns:
        (B, vocab_size) logits of the token after each prompt.
    """
    *_, (_, logits) = prefill_passes(model, inputs_embeds, cache, passes, reader)
    assert logits is not None
    return logits


def prefill_passes(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    passes: Passes = UNCUT,
    reader: TapReader | None = None,
) -> Iterator[tuple[int, mx.array | None]]:
    """Do what `prefill` does, pass by pass, so that other work can be queued in between.

    Yields:
        After every pass, the positions read so far. After the last one, also the logits.
    """
    taps = reader.taps if reader else ()
    length = inputs_embeds.shape[1]
    chunk = max(1, PREFILL_CHUNK // inputs_embeds.shape[0])
    begin, hidden = 0, inputs_embeds
    for end in passes.ends or [length]:
        for stop in [*range(begin + chunk, end, chunk), end]:
            embeds = inputs_embeds[:, begin:stop]
            hidden, outputs = model.language_model.tapped(embeds, cache, taps, last=1)
            if reader:
                reader.read(outputs)
            begin = stop
            if stop < length:
                mx.async_eval(*cache.arrays)
                if passes.report:
                    mx.eval(cache.arrays)
                    passes.report(stop, length)
                yield stop, None
        if passes.reached:
            passes.reached()
    logits = model.head(hidden[:, -1])
    if passes.report:
        mx.eval(logits, cache.arrays)
        passes.report(length, length)
    yield length, logits


class DecodeStep:
    """Reads one token per row of a batch and gives the logits of the next ones.

    An attention sees one more key with every token, so its graph must be built each time. The
    operations between two attentions always have the same shapes, so each such segment is traced
    once. With six attentions there are seven segments. Otherwise Python would build some six
    hundred operations per token.

    A step keeps the weights that the model had when the step was made. It does not keep the model,
    or the model could never be freed; see `decode_step`.
    """

    def __init__(self, model: Lfm2VL, taps: Sequence[int] = ()) -> None:
        """
        Args:
            model: the network.
            taps: numbers of layers whose outputs `tapped` returns, ascending.
        """
        layers = model.layers
        self._weights = _decoder_weights(model)
        attentions = [i for i, layer in enumerate(layers) if layer.is_attention]
        self._attentions = [layers[i].self_attn for i in attentions]
        # Each segment goes from one attention to the next.
        self._spans = list(pairwise([-1, *attentions, len(layers)]))
        segments = [_Segment(model, *span, taps) for span in self._spans]
        # Evaluated now, or every step would slice the taps from the weights again.
        mx.async_eval([segment.taps for segment in segments])
        self._segments = [traced(segment) for segment in segments]

    def is_of(self, model: Lfm2VL) -> bool:
        """Return whether the model still has the weights that it had when this was made."""
        weights = _decoder_weights(model)
        same = map(operator.is_, self._weights, weights)
        return len(weights) == len(self._weights) and all(same)

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Read one token per row.

        Args:
            tokens: (B,) ids.
            cache: of the B sequences, which must have at least one token each; updated in place.

        Returns:
            (B, vocab_size) logits of the next tokens.
        """
        return self.tapped(tokens, cache)[0]

    def tapped(self, tokens: mx.array, cache: Cache) -> tuple[mx.array, list[mx.array]]:
        """Do the same, and return the (B, C) output of each tapped layer too."""
        place = cache.place(1)
        arrays, outputs = cast(Arrays, (tokens,)), list[mx.array]()
        for number, (begin, end) in enumerate(self._spans):
            if number:
                x, q, k, v = arrays
                memory = cast(KeyValueCache, cache.layers[begin])
                seen = self._attentions[number - 1].attend(q, k, v, memory, place)
                arrays = x, seen
            memories = cast(list[ConvCache], cache.layers[begin + 1 : end])
            arrays, windows, tapped = self._segments[number](arrays, [m.window for m in memories])
            outputs += tapped
            for memory, window in zip(memories, windows, strict=True):
                memory.step(window)
        return arrays[0], outputs


_kept: dict[int, dict[tuple[int, ...], DecodeStep]] = {}  # by the id of a model alive, and taps


def decode_step(model: Lfm2VL, taps: Sequence[int] = ()) -> DecodeStep:
    """Return the model's decode step; make it at first, and again if weights were replaced."""
    if id(model) not in _kept:
        weakref.finalize(model, _kept.pop, id(model), None)
    steps = _kept.setdefault(id(model), {})
    if not all(step.is_of(model) for step in steps.values()):
        steps.clear()  # or the weights that were replaced would stay in memory
    if tuple(taps) not in steps:
        steps[tuple(taps)] = DecodeStep(model, taps)
    return steps[tuple(taps)]


def _decoder_weights(model: Lfm2VL) -> list[mx.array]:
    parts = [model.language_model, *([model.lm_head] if "lm_head" in model else [])]
    return [array for part in parts for array in named_arrays(part.parameters()).values()]


class _Segment:
    """The operations from one attention, or the tokens, to the next attention, or the logits."""

    def __init__(self, model: Lfm2VL, begin: int, end: int, taps: Sequence[int]) -> None:
        layers, self._tapped = model.layers, [number - begin for number in taps]
        self._language_model = model.language_model
        self._lm_head = model.lm_head if "lm_head" in model else None
        self._before = layers[begin] if begin >= 0 else None
        self._convolutions = layers[begin + 1 : end]
        self.taps = [layer.conv.taps for layer in self._convolutions]
        self._after = layers[end] if end < len(layers) else None

    def __call__(
        self, arrays: Arrays, windows: list[Window]
    ) -> tuple[Arrays, list[Window], list[mx.array]]:
        """Process one position of every row.

        Args:
            arrays: in the first segment (B,) tokens; in the others (B, C) hidden states and the
                (B, H, 1, D) output of the attention before it.
            windows: of the segment's convolutions.

        Returns:
            In the last segment (B, vocab_size) logits; in the others (B, C) hidden states and the
            (B, heads, 1, D) queries, keys and values of the attention after it. Then the windows
            after this position, and the (B, C) outputs of the segment's layers that are tapped.
        """
        outputs, windows = self._convolve(self._enter(*arrays), windows)
        # What enters the first segment is no layer's output.
        first = 0 if self._before is not None else 1
        tapped = [outputs[i] for i in self._tapped if first <= i < len(outputs)]
        return self._leave(outputs[-1]), windows, tapped

    def _enter(self, x: mx.array, seen: mx.array | None = None) -> mx.array:
        """Return (B, C) hidden states: embedded tokens, or the layer output of an attention."""
        if self._before is None or seen is None:
            return self._language_model.embed_tokens(x)
        return self._before.finish(x, self._before.self_attn.out_proj(seen.flatten(1)))

    def _convolve(self, x: mx.array, windows: list[Window]) -> tuple[list[mx.array], list[Window]]:
        """Return hidden states before and after each convolution layer, and the new windows."""
        taken, outputs = list[Window](), [x]
        for layer, window, taps in zip(self._convolutions, windows, self.taps, strict=True):
            mixed, window = layer.conv.step(layer.operator_norm(x), window, taps)
            outputs.append(x := layer.finish(x, mixed))
            taken.append(window)
        return outputs, taken

    def _leave(self, x: mx.array) -> Arrays:
        """Return the inputs of the attention after this segment, or logits."""
        if self._after is not None:
            return x, *self._after.self_attn.project(self._after.operator_norm(x))
        x = self._language_model.embedding_norm(x)
        if self._lm_head is not None:
            return (self._lm_head(x),)
        return (self._language_model.embed_tokens.as_linear(x),)
