"""From a conversation to an answer, token by token."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from .cache import Cache
from .config import ImageOptions, Sampling
from .decoding import DecodeStep
from .errors import InputError
from .geometry import ImagePlan
from .model import Lfm2VL
from .processor import Processor
from .sampling import make_sampler
from .template import Message

DEFAULT_MAX_TOKENS = 512
# Prompt positions read at a time: any usual prompt in one pass on a GPU. On a CPU attention is not
# fused and its memory grows with the square of this.
PREFILL_CHUNK = 4096 if mx.metal.is_available() else 512
CLEAR_EVERY = 256  # tokens between returns of unused buffers to the system


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    prepare: float  # decoding images, template, tokenizer
    first_token: float  # from patches to the first token on the host
    decode: float  # from the first token to the last

    @property
    def total(self) -> float:
        return self.prepare + self.first_token + self.decode


@dataclass(frozen=True)
class Result:
    """A finished answer. `str(result)` is its text."""

    text: str
    token_ids: list[int]  # without the end token
    finish_reason: str  # "stop": end token or stop string; "length": max_tokens
    prompt_tokens: int
    image_tokens: int  # of the prompt tokens
    images: list[ImagePlan]
    sampling: Sampling
    seed: int
    timings: Timings
    peak_memory_bytes: int

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token."""
        later = len(self.token_ids) - 1
        return later / self.timings.decode if later > 0 and self.timings.decode > 0 else 0.0


@dataclass(frozen=True)
class Piece:
    """New text of a streamed answer, and the tokens read since the last piece."""

    text: str
    token_ids: list[int]
    result: Result | None = None  # on the last piece


def generate_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: Callable[[mx.array], mx.array],
    max_tokens: int,
) -> Iterator[int]:
    """Yield token ids without end; the caller stops.

    The prompt is read in one pass (very long ones in few) with the output head on its last
    position only. Step n + 1 is queued before token n is read, so the device never waits for the
    host.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: holds what came before the prompt, and takes the rest.
        sampler: from (1, vocab_size) logits to a (1,) token.
        max_tokens: how many to yield at most.
    """

    def draw(logits: mx.array) -> mx.array:
        token = sampler(logits)
        mx.async_eval(token, *cache.arrays)
        return token

    length = inputs_embeds.shape[1]
    last = (length - 1) // PREFILL_CHUNK * PREFILL_CHUNK
    for start in range(0, last, PREFILL_CHUNK):
        model.language_model(inputs_embeds[:, start : start + PREFILL_CHUNK], cache)
        mx.async_eval(*cache.arrays)
    hidden = model.language_model(inputs_embeds[:, last:], cache)
    token = draw(model.head(hidden[:, -1]))
    del inputs_embeds, hidden
    step = DecodeStep(model)
    for count in range(1, max_tokens + 1):
        queued = draw(step(token, cache)) if count < max_tokens else None
        yield cast(int, token.item())
        if queued is None:
            return
        token = queued
        if count % CLEAR_EVERY == 0:
            mx.clear_cache()


def stream_generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    options: ImageOptions | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Iterator[Piece]:
    """Answer a conversation, piece by piece.

    Args:
        model: from `load`.
        processor: from `load`.
        messages: see `Processor`; a string is one user message.
        max_tokens: longest answer.
        sampling: how tokens are drawn; None takes what the checkpoint is recommended for.
        seed: makes a drawn answer repeatable; None picks one and reports it.
        stop: strings that end the answer; they are cut off.
        options: changes to the checkpoint's image settings.
        tools: function descriptions for the chat template.

    Yields:
        Pieces of text that add up to the answer; the last one carries the `Result`.

    Raises:
        InputError: bad messages, settings or images, or a prompt that does not fit the context.
        NetworkError: an image URL cannot be fetched.
    """
    started = time.perf_counter()
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}, expected at least 1")
    stop = [stop] if isinstance(stop, str) else stop
    if any(not text for text in stop):
        raise InputError("a stop string is empty")
    sampling = sampling or model.config.sampling
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed} is not from 0 to 2**63 - 1")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    limit = max(0, model.config.text.max_position_embeddings - max_tokens)
    inputs = processor(messages, options=options, tools=tools, max_length=limit)
    prepared = time.perf_counter()

    mx.reset_peak_memory()
    features = None
    if inputs.pixel_values:
        features = model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
    embeds = model.embed(inputs.input_ids, features)
    sampler = make_sampler(sampling, inputs.input_ids, seed)
    tokens = generate_step(model, embeds, model.make_cache(), sampler, max_tokens)
    del features, embeds

    end_ids = end_token_ids(model, processor)
    stream, stops = processor.tokenizer.text_stream(), StopStrings(stop)
    token_ids: list[int] = []
    text, pending, finish_reason, first = "", 0, "length", prepared
    for token in tokens:
        first = time.perf_counter() if first is prepared else first
        if token in end_ids:
            finish_reason = "stop"
            break
        token_ids.append(token)
        piece = stops.add(stream.add(token))
        if piece:
            text += piece
            yield Piece(piece, token_ids[pending:])
            pending = len(token_ids)
        if stops.found:
            finish_reason = "stop"
            break
    rest = "" if stops.found else stops.add(stream.finish()) + stops.finish()
    finish_reason = "stop" if stops.found else finish_reason
    timings = Timings(prepared - started, first - prepared, time.perf_counter() - first)
    result = Result(
        text=text + rest,
        token_ids=token_ids,
        finish_reason=finish_reason,
        prompt_tokens=len(inputs.input_ids),
        image_tokens=inputs.image_tokens,
        images=inputs.images,
        sampling=sampling,
        seed=seed,
        timings=timings,
        peak_memory_bytes=mx.get_peak_memory(),
    )
    yield Piece(rest, token_ids[pending:], result)


def generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    options: ImageOptions | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Result:
    """Answer a conversation; see `stream_generate` for the arguments and errors."""
    pieces = stream_generate(
        model,
        processor,
        messages,
        max_tokens=max_tokens,
        sampling=sampling,
        seed=seed,
        stop=stop,
        options=options,
        tools=tools,
    )
    result = None
    for piece in pieces:
        result = piece.result
    assert result is not None
    return result


def end_token_ids(model: Lfm2VL, processor: Processor) -> set[int]:
    """Every id that ends an answer, of the configuration and of the tokenizer."""
    named = processor.tokenizer.id_of(processor.tokenizer.eos_token)
    return {*model.config.eos_token_ids, *([] if named is None else [named])}


class StopStrings:
    """Cuts a stream of text at the first stop string, even one spread over many pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Text that is safe to give out; what may become a stop string is held back."""
        self._held += text
        end = self._first_stop()
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        # A longer stop string that begins earlier may still be completed.
        if end >= 0 and len(self._held) - keep >= end:
            return self._cut(end)
        given, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return given

    def finish(self) -> str:
        """What was held back for nothing."""
        if self.found:
            return ""
        end = self._first_stop()
        return self._cut(end) if end >= 0 else self._held

    def _first_stop(self) -> int:
        """Where the earliest complete stop string begins, or -1."""
        return min((at for at in map(self._held.find, self._stops) if at >= 0), default=-1)

    def _cut(self, end: int) -> str:
        self.found = True
        given, self._held = self._held[:end], ""
        return given

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
