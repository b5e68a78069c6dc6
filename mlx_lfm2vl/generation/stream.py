"""Answering one conversation piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ..device_thread import Steps
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, Sampling
from ..prompt.messages import Message
from ..prompt.processor import Processor
from .answer import Answer, Clock, make_result
from .loop import Drafts, Token, generate_step
from .prefix_store import PrefixStore
from .prepare import Ready, embed_prompt, fitted, read_prompt
from .result import Piece, Timings
from .sampling import Sampler

if TYPE_CHECKING:  # imported where there is a drafter
    from .drafting import Drafting
    from .guide import Guide


def stream_answer(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: AnswerOptions,
    store: PrefixStore | None = None,
    keys: list[bytes] | None = None,
    drafting: Drafting | None = None,
) -> Steps[Piece]:
    """Answer a conversation; see `Engine.stream`.

    Args:
        model: the network.
        processor: of the same checkpoint.
        messages: the conversation.
        options: of the answer.
        store: what was read before; what this answer reads is added.
        keys: of the first images, if they are known; completed in place if there is a store.
        drafting: the engine's draft model.
    """
    clock = Clock()
    sampling, seed = options.sampling_over(model.config.sampling), options.drawn_seed()
    prompt = read_prompt(model, processor, messages, options)
    options = fitted(model, prompt, options)
    answer = Answer(processor.tokenizer, model.config.eos_token_ids, options, prompt.start)
    mx.reset_peak_memory()
    reading = clock.lap()
    ready = embed_prompt(model, prompt, store, options.on_encode, keys or (), options.kv_bits)
    if keys is not None:
        keys[:] = ready.prefix.keys
    cached = ready.cached
    drafts = Drafts()

    def make_guide() -> Guide:
        from .guide import make_guide

        return make_guide(model, processor, options, prompt.start)

    tokens = _tokens(model, ready, sampling, seed, options, drafts, drafting, make_guide)
    first, decoding, pending, text = 0.0, 0.0, 0, ""
    said: list[int] = []
    try:
        for token in tokens:
            first = first or clock.lap()
            said.append(token.id)
            text = answer.add(*token)
            if answer.finish_reason:
                break
            if text:
                yield answer.piece(text, pending)
                pending = len(answer.token_ids)
    except GeneratorExit:  # the answer is stopped between two tokens: what was read is sound
        if store:
            store.keep(ready.read(said))
        raise
    except KeyboardInterrupt:  # what waits for its end, such as a tool call, would be lost
        if rest := answer.rest():
            yield answer.piece(rest, pending)
        raise
    decoding = clock.lap()
    # After any other exception, such as Ctrl-C within a step, the cache may be half written.
    if store:
        store.keep(ready.read(said))
    timings = Timings(reading + ready.decoding, first - ready.decoding, decoding)
    result = make_result(answer, prompt, sampling, seed, timings, drafts, cached)
    yield answer.piece(text, pending, result)


def _tokens(
    model: Lfm2VL,
    ready: Ready,
    sampling: Sampling,
    seed: int,
    options: AnswerOptions,
    drafts: Drafts,
    drafting: Drafting | None,
    make_guide: Callable[[], Guide],
) -> Iterator[Token]:
    """Return the loop that decodes the answer."""
    drafting = drafting if options.draft_tokens != 0 else None
    if options.constraint or options.lookup or drafting:
        from .assisted import assisted_step

        return assisted_step(model, ready, sampling, seed, options, drafts, drafting, make_guide)
    processors, logprobs = options.logits_processors, options.logprobs
    return generate_step(
        model,
        ready.taken(),
        ready.branch.cache,
        Sampler(sampling, [ready.prefix.ids], [seed], processors=processors, logprobs=logprobs),
        options.max_tokens,
        ready.passes(options.on_prefill),
    )
