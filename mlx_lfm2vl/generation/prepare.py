"""Preparing a conversation: its prompt's token ids, then their embeddings with encoded images."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..model.decode_step import Passes
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, AtMost
from ..prompt.continued import with_start
from ..prompt.messages import Message, as_messages
from ..prompt.processor import Inputs, Processor
from .prefix import Prefix, image_key, segment_ends
from .prefix_store import Branch, PrefixStore

T = TypeVar("T")


def read_prompt(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: AnswerOptions,
) -> Inputs:
    """Turn a conversation into token ids that leave room for the answer, before decoding images.

    See `fitted` for the length of the answer.

    Args:
        model: for the length of its context.
        processor: of the same checkpoint.
        messages: see `Processor`; a string is one user message.
        options: of the answer.

    Raises:
        InputError: messages or images are bad, or the context has no room for the prompt and
            `max_tokens`, or for a single token if nobody chose that number.
        NetworkError: an image URL cannot be fetched.
    """
    asked = as_messages(messages)
    if options.answer_start:
        asked = with_start(asked, options.answer_start)
    model.make_cache(options.kv_bits)  # or refuse them before images are decoded
    context = model.config.text.max_position_embeddings
    room = 1 if isinstance(options.max_tokens, AtMost) else options.max_tokens
    if room >= context:
        raise InputError(
            f"max_tokens is {options.max_tokens}, but the model holds {context} tokens, prompt and "
            "answer together; lower it"
        )
    prompt = processor(
        asked,
        options=options.image_options,
        tools=options.tools,
        special_tokens=options.special_tokens,
    )
    if len(prompt.input_ids) > context - room:
        images = ", use fewer or smaller images" if prompt.images else ""
        raise InputError(
            f"the prompt has {len(prompt.input_ids)} tokens ({prompt.image_tokens} of images), at "
            f"most {context - room} leave room for the answer; shorten the text{images}"
            f"{', or lower max_tokens' if room > 1 else ''}"
        )
    return prompt


def fitted(model: Lfm2VL, prompt: Inputs, options: AnswerOptions) -> AnswerOptions:
    """Return the options with an answer that fits into what a prompt leaves of the context."""
    room = model.config.text.max_position_embeddings - len(prompt.input_ids)
    return options if options.max_tokens <= room else replace(options, max_tokens=room)


@dataclass
class Ready:
    """A prompt as the loop reads it.

    Attributes:
        prefix: the whole prompt.
        branch: what is cached of it; its cache is this prompt's own.
        embeds: (1, L, C), the positions still to read, at least one.
        ends: where the reading is cut, counted from the first of them.
        decoding: seconds spent on decoding images.
    """

    prefix: Prefix
    branch: Branch
    embeds: mx.array
    ends: list[int]
    decoding: float

    @property
    def cached(self) -> int:
        """Number of positions that need not be read."""
        return len(self.branch.prefix)

    def taken(self) -> mx.array:
        """Return the embeddings, which are no longer held here."""
        embeds, self.embeds = self.embeds, self.embeds[:, :0]
        return embeds

    def read(self, answer: Sequence[int]) -> Branch:
        """Return what the cache has read of the prompt and of the answer's tokens."""
        cache = self.branch.cache
        ids = [*self.prefix.ids, *answer]
        if len(ids) >= cache.offset:
            self.branch.snapshots[cache.offset] = cache.windows
        whole = Prefix(ids, self.prefix.spans, self.prefix.keys)
        read = whole.until(cache.offset)
        return Branch(read, cache, self.branch.snapshots, self.branch.context)

    def passes(self, report: Callable[[int, int], object] | None = None) -> Passes:
        """Return how to read it: with a snapshot at the end of every segment."""
        return Passes(report, self.ends, self._reached)

    def _reached(self) -> None:
        self.branch.snapshots[self.branch.cache.offset] = self.branch.cache.windows


class Stage(NamedTuple):
    """How far the reading of a prompt is.

    Attributes:
        name: "encode" counts image tokens, "prefill" tokens of the prompt.
        done: tokens that are queued or known.
        total: of the prompt.
    """

    name: Literal["encode", "prefill"]
    done: int
    total: int


def finished(steps: Generator[Any, None, T]) -> T:
    """Take all steps of a generator at once and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def embed_prompt(
    model: Lfm2VL,
    prompt: Inputs,
    store: PrefixStore | None = None,
    report: Callable[[int, int], object] | None = None,
    keys: Sequence[bytes] = (),
    kv_bits: int = 0,
) -> Ready:
    """Embed what is not cached of a prompt.

    The device encodes each image while the host decodes the next one.

    Args:
        model: the network.
        prompt: from `read_prompt`; its images are decoded here.
        store: what was read before; None reads everything and hashes no image.
        report: called with the image tokens encoded so far and all of them. With it, the host waits
            for the encoder.
        keys: of the first images, if they are known: these are not decoded if the store holds
            them.
        kv_bits: of the cache.

    Raises:
        InputError: an image is damaged.
    """
    return finished(embedding(model, prompt, store, report, keys, kv_bits))


def embedding(
    model: Lfm2VL,
    prompt: Inputs,
    store: PrefixStore | None = None,
    report: Callable[[int, int], object] | None = None,
    keys: Sequence[bytes] = (),
    kv_bits: int = 0,
) -> Generator[Stage, None, Ready]:
    """Do what `embed_prompt` does, and yield whenever some views are queued on the device."""
    if store:
        store.serve(model)
    images = _Images(model, prompt, store, kv_bits)
    seconds, start = 0.0, time.perf_counter()
    for key in keys[: len(prompt.images)] if store else ():
        images.skip(key)
    for pixel_values in prompt.views:
        seconds += time.perf_counter() - start
        yield from images.add(pixel_values)
        start = time.perf_counter()
    prefix = Prefix(prompt.input_ids, prompt.spans, images.keys)
    if store:
        branch = store.continued(model, prefix, kv_bits)
    else:
        branch = Branch(Prefix([]), model.make_cache(kv_bits))
    begin = len(branch.prefix)
    features = yield from images.from_position(prefix, begin)
    if report:
        done, total = 0, sum(rows.shape[0] for rows in features)
        for rows in features:
            mx.eval(rows)
            done += rows.shape[0]
            report(done, total)
    joined = mx.concatenate(features) if len(features) > 1 else next(iter(features), None)
    ends = segment_ends(prompt.input_ids, prompt.spans, model.config.eos_token_ids)
    return Ready(
        prefix,
        branch,
        model.embed(prompt.input_ids[begin:], joined),
        [end - begin for end in ends if end > begin],
        seconds,
    )


class _Images:
    """The images of a prompt: encoded at once, unless a store may have read them.

    Attributes:
        keys: `image_key` of each image; empty without a store.
    """

    def __init__(
        self, model: Lfm2VL, prompt: Inputs, store: PrefixStore | None, kv_bits: int
    ) -> None:
        self._model, self._prompt, self._store, self._kv_bits = model, prompt, store, kv_bits
        self._encoded: list[list[mx.array]] = []  # of each image; empty if it waits
        self._waiting: dict[int, Callable[[], list[np.ndarray]]] = {}
        self._done = 0  # image tokens
        self.keys: list[bytes] = []

    def skip(self, key: bytes) -> None:
        """Take the next image, whose key is known, without decoding it."""
        self._waiting[len(self._encoded)] = self._prompt.views.skip()
        self._encoded.append([])
        self.keys.append(key)

    def add(self, pixel_values: list[np.ndarray]) -> Iterator[Stage]:
        """Take the views of the next image; see `_encode`."""
        number = len(self._encoded)
        self._encoded.append([])
        if self._store is None:
            yield from self._encode(number, lambda: pixel_values)
            return
        self.keys.append(image_key(pixel_values, self._prompt.images[number].spatial_shapes))
        _, end = self._prompt.spans[number]
        spans = self._prompt.spans[: number + 1]
        prefix = Prefix(self._prompt.input_ids[:end], spans, self.keys)
        if self._store.common(prefix, self._kv_bits) == end:
            self._waiting[number] = lambda: pixel_values
        else:
            yield from self._encode(number, lambda: pixel_values)

    def _encode(self, number: int, decode: Callable[[], list[np.ndarray]]) -> Iterator[Stage]:
        """Encode an image whose features are not known; yield when some views are queued."""
        known = self._store.features_of(self.keys[number]) if self._store else None
        if known is not None:
            self._encoded[number] = [known]
            self._done += known.shape[0]
            return
        shapes = self._prompt.images[number].spatial_shapes
        parts = list[mx.array]()
        for rows in self._model.encode_batches(decode(), shapes):
            parts.append(rows)
            self._done += rows.shape[0]
            yield Stage("encode", self._done, self._prompt.image_tokens)
        self._encoded[number] = parts
        if self._store:
            self._store.keep_features(self.keys[number], parts)

    def from_position(self, prefix: Prefix, begin: int) -> Generator[Stage, None, list[mx.array]]:
        """Return the features of the image tokens from a position on, in parts; see `_encode`."""
        rows: list[mx.array] = []
        token = self._model.config.image_token_id
        for number, (first, end) in enumerate(prefix.spans):
            if end <= begin:
                self._done += self._prompt.images[number].image_tokens
                continue
            if number in self._waiting:
                yield from self._encode(number, self._waiting[number])
            before = prefix.count(token, first, begin)
            parts = self._encoded[number]
            rows += [mx.concatenate(parts)[before:]] if before else parts
        return rows
