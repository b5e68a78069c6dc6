"""From a conversation to an answer, token by token."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx

from ..errors import InputError
from ..model.cache import Cache
from ..model.decode_step import decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from ..options import ImageOptions, Sampling, check_lookup
from ..prompt.processor import Processor, Prompt
from ..prompt.template import Message
from .answer import Answer, Piece, Result, Timings
from .lookup import Drafts, lookup_step
from .sampling import make_sampler

DEFAULT_MAX_TOKENS = 512
CLEAR_EVERY = 256  # tokens between returns of unused buffers to the system


def generate_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: Callable[[mx.array], mx.array],
    max_tokens: int,
) -> Iterator[int]:
    """Yield token ids, `max_tokens` at most, past any end token; the caller stops.

    Step n + 1 is queued before token n is read, so the device never waits for the host.

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

    token = draw(prefill(model, inputs_embeds, cache))
    del inputs_embeds
    step = decode_step(model)
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
    lookup: int = 0,
) -> Iterator[Piece]:
    """Answer a conversation, piece by piece.

    Args:
        model: from `load`.
        processor: from `load`.
        messages: see `Processor`; a string is one user message.
        max_tokens: of the answer, at most.
        sampling: how tokens are drawn; None takes what the checkpoint is recommended for.
        seed: makes a drawn answer repeatable; None picks one and reports it.
        stop: strings that end the answer; they are cut off.
        options: changes to the checkpoint's image settings.
        tools: function descriptions for the chat template.
        lookup: tokens to copy at a time, from where the prompt or the answer said the last three
            before; the answer is the same, up to rounding. For greedy sampling; 0 is off.

    Yields:
        Pieces of text that add up to the answer; the last one carries the `Result`.

    Raises:
        InputError: bad messages, settings or images, or a prompt that does not fit the context.
        NetworkError: an image URL cannot be fetched.
    """
    started = time.perf_counter()
    sampling = sampling or model.config.sampling
    seed = checked_seed(seed)
    check_lookup(lookup, sampling)
    answer = Answer(processor.tokenizer, end_token_ids(model, processor), stop, max_tokens)
    prompt = read_prompt(model, processor, messages, max_tokens, options, tools)
    mx.reset_peak_memory()
    read = time.perf_counter()
    embeds, decoding = embed_prompt(model, prompt)
    preparing = read - started + decoding
    cache, drafts = model.make_cache(), Drafts()
    if lookup:
        tokens = lookup_step(model, embeds, cache, prompt.input_ids, lookup, drafts)
    else:
        sampler = make_sampler(sampling, prompt.input_ids, seed)
        tokens = generate_step(model, embeds, cache, sampler, max_tokens)
    del embeds

    first, pending, piece = 0.0, 0, ""
    for token in tokens:
        first = first or time.perf_counter()
        piece = answer.add(token)
        if answer.finish_reason:
            break
        if piece:
            yield Piece(piece, answer.token_ids[pending:])
            pending = len(answer.token_ids)
    now = time.perf_counter()
    timings = Timings(preparing, first - started - preparing, now - first)
    result = make_result(answer, prompt, sampling, seed, timings, drafts)
    yield Piece(piece, answer.token_ids[pending:], result)


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
    lookup: int = 0,
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
        lookup=lookup,
    )
    result = None
    for piece in pieces:
        result = piece.result
    assert result is not None
    return result


def read_prompt(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    max_tokens: int,
    options: ImageOptions | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Prompt:
    """The ids of a conversation that leaves room for the answer; its images are not decoded yet.

    Raises:
        InputError, NetworkError: see `stream_generate`.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    limit = max(0, model.config.text.max_position_embeddings - max_tokens)
    return processor.read(messages, options=options, tools=tools, max_length=limit)


def embed_prompt(model: Lfm2VL, prompt: Prompt) -> tuple[mx.array, float]:
    """Embed a prompt; the device encodes an image while the host decodes the next.

    Returns:
        (1, L, C), and the seconds spent on decoding.

    Raises:
        InputError: an image is damaged.
    """
    features: list[mx.array] = []
    seconds, start = 0.0, time.perf_counter()
    for plan, pixel_values in zip(prompt.images, prompt.decode(), strict=True):
        seconds += time.perf_counter() - start
        features.append(model.encode_images(pixel_values, plan.spatial_shapes))
        start = time.perf_counter()
    joined = mx.concatenate(features) if len(features) > 1 else next(iter(features), None)
    return model.embed(prompt.input_ids, joined), seconds


def make_result(
    answer: Answer,
    prompt: Prompt,
    sampling: Sampling,
    seed: int,
    timings: Timings,
    drafts: Drafts,
) -> Result:
    """What is known of a finished answer."""
    return Result(
        text=answer.text,
        token_ids=answer.token_ids,
        finish_reason=answer.finish_reason,
        prompt_tokens=len(prompt.input_ids),
        image_tokens=prompt.image_tokens,
        images=prompt.images,
        sampling=sampling,
        seed=seed,
        timings=timings,
        peak_memory_bytes=mx.get_peak_memory(),
        drafted_tokens=drafts.tried,
        accepted_tokens=drafts.accepted,
    )


def checked_seed(seed: int | None) -> int:
    """The seed, or a new one for None.

    Raises:
        InputError: it is out of range.
    """
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed} is not from 0 to 2**63 - 1")
    return seed


def end_token_ids(model: Lfm2VL, processor: Processor) -> set[int]:
    """Every id that ends an answer, of the configuration and of the tokenizer."""
    named = processor.tokenizer.id_of(processor.tokenizer.eos_token)
    return {*model.config.eos_token_ids, *([] if named is None else [named])}
